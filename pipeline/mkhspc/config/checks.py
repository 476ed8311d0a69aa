"""Settings that depend on each other or on names: refused with what they could be.

The limits of single numbers stand beside the settings, in `schema.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mkhspc.config.limits import Limit, either
from mkhspc.config.schema import (
    AREA_UM2,
    CELL_TYPES,
    DETECTORS,
    EMBEDDERS,
    NO_EMBEDDER,
    SCORE,
    STORED_SCORE,
    UM_PER_PX,
    CellRange,
    CellType,
    RunConfig,
)
from mkhspc.errors import UsageError

SCORE_LIMITS = {t: Limit("scores", least=least, most=1) for t, least in STORED_SCORE.items()}
"""A new run's filter asks for no score that is not stored."""
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def check(config: RunConfig) -> None:
    """Raises `UsageError` for settings that no run could have."""
    for cell_type in CELL_TYPES:
        section = config.cells(cell_type)
        check_filter(section.filter, cell_type)
        SCORE_LIMITS[cell_type].check(f"{cell_type}.min_score", section.min_score)
        _check_name(f"{cell_type}.detector", section.detector, ("auto", *DETECTORS[cell_type]))
    for name in config.compute.embedder.split(","):
        _check_name("compute.embedder", name.strip(), (NO_EMBEDDER, *EMBEDDERS))
    device = config.compute.device
    if not all(DEVICE.fullmatch(name.strip()) for name in device.split(",")):
        raise UsageError(
            f"compute.device is {device!r};"
            " it must be auto, cpu, cuda, cuda:0, or several GPUs with commas between"
        )


def check_um_per_px(um_per_px: float, name: object) -> None:
    """Raises `UsageError` for a pixel size that no slide scan by light microscopy has."""
    UM_PER_PX.check(name, um_per_px)


def check_filter(view: CellRange, cell_type: CellType) -> None:
    """Raises `UsageError` unless 0 < min < max, both finite, and the least score lies in 0 to 1."""
    AREA_UM2.check(f"{cell_type}.min_area_um2", view.min_um2)
    AREA_UM2.check(f"{cell_type}.max_area_um2", view.max_um2)
    if view.max_um2 <= view.min_um2:
        raise UsageError(
            f"{cell_type}.max_area_um2 is {view.max_um2:g};"
            f" it must be above the minimum of {view.min_um2:g} µm²"
        )
    SCORE.check(f"{cell_type}.min_score", view.min_score)


def _check_name(key: str, name: str, valid: Sequence[str]) -> None:
    if name not in valid:
        raise UsageError(f"{key} is {name!r}; it must be {either(valid)}")
