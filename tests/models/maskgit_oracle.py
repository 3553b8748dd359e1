"""The public Linen code of MaskGIT as an oracle, and the numbers it gave, for tests without it.

    python -m tests.models.maskgit_oracle CHECKOUT tests/models/maskgit_reference.npz

CHECKOUT is one of google-research/maskgit. No weights are stored: `state` makes them from names.
"""

import contextlib
import importlib
import os
import sys
import types
import warnings
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from maskgit_sr.convert.maskgit import Sizes
from maskgit_sr.models.maskgit_transformer import MaskGITTransformerConfig
from maskgit_sr.models.maskgit_vqgan import MaskGITVQGANConfig
from tests.models import golden as golden_file

TEXTS = ("entries", "published_entries")
REFERENCE = Path(__file__).with_name("maskgit_reference.npz")
# 32 groups are Linen's default, which the public code takes; widths differ between two levels.
TINY = Sizes(
    MaskGITVQGANConfig(width=32, multipliers=(1, 2, 2), blocks=2, code_width=16, codes=24),
    MaskGITTransformerConfig(codes=24, classes=3, positions=17, dim=32, depth=2, heads=2, inner=48),
)


def load(checkout):
    """The modules of a checkout; they ask for a name that JAX had until 0.4."""
    names = ("nets.vqgan_tokenizer", "nets.maskgit_transformer", "libml.parallel_decode")
    sys.path.insert(0, str(checkout))
    jnp.DeviceArray = jax.Array
    try:
        modules = {n.split(".")[1]: importlib.import_module(f"maskgit.{n}") for n in names}
    finally:
        del jnp.DeviceArray
        sys.path.remove(str(checkout))
    return types.SimpleNamespace(**modules)


def required():
    """The modules of the checkout that MASKGIT_REFERENCE names; without one the test is skipped."""
    checkout = os.environ.get("MASKGIT_REFERENCE")
    if not checkout:
        pytest.skip("needs MASKGIT_REFERENCE, a checkout of google-research/maskgit")
    return load(checkout)


def public():
    """A context in which the public code runs: without our strict promotion and warnings."""
    stack = contextlib.ExitStack()
    stack.enter_context(jax.numpy_dtype_promotion("standard"))
    stack.enter_context(jax.numpy_rank_promotion("allow"))
    stack.enter_context(warnings.catch_warnings(action="ignore"))
    return stack


def golden():
    """The stored numbers, and the states of both networks that gave them."""
    stored = golden_file.read(REFERENCE, TEXTS)
    return stored, [state(part) for part in stored["entries"]]


def agree(found, expected, tolerance=1e-4):
    """Asserts max |a − b| / max |b|."""
    golden_file.agree(found, expected, tolerance)


def tokenizer(oracle, config):
    vqvae = ml_collections.ConfigDict(
        dict(
            quantizer="vq",
            codebook_size=config.codes,
            filters=config.width,
            num_res_blocks=config.blocks,
            channel_multipliers=list(config.multipliers),
            embedding_dim=config.code_width,
            conv_downsample=False,
            activation_fn="swish",
            norm_type="GN",
        )
    )
    config = ml_collections.ConfigDict(dict(vqvae=vqvae))
    return oracle.vqgan_tokenizer.VQVAE(config=config, train=False)


def transformer(oracle, config):
    return oracle.maskgit_transformer.Transformer(
        vocab_size=config.vocabulary,
        hidden_size=config.dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.inner,
        max_position_embeddings=config.positions,
    )


def listing(oracle, sizes):
    """Name and shape of every entry of both files, [tokenizer, transformer]."""
    key = jax.random.key(0)
    image = jnp.zeros((1, 32, 32, 3))

    def both(module, image):
        return module.decode(module.encode({"image": image})[0])

    with public():
        nets = tokenizer(oracle, sizes.tokenizer), transformer(oracle, sizes.transformer)
        trees = [
            jax.eval_shape(lambda: nets[0].init(key, image, method=both)),
            jax.eval_shape(lambda: nets[1].init(key, jnp.zeros((1, 4), jnp.int32))),
        ]
    flat = [flatten_dict(tree["params"], sep="/") for tree in trees]
    return [[[name, leaf.shape] for name, leaf in tree.items()] for tree in flat]


def state(entries):
    """Numbers of ordinary size for every entry, by its name: no scale of 1 hides an error."""

    def value(name, shape):
        x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if name.endswith("/scale"):
            return 1 + 0.2 * x
        if name.endswith("bias"):
            return 0.1 * x
        if name.endswith("/embedding"):
            return 0.5 * x
        if name.endswith("codebook"):
            return x
        # Inputs are all axes but those of the output, which are two for a head.
        inputs = shape[:1] if name.split("/")[-2] in ("query", "key", "value") else shape[:-1]
        return x / np.sqrt(np.prod(inputs))

    return {name: value(name, tuple(shape)).astype(np.float32) for name, shape in entries}


def variables(flat):
    """The tree that the public code applies."""
    return {"params": unflatten_dict({tuple(name.split("/")): a for name, a in flat.items()})}


def inputs(sizes=TINY):
    """An image whose sides are odd when halved, tokens, and the rows of a half masked sequence."""
    random = np.random.RandomState(0)
    config = sizes.transformer
    tokens = random.randint(0, config.codes, (2, config.positions - 1)).astype(np.int32)
    rows = np.where(random.rand(*tokens.shape) < 0.5, config.mask, tokens).astype(np.int32)
    return random.rand(1, 10, 18, 3).astype(np.float32), tokens, rows


def outputs(oracle, sizes, states):
    """Outputs of the public code for `inputs` at ``sizes`` with the weights ``states``."""
    image, tokens, rows = inputs(sizes)
    codes = sizes.transformer.codes
    label = np.full((len(rows), 1), codes, np.int32)
    with public():
        net, weights = tokenizer(oracle, sizes.tokenizer), variables(states[0])
        _, found = net.apply(weights, {"image": image}, method=net.encode)
        ids = found["encoding_indices"]
        decoded = net.apply(weights, ids, method=net.decode_from_indices)
        bert, weights = transformer(oracle, sizes.transformer), variables(states[1])

        def correction(weights):
            # Cross-entropy of all tokens from other tokens, without a class in front.
            logits = bert.apply(weights, rows)[..., :codes]
            losses = -jax.nn.log_softmax(logits)
            return jnp.mean(jnp.take_along_axis(losses, tokens[..., None], -1))

        loss, grads = jax.value_and_grad(correction)(weights)
        return dict(
            vectors=found["raw"],
            tokens=ids,
            image=decoded,
            with_class=bert.apply(weights, np.concatenate([label, rows], 1))[..., :codes],
            without_class=bert.apply(weights, rows)[..., :codes],
            loss=loss,
            **{f"gradient/{n}": a for n, a in flatten_dict(grads["params"], sep="/").items()},
        )


def main(checkout, target):
    oracle = load(checkout)
    entries = listing(oracle, TINY)
    found = outputs(oracle, TINY, [state(part) for part in entries])
    # The tables alone: the gradients of all parameters would be too many numbers.
    kept = {n: a for n, a in found.items() if "/" not in n or "position_embeddings" in n}
    texts = {"entries": entries, "published_entries": listing(oracle, Sizes())}
    golden_file.write(target, kept | texts, TEXTS)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
