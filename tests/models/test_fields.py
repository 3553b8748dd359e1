"""fields: types and ranges of configurations, by their annotations."""

import dataclasses
import json
from typing import Annotated, Any

import numpy as np
import pytest

from maskgit_sr.methods.base import TileSpec
from maskgit_sr.methods.registry import METHODS
from maskgit_sr.models.fields import (
    Count,
    Factor,
    Range,
    Side,
    Width,
    fit,
    from_mapping,
    least_arrays,
    short,
)
from maskgit_sr.models.functional import flatten
from maskgit_sr.models.transformer import TransformerConfig
from maskgit_sr.models.vqgan import VQGANConfig


@dataclasses.dataclass(frozen=True)
class Inner:
    width: Width = 4
    grid: tuple[Side, Side] = (1, 1)


@dataclasses.dataclass(frozen=True)
class Config:
    inner: Inner = Inner()
    depth: Count = 1
    sides: tuple[Side, ...] = (8,)
    factor: Factor = 1.0
    on: bool = False
    name: str = ""
    free: Any = None


def test_json_becomes_the_dataclass():
    given = {"inner": {"grid": [2, 3]}, "sides": [4, 5], "factor": 2, "free": [1], "on": True}
    found = from_mapping(Config, given, "model")
    assert found == Config(Inner(4, (2, 3)), 1, (4, 5), 2.0, True, "", [1])
    assert type(found.factor) is float
    assert from_mapping(Config, {"depth": np.int64(3)}, "model").depth == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "model: expected a mapping, found None"),
        ([], r"model: expected a mapping, found \[\]"),
        ({"depht": 1}, "model: unknown field 'depht', expected one of inner, depth"),
        ({"inner": [1]}, r"model.inner: expected a mapping, found \[1\]"),
        ({"inner": {"width": 0}}, "model.inner.width: expected 1 to 16384, found 0"),
        ({"inner": {"grid": [1]}}, "model.inner.grid: expected 2 values, found"),
        ({"inner": {"grid": [1, 1.5]}}, r"model.inner.grid\[1\]: expected int, found 1.5"),
        ({"depth": True}, "model.depth: expected int, found True"),
        ({"depth": 10**6}, "model.depth: expected 0 to 1024, found 1000000"),
        ({"depth": 10**40}, "model.depth: expected 0 to 1024, found 1"),
        ({"depth": 1.0}, "model.depth: expected int, found 1.0"),
        ({"depth": [1]}, r"model.depth: expected int, found \[1\]"),
        ({"sides": 3}, "model.sides: expected tuple, found 3"),
        ({"sides": [[3]]}, r"model.sides\[0\]: expected int, found \[3\]"),
        ({"sides": [1025]}, r"model.sides\[0\]: expected 1 to 1024, found 1025"),
        ({"factor": float("nan")}, "model.factor: expected 0 to 1e.06, found nan"),
        ({"factor": float("inf")}, "model.factor: expected 0 to 1e.06, found inf"),
        ({"factor": 10**400}, "model.factor: expected float, found 1000"),
        ({"factor": "1"}, "model.factor: expected float, found '1'"),
        ({"on": 1}, "model.on: expected bool, found 1"),
        ({"name": "x" * 10**5, "on": None}, "model.on: expected bool, found None"),
        ({"name": 3}, "model.name: expected str, found 3"),
    ],
)
def test_what_does_not_fit_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        from_mapping(Config, given, "model")


def test_values_are_told_shortly():
    deep = json.loads("[" * 500 + "]" * 500)
    for value in (deep, "x" * 10**6, [1] * 10**6, {"a" * 10**6: "b" * 10**6}, 10**4000):
        assert 5 < len(short(value)) < 200


def test_a_range_without_an_end():
    fit("scale", 10**9, Annotated[int, Range(1)])
    with pytest.raises(ValueError, match="scale: expected at least 1, found 0"):
        fit("scale", 0, Annotated[int, Range(1)])


def test_no_configuration_describes_fewer_arrays_than_its_least(method, tiny):
    found = flatten(method.shapes())
    assert tiny.generator.arrays == sum(name.startswith("generator/") for name in found)
    assert tiny.critic.arrays == sum(name.startswith("critic/") for name in found)
    assert 12 <= tiny.tokenizer.arrays <= sum(name.startswith("tokenizer/") for name in found)
    assert least_arrays(tiny) <= len(found)


@pytest.mark.parametrize("name", METHODS)
def test_defaults_of_every_method_fit_their_own_ranges(name):
    for cls in (METHODS[name].config_class, METHODS[name].losses_class):
        config = cls()
        assert from_mapping(cls, json.loads(json.dumps(dataclasses.asdict(config))), "x") == config


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VQGANConfig(channels=()), "channels: expected at least one level"),
        (lambda: VQGANConfig(groups=7), r"groups: expected a divisor of \(128, .*found 7"),
        (lambda: TransformerConfig(dim=6), "dim: expected a multiple of 4, found 6"),
        (lambda: TileSpec(variance=1e-9), "variance: expected 0, or 0.005 or more, found 1e-09"),
        (lambda: TileSpec(variance=float("nan")), "variance: expected 0, or 0.005 or more"),
    ],
)
def test_shapes_that_cannot_run_are_refused_at_once(build, message):
    with pytest.raises(ValueError, match=message):
        build()
