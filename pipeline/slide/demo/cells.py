"""What each kind of object in a simulated marrow looks like.

Sizes are in µm, stains in optical density. Ranges overlap between kinds on purpose: a pale
lymphocyte and a dense progenitor look alike, as they do in a real section.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipeline.slide.demo.paint import Stain
from pipeline.slide.demo.shapes import Blob, Lobes, Shape, wavy

Target = Literal["hspc", "mk", ""]
Label = Literal["positive", "negative", ""]


@dataclass(frozen=True)
class Nucleus:
    """A nucleus, or anything else that is painted over a cell's body.

    Attributes:
        offset_um: its centre from the cell's centre.
        contrast: standard deviation of the chromatin, as a share of `stain.haem`.
        grain_um: size of the chromatin's clumps.
        envelope: how much darker the rim is, as a share.
        nucleoli: (x, y, radius, darkness) in µm from the nucleus's centre.
        softness_um: width of the edge; wide edges look out of focus.
        pigment: neutral darkness (precipitate), as optical density.
    """

    shape: Shape
    stain: Stain
    offset_um: tuple[float, float] = (0.0, 0.0)
    contrast: float = 0.2
    grain_um: float = 0.9
    envelope: float = 0.15
    nucleoli: tuple[tuple[float, float, float, float], ...] = ()
    softness_um: float = 0.35
    pigment: float = 0.0


@dataclass(frozen=True)
class Body:
    """The cytoplasm of a cell.

    Attributes:
        grain: (strength, size in µm) of its granules.
        halo_um: width of the pale gap that shrinkage leaves around it.
        opacity: how much of the ground it hides.
        foam: share by which vacuoles thin it out.
    """

    shape: Shape
    stain: Stain
    grain: tuple[float, float] = (0.1, 0.6)
    halo_um: float = 0.0
    opacity: float = 1.0
    foam: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One object, drawn around the origin. `outline` says which contour is its truth."""

    kind: str
    nuclei: tuple[Nucleus, ...]
    body: Body | None = None
    outline: Literal["body", "nucleus", "hull"] = "nucleus"

    @property
    def extent_um(self) -> float:
        """Radius about the centre that holds the outline."""
        if self.outline == "body" and self.body is not None:
            return self.body.shape.extent_um
        return max(float(np.hypot(*n.offset_um)) + n.shape.extent_um for n in self.nuclei)

    @property
    def radius_um(self) -> float:
        """Radius of a disc of about the outline's area, for placing cells side by side."""
        if self.outline == "body" and self.body is not None:
            return self.body.shape.radius_um
        return max(float(np.hypot(*n.offset_um)) + n.shape.radius_um for n in self.nuclei)


@dataclass(frozen=True)
class Kind:
    """A kind of object and what an honest pipeline should say of it.

    Attributes:
        target: the candidate detector that should find it; empty if none may.
        label: an expert's answer for it; empty where no question is asked.
        clear: False where an expert would not call a detector wrong either way.
        share: of all small nuclei ('hspc' target and its like) or of all large cells.
    """

    target: Target
    label: Label
    share: float
    draw: Callable[[np.random.Generator], Cell]
    clear: bool = True


def _normal(rng: np.random.Generator, mean: float, deviation: float, low: float, high: float) -> float:
    return float(np.clip(rng.normal(mean, deviation), low, high))


def _turn(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.0, 2.0 * np.pi))


def _nucleoli(rng: np.random.Generator, count: int, radius_um: float) -> tuple[tuple[float, float, float, float], ...]:
    spots = []
    for _ in range(count):
        away, turn = radius_um * rng.uniform(0.1, 0.55), _turn(rng)
        x, y = float(away * np.cos(turn)), float(away * np.sin(turn))
        spots.append((x, y, float(rng.uniform(0.5, 0.85)), float(rng.uniform(0.35, 0.7))))
    return tuple(spots)


