"""training.weights: parts of groups by path, and which file a stage's weights come from."""

import copy
import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr import bundles
from maskgit_sr.errors import UserError
from maskgit_sr.methods.base import Phase, Stage
from maskgit_sr.training import weights

FRESH, START, EARLIER, BUNDLE, LATER = range(1, 6)
"""Each source fills its weights with its own number."""
GROUPS = ("fresh", "started", "continued", "given", "whole", "needed", "codes")


def leaf(value, size=2):
    return {"w": np.full(size, value, np.float32)}


def write(path, training=None, **groups):
    """A file of groups, each filled with its number, or as given."""
    params = {g: v if isinstance(v, dict) else leaf(v) for g, v in groups.items()}
    bundles.write(path, params, bundles.Metadata("letters", {}, 4, training=training or {}))
    return path


def values(tree):
    return {name: float(part["w"][0]) for name, part in tree.items()}


# ---------------------------------------------------------------- parts by path


TREE = {"a": {"b": {"w": 1}, "c": {"w": 2}}, "d": {"w": 3}}


def test_part():
    assert weights.part(TREE, "a") == TREE["a"]
    assert weights.part(TREE, "a/b") == {"w": 1}
    for path in ("e", "a/e", "a/b/e"):
        with pytest.raises(KeyError):
            weights.part(TREE, path)


def test_merged():
    before = copy.deepcopy(TREE)
    found = weights.merged(TREE, {"a/b": {"w": 10}, "d": {"w": 30}, "e/f/g": {"w": 40}})
    expected = {"a": {"b": {"w": 10}, "c": {"w": 2}}, "d": {"w": 30}, "e": {"f": {"g": {"w": 40}}}}
    assert found == expected
    assert before == TREE  # nothing is mutated, and what was not replaced is not copied
    assert found["a"]["c"] is TREE["a"]["c"]


def test_the_later_of_two_parts_counts():
    found = weights.merged(TREE, {"a": {"b": {"w": 10}}, "a/c": {"w": 20}})
    assert found["a"] == {"b": {"w": 10}, "c": {"w": 20}}
    assert weights.merged(TREE, {}) == TREE


# ---------------------------------------------------------------- files


def test_groups_come_from_the_first_file_that_has_them(tmp_path):
    one = write(tmp_path / "one", {"tokenizer": {"steps": 1}}, tokenizer=1, codebook=1)
    training = {"tokenizer": {"steps": 2}, "critic": {"steps": 2}}
    two = write(tmp_path / "two", training, tokenizer=2, critic=2)
    files = [one, tmp_path / "absent", two]
    found, facts = weights.collect(files, ("tokenizer", "critic", "control"))
    assert values(found) == {"tokenizer": 1, "critic": 2}
    assert facts == {"tokenizer": {"steps": 1}, "critic": {"steps": 2}}
    weights.require(found, ("tokenizer", "critic"), tmp_path)
    with pytest.raises(UserError, match="needs trained control, generator: run the earlier"):
        weights.require(found, ("tokenizer", "control", "generator"), tmp_path)


def start(params):
    """Makes two groups ready, as a copied encoder does; one of them is also continued."""
    return params | {g: jax.tree.map(lambda x: 0 * x + START, params[g]) for g in STARTED}


STARTED = ("started", "continued", "given")


def stage(groups, **more):
    phase = Phase(groups, lambda *_: None)
    return Stage((phase,), exports=groups, panel=lambda *_: {}, **more)


STAGES = {
    "first": stage(("continued", "whole", "needed")),
    "second": stage(
        ("fresh", "started", "continued", "given", "whole/part"),
        needs=("whole", "needed"),
        continues=("continued", "whole/part"),
        fresh_stats=("codes",),
        start=start,
    ),
    "third": stage(("continued", "needed"), continues=("continued",)),
}


class Letters:
    """A method whose fresh weights are all `FRESH`; the second stage has every kind of group."""

    name, groups = "letters", GROUPS
    stages = STAGES

    def shapes(self):
        one = {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}
        return {g: one for g in GROUPS} | {"whole": {"part": one, "rest": one}}

    def init(self, key, groups):
        assert "whole/part" not in groups  # parts have no fresh weights of their own
        params = {group: {"w": jnp.full(2, FRESH, jnp.float32)} for group in groups}
        stats = {"codes": {"sum": jnp.float32(FRESH)}} if "codes" in groups else {}
        return params, stats

    def continued_stats(self, params):
        return {"codes": {"sum": params["codes"]["w"].sum()}} if "codes" in params else {}


