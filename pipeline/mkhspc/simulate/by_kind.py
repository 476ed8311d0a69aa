"""What became of each kind of true megakaryocyte, and what was taken for one.

Other than in `truth.match_truth` a look-alike is no target here: the question is how many MK a detector
brings before an expert, and how much else with them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.simulate.truth import Outlines, by_scene, match_outlines


@dataclass(frozen=True)
class MkScore:
    """Candidates for MK against the true MK, by kind.

    Attributes:
        present: true MK by kind, those that are clear.
        found: those of them that hold a candidate's centroid, or whose centroid a candidate holds.
        outlined: those that a candidate shows at an IoU of at least 0.5.
        false: candidates on no true MK, by the kind of what they lie on; 'ground' where they lie on nothing.
    """

    present: Counter[str]
    found: Counter[str]
    outlined: Counter[str]
    false: Counter[str]

    @property
    def recall(self) -> float:
        return self.found.total() / max(1, self.present.total())

    @property
    def false_per_true(self) -> float:
        return self.false.total() / max(1, self.found.total())

    @property
    def outlined_share(self) -> float:
        """The share of the MK found that a candidate shows at an IoU of at least 0.5."""
        return self.outlined.total() / max(1, self.found.total())


def score_mk(truth: pa.Table, cells: pa.Table) -> MkScore:
    """Scores the MK in the filter against the truth of the same slides.

    Args:
        truth: rows of `truth.SCHEMA`.
        cells: columns slide_id, scene, cell_type, x_px, y_px, contour_px and, if there, in_filter.
    """
    cells = cells.filter(pc.equal(cells["cell_type"], "mk"))
    if "in_filter" in cells.column_names:
        cells = cells.filter(cells["in_filter"])
    score = MkScore(Counter(), Counter(), Counter(), Counter())
    for true, found in by_scene(truth, cells):
        _count_scene(score, true, found)
    return score


def _count_scene(score: MkScore, true: pa.Table, found: pa.Table) -> None:
    is_mk = pc.and_(pc.equal(true["target"], "mk"), pc.equal(true["label"], "positive"))
    mk, others = true.filter(is_mk), true.filter(pc.invert(is_mk))
    outlines, candidates = Outlines.of(mk), Outlines.of(found)
    kinds, clear = mk["kind"].to_pylist(), mk["clear"].to_pylist()
    places = list(zip(found["x_px"].to_pylist(), found["y_px"].to_pylist(), strict=True))
    on_mk = [outlines.holds(x, y).tolist() for x, y in places]
    held = {index for one in on_mk for index in one}
    for index, (x, y) in enumerate(zip(mk["x_px"].to_pylist(), mk["y_px"].to_pylist(), strict=True)):
        holders = candidates.holds(x, y).tolist()
        for candidate in holders:
            on_mk[candidate].append(index)
        if clear[index]:
            score.present[kinds[index]] += 1
            score.found[kinds[index]] += index in held or bool(holders)
    for index, _ in match_outlines(outlines, candidates):
        score.outlined[kinds[index]] += clear[index]
    large = others.filter(pc.greater(others["area_um2"], LARGE_UM2))
    look_alikes, names = Outlines.of(large), large["kind"].to_pylist()
    for (x, y), ones in zip(places, on_mk, strict=True):
        if not ones:
            under = look_alikes.holds(x, y)
            score.false[names[int(under[0])] if np.size(under) else "ground"] += 1


LARGE_UM2 = 90.0
"""What is larger than this in µm² is named as what a false candidate lies on; no single small nucleus is."""
