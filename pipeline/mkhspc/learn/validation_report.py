"""What `validate` found, as plain values and as a page with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mkhspc import __version__
from mkhspc.charts import THEMES, data_uri
from mkhspc.learn.intervals import Estimate
from mkhspc.learn.limits import Limits
from mkhspc.learn.metrics import metrics_of
from mkhspc.learn.validate import Verdict
from mkhspc.learn.validation_plots import pictures_of
from mkhspc.resources import render
from mkhspc.store import atomic

FIGURE_WORDS = {"roc_auc": "ROC area", "f1": "F1", "brier": "Brier score"}
"""What a page calls a figure whose name with spaces would not do."""


def to_json(verdicts: Sequence[Verdict], limits: Limits) -> dict[str, Any]:
    """All verdicts as plain values."""
    return {
        "passed": all(verdict.passed for verdict in verdicts),
        "limits": asdict(limits),
        "classifiers": [_plain(verdict) for verdict in verdicts],
    }


def _plain(verdict: Verdict) -> dict[str, Any]:
    card = verdict.card
    return {
        "cell_type": verdict.cell_type,
        "classifier": verdict.path.name,
        "classifier_id": verdict.classifier_id,
        "config_hash": verdict.config_hash,
        "recipe": card["recipe"],
        "threshold": card["threshold"],
        "passed": verdict.passed,
        "checks": [asdict(check) for check in verdict.checks],
        "cells": len(verdict.predictions),
        "annotators": list(card["annotators"]),
        "positive": int(verdict.predictions.labels.sum()),
        "notes": list(verdict.notes),
        "figures": _figures(verdict.figures),
        "population": None if verdict.population is None else _figures(verdict.population),
        "groups": _groups(verdict),
    }


def _figures(figures: Mapping[str, Estimate | None]) -> dict[str, Any]:
    return {
        name: None if figure is None else {**asdict(figure), "too_few_groups": figure.too_few_groups}
        for name, figure in figures.items()
    }


def _groups(verdict: Verdict) -> list[dict[str, Any]]:
    cells = verdict.predictions
    rows = []
    for group in np.unique(cells.groups):
        own = cells.where(cells.groups == group)
        figures = metrics_of(own)
        values = {
            name: None if (figure := figures[name]) is None else figure.value
            for name in ("accuracy", "recall", "precision")
        }
        rows.append({"group": str(group), "cells": len(own), "positive": int(own.labels.sum()), **values})
    return rows


def write_report(directory: Path, verdicts: Sequence[Verdict], limits: Limits) -> Path:
    """Writes report.json, the pictures and report.html into a directory; returns the page's path."""
    values = to_json(verdicts, limits)
    pictures = []
    for verdict in verdicts:
        by_theme = {name: pictures_of(verdict.predictions, theme) for name, theme in THEMES.items()}
        for picture, png in by_theme["light"].items():
            atomic.write_bytes(directory / f"{verdict.cell_type}_{picture}.png", png)
        pictures.append(
            {
                picture: {theme: data_uri(by_theme[theme][picture]) for theme in THEMES}
                for picture in by_theme["light"]
            }
        )
    atomic.write_json(directory / "report.json", values)
    page = render(
        "validation.html", report=values, pictures=pictures, names=FIGURE_WORDS, version=__version__
    )
    atomic.write_text(directory / "report.html", page)
    return directory / "report.html"
