"""What a partitioned program costs one device: FLOPs, bytes and communication, from its HLO text.

The text is that of the program right after XLA's SPMD partitioner, the same on every backend, and
not the optimised one: the CPU backend turns bfloat16 collectives into float32 ones and products
into library calls. Loop bodies count as often as they run, of branches the dearest.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
         "f32": 4, "s64": 8, "u64": 8, "f64": 8}  # fmt: skip
SEQUENCE = 1024  # tokens of a tile of the published size; larger than any feature map's side
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_OP = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\((?:[^()]|\([^()]*\))*\)|\S+) ([\w\-]+)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")


@dataclasses.dataclass
class Cost:
    """What one device does in one run.

    Attributes:
        flops: FLOPs of matrix products and convolutions by precision: the operands' type, with
            "_highest" where the program asks for full float32 products.
        bytes: read and written if everything between products is fused: operands and results of
            products and convolutions, and what reductions read.
        scores: those of ``bytes`` that are N×N matrices of attention, which a fused attention
            kernel never writes.
        wire: bytes a device sends, by collective, over a ring.
        collectives: how many run, before XLA combines them.
        unknown_loops: loops whose number of turns the text does not give, counted once.
    """

    flops: dict[str, float] = dataclasses.field(default_factory=dict)
    bytes: float = 0.0
    scores: float = 0.0
    wire: dict[str, float] = dataclasses.field(default_factory=dict)
    collectives: float = 0
    unknown_loops: int = 0

    @property
    def total_flops(self) -> float:
        return sum(self.flops.values())

    @property
    def total_wire(self) -> float:
        return sum(self.wire.values())

    def add(self, other: Cost, times: float = 1) -> None:
        """Adds ``times`` runs of ``other``."""
        for mine, more in ((self.flops, other.flops), (self.wire, other.wire)):
            for name, value in more.items():
                mine[name] = mine.get(name, 0.0) + times * value
        self.bytes += times * other.bytes
        self.scores += times * other.scores
        self.collectives += times * other.collectives
        self.unknown_loops += other.unknown_loops


@dataclasses.dataclass(frozen=True)
class _Op:
    name: str
    result: str
    code: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+(?:#\d+)?)", self.rest.split(")", 1)[0])

    def attribute(self, name: str) -> str:
        found = re.search(name + r"=(\{[^}]*\}|[^\s,]+)", self.rest)
        return found[1] if found else ""


def shapes(text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(type, sides) of each array in a type, tuples flattened."""
    for kind, sides in _SHAPE.findall(text):
        yield kind, tuple(int(side) for side in sides.split(",") if side)


def size(text: str) -> int:
    """Bytes of a type."""
    return sum(SIZES.get(kind, 0) * math.prod(sides) for kind, sides in shapes(text))


