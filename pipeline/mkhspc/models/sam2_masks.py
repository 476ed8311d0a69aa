"""What SAM2's masks are judged by, on the small logits that its decoder gives: no mask is ever enlarged here.

Score and stability as in the automatic mask generator of https://github.com/facebookresearch/sam2; the
other grounds are ours: a mask must be of a cell's size and have to do with its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mkhspc.models.service import Message

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]

STABILITY_OFFSET = 1.0
"""Stability compares the mask at a logit of plus and minus this value: the share of the larger mask that the
smaller one fills. 1.0 is the default of SAM2's own generator."""
REASONS = ("unsure", "unstable", "cut", "wrong_size", "astray", "unlike_proposal", "duplicate")
"""Why a prompt gives no cell: the model's own score is low; the logits fall off slowly; the mask touches the
window's border; its area is out of range; it lies away from its prompt; its area is unlike the proposal's;
another prompt's mask shows the same cell better."""
_PASSED = len(REASONS)
"""Stands in the place of a reason for a mask that passed."""


@dataclass(frozen=True)
class Gate:
    """What a mask must be; lengths and areas in pixels of the window.

    Attributes:
        min_score: of the model's own estimate of its IoU.
        min_stability: see `STABILITY_OFFSET`.
        min_area_px, max_area_px: of the mask.
        near_px: the farthest that a mask's centroid may lie from its prompt.
        max_ratio: between the areas of mask and proposal, either way.
        shared: two masks are of one cell if they share this much of the smaller one ...
        same_px: ... and their centroids are no farther apart than this.
    """

    min_score: float
    min_stability: float
    min_area_px: float
    max_area_px: float
    near_px: float
    max_ratio: float
    shared: float
    same_px: float

    @classmethod
    def of(cls, request: Message) -> Gate:
        """The gate of a request."""
        return cls(**{name: _number(request[name]) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Prompts:
    """What is asked of a window, in its pixels.

    Attributes:
        points: (n, 2) float32 x, y.
        prior_area_px: (n,) float32, of the proposal; 0 where the prompt is of no proposal.
        window_shape: height and width of the window.
    """

    points: Floats
    prior_area_px: Floats
    window_shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, part: slice) -> Prompts:
        return Prompts(self.points[part], self.prior_area_px[part], self.window_shape)


@dataclass(frozen=True)
class SmallMask:
    """A mask that passed, as logits in a box of the decoder's pixels.

    Attributes:
        corner: x, y of the box.
        logits: (h, w) float32: the mask's bounding box (logits above 0) with a pixel more on every side.
        centre_px: x, y of its centroid, in pixels of the window.
        features: (256,) of the embedding under the mask's largest piece.
    """

    corner: tuple[int, int]
    logits: Floats
    score: float
    stability: float
    centre_px: tuple[float, float]
    features: Floats

    def overlap(self, other: SmallMask) -> float:
        """The part of the smaller mask that the two have in common."""
        (x, y), (other_x, other_y) = self.corner, other.corner
        left, top = max(x, other_x), max(y, other_y)
        right = min(x + self.logits.shape[1], other_x + other.logits.shape[1])
        bottom = min(y + self.logits.shape[0], other_y + other.logits.shape[0])
        if right <= left or bottom <= top:
            return 0.0
        own = self.logits[top - y : bottom - y, left - x : right - x] > 0
        others = other.logits[top - other_y : bottom - other_y, left - other_x : right - other_x] > 0
        smaller = min(int((self.logits > 0).sum()), int((other.logits > 0).sum()))
        return float((own & others).sum()) / smaller


@dataclass(frozen=True)
class Measured:
    """Of every mask of a batch of prompts: tensors (prompts, masks each), areas in pixels of the window."""

    score: Tensor
    stability: Tensor
    area_px: Tensor
    x_px: Tensor
    y_px: Tensor
    is_cut: Tensor
    is_at_prompt: Tensor


def measure(logits: Tensor, score: Tensor, prompts: Prompts) -> Measured:
    """Measures masks on their logits, (prompts, masks each, side, side)."""
    import torch

    inside = logits > 0
    rows, columns = logits.shape[-2:]
    height, width = prompts.window_shape
    in_row, in_column = inside.sum(-1), inside.sum(-2)
    area = in_row.sum(-1)
    some = area.clamp(min=1)
    x = (in_column * (torch.arange(columns, device=logits.device) + 0.5)).sum(-1) / some
    y = (in_row * (torch.arange(rows, device=logits.device) + 0.5)).sum(-1) / some
    looser = (logits > -STABILITY_OFFSET).sum((-2, -1)).clamp(min=1)
    return Measured(
        score=score,
        stability=(logits > STABILITY_OFFSET).sum((-2, -1)) / looser,
        area_px=area * (height * width / (rows * columns)),
        x_px=x * (width / columns),
        y_px=y * (height / rows),
        is_cut=(in_row[..., [0, -1]] > 0).any(-1) | (in_column[..., [0, -1]] > 0).any(-1),
        is_at_prompt=_at_prompt(inside, prompts),
    )


def _at_prompt(inside: Tensor, prompts: Prompts) -> Tensor:
    """Whether each mask holds the pixel of its prompt or one of the eight about it."""
    import torch

    rows, columns = inside.shape[-2:]
    height, width = prompts.window_shape
    points = torch.from_numpy(prompts.points).to(inside.device)
    column = (points[:, 0] * (columns / width)).long().clamp(0, columns - 1)
    row = (points[:, 1] * (rows / height)).long().clamp(0, rows - 1)
    everyone = torch.arange(len(points), device=inside.device)
    around = [
        inside[everyone, :, (row + dy).clamp(0, rows - 1), (column + dx).clamp(0, columns - 1)]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    return torch.stack(around).any(0)


def first_failure(measured: Measured, prompts: Prompts, gate: Gate) -> Tensor:
    """(prompts, masks each) place in `REASONS` of the first ground against a mask; beyond them if none."""
    import torch

    device = measured.score.device
    points = torch.from_numpy(prompts.points).to(device)
    prior = torch.from_numpy(prompts.prior_area_px).to(device)[:, None]
    away = torch.hypot(measured.x_px - points[:, :1], measured.y_px - points[:, 1:])
    too_large = measured.area_px > gate.max_ratio * prior
    too_small = gate.max_ratio * measured.area_px < prior
    grounds = torch.stack(
        [
            measured.score < gate.min_score,
            measured.stability < gate.min_stability,
            measured.is_cut,
            (measured.area_px < gate.min_area_px) | (measured.area_px > gate.max_area_px),
            ~measured.is_at_prompt | (away > gate.near_px),
            (prior > 0) & (too_large | too_small),
            torch.ones_like(measured.is_cut),
        ]
    )
    first = grounds.int().argmax(0)
    return torch.where(first == len(grounds) - 1, _PASSED, first)


def best_of_each_prompt(score: Tensor, failure: Tensor) -> tuple[NDArray[np.int64], list[str]]:
    """Of each prompt's masks the one of highest score that passed.

    Returns:
        (n,) number of the mask, -1 for none; and why the mask of highest score failed, '' if it passed.
    """
    passed = failure == _PASSED
    best = score.masked_fill(~passed, float("-inf")).argmax(1)
    chosen = best.masked_fill(~passed.any(1), -1).cpu().numpy()
    likeliest = failure.gather(1, score.argmax(1, keepdim=True))[:, 0].cpu().numpy()
    return chosen, [(*REASONS, "")[reason] for reason in likeliest.tolist()]


def cropped(logits: Floats) -> tuple[tuple[int, int], Floats]:
    """The part of (h, w) logits about the mask, a pixel more on every side; its corner x, y."""
    rows, columns = np.flatnonzero((logits > 0).any(1)), np.flatnonzero((logits > 0).any(0))
    top, left = max(0, int(rows[0]) - 1), max(0, int(columns[0]) - 1)
    part = logits[top : int(rows[-1]) + 2, left : int(columns[-1]) + 2]
    return (left, top), np.ascontiguousarray(part)


def one_of_each_cell(masks: Sequence[SmallMask], gate: Gate) -> list[int]:
    """Places of the masks of which no better one, itself kept, shows the same cell; in their order."""
    order = sorted(range(len(masks)), key=lambda place: (-masks[place].score, place))
    kept: list[int] = []
    for place in order:
        mask = masks[place]
        if not any(is_same_cell(mask, masks[better], gate) for better in kept):
            kept.append(place)
    return sorted(kept)


def is_same_cell(mask: SmallMask, other: SmallMask, gate: Gate) -> bool:
    """Whether two masks of one window show the same cell."""
    (x, y), (other_x, other_y) = mask.centre_px, other.centre_px
    near = (x - other_x) ** 2 + (y - other_y) ** 2 <= gate.same_px**2
    return near and mask.overlap(other) >= gate.shared


def coverage(
    mask: NDArray[np.bool_], corner: tuple[int, int], window_shape: tuple[int, int], side: int
) -> Floats:
    """(side, side) float32: the area of a mask in each cell of a grid over the window, in its pixels.

    Args:
        mask: (h, w), a part of the window.
        corner: x, y of the part's corner in the window.
    """
    down = _shares(corner[1], mask.shape[0], window_shape[0], side)
    across = _shares(corner[0], mask.shape[1], window_shape[1], side)
    return (down.T @ mask.astype(np.float32) @ across).astype(np.float32)


def _shares(start: int, count: int, total: int, side: int) -> Floats:
    """(count, side): the part of each pixel from `start` on in each of `side` equal pieces of `total`."""
    edges = np.arange(side + 1) * (total / side)
    pixels = np.arange(start, start + count)[:, None]
    low, high = np.maximum(pixels, edges[None, :-1]), np.minimum(pixels + 1, edges[None, 1:])
    shares: Floats = np.clip(high - low, 0.0, None).astype(np.float32)
    return shares


def _number(value: Any) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    raise ValueError(f"a gate must be a number, not {value!r}")
