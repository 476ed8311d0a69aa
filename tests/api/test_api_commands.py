"""The commands as functions: the same files, the same errors, and notes in a log."""

from __future__ import annotations

import typing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mkhspc
from labelfiles import export, truth_labels, write
from mkhspc.cli.run_options import OPTIONS
from mkhspc.config.options import SETTINGS, SegmentOptions, settings_of
from runs import make_run


def test_every_option_of_segment_is_a_keyword() -> None:
    def plain() -> None: ...

    for option in OPTIONS:
        option(plain)
    of_command = {parameter.name for parameter in plain.__click_params__}
    assert typing.get_type_hints(SegmentOptions).keys() == SETTINGS.keys()
    assert of_command - {"config", "czi_path"} | {"slides"} == SETTINGS.keys()


def test_options_become_settings_with_paths_as_texts() -> None:
    given = {"slides": Path("a.czi"), "embedders": ("resnet50", "sam2"), "scenes": (), "seed": None}
    assert settings_of(given) == {
        "run.slides": ["a.czi"], "compute.embedder": "resnet50,sam2", "run.scenes": None, "run.seed": None,
    }  # fmt: skip


def test_a_mistyped_option_is_named_with_those_that_there_are() -> None:
    with pytest.raises(
        mkhspc.UsageError, match="no option 'tile_sise'\n  its options are: slides, output_dir"
    ):
        mkhspc.segment(tile_sise=512)


def test_a_slide_becomes_a_run_and_the_same_call_resumes_it(tiny_slide: Path, tmp_path: Path) -> None:
    steps: list[str] = []

    def progress(stage: str, done: int, total: int, **facts: str | int | float) -> None:
        steps.append(stage)

    run = mkhspc.segment(
        slides=tiny_slide, output_dir=tmp_path / "run", tile_size=512, num_workers=1, progress=progress
    )
    assert run.path == tmp_path / "run"
    assert {"survey", "tiles", "merge"} <= set(steps)
    cells = run.cells(in_filter=None, columns=["cell_id", "cell_type"])
    assert set(cells["cell_type"].to_pylist()) == {"mk", "hspc"}
    assert run.crops(cells["cell_id"])[0].ndim == 3
    assert run.merge().stored["hspc"] == cells["cell_type"].to_pylist().count("hspc")
    (slide,) = run.status().slides
    assert slide.tiles == slide.done > 0
    again = mkhspc.segment(slides=tiny_slide, output_dir=tmp_path / "run", tile_size=512)
    assert again.cells(in_filter=None, columns=["cell_id", "cell_type"]).equals(cells)
    with pytest.raises(mkhspc.InputError, match="--tile-size is 512 there"):
        mkhspc.segment(slides=tiny_slide, output_dir=tmp_path / "run", tile_size=1024)


