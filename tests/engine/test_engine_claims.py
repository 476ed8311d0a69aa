from __future__ import annotations

import multiprocessing
import os
import socket
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from pipeline.engine.claims import STALE_S, Claim, Claims
from pipeline.store.layout import RunLayout

TILE = ("DEMO", "s0_0_0")


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return RunLayout(tmp_path / "run")


def write_claim(layout: RunLayout, text: str, age_s: float = 0.0) -> Path:
    path = layout.claim(*TILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def test_a_free_tile_is_claimed_and_given_back_without_a_trace(layout: RunLayout) -> None:
    claims = Claims(layout)
    assert claims.take(*TILE) is Claim.OURS
    assert claims.take(*TILE) is Claim.OURS, "asked again by the same process"
    assert layout.claim(*TILE).exists()
    claims.drop(*TILE)
    assert not (layout.root / "parts").exists(), "no empty directory"


def test_a_finished_tile_is_done(layout: RunLayout) -> None:
    layout.part(*TILE).parent.mkdir(parents=True)
    layout.part(*TILE).touch()
    assert Claims(layout).take(*TILE) is Claim.DONE
    assert not layout.claim(*TILE).exists()


def test_a_tile_of_a_living_process_is_theirs_until_it_is_given_back(layout: RunLayout) -> None:
    ready, go = multiprocessing.Event(), multiprocessing.Event()
    other = multiprocessing.get_context("fork").Process(target=_hold, args=(layout, ready, go))
    other.start()
    assert ready.wait(10)
    ours = Claims(layout)
    assert ours.take(*TILE) is Claim.THEIRS
    ours.drop(*TILE)
    ours.drop_all()
    assert layout.claim(*TILE).exists(), "a claim is dropped by its own process alone"
    go.set()
    other.join()
    assert ours.take(*TILE) is Claim.OURS


def _hold(layout: RunLayout, ready: Event, go: Event) -> None:
    claims = Claims(layout)
    claims.take(*TILE)
    ready.set()
    go.wait(10)
    claims.drop_all()


def test_a_tile_of_a_dead_process_is_taken_over(layout: RunLayout) -> None:
    gone = multiprocessing.get_context("fork").Process(target=int)
    gone.start()
    gone.join()
    path = write_claim(layout, f"{socket.gethostname()} {gone.pid}")
    assert Claims(layout).take(*TILE) is Claim.OURS
    assert path.read_text(encoding="utf-8").endswith(f" {os.getpid()}")


def test_another_host_counts_as_living_while_its_claim_is_fresh(layout: RunLayout) -> None:
    write_claim(layout, "node17 4711", age_s=STALE_S / 2)
    assert Claims(layout).take(*TILE) is Claim.THEIRS
    write_claim(layout, "node17 4711", age_s=STALE_S + 5)
    assert Claims(layout).take(*TILE) is Claim.OURS


def test_renewing_keeps_claims_fresh(layout: RunLayout) -> None:
    claims = Claims(layout)
    claims.take(*TILE)
    os.utime(layout.claim(*TILE), (0, 0))
    claims.renew()
    assert time.time() - layout.claim(*TILE).stat().st_mtime < 60


def test_a_claim_that_is_just_being_written_is_theirs(layout: RunLayout) -> None:
    write_claim(layout, "")
    assert Claims(layout).take(*TILE) is Claim.THEIRS
