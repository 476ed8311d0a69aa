"""Every kind of object in a simulated marrow, and what an honest pipeline should say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mkhspc.simulate.cells import large_cells as large, small_cells as small
from mkhspc.simulate.cells.cell import Cell

Target = Literal["hspc", "mk", ""]
Label = Literal["positive", "negative", ""]


@dataclass(frozen=True)
class Kind:
    """A kind of object.

    Attributes:
        target: the candidate detector that should find it; empty if none may.
        label: an expert's answer for it; empty where no question is asked.
        draw: makes one, around the origin.
        share: of all small objects, or (target 'mk') of all large cells that are not MK.
        clear: False where an expert would not call a detector wrong either way.
    """

    target: Target
    label: Label
    draw: Callable[[np.random.Generator], Cell]
    share: float
    clear: bool = True


KINDS: dict[str, Kind] = {
    "hspc": Kind("hspc", "positive", small.progenitor, 0.37),
    "lymphocyte": Kind("hspc", "negative", small.lymphocyte, 0.13),
    "erythroblast": Kind("hspc", "negative", small.erythroblast, 0.18),
    "monocyte": Kind("hspc", "negative", small.monocyte, 0.07),
    "band": Kind("hspc", "negative", small.band_granulocyte, 0.09),
    "stromal": Kind("hspc", "negative", small.stromal, 0.03),
    "macrophage": Kind("hspc", "negative", small.macrophage, 0.02),
    "segmented": Kind("hspc", "negative", small.segmented_granulocyte, 0.04, clear=False),
    "fragment": Kind("", "", small.fragment, 0.05),
    "debris": Kind("", "", small.debris, 0.01),
    "precipitate": Kind("", "", small.precipitate, 0.008),
    "smudge": Kind("", "", small.smudge, 0.002),
    "mk": Kind("mk", "positive", large.megakaryocyte, 0.0),
    "osteoclast": Kind("mk", "negative", large.osteoclast, 0.3),
    "giant-blast": Kind("mk", "negative", large.giant_blast, 0.3),
    "degenerate": Kind("mk", "negative", large.degenerate, 0.3),
    "naked-giant": Kind("mk", "negative", large.naked_giant, 0.1, clear=False),
}
"""By name, in the order that `kind` of the truth knows them. Shares of each sort sum to 1."""
