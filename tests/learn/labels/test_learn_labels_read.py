"""Every shape of labels is read alike, and every file that is none is refused with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labelfiles import write
from mkhspc.errors import InputError
from mkhspc.learn.labels.read import read_annotations

MK, MK2, MK3 = "FGC1_s0_mk_10_20", "FGC1_s0_mk_30_40", "FGC1_s1_mk_50_60"
HSPC = "FGC1_s0_hspc_7_8"
LISTS = {"positive": [MK], "negative": [MK2], "unsure": [MK3]}
OURS = {"format": "mkhspc-annotations", "version": 1, "dataset": "d", "config_hash": "h", "annotator": "anna"}

SHAPES: list[tuple[str, Any]] = [
    ("mkhspc-annotations", {**OURS, "mk": LISTS, "events": [], "unknown_key": 1}),
    ("A", {"mk": LISTS, "experiment_name": "x"}),
    ("B", {"cell_type": "mk", "experiment_name": "", **LISTS}),
    ("C", {"cell_type": "mk", "exported_at": "2025-11-18T10:00:00", **LISTS}),
    ("D", {"annotations": {MK: "yes", MK2: "no", MK3: "unsure"}}),
    ("D", {"annotations": {MK: 1, MK2: 0, MK3: 2}}),
    ("E", {MK: 1, MK2: 0, MK3: 2}),
    ("E", {"mk_labels_page1": {MK: 1, MK2: 0}, "mk_labels_page2": {MK3: 2}, "last_page": 2}),
    ("E", {MK: 1, MK2: "no", MK3: 2, "experiment_name": "x"}),
    ("E", {"mk_labels_page1": {MK: 1, MK2: 0}, MK3: 2, "last_page": 2}),
]


@pytest.mark.parametrize(("shape", "data"), SHAPES, ids=[f"{n}-{s}" for n, (s, _) in enumerate(SHAPES)])
def test_every_shape_says_the_same(tmp_path: Path, shape: str, data: Any) -> None:
    found = read_annotations(write(tmp_path / "labels.json", data))
    assert found.shape == shape
    assert {(label.cell_id, label.cell_type, label.value) for label in found.labels} == {
        (MK, "mk", "positive"),
        (MK2, "mk", "negative"),
        (MK3, "mk", "unsure"),
    }


@pytest.mark.parametrize(
    "data",
    [
        {"mk": {"positive": ["FGC1_mk_10_20"], "negative": []}},
        {"annotations": {"FGC1_mk_10_20": "yes"}},
        {"cell_type": "mk", "positive": ["FGC1_10_20"], "negative": []},
        {"mk_labels_page1": {"FGC1_10_20": 1}},
    ],
    ids=["A", "D", "B-bare", "E-paged-bare"],
)
def test_an_id_without_a_scene_or_type_means_scene_0_and_the_files_type(tmp_path: Path, data: Any) -> None:
    (label,) = read_annotations(write(tmp_path / "labels.json", data)).labels
    assert label.cell_id == MK
    assert label.cell_type == "mk"


@pytest.mark.parametrize("spaced", [f" {MK} ", f"{MK}\t", f"\u00a0{MK}"])
def test_spaces_around_an_id_are_no_part_of_it(tmp_path: Path, spaced: str) -> None:
    events = [{"cell_id": spaced, "label": "positive", "policy": "area"}]
    data = {**OURS, "mk": {"positive": [spaced], "negative": []}, "events": events}
    (label,) = read_annotations(write(tmp_path / "labels.json", data)).labels
    assert (label.cell_id, label.presentation.policy) == (MK, "area")


def test_a_bare_id_of_a_slide_whose_name_ends_in_numbers_keeps_its_name(tmp_path: Path) -> None:
    data = {"cell_type": "hspc", "positive": ["2025_11_18_100_200"], "negative": []}
    (label,) = read_annotations(write(tmp_path / "labels.json", data)).labels
    assert label.name is not None
    assert (label.name.slide_id, label.name.x, label.name.y) == ("2025_11_18", 100, 200)


def test_a_text_that_is_not_an_id_is_kept_to_be_counted_as_unmatched(tmp_path: Path) -> None:
    (label,) = read_annotations(write(tmp_path / "l.json", {"annotations": {"cell twelve": "yes"}})).labels
    assert (label.cell_id, label.name, label.cell_type) == ("cell twelve", None, None)


def test_the_annotator_is_the_one_named_and_else_the_file(tmp_path: Path) -> None:
    named = write(tmp_path / "a.json", {**OURS, "mk": LISTS})
    nameless = write(tmp_path / "b.json", {**OURS, "mk": LISTS, "annotator": "anonymous"})
    older = write(tmp_path / "c.json", {"mk": LISTS})
    assert [read_annotations(path).annotator for path in (named, nameless, older)] == ["anna", "b", "c"]


def test_nameless_answers_with_their_times_are_one_annotators(tmp_path: Path) -> None:
    ids = [cell_id for values in LISTS.values() for cell_id in values]
    events = [{"cell_id": i, "label": "positive", "at": "2026-01-31T12:00:00Z"} for i in ids]
    data = {**OURS, "mk": LISTS, "annotator": "anonymous", "events": events}
    whole = write(tmp_path / "a.json", data)
    in_part = write(tmp_path / "b.json", {**data, "events": events[1:]})
    assert [read_annotations(path).annotator for path in (whole, in_part)] == ["anonymous", "b"]


def test_a_label_carries_how_its_cell_was_shown_last(tmp_path: Path) -> None:
    def event(**keys: Any) -> dict[str, Any]:
        return {"cell_id": MK, "label": "positive", "at": "2026-01-31T12:00:00Z", "policy": "area", **keys}

    later = event(policy="random", inclusion_prob=0.25, at="2026-01-31T13:00:00Z")
    data = {**OURS, "mk": LISTS, "events": [event(), later, event(policy="blind-repeat", label="negative")]}
    shown = {
        label.cell_id: label.presentation
        for label in read_annotations(write(tmp_path / "l.json", data)).labels
    }
    assert (shown[MK].policy, shown[MK].inclusion_prob) == ("random", 0.25)
    assert shown[MK].at is not None
    assert shown[MK].at.hour == 13
    assert (shown[MK2].policy, shown[MK2].inclusion_prob) == ("unknown", None)


def test_an_event_without_a_probability_means_that_all_cells_were_shown(tmp_path: Path) -> None:
    data = {**OURS, "mk": LISTS, "events": [{"cell_id": MK, "label": "positive", "policy": "uncertainty"}]}
    label = read_annotations(write(tmp_path / "l.json", data)).labels[0]
    assert (label.presentation.policy, label.presentation.inclusion_prob) == ("uncertainty", 1.0)


def test_answers_to_blind_repeats_are_kept_apart_from_the_labels(tmp_path: Path) -> None:
    repeats = [
        {"cell_id": MK, "label": "positive", "policy": "blind-repeat"},
        {"cell_id": MK2, "label": "positive", "policy": "blind-repeat"},
        {"cell_id": MK3, "label": "positive", "policy": "blind-repeat"},
        {"cell_id": MK3, "label": "unlabelled", "policy": "blind-repeat"},
    ]
    found = read_annotations(write(tmp_path / "l.json", {**OURS, "mk": LISTS, "events": repeats}))
    assert len(found.labels) == 3
    assert {(r.first, r.again) for r in found.repeats} == {("positive", "positive"), ("negative", "positive")}


def test_a_label_that_was_taken_away_is_known_with_its_time(tmp_path: Path) -> None:
    gone, back, unsaid = f"{MK}_2", f"{MK}_3", f"{MK}_4"

    def event(cell_id: str, label: str, hour: int, **keys: str) -> dict[str, str]:
        at = f"2026-01-31T{hour}:00:00Z"
        return {"cell_id": cell_id, "label": label, "at": at, "policy": "random", **keys}

    events = [
        event(gone, "positive", 10), event(gone, "unlabelled", 11),
        event(back, "unlabelled", 10), event(back, "positive", 11),
        event(unsaid, "unlabelled", 10, policy="blind-repeat"),
        event(MK, "unlabelled", 12),
    ]  # fmt: skip
    found = read_annotations(write(tmp_path / "l.json", {**OURS, "mk": LISTS, "events": events}))
    (withdrawal,) = found.withdrawn
    assert withdrawal.cell_id == gone
    assert withdrawal.presentation.at is not None
    assert withdrawal.presentation.at.hour == 11


IMPOSSIBLE = {"cell_id": MK, "policy": "random", "inclusion_prob": 0}

REFUSED: list[tuple[str, Any, str]] = [
    ("list", [MK, MK2], "holds only negative labels"),
    ("list of integers", [1, 2, 3], "holds integer ids (1)"),
    ("negatives alone", {"negative": [MK]}, "holds only negative labels"),
    ("negatives of a type", {"mk": {"negative": [MK]}}, "holds only negative labels"),
    ("type is a list", {"mk": [MK]}, "holds only negative labels"),
    ("integer ids", {"mk": {"positive": [1, 2], "negative": [3]}}, "holds integer ids (1)"),
    ("integer ids in quotes", {"17": 1, "18": 0}, "holds integer ids (17)"),
    ("integer ids in D", {"annotations": {"17": "yes"}}, "holds integer ids (17)"),
    ("empty list", [], "does not have the shape of any labels"),
    ("number", 7, "does not have the shape of any labels"),
    ("empty object", {}, "does not have the shape of any labels"),
    ("texts", {"a": "b"}, "does not have the shape of any labels"),
    ("flat with another answer", {MK: 1, MK2: "maybe"}, f"gives '{MK2}' the label 'maybe'"),
    ("empty page", {"mk_labels_page1": {}, "last_page": 2}, "holds no label"),
    (
        "training data",
        {"format": "mkhspc-training", "version": 1},
        "is of the format 'mkhspc-training'; labels are",
    ),
    ("other version", {**OURS, "version": 2}, "is of version 2"),
    ("no label", {**OURS, "mk": {"positive": [], "negative": [], "unsure": []}}, "holds no label"),
    ("unknown answer", {"annotations": {MK: "maybe"}}, f"gives '{MK}' the label 'maybe'"),
    ("true", {"annotations": {MK: True}}, f"gives '{MK}' the label 'True'"),
    ("three", {MK: 3}, f"gives '{MK}' the label '3'"),
    ("other type", {"mk": {"positive": [HSPC], "negative": []}}, "but its id says hspc"),
    ("no type", {"cell_type": "rbc", "positive": [MK]}, "has cell_type 'rbc'"),
    ("id is a list", {"mk": {"positive": [[MK]], "negative": []}}, "where a cell id belongs"),
    ("endless id", {"mk": {"positive": ["x" * 10_000], "negative": []}}, "where a cell id belongs"),
    ("bad time", {**OURS, "mk": LISTS, "exported_at": "yesterday"}, "where a time belongs"),
    ("events no list", {**OURS, "mk": LISTS, "events": {}}, "'events' is not a list"),
    ("probability 0", {**OURS, "mk": LISTS, "events": [IMPOSSIBLE]}, "must be above 0 and at most 1"),
]


@pytest.mark.parametrize(("data", "reason"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_file_without_labels_in_a_known_shape_is_refused_with_the_reason(
    tmp_path: Path, data: Any, reason: str
) -> None:
    path = write(tmp_path / "labels.json", data)
    with pytest.raises(InputError) as refused:
        read_annotations(path)
    assert reason in str(refused.value)
    assert str(refused.value).startswith(str(path))


HOSTILE = [
    ("not JSON", b"positive: yes", "is not JSON: Expecting value"),
    ("binary", b"\x89PNG\r\n\x1a\n\xff\xfe", "is not JSON: it is not text"),
    ("nested", b"[" * 200_000 + b"]" * 200_000, "is nested too deep"),
    ("nested objects", b'{"mk":' * 100_000 + b"1" + b"}" * 100_000, "is nested too deep"),
    ("a key twice", b'{"mk": {"positive": []}, "mk": {"positive": []}}', "the key 'mk' appears twice"),
    ("not a number", b'{"annotations": {"FGC1_mk_1_2": NaN}}', "NaN is not a number"),
    ("endless number", b'{"FGC1_mk_1_2": ' + b"1" * 10_000 + b"}", "holds a whole number of 10,000 digits"),
    ("a number of no table", b'{"FGC1_mk_1_2": -9223372036854775809}', "holds a whole number of 19 digits"),
    ("a number too large", b'{"FGC1_mk_1_2": 1e999}', "1e999 is too large for a number"),
    ("lists of nothing", b"[" + b"[]," * 2_000_000 + b"[]]", "holds about 2,000,002 lists and objects"),
    ("values of nothing", b"[" + b"0," * 8_000_000 + b"0]", "holds about 8,000,001 values"),
    ("cut off", b'{"mk": {"positive": ["FGC1_mk_1_2"', "is not JSON"),
]


@pytest.mark.parametrize(("content", "reason"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_a_hostile_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_annotations(path)


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_annotations(tmp_path / "none.json")
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(2**40)  # sparse: takes no room
    with pytest.raises(InputError, match="is larger than 256 MiB"):
        read_annotations(huge)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (r"Anna \ud83d", "Anna \ufffd"),
        (r"\ude00 Anna", "\ufffd Anna"),
        (r"\ud83d\ude00", "\U0001f600"),
        (r"\\ud83d", r"\ud83d"),
    ],
    ids=["first half", "second half", "whole", "a backslash before a word"],
)
def test_a_name_that_was_cut_inside_an_emoji_is_taken(tmp_path: Path, written: str, name: str) -> None:
    path = write(tmp_path / "labels.json", {**OURS, "annotator": "NAME", "mk": LISTS})
    path.write_text(path.read_text().replace("NAME", written))
    assert read_annotations(path).annotator == name
