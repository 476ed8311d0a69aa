"""What a model on a device takes and gives, and how those who need it ask: nothing here imports torch.

Arrays of a message travel by shared memory when the two sides are different processes; everything
else in it is small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mkhspc.errors import MkhspcError

Message = Mapping[str, NDArray[Any] | int | float | str | bool | None]


def array_of(message: Message, name: str, dtype: type[np.generic] | None = None) -> NDArray[Any]:
    """An array of a message; `TypeError` where whoever made the message put in something else."""
    value = message[name]
    if not isinstance(value, np.ndarray) or (dtype is not None and value.dtype != dtype):
        raise TypeError(f"{name} must be an array{f' of {dtype.__name__}' if dtype else ''}")
    return value


@contextmanager
def told_at(where: str) -> Iterator[None]:
    """Errors that come through here tell this place, in front of their own if they have one."""
    try:
        yield
    except MkhspcError as error:
        error.where = where if error.where is None else f"{where}, {error.where}"
        raise


class Model(Protocol):
    """Weights on a device, ready to answer."""

    @property
    def precision(self) -> str:
        """In what it computes, such as 'float32'."""
        ...

    @property
    def batch_size(self) -> int:
        """How many items it gives its device at once: fewer from when its memory did not do for more."""
        ...

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        """Answers requests, of several tiles perhaps, in their order.

        An answer may be the error of that one request; an exception is that of all of them.
        """
        ...


class Loader(Protocol):
    """What it takes to load a model: small, picklable, and made without torch."""

    @property
    def name(self) -> str:
        """What workers ask for, such as 'sam2'."""
        ...

    @property
    def resident_bytes(self) -> int:
        """What the model is expected to take of its process's memory, before it has been measured."""
        ...

    def load(self, device: str) -> Model:
        """Loads the weights on to a device, in the process that will own them.

        Raises:
            InputError: the weights are missing, damaged or another model's.
        """
        ...


class Asker(Protocol):
    """Whoever can be asked for the work of a model."""

    def ask(self, model: str, request: Message) -> Message:
        """The model's answer.

        Raises:
            MkhspcError: the model's own error for this request, or its owner is lost.
        """
        ...


class Nobody:
    """Stands in where nothing is asked: a detector is only looked at, or needs no model."""

    def ask(self, model: str, request: Message) -> Message:
        raise RuntimeError(f"there is nobody here to ask the model '{model}'")


class Local:
    """Models in this very process."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    def ask(self, model: str, request: Message) -> Message:
        (answer,) = self._models[model].run([request])
        if isinstance(answer, MkhspcError):
            raise answer
        return answer


MESSAGE_BYTES = 26_000_000
"""What lies between a worker and the owner of a model at most, in nobody's memory: the answer to a canvas of
Cellpose (`detect.cellpose.CANVAS_BLOCKS`) or the crops that an embedder is asked about at a time
(`measure.embed.MAX_ASKED`). SAM2's windows may be larger where pixels are small."""
