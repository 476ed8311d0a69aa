"""From the name of a detector to the detector."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import DETECTORS, CellType
from pipeline.detect.classical import ClassicalHspc, ClassicalMk
from pipeline.detect.contract import Detector
from pipeline.errors import UsageError


@dataclass(frozen=True)
class DetectorChoice:
    """The detector that a run uses for a cell type, and why, as a clause for the manifest."""

    name: str
    reason: str


def choose_detector(cell_type: CellType, asked: str) -> DetectorChoice:
    """What 'auto' stands for here and now; any other name stands for itself.

    Raises:
        UsageError: there is no detector of that name for the cell type.
    """
    if asked == "auto":
        return DetectorChoice("classical", "it needs no weights and no GPU, and no other is built in")
    if asked not in DETECTORS[cell_type]:
        raise UsageError(
            f"there is no detector '{asked}' for {cell_type}",
            fix=f"choose one of: {', '.join(('auto', *DETECTORS[cell_type]))}",
        )
    return DetectorChoice(asked, "it was asked for")


def build_detector(cell_type: CellType, name: str) -> Detector:
    """The detector of that name ('auto' is resolved first), ready to use.

    Raises:
        UsageError: there is none.
    """
    choose_detector(cell_type, name)
    return ClassicalMk() if cell_type == "mk" else ClassicalHspc()
