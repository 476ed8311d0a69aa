from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import need
from listsource import ListSource
from mkhspc.errors import HopelessError, InputError, MkhspcError, UsageError
from mkhspc.models.device import FREE_MEMORY, INSTALL, LOOK_AT_GPU, DeviceMemoryError
from mkhspc.models.server.reports import ServerLostError
from mkhspc.models.server.supervisor import RESTARTS, ModelServers
from mkhspc.models.service import Message
from mkhspc.pool.pool import Pool
from mkhspc.process.signals import StopFlag
from serverdoubles import WAIT_S, Asking, Loading, ask, ask_together


def test_a_server_killed_in_mid_request_is_started_again_and_asked_again(
    servers: ModelServers, tmp_path: Path
) -> None:
    (before,), _ = ask_together(servers, {})
    (answer,), lines = ask_together(
        servers, {"do": "die once", "mark": str(tmp_path / "m"), "array": np.arange(9)}
    )
    assert answer["pid"] != before["pid"]
    np.testing.assert_array_equal(answer["twice array"], 2 * np.arange(9))
    assert len(lines) == 2
    assert lines[0].startswith("cpu: the model server died (SIGKILL")
    assert lines[0].endswith("started again")
    assert "there again" in lines[1]


def test_a_process_that_can_use_its_gpu_no_more_is_replaced_and_says_why(
    servers: ModelServers, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (before,), _ = ask_together(servers, {})
    (answer,), lines = ask_together(servers, {"do": "lose the GPU", "mark": str(tmp_path / "m")})
    assert answer["pid"] != before["pid"]
    assert lines[0] == (
        "cpu: the GPU was lost (RuntimeError: CUDA error: unspecified launch failure); it is started again"
    )
    assert capfd.readouterr().err == "", "no traceback of a process that nobody asked"


def test_a_gpu_that_is_lost_again_and_again_is_reported_with_what_cuda_said(servers: ModelServers) -> None:
    client = servers.address.open()
    errors = [ask(servers, client, {"do": "lose every GPU"})[0][0] for _ in range(2)]
    reason = "cpu: the GPU was lost (RuntimeError: CUDA error: unspecified launch failure"
    assert f"of this request: {reason})" in str(errors[0])
    assert f"no device is left: {reason})" in str(errors[1])
    for error in errors:
        assert error.fix == LOOK_AT_GPU


def test_a_request_that_kills_twice_fails_and_takes_no_other_with_it(servers: ModelServers) -> None:
    requests: list[Message] = [{"do": "sleep", "seconds": 0.4}, *({"array": np.arange(n)} for n in range(6))]
    answers, lines = ask_together(servers, *requests, {"do": "die"})
    (lost,) = [answer for answer in answers if isinstance(answer, Exception)]
    assert answers[-1] is lost
    assert isinstance(lost, ServerLostError)
    assert "of this request: cpu: the model server died (SIGKILL" in str(lost)
    assert lost.exit_code == 4
    for n, answer in enumerate(answers[1:-1]):
        np.testing.assert_array_equal(answer["twice array"], 2 * np.arange(n))
    assert len([line for line in lines if "started again" in line]) == 2


def test_a_device_is_given_up_after_its_restarts(servers: ModelServers) -> None:
    (first, second), lines = _lose_a_device(servers)
    assert "of this request" in str(first)
    assert not isinstance(first, HopelessError), "other tiles may do"
    assert isinstance(second, HopelessError)
    assert "no device is left: cpu: the model server died (exit code 7)" in str(second)
    assert sum("started again" in line for line in lines) == RESTARTS
    assert lines[-1].endswith("the device is given up")
    assert servers.loaded == []
    with pytest.raises(ServerLostError, match="no device is left"):
        servers.address.open().ask("double", {})


def test_a_device_outlives_any_number_of_requests_that_kill_if_others_are_done_in_between(
    servers: ModelServers,
) -> None:
    client = servers.address.open()
    for _ in range(RESTARTS + 1):
        (lost,), _lines = ask(servers, client, {"do": "exit"})
        assert "of this request" in str(lost)
        assert not isinstance(lost, HopelessError)
        (answer,), _lines = ask(servers, client, {})
        assert answer["batch"] == 1


def test_a_request_that_fails_is_no_sign_that_the_device_is_well(servers: ModelServers) -> None:
    client = servers.address.open()
    ask(servers, client, {"do": "exit"})
    ask(servers, client, {"do": "raise"})
    (lost,), lines = ask(servers, client, {"do": "exit"})
    assert isinstance(lost, HopelessError)
    assert lines[-1].endswith("3 times with no request done in between; the device is given up")


def _lose_a_device(servers: ModelServers) -> tuple[list[Any], list[str]]:
    """Of a single client, so that the requests come one after the other."""
    client = servers.address.open()
    (first,), lines = ask(servers, client, {"do": "exit"})
    (second,), more = ask(servers, client, {"do": "exit"})
    return [first, second], lines + more


def test_a_device_whose_models_do_not_load_again_is_given_up(temporary: Path, tmp_path: Path) -> None:
    with ModelServers([Loading(fails="refuse again", mark=str(tmp_path / "m"))], ["cpu"]) as servers:
        (lost,), lines = ask_together(servers, {"do": "exit"})
    assert isinstance(lost, ServerLostError)
    assert "no device is left: cpu: w.pt: this is no checkpoint" in str(lost)
    assert len(lines) == 2
    assert lines[1].endswith("the device is given up")


def test_clients_divide_the_devices_among_them_and_share_what_is_left(temporary: Path) -> None:
    with ModelServers([Loading()], ["cpu:1", "cpu:2"]) as servers:
        assert [one.device for one in servers.loaded] == ["cpu:1", "cpu:2"]
        clients = [servers.address.open() for _ in range(4)]
        used = [client.ask("double", {})["device"] for client in clients]
        assert used == ["cpu:1", "cpu:2", "cpu:1", "cpu:2"]
        _lose_a_device(servers)
        for client in clients:
            (answer,), _lines = ask(servers, client, {"array": np.arange(3)})
            assert answer["device"] == "cpu:2"
        assert [one.device for one in servers.loaded] == ["cpu:2"]


def test_worker_processes_begin_with_different_devices(temporary: Path) -> None:
    with ModelServers([Loading()], ["cpu:1", "cpu:2"]) as servers:
        outcomes = list(Pool(Asking(servers.address), 2, StopFlag()).outcomes(ListSource(range(8))))
    assert {outcome.facts["device"] for outcome in outcomes if outcome.facts} == {"cpu:1", "cpu:2"}


@dataclass
class Doomed(Asking):
    """Dies while its first request is answered."""

    marks: Path

    def run(self, task: int) -> dict[str, Any]:
        mark = self.marks / f"{task}"
        if not mark.exists():
            mark.touch()
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return dict(self.models.ask("double", {"do": "sleep", "seconds": 1.0}))
        return dict(self.models.ask("double", {"array": np.arange(5)}))


def test_a_worker_killed_in_mid_request_harms_nobody(servers: ModelServers, tmp_path: Path) -> None:
    (before,), _ = ask_together(servers, {})
    outcomes = list(Pool(Doomed(servers.address, tmp_path), 2, StopFlag()).outcomes(ListSource([1, 2, 3])))
    done = [outcome for outcome in outcomes if not outcome.will_retry]
    assert sorted(outcome.task for outcome in done) == [1, 2, 3]
    assert {outcome.facts["pid"] for outcome in done if outcome.facts} == {before["pid"]}
    assert len(outcomes) == 6
    assert servers.watch() == []


def test_an_error_of_loading_reaches_the_parent_as_it_is(temporary: Path) -> None:
    with pytest.raises(InputError) as caught:
        ModelServers([Loading(), Loading("other", fails="refuse")], ["cpu"])
    assert str(caught.value) == "w.pt: this is no checkpoint\n  fetch it again"
    assert caught.value.exit_code == 3


def test_a_bug_in_loading_names_the_model_and_the_device(temporary: Path) -> None:
    with pytest.raises(
        MkhspcError, match="'double' does not load on cpu: ZeroDivisionError: division by zero"
    ):
        ModelServers([Loading(fails="bug")], ["cpu"])


@pytest.mark.models
def test_a_memory_too_small_for_the_weights_is_no_fault_of_theirs(temporary: Path) -> None:
    need("torch")
    with pytest.raises(DeviceMemoryError) as caught:
        ModelServers([Loading(fails="full")], ["cpu"])
    assert caught.value.what == (
        "the model 'double' does not load on cpu: OutOfMemoryError: "
        "CUDA out of memory. Tried to allocate 2.00 GiB."
    )
    assert caught.value.fix == FREE_MEMORY


def test_a_gpu_lost_before_the_weights_are_on_it_is_no_fault_of_theirs(temporary: Path) -> None:
    with pytest.raises(MkhspcError, match=r"uncorrectable ECC error encountered\n") as caught:
        ModelServers([Loading(fails="lost")], ["cpu"])
    assert caught.value.fix == LOOK_AT_GPU


def test_a_package_that_is_not_there_is_to_be_installed(temporary: Path) -> None:
    with pytest.raises(MkhspcError, match="No module named 'no_such_package'") as caught:
        ModelServers([Loading(fails="import")], ["cpu"])
    assert caught.value.fix == INSTALL


def test_a_process_that_dies_while_it_loads_is_reported_with_its_cause(temporary: Path) -> None:
    with pytest.raises(ServerLostError) as caught:
        ModelServers([Loading(fails="die")], ["cpu"])
    assert str(caught.value).startswith("cpu: the model server died (SIGKILL, perhaps out of memory)")


def test_one_device_that_fails_is_reported_though_another_loads(temporary: Path) -> None:
    begun_s = time.monotonic()
    with pytest.raises(UsageError, match="no device 'cpu:2'"):
        ModelServers([Loading("a", fails="second of two"), Slow()], ["cpu:1", "cpu:2"])
    assert time.monotonic() - begun_s < WAIT_S / 2


@dataclass(frozen=True)
class Slow(Loading):
    name: str = "slow"
    fails: str = "slow"
