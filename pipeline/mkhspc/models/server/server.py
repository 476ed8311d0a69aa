"""Life of a process that owns the models of one device: it answers the workers' requests in batches.

While a batch is computed the next one gathers: no request waits for company, and none that has it runs alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from mkhspc.errors import MkhspcError
from mkhspc.models.device import (
    FREE_MEMORY,
    INSTALL,
    LOOK_AT_GPU,
    DeviceMemoryError,
    is_full,
    is_lost,
)
from mkhspc.models.server.mailbox import Fault, LostGpu, Mailbox, Note, Question
from mkhspc.models.service import Loader, Message, Model
from mkhspc.process.limits import usable_cores
from mkhspc.process.memory import tree_rss_bytes
from mkhspc.process.shared_memory import anonymous_file
from mkhspc.process.signals import STOP_SIGNALS

ANSWERED = "answered"
"""What a process tells its parent when a model of its has done a request, the first time."""
ROOM = "fewer --num-workers, or more memory; what is done is kept"
TOO_MANY_FILES = "fewer --num-workers, or a higher limit of open files: ulimit -n"
PAUSE_S = 0.1
ADMIT_S = 1.0
"""For a worker that has connected to hand over its memory, which it does at once: nobody else is served
meanwhile. One that a busy machine keeps from it connects again."""
EXIT_LOST = 1
SEEN_S = 5.0
"""The most between two looks of the parent that counts as time its process has had. Beyond that both may have
been stopped, by `scontrol suspend` or Ctrl-Z: the clock runs on meanwhile."""


@dataclass(frozen=True)
class Loaded:
    """A process whose models are ready.

    Attributes:
        rss_bytes: what it has in memory, before the first request.
        load_s: what loading took, the start of the process not counted.
        precision: what each model computes in, by its name.
    """

    device: str
    rss_bytes: int
    load_s: float
    precision: Mapping[str, str]


class Deadline:
    """When the parent may take its process for stuck; lies in memory that both see.

    No messages: the parent may look away for a while, and its process shall not wait for it to read them.

    Args:
        request_s: what the process may take for a request.
        descriptor: of that memory; new by default.
        clock: in seconds; the same for both.
    """

    def __init__(
        self, request_s: float, descriptor: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._request_s = request_s
        self._descriptor = anonymous_file("mkhspc-deadline") if descriptor is None else descriptor
        self._clock = clock
        self._looked_s = clock()
        self._written = b""
        self._unseen_s = 0.0  # of the time since that was written

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self._request_s, reduction.DupFd(self._descriptor))

    def allow(self, seconds: float) -> None:
        """From now on."""
        os.pwrite(self._descriptor, _ALLOWED.pack(self._clock() + seconds, seconds), 0)

    def lift(self) -> None:
        """Any time may be taken, as for waiting."""
        os.ftruncate(self._descriptor, 0)

    @contextmanager
    def of_requests(self, count: int) -> Iterator[None]:
        """While so many requests are answered together."""
        self.allow(count * self._request_s)
        try:
            yield
        finally:
            self.lift()

    def exceeded_s(self) -> float:
        """How much time was allowed, if that is over; else 0. For the parent, to be asked often.

        What has passed unseen, see `SEEN_S`, is allowed besides. It is remembered here and not written:
        the process may be writing.
        """
        last_s, self._looked_s = self._looked_s, self._clock()
        written = os.pread(self._descriptor, _ALLOWED.size, 0)
        if len(written) < _ALLOWED.size:
            return 0.0
        if written != self._written:
            self._written, self._unseen_s = written, 0.0
        end_s, allowed_s = _ALLOWED.unpack(written)
        begun_s = end_s - allowed_s
        self._unseen_s += max(0.0, self._looked_s - max(last_s, begun_s) - SEEN_S)
        return float(allowed_s) if self._looked_s > end_s + self._unseen_s else 0.0

    def close(self) -> None:
        os.close(self._descriptor)


_ALLOWED = struct.Struct("=dd")
"""The moment, by `time.monotonic`, which is the same for all processes; and what was allowed."""


def _received(request_s: float, descriptor: Any) -> Deadline:
    return Deadline(request_s, descriptor.detach())


def own(
    parent: Connection,
    listening: socket.socket,
    loaders: Sequence[Loader],
    device: str,
    directory: Path,
    deadline: Deadline,
) -> None:
    """Loads the models, tells the parent, and answers until the parent closes its end or is gone.

    Args:
        listening: where workers connect; the parent's too, so that they can wait while this process is
            being replaced by another.
        directory: removed when the parent ends without having done so.
        deadline: of loading, as the parent has set it; here it is set for each request.
    """
    for number in STOP_SIGNALS:  # the parent decides; a Ctrl-C reaches the whole process group
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent, directory), daemon=True).start()
    os.dup2(2, 1)  # what libraries print is no result
    if device == "cpu":  # before torch is imported: some packages put things on a GPU wherever there is one
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin would take the workers' cores
    begun_s = time.monotonic()
    try:
        models = {loader.name: _load(loader, device) for loader in loaders}
    except MkhspcError as error:
        parent.send(Fault.of(error))
        return
    _compute_in_full_float32()
    deadline.lift()
    parent.send(
        Loaded(
            device,
            rss_bytes=tree_rss_bytes(),
            load_s=round(time.monotonic() - begun_s, 3),
            precision={name: m.precision for name, m in models.items()},
        )
    )
    try:
        _Desk(models, device, listening, parent, deadline).serve()
    except Exception as error:
        if not is_lost(error):
            raise
        with suppress(ConnectionError):
            parent.send(LostGpu(_reason(error)))
        os._exit(EXIT_LOST)  # an orderly end would use the GPU once more


def _end_with(parent: Connection, directory: Path) -> None:
    """Ends this process with its parent, in the middle of whatever it does."""
    with suppress(EOFError, OSError):
        parent.recv()
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


def _load(loader: Loader, device: str) -> Model:
    try:
        return loader.load(device)
    except MkhspcError:
        raise
    except Exception as error:  # the parent must hear of it, whatever it is
        kind = DeviceMemoryError if is_full(error) else MkhspcError
        raise kind(
            f"the model '{loader.name}' does not load on {device}: {_reason(error)}", fix=_way_out(error)
        ) from error


def _reason(error: Exception) -> str:
    """An error in one line: CUDA's have more, which are for who writes kernels."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _way_out(error: Exception) -> str:
    """What to do about a model that does not load."""
    if isinstance(error, ImportError):
        return INSTALL
    if is_full(error):
        return FREE_MEMORY
    return LOOK_AT_GPU if is_lost(error) else "check its weights with: mkhspc models verify"


