"""The whole journey on real marrow, typed as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from marrow import centroids, expert_dots, labels_from_dots, match_points, of_type
from mkhspc.store import cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from processes import mkhspc

pytestmark = [pytest.mark.shared, pytest.mark.slow]


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    root = tmp_path_factory.mktemp("marrow") / "run"
    done = mkhspc(
        "segment", "--czi-path", shared / "data/marrow/marrow.czi", "--output-dir", root, "--tile-size", 1024
    )
    assert done.returncode == 0, done.stderr
    return RunLayout(root)


def table(run: RunLayout) -> pa.Table:
    return cells.read_cells(run, manifests.read(run), "marrow")


def test_the_experts_dots_are_found(run: RunLayout, shared: Path) -> None:
    found = table(run)
    dots = expert_dots(shared)
    matched = sum(len(match_points(d, centroids(of_type(found, "hspc", s)))) for s, d in dots.items())
    total = sum(map(len, dots.values()))
    detections = sum(len(of_type(found, "hspc", scene)) for scene in dots)
    assert matched / total >= 0.94
    assert detections / total <= 1.25


def test_from_labels_to_scores_grouped_by_patient(run: RunLayout, shared: Path, tmp_path: Path) -> None:
    manifest = manifests.read(run)
    exported = labels_from_dots(
        shared, table(run), dataset=manifest.dataset, config_hash=manifest.config_hash
    )
    annotations, training = tmp_path / "annotations.json", tmp_path / "training.json"
    annotations.write_text(json.dumps(exported))
    classifier = tmp_path / "hspc.skops"

    done = mkhspc("gallery", "--run", run.root, "--out", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    site = json.loads((tmp_path / "site" / "site.json").read_text())
    assert site["dataset"] == manifest.dataset

    done = mkhspc(
        "convert", "--annotations", annotations, "--base-dir", run.root, "--output", training, "--json"
    )
    assert done.returncode == 0, done.stderr
    labelled = sum(len(ids) for ids in exported["hspc"].values())
    assert len(json.loads(training.read_text())["samples"]) == labelled

    done = mkhspc(
        "train",
        "--training-data",
        training,
        "--output-hspc",
        classifier,
        "--group-by",
        "scene",
        "--model",
        "random-forest",
    )
    assert done.returncode == 0, done.stderr
    done = mkhspc("validate", "--hspc-classifier", classifier, "--json")
    assert done.returncode in (0, 1), done.stderr
    assert "too few groups" in done.stdout, "three patients are too few for an interval"

    done = mkhspc("score", "--run", run.root, "--hspc-classifier", classifier)
    assert done.returncode == 0, done.stderr
