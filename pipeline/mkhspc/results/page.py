"""Writes a report: CSV files of slides, groups and comparisons, a picture, and a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mkhspc import __version__
from mkhspc.charts import THEMES, data_uri
from mkhspc.config import CELL_TYPES, CellType
from mkhspc.errors import InputError
from mkhspc.resources import render
from mkhspc.results.plots import density_png
from mkhspc.results.report import Report, slide_rows
from mkhspc.results.statistics import Comparison, GroupSummary
from mkhspc.store import atomic
from mkhspc.store.classifier_summary import FIGURE_NAMES
from mkhspc.store.csv_text import csv_text

FILES = ("results.csv", "groups.csv", "comparisons.csv", "exclusions.csv", "density.png", "report.html")


def refuse_foreign(out_dir: Path) -> None:
    """Raises `InputError` if a report would be written among other things, such as a site to publish."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise InputError("is a file, not a directory", where=out_dir, fix="choose another --out")
    foreign = sorted({path.name for path in out_dir.iterdir()} - set(FILES))
    if foreign:
        raise InputError(
            f"holds something other than a report: {', '.join(foreign[:5])}",
            where=out_dir,
            fix="choose another --out: a report names slides, and what lies in a site becomes public",
        )


def write_report(report: Report, out_dir: Path) -> Path:
    """Writes results.csv, groups.csv, comparisons.csv, density.png and report.html.

    And exclusions.csv where anything has left the study.

    Returns:
        The path of report.html.

    Raises:
        InputError: the directory holds something other than an earlier report.
    """
    refuse_foreign(out_dir)
    rows = slide_rows(report)
    atomic.write_text(out_dir / "results.csv", _csv(rows))
    atomic.write_text(out_dir / "groups.csv", _csv(_marked(report, report.groups)))
    atomic.write_text(out_dir / "comparisons.csv", _csv(_marked(report, report.comparisons)))
    _write_exclusions(report, out_dir / "exclusions.csv")
    picture = density_png(report.units, is_simulated=report.is_simulated)
    atomic.write_bytes(out_dir / "density.png", picture)
    page = render(
        "report.html",
        report=report,
        rows=rows,
        figure_names=FIGURE_NAMES,
        pictures={cell_type: _pictures(report, cell_type) for cell_type in CELL_TYPES},
        version=__version__,
    )
    atomic.write_text(out_dir / "report.html", page)
    return out_dir / "report.html"


def _write_exclusions(report: Report, path: Path) -> None:
    """A row for each slide or tile that has left the study; no file where none has."""
    if report.manifest.exclusions:
        atomic.write_text(path, _csv([asdict(one) for one in report.manifest.exclusions]))
    else:
        path.unlink(missing_ok=True)


def _pictures(report: Report, cell_type: CellType) -> dict[str, str]:
    """The page's picture of one cell type by theme, as the source of an image."""
    return {
        name: data_uri(
            density_png(report.units, is_simulated=report.is_simulated, theme=theme, cell_types=(cell_type,))
        )
        for name, theme in THEMES.items()
    }


def _marked(report: Report, items: Iterable[GroupSummary | Comparison]) -> list[dict[str, Any]]:
    return [{**asdict(item), "simulated": report.is_simulated} for item in items]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV text; empty where a value is None, nothing at all without rows."""
    header = list(rows[0]) if rows else []
    return csv_text(header, ([row[name] for name in header] for row in rows)) if rows else ""