def _round_cell(
    rng: np.random.Generator, kind: str, nucleus: Nucleus, rim_um: float, stain: Stain
) -> Cell:
    """A nucleus in a thin, roughly concentric body."""
    shift = 0.35 * rim_um
    shape = Blob(
        nucleus.shape.radius_um + rim_um, float(rng.uniform(1.0, 1.2)), _turn(rng), wavy(rng, (2, 3, 5), 0.08)
    )
    nucleus = replace(nucleus, offset_um=(float(rng.normal(0, shift)), float(rng.normal(0, shift))))
    halo = float(rng.uniform(0.4, 1.0)) if rng.random() < 0.35 else 0.0
    return Cell(kind, (nucleus,), Body(shape, stain, (0.14, 0.6), halo_um=halo))


def progenitor(rng: np.random.Generator) -> Cell:
    """Round open nucleus with nucleoli, thin basophilic rim."""
    radius = _normal(rng, 3.95, 0.42, 3.1, 5.2)
    nucleus = Nucleus(
        Blob(radius, _normal(rng, 1.13, 0.1, 1.0, 1.45), _turn(rng), wavy(rng, (3, 4), 0.05)),
        Stain(_normal(rng, 0.76, 0.1, 0.52, 1.05), 0.12),
        contrast=_normal(rng, 0.33, 0.06, 0.15, 0.45),
        grain_um=float(rng.choice([0.9, 1.1])),
        envelope=_normal(rng, 0.35, 0.1, 0.1, 0.6),
        nucleoli=_nucleoli(rng, int(rng.integers(1, 4)), radius),
    )
    cytoplasm = Stain(_normal(rng, 0.2, 0.05, 0.08, 0.32), _normal(rng, 0.24, 0.04, 0.12, 0.34))
    return _round_cell(rng, "hspc", nucleus, float(rng.uniform(0.6, 1.4)), cytoplasm)


def lymphocyte(rng: np.random.Generator) -> Cell:
    """Smaller, denser and smoother than a progenitor; the two ranges overlap."""
    radius = _normal(rng, 3.35, 0.36, 2.6, 4.4)
    nucleus = Nucleus(
        Blob(radius, _normal(rng, 1.1, 0.07, 1.0, 1.35), _turn(rng), wavy(rng, (3, 4), 0.05)),
        Stain(_normal(rng, 0.96, 0.11, 0.65, 1.25), 0.12),
        contrast=_normal(rng, 0.21, 0.05, 0.08, 0.35),
        envelope=_normal(rng, 0.15, 0.08, 0.0, 0.4),
        nucleoli=_nucleoli(rng, int(rng.integers(0, 2)), radius),
    )
    cytoplasm = Stain(_normal(rng, 0.14, 0.04, 0.05, 0.25), _normal(rng, 0.24, 0.05, 0.1, 0.36))
    return _round_cell(rng, "lymphocyte", nucleus, float(rng.uniform(0.3, 0.9)), cytoplasm)


def erythroblast(rng: np.random.Generator) -> Cell:
    """Small, round, nearly black nucleus in a pink rim."""
    nucleus = Nucleus(
        Blob(_normal(rng, 2.75, 0.36, 2.15, 3.6), float(rng.uniform(1.0, 1.15)), _turn(rng), wavy(rng, (3,), 0.04)),
        Stain(_normal(rng, 1.12, 0.11, 0.8, 1.4), 0.12),
        contrast=0.13,
        envelope=0.05,
    )
    return _round_cell(rng, "erythroblast", nucleus, float(rng.uniform(0.7, 1.4)), Stain(0.06, _normal(rng, 0.36, 0.06, 0.2, 0.5)))


def monocyte(rng: np.random.Generator) -> Cell:
    """As large and open as a progenitor, but dented like a kidney."""
    radius = _normal(rng, 3.0, 0.25, 2.4, 3.6)
    bend = float(rng.uniform(0.6, 1.25))
    turns = _turn(rng) + np.linspace(-bend, bend, 3)
    arc = 0.85 * radius
    discs = tuple((float(arc * np.cos(t)), float(arc * np.sin(t)), radius * float(rng.uniform(0.75, 0.9))) for t in turns)
    nucleus = Nucleus(
        Lobes(discs, 0.35),
        Stain(_normal(rng, 0.8, 0.1, 0.55, 1.05), 0.12),
        contrast=_normal(rng, 0.28, 0.05, 0.1, 0.4),
        envelope=_normal(rng, 0.25, 0.1, 0.0, 0.5),
    )
    return _round_cell(rng, "monocyte", nucleus, float(rng.uniform(1.0, 2.0)), Stain(0.1, _normal(rng, 0.22, 0.04, 0.1, 0.34)))


