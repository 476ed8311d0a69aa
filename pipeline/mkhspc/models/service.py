"""What a model on a device takes and gives, and the protocol by which detectors and embedders ask it.

Arrays of a message travel through shared memory when the two sides are different processes; everything else
in it is small. Nothing here imports torch.
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
    """An array of a message.

    Raises:
        TypeError: the value of that name is not an array, or its dtype is another.
    """
    value = message[name]
    if not isinstance(value, np.ndarray) or (dtype is not None and value.dtype != dtype):
        raise TypeError(f"{name} must be an array{f' of {dtype.__name__}' if dtype else ''}")
    return value


@contextmanager
def errors_at(where: str) -> Iterator[None]:
    """Adds a place to the errors raised inside, in front of the one that they have."""
    try:
        yield
    except MkhspcError as error:
        error.where = where if error.where is None else f"{where}, {error.where}"
        raise


class Model(Protocol):
    """Weights on a device, ready to answer."""

    @property
    def precision(self) -> str:
        """What it computes in, such as 'float32'."""
        ...

    @property
    def batch_size(self) -> int:
        """How many items it gives its device at once; falls when the device's memory is too small."""
        ...

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        """Answers requests, perhaps of several tiles, in their order.

        An answer may be an error, of that request alone; an exception concerns all of them.
        """
        ...


class Loader(Protocol):
    """How to load a model; small, picklable, and made without torch."""

    @property
    def name(self) -> str:
        """What workers ask for, such as 'sam2'."""
        ...

    @property
    def resident_bytes(self) -> int:
        """The memory that the model is expected to take in its process, before it has been measured."""
        ...

    def load(self, device: str) -> Model:
        """Loads the weights on to a device, in the process that will answer for them.

        Raises:
            InputError: the weights are missing, damaged or another model's.
        """
        ...


class ModelService(Protocol):
    """What a detector or an embedder asks for the work of a model."""

    def ask(self, model: str, request: Message) -> Message:
        """The model's answer.

        Raises:
            MkhspcError: the model's own error for this request, or its server is lost.
        """
        ...


class NoModels:
    """A service without models, for detectors that are described and not run, or that need no model."""

    def ask(self, model: str, request: Message) -> Message:
        raise RuntimeError(f"the model '{model}' was asked for, but no model is loaded here")


MESSAGE_BYTES = 26_000_000
"""The most that lies in memory between a worker and a model server, in bytes: the answer to a canvas of
Cellpose (`detect.cellpose.CANVAS_BLOCKS`), or the crops that an embedder is asked about at a time
(`measure.embed.MAX_ASKED`). SAM2's windows may be larger where pixels are small."""
