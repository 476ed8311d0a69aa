"""The gate passes what is good on unseen groups, fails the rest, and says what its figures mean."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from labelfiles import export, training_file, truth_labels, write
from mkhspc.charts import DARK, LIGHT, Theme
from mkhspc.config import CellType
from mkhspc.errors import InputError, UsageError
from mkhspc.learn.classifier.fit import Settings
from mkhspc.learn.labels.convert import convert
from mkhspc.learn.limits import Limits
from mkhspc.learn.metrics import Predictions
from mkhspc.learn.train import train
from mkhspc.learn.training_file import write_training
from mkhspc.learn.validate import Verdict, validate
from mkhspc.learn.validation_plots import calibration_bins, pictures_of
from mkhspc.learn.validation_report import to_json, write_report
from mkhspc.store.cells import read_cells
from runs import make_run

Change = Callable[[list[dict[str, Any]]], Any]


def classifier(folder: Path, change: Change = lambda samples: samples, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = training_file(folder / "t.json", change)
    train([path], {"mk": folder / "mk.skops"}, Settings(**{"model": "logistic", **settings}))
    return folder / "mk.skops"


def judged(path: Path, **options: Any) -> Verdict:
    (verdict,) = validate({"mk": path}, **options)
    return verdict


def keep_features(*wanted: int) -> Change:
    def change(samples: list[dict[str, Any]]) -> None:
        for sample in samples:
            sample["features"] = [f if n in wanted else 0.0 for n, f in enumerate(sample["features"])]

    return change


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def fair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 0.85 accurate."""
    return classifier(tmp_path_factory.mktemp("fair"), keep_features(0, 1))


@pytest.fixture(scope="module")
def useless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("useless"), keep_features(1))


def failed(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.passed}


def test_a_good_classifier_passes(good: Path) -> None:
    verdict = judged(good)
    assert verdict.passed
    assert failed(verdict) == set()


def test_a_useless_classifier_fails_and_says_in_what(useless: Path) -> None:
    verdict = judged(useless)
    assert not verdict.passed
    assert {"accuracy", "accuracy_gain"} <= failed(verdict)
    (sentence,) = (c.sentence for c in verdict.checks if c.name == "accuracy")
    assert re.fullmatch(r"accuracy is 0\.\d{3}, not at least 0\.75", sentence)


def test_always_saying_yes_fails_however_good_it_looks(tmp_path: Path) -> None:
    """Nine in ten are positive and nothing tells them apart: accuracy 0.9, recall 1, precision 0.9."""

    def mostly_positive(samples: list[dict[str, Any]]) -> None:
        for n, sample in enumerate(samples):
            sample.update(label=int(n % 10 > 0), features=[0.0, 0.0, 0.0])

    verdict = judged(classifier(tmp_path / "yes", mostly_positive))
    values = {c.name: c.value for c in verdict.checks}
    assert values["recall"] == 1.0
    assert values["accuracy"] == values["precision"] == pytest.approx(0.9, abs=0.01)
    assert failed(verdict) == {"accuracy_gain"}


def test_limits_can_be_raised(fair: Path) -> None:
    assert judged(fair).passed
    assert failed(judged(fair, limits=Limits(accuracy=0.99))) == {"accuracy"}


def test_confident_demands_the_lower_end_of_the_interval(fair: Path) -> None:
    verdict = judged(fair, limits=Limits(confident=True))
    assert failed(verdict) >= {"recall", "precision"}
    recall = verdict.figures["recall"]
    assert recall is not None
    assert recall.value > 0.70 > recall.low
    assert next(c.value for c in verdict.checks if c.name == "recall") == recall.low


def test_few_groups_are_said_to_be_few_and_still_have_intervals(good: Path) -> None:
    verdict = judged(good)
    accuracy = verdict.figures["accuracy"]
    assert accuracy is not None
    assert accuracy.too_few_groups
    assert 0 < accuracy.low < accuracy.value
    assert any(note.startswith("too few groups (3, fewer than 6)") for note in verdict.notes)


