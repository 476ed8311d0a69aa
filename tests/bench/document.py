"""The page of measured numbers, `docs/benchmarks.md`, made of `docs/benchmarks.json`."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
NUMBERS, PAGE = DOCS / "benchmarks.json", DOCS / "benchmarks.md"
TITLES = {
    "engine": "Finding cells, and the engine",
    "gallery": "The gallery",
    "learn": "Labels and classifiers",
    "models": "Models: SAM2, Cellpose, embedders (random weights but for EfficientNet's)",
}
HEAD = """# Measured numbers

Made by `make bench`: {cores} cores, {memory_gb:.0f} GB, no GPU,
Python {python}; the last column says on which day. A figure that depends on the machine's speed is a ratio
to the baseline named, measured in the same run. Figures about real marrow come from three scenes of two
images each, of three patients, in which an expert dotted 2,458 nuclei (many granulocytes are not dotted)
and nine megakaryocytes were marked by eye.
"""
HEADINGS = ("what", "value", "target", "met", "baseline", "day")


def write_page() -> None:
    """Writes the page anew."""
    rows = json.loads(NUMBERS.read_text())
    text = HEAD.format(
        cores=_cores(),
        memory_gb=_memory_bytes() / 1e9,
        python=platform.python_version(),
    )
    for part, title in TITLES.items():
        own = [row for row in rows if row["part"] == part]
        if own:
            text += f"\n## {title}\n\n" + _cells(HEADINGS) + _cells(["---"] * len(HEADINGS))
            text += "".join(map(line, own))
    PAGE.write_text(text)


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    found = row["value"]
    number = f"{found:.4g}" if isinstance(found, float) else str(found)
    unit = row["unit"] or ""
    met = {True: "yes", False: "**no**", None: ""}[row["ok"]]
    value = f"{number} {unit}".strip()
    return _cells([row["name"], value, row["target"], met, row["baseline"], row["day"]])


def _cells(found: Sequence[str | None]) -> str:
    return "| " + " | ".join((cell or "").replace("|", "/") for cell in found) + " |\n"


def _cores() -> int:
    return sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())


def _memory_bytes() -> int:
    first = Path("/proc/meminfo").read_text().splitlines()[0]
    return int(first.split()[1]) * 1024
