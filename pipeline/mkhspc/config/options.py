"""The options of `segment`, named in Python as on the command line, and the settings that they set."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypedDict

from mkhspc.config.schema import CellType
from mkhspc.errors import UsageError

StrPath = str | PathLike[str]

AREA_SETTINGS = {
    "mk_min_area_um": "mk.min_area_um2",
    "mk_max_area_um": "mk.max_area_um2",
    "hspc_min_area_um": "hspc.min_area_um2",
    "hspc_max_area_um": "hspc.max_area_um2",
}
"""The four area options, in µm², and the settings of the configuration file that they set."""
SCORE_SETTINGS = {"mk_min_score": "mk.min_score", "hspc_min_score": "hspc.min_score"}
"""The two options for the least score of a detector, from 0 to 1, and the settings that they set."""
FILTER_SETTINGS = AREA_SETTINGS | SCORE_SETTINGS
"""The options of the filter."""

SETTINGS = {
    "slides": "run.slides",
    "output_dir": "run.output_dir",
    "sample_fraction": "run.sample_fraction",
    "tile_size": "run.tile_size",
    "calibration_samples": "run.calibration_samples",
    "seed": "run.seed",
    "um_per_px": "run.um_per_px",
    "scenes": "run.scenes",
    "channel": "run.channel",
    "mk_detector": "mk.detector",
    "hspc_detector": "hspc.detector",
    "mk_classifier": "mk.classifier",
    "hspc_classifier": "hspc.classifier",
    "num_workers": "compute.num_workers",
    "memory_gb": "compute.memory_gb",
    "device": "compute.device",
    "embedders": "compute.embedder",
    "sam2_weights": "compute.sam2_weights",
    "cellpose_weights": "compute.cellpose_weights",
    **FILTER_SETTINGS,
}
"""Every option of `segment` and the setting of the configuration file that it sets."""


class AreaBounds(TypedDict, total=False):
    """Bounds of the size filter in µm²; None, or a bound left out, keeps what is in force."""

    mk_min_area_um: float | None
    mk_max_area_um: float | None
    hspc_min_area_um: float | None
    hspc_max_area_um: float | None


class FilterBounds(AreaBounds, total=False):
    """Bounds of the filter: areas in µm², and the detector's least score, from 0 to 1."""

    mk_min_score: float | None
    hspc_min_score: float | None


class SegmentOptions(FilterBounds, total=False):
    """The options of `segment` as keywords; one that is left out, or None, keeps the file's value.

    Attributes:
        slides: CZI files, or patterns such as 'slides/*.czi'.
        output_dir: the run's directory; the same directory again resumes the run.
        sample_fraction: share of the tiles to do, above 0 and at most 1.
        tile_size: side of a tile's core in level-0 pixels.
        calibration_samples: windows per scene on which the stains are calibrated.
        seed: decides the order of sampling and the blind codes of the slides.
        um_per_px: pixel size in µm, for slides that state none.
        scenes: indices of the scenes to work on.
        channel: number of the channel to read, of slides with several RGB channels.
        mk_detector, hspc_detector: 'auto', or a name that `mkhspc segment --help` lists.
        mk_classifier, hspc_classifier: `.skops` files that score the cells of the run.
        num_workers: processes that work on tiles, or 'auto'.
        memory_gb: memory that the run may use, in GB of 10^9 bytes.
        device: 'auto', 'cpu', 'cuda:0', or several GPUs with commas between.
        embedders: networks that describe each cell besides shape, colour and texture.
        sam2_weights, cellpose_weights: a name that `mkhspc models list` shows, or a file.
    """

    slides: StrPath | Sequence[StrPath] | None
    output_dir: StrPath | None
    sample_fraction: float | None
    tile_size: int | None
    calibration_samples: int | None
    seed: int | None
    um_per_px: float | None
    scenes: Sequence[int] | None
    channel: int | None
    mk_detector: str | None
    hspc_detector: str | None
    mk_classifier: StrPath | None
    hspc_classifier: StrPath | None
    num_workers: int | Literal["auto"] | None
    memory_gb: float | None
    device: str | None
    embedders: Sequence[str] | None
    sam2_weights: StrPath | None
    cellpose_weights: StrPath | None


def refuse_unknown_keywords(function: str, given: Iterable[str], valid: Collection[str]) -> None:
    """Raises `UsageError`, with the names there are, where a function is given a keyword that it has not."""
    for name in given:
        if name not in valid:
            raise UsageError(f"{function} has no option '{name}'", fix=f"its options are: {', '.join(valid)}")


def paths_by_type(mk: StrPath | None, hspc: StrPath | None) -> dict[CellType, Path]:
    """The files that were given, by the cell type that each is for."""
    given: dict[CellType, StrPath | None] = {"mk": mk, "hspc": hspc}
    return {cell_type: Path(path) for cell_type, path in given.items() if path is not None}


def bounds_by_type(function: str, bounds: AreaBounds) -> dict[CellType, tuple[float | None, float | None]]:
    """The least and the largest area of each cell type, in µm²; None where no bound was given.

    Args:
        function: the one that was given these bounds, for errors.

    Raises:
        UsageError: one of them is not an area option.
    """
    refuse_unknown_keywords(function, bounds, AREA_SETTINGS)
    return {
        "mk": (bounds.get("mk_min_area_um"), bounds.get("mk_max_area_um")),
        "hspc": (bounds.get("hspc_min_area_um"), bounds.get("hspc_max_area_um")),
    }


def filter_changes(function: str, bounds: FilterBounds) -> dict[CellType, dict[str, float]]:
    """What is asked of each cell type's filter, by the names of `CellRange`; empty where nothing is.

    Args:
        function: the one that was given these bounds, for errors.

    Raises:
        UsageError: one of them is not an option of the filter.
    """
    refuse_unknown_keywords(function, bounds, FILTER_SETTINGS)
    asked: dict[CellType, dict[str, float | None]] = {
        "mk": {
            "min_um2": bounds.get("mk_min_area_um"),
            "max_um2": bounds.get("mk_max_area_um"),
            "min_score": bounds.get("mk_min_score"),
        },
        "hspc": {
            "min_um2": bounds.get("hspc_min_area_um"),
            "max_um2": bounds.get("hspc_max_area_um"),
            "min_score": bounds.get("hspc_min_score"),
        },
    }
    return {t: {name: v for name, v in of.items() if v is not None} for t, of in asked.items()}


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, by dotted key, that these options set; None where an option was not given.

    Raises:
        UsageError: `segment` has no option of such a name.
    """
    refuse_unknown_keywords("segment", options, SETTINGS)
    return {SETTINGS[name]: _plain(name, value) for name, value in options.items()}


def _plain(name: str, value: Any) -> Any:
    """A value as the configuration file has it: paths as texts, no empty list."""
    if isinstance(value, PathLike):
        value = os.fspath(value)
    if name in ("slides", "embedders") and isinstance(value, str):
        value = [value]
    if isinstance(value, (list, tuple)):
        value = [os.fspath(item) if isinstance(item, PathLike) else item for item in value] or None
    return ",".join(value) if name == "embedders" and value else value
