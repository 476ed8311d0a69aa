"""Cellpose 4 on a device: the network for blocks of all tiles together, then flows to labels field by field.

Pachitariu, Rariden and Stringer 2025, https://github.com/MouseLand/cellpose (BSD-3). Normalisation, the
average of overlapping blocks and the dynamics are the package's own functions, so that equal blocks give
the masks of `CellposeModel.eval`; only the package's way from a path to a network is not used: it falls
back silently to other weights.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mkhspc.errors import InputError, MkhspcError
from mkhspc.models.device import (
    Batch,
    Footprint,
    Precision,
    autocast,
    batch_on,
    in_batches,
    precision_of,
    torch_device,
)
from mkhspc.models.service import Message, array_of, errors_at
from mkhspc.models.weights.cache import WeightFile
from mkhspc.models.weights.checkpoint import fill, read_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module

BLOCK_PX = 256
"""The side of the network's input in pixels, which cannot be changed."""
NATIVE_DIAMETER_PX = 30.0
"""The diameter in pixels to which Cellpose's training scaled cells."""
MIN_SIZE_PX = 15
"""Labels of fewer pixels are noise, by Cellpose's own default; the smallest cell that is stored is far
larger."""

_TITLE = "Cellpose-SAM (Cellpose 4)"
BATCH = {"cpu": 1, "cuda": 32}
"""Blocks that the network is given at once, by device: one keeps all the cores of a CPU busy."""
REDUCED: tuple[Precision, ...] = ("bfloat16",)
"""Precisions below float32 that may be used: bfloat16 is the default of `CellposeModel`; nothing is published
of float16."""
_GROUP = 256
"""Blocks of several requests are run together, up to about so many: their flows take 200 MB."""
_KEPT = 512
"""Blocks whose flows are kept, 400 MB: a tile has those along its border in common with the next one."""
_RUNNING_BYTES = 1_900_000_000
"""The memory in bytes that the process takes beyond the weights: 1.1 GB with torch, as measured on a CPU, the
flows that are kept, and those of a group with their canvas."""

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class CellposeLoader:
    """Loads Cellpose-SAM from weights in its official format, `cpsam` or trained further by the user."""

    weights: WeightFile
    footprint: Footprint | None = None
    name: str = "cellpose"

    @property
    def resident_bytes(self) -> int:
        return _RUNNING_BYTES + self.weights.path.stat().st_size

    def load(self, device: str) -> Cellpose:
        """The model on the device; see `Loader`."""
        import torch
        from cellpose.vit import CPSAM

        tensors = read_tensors(self.weights.path, _TITLE)
        _refuse_relatives(tensors, self.weights)
        with torch.device("meta"):
            net = CPSAM()
        fill(net, tensors, _TITLE, self.weights.path)
        return Cellpose(net, torch_device(device), self.footprint)


def _refuse_relatives(tensors: Mapping[str, Tensor], weights: WeightFile) -> None:
    """Names the models that are easily taken for Cellpose-SAM."""
    relative = ""
    if any(name.startswith(("downsample.", "upsample.")) for name in tensors):
        relative = "a Cellpose 3 (or older) model, which Cellpose 4 cannot use"
    elif "encoder.cls_token" in tensors:
        relative = "a Cellpose-DINO model, which needs another licence and another network"
    elif any(name.startswith("image_encoder.") for name in tensors):
        relative = "a checkpoint of SAM itself, not of Cellpose-SAM"
    if relative:
        raise InputError(f"is {relative}", where=weights.path, fix="fetch cpsam: mkhspc models fetch cpsam")


@dataclass(frozen=True)
class _Scene:
    """A request: blocks of a canvas, and the fields of it in which labels are wanted.

    Attributes:
        blocks: (n, 256, 256, 3) uint8 RGB.
        places: (n, 2) x, y of each block's corner on the canvas.
        fields: (m, 4) x0, y0, x1, y1, all of one size and covered by blocks.
        lowhigh: (3, 2) the intensities of red, green and blue that count as 0 and as 1.
    """

    blocks: Bytes
    places: Ints
    fields: Ints
    lowhigh: NDArray[np.float64]

    @classmethod
    def of(cls, request: Message) -> _Scene:
        blocks, places, fields, lowhigh = (array_of(request, name) for name in cls.__dataclass_fields__)
        if blocks.dtype != np.uint8 or blocks.shape != (len(places), BLOCK_PX, BLOCK_PX, 3):
            raise ValueError(f"blocks must be (n, {BLOCK_PX}, {BLOCK_PX}, 3) uint8")
        return cls(blocks, places, fields, lowhigh)

    @cached_property
    def digests(self) -> list[bytes]:
        """What the flows of each block depend on, in short."""
        scale = self.lowhigh.tobytes()
        return [hashlib.blake2b(block.tobytes() + scale, digest_size=16).digest() for block in self.blocks]

    def levels(self) -> Floats:
        """(256, 3) what each intensity of each channel is for the network: as cellpose computes it."""
        from cellpose.transforms import normalize_img

        plain = np.repeat(np.arange(256, dtype=np.float32)[:, None, None], 3, axis=2)
        return np.asarray(normalize_img(plain, lowhigh=self.lowhigh), np.float32)[:, 0]


