"""A checkpoint of SAM2 in the official format becomes a network on a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkhspc.errors import InputError
from mkhspc.models.device import Footprint, as_current, torch_device
from mkhspc.models.sam2 import Sam2
from mkhspc.models.weights.checkpoint import fill, read_checkpoint, tensors_in

if TYPE_CHECKING:
    from torch import Tensor

_RUNNING_BYTES = 1_300_000_000
"""The memory that the process takes beyond the weights while it encodes and decodes on a CPU, in bytes, torch
included; measured."""
_WIDTHS = {(96, 12): "tiny", (96, 16): "small", (112, 24): "base-plus", (144, 48): "large"}
"""The sizes of SAM2 by the width and the number of the image encoder's blocks, from the package's configs."""
_LETTERS = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
"""What the package's config files call the sizes."""
_TRUNK = "image_encoder.trunk"
STRIP_ROWS = 64
"""The encoder's blocks take so many rows of their map at a time: a quarter of the finest map, and a multiple
of the windows of attention there, 4 and 8 rows."""


@dataclass(frozen=True)
class Sam2Loader:
    """Loads SAM2 or SAM2.1 of any size from a checkpoint in the official format.

    Attributes:
        checkpoint: the file.
        variant: the one that it must be, such as 'sam2.1-tiny'; None takes whichever it is.
        footprint: of these weights, if it is known.
    """

    checkpoint: Path
    variant: str | None = None
    footprint: Footprint | None = None
    name: str = "sam2"

    @property
    def resident_bytes(self) -> int:
        return _RUNNING_BYTES + self.checkpoint.stat().st_size

    def load(self, device: str) -> Sam2:
        """The model on the device; see `Loader`."""
        from sam2.build_sam import build_sam2

        tensors = read_tensors(self.checkpoint)
        variant = variant_of(tensors, self.checkpoint)
        if self.variant not in (None, variant):
            raise InputError(
                f"these are the weights of {variant}, not of {self.variant}",
                where=self.checkpoint,
                fix=f"give the checkpoint of {self.variant}, or ask for {variant}",
            )
        family, _, size = variant.partition("-")
        target = torch_device(device)
        # 'cpu' is where the network is to end; on the way the package puts parts of it on the current GPU.
        with as_current(target):
            net = build_sam2(f"configs/{family}/{family}_hiera_{_LETTERS[size]}.yaml", device="cpu")
        fill(net, tensors, variant, self.checkpoint)
        _save_memory(net)
        return Sam2(net, target, variant, self.footprint)


def _save_memory(net: Any) -> None:
    """Makes the image encoder take two thirds of the memory for the same answer, up to the rounding of sums.

    Blocks with windowed attention act on every window by itself, so they may take strips of windows. The
    encoding of positions that goes with the image's features serves video alone; nobody here reads it.
    """
    for block in net.image_encoder.trunk.blocks:
        if block.window_size > 0 and STRIP_ROWS % block.window_size == 0:
            block.forward = partial(_in_strips, block.forward)
    net.image_encoder.neck.position_encoding.forward = lambda features: features.new_empty((1, 1, 1, 1))


def _in_strips(forward: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """What a block makes of (n, rows, columns, channels), strip by strip."""
    import torch

    return torch.cat([forward(strip) for strip in torch.split(rows, STRIP_ROWS, 1)], 1)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of an official checkpoint, read without running any code that is in it.

    Raises:
        InputError: there is no such file, it is damaged, or it is of something else.
    """
    fix = "fetch it again, or give an official checkpoint of SAM2 or SAM2.1"
    content = read_checkpoint(path, fix)
    if isinstance(content, Mapping) and "mask_decoder.iou_token.weight" in content:
        raise InputError("is a checkpoint of SAM 1, another model", where=path, fix=fix)
    tensors = tensors_in(content.get("model") if isinstance(content, Mapping) else None)
    if tensors is None:
        raise InputError("holds no weights of SAM2", where=path, fix=fix)
    return tensors


def variant_of(tensors: Mapping[str, Tensor], where: Path) -> str:
    """Which SAM2 the tensors are of, such as 'sam2.1-tiny'.

    Raises:
        InputError: of none.
    """
    stem = tensors.get(f"{_TRUNK}.patch_embed.proj.weight")
    blocks = {name.split(".")[3] for name in tensors if name.startswith(f"{_TRUNK}.blocks.")}
    size = None if stem is None else _WIDTHS.get((stem.shape[0], len(blocks)))
    if size is None:
        raise InputError(
            "holds the weights of no SAM2 that we know",
            where=where,
            fix=f"give an official checkpoint of one of the sizes {', '.join(_LETTERS)}",
        )
    return f"{'sam2.1' if 'no_obj_embed_spatial' in tensors else 'sam2'}-{size}"
