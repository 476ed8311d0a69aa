"""Models that do what a request says, for model servers in real processes; and ways to ask them."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mkhspc.errors import InputError, MkhspcError, UsageError
from mkhspc.models.server.client import ModelClient, ModelsAddress
from mkhspc.models.server.supervisor import ModelServers
from mkhspc.models.service import Message

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
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "all") + (" too late" if "torch" in sys.modules else "")
        if self.fails == "refuse" or (self.fails == "refuse again" and not _is_first({"mark": self.mark})):
            raise InputError("this is no checkpoint", where=Path("w.pt"), fix="fetch it again")
        if self.fails == "full":
            import torch

            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
        if self.fails == "lost":
            raise RuntimeError(
                "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might ..."
            )
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
            torch.backends.cudnn.allow_tf32 = True
        if self.fails == "import":
            import no_such_package  # type: ignore[import-not-found]  # noqa: F401
        if self.free_files is not None:
            _leave_room_for_files(self.free_files)
        return Doing(device, gpus)


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

    def __init__(self, device: str, gpus: str = "") -> None:
        self.device = device
        self.gpus = gpus
        self.runs = 0
        self.batch_size = 8

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        self.runs += 1
        self.batch_size = min([self.batch_size, *(r.get("batch size", 8) for r in requests)])
        said = {"batch": len(requests), "device": self.device, "gpus": self.gpus}
        return [{**_done(r), **said} for r in requests]


def _done(request: Mapping[str, Any]) -> dict[str, Any]:
    match request.get("do"):
        case "sleep":
            time.sleep(request["seconds"])
        case "hold":
            Path(request["begun"]).touch()
            wait_for(Path(request["release"]).exists)
        case "raise":
            raise ZeroDivisionError("division by zero")
        case "refuse":
            raise InputError("the window is empty", where="slide.czi", fix="look at it")
        case "lose the GPU" if _is_first(request):
            raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be ...")
        case "lose every GPU":
            raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be ...")
        case "fill the memory":
            raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ...")
        case "die once" if _is_first(request):
            os.kill(os.getpid(), signal.SIGKILL)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop once" if _is_first(request):  # as when a kernel never returns
            os.kill(os.getpid(), signal.SIGSTOP)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang up":  # as a process whose end waits for a driver
            _hang_up()
            time.sleep(WAIT_S)
        case "answer without room":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            return {"answer": np.zeros(8192, np.uint8)}
        case "exit":
            os._exit(7)
        case "answer an object":
            return {"answer": np.array([object()])}
        case "tell of torch":
            torch = sys.modules.get("torch")
            flags = (torch.backends.cuda.matmul, torch.backends.cudnn) if torch else ()
            return {"torch": bool(torch), "TF32": np.array([flag.allow_tf32 for flag in flags], np.bool_)}
    arrays = {f"twice {n}": 2 * v for n, v in request.items() if isinstance(v, np.ndarray)}
    return {"pid": os.getpid(), **arrays}


def _hang_up() -> None:
    """Says nothing more on any line; whoever listens at the other ends sees them closed."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # of what is no line
            socket.socket(fileno=os.dup(int(descriptor.name))).shutdown(socket.SHUT_WR)


def _is_first(request: Mapping[str, Any]) -> bool:
    mark = Path(request["mark"])
    if mark.exists():
        return False
    mark.touch()
    return True


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where other temporary files than pytest's own go; it must be empty at the end."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


@pytest.fixture
def servers(temporary: Path) -> Iterator[ModelServers]:
    with ModelServers([Loading()], ["cpu"]) as servers:
        yield servers


def ask_together(servers: ModelServers, *requests: Message) -> tuple[list[Any], list[str]]:
    """What is answered, or raised, when each request is asked by a client of its own; what `watch` told."""
    lines: list[str] = []
    with ThreadPoolExecutor(len(requests)) as threads:
        asked = [threads.submit(servers.address.open().ask, "double", request) for request in requests]
        lines += watch_until(servers, lambda: all(one.done() for one in asked))
    return [one.exception() or one.result() for one in asked], lines + servers.watch()


def watch_until(servers: ModelServers, is_over: Callable[[], bool]) -> list[str]:
    lines: list[str] = []
    end_s = time.monotonic() + WAIT_S
    while not is_over():
        assert time.monotonic() < end_s, lines
        lines += servers.watch()
        time.sleep(0.01)
    return lines


def ask(servers: ModelServers, client: ModelClient, request: Message) -> tuple[list[Any], list[str]]:
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(client.ask, "double", request)
        lines = watch_until(servers, asked.done)
    return [asked.exception() or asked.result()], lines + servers.watch()


@dataclass
class Asking:
    """A worker's work: to ask."""

    address: ModelsAddress

    def prepare(self) -> None:
        self.models = self.address.open()

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


def wait_for(found: Callable[[], Any]) -> Any:
    end_s = time.monotonic() + WAIT_S
    while not (result := found()):
        assert time.monotonic() < end_s
        time.sleep(0.05)
    return result


def is_stopped(pid: int) -> bool:
    """Whether a SIGSTOP has reached a process: a moment after it was sent all its threads may still run."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
