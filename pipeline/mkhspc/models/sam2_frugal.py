"""SAM2's image encoder with the same answer in less memory: to a third, on a CPU, for a window.

The network's own modules stay; around them, what acts on each window or row by itself is done in pieces,
and what nobody reads is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

ROWS = 64
"""Of the map of tokens, that go through a perceptron at once: a quarter of the finest."""
WINDOWS = 256
"""Of attention at once: a quarter of those of the finest map."""


def make_frugal(net: Any) -> None:
    """Changes a SAM2 in place; its masks stay the same but for the rounding of sums.

    Args:
        net: from `sam2.build_sam.build_sam2`, with its weights.
    """
    encoder = net.image_encoder
    encoder.neck.position_encoding = _unread()  # of image features: for video alone
    for block in encoder.trunk.blocks:
        block.mlp = _in_pieces(block.mlp, 1, ROWS)
        if block.window_size > 0:
            block.attn = _in_pieces(block.attn, 0, WINDOWS)
    _fuse(encoder.neck.convs[-1], net.sam_mask_decoder, "conv_s0")
    _fuse(encoder.neck.convs[-2], net.sam_mask_decoder, "conv_s1")


def _in_pieces(inner: Module, axis: int, size: int) -> Module:
    """A module that acts on every place of an axis by itself, given so many places at a time."""
    import torch

    class InPieces(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            pieces: list[Tensor] = [self.inner(piece) for piece in torch.split(x, size, axis)]
            return pieces[0] if len(pieces) == 1 else torch.cat(pieces, axis)

    return InPieces()


def _unread() -> Module:
    """Stands for an encoding of positions whose values nobody reads; its shape has the usual axes."""
    import torch

    class Unread(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_empty((1, 1, 1, 1))

    return Unread()


def _fuse(lateral: Any, decoder: Any, name: str) -> None:
    """Makes one convolution of two of 1 x 1 in a row: the finest layers never have 256 channels."""
    import torch

    first, second = lateral.conv, getattr(decoder, name)
    with torch.no_grad():
        outer = second.weight.flatten(1)
        weight, bias = outer @ first.weight.flatten(1), outer @ first.bias + second.bias
    fused = torch.nn.Conv2d(first.in_channels, second.out_channels, 1).to(weight)
    fused.load_state_dict({"weight": weight[..., None, None], "bias": bias})
    lateral.conv = fused
    setattr(decoder, name, torch.nn.Identity())
