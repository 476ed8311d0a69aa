"""Scores: every stored cell gets one, of the classifier in force; another run's classifier gets none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from labelfiles import export, truth_labels, write
from mkhspc.config import CellType
from mkhspc.errors import InputError, UsageError
from mkhspc.learn.classifier import file as classifier_file
from mkhspc.learn.classifier.fit import Settings
from mkhspc.learn.classifier.models import ModelName
from mkhspc.learn.labels.convert import convert
from mkhspc.learn.score import (
    HARMLESS_SETTINGS,
    ScoreSummary,
    TypeSummary,
    _nearly_all_rejected,
    apply_classifiers,
)
from mkhspc.learn.train import train
from mkhspc.learn.training_file import write_training
from mkhspc.run.classifiers import refuse_unfit_classifiers
from mkhspc.store import cells as cell_tables, tables
from mkhspc.store.cells import read_cells
from mkhspc.store.layout import RunLayout
from mkhspc.store.schema import SCORES
from runs import FakeRun, make_run, put_manifest, write_cells

SLIDES = ("FGC1", "FHU1", "MGC1")


def classifiers_of(run: FakeRun, folder: Path, model: ModelName = "logistic") -> dict[CellType, Path]:
    folder.mkdir(exist_ok=True)
    labels = write(folder / "anna.json", export(run.manifest, truth_labels(run)))
    write_training(folder / "training.json", convert([labels], run.layout))
    outputs: dict[CellType, Path] = {"mk": folder / "mk.skops", "hspc": folder / "hspc.skops"}
    settings = Settings(model=model)
    train([folder / "training.json"], outputs, settings)
    return outputs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(tmp_path_factory.mktemp("score") / "run", slide_ids=SLIDES, cells_per_type=25)


@pytest.fixture(scope="module")
def trained(base: FakeRun, tmp_path_factory: pytest.TempPathFactory) -> dict[CellType, Path]:
    return classifiers_of(base, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def fresh(base: FakeRun, tmp_path: Path) -> FakeRun:
    """A copy of the run, without scores."""
    shutil.copytree(base.layout.root, tmp_path / "run")
    return replace(base, layout=RunLayout(tmp_path / "run"))


def scored(run: FakeRun, classifiers: dict[CellType, Path], **options: bool) -> ScoreSummary:
    return apply_classifiers(run.layout, run.manifest, SLIDES, classifiers, **options)


def scores(run: FakeRun, slide_id: str = "FGC1") -> list[dict[str, object]]:
    table = tables.read_table(run.layout.scores(slide_id), run.manifest.config_hash)
    assert table.schema.remove_metadata() == SCORES
    rows: list[dict[str, object]] = table.to_pylist()
    return rows


def test_every_stored_cell_gets_one_score_in_the_order_of_the_cells(
    fresh: FakeRun, trained: dict[CellType, Path]
) -> None:
    scored(fresh, trained)
    for slide_id in SLIDES:
        cells = read_cells(fresh.layout, fresh.manifest, slide_id, ["cell_id", "in_filter"])
        assert set(cells["in_filter"].to_pylist()) == {True, False}
        assert [row["cell_id"] for row in scores(fresh, slide_id)] == cells["cell_id"].to_pylist()


def test_scores_are_those_of_the_classifier(fresh: FakeRun, trained: dict[CellType, Path]) -> None:
    scored(fresh, trained)
    cells = read_cells(fresh.layout, fresh.manifest, "FGC1")
    found = {row["cell_id"]: row for row in scores(fresh)}
    for cell_type, path in trained.items():
        classifier = classifier_file.read(path)
        own = cells.filter(pc.equal(cells["cell_type"], cell_type))
        features = np.column_stack([own[name].to_numpy() for name in classifier.feature_names])
        for cell_id, score in zip(own["cell_id"].to_pylist(), classifier.score(features), strict=True):
            assert found[cell_id] == {
                "cell_id": cell_id,
                "classifier_id": classifier.classifier_id,
                "score": float(np.float32(score)),
                "is_positive": bool(score >= classifier.threshold),
            }


def mk_scores(run: FakeRun, path: Path) -> list[float]:
    """The scores of the run's MK, ascending, before they are rounded to be stored."""
    classifier = classifier_file.read(path)
    tables_of_mk = [
        cells.filter(pc.equal(cells["cell_type"], "mk"))
        for cells in (read_cells(run.layout, run.manifest, slide_id) for slide_id in SLIDES)
    ]
    features = np.vstack(
        [np.column_stack([mk[name].to_numpy() for name in classifier.feature_names]) for mk in tables_of_mk]
    )
    return sorted(classifier.score(features).tolist())


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_cell_is_positive_from_the_classifiers_own_threshold_on(
    fresh: FakeRun, trained: dict[CellType, Path], tmp_path: Path, share: float
) -> None:
    """With the very score of one cell as threshold, far from one half, that cell is the last positive one."""
    ascending = mk_scores(fresh, trained["mk"])
    expected = ascending[int(share * len(ascending)) :]
    by_one_half = sum(score >= 0.5 for score in ascending)
    assert abs(by_one_half - len(expected)) > 5
    moved = replace(classifier_file.read(trained["mk"]), threshold=expected[0])
    classifier_file.write(tmp_path / "moved.skops", classifier_file.dumps(moved))
    summary = scored(fresh, {"mk": tmp_path / "moved.skops"})
    positive = [row["score"] for s in SLIDES for row in scores(fresh, s) if row["is_positive"]]
    assert sorted(map(float, positive)) == [float(np.float32(score)) for score in expected]
    assert summary.types["mk"].positive == len(expected)


