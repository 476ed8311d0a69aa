"""Stain separation and the calibration of a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SceneCalibration:
    """Placeholder until the stain module lands."""


@dataclass(frozen=True)
class Stains:
    """Haematoxylin and eosin of every pixel of a window."""

    haematoxylin: NDArray[np.uint8]
    eosin: NDArray[np.uint8]


def separate(rgb: NDArray[np.uint8], calibration: SceneCalibration) -> Stains:
    raise NotImplementedError
