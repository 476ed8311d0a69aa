"""Files of weights: read without running any code that is in them, and checked tensor by tensor."""

from __future__ import annotations

import errno
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mkhspc.errors import InputError, UsageError
from mkhspc.models.device import is_full

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_DAMAGE = (
    RuntimeError, pickle.UnpicklingError, struct.error, EOFError, OSError, ValueError, LookupError,
    AttributeError, TypeError,
)  # fmt: skip
"""The errors of the readers of archives and pickles for bytes of another kind, or that end too early; among
them an OSError, EINVAL, for a place before the file's beginning."""
SAFE_TORCH = "2.6"
"""The first version of PyTorch with which a file of weights cannot run code: CVE-2025-32434."""
_COUNTER = ".num_batches_tracked"
"""The end of the names of tensors that count training steps: older files lack them, and nothing that is
computed here depends on them."""


def read_tensors(path: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name; a prefix that data-parallel training leaves is cut.

    Args:
        what: whose weights are wanted, for errors, such as 'ResNet-50'.

    Raises:
        InputError: there is no such file, it is damaged, or holds other things than tensors.
    """
    fix = f"fetch it again, or give a checkpoint of {what}"
    tensors = tensors_in(read_checkpoint(path, fix))
    if tensors is None:
        raise InputError(f"holds other things than the tensors of {what}", where=path, fix=fix)
    return tensors


def read_checkpoint(path: Path, fix: str) -> object:
    """All that a checkpoint holds, in memory.

    Raises:
        InputError: there is no such file, it cannot be read, or it is damaged; with the `fix`.
        RuntimeError, MemoryError: memory is full.
        UsageError: this PyTorch would run code that is in it.
    """
    import torch

    _refuse_unsafe(torch.__version__)
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(error, path, fix) from error
    with file:
        try:
            content: object = torch.load(file, map_location="cpu", weights_only=True)
        except _DAMAGE as error:
            if is_full(error):
                raise  # the file is not at fault: whoever loads it reports full memory
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise _unreadable(error, path, fix) from error
            raise InputError(
                "is truncated, or not a file of weights that PyTorch can read without running code",
                where=path,
                fix=fix,
            ) from error
    return content


def _unreadable(error: OSError, path: Path, fix: str) -> InputError:
    """Of a disk or a file server that does not give the bytes, whatever they are."""
    return InputError(f"the weights cannot be read ({error.strerror})", where=path, fix=fix)


def _refuse_unsafe(version: str) -> None:
    from torch.torch_version import TorchVersion

    if TorchVersion(version) < SAFE_TORCH:
        raise UsageError(
            f"PyTorch {version} can be made to run code by a file of weights (CVE-2025-32434)",
            fix=f"install a newer one: pip install 'torch>={SAFE_TORCH}' 'torchvision>=0.21'",
        )


def tensors_in(content: object) -> dict[str, Tensor] | None:
    """Tensors by name, their numbers in float32, which networks keep; None if there is anything else."""
    import torch

    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        return None
    return {
        name.removeprefix("module."): value.float() if value.is_floating_point() else value
        for name, value in content.items()
    }


def fill(net: Module, tensors: Mapping[str, Tensor], what: str, where: Path) -> None:
    """Gives a network, made on the 'meta' device, these tensors as its own: no second copy of them.

    Raises:
        InputError: a tensor is missing, unknown or of another shape.
    """
    wanted = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    wrong = [
        *(f"{name} is missing" for name in wanted.keys() - given.keys() if not name.endswith(_COUNTER)),
        *(f"{name} is unknown" for name in given.keys() - wanted.keys()),
        *(
            f"{name} has another shape"
            for name in given.keys() & wanted.keys()
            if given[name] != wanted[name]
        ),
    ]
    if wrong:
        raise InputError(
            f"these are not the weights of {what}: {min(wrong)}, and {len(wrong) - 1} more differ",
            where=where,
            fix=f"give a checkpoint of {what}",
        )
    net.load_state_dict(dict(tensors), assign=True, strict=False)
