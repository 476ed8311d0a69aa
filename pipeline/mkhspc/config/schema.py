"""The settings of a study and their defaults: one section of the TOML file, one dataclass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from mkhspc.config.limits import Limit

CellType = Literal["mk", "hspc"]
CELL_TYPES: tuple[CellType, ...] = get_args(CellType)

DETECTORS: dict[CellType, tuple[str, ...]] = {
    "mk": ("classical", "sam2"),
    "hspc": ("classical", "cellpose", "cellpose+sam2"),
}
EMBEDDERS = ("efficientnet-lite0", "resnet50", "sam2")
NO_EMBEDDER = "none"
Order = Literal["random", "area", "uncertainty"]
ORDERS: tuple[Order, ...] = get_args(Order)
"""The orders in which a gallery can show its cards."""

UM_PER_PX = Limit("pixel sizes", least=0.02, most=20.0, unit="µm")
"""Pixel sizes of slide scanners by light microscopy, with a wide margin."""
AREA_UM2 = Limit("areas", above=0, unit="µm²")
SCORE = Limit("scores", least=0, most=1)
"""What a detector says of a cell: 0 for surely none, 1 for surely one."""
AtLeastOne = Annotated[int, Limit(least=1)]

STORED_BELOW_MIN = 0.5
"""Cells are stored from this share of the filter's smallest area, so that `refilter` needs no detector."""
STORED_ABOVE_MAX = 2.0
"""Cells are stored up to this multiple of the filter's largest area, so that `refilter` needs no detector."""
STORED_SCORE: dict[CellType, float] = {"mk": 0.003, "hspc": 0.0}
"""Cells are stored from this score of the detector on. Of MK weak candidates too: a detector proposes, people
and classifiers decide. Cellpose and the classical detector for HSPC have cuts of their own."""
MK_MIN_SCORE = 0.02
"""The least score of MK in the filter by default: chosen for recall, see docs/detection.md."""
LENGTH_PER_DIAMETER = 1.4
"""The longest cell kept, as a multiple of the diameter of a disc of the largest stored area."""


@dataclass(frozen=True)
class CellRange:
    """A range of cells of one type: those in the filter, or those that a run stores.

    Attributes:
        min_um2, max_um2: the areas, in µm², both included.
        min_score: the least score of the detector, included.
    """

    min_um2: float
    max_um2: float
    min_score: float = 0.0

    def contains(self, other: CellRange) -> bool:
        return (
            self.min_um2 <= other.min_um2
            and other.max_um2 <= self.max_um2
            and self.min_score <= other.min_score
        )

    @property
    def has_weak(self) -> bool:
        """Whether candidates that are less likely a cell than not are among them."""
        return self.min_score < 0.5

    def __str__(self) -> str:
        """In words: '100 to 2100 µm²', '100 to 2100 µm² with a score of at least 0.05'."""
        areas = f"{self.min_um2:g} to {self.max_um2:g} µm²"
        return f"{areas} with a score of at least {self.min_score:g}" if self.min_score > 0.0 else areas

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
    sample_fraction: Annotated[float, Limit("fractions", above=0, most=1)] = 1.0
    tile_size: Annotated[int, Limit("tile sizes", least=256, most=65536, unit="px")] = 4096
    calibration_samples: AtLeastOne = 100
    seed: int = 0
    um_per_px: Annotated[float, UM_PER_PX] | None = None
    scenes: tuple[int, ...] = ()
    channel: Annotated[int, Limit("channels", least=0)] | None = None


@dataclass(frozen=True)
class CellSection:
    """`[mk]` or `[hspc]`: the detector, the filter (areas in µm², score) and an optional classifier."""

    detector: str = "auto"
    min_area_um2: Annotated[float, AREA_UM2] = 0.0
    max_area_um2: Annotated[float, AREA_UM2] = 0.0
    min_score: Annotated[float, SCORE] = 0.0
    classifier: str | None = None

    @property
    def filter(self) -> CellRange:
        return CellRange(self.min_area_um2, self.max_area_um2, self.min_score)

    @property
    def stored_areas_um2(self) -> tuple[float, float]:
        """The least and the largest area kept on disk; the filter is a view on it."""
        return STORED_BELOW_MIN * self.min_area_um2, STORED_ABOVE_MAX * self.max_area_um2


@dataclass(frozen=True)
class ComputeSection:
    """`[compute]`: with what. But for the embedder and the weights it never changes what is found.

    Attributes:
        embedder: 'none', or one or several of `EMBEDDERS` with commas between.
        sam2_weights, cellpose_weights: a name of the catalogue, or a checkpoint's path; 'auto' until the
            run is created.
    """

    num_workers: AtLeastOne | Literal["auto"] = "auto"
    memory_gb: Annotated[float, Limit(above=0, unit="GB")] | None = None
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
    cards_per_page: AtLeastOne = 300
    order: Order = "random"
    max_site_mb: Annotated[float, Limit(above=0, unit="MB")] = 1000.0
    title: str = "Bone marrow cells"


@dataclass(frozen=True)
class SlurmSection:
    """`[slurm]`: what the cluster's jobs ask for."""

    partition: str | None = None
    shards_per_slide: AtLeastOne = 1
    time_min: AtLeastOne = 720
    memory_gb: Annotated[float, Limit(above=0, unit="GB")] | Literal["auto"] = "auto"
    cpus: AtLeastOne | Literal["auto"] = "auto"
    gpus: Annotated[int, Limit(least=0)] = 0
    account: str | None = None
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunConfig:
    """Every setting of a study, resolved. Field names are the keys of the TOML file.

    Attributes:
        given: dotted keys of the settings that were asked for; all others are defaults.
    """

    run: RunSection = field(default_factory=RunSection)
    mk: CellSection = field(
        default_factory=lambda: CellSection(min_area_um2=100.0, max_area_um2=2100.0, min_score=MK_MIN_SCORE)
    )
    hspc: CellSection = field(default_factory=lambda: CellSection(min_area_um2=10.0, max_area_um2=150.0))
    compute: ComputeSection = field(default_factory=ComputeSection)
    gallery: GallerySection = field(default_factory=GallerySection)
    slurm: SlurmSection = field(default_factory=SlurmSection)
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def cells(self, cell_type: CellType) -> CellSection:
        return self.mk if cell_type == "mk" else self.hspc

    def stored(self, cell_type: CellType) -> CellRange:
        """What a run that begins with this config keeps of a type."""
        return CellRange(*self.cells(cell_type).stored_areas_um2, STORED_SCORE[cell_type])
