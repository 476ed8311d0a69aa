"""Outlines of simulated cells and nuclei as implicit functions, in µm around their own centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatPlane = NDArray[np.float32]
Wave = tuple[int, float, float]


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
        aspect: long axis over short axis; the area stays that of a disc of `radius_um`.
        angle: of the long axis, in radians.
        waves: (k, amplitude, phase) of each term.
    """

    radius_um: float
    aspect: float = 1.0
    angle: float = 0.0
    waves: tuple[Wave, ...] = ()

    @property
    def extent_um(self) -> float:
        swell = 1.0 + sum(abs(amplitude) for _, amplitude, _ in self.waves)
        return self.radius_um * float(np.sqrt(self.aspect)) * swell

    def depth(self, x_um: FloatPlane, y_um: FloatPlane) -> FloatPlane:
        long_um = np.float32(self.radius_um * np.sqrt(self.aspect))
        short_um = np.float32(self.radius_um / np.sqrt(self.aspect))
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u = (x_um * cosine + y_um * sine) / long_um
        v = (y_um * cosine - x_um * sine) / short_um
        outline = np.ones_like(u)
        if self.waves:
            turn = np.arctan2(v, u)
            for k, amplitude, phase in self.waves:
                outline += np.float32(amplitude) * np.cos(np.float32(k) * turn + np.float32(phase))
        # Scaled by the short axis, so that no edge is sharper than the canvas can show.
        return np.asarray((outline - np.hypot(u, v)) * short_um, np.float32)


@dataclass(frozen=True)
class Lobes:
    """Discs that melt into one another: the soft maximum of their depths.

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
        # Neighbouring lobes share about a fifth of their area.
        return float(np.sqrt(0.8 * sum(r * r for _, _, r in self.discs)))

    def depth(self, x_um: FloatPlane, y_um: FloatPlane) -> FloatPlane:
        melt = np.float32(self.melt_um)
        discs = np.array(self.discs, np.float32)[:, :, None, None]
        depths = discs[:, 2] - np.hypot(x_um - discs[:, 0], y_um - discs[:, 1])
        deepest = depths.max(axis=0)
        summed = np.exp((depths - deepest) / melt).sum(axis=0)
        return np.asarray(deepest + melt * np.log(summed), np.float32)


def wavy(rng: np.random.Generator, orders: tuple[int, ...], strength: float) -> tuple[Wave, ...]:
    """Random waves for a `Blob`; higher orders are weaker."""
    return tuple(
        (k, float(rng.normal(0.0, strength)) / k, float(rng.uniform(0.0, 2.0 * np.pi))) for k in orders
    )


def turned(away_um: float, turn: float) -> tuple[float, float]:
    """The point at this distance and angle from the origin."""
    return float(away_um * np.cos(turn)), float(away_um * np.sin(turn))
