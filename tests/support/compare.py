"""Whether two tables hold the same cells."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.simulate.truth import Outlines, match_outlines


@dataclass(frozen=True)
class Agreement:
    """Cells of two tables paired one to one by the overlap of their outlines."""

    paired: int
    only_first: int
    only_second: int

    @property
    def f1(self) -> float:
        alone = self.only_first + self.only_second
        return 2 * self.paired / (2 * self.paired + alone) if self.paired or alone else 1.0

    @property
    def is_same(self) -> bool:
        """The project's bar: F1 of at least 0.995, or one cell's difference."""
        return self.f1 >= 0.995 or self.only_first + self.only_second <= 1


def agreement(first: pa.Table, second: pa.Table, cell_type: str, min_iou: float) -> Agreement:
    """Pairs the cells of one type, slide by slide and scene by scene."""
    places = {
        (row["slide_id"], row["scene"])
        for table in (first, second)
        for row in table.group_by(["slide_id", "scene"]).aggregate([]).to_pylist()
    }
    paired = only_first = only_second = 0
    for slide_id, scene in places:
        here = (
            (pc.field("slide_id") == slide_id)
            & (pc.field("scene") == scene)
            & (pc.field("cell_type") == cell_type)
        )
        a, b = first.filter(here), second.filter(here)
        pairs = len(match_outlines(Outlines.of(a), Outlines.of(b), min_iou))
        paired += pairs
        only_first += len(a) - pairs
        only_second += len(b) - pairs
    return Agreement(paired, only_first, only_second)
