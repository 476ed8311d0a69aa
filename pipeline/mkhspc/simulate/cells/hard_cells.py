"""Megakaryocytes as marrow really has them, and what is really mistaken for them.

`large_cells` draws the textbook's cells. These are the others: too pale, too young, dying, with a nucleus
of one lobe or a ring of lobes; and bodies that share the colours and the size of one.
"""

from __future__ import annotations

import math
from dataclasses import replace

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
from mkhspc.simulate.cells.large_cells import large_body, lobed, megakaryocyte
from mkhspc.simulate.cells.shapes import Lobes, turned


def _worn(rng: np.random.Generator, body: Body | None) -> Body:
    """A body as sections show it: cut, pressed and stained unevenly, less pink than in a textbook."""
    if body is None:
        raise TypeError("only a cell with a body can be worn")
    less = float(rng.uniform(0.55, 0.95))
    stain = Stain(body.stain.haem * float(rng.uniform(0.8, 1.6)), body.stain.eosin * less)
    return replace(
        body, stain=stain, grain=(float(rng.uniform(0.1, 0.26)), 1.3), foam=float(rng.uniform(0.0, 0.25))
    )


def worn(rng: np.random.Generator) -> Cell:
    """A textbook's MK in a real section."""
    cell = megakaryocyte(rng)
    return replace(cell, kind="mk-worn", body=_worn(rng, cell.body))


def pale(rng: np.random.Generator) -> Cell:
    """Cytoplasm hardly pinker than what lies around it, and an open pale nucleus."""
    radius_um = clipped_normal(rng, 11.5, 1.8, 8.5, 16.0)
    nucleus = Nucleus(
        lobed(rng, radius_um, int(rng.integers(2, 6)), float(rng.uniform(0.18, 0.34))),
        some_stain(rng, 0.52, 0.14, 0.12),
        contrast=0.3,
        grain_um=1.1,
        envelope=0.3,
        softness_um=0.6,
    )
    return Cell("mk-pale", (nucleus,), large_body(rng, radius_um, some_stain(rng, 0.1, 0.2, 0.12)), "body")


def young(rng: np.random.Generator) -> Cell:
    """Small, mostly nucleus, in a thin basophilic rim: a megakaryoblast on its way."""
    radius_um = clipped_normal(rng, 8.2, 0.9, 6.8, 10.0)
    core_um = radius_um * float(rng.uniform(0.62, 0.74))
    nucleus = Nucleus(
        lobed(rng, core_um / 0.74, int(rng.integers(1, 4)), 0.55),
        some_stain(rng, 0.74, 0.15, 0.12),
        contrast=0.32,
        grain_um=1.1,
        envelope=0.3,
        nucleoli=some_nucleoli(rng, int(rng.integers(0, 3)), core_um),
    )
    body = _worn(rng, large_body(rng, radius_um, some_stain(rng, 0.16, 0.28, 0.14)))
    return Cell("mk-young", (nucleus,), body, "body")


def degenerating(rng: np.random.Generator) -> Cell:
    """An MK at its end: a dense smooth nucleus to one side, in a body full of vacuoles."""
    radius_um = clipped_normal(rng, 11.5, 1.6, 8.8, 16.0)
    nucleus = Nucleus(
        lobed(rng, radius_um, int(rng.integers(2, 5)), float(rng.uniform(0.12, 0.2))),
        some_stain(rng, 1.05, 0.2, 0.1),
        turned(0.3 * radius_um, rng.uniform(0.0, 2.0 * np.pi)),
        contrast=0.1,
        envelope=0.05,
        softness_um=0.8,
    )
    body = replace(
        large_body(rng, radius_um, some_stain(rng, 0.05, 0.33, 0.14)), grain=(0.28, 1.6), foam=0.45
    )
    return Cell("mk-degenerating", (nucleus,), body, "body")


def monolobed(rng: np.random.Generator) -> Cell:
    """One round nucleus, off centre, in a small body: the dwarf form."""
    radius_um = clipped_normal(rng, 9.2, 1.1, 7.2, 12.0)
    core_um = radius_um * float(rng.uniform(0.42, 0.55))
    nucleus = Nucleus(
        some_blob(rng, core_um, float(rng.uniform(1.0, 1.3)), (2, 3), 0.08),
        some_stain(rng, 0.78, 0.16, 0.12),
        turned(0.25 * radius_um, rng.uniform(0.0, 2.0 * np.pi)),
        contrast=0.32,
        grain_um=1.1,
        envelope=0.3,
    )
    body = _worn(rng, large_body(rng, radius_um, some_stain(rng, 0.08, 0.31, 0.12)))
    return Cell("mk-monolobed", (nucleus,), body, "body")


