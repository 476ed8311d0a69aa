"""From labels to scores on the command line: exit code, message, and then what lies on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from labelfiles import by_type, export, truth_labels, write
from mkhspc.cli import run_command
from mkhspc.cli.options import command_line
from runs import FakeRun, make_run

SLIDES = ("FGC1", "FHU1", "MGC1", "MHU1")

Journey = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mkhspc(capsys: pytest.CaptureFixture[str]) -> Journey:
    """Runs a command; gives the exit code, stdout, and stderr without its lines of progress."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = run_command([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return (
            code,
            shown.out,
            "".join(line for line in shown.err.splitlines(True) if not line.startswith("{")),
        )

    return run


def labelled_run(root: Path, separation: float) -> tuple[FakeRun, Path]:
    run = make_run(root / "run", slide_ids=SLIDES, cells_per_type=40, separation=separation)
    return run, write(root / "anna.json", export(run.manifest, truth_labels(run)))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeRun, Path]:
    return labelled_run(tmp_path_factory.mktemp("cli"), 2.0)


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_labels_that_mean_something_end_as_scores(tmp_path: Path, mkhspc: Journey) -> None:
    run, labels = labelled_run(tmp_path, 2.0)
    root, training = run.layout.root, tmp_path / "training.json"
    mk, hspc = tmp_path / "mk.skops", tmp_path / "hspc.skops"

    code, out, err = mkhspc("convert", "--annotations", labels, "--base-dir", root, "--output", training)
    assert (code, err) == (0, "")
    assert "anna.json (shape mkhspc-annotations, annotator anna)" in out
    assert f"wrote {training}" in out

    code, out, err = mkhspc("train", "--training-data", training, "--output-mk", mk, "--output-hspc", hspc)
    assert (code, err) == (0, "")
    assert "mk: " in out
    assert "hspc: " in out

    classifiers = ("--mk-classifier", mk, "--hspc-classifier", hspc)
    code, out, err = mkhspc(
        "validate", *classifiers, "--training-data", training, "--run", root, "--report", tmp_path / "report"
    )
    assert (code, err) == (0, "")
    assert "mk (mk.skops): passed" in out
    assert "hspc (hspc.skops): passed" in out
    assert "too few groups" in out
    assert (tmp_path / "report" / "report.html").exists()

    code, out, err = mkhspc("score", "--run", root, *classifiers)
    assert (code, err) == (0, "")
    said = {
        row["cell_id"]: row["is_positive"]
        for slide in SLIDES
        for row in pq.read_table(run.layout.scores(slide)).to_pylist()
    }
    assert said.keys() == run.truth.keys()
    assert sum(said[cell] == truth for cell, truth in run.truth.items()) / len(said) > 0.85


@pytest.mark.slow
def test_labels_that_mean_nothing_end_at_the_gate(tmp_path: Path, mkhspc: Journey) -> None:
    run, labels = labelled_run(tmp_path, 0.0)
    training, mk = tmp_path / "training.json", tmp_path / "mk.skops"
    assert (
        mkhspc("convert", "--annotations", labels, "--base-dir", run.layout.root, "--output", training)[0]
        == 0
    )
    assert mkhspc("train", "--training-data", training, "--output-mk", mk)[0] == 0
    code, out, err = mkhspc("validate", "--mk-classifier", mk, "--report", tmp_path / "report")
    assert code == 1
    assert "mk (mk.skops): FAILED" in out
    assert err.startswith("mkhspc: mk: accuracy is 0.")
    assert "not at least 0.75" in err
    assert len(err.splitlines()) == 2
    assert json.loads((tmp_path / "report" / "report.json").read_text())["passed"] is False

    code, _, err = mkhspc("score", "--run", run.layout.root, "--mk-classifier", mk)
    assert code == 0
    assert f"mkhspc: {mk} misses the gate of `mkhspc validate`: accuracy is 0." in err

    scored = err.splitlines()
    words = ("report", "--run", run.layout.root, "--out", tmp_path / "results")
    code, _, err = mkhspc(*words, "--mk-classifier", mk)
    assert code == 0
    assert [line for line in err.splitlines() if line.startswith("mkhspc: ")] == [
        line for line in scored if line.startswith("mkhspc: ")
    ], "each concern once"

    code, out, err = mkhspc(*words, "--json")
    (classifier,) = json.loads(out)["classifiers"]
    name = f"The MK classifier {classifier['classifier_id']}"
    assert code == 0
    assert f"mkhspc: {name} misses the gate of `mkhspc validate`" in err
    page = (tmp_path / "results" / "report.html").read_text()
    assert f'<p class="notice" role="note">{name} misses the gate of' in page
    assert "FGC1, FHU1, MGC1, MHU1" in page
    shown = json.loads(mk.with_suffix(".json").read_text())["cross_validated"]
    for figure in ("accuracy", "baseline_accuracy", "recall"):
        assert f"{shown[figure]['value']:.3f}<br>{shown[figure]['low']:.3f} to" in page


