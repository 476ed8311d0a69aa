"""Every measured number of the project: `make bench`, or `python tests/bench --only learn`.

Each part is a function that returns rows. A figure that depends on the machine's speed is a ratio to
a baseline measured in the same run. Writes `docs/benchmarks.json`, where the rows of what was left out stay,
and the page that shows it, and prints one table; exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import document
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("bench", "support", "")]

Row = dict[str, object]
PARTS: dict[str, tuple[str, ...]] = {
    "engine": (
        "detection",
        "features",
        "journey",
        "reading",
        "throughput",
        "merge",
        "damage",
        "crash",
        "limits",
        "cluster",
    ),
    "gallery": ("cards",),
    "learn": ("labels",),
    "models": ("models_sam2", "models_mk", "models_cellpose", "models_embed", "models_learn"),
}
"""Parts and their modules in this folder; each has `rows(shared: Path | None, full: bool)`."""

COLUMNS = ("part", "name", "value", "unit", "baseline", "target", "ok", "day")


def measure(part: str, modules: list[str], shared: Path | None, full: bool) -> list[Row]:
    found: list[Row] = []
    for name in (name for name in PARTS[part] if not modules or name in modules):
        begun_s = time.monotonic()
        rows: Callable[[Path | None, bool], list[Row]] = importlib.import_module(name).rows
        day = str(datetime.now(UTC).date())
        found += [{**row, "part": part, "day": day} for row in rows(shared, full)]
        print(f"{part}/{name}: {time.monotonic() - begun_s:.0f} s", file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--module", action="append", default=[], help="one module of a part; repeatable")
    parser.add_argument("--full", action="store_true", help="the long measurements too")
    asked = parser.parse_args()
    shared = ROOT.parent / "shared"
    if not shared.exists():
        print("the real slides are not here: their figures are left out", file=sys.stderr)
    rows = [
        {column: row[column] for column in COLUMNS}
        for part in ([asked.only] if asked.only else PARTS)
        for row in measure(part, asked.module, shared if shared.exists() else None, asked.full)
    ]
    kept = _not_measured_now(rows) if asked.only or asked.module else []
    document.NUMBERS.write_text(json.dumps([*kept, *rows], indent=1, ensure_ascii=False) + "\n")
    document.write_page()
    show(rows)
    return 0 if all(row["ok"] is not False for row in rows) else 1


def _not_measured_now(rows: list[Row]) -> list[Row]:
    """What an earlier call measured and this one did not."""
    measured = {(row["part"], row["name"]) for row in rows}
    earlier: list[Row] = json.loads(document.NUMBERS.read_text())
    return [row for row in earlier if (row["part"], row["name"]) not in measured]


def show(rows: list[Row]) -> None:
    columns = COLUMNS[:-1]
    table = Table(*columns)
    for row in rows:
        value = row["value"]
        cells = {**row, "value": f"{value:.4g}" if isinstance(value, float) else value}
        cells["ok"] = {True: "yes", False: "NO", None: ""}[row["ok"]]
        table.add_row(*(("" if cells[c] is None else str(cells[c])) for c in columns))
    Console(width=160).print(table)


if __name__ == "__main__":
    sys.exit(main())
