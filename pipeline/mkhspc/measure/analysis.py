"""What is looked for and measured in every tile of a run, and how far around its core that reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mkhspc.config import CELL_TYPES, CellRange, CellType, RunConfig
from mkhspc.detect.contract import MIDDLE_SHARE, Detector, NeededCells
from mkhspc.detect.resolve import build_detectors
from mkhspc.detect.window_grid import WindowGrid
from mkhspc.geometry import Box, um_to_px
from mkhspc.measure import crops, deep, features
from mkhspc.models.choice import RunModels
from mkhspc.models.service import MESSAGE_BYTES, ModelService, NoModels
from mkhspc.store.manifest import Manifest

MOSTLY_INSIDE = 0.5
"""An HSPC with more than this share of its pixels in an MK candidate is marked as inside it. Their centroids
are no farther apart than `MIDDLE_SHARE` of the longest MK. Of its neighbours' MK a tile knows those that hold
one of its own HSPC so; others may be missing or cut."""


@dataclass(frozen=True)
class TileAnalysis:
    """The detectors and embedders of a run, the same for each of its tiles.

    Attributes:
        detectors: one a cell type.
        stored: the areas of cells that are kept.
        embedders: networks that describe cells, besides what is measured; `service` reaches them.
    """

    detectors: Mapping[CellType, Detector]
    stored: Mapping[CellType, CellRange]
    embedders: Sequence[str] = ()
    service: ModelService = field(default_factory=NoModels)

    @classmethod
    def of(
        cls,
        config: RunConfig,
        stored: Mapping[CellType, CellRange],
        models: RunModels,
        service: ModelService | None = None,
    ) -> TileAnalysis:
        """What a config asks for; without a `service` it can be described, not run."""
        service = service or NoModels()
        names = {t: config.cells(t).detector for t in CELL_TYPES}
        detectors = build_detectors(names, stored, models, service)
        return cls(detectors, stored, config.compute.embedders, service)

    def halo_px(self, um_per_px: float) -> int:
        """Enough for every detector, feature and crop of an owned cell, wherever its tile lies."""
        embedded_um = deep.reach_um(self.embedders, self._longest_stored_um)
        seen_px = (self.detector_halo_px(cell_type, um_per_px) for cell_type in CELL_TYPES)
        return max(um_to_px(embedded_um, um_per_px), self.near_halo_px(um_per_px), *seen_px)

    def read_box(self, core: Box, um_per_px: float) -> Box:
        """All that a tile sees: about a core, `halo_px` or less on each side."""
        box = core.grown(self.near_halo_px(um_per_px))
        for cell_type in CELL_TYPES:
            box = box.joined(self.detector_box(cell_type, core, um_per_px))
        return box.joined(deep.seen_box(self.embedders, core, self._longest_stored_um, um_per_px))

    def near_halo_px(self, um_per_px: float) -> int:
        """Enough for HSPC, and for all features and crops but those of networks."""
        longest_um = max(self.longest_um(cell_type) for cell_type in CELL_TYPES)
        measured_um = max(crops.reach_um(um_per_px), longest_um + features.reach_um(um_per_px))
        return max(um_to_px(measured_um, um_per_px), self.detector_halo_px("hspc", um_per_px))

    def message_bytes(self, um_per_px: float) -> int:
        """The largest message between a worker and a model server."""
        asks_sam2 = deep.SAM2 in self.embedders or self.detectors["mk"].name == deep.SAM2
        grid = WindowGrid.of(self._longest_stored_um, um_per_px)
        return max(MESSAGE_BYTES, grid.window_bytes if asks_sam2 else 0)

    def longest_um(self, cell_type: CellType) -> float:
        """No cell of the type is longer: by what is stored, or by how it is found."""
        return min(self.stored[cell_type].max_length_um, self.detectors[cell_type].longest_um)

    def needed(self, cell_type: CellType) -> NeededCells:
        """Which cells of a type a tile has to know: of MK those of its neighbours too that hold its HSPC."""
        longest_um = self.longest_um(cell_type)
        if cell_type == "hspc":
            return NeededCells(longest_um)
        # The centroid of the part of an HSPC that lies in an MK is nearer to the whole one's than this.
        point_um = (1.0 - MOSTLY_INSIDE) * self.longest_um("hspc")
        return NeededCells(longest_um, MIDDLE_SHARE * longest_um, point_um)

    def wanted(self, cell_type: CellType, core: Box, um_per_px: float) -> Box:
        """Where the centroids of the cells lie that a core needs."""
        return self.needed(cell_type).centroids(core, um_per_px)

    def detector_box(self, cell_type: CellType, core: Box, um_per_px: float) -> Box:
        """What a detector sees for a core."""
        return self.detectors[cell_type].seen_box(core, self.needed(cell_type), um_per_px)

    def detector_halo_px(self, cell_type: CellType, um_per_px: float) -> int:
        """Enough around any core for the cells of a type that it needs."""
        return um_to_px(self.detectors[cell_type].halo_um(self.needed(cell_type)), um_per_px)

    @property
    def _longest_stored_um(self) -> float:
        return max(area.max_length_um for area in self.stored.values())

    def embedding(self, cell_type: CellType) -> deep.Embedding:
        """Who describes the cells of a type."""
        return deep.Embedding(self.embedders, self.stored[cell_type].max_length_um, self.service)


def feature_names(embedders: Sequence[str]) -> list[str]:
    """The feature columns of a run's tables, in their order."""
    return [*features.FEATURE_NAMES, *deep.column_names(embedders)]


def analysis_of(manifest: Manifest, models: RunModels) -> TileAnalysis:
    """What a run looks for, to be looked at: it reaches no models."""
    return TileAnalysis.of(manifest.config, {t: manifest.stored(t) for t in CELL_TYPES}, models)
