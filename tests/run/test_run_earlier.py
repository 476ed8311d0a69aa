"""Runs that were made when the package was called `pipeline` still open, with their files as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mkhspc.cli import run_command
from mkhspc.cluster.journal import read_journals
from mkhspc.config import CellRange, config_hash, identity
from mkhspc.config.identity import DRAW_BY_NAME
from mkhspc.errors import UsageError
from mkhspc.run.refilter import refilter
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout
from processes import mkhspc

MANIFEST: dict[str, Any] = {
    "format": "mkhspc-run",
    "version": 2,
    "revision": 1,
    "dataset": "8ff4f1bc3eb4",
    "config_hash": "5f21005c3d6513e5",
    "identity": {
        "run.um_per_px": 0.22,
        "run.tile_size": 512,
        "run.calibration_samples": 100,
        "run.seed": 0,
        "compute.embedder": "none",
        "model_hashes": {"hspc": "classical-1", "mk": "classical-1"},
        "mk.detector": "classical",
        "mk.stored_area_um2": [50.0, 4200.0],
        "hspc.detector": "classical",
        "hspc.stored_area_um2": [5.0, 300.0],
    },
    "seed": 0,
    "filter": {"mk": {"min_um2": 100.0, "max_um2": 2100.0}, "hspc": {"min_um2": 10.0, "max_um2": 150.0}},
    "detectors": {
        "mk": "classical: no weights of sam2 are here (mkhspc models fetch sam2.1-large)",
        "hspc": "classical: no weights of cellpose are here (mkhspc models fetch cpsam_v2)",
    },
    "model_hashes": {"mk": "classical-1", "hspc": "classical-1"},
    "versions": {"mkhspc": "0.1.0", "python": "3.11.7", "numpy": "2.4.6"},
    "blind_codes": {"TINY": "S01"},
    "slides": [
        {
            "slide_id": "TINY",
            "path": "/data/TINY.czi",
            "size_bytes": 956128,
            "fingerprint": "6924198b91b3c447",
            "um_per_px": 0.22,
            "scenes": [{"scene": 0, "width_px": 636, "height_px": 591}],
            "code": "S01",
        }
    ],
    "config": {
        "groups": {"TINY": {"sex": "F"}},
        "run": {
            "output_dir": "/data/run",
            "slides": ["/data/*.czi"],
            "sample_fraction": 0.3,
            "tile_size": 512,
            "calibration_samples": 100,
            "seed": 0,
            "um_per_px": 0.22,
            "scenes": [],
        },
        "mk": {"detector": "classical", "min_area_um2": 100.0, "max_area_um2": 2100.0, "classifier": None},
        "hspc": {"detector": "classical", "min_area_um2": 10.0, "max_area_um2": 150.0, "classifier": None},
        "compute": {
            "num_workers": "auto",
            "memory_gb": 8.0,
            "device": "auto",
            "embedder": "none",
            "sam2_weights": "auto",
            "cellpose_weights": "auto",
        },
        "gallery": {
            "out": None,
            "cards_per_page": 300,
            "order": "random",
            "max_site_mb": 1000.0,
            "title": "Bone marrow cells",
        },
        "slurm": {
            "partition": None,
            "shards_per_slide": 1,
            "time_min": 720,
            "memory_gb": "auto",
            "cpus": "auto",
            "gpus": 0,
            "account": None,
            "extra": ["--qos=long"],
        },
    },
    "checksum": "f7fd2be1ce90a3dd",
}
"""As that package wrote it, in its order of keys."""

JOURNAL = """\
{"at_s": 1796082761.133, "event": "begin", "host": "vm", "pid": 25764, "place": "vm~613947a6", \
"started": "367778", "job": null, "host_s": 1796082761.136, "shard": null, "workers": 1, \
"limit_bytes": 25276502016, "slides": {"TINY": {"asked": 2, "share": 2, "done": 0, "failed": 0}}, \
"dataset": "8ff4f1bc3eb4", "config_hash": "5f21005c3d6513e5"}
{"at_s": 1796082761.194, "event": "memory", "workers": 1, "limit_bytes": 25276502016, \
"memory_bytes": 175304704, "peak_bytes": 175304704}
{"at_s": 1796082762.299, "event": "done", "slide_id": "TINY", "tile_id": "s0_512_0", "cells": 5, "mk": 0, \
"hspc": 5, "seconds": 0.307, "waited_s": 0.0, "peak_bytes": 152985600}
{"at_s": 1796082762.61, "event": "end", "failed": 0, "cells": 5, "mk": 0, "hspc": 5}
"""

PART = [
    "cell_id", "slide_id", "scene", "cell_type", "tile_id", "x_px", "y_px", "x_um", "y_um", "area_px",
    "area_um2", "contour_px", "inside_mk_id", "inside_mk_ids", "touches_tissue_edge", "detector",
    "detector_score", "crop_image", "crop_x0_px", "crop_y0_px", "crop_um_per_px",
]  # fmt: skip
PLAN = [
    "tile_id", "scene", "x0_px", "y0_px", "x1_px", "y1_px", "tissue_area_um2", "fat_free_area_um2", "rank",
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunLayout:
    layout = RunLayout(tmp_path)
    layout.logs.mkdir()
    layout.manifest.write_text(text())
    (layout.logs / "segment-vm-25764-1.jsonl").write_text(JOURNAL)
    return layout


def text() -> str:
    return json.dumps(MANIFEST, indent=1) + "\n"


def test_a_manifest_of_then_is_read_and_written_as_it_was_but_for_least_scores(run: RunLayout) -> None:
    found = manifests.read(run)
    written = json.loads(manifests.dumps(found))
    parts = [written[part][t] for part in ("filter", "config") for t in ("mk", "hspc")]
    assert [part.pop("min_score") for part in parts] == [0.5, 0.0, 0.5, 0.0]
    assert written.pop("exclusions") == []
    assert {**written, "checksum": None} == {**MANIFEST, "checksum": None}
    then = config_hash(identity(found.config, found.model_hashes, {}, DRAW_BY_NAME))
    assert found.config_hash == then == "5f21005c3d6513e5"
    assert found.config.slurm.extra == ("--qos=long",)


def test_a_run_of_then_stores_no_weak_mk_and_says_what_to_do(run: RunLayout) -> None:
    assert manifests.read(run).stored("mk") == CellRange(50.0, 4200.0, 0.5)
    with pytest.raises(UsageError) as error:
        refilter(run, {"mk": {"min_score": 0.1}})
    assert error.value.what == "this run holds MK with a score of at least 0.5 and the filter asks for 0.1"
    assert "segment into a new directory" in str(error.value.fix)
    refilter(run, {"mk": {"min_score": 0.6}})
    assert manifests.read(run).filter["mk"] == CellRange(100.0, 2100.0, 0.6)


def test_a_journal_of_then_is_read(run: RunLayout) -> None:
    (journal,) = read_journals(run)
    assert journal.broken_lines == 0
    assert journal.origin["pid"] == 25764
    assert journal.state(now_s=journal.seen_s) == "ended"
    assert [event.facts["cells"] for event in journal.named("done")] == [5]


def test_the_status_of_a_run_of_then_is_shown(run: RunLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["status", str(run.root), "--json"]) == 0
    (process,) = json.loads(capsys.readouterr().out)["processes"]
    assert (process["state"], process["done"], process["peak_bytes"]) == ("ended", 1, 175304704)


def test_the_files_of_a_run_have_the_names_and_columns_of_then(tiny_slide: Path, tmp_path: Path) -> None:
    tiles = ("--tile-size", 512, "--sample-fraction", 0.3, "--num-workers", 1)
    assert mkhspc("segment", "--czi-path", tiny_slide, "--output-dir", tmp_path, *tiles).returncode == 0
    part = min((tmp_path / "parts" / "TINY").glob("s0_*.parquet"))
    keys: dict[str, set[bytes]] = {}
    for name, path in (("part", part), *((n, tmp_path / n / "TINY.parquet") for n in ("tiles", "cells"))):
        keys[name] = set(pq.read_schema(path).metadata)
    assert keys["part"] == {b"mkhspc:config_hash"}
    assert keys["tiles"] == {b"mkhspc:config_hash", b"mkhspc:tissue", b"mkhspc:calibration"}
    assert keys["cells"] == {b"mkhspc:config_hash", b"mkhspc:parts", b"mkhspc:filter"}
    assert pq.read_schema(part).names[: len(PART)] == PART
    assert pq.read_schema(tmp_path / "tiles" / "TINY.parquet").names == PLAN
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert set(written) >= set(MANIFEST)
    for name in set(MANIFEST["config"]) - {"groups"}:
        assert set(written["config"][name]) >= set(MANIFEST["config"][name]), name