def test_the_summary_counts_stored_cells_and_those_in_the_filter(
    fresh: FakeRun, trained: dict[CellType, Path]
) -> None:
    summary = scored(fresh, trained)
    for cell_type, found in summary.types.items():
        cells = positive = in_filter = both = 0
        for slide_id in SLIDES:
            rows = read_cells(fresh.layout, fresh.manifest, slide_id, ["cell_id", "cell_type", "in_filter"])
            said = {row["cell_id"]: row["is_positive"] for row in scores(fresh, slide_id)}
            for row in rows.to_pylist():
                if row["cell_type"] == cell_type:
                    cells += 1
                    positive += bool(said[row["cell_id"]])
                    in_filter += row["in_filter"]
                    both += bool(said[row["cell_id"]]) and row["in_filter"]
        assert (found.cells, found.positive, found.in_filter, found.positive_in_filter) == (
            cells, positive, in_filter, both,
        )  # fmt: skip


def test_good_classifiers_find_the_positives(fresh: FakeRun, trained: dict[CellType, Path]) -> None:
    scored(fresh, trained)
    right = [
        fresh.truth[str(row["cell_id"])] == row["is_positive"] for s in SLIDES for row in scores(fresh, s)
    ]
    assert np.mean(right) > 0.85


def test_scoring_again_changes_no_byte(fresh: FakeRun, trained: dict[CellType, Path]) -> None:
    scored(fresh, trained)
    before = fresh.layout.scores("FGC1").read_bytes()
    scored(fresh, trained)
    assert fresh.layout.scores("FGC1").read_bytes() == before


def test_one_type_at_a_time_gives_the_same_file_as_both(
    fresh: FakeRun, trained: dict[CellType, Path]
) -> None:
    scored(fresh, trained)
    both = fresh.layout.scores("FGC1").read_bytes()
    for slide_id in SLIDES:
        fresh.layout.scores(slide_id).unlink()
    scored(fresh, {"hspc": trained["hspc"]})
    assert all("_hspc_" in str(row["cell_id"]) for row in scores(fresh))
    scored(fresh, {"mk": trained["mk"]})
    assert fresh.layout.scores("FGC1").read_bytes() == both


def test_a_new_classifier_takes_the_place_of_the_old_one_of_its_type(
    fresh: FakeRun, trained: dict[CellType, Path], tmp_path: Path
) -> None:
    scored(fresh, trained)
    other = classifiers_of(fresh, tmp_path / "other", model="boosting")["mk"]
    scored(fresh, {"mk": other})
    ids = {str(row["classifier_id"]) for row in scores(fresh) if "_mk_" in str(row["cell_id"])}
    assert ids == {classifier_file.id_of(other.read_bytes())}
    assert len({row["cell_id"] for row in scores(fresh)}) == len(scores(fresh)) == 50


