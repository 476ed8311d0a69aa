"""Files of labels for a fake run, as a gallery or an older program exported them; training data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mkhspc.config import config_hash
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import parse_cell_id
from runs import FakeRun

EXPORTED_AT = "2026-01-31T12:00:00Z"
TRAINING_SLIDES = ("FGC1", "FHU1", "MGC1")
TRAINING_IDENTITY = {"run.seed": 0}


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


def training_file(
    path: Path, change: Callable[[list[dict[str, Any]]], Any] = lambda samples: samples
) -> Path:
    """Training data of 3 slides x 24 cells a type; the deep feature knows the answer, others help."""
    rng = np.random.default_rng(0)
    samples = []
    for cell_type in ("hspc", "mk"):
        for slide in TRAINING_SLIDES:
            for n in range(24):
                label = int(rng.random() < 0.5)
                features = [float(rng.normal() + 2 * label), float(rng.normal()), float(label)]
                samples.append(
                    {
                        "cell_id": f"{slide}_s{n % 2}_{cell_type}_{n}_0", "slide_id": slide, "scene": n % 2,
                        "cell_type": cell_type, "label": label, "annotators": ["anna"], "policy": "random",
                        "inclusion_prob": 1.0, "features": features,
                    }
                )  # fmt: skip
    document = {
        "format": "mkhspc-training", "version": 1,
        "config_hash": config_hash(TRAINING_IDENTITY), "identity": TRAINING_IDENTITY,
        "feature_names": ["shape_a", "colour_b", "deep_000"], "unsure": [],
        "samples": change(samples) or samples,
    }  # fmt: skip
    return write(path, document)
