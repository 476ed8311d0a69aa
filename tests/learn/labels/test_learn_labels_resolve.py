"""Several answers to one cell become one decision, or none, and never by the order of files alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from mkhspc.learn.labels.agreement import self_agreement
from mkhspc.learn.labels.label import Presentation, Repeat
from mkhspc.learn.labels.resolve import OnConflict, Vote, latest_answers, resolve
from mkhspc.store.annotations import VALUES, Value

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def vote(value: Value, annotator: str = "anna", **keys: Any) -> Vote:
    facts: dict[str, Any] = {
        "cell_id": "S_s0_mk_1_1", "cell_type": "mk", "label_id": "S_s0_mk_1_1",
        "presentation": Presentation(), "at": None, "file": 0,
    }  # fmt: skip
    return Vote(**{**facts, "value": value, "annotator": annotator, **keys})


def outcome(votes: list[Vote], rule: OnConflict) -> Value | None:
    (decision,) = resolve(votes, rule)
    return decision.value


@pytest.mark.parametrize("rule", ["majority", "latest", "exclude"])
def test_equal_answers_are_one_label_whatever_the_rule(rule: OnConflict) -> None:
    (decision,) = resolve([vote("positive", "ben"), vote("positive", "anna", file=1)], rule)
    assert (decision.value, decision.annotators, decision.votes) == ("positive", ("anna", "ben"), None)


def test_the_majority_decides_and_its_voters_are_named() -> None:
    votes = [vote("negative", "anna"), vote("positive", "ben"), vote("positive", "cleo")]
    (decision,) = resolve(votes, "majority")
    assert (decision.value, decision.annotators) == ("positive", ("ben", "cleo"))
    assert decision.votes == {"anna": ("negative",), "ben": ("positive",), "cleo": ("positive",)}


@pytest.mark.parametrize("other", ["negative", "unsure"])
def test_a_tie_of_votes_decides_nothing(other: Value) -> None:
    assert outcome([vote("positive", "anna"), vote(other, "ben")], "majority") is None


def test_the_latest_answer_decides_by_its_own_time() -> None:
    votes = [
        vote("positive", "anna", at=NOON + timedelta(hours=1), file=0),
        vote("negative", "ben", at=NOON, file=1),
    ]
    assert outcome(votes, "latest") == "positive"


def test_answers_without_a_time_go_by_the_order_of_the_files() -> None:
    assert (
        outcome([vote("positive", "anna", file=0), vote("negative", "ben", file=1)], "latest") == "negative"
    )


def test_two_answers_at_once_decide_nothing() -> None:
    assert outcome([vote("positive", at=NOON), vote("negative", at=NOON)], "latest") is None


def test_exclude_settles_no_conflict() -> None:
    assert outcome([vote("positive", "a"), vote("positive", "b"), vote("negative", "c")], "exclude") is None


@settings(deadline=None)
@given(
    values=st.lists(st.sampled_from(VALUES), min_size=1, max_size=6),
    rule=st.sampled_from(["majority", "exclude"]),
    data=st.data(),
)
def test_the_order_of_votes_does_not_matter(
    values: list[Value], rule: OnConflict, data: st.DataObject
) -> None:
    votes = [vote(value, f"annotator {number}", file=number) for number, value in enumerate(values)]
    shuffled = data.draw(st.permutations(votes))
    assert resolve(votes, rule) == resolve(shuffled, rule)


def test_a_newer_file_of_the_same_annotator_takes_the_place_of_the_older() -> None:
    votes = [vote("negative", file=0), vote("positive", file=1), vote("unsure", "ben", file=1)]
    kept = latest_answers(votes, [NOON + timedelta(days=1), NOON], {})
    assert [(v.annotator, v.value) for v in kept] == [("anna", "negative"), ("ben", "unsure")]


def test_the_newer_answer_counts_even_in_a_file_that_was_exported_earlier() -> None:
    votes = [
        vote("positive", at=NOON + timedelta(hours=1), file=0),
        vote("negative", at=NOON, file=1),
    ]
    kept = latest_answers(votes, [NOON + timedelta(hours=2), NOON + timedelta(days=1)], {})
    assert [v.value for v in kept] == ["positive"]


def test_an_answer_taken_back_later_does_not_count_and_one_given_since_does() -> None:
    cleared = {("anna", "S_s0_mk_1_1"): NOON}
    before, since = NOON - timedelta(hours=1), NOON + timedelta(hours=1)
    assert latest_answers([vote("positive", at=before)], [NOON], cleared) == []
    for answer in (vote("positive", at=since), vote("positive", "ben", at=before)):
        assert latest_answers([answer], [NOON], cleared) == [answer]


def test_an_answer_without_a_time_is_older_than_any_clearing() -> None:
    assert latest_answers([vote("positive")], [None], {("anna", "S_s0_mk_1_1"): NOON}) == []


def test_two_ids_of_one_annotator_that_mean_one_cell_are_two_votes() -> None:
    votes = [vote("negative", label_id="S_s0_mk_1_1"), vote("positive", label_id="S_s0_mk_2_1", file=1)]
    kept = latest_answers(votes, [None, None], {})
    assert kept == votes
    assert outcome(kept, "majority") is None


def test_a_cell_that_anyone_was_shown_at_random_counts_as_drawn_at_random() -> None:
    chosen, drawn = Presentation("uncertainty", 1.0), Presentation("random", 0.1)
    (decision,) = resolve(
        [vote("positive", "anna", presentation=chosen), vote("positive", "ben", presentation=drawn)], "latest"
    )
    assert decision.presentation == drawn


def repeats(*pairs: tuple[Value, Value]) -> list[Repeat]:
    return [Repeat("mk", first, again) for first, again in pairs]


def test_kappa_is_agreement_beyond_chance() -> None:
    """20 yes-yes, 15 no-no, 5 and 10 crossed: observed 0.7, by chance 0.5 (a textbook's table)."""
    table: list[tuple[Value, Value]] = [("positive", "positive")] * 20 + [("negative", "negative")] * 15
    table += [("positive", "negative")] * 5 + [("negative", "positive")] * 10
    found = self_agreement(repeats(*table))
    assert found is not None
    assert (found.pairs, found.agreement) == (50, 0.7)
    assert found.kappa == pytest.approx(0.4)


def test_kappa_of_one_answer_only_is_undefined_and_of_none_absent() -> None:
    found = self_agreement(repeats(("positive", "positive")))
    assert found is not None
    assert (found.agreement, found.kappa) == (1.0, None)
    assert self_agreement([]) is None