def test_batches_do_not_show(
    fresh: FakeRun, trained: dict[CellType, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(fresh, trained)
    whole = fresh.layout.scores("FGC1").read_bytes()
    monkeypatch.setattr(cell_tables, "BATCH_ROWS", 7)
    scored(fresh, trained)
    assert fresh.layout.scores("FGC1").read_bytes() == whole


def test_a_classifier_of_the_other_type_is_refused(fresh: FakeRun, trained: dict[CellType, Path]) -> None:
    with pytest.raises(InputError, match="classifies hspc, not mk"):
        scored(fresh, {"mk": trained["hspc"]})
    assert not fresh.layout.scores("FGC1").exists()


def test_no_classifier_is_wrong_usage(fresh: FakeRun) -> None:
    with pytest.raises(UsageError, match="nothing to score with"):
        scored(fresh, {})


def test_a_missing_feature_is_named(fresh: FakeRun, trained: dict[CellType, Path]) -> None:
    for slide_id in SLIDES:
        cells = read_cells(fresh.layout, fresh.manifest, slide_id)
        write_cells(fresh.layout, fresh.manifest, slide_id, cells.drop_columns(["texture_entropy"]))
    with pytest.raises(InputError, match="needs features that the run does not have: texture_entropy"):
        scored(fresh, trained)


def test_a_cell_without_a_number_in_a_feature_is_an_error_and_writes_nothing(
    fresh: FakeRun, trained: dict[CellType, Path]
) -> None:
    cells = read_cells(fresh.layout, fresh.manifest, "FGC1")
    values = cells["texture_entropy"].to_numpy().copy()
    values[3] = np.inf
    column = cells.column_names.index("texture_entropy")
    broken = cells.set_column(column, cells.schema.field(column), [values])
    write_cells(fresh.layout, fresh.manifest, "FGC1", broken)
    with pytest.raises(
        InputError, match=f"cell {cells['cell_id'][3].as_py()} has no finite number in texture_entropy"
    ):
        scored(fresh, trained)
    assert not fresh.layout.scores("FGC1").exists()


def with_identity(run: FakeRun, **identity: object) -> FakeRun:
    """The run as if these settings had been in force."""
    manifest = replace(run.manifest, identity={**run.manifest.identity, **identity})
    put_manifest(run.layout, manifest)
    for slide_id in SLIDES:
        table = pq.read_table(run.layout.cells(slide_id))
        tables.write_table(run.layout.cells(slide_id), table, manifest.config_hash)
    return replace(run, manifest=manifest)


@pytest.mark.parametrize("setting", sorted(HARMLESS_SETTINGS))
def test_a_run_with_other_settings_is_refused_unless_allowed(
    fresh: FakeRun, trained: dict[CellType, Path], setting: str
) -> None:
    run = with_identity(fresh, **{setting: 1234})
    with pytest.raises(
        InputError, match=f"learned from a run with other settings: {setting} is .* and 1234 here"
    ):
        scored(run, trained)
    assert not run.layout.scores("FGC1").exists()
    summary = scored(run, trained, allow_other_run=True)
    assert summary.other_settings == (f"{setting} is {trained_setting(setting)} there and 1234 here",)
    assert len(scores(run)) == 50


def trained_setting(setting: str) -> object:
    first = {"run.seed": 0, "run.tile_size": 4096, "run.calibration_samples": 100}
    return {**first, "run.calibration_draw": 2}[setting]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("hspc.detector", "cellpose"), ("mk.stored_area_um2", [1.0, 2.0]), ("run.um_per_px", 0.5)],
)
def test_a_run_whose_features_mean_something_else_is_always_refused(
    fresh: FakeRun, trained: dict[CellType, Path], setting: str, value: object
) -> None:
    run = with_identity(fresh, **{setting: value})
    with pytest.raises(InputError, match=f"learned from a run with other settings: {setting}"):
        scored(run, trained, allow_other_run=True)


def test_a_classifier_of_simulated_slides_on_real_ones_is_a_concern(fresh: FakeRun, tmp_path: Path) -> None:
    demo = make_run(tmp_path / "demo", slide_ids=("DEMO_FGC1", "DEMO_MHU1"), cells_per_type=40)
    classifiers = classifiers_of(demo, tmp_path / "trained")
    at_home = apply_classifiers(demo.layout, demo.manifest, ["DEMO_FGC1"], classifiers)
    assert not [concern for concern in at_home.concerns if "simulated" in concern]
    abroad = scored(fresh, classifiers)
    assert [c for c in abroad.concerns if "simulated" in c] == [
        f"{path} learned from simulated slides (DEMO_FGC1, DEMO_MHU1):"
        " its answers say nothing about real ones"
        for path in classifiers.values()
    ]


