"""Devices: their names, their precision, and what to do when their memory is full.

The one place where a name becomes a `torch.device`. The functions that name torch import it; the others
serve processes that must not.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mkhspc.errors import MkhspcError, UsageError

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Precision = Literal["bfloat16", "float16", "float32"]
BF16_CAPABILITY = (8, 0)
"""The least compute capability that has bfloat16: Ampere's, which computes in it rather than emulating it."""
INSTALL = "install them with: pip install 'mkhspc[models]'"
FREE_MEMORY = "free its memory of other programs, or take a smaller model, fewer of them, or another --device"
ANSWER_S = 300.0
"""The seconds that torch may take to list the GPUs: it starts in some seconds, from a cold disk in a minute,
and a driver that hangs never answers."""
LOOK_AT_GPU = "look at it with nvidia-smi; leave it out with --device, or start again: what is done is kept"
_FULL = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
"""Words of errors of torch's allocators, CUDA, cuBLAS and cuDNN that say that memory is full."""
_PERHAPS_FULL = ("CUBLAS_STATUS_NOT_INITIALIZED", "CUDNN_STATUS_NOT_INITIALIZED")
"""Words of cuBLAS and cuDNN that usually mean that they find no memory to work in; else the GPU is lost."""
_LOST = ("CUDA error", "CUDA driver error", "cuDNN error")
"""The beginnings of errors that come from CUDA itself, its driver or cuDNN."""
_OF_ONE_CALL = ("_STATUS_NOT_SUPPORTED", "_STATUS_BAD_PARAM", "CUBLAS_STATUS_INVALID_VALUE")
"""What cuBLAS and cuDNN refuse before anything is computed: the next call may well be right."""
_IN_USE = "busy or unavailable"
"""Words of CUDA about a GPU that serves one process at a time and has one."""


class DeviceMemoryError(MkhspcError):
    """A single item is too large for what is free of a device's memory."""

    exit_code = 4


class TorchError(UsageError):
    """torch is not installed, does not start, or does not answer."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees; its place in a list of them is its number.

    Attributes:
        precision: the fewest bits that it is made for; which models may use them is for `precision_on`.
        free_bytes: of its memory, what no program held then; None if nobody asked.
        fault: why this torch cannot compute on it, see also `is_in_use`; empty if it can.
    """

    name: str
    memory_bytes: int
    precision: Precision
    free_bytes: int | None = None
    fault: str = ""

    @property
    def is_in_use(self) -> bool:
        """Whether its fault is that other programs hold it just now, which tells nothing of the GPU."""
        return any(said in self.fault for said in (*_FULL, _IN_USE))

    def precision_on(self, reduced: Sequence[Precision]) -> Precision:
        """What a model computes in here that is known to be right in these, and in float32 anyway."""
        return self.precision if self.precision in reduced else "float32"


def find_gpus() -> list[Gpu]:
    """The GPUs that torch sees, asked in a process of its own: this one never imports torch.

    Raises:
        TorchError: torch is not installed, does not start, or does not answer.
    """
    if importlib.util.find_spec("torch") is None:
        raise TorchError("the models need torch, which is not installed", fix=INSTALL)
    # -P: what lies in the working directory, a folder `mkhspc` or a `json.py`, is not what is meant.
    command = [sys.executable, "-P", "-m", __name__]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_S)
    except subprocess.TimeoutExpired as error:
        raise TorchError(
            f"torch did not list the GPUs within {ANSWER_S:g} s",
            fix="look whether `nvidia-smi` answers, or give --device cpu",
        ) from error
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"])[-1]
        raise TorchError(f"torch does not start: {reason}", fix=INSTALL)
    return [Gpu(**gpu) for gpu in json.loads(asked.stdout.splitlines()[-1])]


