from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import skip_or_fail

from pipeline.engine.mailbox import Fault, Letter, Mailbox, Place, Question
from pipeline.engine.owner_client import OwnerClient, OwnerLostError, address_path
from pipeline.engine.owners import CLOSE_S, RESTARTS, Owners
from pipeline.engine.workers import HopelessError, Listed, Pool, StopFlag
from pipeline.errors import InputError, MkhspcError, UsageError
from pipeline.models.device import INSTALL
from pipeline.models.service import Local, Message

WAIT_S = 30.0


@dataclass(frozen=True)
class Loading:
    """A loader whose model does what a request's 'do' says, and whose own loading may fail."""

    name: str = "double"
    fails: str = ""
    mark: str = ""
    resident_bytes: int = 0
    free_files: int | None = None

    def load(self, device: str) -> Doing:
        if self.fails == "refuse" or (self.fails == "refuse again" and not _is_first({"mark": self.mark})):
            raise InputError("this is no checkpoint", where=Path("w.pt"), fix="fetch it again")
        if self.fails == "bug":
            raise ZeroDivisionError("division by zero")
        if self.fails == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails == "second of two" and device == "cpu:2":
            raise UsageError("there is no device 'cpu:2'")
        if self.fails == "slow":
            time.sleep(WAIT_S)
        if self.fails == "torch":
            import torch

            assert torch.ones(2).sum() == 2
        if self.fails == "TF32":
            import torch

            torch.backends.cuda.matmul.allow_tf32 = True
        if self.fails == "import":
            import no_such_package  # type: ignore[import-not-found]  # noqa: F401
        if self.free_files is not None:
            _leave_room_for_files(self.free_files)
        return Doing(device)


