"""SAM2 on a device: an image is encoded once; all its prompts are decoded, and cells pooled, from that.

Ravi et al. 2024, https://github.com/facebookresearch/sam2 (Apache-2.0). The steps are those of the package's
`SAM2ImagePredictor`, but for the last: masks stay at the decoder's size, and only logits within the boxes of
those that passed leave the device.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mkhspc.errors import MkhspcError
from mkhspc.geometry import normalise_mask
from mkhspc.models.device import (
    Batch,
    Footprint,
    Precision,
    autocast,
    batch_on,
    in_batches,
    precision_of,
)
from mkhspc.models.sam2_masks import (
    REASONS,
    Floats,
    Gate,
    Measured,
    Prompts,
    SmallMask,
    best_of_each_prompt,
    coverage,
    cropped,
    first_failure,
    measure,
    one_of_each_cell,
)
from mkhspc.models.service import Message, array_of, errors_at

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FEATURES = 256
"""The channels of the encoder's embedding: the features of a cell."""
CACHED_IMAGES = 4
"""The embeddings that are kept, of 16 MB each in float32, for requests that come back to a window."""
BATCH = {"cpu": 4, "cuda": 64}
"""Prompts that the decoder is given at once, by device. On a CPU more are no faster, and take more memory
than the encoder does."""
POOLED = 1024
"""Cells whose features are pooled together: their shares of the embedding take 16 MB."""
REDUCED: tuple[Precision, ...] = ("bfloat16",)
"""Precisions below float32 that may be used: the package's examples and its benchmark compute in bfloat16;
nothing is published of float16."""
_STAGES = {"segment": ", stage detect", "refine": ", stage refine", "pool": ""}
"""The stage that an error names, by kind of request; whoever asks for features names theirs."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The mean and standard deviation of red, green and blue, 0 to 1, in ImageNet: as the package's
`SAM2Transforms`."""


@dataclass(frozen=True)
class Embedding:
    """An encoded window.

    Attributes:
        image: (1, 256, 64, 64), what masks are decoded and features pooled from.
        fine: the encoder's finer layers.
        window_shape: height and width of the window.
    """

    image: Tensor
    fine: Sequence[Tensor]
    window_shape: tuple[int, int]


