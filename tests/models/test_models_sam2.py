"""SAM2 on a device, with random weights in the official format, against the package's own predictor."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from blobs import CALIBRATION
from conftest import need
from localmodels import LocalModels
from mkhspc.detect.contract import Detection, Window
from mkhspc.detect.mask_logits import masks_of
from mkhspc.errors import InputError, MkhspcError
from mkhspc.geometry import Box
from mkhspc.measure import embed_sam2
from mkhspc.models import sam2 as subject, sam2_loader
from mkhspc.models.device import Batch, DeviceMemoryError
from mkhspc.models.sam2 import Embedding, Sam2
from mkhspc.models.sam2_loader import Sam2Loader, read_tensors, variant_of
from mkhspc.models.sam2_masks import REASONS, Gate, SmallMask, coverage, is_same_cell, one_of_each_cell

torch = need("torch")
need("sam2")
pytestmark = pytest.mark.models

SHAPE = (380, 300)
"""Height and width of the window: neither is the model's, nor the other."""
LENIENT = {
    "min_score": 0.0,
    "min_stability": 0.0,
    "min_area_px": 0.0,
    "max_area_px": 1e9,
    "near_px": 1e9,
    "max_ratio": 1e9,
    "shared": 1.1,
    "same_px": 0.0,
}


@dataclass
class Official:
    """The package's predictor, which has seen the window, with all that it says of each prompt."""

    predictor: Any
    points: np.ndarray
    masks: list[np.ndarray]
    scores: list[np.ndarray]
    small: list[np.ndarray]


@pytest.fixture(scope="module")
def model(sam2_checkpoint: Path) -> Sam2:
    return Sam2Loader(sam2_checkpoint).load("cpu")