def _leave_room_for_files(count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    opened = []
    with suppress(OSError):
        while True:
            opened.append(os.dup(0))
    for descriptor in opened[:count]:
        os.close(descriptor)


class Doing:
    precision = "float32"

    def __init__(self, device: str) -> None:
        self.device = device
        self.runs = 0

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        self.runs += 1
        return [{**_done(r), "batch": len(requests), "device": self.device} for r in requests]


def _done(request: Mapping[str, Any]) -> dict[str, Any]:
    match request.get("do"):
        case "sleep":
            time.sleep(request["seconds"])
        case "hold":
            Path(request["begun"]).touch()
            _wait_for(Path(request["release"]).exists)
        case "raise":
            raise ZeroDivisionError("division by zero")
        case "refuse":
            raise InputError("the window is empty", where="slide.czi", fix="look at it")
        case "lose the GPU" if _is_first(request):
            raise RuntimeError("CUDA error: unspecified launch failure")
        case "die once" if _is_first(request):
            os.kill(os.getpid(), signal.SIGKILL)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(7)
        case "answer an object":
            return {"answer": np.array([object()])}
        case "tell of torch":
            torch = sys.modules.get("torch")
            return {"torch": bool(torch), "TF32": bool(torch and torch.backends.cuda.matmul.allow_tf32)}
    arrays = {f"twice {n}": 2 * v for n, v in request.items() if isinstance(v, np.ndarray)}
    return {"pid": os.getpid(), **arrays}


def _is_first(request: Mapping[str, Any]) -> bool:
    mark = Path(request["mark"])
    if mark.exists():
        return False
    mark.touch()
    return True


class Picky(Doing):
    """Answers with the error of a request alone."""

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        return [InputError("odd", where="here", fix="even") if r["n"] % 2 else r for r in requests]  # type: ignore[operator]


@dataclass(frozen=True)
class PickyLoading(Loading):
    name: str = "picky"

    def load(self, device: str) -> Doing:
        return Picky(device)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where other temporary files than pytest's own go; it must be empty at the end."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


@pytest.fixture
def owners(temporary: Path) -> Iterator[Owners]:
    with Owners([Loading()], ["cpu"]) as owners:
        yield owners


def ask_together(owners: Owners, *requests: Message) -> tuple[list[Any], list[str]]:
    """What is answered, or raised, when each request is asked by a client of its own; what `watch` told."""
    lines: list[str] = []
    with ThreadPoolExecutor(len(requests)) as threads:
        asked = [threads.submit(owners.client().ask, "double", request) for request in requests]
        lines += watch_until(owners, lambda: all(one.done() for one in asked))
    return [one.exception() or one.result() for one in asked], lines + owners.watch()


def watch_until(owners: Owners, is_over: Callable[[], bool]) -> list[str]:
    lines: list[str] = []
    end_s = time.monotonic() + WAIT_S
    while not is_over():
        assert time.monotonic() < end_s, lines
        lines += owners.watch()
        time.sleep(0.01)
    return lines


def equal(found: Message, expected: Message) -> bool:
    return found.keys() == expected.keys() and all(_same(found[name], expected[name]) for name in expected)


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        same_form = (found.shape, found.dtype) == (expected.shape, expected.dtype)
        return same_form and bool(np.array_equal(found, expected))
    return bool(found == expected)


@dataclass
class Asking:
    """A worker's work: to ask."""

    models: Any

    def prepare(self) -> None:
        pass

    def run(self, task: Any) -> dict[str, Any]:
        return dict(self.models.ask("double", message(task)))


def message(task: int) -> dict[str, Any]:
    rng = np.random.default_rng(task)
    wide = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return {
        "rgb": wide,
        "none": wide[:0],
        "no rows": np.empty((0, 7), np.float32),
        "single": np.array(3.5),
        "transposed": wide.transpose(2, 1, 0),
        "every other": rng.normal(size=(50, 8))[::-2, ::3],
        "big-endian": rng.normal(size=5).astype(">f4"),
        "flags": wide > 128,
        "seconds": 0.1,
        "do": "sleep",
        "key": f"tile {task}",
        "nothing": None,
    }


def test_workers_get_the_answers_that_a_model_in_the_same_process_gives(owners: Owners) -> None:
    tasks = list(range(6))
    outcomes = list(Pool(Asking(owners), 3, StopFlag()).outcomes(Listed(tasks)))
    local = Local({"double": Doing("cpu")})
    pids = set()
    for outcome in outcomes:
        assert outcome.facts is not None, outcome.error
        pids.add(outcome.facts.pop("pid"))
        del outcome.facts["batch"]
        expected = dict(local.ask("double", message(outcome.task)))
        assert expected.pop("pid") == os.getpid()
        del expected["batch"]
        assert equal(outcome.facts, expected)
    assert sorted(outcome.task for outcome in outcomes) == tasks
    assert len(pids) == 1


def ask_while_held(owners: Owners, folder: Path, *asked: tuple[str, Message]) -> list[Message]:
    """Answers to requests that gather while the owner is busy with another."""
    clients = [owners.client() for _ in asked]
    for client in clients:
        client.connect()
    holding = {"do": "hold", "begun": str(folder / "begun"), "release": str(folder / "release")}
    with ThreadPoolExecutor(len(asked) + 1) as threads:
        threads.submit(owners.client().ask, "double", holding)
        _wait_for((folder / "begun").exists)
        answers = [threads.submit(one.ask, *each) for one, each in zip(clients, asked, strict=True)]
        time.sleep(1)  # nothing shows from outside that a request has been sent
        (folder / "release").touch()
    return [answer.result() for answer in answers]


def test_requests_that_wait_are_answered_in_one_batch(owners: Owners, tmp_path: Path) -> None:
    asked = [("double", {"array": np.arange(n)}) for n in range(4)]
    for n, answer in enumerate(ask_while_held(owners, tmp_path, *asked)):
        assert answer["batch"] == 4
        np.testing.assert_array_equal(answer["twice array"], 2 * np.arange(n))


def test_requests_for_several_models_do_not_mix(temporary: Path, tmp_path: Path) -> None:
    with Owners([Loading(), PickyLoading()], ["cpu"]) as owners:
        double, picky = ask_while_held(owners, tmp_path, ("double", {"n": 1}), ("picky", {"n": 2}))
    assert double["batch"] == 1
    assert picky == {"n": 2}


def test_an_error_of_one_request_is_its_own(temporary: Path) -> None:
    with Owners([PickyLoading()], ["cpu"]) as owners:
        client = owners.client()
        for n in range(4):
            if n % 2:
                with pytest.raises(InputError) as caught:
                    client.ask("picky", {"n": n})
                assert str(caught.value) == "here: odd\n  even"
            else:
                assert client.ask("picky", {"n": n}) == {"n": n}


def test_a_request_that_raises_fails_alone_and_the_owner_lives_on(owners: Owners) -> None:
    (first,), _ = ask_together(owners, {})
    kinds = (
        {"do": "sleep", "seconds": 0.4},
        {"do": "raise"},
        {"do": "refuse"},
        {"do": "answer an object"},
        {},
    )
    (_, bug, refusal, odd, fine), lines = ask_together(owners, *kinds)
    assert type(bug) is MkhspcError
    assert str(bug) == "the model 'double' on cpu: ZeroDivisionError: division by zero"
    assert type(refusal) is InputError
    assert str(refusal) == "slide.czi: the window is empty\n  look at it"
    assert "'answer' holds Python objects" in str(odd)
    assert fine["pid"] == first["pid"]
    assert lines == []


def test_a_model_that_is_not_there_is_an_error_that_names_those_that_are(owners: Owners) -> None:
    client = owners.client()
    with pytest.raises(MkhspcError, match="no model 'sam2' here, but: double"):
        client.ask("sam2", {})
    assert client.ask("double", {})["batch"] == 1


@pytest.mark.parametrize("value", [[1, 2], np.array([{}], object), {"a": 1}], ids=["list", "objects", "dict"])
def test_what_no_message_takes_is_refused_before_it_is_sent(owners: Owners, value: Any) -> None:
    client = owners.client()
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
        owner_pid = answer["pid"]
        del answer
        return {
            "is_right": is_right,
            "own_bytes": _memory_bytes(os.getpid(), "RssAnon:") - before_bytes,
            "shared_bytes": _memory_bytes(os.getpid(), "RssShmem:"),
            "owner_shared_bytes": _memory_bytes(owner_pid, "RssShmem:"),
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
def test_a_request_that_cannot_be_read_fails_and_the_owner_lives_on(
    owners: Owners, shape: tuple[int, ...], reason: str
) -> None:
    client = owners.client()
    pid = client.ask("double", {})["pid"]
    line = client.connect()
    line.mailbox.post({"array": np.arange(1, dtype=np.uint8)})
    fault = line.ask(Question("double", Letter({"array": Place(0, shape, np.dtype(np.uint8))}, {}), False))
    assert isinstance(fault, Fault)
    assert reason in fault.what
    assert fault.where == "the model 'double' on cpu"
    assert os.fstat(line.mailbox.descriptor).st_size == 0
    answer = client.ask("double", {"array": np.arange(3)})
    assert answer["pid"] == pid
    np.testing.assert_array_equal(answer["twice array"], [0, 2, 4])


@pytest.mark.parametrize("free_files", [3, 4])
def test_a_worker_for_whom_too_many_files_are_open_is_told_and_the_owner_lives_on(
    temporary: Path, free_files: int
) -> None:
    with Owners([Loading(free_files=free_files)], ["cpu"]) as owners:
        client = owners.client()
        pid = client.ask("double", {})["pid"]
        (error,), lines = _ask(owners, owners.client(), {})
        assert lines == []
        assert "too many open files?" in str(error)
        assert "ulimit -n" in str(error)
        assert client.ask("double", {})["pid"] == pid
        client.close()
        _wait_for(lambda: not _message_files(pid))
        assert owners.client().ask("double", {})["pid"] == pid


def test_a_worker_that_dies_while_it_waits_to_be_let_in_leaves_nothing_open(
    owners: Owners, temporary: Path, tmp_path: Path
) -> None:
    client = owners.client()
    pid = client.ask("double", {})["pid"]
    (folder,) = temporary.iterdir()
    holding = {"do": "hold", "begun": str(tmp_path / "begun"), "release": str(tmp_path / "release")}
    with ThreadPoolExecutor(1) as thread:
        thread.submit(client.ask, "double", holding)
        _wait_for((tmp_path / "begun").exists)
        plug = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        plug.connect(str(address_path(folder, 0)))
        connection, mailbox = Connection(plug.detach()), Mailbox()
        reduction.send_handle(connection, mailbox.descriptor, pid)
        connection.close()
        mailbox.close()
        (tmp_path / "release").touch()
    owners.client().ask("double", {})
    assert len(_message_files(pid)) == 2


def test_the_memory_of_large_messages_is_given_back(owners: Owners) -> None:
    tasks = [1_000, 100_000_000, 1, 100_000_001]
    for outcome in Pool(Weighing(owners), 1, StopFlag()).outcomes(Listed(tasks)):
        facts = outcome.facts
        assert facts is not None, outcome.error
        assert facts["is_right"]
        assert facts["own_bytes"] < 5_000_000
        assert facts["shared_bytes"] == facts["owner_shared_bytes"] == facts["file_bytes"] == 0


def test_an_owner_killed_in_mid_request_is_started_again_and_asked_again(
    owners: Owners, tmp_path: Path
) -> None:
    (before,), _ = ask_together(owners, {})
    (answer,), lines = ask_together(
        owners, {"do": "die once", "mark": str(tmp_path / "m"), "array": np.arange(9)}
    )
    assert answer["pid"] != before["pid"]
    np.testing.assert_array_equal(answer["twice array"], 2 * np.arange(9))
    assert len(lines) == 2
    assert lines[0].startswith("cpu: the process that owns the models died (SIGKILL")
    assert lines[0].endswith("started again")
    assert "there again" in lines[1]


def test_a_process_that_can_use_its_gpu_no_more_is_replaced(owners: Owners, tmp_path: Path) -> None:
    (before,), _ = ask_together(owners, {})
    (answer,), lines = ask_together(owners, {"do": "lose the GPU", "mark": str(tmp_path / "m")})
    assert answer["pid"] != before["pid"]
    assert "exit code 1" in lines[0]


def test_a_request_that_kills_twice_fails_and_takes_no_other_with_it(owners: Owners) -> None:
    requests: list[Message] = [{"do": "sleep", "seconds": 0.4}, *({"array": np.arange(n)} for n in range(6))]
    answers, lines = ask_together(owners, *requests, {"do": "die"})
    (lost,) = [answer for answer in answers if isinstance(answer, Exception)]
    assert answers[-1] is lost
    assert isinstance(lost, OwnerLostError)
    assert "over one request: cpu: the process that owns the models died (SIGKILL" in str(lost)
    assert lost.exit_code == 4
    for n, answer in enumerate(answers[1:-1]):
        np.testing.assert_array_equal(answer["twice array"], 2 * np.arange(n))
    assert len([line for line in lines if "started again" in line]) == 2


def test_a_device_is_given_up_after_its_restarts(owners: Owners) -> None:
    (first, second), lines = _lose_a_device(owners)
    assert "over one request" in str(first)
    assert not isinstance(first, HopelessError), "other tiles may do"
    assert isinstance(second, HopelessError)
    assert "no device is left: cpu: the process that owns the models died (exit code 7)" in str(second)
    assert sum("started again" in line for line in lines) == RESTARTS
    assert lines[-1].endswith("the device is given up")
    assert owners.loaded == []
    with pytest.raises(OwnerLostError, match="no device is left"):
        owners.client().ask("double", {})


def test_a_device_outlives_any_number_of_requests_that_kill_if_others_are_done_in_between(
    owners: Owners,
) -> None:
    client = owners.client()
    for _ in range(RESTARTS + 1):
        (lost,), _lines = _ask(owners, client, {"do": "exit"})
        assert "over one request" in str(lost)
        assert not isinstance(lost, HopelessError)
        (answer,), _lines = _ask(owners, client, {})
        assert answer["batch"] == 1


def test_a_request_that_fails_is_no_sign_that_the_device_is_well(owners: Owners) -> None:
    client = owners.client()
    _ask(owners, client, {"do": "exit"})
    _ask(owners, client, {"do": "raise"})
    (lost,), lines = _ask(owners, client, {"do": "exit"})
    assert isinstance(lost, HopelessError)
    assert lines[-1].endswith("3 times with no request done in between; the device is given up")


def _lose_a_device(owners: Owners) -> tuple[list[Any], list[str]]:
    """Of a single client, so that the requests come one after the other."""
    client = owners.client()
    (first,), lines = _ask(owners, client, {"do": "exit"})
    (second,), more = _ask(owners, client, {"do": "exit"})
    return [first, second], lines + more


def _ask(owners: Owners, client: OwnerClient, request: Message) -> tuple[list[Any], list[str]]:
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(client.ask, "double", request)
        lines = watch_until(owners, asked.done)
    return [asked.exception() or asked.result()], lines + owners.watch()


def test_a_device_whose_models_do_not_load_again_is_given_up(temporary: Path, tmp_path: Path) -> None:
    with Owners([Loading(fails="refuse again", mark=str(tmp_path / "m"))], ["cpu"]) as owners:
        (lost,), lines = ask_together(owners, {"do": "exit"})
    assert isinstance(lost, OwnerLostError)
    assert "no device is left: cpu: w.pt: this is no checkpoint" in str(lost)
    assert len(lines) == 2
    assert lines[1].endswith("the device is given up")


def test_clients_divide_the_devices_among_them_and_share_what_is_left(temporary: Path) -> None:
    with Owners([Loading()], ["cpu:1", "cpu:2"]) as owners:
        assert [one.device for one in owners.loaded] == ["cpu:1", "cpu:2"]
        clients = [owners.client() for _ in range(4)]
        used = [client.ask("double", {})["device"] for client in clients]
        assert used == ["cpu:1", "cpu:2", "cpu:1", "cpu:2"]
        _lose_a_device(owners)
        for client in clients:
            (answer,), _lines = _ask(owners, client, {"array": np.arange(3)})
            assert answer["device"] == "cpu:2"
        assert [one.device for one in owners.loaded] == ["cpu:2"]


def test_pickled_to_worker_processes_owners_begin_with_different_devices(temporary: Path) -> None:
    with Owners([Loading()], ["cpu:1", "cpu:2"]) as owners:
        outcomes = list(Pool(Asking(owners), 2, StopFlag()).outcomes(Listed(range(8))))
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


def test_a_worker_killed_in_mid_request_harms_nobody(owners: Owners, tmp_path: Path) -> None:
    (before,), _ = ask_together(owners, {})
    outcomes = list(Pool(Doomed(owners, tmp_path), 2, StopFlag()).outcomes(Listed([1, 2, 3])))
    done = [outcome for outcome in outcomes if not outcome.will_retry]
    assert sorted(outcome.task for outcome in done) == [1, 2, 3]
    assert {outcome.facts["pid"] for outcome in done if outcome.facts} == {before["pid"]}
    assert len(outcomes) == 6
    assert owners.watch() == []


def test_an_error_of_loading_reaches_the_parent_as_it_is(temporary: Path) -> None:
    with pytest.raises(InputError) as caught:
        Owners([Loading(), Loading("other", fails="refuse")], ["cpu"])
    assert str(caught.value) == "w.pt: this is no checkpoint\n  fetch it again"
    assert caught.value.exit_code == 3


def test_a_bug_in_loading_names_the_model_and_the_device(temporary: Path) -> None:
    with pytest.raises(
        MkhspcError, match="'double' does not load on cpu: ZeroDivisionError: division by zero"
    ):
        Owners([Loading(fails="bug")], ["cpu"])


def test_a_package_that_is_not_there_is_to_be_installed(temporary: Path) -> None:
    with pytest.raises(MkhspcError, match="No module named 'no_such_package'") as caught:
        Owners([Loading(fails="import")], ["cpu"])
    assert caught.value.fix == INSTALL


def test_a_process_that_dies_while_it_loads_is_told_with_its_cause(temporary: Path) -> None:
    with pytest.raises(OwnerLostError) as caught:
        Owners([Loading(fails="die")], ["cpu"])
    assert str(caught.value).startswith(
        "cpu: the process that owns the models died (SIGKILL, perhaps out of memory)"
    )


def test_one_device_that_fails_is_told_though_another_loads(temporary: Path) -> None:
    begun_s = time.monotonic()
    with pytest.raises(UsageError, match="no device 'cpu:2'"):
        Owners([Loading("a", fails="second of two"), Slow()], ["cpu:1", "cpu:2"])
    assert time.monotonic() - begun_s < WAIT_S / 2


@dataclass(frozen=True)
class Slow(Loading):
    name: str = "slow"
    fails: str = "slow"


def test_owners_tell_what_they_take(owners: Owners) -> None:
    (loaded,) = owners.loaded
    assert 10_000_000 < loaded.rss_bytes < 500_000_000
    assert 0 <= loaded.load_s < WAIT_S
    assert loaded.precision == {"double": "float32"}


def test_the_names_of_the_sockets_are_nobody_elses(owners: Owners, temporary: Path) -> None:
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_long_path_of_temporary_files_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with Owners([Loading()], ["cpu"]) as owners:
        assert owners.client().ask("double", {})["batch"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_an_owner_leaves_stop_signals_to_its_parent(owners: Owners, number: int) -> None:
    client = owners.client()
    pid = client.ask("double", {})["pid"]
    assert isinstance(pid, int)
    os.kill(pid, number)
    assert client.ask("double", {})["pid"] == pid


PARENT = """
import threading, time
from pipeline.engine.owners import Owners
from test_engine_owners import Loading
if __name__ == "__main__":
    if {state!r} == "loading":
        Owners([Loading(fails="slow")], ["cpu", "cpu"])
    owners = Owners([Loading()], ["cpu", "cpu"])
    pids = [owners.client().ask("double", {{}})["pid"] for _ in range(2)]
    threading.Thread(target=owners.client().ask, args=("double", {{"do": "sleep", "seconds": 60}})).start()
    time.sleep(0.3)
    print(*pids, flush=True)
    time.sleep(60)
"""

FORGETFUL = """
from pipeline.engine.owners import Owners
from test_engine_owners import Loading
if __name__ == "__main__":
    owners = Owners([Loading()], ["cpu"])
"""


@pytest.mark.parametrize("state", ["loading", "computing"])
def test_owners_end_with_a_parent_that_is_killed_and_leave_nothing(
    temporary: Path, tmp_path: Path, state: str
) -> None:
    parent = _start(tmp_path, PARENT.format(state=state))
    try:
        if state == "computing":
            assert parent.stdout is not None
            pids = [int(word) for word in parent.stdout.readline().split()]
        else:
            pids = _wait_for(lambda: _owners_that_listen(parent.pid))
    finally:
        parent.kill()
        parent.communicate()
    assert len(set(pids)) == 2
    _wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    _wait_for(lambda: list(temporary.iterdir()) == [])


def _start(folder: Path, script: str) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(script)
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(folder / "script.py")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def _owners_that_listen(parent_pid: int) -> list[int]:
    """The two children of a parent that load, when both have come so far as to ignore SIGTERM."""
    children = Path(f"/proc/{parent_pid}/task/{parent_pid}/children").read_text().split()
    loading = [int(pid) for pid in children if _is_loading(int(pid))]
    return loading if len(loading) == 2 else []


def _is_loading(pid: int) -> bool:
    if "spawn_main" not in Path(f"/proc/{pid}/cmdline").read_text():
        return False  # it tracks what Python shares among processes
    status = Path(f"/proc/{pid}/status").read_text()
    (ignored,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")]
    return bool(int(ignored, 16) & (1 << (signal.SIGTERM - 1)))


def _wait_for(found: Callable[[], Any]) -> Any:
    end_s = time.monotonic() + WAIT_S
    while not (result := found()):
        assert time.monotonic() < end_s
        time.sleep(0.05)
    return result


def test_a_program_that_forgets_to_close_ends_all_the_same(temporary: Path, tmp_path: Path) -> None:
    program = _start(tmp_path, FORGETFUL)
    try:
        assert program.wait(WAIT_S) == 0
    finally:
        program.kill()
        program.communicate()


def test_closing_does_not_wait_for_what_is_being_computed(temporary: Path) -> None:
    owners = Owners([Loading()], ["cpu"])
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(owners.client().ask, "double", {"do": "sleep", "seconds": WAIT_S})
        time.sleep(0.3)
        begun_s = time.monotonic()
        owners.close()
        assert time.monotonic() - begun_s < CLOSE_S
        assert isinstance(asked.exception(), OwnerLostError)
        assert "ended with the run" in str(asked.exception())


@dataclass
class Looking(Asking):
    """Tells where torch is."""

    def run(self, task: int) -> dict[str, Any]:
        return {
            "owner_pid": self.models.ask("double", {})["pid"],
            "is_imported": "torch" in sys.modules,
            "is_mapped": _maps_torch(os.getpid()),
            "owner_maps": _maps_torch(self.models.ask("double", {})["pid"]),
        }


def _maps_torch(pid: int) -> bool:
    return "torch" in Path(f"/proc/{pid}/maps").read_text()


def _need_torch() -> None:
    if subprocess.run([sys.executable, "-c", "import torch"], capture_output=True, check=False).returncode:
        skip_or_fail("REQUIRE_MODELS", "torch is not installed")


def test_a_model_whose_package_switches_tf32_on_changes_no_other(temporary: Path) -> None:
    _need_torch()
    with Owners([Loading(), Loading("loose", fails="TF32")], ["cpu"]) as owners:
        answer = owners.client().ask("double", {"do": "tell of torch"})
    assert answer["torch"]
    assert not answer["TF32"]


def test_an_owner_whose_models_need_no_torch_does_not_import_it(owners: Owners) -> None:
    assert not owners.client().ask("double", {"do": "tell of torch"})["torch"]


def test_no_worker_has_torch_while_its_owner_has(temporary: Path) -> None:
    _need_torch()
    with Owners([Loading(fails="torch")], ["cpu"]) as owners:
        outcomes = list(Pool(Looking(owners), 2, StopFlag()).outcomes(Listed(range(4))))
    assert len(outcomes) == 4
    for outcome in outcomes:
        assert outcome.facts is not None, outcome.error
        assert outcome.facts["owner_maps"]
        assert not outcome.facts["is_mapped"]
        assert not outcome.facts["is_imported"]