def device_names(asked: str | torch.device, gpus: Sequence[Gpu]) -> list[str]:
    """The devices that are meant, each as 'cpu' or 'cuda:N'.

    Args:
        asked: 'auto' (every GPU that this torch can compute on, else every one, else the CPU), 'cpu', 'cuda'
            (the first GPU), 'cuda:1', several of these with commas between, or a `torch.device`.
        gpus: those that there are.

    Raises:
        UsageError: a device that is not there, or is named twice.
    """
    there = ["cpu", *(f"cuda:{number}" for number in range(len(gpus)))]
    if str(asked) == "auto":
        usable = [f"cuda:{n}" for n, gpu in enumerate(gpus) if not gpu.fault or gpu.is_in_use]
        return usable or there[1:] or there
    numbered = {"cuda": "cuda:0", "cpu:0": "cpu"}
    names = [numbered.get(name.strip(), name.strip()) for name in str(asked).split(",")]
    for name in names:
        if name not in there:
            raise UsageError(f"there is no device '{name}'", fix=f"there are: {', '.join(there)}, or auto")
        if names.count(name) > 1:
            raise UsageError(f"the device '{name}' is named twice", fix="each device holds the models once")
    return names


def torch_device(asked: str | torch.device) -> torch.device:
    """A device as torch and the packages above it want it, with its number.

    Raises:
        UsageError: it is not there.
    """
    import torch

    (name,) = device_names(asked, _visible_gpus())
    return torch.device(name)


def precision_of(device: torch.device, reduced: Sequence[Precision]) -> Precision:
    """What a model computes in on a device: half the bits on a GPU that is made for a kind of them.

    Args:
        reduced: the precisions below float32 in which the model is known to be right.
    """
    return "float32" if device.type == "cpu" else _visible_gpus()[device.index].precision_on(reduced)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """A context in which networks compute in a precision."""
    import torch

    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def as_current(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which what says 'cuda' and no number means this GPU; nothing changes for a CPU.

    A package that puts something on 'cuda' while it builds a network would open a context on the first GPU,
    which may be another's, full or lost.
    """
    import torch

    return nullcontext() if device.type == "cpu" else torch.cuda.device(device)


@dataclass
class Batch:
    """How many items of one kind a device gets at once; a model keeps it, so that it learns but once."""

    size: int


@dataclass(frozen=True)
class Footprint:
    """What a model takes of a GPU's memory; estimates.

    Attributes:
        held_bytes: by its weights and by what the models beside it keep.
        batch_bytes: by the batch that is usual on a GPU, while it is computed.
    """

    held_bytes: int
    batch_bytes: int

    def batch_in(self, memory_bytes: int, usual: int) -> int:
        """The usual batch, halved as often as it takes to fit a GPU of so much memory; 1 at least."""
        size = usual
        while size > 1 and self.held_bytes + self.batch_bytes * size / usual > memory_bytes:
            size //= 2
        return size


def batch_on(device: torch.device, usual: Mapping[str, int], footprint: Footprint | None) -> Batch:
    """The batch that a model begins with on a device.

    Args:
        usual: by the device's type.
        footprint: None where nothing is known of the model: then only what does not fit makes it smaller.
    """
    if device.type == "cpu":
        return Batch(usual["cpu"])
    memory_bytes = _visible_gpus()[device.index].memory_bytes
    return Batch(footprint.batch_in(memory_bytes, usual["cuda"]) if footprint else usual["cuda"])


def in_batches(
    items: Sequence[Item],
    run: Callable[[Sequence[Item], int], Sequence[Answer]],
    batch: Batch,
    *,
    pads: bool = True,
) -> list[Answer]:
    """What `run` gives for all items, in their order, `batch` of them at a time.

    Where a device's memory is too small for that many, half as many are tried, and so on. What fits stays the
    batch's size; an item that does not even fit alone says nothing of it.

    Args:
        items: anything with a length that can be sliced, such as an array by its first axis.
        run: gives one answer an item. It is given the batch size too, to fill the last items up: kernels,
            and with them the last bits of an answer, depend on the shape of what they are given, and that
            must not depend on what else is asked.
        pads: whether it does so; of one that does not, a few items take no more in a large batch.

    Raises:
        DeviceMemoryError: the memory is too small even for one.
    """
    answers: list[Answer] = []
    size = batch.size
    while len(answers) < len(items):
        part = items[len(answers) : len(answers) + size]
        found, reason = _attempt(part, run, size)
        if found is not None:
            batch.size = size
            answers += [answer for _, answer in zip(part, found, strict=True)]
        elif size == 1:
            raise DeviceMemoryError(
                f"the device's memory is too small for a single item: {reason}", fix=FREE_MEMORY
            )
        else:
            size //= 2
            while not pads and size >= len(part):  # which would be the same again
                size //= 2
    return answers


def _attempt(
    part: Sequence[Item], run: Callable[[Sequence[Item], int], Sequence[Answer]], batch: int
) -> tuple[Sequence[Answer] | None, str]:
    """The answers, or None and why the memory did not do; then whatever `run` had begun is freed."""
    import torch

    try:
        return run(part, batch), ""
    except (RuntimeError, MemoryError) as error:
        if not (is_full(error) or (batch > 1 and _says(error, _PERHAPS_FULL))):
            raise
        reason = str(error).partition("\n")[0].strip() or "out of memory"
    # Only here: the error's traceback held the tensors of the frames it came through.
    gc.collect()
    torch.cuda.empty_cache()
    return None, reason


def is_full(error: Exception) -> bool:
    """Whether an error means that memory is full, of the GPU or of the machine."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    torch = sys.modules.get("torch")  # without it nobody can have raised its error
    is_torchs = torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)
    return is_torchs or _says(error, _FULL)