def test_labels_chosen_otherwise_than_at_random_do_not_describe_the_population(tmp_path: Path) -> None:
    def chosen(samples: list[dict[str, Any]]) -> None:
        for n, sample in enumerate(samples):
            sample["policy"] = ("random", "uncertainty", "area")[n % 3]

    verdict = judged(classifier(tmp_path / "c", chosen))
    assert any(
        "48 of 72 labelled cells were not chosen at random (24 by area, 24 by uncertainty)" in n
        for n in verdict.notes
    )
    assert verdict.population is not None
    assert verdict.population["accuracy"] is not None


def test_labels_of_unknown_choice_say_nothing_of_the_population(tmp_path: Path) -> None:
    def unknown(samples: list[dict[str, Any]]) -> None:
        for sample in samples:
            sample.update(policy="unknown", inclusion_prob=None)

    verdict = judged(classifier(tmp_path / "u", unknown))
    assert verdict.population is None
    assert any(
        note.startswith("how 72 of 72 labelled cells were chosen is not known") for note in verdict.notes
    )


def test_the_population_weights_a_cell_by_its_inclusion_probability(tmp_path: Path) -> None:
    """Half the negatives were drawn, all the positives shown: negatives count twice."""

    def drawn(samples: list[dict[str, Any]]) -> None:
        for sample in samples:
            sample["inclusion_prob"] = 1.0 if sample["label"] else 0.5

    verdict = judged(classifier(tmp_path / "w", drawn))
    positive, negative = verdict.card["positive"], verdict.card["negative"]
    assert verdict.population is not None
    prevalence = verdict.population["prevalence"]
    assert prevalence is not None
    assert prevalence.value == pytest.approx(positive / (positive + 2 * negative))


