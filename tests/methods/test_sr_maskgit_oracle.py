"""Both methods beside the public loop and the public row-wise call.

Needs a checkout of google-research/maskgit, named by the environment variable MASKGIT_REFERENCE.
The public loop splits one key where ours folds in the step; its draws are replaced by ours, so that
all that is compared is what the loop makes of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.convert.maskgit import Sizes, from_official
from maskgit_sr.methods import registry
from maskgit_sr.methods.maskgit import MaskGITConfig
from maskgit_sr.methods.sr_maskgit import Correction, Inpainting, InpaintingConfig
from maskgit_sr.models.maskgit_transformer import MaskGITTransformerConfig
from maskgit_sr.models.maskgit_vqgan import MaskGITVQGANConfig
from maskgit_sr.ops.cells import rounds
from tests.models import maskgit_oracle as public

SIZES = Sizes(
    MaskGITVQGANConfig(width=32, multipliers=(1, 1), blocks=1, code_width=32, codes=256),
    MaskGITTransformerConfig(
        codes=256, classes=10, positions=65, dim=64, depth=3, heads=4, inner=128
    ),
)
CODES, MASK, GRID = SIZES.transformer.codes, SIZES.transformer.mask, 8


@pytest.fixture(scope="module")
def oracle():
    return public.required()


@pytest.fixture(scope="module")
def networks(oracle):
    """(public logits of rows, our parameters): the same weights."""
    state = public.state(public.listing(oracle, SIZES)[1])
    net, weights = public.transformer(oracle, SIZES.transformer), public.variables(state)
    theirs = jax.jit(lambda rows: net.apply(weights, rows)[..., :CODES])
    return theirs, {"transformer": from_official(state, SIZES.transformer)}


def build(cls, config):
    parts = dict(tokenizer=SIZES.tokenizer, transformer=SIZES.transformer)
    return cls(config(**parts, class_token=False, overlap=2))


def tokens(batch):
    return np.random.RandomState(4).randint(0, CODES, (batch, GRID * GRID)).astype(np.int32)


def replace_draws(monkeypatch, cell):
    """Gives the public loop the draws of our cell: its key is carried as (key, step)."""
    categorical, gumbel = jax.random.categorical, jax.random.gumbel

    def split(rng, *number):
        key, step = rng
        fresh = jax.random.fold_in(key, step)
        # The first of a step is for tokens, the second, without a number, for the confidence.
        return (rng, fresh) if number else ((key, step + 1), jax.random.fold_in(fresh, 1))

    def sample(key, logits):
        drawn = categorical(key, logits[0, cell])
        return jnp.zeros(logits.shape[:2], jnp.int32).at[0, cell].set(drawn)

    def noise(key, shape):
        return jnp.zeros(shape).at[0, cell].set(gumbel(key, cell.shape))

    monkeypatch.setattr(jax.random, "split", split)
    monkeypatch.setattr(jax.random, "categorical", sample)
    monkeypatch.setattr(jax.random, "gumbel", noise)


@pytest.mark.parametrize(("steps", "start"), [(12, 8), (4, 0)])
def test_inpainting_in_raster_order_gives_the_ids_of_the_public_loop(
    oracle, networks, monkeypatch, steps, start
):
    theirs, params = networks
    method = build(Inpainting, InpaintingConfig)
    given = tokens(1)
    keys = jax.random.split(jax.random.key(3), 1)
    options = method.options(order="raster", steps=steps, start=start)
    found, _ = jax.jit(lambda t, k: method.inpaint(params, t, k, options))(given, keys)

    sequence = given.copy()
    for (cell,) in rounds("raster", GRID, 4):
        sequence[:, cell] = MASK
        key = jax.random.fold_in(keys[0], cell[0])
        with monkeypatch.context() as patch, public.public():
            replace_draws(patch, cell)
            filled = oracle.parallel_decode.decode(
                sequence,
                (key, jnp.int32(start)),
                theirs,
                mask_token_id=MASK,
                num_iter=steps,
                start_iter=start,
                choice_temperature=4.5,
            )
        sequence = np.array(filled[:, -1])
    np.testing.assert_array_equal(found, sequence)
    assert (sequence != given).mean() > 0.5


def test_row_wise_correction_is_the_public_call(networks):
    """The public evaluation passes the grid, whose last axis the network takes for a sequence."""
    theirs, params = networks
    method = build(Correction, MaskGITConfig)
    given = tokens(2)
    with public.public():
        expected = theirs(given.reshape(2, GRID, GRID)).argmax(-1).reshape(2, -1)
        whole = theirs(given).argmax(-1)
    np.testing.assert_array_equal(method.correct(params, given, rows=1)[0], expected)
    np.testing.assert_array_equal(method.correct(params, given)[0], whole)
    assert (expected != whole).any()


def test_the_published_sizes_are_the_defaults():
    for name in (Correction.name, Inpainting.name):
        shapes = registry.build(name, {}).shapes()
        found = [sum(x.size for x in jax.tree.leaves(shapes[g])) for g in shapes]
        assert found == [54_515_587, 173_047_017]
