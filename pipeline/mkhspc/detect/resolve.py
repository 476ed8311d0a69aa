"""From the name of a detector to the detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mkhspc.config import CELL_TYPES, DETECTORS, CellRange, CellType, RunConfig, with_options
from mkhspc.detect.cellpose import CellposeHspc, refuse_too_long
from mkhspc.detect.classical import ClassicalHspc, ClassicalMk
from mkhspc.detect.contract import Detector
from mkhspc.detect.refine import RefinedBySam2
from mkhspc.detect.sam2 import Sam2Mk
from mkhspc.errors import UsageError
from mkhspc.models.choice import RunModels, fitness, needed
from mkhspc.models.service import ModelService

REAL: Mapping[CellType, str] = {"mk": "sam2", "hspc": "cellpose"}
"""The detectors that 'auto' stands for where their models can run."""


@dataclass(frozen=True)
class DetectorChoice:
    """The detector that a run uses for a cell type, and why, as a clause for the manifest."""

    name: str
    reason: str


def choose_detectors(config: RunConfig, jobs_gpus: int | None = None) -> dict[CellType, DetectorChoice]:
    """What a config's detectors stand for here and now; any name but 'auto' stands for itself.

    Args:
        jobs_gpus: see `fitness`.

    Raises:
        UsageError: there is no detector of that name for the cell type, or no such device.
        InputError: weights that are asked for by name are not here.
    """
    chosen: dict[CellType, DetectorChoice] = {}
    for cell_type in CELL_TYPES:  # one after the other: they share the GPU
        chosen[cell_type] = _choose(cell_type, config, jobs_gpus)
        config = with_options(config, {f"{cell_type}.detector": chosen[cell_type].name})
    return chosen


def _choose(cell_type: CellType, config: RunConfig, jobs_gpus: int | None) -> DetectorChoice:
    asked = config.cells(cell_type).detector
    if asked == "auto":
        found = fitness(REAL[cell_type], config.compute, jobs_gpus, needed(config))
        return DetectorChoice(REAL[cell_type] if found.is_fit else "classical", found.reason)
    if asked not in DETECTORS[cell_type]:
        raise UsageError(
            f"there is no detector '{asked}' for {cell_type}",
            fix=f"choose one of: {', '.join(('auto', *DETECTORS[cell_type]))}",
        )
    return DetectorChoice(asked, "it was asked for")


def build_detectors(
    names: Mapping[CellType, str],
    stored: Mapping[CellType, CellRange],
    models: RunModels,
    service: ModelService,
) -> dict[CellType, Detector]:
    """The detectors of these names.

    Args:
        stored: the areas of cells that are kept.
        service: answers for the models; detectors without a model never ask it.

    Raises:
        UsageError: there is no detector of a name, or Cellpose is to find cells that are too long for it.
    """
    builders = _builders(stored, models, service)
    return {cell_type: _named(names[cell_type], cell_type, builders[cell_type])() for cell_type in CELL_TYPES}


def _builders(
    stored: Mapping[CellType, CellRange], models: RunModels, service: ModelService
) -> dict[CellType, dict[str, Callable[[], Detector]]]:
    """What builds each detector, by cell type and name."""

    def sam2_mk() -> Detector:
        return Sam2Mk(service, models.digest("sam2"), stored["mk"].max_length_um)

    def cellpose() -> CellposeHspc:
        refuse_too_long(stored["hspc"])
        return CellposeHspc(service, models.digest("cellpose"))

    def refined() -> Detector:
        return RefinedBySam2(cellpose(), service, models.digest("sam2"))

    return {
        "mk": {"classical": ClassicalMk, "sam2": sam2_mk},
        "hspc": {"classical": ClassicalHspc, "cellpose": cellpose, "cellpose+sam2": refined},
    }


def _named(
    name: str, cell_type: CellType, known: Mapping[str, Callable[[], Detector]]
) -> Callable[[], Detector]:
    if name not in known:
        raise UsageError(
            f"there is no detector '{name}' for {cell_type}", fix=f"choose one of: {', '.join(known)}"
        )
    return known[name]
