"""Labels become training data; nothing is lost without being counted, nothing half-written."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelfiles import by_type, export, moved, old_id, truth_labels, write
from mkhspc.config import CellRange
from mkhspc.errors import InputError
from mkhspc.learn.labels.convert import Conversion, convert, report_of
from mkhspc.learn.training_file import read_training, write_training
from mkhspc.store import tables
from mkhspc.store.cells import read_cells
from runs import FakeRun, make_run, put_manifest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(tmp_path_factory.mktemp("convert"), slide_ids=("FGC1", "FHU1"), cells_per_type=30)


def in_filter(run: FakeRun, cell_type: str) -> list[str]:
    cells: list[str] = []
    for slide in run.manifest.slides:
        table = read_cells(run.layout, run.manifest, slide.slide_id, ["cell_id", "cell_type", "in_filter"])
        cells += [r["cell_id"] for r in table.to_pylist() if r["in_filter"] and r["cell_type"] == cell_type]
    return cells


def converted(run: FakeRun, *files: Path, **options: Any) -> Conversion:
    return convert(files, run.layout, **options)


def written(run: FakeRun, path: Path, *files: Path, **options: Any) -> dict[str, Any]:
    write_training(path, converted(run, *files, **options))
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_the_training_data_says_what_the_contract_asks(run: FakeRun, tmp_path: Path) -> None:
    labels = truth_labels(run)
    document = written(run, tmp_path / "t.json", write(tmp_path / "a.json", export(run.manifest, labels)))
    assert (document["format"], document["version"]) == ("mkhspc-training", 1)
    assert document["config_hash"] == run.manifest.config_hash
    inside = {*in_filter(run, "mk"), *in_filter(run, "hspc")}
    assert {s["cell_id"]: s["label"] for s in document["samples"]} == {
        c: int(v == "positive") for c, v in labels.items() if c in inside
    }
    assert {d["cell_id"] for d in document["outside_filter"]} == set(labels) - inside
    sample = document["samples"][0]
    assert (sample["annotators"], sample["policy"], sample["inclusion_prob"]) == (["anna"], "random", 1.0)


def test_a_file_whose_name_is_not_utf_8_names_its_annotator(run: FakeRun, tmp_path: Path) -> None:
    labels = by_type(truth_labels(run))
    document = written(run, tmp_path / "t.json", write(tmp_path / os.fsdecode(b"J\xf6rg.json"), labels))
    assert {name for sample in document["samples"] for name in sample["annotators"]} == {"J\udcf6rg"}
    data = read_training([tmp_path / "t.json"])
    assert data.samples["mk"].annotators == ("J\ufffdrg",)


def test_features_are_those_of_the_cell_in_the_order_of_the_names(run: FakeRun, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", export(run.manifest, truth_labels(run)))
    document = written(run, tmp_path / "t.json", path)
    names = document["feature_names"]
    stored = {
        row["cell_id"]: [row[name] for name in names]
        for slide in run.manifest.slides
        for row in read_cells(run.layout, run.manifest, slide.slide_id, ["cell_id", *names]).to_pylist()
    }
    assert len(document["samples"]) > 50
    assert all(sample["features"] == stored[sample["cell_id"]] for sample in document["samples"])


def test_the_same_labels_give_the_same_bytes_from_every_shape(run: FakeRun, tmp_path: Path) -> None:
    labels = truth_labels(run)
    answers = {"positive": 1, "negative": 0}
    shapes = {
        "a": by_type(labels),
        "d": {"annotations": {old_id(c): "yes" if v == "positive" else "no" for c, v in labels.items()}},
        "e": {c: answers[v] for c, v in labels.items()},
    }
    samples = []
    for name, data in shapes.items():
        (tmp_path / name).mkdir()
        samples.append(
            written(run, tmp_path / f"{name}.json", write(tmp_path / name / "x.json", data))["samples"]
        )
    assert samples[0] == samples[1] == samples[2]
    assert {(s["policy"], s["inclusion_prob"]) for s in samples[0]} == {("unknown", None)}


def test_the_report_counts_every_label_once_by_how_it_ended(run: FakeRun, tmp_path: Path) -> None:
    cells = in_filter(run, "mk")
    outside = [c for c in run.truth if "_mk_" in c and c not in cells][:3]
    labels = dict.fromkeys(cells[:5], "positive")
    labels |= {moved(c, 3, 0): "negative" for c in cells[5:9]}
    labels |= dict.fromkeys(outside, "negative")
    labels |= {"FGC1_s0_mk_99999_99999": "positive"}
    report = report_of(converted(run, write(tmp_path / "a.json", by_type(labels)), min_match=0.9))
    assert report["files"][0]["counts"] == {
        "mk": {"exact": 5, "contour": 4, "near": 0, "outside_filter": 3, "excluded": 0, "unmatched": 1}
    }
    assert report["files"][0]["unmatched"] == ("FGC1_s0_mk_99999_99999",)
    assert report["files"][0]["match_rate"] == round(12 / 13, 6)
    assert report["cells"]["mk"] == {
        "positive": 5, "negative": 4, "unsure": 0, "outside_filter": 3,
        "conflicts_settled": 0, "conflicts_excluded": 0,
    }  # fmt: skip


def test_too_few_matches_are_refused_with_the_numbers_and_examples(run: FakeRun, tmp_path: Path) -> None:
    labels = dict.fromkeys(in_filter(run, "mk")[:9], "positive") | {"XYZ_s0_mk_5_5": "negative"}
    path = write(tmp_path / "a.json", by_type(labels))
    with pytest.raises(InputError) as refused:
        converted(run, path)
    assert "only 9 of 10 labels (0.900) have a cell in this run, below --min-match 0.98" in str(refused.value)
    assert "XYZ_s0_mk_5_5" in str(refused.value)
    assert len(converted(run, path, min_match=0.9).samples) == 9


def test_a_good_file_does_not_hide_a_bad_one(run: FakeRun, tmp_path: Path) -> None:
    good = write(tmp_path / "good.json", by_type(truth_labels(run)))
    bad = write(tmp_path / "bad.json", by_type({"XYZ_s0_mk_5_5": "positive"}))
    with pytest.raises(InputError, match=r"bad\.json: only 0 of 1 labels"):
        converted(run, good, bad)


def test_unsure_labels_are_kept_apart_with_who_was_unsure(run: FakeRun, tmp_path: Path) -> None:
    cells = in_filter(run, "mk")
    labels = {cells[0]: "unsure", cells[1]: "positive"}
    document = written(run, tmp_path / "t.json", write(tmp_path / "ben.json", by_type(labels)))
    assert [s["cell_id"] for s in document["samples"]] == [cells[1]]
    assert document["unsure"] == [
        {"cell_id": cells[0], "cell_type": "mk", "value": "unsure", "annotators": ["ben"]}
    ]


def test_annotators_who_disagree_are_a_conflict_that_the_rule_settles(run: FakeRun, tmp_path: Path) -> None:
    a, b, c = in_filter(run, "mk")[:3]
    files = [
        write(tmp_path / "anna.json", by_type({a: "positive", b: "positive", c: "positive"})),
        write(tmp_path / "ben.json", by_type({a: "negative", b: "positive"})),
        write(tmp_path / "cleo.json", by_type({a: "negative", b: "positive"})),
    ]
    majority = written(run, tmp_path / "m.json", *files)
    assert {s["cell_id"]: (s["label"], s["annotators"]) for s in majority["samples"]} == {
        a: (0, ["ben", "cleo"]), b: (1, ["anna", "ben", "cleo"]), c: (1, ["anna"]),
    }  # fmt: skip
    excluded = written(run, tmp_path / "e.json", *files, on_conflict="exclude")
    assert {s["cell_id"] for s in excluded["samples"]} == {b, c}
    assert [(d["cell_id"], d["votes"]["anna"]) for d in excluded["conflicts"]] == [(a, ["positive"])]


def test_two_labels_that_end_at_one_cell_with_different_values_are_a_conflict(
    run: FakeRun, tmp_path: Path
) -> None:
    cell, other = in_filter(run, "mk")[:2]
    labels = {cell: "positive", moved(cell, 2, 0): "negative", other: "positive"}
    conversion = converted(run, write(tmp_path / "a.json", by_type(labels)))
    assert [d.cell_id for d in conversion.conflicts] == [cell]
    assert [d.cell_id for d in conversion.samples] == [other]


def test_an_annotator_who_exports_again_corrects_himself(run: FakeRun, tmp_path: Path) -> None:
    a, b = in_filter(run, "mk")[:2]
    later = export(run.manifest, {a: "negative"}, exported_at="2026-02-01T00:00:00Z")
    files = [
        write(tmp_path / "tuesday.json", later),
        write(tmp_path / "monday.json", export(run.manifest, {a: "positive", b: "positive"})),
    ]
    conversion = converted(run, *files)
    assert {d.cell_id: d.value for d in conversion.samples} == {a: "negative", b: "positive"}
    assert conversion.replaced == 1


def test_a_label_cleared_after_an_export_does_not_count_and_one_of_another_browser_does(
    run: FakeRun, tmp_path: Path
) -> None:
    kept, cleared, elsewhere = in_filter(run, "mk")[:3]
    monday = export(run.manifest, {kept: "positive", cleared: "negative"})
    taken_back = {"cell_id": cleared, "label": "unlabelled", "at": "2026-02-01T09:00:00Z", "policy": "random"}
    tuesday = export(run.manifest, {kept: "positive"}, exported_at="2026-02-01T10:00:00Z")
    tuesday["events"] += [*monday["events"][1:], taken_back]
    other_browser = export(run.manifest, {elsewhere: "negative"})
    files = [
        write(tmp_path / f"{name}.json", data)
        for name, data in {"tuesday": tuesday, "monday": monday, "laptop": other_browser}.items()
    ]
    conversion = converted(run, *files)
    assert {d.cell_id: d.value for d in conversion.samples} == {kept: "positive", elsewhere: "negative"}
    assert len(conversion.conflicts) == 0


def test_blind_repeats_are_not_labels_but_give_the_agreement(run: FakeRun, tmp_path: Path) -> None:
    a, b = in_filter(run, "mk")[:2]
    events = [{"cell_id": c, "label": "positive", "policy": "blind-repeat"} for c in (a, b)]
    data = export(run.manifest, {a: "positive", b: "negative"}, events=events)
    conversion = converted(run, write(tmp_path / "a.json", data))
    assert {d.cell_id: d.value for d in conversion.samples} == {a: "positive", b: "negative"}
    (report,) = report_of(conversion)["files"]
    assert report["self_agreement"] == {"mk": {"pairs": 2, "agreement": 0.5, "kappa": 0.0}}


def test_labels_of_another_run_are_refused(run: FakeRun, tmp_path: Path) -> None:
    labels = truth_labels(run)
    for key, value in (("config_hash", "0" * 16), ("dataset", "0" * 12)):
        path = write(tmp_path / f"{key}.json", export(run.manifest, labels, **{key: value}))
        with pytest.raises(InputError, match=f"labels another run \\({key} 0000"):
            converted(run, path)


def test_a_filter_that_is_not_the_runs_is_refused_with_both_numbers(run: FakeRun, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", by_type(truth_labels(run)))
    assert converted(run, path, expected_filter={"mk": (100.0, 2100.0), "hspc": (None, 150.0)}).samples
    with pytest.raises(InputError, match=r"--mk-min-area-um is 200 µm², but the run's filter has 100 µm²"):
        converted(run, path, expected_filter={"mk": (200.0, None)})


def test_another_filter_moves_labels_outside_and_back(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("FGC1",))
    path = write(tmp_path / "a.json", export(run.manifest, truth_labels(run)))
    before = converted(run, path)
    narrow = run.manifest.with_filter({"mk": CellRange(500.0, 2000.0, 0.02)})
    put_manifest(run.layout, narrow)
    after = converted(run, path)
    assert 0 < len(after.samples) < len(before.samples)
    everything = [{d.cell_id for d in (*c.samples, *c.outside_filter)} for c in (before, after)]
    assert everything[0] == everything[1]


@pytest.mark.parametrize(
    ("value", "reason"), [("negative", "there are only negatives"), ("unsure", "is left to learn from")]
)
def test_labels_that_cannot_teach_are_refused(run: FakeRun, tmp_path: Path, value: str, reason: str) -> None:
    labels = dict.fromkeys(in_filter(run, "mk")[:6], value)
    with pytest.raises(InputError, match=reason):
        converted(run, write(tmp_path / "a.json", export(run.manifest, labels)))


def test_a_feature_without_a_number_is_an_error_that_names_the_cell(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("FGC1",), cells_per_type=10)
    path = run.layout.cells("FGC1")
    table = tables.read_table(path, run.manifest.config_hash)
    entropy = table["texture_entropy"].to_numpy().copy()
    entropy[0] = np.nan
    column = table.column_names.index("texture_entropy")
    broken = table.set_column(column, table.schema.field(column), [entropy])
    tables.write_table(path, broken, run.manifest.config_hash)
    labels = {table["cell_id"][0].as_py(): "positive"}
    labels |= truth_labels(run)
    with pytest.raises(
        InputError, match=f"cell {table['cell_id'][0].as_py()} has no finite number in texture_entropy"
    ):
        converted(run, write(tmp_path / "a.json", by_type(labels)))


def logged(cell_id: str, label: str, seq: int | None, day: str, **keys: Any) -> dict[str, Any]:
    """An event of one browser's log, or of an older gallery's, which numbered none."""
    number = {} if seq is None else {"seq": seq, "browser": "b1"}
    return {
        "cell_id": cell_id,
        "label": label,
        "at": f"{day}T12:00:00Z",
        "policy": "random",
        **number,
        **keys,
    }


LATE, EARLY = "2099-01-01", "2026-02-02"


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("tuesday_first", [True, False])
def test_a_label_given_with_the_clock_far_ahead_and_corrected_later_is_the_correction(
    run: FakeRun, tmp_path: Path, numbered: bool, tuesday_first: bool
) -> None:
    wrong, gone, other = in_filter(run, "mk")[:3]
    before = [
        logged(wrong, "positive", 1 if numbered else None, LATE),
        logged(gone, "positive", 2 if numbered else None, LATE),
    ]
    after = [
        logged(wrong, "negative", 3 if numbered else None, EARLY),
        logged(gone, "unlabelled", 4 if numbered else None, EARLY),
        logged(other, "positive", 5 if numbered else None, EARLY),
    ]
    files = {
        "monday": export(run.manifest, {wrong: "positive", gone: "positive"}, events=before),
        "tuesday": export(run.manifest, {wrong: "negative", other: "positive"}, events=before + after),
    }
    paths = [write(tmp_path / f"{name}.json", data) for name, data in files.items()]
    conversion = converted(run, *(paths[::-1] if tuesday_first else paths))
    assert {d.cell_id: d.value for d in conversion.samples} == {wrong: "negative", other: "positive"}
    assert conversion.conflicts == ()


def test_a_cell_cleared_with_the_clock_far_ahead_and_labelled_again_has_its_label(
    run: FakeRun, tmp_path: Path
) -> None:
    cell, other = in_filter(run, "mk")[:2]
    cleared = [logged(cell, "negative", 1, EARLY), logged(cell, "unlabelled", 2, LATE)]
    again = [*cleared, logged(cell, "positive", 3, EARLY)]
    monday = write(tmp_path / "monday.json", export(run.manifest, {other: "positive"}, events=cleared))
    tuesday = write(tmp_path / "tuesday.json", export(run.manifest, {cell: "positive"}, events=again))
    for files in ((monday, tuesday), (tuesday, monday)):
        found = {d.cell_id: d.value for d in converted(run, *files).samples}
        assert found == {cell: "positive", other: "positive"}


def test_numbers_of_one_browser_order_files_that_know_nothing_of_one_another(
    run: FakeRun, tmp_path: Path
) -> None:
    cell, other = in_filter(run, "mk")[:2]
    files = [
        write(
            tmp_path / f"{seq}.json",
            export(run.manifest, {cell: label, other: "positive"}, events=[logged(cell, label, seq, day)]),
        )
        for seq, label, day in ((7, "positive", LATE), (8, "negative", EARLY))
    ]
    for order in (files, files[::-1]):
        assert {d.cell_id: d.value for d in converted(run, *order).samples} == {
            cell: "negative", other: "positive",
        }  # fmt: skip


def test_numbers_of_two_browsers_say_nothing_of_each_other(run: FakeRun, tmp_path: Path) -> None:
    cell, other = in_filter(run, "mk")[:2]
    high = logged(cell, "positive", 900, "2026-02-01")
    low = logged(cell, "negative", 1, "2026-02-02", browser="b2")
    files = [
        write(tmp_path / f"{n}.json", export(run.manifest, {cell: e["label"], other: "positive"}, events=[e]))
        for n, e in enumerate((high, low))
    ]
    assert {d.cell_id: d.value for d in converted(run, *files).samples}[cell] == "negative"


def test_the_array_tells_the_order_where_nothing_is_numbered(run: FakeRun, tmp_path: Path) -> None:
    cell, other = in_filter(run, "mk")[:2]
    events = [
        logged(cell, "positive", None, LATE, policy="area"),
        logged(cell, "positive", None, EARLY, policy="uncertainty"),
    ]
    path = write(
        tmp_path / "a.json", export(run.manifest, {cell: "positive", other: "negative"}, events=events)
    )
    assert {d.cell_id: d.presentation.policy for d in converted(run, path).samples}[cell] == "uncertainty"


def test_an_import_in_which_ones_own_answer_was_kept_stands_against_the_file_it_came_from(
    run: FakeRun, tmp_path: Path
) -> None:
    cell, other = in_filter(run, "mk")[:2]
    theirs = logged(cell, "negative", 1, "2026-02-05", browser="b2")
    mine = logged(cell, "positive", 1, "2026-02-01")
    for kept in ("positive", "negative"):
        files = [
            write(
                tmp_path / f"{name}.json",
                export(run.manifest, {cell: label, other: "positive"}, events=events),
            )
            for name, label, events in (
                ("laptop", "negative", [theirs]),
                ("desktop", "positive", [mine]),
                ("merged", kept, [mine, theirs]),
            )
        ]
        assert {d.cell_id: d.value for d in converted(run, *files).samples}[cell] == kept


def test_a_time_in_the_future_is_named_with_file_and_annotator(run: FakeRun, tmp_path: Path) -> None:
    cells = in_filter(run, "mk")[:3]
    labels = dict.fromkeys(cells, "positive")
    events = [
        logged(c, "positive", n, day)
        for n, (c, day) in enumerate(zip(cells, (LATE, LATE, EARLY), strict=True))
    ]
    ahead = write(tmp_path / "anna.json", export(run.manifest, labels, events=events))
    exported = export(run.manifest, labels, annotator="ben", events=[], exported_at="2150-01-01T00:00:00Z")
    named = converted(run, ahead, write(tmp_path / "ben.json", exported)).concerns
    assert named[0].startswith("anna.json: 2 answers of anna dated in the future (2099-01-01T12:00:00+00:00)")
    assert named[1].startswith("ben.json: the export of ben dated in the future (2150-01-01T00:00:00+00:00)")
    soon = (datetime.now(UTC) + timedelta(hours=20)).isoformat()
    near = export(run.manifest, labels, exported_at=soon, events=[{**e, "at": soon} for e in events])
    assert converted(run, write(tmp_path / "near.json", near)).concerns == ()


def test_a_time_in_the_future_is_named_even_where_nothing_is_left_to_learn(
    run: FakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cell = in_filter(run, "mk")[0]
    data = export(run.manifest, {cell: "negative"}, events=[logged(cell, "negative", None, LATE)])
    with pytest.raises(InputError, match="there are only negatives"):
        converted(run, write(tmp_path / "ahead.json", data))
    assert "ahead.json: 1 answer of anna dated in the future" in caplog.text


@pytest.mark.parametrize("numbered", [True, False])
def test_the_same_events_under_two_names_are_refused_and_both_files_named(
    run: FakeRun, tmp_path: Path, numbered: bool
) -> None:
    cells = in_filter(run, "mk")[:5]
    labels = dict.fromkeys(cells, "positive")
    events = [logged(c, "positive", n if numbered else None, EARLY) for n, c in enumerate(cells)]
    anna = write(tmp_path / "anna.json", export(run.manifest, labels, events=events))
    own = logged(in_filter(run, "mk")[5], "negative", None, EARLY, at="2026-02-03T09:00:00.5Z")
    ben = write(
        tmp_path / "ben.json", export(run.manifest, labels, annotator="ben", events=[own, *events[:4]])
    )
    with pytest.raises(InputError) as refused:
        converted(run, anna, ben)
    first, fix = str(refused.value).splitlines()
    assert first == (
        f"{ben}: holds 4 answers that {anna} has too, under another name ('ben' here, 'anna' there):"
        " one person would count as two"
    )
    assert fix.startswith("  leave one of the two files out")


def test_events_alike_in_two_files_count_once_for_who_gave_them(run: FakeRun, tmp_path: Path) -> None:
    """Ben imported Anna's labels; Cleo alone disagrees, so that two votes for one answer would decide."""
    a, b, c = in_filter(run, "mk")[:3]
    hers = [logged(x, "positive", n, EARLY, annotator="anna") for n, x in enumerate((a, b))]
    his = [logged(c, "positive", 1, EARLY, browser="b2", annotator="ben")]
    cleos = [logged(a, "negative", 1, EARLY, browser="b3", annotator="cleo")]
    files = [
        write(tmp_path / f"{name}.json", export(run.manifest, labels, annotator=name, events=events))
        for name, labels, events in (
            ("anna", {a: "positive", b: "positive"}, hers),
            ("ben", {a: "positive", b: "positive", c: "positive"}, [*his, *hers]),
            ("cleo", {a: "negative"}, cleos),
        )
    ]
    conversion = converted(run, *files)
    assert {d.cell_id: d.annotators for d in conversion.samples} == {b: ("anna",), c: ("ben",)}
    (conflict,) = conversion.conflicts
    assert conflict.votes == {"anna": ("positive",), "cleo": ("negative",)}
    alone = converted(run, files[1])
    assert {d.cell_id: d.annotators for d in alone.samples} == {a: ("anna",), b: ("anna",), c: ("ben",)}


