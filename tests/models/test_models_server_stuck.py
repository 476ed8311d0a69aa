"""Servers that never come back from what they do: nobody waits for them for ever."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Timer

import numpy as np
import pytest

from mkhspc.errors import HopelessError
from mkhspc.models.device import LOOK_AT_GPU
from mkhspc.models.server import client as model_client, supervisor as subject
from mkhspc.models.server.reports import NoDeviceError, ServerLostError, read_states
from mkhspc.models.server.supervisor import RESTARTS, ModelServers, Patience
from serverdoubles import WAIT_S, Loading, ask, ask_together, is_stopped, wait_for, watch_until

SHORT_S = 2.0
SHORT = Patience(gpu_request_s=SHORT_S, cpu_request_s=SHORT_S)


@pytest.fixture
def impatient(temporary: Path) -> Iterator[ModelServers]:
    """Servers that get two seconds for a request."""
    with ModelServers([Loading()], ["cpu"], SHORT) as servers:
        yield servers


def test_a_server_that_never_answers_is_killed_and_its_request_asked_again(
    impatient: ModelServers, tmp_path: Path
) -> None:
    (before,), _ = ask_together(impatient, {})
    request = {"do": "stop once", "mark": str(tmp_path / "m"), "array": np.arange(9)}
    (answer,), lines = ask_together(impatient, request)
    assert answer["pid"] != before["pid"]
    np.testing.assert_array_equal(answer["twice array"], 2 * np.arange(9))
    stuck = "cpu: the model server was stuck for more than 2 s and was killed"
    assert lines[0] == f"{stuck}; it is started again"
    assert "there again" in lines[1]


def test_a_request_over_which_two_servers_were_stuck_fails_and_says_so(impatient: ModelServers) -> None:
    (lost,), _ = ask(impatient, impatient.address.open(), {"do": "stop"})
    assert isinstance(lost, ServerLostError)
    assert "of this request: cpu: the model server was stuck for more than 2 s" in str(lost)
    (answer,), _ = ask(impatient, impatient.address.open(), {})
    assert answer["batch"] == 1


@pytest.mark.slow
def test_a_device_whose_servers_are_stuck_again_and_again_is_given_up(temporary: Path) -> None:
    with ModelServers([Loading()], ["cuda:0"], SHORT) as servers:
        client = servers.address.open()
        (first,), lines = ask(servers, client, {"do": "stop"})
        (second,), more = ask(servers, client, {"do": "stop"})
    assert not isinstance(first, HopelessError)
    assert isinstance(second, HopelessError)
    assert second.fix == LOOK_AT_GPU
    assert sum("started again" in line for line in lines + more) == RESTARTS
    assert more[-1].endswith("the device is given up")


def test_requests_that_take_no_longer_each_than_they_may_are_left_alone(impatient: ModelServers) -> None:
    """However many there are, together or one after the other; nor does waiting count."""
    request = {"do": "sleep", "seconds": SHORT_S / 5}
    client = impatient.address.open()
    for _ in range(6):
        (answer,), lines = ask(impatient, client, request)
        assert answer["batch"] == 1
        assert lines == []
    end_s = time.monotonic() + 1.25 * SHORT_S
    assert watch_until(impatient, lambda: time.monotonic() > end_s) == []
    answers, lines = ask_together(impatient, *[request] * 8)
    assert all(isinstance(answer, dict) for answer in answers)
    assert lines == []


def test_models_that_never_load_are_an_error(temporary: Path) -> None:
    begun_s = time.monotonic()
    with pytest.raises(ServerLostError, match="was stuck for more than 2 s and was killed"):
        ModelServers([Loading(fails="slow")], ["cpu"], Patience(loading_s=2.0))
    assert time.monotonic() - begun_s < WAIT_S / 2


@contextmanager
def unkillable(monkeypatch: pytest.MonkeyPatch, pids: list[int]) -> Iterator[None]:
    """Processes that nothing can end, as in a driver's hands, and short times in which that is noticed.

    They are ended after all: with the test, and a while after a test that waits for them has failed.
    """
    monkeypatch.setattr(BaseProcess, "kill", lambda process: None)
    monkeypatch.setattr(subject, "CLOSE_S", 0.2)
    monkeypatch.setattr(model_client, "CHECK_S", 0.2)
    timer = Timer(2 * WAIT_S, _kill, [pids])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _kill(pids)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_process_that_cannot_be_killed_is_left_behind(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps its end of every line, and neither parent nor worker waits for it."""
    pids: list[int] = []
    with unkillable(monkeypatch, pids):
        with ModelServers([Loading()], ["cpu"], SHORT) as servers:
            (before,), _ = ask_together(servers, {})
            pids.append(before["pid"])
            (answer,), lines = ask_together(servers, {"do": "stop once", "mark": str(tmp_path / "m")})
            pids.append(answer["pid"])
        assert answer["pid"] != before["pid"]
        assert lines[0].endswith("it is started again")


