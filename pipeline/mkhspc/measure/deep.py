"""Deep features of cells, by any number of embedders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mkhspc.config import CellType
from mkhspc.detect.contract import Detection, Window
from mkhspc.geometry import Box
from mkhspc.measure import embed, embed_sam2
from mkhspc.measure.embed import Vectors
from mkhspc.models.service import ModelService

SAM2 = "sam2"


def column_names(embedders: Sequence[str]) -> list[str]:
    """The columns of all embedders, in their order."""
    return [
        name
        for one in embedders
        for name in (embed_sam2.column_names() if one == SAM2 else embed.column_names(one))
    ]


def reach_um(embedders: Sequence[str], longest_um: float) -> float:
    """How far from its centroid a cell must be seen, beyond its crop."""
    return embed_sam2.reach_um(longest_um) if SAM2 in embedders else 0.0


def seen_box(embedders: Sequence[str], core: Box, longest_um: float, um_per_px: float) -> Box:
    """What must be seen of the cells with centroids in a box, beyond their crops."""
    return embed_sam2.seen_box(core, longest_um, um_per_px) if SAM2 in embedders else core


@dataclass(frozen=True)
class Embedding:
    """Who describes cells of a type.

    Attributes:
        embedders: names, `service` is asked for their networks.
        longest_um: no cell of the type is longer.
    """

    embedders: Sequence[str]
    longest_um: float
    service: ModelService


def measure(
    embedding: Embedding,
    window: Window,
    detections: Sequence[Detection],
    cell_type: CellType,
    tile_id: str,
) -> dict[str, Vectors]:
    """(n,) float32 for each of `column_names`, in the order of the detections; errors as for `embed.embed`.

    Args:
        tile_id: for errors.
    """
    service = embedding.service
    columns: dict[str, Vectors] = {}
    for one in embedding.embedders:
        if one == SAM2:
            where = f"{cell_type} of tile {tile_id}"
            columns |= embed_sam2.embed(window, detections, embedding.longest_um, service, where)
        else:
            columns |= embed.embed(window, detections, cell_type, one, service, tile_id)
    return columns
