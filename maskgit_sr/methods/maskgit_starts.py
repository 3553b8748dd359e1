"""What SR-MaskGIT's networks are at first, where a short training would not find its way alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from maskgit_sr.arrays import Image, Params
from maskgit_sr.methods.maskgit import MaskGITNetworks


def natural_noise(key: jax.Array, count: int, side: int) -> Image:
    """Returns images [count, side, side, 3] in [0, 1] of the 1/f spectrum of photographs.

    Each has a mean colour and a contrast of its own; its three channels are mostly alike.
    """
    noise_key, contrast_key, color_key = jax.random.split(key, 3)
    luma, chroma = jnp.split(jax.random.normal(noise_key, (count, side, side, 4)), [1], axis=-1)
    frequency = jnp.hypot(*jnp.meshgrid(jnp.fft.fftfreq(side), jnp.fft.fftfreq(side)))
    gain = (1 / jnp.maximum(frequency, 1 / side)).astype(jnp.complex64)[..., None]
    spectrum = jnp.fft.fft2(luma + 0.3 * chroma, axes=(1, 2)) * gain[None]
    image = jnp.fft.ifft2(spectrum, axes=(1, 2)).real
    contrast = jax.random.uniform(contrast_key, (count, 1, 1, 1), maxval=0.25)
    mean = jax.random.uniform(color_key, (count, 1, 1, 3))
    deviation = jnp.std(image, axis=(1, 2), keepdims=True)
    return jnp.clip(mean + contrast * image / deviation, 0, 1).astype(jnp.float32)


def codes_from_noise(method: MaskGITNetworks, params: Params) -> Params:
    """Returns ``params`` with the codes at the encoder's vectors of `natural_noise`."""
    shape, tokenizer = method.config.tokenizer, params["tokenizer"]
    # A key of no seed: the encoder's own draws already differ from seed to seed.
    noise_key, pick_key = jax.random.split(jax.random.key(0))

    @jax.jit
    def vectors(tokenizer: Params) -> jax.Array:
        # 64 tokens an image, four times as many as codes.
        image = natural_noise(noise_key, -(-shape.codes // 16), 8 * shape.factor)
        found = method.tokenizer.apply(tokenizer, lambda m: m.encode(image))
        # Without replacement: of equal codes only the first would ever be chosen.
        return jax.random.permutation(pick_key, found.reshape(-1, shape.code_width))[: shape.codes]

    return params | {"tokenizer": tokenizer | {"codebook": {"embedding": vectors(tokenizer)}}}


def near_alike(method: MaskGITNetworks, params: Params) -> Params:
    """Returns ``params`` with a transformer to which near tokens and near codes are alike.

    Positions are sines and cosines of row and column, from half a turn over the grid to half a turn
    over a token and a half; keys start equal to the queries, so that near tokens attend to each
    other. Words are, in equal parts, what they were and the tokenizer's codes, projected at random,
    so that near codes are likely in each other's place.
    """
    shape, network = method.config.transformer, params["transformer"]
    side, quarter = method.grid, -(-shape.dim // 4)
    place = jnp.arange(side, dtype=jnp.float32)
    angle = jnp.pi * jnp.outer(place, 1 / jnp.geomspace(side, 1.5, quarter))
    line = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    rows, columns = jnp.repeat(line, side, 0), jnp.tile(line, (side, 1))
    # 2.5 times as large as the words, so that after the norm most of a query is where it is.
    table = 0.07 * jnp.concatenate([rows, columns], axis=-1)[:, : shape.dim]
    positions = network["positions"]["embedding"].at[1:].set(table)

    # A key of no seed: the network's other draws already differ from seed to seed.
    word_key, *keys = jax.random.split(jax.random.key(1), 1 + len(network["layers"]))
    codes = params["tokenizer"]["codebook"]["embedding"]
    codes = codes - codes.mean(0, keepdims=True)
    mix = jax.random.normal(word_key, (codes.shape[1], shape.dim))
    placed = codes @ (0.02 / jnp.sqrt(jnp.square(codes).sum(-1).mean()) * mix)
    words = network["words"]["embedding"]
    words = words.at[: shape.codes].set((words[: shape.codes] + placed) * 0.5**0.5)

    def layer(key: jax.Array, layer: Params) -> Params:
        # Of normalised inputs these are queries of deviation 1; the published start's are of 0.2,
        # whose attention looks everywhere alike.
        kernel = jax.random.normal(key, (shape.dim, shape.dim)) * shape.dim**-0.5
        alike = {name: layer["attention"][name] | {"kernel": kernel} for name in ("query", "key")}
        return layer | {"attention": layer["attention"] | alike}

    layers = {
        name: layer(key, part)
        for key, (name, part) in zip(keys, network["layers"].items(), strict=True)
    }
    embeddings = {"positions": {"embedding": positions}, "words": {"embedding": words}}
    return params | {"transformer": network | embeddings | {"layers": layers}}