def band_granulocyte(rng: np.random.Generator) -> Cell:
    """A horseshoe or trefoil nucleus of one piece in pink granular cytoplasm."""
    count = int(rng.integers(3, 5))
    arc = float(rng.uniform(1.5, 2.2))
    turns = _turn(rng) + np.linspace(0.0, rng.uniform(2.2, 3.6), count)
    discs = tuple((float(arc * np.cos(t)), float(arc * np.sin(t)), float(rng.uniform(1.2, 1.75))) for t in turns)
    nucleus = Nucleus(Lobes(discs, 0.3), Stain(_normal(rng, 1.02, 0.1, 0.75, 1.3), 0.12), contrast=0.18, envelope=0.1)
    return _round_cell(rng, "band", nucleus, float(rng.uniform(1.2, 1.8)), Stain(0.05, _normal(rng, 0.32, 0.05, 0.18, 0.45)))


def segmented_granulocyte(rng: np.random.Generator) -> Cell:
    """Separate lobes: one nucleus to an expert, several to a detector, so scored neither way."""
    count = int(rng.integers(2, 4))
    turns = _turn(rng) + np.linspace(0.0, rng.uniform(2.4, 3.8), count)
    stain = Stain(_normal(rng, 1.08, 0.08, 0.8, 1.3), 0.12)
    nuclei = tuple(
        Nucleus(Blob(float(rng.uniform(1.15, 1.5)), float(rng.uniform(1.0, 1.5)), _turn(rng)), stain,
                (float(2.15 * np.cos(t)), float(2.15 * np.sin(t))), contrast=0.15, envelope=0.05)
        for t in turns
    )
    shape = Blob(float(rng.uniform(4.4, 5.2)), 1.1, _turn(rng), wavy(rng, (2, 3), 0.08))
    return Cell("segmented", nuclei, Body(shape, Stain(0.05, _normal(rng, 0.33, 0.05, 0.2, 0.45)), (0.18, 0.6)), "hull")


def stromal(rng: np.random.Generator) -> Cell:
    """Spindle-shaped nucleus of endothelium or stroma, hardly any body."""
    nucleus = Nucleus(
        Blob(_normal(rng, 2.9, 0.3, 2.4, 3.6), _normal(rng, 3.0, 0.6, 2.0, 4.2), _turn(rng), wavy(rng, (2, 3), 0.08)),
        Stain(_normal(rng, 0.8, 0.1, 0.55, 1.05), 0.14),
        contrast=0.24,
        envelope=0.2,
    )
    return Cell("stromal", (nucleus,))


def macrophage(rng: np.random.Generator) -> Cell:
    """A pale oval nucleus at the side of a wide foamy body: large, yet no candidate for an MK."""
    nucleus = Nucleus(
        Blob(_normal(rng, 3.5, 0.3, 2.9, 4.2), float(rng.uniform(1.15, 1.5)), _turn(rng), wavy(rng, (3,), 0.05)),
        Stain(_normal(rng, 0.6, 0.07, 0.45, 0.8), 0.12),
        contrast=0.3,
        envelope=0.4,
        nucleoli=_nucleoli(rng, 1, 3.5),
    )
    away, turn = float(rng.uniform(2.5, 5.0)), _turn(rng)
    nucleus = replace(nucleus, offset_um=(away * float(np.cos(turn)), away * float(np.sin(turn))))
    shape = Blob(float(rng.uniform(8.5, 11.5)), float(rng.uniform(1.0, 1.3)), _turn(rng), wavy(rng, (2, 3, 5), 0.1))
    return Cell("macrophage", (nucleus,), Body(shape, Stain(0.07, 0.17), (0.25, 1.3), foam=0.8), "nucleus")


def fragment(rng: np.random.Generator) -> Cell:
    """The cap of a nucleus that lies in the next section: pale, and below the size filter."""
    nucleus = Nucleus(
        Blob(float(rng.uniform(0.9, 1.35)), float(rng.uniform(1.0, 1.3)), _turn(rng)),
        Stain(_normal(rng, 0.48, 0.1, 0.3, 0.7), 0.15), contrast=0.15, softness_um=0.6,
    )
    return Cell("fragment", (nucleus,))


