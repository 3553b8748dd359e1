"""The SavedModel: signatures for tiles, images and encoded images around one StableHLO program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import func, stablehlo
from tensorflow.compiler.tf2xla.python import xla

from maskgit_sr.export import bytes as export_bytes
from maskgit_sr.export import graph as export_graph
from maskgit_sr.export.program import Program

# TensorFlow reads no StableHLO newer than its own, and 2.19 reads these. Everything the networks
# need is in them, whatever JAX makes the export; dot products of bfloat16 came after the rest.
STABLEHLO = {"float32": "1.4.0", "bfloat16": "1.6.0"}
# Version 10 of the calling convention differs from 9 in shardings, and there are none.
CONVENTION = 9
# without and with WebP
MINIMUM = ("2.19", "2.20")


class Artifact(tf.Module):
    """What is saved; every method is a signature but the network itself."""

    def __init__(self, program: Program, max_batch: int, max_pixels: int, webp: bool):
        super().__init__()
        self._exported, self._largest, self._webp = program.exported, max_batch, webp
        self._scale, self._tile = program.info["scale"], program.upscaler.method.tile
        self._max_pixels = max_pixels
        self._module = pinned(
            program.exported.mlir_module_serialized, STABLEHLO[program.info["dtype"]]
        )
        # flattened as JAX does it: by name
        self._params = [
            tf.Variable(program.params[name], trainable=False, name=name)
            for name in sorted(program.params)
        ]
        size = self._tile.size
        self._network = tf.function(
            self._call, input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32)]
        ).get_concrete_function()

        self._restorers = {dtype: self._restorer(dtype) for dtype in ("uint8", "uint16")}

    def _restorer(self, dtype: str) -> Any:
        """One function for all signatures: tracing it is what takes long."""

        def restore(color: Any, grey: Any) -> tuple[Any, Any, Any]:
            return export_graph.restore_image(
                self._network, color, grey, self._tile, self._scale, self._largest
            )

        specs = [tf.TensorSpec([None, None, 3], tf.as_dtype(dtype)), tf.TensorSpec([], tf.bool)]
        return tf.function(restore, input_signature=specs, autograph=False).get_concrete_function()

    def _call(self, lr: Any) -> Any:
        exported = self._exported
        arguments = [*self._params, lr]
        return tuple(
            xla.call_module(
                [arguments[index] for index in exported.module_kept_var_idx],
                version=CONVENTION,
                module=self._module,
                Tout=[tf.as_dtype(aval.dtype) for aval in exported.out_avals],
                Sout=[[None, *aval.shape[1:]] for aval in exported.out_avals],
                platforms=[platform.upper() for platform in exported.platforms],
            )
        )

    def tiles(self, tiles: Any) -> dict[str, Any]:
        """Signature: float32 [B, size, size, 3] in [0, 1]; any B, also none."""
        image, confidence, tokens = export_graph.restore_tiles(self._network, tiles, self._largest)
        image = tf.clip_by_value(image, 0, 1)
        return {"image": image, "confidence": confidence, "tokens": tokens}

    def tiles_uint8(self, tiles: Any) -> dict[str, Any]:
        """Signature: uint8 [B, size, size, 3]."""
        return self.tiles(tf.cast(tiles, tf.float32) / 255)

    def _restore(self, color: Any, grey: Any) -> tuple[Any, Any, Any]:
        return self._restorers[color.dtype.name](color, grey)

    def image(self, image: Any) -> dict[str, Any]:
        """Signature: uint8 [H, W, 3]."""
        sides = tf.shape(image, tf.int64)[:2]
        pixels = tf.reduce_prod(sides)
        none = "image: expected at least one pixel, found"
        many = f"image: expected at most {self._max_pixels:,} pixels, found"
        checks = [
            tf.debugging.Assert(pixels > 0, [none, sides]),
            tf.debugging.Assert(pixels <= self._max_pixels, [many, sides]),
        ]
        with tf.control_dependencies(checks):
            image = tf.identity(image)
        color, confidence, tokens = self._restore(image, tf.constant(False))
        return {"image": color, "confidence": confidence, "tokens": tokens}

    def encoded(self, image_bytes: Any) -> dict[str, Any]:
        """Signature: strings [B], one image after another."""
        images, errors = tf.map_fn(
            lambda text: export_bytes.restore_bytes(
                text, self._color, self._scale, self._max_pixels, self._webp
            ),
            image_bytes,
            fn_output_signature=(tf.string, tf.string),
            parallel_iterations=1,
        )
        return {"image_bytes": images, "error": errors}

    def _color(self, color: Any, grey: Any) -> Any:
        return self._restore(color, grey)[0]

    def signatures(self) -> dict[str, Any]:
        """What a server finds, by name."""
        batch = [None, self._tile.size, self._tile.size, 3]
        specs = {
            "tiles": (self.tiles, tf.TensorSpec(batch, tf.float32, "tiles")),
            "tiles_uint8": (self.tiles_uint8, tf.TensorSpec(batch, tf.uint8, "tiles")),
            "image": (self.image, tf.TensorSpec([None, None, 3], tf.uint8, "image")),
            "serving_default": (self.encoded, tf.TensorSpec([None], tf.string, "image_bytes")),
        }
        return {
            name: tf.function(call, input_signature=[spec], autograph=False)
            for name, (call, spec) in specs.items()
        }


def pinned(program: bytes, version: str) -> bytes:
    """The program in an older StableHLO."""
    with ir.Context() as context, ir.Location.unknown():
        stablehlo.register_dialect(context)
        module = stablehlo.deserialize_portable_artifact(context, program)
        _spell_out(module.operation)
        return stablehlo.serialize_portable_artifact(module, version)


def _spell_out(operation: Any) -> None:
    """Calls what composite operations are made of, in place.

    JAX writes erfc as one from 0.11 on; TensorFlow 2.21 does not get them over a symbolic batch.
    """
    for region in operation.regions:
        for block in region:
            for inner in list(block.operations):
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
    """Writes the SavedModel and completes the program's info."""
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
    inputs = {spec.name: spec for spec in concrete.structured_input_signature[0]}
    outputs = concrete.structured_outputs
    return {
        kind: {name: f"{spec.dtype.name} {list(spec.shape)}" for name, spec in specs.items()}
        for kind, specs in (("inputs", inputs), ("outputs", outputs))
    }
