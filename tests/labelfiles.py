"""Files of labels for a fake run, as a gallery or an older program would have exported them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import parse_cell_id
from runs import FakeRun

EXPORTED_AT = "2026-01-31T12:00:00Z"


def export(
    manifest: Manifest,
    labels: Mapping[str, str],
    *,
    annotator: str = "anna",
    policy: str = "random",
    **keys: Any,
) -> dict[str, Any]:
    """A file of today's format with these labels by cell id; `keys` replace whole keys."""
    return {
        "format": "mkhspc-annotations",
        "version": 1,
        "dataset": manifest.dataset,
        "config_hash": manifest.config_hash,
        "annotator": annotator,
        "exported_at": EXPORTED_AT,
        **by_type(labels),
        "events": [
            {"cell_id": cell, "label": value, "at": EXPORTED_AT, "by": "key", "policy": policy}
            for cell, value in labels.items()
        ],
        **keys,
    }


def by_type(labels: Mapping[str, str]) -> dict[str, dict[str, list[str]]]:
    """Shape A."""
    return {
        cell_type: {
            value: [c for c, v in labels.items() if v == value and f"_{cell_type}_" in c]
            for value in ("positive", "negative", "unsure")
        }
        for cell_type in ("mk", "hspc")
    }


def truth_labels(run: FakeRun, choose: Callable[[str], bool] = lambda cell_id: True) -> dict[str, str]:
    """What an expert would say of the cells of a fake run."""
    return {c: "positive" if is_positive else "negative" for c, is_positive in run.truth.items() if choose(c)}


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def old_id(cell_id: str) -> str:
    """The id as it was before ids named the scene."""
    return cell_id.replace("_s0_", "_")


def moved(cell_id: str, dx: int, dy: int) -> str:
    """An id whose point lies elsewhere by so many pixels."""
    name = parse_cell_id(cell_id)
    return str(replace(name, x=max(0, name.x + dx), y=max(0, name.y + dy), nth=1))


def first(items: Sequence[str], count: int) -> list[str]:
    return list(items)[:count]