def _says(error: Exception, words: Sequence[str]) -> bool:
    return any(said in str(error) for said in words)


def is_lost(error: Exception) -> bool:
    """Whether an error of a model means that its process can use the GPU no more.

    After an error of CUDA itself every later call in the same process fails too; memory that is full is
    no such error, nor is a call that was refused for what it asked.
    """
    is_cudas = isinstance(error, RuntimeError) and str(error).startswith(_LOST)
    return is_cudas and not (is_full(error) or _says(error, _OF_ONE_CALL))


def _visible_gpus() -> list[Gpu]:
    import torch

    gpus = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        precision: Precision = "bfloat16" if (about.major, about.minor) >= BF16_CAPABILITY else "float16"
        gpus.append(Gpu(about.name, about.total_memory, precision))
    return gpus


def _looked_at(gpus: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs with what is free of their memory, and whether this torch has kernels for them.

    To ask opens a context on each: not for the model server of one.
    """
    return [_with_free_memory(number, gpu) for number, gpu in enumerate(gpus)]


def _with_free_memory(number: int, gpu: Gpu) -> Gpu:
    import torch

    if fault := _missing_kernels(torch.cuda.get_device_capability(number), torch.cuda.get_arch_list()):
        return replace(gpu, fault=fault)
    try:
        return replace(gpu, free_bytes=torch.cuda.mem_get_info(number)[0])
    except RuntimeError as error:
        return replace(gpu, fault=str(error).strip().partition("\n")[0])


def _missing_kernels(capability: tuple[int, int], built_for: Sequence[str]) -> str:
    """Why code built for these architectures does not run on a GPU of this capability; empty if it does.

    Kernels of 'sm_86' run on 8.6 and later ones of 8; 'compute_86' is translated for all later ones. Other
    makers' architectures have other names, of which nothing is said.
    """
    cudas = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", one) for one in built_for]
    known = [(one[1], (int(one[2]), int(one[3]))) for one in cudas if one]
    runs = [capability >= since and (kind == "compute" or capability[0] == since[0]) for kind, since in known]
    if any(runs) or not known:
        return ""
    return (
        f"this torch has no kernels for its compute capability {capability[0]}.{capability[1]}, "
        f"but for {' '.join(built_for)}"
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps([asdict(gpu) for gpu in _looked_at(_visible_gpus())]) + "\n")
