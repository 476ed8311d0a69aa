from __future__ import annotations

import json
from pathlib import Path

import pytest

from mkhspc.errors import InputError
from mkhspc.store.classifier_summary import (
    ClassifierSummary,
    Interval,
    read_classifier_summary,
    write_classifier_summary,
)
from mkhspc.store.layout import RunLayout

SUMMARY = ClassifierSummary(
    "mk",
    "0123456789abcdef",
    groups=("FGC1", "MHU1"),
    positive=60,
    negative=111,
    figures={"accuracy": Interval(0.8, 0.7, 0.9), "roc_auc": None},
    concerns=("misses the gate",),
)


def test_what_was_noted_of_a_classifier_is_read_back(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    write_classifier_summary(layout, SUMMARY)
    assert (tmp_path / "scores" / "0123456789abcdef.json").exists()
    assert read_classifier_summary(layout, SUMMARY.classifier_id) == SUMMARY


def test_nothing_noted_is_nothing(tmp_path: Path) -> None:
    assert read_classifier_summary(RunLayout(tmp_path), "0123456789abcdef") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"format": "x"},
        {"figures": []},
        {"figures": {"accuracy": {"value": 1.0}}},
        {"groups": 3},
    ],
)
def test_a_note_that_was_changed_is_refused_by_name(tmp_path: Path, changes: dict[str, object]) -> None:
    layout = RunLayout(tmp_path)
    write_classifier_summary(layout, SUMMARY)
    path = layout.classifier_summary(SUMMARY.classifier_id)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError, match=rf"{path.name}.*is damaged"):
        read_classifier_summary(layout, SUMMARY.classifier_id)