def test_with_the_run_a_slide_counts_by_its_cells(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A", "B"), cells_per_type=40)
    labels = truth_labels(
        run, lambda c: "_mk_" in c and (c.startswith("A") or int(c.rsplit("_", 1)[1]) % 512 == 128)
    )
    annotations = write(tmp_path / "anna.json", export(run.manifest, labels))
    write_training(tmp_path / "t.json", convert([annotations], run.layout))
    train([tmp_path / "t.json"], {"mk": tmp_path / "mk.skops"}, Settings("logistic"))
    verdict = judged(tmp_path / "mk.skops", run=run.layout)
    cells = verdict.predictions
    in_filter = {"A": 0, "B": 0}
    for slide in in_filter:
        rows = read_cells(run.layout, run.manifest, slide, ["cell_type", "in_filter"]).to_pylist()
        in_filter[slide] = sum(row["cell_type"] == "mk" and row["in_filter"] for row in rows)
    shares = {s: cells.labels[cells.slide_ids == s].mean() for s in in_filter}
    labelled = {s: (cells.slide_ids == s).sum() / in_filter[s] for s in in_filter}
    assert labelled["A"] > 1.5 * labelled["B"], (
        "the slides must be labelled unequally for this to say anything"
    )
    assert verdict.population is not None
    prevalence = verdict.population["prevalence"]
    assert prevalence is not None
    expected = sum(in_filter[s] * shares[s] for s in in_filter) / sum(in_filter.values())
    assert prevalence.value == pytest.approx(expected)


def test_another_run_is_refused_with_the_difference(tmp_path: Path, good: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("FGC1",), cells_per_type=3)
    with pytest.raises(InputError, match="was trained on a run with other settings"):
        judged(good, run=run.layout)


def test_the_training_data_is_checked_when_it_is_given(tmp_path: Path, good: Path) -> None:
    assert judged(good, training_data=(good.parent / "t.json",)).passed

    def relabelled(samples: list[dict[str, Any]]) -> None:
        mk = [s for s in samples if s["cell_type"] == "mk"]
        mk[0]["label"] = 1 - mk[0]["label"]
        samples.remove(mk[1])

    other = training_file(tmp_path / "other.json", relabelled)
    with pytest.raises(
        InputError, match="0 of them are new to it, 1 of its own are not among them, 1 have changed"
    ):
        judged(good, training_data=(other,))


def copied(good: Path, folder: Path) -> Path:
    for path in good.parent.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / good.name


@pytest.mark.parametrize("name", ["mk.json", "mk.oof.csv", "mk.skops"])
def test_a_missing_file_beside_is_an_error(tmp_path: Path, good: Path, name: str) -> None:
    path = copied(good, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=rf"{re.escape(name)}: cannot be read"):
        judged(path)


@pytest.mark.parametrize("key", ["recipe", "threshold", "annotators"])
@pytest.mark.parametrize("value", [None, {"a": 1}])
def test_a_card_that_lacks_what_the_report_needs_is_damaged(
    tmp_path: Path, good: Path, key: str, value: object
) -> None:
    path = copied(good, tmp_path)
    card = json.loads((tmp_path / "mk.json").read_text())
    (tmp_path / "mk.json").write_text(json.dumps({**card, key: value}))
    with pytest.raises(InputError, match=rf"mk\.json: is damaged: {key}"):
        judged(path)


@pytest.mark.parametrize(
    ("key", "edit", "words"),
    [
        ("cell_type", lambda _: "hspc", "cell type is 'hspc', and its file says 'mk'"),
        ("threshold", lambda value: value / 2, "threshold is '"),
        ("recipe", lambda value: [*value, "boosting"], "models are 2, and its file names 1"),
        ("features", lambda value: value[:-1], "features are 2, and its file names 3"),
        ("features", lambda value: [*value[:-1], "z"], "features include 'z', where its file has '"),
        ("features", lambda value: value[::-1], "features include '"),
        (
            "config_hash",
            lambda _: "f" * 16,
            "settings (config_hash) is 'ffffffffffffffff', and",
        ),
        ("calibration", lambda value: {**value, "slope": 9}, "calibration is \"{'slope': 9"),
    ],
)
def test_a_card_that_says_something_else_than_its_classifier_is_refused(
    tmp_path: Path, good: Path, key: str, edit: Callable[[Any], Any], words: str
) -> None:
    path = copied(good, tmp_path)
    card = json.loads((tmp_path / "mk.json").read_text())
    (tmp_path / "mk.json").write_text(json.dumps({**card, key: edit(card[key])}))
    with pytest.raises(InputError) as refused:
        judged(path)
    first, second = str(refused.value).splitlines()
    assert first.startswith(f"{tmp_path / 'mk.json'}: says that the classifier's {words}")
    assert second == "  train it again: `mkhspc train` writes classifier and card together"


def test_predictions_that_were_touched_up_do_not_belong_to_the_classifier(tmp_path: Path, good: Path) -> None:
    path = copied(good, tmp_path)
    oof = tmp_path / "mk.oof.csv"
    oof.write_text(oof.read_text().replace(",0,", ",1,", 1))
    with pytest.raises(InputError, match=r"mk\.oof\.csv: does not belong to the model card mk\.json"):
        judged(path)


def test_a_classifier_does_not_pass_with_anothers_predictions(
    tmp_path: Path, good: Path, useless: Path
) -> None:
    path = copied(good, tmp_path)
    path.write_bytes(useless.read_bytes())
    with pytest.raises(InputError, match=r"mk\.skops: does not belong to the model card"):
        judged(path)


def test_a_classifier_of_the_other_type_is_refused(good: Path) -> None:
    with pytest.raises(InputError, match="classifies mk, not hspc"):
        validate({"hspc": good})


def test_no_classifier_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="nothing to validate"):
        validate({})


def test_simulated_slides_are_said_to_be_simulated(tmp_path: Path) -> None:
    def demo(samples: list[dict[str, Any]]) -> None:
        for sample in samples:
            sample["slide_id"] = f"DEMO_{sample['slide_id']}"

    assert judged(classifier(tmp_path / "d", demo)).notes[0].startswith("simulated slides")


def test_the_report_is_one_page_with_pictures_and_the_same_numbers(
    tmp_path: Path, good: Path, useless: Path
) -> None:
    verdicts, limits = [judged(good), judged(useless)], Limits()
    page = write_report(tmp_path / "report", verdicts, limits)
    names = {p.name for p in (tmp_path / "report").iterdir()}
    pictures = ("roc", "precision_recall", "calibration", "probabilities", "groups")
    assert names == {"report.html", "report.json", *(f"mk_{name}.png" for name in pictures)}
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == to_json(verdicts, limits)
    text = page.read_text()
    accuracy = verdicts[1].figures["accuracy"]
    assert accuracy is not None
    assert f"<td>{accuracy.value:.3f}</td>" in text
    assert text.count('<span class="passed">passed</span>') == 1
    assert text.count('<span class="failed">failed</span>') == 1
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert all(
        (tmp_path / "report" / name).read_bytes()[:4] == b"\x89PNG" for name in names if name.endswith("png")
    )


