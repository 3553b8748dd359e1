"""What ITER's networks have learned, on pictures that they were not trained on.

    python -m benchmarks.iter --bundle BUNDLE --val VAL [--windows 32] [--panel FILE]
    python -m benchmarks.iter --reference CHECKOUT [--threads 1]

VAL has lr/ and hr/, or hr/ alone, which is then reduced by bicubic. All whole windows that lie side
by side are used, up to a number. Tables:

- removal: share of right tokens of E_l beside that of copying the enlarged LR image's tokens;
- evaluation: ROC-AUC of φ_e for "this token of E_l is right", and how often tokens are right by the
  probability that it gives them;
- refinement: cross-entropy of masked HR tokens by masked share, beside the unigram entropy of the
  same tokens;
- alpha: steps, PSNR, and energy of the high frequencies (what a 3×3 mean leaves), by α;
- propagation: mean distance from newly kept tokens to the nearest that was kept before, where φ_e
  chooses them and where φ_r's confidence does (the paper's figure 4).

CHECKOUT is one of chaofengc/ITER: both restore one LR image of 64×64 in eight steps, in float32 on
the CPU with the same random weights, in turns; wall and CPU seconds.

FILE gets a picture of some windows, one in a row: E_l's tokens, then α = 0.2, 0.5 and 0.8, HR's
tokens, HR.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import maskgit_sr
from benchmarks import common, references
from benchmarks.tokens import BATCH, ROWS, SHARES, by_batch, windows
from maskgit_sr import images
from maskgit_sr.arrays import Params
from maskgit_sr.convert.iter import learned, map_state
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.losses.token import masked_cross_entropy
from maskgit_sr.methods.iter import RULES, ITERNetworks, plan
from maskgit_sr.methods.iter_training import ITER
from maskgit_sr.models.codebook import perplexity
from maskgit_sr.ops.masking import random_mask
from maskgit_sr.ops.resize import upsample_bicubic

ALPHAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHOWN = (0.2, 0.5, 0.8)


class Watched:
    """φ_r as it is, with the masks that it was called with."""

    def __init__(self, network: Any):
        self.network, self.masks = network, list[np.ndarray]()

    def bind(self, params: Params) -> Watched:
        self.module = self.network.bind(params)
        return self

    def condition(self, *given: Any) -> Any:
        return self.module.condition(*given)

    def __call__(self, tokens: Any, condition: Any, mask: Any) -> Any:
        jax.debug.callback(lambda m: self.masks.append(np.asarray(m)), mask, ordered=True)
        return self.module(tokens, condition, mask)


class Study:
    """A trained ITER and the windows [n, …] that it is measured on."""

    def __init__(self, method: ITERNetworks, params: Params, hr: np.ndarray, lr: np.ndarray):
        self.method, self.params, self.hr, self.lr = method, params, hr, lr
        tokenize = jax.jit(lambda image: method.tokenize(params, image))
        enlarge = jax.jit(lambda lr: jnp.clip(upsample_bicubic(lr, method.scale), 0, 1))
        self.right = by_batch(tokenize, hr)
        self.copied = by_batch(lambda lr: tokenize(enlarge(lr)), lr)
        self.removed = by_batch(jax.jit(lambda lr: method.predict(params, lr).argmax(-1)), lr)
        self.removed = self.removed.astype(np.int32)

        @jax.jit
        def rate(tokens: jax.Array) -> jax.Array:
            network = method.evaluation.bind(params["evaluation"])
            logits = network(tokens, network.condition(tokens))
            return jax.nn.sigmoid(logits[..., 1] - logits[..., 0])

        self.rated = by_batch(rate, self.removed)

    def removal(self) -> None:
        """Prints the accuracy of E_l and of copying."""
        found = [100 * np.mean(x == self.right) for x in (self.copied, self.removed)]
        print(f"\n| copied right | E_l right |\n|--:|--:|\n| {found[0]:.2f} % | {found[1]:.2f} % |")

    def evaluation(self) -> None:
        """Prints φ_e's ROC-AUC and reliability."""
        good = self.removed == self.right
        print(f"\nROC-AUC of the evaluation: {auc(self.rated, good):.3f}")
        print("\n| probability | tokens | right |\n|---|--:|--:|")
        for low in np.arange(0, 1, 0.1):
            inside = (self.rated >= low) & (self.rated < low + 0.1 + (low > 0.85))
            share = f"{100 * good[inside].mean():.1f} %" if inside.any() else None
            print(common.line(f"{low:.1f} – {low + 0.1:.1f}", inside.sum(), share))

    def refinement(self) -> None:
        """Prints φ_r's cross-entropy by masked share."""
        method, params = self.method, self.params
        entropy = float(jnp.log(perplexity(jnp.asarray(self.right), method.codes)))
        wrong = self.rated < method.config.alpha

        @jax.jit
        def loss(right: jax.Array, removed: jax.Array, wrong: jax.Array, mask: jax.Array) -> Any:
            network = method.refinement.bind(params["refinement"])
            logits = network(right, network.condition(removed, wrong), mask)
            return masked_cross_entropy(logits, right, mask)[None]

        # Whole batches: the mean of their means is then the mean.
        whole = max(min(BATCH, len(self.right)), len(self.right) // BATCH * BATCH)
        count = self.right[0].size
        print("\n| masked | cross-entropy | unigram entropy |\n|---|--:|--:|")
        for share in SHARES:
            number = jnp.full((whole,), max(1, round(share * count)))
            mask = random_mask(jax.random.key(0), number, count).reshape(self.right[:whole].shape)
            given = (self.right[:whole], self.removed[:whole], wrong[:whole], np.asarray(mask))
            print(f"| {share:.0%} | {by_batch(loss, *given).mean():.3f} | {entropy:.3f} |")

    def restore(self, alpha: float, rows: Any = slice(None)) -> np.ndarray:
        """Returns the restored windows for a value of α."""
        if not hasattr(self, "_restore"):
            options: Any = self.method.options()
            self._restore = jax.jit(
                lambda lr, keys, alpha: (
                    self.method.restore(self.params, lr, keys, options.bind({"alpha": alpha})).image
                )
            )
        lr = self.lr[rows]
        keys = jax.random.split(jax.random.key(0), len(lr))
        return by_batch(lambda lr, keys: self._restore(lr, keys, np.float32(alpha)), lr, keys)

    def alpha(self) -> None:
        """Prints what α changes."""
        options, count = self.method.options(), self.right[0].size
        begin = jax.jit(
            lambda kept: plan(kept, options.steps, count, options.schedule, options.start)[0]
        )
        print("\n| α | kept | steps | PSNR | high frequencies |\n|---|--:|--:|--:|--:|")
        for alpha in ALPHAS:
            kept = (self.rated >= alpha).reshape(len(self.rated), -1).sum(1)
            image = np.clip(self.restore(alpha), 0, 1)
            psnr = -10 * np.log10(np.square(image - self.hr).mean((1, 2, 3))).mean()
            steps = options.steps - float(np.mean(begin(kept)))
            share = kept.mean() / count
            print(f"| {alpha} | {share:.1%} | {steps:.2f} | {psnr:.2f} | {detail(image):.5f} |")
        print(f"\nhigh frequencies of HR: {detail(self.hr):.5f}")

    def propagation(self) -> None:
        """Prints the distance of newly kept tokens to earlier ones, by rule."""
        print("\n| rule | distance of new tokens to kept ones |\n|---|--:|")
        few = self.removed[:BATCH]
        keys = jax.random.split(jax.random.key(0), len(few))
        for rule in RULES:
            method, watched = copy.copy(self.method), Watched(self.method.refinement)
            method.refinement = watched  # type: ignore[assignment]
            run = jax.jit(method.refine, static_argnums=3)
            options = method.options(rule=rule, alpha=1.0)
            jax.block_until_ready(run(self.params, few, keys, options).tokens)
            jax.effects_barrier()
            print(f"| {rule} | {spread(watched.masks):.2f} |")

    def panel(self) -> np.ndarray:
        """Returns rows of windows, uint8."""
        rows = np.unique(np.linspace(0, len(self.hr) - 1, ROWS).astype(int))
        draw = jax.jit(lambda tokens: self.method.decode_tokens(self.params, tokens))
        columns = [
            draw(self.removed[rows]),
            *(self.restore(alpha, rows) for alpha in SHOWN),
            draw(self.right[rows]),
            self.hr[rows],
        ]
        joined = np.concatenate([np.concatenate(list(np.asarray(c))) for c in columns], axis=1)
        return np.round(255 * np.clip(joined, 0, 1)).astype(np.uint8)


def speed(reference: references.ITER, runs: int = 3) -> None:
    """Prints the seconds of both, and their quotients."""
    method = ITER()
    params = jax.tree.map(jnp.asarray, map_state(learned(reference.state), method.config))
    lr = common.photograph(64)[None].astype(np.float32) / 255
    keys = jax.random.split(jax.random.key(0), 1)
    # α = 1: every step runs, whatever the random weights find right.
    options = method.options(alpha=1.0)
    run = jax.jit(lambda params, lr: method.restore(params, lr, keys, options).image)
    np.asarray(run(params, lr))
    rows = []
    for i in range(runs):
        theirs = common.timed(lambda: reference.restore(lr, 1.0, options.steps))
        ours = common.timed(lambda: np.asarray(run(params, lr)))
        cells = [f"{x:.1f} s" for x in (*theirs[:2], *ours[:2])]
        pairs = zip(theirs[:2], ours[:2], strict=True)
        rows.append((i + 1, *cells, *(f"{a / b:.2f}×" for a, b in pairs)))
    head = "run|PyTorch, wall|CPU|ours, wall|CPU|quotient, wall|CPU"
    print(common.table(head, rows))


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Returns the area under the ROC curve; NaN where all are of one kind."""
    _, inverse, counts = np.unique(scores.reshape(-1), return_inverse=True, return_counts=True)
    # Equal scores share the mean of their ranks.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    good = positive.reshape(-1)
    n, m = int(good.sum()), int((~good).sum())
    return float((ranks[good].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def detail(image: np.ndarray) -> float:
    """Returns the mean square of what a 3×3 mean leaves of images [n, H, W, 3]."""
    height, width = (side - 2 for side in image.shape[1:3])
    shifted = [image[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return float(np.square(image[:, 1:-1, 1:-1] - np.mean(shifted, axis=0)).mean())


def spread(masks: list[np.ndarray]) -> float:
    """Returns the mean distance in tokens of newly kept positions to the nearest kept before."""
    found: list[float] = []
    for before, after in itertools.pairwise(masks):
        for old, new in zip(~before, before & ~after, strict=True):
            if old.any() and new.any():
                apart = np.argwhere(new)[:, None] - np.argwhere(old)[None]
                found += list(np.sqrt(np.square(apart).sum(-1)).min(1))
    return float(np.mean(found)) if found else float("nan")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables; a user's mistake is one line and code 2."""
    parser = common.parser(__doc__)
    parser.add_argument("--bundle", help="trained model of ITER")
    parser.add_argument("--reference", type=Path, help="checkout of the public PyTorch code")
    parser.add_argument("--threads", type=int, default=0, help="CPU cores of PyTorch; 0: all")
    parser.add_argument("--val", help="folder with lr/ and hr/, or hr/ alone")
    parser.add_argument("--windows", type=common.positive, default=32)
    parser.add_argument("--panel", help="picture to write")
    given = parser.parse_args(argv)
    if not given.reference and not (given.bundle and given.val):
        parser.error("expected --reference, or --bundle and --val")
    with one_line("benchmarks.iter"):
        if given.reference:
            speed(references.ITER(given.reference, given.threads))
        if not given.bundle:
            return 0
        upscaler = maskgit_sr.load(given.bundle)
        method: Any = upscaler.method
        if not isinstance(method, ITERNetworks):
            raise UserError(f"{given.bundle}: expected a model of ITER, found {method.name}")
        hr, lr = windows(given.val, method.tile.sides[0], given.windows, method.scale)
        print(f"{len(hr)} windows of {hr.shape[1]}x{hr.shape[2]}")
        study = Study(method, upscaler.params, hr, lr)
        for show in ("removal", "evaluation", "refinement", "alpha", "propagation"):
            getattr(study, show)()
        if given.panel:
            images.write(images.from_array(study.panel()), given.panel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
