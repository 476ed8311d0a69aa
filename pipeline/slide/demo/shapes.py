"""Outlines of simulated cells and nuclei as implicit functions, in µm around their own centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatPlane = NDArray[np.float32]


class Shape(Protocol):
    """A region of the plane.

    Attributes:
        extent_um: no point of the region lies farther from the origin than this.
        radius_um: radius of a disc of about the same area.
    """

    @property
    def extent_um(self) -> float: ...

    @property
    def radius_um(self) -> float: ...

    def depth(self, x_um: FloatPlane, y_um: FloatPlane) -> FloatPlane:
        """How deep inside each point lies, in µm; negative outside. Exact near the outline only."""
        ...


@dataclass(frozen=True)
class Blob:
    """An ellipse with a wavy outline: r(t) = 1 + sum of amplitude_k cos(k t + phase_k).

    Attributes:
        aspect: long axis over short axis; the area stays that of `radius_um`.
        waves: (k, amplitude, phase) for each term.
    """

    radius_um: float
    aspect: float = 1.0
    angle: float = 0.0
    waves: tuple[tuple[int, float, float], ...] = ()

    @property
    def extent_um(self) -> float:
        swell = 1.0 + sum(abs(amplitude) for _, amplitude, _ in self.waves)
        return self.radius_um * float(np.sqrt(self.aspect)) * swell

    def depth(self, x_um: FloatPlane, y_um: FloatPlane) -> FloatPlane:
        stretch = np.float32(np.sqrt(self.aspect) * self.radius_um)
        squeeze = np.float32(self.radius_um / np.sqrt(self.aspect))
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u = (x_um * cosine + y_um * sine) / stretch
        v = (y_um * cosine - x_um * sine) / squeeze
        outline = np.ones_like(u)
        if self.waves:
            turn = np.arctan2(v, u)
            for k, amplitude, phase in self.waves:
                outline += np.float32(amplitude) * np.cos(np.float32(k) * turn + np.float32(phase))
        # The short axis bounds the gradient, so edges are at most as soft as asked for.
        scaled: FloatPlane = (outline - np.hypot(u, v)) * squeeze
        return scaled


@dataclass(frozen=True)
class Lobes:
    """Discs that melt into one another: a soft maximum of the depths of discs.

    Attributes:
        discs: (x, y, radius) in µm.
        melt_um: how far two discs reach for each other; small values leave necks thin.
    """

    discs: tuple[tuple[float, float, float], ...]
    melt_um: float = 0.4

    @property
    def extent_um(self) -> float:
        reach = self.melt_um * float(np.log(len(self.discs)))
        return max(float(np.hypot(x, y)) + r for x, y, r in self.discs) + reach

    @property
    def radius_um(self) -> float:
        return float(np.sqrt(sum(r * r for _, _, r in self.discs) * 0.8))

    def depth(self, x_um: FloatPlane, y_um: FloatPlane) -> FloatPlane:
        melt = np.float32(self.melt_um)
        depths = [np.float32(r) - np.hypot(x_um - np.float32(x), y_um - np.float32(y)) for x, y, r in self.discs]
        deepest = np.maximum.reduce(depths)
        total = sum(np.exp((depth - deepest) / melt) for depth in depths)
        merged: FloatPlane = deepest + melt * np.log(total)
        return merged


def wavy(rng: np.random.Generator, orders: tuple[int, ...], strength: float) -> tuple[tuple[int, float, float], ...]:
    """Random waves for a `Blob`; higher orders are weaker."""
    return tuple(
        (k, float(rng.normal(0.0, strength)) / k, float(rng.uniform(0.0, 2.0 * np.pi))) for k in orders
    )
