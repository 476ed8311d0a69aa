"""The expert's marks on the real marrow slides, in the scenes' own coordinates."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.spatial import cKDTree

IMAGE_WIDTH_PX = 1200
"""A scene is a patient: its two images side by side."""
MATCH_PX = 16.0
PATIENTS = ("0001", "0002", "0003")


def expert_dots(shared: Path) -> dict[int, NDArray[np.float64]]:
    """Expert dots by scene, (n, 2) x, y in level-0 px."""
    dots = {}
    for scene, patient in enumerate(PATIENTS):
        both = []
        for image in (1, 2):
            path = shared / "data" / "marrow" / f"BM_GRAZ_HE_{patient}_0{image}_nuclei.csv"
            with path.open() as file:
                points = [(float(r["x_px"]), float(r["y_px"])) for r in csv.DictReader(file)]
            both.append(np.array(points) + np.array([IMAGE_WIDTH_PX * (image - 1), 0]))
        dots[scene] = np.concatenate(both)
    return dots


@dataclass(frozen=True)
class MkMark:
    """A megakaryocyte marked by eye: its centre in level-0 px of the scene.

    Attributes:
        confidence: 'high', 'medium', or 'low', which counts neither as missed nor as false.
    """

    x_px: float
    y_px: float
    confidence: str


def mk_by_eye(shared: Path) -> dict[int, list[MkMark]]:
    """The megakaryocytes marked by eye, by scene."""
    found: dict[int, list[MkMark]] = {scene: [] for scene in range(len(PATIENTS))}
    with (shared / "data" / "marrow" / "mk_by_eye.csv").open() as file:
        for row in csv.DictReader(file):
            *_, patient, image = row["image"].split("_")
            x_px = float(row["cx"]) + IMAGE_WIDTH_PX * (int(image) - 1)
            found[PATIENTS.index(patient)].append(MkMark(x_px, float(row["cy"]), row["confidence"]))
    return found


def match_points(
    dots: NDArray[np.float64], cells: NDArray[np.float64], within_px: float = MATCH_PX
) -> list[tuple[int, int]]:
    """One-to-one pairs (dot, cell) no farther apart than `within_px`, the nearest first."""
    near = cKDTree(dots).sparse_distance_matrix(cKDTree(cells), within_px, output_type="coo_matrix")
    pairs: list[tuple[int, int]] = []
    free_dots, free_cells = set(range(len(dots))), set(range(len(cells)))
    for _, i, j in sorted(zip(near.data.tolist(), near.row.tolist(), near.col.tolist(), strict=True)):
        if i in free_dots and j in free_cells:
            free_dots.remove(i)
            free_cells.remove(j)
            pairs.append((i, j))
    return pairs


def of_type(cells: pa.Table, cell_type: str, scene: int) -> pa.Table:
    """Cells of one type and scene in the filter."""
    wanted = (pc.field("cell_type") == cell_type) & (pc.field("scene") == scene) & pc.field("in_filter")
    return cells.filter(wanted)


def centroids(cells: pa.Table) -> NDArray[np.float64]:
    return np.stack([cells["x_px"].to_numpy(), cells["y_px"].to_numpy()], axis=1)


def labels_from_dots(shared: Path, cells: pa.Table, *, dataset: str, config_hash: str) -> dict[str, Any]:
    """An exported label file: HSPC candidates with an expert dot are positive, the others negative."""
    answers: dict[str, list[str]] = {"positive": [], "negative": [], "unsure": []}
    for scene, dots in expert_dots(shared).items():
        here = of_type(cells, "hspc", scene)
        dotted = {j for _, j in match_points(dots, centroids(here))}
        for j, cell_id in enumerate(here["cell_id"].to_pylist()):
            answers["positive" if j in dotted else "negative"].append(cell_id)
    return {
        "format": "mkhspc-annotations",
        "version": 1,
        "dataset": dataset,
        "config_hash": config_hash,
        "annotator": "expert-dots",
        "exported_at": "2026-01-31T12:00:00Z",
        "mk": {"positive": [], "negative": [], "unsure": []},
        "hspc": answers,
        "events": [],
    }
