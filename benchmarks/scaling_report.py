"""The tables of docs/scaling.md, in Markdown, from the records of `benchmarks.scaling`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.scaling_model import (
    DEVICES,
    Assumptions,
    Device,
    Prediction,
    analytic,
    devices_of,
    efficiency,
    examples,
    formula_wire,
    hours,
    key,
    largest_batch,
    needed_bytes,
    predict,
)
from configs import realsrt

Case = dict[str, Any]
Record = dict[str, Any]
MACHINES = (("h100", 1), ("h100", 8), ("v5e", 64), ("v5e", 256))
CHOICES = (("h100", 8), ("v5e", 8), ("v5e", 256))


class Plan:
    """Cases with a record each, and what the published config says of their stages."""

    def __init__(
        self, wanted: Sequence[Case], found: dict[str, Record], size: str, assumed: Assumptions
    ):
        self.size, self.assumed = size, assumed
        self.stages = list(dict.fromkeys(case["stage"] for case in wanted))
        self.config = {s: realsrt.get_config(f"{size},stage={s}").stage for s in self.stages}
        self.single: dict[str, tuple[Case, Record]] = {}
        self.activations: dict[tuple[str, bool], dict[str, float]] = {}
        self.scores: dict[tuple[str, bool], float] = {}  # attention's, bytes an example
        self.rows: list[tuple[Case, Record]] = []
        self.missing: list[tuple[Case, str]] = []
        for case in sorted(wanted, key=lambda c: (self.stages.index(c["stage"]), devices_of(c))):
            record: Record | None = found.get(key(case), {"failed": "not asked for"})
            if record is not None and "cost" not in record:
                self.missing.append((case, record["failed"]))
                known = self.single.get(case["stage"])
                whole = known is not None and not case.get("remat", False)
                record = analytic(case, known[1], known[0]["batch"]) if known and whole else None
            if record is None:
                continue
            self.rows.append((case, record))
            if devices_of(case) == 1:
                remat = bool(case.get("remat", False))
                which = case["stage"], remat
                self.activations[which] = record["activation_bytes"]
                self.scores[which] = record["cost"]["scores"] / case["batch"]
                if not remat:
                    self.single[case["stage"]] = case, record

    def kept(self, case: Case) -> dict[str, float]:
        """Bytes an example that each phase keeps."""
        return self.activations[case["stage"], bool(case.get("remat", False))]

    def predicted(
        self, case: Case, record: Record, device: Device, fused: bool = False
    ) -> Prediction:
        """Of a case; ``fused``: as if no N×N matrix of attention left the chip."""
        cost = record["cost"]
        if fused:
            an_example = self.scores[case["stage"], bool(case.get("remat", False))]
            scores = an_example * examples(case) / case.get("tensor", 1)
            cost = cost | {"bytes": cost["bytes"] - scores}
        return predict(cost, record["update_bytes"], device, self.assumed)

    def steps(self, case: Case) -> tuple[int, int]:
        """(published steps, published batch) of the case's stage."""
        config = self.config[case["stage"]]
        return int(config.steps), int(config.batch)

    def fits(self, case: Case, record: Record, device: Device) -> bool:
        return needed_bytes(case, record, self.kept(case)) <= 0.9 * device.memory

    def hours(self, case: Case, record: Record, device: Device, fused: bool = False) -> float:
        step = self.predicted(case, record, device, fused).step
        return hours(case, *self.steps(case), step)

    def best(self, stage: str, device: Device, count: int) -> tuple[Case, Record] | None:
        """What to run on ``count`` devices: plain data parallelism, or what fits if it does not."""
        rows = [r for r in self.rows if r[0]["stage"] == stage and devices_of(r[0]) == count]

        def order(row: tuple[Case, Record]) -> tuple[bool, bool, float]:
            plain = row[0].get("data", 1) == count and not row[0].get("remat")
            return not self.fits(*row, device), not plain, self.hours(*row, device)

        return min(rows, key=order, default=None)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def mesh(case: Case) -> str:
    """A mesh and what is special about a case, in words."""
    axes = " × ".join(f"{a} {case[a]}" for a in ("data", "fsdp", "tensor") if case.get(a, 1) > 1)
    special = "".join(f", {name}" for name in ("remat", "gather") if case.get(name))
    return (axes or "1 device") + special