def ring_lobed(rng: np.random.Generator) -> Cell:
    """Lobes on a ring around a pale middle, with little cytoplasm outside."""
    radius_um = clipped_normal(rng, 9.6, 1.3, 7.6, 13.0)
    count = int(rng.integers(5, 9))
    away_um = 0.58 * radius_um
    turns = rng.uniform(0.0, 2.0 * np.pi) + np.arange(count) * 2.0 * math.pi / count
    lobe_um = away_um * math.pi / count
    lobes = tuple((*turned(away_um, float(t)), lobe_um * float(rng.uniform(0.85, 1.15))) for t in turns)
    nucleus = Nucleus(
        Lobes(lobes, 0.35), some_stain(rng, 0.74, 0.16, 0.14), contrast=0.3, grain_um=0.9, envelope=0.25
    )
    body = _worn(rng, large_body(rng, radius_um, some_stain(rng, 0.09, 0.3, 0.13)))
    return Cell("mk-ring", (nucleus,), body, "body")


def at_fat(rng: np.random.Generator) -> Cell:
    """A worn MK; `placement` lays it against a fat cell, whose edge cuts into it."""
    return replace(worn(rng), kind="mk-at-fat")


def at_border(rng: np.random.Generator) -> Cell:
    """A worn MK; `placement` lays it across the border of the scene."""
    return replace(worn(rng), kind="mk-cut")


def crowded(rng: np.random.Generator) -> Cell:
    """A worn MK; `placement` lets small cells lie over its cytoplasm."""
    return replace(worn(rng), kind="mk-crowded")


def hyaline_body(rng: np.random.Generator) -> Cell:
    """A wide even pink body with no nucleus of its own and a few small ones at its side."""
    radius_um = clipped_normal(rng, 11.0, 2.5, 7.5, 17.0)
    nuclei = tuple(
        Nucleus(
            some_blob(rng, float(rng.uniform(2.0, 2.9)), float(rng.uniform(1.0, 2.2)), (3,), 0.05),
            some_stain(rng, 0.85, 0.14, 0.14),
            turned(radius_um * float(rng.uniform(0.75, 1.0)), rng.uniform(0.0, 2.0 * np.pi)),
        )
        for _ in range(int(rng.integers(1, 4)))
    )
    shape = some_blob(rng, radius_um, float(rng.uniform(1.0, 1.8)), (2, 3, 4), 0.12)
    body = Body(shape, some_stain(rng, 0.03, 0.36, 0.15), (0.05, 1.3), halo_um=float(rng.uniform(0.0, 1.2)))
    return Cell("hyaline", nuclei, body, "body")


def vessel(rng: np.random.Generator) -> Cell:
    """A small vessel cut across: a wall of flat nuclei around packed red cells."""
    radius_um = clipped_normal(rng, 11.0, 2.0, 8.0, 16.0)
    count = int(rng.integers(3, 6))
    turns = rng.uniform(0.0, 2.0 * np.pi) + np.arange(count) * 2.0 * math.pi / count
    nuclei = tuple(
        Nucleus(
            replace(some_blob(rng, 2.1, float(rng.uniform(2.2, 3.4)), (), 0.0), angle=float(t) + math.pi / 2),
            some_stain(rng, 0.82, 0.16, 0.12),
            turned(0.9 * radius_um, float(t)),
        )
        for t in turns
    )
    shape = some_blob(rng, radius_um, float(rng.uniform(1.0, 1.4)), (2, 3), 0.06)
    return Cell("vessel", nuclei, Body(shape, some_stain(rng, 0.03, 0.34, 0.12), (0.2, 2.4)), "body")


def stuffed_macrophage(rng: np.random.Generator) -> Cell:
    """A macrophage that has eaten nuclei: a wide foamy body around dark round bodies of many sizes."""
    radius_um = clipped_normal(rng, 10.5, 1.3, 8.5, 13.5)
    own = Nucleus(
        some_blob(rng, 3.4, float(rng.uniform(1.2, 1.6)), (3,), 0.05),
        some_stain(rng, 0.62, 0.13, 0.12),
        turned(0.6 * radius_um, rng.uniform(0.0, 2.0 * np.pi)),
        contrast=0.3,
        envelope=0.35,
    )
    eaten = tuple(
        Nucleus(
            some_blob(rng, float(rng.uniform(0.8, 2.3)), 1.05, (), 0.0),
            some_stain(rng, 1.1, 0.2, 0.1),
            turned(radius_um * float(rng.uniform(0.1, 0.6)), rng.uniform(0.0, 2.0 * np.pi)),
            contrast=0.08,
            envelope=0.0,
            softness_um=0.5,
        )
        for _ in range(int(rng.integers(2, 6)))
    )
    shape = some_blob(rng, radius_um, float(rng.uniform(1.0, 1.3)), (2, 3, 5), 0.1)
    body = Body(
        shape, Stain(0.08, float(rng.uniform(0.18, 0.28))), (0.22, 1.3), foam=float(rng.uniform(0.3, 0.7))
    )
    return Cell("stuffed-macrophage", (own, *eaten), body, "body")