@pytest.fixture
def encodings(model: Sam2, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of every image that the encoder is given."""
    seen: list[tuple[int, ...]] = []
    encode = model.net.forward_image

    def counted(image: Any) -> Any:
        seen.append(tuple(image.shape))
        return encode(image)

    monkeypatch.setattr(model.net, "forward_image", counted)
    return seen


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """Blurred noise: something to see at every scale."""
    import cv2

    rng = np.random.default_rng(6)
    picture = sum(
        cv2.resize(rng.uniform(0, 80, (n, n, 3)), SHAPE[::-1], interpolation=cv2.INTER_CUBIC)
        for n in (5, 25, 90)
    )
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def official(sam2_checkpoint: Path, rgb: np.ndarray) -> Official:
    """The package's own network and predictor, with the same weights."""
    from sam2.build_sam import build_sam2
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    net = build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", str(sam2_checkpoint), device="cpu")
    predictor = SAM2ImagePredictor(net)
    predictor.set_image(rgb)
    points = np.array([(40.0, 60.5), (150.2, 200.0), (260.0, 333.3)], np.float32)
    said = [predictor.predict(point[None], np.array([1])) for point in points]
    return Official(predictor, points, *(list(each) for each in zip(*said, strict=True)))


def request(rgb: np.ndarray, points: np.ndarray, **changed: object) -> dict[str, Any]:
    return {
        "kind": "segment",
        "key": "window",
        "rgb": rgb,
        "points": points,
        "prior_area_px": np.zeros(len(points), np.float32),
        **LENIENT,
        **changed,
    }


def answer(model: Sam2, asked: dict[str, Any]) -> dict[str, Any]:
    (said,) = model.run([asked])
    if isinstance(said, MkhspcError):
        raise said
    return dict(said)


def open_logits(monkeypatch: pytest.MonkeyPatch, model: Sam2, small: np.ndarray, scores: np.ndarray) -> None:
    """Makes the decoder give these logits, (prompts, masks, side, side), whatever it is asked."""

    def decode(*_: object, **asked: Any) -> tuple[Any, ...]:
        count = len(asked["sparse_prompt_embeddings"])
        picked = [min(i, len(small) - 1) for i in range(count)]
        return torch.tensor(small[picked]), torch.tensor(scores[picked]), None, None

    monkeypatch.setattr(model.net.sam_mask_decoder, "forward", decode)


def discs(*wanted: tuple[float, float, float], side: int = 256) -> np.ndarray:
    """(1, n, side, side) logits of discs x, y, radius; as steep as 2 a pixel."""
    y, x = np.mgrid[:side, :side] + 0.5
    return np.stack([2.0 * (r - np.hypot(x - cx, y - cy)) for cx, cy, r in wanted])[None].astype(np.float32)


# The same as the package itself


def test_masks_and_scores_are_the_predictors(model, rgb, official, monkeypatch):
    """The border's ground is the only one that the random masks could not be freed from by a number."""
    monkeypatch.setattr(
        subject, "first_failure", lambda measured, *_: torch.full_like(measured.area_px, 7).long()
    )
    said = answer(model, request(rgb, official.points))
    assert said["prompt"].tolist() == [0, 1, 2]
    for (box, mask), score, wholes, scores in zip(
        masks_of(said, SHAPE), said["score"], official.masks, official.scores, strict=True
    ):
        best = int(scores.argmax())
        drawn = np.zeros(SHAPE, np.bool_)
        drawn[box.slices_in(Box(0, 0, *SHAPE[::-1]))] = mask
        whole = wholes[best] > 0
        assert 0 < whole.sum() < whole.size
        assert (drawn & whole).sum() / (drawn | whole).sum() >= 0.999
        assert score == pytest.approx(scores[best], abs=1e-3)


def test_the_mask_for_a_box_is_the_predictors(model, rgb, official):
    box = np.array([60.0, 100.0, 200.0, 260.0], np.float32)
    masks, scores, _ = official.predictor.predict(box=box, multimask_output=False)
    said = answer(model, {"kind": "refine", "key": "window", "rgb": rgb, "boxes": box[None]})
    ((place, mask),) = masks_of(said, SHAPE)
    drawn = np.zeros(SHAPE, np.bool_)
    drawn[place.slices_in(Box(0, 0, *SHAPE[::-1]))] = mask
    whole = masks[0] > 0
    assert (drawn & whole).sum() / (drawn | whole).sum() >= 0.999
    assert said["score"][0] == pytest.approx(scores[0], abs=1e-3)


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """With its holes filled: what is stored of a mask as the cell."""
    pieces, count = ndimage.label(mask)
    sizes = [int((pieces == piece).sum()) for piece in range(1, count + 1)]
    return np.asarray(ndimage.binary_fill_holes(pieces == 1 + int(np.argmax(sizes))))


def test_features_are_the_mean_of_the_embedding_under_the_cell(model, rgb, official, monkeypatch):
    """The random masks have many pieces."""
    monkeypatch.setattr(
        subject, "first_failure", lambda measured, *_: torch.full_like(measured.area_px, 7).long()
    )
    said = answer(model, request(rgb, official.points))
    embedding = official.predictor.get_image_embedding()[0].numpy()
    for vector, small, scores in zip(said["features"], official.small, official.scores, strict=True):
        mask = small[scores.argmax()] > 0
        assert largest_piece(mask).sum() != mask.sum()
        inside = np.argwhere(largest_piece(mask))
        naive = np.mean([embedding[:, y // 4, x // 4] for y, x in inside.tolist()], axis=0)
        np.testing.assert_allclose(vector, naive, atol=1e-4)


def test_features_under_a_given_mask_weigh_the_embedding_by_area(model, rgb, official):
    """Against the embedding enlarged so far that every pixel of the window holds whole samples of it."""
    mask = np.zeros(SHAPE, np.bool_)
    mask[101:177, 33:90] = np.random.default_rng(1).random((76, 57)) < 0.6
    box = np.array([[33, 101, 90, 177]], np.int32)
    asked = {"kind": "pool", "key": "window", "rgb": rgb, "boxes": box, "masks": mask[101:177, 33:90].ravel()}
    (vector,) = answer(model, asked)["features"]
    embedding = official.predictor.get_image_embedding()[0].numpy()
    fine = 16  # 64 cells over 380 and 300 px: 64 * 380 * 16 samples and so on hold both grids' edges exactly
    total, weight = np.zeros(256), 0
    for y, x in np.argwhere(mask).tolist():
        rows = ((y + (np.arange(fine) + 0.5) / fine) * 64 / SHAPE[0]).astype(int)
        columns = ((x + (np.arange(fine) + 0.5) / fine) * 64 / SHAPE[1]).astype(int)
        total += embedding[:, rows][:, :, columns].mean(axis=(1, 2))
        weight += 1
    np.testing.assert_allclose(vector, total / weight, atol=1e-4)


def test_coverage_is_a_masks_area_cell_by_cell():
    rng = np.random.default_rng(2)
    mask = rng.random((30, 41)) < 0.5
    covered = coverage(mask, (7, 11), (96, 64), 32)
    assert covered.sum() == pytest.approx(mask.sum(), rel=1e-6)
    whole = np.zeros((96, 64))
    whole[11:41, 7:48] = mask
    np.testing.assert_allclose(covered, whole.reshape(32, 3, 32, 2).sum(axis=(1, 3)), atol=1e-5)


# One encoder pass a window


def test_a_window_is_encoded_once_however_many_prompts(model, rgb, encodings):
    points = np.random.default_rng(0).uniform(0, 300, (19, 2)).astype(np.float32)
    answer(model, request(rgb, points, key="once"))
    answer(model, request(rgb, points[:2], key="once"))
    answer(model, {"kind": "refine", "key": "once", "rgb": rgb, "points": points[:1]})
    pool = {"boxes": np.array([[3, 4, 9, 9]], np.int32), "masks": np.ones(30, np.bool_)}
    answer(model, {"kind": "pool", "key": "once", "rgb": rgb, **pool})
    assert encodings == [(1, 3, 1024, 1024)]


def test_few_embeddings_are_kept_and_the_latest_used_stay(model, rgb, monkeypatch):
    monkeypatch.setattr(subject, "CACHED_IMAGES", 2)
    monkeypatch.setattr(model, "_embeddings", OrderedDict())
    window = Embedding(torch.zeros(1, 256, 64, 64), (), SHAPE)
    encoded: list[int] = []
    monkeypatch.setattr(model, "_encode", lambda _: encoded.append(len(model._embeddings)) or window)
    for key in ("a", "b", "a", "c", "a", "b"):
        answer(model, request(rgb, np.zeros((0, 2), np.float32), key=key))
    assert len(encoded) == 4
    assert list(model._embeddings) == ["a", "b"]


# What is kept


def test_only_the_boxes_of_masks_that_passed_leave_the_model(model, rgb, monkeypatch):
    scores = np.array([[0.3, 0.9, 0.8]], np.float32)
    open_logits(monkeypatch, model, discs((40, 40, 30), (100, 90, 10), (30, 30, 200)), scores)
    said = answer(model, request(rgb, np.array([[110.0, 130.0]], np.float32)))
    assert said["shapes"].tolist() == [[22, 22]]
    assert said["corners"].tolist() == [[89, 79]]
    assert sum(v.nbytes for v in said.values() if isinstance(v, np.ndarray)) < 4 * 22 * 22 + 4 * 256 + 100


GROUNDS = {
    "unsure": {"min_score": 0.95},
    "unstable": {"min_stability": 0.99},
    "wrong_size": {"min_area_px": 2000.0},
    "astray": {"near_px": 3.0},
    "unlike_proposal": {"max_ratio": 2.0, "prior_area_px": np.array([1500.0], np.float32)},
}


@pytest.mark.parametrize("reason", [None, "cut", *GROUNDS])
def test_a_mask_is_rejected_for_its_own_reason(model, rgb, monkeypatch, reason):
    """A disc of 10 small pixels about (100, 90): 117 x 134 in the window, 546 px large."""
    x = 2.0 if reason == "cut" else 100.0
    open_logits(monkeypatch, model, discs((x, 90, 10)), np.array([[0.9]], np.float32))
    strict = {"min_score": 0.8, "min_stability": 0.7, "min_area_px": 200.0, "max_area_px": 900.0}
    proposed = {"near_px": 12.0, "max_ratio": 4.0, "prior_area_px": np.array([500.0], np.float32)}
    prompt = np.array([[x * 300 / 256 + 4.0, 90 * 380 / 256]], np.float32)
    asked = request(rgb, prompt, **{**strict, **proposed, **GROUNDS.get(reason or "", {})})
    said = answer(model, asked)
    counts = {name: said[f"rejected_{name}"] for name in REASONS}
    assert len(said["prompt"]) == (reason is None)
    assert counts == {name: int(name == reason) for name in REASONS}


def test_a_mask_away_from_its_prompt_is_astray_however_near_its_middle(model, rgb, monkeypatch):
    ring = discs((100, 90, 20)) * np.sign(np.hypot(*(np.mgrid[:256, :256] + 0.5 - [[[90]], [[100]]])) - 10)
    open_logits(monkeypatch, model, ring.astype(np.float32), np.array([[0.9]], np.float32))
    said = answer(model, request(rgb, np.array([[100 * 300 / 256, 90 * 380 / 256]], np.float32)))
    assert said["rejected_astray"] == 1


def test_of_a_prompts_masks_the_best_that_passes_counts(model, rgb, monkeypatch):
    scores = np.array([[0.7, 0.99, 0.8]], np.float32)
    open_logits(monkeypatch, model, discs((100, 90, 6), (100, 90, 110), (100, 90, 12)), scores)
    said = answer(model, request(rgb, np.array([[117.0, 134.0]], np.float32), max_area_px=3000.0))
    assert said["score"].tolist() == pytest.approx([0.8])
    assert sum(said[f"rejected_{name}"] for name in REASONS) == 0


def test_of_prompts_in_one_cell_the_best_mask_stays(model, rgb, monkeypatch):
    small = np.concatenate([discs((100, 90, r)) for r in (10, 11, 9)] + [discs((180, 90, 10))])
    scores = np.array([[0.7], [0.9], [0.8], [0.6]], np.float32)
    open_logits(monkeypatch, model, small, scores)
    points = np.array([[117.0, 134.0]] * 3 + [[211.0, 134.0]], np.float32)
    said = answer(model, request(rgb, points, shared=0.5, same_px=90.0))
    assert said["prompt"].tolist() == [1, 3]
    assert said["rejected_duplicate"] == 2


def small(x: int, y: int, size: int, score: float) -> SmallMask:
    centre = (x + size / 2, y + size / 2)
    return SmallMask((x, y), np.ones((size, size), np.float32), score, 1.0, centre, np.zeros(256, np.float32))


def test_a_mask_beaten_by_one_that_is_itself_beaten_stays():
    gate = Gate(**{**LENIENT, "shared": 0.4, "same_px": 100.0})
    best, between, far = small(0, 0, 10, 0.9), small(5, 0, 10, 0.8), small(10, 0, 10, 0.7)
    assert one_of_each_cell([far, between, best], gate) == [0, 2]
    assert is_same_cell(between, far, gate)
    assert not is_same_cell(between, far, Gate(**{**LENIENT, "shared": 0.4, "same_px": 4.0}))


def test_a_window_without_prompts_has_no_cells(model, rgb):
    said = answer(model, request(rgb, np.zeros((0, 2), np.float32)))
    assert [len(said[name]) for name in ("prompt", "logits", "features", "corners")] == [0, 0, 0, 0]


# What goes wrong


@pytest.mark.parametrize("where", ["logits", "scores"])
def test_values_that_are_not_numbers_are_an_error(model, rgb, monkeypatch, where):
    logits, scores = discs((100, 90, 10)), np.array([[0.9]], np.float32)
    (logits if where == "logits" else scores)[..., -1] = np.nan
    open_logits(monkeypatch, model, logits, scores)
    with pytest.raises(MkhspcError, match="not numbers"):
        answer(model, request(rgb, np.array([[117.0, 134.0]], np.float32)))


def test_an_embedding_that_is_not_numbers_is_an_error_of_its_request_alone(model, rgb, monkeypatch):
    none = np.zeros((0, 2), np.float32)

    def encoded(image: Any) -> dict[str, list[Any]]:
        level = float("nan") if image.max() > 2 else 0.5  # only a white window is as bright as that
        return {"backbone_fpn": [torch.full((1, 256, side, side), level) for side in (256, 128, 64)]}

    monkeypatch.setattr(model.net, "forward_image", encoded)
    monkeypatch.setattr(model, "_embeddings", OrderedDict())
    white, black = np.full_like(rgb, 255), np.zeros_like(rgb)
    bad, good = model.run([request(white, none, key="white"), request(black, none, key="black")])
    assert isinstance(bad, MkhspcError)
    assert not isinstance(good, MkhspcError)
    assert list(model._embeddings) == ["black"]


def test_a_device_too_small_for_a_batch_is_given_less_at_a_time(model, rgb, official, monkeypatch):
    """A double of a GPU: more than two prompts at once are out of memory."""
    decode = model.net.sam_mask_decoder.forward
    asked: list[int] = []

    def small_device(*args: object, **kwargs: Any) -> Any:
        asked.append(len(kwargs["sparse_prompt_embeddings"]))
        if asked[-1] > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return decode(*args, **kwargs)

    monkeypatch.setattr(
        subject, "first_failure", lambda measured, *_: torch.full_like(measured.area_px, 7).long()
    )
    usual = answer(model, request(rgb, official.points))
    monkeypatch.setattr(model.net.sam_mask_decoder, "forward", small_device)
    monkeypatch.setattr(model, "_batch", Batch(4))
    limit = 1
    less = answer(model, request(rgb, official.points))
    assert asked == [4, 2, 1, 1, 1]
    answer(model, {"kind": "refine", "key": "window", "rgb": rgb, "points": official.points})
    assert asked[5:] == [1, 1, 1], "it has learnt"
    assert model.batch_size == 1
    assert less["prompt"].tolist() == usual["prompt"].tolist()
    np.testing.assert_allclose(less["logits"], usual["logits"], atol=1e-3)
    limit = 0
    with pytest.raises(DeviceMemoryError, match="out of memory"):
        answer(model, request(rgb, official.points))


def test_the_decoder_sees_one_shape_however_many_prompts(model, rgb, monkeypatch):
    shapes: list[int] = []
    decode = model.net.sam_mask_decoder.forward

    def recorded(*args: object, **kwargs: Any) -> Any:
        shapes.append(len(kwargs["sparse_prompt_embeddings"]))
        return decode(*args, **kwargs)

    monkeypatch.setattr(model.net.sam_mask_decoder, "forward", recorded)
    points = np.random.default_rng(3).uniform(20, 280, (6, 2)).astype(np.float32)
    refined = {"kind": "refine", "key": "shapes", "rgb": rgb}
    many = answer(model, {**refined, "points": points})
    one = answer(model, {**refined, "points": points[4:5]})
    answer(model, request(rgb, points[:1], key="shapes"))
    assert shapes == [4, 4, 4, 4]
    assert many["score"][many["prompt"] == 4].tolist() == one["score"].tolist()


# Checkpoints


def changed(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    return path


def tensors(sam2_checkpoint: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(sam2_checkpoint, weights_only=True)["model"]
    return loaded


def zipped_text() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.txt", "no weights")
    return packed.getvalue()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


def foreign() -> list[Any]:
    return [
        pytest.param(b"", id="empty"),
        pytest.param(b"II*\0 this is a picture" * 40, id="picture"),
        pytest.param(b"hello world\n" * 100, id="text"),
        pytest.param(zipped_text(), id="zip"),
        pytest.param(pickle.dumps({"model": Evil()}, 2), id="code"),
    ]


@pytest.mark.parametrize("content", foreign())
def test_a_foreign_file_is_refused_and_none_of_it_runs(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pt: is truncated, or not a file of weights") as refusal:
        Sam2Loader(path).load("cpu")
    assert "official checkpoint" in refusal.value.fix
    assert not (tmp_path / "harm").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.pt: the weights cannot be read \(No such file"):
        Sam2Loader(tmp_path / "none.pt").load("cpu")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(sam2_checkpoint, tmp_path, share):
    whole = sam2_checkpoint.read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="is truncated"):
        Sam2Loader(cut).load("cpu")


def test_a_checkpoint_of_sam_1_is_reported(sam2_checkpoint, tmp_path):
    """Its tensors lie bare in the file, under the names of another architecture."""
    names = ("image_encoder.patch_embed.proj.weight", "mask_decoder.iou_token.weight", "prompt_encoder.x")
    path = changed(tmp_path, {name: torch.zeros(1, 256) for name in names})
    with pytest.raises(InputError, match="SAM 1"):
        Sam2Loader(path).load("cpu")


@pytest.mark.parametrize("content", [{"model": 3}, {"weights": {}}, [1, 2], {"model": {"a": "b"}}])
def test_a_file_without_the_weights_of_sam2_is_refused(sam2_checkpoint, tmp_path, content):
    with pytest.raises(InputError, match=r"holds no weights of SAM2"):
        Sam2Loader(changed(tmp_path, content)).load("cpu")


def test_the_network_computes_in_what_the_manifest_states(
    model: Sam2, rgb: np.ndarray, official: Official, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that is made for it; what is handed on is float32 all the same."""
    seen: dict[str, set[Any]] = {}

    def noted(part: str) -> Any:
        return lambda _layer, _given, found: seen.setdefault(part, set()).add(found.dtype)

    hooks = [
        next(
            layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)
        ).register_forward_hook(noted(part))
        for part, network in (("encoder", model.net.image_encoder), ("decoder", model.net.sam_mask_decoder))
    ]
    try:
        for precision, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
            seen.clear()
            monkeypatch.setattr(model, "precision", precision)
            said = answer(model, request(rgb, official.points, key=precision, kind="refine"))
            assert seen == {"encoder": {dtype}, "decoder": {dtype}}
            assert {said[name].dtype for name in ("logits", "score", "features")} == {np.dtype(np.float32)}
            assert len(said["prompt"]) == len(official.points)
    finally:
        for hook in hooks:
            hook.remove()


def test_half_the_precision_in_the_file_is_none_in_the_network(sam2_checkpoint, tmp_path):
    halved = {name: tensor.half() for name, tensor in tensors(sam2_checkpoint).items()}
    path = changed(tmp_path, {"model": halved})
    assert {tensor.dtype for tensor in read_tensors(path).values()} == {torch.float32}


def test_another_architecture_is_refused(sam2_checkpoint, tmp_path):
    path = changed(tmp_path, {"model": {"conv1.weight": torch.zeros(3)}})
    with pytest.raises(InputError, match="no SAM2 that we know"):
        Sam2Loader(path).load("cpu")


def test_another_size_than_asked_for_is_refused(sam2_checkpoint):
    with pytest.raises(InputError, match=r"weights of sam2\.1-tiny, not of sam2\.1-large") as refusal:
        Sam2Loader(sam2_checkpoint, "sam2.1-large").load("cpu")
    assert "ask for sam2.1-tiny" in refusal.value.fix


def test_a_tensor_of_another_shape_is_refused(sam2_checkpoint, tmp_path):
    content = tensors(sam2_checkpoint)
    content["no_mem_embed"] = torch.zeros(1, 1, 128)
    with pytest.raises(InputError, match="no_mem_embed has another shape"):
        Sam2Loader(changed(tmp_path, {"model": content})).load("cpu")


@pytest.mark.parametrize(
    ("variant", "config"),
    [
        (f"{family}-{size}", f"configs/{family}/{family}_hiera_{letter}.yaml")
        for family in ("sam2", "sam2.1")
        for size, letter in (("tiny", "t"), ("small", "s"), ("base-plus", "b+"), ("large", "l"))
    ],
)
def test_every_variant_is_told_from_its_tensors(variant, config):
    from sam2.build_sam import build_sam2

    names = build_sam2(config, device="cpu").state_dict()
    assert variant_of(names, Path("x.pt")) == variant


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "config"),
    [
        ("sam2-tiny", "configs/sam2/sam2_hiera_t.yaml"),
        ("sam2.1-base-plus", "configs/sam2.1/sam2.1_hiera_b+.yaml"),
    ],
)
def test_the_older_family_and_another_size_answer_as_the_predictor(
    variant, config, rgb, tmp_path, monkeypatch
):
    from sam2.build_sam import build_sam2
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    torch.manual_seed(1)
    net, path = build_sam2(config, device="cpu"), tmp_path / "weights.pt"
    torch.save({"model": net.state_dict()}, path)
    predictor = SAM2ImagePredictor(net)
    predictor.set_image(rgb)
    points = np.array([(40.0, 60.5), (150.2, 200.0)], np.float32)
    theirs = [predictor.predict(point[None], np.array([1])) for point in points]
    loaded = Sam2Loader(path, variant).load("cpu")
    path.unlink()
    monkeypatch.setattr(
        subject, "first_failure", lambda measured, *_: torch.full_like(measured.area_px, 7).long()
    )
    said = answer(loaded, request(rgb, points))
    assert loaded.variant == variant
    assert said["prompt"].tolist() == [0, 1]
    for place, (wholes, scores, _) in zip(masks_of(said, SHAPE), theirs, strict=True):
        assert_same_mask(place, wholes[scores.argmax()])
    np.testing.assert_allclose(said["score"], [scores.max() for _, scores, _ in theirs], atol=1e-3)
    embedding = predictor.get_image_embedding()[0].numpy()
    for vector, (_, scores, small) in zip(said["features"], theirs, strict=True):
        inside = largest_piece(small[scores.argmax()] > 0)
        weights = inside.reshape(64, 4, 64, 4).sum(axis=(1, 3)) / inside.sum()
        np.testing.assert_allclose(vector, (embedding * weights).sum(axis=(1, 2)), atol=1e-4)


def assert_same_mask(found: tuple[Box, np.ndarray], logits: np.ndarray) -> None:
    """A mask in its box is that of the predictor's logits for the whole window."""
    (box, mask), whole = found, logits > 0
    drawn = np.zeros(SHAPE, np.bool_)
    drawn[box.slices_in(Box(0, 0, *SHAPE[::-1]))] = mask
    assert 0 < whole.sum() < whole.size
    assert (drawn & whole).sum() / (drawn | whole).sum() >= 0.999


# The GPU that is its own


@pytest.mark.parametrize(("target", "expected"), [("cuda:1", [1]), ("cpu", [])])
def test_what_the_package_puts_on_the_current_gpu_goes_to_the_models_own(
    sam2_checkpoint, target, expected, monkeypatch
):
    """SAM2 1.1.0 puts encodings of positions on 'cuda', whatever device it is told."""
    entered: list[int] = []
    seen: list[list[int]] = []

    @contextmanager
    def current(device: Any) -> Iterator[None]:
        entered.append(device.index)
        yield
        entered.clear()

    def build(*_: object, **__: object) -> Any:
        seen.append(list(entered))
        raise InterruptedError

    monkeypatch.setattr(sam2_loader, "torch_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr("sam2.build_sam.build_sam2", build)
    with pytest.raises(InterruptedError):
        Sam2Loader(sam2_checkpoint).load(target)
    assert seen == [expected]


# Damaged weights in the real network, as far as the tile


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), ", sam2 on cpu: SAM2 answered with values that are not numbers"),
        (0.0, ": the sam2 embedding is zero for all of 9 cells in 1 of 256 columns"),
    ],
)
def test_damaged_weights_fail_the_tile_by_its_name_and_stage(sam2_checkpoint, tmp_path, value, says):
    """A channel of the embedding, in the layers that end in it."""
    content = tensors(sam2_checkpoint)
    for name in ("image_encoder.neck.convs.0.conv", "image_encoder.neck.convs.1.conv"):
        content[f"{name}.weight"][7] = content[f"{name}.bias"][7] = value
    content["no_mem_embed"][..., 7] = value
    service = LocalModels({"sam2": Sam2Loader(changed(tmp_path, {"model": content})).load("cpu")})
    with pytest.raises(MkhspcError) as failure:
        embed_sam2.embed(*scene(9), 40.0, service, "hspc of tile s0_0_0")
    assert str(failure.value).startswith(f"hspc of tile s0_0_0, stage embed{says}\n")
    assert "models verify" in failure.value.fix


def scene(count: int) -> tuple[Window, list[Detection]]:
    """Grain, and cells in one square of the grid of windows."""
    rng = np.random.default_rng(5)
    box = Box(0, 0, 1000, 1000)
    window = Window(rng.integers(0, 256, (1000, 1000, 3), dtype=np.uint8), box, 0.5, CALIBRATION)
    square = embed_sam2.WindowGrid.of(40.0, 0.5).square(1, 1)
    corners = rng.integers((square.x0 + 20, square.y0 + 20), (square.x1 - 40, square.y1 - 40), (count, 2))
    mask = np.ones((16, 20), np.bool_)
    return window, [Detection(Box(x, y, x + 20, y + 16), mask, 0.5) for x, y in corners.tolist()]


def test_an_error_of_a_request_tells_its_stage_the_model_and_the_device(model, rgb, monkeypatch):
    def full(*_: object, **__: object) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.net.sam_mask_decoder, "forward", full)
    points = np.array([[40.0, 40.0]], np.float32)
    for kind, stage in (("segment", "detect"), ("refine", "refine")):
        with pytest.raises(DeviceMemoryError) as failure:
            answer(model, request(rgb, points, kind=kind))
        assert failure.value.where == f"sam2 on cpu, stage {stage}"


def test_a_device_too_small_to_pool_all_cells_at_once_pools_fewer(model, rgb, monkeypatch):
    rng = np.random.default_rng(4)
    corners = rng.integers(0, 250, (7, 2))
    boxes = np.concatenate([corners, corners + 30], axis=1).astype(np.int32)
    asked = {"kind": "pool", "key": "pooled", "rgb": rgb, "boxes": boxes, "masks": np.ones(7 * 900, np.bool_)}
    usual = answer(model, asked)["features"]
    pooled, sizes, limit = subject._pooled, [], 2

    def small_device(embedding: Any, weights: Any) -> Any:
        sizes.append(len(weights))
        if len(weights) > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return pooled(embedding, weights)

    monkeypatch.setattr(subject, "_pooled", small_device)
    monkeypatch.setattr(model, "_pool_batch", Batch(8))
    np.testing.assert_allclose(answer(model, asked)["features"], usual, atol=1e-5)
    assert sizes == [7, 4, 2, 2, 2, 1]
    limit = 0
    with pytest.raises(DeviceMemoryError, match=r"^sam2 on cpu: the device's memory"):
        answer(model, asked)


def test_a_loader_travels_and_says_what_it_takes(sam2_checkpoint, model):
    loader = Sam2Loader(sam2_checkpoint)
    assert pickle.loads(pickle.dumps(loader)) == loader
    assert loader.name == "sam2"
    assert loader.resident_bytes > sam2_checkpoint.stat().st_size
    assert model.precision == "float32"
