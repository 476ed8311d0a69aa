"""A simulated annotator: labels candidate cells from the truth, with stated errors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.geometry import BoolMask
from mkhspc.simulate.truth import Outlines
from mkhspc.store.annotations import FORMAT, VALUES, VERSION

ANNOTATOR_STREAM = 0x1AB
"""The annotator's random numbers are a stream of their own, beside the others of the same seed."""
FIRST_LABEL_AT = datetime(2026, 1, 1, 8, 0, 0, tzinfo=UTC)
"""The time of the first label. Times are made up, so that the same cells and seed give the same file."""


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
    rng = np.random.default_rng([skill.seed, ANNOTATOR_STREAM])
    answers = _answers(true_labels(truth, cells), skill, rng)
    labelled = cells.select(["cell_id", "cell_type"]).append_column("label", pa.array(answers))
    events = _events(labelled, skill.policy, rng)
    return {
        "format": FORMAT,
        "version": VERSION,
        "dataset": dataset,
        "config_hash": config_hash,
        "annotator": "simulated",
        "exported_at": events[-1]["at"] if events else _stamp(FIRST_LABEL_AT),
        **{cell_type: _by_answer(labelled, cell_type) for cell_type in CELL_TYPES},
        "events": events,
    }


def _answers(is_positive: BoolMask, skill: AnnotatorSkill, rng: np.random.Generator) -> list[str]:
    wrong = rng.random(is_positive.size) < skill.error_rate
    unsure = rng.random(is_positive.size) < skill.unsure_rate
    answers = np.where(is_positive ^ wrong, "positive", "negative")
    words: list[str] = np.where(unsure, "unsure", answers).tolist()
    return words


def _by_answer(labelled: pa.Table, cell_type: CellType) -> dict[str, list[str]]:
    of_type = labelled.filter(pc.equal(labelled["cell_type"], cell_type))
    return {
        answer: of_type.filter(pc.equal(of_type["label"], answer))["cell_id"].to_pylist() for answer in VALUES
    }


def _events(labelled: pa.Table, policy: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """One event a cell, in the order of the table, as if labelled one after another."""
    dwell_ms = np.rint(rng.lognormal(6.7, 0.5, labelled.num_rows)).astype(int).tolist()
    at, events = FIRST_LABEL_AT, []
    for row, dwell in zip(labelled.to_pylist(), dwell_ms, strict=True):
        at += timedelta(milliseconds=dwell)
        event = {"cell_id": row["cell_id"], "label": row["label"], "at": _stamp(at)}
        events.append({**event, "dwell_ms": dwell, "by": "key", "policy": policy})
    return events


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def true_labels(truth: pa.Table, cells: pa.Table) -> BoolMask:
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
