"""benchmarks.restoration: what is counted, and a run of it on a tiny network."""

import json

import jax
import numpy as np
import pytest

from benchmarks import flops, realsrt_reference, restoration, restoration_parts
from maskgit_sr.errors import UserError
from maskgit_sr.methods.realsrt import RealSRTOptions

BATCH = 2


def tiles(method):
    side = method.tile.sides[0]
    return jax.ShapeDtypeStruct((BATCH, side, side, 3), np.float32)


def counted(method, steps):
    """(FLOPs of a whole restoration, of its parts by name, the parts)."""
    options, keys = RealSRTOptions(steps=steps), jax.random.split(jax.random.key(0), BATCH)
    shapes, lr = method.shapes(), tiles(method)
    traced = jax.make_jaxpr(lambda params, lr: method.restore(params, lr, keys, options).image)
    parts = restoration_parts.parts(method, options, shapes, lr, keys)
    return flops.count(traced(shapes, lr).jaxpr), restoration_parts.count(parts), parts


def test_the_lr_memory_is_computed_once_whatever_the_steps(method):
    """Two steps more are two passes of generator and critic more, and nothing else."""
    (two, parts, _), (four, same, _) = counted(method, 2), counted(method, 4)
    passes = parts["generator pass"] + parts["critic pass"]
    assert four - two == 2 * passes > 0
    assert same["LR memory"] == parts["LR memory"] > 0


@pytest.mark.parametrize("steps", [2, 4])
def test_parts_add_up_to_the_whole(method, steps):
    whole, by_name, parts = counted(method, steps)
    assert sum(by_name[part.name] for part in parts if not part.inside) == whole
    inside = sum(part.times * by_name[part.name] for part in parts if part.inside)
    assert inside == by_name[restoration_parts.LOOP]


def test_other_options_have_other_parts(method):
    for options in (
        RealSRTOptions(steps=1),
        RealSRTOptions(control=False),
        method.options(confidence=True),
    ):
        with pytest.raises(ValueError, match="expected critic and control"):
            restoration_parts.parts(method, options, {}, tiles(method), None)


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["benchmarks.restoration", *arguments])
    return restoration.main()


def test_a_run(tiny_sizes, monkeypatch, tmp_path, capsys):
    found = {"part": "all of it", "times": 1, "inside": "", "seconds": 1.0, "floor": None}
    monkeypatch.setattr(restoration, "inside", lambda *rest: [{**found, "flops": 0, "bytes": 0}])
    path = tmp_path / "found.json"
    arguments = ["--sides", "24", "--dtypes", "float32", "--batch", "3", "--repeats", "1"]
    assert run(monkeypatch, *arguments, "--output", str(path)) == 0
    record = json.loads(path.read_text())
    (row,) = record["whole"]
    assert (row["tiles"], row["difference"], row["system"]) == (4, 0.0, "maskgit_sr")
    assert "mfu" not in row and row["of_matmul"] > 0
    said = capsys.readouterr().out
    assert "| base | 24×24 | maskgit_sr | float32 | 4 |" in said
    assert "| base | float32 | all of it | 1 | 1000.000 |" in said


def test_the_parts_of_a_batch(tiny_sizes):
    upscaler = restoration.networks("base", ["float32"], 3, None)["float32"]
    limits = restoration.roofline.Limits("toy", "cpu", None, 1e9)
    *parts, whole = restoration.inside(upscaler, limits, "float32", repeats=1)
    assert whole["flops"] == 3 * restoration.work_of_a_tile(upscaler)
    outer = [part for part in parts if not part["inside"]]
    for key in ("flops", "bytes", "floor"):
        assert whole[key] == sum(part[key] for part in outer) > 0
    passes = sum(part["times"] * part["bytes"] for part in parts if part["inside"])
    loop = next(part for part in parts if part["part"] == restoration_parts.LOOP)
    assert loop["bytes"] == passes and loop["floor"] == passes / 1e9
    assert all(part["seconds"] > 0 for part in (*parts, whole))


def test_the_reference_takes_turns_on_the_same_tiles(tiny_sizes, monkeypatch):
    """Ours gets its weights, its tiles, and is held to its image."""
    asked = []

    class Reference:
        precisions, flops, state = ("float32",), 1e9, {}

        def restore(self, tiles, precision, batch):
            asked.append((tiles.shape, precision, batch))
            return np.zeros((len(tiles), 64, 64, 3), np.float32)

    def mapped(state, config):
        assert state is Reference.state
        return restoration.weights.random(restoration.build("base", "float32").shapes())

    monkeypatch.setattr(restoration, "map_state", mapped)
    upscalers = restoration.networks("base", ["float32"], 3, Reference())
    limits = restoration.roofline.Limits("toy", "cpu", None, None)
    theirs, ours = restoration.whole(24, upscalers, Reference(), limits, repeats=2)
    assert asked == [((4, 16, 16, 3), "float32", 3)] * 3
    assert (theirs["system"], theirs["difference"], theirs["tflops"] > 0) == ("PyTorch", 0, True)
    assert ours["difference"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sides", "0"], "--sides: expected at least 1, found 0"),
        (["--repeats", "0"], "--repeats: expected at least 1, found 0"),
        (["--output", "found.txt"], "--output: expected a name that ends in .md or .json"),
        (["--sizes", "huge"], "--sizes: invalid choice"),
        (["--dtypes", "int8"], "--dtypes: invalid choice"),
        (["--sizes", "small", "--reference", "."], "--reference: the public code is base"),
    ],
)
def test_mistakes(monkeypatch, capsys, arguments, said):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_folder_that_is_no_checkout(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # as it would set it itself
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--reference", str(tmp_path))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "expected a checkout of RealSRT" in said
    with pytest.raises(UserError):
        realsrt_reference.Reference(tmp_path)
