from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from listsource import ListSource
from localmodels import LocalModels
from mkhspc.errors import InputError, MkhspcError
from mkhspc.models.device import DeviceMemoryError
from mkhspc.models.server.message import ArrayHeader, MessageHeader, MessageMemory, Request
from mkhspc.models.server.reports import read_states
from mkhspc.models.server.supervisor import ModelServers
from mkhspc.models.service import Message
from mkhspc.pool.pool import Pool
from mkhspc.process.signals import StopFlag
from serverdoubles import Asking, Doing, Loading, ask, ask_together, message, wait_for


class Picky(Doing):
    """Answers with the error of a request alone."""

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        odd = InputError("odd", where="here", fix="even")
        return [odd if int(str(request["n"])) % 2 else request for request in requests]


@dataclass(frozen=True)
class PickyLoading(Loading):
    name: str = "picky"

    def load(self, device: str) -> Doing:
        return Picky(device)


def equal(found: Message, expected: Message) -> bool:
    return found.keys() == expected.keys() and all(_same(found[name], expected[name]) for name in expected)


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        same_form = (found.shape, found.dtype) == (expected.shape, expected.dtype)
        return same_form and bool(np.array_equal(found, expected))
    return bool(found == expected)


def test_workers_get_the_answers_that_a_model_in_the_same_process_gives(servers: ModelServers) -> None:
    tasks = list(range(6))
    outcomes = list(Pool(Asking(servers.address), 3, StopFlag()).outcomes(ListSource(tasks)))
    local = LocalModels({"double": Doing("cpu")})
    pids = set()
    for outcome in outcomes:
        assert outcome.facts is not None, outcome.error
        pids.add(outcome.facts.pop("pid"))
        del outcome.facts["batch"], outcome.facts["gpus"]
        expected = dict(local.ask("double", message(outcome.task)))
        assert expected.pop("pid") == os.getpid()
        del expected["batch"], expected["gpus"]
        assert equal(outcome.facts, expected)
    assert sorted(outcome.task for outcome in outcomes) == tasks
    assert len(pids) == 1


def ask_while_held(servers: ModelServers, folder: Path, *asked: tuple[str, Message]) -> list[Message]:
    """Answers to requests that gather while the server is busy with another."""
    clients = [servers.address.open() for _ in asked]
    for client in clients:
        client.connect()
    holding = {"do": "hold", "begun": str(folder / "begun"), "release": str(folder / "release")}
    with ThreadPoolExecutor(len(asked) + 1) as threads:
        threads.submit(servers.address.open().ask, "double", holding)
        wait_for((folder / "begun").exists)
        answers = [threads.submit(one.ask, *each) for one, each in zip(clients, asked, strict=True)]
        time.sleep(1)  # nothing shows from outside that a request has been sent
        (folder / "release").touch()
    return [answer.result() for answer in answers]


def test_requests_that_wait_are_answered_in_one_batch(servers: ModelServers, tmp_path: Path) -> None:
    asked = [("double", {"array": np.arange(n)}) for n in range(4)]
    for n, answer in enumerate(ask_while_held(servers, tmp_path, *asked)):
        assert answer["batch"] == 4
        np.testing.assert_array_equal(answer["twice array"], 2 * np.arange(n))


def test_requests_for_several_models_do_not_mix(temporary: Path, tmp_path: Path) -> None:
    with ModelServers([Loading(), PickyLoading()], ["cpu"]) as servers:
        double, picky = ask_while_held(servers, tmp_path, ("double", {"n": 1}), ("picky", {"n": 2}))
    assert double["batch"] == 1
    assert picky == {"n": 2}


def test_an_error_of_one_request_is_its_own(temporary: Path) -> None:
    with ModelServers([PickyLoading()], ["cpu"]) as servers:
        client = servers.address.open()
        for n in range(4):
            if n % 2:
                with pytest.raises(InputError) as caught:
                    client.ask("picky", {"n": n})
                assert str(caught.value) == "here: odd\n  even"
            else:
                assert client.ask("picky", {"n": n}) == {"n": n}


