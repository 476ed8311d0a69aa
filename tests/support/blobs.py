"""Simulated cells with irregular outlines, and windows that hold them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mkhspc.detect.contract import Detection, Window
from mkhspc.geometry import BoolMask, Box, normalise_mask
from mkhspc.slide.stains import SceneCalibration, StainLevels

CALIBRATION = SceneCalibration(
    white=(240.0, 240.0, 240.0),
    haematoxylin=(0.65, 0.70, 0.29),
    eosin=(0.07, 0.99, 0.11),
    vector_source="published",
    levels=StainLevels(cytoplasm_haematoxylin=30.0, nucleus_haematoxylin=70.0, cytoplasm_eosin=40.0),
    intensity_range=((60.0, 40.0, 80.0), (235.0, 235.0, 235.0)),
)
UM_PER_PX = 0.22


def tight(mask: BoolMask) -> BoolMask:
    """The largest piece of a mask, without holes, cut to its bounding box."""
    whole = normalise_mask(mask)
    rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    return whole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def blob(rng: np.random.Generator, diameter_px: float) -> BoolMask:
    """A tight mask with a wavy outline."""
    angle = np.linspace(0.0, 2.0 * np.pi, 180, endpoint=False)
    radius = np.ones_like(angle)
    for wave in range(2, 9):
        radius += rng.normal(0.0, 0.22 / wave) * np.cos(wave * angle + rng.uniform(0.0, 2.0 * np.pi))
    radius = np.clip(radius, 0.45, 1.25) * diameter_px / 2.0
    turned = np.stack([radius * np.cos(angle) * rng.uniform(1.0, 1.15), radius * np.sin(angle)], axis=1)
    corners = np.rint(turned - turned.min(axis=0)).astype(np.int32)
    canvas = np.zeros(corners.max(axis=0)[::-1] + 1, np.uint8)
    cv2.fillPoly(canvas, [corners], 1)
    return tight(canvas.astype(bool))


def detection(mask: BoolMask, x0_px: int, y0_px: int) -> Detection:
    height, width = mask.shape
    return Detection(Box(x0_px, y0_px, x0_px + width, y0_px + height), mask, 1.0)


def stained_noise(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """(height, width, 3) uint8: clumpy pinks and purples."""
    noise = np.random.default_rng(seed).normal(0.0, 1.0, (height, width, 3)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 2.0)
    return np.clip(noise * 180.0 + (170.0, 120.0, 180.0), 0, 255).astype(np.uint8)


def window_of(rgb: NDArray[np.uint8], x0_px: int = 0, y0_px: int = 0, um_per_px: float = UM_PER_PX) -> Window:
    height, width = rgb.shape[:2]
    return Window(rgb, Box(x0_px, y0_px, x0_px + width, y0_px + height), um_per_px, CALIBRATION)


def row_of(masks: Sequence[BoolMask], gap_px: int = 20, seed: int = 0) -> tuple[Window, list[Detection]]:
    """A window with these masks side by side on stained noise."""
    height = max(mask.shape[0] for mask in masks) + 2 * gap_px
    x, detections = gap_px, []
    for mask in masks:
        detections.append(detection(mask, x, gap_px))
        x += mask.shape[1] + gap_px
    return window_of(stained_noise(seed, height, x)), detections
