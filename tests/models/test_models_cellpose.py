"""Cellpose on a device against `CellposeModel.eval` with the same weights."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import need

torch = need("torch")
need("cellpose")
pytestmark = pytest.mark.models

from conecells import cones, one_thread, save_cone_finder, small_backbone  # noqa: E402
from mkhspc.errors import InputError, MkhspcError  # noqa: E402
from mkhspc.models import cellpose  # noqa: E402
from mkhspc.models.cellpose import BLOCK_PX, Cellpose, CellposeLoader  # noqa: E402
from mkhspc.models.device import Batch, DeviceMemoryError  # noqa: E402
from mkhspc.models.service import Message  # noqa: E402
from mkhspc.models.weights.cache import WeightFile  # noqa: E402

LOW, HIGH = 20.0, 220.0
LOWHIGH = np.array([[LOW, HIGH]] * 3)
PAD_PX = 8
"""`eval` puts so much of what is normalised to 0 around every image."""
STEP_PX = 208
PUBLISHED_BYTES = 1_233_587_898
"""Of the file `cpsam`."""

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cellpose") / "cones"
    save_cone_finder(path)
    return path


def load(path: Path) -> Cellpose:
    return CellposeLoader(WeightFile(path.name, path, "0" * 64)).load("cpu")


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    with nullcontext() if "full_size" in request.fixturenames else one_thread():
        yield


@pytest.fixture
def model(weights: Path) -> Cellpose:
    with small_backbone():
        return load(weights)


@pytest.fixture(scope="module")
def official(weights: Path) -> Any:
    from cellpose.models import CellposeModel

    with small_backbone():
        return CellposeModel(pretrained_model=str(weights), device=torch.device("cpu"), use_bfloat16=False)


def picture(side_px: int, seed: int) -> Image:
    """Cones of different sizes, some of them cut by the border, in slightly uneven light."""
    rng = np.random.default_rng(seed)
    at = np.arange(20, side_px + 20, 40)
    centres = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2) + rng.uniform(-4, 4, (len(at) ** 2, 2))
    grey = cones((side_px, side_px), centres, rng.uniform(12, 15), 220.0, 100.0)
    return np.clip(grey + rng.normal(0, 0.4, grey.shape), 0, 255).astype(np.uint8)


def request(image: Image) -> Message:
    """A picture as `eval` would cut it: padded, in blocks a step apart; labels wanted in all of it."""
    padded = np.pad(image, ((PAD_PX, PAD_PX), (PAD_PX, PAD_PX), (0, 0)), constant_values=int(LOW))
    starts = range(0, len(padded) - BLOCK_PX + 1, STEP_PX)
    places = [(x, y) for y in starts for x in starts]
    return {
        "blocks": np.stack([padded[y : y + BLOCK_PX, x : x + BLOCK_PX] for x, y in places]),
        "places": np.array(places, np.int32),
        "fields": np.array([[PAD_PX, PAD_PX, len(padded) - PAD_PX, len(padded) - PAD_PX]], np.int32),
        "lowhigh": LOWHIGH,
    }


def by_eval(official: Any, image: Image) -> tuple[NDArray[np.integer[Any]], NDArray[np.float32]]:
    masks, flows, _ = official.eval(image, normalize={"lowhigh": LOWHIGH}, batch_size=1, tile_overlap=0.05)
    return masks, flows[2]


def flows_only(image: Image) -> Message:
    """As `request`, with labels wanted in a corner alone: they take longer than this network."""
    return {**request(image), "fields": np.array([[PAD_PX, PAD_PX, 72, 72]], np.int32)}


def answer(model: Cellpose, *requests: Message) -> list[Any]:
    return list(model.run(requests))


@pytest.mark.parametrize("side_px", [BLOCK_PX - 2 * PAD_PX, BLOCK_PX + 2 * STEP_PX - 2 * PAD_PX])
def test_labels_equal_those_of_eval_on_a_block_and_on_three_by_three(
    side_px: int, model: Cellpose, official: Any
) -> None:
    image = picture(side_px, seed=side_px)
    masks, logits = by_eval(official, image)
    (found,) = answer(model, request(image))
    assert masks.max() > (side_px / 40 - 1) ** 2
    assert np.array_equal(found["labels"][0], masks)
    assert found["counts"].tolist() == [masks.max()]
    means = [logits[masks == label].mean() for label in range(1, masks.max() + 1)]
    assert np.allclose(found["scores"], means, atol=1e-4)


def test_requests_of_several_tiles_are_answered_each_by_its_own(model: Cellpose, official: Any) -> None:
    images = [picture(240, 1), picture(448, 2), np.full((240, 240, 3), 220, np.uint8)]
    found = answer(model, *(request(image) for image in images))
    expected = [by_eval(official, image)[0] for image in images]
    assert [masks.max() > 0 for masks in expected] == [True, True, False]
    for masks, each in zip(expected, found, strict=True):
        assert np.array_equal(each["labels"][0], masks)


def test_a_block_that_two_tiles_share_goes_through_the_network_once(
    model: Cellpose, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    net = model.net
    monkeypatch.setattr(model, "net", lambda blocks: passes.append(len(blocks)) or net(blocks))
    image = picture(448, 3)
    first, second = answer(model, flows_only(image), flows_only(image))
    (third,) = answer(model, flows_only(image))
    assert sum(passes) == 4
    assert np.array_equal(first["labels"], second["labels"])
    assert np.array_equal(first["labels"], third["labels"])
    answer(model, {**flows_only(image), "lowhigh": LOWHIGH + 1.0})  # the same pixels in another scene
    assert sum(passes) == 8


def test_only_so_many_blocks_are_kept(model: Cellpose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cellpose, "_KEPT", 3)
    for seed in range(3):
        answer(model, flows_only(picture(448, seed)))
        assert len(model._flows) == 3


def test_a_full_device_halves_the_batch_and_changes_no_cell(
    model: Cellpose, official: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, sizes = model.net, []

    def small_device(blocks: torch.Tensor) -> Any:
        sizes.append(len(blocks))
        if len(blocks) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB")
        return net(blocks)

    monkeypatch.setattr(model, "_batch", Batch(8))
    monkeypatch.setattr(model, "net", small_device)
    image = picture(656, 4)
    (found,) = answer(model, request(image))
    assert sizes[:3] == [8, 4, 2]
    answer(model, request(picture(656, 5)))
    assert set(sizes[3:]) == {2}, "it has learnt"
    assert model.batch_size == 2
    masks, _ = by_eval(official, image)
    assert found["labels"].max() == masks.max()
    assert ((found["labels"][0] > 0) != (masks > 0)).mean() < 1e-4


def test_the_network_sees_one_shape_whoever_else_asks(
    model: Cellpose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where the kernels and so the last bits depend on it: equal bits are then expected."""
    net, sizes = model.net, []
    monkeypatch.setattr(model, "_batch", Batch(8))
    monkeypatch.setattr(model, "net", lambda blocks: sizes.append(len(blocks)) or net(blocks))
    one, other = flows_only(picture(240, 5)), flows_only(picture(656, 6))
    answer(model, one)
    (alone,) = model._flows.values()
    model._flows.clear()
    answer(model, other, one)
    assert sizes == [8, 8, 8]
    assert np.array_equal(list(model._flows.values())[-1], alone)