class Cellpose:
    """A Cellpose-SAM on a device.

    A request holds `blocks`, `places`, `fields` and `lowhigh` (see `_Scene`). Where blocks overlap, their
    flows are averaged as by Cellpose; labels are found in each field as if it were an image of its own.

    The answer holds labels (m, h, w) int32, in each field 1, 2, ...; counts (m,) of them; and scores
    (counts.sum(),) float32, field after field: the mean of the cell probability's logit over the label.

    Attributes:
        precision: what the network computes in; the dynamics are always float32.
    """

    def __init__(self, net: Module, device: torch.device, footprint: Footprint | None = None) -> None:
        self.net = net.to(device).eval()
        self.precision = precision_of(device, REDUCED)
        self._device = device
        self._batch = batch_on(device, BATCH, footprint)
        self._flows: OrderedDict[bytes, Floats] = OrderedDict()

    @property
    def batch_size(self) -> int:
        return self._batch.size

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        """Labels of all requests' fields; see the class."""
        answers: list[Message | MkhspcError] = []
        for group in _groups([_Scene.of(request) for request in requests]):
            try:
                with errors_at(self._place):
                    flows = self._flows_of(group)
            except MkhspcError as error:
                answers += [error] * len(group)
            else:
                answers += [self._answer(scene, flows) for scene in group]
        return answers

    @property
    def _place(self) -> str:
        """For errors."""
        return f"cellpose on {self._device}, stage detect"

    def _answer(self, scene: _Scene, flows: Mapping[bytes, Floats]) -> Message | MkhspcError:
        try:
            with errors_at(self._place):
                return self._labelled(scene, flows)
        except MkhspcError as error:
            return error

    def _flows_of(self, scenes: Sequence[_Scene]) -> Mapping[bytes, Floats]:
        """The flows of all blocks by their keys; equal blocks go through the network once."""
        found: dict[bytes, Floats] = {}
        new: dict[bytes, tuple[Bytes, Floats]] = {}
        for scene in scenes:
            levels = scene.levels()
            for digest, block in zip(scene.digests, scene.blocks, strict=True):
                if digest in self._flows:
                    found[digest] = self._flows[digest]
                    self._flows.move_to_end(digest)
                else:
                    new[digest] = (block, levels)
        flows = in_batches(list(new.values()), self._through_network, self._batch)
        for digest, flow in zip(new, flows, strict=True):
            found[digest] = flow
            if np.isfinite(flow).all():  # else whoever asks for the block again has it computed again
                self._flows[digest] = flow
        while len(self._flows) > _KEPT:
            self._flows.popitem(last=False)
        return found

    def _through_network(self, blocks: Sequence[tuple[Bytes, Floats]], batch: int) -> list[Floats]:
        """(3, 256, 256) of each block and its levels: flow in y, flow in x, logit of the cell probability.

        They are repeated to fill the batch; see `in_batches`.
        """
        import torch

        pictures = np.stack([_normalised(block, levels) for block, levels in blocks])
        full = np.resize(pictures, (batch, *pictures.shape[1:]))
        with torch.inference_mode(), autocast(self._device, self.precision):
            flows: Floats = self.net(torch.from_numpy(full).to(self._device))[0].float().cpu().numpy()
        return list(flows[: len(blocks)])

    def _labelled(self, scene: _Scene, flows: Mapping[bytes, Floats]) -> Message:
        """The labels of one request's fields."""
        from cellpose.transforms import average_tiles

        of_blocks = [flows[digest] for digest in scene.digests]
        if not all(np.isfinite(each).all() for each in of_blocks):
            raise MkhspcError(
                "Cellpose's network answers with values that are not finite",
                fix="verify its weights: mkhspc models verify; if they are right, try --device cpu",
            )
        width, height = (scene.places.max(axis=0) + BLOCK_PX).tolist()
        rows, columns = ([(at, at + BLOCK_PX) for at in scene.places[:, axis].tolist()] for axis in (1, 0))
        canvas = average_tiles(np.stack(of_blocks), rows, columns, height, width)
        fields = [canvas[:, y0:y1, x0:x1] for x0, y0, x1, y1 in scene.fields.tolist()]
        # One after the other: the dynamics run on the device too, and its memory may be full.
        one = Batch(1)
        labels = in_batches(fields, lambda some, _: [_labels(field, self._device) for field in some], one)
        scores = [_mean_logits(found, field[2]) for found, field in zip(labels, fields, strict=True)]
        return {
            "labels": np.stack(labels),
            "counts": np.array([len(each) for each in scores], np.int32),
            "scores": np.concatenate(scores),
        }


def _normalised(block: Bytes, levels: Floats) -> Floats:
    """A block as the network takes it, (3, 256, 256)."""
    return np.stack([levels[block[..., channel], channel] for channel in range(3)])


def _groups(scenes: Sequence[_Scene]) -> Iterator[list[_Scene]]:
    """In their order, so many together that their blocks are about `_GROUP`."""
    group: list[_Scene] = []
    for scene in scenes:
        group.append(scene)
        if sum(len(each.blocks) for each in group) >= _GROUP:
            yield group
            group = []
    if group:
        yield group


def _labels(field: Floats, device: torch.device) -> Ints:
    """The labels 1, 2, ... of (3, h, w) flows and cell probability, with Cellpose's default thresholds."""
    from cellpose.dynamics import resize_and_compute_masks

    masks = resize_and_compute_masks(
        np.ascontiguousarray(field[:2]), np.ascontiguousarray(field[2]), min_size=MIN_SIZE_PX, device=device
    )
    return np.asarray(masks, np.int32)


def _mean_logits(labels: Ints, logits: Floats) -> Floats:
    """(count,) mean over each label."""
    sizes = np.bincount(labels.ravel())[1:]
    sums = np.bincount(labels.ravel(), logits.ravel().astype(np.float64))[1:]
    return (sums / np.maximum(sizes, 1)).astype(np.float32)
