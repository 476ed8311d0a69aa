"""When a process is taken for stuck, by a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from mkhspc.models.server.server import SEEN_S, Deadline

REQUEST_S = 100.0


@dataclass
class Clock:
    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deadline(clock: Clock) -> Iterator[Deadline]:
    deadline = Deadline(REQUEST_S, clock=clock)
    yield deadline
    deadline.close()


def seconds_until_stuck(deadline: Deadline, clock: Clock, every_s: float = 1.0) -> float:
    """How long it takes, looked at so often, until the process is taken for stuck."""
    begun_s = clock.now_s
    while not deadline.exceeded_s():
        clock.now_s += every_s
        assert clock.now_s < begun_s + 100 * REQUEST_S
    return clock.now_s - begun_s


def test_time_that_the_parent_sees_pass_counts(deadline: Deadline, clock: Clock) -> None:
    deadline.allow(REQUEST_S)
    assert seconds_until_stuck(deadline, clock) == REQUEST_S + 1
    assert deadline.exceeded_s() == REQUEST_S


def test_a_pause_in_which_everything_was_stopped_does_not(deadline: Deadline, clock: Clock) -> None:
    deadline.allow(REQUEST_S)
    for _ in range(40):
        clock.now_s += 1
        assert not deadline.exceeded_s()
    clock.now_s += 100 * REQUEST_S
    assert not deadline.exceeded_s(), "it was as good as never stopped"
    assert seconds_until_stuck(deadline, clock) == pytest.approx(REQUEST_S - 40, abs=SEEN_S + 1)


def test_several_pauses_add_up(deadline: Deadline, clock: Clock) -> None:
    deadline.allow(REQUEST_S)
    for _ in range(3):
        clock.now_s += 10 * REQUEST_S
        assert not deadline.exceeded_s()


def test_what_a_pause_gave_is_not_for_the_next_request(deadline: Deadline, clock: Clock) -> None:
    with deadline.of_requests(1):
        clock.now_s += 10 * REQUEST_S
        assert not deadline.exceeded_s()
    with deadline.of_requests(1):
        assert seconds_until_stuck(deadline, clock) == REQUEST_S + 1


def test_a_pause_before_the_request_gives_it_nothing(deadline: Deadline, clock: Clock) -> None:
    clock.now_s += 10 * REQUEST_S
    deadline.allow(REQUEST_S)
    assert seconds_until_stuck(deadline, clock) == REQUEST_S + 1


def test_a_parent_that_seldom_looks_finds_a_stuck_process_all_the_same(
    deadline: Deadline, clock: Clock
) -> None:
    deadline.allow(REQUEST_S)
    seldom_s = 10 * SEEN_S
    assert seconds_until_stuck(deadline, clock, seldom_s) <= 10 * REQUEST_S + seldom_s


def test_who_waits_may_wait_for_ever(deadline: Deadline, clock: Clock) -> None:
    with deadline.of_requests(3):
        pass
    clock.now_s += 10 * REQUEST_S
    assert not deadline.exceeded_s()
