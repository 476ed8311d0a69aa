"""`mkhspc segment` with Cellpose in a model server, with and without SAM2: small nets, real classes.

The slide shows what the cone finder finds, and SAM2's random masks refine nothing; but every step from the
slide to the table is the real one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from conftest import need
from czifiles import Block, write_czi
from mkhspc.cli import run_command
from mkhspc.cluster.journal import read_journals
from mkhspc.models import choice
from mkhspc.models.weights.cache import read_digest
from mkhspc.store import cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from smallcellpose import small_loader

need("cellpose")
need("sam2")
pytestmark = [pytest.mark.models, pytest.mark.slow]

UM_PER_PX = 0.22


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conecells import save_cone_finder

    path = tmp_path_factory.mktemp("cellpose") / "cones"
    save_cone_finder(path)
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiles with fifty nuclei 14 µm apart, darkest in the middle, and a dark edge.

    The edge sets what counts as black: beside it the cones are as steep as the finder expects.
    """
    from conecells import CONE_DEPTH, cones

    height, width, light, depth = 352, 700, 222.0, 121.0
    x, y = (np.arange(60.0, length - 30.0, 64.0) for length in (width, height))
    centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    green = cones((height, width), centres, 5.0 / UM_PER_PX, light, light - depth)[..., 1]
    green[:20] = light - depth / CONE_DEPTH
    shade = light - green
    rgb = np.stack([236.0 - 0.8 * shade, green, 232.0 - 0.4 * shade], axis=-1).round().astype(np.uint8)
    path = tmp_path_factory.mktemp("slide") / "cones.czi"
    return write_czi(path, [Block(rgb, 0, 0)], UM_PER_PX)


def segmented(root: Path, slide: Path, monkeypatch: pytest.MonkeyPatch, *more: object) -> pa.Table:
    """The HSPC of a run with two workers; the model server is a process of its own."""
    monkeypatch.setenv("MKHSPC_MODELS", str(root.parent))
    monkeypatch.setattr(choice, "_loader", small_loader)
    words = ["segment", "--czi-path", slide, "--output-dir", root, "--tile-size", 512, "--num-workers", 2]
    words += ["--mk-detector", "classical", "--device", "cpu", *more]
    assert run_command([str(word) for word in words]) == 0
    layout = RunLayout(root)
    manifest = manifests.read(layout)
    found = pa.concat_tables([cells.read_cells(layout, manifest, s.slide_id) for s in manifest.slides])
    return found.filter(pc.equal(found["cell_type"], "hspc"))


def loaded_models(root: Path) -> list[set[str]]:
    """Of each model server that the run had."""
    events = [event for journal in read_journals(RunLayout(root)) for event in journal.events]
    return [set(event.facts["precision"]) for event in events if event.name == "models"]


def test_a_run_finds_hspc_by_cellpose_and_refines_them_by_sam2(
    weights: Path, sam2_checkpoint: Path, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_cellpose = ["--cellpose-weights", weights, "--hspc-detector"]
    root = tmp_path / "cellpose"
    found = segmented(root, slide, monkeypatch, *by_cellpose, "cellpose")
    assert len(found) > 40
    assert pc.unique(found["detector"]).to_pylist() == ["cellpose"]
    assert loaded_models(root) == [{"cellpose"}]
    assert manifests.read(RunLayout(root)).model_hashes["cellpose"] == read_digest(weights)

    root, by_both = tmp_path / "both", [*by_cellpose, "cellpose+sam2", "--sam2-weights", sam2_checkpoint]
    refined = segmented(root, slide, monkeypatch, *by_both)
    assert pc.unique(refined["detector"]).to_pylist() == ["cellpose+sam2"]
    assert loaded_models(root) == [{"cellpose", "sam2"}]
    hashes = manifests.read(RunLayout(root)).model_hashes
    assert (hashes["cellpose"], hashes["sam2"]) == (read_digest(weights), read_digest(sam2_checkpoint))
    # Outlines of random weights hardly ever pass the gate: the cells are Cellpose's, their scores too.
    own = dict(zip(found["cell_id"].to_pylist(), found["detector_score"].to_pylist(), strict=True))
    kept = dict(zip(refined["cell_id"].to_pylist(), refined["detector_score"].to_pylist(), strict=True))
    assert len(own.keys() & kept.keys()) >= 0.9 * len(own)
    assert all(kept[cell_id] == pytest.approx(own[cell_id], abs=1e-4) for cell_id in own.keys() & kept.keys())
