from __future__ import annotations

import pytest

from pipeline.config import CELL_TYPES
from pipeline.detect.resolve import build_detector, choose_detector
from pipeline.errors import UsageError


@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_auto_is_classical_and_says_why(cell_type):
    choice = choose_detector(cell_type, "auto")
    assert choice.name == "classical"
    assert "weights" in choice.reason


@pytest.mark.parametrize("cell_type", CELL_TYPES)
@pytest.mark.parametrize("name", ["auto", "classical"])
def test_a_detector_is_of_the_type_it_was_built_for(cell_type, name):
    detector = build_detector(cell_type, name)
    assert (detector.cell_type, detector.name) == (cell_type, "classical")
    assert detector.reach_um > 0


def test_an_unknown_detector_is_refused_with_the_valid_ones():
    with pytest.raises(UsageError) as raised:
        build_detector("mk", "watershed")
    assert "'watershed' for mk" in str(raised.value)
    assert "auto, classical" in str(raised.value)