def test_two_exports_without_a_name_are_one_persons_and_the_newest_answers_count(
    labelled: tuple[FakeRun, Path], tmp_path: Path, mkhspc: Journey
) -> None:
    run, _ = labelled
    labels, training = truth_labels(run), tmp_path / "t.json"
    turned = list(labels)[:18]
    corrected = {c: "positive" if labels[c] == "negative" else "negative" for c in turned}
    first = export(run.manifest, labels, annotator="anonymous")
    second = export(run.manifest, corrected, annotator="anonymous")
    for event in second["events"]:
        event["at"] = "2026-02-01T09:00:00Z"
    files = [write(tmp_path / "2.json", second), write(tmp_path / "1.json", first)]
    code, out, err = mkhspc(
        "convert", "--annotations", *files, "--base-dir", run.layout.root, "--output", training
    )
    assert code == 0
    assert err == (
        "mkhspc: 2.json, 1.json give no annotator's name and count as one: the newest answer counts\n"
    )
    assert "18 answers changed or taken back by the same annotator: the newest counts" in out
    document = json.loads(training.read_text())
    assert document["conflicts"] == []
    said = {sample["cell_id"]: sample["label"] for sample in document["samples"]}
    seen = [c for c in turned if c in said]
    assert seen
    assert all(said[c] == int(corrected[c] == "positive") for c in seen)


def test_convert_reports_as_json_on_stdout_alone(
    labelled: tuple[FakeRun, Path], tmp_path: Path, mkhspc: Journey
) -> None:
    run, labels = labelled
    out_path = tmp_path / "t.json"
    code, out, _ = mkhspc(
        "convert", "--annotations", labels, "--base-dir", run.layout.root, "--output", out_path, "--json"
    )
    assert code == 0
    report = json.loads(out)
    assert report["files"][0]["labels"] == len(run.truth)
    assert report["output"] == str(out_path)
    assert report["cells"]["mk"]["positive"] > 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([1, 2, 3], "holds integer ids (1)"),
        (["FGC1_s0_mk_1_2"], "holds only negative labels"),
        ({"mk": {"negative": ["FGC1_s0_mk_1_2"]}}, "holds only negative labels"),
        ({"mk": {"positive": ["XYZ_s0_mk_1_2"], "negative": []}}, "only 0 of 1 labels"),
        ({"hello": "world"}, "does not have the shape of any labels"),
    ],
)
def test_labels_that_cannot_be_used_end_with_3_and_write_nothing(
    labelled: tuple[FakeRun, Path], tmp_path: Path, mkhspc: Journey, data: Any, reason: str
) -> None:
    run, _ = labelled
    labels = write(tmp_path / "labels.json", data)
    out = tmp_path / "new" / "t.json"
    code, stdout, err = mkhspc(
        "convert", "--annotations", labels, "--base-dir", run.layout.root, "--output", out
    )
    assert (code, stdout) == (3, "")
    assert reason in err
    assert len(err.splitlines()) <= 2
    assert files_below(tmp_path) == {"labels.json"}
    assert not out.parent.exists()


def test_training_data_is_not_written_over_the_labels(
    labelled: tuple[FakeRun, Path], tmp_path: Path, mkhspc: Journey
) -> None:
    run, labels = labelled
    before = labels.read_bytes()
    code, out, err = mkhspc(
        "convert", "--annotations", labels, "--base-dir", run.layout.root, "--output", labels
    )
    assert (code, out) == (2, "")
    assert "is one of the label files, and would be overwritten" in err
    assert labels.read_bytes() == before


