"""Cellpose's loader with a small backbone, for owners in processes of their own; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.models import choice
from pipeline.models.cache import WeightFile
from pipeline.models.cellpose import Cellpose, CellposeLoader
from pipeline.models.device import Footprint
from pipeline.models.service import Loader

_usual_loader = choice._loader


@dataclass(frozen=True)
class SmallCellposeLoader(CellposeLoader):
    """Loads the weights that `conecells.save_cone_finder` writes; else Cellpose's own class and format."""

    def load(self, device: str) -> Cellpose:
        from conecells import small_backbone

        with small_backbone():
            return super().load(device)


def small_loader(model: str, weights: WeightFile, footprint: Footprint | None) -> Loader:
    """In the place of `pipeline.models.choice._loader`."""
    if model == "cellpose":
        return SmallCellposeLoader(weights, footprint)
    return _usual_loader(model, weights, footprint)


def run(words: list[str]) -> int:
    """`mkhspc` with that loader."""
    from pipeline.cli import run_command  # owners import this module too, and need no commands

    choice._loader = small_loader
    return run_command(words)