def debris(rng: np.random.Generator) -> Cell:
    """Dust of a dead nucleus: black dots."""
    stain = Stain(_normal(rng, 1.15, 0.1, 0.9, 1.4), 0.1)
    nuclei = tuple(
        Nucleus(Blob(float(rng.uniform(0.4, 0.9))), stain, (float(rng.normal(0, 1.4)), float(rng.normal(0, 1.4))), contrast=0.05)
        for _ in range(int(rng.integers(2, 5)))
    )
    return Cell("debris", nuclei, None, "hull")


def precipitate(rng: np.random.Generator) -> Cell:
    """Brown-black grains on top of the section, up to the size of a nucleus."""
    size = float(rng.uniform(0.8, 2.2))
    discs = tuple((float(rng.normal(0, size)), float(rng.normal(0, size)), float(size * rng.uniform(0.35, 0.8))) for _ in range(5))
    nucleus = Nucleus(Lobes(discs, 0.1), Stain(0.0, 0.1), contrast=0.0, envelope=0.0, softness_um=0.2, pigment=float(rng.uniform(0.5, 1.1)))
    return Cell("precipitate", (nucleus,))


def smudge(rng: np.random.Generator) -> Cell:
    """A fold or squashed nuclei out of focus: dark, large, without any outline."""
    shape = Blob(float(rng.uniform(8.0, 14.0)), float(rng.uniform(1.2, 2.5)), _turn(rng), wavy(rng, (2, 3, 4, 5), 0.15))
    nucleus = Nucleus(shape, Stain(_normal(rng, 0.5, 0.08, 0.35, 0.7), 0.45), contrast=0.3, grain_um=6.0, envelope=0.0, softness_um=6.0)
    return Cell("smudge", (nucleus,))


def _cluster_of_lobes(rng: np.random.Generator, count: int, reach_um: float, lobe_um: float) -> Lobes:
    """Lobes that hang together, none farther from the origin than `reach_um`."""
    discs: list[tuple[float, float, float]] = []
    while len(discs) < count:
        radius = lobe_um * float(rng.uniform(0.75, 1.2))
        if not discs:
            discs.append((float(rng.normal(0, 0.3 * lobe_um)), float(rng.normal(0, 0.3 * lobe_um)), radius))
            continue
        x, y, other = discs[int(rng.integers(len(discs)))]
        turn, step = _turn(rng), float(rng.uniform(0.7, 0.95)) * (radius + other)
        x, y = x + step * float(np.cos(turn)), y + step * float(np.sin(turn))
        if np.hypot(x, y) + radius <= reach_um:
            discs.append((x, y, radius))
        else:
            reach_um += 0.02
    return Lobes(tuple(discs), 0.45)


def megakaryocyte(rng: np.random.Generator) -> Cell:
    """A wide pink granular body around one big lobed nucleus with coarse chromatin."""
    radius = _normal(rng, 12.6, 2.3, 8.8, 20.0)
    lobes = int(np.clip(rng.poisson(4.2), 1, 9))
    lobe = radius * float(rng.uniform(0.22, 0.3)) * (1.5 if lobes < 3 else 1.0)
    shape = _cluster_of_lobes(rng, lobes, 0.74 * radius, lobe)
    nucleus = Nucleus(
        shape, Stain(_normal(rng, 0.8, 0.1, 0.58, 1.1), 0.18),
        contrast=_normal(rng, 0.32, 0.06, 0.15, 0.45), grain_um=float(rng.choice([0.9, 1.1, 1.3])),
        envelope=_normal(rng, 0.3, 0.1, 0.05, 0.5),
    )
    body = _large_body(rng, radius, Stain(_normal(rng, 0.07, 0.03, 0.02, 0.16), _normal(rng, 0.34, 0.04, 0.24, 0.45)))
    return Cell("mk", (nucleus,), body, "body")


def _large_body(rng: np.random.Generator, radius_um: float, stain: Stain) -> Body:
    shape = Blob(radius_um, float(rng.uniform(1.0, 1.35)), _turn(rng), wavy(rng, (2, 3, 4, 5, 7), 0.13))
    return Body(shape, stain, (0.09, 0.7), halo_um=float(rng.uniform(0.0, 1.6)))


