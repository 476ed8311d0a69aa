"""Every measured number of the project: `make bench`, or `python tests/bench --only learn`.

Each part is a function that returns rows. A figure that depends on the machine's speed is a ratio to
a baseline measured in the same run. Writes `bench.json` and prints one table; exit code 1 when a
target is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "bench"), str(ROOT / "tests")]

Row = dict[str, object]
PARTS: dict[str, tuple[str, ...]] = {
    "engine": ("detection", "features", "journey", "reading", "throughput", "merge", "crash"),
    "gallery": ("cards",),
    "learn": ("labels",),
}
"""Parts and their modules in this folder; each has `rows(shared: Path | None, full: bool)`."""

COLUMNS = ("part", "name", "value", "unit", "baseline", "target", "ok")


def measure(part: str, shared: Path | None, full: bool) -> list[Row]:
    found: list[Row] = []
    for name in PARTS[part]:
        begun_s = time.monotonic()
        rows: Callable[[Path | None, bool], list[Row]] = importlib.import_module(name).rows
        found += [{**row, "part": part} for row in rows(shared, full)]
        print(f"{part}/{name}: {time.monotonic() - begun_s:.0f} s", file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--full", action="store_true", help="the long measurements too")
    parser.add_argument("--out", type=Path, default=ROOT / "bench.json")
    asked = parser.parse_args()
    shared = ROOT.parent / "shared"
    if not shared.exists():
        print("the real slides are not here: their figures are left out", file=sys.stderr)
    rows = [
        {column: row[column] for column in COLUMNS}
        for part in ([asked.only] if asked.only else PARTS)
        for row in measure(part, shared if shared.exists() else None, asked.full)
    ]
    asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    show(rows)
    return 0 if all(row["ok"] is not False for row in rows) else 1


def show(rows: list[Row]) -> None:
    table = Table(*COLUMNS)
    for row in rows:
        value = row["value"]
        cells = {**row, "value": f"{value:.4g}" if isinstance(value, float) else value}
        cells["ok"] = {True: "yes", False: "NO", None: ""}[row["ok"]]
        table.add_row(*(("" if cells[c] is None else str(cells[c])) for c in COLUMNS))
    Console(width=160).print(table)


if __name__ == "__main__":
    sys.exit(main())
