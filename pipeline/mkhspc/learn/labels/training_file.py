"""The file of training data: written by `convert`, read by `train`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkhspc.learn.labels.convert import Conversion, report_of
from mkhspc.learn.labels.resolve import Decision
from mkhspc.store import atomic
from mkhspc.store.schema import parse_cell_id

FORMAT = "mkhspc-training"
VERSION = 1


def write_training(path: Path, conversion: Conversion) -> None:
    """Writes training data in one step, a sample a line."""
    manifest = conversion.manifest
    head: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "dataset": manifest.dataset,
        "config_hash": manifest.config_hash,
        "identity": dict(manifest.identity),
        "filter": {t: [area.min_um2, area.max_um2] for t, area in manifest.filter.items()},
        "feature_names": list(conversion.feature_names),
        "unsure": [_apart(decision) for decision in conversion.unsure],
        "conflicts": [_conflict(decision) for decision in conversion.conflicts],
        "outside_filter": [_apart(decision) for decision in conversion.outside_filter],
        "report": report_of(conversion),
    }
    samples = [_line(_sample(decision, conversion)) for decision in conversion.samples]
    text = atomic.dump_json(head).rstrip().removesuffix("}").rstrip()
    atomic.write_text(path, f'{text},\n "samples": [\n' + ",\n".join(samples) + "\n ]\n}\n")


def _line(value: Mapping[str, Any]) -> str:
    return "  " + json.dumps(value, ensure_ascii=False, allow_nan=False)


def _sample(decision: Decision, conversion: Conversion) -> dict[str, Any]:
    name = parse_cell_id(decision.cell_id)
    return {
        "cell_id": decision.cell_id,
        "slide_id": name.slide_id,
        "scene": name.scene,
        "cell_type": decision.cell_type,
        "label": int(decision.value == "positive"),
        "annotators": list(decision.annotators),
        "policy": decision.shown.policy,
        "inclusion_prob": decision.shown.inclusion_prob,
        "features": conversion.features[decision.cell_id],
    }


def _apart(decision: Decision) -> dict[str, Any]:
    return {
        "cell_id": decision.cell_id,
        "cell_type": decision.cell_type,
        "value": decision.value,
        "annotators": list(decision.annotators),
    }


def _conflict(decision: Decision) -> dict[str, Any]:
    return {
        "cell_id": decision.cell_id,
        "cell_type": decision.cell_type,
        "votes": {name: list(values) for name, values in (decision.votes or {}).items()},
    }
