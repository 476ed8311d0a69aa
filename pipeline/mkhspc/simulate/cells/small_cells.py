"""Cells with one small nucleus, and what is mistaken for one.

Sizes are in µm, stains in optical density. The ranges of neighbouring kinds overlap on purpose: a
pale lymphocyte and a dense progenitor look alike, as they do in a real section.
"""

from __future__ import annotations

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
from mkhspc.simulate.cells.shapes import Lobes, turned


def _around(rng: np.random.Generator, kind: str, nucleus: Nucleus, rim_um: float, stain: Stain) -> Cell:
    """The cell of a nucleus: a body that leaves a rim of this width, a little off centre."""
    shape = some_blob(rng, nucleus.shape.radius_um + rim_um, float(rng.uniform(1.0, 1.2)), (2, 3, 5), 0.08)
    shift = rng.normal(0.0, 0.35 * rim_um, 2)
    halo_um = float(rng.uniform(0.4, 1.0)) if rng.random() < 0.35 else 0.0
    body = Body(shape, stain, (0.14, 0.6), halo_um=halo_um)
    return Cell(kind, (replace(nucleus, offset_um=(float(shift[0]), float(shift[1]))),), body)


def _arc(rng: np.random.Generator, away_um: float, span: float, radii_um: tuple[float, ...]) -> Lobes:
    """Lobes along a piece of a circle: a kidney, a horseshoe, a trefoil."""
    turns = rng.uniform(0.0, 2.0 * np.pi) + np.linspace(0.0, span, len(radii_um))
    return Lobes(tuple((*turned(away_um, t), r) for t, r in zip(turns, radii_um, strict=True)), 0.3)


def progenitor(rng: np.random.Generator) -> Cell:
    """A round open nucleus with nucleoli in a thin basophilic rim: a true HSPC."""
    radius_um = clipped_normal(rng, 3.95, 0.42, 3.1, 5.2)
    nucleus = Nucleus(
        some_blob(rng, radius_um, clipped_normal(rng, 1.13, 0.1, 1.0, 1.45), (3, 4), 0.05),
        some_stain(rng, 0.76, 0.12, 0.13),
        contrast=clipped_normal(rng, 0.33, 0.06, 0.15, 0.45),
        grain_um=float(rng.choice([0.9, 1.1])),
        envelope=clipped_normal(rng, 0.35, 0.1, 0.1, 0.6),
        nucleoli=some_nucleoli(rng, int(rng.integers(1, 4)), radius_um),
    )
    return _around(rng, "hspc", nucleus, float(rng.uniform(0.6, 1.4)), some_stain(rng, 0.2, 0.24, 0.2))


def lymphocyte(rng: np.random.Generator) -> Cell:
    """Smaller, denser and smoother than a progenitor, with hardly any rim."""
    radius_um = clipped_normal(rng, 3.35, 0.36, 2.6, 4.4)
    nucleus = Nucleus(
        some_blob(rng, radius_um, clipped_normal(rng, 1.1, 0.07, 1.0, 1.35), (3, 4), 0.05),
        some_stain(rng, 0.96, 0.12, 0.12),
        contrast=clipped_normal(rng, 0.21, 0.05, 0.08, 0.35),
        envelope=clipped_normal(rng, 0.15, 0.08, 0.0, 0.4),
        nucleoli=some_nucleoli(rng, int(rng.integers(0, 2)), radius_um),
    )
    return _around(rng, "lymphocyte", nucleus, float(rng.uniform(0.3, 0.9)), some_stain(rng, 0.14, 0.24, 0.2))


def erythroblast(rng: np.random.Generator) -> Cell:
    """A small, round, nearly black nucleus in a pink rim."""
    radius_um = clipped_normal(rng, 2.75, 0.36, 2.15, 3.6)
    nucleus = Nucleus(
        some_blob(rng, radius_um, float(rng.uniform(1.0, 1.15)), (3,), 0.04),
        some_stain(rng, 1.12, 0.12, 0.1),
        contrast=0.13,
        envelope=0.05,
    )
    return _around(
        rng, "erythroblast", nucleus, float(rng.uniform(0.7, 1.4)), some_stain(rng, 0.06, 0.36, 0.17)
    )


def monocyte(rng: np.random.Generator) -> Cell:
    """As large and open as a progenitor, but dented like a kidney."""
    radius_um = clipped_normal(rng, 3.0, 0.25, 2.4, 3.6)
    lobes = tuple(radius_um * float(share) for share in rng.uniform(0.75, 0.9, 3))
    nucleus = Nucleus(
        _arc(rng, 0.85 * radius_um, float(rng.uniform(1.2, 2.5)), lobes),
        some_stain(rng, 0.8, 0.12, 0.12),
        contrast=clipped_normal(rng, 0.28, 0.05, 0.1, 0.4),
        envelope=clipped_normal(rng, 0.25, 0.1, 0.0, 0.5),
    )
    return _around(rng, "monocyte", nucleus, float(rng.uniform(1.0, 2.0)), some_stain(rng, 0.1, 0.22, 0.18))