def test_the_network_computes_in_what_the_manifest_states(model: Cellpose) -> None:
    """As on a GPU that is made for it; what is handed on is float32 all the same."""
    seen: set[Any] = set()
    layer = next(layer for layer in model.net.modules() if isinstance(layer, torch.nn.Linear))
    layer.register_forward_hook(lambda _layer, _given, found: seen.add(found.dtype))
    for precision, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        seen.clear()
        model._flows.clear()
        model.precision = precision
        (said,) = answer(model, request(picture(300, seed=1)))
        assert seen == {dtype}
        assert said["scores"].dtype == np.float32


def test_half_the_precision_in_the_file_is_none_in_the_network(weights: Path, tmp_path: Path) -> None:
    halved = {name: value.half() for name, value in torch.load(weights, weights_only=True).items()}
    torch.save(halved, tmp_path / "half")
    with small_backbone():
        model = load(tmp_path / "half")
    assert {value.dtype for value in model.net.state_dict().values()} == {torch.float32}
    (found,) = answer(model, request(picture(240, 7)))
    assert found["counts"][0] > 10


def test_a_device_too_small_for_one_block_fails_the_request_alone(
    model: Cellpose, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(blocks: torch.Tensor) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "net", full)
    errors = answer(model, request(picture(240, 1)), request(picture(240, 2)))
    assert [isinstance(error, MkhspcError) for error in errors] == [True, True]
    assert str(errors[1]).startswith(
        "cellpose on cpu, stage detect: the device's memory is too small for a single item"
    )


