"""Measuring cells against `skimage.measure.regionprops_table`, on a simulated tile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.detect.contract import Detection, Window
from pipeline.geometry import Box, normalise_mask
from pipeline.slide.stains import SceneCalibration

UM_PER_PX = 0.22
TILE_PX = 4096
NUCLEI, MEGAKARYOCYTES = 2960, 40


def blob(rng: np.random.Generator, diameter_px: float) -> NDArray[np.bool_]:
    """A tight mask with a wavy outline, one piece without holes."""
    angle = np.linspace(0.0, 2.0 * np.pi, 180, endpoint=False)
    radius = np.ones_like(angle)
    for wave in range(2, 9):
        radius += rng.normal(0.0, 0.22 / wave) * np.cos(wave * angle + rng.uniform(0.0, 2.0 * np.pi))
    radius = np.clip(radius, 0.45, 1.25) * diameter_px / 2.0
    turned = np.stack([radius * np.cos(angle) * rng.uniform(1.0, 1.15), radius * np.sin(angle)], axis=1)
    corners = np.rint(turned - turned.min(axis=0)).astype(np.int32)
    canvas = np.zeros(corners.max(axis=0)[::-1] + 1, np.uint8)
    cv2.fillPoly(canvas, [corners], 1)
    mask = normalise_mask(canvas.astype(bool))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def tile(seed: int = 0) -> tuple[Window, list[Detection]]:
    """A window with 3,000 cells that do not overlap: nuclei of 6-9 µm and a few MK of 25-50 µm."""
    rng = np.random.default_rng(seed)
    slots = [(x, y, 320) for y in range(0, 1280, 320) for x in range(0, 3200, 320)]
    slots += [(x, y, 60) for y in range(1280, TILE_PX - 60, 60) for x in range(0, TILE_PX - 60, 60)][:NUCLEI]
    detections = []
    for x, y, slot in slots:
        low, high = (25.0, 50.0) if slot == 320 else (6.0, 9.0)
        mask = blob(rng, rng.uniform(low, high) / UM_PER_PX)
        height, width = mask.shape
        dx, dy = rng.integers(0, slot - width), rng.integers(0, slot - height)
        detections.append(
            Detection(Box(int(x + dx), int(y + dy), int(x + dx) + width, int(y + dy) + height), mask, 1.0)
        )
    noise = cv2.GaussianBlur(rng.normal(0.0, 1.0, (TILE_PX, TILE_PX, 3)).astype(np.float32), (0, 0), 2.0)
    rgb = np.clip(noise * 180.0 + (170.0, 120.0, 180.0), 0, 255).astype(np.uint8)
    return Window(rgb, Box(0, 0, TILE_PX, TILE_PX), UM_PER_PX, calibration()), detections
