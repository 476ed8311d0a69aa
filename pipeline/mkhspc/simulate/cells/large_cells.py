"""Megakaryocytes and the large cells that are mistaken for them."""

from __future__ import annotations

import math

import numpy as np

from mkhspc.simulate.cells.cell import (
    Body,
    Cell,
    Nucleus,
    Stain,
    clipped_normal,
    some_blob,
    some_nucleoli,
    some_stain,
)
from mkhspc.simulate.cells.shapes import Lobes, turned


def large_body(rng: np.random.Generator, radius_um: float, stain: Stain) -> Body:
    """A wide granular body with an unquiet outline, often with a gap of shrinkage around it."""
    shape = some_blob(rng, radius_um, float(rng.uniform(1.0, 1.35)), (2, 3, 4, 5, 7), 0.13)
    return Body(shape, stain, (0.09, 0.7), halo_um=float(rng.uniform(0.0, 1.6)))


def _bunch(rng: np.random.Generator, count: int, reach_um: float, lobe_um: float) -> Lobes:
    """Lobes that hang together, as near as may be within `reach_um` of the origin."""
    x, y = rng.normal(0.0, 0.3 * lobe_um, 2)
    discs = [(float(x), float(y), lobe_um * float(rng.uniform(0.75, 1.2)))]
    while len(discs) < count:
        radius_um = lobe_um * float(rng.uniform(0.75, 1.2))
        x, y, other_um = discs[int(rng.integers(len(discs)))]
        step = turned(rng.uniform(0.7, 0.95) * (radius_um + other_um), rng.uniform(0.0, 2.0 * np.pi))
        x, y = x + step[0], y + step[1]
        if np.hypot(x, y) + radius_um <= reach_um:
            discs.append((x, y, radius_um))
        else:
            # A little more room after each miss, so that the last lobe is always placed.
            reach_um += 0.02
    return Lobes(tuple(discs), 0.45)


def lobed(rng: np.random.Generator, body_um: float, count: int, share: float) -> Lobes:
    """A nucleus of `count` lobes that fills this share of a body of radius `body_um`."""
    overlap = 1.0 if count == 1 else 0.8
    return _bunch(rng, count, 0.74 * body_um, body_um * math.sqrt(share / (overlap * count)))


def megakaryocyte(rng: np.random.Generator) -> Cell:
    """A wide pink granular body around one large lobed nucleus with coarse chromatin: a true MK."""
    radius_um = clipped_normal(rng, 12.6, 2.2, 9.4, 20.0)
    count = int(np.clip(rng.poisson(4.2), 1, 9))
    nucleus = Nucleus(
        lobed(rng, radius_um, count, float(rng.uniform(0.2, 0.38))),
        some_stain(rng, 0.8, 0.18, 0.12),
        contrast=clipped_normal(rng, 0.32, 0.06, 0.15, 0.45),
        grain_um=float(rng.choice([0.9, 1.1, 1.3])),
        envelope=clipped_normal(rng, 0.3, 0.1, 0.05, 0.5),
    )
    return Cell("mk", (nucleus,), large_body(rng, radius_um, some_stain(rng, 0.07, 0.34, 0.12)), "body")


def osteoclast(rng: np.random.Generator) -> Cell:
    """Several small round nuclei, apart from one another, in one wide body."""
    radius_um = clipped_normal(rng, 13.0, 2.0, 9.5, 19.0)
    places: list[tuple[float, float]] = []
    wanted = int(rng.integers(3, 8))
    for away, turn in rng.random((200, 2)):
        x, y = turned(radius_um * np.sqrt(0.45 * away), 2.0 * np.pi * turn)
        if len(places) < wanted and all(np.hypot(x - a, y - b) > 6.0 for a, b in places):
            places.append((x, y))
    stain = some_stain(rng, 0.72, 0.16, 0.13)
    nuclei = tuple(
        Nucleus(
            some_blob(rng, float(rng.uniform(2.4, 3.0)), float(rng.uniform(1.0, 1.3)), (), 0.0),
            stain,
            place,
            contrast=0.26,
            envelope=0.3,
            nucleoli=some_nucleoli(rng, 1, 2.7),
        )
        for place in places
    )
    return Cell("osteoclast", nuclei, large_body(rng, radius_um, some_stain(rng, 0.1, 0.32, 0.12)), "body")


def giant_blast(rng: np.random.Generator) -> Cell:
    """An outsized precursor: one large round nucleus with nucleoli in a basophilic body."""
    radius_um = clipped_normal(rng, 10.4, 0.9, 9.2, 12.5)
    core_um = radius_um * float(rng.uniform(0.58, 0.7))
    nucleus = Nucleus(
        some_blob(rng, core_um, float(rng.uniform(1.0, 1.25)), (2, 3, 4), 0.07),
        some_stain(rng, 0.72, 0.14, 0.11),
        contrast=0.3,
        grain_um=1.1,
        envelope=0.3,
        nucleoli=some_nucleoli(rng, int(rng.integers(2, 5)), core_um),
    )
    return Cell(
        "giant-blast", (nucleus,), large_body(rng, radius_um, some_stain(rng, 0.15, 0.29, 0.14)), "body"
    )


def degenerate(rng: np.random.Generator) -> Cell:
    """A dying large cell: shrunken dense nucleus without texture, deep pink body."""
    radius_um = clipped_normal(rng, 11.4, 1.5, 9.4, 15.5)
    nucleus = Nucleus(
        lobed(rng, radius_um, int(rng.integers(1, 5)), float(rng.uniform(0.17, 0.27))),
        some_stain(rng, 1.08, 0.2, 0.11),
        contrast=0.1,
        envelope=0.05,
        softness_um=0.7,
    )
    return Cell(
        "degenerate", (nucleus,), large_body(rng, radius_um, some_stain(rng, 0.04, 0.42, 0.12)), "body"
    )


def naked_giant(rng: np.random.Generator) -> Cell:
    """The nucleus of a large cell that has lost its body: a candidate to some, to others none."""
    radius_um = clipped_normal(rng, 7.6, 0.4, 7.1, 8.6)
    nucleus = Nucleus(
        lobed(rng, radius_um, int(rng.integers(2, 5)), 1.0),
        some_stain(rng, 0.95, 0.15, 0.12),
        contrast=0.28,
        grain_um=1.1,
        envelope=0.25,
    )
    return Cell("naked-giant", (nucleus,))
