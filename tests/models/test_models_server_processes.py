from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import need
from listsource import ListSource
from mkhspc.models.server.reports import ServerLostError
from mkhspc.models.server.supervisor import CLOSE_S, ModelServers
from mkhspc.pool.pool import Pool
from mkhspc.process.signals import StopFlag
from serverdoubles import WAIT_S, Asking, Loading, is_stopped, wait_for


def test_servers_report_what_they_take(servers: ModelServers) -> None:
    (loaded,) = servers.loaded
    assert 10_000_000 < loaded.rss_bytes < 500_000_000
    assert 0 <= loaded.load_s < WAIT_S
    assert loaded.precision == {"double": "float32"}


def test_the_names_of_the_sockets_are_nobody_elses(servers: ModelServers, temporary: Path) -> None:
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_long_path_of_temporary_files_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with ModelServers([Loading()], ["cpu"]) as servers:
        assert servers.address.open().ask("double", {})["batch"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_server_leaves_stop_signals_to_its_parent(servers: ModelServers, number: int) -> None:
    client = servers.address.open()
    pid = client.ask("double", {})["pid"]
    assert isinstance(pid, int)
    os.kill(pid, number)
    assert client.ask("double", {})["pid"] == pid


PARENT = """
import threading, time
from mkhspc.models.server.supervisor import ModelServers
from serverdoubles import Loading
if __name__ == "__main__":
    if {state!r} == "loading":
        ModelServers([Loading(fails="slow")], ["cpu", "cpu"])
    servers = ModelServers([Loading()], ["cpu", "cpu"])
    pids = [servers.address.open().ask("double", {{}})["pid"] for _ in range(2)]
    sleep = ("double", {{"do": "sleep", "seconds": 60}})
    threading.Thread(target=servers.address.open().ask, args=sleep).start()
    time.sleep(0.3)
    print(*pids, flush=True)
    time.sleep(60)
"""


FORGETFUL = """
from mkhspc.models.server.supervisor import ModelServers
from serverdoubles import Loading
if __name__ == "__main__":
    servers = ModelServers([Loading()], ["cpu"])
"""


@pytest.mark.parametrize("state", ["loading", "computing"])
def test_servers_end_with_a_parent_that_is_killed_and_leave_nothing(
    temporary: Path, tmp_path: Path, state: str
) -> None:
    parent = _start(tmp_path, PARENT.format(state=state))
    try:
        if state == "computing":
            assert parent.stdout is not None
            pids = [int(word) for word in parent.stdout.readline().split()]
        else:
            pids = wait_for(lambda: _servers_that_load(parent.pid))
    finally:
        parent.kill()
        parent.communicate()
    assert len(set(pids)) == 2
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    wait_for(lambda: list(temporary.iterdir()) == [])


def _start(folder: Path, script: str) -> subprocess.Popen[str]:
    (folder / "script.py").write_text(script)
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, str(folder / "script.py")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def _servers_that_load(parent_pid: int) -> list[int]:
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


PARENT_OF_WORKER = """
import multiprocessing
from mkhspc.models.server.supervisor import ModelServers
from serverdoubles import Loading
def work(address, answered):
    client = address.open()
    answered.put(client.ask("double", {})["pid"])
    client.ask("double", {"do": "sleep", "seconds": 600})
if __name__ == "__main__":
    servers = ModelServers([Loading()], ["cpu"])
    context = multiprocessing.get_context("spawn")
    answered = context.SimpleQueue()
    worker = context.Process(target=work, args=(servers.address, answered))
    worker.start()
    print(answered.get(), worker.pid, flush=True)
    worker.join()
"""


def test_a_worker_ends_though_its_parent_and_the_server_are_killed_at_once(
    temporary: Path, tmp_path: Path
) -> None:
    """Nobody is left to publish that the run has ended."""
    parent = _start(tmp_path, PARENT_OF_WORKER)
    try:
        assert parent.stdout is not None
        server_pid, worker_pid = (int(word) for word in parent.stdout.readline().split())
        parent.send_signal(signal.SIGSTOP)
        wait_for(lambda: is_stopped(parent.pid))
        os.kill(server_pid, signal.SIGKILL)
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: not Path(f"/proc/{worker_pid}").exists())
    (folder,) = temporary.iterdir()
    shutil.rmtree(folder)


def test_a_program_that_forgets_to_close_ends_all_the_same(temporary: Path, tmp_path: Path) -> None:
    program = _start(tmp_path, FORGETFUL)
    try:
        assert program.wait(WAIT_S) == 0
    finally:
        program.kill()
        program.communicate()


def test_closing_does_not_wait_for_what_is_being_computed(temporary: Path) -> None:
    servers = ModelServers([Loading()], ["cpu"])
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(servers.address.open().ask, "double", {"do": "sleep", "seconds": WAIT_S})
        time.sleep(0.3)
        begun_s = time.monotonic()
        servers.close()
        assert time.monotonic() - begun_s < CLOSE_S
        assert isinstance(asked.exception(), ServerLostError)
        assert "ended with the run" in str(asked.exception())


@dataclass
class Looking(Asking):
    """Tells where torch is."""

    def run(self, task: int) -> dict[str, Any]:
        return {
            "server_pid": self.models.ask("double", {})["pid"],
            "is_imported": "torch" in sys.modules,
            "is_mapped": _maps_torch(os.getpid()),
            "server_maps": _maps_torch(self.models.ask("double", {})["pid"]),
        }


def _maps_torch(pid: int) -> bool:
    return "torch" in Path(f"/proc/{pid}/maps").read_text()


def test_a_server_on_the_cpu_sees_no_gpu_before_torch_starts(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with ModelServers([Loading()], ["cuda:1", "cpu"]) as servers:
        seen = {answer["device"]: answer["gpus"] for answer in _answers_of_two(servers)}
    assert seen == {"cuda:1": "4,5", "cpu": ""}


def _answers_of_two(servers: ModelServers) -> list[Any]:
    return [servers.address.open().ask("double", {}) for _ in range(2)]


@pytest.mark.models
def test_a_model_whose_package_switches_tf32_on_changes_no_other(temporary: Path) -> None:
    """Neither products of matrices nor convolutions."""
    need("torch")
    with ModelServers([Loading(), Loading("loose", fails="TF32")], ["cpu"]) as servers:
        answer = servers.address.open().ask("double", {"do": "tell of torch"})
    assert answer["torch"]
    np.testing.assert_array_equal(answer["TF32"], [False, False])


@pytest.mark.models
def test_convolutions_do_not_compute_in_tf32_though_no_package_asked_for_it(temporary: Path) -> None:
    """It is on in torch as it comes."""
    need("torch")
    with ModelServers([Loading(fails="torch")], ["cpu"]) as servers:
        answer = servers.address.open().ask("double", {"do": "tell of torch"})
    np.testing.assert_array_equal(answer["TF32"], [False, False])


def test_a_server_whose_models_need_no_torch_does_not_import_it(servers: ModelServers) -> None:
    assert not servers.address.open().ask("double", {"do": "tell of torch"})["torch"]


@pytest.mark.models
def test_no_worker_has_torch_while_its_server_has(temporary: Path) -> None:
    need("torch")
    with ModelServers([Loading(fails="torch")], ["cpu"]) as servers:
        outcomes = list(Pool(Looking(servers.address), 2, StopFlag()).outcomes(ListSource(range(4))))
    assert len(outcomes) == 4
    for outcome in outcomes:
        assert outcome.facts is not None, outcome.error
        assert outcome.facts["server_maps"]
        assert not outcome.facts["is_mapped"]
        assert not outcome.facts["is_imported"]
