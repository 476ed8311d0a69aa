from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import socket
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from mkhspc.cluster import claims as claims_module
from mkhspc.cluster.claims import STALE_S, ClaimFiles
from mkhspc.pool.contract import ClaimResult
from mkhspc.process.identity import host_token, process_start_ticks
from mkhspc.store.layout import RunLayout

TILE = ("DEMO", "s0_0_0")


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    (tmp_path / "run").mkdir()  # claims and parts are put where a run is, and make none
    return RunLayout(tmp_path / "run")


def write_claim(layout: RunLayout, text: str, age_s: float = 0.0) -> Path:
    path = layout.claim(*TILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def test_a_free_tile_is_claimed_and_given_back_without_a_trace(layout: RunLayout) -> None:
    claims = ClaimFiles(layout)
    assert claims.claim(*TILE) is ClaimResult.OURS
    assert claims.claim(*TILE) is ClaimResult.OURS, "asked again by the same process"
    assert layout.claim(*TILE).exists()
    claims.release(*TILE)
    assert not (layout.root / "parts").exists(), "no empty directory"


def test_a_finished_tile_is_done(layout: RunLayout) -> None:
    layout.part(*TILE).parent.mkdir(parents=True)
    layout.part(*TILE).touch()
    assert ClaimFiles(layout).claim(*TILE) is ClaimResult.DONE
    assert not layout.claim(*TILE).exists()


def test_a_tile_of_a_living_process_is_theirs_until_it_is_given_back(layout: RunLayout) -> None:
    ready, go = multiprocessing.Event(), multiprocessing.Event()
    other = multiprocessing.get_context("fork").Process(target=_hold, args=(layout, ready, go))
    other.start()
    assert ready.wait(10)
    ours = ClaimFiles(layout)
    assert ours.claim(*TILE) is ClaimResult.THEIRS
    ours.release(*TILE)
    ours.release_all()
    assert layout.claim(*TILE).exists(), "a claim is dropped by its own process alone"
    go.set()
    other.join()
    assert ours.claim(*TILE) is ClaimResult.OURS


def test_a_living_process_keeps_its_tile_however_old_its_claim_is(layout: RunLayout) -> None:
    """A computer that slept, or a file server whose clock was set."""
    ready, go = multiprocessing.Event(), multiprocessing.Event()
    other = multiprocessing.get_context("fork").Process(target=_hold, args=(layout, ready, go))
    other.start()
    assert ready.wait(10)
    path = layout.claim(*TILE)
    os.utime(path, (time.time() - 10 * STALE_S,) * 2)
    assert ClaimFiles(layout).claim(*TILE) is ClaimResult.THEIRS
    assert other.pid is not None
    path.write_text(path.read_text().replace(process_start_ticks(other.pid), "1"))
    assert ClaimFiles(layout).claim(*TILE) is ClaimResult.OURS, "its number is another process's now"
    go.set()
    other.join()


def _hold(layout: RunLayout, ready: Event, go: Event) -> None:
    claims = ClaimFiles(layout)
    claims.claim(*TILE)
    ready.set()
    go.wait(10)
    claims.release_all()


def test_a_tile_of_a_dead_process_is_taken_over(layout: RunLayout) -> None:
    gone = multiprocessing.get_context("fork").Process(target=int)
    gone.start()
    gone.join()
    path = write_claim(layout, f"{host_token()} {gone.pid} 00000000")
    assert ClaimFiles(layout).claim(*TILE) is ClaimResult.OURS
    assert path.read_text(encoding="utf-8").startswith(f"{host_token()} {os.getpid()} ")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_process_of_a_container_that_has_this_hosts_name_is_not_looked_for(layout: RunLayout) -> None:
    """Its number is of another namespace: there is no such process here, and it lives all the same."""
    gone = multiprocessing.get_context("fork").Process(target=int)
    gone.start()
    gone.join()
    for place in (socket.gethostname(), f"{socket.gethostname()}~00000000"):
        write_claim(layout, f"{place} {gone.pid} 00000000", age_s=STALE_S / 2)
        assert ClaimFiles(layout).claim(*TILE) is ClaimResult.THEIRS
        write_claim(layout, f"{place} {gone.pid} 00000000", age_s=STALE_S + 5)
        ours = ClaimFiles(layout)
        assert ours.claim(*TILE) is ClaimResult.OURS
        ours.release_all()


def test_of_two_that_take_a_dead_claim_over_the_slow_one_leaves_the_new_claim_alone(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_claim(layout, "node17 4711 00000000", age_s=STALE_S + 5)
    slow, fast = ClaimFiles(layout), ClaimFiles(layout)
    judge = claims_module.is_alive

    def judged(claim: Path, found: claims_module.ClaimRecord) -> bool:
        is_alive = judge(claim, found)
        monkeypatch.setattr(claims_module, "is_alive", judge)
        assert fast.claim(*TILE) is ClaimResult.OURS, "while the slow one still thinks of the dead claim"
        return is_alive

    monkeypatch.setattr(claims_module, "is_alive", judged)
    assert slow.claim(*TILE) is ClaimResult.THEIRS
    assert path.read_text(encoding="utf-8") == fast._text
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    fast.release_all()
    assert not path.exists()


def test_many_that_take_a_dead_claim_over_are_one_in_the_end(layout: RunLayout) -> None:
    for _ in range(30):
        write_claim(layout, "node17 4711 00000000", age_s=STALE_S + 5)
        start = threading.Barrier(4)
        found: list[ClaimResult] = []

        def race(start: threading.Barrier = start, found: list[ClaimResult] = found) -> None:
            start.wait()
            found.append(ClaimFiles(layout).claim(*TILE))

        racers = [threading.Thread(target=race) for _ in range(4)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert found.count(ClaimResult.OURS) >= 1
        assert len(list(layout.claim(*TILE).parent.iterdir())) == 1
        layout.claim(*TILE).unlink()


def test_a_claim_that_was_taken_over_is_not_dropped_by_its_first_holder(layout: RunLayout) -> None:
    slept, other = ClaimFiles(layout), ClaimFiles(layout)
    assert slept.claim(*TILE) is ClaimResult.OURS
    os.utime(layout.claim(*TILE), (time.time() - STALE_S - 5,) * 2)
    assert other.claim(*TILE) is ClaimResult.OURS
    slept.release(*TILE)
    assert layout.claim(*TILE).exists()
    other.release(*TILE)
    assert not layout.claim(*TILE).exists()


def test_another_host_counts_as_living_while_its_claim_is_fresh(layout: RunLayout) -> None:
    write_claim(layout, "node17 4711", age_s=STALE_S / 2)
    assert ClaimFiles(layout).claim(*TILE) is ClaimResult.THEIRS
    write_claim(layout, "node17 4711", age_s=STALE_S + 5)
    assert ClaimFiles(layout).claim(*TILE) is ClaimResult.OURS


def test_renewing_keeps_claims_fresh(layout: RunLayout) -> None:
    claims = ClaimFiles(layout)
    claims.claim(*TILE)
    os.utime(layout.claim(*TILE), (0, 0))
    claims.renew()
    assert time.time() - layout.claim(*TILE).stat().st_mtime < 60


def test_a_claim_that_is_just_being_written_is_theirs(layout: RunLayout) -> None:
    write_claim(layout, "")
    assert ClaimFiles(layout).claim(*TILE) is ClaimResult.THEIRS


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_a_claim_that_cannot_be_renewed_stops_neither_the_others_nor_the_next_time(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    claims = ClaimFiles(layout)
    tiles = [("DEMO", f"s0_{i}_0") for i in range(3)]
    for tile in tiles:
        assert claims.claim(*tile) is ClaimResult.OURS
    paths = [layout.claim(*tile) for tile in tiles]
    utime, sick = os.utime, set(paths[:2])

    def fails(path: Path) -> None:
        if path in sick:
            raise OSError(number, os.strerror(number))
        utime(path)

    monkeypatch.setattr(os, "utime", fails)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for path in paths:
                utime(path, (0, 0))
            claims.renew()
            assert [time.time() - path.stat().st_mtime < 60 for path in paths] == [False, False, True]
    assert len(caplog.messages) == 1, "it is said once"
    assert os.strerror(number) in caplog.messages[0]
    sick.clear()
    claims.renew()
    assert all(time.time() - path.stat().st_mtime < 60 for path in paths)


def test_claims_go_by_the_clock_of_the_files_and_not_by_that_of_the_host(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_claim(layout, "node17 4711 00000000", age_s=STALE_S / 2)
    real = time.time
    for off_s in (-3600.0, 3600.0):
        monkeypatch.setattr(time, "time", lambda off_s=off_s: real() + off_s)
        assert ClaimFiles(layout).claim(*TILE) is ClaimResult.THEIRS
