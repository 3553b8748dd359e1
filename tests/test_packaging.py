"""What is installed with which extra, and what PyPI shows."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib

import pytest

import maskgit_sr
from maskgit_sr import errors
from tests.test_structure import OURS, ROOT, library, part, tops

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODULES = {  # of distributions whose module has another name
    "absl-py": {"absl"},
    "apache-beam": {"apache_beam"},
    "fastapi": {"fastapi", "pydantic", "starlette"},
    "opencv-python-headless": {"cv2"},
    "orbax-checkpoint": {"orbax"},
    "pillow": {"PIL"},
    "tensorflow-cpu": {"tensorflow"},
    "uvicorn": {"h11", "uvicorn"},
}
OPTIONAL = {  # room of maskgit_sr → the extras that it needs, or says in one line are missing
    "batch": ["beam"],
    "convert": ["convert"],
    "evaluation": ["plots"],
    "export": ["export", "onnx"],
    "images": ["heif"],
    "inference": ["hub"],
    "paths": ["gcs"],
    "serving": ["serve"],
    "training": ["train", "wandb"],
}


def provided(requirements):
    """Top-level modules of the distributions of a list."""
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements}
    return {m for name in names for m in MODULES.get(name, {name.replace("-", "_")})}


def test_requirements_are_those_of_the_package_and_of_training():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert listed == [*PROJECT["dependencies"], *EXTRAS["train"]]
    assert provided(EXTRAS["train"]) == set(errors.TRAIN)


@pytest.mark.parametrize("room", sorted({part(path) for path in library()}))
def test_a_room_imports_what_is_installed_for_it(room):
    extras = [line for name in OPTIONAL.get(room, ()) for line in EXTRAS[name]]
    known = provided([*PROJECT["dependencies"], *extras]) | sys.stdlib_module_names
    for path in library():
        if part(path) == room:
            assert tops(path) <= known | {"maskgit_sr"}, path


BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        # orbax, absl and psutil come with flax and optax
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Absent())
"""


def without_training(tmp_path, *words):
    """A command of Python where the extra `train` is not installed."""
    absent = set(errors.TRAIN) - {"absl", "orbax", "psutil"}
    (tmp_path / "sitecustomize.py").write_text(BLOCKED.format(blocked=absent))
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_all_but_training_works_without_its_packages(tmp_path):
    optional = ("batch", "export", "serving", "training")
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in library()
        if part(path) not in (*optional, "__main__")
    ]
    lines = "\n".join(f"import {name}" for name in names)
    code = f"{lines}\nfrom maskgit_sr.cli import app\nimport maskgit_sr\nmaskgit_sr.load()"
    done = without_training(tmp_path, "-c", code)
    assert (done.returncode, done.stderr) == (0, "") and len(names) > 80


@pytest.mark.parametrize("command", ["launch.train", "launch.export_bundle", "launch.history"])
def test_a_command_that_trains_names_the_extra(tmp_path, command):
    done = without_training(tmp_path, "-m", command, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"\w+ is missing: pip install 'maskgit-sr\[train\]'\n", done.stderr)


def test_training_in_python_names_the_extra(monkeypatch):
    found = importlib.util.find_spec
    absent = lambda name, *rest: None if name == "clu" else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(ModuleNotFoundError, match=r"^clu is missing: pip install 'maskgit-sr\[tr"):
        errors.require_training()


def readme():
    spec = importlib.util.spec_from_file_location("setup_py", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return module.absolute(text, PROJECT["urls"]["Repository"])


def test_links_of_the_readme_on_pypi_are_absolute_and_lead_into_the_tree():
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", readme())
    ours = re.compile(rf"{re.escape(PROJECT['urls']['Repository'])}/(blob|raw)/HEAD/([^#]+)(#.*)?")
    inside = [(kind, ours.fullmatch(link)) for kind, link in links]
    assert all(link.startswith(("https://", "#")) for _, link in links)
    assert sum(found is not None for _, found in inside) > 15
    for kind, found in inside:
        if found:
            assert (ROOT / found[2]).exists(), found[2]
            assert found[1] == ("raw" if kind else "blob")


def test_one_version_licence_and_address():
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    address = PROJECT["urls"]["Repository"]
    fields = {"version": "version", "license": "license"}
    same = {theirs: PROJECT[ours] for theirs, ours in fields.items()}
    for field, value in (*same.items(), ("repository-code", address)):
        assert re.search(rf"^{field}: (.+)$", cited, re.MULTILINE)[1] == value
    assert PROJECT["version"] == maskgit_sr.__version__
    assert all(url.startswith(address) for url in PROJECT["urls"].values())


def strings(path):
    """Strings of a module but for those that stand alone, as docstrings do."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


def test_every_character_that_a_command_prints_has_a_plain_form():
    special = {c for path in library() for text in strings(path) for c in text if not c.isascii()}
    plain = {c: c.encode("ascii", "maskgit_sr.plain") for c in special}
    assert len(special) > 5 and b"?" not in plain.values(), plain


def test_the_sdist_names_every_folder():
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    kept = {line.split()[1] for line in manifest.splitlines() if line.startswith("graft ")}
    assert kept == {".ci", "docs", "samples", *OURS}
    assert all((ROOT / name).is_dir() for name in kept)
