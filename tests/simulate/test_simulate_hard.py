"""The hard slides: what they hold, and how candidates for MK are scored by kind."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from mkhspc.simulate import HARD_SLIDES, read_truth, write_demo_slides
from mkhspc.simulate.by_kind import score_mk
from mkhspc.simulate.cells.kinds import HARD, KINDS, TEXTBOOK
from mkhspc.simulate.truth import SCHEMA
from mkhspc.slide.czi.slide import CziSlide

SQUARE = np.array([[0, 0], [40, 0], [40, 40], [0, 40]], np.int32)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hard")
    write_demo_slides(folder, specs=HARD_SLIDES[:2])
    return folder


def kinds_of(truth: pa.Table) -> Counter[str]:
    return Counter(truth["kind"].to_pylist())


def objects(*rows: tuple[str, int, bool]) -> pa.Table:
    """Squares of 40 px side by side: kind, left edge, whether clear."""
    return pa.Table.from_pylist(
        [
            {
                "slide_id": "A",
                "scene": 0,
                "kind": kind,
                "target": KINDS[kind].target,
                "label": KINDS[kind].label,
                "clear": clear,
                "x_px": x + 19.5,
                "y_px": 19.5,
                "area_px": 1600,
                "area_um2": 100.0,
                "contour_px": (SQUARE + np.array([x, 0])).ravel(),
            }
            for kind, x, clear in rows
        ],
        SCHEMA,
    )


def candidates(*lefts: int, width: int = 40) -> pa.Table:
    contour = SQUARE * (width / 40, 1)
    return pa.Table.from_pylist(
        [
            {
                "slide_id": "A",
                "scene": 0,
                "cell_type": "mk",
                "x_px": x + (width - 1) / 2,
                "y_px": 19.5,
                "contour_px": (contour + np.array([x, 0])).astype(np.int32).ravel().tolist(),
            }
            for x in lefts
        ]
    )


@pytest.mark.parametrize("mixture", [TEXTBOOK, HARD])
def test_shares_of_a_mixture_sum_to_one_and_name_kinds(mixture) -> None:
    for shares in (mixture.small, mixture.mk, mixture.mk_like):
        assert sum(shares.values()) == pytest.approx(1.0)
        assert set(shares) <= set(KINDS)
    assert all(KINDS[kind].label == "positive" for kind in mixture.mk)
    assert all(KINDS[kind].label != "positive" for kind in mixture.mk_like)


def test_hard_slides_hold_every_kind_of_mk_and_of_look_alike(slides: Path) -> None:
    found = kinds_of(read_truth(slides / "truth.parquet"))
    assert {*HARD.mk, *HARD.mk_like} <= set(found)


def test_an_mk_cut_by_the_scene_counts_and_touches_its_border(slides: Path) -> None:
    truth = read_truth(slides / "truth.parquet")
    cut = truth.filter(pc.equal(truth["kind"], "mk-cut"))
    assert pc.any(cut["clear"]).as_py()
    for row in cut.to_pylist():
        with CziSlide.open(slides / f"{row['slide_id']}.czi") as slide:
            box = slide.scene(row["scene"]).box
        contour = np.array(row["contour_px"]).reshape(-1, 2)
        assert contour.min() == 0 or (contour.max(axis=0) == (box.width, box.height)).any()


def test_fat_cuts_into_the_mk_at_its_edge(slides: Path) -> None:
    truth = read_truth(slides / "truth.parquet")
    beside = {
        kind: np.mean(
            [glass_beside(slides, row) for row in truth.filter(pc.equal(truth["kind"], kind)).to_pylist()]
        )
        for kind in ("mk-at-fat", "mk-pale")
    }
    assert beside["mk-at-fat"] > 3 * beside["mk-pale"]


def glass_beside(slides: Path, row: dict) -> float:
    """The share of bright pixels in an object's box and 12 px around it, as far as they lie in the scene."""
    contour = np.array(row["contour_px"]).reshape(-1, 2)
    (x0, y0), (x1, y1) = contour.min(axis=0) - 12, contour.max(axis=0) + 12
    with CziSlide.open(slides / f"{row['slide_id']}.czi") as slide:
        box = slide.scene(row["scene"]).box
        rgb = slide.read(row["scene"], type(box)(int(x0), int(y0), int(x1), int(y1)).clipped(box))
    return float((rgb.min(axis=2) > 195).mean())


def test_the_same_seed_gives_the_same_hard_pixels(slides: Path, tmp_path: Path) -> None:
    write_demo_slides(tmp_path, specs=HARD_SLIDES[:1])
    name = f"{HARD_SLIDES[0].name}.czi"
    with CziSlide.open(slides / name) as one, CziSlide.open(tmp_path / name) as other:
        assert np.array_equal(one.read(0, one.scene(0).box), other.read(0, other.scene(0).box))


def test_stains_and_glass_of_the_hard_slides_differ() -> None:
    looks = [spec.look for spec in HARD_SLIDES if spec.look is not None]
    assert len(looks) == len(HARD_SLIDES)
    assert len({look.eosin_rgb for look in looks}) >= 4
    assert any(max(look.white_rgb) - min(look.white_rgb) > 30 for look in looks)


def test_recall_counts_clear_mk_by_kind_and_false_ones_by_what_they_lie_on() -> None:
    truth = objects(("mk-pale", 0, True), ("mk-young", 100, True), ("mk", 200, False), ("hyaline", 300, True))
    score = score_mk(truth, candidates(0, 200, 300, 500))
    assert score.present == {"mk-pale": 1, "mk-young": 1}
    assert (score.found["mk-pale"], score.found["mk-young"]) == (1, 0)
    assert score.false == {"hyaline": 1, "ground": 1}
    assert (score.recall, score.false_per_true) == (0.5, 2.0)


def test_a_look_alike_that_a_detector_should_find_is_still_no_mk() -> None:
    score = score_mk(objects(("mk", 0, True), ("osteoclast", 100, True)), candidates(0, 100))
    assert score.false == {"osteoclast": 1}


def test_an_mk_found_with_a_poor_outline_is_found_but_not_outlined() -> None:
    score = score_mk(objects(("mk", 0, True)), candidates(-40, width=100))
    assert (score.recall, score.outlined_share) == (1.0, 0.0)


def test_cells_outside_the_filter_are_not_candidates() -> None:
    hidden = candidates(0).append_column("in_filter", pa.array([False]))
    assert score_mk(objects(("mk", 0, True)), hidden).recall == 0.0
