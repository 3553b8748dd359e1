"""Where the time of a restoration goes: RealSRT's parts, each compiled by itself.

The parts are those of `RealSRT.restore`, from the same public pieces; their FLOPs add up to its
FLOPs, which a test holds them to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import flops, roofline
from maskgit_sr.arrays import Image, Keys, Params, TokenMask, Tokens
from maskgit_sr.decoding.masked import blank, decode
from maskgit_sr.decoding.rules import CriticRule
from maskgit_sr.methods.realsrt import RealSRT, RealSRTOptions
from maskgit_sr.models.transformer import Memory
from maskgit_sr.ops import color
from maskgit_sr.ops.schedules import mask_counts

ENCODE, MEMORY, LOOP, RENDER = "tokens of LR", "LR memory", "decoding loop", "control and decoder"
Made = dict[str, Any]
"""Results of parts by name, arrays or their shapes."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a restoration.

    Attributes:
        call: the part itself, to be jitted.
        arguments: the results of the parts before it → its arguments.
        times: how often a restoration runs it.
        inside: the part that it belongs to, for the passes of the decoding loop.
    """

    name: str
    call: Callable[..., Any]
    arguments: Callable[[Made], tuple[Any, ...]]
    times: int = 1
    inside: str = ""


def parts(
    method: RealSRT, options: RealSRTOptions, params: Params, lr: Image, keys: Keys
) -> list[Part]:
    """The parts for LR tiles [B, tile, tile, 3], in the order that they run in.

    Raises:
        ValueError: options under which a restoration has other parts.
    """
    steered = options.rule == "critic" and options.control
    if not steered or options.confidence or options.steps < 2:
        raise ValueError("parts: expected critic and control, no confidence, at least two steps")
    tokens = method.grid[0] * method.grid[1]
    counts = jnp.asarray(mask_counts(options.steps, tokens, options.schedule))

    def encode(params: Params, lr: Image) -> tuple[Image, Tokens]:
        upsampled = method.upsample(lr)
        return upsampled, method.tokenize(params, upsampled).reshape(lr.shape[0], -1)

    def memory(params: Params, lr_tokens: Tokens) -> tuple[Memory, Memory]:
        first, second = (method.memory(params, n, lr_tokens) for n in ("generator", "critic"))
        return first, second

    def generator(params: Params, tokens: Tokens, mask: TokenMask, memory: Memory) -> jax.Array:
        return method.logits(params, "generator", tokens, mask, memory)

    def critic(params: Params, tokens: Tokens, memory: Memory) -> jax.Array:
        return method.logits(params, "critic", tokens, None, memory)[..., 0]

    def loop(params: Params, memories: tuple[Memory, Memory], keys: Keys) -> Tokens:
        return decode(
            lambda tokens, mask: generator(params, tokens, mask, memories[0]),
            CriticRule(lambda tokens: critic(params, tokens, memories[1])),
            blank(keys.shape[0], tokens),
            counts,
            keys,
            temperature=options.temperature,
        ).tokens

    def render(params: Params, tokens: Tokens, upsampled: Image) -> Image:
        grid = tokens.reshape(tokens.shape[0], *method.grid)
        return method.render(params, grid, upsampled, options.control)

    def correct(image: Image, lr: Image) -> Image:
        return color.correct(image, lr, options.color_fix)

    def masked(made: Made) -> TokenMask:
        return jnp.ones(made[LOOP].shape, bool)

    return [
        Part(ENCODE, encode, lambda made: (params, lr)),
        Part(MEMORY, memory, lambda made: (params, made[ENCODE][1])),
        Part(LOOP, loop, lambda made: (params, made[MEMORY], keys)),
        Part(
            "generator pass",
            generator,
            lambda made: (params, made[LOOP], masked(made), made[MEMORY][0]),
            options.steps,
            LOOP,
        ),
        Part(
            "critic pass",
            critic,
            lambda made: (params, made[LOOP], made[MEMORY][1]),
            options.steps - 1,
            LOOP,
        ),
        Part(RENDER, render, lambda made: (params, made[LOOP], made[ENCODE][0])),
        Part("colour", correct, lambda made: (made[RENDER], lr)),
    ]


def count(found: list[Part]) -> dict[str, float]:
    """FLOPs of one run of each part, by tracing; nothing is computed."""
    made: Made = {}
    counted = {}
    for part in found:
        arguments = part.arguments(made)
        jaxpr, made[part.name] = jax.make_jaxpr(part.call, return_shape=True)(*arguments)
        counted[part.name] = flops.count(jaxpr.jaxpr)
    return counted


def measure(
    found: list[Part], limits: roofline.Limits, dtype: str, repeats: int
) -> list[dict[str, Any]]:
    """A record of each part: seconds, FLOPs and bytes of one run, and the floor of its time.

    Each part gets what those before it have made. Bytes are XLA's own analysis of the part, which
    counts bodies of loops once; those of the decoding loop are therefore its passes'.
    """
    counted = count(found)
    made: Made = {}
    records: list[dict[str, Any]] = []
    for part in found:
        arguments = part.arguments(made)
        compiled = jax.jit(part.call).lower(*arguments).compile()
        made[part.name] = compiled(*arguments)
        records.append(
            {
                "part": part.name,
                "times": part.times,
                "inside": part.inside,
                "seconds": roofline.seconds(partial(compiled, *arguments), repeats),
                "flops": counted[part.name],
                "bytes": roofline.moved_bytes(compiled),
            }
        )
    inner = sum(r["times"] * r["bytes"] for r in records if r["inside"] == LOOP)
    for record in records:
        if record["part"] == LOOP:
            record["bytes"] = inner
        record["floor"] = limits.floor(record["flops"], record["bytes"], dtype)
        if record["flops"]:
            record |= limits.shares(record["flops"], record["seconds"], dtype)
    return records


def total(
    records: list[dict[str, Any]], taken: float, limits: roofline.Limits, dtype: str
) -> dict[str, Any]:
    """The record of a whole restoration that took so many seconds; floors of its parts add up."""
    outer = [record for record in records if not record["inside"]]
    sums = {key: sum(record[key] for record in outer) for key in ("flops", "bytes")}
    floors = [record["floor"] for record in outer]
    known = {"floor": None if None in floors else sum(floors), "seconds": taken, **sums}
    shares = limits.shares(sums["flops"], taken, dtype)
    return {"part": "all of it", "times": 1, "inside": "", **known, **shares}
