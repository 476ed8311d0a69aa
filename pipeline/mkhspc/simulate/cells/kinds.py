"""Every kind of object in a simulated marrow, and what an honest pipeline should say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mkhspc.simulate.cells import hard_cells as hard, large_cells as large, small_cells as small
from mkhspc.simulate.cells.cell import Cell

Target = Literal["hspc", "mk", ""]
Label = Literal["positive", "negative", ""]
Place = Literal["free", "fat", "border", "crowd"]


@dataclass(frozen=True)
class Kind:
    """A kind of object.

    Attributes:
        target: the candidate detector that should find it; empty if none may.
        label: an expert's answer for it; empty where no question is asked.
        draw: makes one, around the origin.
        clear: False where an expert would not call a detector wrong either way.
        place: where a large cell lies: where there is room, against a fat cell, across the scene's border, or
            where small cells lie over its cytoplasm.
    """

    target: Target
    label: Label
    draw: Callable[[np.random.Generator], Cell]
    clear: bool = True
    place: Place = "free"


KINDS: dict[str, Kind] = {
    "hspc": Kind("hspc", "positive", small.progenitor),
    "lymphocyte": Kind("hspc", "negative", small.lymphocyte),
    "erythroblast": Kind("hspc", "negative", small.erythroblast),
    "monocyte": Kind("hspc", "negative", small.monocyte),
    "band": Kind("hspc", "negative", small.band_granulocyte),
    "stromal": Kind("hspc", "negative", small.stromal),
    "macrophage": Kind("hspc", "negative", small.macrophage),
    "segmented": Kind("hspc", "negative", small.segmented_granulocyte, clear=False),
    "fragment": Kind("", "", small.fragment),
    "debris": Kind("", "", small.debris),
    "precipitate": Kind("", "", small.precipitate),
    "smudge": Kind("", "", small.smudge),
    "mk": Kind("mk", "positive", large.megakaryocyte),
    "osteoclast": Kind("mk", "negative", large.osteoclast),
    "giant-blast": Kind("mk", "negative", large.giant_blast),
    "degenerate": Kind("mk", "negative", large.degenerate),
    "naked-giant": Kind("mk", "negative", large.naked_giant, clear=False),
    "mk-worn": Kind("mk", "positive", hard.worn),
    "mk-pale": Kind("mk", "positive", hard.pale),
    "mk-young": Kind("mk", "positive", hard.young),
    "mk-degenerating": Kind("mk", "positive", hard.degenerating),
    "mk-monolobed": Kind("mk", "positive", hard.monolobed),
    "mk-ring": Kind("mk", "positive", hard.ring_lobed),
    "mk-at-fat": Kind("mk", "positive", hard.at_fat, place="fat"),
    "mk-cut": Kind("mk", "positive", hard.at_border, place="border"),
    "mk-crowded": Kind("mk", "positive", hard.crowded, place="crowd"),
    "stuffed-macrophage": Kind("mk", "negative", hard.stuffed_macrophage),
    "hyaline": Kind("", "", hard.hyaline_body),
    "vessel": Kind("", "", hard.vessel),
}
"""By name, as `kind` of the truth knows them."""


@dataclass(frozen=True)
class Mixture:
    """Which kinds a marrow holds: the shares of each sort, which sum to 1.

    Attributes:
        small: of small nuclei and their like.
        mk: of true megakaryocytes.
        mk_like: of large objects that are mistaken for them.
    """

    small: Mapping[str, float]
    mk: Mapping[str, float]
    mk_like: Mapping[str, float]


TEXTBOOK = Mixture(
    small={
        "hspc": 0.37,
        "lymphocyte": 0.13,
        "erythroblast": 0.18,
        "monocyte": 0.07,
        "band": 0.09,
        "stromal": 0.03,
        "macrophage": 0.02,
        "segmented": 0.04,
        "fragment": 0.05,
        "debris": 0.01,
        "precipitate": 0.008,
        "smudge": 0.002,
    },
    mk={"mk": 1.0},
    mk_like={"osteoclast": 0.3, "giant-blast": 0.3, "degenerate": 0.3, "naked-giant": 0.1},
)
"""Every MK as in a textbook."""

HARD = Mixture(
    small=TEXTBOOK.small,
    mk={
        "mk-worn": 0.16,
        "mk-pale": 0.14,
        "mk-young": 0.12,
        "mk-degenerating": 0.08,
        "mk-monolobed": 0.11,
        "mk-ring": 0.1,
        "mk-at-fat": 0.11,
        "mk-cut": 0.06,
        "mk-crowded": 0.12,
    },
    mk_like={
        "osteoclast": 0.12,
        "giant-blast": 0.1,
        "naked-giant": 0.06,
        "stuffed-macrophage": 0.22,
        "hyaline": 0.28,
        "vessel": 0.22,
    },
)
"""MK of the kinds that detectors miss on real marrow, and what they take for MK there."""
