"""perceptual.resnet: torchvision's names and shapes, and its arithmetic in torch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from maskgit_sr.errors import UserError
from maskgit_sr.perceptual import published, resnet
from tests.perceptual.published import close, image, weights

SMALL = resnet.shapes((1, 2, 1, 1), width=4, classes=6)


@pytest.fixture
def stored(tmp_path):
    file = tmp_path / "resnet50.safetensors"
    save_file(weights(SMALL), file)
    return file


def test_the_published_network():
    """torchvision's count of parameters, 25,557,032, and its 53 convolutions."""
    shapes = resnet.shapes()
    learnt = {name: shape for name, shape in shapes.items() if "running" not in name}
    assert sum(map(math.prod, learnt.values())) == 25_557_032
    assert sum(len(shape) == 4 for shape in shapes.values()) == 53
    assert shapes["layer3.5.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["layer4.0.downsample.0.weight"] == (2048, 1024, 1, 1)
    assert "layer4.1.downsample.0.weight" not in shapes
    assert shapes["fc.weight"] == (1000, 2048)


def torch_logits(torch, state, x):
    """The same network by torch's functions on the names of the state."""
    functional = torch.nn.functional

    def norm(name, x):
        leaves = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{name}.{leaf}"] for leaf in leaves))

    def conv(name, x, stride=1, padding=0):
        return functional.conv2d(x, state[f"{name}.weight"], None, stride, padding)

    mean, std = (
        torch.tensor(values).reshape(1, 3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    x = torch.relu(norm("bn1", conv("conv1", (x - mean) / std, 2, 3)))
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage, count in enumerate((1, 2, 1, 1), 1):
        for i in range(count):
            block, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = torch.relu(norm(f"{block}.bn1", conv(f"{block}.conv1", x)))
            y = torch.relu(norm(f"{block}.bn2", conv(f"{block}.conv2", y, stride, 1)))
            y = norm(f"{block}.bn3", conv(f"{block}.conv3", y))
            if i == 0:
                x = norm(f"{block}.downsample.1", conv(f"{block}.downsample.0", x, stride))
            x = torch.relu(x + y)
    return functional.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize("size", [(64, 64), (45, 70)])
def test_equals_torch(stored, size):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(value) for name, value in weights(SMALL).items()}
    x = image(*size)
    expected = torch_logits(torch, state, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    found = jax.jit(resnet.logits)(resnet.read(stored), x)
    assert found.shape == (2, 6) and np.ptp(found) > 0.1
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_values(stored):
    """Without torch: those that it gave."""
    found = jax.jit(resnet.logits)(resnet.read(stored), image(64, 64))
    close(
        found[:, :3],
        [
            [0.0444534793, 0.3306429386, -0.4039933383],
            [-0.0056855604, 0.2207066566, -0.2569432855],
        ],
    )
    with pytest.raises(ValueError, match="at least 32 pixels"):
        jax.eval_shape(resnet.logits, resnet.read(stored), jnp.zeros((1, 31, 40, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.bias": None}, r"no fc\.bias"),
        ({"layer1.0.bn1.running_var": None}, r"no layer1\.0\.bn1\.running_var"),
        ({"layer5.0.conv1.weight": (1, 1, 1, 1)}, r"unknown layer5\.0\.conv1\.weight"),
        ({"layer1.0.conv2.weight": (4, 2, 3, 3)}, r"expected shape \(4, 4, 3, 3\)"),
        ({"conv1.weight": None}, "conv1.weight"),
    ],
)
def test_other_networks_are_refused(tmp_path, change, message):
    shapes = {k: v for k, v in (SMALL | change).items() if v is not None}
    save_file(weights(shapes), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=message):
        published.load(tmp_path / "x.safetensors", resnet.read, resnet.logits, images=1)
