"""Training writes three files that belong together, the same for the same request."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelfiles import TRAINING_IDENTITY, TRAINING_SLIDES, training_file, write
from mkhspc.config import CellType, config_hash
from mkhspc.errors import InputError, UsageError
from mkhspc.learn.classifier import file as classifier_file
from mkhspc.learn.classifier.card import read_beside
from mkhspc.learn.classifier.file import sha256
from mkhspc.learn.classifier.fit import Settings
from mkhspc.learn.classifier.models import ThresholdFor
from mkhspc.learn.train import train


def trained(path: Path, *types: CellType, **options: Any) -> dict[CellType, dict[str, Any]]:
    outputs: dict[CellType, Path] = {t: path.parent / f"{t}_classifier.skops" for t in types}
    options.setdefault("settings", Settings(model="logistic"))
    return train([path], outputs, **options)


def test_three_files_are_written_for_each_type_asked_for(tmp_path: Path) -> None:
    trained(training_file(tmp_path / "t.json"), "mk")
    assert {p.name for p in tmp_path.iterdir()} == {
        "t.json", "mk_classifier.skops", "mk_classifier.json", "mk_classifier.oof.csv",
    }  # fmt: skip


def test_the_card_says_what_a_reader_must_know(tmp_path: Path) -> None:
    path = training_file(tmp_path / "t.json")
    card = trained(path, "mk")["mk"]
    assert card == json.loads((tmp_path / "mk_classifier.json").read_text())
    assert card["features"] == ["shape_a", "colour_b", "deep_000"]
    assert card["config_hash"] == config_hash(TRAINING_IDENTITY)
    assert card["groups"].keys() == set(TRAINING_SLIDES)
    assert card["positive"] + card["negative"] == len(card["cells"]) == 72
    assert card["training_data"] == {"t.json": sha256(path.read_bytes())}
    assert card["policies"] == {"random": 72}
    assert card["annotators"] == ["anna"]
    assert 0 < card["threshold"] < 1
    assert card["cross_validated"]["accuracy"]["groups"] == 3
    assert card["versions"].keys() >= {"scikit-learn", "numpy", "skops", "python"}


def test_the_predictions_are_a_row_a_cell_by_a_classifier_of_other_groups(tmp_path: Path) -> None:
    card = trained(training_file(tmp_path / "t.json"), "mk")["mk"]
    with (tmp_path / "mk_classifier.oof.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cell_id"] for row in rows] == card["cells"]
    assert [int(row["label"]) for row in rows] == card["labels"]
    assert {row["group"]: row["fold"] for row in rows} == {"FGC1": "0", "FHU1": "1", "MGC1": "2"}
    for row in rows:
        assert int(row["predicted"]) == int(float(row["probability"]) >= float(row["threshold"]))
    path = tmp_path / "mk_classifier.skops"
    _, predictions = read_beside(path, classifier_file.read(path))
    assert predictions.labels.tolist() == [bool(label) for label in card["labels"]]


def test_groups_that_look_like_formulas_are_harmless_in_the_file_and_read_as_they_are(tmp_path: Path) -> None:
    groups = dict(zip(TRAINING_SLIDES, ("=1+1", "@anna", "-0.5"), strict=True))
    lines = ["slide_id,group", *(f"{slide},{group}" for slide, group in groups.items())]
    (tmp_path / "animals.csv").write_text("\n".join(lines))
    settings = Settings("logistic", group_by=str(tmp_path / "animals.csv"))
    trained(training_file(tmp_path / "t.json"), "mk", settings=settings)
    with (tmp_path / "mk_classifier.oof.csv").open(newline="") as file:
        written = {row["slide_id"]: row["group"] for row in csv.DictReader(file)}
    assert written == dict(zip(TRAINING_SLIDES, ("'=1+1", "'@anna", "-0.5"), strict=True))
    path = tmp_path / "mk_classifier.skops"
    _, read = read_beside(path, classifier_file.read(path))
    assert dict(zip(read.slide_ids.tolist(), read.groups.tolist(), strict=True)) == groups


@pytest.mark.slow
def test_the_same_request_writes_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        path = training_file(tmp_path / name / "t.json")
        trained(path, "mk", "hspc", settings=Settings(model="auto", seed=5))
        contents.append({p.name: p.read_bytes() for p in path.parent.iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 7


def test_morph_only_leaves_the_deep_features_out(tmp_path: Path) -> None:
    path = training_file(tmp_path / "t.json")
    whole, plain = (
        trained(path, "mk")["mk"],
        trained(path, "mk", settings=Settings("logistic", morph_only=True))["mk"],
    )
    assert plain["features"] == ["shape_a", "colour_b"]
    assert classifier_file.read(tmp_path / "mk_classifier.skops").feature_names == ("shape_a", "colour_b")
    accuracies = [card["cross_validated"]["accuracy"]["value"] for card in (whole, plain)]
    assert accuracies[0] == 1.0 > accuracies[1]


def with_deep_columns(path: Path, count: int) -> Path:
    """The same training data with so many deep columns more, put before and among the others."""
    document = json.loads(path.read_text())
    rng = np.random.default_rng(4)
    names = [f"deep_net_{column:04d}" for column in range(count)]
    document["feature_names"] = [names[0], "shape_a", *names[1:], "colour_b", "deep_000"]
    for row in document["samples"]:
        shape, colour, answer = row["features"]
        noise = rng.normal(size=count).tolist()
        row["features"] = [noise[0], shape, *noise[1:], colour, answer]
    return write(path, document)


def test_many_deep_columns_come_last_and_the_card_says_how_many_components_they_became(
    tmp_path: Path,
) -> None:
    path = with_deep_columns(training_file(tmp_path / "t.json"), 60)
    card = trained(path, "mk")["mk"]
    assert card["features"][:3] == ["shape_a", "colour_b", "deep_net_0000"]
    assert (len(card["features"]), card["deep_components"]) == (63, 72 // 4)
    read = classifier_file.read(tmp_path / "mk_classifier.skops")
    assert list(read.feature_names) == card["features"]
    named = {row["cell_id"]: row["features"] for row in json.loads(path.read_text())["samples"]}
    order = [json.loads(path.read_text())["feature_names"].index(name) for name in read.feature_names]
    first = np.array(named[card["cells"][0]])[order]
    assert np.array_equal(read.probe[0], first)
    assert read.fitted.members[0][-1].n_features_in_ == 2 + 18


def test_without_deep_columns_a_classifier_is_what_it_always_was(tmp_path: Path) -> None:
    """The same bytes whether the training data had deep columns that were left out, or had none."""
    contents = []
    for name in ("deep", "plain"):
        (tmp_path / name).mkdir()
        path = training_file(tmp_path / name / "t.json")
        if name == "deep":
            with_deep_columns(path, 60)
        assert (
            trained(path, "mk", settings=Settings("logistic", morph_only=True))["mk"]["deep_components"] == 0
        )
        contents.append([(path.parent / f"mk_classifier.{end}").read_bytes() for end in ("skops", "oof.csv")])
    assert contents[0] == contents[1]


def test_the_group_can_be_the_scene(tmp_path: Path) -> None:
    card = trained(training_file(tmp_path / "t.json"), "mk", settings=Settings("logistic", group_by="scene"))[
        "mk"
    ]
    assert set(card["groups"]) == {f"{slide}_s{scene}" for slide in TRAINING_SLIDES for scene in (0, 1)}
    assert len(card["recipe_by_fold"]) == 6


def without_the_answer(samples: list[dict[str, Any]]) -> None:
    """Takes away the deep feature, which knows the label."""
    for sample in samples:
        sample["features"][2] = 0.0


def test_the_threshold_follows_what_it_is_for(tmp_path: Path) -> None:
    path = training_file(tmp_path / "t.json", without_the_answer)
    aims: tuple[ThresholdFor, ...] = ("f1", "recall", "balanced")
    cards = [
        trained(path, "mk", settings=Settings(model="logistic", threshold_for=aim))["mk"] for aim in aims
    ]
    assert [card["threshold_for"] for card in cards] == list(aims)
    assert len({card["threshold"] for card in cards}) > 1
    assert cards[1]["cross_validated"]["recall"]["value"] > 0.8


def test_predictions_and_their_figures_come_from_the_thresholds_of_the_folds(tmp_path: Path) -> None:
    """Classes so close that the threshold for recall lies far below one half."""

    def close(samples: list[dict[str, Any]]) -> None:
        without_the_answer(samples)
        for sample in samples:
            sample["features"][0] -= 1.5 * sample["label"]

    path = training_file(tmp_path / "t.json", close)
    card = trained(path, "mk", settings=Settings(model="logistic", threshold_for="recall"))["mk"]
    with (tmp_path / "mk_classifier.oof.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    by_fold = [float(row["probability"]) >= float(row["threshold"]) for row in rows]
    assert [row["predicted"] == "1" for row in rows] == by_fold
    labels = [row["label"] == "1" for row in rows]
    assert card["cross_validated"]["recall"]["value"] == pytest.approx(np.mean(np.array(by_fold)[labels]))
    by_one_half = [float(row["probability"]) >= 0.5 for row in rows]
    assert np.mean(np.array(by_one_half)[labels]) < np.mean(np.array(by_fold)[labels])


REFUSED: list[tuple[str, Callable[[list[dict[str, Any]]], Any], str]] = [
    ("no cell of the type", lambda s: [x for x in s if x["cell_type"] == "hspc"], "there is no labelled mk"),
    ("one class", lambda s: [x for x in s if x["label"]], "positive and 0 negative mk are too few"),
    (
        "four positives",
        lambda s: [
            x for n, x in enumerate(y for y in s if y["cell_type"] == "mk") if not x["label"] or n < 8
        ],
        "are too few to learn from: at least 5 of each",
    ),
    (
        "one slide",
        lambda s: [x for x in s if x["slide_id"] == "FGC1"],
        r"all labelled mk are of one group \(FGC1\)",
    ),
]


@pytest.mark.parametrize(("change", "reason"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_too_little_to_learn_from_is_refused_and_nothing_is_written(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], Any], reason: str
) -> None:
    path = training_file(tmp_path / "t.json", change)
    with pytest.raises(InputError, match=reason):
        trained(path, "mk")
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_two_groups_are_enough_to_train(tmp_path: Path) -> None:
    path = training_file(tmp_path / "t.json", lambda s: [x for x in s if x["slide_id"] != "MGC1"])
    assert trained(path, "mk")["mk"]["groups"].keys() == {"FGC1", "FHU1"}


def test_nothing_is_written_when_one_of_the_types_cannot_be_trained(tmp_path: Path) -> None:
    path = training_file(tmp_path / "t.json", lambda s: [x for x in s if x["cell_type"] == "hspc"])
    with pytest.raises(InputError, match="leave --output-mk out"):
        trained(path, "hspc", "mk")
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_a_type_with_too_little_is_left_out_and_the_other_is_trained(tmp_path: Path) -> None:
    path = training_file(tmp_path / "t.json", lambda s: [x for x in s if x["cell_type"] == "hspc"])
    left_out: list[tuple[CellType, str]] = []
    outputs: dict[CellType, Path] = {"mk": tmp_path / "mk.skops", "hspc": tmp_path / "hspc.skops"}
    cards = train(
        [path],
        outputs,
        Settings("logistic"),
        leave_out=lambda cell_type, error: left_out.append((cell_type, error.what)),
    )
    assert list(cards) == ["hspc"]
    assert left_out == [("mk", "there is no labelled mk in the training data")]
    assert {p.name for p in tmp_path.iterdir()} == {"t.json", "hspc.skops", "hspc.json", "hspc.oof.csv"}


def test_nothing_to_train_is_refused_with_every_reason(tmp_path: Path) -> None:
    path = training_file(tmp_path / "t.json", lambda s: [x for x in s if x["label"]])
    outputs: dict[CellType, Path] = {"mk": tmp_path / "mk.skops", "hspc": tmp_path / "hspc.skops"}
    with pytest.raises(
        InputError, match=r"0 negative mk are too few.*; .*0 negative hspc are too few"
    ) as found:
        train([path], outputs, Settings(), leave_out=lambda *_: None)
    assert found.value.fix.count("higher --sample-fraction or more slides") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize(
    ("scenes", "group_by", "fix"),
    [
        ((0, 1), "slide", "--group-by scene"),
        ((0,), "slide", "label cells of more slides or scenes"),
        ((0,), "scene", "label cells of more slides or scenes"),
    ],
)
def test_one_group_is_refused_with_what_can_be_done(
    tmp_path: Path, scenes: tuple[int, ...], group_by: str, fix: str
) -> None:
    path = training_file(
        tmp_path / "t.json", lambda s: [x for x in s if x["slide_id"] == "FGC1" and x["scene"] in scenes]
    )
    with pytest.raises(InputError) as found:
        trained(path, "mk", settings=Settings("logistic", group_by=group_by))
    assert found.value.fix.endswith(fix)


def test_a_card_is_not_written_over_the_training_data(tmp_path: Path) -> None:
    path = training_file(tmp_path / "mk.json")
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"would be written over .*mk\.json"):
        train([path], {"mk": tmp_path / "mk.skops"}, Settings())
    assert path.read_bytes() == before


def test_two_classifiers_of_one_name_are_refused(tmp_path: Path) -> None:
    path, same = training_file(tmp_path / "t.json"), tmp_path / "same.skops"
    with pytest.raises(UsageError, match="would be written over"):
        train([path], {"mk": same, "hspc": same}, Settings())


def test_no_output_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name a classifier with --output-mk or --output-hspc"):
        train([training_file(tmp_path / "t.json")], {}, Settings())
