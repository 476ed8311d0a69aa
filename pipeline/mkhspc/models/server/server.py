"""A model server: it answers the workers' requests in batches, on one device.

While a batch is computed the next one gathers: no request waits for others, and those that wait at the same
time share a batch.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection, wait
from typing import NoReturn

from mkhspc.errors import MkhspcError
from mkhspc.models.device import FREE_MEMORY, DeviceMemoryError, is_full, is_lost
from mkhspc.models.server.activity import Activity
from mkhspc.models.server.message import MessageHeader, MessageMemory, Request
from mkhspc.models.service import Message, Model

MAKE_ROOM = "use fewer --num-workers, or give the job more memory; finished tiles are kept"
TOO_MANY_FILES = "use fewer --num-workers, or raise the limit of open files: ulimit -n"
PAUSE_S = 0.1
"""Seconds until a worker is let in again after one could not be, for too many open files."""


@dataclass(frozen=True)
class _Worker:
    connection: Connection
    memory: MessageMemory


@dataclass(frozen=True)
class _Received:
    """A request with its arrays, and who waits for the answer."""

    worker: _Worker
    request: Request
    message: Message


class ModelServer:
    """Models on a device, and the workers that ask them.

    Args:
        models: by the names that workers ask for.
        listener: where workers connect.
        parent: takes lines for the run's log.
        request_s: the seconds that one request may take.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        device: str,
        listener: socket.socket,
        parent: Connection,
        activity: Activity,
        request_s: float,
    ) -> None:
        self._models = models
        self._device = device
        self._listener = listener
        self._parent = parent
        self._activity = activity
        self._request_s = request_s
        self._batch_sizes = {name: model.batch_size for name, model in models.items()}
        self._newcomers: set[Connection] = set()
        self._workers: dict[Connection, _Worker] = {}

    def serve(self) -> NoReturn:
        """Answers for ever.

        Raises:
            RuntimeError: an error of CUDA after which only another process can use the device.
        """
        while True:
            for batch in _batches(list(self._wait_for_requests())):
                self._announce(one.worker for one in batch)
                for one, answer in zip(batch, self._answers(batch), strict=True):
                    self._send(one.worker, answer)
                self._report_smaller_batches()

    def _wait_for_requests(self) -> Iterator[_Received]:
        """Waits until something arrives, and takes all that has."""
        for one in wait([self._listener, *self._newcomers, *self._workers]):
            if not isinstance(one, Connection):
                self._accept()
            elif one in self._newcomers:
                self._admit(one)
            elif received := self._receive(self._workers[one]):
                yield received

    def _accept(self) -> None:
        try:
            self._newcomers.add(Connection(self._listener.accept()[0].detach()))
        except OSError:  # too many open files; the worker waits in the queue, as there is no way to tell it
            time.sleep(PAUSE_S)

    def _admit(self, connection: Connection) -> None:
        """Receives a worker's memory, and confirms it."""
        self._newcomers.remove(connection)
        try:
            memory = MessageMemory(reduction.recv_handle(connection))
        except (EOFError, ConnectionError):  # the worker has ended
            connection.close()
        except (RuntimeError, OSError) as error:  # the system hands over no descriptor where there is no room
            what = f"the memory of a worker was not received; too many open files? ({error})"
            where = f"the models on {self._device}"
            with suppress(ConnectionError):
                connection.send(MkhspcError(what, where=where, fix=TOO_MANY_FILES))
            connection.close()
        else:
            self._workers[connection] = _Worker(connection, memory)
            with suppress(ConnectionError):  # noticed when it is read from
                connection.send(None)

    def _receive(self, worker: _Worker) -> _Received | None:
        """A worker's next request; None where there is none to answer."""
        try:
            request: Request = worker.connection.recv()
        except (EOFError, ConnectionError):
            self._dismiss(worker)
            return None
        try:
            return _Received(worker, request, worker.memory.read(request.header))
        except (EOFError, OSError, MemoryError, ValueError) as error:
            self._announce([worker])
            self._send(worker, self._as_error(request.model, error))
            return None

    def _dismiss(self, worker: _Worker) -> None:
        """Forgets a worker that has ended."""
        del self._workers[worker.connection]
        worker.connection.close()
        worker.memory.close()

    def _announce(self, workers: Iterable[_Worker]) -> None:
        """Tells workers that their requests are begun: if this process dies now, it may be of them."""
        for worker in workers:
            with suppress(ConnectionError):  # noticed when it is read from
                worker.connection.send(True)

    def _answers(self, batch: Sequence[_Received]) -> Sequence[Message | MkhspcError]:
        """Answers of one model; of several requests that fail together each is tried alone."""
        name = batch[0].request.model
        if name not in self._models:
            error = f"there is no model '{name}' here; there are: {', '.join(self._models)}"
            return [MkhspcError(error)] * len(batch)
        try:
            return self._run(name, batch)
        except Exception as error:  # any error of one request must not take the others with it
            if is_lost(error):
                raise
            if len(batch) == 1:
                return [self._as_error(name, error)]
        return [answer for one in batch for answer in self._answers([one])]

    def _run(self, name: str, batch: Sequence[_Received]) -> Sequence[Message | MkhspcError]:
        with self._activity.lasting(len(batch) * self._request_s):
            answers = self._models[name].run([one.message for one in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} requests")
            if not all(isinstance(answer, MkhspcError) for answer in answers):
                self._activity.has_answered = True
        return answers

    def _as_error(self, model: str, error: Exception) -> MkhspcError:
        if isinstance(error, MkhspcError):
            return error
        kind, fix = (DeviceMemoryError, FREE_MEMORY) if is_full(error) else (MkhspcError, "")
        return kind(in_one_line(error), where=f"the model '{model}' on {self._device}", fix=fix)

    def _send(self, worker: _Worker, answer: Message | MkhspcError) -> None:
        reply = answer if isinstance(answer, MkhspcError) else self._written(worker, answer)
        with suppress(ConnectionError):  # noticed when it is read from
            worker.connection.send(reply)

    def _written(self, worker: _Worker, answer: Message) -> MessageHeader | MkhspcError:
        where = f"an answer of a model on {self._device}"
        try:
            return worker.memory.write(answer)
        except TypeError as error:  # the model gave what a message does not take
            return MkhspcError(str(error), where=where)
        except (OSError, MemoryError) as error:
            return MkhspcError(f"there is no room for it ({in_one_line(error)})", where=where, fix=MAKE_ROOM)

    def _report_smaller_batches(self) -> None:
        for name, before in self._batch_sizes.items():
            size = self._batch_sizes[name] = self._models[name].batch_size
            if size < before:
                full = f"memory does not do for batches of {before} of '{name}'"
                with suppress(ConnectionError):  # the parent is gone, and this process is about to follow
                    self._parent.send(f"{full}; they are of {size} from now on")


def _batches(received: Sequence[_Received]) -> list[list[_Received]]:
    """What is run at once: requests of one model, and alone those of which a server may have died."""
    together: dict[str, list[_Received]] = {}
    for one in received:
        if not one.request.runs_alone:
            together.setdefault(one.request.model, []).append(one)
    return [*together.values(), *([one] for one in received if one.request.runs_alone)]


def in_one_line(error: Exception) -> str:
    """An error in one line; CUDA's have more, meant for those who write kernels."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
