"""convert.compact: ncnn files of a tiny network against NumPy, and what is refused."""

import itertools

import jax
import numpy as np
import pytest

from maskgit_sr import bundles
from maskgit_sr.convert import compact
from maskgit_sr.errors import UserError
from maskgit_sr.methods import registry
from tests.cli.commands import refuses, run

SCALE, WIDTH, BODY = 2, 5, 3
WIDTHS = [3, *[WIDTH] * (BODY + 1), 3 * SCALE**2]


@pytest.fixture(scope="module")
def layers():
    """Weights [D, C, 3, 3], biases [D] and slopes [D] as PyTorch and ncnn have them."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float16).astype(np.float32)

    pairs = itertools.pairwise(WIDTHS)
    return [(normal(d, c, 3, 3), normal(d), normal(d)) for c, d in pairs]


def write(folder, layers, bits=16, changes=()):
    """Writes the two files; `changes` are (old, new) in the text. Returns their path."""
    lines = ["Input in 0 1 data", "Split split 1 2 data a b"]
    data = b""
    for number, (kernel, bias, slope) in enumerate(layers):
        fields = f"0={len(bias)} 1=3 4=1 5=1 6={kernel.size}"
        lines.append(f"Convolution         Conv_{number} 1 1 x y {fields}")
        stored = kernel.astype(np.float16 if bits == 16 else np.float32).tobytes()
        data += np.uint32(0x01306B47 if bits == 16 else 0).tobytes()
        data += stored + bytes(-len(stored) % 4) + bias.tobytes()
        if number < len(layers) - 1:
            lines.append(f"PReLU               PRelu_{number} 1 1 y x 0={len(slope)}")
            data += slope.tobytes()
    lines += [f"PixelShuffle        shuffle 1 1 x d 0={SCALE}"]
    lines += [f"Interp              resize 1 1 b n 0=1 1={SCALE}.0 2={SCALE}.0"]
    lines += ["BinaryOp            add 2 1 d n output"]
    text = "\n".join(["7767517", f"{len(lines)} {len(lines) + 1}", *lines]) + "\n"
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "tiny-x2.v3"
    (folder / "tiny-x2.v3.param").write_text(text)
    (folder / "tiny-x2.v3.bin").write_bytes(data)
    return path


def oracle(layers, image):
    """The published network on [3, H, W], by einsum over patches."""
    height, width = image.shape[1:]
    x = image.astype(np.float64)
    for number, (kernel, bias, slope) in enumerate(layers):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        x = np.einsum("chwij,dcij->dhw", patches, kernel) + bias[:, None, None]
        if number < len(layers) - 1:
            x = np.where(x > 0, x, slope[:, None, None] * x)
    # PyTorch's pixel_shuffle: channels are (channel, row, column).
    x = x.reshape(3, SCALE, SCALE, height, width).transpose(0, 3, 1, 4, 2)
    return x.reshape(3, SCALE * height, SCALE * width) + image.repeat(SCALE, 1).repeat(SCALE, 2)


@pytest.mark.parametrize("bits", [16, 32])
def test_the_bundle_restores_as_the_published_network(tmp_path, layers, bits):
    target = tmp_path / "tiny.safetensors"
    source = write(tmp_path, layers, bits)
    values = sum(k.size + b.size for k, b, _ in layers) + (BODY + 1) * WIDTH
    result = run("convert", "compact", source, target)
    metadata = bundles.read_metadata(target)
    method = registry.build(metadata.method, metadata.config)
    params, _ = bundles.read(target, method.shapes())
    assert metadata.scale == method.scale == SCALE and metadata.licence == "BSD-3-Clause"
    assert metadata.training["start"]["file"] == "tiny-x2.v3.bin"
    # `keep` of every layer and the residual half of the body come on top.
    own = (1 + BODY) * WIDTH + BODY * (9 * WIDTH**2 + 3 * WIDTH)
    assert result.stdout == f"parameters: {values + own}\nblocks: {BODY}\n"
    assert not params["structure"]["residual"]["kernel"].any()
    lr = np.random.default_rng(1).random((2, 4, 7, 3), np.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    for strength in (1.0, 0.0):
        options = method.options(strength=strength)
        found = jax.jit(method.restore, static_argnames="options")(
            params, lr, keys, options=options
        )
        for image, given in zip(found.image, lr, strict=True):
            expected = oracle(layers, given.transpose(2, 0, 1)).transpose(1, 2, 0)
            np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-4)


def test_an_existing_bundle_is_replaced_on_demand(tmp_path, layers):
    source, target = write(tmp_path, layers), tmp_path / "tiny.safetensors"
    target.write_text("other")
    refuses("tiny.safetensors: exists already", "convert", "compact", source, target)
    with pytest.raises(UserError, match="exists already"):
        compact.convert(source, target)
    assert target.read_text() == "other"
    run("convert", "compact", source, target, "--overwrite")
    assert bundles.read_metadata(target).method == "structure"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("1=3 ", "1=5 ")], "Conv_0: expected 3x3"),
        ([(" 5=1", "")], "Conv_0: expected 3x3, stride 1, padding 1 and a bias"),
        ([("1=3 4=1", "1=3 3=2 4=1")], "Conv_0: expected 3x3"),
        ([("0=5 1=3", "0=five 1=3")], "invalid literal"),
        ([("6=135", "6=134")], "tag|reshape"),
        ([("6=135", "6=-1")], "reshape|tag|cannot"),
        ([("resize 1 1 b n 0=1", "resize 1 1 b n 0=2")], "resize: expected a nearest skip"),
        ([("PReLU ", "ReLU ")], "expected convolutions with PReLU"),
        ([("BinaryOp ", "Concat ")], "expected convolutions with PReLU"),
        ([("output\n", "112\nInterp last 1 1 112 output 0=3 1=0.5 2=0.5\n")], "a nearest skip"),
        ([("Convolution", "Deconvolution")], "expected convolutions with PReLU"),
        ([("7767517", "7767518")], "expected 7767517 in the first line"),
    ],
)
def test_other_networks_are_refused_in_one_line(tmp_path, layers, changes, message):
    source, target = write(tmp_path, layers, changes=changes), tmp_path / "out.safetensors"
    with pytest.raises(UserError, match=f"tiny-x2.v3: not readable as .*({message})"):
        compact.convert(source, target)
    refuses("tiny-x2.v3: not readable", "convert", "compact", source, target)
    assert not target.exists()


def test_damaged_files_are_refused_in_one_line(tmp_path, layers):
    source, target = write(tmp_path, layers), tmp_path / "out.safetensors"
    weights, text = tmp_path / "tiny-x2.v3.bin", tmp_path / "tiny-x2.v3.param"
    whole = weights.read_bytes()
    for size in (0, 2, 100, len(whole) - 4, len(whole) - 1):
        weights.write_bytes(whole[:size])
        refuses("tiny-x2.v3: not readable", "convert", "compact", source, target)
    weights.write_bytes(whole + bytes(4))
    refuses(f"expected {len(whole)} bytes of weights", "convert", "compact", source, target)
    weights.write_bytes(b"\x07" + whole[1:])
    refuses("expected weights of 16 or 32 bits", "convert", "compact", source, target)
    weights.write_bytes(whole)
    text.write_bytes(b"\xff\xfe\x00" * 20)
    refuses("tiny-x2.v3: not readable", "convert", "compact", source, target)
    text.write_text("7767517\n")
    refuses("expected convolutions with PReLU", "convert", "compact", source, target)
    text.write_text("")
    refuses("expected 7767517", "convert", "compact", source, target)
    weights.unlink()
    refuses("tiny-x2.v3.bin: no such file", "convert", "compact", source, target)
    text.unlink()
    refuses("tiny-x2.v3.param: no such file", "convert", "compact", source, target)
    assert not target.exists()


def test_layers_of_other_widths_are_refused(tmp_path, layers):
    target = tmp_path / "out.safetensors"
    kernel, bias, slope = layers[2]
    other = (np.concatenate([kernel] * 2), np.tile(bias, 2), np.tile(slope, 2))
    last = np.concatenate([layers[3][0]] * 2, axis=1)
    wider = [*layers[:2], other, (last, *layers[3][1:]), layers[4]]
    grey = [(layers[0][0][:, :1], *layers[0][1:]), *layers[1:]]
    ten = [*layers[:-1], tuple(part[:10] for part in layers[-1])]
    for found in (wider, grey, ten):
        with pytest.raises(UserError, match="expected convolutions of one width"):
            compact.convert(write(tmp_path, found), target)
    short = [(*layers[0][:2], layers[0][2][:2]), *layers[1:]]
    with pytest.raises(UserError, match="expected as many slopes"):
        compact.convert(write(tmp_path, short), target)
    assert not target.exists()