class Sam2:
    """A SAM2 on a device.

    A request holds the window's `rgb`, (h, w, 3) uint8, and a `key` that names its pixels: requests of one
    key are encoded once while few others come between. Its `kind` is one of

        segment  points (n, 2) float32 x, y, in pixels of the window; prior_area_px (n,) float32, the area of
                 the proposal or 0; the numbers of `Gate`. Answered by the masks that pass it.
        refine   points (n, 2), or boxes (n, 4) float32 x0, y0, x1, y1. Answered by every prompt's best mask
                 that is not empty.
        pool     boxes (n, 4) int32 and masks, flat bool of their pixels. Answered by features (n, 256).

    The answer of segment and refine holds, for m masks: corners (m, 2) and shapes (m, 2), x, y and h, w of
    boxes in the decoder's pixels; logits, flat float32 of the boxes' pixels; side, of the decoder's whole
    image; prompt (m,) place in the request; score and stability (m,); features (m, 256), pooled under the
    mask's largest piece with its holes filled; and `rejected_<reason>` for each of `REASONS`.
    """

    def __init__(
        self, net: Any, device: torch.device, variant: str, footprint: Footprint | None = None
    ) -> None:
        self.net = net.to(device).eval()
        self.variant = variant
        self.precision = precision_of(device, REDUCED)
        self._device = device
        self._batch, self._pool_batch = batch_on(device, BATCH, footprint), Batch(POOLED)
        self._embeddings: OrderedDict[str, Embedding] = OrderedDict()

    @property
    def batch_size(self) -> int:
        return self._batch.size

    def run(self, requests: Sequence[Message]) -> Sequence[Message | MkhspcError]:
        """Answers requests one after the other: a window fills the device by itself."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Message) -> Message | MkhspcError:
        import torch

        kind = str(request["kind"])
        answer = {"segment": self._segment, "refine": self._refine, "pool": self._pool}[kind]
        try:
            with (
                errors_at(f"sam2 on {self._device}{_STAGES[kind]}"),
                torch.inference_mode(),
                autocast(self._device, self.precision),
            ):
                (embedding,) = in_batches([request], lambda requests, _: self._embedded(requests), Batch(1))
                return answer(request, embedding)
        except MkhspcError as error:
            return error

    def _embedded(self, requests: Sequence[Message]) -> list[Embedding]:
        """The embeddings of requests' windows, kept or made."""
        found = []
        for request in requests:
            key = str(request["key"])
            if key not in self._embeddings:
                self._embeddings[key] = self._encode(array_of(request, "rgb", np.uint8))
                if len(self._embeddings) > CACHED_IMAGES:
                    self._embeddings.popitem(last=False)
            self._embeddings.move_to_end(key)
            found.append(self._embeddings[key])
        return found

    def _encode(self, rgb: NDArray[np.uint8]) -> Embedding:
        import torch
        from torch.nn.functional import interpolate

        side = self.net.image_size
        pixels = torch.from_numpy(rgb).to(self._device).permute(2, 0, 1)[None].float() / 255.0
        pixels = interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
        mean, std = (torch.tensor(values, device=self._device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        maps = self.net.forward_image((pixels - mean) / std)["backbone_fpn"]
        if self.net.directly_add_no_mem_embed:
            maps[-1] = maps[-1] + self.net.no_mem_embed.view(1, -1, 1, 1)
        if not all(bool(layer.isfinite().all()) for layer in maps):
            raise _not_numbers()
        return Embedding(maps[-1], maps[:-1], (rgb.shape[0], rgb.shape[1]))

    def _segment(self, request: Message, embedding: Embedding) -> Message:
        points = array_of(request, "points", np.float32)
        prompts = Prompts(points, array_of(request, "prior_area_px", np.float32), embedding.window_shape)
        gate = Gate.of(request)

        def judged(places: Sequence[int], batch: int) -> list[SmallMask | str]:
            part = prompts[places[0] : places[-1] + 1]
            coordinates = _coordinates(part.points[:, None], embedding)
            logits, score = self._decode(embedding, coordinates, None, batch)
            measured = measure(logits, score, part)
            chosen, reasons = best_of_each_prompt(score, first_failure(measured, part, gate))
            masks = _chosen(embedding, logits, measured, chosen)
            return [reason if mask is None else mask for mask, reason in zip(masks, reasons, strict=True)]

        answers = in_batches(range(len(prompts)), judged, self._batch)
        passed = [(place, mask) for place, mask in enumerate(answers) if isinstance(mask, SmallMask)]
        kept = [passed[i] for i in one_of_each_cell([mask for _, mask in passed], gate)]
        rejected = Counter(reason for reason in answers if isinstance(reason, str))
        rejected["duplicate"] = len(passed) - len(kept)
        return _message(kept, self._side, rejected)

    def _refine(self, request: Message, embedding: Embedding) -> Message:
        boxed = "boxes" in request
        given = array_of(request, "boxes" if boxed else "points", np.float32)
        corners = given.reshape(len(given), -1, 2)

        def best(places: Sequence[int], batch: int) -> list[SmallMask | None]:
            part = corners[places[0] : places[-1] + 1]
            # Labels 2 and 3 are a box's corners, 1 is a point in the foreground.
            labels = (2, 3) if boxed else None
            logits, score = self._decode(embedding, _coordinates(part, embedding), labels, batch)
            prompts = Prompts(part.mean(axis=1), np.zeros(len(part), np.float32), embedding.window_shape)
            measured = measure(logits, score, prompts)
            likeliest = score.argmax(1)
            empty = measured.area_px.gather(1, likeliest[:, None])[:, 0] == 0
            return _chosen(embedding, logits, measured, likeliest.masked_fill(empty, -1).cpu().numpy())

        masks = in_batches(range(len(corners)), best, self._batch)
        found = [(place, mask) for place, mask in enumerate(masks) if mask is not None]
        return _message(found, self._side, Counter())

    def _pool(self, request: Message, embedding: Embedding) -> Message:
        import torch

        boxes, flat = array_of(request, "boxes", np.int32), array_of(request, "masks", np.bool_)
        weights = np.zeros((len(boxes), *embedding.image.shape[-2:]), np.float32)
        start = 0
        for weight, (x0, y0, x1, y1) in zip(weights, boxes.tolist(), strict=True):
            end = start + (x1 - x0) * (y1 - y0)
            mask = flat[start:end].reshape(y1 - y0, x1 - x0)
            weight[...] = coverage(mask, (x0, y0), embedding.window_shape, weight.shape[0])
            start = end

        def pooled(some: Sequence[Floats], _: int) -> list[Floats]:
            return list(_pooled(embedding, torch.from_numpy(np.stack(some)).to(self._device)))

        rows = in_batches(list(weights), pooled, self._pool_batch, pads=False)
        return {"features": np.array(rows, np.float32).reshape(-1, FEATURES)}

    @property
    def _side(self) -> int:
        """Of the decoder's masks, in its pixels."""
        return int(self.net.image_size) // 4

    def _decode(
        self, embedding: Embedding, coordinates: Floats, labels: tuple[int, int] | None, batch: int
    ) -> tuple[Tensor, Tensor]:
        """Logits (n, masks each, side, side) and scores (n, masks each) of prompts; float32.

        Args:
            coordinates: (n, points each, 2) x, y, in pixels of the encoder's image.
            labels: of a prompt's points; None is one in the foreground, with three masks to choose from.
            batch: prompts are repeated to fill it; see `in_batches`.
        """
        import torch

        count = len(coordinates)
        full = np.resize(coordinates, (batch, *coordinates.shape[1:]))
        points = torch.from_numpy(full).to(self._device)
        kinds = torch.tensor(labels or (1,), dtype=torch.int, device=self._device).repeat(batch, 1)
        sparse, dense = self.net.sam_prompt_encoder(points=(points, kinds), boxes=None, masks=None)
        logits, score, _, _ = self.net.sam_mask_decoder(
            image_embeddings=embedding.image,
            image_pe=self.net.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=labels is None,
            repeat_image=True,
            high_res_features=list(embedding.fine),
        )
        logits, score = logits[:count].float(), score[:count].float()
        if not bool(logits.isfinite().all()) or not bool(score.isfinite().all()):
            raise _not_numbers()
        return logits, score


def _coordinates(corners: Floats, embedding: Embedding) -> Floats:
    """(n, points each, 2) x, y of the window in pixels of the encoder's image."""
    height, width = embedding.window_shape
    side = embedding.image.shape[-1] * 16
    return (corners / np.array([width, height], np.float32) * np.float32(side)).astype(np.float32)


def _chosen(
    embedding: Embedding, logits: Tensor, measured: Measured, chosen: NDArray[np.int64]
) -> list[SmallMask | None]:
    """The chosen mask of each prompt; None where `chosen` is -1."""
    import torch

    found: list[SmallMask | None] = [None] * len(chosen)
    prompts = np.flatnonzero(chosen >= 0)
    if not len(prompts):
        return found
    at = torch.from_numpy(prompts).to(logits.device), torch.from_numpy(chosen[prompts]).to(logits.device)
    parts = [cropped(mask) for mask in logits[at].cpu().numpy()]
    side = embedding.image.shape[-1]
    # The cell that is stored is the mask's largest piece, so the features are of that.
    cells = [
        coverage(normalise_mask(part > 0), corner, (logits.shape[-2], logits.shape[-1]), side)
        for corner, part in parts
    ]
    features = _pooled(embedding, torch.from_numpy(np.stack(cells)).to(logits.device))
    numbers = torch.stack([measured.score[at], measured.stability[at], measured.x_px[at], measured.y_px[at]])
    for place, (corner, part), row, vector in zip(prompts, parts, numbers.T.tolist(), features, strict=True):
        found[place] = SmallMask(corner, part, row[0], row[1], (row[2], row[3]), vector)
    return found


def _pooled(embedding: Embedding, weights: Tensor) -> Floats:
    """(n, 256) means of the embedding, weighted by (n, 64, 64) areas of masks in its cells."""
    import torch

    with torch.autocast(weights.device.type, enabled=False):
        share = weights.flatten(1)
        share = share / share.sum(1, keepdim=True)
        features: Floats = (share @ embedding.image[0].flatten(1).float().T).cpu().numpy()
    if not np.isfinite(features).all():
        raise _not_numbers()
    return features


def _message(found: Sequence[tuple[int, SmallMask]], side: int, rejected: Mapping[str, int]) -> Message:
    """Masks with the places of their prompts, as arrays that lie one after the other; see `Sam2`."""
    masks = [mask for _, mask in found]
    answer: dict[str, NDArray[Any] | int | float | str | bool | None] = {
        "corners": np.array([mask.corner for mask in masks], np.int32).reshape(-1, 2),
        "shapes": np.array([mask.logits.shape for mask in masks], np.int32).reshape(-1, 2),
        "logits": np.concatenate([np.zeros(0, np.float32), *(mask.logits.ravel() for mask in masks)]),
        "side": side,
        "prompt": np.array([place for place, _ in found], np.int32),
        "score": np.array([mask.score for mask in masks], np.float32),
        "stability": np.array([mask.stability for mask in masks], np.float32),
        "features": np.array([mask.features for mask in masks], np.float32).reshape(-1, FEATURES),
    }
    answer.update({f"rejected_{reason}": rejected.get(reason, 0) for reason in REASONS})
    return answer


def _not_numbers() -> MkhspcError:
    return MkhspcError(
        "SAM2 answered with values that are not numbers",
        fix="verify its weights: mkhspc models verify; if they are right, try --device cpu",
    )
