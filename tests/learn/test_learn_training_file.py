"""Training data is read back as it was written, joined, grouped, and refused where it is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelfiles import by_type, export, truth_labels, write
from mkhspc.errors import InputError
from mkhspc.learn.groups import groups_of
from mkhspc.learn.labels.convert import convert
from mkhspc.learn.samples import Samples, morphology
from mkhspc.learn.training_file import read_training, write_training
from runs import FakeRun, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(
        tmp_path_factory.mktemp("dataset"), slide_ids=("FGC1", "FHU1"), scenes=2, cells_per_type=15
    )


@pytest.fixture
def training(run: FakeRun, tmp_path: Path) -> Path:
    labels = write(tmp_path / "anna.json", export(run.manifest, truth_labels(run)))
    path = tmp_path / "training.json"
    write_training(path, convert([labels], run.layout))
    return path


def changed(path: Path, change: Callable[[dict[str, Any]], object], name: str = "changed.json") -> Path:
    document = json.loads(path.read_text())
    change(document)
    return write(path.with_name(name), document)


def test_samples_come_back_by_type_with_their_features(training: Path) -> None:
    document = json.loads(training.read_text())
    data = read_training([training])
    assert data.config_hash == document["config_hash"]
    for cell_type, samples in data.samples.items():
        rows = [s for s in document["samples"] if s["cell_type"] == cell_type]
        assert len(rows) > 10
        assert samples.cell_ids.tolist() == [r["cell_id"] for r in rows]
        assert samples.features.tolist() == [r["features"] for r in rows]
        assert samples.labels.tolist() == [r["label"] for r in rows]
        assert samples.annotators == ("anna",)


def test_a_probability_that_is_not_known_is_not_a_number(run: FakeRun, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    labels = write(tmp_path / "old.json", by_type(truth_labels(run)))
    write_training(path, convert([labels], run.layout))
    assert np.isnan(read_training([path]).samples["mk"].inclusion_probs).all()


def test_files_are_joined_and_a_cell_counts_once(training: Path) -> None:
    whole = read_training([training]).samples["mk"]
    half = changed(training, lambda d: d.update(samples=d["samples"][::2]), "half.json")
    joined = read_training([half, training]).samples["mk"]
    assert joined.cell_ids.tolist() == whole.cell_ids.tolist()


def test_files_that_disagree_on_a_cell_are_refused(training: Path) -> None:
    other = changed(training, lambda d: d["samples"][0].update(label=1 - d["samples"][0]["label"]))
    with pytest.raises(InputError, match=r"gives the cell .* another label than a file before it"):
        read_training([training, other])


def test_files_of_two_configurations_are_refused_with_the_difference(tmp_path: Path, training: Path) -> None:
    run = make_run(tmp_path / "other", slide_ids=("FGC1",), cells_per_type=15, seed=1)
    other = tmp_path / "other.json"
    labels = write(tmp_path / "b.json", by_type(truth_labels(run)))
    write_training(other, convert([labels], run.layout))
    with pytest.raises(
        InputError, match=r"other settings than training\.json: run\.seed is 1 there and 0 here"
    ):
        read_training([training, other])


def test_files_with_other_features_are_refused(training: Path) -> None:
    def drop(document: dict[str, Any]) -> None:
        document["feature_names"].pop()
        for sample in document["samples"]:
            sample["features"].pop()

    with pytest.raises(InputError, match=r"has other features than .*: texture_noise"):
        read_training([training, changed(training, drop)])


DAMAGE: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("format", lambda d: d.update(format="other"), "is not training data"),
    ("version", lambda d: d.update(version=2), "is not training data"),
    ("identity", lambda d: d["identity"].update({"run.seed": 9}), "was edited"),
    ("no samples", lambda d: d.pop("samples"), "is damaged"),
    (
        "a name twice",
        lambda d: d["feature_names"].__setitem__(1, d["feature_names"][0]),
        "not distinct texts",
    ),
    ("too few features", lambda d: d["samples"][0]["features"].pop(), "has a damaged sample"),
    (
        "a feature is a text",
        lambda d: d["samples"][0]["features"].__setitem__(0, "1"),
        "has a damaged sample",
    ),
    ("an endless feature", lambda d: d["samples"][0]["features"].__setitem__(0, 1e400), "is not JSON"),
    ("label 2", lambda d: d["samples"][0].update(label=2), "has a damaged sample"),
    ("label true", lambda d: d["samples"][0].update(label=True), "has a damaged sample"),
    ("other type", lambda d: d["samples"][0].update(cell_type="rbc"), "has a damaged sample"),
    ("probability 2", lambda d: d["samples"][0].update(inclusion_prob=2), "has a damaged sample"),
    ("slide is a number", lambda d: d["samples"][0].update(slide_id=3), "has a damaged sample"),
]


@pytest.mark.parametrize(("change", "reason"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE])
def test_damaged_training_data_is_refused(
    training: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        read_training([changed(training, change)])


def test_morphology_is_what_a_person_could_name() -> None:
    names = ["shape_area", "colour_red_mean", "texture_entropy", "deep_000", "deep_001"]
    assert morphology(names) == names[:3]


def samples(training: Path) -> Samples:
    return read_training([training]).samples["mk"]


def test_groups_are_slides_scenes_or_what_a_file_says(training: Path, tmp_path: Path) -> None:
    cells = samples(training)
    assert set(groups_of(cells, "slide").tolist()) == {"FGC1", "FHU1"}
    assert set(groups_of(cells, "scene").tolist()) == {"FGC1_s0", "FGC1_s1", "FHU1_s0", "FHU1_s1"}
    by_slide, by_scene, by_cell = tmp_path / "slides.csv", tmp_path / "scenes.csv", tmp_path / "cells.csv"
    by_slide.write_text("slide_id,animal,group\nFGC1,m1,a\nFHU1,m1,a\nunused,m9,b\n")
    assert set(groups_of(cells, str(by_slide)).tolist()) == {"a"}
    by_scene.write_text("group,slide_id,scene\np,FGC1,0\nq,FGC1,1\nr,FHU1,0\nr,FHU1,1\n")
    found = groups_of(cells, str(by_scene))
    assert set(found[cells.slide_ids == "FHU1"].tolist()) == {"r"}
    assert set(found[(cells.slide_ids == "FGC1") & (cells.scenes == 1)].tolist()) == {"q"}
    rows = [f"{c},{n % 3}" for n, c in enumerate(cells.cell_ids.tolist())]
    by_cell.write_text("\n".join(["cell_id,group", *rows]))
    assert groups_of(cells, str(by_cell)).tolist() == [str(n % 3) for n in range(len(cells))]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("slide_id,animal\nFGC1,a\n", "has no column"),
        ("group\na\n", "has no column"),
        ("", "has no column"),
        ("slide_id,group\nFGC1,a\n", "gives no group for FHU1"),
        ("slide_id,group\nFGC1,a\nFGC1,b\nFHU1,a\n", "puts FGC1 into two groups: a and b"),
        ("slide_id,group\nFGC1,\nFHU1,a\n", "lacks a value in line 2"),
        ("slide_id,group\nFGC1\n", "lacks a value in line 2"),
    ],
)
def test_a_file_of_groups_that_leaves_a_doubt_is_refused(
    training: Path, tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / "groups.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=reason):
        groups_of(samples(training), str(path))


def test_a_group_that_is_not_a_file_says_what_may_be_given(training: Path) -> None:
    with pytest.raises(InputError, match="--group-by, which takes slide, scene or a CSV file"):
        groups_of(samples(training), "animal")