def test_labels_of_another_run_end_with_3(
    labelled: tuple[FakeRun, Path], tmp_path: Path, mkhspc: Journey
) -> None:
    other = make_run(tmp_path / "other", slide_ids=("FGC1",), cells_per_type=5, seed=9)
    _, labels = labelled
    code, _, err = mkhspc(
        "convert", "--annotations", labels, "--base-dir", other.layout.root, "--output", tmp_path / "t.json"
    )
    assert code == 3
    assert f"{labels}: labels another run (config_hash" in err


def test_another_filter_than_the_runs_ends_with_3_and_both_numbers(
    labelled: tuple[FakeRun, Path], tmp_path: Path, mkhspc: Journey
) -> None:
    run, labels = labelled
    code, _, err = mkhspc(
        "convert", "--annotations", labels, "--base-dir", run.layout.root, "--output", tmp_path / "t.json",
        "--mk-min-area-um", "200", "--mk-max-area-um", "2000",
    )  # fmt: skip
    assert code == 3
    assert "--mk-min-area-um is 200 µm², but the run's filter has 100 µm²" in err


def test_a_directory_that_is_no_run_ends_with_3(tmp_path: Path, mkhspc: Journey) -> None:
    labels = write(tmp_path / "a.json", by_type({"FGC1_s0_mk_1_2": "positive"}))
    code, _, err = mkhspc(
        "convert", "--annotations", labels, "--base-dir", tmp_path, "--output", tmp_path / "t.json"
    )
    assert code == 3
    assert "is not a run: it has no manifest.json" in err


def test_the_classifier_name_of_the_notes_ends_with_2_and_the_new_name(
    tmp_path: Path, mkhspc: Journey
) -> None:
    training = write(tmp_path / "t.json", {})
    code, out, err = mkhspc(
        "train", "--training-data", training, "--output-mk", tmp_path / "mk_classifier.pkl"
    )
    assert (code, out) == (2, "")
    assert err == (
        f"mkhspc: {tmp_path}/mk_classifier.pkl: a pickle can run any code when it is loaded, so classifiers"
        f" are not written as one\n  name it {tmp_path}/mk_classifier.skops\n"
    )
    assert files_below(tmp_path) == {"t.json"}


@pytest.mark.slow
def test_a_type_that_cannot_be_trained_is_named_and_left_out(tmp_path: Path, mkhspc: Journey) -> None:
    run = make_run(tmp_path / "run", slide_ids=SLIDES[:2], cells_per_type=25)
    few = [cell for cell in run.truth if "_mk_" in cell][:5]
    labels = truth_labels(run, lambda cell: "_hspc_" in cell or cell in few)
    labels[few[0]] = "positive"
    annotations = write(tmp_path / "anna.json", export(run.manifest, labels))
    training, mk, hspc = (tmp_path / name for name in ("t.json", "mk.skops", "hspc.skops"))
    mkhspc("convert", "--annotations", annotations, "--base-dir", run.layout.root, "--output", training)
    code, out, err = mkhspc("train", "--training-data", training, "--output-mk", mk, "--output-hspc", hspc)
    assert code == 0
    assert err.startswith("mkhspc: mk is left out: ")
    assert "higher --sample-fraction or more slides" in err
    assert out.startswith("hspc: ")
    assert not mk.exists()
    assert hspc.exists()


def test_a_classifier_that_is_not_there_is_refused_with_where_it_comes_from(
    tmp_path: Path, mkhspc: Journey
) -> None:
    missing = tmp_path / "mk.skops"
    code, _, err = mkhspc("validate", "--mk-classifier", missing)
    assert code == 3
    assert err == (
        f"mkhspc: {missing}: cannot be read (No such file or directory)\n"
        "  name the .skops file that `mkhspc train --output-mk` or `--output-hspc` wrote\n"
    )


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("train", "--training-data", "t.json"), "name a classifier with --output-mk or --output-hspc"),
        (("validate",), "name a classifier with --mk-classifier or --hspc-classifier"),
    ],
)
def test_nothing_to_do_is_wrong_usage(mkhspc: Journey, command: tuple[str, ...], reason: str) -> None:
    code, _, err = mkhspc(*command)
    assert code == 2
    assert reason in err


def test_group_by_is_an_option_of_train(mkhspc: Journey) -> None:
    code, out, err = mkhspc("validate", "--mk-classifier", "mk.skops", "--group-by", "my groups.csv")
    assert (code, out) == (2, "")
    assert err == (
        "mkhspc: --group-by: is an option of `mkhspc train`: validate takes the groups held out there\n"
        "  train again with `mkhspc train --group-by 'my groups.csv'`, then validate\n"
    )


