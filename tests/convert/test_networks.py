"""convert.networks: what becomes of PyTorch files, and what is refused. Reading needs PyTorch."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from maskgit_sr.convert import networks
from maskgit_sr.errors import UserError
from maskgit_sr.perceptual import resnet


@pytest.fixture
def states(monkeypatch, tmp_path):
    """Files that are read as these tables."""
    tables = {
        "vgg.pth": {"features.0.weight": np.ones((2, 3, 1, 1), np.float32)},
        "lin.pth": {"lin0.weight": np.ones((1, 2, 1, 1), np.float32).T},
        "empty.pth": {},
    }
    for name in tables:
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.setattr(networks, "read_state", lambda path: tables[path.name])
    return tmp_path


def test_sources_are_joined(states):
    target = states / "new" / "lpips.safetensors"
    assert networks.main([*map(str, (states / "vgg.pth", states / "lin.pth", target))]) == 0
    arrays = load_file(target)
    assert arrays.keys() == {"features.0.weight", "lin0.weight"}
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["vgg.pth", "vgg.pth", "x.safetensors"], "in another source, too"),
        (["empty.pth", "x.safetensors"], "no arrays found"),
        (["vgg.pth", "vgg.pth"], "exists already"),
    ],
)
def test_refusals(states, capsys, names, words):
    with pytest.raises(SystemExit, match="2"):
        networks.main([str(states / name) for name in names])
    assert words in capsys.readouterr().err
    assert not (states / "x.safetensors").exists()
    assert networks.main(names[:1]) == 2


def test_resnet50_is_taken_name_by_name(tmp_path, capsys, monkeypatch):
    """The state of torchvision as its file has it, of reduced width; counters are left out."""
    torch = pytest.importorskip("torch")
    shapes = resnet.shapes(width=2, classes=5)
    monkeypatch.setattr(networks, "_EXPECTED", {"resnet50.safetensors": lambda: shapes})
    state = {name: torch.full(shape, 0.5) for name, shape in shapes.items()}
    torch.save(state | {"bn1.num_batches_tracked": torch.tensor(7)}, tmp_path / "r.pth")
    target = tmp_path / "resnet50.safetensors"
    assert networks.main([str(tmp_path / "r.pth"), str(target)]) == 0
    assert {name: array.shape for name, array in load_file(target).items()} == shapes
    target.unlink()
    for change, message in (
        ({"fc.weight": torch.zeros(5, 8)}, "fc.weight: expected shape (5, 64), found (5, 8)"),
        ({"layer1.3.conv1.weight": torch.zeros(1)}, "unknown layer1.3.conv1.weight"),
    ):
        torch.save(state | change, tmp_path / "r.pth")
        with pytest.raises(SystemExit, match="2"):
            networks.main([str(tmp_path / "r.pth"), str(target)])
        error = capsys.readouterr().err
        assert f"not the network of resnet50.safetensors: {message}" in error
        assert error.count("\n") == 1 and not target.exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_reading_torch_files(tmp_path):
    torch = pytest.importorskip("torch")
    state = {
        "lin0.model.1.weight": torch.ones(1, 2, 1, 1),
        "features.0.bias": torch.ones(2, dtype=torch.half),
        "bn.num_batches_tracked": torch.tensor(3),
    }
    torch.save(state, tmp_path / "a.pth")
    found = networks.read_state(tmp_path / "a.pth")
    assert {name: array.dtype for name, array in found.items()} == {
        "lin0.weight": np.float32,
        "features.0.bias": np.float32,
    }
    torch.jit.script(torch.nn.Linear(2, 3)).save(str(tmp_path / "b.pt"))
    assert networks.read_state(tmp_path / "b.pt")["weight"].shape == (3, 2)
    (tmp_path / "c.pth").write_bytes(b"nothing")
    for name, words in (("c.pth", "not a readable"), ("d.pth", "no such file")):
        with pytest.raises(UserError, match=words):
            networks.read_state(tmp_path / name)