def test_a_nameless_export_of_the_same_log_counts_for_the_name_given_later(
    run: FakeRun, tmp_path: Path
) -> None:
    a, b = in_filter(run, "mk")[:2]
    events = [logged(a, "positive", 1, EARLY), logged(b, "positive", 2, EARLY)]
    before = export(run.manifest, {a: "positive"}, annotator="anonymous", events=events[:1])
    after = export(run.manifest, {a: "positive", b: "positive"}, events=events)
    files = [write(tmp_path / f"{n}.json", data) for n, data in enumerate((before, after))]
    conversion = converted(run, *files)
    assert {d.cell_id: d.annotators for d in conversion.samples} == {a: ("anna",), b: ("anna",)}
    assert [file.annotator for file in conversion.files] == ["anna", "anna"]


def test_a_name_is_one_however_its_accents_are_written(run: FakeRun, tmp_path: Path) -> None:
    a, b = in_filter(run, "mk")[:2]
    files = [
        write(
            tmp_path / f"{n}.json",
            export(run.manifest, {a: value, b: "positive"}, annotator=name, events=events),
        )
        for n, (name, value, events) in enumerate(
            [("Zo\u00eb", "positive", []), (" Zoe\u0308 ", "negative", [logged(a, "negative", 1, EARLY)])]
        )
    ]
    conversion = converted(run, *files)
    assert conversion.conflicts == ()
    assert {file.annotator for file in conversion.files} == {"Zo\u00eb"}


