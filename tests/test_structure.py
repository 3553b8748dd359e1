"""Imports go one way, only `models` knows Flax, and no file grows beyond reading."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("maskgit_sr", "data", "configs", "launch", "benchmarks", "tests")
FILES = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))

BASE = {"arrays", "errors", "assets", "paths"}
NETWORKS = BASE | {"ops", "models"}
METHODS = NETWORKS | {"perceptual", "losses", "decoding", "methods", "bundles"}
INFERENCE = METHODS | {"images", "inference"}
EVALUATION = INFERENCE | {"metrics", "evaluation"}
ALLOWED = {  # room of maskgit_sr → the other rooms it may import
    "errors": set(),
    "paths": {"errors"},
    "images": {"errors", "paths"},
    "arrays": {"errors"},
    "assets": {"errors", "paths"},
    "ops": {"arrays", "errors"},
    "perceptual": BASE | {"ops"},
    "models": NETWORKS,
    "bundles": NETWORKS,
    "losses": NETWORKS | {"perceptual"},
    "decoding": NETWORKS | {"losses"},
    "methods": METHODS - {"bundles"},
    "metrics": BASE | {"ops", "perceptual"},
    "training": METHODS,
    "inference": METHODS | {"images"},
    "evaluation": EVALUATION,
    "export": INFERENCE,
    "serving": INFERENCE,
    "batch": INFERENCE,
    "convert": METHODS,
    "cli": EVALUATION | {"export", "convert", "serving", "batch", ""},
    "__main__": {"cli"},
    "": {"errors", "inference"},
}
NUMPY_ONLY = ("errors", "paths", "images")  # rooms that `data` may import


def modules(path):
    """Absolute names of everything a file imports, at any depth."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*parents, *filter(None, [node.module])))
            # `from maskgit_sr import bundles` imports a part, not the package's own names
            yield from (f"{module}.{alias.name}" for alias in node.names)


def tops(path):
    return {name.split(".")[0] for name in modules(path)}


def part(path):
    """The part of maskgit_sr that a file belongs to; "" is the package's own __init__."""
    parts = path.relative_to(ROOT / "maskgit_sr").with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def library(folder="maskgit_sr"):
    return [path for path in FILES if path.is_relative_to(ROOT / folder)]


def test_every_part_has_a_place():
    assert {part(path) for path in library()} <= ALLOWED.keys()


@pytest.mark.parametrize("name", ALLOWED)
def test_imports_go_one_way(name):
    for path in library():
        if part(path) != name:
            continue
        for module in modules(path):
            first, *rest = module.split(".")
            if first != "maskgit_sr":
                continue
            target = rest[0] if rest and rest[0] in ALLOWED else ""
            assert target == name or target in ALLOWED[name], f"{path.name} imports {module}"


def test_library_does_not_know_its_users():
    for path in library():
        assert not tops(path) & {"data", "configs", "launch", "tests", "benchmarks"}, path


def test_data_and_images_are_numpy_only():
    forbidden = {"jax", "jaxlib", "flax", "optax", "orbax", "configs", "launch"}
    rooms = [path for path in library() if part(path) in NUMPY_ONLY]
    for path in [*library("data"), *rooms]:
        assert not tops(path) & forbidden, path
    for path in library("data"):
        for module in modules(path):
            first, *rest = module.split(".")
            assert first != "maskgit_sr" or rest[0] in NUMPY_ONLY, f"{path} imports {module}"


def test_configs_are_data():
    for path in library("configs"):
        assert not tops(path) & {"jax", "flax", "maskgit_sr", "data", "launch"}, path


def test_only_models_import_flax():
    for path in FILES:
        if not path.is_relative_to(ROOT / "maskgit_sr" / "models"):
            assert "flax" not in tops(path) or path.is_relative_to(ROOT / "tests"), path


def test_nothing_unpickles_outside_convert():
    for path in library():
        if part(path) != "convert":
            assert not tops(path) & {"pickle", "torch", "dill", "joblib"}, path


def test_files_are_short():
    long = [path for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) >= 400]
    assert not long


def test_modules_say_what_they_are():
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    assert not [path for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