def test_numbers_that_are_none_are_an_error_and_no_cells(
    model: Cellpose, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = model.net
    monkeypatch.setattr(model, "net", lambda blocks: (net(blocks)[0] * torch.nan, None))
    (error,) = answer(model, request(picture(240, 1)))
    assert isinstance(error, MkhspcError)
    assert str(error).startswith(
        "cellpose on cpu, stage detect: Cellpose's network answers with values that are not finite"
    )
    assert "models verify" in error.fix
    monkeypatch.setattr(model, "net", net)
    (found,) = answer(model, request(picture(240, 1)))
    assert found["counts"][0] > 10, "what was no number is not kept"


@pytest.mark.parametrize("field", [0, 1])
def test_a_device_too_small_for_the_dynamics_fails_the_request_alone(
    model: Cellpose, monkeypatch: pytest.MonkeyPatch, field: int
) -> None:
    asked, labels = [], cellpose._labels

    def sometimes(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == field + 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return labels(*arguments)

    monkeypatch.setattr(cellpose, "_labels", sometimes)
    one = request(picture(240, 1))
    twice = {**one, "fields": np.repeat(one["fields"], 2, axis=0)}
    error, fine = answer(model, twice, one)
    assert isinstance(error, DeviceMemoryError)
    assert str(error).startswith(
        "cellpose on cpu, stage detect: the device's memory is too small for a single item"
    )
    assert "smaller model" in error.fix
    assert fine["counts"][0] > 10


def test_a_path_that_is_not_there_is_refused_and_nothing_else_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cellpose.models.cache_model_path", lambda name: pytest.fail("it fell back"))
    with pytest.raises(InputError, match=r"cpsam: the weights cannot be read"):
        load(tmp_path / "cpsam")


def test_a_truncated_file_is_refused(weights: Path, tmp_path: Path) -> None:
    whole, broken = weights.read_bytes(), tmp_path / "cpsam"
    for share in (0.0, 0.001, 0.5, 0.999):
        broken.write_bytes(whole[: int(share * len(whole))])
        with small_backbone(), pytest.raises(InputError, match="is truncated"):
            load(broken)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("downsample.down.res_down_0.conv.conv_0.0.weight", r"is a Cellpose 3 \(or older\) model"),
        ("encoder.cls_token", "is a Cellpose-DINO model"),
        ("image_encoder.pos_embed", "is a checkpoint of SAM itself"),
        ("fc.weight", "not the weights of Cellpose-SAM"),
    ],
)
def test_another_model_is_refused_by_its_name(name: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    torch.save({name: torch.zeros(3), "diam_mean": torch.tensor([30.0])}, path)
    with small_backbone(), pytest.raises(InputError, match=says):
        load(path)


def test_a_network_of_another_size_is_refused(weights: Path) -> None:
    with pytest.raises(InputError, match=r"not the weights of Cellpose-SAM .* has another shape|is missing"):
        load(weights)  # by the class in its full size


@pytest.fixture
def full_size(tmp_path: Path) -> Iterator[Path]:
    """Random weights as Cellpose itself would save them."""
    from cellpose.vit import CPSAM

    torch.manual_seed(0)
    path = tmp_path / "cpsam"
    CPSAM().save_model(str(path))
    gc.collect()
    yield path
    path.unlink()


@pytest.mark.slow
def test_the_real_network_gives_the_flows_of_eval_on_a_block(full_size: Path) -> None:
    from cellpose.models import CellposeModel

    assert full_size.stat().st_size == pytest.approx(PUBLISHED_BYTES, rel=1e-4)
    image = picture(BLOCK_PX - 2 * PAD_PX, 0)
    theirs = CellposeModel(pretrained_model=str(full_size), device=torch.device("cpu"), use_bfloat16=False)
    masks, flows, _ = theirs.eval(image, normalize={"lowhigh": LOWHIGH})
    del theirs
    gc.collect()
    model = load(full_size)
    (found,) = answer(model, request(image))
    assert np.array_equal(found["labels"][0], masks)
    (ours,) = model._flows.values()
    inner = ours[:, PAD_PX:-PAD_PX, PAD_PX:-PAD_PX]
    assert np.allclose(inner[:2], flows[1], atol=1e-4)
    assert np.allclose(inner[2], flows[2], atol=1e-4)
