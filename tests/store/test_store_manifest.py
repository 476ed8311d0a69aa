from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import make_run

from pipeline.errors import InputError
from pipeline.store import manifest as manifests
from pipeline.store.layout import RunLayout

ADD_SLIDES = """
import sys, time
from dataclasses import replace
from pathlib import Path
from pipeline.store import manifest as manifests
from pipeline.store.layout import RunLayout

def with_slide(slide_id):
    def change(manifest):
        time.sleep(0.005)
        return replace(manifest, slides=(*manifest.slides, replace(manifest.slides[0], slide_id=slide_id)))
    return change

layout = RunLayout(Path(sys.argv[1]))
time.sleep(max(0.0, float(sys.argv[3]) - time.time()))
for i in range(5):
    manifests.update(layout, with_slide(f"{sys.argv[2]}-{i}"))
"""


def test_no_change_of_several_processes_is_lost(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",), cells_per_type=4)
    start_s = str(time.time() + 2.0)
    writers = [
        subprocess.Popen([sys.executable, "-c", ADD_SLIDES, str(run.layout.root), name, start_s])
        for name in "BCD"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = [slide.slide_id for slide in manifests.read(run.layout).slides]
    assert sorted(found) == ["A", *(f"{name}-{i}" for name in "BCD" for i in range(5))]


def test_a_change_that_changes_nothing_writes_nothing_and_needs_no_lock(tmp_path: Path) -> None:
    layout = make_run(tmp_path / "run", slide_ids=("A",), cells_per_type=4).layout
    before = layout.manifest.stat()
    manifest = manifests.update(layout, lambda current: replace(current, versions=dict(current.versions)))
    assert manifest == manifests.read(layout)
    assert layout.manifest.stat().st_ino == before.st_ino
    assert not layout.manifest_lock.exists()


def test_a_change_of_no_run_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run"):
        manifests.update(RunLayout(tmp_path / "run"), lambda manifest: manifest)
    assert not (tmp_path / "run").exists()


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m["filter"]["mk"].update(min_um2="a"), "filter.mk.min_um2 cannot be 'a'"),
        (lambda m: m["filter"]["mk"].update(min_um2=float("nan")), "mk.min_area_um2"),
        (lambda m: m["filter"]["mk"].update(min_um2=9000), "above the minimum|out of range"),
        (lambda m: m["filter"].pop("hspc"), "hspc"),
        (lambda m: m["slides"][0].update(slide_id="../../evil"), "no slide id"),
        (lambda m: m["slides"][1].update(slide_id="A"), "two slides have one id"),
        (lambda m: m["slides"][0].update(um_per_px=0.0), "slide A"),
        (lambda m: m["slides"][0].update(um_per_px="0.2"), "slides.um_per_px cannot be '0.2'"),
        (lambda m: m["slides"][0].update(scenes=[{"scene": 0, "width_px": 5}]), "height_px"),
        (lambda m: m["slides"][0].update(scenes=3), "slides.scenes"),
        (lambda m: m["slides"][0].update(extra=3), "extra"),
        (lambda m: m.update(slides=["A"]), "damaged"),
        (lambda m: m["config"]["run"].update(sample_fraction=7.0), "run.sample_fraction"),
    ],
)
def test_a_damaged_manifest_is_refused_with_what_is_wrong(tmp_path: Path, edit: Edit, words: str) -> None:
    assert "is damaged" in refused(tmp_path, edit, words)


def refused(folder: Path, edit: Edit, words: str) -> str:
    """What is said of the manifest of a run that was edited."""
    layout = make_run(folder / "run", slide_ids=("A", "B"), cells_per_type=4).layout
    data = json.loads(layout.manifest.read_text())
    edit(data)
    layout.manifest.write_text(json.dumps(data))
    with pytest.raises(InputError, match=words) as error:
        manifests.read(layout)
    assert error.value.where == layout.manifest
    assert len(str(error.value).splitlines()) == 2
    return str(error.value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.update(config_hash="0" * 16), "its config_hash"),
        (lambda m: m["identity"].update({"run.tile_size": 1024}), "its config_hash"),
        (lambda m: m["config"]["run"].update(tile_size=1024), "run.tile_size"),
        (lambda m: m["config"]["run"].update(seed=9), "run.seed"),
        (lambda m: m["config"]["run"].update(calibration_samples=9), "run.calibration_samples"),
        (lambda m: m["config"]["mk"].update(detector="sam2"), "mk.detector"),
        (lambda m: m["config"]["compute"].update(embedder="resnet50"), "compute.embedder"),
        (lambda m: m["model_hashes"].update(mk="classical-0"), "model_hashes.mk"),
        (lambda m: m.update(seed=9), "its seed is 9"),
        (lambda m: m["blind_codes"].update(A="S09"), "blind codes"),
        (lambda m: m["slides"][0].update(code="S09"), "blind codes"),
        (lambda m: m["filter"]["mk"].update(min_um2=0.5), "the filter of mk"),
    ],
)
def test_a_manifest_edited_by_hand_is_refused(tmp_path: Path, edit: Edit, words: str) -> None:
    """Each of these would find other cells under the old name, or show other codes than were used."""
    assert "was edited" in refused(tmp_path, edit, words)
