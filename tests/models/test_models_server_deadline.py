"""When a server counts as stuck, by a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from mkhspc.models.server.activity import SEEN_S, Activity, StuckClock

REQUEST_S = 100.0


@dataclass
class Clock:
    now_s: float = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@dataclass(frozen=True)
class Server:
    """What a server writes, and what its parent makes of it."""

    activity: Activity
    stuck: StuckClock


@pytest.fixture
def server(clock: Clock) -> Iterator[Server]:
    activity = Activity(clock)
    yield Server(activity, StuckClock(activity))
    activity.close()


def seconds_until_stuck(server: Server, clock: Clock, every_s: float = 1.0) -> float:
    """How long it takes, looked at so often, until the server counts as stuck."""
    begun_s = clock.now_s
    while not server.stuck.exceeded_s():
        clock.now_s += every_s
        assert clock.now_s < begun_s + 100 * REQUEST_S
    return clock.now_s - begun_s


def test_time_that_the_parent_sees_pass_counts(server: Server, clock: Clock) -> None:
    server.activity.begin(REQUEST_S)
    assert seconds_until_stuck(server, clock) == REQUEST_S + 1
    assert server.stuck.exceeded_s() == REQUEST_S


def test_a_pause_in_which_everything_was_stopped_does_not(server: Server, clock: Clock) -> None:
    server.activity.begin(REQUEST_S)
    for _ in range(40):
        clock.now_s += 1
        assert not server.stuck.exceeded_s()
    clock.now_s += 100 * REQUEST_S
    assert not server.stuck.exceeded_s(), "it was as good as never stopped"
    assert seconds_until_stuck(server, clock) == pytest.approx(REQUEST_S - 40, abs=SEEN_S + 1)


def test_several_pauses_add_up(server: Server, clock: Clock) -> None:
    server.activity.begin(REQUEST_S)
    for _ in range(3):
        clock.now_s += 10 * REQUEST_S
        assert not server.stuck.exceeded_s()


def test_what_a_pause_gave_is_not_for_the_next_request(server: Server, clock: Clock) -> None:
    with server.activity.lasting(REQUEST_S):
        clock.now_s += 10 * REQUEST_S
        assert not server.stuck.exceeded_s()
    with server.activity.lasting(REQUEST_S):
        assert seconds_until_stuck(server, clock) == REQUEST_S + 1


def test_a_pause_before_the_request_gives_it_nothing(server: Server, clock: Clock) -> None:
    clock.now_s += 10 * REQUEST_S
    server.activity.begin(REQUEST_S)
    assert seconds_until_stuck(server, clock) == REQUEST_S + 1


def test_a_parent_that_seldom_looks_finds_a_stuck_process_all_the_same(server: Server, clock: Clock) -> None:
    server.activity.begin(REQUEST_S)
    seldom_s = 10 * SEEN_S
    assert seconds_until_stuck(server, clock, seldom_s) <= 10 * REQUEST_S + seldom_s


def test_who_waits_may_wait_for_ever(server: Server, clock: Clock) -> None:
    with server.activity.lasting(3 * REQUEST_S):
        pass
    clock.now_s += 10 * REQUEST_S
    assert not server.stuck.exceeded_s()
