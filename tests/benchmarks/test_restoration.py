"""benchmarks.restoration: what is counted, and a run of it on a tiny network."""

import jax
import numpy as np
import pytest

from benchmarks import references, restoration, roofline
from maskgit_sr.errors import UserError
from maskgit_sr.methods.realsrt import RealSRTOptions

BATCH = 2
LIMITS = roofline.Limits("toy", "cpu", None, None)


def counted(method, steps):
    """(FLOPs of a whole restoration, those of its parts by name, how often each part runs)."""
    options, keys = RealSRTOptions(steps=steps), jax.random.split(jax.random.key(0), BATCH)
    side = method.tile.sides[0]
    shapes, lr = method.shapes(), jax.ShapeDtypeStruct((BATCH, side, side, 3), np.float32)
    flops, times = {}, {}

    def run(part, runs, call, *arguments):
        flops[part], times[part] = roofline.traced(call, *arguments)[0], runs
        return jax.eval_shape(call, *arguments)

    restoration.take_apart(method, options, shapes, lr, keys, run)
    whole = roofline.traced(lambda p, lr: method.restore(p, lr, keys, options).image, shapes, lr)
    return whole[0], flops, times


def test_the_lr_memory_is_computed_once_whatever_the_steps(method):
    """Two steps more are two passes of generator and critic more, and nothing else."""
    (two, parts, _), (four, same, _) = counted(method, 2), counted(method, 4)
    assert four - two == 2 * (parts["· generator pass"] + parts["· critic pass"]) > 0
    assert same["· LR memory"] == parts["· LR memory"] > 0


@pytest.mark.parametrize("steps", [2, 4])
def test_parts_add_up_to_the_whole(method, steps):
    whole, flops, times = counted(method, steps)
    within = {part for part in flops if part.startswith(restoration.WITHIN)}
    assert sum(flops[part] for part in flops.keys() - within) == whole
    assert sum(times[part] * flops[part] for part in within) == flops["decoding"]


def test_other_options_have_other_parts(method):
    for options in (
        RealSRTOptions(steps=1),
        RealSRTOptions(control=False),
        method.options(confidence=True),
    ):
        with pytest.raises(ValueError, match="expected critic and control"):
            restoration.take_apart(method, options, {}, None, None, None)


def test_a_run(tiny_sizes, run, capsys):
    arguments = ["--sides", "24", "--dtypes", "float32", "--batch", "3", "--repeats", "1"]
    assert run(restoration, *arguments) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    (head, whole), (parts, *measured) = (
        [row for row in rows if len(row) == width] for width in (18, 13)
    )
    found = dict(zip(head, whole, strict=True))
    assert (found["LR"], found["system"], found["tiles"]) == ("24×24", "maskgit_sr", "4")
    assert float(found["largest difference"]) == 0 and found["MFU"] == "–"
    assert float(found["of matmul"].rstrip("%")) > 0
    *inner, total = (dict(zip(parts, row, strict=True)) for row in measured)
    assert [row["times"] for row in inner] == ["1", "1", "1", "1", "4", "3", "1", "1"]
    outer = [row for row in inner if not row["part"].startswith(restoration.WITHIN)]
    gflop = sum(float(row["GFLOP"]) for row in outer)
    assert float(total["GFLOP"]) == pytest.approx(gflop, rel=1e-3) and total["part"] == "all of it"
    assert all(float(row["ms"]) > 0 for row in (*inner, total))


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
        return roofline.random_params(restoration.build("base", "float32").shapes())

    monkeypatch.setattr(restoration, "map_state", mapped)
    upscalers = restoration.networks("base", ["float32"], 3, Reference())
    theirs, ours = restoration.whole(24, upscalers, Reference(), LIMITS, repeats=2)
    assert asked == [((4, 16, 16, 3), "float32", 3)] * 3
    names = restoration.WHOLE.split("|")[2:]
    theirs, ours = (dict(zip(names, row, strict=False)) for row in (theirs, ours))
    assert (theirs["system"], float(theirs["largest difference"])) == ("PyTorch", 0)
    assert ours["system"] == "maskgit_sr" and float(ours["largest difference"]) > 0


def test_a_folder_that_is_no_checkout(run, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # as it would set it itself
    with pytest.raises(SystemExit, match="2"):
        run(restoration, "--reference", str(tmp_path))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "expected a checkout of RealSRT" in said
    with pytest.raises(UserError):
        references.RealSRT(tmp_path)
