"""Records and Markdown tables of `benchmarks.restoration` and `benchmarks.training`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.roofline import Limits
from benchmarks.scaling import table
from maskgit_sr import paths

Record = dict[str, Any]
Column = tuple[str, Callable[[Record], str | None]]
"""Its head, and the cell of a row; None: the row has none."""
SUFFIXES = (".md", ".json")


def start(limits: Limits, **facts: Any) -> Record:
    """A record of a run on this device, to which rows are added."""
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    known = {"device": limits.describe(), "jax": jax.__version__, "load": load}
    return {**known, "limits": dataclasses.asdict(limits), **facts}


def check(parser: argparse.ArgumentParser, output: Path | None) -> None:
    """Ends the program if the kind of file is unknown, before anything is measured."""
    if output is not None and output.suffix not in SUFFIXES:
        parser.error(f"--output: expected a name that ends in .md or .json, found {output}")


def write(record: Record, text: str, path: Path) -> None:
    """The record itself to a .json file, ``text`` to any other; no half file is left."""
    content = json.dumps(record, indent=1) if path.suffix == ".json" else text
    paths.write(path, content + "\n")


def number(key: str, form: str, unit: float = 1.0) -> Callable[[Record], str | None]:
    """A cell with ``row[key]`` in multiples of ``unit``."""

    def cell(row: Record) -> str | None:
        value = row.get(key)
        return None if value is None else format(value / unit, form)

    return cell


def columns(rows: Sequence[Record], wanted: Sequence[Column]) -> str:
    """A table of the columns that any row has a cell in."""
    cells = [(head, [cell(row) for row in rows]) for head, cell in wanted]
    kept = [(head, found) for head, found in cells if any(value is not None for value in found)]
    lines = zip(*(found for _, found in kept), strict=True)
    filled = (["–" if value is None else value for value in line] for line in lines)
    return table("|".join(head for head, _ in kept), filled)


SHARES: tuple[Column, ...] = (
    ("TFLOP/s", number("tflops", ".3g")),
    ("MFU", number("mfu", ".1%")),
    ("of matmul", number("of_matmul", ".1%")),
)
FLOOR: tuple[Column, ...] = (
    ("GFLOP", number("flops", ".4g", 1e9)),
    ("GB", number("bytes", ".3g", 1e9)),
    ("FLOP/byte", lambda row: f"{row['flops'] / row['bytes']:.0f}" if row.get("bytes") else None),
    ("floor ms", number("floor", ".3g", 1e-3)),
    ("floor / ms", lambda row: f"{row['floor'] / row['seconds']:.0%}" if row["floor"] else None),
)


def restoration(record: Record) -> str:
    """Both tables of a restoration."""
    cpu = record["limits"]["platform"] == "cpu"

    def per_tile(key: str, form: str) -> Callable[[Record], str | None]:
        return lambda row: f"{1e3 * row[key] / row['tiles']:{form}}"

    whole = columns(
        record["whole"],
        (
            ("network", lambda row: row["size"]),
            ("LR", lambda row: f"{row['side']}×{row['side']}"),
            ("system", lambda row: row["system"]),
            ("dtype", lambda row: row["dtype"]),
            ("tiles", number("tiles", ".0f")),
            ("s", number("seconds", ".3f")),
            ("ms a tile", per_tile("seconds", ".2f")),
            ("CPU ms a tile", per_tile("cpu_seconds", ".2f") if cpu else lambda row: None),
            ("GFLOP a tile", number("flops_a_tile", ".4g", 1e9)),
            *SHARES,
            ("largest difference", number("difference", ".1e")),
            ("host's tiling s", number("tiling_seconds", ".3f")),
        ),
    )
    parts = columns(
        record["parts"],
        (
            ("network", lambda row: row["size"]),
            ("dtype", lambda row: row["dtype"]),
            ("part", lambda row: f"{row['part']}, in it" if row["inside"] else row["part"]),
            ("times", number("times", ".0f")),
            ("ms", number("seconds", ".3f", 1e-3)),
            *SHARES,
            *FLOOR,
        ),
    )
    return f"""{head(record)}

## Whole images, batches of {record["batch"]} tiles, medians of {record["repeats"]}

{whole}

## One batch of {record["batch"]} tiles, part by part

{parts}"""


def training(record: Record) -> str:
    """The table of training steps, and what went wrong."""
    found = [row for row in record["stages"] if "failed" not in row]
    rows = columns(
        found,
        (
            ("network", lambda row: row["size"]),
            ("stage", lambda row: row["stage"]),
            ("dtype", lambda row: row["dtype"]),
            ("batch", lambda row: f"{row['batch']}" + ", remat" * row["remat"]),
            ("in parts of", number("at_a_time", ".0f")),
            ("ms a step", number("seconds", ".2f", 1e-3)),
            ("examples/s", number("examples_per_second", ".4g")),
            ("GFLOP an example", number("flops_an_example", ".4g", 1e9)),
            *SHARES,
            *FLOOR,
            ("temporaries GB", number("temporary_bytes", ".2f", 1e9)),
            ("input examples/s a worker", number("input_per_worker", ".1f")),
            ("workers to keep up", number("workers", ".1f")),
        ),
    )
    failed = [
        f"- {row['size']}, {row['stage']}, batch {row['batch']}: {row['failed']}"
        for row in record["stages"]
        if "failed" in row
    ]
    tables = [rows] if found else []
    return "\n\n".join([head(record), *tables, *(["\n".join(failed)] if failed else [])])


def head(record: Record) -> str:
    """What it was measured on."""
    return f"{record['device']}; jax {record['jax']}, load {record['load']}"
