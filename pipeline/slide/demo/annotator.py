"""A simulated annotator: labels candidate cells from the truth, with stated errors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import CELL_TYPES
from pipeline.slide.demo.truth import Outlines

FIRST_LABEL_AT = datetime(2026, 1, 1, 8, 0, 0, tzinfo=UTC)
"""Labels carry made-up times, so that the same cells and seed give the same file."""


@dataclass(frozen=True)
class AnnotatorSkill:
    """How the simulated annotator errs.

    Attributes:
        error_rate: share of cells labelled the wrong way round.
        unsure_rate: share of cells left as 'unsure'.
        policy: how the cells were chosen for labelling, as the gallery states it.
    """

    error_rate: float = 0.03
    unsure_rate: float = 0.05
    policy: str = "random"
    seed: int = 0


def simulated_annotator(
    truth: pa.Table, cells: pa.Table, *, dataset: str, config_hash: str, skill: AnnotatorSkill | None = None
) -> dict[str, Any]:
    """Labels every cell of a table and returns what a gallery would export.

    A cell that lies on a true progenitor or MK is 'positive'; a look-alike, or nothing at all, is
    'negative'; then errors and doubts are added.

    Args:
        truth: rows of `truth.SCHEMA`.
        cells: columns cell_id, slide_id, scene, cell_type, x_px, y_px.

    Returns:
        The contract's `mkhspc-annotations`, with the annotator named 'simulated'.
    """
    skill = skill or AnnotatorSkill()
    rng = np.random.default_rng([skill.seed, 0x1AB])
    ids, types = cells["cell_id"].to_pylist(), cells["cell_type"].to_pylist()
    is_positive = true_labels(truth, cells)
    wrong = rng.random(len(ids)) < skill.error_rate
    unsure = rng.random(len(ids)) < skill.unsure_rate
    dwell_ms = np.rint(rng.lognormal(6.7, 0.5, len(ids))).astype(int)
    words = np.where(unsure, "unsure", np.where(is_positive ^ wrong, "positive", "negative")).tolist()
    answers: dict[str, dict[str, list[str]]] = {
        cell_type: {
            word: [i for i, t, w in zip(ids, types, words, strict=True) if t == cell_type and w == word]
            for word in ("positive", "negative", "unsure")
        }
        for cell_type in CELL_TYPES
    }
    at = FIRST_LABEL_AT
    events = []
    for cell_id, word, dwell in zip(ids, words, dwell_ms.tolist(), strict=True):
        at += timedelta(milliseconds=dwell)
        events.append(
            {
                "cell_id": cell_id,
                "label": word,
                "at": _stamp(at),
                "dwell_ms": dwell,
                "by": "key",
                "policy": skill.policy,
            }
        )
    return {
        "format": "mkhspc-annotations",
        "version": 1,
        "dataset": dataset,
        "config_hash": config_hash,
        "annotator": "simulated",
        "exported_at": _stamp(at),
        **answers,
        "events": events,
    }


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def true_labels(truth: pa.Table, cells: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(n,) bool: whether each cell's centroid lies in a true positive of its own type."""
    labels = np.zeros(cells.num_rows, np.bool_)
    positive = truth.filter(pc.equal(truth["label"], "positive"))
    places = cells.select(["slide_id", "scene", "cell_type", "x_px", "y_px"]).append_column(
        "row", pa.array(np.arange(cells.num_rows))
    )
    for key in positive.group_by(["slide_id", "scene", "target"]).aggregate([]).to_pylist():
        here = (pc.field("slide_id") == key["slide_id"]) & (pc.field("scene") == key["scene"])
        outlines = Outlines.of(positive.filter(here & (pc.field("target") == key["target"])))
        for cell in places.filter(here & (pc.field("cell_type") == key["target"])).to_pylist():
            labels[cell["row"]] = outlines.holds(cell["x_px"], cell["y_px"]).size > 0
    return labels