def test_a_study_file_says_what_to_do_and_options_win(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text('[run]\nslides = ["none.czi"]\noutput_dir = "run"\n')
    with pytest.raises(mkhspc.InputError, match="this slide does not exist") as caught:
        mkhspc.segment(tmp_path / "study.toml")
    assert str(caught.value.where) == str(tmp_path / "none.czi")
    with pytest.raises(mkhspc.UsageError, match="sample_fraction"):
        mkhspc.segment(tmp_path / "study.toml", sample_fraction=2.0)


@pytest.mark.slow
def test_labels_become_scores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = make_run(tmp_path / "run", slide_ids=("FGC1", "FHU1", "MGC1"), cells_per_type=25)
    labels = write(tmp_path / "anna.json", export(made.manifest, truth_labels(made, lambda c: "_mk_" in c)))
    run = mkhspc.open_run(made.layout.root)
    training, mk = tmp_path / "training.json", tmp_path / "mk.skops"

    conversion = mkhspc.convert(labels, run, training)
    assert conversion.files[0].match_rate == 1.0
    with pytest.raises(mkhspc.UsageError, match="would be overwritten"):
        mkhspc.convert([labels], run, labels)
    with pytest.raises(mkhspc.InputError, match="--mk-min-area-um is 90"):
        mkhspc.convert(labels, run, training, mk_min_area_um=90.0)
    with pytest.raises(mkhspc.UsageError, match="no file of labels was given"):
        mkhspc.convert([], run, training)

    cards = mkhspc.train(training, output_mk=mk, output_hspc=tmp_path / "hspc.skops", model="logistic")
    assert cards.keys() == {"mk"}
    assert "hspc is left out" in caplog.text

    (verdict,) = mkhspc.validate(mk_classifier=mk, training_data=training, run=run, report=tmp_path / "gate")
    assert verdict.passed
    assert (tmp_path / "gate" / "report.html").exists()
    (strict,) = mkhspc.validate(mk_classifier=mk, min_accuracy=1.0, confident=True)
    assert not strict.passed

    summary = mkhspc.score(run, mk_classifier=mk)
    scores = run.scores()
    assert summary.types["mk"].cells == scores.num_rows == 75
    truth = [made.truth[cell_id] for cell_id in scores["cell_id"].to_pylist()]
    assert sum(a == b for a, b in zip(scores["is_positive"].to_pylist(), truth, strict=True)) > 0.85 * 75
    with pytest.raises(mkhspc.UsageError, match="nothing to score with"):
        mkhspc.score(run)


def test_what_no_one_offers_is_no_attribute() -> None:
    assert set(mkhspc.__all__) <= set(dir(mkhspc))
    for name in mkhspc.__all__:
        assert getattr(mkhspc, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        mkhspc.segmnt  # noqa: B018


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda run, tmp: run.refilter(mk_min_area=3.0), "mk_min_area"),
        (
            lambda run, tmp: mkhspc.convert(tmp / "labels.json", run, tmp / "t.json", mk_min_area=7.0),
            "mk_min_area",
        ),
        (lambda run, tmp: mkhspc.train(tmp / "t.json", output_mk=tmp / "mk.skops", sede=1), "sede"),
        (lambda run, tmp: mkhspc.validate(mk_classifier=tmp / "mk.skops", min_acuracy=0.999), "min_acuracy"),
    ],
)
def test_a_mistyped_keyword_is_refused_with_those_there_are(
    tmp_path: Path, call: Callable[[mkhspc.Run, Path], object], name: str
) -> None:
    run = mkhspc.open_run(make_run(tmp_path / "run", slide_ids=("A",), cells_per_type=4).layout.root)
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(mkhspc.UsageError, match=f"has no option '{name}'") as caught:
        call(run, tmp_path)
    assert "its options are: " in caught.value.fix


def test_a_limit_of_the_gate_is_a_share(tmp_path: Path) -> None:
    with pytest.raises(mkhspc.UsageError, match="--min-accuracy is 75; it must be 0 to 1"):
        mkhspc.validate(mk_classifier=tmp_path / "mk.skops", min_accuracy=75.0)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"model": "nonsense"}, "--model is 'nonsense'; it must be 'auto', 'random-forest', "),
        ({"threshold_for": "best"}, "--threshold-for is 'best'; it must be 'f1', "),
        ({"seed": -1}, "--seed is -1; it must be 0 to "),
    ],
)
def test_a_classifier_is_trained_with_what_there_is(
    tmp_path: Path, setting: dict[str, object], words: str
) -> None:
    with pytest.raises(mkhspc.UsageError) as caught:
        mkhspc.train(tmp_path / "t.json", output_mk=tmp_path / "mk.skops", **setting)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"min_match": 98}, "--min-match is 98; it must be 0 to 1"),
        ({"on_conflict": "never"}, "--on-conflict is 'never'; it must be 'majority', "),
    ],
)
def test_labels_are_converted_by_a_rule_that_there_is(
    tmp_path: Path, setting: dict[str, object], words: str
) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",), cells_per_type=4).layout.root
    with pytest.raises(mkhspc.UsageError) as caught:
        mkhspc.convert(tmp_path / "labels.json", run, tmp_path / "t.json", **setting)
    assert str(caught.value).startswith(words)


def test_a_thread_may_segment_and_one_slide_may_be_a_text(tiny_slide: Path, tmp_path: Path) -> None:
    def segment() -> mkhspc.Run:
        return mkhspc.segment(
            slides=tiny_slide,
            output_dir=tmp_path / "run",
            tile_size=512,
            num_workers=1,
            only=tiny_slide.stem,
        )

    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(segment).result()
    assert run.cells(slide=tiny_slide.stem, in_filter=None).num_rows > 0
