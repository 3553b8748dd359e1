"""Both networks beside the public Linen code, run here on the same weights.

Needs a checkout of google-research/maskgit, named by the environment variable MASKGIT_REFERENCE.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_sr.convert.maskgit import Sizes, entries, from_official
from maskgit_sr.losses.token import masked_cross_entropy
from maskgit_sr.models.functional import Network, flatten
from maskgit_sr.models.maskgit_transformer import MaskGITTransformer, MaskGITTransformerConfig
from maskgit_sr.models.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANConfig
from tests.models import maskgit_oracle as public
from tests.models.maskgit_oracle import TINY, agree

# The published order of levels and heads at a width that compiles in seconds.
SIZES = Sizes(
    MaskGITVQGANConfig(width=32, code_width=32, codes=256),
    MaskGITTransformerConfig(
        codes=256, classes=10, positions=65, dim=64, depth=3, heads=4, inner=128
    ),
)
CODES, MASK = SIZES.transformer.codes, SIZES.transformer.mask


@pytest.fixture(scope="module")
def oracle():
    return public.required()


@pytest.fixture(scope="module")
def states(oracle):
    return [public.state(part) for part in public.listing(oracle, SIZES)]


@pytest.fixture(scope="module")
def logits(oracle, states):
    """(public, ours): logits over the image tokens of rows, jitted."""
    config = SIZES.transformer
    net, weights = public.transformer(oracle, config), public.variables(states[1])
    network = Network(lambda rngs: MaskGITTransformer(config, dtype=jnp.float32, rngs=rngs))
    params = from_official(states[1], config)
    theirs = jax.jit(lambda rows: net.apply(weights, rows)[..., :CODES])
    ours = jax.jit(lambda rows: network.apply(params, lambda m: m(rows)))
    return theirs, ours


def rows(count, batch=2, label=None, share=0.5, seed=0):
    """Rows with a share of masks, a class in front where one is given."""
    random = np.random.RandomState(seed)
    tokens = random.randint(0, CODES, (batch, count)).astype(np.int32)
    found = np.where(random.rand(batch, count) < share, MASK, tokens).astype(np.int32)
    front = np.full((batch, 0 if label is None else 1), label or 0, np.int32)
    return np.concatenate([front, found], axis=1)


def test_stored_numbers_are_those_of_the_oracle(oracle):
    stored, states = public.golden()
    assert stored["entries"] == [
        [[name, list(shape)] for name, shape in part] for part in public.listing(oracle, TINY)
    ]
    fresh = public.outputs(oracle, TINY, states)
    for name in stored.keys() - {"entries", "published_entries"}:
        agree(stored[name], fresh[name], 1e-5)


@pytest.mark.parametrize("sides", [(32, 32), (64, 64), (48, 80), (40, 72)])
def test_tokenizer(oracle, states, sides):
    config = SIZES.tokenizer
    net, weights = public.tokenizer(oracle, config), public.variables(states[0])
    network = Network(lambda rngs: MaskGITVQGAN(config, dtype=jnp.float32, rngs=rngs))
    params = from_official(states[0], config)
    image = np.random.RandomState(1).rand(2, *sides, 3).astype(np.float32)

    @jax.jit
    def theirs(image):
        _, found = net.apply(weights, {"image": image}, method=net.encode)
        ids = found["encoding_indices"]
        return found["raw"], ids, net.apply(weights, ids, method=net.decode_from_indices)

    @jax.jit
    def ours(image, tokens):
        module = network.bind(params)
        vectors = module.encode(image)
        return vectors, module.quantize(vectors), module.decode(module.embed(tokens))

    with public.public():
        vectors, tokens, decoded = theirs(image)
    found = ours(image, tokens)
    agree(found[0], vectors)
    assert np.mean(np.asarray(found[1]) == tokens) >= 0.999
    assert len(np.unique(tokens)) > 3
    agree(found[2], decoded)


@pytest.mark.parametrize("count", [16, 64])
@pytest.mark.parametrize("label", [None, CODES + 3])
def test_logits(logits, count, label):
    theirs, ours = logits
    sequence = rows(count, label=label)
    with public.public():
        expected = theirs(sequence)
    agree(ours(sequence), expected)


def test_rows_of_a_grid_are_sequences_of_their_own(logits):
    """The public evaluation of token correction passes the grid, not its flattened sequence."""
    theirs, ours = logits
    grid = rows(64, share=0.0).reshape(2, 8, 8)
    with public.public():
        expected = theirs(grid)
    agree(ours(grid.reshape(16, 8)).reshape(expected.shape), expected)


@pytest.mark.parametrize("steps", [4, 12])
@pytest.mark.parametrize("label", [None, CODES])
def test_decoding_gives_the_same_ids(oracle, logits, steps, label):
    """The public loop over either network, from step 0 and, where there is one, from step 8."""
    sequence = rows(64, label=label, share=0.7)
    for start in {0, 8 if steps > 8 else 0}:
        with public.public():
            found = [
                oracle.parallel_decode.decode(
                    sequence,
                    jax.random.key(7),
                    call,
                    mask_token_id=MASK,
                    num_iter=steps,
                    start_iter=start,
                    choice_temperature=4.5,
                )
                for call in logits
            ]
        np.testing.assert_array_equal(*found)
        assert not np.any(found[0][:, -1] == MASK)


def test_inpainting_in_raster_order_gives_the_same_ids(oracle, logits):
    """2×2 cells of 4×4 tokens, one after another, with one key, as the public notebook does."""
    results = []
    for call in logits:
        grid = rows(64, batch=1, share=0.0).reshape(1, 8, 8)
        for top, left in ((0, 0), (0, 4), (4, 0), (4, 4)):
            grid[:, top : top + 4, left : left + 4] = MASK
            with public.public():
                found = oracle.parallel_decode.decode(
                    grid.reshape(1, 64),
                    jax.random.key(3),
                    call,
                    mask_token_id=MASK,
                    num_iter=12,
                    start_iter=8,
                    choice_temperature=4.5,
                )
            grid = np.array(found[:, -1]).reshape(1, 8, 8)
        results.append(grid)
    np.testing.assert_array_equal(*results)
    assert not np.any(results[0] == MASK)


def test_correction_loss_and_every_gradient(oracle):
    """Cross-entropy over all tokens without a class, and its gradient in each parameter."""
    states = [public.state(part) for part in public.listing(oracle, TINY)]
    expected = public.outputs(oracle, TINY, states)
    config = TINY.transformer
    network = Network(lambda rngs: MaskGITTransformer(config, dtype=jnp.float32, rngs=rngs))
    _, tokens, sequence = public.inputs()

    def loss(params):
        logits = network.apply(params, lambda m: m(sequence))
        return masked_cross_entropy(logits, tokens, jnp.ones(tokens.shape, bool))

    value, grads = jax.jit(jax.value_and_grad(loss))(from_official(states[1], config))
    agree(value, expected["loss"])
    for name, entry in entries(config).items():
        found = np.asarray(flatten(grads)[name]).reshape(entry.shape)
        if name.endswith("/attention/key/bias"):
            # Softmax does not see it: its gradient is rounding alone.
            assert np.abs(found).max() < 1e-6
        else:
            agree(found, expected[f"gradient/{entry.name}"], 1e-3)
