"""SAM2 against the package's own network and predictor: masks, scores, and features of cells.

The weights are random: masks mean nothing, but what is computed is the same.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2_scenes import STORED, large_scene, middle_square, random_weights
from sam2_sides import official

from localmodels import LocalModels
from mkhspc.config import RunConfig
from mkhspc.detect.classical import ClassicalHspc
from mkhspc.detect.contract import Detection, Window
from mkhspc.detect.mask_logits import masks_of
from mkhspc.geometry import Box, mask_centroid
from mkhspc.measure import embed_sam2
from mkhspc.measure.crops import crop_box, cut_crop
from mkhspc.models.sam2 import Sam2
from mkhspc.models.sam2_loader import Sam2Loader
from mkhspc.models.service import array_of

Row = dict[str, object]
Predicted = Callable[[int], tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
"""Masks, scores and small logits of a prompt by its place."""

CROPS_TIMED = 6
PREDICTED = 12
"""Prompts of each kind whose masks and scores are compared."""
MK_SIDES_UM = (12.0, 40.0)


def rows(shared: Path | None, full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        checkpoint = random_weights(scratch / "tiny.pt")
        model, theirs = Sam2Loader(checkpoint).load("cpu"), official(checkpoint)
        scene = large_scene(scratch / "large")
        return [*_same(model, theirs, scene), *_features(model, theirs, scene)]


# The same answers


def _same(model: Sam2, theirs: Any, scene: Window) -> list[Row]:
    """Masks and scores of points and of boxes, and pooled features, against the predictor.

    Args:
        theirs: the package's network as the package builds it, from the same file.
    """
    grid, square = middle_square(scene, STORED.max_length_um)
    box = square.grown(grid.margin_px)
    rgb = np.ascontiguousarray(scene.rgb[box.slices_in(scene.box)])
    boxes = _boxes(rgb.shape[0], scene.um_per_px)
    predictor = SAM2ImagePredictor(theirs)
    predictor.set_image(rgb)
    pairs = [
        *_pairs(
            model, rgb, {"boxes": boxes}, lambda i: predictor.predict(box=boxes[i], multimask_output=False)
        ),
        *_pairs(
            model,
            rgb,
            {"points": boxes.reshape(-1, 2, 2).mean(axis=1)},
            lambda i: predictor.predict(boxes[i].reshape(1, 2, 2).mean(axis=1), np.array([1])),
        ),
    ]
    overlap, apart = min(iou for iou, _ in pairs), max(difference for _, difference in pairs)
    features = _pooled_difference(model, predictor, rgb, boxes)
    baseline = "`SAM2ImagePredictor` on the package's own network, the same weights"
    return [
        {
            "name": f"SAM2: least overlap (IoU) of {len(pairs)} masks with the predictor's",
            "value": overlap,
            "unit": "",
            "baseline": baseline,
            "target": ">= 0.999",
            "ok": overlap >= 0.999,
        },
        _difference(f"SAM2: largest difference of {len(pairs)} scores", apart, baseline, 1e-3),
        _difference(
            "SAM2: largest difference of features under masks",
            features,
            f"the mean over pixels of the embedding of {baseline}",
            1e-4,
        ),
    ]


def _pairs(
    model: Sam2, rgb: NDArray[np.uint8], asked: dict[str, NDArray[np.float32]], predicted: Predicted
) -> Iterator[tuple[float, float]]:
    """For each prompt the IoU of both masks, and the difference of their scores."""
    said = LocalModels({"sam2": model}).ask("sam2", {"kind": "refine", "key": "same", "rgb": rgb, **asked})
    scores = array_of(said, "score").tolist()
    for place, (inside, mask), score in zip(
        array_of(said, "prompt").tolist(), masks_of(said, rgb.shape[:2]), scores, strict=True
    ):
        wholes, theirs, _ = predicted(place)
        best = int(theirs.argmax())
        drawn, whole = np.zeros(rgb.shape[:2], np.bool_), wholes[best] > 0
        drawn[inside.slices_in(Box(0, 0, rgb.shape[1], rgb.shape[0]))] = mask
        yield float((drawn & whole).sum() / (drawn | whole).sum()), abs(score - float(theirs[best]))


def _difference(name: str, value: float, baseline: str, target: float) -> Row:
    return {
        "name": name,
        "value": value,
        "unit": "",
        "baseline": baseline,
        "target": f"<= {target:g}",
        "ok": value <= target,
    }


def _boxes(side_px: int, um_per_px: float) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    sides = rng.uniform(*MK_SIDES_UM, (PREDICTED, 2)) / um_per_px
    corners = rng.uniform(0, side_px - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def _pooled_difference(
    model: Sam2, predictor: Any, rgb: NDArray[np.uint8], boxes: NDArray[np.float32]
) -> float:
    """Of masks scattered at random in the boxes, pixel after pixel: each has its share of the embedding."""
    rng = np.random.default_rng(5)
    whole = boxes.round().astype(np.int32)
    masks = [rng.random((y1 - y0, x1 - x0)) < 0.5 for x0, y0, x1, y1 in whole.tolist()]
    asked = {"boxes": whole, "masks": np.concatenate([mask.ravel() for mask in masks])}
    said = LocalModels({"sam2": model}).ask("sam2", {"kind": "pool", "key": "same", "rgb": rgb, **asked})
    embedding = predictor.get_image_embedding()[0].numpy().astype(np.float64)
    shares = [_shares(length, embedding.shape[-1]) for length in rgb.shape[:2]]
    worst = 0.0
    for vector, (x0, y0), mask in zip(array_of(said, "features"), whole[:, :2].tolist(), masks, strict=True):
        total = np.zeros(embedding.shape[0])
        for y, x in np.argwhere(mask).tolist():
            for row, down in shares[0][y0 + y]:
                for column, across in shares[1][x0 + x]:
                    total += down * across * embedding[:, row, column]
        worst = max(worst, float(np.abs(vector - total / mask.sum()).max()))
    return worst


def _shares(length: int, cells: int) -> list[list[tuple[int, float]]]:
    """For each pixel of an axis, the cells of the embedding that it lies in and its share in each."""
    found = []
    for pixel in range(length):
        start, end = pixel * cells / length, (pixel + 1) * cells / length
        inside = range(int(start), min(cells, math.ceil(end)))
        found.append([(c, (min(end, c + 1) - max(start, c)) / (end - start)) for c in inside])
    return found


# Features


def _features(model: Sam2, theirs: Any, scene: Window) -> list[Row]:
    """Of the HSPC of one square: with the encoder's pass, and from the embedding that is there already."""
    stored = RunConfig().stored("hspc")
    grid, square = middle_square(scene, stored.max_length_um)
    found = ClassicalHspc().detect(scene.part(square.grown(grid.margin_px)), stored)
    cells = [cell for cell in found if _is_centred_in(cell, square)]
    service = LocalModels({"sam2": model})
    crop_s = _per_crop_s(theirs, scene, cells[:CROPS_TIMED])
    model.run([{"kind": "pool", "key": "warm", "rgb": scene.rgb[:64, :64].copy(), **_NO_MASKS}])
    first_s, again_s = (_embed_s(scene, cells, stored.max_length_um, service) for _ in range(2))
    baseline = f"a pass of the encoder for each crop: {crop_s:.2f} s, timed on {CROPS_TIMED} of them"
    return [
        {
            "name": f"SAM2's features of {len(cells)} cells of one window, {what}, speed",
            "value": crop_s * len(cells) / took_s,
            "unit": "x",
            "baseline": f"{baseline}; ours {took_s:.2f} s for all",
            "target": ">= 30",
            "ok": crop_s * len(cells) / took_s >= 30,
        }
        for what, took_s in (("with its pass of the encoder", first_s), ("encoded already", again_s))
    ]