def band_granulocyte(rng: np.random.Generator) -> Cell:
    """A horseshoe or trefoil nucleus of one piece in pink granular cytoplasm."""
    lobes = tuple(rng.uniform(1.2, 1.75, int(rng.integers(3, 5))).tolist())
    nucleus = Nucleus(
        _arc(rng, float(rng.uniform(1.5, 2.2)), float(rng.uniform(2.2, 3.6)), lobes),
        some_stain(rng, 1.02, 0.12, 0.1),
        contrast=0.18,
        envelope=0.1,
    )
    return _around(rng, "band", nucleus, float(rng.uniform(1.2, 1.8)), some_stain(rng, 0.05, 0.32, 0.16))


def segmented_granulocyte(rng: np.random.Generator) -> Cell:
    """Lobes that lie apart: one nucleus to an expert, several to a detector."""
    count = int(rng.integers(2, 4))
    stain = some_stain(rng, 1.08, 0.12, 0.08)
    turns = rng.uniform(0.0, 2.0 * np.pi) + np.linspace(0.0, rng.uniform(2.4, 3.8), count)
    nuclei = tuple(
        Nucleus(
            some_blob(rng, float(rng.uniform(1.15, 1.5)), float(rng.uniform(1.0, 1.5)), (), 0.0),
            stain,
            turned(2.15, turn),
            contrast=0.15,
            envelope=0.05,
        )
        for turn in turns
    )
    body = Body(
        some_blob(rng, float(rng.uniform(4.4, 5.2)), 1.1, (2, 3), 0.08),
        some_stain(rng, 0.05, 0.33, 0.15),
        (0.18, 0.6),
    )
    return Cell("segmented", nuclei, body, "hull")


def stromal(rng: np.random.Generator) -> Cell:
    """A spindle-shaped nucleus of endothelium or stroma, with no body to speak of."""
    aspect = clipped_normal(rng, 2.8, 0.6, 1.9, 4.2)
    nucleus = Nucleus(
        some_blob(rng, clipped_normal(rng, 2.9, 0.3, 2.4, 3.6), aspect, (2, 3, 5), 0.12),
        some_stain(rng, 0.8, 0.14, 0.12),
        contrast=0.26,
        envelope=0.2,
        softness_um=0.5,
    )
    return Cell("stromal", (nucleus,))


def macrophage(rng: np.random.Generator) -> Cell:
    """A pale oval nucleus at the side of a wide foamy body: a large cell, yet no candidate for an MK."""
    nucleus = Nucleus(
        some_blob(rng, clipped_normal(rng, 3.5, 0.3, 2.9, 4.2), float(rng.uniform(1.15, 1.5)), (3,), 0.05),
        some_stain(rng, 0.6, 0.12, 0.12),
        turned(rng.uniform(2.5, 5.0), rng.uniform(0.0, 2.0 * np.pi)),
        contrast=0.3,
        envelope=0.4,
        nucleoli=some_nucleoli(rng, 1, 3.5),
    )
    shape = some_blob(rng, float(rng.uniform(8.5, 11.5)), float(rng.uniform(1.0, 1.3)), (2, 3, 5), 0.1)
    return Cell("macrophage", (nucleus,), Body(shape, Stain(0.07, 0.17), (0.25, 1.3), foam=0.8))


def fragment(rng: np.random.Generator) -> Cell:
    """The cap of a nucleus that lies in the next section: pale, and below the size filter."""
    nucleus = Nucleus(
        some_blob(rng, float(rng.uniform(0.9, 1.35)), float(rng.uniform(1.0, 1.3)), (), 0.0),
        some_stain(rng, 0.48, 0.15, 0.2),
        contrast=0.15,
        softness_um=0.6,
    )
    return Cell("fragment", (nucleus,))


def debris(rng: np.random.Generator) -> Cell:
    """Dust of a dead nucleus: black dots."""
    stain = some_stain(rng, 1.15, 0.1, 0.08)
    nuclei = tuple(
        Nucleus(some_blob(rng, float(rng.uniform(0.4, 0.9)), 1.0, (), 0.0), stain, (float(x), float(y)))
        for x, y in rng.normal(0.0, 1.4, (int(rng.integers(2, 5)), 2))
    )
    return Cell("debris", nuclei, outline="hull")


def precipitate(rng: np.random.Generator) -> Cell:
    """Brown-black grains on top of the section, up to the size of a nucleus."""
    size_um = float(rng.uniform(0.8, 2.0))
    places = rng.normal(0.0, size_um, (6, 2))
    radii_um = size_um * rng.uniform(0.25, 0.7, 6)
    discs = tuple((float(x), float(y), float(r)) for (x, y), r in zip(places, radii_um, strict=True))
    return Cell(
        "precipitate",
        (
            Nucleus(
                Lobes(discs, 0.15),
                Stain(0.0, 0.1),
                contrast=0.0,
                envelope=0.0,
                softness_um=0.5,
                pigment=float(rng.uniform(0.4, 0.9)),
            ),
        ),
    )


def smudge(rng: np.random.Generator) -> Cell:
    """A fold, or squashed nuclei out of focus: dark and large, without an outline."""
    shape = some_blob(rng, float(rng.uniform(8.0, 14.0)), float(rng.uniform(1.2, 2.5)), (2, 3, 4, 5), 0.15)
    nucleus = Nucleus(
        shape, some_stain(rng, 0.5, 0.45, 0.15), contrast=0.3, grain_um=6.0, envelope=0.0, softness_um=6.0
    )
    return Cell("smudge", (nucleus,))
