"""What a simulated cell is made of: nuclei, a body, and the outline that is its truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mkhspc.simulate.cells.shapes import Blob, Shape, turned, wavy

Spot = tuple[float, float, float, float]


@dataclass(frozen=True)
class Stain:
    """Amounts of haematoxylin and eosin, as optical density along their colour vectors."""

    haem: float
    eosin: float


@dataclass(frozen=True)
class Nucleus:
    """A nucleus, or anything else that is painted over a cell's body.

    Attributes:
        offset_um: its centre from the cell's centre.
        contrast: standard deviation of the chromatin, as a share of `stain.haem`.
        grain_um: size of the chromatin's clumps; few sizes, since each is a texture to make.
        envelope: how much darker the rim is, as a share.
        nucleoli: (x, y, radius, darkness) in µm from the nucleus's centre.
        softness_um: width of the edge; wide edges look out of focus.
        pigment: darkness that is not a stain (precipitate), as optical density.
    """

    shape: Shape
    stain: Stain
    offset_um: tuple[float, float] = (0.0, 0.0)
    contrast: float = 0.2
    grain_um: float = 0.9
    envelope: float = 0.15
    nucleoli: tuple[Spot, ...] = ()
    softness_um: float = 0.35
    pigment: float = 0.0


@dataclass(frozen=True)
class Body:
    """The cytoplasm of a cell.

    Attributes:
        grain: (strength, size in µm) of its granules.
        halo_um: width of the pale gap that shrinkage leaves around it.
        foam: share by which vacuoles thin it out.
    """

    shape: Shape
    stain: Stain
    grain: tuple[float, float] = (0.1, 0.6)
    halo_um: float = 0.0
    foam: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One object, drawn around the origin.

    Attributes:
        outline: what its truth is: the whole body, the nucleus, or the hull around several pieces.
    """

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
        """Radius of a disc of about the outline's area, for laying cells side by side."""
        if self.outline == "body" and self.body is not None:
            return self.body.shape.radius_um
        return max(float(np.hypot(*n.offset_um)) + n.shape.radius_um for n in self.nuclei)


def clipped_normal(rng: np.random.Generator, mean: float, deviation: float, low: float, high: float) -> float:
    """A normal draw, held within [low, high]."""
    return float(np.clip(rng.normal(mean, deviation), low, high))


def some_stain(rng: np.random.Generator, haem: float, eosin: float, spread: float) -> Stain:
    """A stain near these amounts: `spread` is the standard deviation as a share of each."""
    draws = np.clip(rng.normal(1.0, spread, 2), 1.0 - 2.5 * spread, 1.0 + 2.5 * spread)
    return Stain(haem * float(draws[0]), eosin * float(draws[1]))


def some_nucleoli(rng: np.random.Generator, count: int, radius_um: float) -> tuple[Spot, ...]:
    """Dark spots anywhere within the inner half of a nucleus."""
    spots = []
    for _ in range(count):
        x, y = turned(radius_um * rng.uniform(0.1, 0.55), rng.uniform(0.0, 2.0 * np.pi))
        spots.append((x, y, float(rng.uniform(0.5, 0.85)), float(rng.uniform(0.35, 0.7))))
    return tuple(spots)


def some_blob(
    rng: np.random.Generator, radius_um: float, aspect: float, orders: tuple[int, ...], unrest: float
) -> Blob:
    """An ellipse turned anywhere, with waves of these orders."""
    return Blob(radius_um, aspect, float(rng.uniform(0.0, 2.0 * np.pi)), wavy(rng, orders, unrest))
