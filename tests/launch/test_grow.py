"""launch.grow: the larger tokenizer does what the smaller one does, and everything can learn."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import grow
from maskgit_sr import bundles
from maskgit_sr.errors import UserError
from maskgit_sr.methods.realsrt import RealSRT

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("tokenizer", "codebook")


def larger(config, **changes):
    tokenizer = dataclasses.replace(config.tokenizer, **changes)
    width = tokenizer.code_width
    return dataclasses.replace(
        config,
        tokenizer=tokenizer,
        generator=dataclasses.replace(config.generator, code_width=width),
        critic=dataclasses.replace(config.critic, code_width=width),
    )


@pytest.fixture(scope="module")
def small(tiny):
    return RealSRT(larger(tiny, groups=0, narrow_up=True))


@pytest.mark.parametrize(
    "changes",
    [
        dict(channels=(40, 64), code_width=24),
        dict(encoder_blocks=2, decoder_blocks=3, encoder_bottom=1, decoder_bottom=2),
        dict(channels=(32, 48), code_width=20, encoder_bottom=1, decoder_bottom=1),
        dict(),
    ],
)
def test_the_same_tokens_and_the_same_image(small, changes):
    large = RealSRT(larger(small.config, **changes))
    image = jax.random.uniform(jax.random.key(3), (2, 64, 64, 3))

    @jax.jit
    def both(key):
        old, _ = small.init(key, GROUPS)
        fresh, _ = large.init(jax.random.fold_in(key, 1), GROUPS)
        new = grow.grow(old, fresh, small.config.tokenizer, large.config.tokenizer)
        found = []
        for method, params in ((small, old), (large, new)):
            tokens = method.tokenize(params, image)
            vectors = method.embed(params, tokens)
            decoded = method.tokenizer.apply(params["tokenizer"], lambda m, v=vectors: m.decode(v))
            found.append((tokens, decoded))
        return found, new

    ((tokens, decoded), (same_tokens, same_decoded)), new = both(jax.random.key(0))
    np.testing.assert_array_equal(same_tokens, tokens)
    np.testing.assert_allclose(same_decoded, decoded, rtol=1e-4, atol=1e-5)
    shapes = large.shapes()
    for group in GROUPS:
        assert jax.tree.map(jnp.shape, new[group]) == jax.tree.map(jnp.shape, shapes[group])


def test_everything_new_gets_a_gradient_within_two_steps(small):
    """A layer of zeros that reads zeros would never learn."""
    large = RealSRT(larger(small.config, channels=(40, 48), code_width=20, decoder_bottom=1))
    image = jax.random.uniform(jax.random.key(3), (2, 64, 64, 3))

    @jax.jit
    def train(key):
        old, _ = small.init(key, GROUPS)
        fresh, _ = large.init(jax.random.fold_in(key, 1), GROUPS)
        grown = grow.grow(old, fresh, small.config.tokenizer, large.config.tokenizer)["tokenizer"]

        def loss(params):
            def reconstruct(module):
                return module.decode(module.encode(image))

            return jnp.mean(jnp.square(large.tokenizer.apply(params, reconstruct) - image))

        params = grown
        for _ in range(3):
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
        return jax.tree.map(lambda a, b: jnp.abs(a - b).max(), grown, params)

    moved = jax.tree.leaves(train(jax.random.key(0)))
    assert min(moved) > 0


def test_a_shortcut_that_would_vanish_is_refused(small):
    before = dataclasses.replace(small.config.tokenizer, channels=(16, 32))
    with pytest.raises(UserError, match="channels: expected two widths at levels 0 and 1"):
        grow.check(before, dataclasses.replace(before, channels=(32, 32)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(patch=2), "patch: expected 4 as before, found 2"),
        (dict(groups=4), "groups: a group norm over more channels is another function"),
        (dict(channels=(32, 32, 32)), "channels: expected 2 levels as before, found 3"),
        (dict(channels=(32, 16)), "channels: expected at least 32, found 16"),
        (dict(code_width=8), "code_width: expected at least 16, found 8"),
        (dict(decoder_blocks=0), "decoder_blocks: expected at least 1, found 0"),
    ],
)
def test_what_cannot_grow_is_one_line(small, changes, message):
    before = small.config.tokenizer
    with pytest.raises(UserError, match=message):
        grow.check(before, dataclasses.replace(before, **changes))


def test_a_shipped_model_grows_into_small(tmp_path):
    """The command as it is typed, on the real configs."""
    output = tmp_path / "grown.safetensors"
    command = ["--bundle", "realsrt-nano", "--config", "configs/realsrt.py:small"]
    done = subprocess.run(
        [sys.executable, "-m", "launch.grow", *command, "--output", str(output)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "tokenizer and codebook of realsrt-nano.safetensors, larger" in done.stdout
    params, head = bundles.read(output)
    assert sorted(params) == sorted(GROUPS)
    assert params["codebook"]["embedding"].shape == (512, 96)
    assert head.config["tokenizer"]["channels"] == [96, 192]
    assert head.training["grown_from"] == "realsrt-nano.safetensors"
