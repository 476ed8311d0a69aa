"""The feed with slides and claims of a few lines each; `tests/run/test_run_feed.py` has the real ones."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from mkhspc.errors import InputError
from mkhspc.geometry import Box, RgbImage
from mkhspc.pool.contract import ClaimResult
from mkhspc.pool.feed import NO_SLOT, TileTask, WindowFeed
from mkhspc.pool.slots import Slots
from mkhspc.pool.tasks import Outcome

SIDE_PX = 8
WAIT_S = 60.0
SETTLED_S = 0.2
"""So long nothing more comes, where nothing more is to come."""


@dataclass(frozen=True)
class PlainSlide:
    """Windows whose pixels are all the number of their tile.

    Attributes:
        closed: raised when the slide is opened.
        damaged: raised instead of reading a tile.
    """

    slide_id: str
    tile_ids: Sequence[str]
    closed: Exception | None = None
    damaged: dict[str, Exception] = field(default_factory=dict)

    @property
    def windows(self) -> Sequence[Box]:
        return [Box(0, 0, SIDE_PX, SIDE_PX)] * len(self.tile_ids)

    def only(self, indices: Sequence[int]) -> PlainSlide:
        return replace(self, tile_ids=[self.tile_ids[index] for index in indices])

    @contextmanager
    def open(
        self, *, threads: int, is_wanted: Callable[[int], bool], has_place: Callable[[], bool]
    ) -> Iterator[PlainReader]:
        if self.closed is not None:
            raise self.closed
        yield PlainReader(self, is_wanted)


class PlainReader:
    def __init__(self, slide: PlainSlide, is_wanted: Callable[[int], bool]) -> None:
        self._slide = slide
        self._wanted = (index for index in range(len(slide.tile_ids)) if is_wanted(index))

    def next_window(self) -> int | None:
        self._index = next(self._wanted, -1)
        return None if self._index < 0 else self._index

    def read_into(self, picture: RgbImage) -> None:
        tile_id = self._slide.tile_ids[self._index]
        if tile_id in self._slide.damaged:
            raise self._slide.damaged[tile_id]
        picture[...] = int(tile_id)


@dataclass
class PlainClaims:
    """Claims that are ours, but for the tiles named."""

    others: dict[str, ClaimResult | OSError] = field(default_factory=dict)
    held: set[tuple[str, str]] = field(default_factory=set)

    def claim(self, slide_id: str, tile_id: str) -> ClaimResult:
        result = self.others.get(tile_id, ClaimResult.OURS)
        if isinstance(result, OSError):
            raise result
        if result is ClaimResult.OURS:
            self.held.add((slide_id, tile_id))
        return result

    def release(self, slide_id: str, tile_id: str) -> None:
        self.held.discard((slide_id, tile_id))

    def release_all(self) -> None:
        self.held.clear()

    def renew(self) -> None:
        pass


def slide(name: str = "a", tiles: int = 16) -> PlainSlide:
    return PlainSlide(name, [str(number) for number in range(tiles)])


@contextmanager
def feeding(
    *slides: PlainSlide, claims: PlainClaims | None = None, slots: int = 2, use: int = 0
) -> Iterator[tuple[WindowFeed, Slots]]:
    memory = Slots(slots, 3 * SIDE_PX**2)
    feed = WindowFeed(slides, memory, claims or PlainClaims(), use_slots=use or slots, threads=1)
    try:
        yield feed, memory
    finally:
        feed.close()
        memory.close()


def all_of(feed: WindowFeed) -> Iterator[TileTask | Outcome]:
    """Takes until the feed is exhausted; whoever asks finishes each task."""
    until_s = time.monotonic() + WAIT_S
    while not feed.is_exhausted:
        assert time.monotonic() < until_s, "the feed hangs"
        task = feed.take()
        if task is None:
            time.sleep(0.005)
        else:
            yield task


def ends(feed: WindowFeed) -> tuple[set[str], dict[str, str]]:
    """Takes and finishes all tasks: the tiles that came with pixels, and why the others failed."""
    read, failed = set(), {}
    for task in all_of(feed):
        if isinstance(task, Outcome):
            failed[f"{task.task.slide_id}/{task.task.tile_id}"] = str(task.error)
            feed.finish(task.task)
        else:
            read.add(f"{task.slide_id}/{task.tile_id}")
            feed.finish(task)
    return read, failed


def names(plain: PlainSlide) -> set[str]:
    return {f"{plain.slide_id}/{tile_id}" for tile_id in plain.tile_ids}


def taken(feed: WindowFeed, count: int) -> list[TileTask]:
    """Takes so many tasks as they get ready, and sees that no more do."""
    tasks: list[TileTask] = []
    until_s = time.monotonic() + WAIT_S
    while len(tasks) < count and time.monotonic() < until_s:
        if isinstance(task := feed.take(), TileTask):
            tasks.append(task)
        else:
            time.sleep(0.01)
    assert len(tasks) == count
    time.sleep(SETTLED_S)
    assert feed.take() is None
    return tasks


def test_every_tile_comes_once_with_its_pixels() -> None:
    slides, claims = [slide("a"), slide("b", tiles=3)], PlainClaims()
    seen = []
    with feeding(*slides, claims=claims) as (feed, slots):
        for task in all_of(feed):
            assert isinstance(task, TileTask)
            assert (slots.pixels(task.slot, SIDE_PX, SIDE_PX) == int(task.tile_id)).all()
            assert (task.slide_id, task.tile_id) in claims.held
            seen.append(f"{task.slide_id}/{task.tile_id}")
            feed.finish(task)
            assert (task.slide_id, task.tile_id) not in claims.held
    assert sorted(seen) == sorted(names(slides[0]) | names(slides[1]))


def test_no_more_windows_are_read_than_there_are_slots() -> None:
    with feeding(slide(), slots=3) as (feed, _):
        tasks = taken(feed, 3)
        assert len({task.slot for task in tasks}) == 3
        feed.finish(tasks[1])
        (following,) = taken(feed, 1)
        assert following.slot == tasks[1].slot


def test_more_slots_may_be_used_later() -> None:
    with feeding(slide(), slots=4, use=1) as (feed, _):
        taken(feed, 1)
        feed.use(3)
        taken(feed, 2)


def test_surplus_slots_go_when_their_tiles_are_done_and_give_their_memory_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_back: list[int] = []
    give_back = Slots.give_back

    def noted(self: Slots, slot: int, used_bytes: int = 0) -> None:
        if not used_bytes:
            given_back.append(slot)
        give_back(self, slot, used_bytes)

    monkeypatch.setattr(Slots, "give_back", noted)
    with feeding(slide(), slots=4, use=3) as (feed, _):
        tasks = taken(feed, 3)
        feed.use(1)
        assert not given_back, "all are at work"
        for task in tasks[:2]:
            feed.finish(task)
        taken(feed, 0)
        assert sorted(given_back) == sorted(task.slot for task in tasks[:2])
        feed.use(2)
        taken(feed, 1)


def test_tiles_done_before_their_turn_are_not_read() -> None:
    claims = PlainClaims({"0": ClaimResult.DONE, "7": ClaimResult.DONE})
    elsewhere, here = set(), set()
    with feeding(slide(), claims=claims) as (feed, _):
        for task in all_of(feed):
            if isinstance(task, Outcome):
                assert task.facts == {"elsewhere": True}
                assert task.task.slot == NO_SLOT
                elsewhere.add(task.task.tile_id)
            else:
                here.add(task.tile_id)
                feed.finish(task)
    assert elsewhere == {"0", "7"}
    assert len(here) == 14


def test_a_tile_of_another_process_is_waited_for_and_read_when_that_gives_it_up() -> None:
    claims = PlainClaims({"1": ClaimResult.THEIRS})
    order = []
    with feeding(slide(tiles=4), claims=claims) as (feed, _):
        for task in all_of(feed):
            assert isinstance(task, TileTask)
            order.append(task.tile_id)
            feed.finish(task)
            if len(order) == 3:
                claims.others.clear()
    assert order == ["0", "2", "3", "1"]


def test_a_tile_that_another_process_has_finished_is_not_read() -> None:
    claims = PlainClaims({"1": ClaimResult.THEIRS})
    found: list[TileTask | Outcome] = []
    with feeding(slide(tiles=3), claims=claims) as (feed, _):
        for task in all_of(feed):
            found.append(task)
            feed.finish(task.task if isinstance(task, Outcome) else task)
            if len(found) == 2:
                claims.others["1"] = ClaimResult.DONE
    last = found[-1]
    assert isinstance(last, Outcome)
    assert (last.task.tile_id, last.facts) == ("1", {"elsewhere": True})
    assert len(found) == 3


def test_closing_early_ends_every_claim_and_does_not_hang() -> None:
    claims = PlainClaims()
    with feeding(slide(), claims=claims, slots=1) as (feed, _):
        taken(feed, 1)
        assert claims.held
    assert not claims.held


def test_closing_does_not_wait_for_other_processes() -> None:
    with feeding(slide(tiles=1), claims=PlainClaims({"0": ClaimResult.THEIRS})) as (feed, _):
        taken(feed, 0)
        assert not feed.is_exhausted


@pytest.mark.parametrize("fault", [InputError("no such file"), OSError(errno.EIO, "Input/output error")])
def test_a_slide_that_cannot_be_opened_fails_its_tiles_and_the_others_go_on(fault: Exception) -> None:
    gone, there, claims = replace(slide("a"), closed=fault), slide("b", tiles=3), PlainClaims()
    with feeding(gone, there, claims=claims) as (feed, _):
        read, failed = ends(feed)
    assert read == names(there)
    assert set(failed) == names(gone)
    assert set(failed.values()) == {str(fault)}
    assert not claims.held


def test_a_reader_without_memory_fails_what_its_slide_has_left() -> None:
    first, second = replace(slide("a", tiles=4), damaged={"1": MemoryError()}), slide("b", tiles=4)
    with feeding(first, second) as (feed, slots):
        read, failed = {"a/0"}, {"a/1", "a/2", "a/3"}
        ended = []
        while len(ended) < 4:
            if (task := feed.take()) is not None:
                ended.append(task)
                feed.finish(task.task if isinstance(task, Outcome) else task)
        errors = {f"a/{one.task.tile_id}": one.error for one in ended if isinstance(one, Outcome)}
        assert errors == dict.fromkeys(failed, "MemoryError: ")
        assert {f"a/{one.tile_id}" for one in ended if isinstance(one, TileTask)} == read
        taken(feed, slots.count)  # the slot of the window that failed is free again


def test_a_damaged_window_fails_its_tile_alone() -> None:
    damaged = replace(slide("a"), damaged={"2": InputError("the sub-block does not decode")})
    with feeding(damaged) as (feed, _):
        read, failed = ends(feed)
    assert failed == {"a/2": "the sub-block does not decode"}
    assert len(read) == 15


def test_a_fault_of_the_runs_own_disk_is_raised_where_tasks_are_taken() -> None:
    full = PlainClaims({"3": OSError(errno.ENOSPC, "No space left on device")})
    with feeding(slide(), claims=full) as (feed, _), pytest.raises(OSError, match="No space left"):
        ends(feed)
