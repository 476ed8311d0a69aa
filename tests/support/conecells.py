"""A Cellpose-SAM small enough for tests that truly finds cells: dark cones, whose grey falls evenly inwards.

The class and the format of its weights are Cellpose's own; only the backbone is narrower, and its weights
are written down rather than learnt. Each token passes its 8 x 8 pixels on, as linear as the normalisations
on the way allow, and the last layer takes the gradient of grey as the flow and darkness as the cell's
probability. Attention to the whole block is left on, at random and faintly, as a real network has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

PATCH_PX = 8
PIXELS = PATCH_PX**2
WIDTH, HEADS = 80, 4
STEADY = 100.0
"""Two channels hold this and its negative: beside them the rest hardly changes what is normalised by."""
CHANNELS = 256
LEVEL = (CHANNELS / 2) ** 0.5
"""What the normalisation makes of `STEADY`."""
CONE_DEPTH = 0.6
"""How much darker the tip of a cone is than its surroundings, on the scale that the network is given."""
RADIUS_PX = 15.0
"""Of a cone at the scale of the network."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in one thread: several, on cores that others use too, wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def small_backbone() -> Iterator[None]:
    """Cellpose's class builds its network on a backbone of two narrow layers."""
    from segment_anything.build_sam import _build_sam

    def build(checkpoint: None) -> Any:
        return _build_sam(
            encoder_embed_dim=WIDTH,
            encoder_depth=2,
            encoder_num_heads=HEADS,
            encoder_global_attn_indexes=[0, 1],
            checkpoint=checkpoint,
        )

    with mock.patch("cellpose.vit.sam_model_registry", {"vit_l": build}):
        yield


def save_cone_finder(path: Path, attention: float = 0.005) -> None:
    """Writes the weights, as Cellpose's `save_model` does.

    Args:
        attention: how much a token hears of the others.
    """
    from cellpose.vit import CPSAM

    torch.manual_seed(0)
    with small_backbone():
        net = CPSAM()
    encoder = net.encoder
    with torch.no_grad():
        stem = encoder.patch_embed.proj
        stem.weight.zero_()
        stem.bias.zero_()
        for pixel in range(PIXELS):
            stem.weight[pixel, 1, pixel // PATCH_PX, pixel % PATCH_PX] = 1.0
        encoder.pos_embed.zero_()
        encoder.pos_embed[..., PIXELS], encoder.pos_embed[..., PIXELS + 1] = STEADY, -STEADY
        for block in encoder.blocks:
            for layer in (block.attn.proj, block.mlp.lin2):
                torch.nn.init.normal_(layer.weight, std=attention / WIDTH**0.5)
                layer.weight[PIXELS:] = 0.0
                layer.bias.zero_()
        narrow, _, wide, _ = encoder.neck
        narrow.weight.zero_()
        wide.weight.zero_()
        for channel in range(PIXELS + 2):
            narrow.weight[channel, channel] = 1.0
        for pixel in range(PIXELS):  # once more, negative: what is subtracted as the mean is then nothing
            narrow.weight[PIXELS + 2 + pixel, pixel] = -1.0
        for channel in range(CHANNELS):
            wide.weight[channel, channel, 1, 1] = 1.0
        net.out.weight.zero_()
        net.out.bias.zero_()
        readout = np.concatenate(_readouts()) * STEADY / LEVEL
        net.out.weight[:, :PIXELS, 0, 0] = torch.from_numpy(readout).float()
        net.out.bias[2 * PIXELS :] = 5.0 * (1.0 - 0.1 * CONE_DEPTH)
    net.save_model(str(path))


def _readouts() -> tuple[NDArray[np.float64], ...]:
    """(64, 64) each: from a patch to its flow in y, flow in x (length 5 on a cone), and cell probability."""
    basis = np.eye(PIXELS).reshape(PIXELS, PATCH_PX, PATCH_PX)
    steepness = CONE_DEPTH / RADIUS_PX
    down, across = (
        (-5.0 / steepness * np.gradient(basis, axis=axis)).reshape(PIXELS, PIXELS).T for axis in (1, 2)
    )
    return down, across, -5.0 * np.eye(PIXELS)


def cones(
    shape: tuple[int, int], centres: NDArray[np.float64], radius_px: float, light: float, dark: float
) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 grey with cones at (n, 2) centres x, y; no two may touch."""
    grey = np.full(shape, light)
    for x, y in centres:
        reach = int(radius_px) + 1
        rows = slice(max(0, int(y) - reach), max(0, int(y) + reach + 1))
        columns = slice(max(0, int(x) - reach), max(0, int(x) + reach + 1))
        ys, xs = np.ogrid[rows, columns]
        ys, xs = ys[: grey[rows, columns].shape[0]], xs[:, : grey[rows, columns].shape[1]]
        distance = np.hypot(ys + 0.5 - y, xs + 0.5 - x)
        cone = light - (light - dark) * np.maximum(0.0, 1.0 - distance / radius_px)
        grey[rows, columns] = np.minimum(grey[rows, columns], cone)
    return np.repeat(np.rint(grey)[..., None], 3, axis=2).astype(np.uint8)
