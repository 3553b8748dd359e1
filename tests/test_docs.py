"""The documentation: commands run, excerpts are the code; links, paths, options, fields exist."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer

from launch import settings
from maskgit_sr.cli import app
from tests.test_structure import ALLOWED

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path for folder in ("", "docs", "data", "samples") for path in (ROOT / folder).glob("*.md")
)
GUIDE = ROOT / "docs" / "adding_a_method.md"
PROGRAMS = {"python": [sys.executable], "maskgit-sr": [sys.executable, "-m", "maskgit_sr"]}


def blocks(path, mark, language):
    """(what the comment above a fenced block says after ``mark``, the block)."""
    found = rf"<!-- ({mark}.*?) -->\n```{language}\n(.*?)```"
    return re.findall(found, path.read_text(encoding="utf-8"), re.DOTALL)


def commands(path):
    """Commands of the page that are to be run, in order: (words, packages that they need)."""
    for mark, block in blocks(path, "test", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            program, *words = shlex.split(line, comments=True)
            yield [*PROGRAMS[program], *words], mark.split()[1:]


def image(side, seed):
    """A smooth image with an edge."""
    y, x = np.mgrid[:side, :side]
    waves = np.sin(0.2 * x + 0.1 * seed * y)[..., None] * [60, 90, 40] + 128
    waves[side // 3 : side // 2, side // 4 :] = [200, 180, 20 * seed]
    return waves.astype(np.uint8)


def test_the_guide_trains_a_method_and_uses_it_everywhere(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for folder in ("PHOTOS", "SET/lr", "SET/hr"):
        (tmp_path / folder).mkdir(parents=True)
    for index in range(8):  # a batch
        cv2.imwrite(str(tmp_path / "PHOTOS" / f"{index}.png"), image(96, index))
    for index in range(2):
        hr = image(48, index)
        cv2.imwrite(str(tmp_path / "SET" / "hr" / f"{index}.png"), hr)
        cv2.imwrite(str(tmp_path / "SET" / "lr" / f"{index}.png"), hr[::2, ::2])
    cv2.imwrite(str(tmp_path / "photo.png"), image(20, 3))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    skipped = set()
    for words, packages in commands(GUIDE):
        missing = {name for name in packages if importlib.util.find_spec(name) is None}
        if missing:
            skipped |= missing
            continue
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    assert cv2.imread(str(tmp_path / "photo_x2.png")).shape == (40, 40, 3)
    plan = json.loads((tmp_path / "W" / "train.json").read_text())["stages"]
    assert list(plan) == ["pretrain", "finetune"] and min(s["step"] for s in plan.values()) >= 1
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["counts"]["scored"] == 2
    # its filter starts near zero: about what the nearest enlargement scores
    assert 15 < scores["summary"]["psnr_rgb"]["mean"] < 60
    if not skipped:
        card = json.loads((tmp_path / "exported" / "maskgit_sr.json").read_text())
        assert card["method"] == "subpixel" and card["scale"] == 2
        assert all(found["within_1"] >= 0.999 for found in card["checked"].values())
    else:
        pytest.skip(f"all but the export was run: needs {', '.join(sorted(skipped))}")


def test_excerpts_of_the_guide_are_the_code():
    found = blocks(GUIDE, "[a-z_/]+[.]py", "python")
    assert len(found) >= 6
    for path, excerpt in found:
        assert excerpt in (ROOT / path).read_text(encoding="utf-8"), f"{path}: {excerpt}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in slugs, link


@pytest.mark.parametrize("name", ["architecture.md", "adding_a_method.md"])
def test_files_that_the_guide_names_are_there(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    folders = (ROOT, ROOT / "maskgit_sr")
    paths = set(re.findall(r"`([a-z_]+(?:/[a-z_0-9]+)+\.(?:py|md|safetensors))`", text))
    assert len(paths) > 5
    missing = [path for path in paths if not any((root / path).exists() for root in folders)]
    assert not missing


def test_every_room_is_described():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {
        room
        for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        for room in re.findall(r"`([a-z_]+)`", row)
    }
    assert ALLOWED.keys() - {""} <= rooms


def test_every_option_of_the_command_is_described():
    text = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    described = set(re.findall(r"--[a-z][a-z-]+", text))
    for name, command in typer.main.get_command(app).commands.items():
        options = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        long = {option for option in options if option.startswith("--")} - {"--help"}
        assert long <= described, f"{name}: {', '.join(sorted(long - described))}"
        assert f"maskgit-sr {name}" in text


@pytest.fixture(scope="module")
def known():
    """Paths of all fields of the configs whose fields the pages name."""
    configs = (
        settings.load(str(ROOT / "configs" / name)) for name in ("realsrt.py:nano", "srmap.py:nano")
    )
    return {path for config in configs for path, _ in settings.fields(config)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_fields_of_a_config_that_a_page_names_are_there(page, known):
    for path in re.findall(r"--config\.([a-z_.A-Z]*[a-zA-Z])", page.read_text(encoding="utf-8")):
        assert path.replace("STAGE", "generator") in known, path


def test_every_page_is_in_the_menu_of_the_site():
    menu = re.findall(r"^ +- [\w ]+: (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(menu) == sorted(path.name for path in PAGES if path.parent.name == "docs")


def test_the_notebook_is_small_and_names_what_is_there():
    path = ROOT / "docs" / "notebooks" / "tour.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert path.stat().st_size < 200_000 and len(code) > 5
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    text = "\n".join("".join(cell["source"]) for cell in cells)
    for source in code:
        compile(source, path.name, "exec")
    pictures = set(re.findall(r'"(\w+\.jpg)"', text))
    assert len(pictures) > 3 and all((ROOT / "samples" / name).exists() for name in pictures)
    for link in re.findall(r"\]\((\.\./[^)]+)\)", text):
        assert (path.parent / link).exists(), link


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110
