"""Cellpose's loader with a small backbone, for model servers in processes of their own; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from mkhspc.models import choice
from mkhspc.models.cellpose import Cellpose, CellposeLoader
from mkhspc.models.device import Footprint
from mkhspc.models.service import Loader
from mkhspc.models.weights.cache import WeightFile

_usual_loader = choice._loader


@dataclass(frozen=True)
class SmallCellposeLoader(CellposeLoader):
    """Loads the weights that `conecells.save_cone_finder` writes; else Cellpose's own class and format."""

    def load(self, device: str) -> Cellpose:
        from conecells import small_backbone

        with small_backbone():
            return super().load(device)


def small_loader(model: str, weights: WeightFile, footprint: Footprint | None) -> Loader:
    """In the place of `mkhspc.models.choice._loader`."""
    if model == "cellpose":
        return SmallCellposeLoader(weights, footprint)
    return _usual_loader(model, weights, footprint)


def run(words: list[str]) -> int:
    """`mkhspc` with that loader."""
    from mkhspc.cli import run_command  # model servers import this module too, and need no commands

    choice._loader = small_loader
    return run_command(words)
