"""SR3: what a trained network has learned, and its speed beside the public re-implementation.

    python -m benchmarks.diffusion learned --model sr3-nano --val SET
    python -m benchmarks.diffusion curve --model sr3-nano --val SET --plot curve.png
    python -m benchmarks.diffusion speed --model sr3-nano --reference CHECKOUT

SET has lr/ and hr/. `learned` prints the loss of the predicted noise for each tenth of the noise
levels, beside two predictors that know nothing of the image: 0, and the best linear one for the
data's variance; then the deviation over seeds where HR is textured and where it is flat. `curve`
prints LPIPS and PSNR by steps for each sampler. `speed` takes turns, in one process and with the
same weights: examples a second of training, seconds of a restoration (ancestral, small variance).
Seconds are of the CPU, over all threads, so that other programs do not count. CHECKOUT is one of
Janspiry/Image-Super-Resolution-via-Iterative-Refinement, and needs PyTorch.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import maskgit_sr
from benchmarks import common
from data.validation import validation_pairs
from maskgit_sr import metrics
from maskgit_sr.arrays import Params
from maskgit_sr.convert import sr3 as conversion
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.losses.diffusion import Level, diffuse
from maskgit_sr.losses.pixel import PIXEL_LOSSES
from maskgit_sr.methods.sr3 import SR3
from maskgit_sr.models.functional import flatten

TENTHS = 10
STEPS = (5, 10, 20, 50, 100)


def windows(val: str, method: SR3, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns centre windows of the set, LR [n, S, S, 3] and HR, float32 in [0, 1]."""
    side, scale, found = method.tile.sides[0], method.scale, []
    for pair in validation_pairs(val, limit, scale):
        top, left = ((n - side) // 2 for n in pair["lr"].shape[:2])
        lr = pair["lr"][top : top + side, left : left + side]
        hr = pair["hr"][top * scale :, left * scale :][: side * scale, : side * scale]
        found.append((lr, hr))
    lr, hr = (np.stack(part).astype(np.float32) / 255 for part in zip(*found, strict=True))
    return lr, hr


# ---------------------------------------------------------------- what was learned


def learned(method: SR3, params: Params, lr: np.ndarray, hr: np.ndarray) -> str:
    """Returns the table of losses by tenth of the noise levels, from the clean end on."""
    gammas, loss = method.config.schedule.gammas, PIXEL_LOSSES[method.losses.pixel]
    condition = jax.jit(method.upsample)(lr)
    clean = method.encode(jnp.asarray(hr), condition)
    variance = float(jnp.mean(jnp.square(clean)))

    @jax.jit
    def losses(gamma: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
        many = clean.shape[0]
        level = Level(*(jnp.full(many, x) for x in (jnp.sqrt(gamma), jnp.sqrt(1 - gamma))))
        noise = jax.random.normal(key, clean.shape)
        noisy = diffuse(clean, level, noise)
        network = method.unet.bind(params["unet"])
        shifts = network.shifts(level.signal)
        found = network(noisy, network.context(2 * condition - 1), shifts)
        linear = noisy * jnp.sqrt(1 - gamma) / (gamma * variance + 1 - gamma)
        return loss(found, noise), loss(0 * noise, noise), loss(linear, noise)

    rows = []
    steps = len(gammas) - 1
    for tenth in range(TENTHS):
        # Four levels of each, in the middles of its quarters.
        places = ((tenth + (i + 0.5) / 4) * steps / TENTHS for i in range(4))
        drawn = [
            losses(jnp.float32(np.interp(place, np.arange(steps + 1), gammas)), jax.random.key(i))
            for i, place in enumerate(places)
        ]
        network, zero, linear = np.mean(jax.device_get(drawn), axis=0)
        beats = "yes" if network < min(zero, linear) else "no"
        values = (f"{value:.4f}" for value in (network, zero, linear))
        rows.append((f"{tenth * 10}–{tenth * 10 + 10} %", *values, beats))
    return common.table("steps|network|zero|linear|below both", rows)


def deviation(
    method: SR3, params: Params, lr: np.ndarray, hr: np.ndarray, seeds: int, **options: Any
) -> str:
    """Returns the table of the deviation over seeds, in grey levels, by HR's local contrast."""
    chosen = method.options(**options)
    run = jax.jit(lambda lr, keys: jnp.clip(method.restore(params, lr, keys, chosen).image, 0, 1))
    drawn = np.stack(
        [np.asarray(run(lr, jax.random.split(jax.random.key(s), len(lr)))) for s in range(seeds)]
    )
    spread = 255 * drawn.std(0).mean(-1)
    side = method.scale * 2
    n, height, width = spread.shape

    def cells(x: np.ndarray) -> np.ndarray:
        return x.reshape(n, height // side, side, width // side, side)

    contrast = cells(255 * hr.mean(-1)).std((2, 4)).ravel()
    found = cells(spread).mean((2, 4)).ravel()
    ends = np.quantile(contrast, [0, 0.25, 0.5, 0.75, 1])
    rows = [
        (f"{low:.1f}–{high:.1f}", f"{found[(contrast >= low) & (contrast <= high)].mean():.2f}")
        for low, high in itertools.pairwise(ends)
    ]
    return common.table("deviation of HR in a cell|deviation over seeds", rows)


def curve(method: SR3, params: Params, lr: np.ndarray, hr: np.ndarray, plot: Path | None) -> str:
    """Returns the table of scores by sampler and steps; draws LPIPS over steps as a PNG."""
    from maskgit_sr.metrics import lpips

    distance = lpips.load("alex")
    rows: list[tuple[object, ...]] = []
    lines: dict[str, list[float]] = {}

    def scores(image: Any) -> tuple[float, float]:
        image = jnp.clip(image, 0, 1)
        pair = distance(image, jnp.asarray(hr)), metrics.psnr(image, jnp.asarray(hr))
        return float(np.mean(pair[0])), float(np.mean(pair[1]))

    def add(name: str, steps: int | None, image: Any, seconds: float | None) -> float:
        distant, near = scores(image)
        taken = None if seconds is None else f"{seconds:.2f}"
        rows.append((name, steps, f"{distant:.4f}", f"{near:.2f}", taken))
        return distant

    add("bicubic", None, jax.jit(method.upsample)(lr), None)
    given: tuple[tuple[str, dict[str, Any]], ...] = (
        ("ancestral, large", dict(sampler="ancestral")),
        ("ancestral, small", dict(sampler="ancestral", variance="small")),
        ("ddim", dict(sampler="ddim")),
        ("dpm", dict(sampler="dpm")),
    )
    keys = jax.random.split(jax.random.key(0), len(lr))
    for name, changes in given:
        lines[name] = []
        for steps in STEPS:
            chosen = method.options(steps=steps, **changes)
            run = jax.jit(lambda lr, o=chosen: method.restore(params, lr, keys, o).image)
            image = jax.block_until_ready(run(lr))
            found = common.timed(lambda run=run: jax.block_until_ready(run(lr)))
            lines[name].append(add(name, steps, image, found.wall / len(lr)))
    if plot is not None:
        _draw(lines, plot)
    return common.table("sampler|steps|LPIPS|PSNR|s a window", rows)


def _draw(lines: dict[str, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    for name, values in lines.items():
        axes.semilogx(STEPS, values, marker="o", label=name)
    axes.set_xticks(STEPS, map(str, STEPS))
    axes.set(xlabel="steps", ylabel="LPIPS (alex)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


# ---------------------------------------------------------------- speed


def load_public(checkout: str) -> Any:
    """Returns the public modules `unet` and `diffusion`, the second without its progress bar."""
    found = argparse.Namespace()
    for name in ("unet", "diffusion"):
        path = Path(checkout) / "model" / "sr3_modules" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"sr3_public_{name}", path)
        if spec is None or spec.loader is None or not path.is_file():
            raise UserError(f"--reference: expected a checkout with {path}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        setattr(found, name, module)
    found.diffusion.tqdm = lambda steps, **_: steps
    return found


def public_model(oracle: Any, method: SR3, params: Params, steps: int) -> Any:
    """Returns the public diffusion with our weights and its own schedule of ``steps``.

    The network is the same but for attention, which it always has in the middle: it is replaced by
    nothing where ours has none.
    """
    import torch

    config = method.config.unet
    side = 8 * config.factor
    network = oracle.unet.UNet(
        inner_channel=config.width,
        norm_groups=config.groups,
        channel_mults=config.multipliers,
        attn_res=[side >> level for level in config.attention],
        res_blocks=config.blocks,
        dropout=config.dropout,
        image_size=side,
        out_channel=3,
    )
    if not config.middle_attention:
        network.mid[0].with_attn = False
        del network.mid[0].attn
    found = oracle.diffusion.GaussianDiffusion(network, side, loss_type="l1")
    found.set_loss("cpu")
    schedule = dict(schedule="linear", n_timestep=steps, linear_start=1e-6, linear_end=0.35)
    found.set_new_noise_schedule(schedule, torch.device("cpu"))
    state = {}
    flat = flatten(params["unet"])
    for name, entry in conversion.entries(config).items():
        array = np.array(flat[name])  # a copy: PyTorch wants to write to it
        if entry.layout == "conv":
            array = array.transpose(3, 2, 0, 1)
        elif entry.layout == "linear":
            array = array.T
        state[entry.name] = torch.from_numpy(np.ascontiguousarray(array))
    found.load_state_dict(found.state_dict() | state)
    return found


def speed(method: SR3, params: Params, checkout: str, batch: int, side: int, steps: int) -> str:
    """Returns the table of both systems' training and restoration."""
    import torch

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    module = public_model(load_public(checkout), method, params, steps)
    rng = np.random.default_rng(0)
    hr = rng.random((batch, side, side, 3), np.float32)
    lr = hr.reshape(batch, side // method.scale, method.scale, -1, method.scale, 3).mean((2, 4))

    # training
    [phase] = method.stages["diffusion"].phases
    optimizer = optax.adam(1e-4)

    @jax.jit
    def ours_step(params: Params, state: Any, key: jax.Array) -> Any:
        given = {"lr": jnp.asarray(lr), "hr": jnp.asarray(hr)}

        def loss(trained: Params) -> jax.Array:
            return phase.loss(trained, {}, given, key, jnp.int32(0))[0]

        grads = jax.grad(loss)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    held = params, jax.jit(optimizer.init)(params)

    def ours_train() -> None:
        nonlocal held
        held = jax.block_until_ready(ours_step(*held, jax.random.key(0)))

    adam = torch.optim.Adam(module.parameters(), 1e-4)
    first = torch.from_numpy(np.ascontiguousarray(hr.transpose(0, 3, 1, 2)))

    def public_train() -> None:
        adam.zero_grad()
        (module({"HR": first, "SR": first}) / first.numel()).backward()
        adam.step()

    # restoration of one window
    window = lr[:1]
    chosen = method.options(variance="small", steps=steps)
    keys = jax.random.split(jax.random.key(0), 1)
    run = jax.jit(lambda p, lr: method.restore(p, lr, keys, chosen).image)

    def public_restore() -> None:
        with torch.no_grad():
            module.super_resolution(first[:1])

    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any], float]] = {
        f"training, examples a CPU second, batch {batch} of {side}²": (
            ours_train, public_train, batch,
        ),
        f"restoration of {side}², {steps} steps, CPU s": (
            lambda: jax.block_until_ready(run(params, window)), public_restore, 0,
        ),
    }  # fmt: skip
    rows = []
    for name, (ours, public, count) in pairs.items():
        least = [float("inf")] * 2
        for turn in range(4):  # the first compiles
            for index, call in enumerate((ours, public)):
                taken = common.timed(call).cpu
                least[index] = min(least[index], taken) if turn else least[index]
        shown = [count / value if count else value for value in least]
        rows.append((name, *(f"{value:.3g}" for value in shown), f"{least[1] / least[0]:.2f}"))
    return common.table(f"{threads} thread(s)|ours|public|times faster", rows)


# ---------------------------------------------------------------- the command


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a part's tables; a user's mistake is one line and code 2."""
    parser = common.parser(__doc__)
    parser.add_argument("part", choices=("learned", "curve", "speed"))
    parser.add_argument("--model", required=True, help="bundle of SR3")
    parser.add_argument("--val", help="folder with lr/ and hr/")
    parser.add_argument("--limit", type=common.positive, default=16, help="images at most")
    parser.add_argument("--seeds", type=common.positive, default=8)
    parser.add_argument("--plot", type=Path, help="PNG of the curve")
    parser.add_argument("--reference", help="checkout of the public re-implementation")
    parser.add_argument("--batch", type=common.positive, default=16)
    parser.add_argument("--side", type=common.positive, default=64)
    parser.add_argument("--steps", type=common.positive, default=50)
    given = parser.parse_args(argv)
    with one_line("benchmarks.diffusion", {ValueError: 2}):
        upscaler = maskgit_sr.load(given.model, device="cpu", dtype="float32")
        method, params = upscaler.method, upscaler.params
        if not isinstance(method, SR3):
            raise UserError(f"--model: expected a bundle of sr3, found one of {method.name}")
        if given.part == "speed":
            if not given.reference:
                raise UserError("speed: expected --reference, a checkout")
            print(speed(method, params, given.reference, given.batch, given.side, given.steps))
            return 0
        if not given.val:
            raise UserError(f"{given.part}: expected --val, a folder with lr/ and hr/")
        lr, hr = windows(given.val, method, given.limit)
        if given.part == "curve":
            print(curve(method, params, lr, hr, given.plot))
            return 0
        print(learned(method, params, lr, hr))
        print()
        print(deviation(method, params, lr, hr, given.seeds, sampler="dpm", steps=20))
    return 0


if __name__ == "__main__":
    sys.exit(main())