def test_a_cell_that_a_file_lists_twice_has_one_vote(run: FakeRun, tmp_path: Path) -> None:
    a, b = in_filter(run, "mk")[:2]
    anna = {"mk": {"positive": [a, a, old_id(a), b], "negative": []}}
    ben = {"mk": {"positive": [b], "negative": [a]}}
    files = [write(tmp_path / f"{n}.json", data) for n, data in (("anna", anna), ("ben", ben))]
    assert [d.cell_id for d in converted(run, *files).conflicts] == [a]


def test_an_export_after_all_labels_were_taken_back_is_taken(run: FakeRun, tmp_path: Path) -> None:
    a, b = in_filter(run, "mk")[:2]
    given = [logged(a, "positive", 1, EARLY)]
    files = [
        write(tmp_path / "monday.json", export(run.manifest, {a: "positive"}, events=given)),
        write(
            tmp_path / "tuesday.json",
            export(run.manifest, {}, events=[*given, logged(a, "unlabelled", 2, EARLY)]),
        ),
        write(tmp_path / "ben.json", by_type({b: "positive"})),
    ]
    conversion = converted(run, *files)
    assert [d.cell_id for d in conversion.samples] == [b]
    assert conversion.replaced == 1


def test_older_files_that_may_be_copies_or_one_persons_are_named(run: FakeRun, tmp_path: Path) -> None:
    a, b = in_filter(run, "mk")[:2]
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    copy = [write(tmp_path / f"{name}.json", by_type({a: "positive"})) for name in ("anna", "anna (1)")]
    assert converted(run, *copy).concerns == (
        "anna.json, anna (1).json hold the same labels and count as 2 annotators: is one a copy?",
    )
    one = [write(tmp_path / f / "labels.json", by_type({c: "positive"})) for f, c in (("x", a), ("y", b))]
    assert converted(run, *one).concerns == (
        "labels.json, labels.json give no annotator's name and count as one: the newest answer counts",
    )
