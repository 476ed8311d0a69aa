"""A detector's revision is raised whenever its cells change: they must not mix with a run's older ones.

The cells that each revision finds on one drawn window are known here by their digest. For a new
revision, put in what this prints:

    python -c "import sys; sys.path.insert(0, 'tests'); import test_detector_revision as t; t.show()"
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from stained import EOSIN_OD, NUCLEUS_OD, Field

from pipeline.config import CELL_TYPES, CellType, RunConfig
from pipeline.detect.classical import ClassicalHspc, ClassicalMk
from pipeline.detect.contract import Detection, Detector, Window
from pipeline.geometry import Box

CELLS = {
    ("mk", "1"): "6c928f50a73772a5",
    ("hspc", "1"): "1badf33018b63a41",
}
"""By cell type and revision of its detector."""
DETECTORS: dict[CellType, Detector] = {"mk": ClassicalMk(), "hspc": ClassicalHspc()}


def crowd() -> Window:
    """Nuclei that touch and overlap, and large cells among them, with noise; the same on every machine."""
    rng = np.random.default_rng(20)
    field = Field(330.0, 240.0)
    for x_um, y_um, radius_um in zip(*rng.uniform((10, 10, 1.5), (320, 230, 4.5), (420, 3)).T, strict=True):
        stretch, od = rng.uniform(0.6, 1.0), rng.uniform(0.35, 1.2) * NUCLEUS_OD
        field.nucleus(x_um, y_um, radius_um, stretch * radius_um, od)
    for x_um, y_um in [(60, 60), (160, 50), (270, 70), (80, 180), (190, 170), (215, 185), (290, 190)]:
        radius_um = rng.uniform(7.0, 15.0)
        field.body(x_um, y_um, radius_um, rng.uniform(1.3, 2.0) * EOSIN_OD)
        for dx_um, dy_um in rng.uniform(-0.35, 0.35, (3, 2)) * radius_um:
            field.nucleus(x_um + dx_um, y_um + dy_um, 0.35 * radius_um)
    window = field.window()
    noise = rng.integers(-9, 10, window.rgb.shape)
    return replace(window, rgb=np.clip(window.rgb + noise, 0, 255).astype(np.uint8))


def found(cell_type: CellType) -> list[Detection]:
    return list(DETECTORS[cell_type].detect(crowd(), RunConfig().cells(cell_type).stored))


def digest(cells: list[Detection]) -> str:
    """Of the places and masks, in an order of their own."""
    hashed = hashlib.sha256()
    for cell in sorted(cells, key=lambda cell: (cell.box, cell.mask.tobytes())):
        corners = (cell.box.x0, cell.box.y0, cell.box.x1, cell.box.y1)
        hashed.update(repr(corners).encode() + np.packbits(cell.mask).tobytes())
    return hashed.hexdigest()[:16]


@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_the_cells_of_a_detector_are_those_of_its_revision(cell_type: CellType) -> None:
    revision = DETECTORS[cell_type].revision
    assert (cell_type, revision) in CELLS, "a new revision: write its digest here"
    assert digest(found(cell_type)) == CELLS[cell_type, revision], "cells changed: raise the revision"


@pytest.mark.parametrize(("cell_type", "at_least"), [("hspc", 200), ("mk", 5)])
def test_a_pixel_more_changes_the_digest(cell_type: CellType, at_least: int) -> None:
    cells = found(cell_type)
    assert len(cells) >= at_least
    box = cells[0].box
    moved = replace(cells[0], box=Box(box.x0 + 1, box.y0, box.x1 + 1, box.y1))
    assert digest([moved, *cells[1:]]) != digest(cells)
    assert digest(cells[::-1]) == digest(cells)


def show() -> None:
    """Prints the digest of every detector as it is now."""
    for cell_type in CELL_TYPES:
        revision = DETECTORS[cell_type].revision
        print(f'    ("{cell_type}", "{revision}"): "{digest(found(cell_type))}",')
