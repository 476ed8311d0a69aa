"""A detector's revision is raised whenever its cells change: they must not mix with a run's older ones.

The cells that each revision finds on one drawn window are known here by their digest; of those that ask
models, what they make of the answers of doubles, and SAM2's prompts. For a new revision, put in what this
prints:

    PYTHONPATH=tests:tests/support python -c "import test_detector_revision as t; t.show()"
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from localmodels import LocalModels
from mkhspc.config import RunConfig
from mkhspc.detect.cellpose import CellposeHspc
from mkhspc.detect.classical import ClassicalHspc, ClassicalMk
from mkhspc.detect.contract import Detection, Detector, Window
from mkhspc.detect.refine import RefinedBySam2
from mkhspc.detect.sam2 import Sam2Mk, prompts
from mkhspc.geometry import Box
from modeldoubles import DarkPieces, DiscsAtPrompts
from stained import EOSIN_OD, NUCLEUS_OD, Field

CELLS = {
    ("classical mk", "1"): "6c928f50a73772a5",
    ("classical hspc", "1"): "1badf33018b63a41",
    ("sam2 mk", "2 by classical 1 double"): "e1fa8abec6f3c8de",
    ("cellpose hspc", "1 double"): "6cdc2c13ec52036e",
    ("cellpose+sam2 hspc", "1 double of cellpose 1 double"): "e56dd49c3b873185",
}
"""By detector and its revision."""
PROMPTS = {"2 by classical 1 double": "45934abfa560ed5f"}
"""SAM2's, by the revision of its detector."""

STORED = {"mk": RunConfig().stored("mk"), "hspc": RunConfig().stored("hspc")}
MODELS = LocalModels({"sam2": DiscsAtPrompts(), "cellpose": DarkPieces()})
CELLPOSE = CellposeHspc(MODELS, "double")
DETECTORS: dict[str, Detector] = {
    "classical mk": ClassicalMk(),
    "classical hspc": ClassicalHspc(),
    "sam2 mk": Sam2Mk(MODELS, "double", STORED["mk"].max_length_um),
    "cellpose hspc": CELLPOSE,
    "cellpose+sam2 hspc": RefinedBySam2(CELLPOSE, MODELS, "double"),
}
AT_LEAST = {
    "classical mk": 5,
    "classical hspc": 200,
    "sam2 mk": 5,
    "cellpose hspc": 200,
    "cellpose+sam2 hspc": 200,
}
"""Cells, for a digest to say much."""


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


def wide_crowd() -> Window:
    """The same side by side: models see windows that one of it does not fill."""
    window = crowd()
    rgb = np.tile(window.rgb, (2, 2, 1))
    return replace(window, rgb=rgb, box=Box(0, 0, rgb.shape[1], rgb.shape[0]))


@cache
def found(name: str) -> list[Detection]:
    detector = DETECTORS[name]
    window = crowd() if name.startswith("classical") else wide_crowd()
    return list(detector.detect(window, STORED[detector.cell_type]))


def digest(cells: Sequence[Detection]) -> str:
    """Of the places and masks, in an order of their own."""
    hashed = hashlib.sha256()
    for cell in sorted(cells, key=lambda cell: (cell.box, cell.mask.tobytes())):
        corners = (cell.box.x0, cell.box.y0, cell.box.x1, cell.box.y1)
        hashed.update(repr(corners).encode() + np.packbits(cell.mask).tobytes())
    return hashed.hexdigest()[:16]


def digest_of_prompts() -> str:
    """Of SAM2's points and the areas of their proposals, to a hundredth of a pixel."""
    points_px, areas_px = prompts(crowd(), STORED["mk"])
    rows = np.rint(100 * np.column_stack([points_px, areas_px])).astype(np.int64)
    return hashlib.sha256(rows[np.lexsort(rows.T)].astype("<i8").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("name", DETECTORS)
def test_the_cells_of_a_detector_are_those_of_its_revision(name: str) -> None:
    revision = DETECTORS[name].revision
    assert (name, revision) in CELLS, "a new revision: write its digest here"
    assert digest(found(name)) == CELLS[name, revision], "cells changed: raise the revision"


def test_the_prompts_of_sam2_are_those_of_its_revision() -> None:
    revision = DETECTORS["sam2 mk"].revision
    assert revision in PROMPTS, "a new revision: write the digest of its prompts here"
    assert digest_of_prompts() == PROMPTS[revision], "prompts changed: raise the revision"


@pytest.mark.parametrize("name", DETECTORS)
def test_a_pixel_more_changes_the_digest(name: str) -> None:
    cells = found(name)
    assert len(cells) >= AT_LEAST[name]
    box = cells[0].box
    moved = replace(cells[0], box=Box(box.x0 + 1, box.y0, box.x1 + 1, box.y1))
    assert digest([moved, *cells[1:]]) != digest(cells)
    assert digest(cells[::-1]) == digest(cells)


def test_an_outline_is_refined_and_another_is_not() -> None:
    """Else the cells of the refinement would be Cellpose's, or Cellpose's would not matter."""
    refined, plain = (found(f"{name} hspc") for name in ("cellpose+sam2", "cellpose"))
    own = {(cell.box, cell.mask.tobytes()) for cell in plain}
    kept = sum((cell.box, cell.mask.tobytes()) in own for cell in refined)
    assert 0 < kept < len(refined)


def test_a_new_revision_of_the_classical_detector_is_one_of_sam2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers and outlines decide where SAM2 is asked."""
    before = DETECTORS["sam2 mk"].revision
    monkeypatch.setattr("mkhspc.detect.sam2.ClassicalMk", lambda: ClassicalMk(revision="next"))
    assert DETECTORS["sam2 mk"].revision != before


def test_a_new_revision_of_cellpose_is_one_of_its_refinement(monkeypatch: pytest.MonkeyPatch) -> None:
    before = DETECTORS["cellpose+sam2 hspc"].revision
    monkeypatch.setattr(CellposeHspc, "revision", "next")
    assert DETECTORS["cellpose+sam2 hspc"].revision != before


def show() -> None:
    """Prints the digest of every detector as it is now, and that of SAM2's prompts."""
    for name, detector in DETECTORS.items():
        print(f'    ("{name}", "{detector.revision}"): "{digest(found(name))}",')
    print(f'    "{DETECTORS["sam2 mk"].revision}": "{digest_of_prompts()}",')