_NO_MASKS = {"boxes": np.zeros((0, 4), np.int32), "masks": np.zeros(0, np.bool_)}


def _is_centred_in(cell: Detection, square: Box) -> bool:
    x, y = mask_centroid(cell.mask)
    return square.x0 <= cell.box.x0 + x < square.x1 and square.y0 <= cell.box.y0 + y < square.y1


def _embed_s(scene: Window, cells: list[Detection], longest_um: float, service: LocalModels) -> float:
    begun_s = time.perf_counter()
    embed_sam2.embed(scene, cells, longest_um, service, "bench")
    return time.perf_counter() - begun_s


def _per_crop_s(theirs: Any, scene: Window, cells: list[Detection]) -> float:
    """Seconds a cell; a pass before these, which chooses kernels, does not count."""
    predictor = SAM2ImagePredictor(theirs)
    times_s = []
    for cell in [cells[0], *cells]:
        x, y = mask_centroid(cell.mask)
        crop = cut_crop(scene, crop_box(cell.box.x0 + x, cell.box.y0 + y, "hspc", scene.um_per_px))
        begun_s = time.perf_counter()
        predictor.set_image(crop)
        predictor.get_image_embedding().mean((2, 3))
        times_s.append(time.perf_counter() - begun_s)
    return sum(times_s[1:]) / len(cells)
