"""What the token networks of SR-MaskGIT have learned, on pictures that they were not trained on.

    python -m benchmarks.tokens --val VAL [--correction BUNDLE] [--inpainting BUNDLE] [--windows 64]
        [--panel FILE]

VAL has lr/ and hr/, or hr/ alone, which is then reduced ×2 by bicubic. All whole windows that lie
side by side in HR are used, up to a number. Three tables:

- correction: share of right tokens beside that of copying the LR tokens, where HR is flat and where
  it has edges (its deviation within a token's pixels below and above the median);
- prior: cross-entropy of masked HR tokens by the share that is masked, beside the unigram entropy
  of the same tokens, below which a prior must be that knows more than how often each is used;
- cells: the same of a round of masked cells, their surroundings being HR or LR tokens, as
  inpainting sees them.

FILE gets a picture of some windows spread over VAL, one in a row: enlarged LR, VQGAN of LR, a
column for each bundle, VQGAN of HR, HR.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

import maskgit_sr
from benchmarks import common
from data.validation import validation_pairs
from maskgit_sr import images
from maskgit_sr.arrays import Params, Tokens
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.losses.token import masked_cross_entropy
from maskgit_sr.methods.maskgit import MaskGITNetworks
from maskgit_sr.methods.sr_maskgit import Correction, Inpainting
from maskgit_sr.models.codebook import perplexity
from maskgit_sr.ops.cells import rounds
from maskgit_sr.ops.masking import random_mask

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
BATCH = 8
ROWS = 6
"""Windows of the panel."""


def windows(root: str, side: int, count: int, scale: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Returns up to ``count`` windows of HR [n, scale·side, …] and LR [n, side, …] in [0, 1].

    Raises:
        UserError: no picture is as large as a window.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for pair in validation_pairs(epath.Path(root), scale=scale):
        hr, lr = pair["hr"], pair["lr"]
        for top in range(0, lr.shape[0] - side + 1, side):
            for left in range(0, lr.shape[1] - side + 1, side):
                part = hr[scale * top :, scale * left :][: scale * side, : scale * side]
                found.append((part, lr[top : top + side, left : left + side]))
        if len(found) >= count:
            break
    if not found:
        raise UserError(
            f"--val: no picture in {root} has a window of {scale * side}x{scale * side}"
        )
    hrs, lrs = (
        np.stack(part[:count]).astype(np.float32) / 255 for part in zip(*found, strict=True)
    )
    return hrs, lrs


def tokens(method: MaskGITNetworks, params: Params, pictures: np.ndarray, lr: bool) -> jax.Array:
    """Returns the tokens [n, N] of windows, enlarged first if they are of LR."""

    @jax.jit
    def run(image: jax.Array) -> jax.Array:
        return method.tokenize(params, method.upsample(image) if lr else image)

    parts = [run(jnp.asarray(pictures[i : i + BATCH])) for i in range(0, len(pictures), BATCH)]
    return jnp.concatenate(parts).reshape(len(pictures), -1)


def by_batch(run: Any, *arrays: Any) -> np.ndarray:
    """Returns the results of a jitted function over batches, joined."""
    count = len(arrays[0])
    return np.concatenate(
        [np.asarray(run(*(a[i : i + BATCH] for a in arrays))) for i in range(0, count, BATCH)]
    )


def correction_table(method: Correction, params: Params, hr: np.ndarray, lr: np.ndarray) -> None:
    """Prints the accuracy of correction and of copying."""
    right, given = (tokens(method, params, x, low) for x, low in ((hr, False), (lr, True)))
    corrected = by_batch(jax.jit(lambda t: method.correct(params, t)[0]), given)
    f, n = method.config.tokenizer.factor, method.grid
    grey = hr.mean(-1).reshape(-1, n, f, n, f).transpose(0, 1, 3, 2, 4).reshape(*right.shape, -1)
    edges = grey.std(-1) > np.median(grey.std(-1))
    print("| tokens | copied right | corrected right |\n|---|--:|--:|")
    for name, where in (("all", edges | ~edges), ("flat", ~edges), ("edges", edges)):
        shares = [100 * np.mean((x == right)[where]) for x in (np.asarray(given), corrected)]
        print(f"| {name} | {shares[0]:.1f} % | {shares[1]:.1f} % |")


def prior_tables(method: Inpainting, params: Params, hr: np.ndarray, lr: np.ndarray) -> None:
    """Prints the cross-entropy of the prior by masked share, and of cells by their surroundings."""
    right, given = (tokens(method, params, x, low) for x, low in ((hr, False), (lr, True)))
    count = right.shape[1]
    entropy = float(jnp.log(perplexity(right, method.config.tokenizer.codes)))

    def loss(seen: Tokens, target: Tokens, mask: jax.Array) -> jax.Array:
        return masked_cross_entropy(method.logits(params, seen, mask), target, mask)[None]

    run = jax.jit(loss)
    # Whole batches: the mean of their means is then the mean.
    whole = max(BATCH, len(right) // BATCH * BATCH)
    print("| masked | cross-entropy | unigram entropy |\n|---|--:|--:|")
    for share in SHARES:
        number = jnp.full(right.shape[:1], max(1, round(share * count)))
        mask = random_mask(jax.random.key(0), number, count)[:whole]
        value = by_batch(run, right[:whole], right[:whole], mask).mean()
        print(f"| {share:.0%} | {value:.3f} | {entropy:.3f} |")
    mask = jnp.zeros(right.shape, bool)
    cells = rounds("shift", method.grid, method.config.cell)[0].reshape(-1)
    mask = mask.at[:, cells].set(True)[:whole]
    print("| surroundings of masked cells | cross-entropy |\n|---|--:|")
    for name, seen in (("HR", right), ("LR", given)):
        value = by_batch(run, seen[:whole], right[:whole], mask).mean()
        print(f"| {name} | {value:.3f} |")


def panel(found: Sequence[tuple[Any, Params]], hr: np.ndarray, lr: np.ndarray) -> np.ndarray:
    """Returns rows of windows, uint8; ``found`` are the methods with their parameters."""
    rows = np.unique(np.linspace(0, len(hr) - 1, ROWS).astype(int))
    hr, lr = hr[rows], lr[rows]
    method, params = found[0]
    keys = jax.random.split(jax.random.key(0), len(rows))

    @jax.jit
    def through(image: jax.Array) -> jax.Array:
        return method.render(params, method.tokenize(params, image))

    enlarged = method.upsample(jnp.asarray(lr))
    columns = [enlarged, through(enlarged)]
    for each, own in found:
        columns.append(jax.jit(partial(each.restore, options=each.options()))(own, lr, keys).image)
    columns += [through(jnp.asarray(hr)), jnp.asarray(hr)]
    joined = jnp.concatenate([jnp.concatenate(list(column)) for column in columns], axis=1)
    return np.asarray(jnp.round(255 * jnp.clip(joined, 0, 1)), np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables; a user's mistake is one line and code 2."""
    parser = common.parser(__doc__)
    parser.add_argument("--val", required=True, help="folder with lr/ and hr/, or hr/ alone")
    parser.add_argument("--windows", type=common.positive, default=64)
    parser.add_argument("--panel", help="picture to write")
    for name in ("correction", "inpainting"):
        parser.add_argument(f"--{name}", help="bundle of that method")
    given = parser.parse_args(argv)
    with one_line("benchmarks.tokens"):
        tables: tuple[tuple[str, Any, Any], ...] = (
            ("correction", Correction, correction_table),
            ("inpainting", Inpainting, prior_tables),
        )
        found: list[tuple[Any, Params]] = []
        for option, kind, show in tables:
            path = getattr(given, option)
            if path is None:
                continue
            upscaler = maskgit_sr.load(path)
            method: Any = upscaler.method
            if not isinstance(method, kind):
                raise UserError(f"--{option}: expected {kind.name}, found {method.name}")
            hr, lr = windows(given.val, method.tile.sides[0], given.windows)
            print(f"\n{option}: {len(hr)} windows of {hr.shape[1]}x{hr.shape[2]}\n")
            show(method, upscaler.params, hr, lr)
            found.append((method, upscaler.params))
        if given.panel and found:
            images.write(images.from_array(panel(found, hr, lr)), given.panel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