def group_size(rest: str, devices: int) -> int:
    """How many devices a collective's groups have, in any of XLA's three notations."""
    groups = re.search(r"replica_groups=(.*)", rest)
    if not groups:
        return devices
    text = groups[1]
    if text.startswith("{{"):
        return len(re.match(r"\{\{([\d,]*)\}", text)[1].split(","))  # type: ignore[index]
    if text.startswith("["):
        return int(re.match(r"\[\d+,(\d+)\]", text)[1])  # type: ignore[index]
    if text.startswith("mesh["):
        mesh, used = re.match(r"mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text).groups()  # type: ignore[union-attr]
        axes = {name: int(side) for name, side in re.findall(r"'([^']+)'=(\d+)", mesh)}
        # 'axis':(before)size is a part of an axis
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", used)
        return math.prod(int(part) if part else axes[name] for name, part in parts)
    return devices  # {} means one group of all


def wire_bytes(code: str, result: int, n: int) -> float:
    """Bytes each device of a ring of ``n`` sends so that ``result`` bytes come out on each."""
    if n < 2:
        return 0.0
    share = (n - 1) / n
    return {
        "all-reduce": 2 * share * result,
        "all-gather": share * result,
        "reduce-scatter": (n - 1) * result,
        "all-to-all": share * result,
        "collective-permute": float(result),
    }[code]


class Program:
    """A parsed HLO module."""

    def __init__(self, text: str, devices: int):
        self.devices, self.entry = devices, ""
        self.computations: dict[str, list[_Op]] = {}
        self._known: dict[str, Cost] = {}
        current: list[_Op] = []
        for line in text.splitlines():
            if head := _HEAD.match(line):
                current = self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
            elif op := _OP.match(line):
                current.append(_Op(*op.groups()[1:]))

    def cost(self, name: str = "") -> Cost:
        """Of one run of a computation, by default of the whole program."""
        name = name or self.entry
        if name not in self._known:
            ops = self.computations[name]
            types = {op.name: op.result for op in ops}
            for op in ops:  # newer XLA writes %loop#1 for an element of a tuple
                if op.result.startswith("("):
                    for i, (kind, sides) in enumerate(shapes(op.result)):
                        types[f"{op.name}#{i}"] = f"{kind}[{','.join(map(str, sides))}]"
            total = Cost()
            for op in ops:
                self._count(op, types, total)
            self._known[name] = total
        return self._known[name]

    def _count(self, op: _Op, types: dict[str, str], total: Cost) -> None:
        code = op.code.removesuffix("-start")
        if op.code in ("dot", "convolution"):
            left, right = (next(shapes(types[name])) for name in op.operands[:2])
            flops = (_dot if op.code == "dot" else _convolution)(op, left[1], right[1])
            kind = left[0] + ("_highest" if "highest" in op.attribute("operand_precision") else "")
            total.add(Cost({kind: flops}, *_moved([*map(types.get, op.operands), op.result])))
        elif op.code in ("reduce", "reduce-window"):
            total.add(Cost({}, *_moved(map(types.get, op.operands))))
        elif code in COLLECTIVES:
            sent = wire_bytes(code, size(op.result), group_size(op.rest, self.devices))
            total.add(Cost(wire={code: sent}, collectives=1))
        elif op.code == "while":
            turns = self._turns(op)
            total.unknown_loops += turns is None
            total.add(self.cost(op.attribute("body").lstrip("%")), turns or 1)
        elif op.code == "conditional":
            names = re.findall(
                r"%([\w.\-]+)",
                op.attribute("branch_computations")
                or op.attribute("true_computation") + op.attribute("false_computation"),
            )
            branches = [self.cost(name) for name in names]
            total.add(max(branches, key=lambda c: (c.total_flops, c.bytes + c.total_wire)))
        elif op.code in ("call", "fusion"):
            called = op.attribute("to_apply") or op.attribute("calls")
            total.add(self.cost(called.lstrip("%")))

    def _turns(self, op: _Op) -> int | None:
        """Of a loop that counts from zero to a constant, as scan and fori_loop do."""
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', op.rest):
            return int(known[1])
        ops = self.computations[op.attribute("condition").lstrip("%")]
        constants = {o.name: o.rest.split(")")[0] for o in ops if o.code == "constant"}
        for other in ops:
            if other.code == "compare" and "direction=LT" in other.rest:
                for name in other.operands:
                    if constants.get(name, "").isdigit():
                        return int(constants[name])
        return None


def _moved(types: Iterable[str | None]) -> tuple[int, int]:
    """(bytes of arrays, bytes of those that are attention's scores)."""
    known = [text for text in types if text]
    scores = (text for text in known if any(_is_scores(sides) for _, sides in shapes(text)))
    return sum(map(size, known)), sum(map(size, scores))


def _is_scores(sides: tuple[int, ...]) -> bool:
    """Batch, heads and N×N or N×(N+1), as keys may have a null entry; images have smaller sides."""
    queries, keys = sorted((1, 1, *sides))[-2:]
    return len(sides) > 3 and queries >= SEQUENCE and keys - queries <= 1


def _dot(op: _Op, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    del right
    axes = re.findall(r"\d+", op.attribute("lhs_contracting_dims"))
    (_, out), *_ = shapes(op.result)
    return 2.0 * math.prod(out) * math.prod(left[int(axis)] for axis in axes)


def _convolution(op: _Op, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    del left
    (_, out), *_ = shapes(op.result)
    kernel = op.attribute("dim_labels").split("->")[0].split("_")[1]
    products = math.prod(side for side, label in zip(right, kernel, strict=True) if label != "o")
    dilated = re.search(r"lhs_dilate=([\dx]+)", op.attribute("window") or op.rest)
    spread = math.prod(int(side) for side in dilated[1].split("x")) if dilated else 1
    return 2.0 * math.prod(out) * products / spread  # zeros in between are no work