def report(
    wanted: Sequence[Case], found: dict[str, Record], size: str, assumed: Assumptions
) -> str:
    """All tables."""
    plan = Plan(wanted, found, size, assumed)
    parts = (
        ("Devices and assumptions", devices(plan)),
        ("Stages", stages(plan)),
        ("Compiled steps", programs(plan)),
        ("Memory a device", memory(plan)),
        ("Communication: formula and compiled program", formulas(plan)),
        ("Predicted step, efficiency and cost", predictions(plan)),
        ("The four stages together", totals(plan)),
        ("Meshes compared", meshes(plan)),
    )
    notes = "".join(f"\nNot compiled ({why}): {case}" for case, why in plan.missing)
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts) + "\n" + notes


def devices(plan: Plan) -> str:
    head = "device|bf16 TFLOP/s|memory GB|GB/s|links GB/s, one way|$ an hour|source".split("|")
    rows = [
        (d.name, f"{d.peak / 1e12:.0f}", f"{d.memory / 1e9:.0f}", f"{d.bandwidth / 1e9:.0f}",
         f"{d.link / 1e9:.0f}", f"{plan.assumed.price(d):.2f}", d.source)
        for d in DEVICES.values()
    ]  # fmt: skip
    said = f"Assumed: MFU {plan.assumed.mfu:g}, {plan.assumed.overlap:.0%} of communication hidden."
    return table(head, rows) + "\n\n" + said


def stages(plan: Plan) -> str:
    head = (
        "stage|steps × batch|trained M|GFLOP an example|in float32|GB moved an example|"
        "in attention scores|state MB|frozen MB|kept MB an example|with remat"
    ).split("|")
    rows = []
    for stage, (case, record) in plan.single.items():
        flops, batch = record["cost"]["flops"], case["batch"]
        total = sum(flops.values())
        steps, published = plan.steps(case)
        remat = plan.activations.get((stage, True))
        rows.append(
            (stage, f"{steps:,} × {published}", f"{record['parameters'] / 1e6:.1f}",
             f"{total / batch / 1e9:.0f}", f"{1 - flops.get('bf16', 0.0) / total:.0%}",
             f"{record['cost']['bytes'] / batch / 1e9:.1f}",
             f"{record['cost']['scores'] / record['cost']['bytes']:.0%}",
             f"{record['state_bytes'] / 1e6:.0f}", f"{record['frozen_bytes'] / 1e6:.0f}",
             f"{max(plan.kept(case).values()) / 1e6:.0f}",
             f"{max(remat.values()) / 1e6:.0f}" if remat else "–")
        )  # fmt: skip
    return table(head, rows)


def programs(plan: Plan) -> str:
    head = (
        "stage|mesh|batch|TFLOP a device|GB moved|MB sent|collectives|TFLOP, GB by CPU analysis|"
        "CPU arguments, temporaries GB|state moved|compiled in"
    ).split("|")
    rows = []
    for case, record in plan.rows:
        cost = record["cost"]
        kinds = ", ".join(f"{k} {v / 1e6:.1f}" for k, v in cost["wire"].items() if v >= 5e4)
        tera = sum(cost["flops"].values()) / 1e12
        own = (case["stage"], mesh(case), case["batch"], f"{tera:.2f}",
               f"{cost['bytes'] / 1e9:.1f}", kinds or "–")  # fmt: skip
        if record.get("analytic"):
            rows.append((*own, "analytic", "–", "–", "–", "–"))
            continue
        rows.append(
            (*own, f"{cost['collectives']:.0f}",
             f"{record['cpu_flops'] / 1e12:.2f}, {record['cpu_bytes'] / 1e9:.0f}",
             f"{record['cpu_argument_bytes'] / 1e9:.2f}, {record['cpu_temp_bytes'] / 1e9:.1f}",
             record["outputs_moved"], f"{record['compile_seconds']:.0f} s")
        )  # fmt: skip
    return table(head, rows)


def memory(plan: Plan) -> str:
    names = list(DEVICES)
    head = ["stage", "mesh", "batch", "state + frozen + gradients GB", "kept GB", "needed GB"]
    rows = []
    for case, record in plan.rows:
        kept = plan.kept(case)
        needed = needed_bytes(case, record, kept)
        activations = examples(case) * max(kept.values())
        rows.append(
            (case["stage"], mesh(case), case["batch"], f"{(needed - activations) / 1e9:.2f}",
             f"{activations / 1e9:.1f}", f"{needed / 1e9:.1f}",
             *(largest_batch(record, kept, d) for d in DEVICES.values()))
        )  # fmt: skip
    return table(head + [f"examples {name} has room for" for name in names], rows)