def test_a_request_that_raises_fails_alone_and_the_server_lives_on(servers: ModelServers) -> None:
    (first,), _ = ask_together(servers, {})
    kinds = (
        {"do": "sleep", "seconds": 0.4},
        {"do": "raise"},
        {"do": "refuse"},
        {"do": "answer an object"},
        {},
    )
    (_, bug, refusal, odd, fine), lines = ask_together(servers, *kinds)
    assert type(bug) is MkhspcError
    assert str(bug) == "the model 'double' on cpu: ZeroDivisionError: division by zero"
    assert type(refusal) is InputError
    assert str(refusal) == "slide.czi: the window is empty\n  look at it"
    assert "'answer' holds Python objects" in str(odd)
    assert fine["pid"] == first["pid"]
    assert lines == []


def test_an_answer_for_which_there_is_no_room_is_an_error_of_its_request(servers: ModelServers) -> None:
    (first,), _ = ask_together(servers, {})
    client = servers.address.open()
    (full,), lines = ask(servers, client, {"do": "answer without room"})
    assert type(full) is MkhspcError
    assert str(full).startswith("an answer of a model on cpu: there is no room for it (OSError: ")
    assert os.fstat(client.connect().memory.descriptor).st_size == 0
    assert client.ask("double", {"array": np.arange(3)})["pid"] == first["pid"]
    assert lines == []


def socket_path(servers: ModelServers) -> str:
    """Where the only server listens."""
    (state,) = read_states(servers.address.directory)
    return state.socket


def test_a_worker_that_connects_and_sends_nothing_keeps_no_other_waiting(servers: ModelServers) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(socket_path(servers))
        client = servers.address.open()
        (answer,), lines = ask(servers, client, {})
        assert answer["batch"] == 1
        assert lines == []
    assert client.ask("double", {})["pid"] == answer["pid"], "it has closed its end meanwhile"


def test_a_batch_that_became_smaller_is_reported_once(servers: ModelServers) -> None:
    client, lines = servers.address.open(), []
    for size in (8, 2, 2, 1, 8):  # what the last asks for comes after what the others told
        lines += ask(servers, client, {"batch size": size})[1]
    full = "cpu: memory does not do for batches of {} of 'double'; they are of {} from now on"
    assert lines == [full.format(8, 2), full.format(2, 1)]


def test_a_full_memory_that_no_model_expected_is_reported_as_such(servers: ModelServers) -> None:
    (full,), lines = ask_together(servers, {"do": "fill the memory"})
    assert isinstance(full, DeviceMemoryError)
    assert str(full).startswith("the model 'double' on cpu: RuntimeError: CUDA error: out of memory\n")
    assert "smaller model" in full.fix
    assert lines == []


def test_a_model_that_is_not_there_is_an_error_that_names_those_that_are(servers: ModelServers) -> None:
    client = servers.address.open()
    with pytest.raises(MkhspcError, match="no model 'sam2' here; there are: double"):
        client.ask("sam2", {})
    assert client.ask("double", {})["batch"] == 1


@pytest.mark.parametrize("value", [[1, 2], np.array([{}], object), {"a": 1}], ids=["list", "objects", "dict"])
def test_what_no_message_takes_is_refused_before_it_is_sent(servers: ModelServers, value: Any) -> None:
    client = servers.address.open()
    with pytest.raises(TypeError, match="'x'"):
        client.ask("double", {"x": value})
    assert client.ask("double", {})["batch"] == 1


