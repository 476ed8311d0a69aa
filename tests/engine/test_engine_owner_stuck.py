"""Owners that never come back from what they do: nobody waits for them for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from ownerdoubles import WAIT_S, Loading, ask, ask_together

from pipeline.engine import owner_client, owners as subject
from pipeline.engine.owner_client import OwnerLostError
from pipeline.engine.owners import RESTARTS, Owners, Patience
from pipeline.engine.workers import HopelessError
from pipeline.models.device import LOOK_AT_GPU

SHORT = Patience(gpu_request_s=1.0, cpu_request_s=1.0)


@pytest.fixture
def impatient(temporary: Path) -> Iterator[Owners]:
    """Owners that get a second for a request."""
    with Owners([Loading()], ["cpu"], SHORT) as owners:
        yield owners


def test_an_owner_that_never_answers_is_killed_and_its_request_asked_again(
    impatient: Owners, tmp_path: Path
) -> None:
    (before,), _ = ask_together(impatient, {})
    request = {"do": "stop once", "mark": str(tmp_path / "m"), "array": np.arange(9)}
    (answer,), lines = ask_together(impatient, request)
    assert answer["pid"] != before["pid"]
    np.testing.assert_array_equal(answer["twice array"], 2 * np.arange(9))
    stuck = "cpu: the process that owns the models was stuck for more than 1 s and was killed"
    assert lines[0] == f"{stuck}; it is started again"
    assert "there again" in lines[1]


def test_a_request_over_which_two_owners_were_stuck_fails_and_says_so(impatient: Owners) -> None:
    (lost,), _ = ask(impatient, impatient.client(), {"do": "stop"})
    assert isinstance(lost, OwnerLostError)
    assert "over one request: cpu: the process that owns the models was stuck for more than 1 s" in str(lost)
    (answer,), _ = ask(impatient, impatient.client(), {})
    assert answer["batch"] == 1


def test_a_device_whose_owners_are_stuck_again_and_again_is_given_up(temporary: Path) -> None:
    with Owners([Loading()], ["cuda:0"], SHORT) as owners:
        client = owners.client()
        (first,), lines = ask(owners, client, {"do": "stop"})
        (second,), more = ask(owners, client, {"do": "stop"})
    assert not isinstance(first, HopelessError)
    assert isinstance(second, HopelessError)
    assert second.fix == LOOK_AT_GPU
    assert sum("started again" in line for line in lines + more) == RESTARTS
    assert more[-1].endswith("the device is given up")


def test_requests_that_take_no_longer_each_than_they_may_are_left_alone(impatient: Owners) -> None:
    """However many there are, together or one after the other; nor does waiting count."""
    client = impatient.client()
    for _ in range(2):
        (answer,), lines = ask(impatient, client, {"do": "sleep", "seconds": 0.7})
        assert answer["batch"] == 1
        assert lines == []
    time.sleep(1.5)
    assert impatient.watch() == []
    answers, lines = ask_together(impatient, *[{"do": "sleep", "seconds": 0.7}] * 4)
    assert all(isinstance(answer, dict) for answer in answers)
    assert lines == []


def test_models_that_never_load_are_an_error(temporary: Path) -> None:
    begun_s = time.monotonic()
    with pytest.raises(OwnerLostError, match="was stuck for more than 2 s and was killed"):
        Owners([Loading(fails="slow")], ["cpu"], Patience(loading_s=2.0))
    assert time.monotonic() - begun_s < WAIT_S / 2


def test_a_process_that_cannot_be_killed_is_left_behind(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a driver's hands: it keeps its end of every line, and neither parent nor worker waits for it."""
    monkeypatch.setattr(BaseProcess, "kill", lambda process: None)
    monkeypatch.setattr(subject, "CLOSE_S", 0.2)
    monkeypatch.setattr(owner_client, "LOOK_S", 0.2)
    pids: list[int] = []
    try:
        with Owners([Loading()], ["cpu"], SHORT) as owners:
            (before,), _ = ask_together(owners, {})
            pids.append(before["pid"])
            (answer,), lines = ask_together(owners, {"do": "stop once", "mark": str(tmp_path / "m")})
            pids.append(answer["pid"])
        assert answer["pid"] != before["pid"]
        assert lines[0].endswith("it is started again")
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_an_owner_that_closes_its_end_and_does_not_die_is_killed(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's own work waits meanwhile, so not for long."""
    monkeypatch.setattr(subject, "CLOSE_S", 0.5)
    with Owners([Loading()], ["cpu"]) as owners:
        (lost,), lines = ask_together(owners, {"do": "hang up"})
    assert "the process that owns the models died (it did not end by itself)" in lines[0]
    assert isinstance(lost, OwnerLostError)