def test_a_device_given_up_with_a_process_that_cannot_be_killed_lets_nobody_wait(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither who waits to be let in nor who comes later, though that process keeps the socket."""
    monkeypatch.setattr(subject, "RESTARTS", 0)
    pids: list[int] = []
    with (
        unkillable(monkeypatch, pids),
        ModelServers([Loading()], ["cpu"], SHORT) as servers,
        ThreadPoolExecutor(3) as threads,
    ):
        client = servers.address.open()
        pids.append(int(str(client.ask("double", {})["pid"])))
        first = threads.submit(client.ask, "double", {"do": "stop"})
        wait_for(lambda: is_stopped(pids[0]))
        waiting = threads.submit(servers.address.open().ask, "double", {})
        lines = watch_until(servers, lambda: first.done() and waiting.done())
        later = threads.submit(servers.address.open().ask, "double", {})
        errors = [asked.exception(WAIT_S) for asked in (first, waiting, later)]
        assert is_stopped(pids[0])
    assert lines[-1].endswith("the device is given up")
    for error in errors:
        assert isinstance(error, NoDeviceError)
        assert "no device is left: cpu: the model server was stuck" in str(error)


def test_a_device_given_up_is_asked_by_nobody_though_its_server_still_listens(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To wait in a queue that nobody serves would cost each of them a while."""
    monkeypatch.setattr(subject, "RESTARTS", 0)
    pids: list[int] = []
    with unkillable(monkeypatch, pids), ModelServers([Loading()], ["cpu"], SHORT) as servers:
        client = servers.address.open()
        pids.append(int(str(client.ask("double", {})["pid"])))
        (ready,) = read_states(servers.address.directory)
        ask(servers, client, {"do": "stop"})
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plug:
            plug.connect(ready.socket)
        monkeypatch.setattr(model_client, "CHECK_S", 2 * WAIT_S)
        begun_s = time.monotonic()
        with pytest.raises(NoDeviceError):
            servers.address.open().ask("double", {})
        assert time.monotonic() - begun_s < WAIT_S


STUCK_AT_THE_END = """
import os, signal
from multiprocessing.process import BaseProcess
from serverdoubles import Loading, is_stopped, wait_for
from mkhspc.models.server import supervisor
if __name__ == "__main__":
    BaseProcess.kill = lambda process: None
    supervisor.CLOSE_S = 0.2
    with supervisor.ModelServers([Loading()], ["cpu"]) as them:
        pid = them.address.open().ask("double", {})["pid"]
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(pid))
        print(pid, flush=True)
"""


def test_a_program_ends_though_a_process_of_its_cannot_be_killed(temporary: Path, tmp_path: Path) -> None:
    """multiprocessing would wait for it without a limit, and the SIGTERM that it sends is ignored."""
    script = tmp_path / "script.py"
    script.write_text(STUCK_AT_THE_END)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    program = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert program.stdout is not None
    pid = int(program.stdout.readline())
    try:
        assert program.wait(WAIT_S) == 0
        assert is_stopped(pid)
    finally:
        _kill([pid])
        program.kill()
        program.communicate()


def test_a_server_that_closes_its_end_and_does_not_die_is_killed(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool's own work waits meanwhile, so not for long."""
    monkeypatch.setattr(subject, "CLOSE_S", 0.5)
    with ModelServers([Loading()], ["cpu"]) as servers:
        (lost,), lines = ask_together(servers, {"do": "hang up"})
    assert "the model server died (it did not end by itself)" in lines[0]
    assert isinstance(lost, ServerLostError)