@dataclass
class Weighing(Asking):
    """Asks with `task` bytes, and weighs this process afterwards."""

    def run(self, task: int) -> dict[str, Any]:
        before_bytes = _memory_bytes(os.getpid(), "RssAnon:")
        answer = self.models.ask("double", {"array": np.full(task, 3, np.uint8)})
        is_right = bool((answer["twice array"] == 6).all()) and answer["twice array"].size == task
        server_pid = answer["pid"]
        del answer
        return {
            "is_right": is_right,
            "own_bytes": _memory_bytes(os.getpid(), "RssAnon:") - before_bytes,
            "shared_bytes": _memory_bytes(os.getpid(), "RssShmem:"),
            "server_shared_bytes": _memory_bytes(server_pid, "RssShmem:"),
            "file_bytes": _message_file_bytes(),
        }


def _memory_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {name}")


def _message_file_bytes() -> int:
    (file,) = _message_files(os.getpid())
    return file.stat().st_blocks * 512


def _message_files(pid: Any) -> list[Path]:
    return [file for file in Path(f"/proc/{pid}/fd").iterdir() if "mkhspc-message" in _target(file)]


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((9,), "EOFError: a message is shorter"), ((2**50,), "MemoryError"), ((-1,), "ValueError")],
)
def test_a_request_that_cannot_be_read_fails_and_the_server_lives_on(
    servers: ModelServers, shape: tuple[int, ...], reason: str
) -> None:
    client = servers.address.open()
    pid = client.ask("double", {})["pid"]
    connection = client.connect()
    connection.memory.write({"array": np.arange(1, dtype=np.uint8)})
    header = MessageHeader({"array": ArrayHeader(0, shape, np.dtype(np.uint8))}, {})
    error = connection.ask(Request("double", header, runs_alone=False))
    assert isinstance(error, MkhspcError)
    assert reason in error.what
    assert error.where == "the model 'double' on cpu"
    assert os.fstat(connection.memory.descriptor).st_size == 0
    answer = client.ask("double", {"array": np.arange(3)})
    assert answer["pid"] == pid
    np.testing.assert_array_equal(answer["twice array"], [0, 2, 4])


@pytest.mark.parametrize("free_files", [4, 5])
def test_a_worker_for_whom_too_many_files_are_open_is_told_and_the_server_lives_on(
    temporary: Path, free_files: int
) -> None:
    with ModelServers([Loading(free_files=free_files)], ["cpu"]) as servers:
        client = servers.address.open()
        pid = client.ask("double", {})["pid"]
        (error,), lines = ask(servers, servers.address.open(), {})
        assert lines == []
        assert "too many open files?" in str(error)
        assert "ulimit -n" in str(error)
        assert client.ask("double", {})["pid"] == pid
        client.close()
        wait_for(lambda: not _message_files(pid))
        assert servers.address.open().ask("double", {})["pid"] == pid


def test_a_worker_that_dies_while_it_waits_to_be_let_in_leaves_nothing_open(
    servers: ModelServers, tmp_path: Path
) -> None:
    client = servers.address.open()
    pid = client.ask("double", {})["pid"]
    holding = {"do": "hold", "begun": str(tmp_path / "begun"), "release": str(tmp_path / "release")}
    with ThreadPoolExecutor(1) as thread:
        thread.submit(client.ask, "double", holding)
        wait_for((tmp_path / "begun").exists)
        plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plug.connect(socket_path(servers))
        connection, memory = Connection(plug.detach()), MessageMemory()
        reduction.send_handle(connection, memory.descriptor, pid)
        connection.close()
        memory.close()
        (tmp_path / "release").touch()
    last = servers.address.open()
    last.ask("double", {})
    assert len(_message_files(pid)) == 2, "the first client's and the last one's"


def test_the_memory_of_large_messages_is_given_back(servers: ModelServers) -> None:
    tasks = [1_000, 100_000_000, 1, 100_000_001]
    for outcome in Pool(Weighing(servers.address), 1, StopFlag()).outcomes(ListSource(tasks)):
        facts = outcome.facts
        assert facts is not None, outcome.error
        assert facts["is_right"]
        assert facts["own_bytes"] < 5_000_000
        assert facts["shared_bytes"] == facts["server_shared_bytes"] == facts["file_bytes"] == 0
