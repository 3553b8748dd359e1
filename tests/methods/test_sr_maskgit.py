"""methods.sr_maskgit: sizes, cells, passes, rows, the joined mode, losses, mistakes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import maskgit_sr
from maskgit_sr import bundles
from maskgit_sr.arrays import Execution
from maskgit_sr.errors import UserError
from maskgit_sr.methods import registry
from maskgit_sr.methods.maskgit_training import MaskGITLosses
from maskgit_sr.methods.sr_maskgit import Correction, Inpainting, remasked
from maskgit_sr.models.maskgit_transformer import MaskGITTransformerConfig
from maskgit_sr.models.maskgit_vqgan import MaskGITVQGANConfig
from tests.methods import small

NAMES = (Correction.name, Inpainting.name)
CODES = 16


def build(name, **changes):
    losses = MaskGITLosses(perceptual="none", perceptual_weight=0.0, adversarial_weight=0.0)
    return registry.METHODS[name](small.maskgit(name, **changes), losses)


@pytest.fixture(scope="module")
def correction():
    return build(Correction.name)


@pytest.fixture(scope="module")
def params(correction):
    found = small.random_params(correction)
    # Far enough apart that argmax and thresholds depend on the tokens.
    found["transformer"]["head"]["dense"]["kernel"] *= 3
    return found


@pytest.fixture(scope="module")
def lr_tokens():
    return jnp.asarray(np.random.default_rng(0).integers(CODES, size=(3, 16)), jnp.int32)


def write(path, method, scale=None):
    metadata = bundles.Metadata(method.name, method.describe(), scale or method.scale)
    bundles.write(path, small.random_params(method), metadata, exact=method.exact)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_any_size_is_enlarged_exactly_twice(tmp_path, name):
    method = build(name, overlap=2)
    upscaler = maskgit_sr.load(write(tmp_path / "m.safetensors", method), batch=64)
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (7, 40), (255, 511)):
        lr = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        found = upscaler(lr)
        assert found.image.shape == (2 * height, 2 * width, 3)
        assert found.confidence.shape == (height, width)
        assert found.tokens.shape[2:] == (4, 4)


# ---------------------------------------------------------------- inpainting


class Recorder(Inpainting):
    """Inpainting of a 32×32 grid whose logits depend on the place alone; remembers each pass."""

    def __init__(self):
        transformer = MaskGITTransformerConfig(
            codes=CODES, classes=0, positions=1025, dim=8, depth=1, heads=1, inner=8
        )
        tokenizer = MaskGITVQGANConfig(
            width=4, multipliers=(1, 1), blocks=1, code_width=4, codes=CODES, groups=0
        )
        config = small.maskgit(
            Inpainting.name, tokenizer=tokenizer, transformer=transformer, cell=4
        )
        super().__init__(config)
        self.passes = []
        self.fixed = jax.random.normal(jax.random.key(5), (1, 1024, CODES))

    def logits(self, params, tokens, mask=None, lr_tokens=None, key=None):
        self.passes.append((np.asarray(tokens), np.asarray(mask)))
        return jnp.broadcast_to(self.fixed, (*tokens.shape, CODES))

    def inpainted(self, order, seed=0):
        tokens = jax.random.randint(jax.random.key(9), (2, 1024), 0, CODES)
        keys = jax.random.split(jax.random.key(seed), 2)
        with jax.disable_jit():
            found, probability = self.inpaint({}, tokens, keys, self.options(order=order))
        return tokens, found, probability


@pytest.mark.parametrize(("order", "turns"), [("shift", 4), ("halton", 4), ("raster", 64)])
def test_cells_are_filled_once_and_known_tokens_never_change(order, turns):
    method = Recorder()
    before, after, probability = method.inpainted(order)
    assert len(method.passes) == 4 * turns  # 16, or the public code's 256
    cells = 64 // turns
    current, visits = np.asarray(before), np.zeros(1024, int)
    for i, (tokens, mask) in enumerate(method.passes):
        assert (mask.sum(1) == cells * (16, 6, 4, 2)[i % 4]).all()
        if i % 4 == 0:
            known = ~mask
            visits += mask[0]
        # Whatever is not of this round's cells is as the rounds before left it.
        np.testing.assert_array_equal(tokens[known], current[known])
        assert not (mask & known).any()
        if i % 4 == 3:
            following = method.passes[i + 1][0] if i + 1 < len(method.passes) else np.asarray(after)
            current = np.where(known, current, following)
    np.testing.assert_array_equal(visits, 1)
    np.testing.assert_array_equal(current, after)
    assert after.min() >= 0 and after.max() < CODES
    chance = np.take_along_axis(np.asarray(jax.nn.softmax(method.fixed)[0]), after[0][:, None], 1)
    np.testing.assert_allclose(probability[0], chance[:, 0], rtol=1e-5)


def test_each_cell_has_a_key_of_its_own():
    """Whatever the order, since nothing else depends on it here; and no two cells draw alike."""
    found = [Recorder().inpainted(order)[1] for order in ("shift", "halton", "raster")]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    method = Recorder()
    method.fixed = jnp.zeros_like(method.fixed)
    cells = np.asarray(method.inpainted("shift")[1][0]).reshape(8, 4, 8, 4).transpose(0, 2, 1, 3)
    assert len(np.unique(cells.reshape(64, 16), axis=0)) == 64
    assert (Recorder().inpainted("shift", seed=1)[1] != found[0]).any()


def test_counts_are_those_of_the_public_loop():
    assert remasked(12, 16, 8)[8:11].tolist() == [6, 4, 2]
    # One is filled and one is left by every step, however short the schedule.
    assert remasked(12, 4, 8)[8:11].tolist() == [1, 1, 1]
    assert remasked(4, 64, 0)[:3].tolist() == [59, 45, 24]


# ---------------------------------------------------------------- correction


def test_correction_is_one_pass_over_all_tokens(correction, params, lr_tokens):
    tokens, probability = correction.correct(params, lr_tokens)
    logits = np.asarray(correction.logits(params, lr_tokens))
    np.testing.assert_array_equal(tokens, logits.argmax(-1))
    chance = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(probability, (1 / chance.sum(-1)), rtol=1e-5)
    assert len(np.unique(tokens)) > 1
    # The first row's tokens depend on the last one's.
    changed = lr_tokens.at[:, -1].add(1) % CODES
    assert (correction.logits(params, changed)[:, 0] != logits[:, 0]).any()


def test_a_row_sees_itself_alone(correction, params, lr_tokens):
    tokens, probability = correction.correct(params, lr_tokens, rows=1)
    for row in range(4):
        alone = lr_tokens[:, 4 * row : 4 * row + 4]
        logits = correction.transformer.apply(params["transformer"], lambda m, r=alone: m(r))
        np.testing.assert_array_equal(tokens[:, 4 * row : 4 * row + 4], logits.argmax(-1))
        chance = jax.nn.softmax(logits).max(-1)
        np.testing.assert_allclose(probability[:, 4 * row : 4 * row + 4], chance, rtol=1e-5)
    assert (probability != correction.correct(params, lr_tokens)[1]).any()


def test_sure_tokens_are_kept_and_the_others_predicted_again(correction, params):
    lr = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3))
    keys = jax.random.split(jax.random.key(0), 2)

    def run(threshold):
        options = correction.options(threshold=threshold, confidence=True)
        return jax.jit(correction.restore, static_argnames="options")(params, lr, keys, options)

    plain = run(0.0)
    middle = float(np.median(plain.confidence))
    np.testing.assert_array_equal(run(1e-6).tokens, plain.tokens)
    found = run(middle)
    kept = np.asarray(plain.confidence) >= middle
    assert 0 < kept.sum() < kept.size
    np.testing.assert_array_equal(found.tokens[kept], plain.tokens[kept])
    np.testing.assert_array_equal(found.confidence[kept], plain.confidence[kept])
    assert (found.confidence[~kept] != plain.confidence[~kept]).any()


def test_lr_tokens_count_where_tokens_are_masked(correction, params, lr_tokens):
    mask = jnp.arange(16)[None] % 2 == jnp.zeros((3, 1), int)
    other = (lr_tokens + 1) % CODES

    def logits(lr_tokens):
        return correction.logits(params, jnp.zeros_like(other), mask, lr_tokens)

    assert np.abs(logits(lr_tokens) - logits(other)).max() > 1e-3
    np.testing.assert_array_equal(logits(lr_tokens), logits(jnp.where(mask, lr_tokens, other)))


def test_tokens_have_the_positions_of_the_prior(params, lr_tokens):
    """With a class token they are 1 … N; without one 0 … N − 1, as in the public code."""
    for class_token in (True, False):
        method = build(Correction.name, class_token=class_token)
        network = method.transformer.bind(params["transformer"])
        rows = lr_tokens
        if class_token:
            rows = jnp.concatenate([jnp.full((3, 1), method.mask), rows], axis=1)
        expected = network(rows)[:, int(class_token) :]
        np.testing.assert_array_equal(method.logits(params, lr_tokens), expected)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_keeps_images_and_losses_in_float32(name):
    """By shape alone, with every promotion written out (tests/conftest.py)."""
    whole = build(name)
    losses = dataclasses.replace(whole.losses, joined=0.5)
    method = type(whole)(whole.config, losses, Execution(jnp.bfloat16, remat=True))
    chosen = dict(threshold=0.5) if name == Correction.name else dict(order="halton")
    lr = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    options = method.options(confidence=True, **chosen)
    found = jax.eval_shape(lambda *a: method.restore(*a, options), method.shapes(), lr, keys)
    assert found.image.dtype == found.confidence.dtype == jnp.float32
    batch = {"lr": lr, "hr": jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)}
    for stage in method.stages.values():
        small.check_stage(method, stage, batch)


def test_configurations_say_how_many_arrays_they_have(correction):
    found = {g: len(jax.tree.leaves(tree)) for g, tree in correction.shapes().items()}
    assert correction.config.transformer.arrays == found["transformer"]
    assert found["tokenizer"] - 2 <= correction.config.tokenizer.arrays <= found["tokenizer"]
    plain = dataclasses.replace(correction.config.tokenizer, groups=0)
    method = build(Correction.name, tokenizer=plain)
    assert plain.arrays <= len(jax.tree.leaves(method.shapes()["tokenizer"])) <= plain.arrays + 2


# ---------------------------------------------------------------- references and mistakes


@pytest.mark.parametrize("name", NAMES)
def test_references_are_the_tokenizer_alone(name, params):
    method = build(name)
    lr_run, hr_run = method.references
    assert (lr_run.name, lr_run.source, lr_run.method.scale) == ("VQGAN of LR", "lr", 2)
    assert (hr_run.name, hr_run.source, hr_run.method.scale) == ("VQGAN of HR", "hr", 1)
    assert (lr_run.method.tile.sides, hr_run.method.tile.sides) == ((16,), (32,))
    image = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3))
    expected = method.render(params, method.tokenize(params, image))
    found = hr_run.method.restore(params, image, None, hr_run.method.options())
    np.testing.assert_array_equal(found.image, expected)
    lr = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    found = lr_run.method.restore(params, lr, None, lr_run.method.options())
    np.testing.assert_array_equal(found.tokens, method.tokenize(params, method.upsample(lr)))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        (Correction.name, dict(noise=1.0), "noise: sr_maskgit_correction has no such option"),
        (Correction.name, dict(rule="critic"), "expected one of .*control, threshold, steps, rows"),
        (Correction.name, dict(rows=2), "rows: expected 0 or 1, found 2"),
        (Correction.name, dict(threshold=1.5), "threshold: expected 0 to 1, found 1.5"),
        (Correction.name, dict(threshold=float("nan")), "threshold: expected 0 to 1, found nan"),
        (Inpainting.name, dict(order="spiral"), "order: expected one of shift, raster, halton"),
        (Inpainting.name, dict(start=12), "start: expected 0 to 11, found 12"),
        (Inpainting.name, dict(steps=0), "steps: expected 1 to 1024, found 0"),
        (Inpainting.name, dict(noise=float("nan")), "noise: expected 0 or more, found nan"),
        (Inpainting.name, dict(threshold=0.5), "threshold: sr_maskgit_inpainting has no such"),
    ],
)
def test_options_are_refused_in_one_line(name, given, message):
    with pytest.raises(ValueError, match=message):
        build(name).options(**given)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (Correction.name, dict(overlap=128), "tile.overlap: expected 0 to 127, found 128"),
        (Correction.name, dict(cell=4), "model: unknown field 'cell'"),
        (Inpainting.name, dict(cell=5), "cell: expected an even number of cells in 16, found 5"),
        (Inpainting.name, dict(transformer=dict(positions=256)), "positions: expected 1 . those"),
        (Inpainting.name, dict(transformer=dict(codes=512)), "expected the tokenizer's 1024"),
        (Inpainting.name, dict(tokenizer=dict(multipliers=[1] * 9)), "windows up to 1024"),
    ],
)
def test_configurations_are_refused_in_one_line(name, config, message):
    transformer = dict(positions=257) | config.get("transformer", {})
    with pytest.raises(ValueError, match=message):
        registry.build(name, {"overlap": 32} | config | {"transformer": transformer})


def test_bundles_that_do_not_fit_are_refused_in_one_line(tmp_path):
    path = write(tmp_path / "m.safetensors", build(Correction.name), scale=4)
    with pytest.raises(UserError, match="scale: expected 2, found 4"):
        maskgit_sr.load(path)
    # A transformer of another grid than the configuration's.
    method = build(Correction.name)
    config = method.describe()
    config["transformer"]["positions"] = 65
    bundles.write(path, small.random_params(method), bundles.Metadata(method.name, config, 2))
    with pytest.raises(UserError, match=r"transformer/positions/embedding.*\n?.*"):
        maskgit_sr.load(path)


@pytest.mark.parametrize(("positions", "side"), [(1025, 256), (257, 128)])
def test_windows_follow_from_the_positions(positions, side):
    method = registry.build(Inpainting.name, {"transformer": {"positions": positions}})
    assert method.tile.sides == (side,)
    assert sum(x.size for x in jax.tree.leaves(method.shapes()["tokenizer"])) == 54_515_587
