"""SAM2's megakaryocytes: the stage against the package's own generator, and where it asks.

The weights are random: masks mean nothing, but what is computed is the same.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sam2_scenes import STORED, large_scene, middle_square, part, random_weights, scenes

from mkhspc.detect.contract import MIDDLE_SHARE, NeededCells, Window
from mkhspc.detect.sam2 import Sam2Mk, prompts
from mkhspc.geometry import Box, um_to_px
from mkhspc.models.service import NoModels
from mkhspc.process.children import FRUGAL
from mkhspc.simulate import TRUTH_FILE, read_truth, write_demo_slides

Row = dict[str, object]
Points = NDArray[np.float64]

TILE_PX = 2048
DEFAULT_GRID = 32
GRID_TILE_PX = 4096
LEAST_UM2 = 100.0
LEAST_PROMPTS = 10
"""In the window that is judged: of the simulated slide's middle one about twenty."""


def rows(shared: Path | None, full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        checkpoint = random_weights(scratch / "tiny.pt")
        scene = large_scene(scratch / "large")
        found = [
            _prompts(scratch),
            *_stage("a window of 256 µm", *_one_window(scene), checkpoint, scratch, is_judged=True),
        ]
        if full:  # for comparison alone: the generator sees the whole tile in the pixels of one window
            found += _stage(f"a tile of {TILE_PX} px with its halo", *_one_tile(scene), checkpoint, scratch)
        return found


def _detector() -> Sam2Mk:
    """To be looked at."""
    return Sam2Mk(NoModels(), "random", STORED.max_length_um)


# The stage


def _one_window(scene: Window) -> tuple[Window, Window]:
    """What the detector must see of one window of SAM2, and that window itself."""
    grid, square = middle_square(scene, STORED.max_length_um)
    seen = square.grown(um_to_px(_detector()._surroundings_um, scene.um_per_px))
    return part(scene, seen), part(scene, square.grown(grid.margin_px))


def _one_tile(scene: Window) -> tuple[Window, Window]:
    """What the detector sees of a tile, and the tile."""
    start = (scene.box.width - TILE_PX) // 2
    core = Box(start, start, start + TILE_PX, start + TILE_PX)
    needed = NeededCells(STORED.max_length_um, MIDDLE_SHARE * STORED.max_length_um)
    halo_px = um_to_px(_detector().halo_um(needed), scene.um_per_px)
    wanted = needed.centroids(core, scene.um_per_px)
    return replace(part(scene, core.grown(halo_px)), wanted=wanted), part(scene, core)


def _stage(
    title: str, seen: Window, shown: Window, checkpoint: Path, scratch: Path, *, is_judged: bool = False
) -> list[Row]:
    """Time and memory of both sides, each in a process of its own and from its first image on."""
    ours = _side("stage", checkpoint, seen, scratch)
    theirs = _side("generator", checkpoint, shown, scratch)
    faster, smaller = theirs["wall_s"] / ours["wall_s"], ours["extra_bytes"] / theirs["extra_bytes"]
    windows, prompted, passed = (f"{ours[name]:g}" for name in ("windows", "prompts", "survivors"))
    asked = f"{windows} x the encoder, {prompted} prompts, {passed} masks passed"
    # Without a window, with hardly a prompt in it or no mask to cut out, there is nothing to be fast at.
    is_work = ours["windows"] == 1 and ours["prompts"] >= LEAST_PROMPTS and ours["survivors"] >= 1
    grid = f"`SAM2AutomaticMaskGenerator`, {DEFAULT_GRID} x {DEFAULT_GRID} prompts"
    return [
        {
            "name": f"MK stage of {title} ({asked}), speed against SAM2's generator",
            "value": faster,
            "unit": "x",
            "baseline": f"{grid}: {theirs['wall_s']:.1f} s, of processors {theirs['cpu_s']:.1f} s; "
            f"ours {ours['wall_s']:.1f} and {ours['cpu_s']:.1f} s",
            "target": f">= 10, of one window with {LEAST_PROMPTS} prompts or more" if is_judged else None,
            "ok": is_work and faster >= 10 if is_judged else None,
        },
        {
            "name": f"MK stage of {title}: extra peak memory over that of SAM2's generator",
            "value": smaller,
            "unit": "x",
            "baseline": f"{grid}: {theirs['extra_bytes'] / 1e6:.0f} MB beyond the loaded model; "
            f"ours {ours['extra_bytes'] / 1e6:.0f} MB",
            "target": "<= 0.15" if is_judged else None,
            "ok": is_work and smaller <= 0.15 if is_judged else None,
        },
    ]


def _side(side: str, checkpoint: Path, window: Window, scratch: Path) -> dict[str, float]:
    pickled = scratch / "window.pickle"
    pickled.write_bytes(pickle.dumps(window))
    script = Path(__file__).with_name("sam2_sides.py")
    doubles = str(script.parents[1] / "support")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, side, checkpoint, pickled],
        capture_output=True,
        text=True,
        check=False,
        # As model servers are started; the same for both sides.
        env={**os.environ, **FRUGAL, "PYTHONPATH": doubles},
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    took: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return took


# Prompts


def _prompts(scratch: Path) -> Row:
    """Over the whole scenes of the demo's slides."""
    folder = scratch / "demo"
    slides = write_demo_slides(folder)
    truth = read_truth(folder / TRUTH_FILE)
    hit, default_hit, count = 0, 0, 0
    for slide in slides:
        for index, scene in enumerate(scenes(folder / f"{slide.slide_id}.czi")):
            contours = _large_cells(truth, slide.slide_id, index)
            hit += _with_a_point(contours, prompts(scene, STORED)[0])
            default_hit += _with_a_point(contours, _default_grid(scene.box))
            count += len(contours)
    return {
        "name": f"{count} simulated MK of {LEAST_UM2:g} µm² and more: with a prompt inside",
        "value": hit / count,
        "unit": "share",
        "baseline": f"the default grid on a tile of {GRID_TILE_PX} px: {default_hit / count:.3f}",
        "target": ">= 0.99",
        "ok": hit / count >= 0.99,
    }


def _large_cells(truth: pa.Table, slide_id: str, scene: int) -> list[NDArray[np.float32]]:
    """(n, 2) outlines x, y of megakaryocytes that can be found; of nothing that looks like them."""
    wanted = (
        (pc.field("slide_id") == slide_id)
        & (pc.field("scene") == scene)
        & (pc.field("kind") == "mk")
        & pc.field("clear")
        & (pc.field("area_um2") >= LEAST_UM2)
    )
    return [np.array(c, np.float32).reshape(-1, 2) for c in truth.filter(wanted)["contour_px"].to_pylist()]


def _default_grid(box: Box) -> Points:
    step_px = GRID_TILE_PX / DEFAULT_GRID
    x, y = (np.arange(step_px / 2, length, step_px) for length in (box.width, box.height))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _with_a_point(contours: list[NDArray[np.float32]], points: Points) -> int:
    """How many outlines hold a point."""
    return sum(
        any(cv2.pointPolygonTest(contour, (x, y), measureDist=False) > 0 for x, y in points.tolist())
        for contour in contours
    )