def formulas(plan: Plan) -> str:
    head = "stage|mesh|gradients MB|float32 would be|formula MB|compiled MB|ratio".split("|")
    rows = []
    for case, record in plan.rows:
        n = devices_of(case)
        if n == 1 or case.get("tensor", 1) > 1 or record.get("analytic"):
            continue
        single = plan.single[case["stage"]][1]
        gradients, formula = record["gradient_wire_bytes"], formula_wire(case, single)
        sent = sum(record["cost"]["wire"].values())
        rows.append(
            (case["stage"], mesh(case), f"{gradients / 1e6:.1f}",
             f"{4 * record['parameters'] / 1e6:.1f}", f"{formula / 1e6:.1f}",
             f"{sent / 1e6:.1f}", f"{sent / formula:.2f}")
        )  # fmt: skip
    return table(head, rows)


def _row(plan: Plan, case: Case, record: Record, device: Device) -> tuple[object, ...]:
    predicted = plan.predicted(case, record, device)
    alone_case, alone = plan.single[case["stage"]]
    rate = alone_case["batch"] / plan.predicted(alone_case, alone, device).step
    unfused = max(predicted.step, record.get("cpu_bytes", 0.0) / device.bandwidth)
    slow = "–" if record.get("analytic") else f"{1e3 * unfused:.0f}"
    spent = plan.hours(case, record, device)
    dollars = spent * devices_of(case) * plan.assumed.price(device)
    return (
        mesh(case), case["batch"], f"{1e3 * predicted.compute:.1f}",
        f"{1e3 * predicted.memory:.1f}", f"{1e3 * predicted.communication:.2f}",
        f"{1e3 * predicted.step:.1f}", predicted.bound, slow,
        f"{1e3 * plan.predicted(case, record, device, fused=True).step:.1f}",
        f"{efficiency(case, predicted.step, rate):.0%}", f"{case['batch'] / predicted.step:.0f}",
        f"{spent:.3g}", f"{dollars:.0f}", "yes" if plan.fits(case, record, device) else "no",
    )  # fmt: skip


_PREDICTED = (
    "mesh|batch|products ms|memory ms|links ms|step ms|bound by|step ms, nothing fused|"
    "step ms, fused attention|"
    "efficiency|examples/s|hours|$|fits"
).split("|")


def predictions(plan: Plan) -> str:
    rows = []
    for name, count in MACHINES:
        for stage in plan.stages:
            if best := plan.best(stage, DEVICES[name], count):
                rows.append((f"{count} × {name}", stage, *_row(plan, *best, DEVICES[name])))
    return table(["machine", "stage", *_PREDICTED], rows)


def totals(plan: Plan) -> str:
    rows = []
    for name, count in MACHINES:
        device = DEVICES[name]
        chosen = [best for s in plan.stages if (best := plan.best(s, device, count))]
        if len(chosen) < len(plan.stages):
            continue
        spent = sum(plan.hours(*row, device) for row in chosen)
        fused = sum(plan.hours(*row, device, fused=True) for row in chosen)
        an_hour = count * plan.assumed.price(device)
        outside = [case["stage"] for case, record in chosen if not plan.fits(case, record, device)]
        larger = [case["stage"] for case, _ in chosen if case["batch"] != plan.steps(case)[1]]
        rows.append(
            (f"{count} × {name}", f"{spent:.1f}", f"{spent * count:.0f}", f"{spent * an_hour:.0f}",
             f"{fused:.1f}", f"{fused * an_hour:.0f}", ", ".join(larger) or "–",
             ", ".join(outside) or "–")
        )  # fmt: skip
    head = (
        "machine|hours|device hours|$|hours, fused attention|$, fused attention|"
        "batch larger than published|does not fit"
    ).split("|")
    return table(head, rows)


def meshes(plan: Plan) -> str:
    rows = []
    for name, count in CHOICES:
        device = DEVICES[name]
        for case, record in plan.rows:
            if devices_of(case) != count:
                continue
            predicted = plan.predicted(case, record, device)
            per = 1e3 * predicted.step * count / case["batch"]
            state = record["state_bytes"] + record["frozen_bytes"]
            rows.append(
                (f"{count} × {name}", case["stage"], mesh(case), case["batch"],
                 f"{state / 1e9:.2f}", f"{state / device.memory:.1%}",
                 f"{sum(record['cost']['flops'].values()) / 1e12:.2f}",
                 f"{sum(record['cost']['wire'].values()) / 1e6:.0f}",
                 f"{1e3 * predicted.step:.1f}", f"{per:.1f}")
            )  # fmt: skip
    head = (
        "machine|stage|mesh|batch|state + frozen GB|of memory|TFLOP a device|MB sent|step ms|"
        "device ms an example"
    ).split("|")
    return table(head, rows)