def osteoclast(rng: np.random.Generator) -> Cell:
    """Several separate small round nuclei in one wide body."""
    radius = _normal(rng, 13.0, 2.0, 9.5, 19.0)
    stain = Stain(_normal(rng, 0.72, 0.1, 0.5, 1.0), 0.16)
    places: list[tuple[float, float]] = []
    wanted = int(rng.integers(3, 8))
    for _ in range(200):
        away, turn = radius * float(np.sqrt(rng.uniform(0.0, 0.45))), _turn(rng)
        x, y = away * float(np.cos(turn)), away * float(np.sin(turn))
        if len(places) < wanted and all(np.hypot(x - a, y - b) > 6.0 for a, b in places):
            places.append((x, y))
    nuclei = tuple(
        Nucleus(Blob(float(rng.uniform(2.4, 3.0)), float(rng.uniform(1.0, 1.3)), _turn(rng)), stain, place,
                contrast=0.26, envelope=0.3, nucleoli=_nucleoli(rng, 1, 2.7))
        for place in places
    )
    body = _large_body(rng, radius, Stain(_normal(rng, 0.1, 0.03, 0.03, 0.18), _normal(rng, 0.32, 0.04, 0.22, 0.42)))
    return Cell("osteoclast", nuclei, body, "body")


def giant_blast(rng: np.random.Generator) -> Cell:
    """An outsized precursor: one big round nucleus with nucleoli, basophilic body."""
    radius = _normal(rng, 9.6, 1.0, 8.0, 12.0)
    core = radius * float(rng.uniform(0.58, 0.7))
    nucleus = Nucleus(
        Blob(core, float(rng.uniform(1.0, 1.25)), _turn(rng), wavy(rng, (2, 3, 4), 0.07)),
        Stain(_normal(rng, 0.72, 0.08, 0.55, 0.95), 0.14),
        contrast=0.3, grain_um=1.1, envelope=0.3, nucleoli=_nucleoli(rng, int(rng.integers(2, 5)), core),
    )
    body = _large_body(rng, radius, Stain(_normal(rng, 0.15, 0.04, 0.06, 0.25), _normal(rng, 0.29, 0.04, 0.2, 0.4)))
    return Cell("giant-blast", (nucleus,), body, "body")


def degenerate(rng: np.random.Generator) -> Cell:
    """A dying large cell: shrunken dense nucleus without texture, deep pink body."""
    radius = _normal(rng, 10.8, 1.6, 8.2, 15.0)
    shape = _cluster_of_lobes(rng, int(rng.integers(1, 4)), 0.6 * radius, radius * float(rng.uniform(0.24, 0.34)))
    nucleus = Nucleus(shape, Stain(_normal(rng, 1.08, 0.12, 0.75, 1.35), 0.2), contrast=0.1, envelope=0.05, softness_um=0.7)
    body = _large_body(rng, radius, Stain(_normal(rng, 0.04, 0.02, 0.0, 0.1), _normal(rng, 0.42, 0.05, 0.3, 0.55)))
    return Cell("degenerate", (nucleus,), body, "body")


KINDS: dict[str, Kind] = {
    "hspc": Kind("hspc", "positive", 0.38, progenitor),
    "lymphocyte": Kind("hspc", "negative", 0.14, lymphocyte),
    "erythroblast": Kind("hspc", "negative", 0.2, erythroblast),
    "monocyte": Kind("hspc", "negative", 0.07, monocyte),
    "band": Kind("hspc", "negative", 0.1, band_granulocyte),
    "stromal": Kind("hspc", "negative", 0.04, stromal),
    "macrophage": Kind("hspc", "negative", 0.02, macrophage),
    "segmented": Kind("hspc", "negative", 0.05, segmented_granulocyte, clear=False),
    "fragment": Kind("", "", 0.06, fragment),
    "debris": Kind("", "", 0.015, debris),
    "precipitate": Kind("", "", 0.01, precipitate),
    "smudge": Kind("", "", 0.002, smudge),
    "mk": Kind("mk", "positive", 0.5, megakaryocyte),
    "osteoclast": Kind("mk", "negative", 0.16, osteoclast),
    "giant-blast": Kind("mk", "negative", 0.18, giant_blast),
    "degenerate": Kind("mk", "negative", 0.16, degenerate),
}
