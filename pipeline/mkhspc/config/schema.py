"""The settings of a study and their defaults: one section of the TOML file, one dataclass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

CellType = Literal["mk", "hspc"]
CELL_TYPES: tuple[CellType, ...] = ("mk", "hspc")

DETECTORS: dict[CellType, tuple[str, ...]] = {
    "mk": ("classical", "sam2"),
    "hspc": ("classical", "cellpose", "cellpose+sam2"),
}
EMBEDDERS = ("efficientnet-lite0", "resnet50", "sam2")
NO_EMBEDDER = "none"
ORDERS = ("random", "area", "uncertainty")
"""In which cards of a gallery come."""

STORED_BELOW_MIN = 0.5
"""Cells are stored from this share of the smallest area in the filter ..."""
STORED_ABOVE_MAX = 2.0
"""... to this multiple of the largest, so that `refilter` has room without a detector."""
LENGTH_PER_DIAMETER = 1.4
"""Longest cell kept, as a multiple of the diameter of a disc of the largest stored area."""


@dataclass(frozen=True)
class AreaRange:
    """A closed range of areas in µm²."""

    min_um2: float
    max_um2: float

    def contains(self, other: AreaRange) -> bool:
        return self.min_um2 <= other.min_um2 and other.max_um2 <= self.max_um2

    @property
    def min_diameter_um(self) -> float:
        """Of the disc of the smallest area."""
        return _diameter(self.min_um2)

    @property
    def max_length_um(self) -> float:
        """The longest a cell of this range may be: an area alone bounds no length."""
        return LENGTH_PER_DIAMETER * _diameter(self.max_um2)


def _diameter(area: float) -> float:
    """Of the disc of this area, in the square root of the area's unit."""
    return math.sqrt(4.0 * area / math.pi)


@dataclass(frozen=True)
class RunSection:
    """`[run]`: where, which slides, which share of them."""

    output_dir: str = ""
    slides: tuple[str, ...] = ()
    sample_fraction: float = 1.0
    tile_size: int = 4096
    calibration_samples: int = 100
    seed: int = 0
    um_per_px: float | None = None
    scenes: tuple[int, ...] = ()


@dataclass(frozen=True)
class CellSection:
    """`[mk]` or `[hspc]`: the detector, the size filter in µm² and an optional classifier."""

    detector: str = "auto"
    min_area_um2: float = 0.0
    max_area_um2: float = 0.0
    classifier: str | None = None

    @property
    def filter(self) -> AreaRange:
        return AreaRange(self.min_area_um2, self.max_area_um2)

    @property
    def stored(self) -> AreaRange:
        """What is kept on disk; the filter is a view on it."""
        return AreaRange(STORED_BELOW_MIN * self.min_area_um2, STORED_ABOVE_MAX * self.max_area_um2)


@dataclass(frozen=True)
class ComputeSection:
    """`[compute]`: with what. But for the embedder and the weights it never changes what is found.

    Attributes:
        embedder: 'none', or one or several of `EMBEDDERS` with commas between.
        sam2_weights, cellpose_weights: a name of the catalogue, or a checkpoint's path; 'auto' until the
            run is created.
    """

    num_workers: int | Literal["auto"] = "auto"
    memory_gb: float | None = None
    device: str = "auto"
    embedder: str = NO_EMBEDDER
    sam2_weights: str = "auto"
    cellpose_weights: str = "auto"

    @property
    def embedders(self) -> tuple[str, ...]:
        """In an order that does not depend on how they were given."""
        return tuple(sorted({name.strip() for name in self.embedder.split(",")} - {NO_EMBEDDER}))


@dataclass(frozen=True)
class GallerySection:
    """`[gallery]`: how the static site is made."""

    out: str | None = None
    cards_per_page: int = 300
    order: str = "random"
    max_site_mb: float = 1000.0
    title: str = "Bone marrow cells"


@dataclass(frozen=True)
class SlurmSection:
    """`[slurm]`: what the cluster's jobs ask for."""

    partition: str | None = None
    shards_per_slide: int = 1
    time_min: int = 720
    memory_gb: float | Literal["auto"] = "auto"
    cpus: int | Literal["auto"] = "auto"
    gpus: int = 0
    account: str | None = None
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunConfig:
    """Every setting of a study, resolved. Field names are the keys of the TOML file.

    Attributes:
        given: dotted keys of the settings that were asked for; all others are defaults.
    """

    run: RunSection = field(default_factory=RunSection)
    mk: CellSection = field(default_factory=lambda: CellSection(min_area_um2=100.0, max_area_um2=2100.0))
    hspc: CellSection = field(default_factory=lambda: CellSection(min_area_um2=10.0, max_area_um2=150.0))
    compute: ComputeSection = field(default_factory=ComputeSection)
    gallery: GallerySection = field(default_factory=GallerySection)
    slurm: SlurmSection = field(default_factory=SlurmSection)
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def cells(self, cell_type: CellType) -> CellSection:
        return self.mk if cell_type == "mk" else self.hspc
