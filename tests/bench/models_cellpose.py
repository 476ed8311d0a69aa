"""Cellpose: the labels of a block, and of blocks that overlap, against `CellposeModel.eval`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from conecells import cones, one_thread, save_cone_finder, small_backbone
from localmodels import LocalModels
from mkhspc.models.cellpose import BLOCK_PX, CellposeLoader
from mkhspc.models.service import Message, array_of
from mkhspc.models.weights.cache import WeightFile

Row = dict[str, object]
Image = NDArray[np.uint8]

LOWHIGH = np.array([[20.0, 220.0]] * 3)
PAD_PX = 8
"""`eval` puts so much of what is normalised to 0 around every image ..."""
STEP_PX = 208
"""... and lays blocks of a larger one this far apart, at the overlap that it is asked for here."""
SPACING_PX = 40
SIDES_PX = {"one block": BLOCK_PX - 2 * PAD_PX, "a tile of 3 x 3 blocks": BLOCK_PX + 2 * STEP_PX - 2 * PAD_PX}


def rows(shared: Path | None, full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, one_thread():
        path = Path(folder) / "cones"
        save_cone_finder(path)
        return [_row(title, path, side_px) for title, side_px in SIDES_PX.items()]


def _row(title: str, weights: Path, side_px: int) -> Row:
    from cellpose.models import CellposeModel

    image = _picture(side_px)
    with small_backbone():
        model = CellposeLoader(WeightFile("cellpose", weights, "0" * 64)).load("cpu")
        official = CellposeModel(
            pretrained_model=str(weights), device=torch.device("cpu"), use_bfloat16=False
        )
    (ours,) = array_of(LocalModels({"cellpose": model}).ask("cellpose", _request(image)), "labels")
    theirs, _, _ = official.eval(image, normalize={"lowhigh": LOWHIGH}, batch_size=1, tile_overlap=0.05)
    different = int((ours != theirs).sum())
    return {
        "name": f"Cellpose, {title}: pixels with another label, of {theirs.size} with {theirs.max()} cells",
        "value": different,
        "unit": "px",
        "baseline": "`CellposeModel.eval`, the official class on a narrow backbone, the same weights",
        "target": "0",
        "ok": different == 0 and int(theirs.max()) > (side_px / SPACING_PX - 1) ** 2,
    }


def _picture(side_px: int) -> Image:
    """Cones of one size, some of them cut by the border, with a little grain."""
    rng = np.random.default_rng(side_px)
    at = np.arange(SPACING_PX / 2, side_px + SPACING_PX / 2, SPACING_PX)
    centres = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2) + rng.uniform(-4, 4, (len(at) ** 2, 2))
    grey = cones((side_px, side_px), centres, rng.uniform(12, 15), 220.0, 100.0)
    return np.clip(grey + rng.normal(0, 0.4, grey.shape), 0, 255).astype(np.uint8)


def _request(image: Image) -> Message:
    """A picture as `eval` cuts it, with labels wanted in all of it."""
    edges = ((PAD_PX, PAD_PX), (PAD_PX, PAD_PX), (0, 0))
    padded = np.pad(image, edges, constant_values=int(LOWHIGH[0, 0]))
    starts = range(0, len(padded) - BLOCK_PX + 1, STEP_PX)
    places = [(x, y) for y in starts for x in starts]
    return {
        "blocks": np.stack([padded[y : y + BLOCK_PX, x : x + BLOCK_PX] for x, y in places]),
        "places": np.array(places, np.int32),
        "fields": np.array([[PAD_PX, PAD_PX, len(padded) - PAD_PX, len(padded) - PAD_PX]], np.int32),
        "lowhigh": LOWHIGH,
    }