def _compute_in_full_float32() -> None:
    """Switches TF32 off for all models here.

    Cellpose's import switches it on for products of matrices; for convolutions it is on unless somebody says
    otherwise.
    """
    if "torch" in sys.modules:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False


@dataclass
class _Worker:
    connection: Connection
    mailbox: Mailbox


@dataclass
class _Request:
    worker: _Worker
    model: str
    message: Message
    is_repeated: bool


class _Desk:
    """The models and who asks them."""

    def __init__(
        self,
        models: Mapping[str, Model],
        device: str,
        listening: socket.socket,
        parent: Connection,
        deadline: Deadline,
    ) -> None:
        self._models = models
        self._device = device
        self._listening = listening
        self._parent = parent
        self._deadline = deadline
        self._has_answered = False
        self._batch_sizes = {name: model.batch_size for name, model in models.items()}
        self._workers: dict[Connection, _Worker] = {}

    def serve(self) -> None:
        while True:
            for group in _groups(list(self._waiting())):
                self._begin(request.worker for request in group)
                for request, answer in zip(group, self._answers(group), strict=True):
                    self._send(request.worker, answer)
                    if not (self._has_answered or isinstance(answer, Fault)):
                        self._has_answered = True
                        self._tell_parent(ANSWERED)
                self._tell_of_smaller_batches()

    def _waiting(self) -> Iterator[_Request]:
        """Waits for a request, and takes all that are there."""
        for one in wait([self._listening, *self._workers]):
            if not isinstance(one, Connection):
                self._admit()
            elif request := self._take(self._workers[one]):
                yield request

    def _admit(self) -> None:
        try:
            connection = Connection(self._listening.accept()[0].detach())
        except OSError:  # too many open files: it waits in the queue, as there is no way to tell it
            time.sleep(PAUSE_S)
            return
        try:
            if not connection.poll(ADMIT_S):
                connection.close()
                return
            mailbox = Mailbox(reduction.recv_handle(connection))
        except (EOFError, ConnectionError):  # it died meanwhile
            connection.close()
            return
        except (RuntimeError, OSError) as error:  # the system hands over no descriptor when there is no room
            what = f"the memory of a worker was not received; too many open files? ({error})"
            with suppress(ConnectionError):
                connection.send(Fault(MkhspcError, what, f"the models on {self._device}", TOO_MANY_FILES))
            connection.close()
            return
        worker = self._workers[connection] = _Worker(connection, mailbox)
        try:
            connection.send(os.getpid())
        except ConnectionError:
            self._dismiss(worker)

    def _take(self, worker: _Worker) -> _Request | None:
        try:
            question: Question = worker.connection.recv()
        except (EOFError, ConnectionError):
            self._dismiss(worker)
            return None
        try:
            message = worker.mailbox.fetch(question.letter)
        except (EOFError, OSError, MemoryError, ValueError) as error:
            self._begin([worker])
            self._send(worker, self._fault(question.model, error))
            return None
        return _Request(worker, question.model, message, question.is_repeated)

    def _begin(self, workers: Iterable[_Worker]) -> None:
        """Tells whose requests are in danger from now on: should this process die, it may be of them."""
        for worker in workers:
            with suppress(ConnectionError):  # seen when it is read from
                worker.connection.send(True)

    def _answers(self, group: Sequence[_Request]) -> list[Message | Fault]:
        """Answers of one model; of several requests that fail together each is tried alone."""
        name = group[0].model
        if name not in self._models:
            there = ", ".join(self._models)
            return [Fault(MkhspcError, f"there is no model '{name}' here, but: {there}", None, "")] * len(
                group
            )
        try:
            with self._deadline.of_requests(len(group)):
                answers = self._models[name].run([request.message for request in group])
            return [
                Fault.of(answer) if isinstance(answer, MkhspcError) else answer
                for _, answer in zip(group, answers, strict=True)
            ]
        except Exception as error:  # any fault of one request must not take the others with it
            if is_lost(error):
                raise  # ends the process, see `own`: only another one can use the device
            fault = self._fault(name, error)
        if len(group) == 1:
            return [fault]
        return [answer for request in group for answer in self._answers([request])]

    def _fault(self, model: str, error: Exception) -> Fault:
        if isinstance(error, MkhspcError):
            return Fault.of(error)
        kind, fix = (DeviceMemoryError, FREE_MEMORY) if is_full(error) else (MkhspcError, "")
        return Fault(kind, _reason(error), f"the model '{model}' on {self._device}", fix)

    def _send(self, worker: _Worker, answer: Message | Fault) -> None:
        where = f"an answer of a model on {self._device}"
        try:
            letter = answer if isinstance(answer, Fault) else worker.mailbox.post(answer)
        except TypeError as error:  # the model gave what no message takes
            letter = Fault(MkhspcError, str(error), where, "")
        except (OSError, MemoryError) as error:
            letter = Fault(MkhspcError, f"there is no room for it ({_reason(error)})", where, ROOM)
        with suppress(ConnectionError):  # seen when it is read from
            worker.connection.send(letter)

    def _tell_of_smaller_batches(self) -> None:
        for name, before in self._batch_sizes.items():
            size = self._batch_sizes[name] = self._models[name].batch_size
            if size < before:
                full = f"memory does not do for batches of {before} of '{name}'"
                self._tell_parent(Note(f"{full}; they are of {size} from now on"))

    def _tell_parent(self, what: str | Note) -> None:
        with suppress(ConnectionError):  # it is gone, and this process is about to follow
            self._parent.send(what)

    def _dismiss(self, worker: _Worker) -> None:
        """Forgets a worker that has ended."""
        del self._workers[worker.connection]
        worker.connection.close()
        worker.mailbox.close()


def _groups(requests: Sequence[_Request]) -> list[list[_Request]]:
    """What is run at once: requests of one model, but alone those in whose company a process died."""
    together: dict[str, list[_Request]] = {}
    for request in requests:
        if not request.is_repeated:
            together.setdefault(request.model, []).append(request)
    return [*together.values(), *([request] for request in requests if request.is_repeated)]