@pytest.fixture
def workdir(tmp_path):
    """The first stage is done, and so is the third, of an earlier run."""
    whole = {"part": leaf(EARLIER), "rest": leaf(EARLIER)}
    first = weights.stage_file(tmp_path, "first")
    write(first, {"first": {"steps": 7}}, continued=EARLIER, whole=whole, needed=EARLIER)
    write(weights.stage_file(tmp_path, "third"), continued=LATER, needed=LATER)
    return tmp_path


def begin(sources):
    """(params, stats) that the stage starts with, jitted as the trainer does it."""
    frozen, _ = sources.frozen()
    run = jax.jit(lambda *groups: sources.start(jax.random.key(0), *groups))
    return run(frozen, *sources.initial())


def test_where_every_group_comes_from(workdir):
    """Fresh weights < `start` < an earlier stage's; a bundle's for what no stage hands on."""
    init = write(workdir / "init", continued=BUNDLE, given=BUNDLE, codes=BUNDLE, needed=BUNDLE)
    params, stats = begin(weights.Sources(Letters(), "second", workdir, str(init)))
    assert values(params) == {
        "fresh": FRESH,
        "started": START,
        "continued": EARLIER,  # neither the bundle that the run began from nor a later stage
        "given": BUNDLE,
        "whole/part": EARLIER,
    }
    assert stats == {"codes": {"sum": 2 * BUNDLE}}


def test_without_a_bundle(workdir):
    params, stats = begin(weights.Sources(Letters(), "second", workdir, ""))
    assert values(params)["given"] == START and values(params)["continued"] == EARLIER
    assert stats == {"codes": {"sum": FRESH}}


def test_needed_groups_come_from_the_last_stage_that_has_them(workdir):
    sources = weights.Sources(Letters(), "second", workdir, "")
    frozen, facts = sources.frozen()
    assert float(frozen["needed"]["w"][0]) == LATER and frozen.keys() == {"needed", "whole"}
    assert facts == {"first": {"steps": 7}}


def test_a_bundle_stands_for_stages_that_were_not_run(tmp_path):
    whole = {"part": leaf(BUNDLE), "rest": leaf(BUNDLE)}
    init = write(tmp_path / "init", continued=BUNDLE, whole=whole, needed=BUNDLE)
    params, _ = begin(weights.Sources(Letters(), "second", tmp_path / "run", str(init)))
    assert values(params)["continued"] == BUNDLE and values(params)["whole/part"] == BUNDLE
    assert values(params)["given"] == START


def test_a_bundle_that_is_not_there_is_one_line(tmp_path):
    path = tmp_path / "absent.safetensors"
    with pytest.raises(UserError, match=f"^{path}: no such bundle$"):
        weights.Sources(Letters(), "first", tmp_path, str(path))


def test_a_group_of_other_shapes_starts_anew(workdir, caplog):
    init = write(workdir / "init", given=leaf(BUNDLE, size=3), started=BUNDLE)
    with caplog.at_level(logging.INFO):
        params, _ = begin(weights.Sources(Letters(), "second", workdir, str(init)))
    assert f"{init}: its given has other shapes, starts anew" in caplog.text
    assert values(params)["given"] == START and values(params)["started"] == BUNDLE


@pytest.mark.parametrize(("name", "missing"), [("second", "whole, needed"), ("third", "continued")])
def test_missing_groups_are_one_line(tmp_path, name, missing):
    sources = weights.Sources(Letters(), name, tmp_path, "")
    with pytest.raises(UserError, match=f"needs trained {missing}: run the earlier") as error:
        begin(sources)
    assert "\n" not in str(error.value)


def test_fits():
    fresh = SimpleNamespace(**{"shape": (2,)})
    assert weights.fits({"a": fresh}, {"a": fresh, "b": fresh})
    assert not weights.fits({"a": fresh, "c": fresh}, {"a": fresh, "b": fresh})
    assert not weights.fits({"a": SimpleNamespace(shape=(3,))}, {"a": fresh})
