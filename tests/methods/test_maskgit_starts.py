"""methods.maskgit_starts: codes at vectors of noise, attention that looks around first."""

import dataclasses

import jax
import numpy as np
import pytest

from maskgit_sr.methods.maskgit_starts import natural_noise
from maskgit_sr.methods.maskgit_training import MaskGITLosses
from maskgit_sr.methods.sr_maskgit import Correction
from maskgit_sr.models import codebook
from tests.methods import small

CODES = 16


@pytest.fixture(scope="module")
def correction():
    losses = MaskGITLosses(perceptual="none", perceptual_weight=0.0, adversarial_weight=0.0)
    return Correction(small.maskgit(Correction.name), losses)


def test_noise_has_the_spectrum_of_photographs():
    image = np.asarray(natural_noise(jax.random.key(0), 64, 64))
    assert image.shape == (64, 64, 64, 3) and image.min() >= 0 and image.max() <= 1
    whole = image[(image.min((1, 2, 3)) > 0) & (image.max((1, 2, 3)) < 1)]  # not clipped
    assert len(whole) > 8
    power = np.square(np.abs(np.fft.fft2(whole, axes=(1, 2)))).mean((0, 3))
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64))
    bands = [power[(frequency >= low) & (frequency < 1.5 * low)].mean() for low in (1 / 16, 1 / 4)]
    assert bands[0] / bands[1] == pytest.approx(16, rel=0.3)  # amplitude 1/f


def test_codes_start_at_vectors_of_noise(correction):
    losses = dataclasses.replace(correction.losses, code_start="noise")
    method = Correction(correction.config, losses)
    params, _ = method.init(jax.random.key(0), ("tokenizer",))
    found = method.stages["tokenizer"].start(params)
    codes = np.asarray(found["tokenizer"]["codebook"]["embedding"])
    assert codes.shape == params["tokenizer"]["codebook"]["embedding"].shape
    assert len(np.unique(codes, axis=0)) == CODES
    encoder = found["tokenizer"]["encoder"]
    assert jax.tree.all(jax.tree.map(np.array_equal, encoder, params["tokenizer"]["encoder"]))
    vectors = method.tokenizer.apply(
        params["tokenizer"], lambda m: m.encode(natural_noise(jax.random.key(5), 8, 64))
    )
    near, far = (
        codebook.distances(vectors, p["tokenizer"]["codebook"]["embedding"]).min(-1).mean()
        for p in (found, params)
    )
    assert near < 0.9 * far
    with pytest.raises(ValueError, match="losses.code_start: expected one of uniform, noise"):
        MaskGITLosses(code_start="data")


def test_near_tokens_and_codes_start_alike(correction):
    """Weights of the first layer fall off with distance, words are as near as their codes."""
    losses = dataclasses.replace(correction.losses, transformer_start="alike")
    method = Correction(correction.config, losses)
    params, _ = method.init(jax.random.key(0), ("tokenizer", "transformer"))
    found = method.stages["prior"].start(params)
    assert small.shape_of(found) == small.shape_of(params)
    kept = found["transformer"]["layers"]["0"]["attention"]["value"]["kernel"]
    assert np.array_equal(
        kept, params["transformer"]["layers"]["0"]["attention"]["value"]["kernel"]
    )

    codes, words = (
        np.asarray(x["embedding"])
        for x in (params["tokenizer"]["codebook"], found["transformer"]["words"])
    )
    cosines = []
    for x in (codes - codes.mean(0), words[:CODES]):
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
        cosines.append((x @ x.T)[np.triu_indices(CODES, 1)])
    assert np.corrcoef(*cosines)[0, 1] > 0.4
    side, shape = method.grid, method.config.transformer
    rng = np.random.default_rng(0)

    def weights(params):
        network = params["transformer"]
        words = np.asarray(network["words"]["embedding"])[rng.integers(0, CODES, side * side)]
        x = words + np.asarray(network["positions"]["embedding"])[1:]
        x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
        attention = network["layers"]["0"]["attention"]
        split = (side * side, shape.heads, shape.dim // shape.heads)
        q, k = (
            (x @ np.asarray(attention[name]["kernel"])).reshape(split) for name in ("query", "key")
        )
        logits = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(split[-1])
        exact = np.exp(logits - logits.max(-1, keepdims=True))
        return (exact / exact.sum(-1, keepdims=True)).mean(0)

    row, column = np.divmod(np.arange(side * side), side)
    distance = np.hypot(row[:, None] - row, column[:, None] - column)
    near, far = distance < 1.5, distance > side / 2
    plain, local = weights(params), weights(found)
    assert plain[near].mean() < 1.5 * plain[far].mean()
    assert local[near].mean() > 3 * local[far].mean()
    with pytest.raises(ValueError, match="losses.transformer_start: expected one of random, alike"):
        MaskGITLosses(transformer_start="near")
