"""What SAM2 is measured on: random weights in the official format, and whole simulated scenes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sam2.build_sam import build_sam2

from mkhspc.config import RunConfig
from mkhspc.detect.contract import Window
from mkhspc.detect.window_grid import WindowGrid
from mkhspc.geometry import Box
from mkhspc.simulate import SlideSpec, write_demo_slides
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.stains import calibrate

STORED = RunConfig().stored("mk")
SIDE_UM = 1200.0
"""Of the large scene: a tile and all that its cells need to see around it."""
PIECE_PX = 400


def random_weights(path: Path) -> Path:
    """The smallest SAM2.1."""
    torch.manual_seed(4)
    net = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu")
    torch.save({"model": net.state_dict()}, path)
    return path


def large_scene(folder: Path) -> Window:
    """A simulated scene of `SIDE_UM`."""
    spec = SlideSpec("DEMO_LARGE", "F", "HU", sizes_um=((SIDE_UM, SIDE_UM),))
    write_demo_slides(folder, specs=(spec,))
    (scene,) = scenes(folder / "DEMO_LARGE.czi")
    return scene


def scenes(slide: Path) -> Iterator[Window]:
    """The whole scenes of a slide."""
    with CziSlide.open(slide) as opened:
        for scene in opened.info.scenes:
            rgb = opened.read(scene.index, scene.box)
            starts = [range(0, side - PIECE_PX + 1, PIECE_PX) for side in rgb.shape[:2]]
            pieces = [rgb[y : y + PIECE_PX, x : x + PIECE_PX] for y in starts[0] for x in starts[1]]
            um_per_px = opened.um_per_px
            yield Window(rgb, scene.box, um_per_px, calibrate(pieces, um_per_px))


def middle_square(scene: Window, longest_um: float) -> tuple[WindowGrid, Box]:
    """SAM2's windows on the scene for cells up to a length, and the square of one in its middle."""
    grid = WindowGrid.of(longest_um, scene.um_per_px)
    column, row = (side // 2 // grid.cell_px for side in (scene.box.width, scene.box.height))
    return grid, grid.square(column, row)


def part(scene: Window, box: Box) -> Window:
    """A copy: it travels alone."""
    if box.clipped(scene.box) != box:
        raise ValueError(f"the scene does not hold {box}")
    return replace(scene, rgb=np.ascontiguousarray(scene.rgb[box.slices_in(scene.box)]), box=box)