def test_the_next_command_can_be_copied(
    labelled: tuple[FakeRun, Path], tmp_path: Path, mkhspc: Journey
) -> None:
    run, labels = labelled
    training, mk = tmp_path / "t.json", tmp_path / "my mk.skops"
    mkhspc("convert", "--annotations", labels, "--base-dir", run.layout.root, "--output", training)
    code, out, _ = mkhspc("train", "--training-data", training, "--output-mk", mk, "--model", "logistic")
    assert code == 0
    assert out.endswith(f"next: {command_line('validate', '--mk-classifier', mk)}\n")
    assert f"'{mk}'" in out, "names are quoted"


def test_score_without_a_classifier_is_wrong_usage(labelled: tuple[FakeRun, Path], mkhspc: Journey) -> None:
    code, _, err = mkhspc("score", "--run", labelled[0].layout.root)
    assert code == 2
    assert "nothing to score with" in err


def test_training_data_that_is_none_ends_with_3(tmp_path: Path, mkhspc: Journey) -> None:
    training = write(tmp_path / "t.json", {"mk": {"positive": []}})
    code, _, err = mkhspc("train", "--training-data", training, "--output-mk", tmp_path / "mk.skops")
    assert code == 3
    assert "is not training data" in err


@pytest.mark.parametrize("command", ["score", "validate"])
def test_a_pickle_as_a_classifier_ends_with_3(
    labelled: tuple[FakeRun, Path], tmp_path: Path, mkhspc: Journey, command: str
) -> None:
    pickled = tmp_path / "mk_classifier.pkl"
    pickled.write_bytes(b"\x80\x04K\x01.")
    code, out, err = mkhspc(command, "--run", labelled[0].layout.root, "--mk-classifier", pickled)
    assert (code, out) == (3, "")
    assert err == (
        f"mkhspc: {pickled}: is a pickle, which could run any code when loaded: refused\n"
        "  train it again: `mkhspc train` writes .skops files\n"
    )
    assert not labelled[0].layout.scores("FGC1").exists()


def test_train_and_validate_and_score_report_as_json(
    labelled: tuple[FakeRun, Path], tmp_path: Path, mkhspc: Journey
) -> None:
    run, labels = labelled
    training, mk = tmp_path / "t.json", tmp_path / "mk.skops"
    mkhspc("convert", "--annotations", labels, "--base-dir", run.layout.root, "--output", training)
    code, out, _ = mkhspc(
        "train",
        "--training-data",
        training,
        "--output-mk",
        mk,
        "--model",
        "logistic",
        "--morph-only",
        "--json",
    )
    assert code == 0
    card = json.loads(out)["mk"]
    assert card["recipe"] == ["logistic"]
    assert card["morph_only"] is True
    assert "cells" not in card
    code, out, _ = mkhspc("validate", "--mk-classifier", mk, "--json")
    assert code == 0
    verdict = json.loads(out)
    assert verdict["passed"] is True
    assert verdict["classifiers"][0]["figures"]["recall"]["low"] > 0
    code, out, _ = mkhspc("score", "--run", run.layout.root, "--mk-classifier", mk, "--json")
    assert code == 0
    assert json.loads(out)["types"]["mk"]["cells"] == 40 * len(SLIDES)


@pytest.mark.slow
def test_the_random_forest_by_scene_of_the_notes_can_still_be_asked_for(
    tmp_path: Path, mkhspc: Journey
) -> None:
    run = make_run(tmp_path / "run", slide_ids=("FGC1",), scenes=3, cells_per_type=30, separation=3.0)
    labels = write(tmp_path / "old.json", {c: int(v) for c, v in run.truth.items()})
    training, mk = tmp_path / "t.json", tmp_path / "mk_classifier.skops"
    mkhspc("convert", "--annotations", labels, "--base-dir", run.layout.root, "--output", training)
    code, out, _ = mkhspc(
        "train",
        "--training-data",
        training,
        "--output-mk",
        mk,
        "--model",
        "random-forest",
        "--group-by",
        "scene",
    )
    assert code == 0
    assert "in 3 groups" in out
    assert "random-forest" in out
    code, out, _ = mkhspc("validate", "--mk-classifier", mk)
    assert code == 0
    assert "labelled cells were chosen is not known" in out
