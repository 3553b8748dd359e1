"""The SavedModel: signatures for tiles, images and encoded images around StableHLO programs."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

# TensorFlow reads it when it is imported
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import func, stablehlo
from tensorflow.compiler.tf2xla.python import xla

from maskgit_sr.export import codecs, graph
from maskgit_sr.export.program import Program, outputs

# TensorFlow reads no StableHLO newer than its own, and 2.19 reads these. They have everything the
# networks need, whichever JAX exports; dot products of bfloat16 came after the rest.
STABLEHLO = {"float32": "1.4.0", "bfloat16": "1.6.0"}
# Version 10 of the calling convention differs from 9 in shardings, and there are none.
CONVENTION = 9
# without and with WebP, whose decoder came with 2.20
MINIMUM = ("2.19", "2.20")


class Artifact(tf.Module):
    """The saved module; its public methods, except `signatures`, are the signatures.

    Those of a stochastic program also take a seed.
    """

    def __init__(self, program: Program, max_batch: int, max_pixels: int, webp: bool):
        super().__init__()
        self._largest, self._max_pixels, self._webp = max_batch, max_pixels, webp
        self._scale, self._tile = program.info["scale"], program.upscaler.method.tile
        self._stochastic = program.stochastic
        # Sorted by name, the order in which JAX flattens a mapping. Variables, as the parameters
        # are stored once then, whatever the number of programs.
        self._params = [
            tf.Variable(program.params[name], trainable=False, name=name)
            for name in sorted(program.params)
        ]
        self._networks = []
        for side, exported in program.exported.items():
            module = pinned(exported.mlir_module_serialized, STABLEHLO[program.info["dtype"]])
            specs = [
                tf.TensorSpec([None, side, side, 3], tf.float32),
                tf.TensorSpec([], tf.uint32),
                tf.TensorSpec([None, 3], tf.int32),
            ]
            call = tf.function(partial(self._call, exported, module), input_signature=specs)
            self._networks.append(call.get_concrete_function())
        self._restorers = {dtype: self._restorer(dtype) for dtype in ("uint8", "uint16")}

    def _restorer(self, dtype: str) -> Any:
        """Returns the restoration of one dtype, for all signatures: tracing it takes long."""

        def restore(color: Any, grey: Any, seed: Any) -> dict[str, Any]:
            shared = {"tile": self._tile, "scale": self._scale, "largest": self._largest}
            branches = [
                partial(graph.restore_image, network, color, grey, seed, side=side, **shared)
                for side, network in zip(self._tile.sides, self._networks, strict=True)
            ]
            return tf.switch_case(graph.choose(self._tile, color), branches)

        specs = [
            tf.TensorSpec([None, None, 3], tf.as_dtype(dtype)),
            tf.TensorSpec([], tf.bool),
            tf.TensorSpec([], tf.uint32),
        ]
        return tf.function(restore, input_signature=specs, autograph=False).get_concrete_function()

    def _call(self, exported: Any, module: bytes, lr: Any, seed: Any, places: Any) -> Any:
        arguments = [*self._params, lr, seed, places]
        # an exported program lacks the arguments that it does not use
        results = xla.call_module(
            [arguments[index] for index in exported.module_kept_var_idx],
            version=CONVENTION,
            module=module,
            Tout=[tf.as_dtype(aval.dtype) for aval in exported.out_avals],
            Sout=[[None, *aval.shape[1:]] for aval in exported.out_avals],
            platforms=[platform.upper() for platform in exported.platforms],
        )
        return dict(zip(outputs(exported), results, strict=True))

    def tiles(self, tiles: Any, seed: Any = 0) -> dict[str, Any]:
        """Signature: float32 [B, side, side, 3] in [0, 1] of the largest side; B may be 0."""
        seed = tf.cast(seed, tf.uint32)
        restored = graph.restore_tiles(self._networks[-1], tiles, seed, self._largest)
        return {**restored, "image": tf.clip_by_value(restored["image"], 0, 1)}

    def tiles_uint8(self, tiles: Any, seed: Any = 0) -> dict[str, Any]:
        """Signature: uint8 [B, side, side, 3]."""
        return self.tiles(tf.cast(tiles, tf.float32) / 255, seed)

    def _restore(self, color: Any, grey: Any, seed: Any) -> dict[str, Any]:
        restored: dict[str, Any] = self._restorers[color.dtype.name](
            color, grey, tf.cast(seed, tf.uint32)
        )
        return restored

    def image(self, image: Any, seed: Any = 0) -> dict[str, Any]:
        """Signature: uint8 [H, W, 3]."""
        sides = tf.shape(image, tf.int64)[:2]
        pixels = tf.reduce_prod(sides)  # of int64: the product may need more than 32 bits
        none = "image: expected at least one pixel, found"
        many = f"image: expected at most {self._max_pixels:,} pixels, found"
        checks = [
            tf.debugging.Assert(pixels > 0, [none, sides]),
            tf.debugging.Assert(pixels <= self._max_pixels, [many, sides]),
        ]
        # in a graph only a dependency puts the checks before the restoration
        with tf.control_dependencies(checks):
            image = tf.identity(image)
        return self._restore(image, tf.constant(False), seed)

    def encoded(self, image_bytes: Any, seed: Any = 0) -> dict[str, Any]:
        """Signature: image files, strings [B], restored one by one; a seed for each."""
        images, errors = tf.map_fn(
            lambda given: codecs.restore_bytes(
                given[0],
                lambda color, grey: self._restore(color, grey, given[1])["image"],
                self._scale,
                self._max_pixels,
                self._webp,
            ),
            (image_bytes, tf.broadcast_to(seed, tf.shape(image_bytes))),
            fn_output_signature=(tf.string, tf.string),
            parallel_iterations=1,  # memory is that of one image
        )
        return {"image_bytes": images, "error": errors}

    def signatures(self) -> dict[str, Any]:
        """Returns the signatures by the names that servers know them by."""
        side = self._tile.sides[-1]
        batch = [None, side, side, 3]
        specs = {
            "tiles": (self.tiles, tf.TensorSpec(batch, tf.float32, "tiles")),
            "tiles_uint8": (self.tiles_uint8, tf.TensorSpec(batch, tf.uint8, "tiles")),
            "image": (self.image, tf.TensorSpec([None, None, 3], tf.uint8, "image")),
            "serving_default": (self.encoded, tf.TensorSpec([None], tf.string, "image_bytes")),
        }
        calls = {}
        for name, (call, spec) in specs.items():
            seed = tf.TensorSpec([None] if call == self.encoded else [], tf.uint32, "seed")
            signature = [spec, seed] if self._stochastic else [spec]
            calls[name] = tf.function(call, input_signature=signature, autograph=False)
        return calls


def pinned(program: bytes, version: str) -> bytes:
    """Returns a serialized program in StableHLO `version`."""
    with ir.Context() as context, ir.Location.unknown():
        stablehlo.register_dialect(context)
        module = stablehlo.deserialize_portable_artifact(context, program)
        _spell_out(module.operation)
        return stablehlo.serialize_portable_artifact(module, version)


def _spell_out(operation: Any) -> None:
    """Replaces composite operations by calls of their decompositions, in place.

    JAX 0.11 and later write erfc as a composite, and TensorFlow 2.21 fails to import composites
    over a symbolic batch.
    """
    for region in operation.regions:
        for block in region:
            for inner in list(block.operations):  # a copy, since the block is changed
                _spell_out(inner.operation)
                if inner.operation.name != "stablehlo.composite":
                    continue
                results = [result.type for result in inner.operation.results]
                with ir.InsertionPoint(inner):
                    call = func.CallOp(
                        results, inner.attributes["decomposition"], list(inner.operation.operands)
                    )
                for old, new in zip(inner.operation.results, call.results, strict=True):
                    old.replace_all_uses_with(new)
                inner.operation.erase()


def write(program: Program, folder: Path, *, max_batch: int, max_pixels: int, webp: bool) -> None:
    """Writes the SavedModel and adds its versions, limits and signatures to the program's info."""
    artifact = Artifact(program, max_batch, max_pixels, webp)
    signatures = artifact.signatures()
    tf.saved_model.save(artifact, str(folder), signatures=signatures)
    program.info["versions"]["tensorflow"] = tf.__version__
    program.info.update(
        stablehlo=STABLEHLO[program.info["dtype"]],
        max_batch=max_batch,
        max_pixels=max_pixels,
        minimum_tensorflow=MINIMUM[webp],
        signatures={name: _describe(call) for name, call in signatures.items()},
    )


def _describe(call: Any) -> dict[str, dict[str, str]]:
    concrete = call.get_concrete_function()
    given = concrete.structured_input_signature[0]
    inputs = {spec.name: spec for spec in given if isinstance(spec, tf.TensorSpec)}
    outputs = concrete.structured_outputs
    return {
        kind: {name: f"{spec.dtype.name} {list(spec.shape)}" for name, spec in specs.items()}
        for kind, specs in (("inputs", inputs), ("outputs", outputs))
    }
