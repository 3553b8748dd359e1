"""benchmarks.roofline and the tables of benchmarks.speed_report."""

import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks import roofline, speed_report, weights
from benchmarks.roofline import Limits
from maskgit_sr.training import watch

GPU = Limits("toy", "gpu", peak=100e12, bandwidth=1e12, matmul={"bfloat16": 80e12})
CPU = Limits("cpu", "cpu", peak=None, bandwidth=None, matmul={"float32": 1e11})


@pytest.mark.parametrize(
    ("kind", "peak", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 3.35),
        ("NVIDIA H200", 989, 4.8),
        ("NVIDIA A100-SXM4-80GB", 312, 2.0),
        ("NVIDIA A100-SXM4-40GB", 312, 1.555),
        ("TPU v5 lite", 197, 0.819),
        ("TPU v5e", 197, 0.819),
        ("TPU v5p", 459, 2.765),
        ("TPU v5", 459, 2.765),
        ("cpu", None, None),
    ],
)
def test_peaks_by_the_name_of_the_device(kind, peak, bandwidth):
    assert watch.of_kind(watch.PEAK_TFLOPS, kind) == peak
    found = watch.of_kind(roofline.BANDWIDTH, kind)
    assert found == (None if bandwidth is None else pytest.approx(bandwidth * 1e12))


def test_a_device_with_a_peak_has_a_bandwidth():
    for kind in watch.PEAK_TFLOPS:
        assert watch.of_kind(roofline.BANDWIDTH, kind) is not None


def test_the_floor_is_products_or_memory():
    assert GPU.floor(100e12, 0.5e12, "bfloat16") == 1.0
    assert GPU.floor(10e12, 0.5e12, "bfloat16") == 0.5
    assert CPU.floor(2e11, 1e15, "float32") == 2.0  # of a measured product, its memory unknown
    assert CPU.floor(2e11, 1e15, "bfloat16") is None


def test_shares():
    assert GPU.shares(40e12, 1.0, "bfloat16") == {"tflops": 40, "mfu": 0.4, "of_matmul": 0.5}
    assert GPU.shares(40e12, 2.0, "float16") == {"tflops": 20, "mfu": 0.2}
    assert CPU.shares(1e11, 2.0, "float32") == {"tflops": 0.05, "of_matmul": 0.5}


def test_limits_of_this_device():
    found = roofline.limits(["float32", "float32"], repeats=1, side=64)
    assert (found.platform, found.peak, found.bandwidth) == ("cpu", None, None)
    assert list(found.matmul) == ["float32"] and found.matmul["float32"] > 0
    assert "in float32" in found.describe() and "peak" not in found.describe()
    assert "peak 100 TFLOP/s in bfloat16, 1.00 TB/s" in GPU.describe()


def test_short_calls_are_timed_in_a_row():
    calls = []
    add = jax.jit(lambda x: x + 1)

    def call():
        calls.append(1)
        return add(jnp.ones(3))

    assert 0 < roofline.seconds(call, repeats=2) < 0.02
    assert len(calls) > 4  # one compiles, one tells how many fill a measurement, two measure


def test_random_weights_have_the_shapes(method):
    shapes = {"critic": method.shapes()["critic"]}
    found = weights.random(shapes)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, shapes)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_columns_without_any_value_are_left_out():
    rows = [{"name": "a", "seconds": 0.0015, "mfu": None}, {"name": "b", "seconds": None}]
    text = speed_report.columns(
        rows,
        [
            ("name", lambda row: row["name"]),
            ("ms", speed_report.number("seconds", ".2f", 1e-3)),
            ("MFU", speed_report.number("mfu", ".1%")),
        ],
    )
    assert text == "| name | ms |\n|---|--:|\n| a | 1.50 |\n| b | – |"


def part(**changes):
    row = {"size": "base", "dtype": "bfloat16", "part": "critic pass", "times": 3, "inside": "loop"}
    row |= {"seconds": 0.002, "flops": 1e11, "bytes": 1e9, "floor": 0.001, "tflops": 50.0}
    return row | changes


def test_the_text_of_a_restoration():
    whole = {"size": "base", "side": 128, "tiles": 9, "system": "PyTorch", "dtype": "float32"}
    whole |= {"seconds": 0.9, "cpu_seconds": 1.8, "flops_a_tile": 2e12, "tiling_seconds": 0.01}
    whole |= {"difference": 0.0, **GPU.shares(18e12, 0.9, "float32")}
    record = speed_report.start(GPU, batch=32, repeats=5, whole=[whole], parts=[part()])
    text = speed_report.restoration(record)
    assert "| base | 128×128 | PyTorch | float32 | 9 | 0.900 | 100.00 | 2000 | 20 | 20.0% |" in text
    assert "CPU ms" not in text
    assert "critic pass, in it | 3 | 2.000 | 50 | 100 | 1 | 100 | 1 | 50% |" in text
    record = speed_report.start(CPU, batch=1, repeats=5, whole=[whole], parts=[part(floor=None)])
    assert "| 100.00 | 200.00 |" in speed_report.restoration(record)


def test_the_text_of_training():
    row = part(stage="critic", batch=8, remat=True, examples_per_second=4.0, flops_an_example=1e10)
    lost = {"size": "base", "stage": "control", "batch": 64, "failed": "does not fit"}
    text = speed_report.training(speed_report.start(GPU, stages=[row, lost]))
    assert "| base | critic | bfloat16 | 8, remat | 2.00 | 4 | 10 |" in text
    assert text.endswith("- base, control, batch 64: does not fit")
    assert "| network" not in speed_report.training(speed_report.start(GPU, stages=[lost]))


def test_files(tmp_path):
    record = {"whole": []}
    for name in ("found.md", "found.json"):
        speed_report.write(record, "| text |", tmp_path / "folder" / name)
    assert (tmp_path / "folder" / "found.md").read_text() == "| text |\n"
    assert json.loads((tmp_path / "folder" / "found.json").read_text()) == record
    assert len(list((tmp_path / "folder").iterdir())) == 2