@pytest.mark.browser
@pytest.mark.parametrize("width", [1440, 390])
def test_verdicts_and_pictures_are_in_sight_on_any_window(
    tmp_path: Path, useless: Path, chromium: str, width: int
) -> None:
    page = write_report(tmp_path / "report", [judged(useless)], Limits())
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        boxes = [found.bounding_box() for found in tab.locator("td.passed, td.failed, img").all()]
        browser.close()
    assert len(boxes) == 4 + 5
    for box in boxes:
        assert box is not None
        assert 0 <= box["x"] < box["x"] + box["width"] <= width


def test_what_annotators_and_slides_are_called_is_escaped_in_the_page(tmp_path: Path) -> None:
    def hostile(samples: list[dict[str, Any]]) -> None:
        for sample in samples:
            sample["annotators"] = ["<script>alert(1)</script>"]
            sample["policy"] = "<b>mine</b>"

    page = write_report(tmp_path / "report", [judged(classifier(tmp_path / "h", hostile))], Limits())
    assert "<script" not in page.read_text()
    assert "<b>" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()


def predictions(group: str) -> Predictions:
    labels = np.arange(40) % 2 == 0
    return Predictions(
        cell_ids=np.array([f"c{i}" for i in range(40)]),
        slide_ids=np.repeat("FGC1", 40),
        groups=np.repeat(group, 40),
        labels=labels,
        predicted=labels,
        baseline=labels,
        probability=np.linspace(0.0, 1.0, 40),
        policies=np.repeat("random", 40),
        inclusion_probs=np.ones(40),
    )


def test_a_dollar_in_the_name_of_a_group_is_not_mathematics() -> None:
    assert pictures_of(predictions(r"cost $\frac$ $x$"))["groups"].startswith(b"\x89PNG")


@pytest.mark.parametrize(("theme", "sign"), [(LIGHT, -1.0), (DARK, 1.0)])
def test_titles_can_be_read_on_their_paper(theme: Theme, sign: float) -> None:
    """The line of titles, at the top, holds ink that stands out from the paper."""
    for name, png in pictures_of(predictions("FGC1"), theme).items():
        grey = np.asarray(Image.open(io.BytesIO(png)).convert("L")).astype(float)
        contrast = sign * (grey[:30] - grey[0, 0])
        assert contrast.max() > 120, name


def test_no_title_runs_off_the_picture_however_long_the_names_of_groups() -> None:
    for name, png in pictures_of(predictions("a group of a rather long name")).items():
        grey = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
        assert (grey[:, -2:] == grey[0, 0]).all(), name


def test_calibration_bins_hold_every_cell_once() -> None:
    rng = np.random.default_rng(0)
    n = 100
    cells = Predictions(
        cell_ids=np.arange(n).astype(str), slide_ids=np.full(n, "S"), groups=np.full(n, "S"),
        labels=rng.random(n) < 0.5, predicted=np.zeros(n, bool), baseline=np.zeros(n, bool),
        probability=rng.random(n), policies=np.full(n, "random"), inclusion_probs=np.ones(n),
    )  # fmt: skip
    bins = calibration_bins(cells)
    assert sum(count for _, _, count in bins) == n
    assert sum(share * count for _, share, count in bins) == pytest.approx(cells.labels.sum())
    assert [said for said, _, _ in bins] == sorted(said for said, _, _ in bins)


def test_the_types_are_judged_apart(good: Path, tmp_path: Path) -> None:
    path = training_file(tmp_path / "t.json")
    outputs: dict[CellType, Path] = {"mk": tmp_path / "mk.skops", "hspc": tmp_path / "hspc.skops"}
    train([path], outputs, Settings("logistic"))
    verdicts = validate(outputs)
    assert [verdict.cell_type for verdict in verdicts] == ["mk", "hspc"]
    assert all("_hspc_" in cell_id for cell_id in verdicts[1].predictions.cell_ids)