def test_a_classifier_that_would_fail_the_gate_is_a_concern(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=SLIDES, cells_per_type=40, separation=0.0)
    concerns = scored(run, classifiers_of(run, tmp_path / "trained")).concerns
    assert any("misses the gate of `mkhspc validate`: " in concern for concern in concerns)
    assert any("is no better than always giving the commoner label" in concern for concern in concerns)


def test_nothing_speaks_against_a_good_classifier(fresh: FakeRun, trained: dict[CellType, Path]) -> None:
    assert scored(fresh, trained).concerns == ()


def test_a_classifier_without_its_card_is_a_concern_and_with_anothers_is_refused(
    fresh: FakeRun, trained: dict[CellType, Path], tmp_path: Path
) -> None:
    alone = tmp_path / "alone.skops"
    shutil.copy(trained["mk"], alone)
    (concern,) = scored(fresh, {"mk": alone}).concerns
    assert concern.startswith(f"{alone} has no model card beside it (alone.json)")
    shutil.copy(trained["hspc"].with_suffix(".json"), tmp_path / "alone.json")
    with pytest.raises(InputError, match=r"does not belong to the model card alone\.json"):
        scored(fresh, {"mk": alone})


def test_a_card_that_says_something_else_than_its_classifier_is_refused(
    fresh: FakeRun, trained: dict[CellType, Path], tmp_path: Path
) -> None:
    path = tmp_path / "mk.skops"
    shutil.copy(trained["mk"], path)
    card = json.loads(trained["mk"].with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "threshold": 0.123}))
    with pytest.raises(InputError, match=r"mk\.json: says that the classifier's threshold is '0\.123'"):
        scored(fresh, {"mk": path})


def test_a_run_that_names_a_classifier_with_another_card_is_refused_before_its_work(
    fresh: FakeRun, trained: dict[CellType, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mk.skops"
    shutil.copy(trained["mk"], path)
    shutil.copy(trained["mk"].with_suffix(".json"), path.with_suffix(".json"))
    config = replace(fresh.manifest.config, mk=replace(fresh.manifest.config.mk, classifier=str(path)))
    monkeypatch.setattr("mkhspc.run.classifiers.check_classifiers", lambda *_: [])  # its run is this one
    refuse_unfit_classifiers(replace(fresh.manifest, config=config))
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "threshold": 0.123}))
    with pytest.raises(InputError, match=r"mk\.json: says that the classifier's threshold is '0\.123'"):
        refuse_unfit_classifiers(replace(fresh.manifest, config=config))


def test_a_classifier_that_rejects_nearly_every_cell_is_a_concern(
    fresh: FakeRun, trained: dict[CellType, Path]
) -> None:
    for slide_id in SLIDES:
        cells = read_cells(fresh.layout, fresh.manifest, slide_id)
        for name in classifier_file.read(trained["mk"]).feature_names:
            place = cells.column_names.index(name)
            far = pa.array(np.full(len(cells), -10.0), cells.schema.field(name).type)
            cells = cells.set_column(place, name, far)
        write_cells(fresh.layout, fresh.manifest, slide_id, cells)
    summary = scored(fresh, {"mk": trained["mk"]})
    assert summary.types["mk"].positive == 0
    assert summary.concerns == (
        f"{trained['mk']} rejects 100.0% of the {summary.types['mk'].in_filter} mk in the filter",
    )


@pytest.mark.parametrize(("positive_in_filter", "is_concern"), [(0, True), (2, True), (3, False)])
def test_rejected_cells_are_counted_in_the_filter_alone(positive_in_filter: int, is_concern: bool) -> None:
    """Of 200 in the filter up to 2 are positive; what is positive outside it says nothing."""
    summary = TypeSummary("c", cells=400, positive=100, in_filter=200, positive_in_filter=positive_in_filter)
    concerns = _nearly_all_rejected({"mk": summary}, {"mk": Path("mk.skops")})
    assert bool(concerns) is is_concern


def test_a_run_without_a_cell_is_scored_and_no_classifier_blamed(
    fresh: FakeRun, trained: dict[CellType, Path]
) -> None:
    for slide_id in SLIDES:
        cells = read_cells(fresh.layout, fresh.manifest, slide_id)
        write_cells(fresh.layout, fresh.manifest, slide_id, cells.slice(0, 0))
    summary = scored(fresh, trained)
    assert {t: (found.cells, found.positive) for t, found in summary.types.items()} == {
        "mk": (0, 0), "hspc": (0, 0),
    }  # fmt: skip
    assert summary.concerns == ()
    assert [scores(fresh, slide_id) for slide_id in SLIDES] == [[], [], []]
