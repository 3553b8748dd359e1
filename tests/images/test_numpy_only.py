"""data and the image code run where jax cannot be imported."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import importlib, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "flax", "optax", "orbax", "tensorflow", "torch"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())

import data, maskgit_sr.images

found = [*pkgutil.iter_modules(data.__path__, "data.")]
found += pkgutil.iter_modules(maskgit_sr.images.__path__, "maskgit_sr.images.")
for module in found:
    importlib.import_module(module.name)
print(len(found))
"""


def test_data_and_images_need_no_jax():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    files = [*(ROOT / "data").glob("*.py"), *(ROOT / "maskgit_sr" / "images").glob("*.py")]
    assert int(done.stdout) == len([file for file in files if file.stem != "__init__"])
