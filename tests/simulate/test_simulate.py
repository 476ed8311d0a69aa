"""Simulated slides: real CZI files, a truth that holds, and scores that can be trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings, strategies as st

from mkhspc.errors import InputError
from mkhspc.geometry import Box, contour_to_mask
from mkhspc.simulate import (
    DEMO_SLIDES,
    GROUPS_FILE,
    TRUTH_FILE,
    AnnotatorSkill,
    SlideSpec,
    match_truth,
    read_truth,
    simulated_annotator,
    write_demo_slides,
)
from mkhspc.simulate.cells.kinds import KINDS
from mkhspc.simulate.placement import Densities, place_cells
from mkhspc.simulate.slides import MK_PER_MM2
from mkhspc.simulate.terrain import TerrainStyle, make_terrain
from mkhspc.simulate.truth import Outlines, match_outlines
from mkhspc.slide.czi.slide import CziSlide
from polygons import polygon_area_px

TWO_SCENES = SlideSpec(
    "DEMO_FGC1",
    "F",
    "GC",
    sizes_um=((300.0, 240.0), (200.0, 160.0)),
    origins=((-500, 90_000), (1000, 90_100)),
)
ONE_SCENE = SlideSpec("DEMO_MHU1", "M", "HU", um_per_px=0.1725, sizes_um=((220.0, 200.0),), overlap_px=40)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("slides")
    write_demo_slides(out, specs=[TWO_SCENES, ONE_SCENE])
    return out


@pytest.fixture(scope="module")
def truth(slides: Path) -> pa.Table:
    return read_truth(slides / TRUTH_FILE)


def pixels(path: Path, scene: int = 0) -> np.ndarray:
    with CziSlide.open(path) as slide:
        return slide.read(scene, slide.scene(scene).box)


def as_cells(objects: pa.Table, cell_type: str | None = None) -> pa.Table:
    """Objects of the truth as if a detector had found them exactly."""
    types = objects["target"] if cell_type is None else pa.array([cell_type] * objects.num_rows, pa.string())
    ids = [f"c{i}" for i in range(objects.num_rows)]
    kept = objects.select(["slide_id", "scene", "x_px", "y_px", "contour_px"])
    return kept.append_column("cell_type", types).append_column("cell_id", pa.array(ids, pa.string()))


def targets(truth: pa.Table, cell_type: str) -> pa.Table:
    return truth.filter((pc.field("target") == cell_type) & pc.field("clear"))


def test_a_slide_is_a_czi_with_its_pixel_size_scenes_and_origins(slides: Path) -> None:
    with CziSlide.open(slides / "DEMO_FGC1.czi") as slide:
        assert slide.um_per_px == pytest.approx(0.22)
        assert slide.info.pixel_type == "bgr24"
        assert slide.info.compressions == ("zstd1",)
        assert [scene.mosaic_box for scene in slide.info.scenes] == [
            Box(-500, 90_000, -500 + 1364, 90_000 + 1091),
            Box(1000, 90_100, 1000 + 909, 90_100 + 727),
        ]


def test_overlapping_sub_blocks_agree(slides: Path, tmp_path: Path) -> None:
    write_demo_slides(tmp_path, specs=[replace(ONE_SCENE, overlap_px=0)])
    assert np.array_equal(pixels(slides / "DEMO_MHU1.czi"), pixels(tmp_path / "DEMO_MHU1.czi"))


def test_pixels_depend_on_seed_and_name_alone(slides: Path, tmp_path: Path) -> None:
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        write_demo_slides(tmp_path / "same", specs=[ONE_SCENE])
    finally:
        cv2.setNumThreads(threads)
    write_demo_slides(tmp_path / "other", specs=[ONE_SCENE], seed=1)
    first = pixels(slides / "DEMO_MHU1.czi")
    assert np.array_equal(first, pixels(tmp_path / "same" / "DEMO_MHU1.czi"))
    assert not np.array_equal(first, pixels(tmp_path / "other" / "DEMO_MHU1.czi"))


def test_slides_that_are_whole_are_kept_and_others_written_anew(tmp_path: Path) -> None:
    def written(spec: SlideSpec, seed: int = 0) -> bytes:
        (slide,) = write_demo_slides(tmp_path, specs=[spec], seed=seed)
        return slide.path.read_bytes()

    small = replace(TWO_SCENES, sizes_um=((140.0, 130.0), (60.0, 50.0)))
    first = written(small)
    assert written(small) == first, "the same scan, to the last byte"
    (tmp_path / "DEMO_FGC1.czi").write_bytes(first[: len(first) // 2])
    mended = written(small)
    assert len(mended) >= len(first)
    for changed, seed in (
        (small, 1),
        (replace(small, um_per_px=0.23), 0),
        (replace(small, origins=((-500, 90_000), (1000, 90_200))), 0),
        (replace(small, sizes_um=small.sizes_um[:1], origins=small.origins[:1]), 0),
    ):
        before = (tmp_path / "DEMO_FGC1.czi").read_bytes()
        assert written(changed, seed) != before


def test_colours_are_those_of_haematoxylin_and_eosin(slides: Path, truth: pa.Table) -> None:
    rgb = pixels(slides / "DEMO_MHU1.czi")
    nuclei = np.zeros(rgb.shape[:2], bool)
    for row in truth.filter(
        (pc.field("slide_id") == "DEMO_MHU1") & (pc.field("target") == "hspc")
    ).to_pylist():
        nuclei |= contour_to_mask(np.array(row["contour_px"]).reshape(-1, 2), Box(0, 0, *rgb.shape[1::-1]))
    red, green, blue = np.median(rgb[nuclei], axis=0)
    assert green < red < blue < 150
    assert np.median(rgb[0], axis=0).min() > 200, "the scene's border is glass"


def test_contours_enclose_their_area_within_the_scene(truth: pa.Table) -> None:
    for row in truth.to_pylist():
        contour = np.array(row["contour_px"]).reshape(-1, 2)
        assert polygon_area_px(contour) == row["area_px"]
        assert contour.min() >= 0
        assert np.abs(contour.mean(axis=0) - (row["x_px"], row["y_px"])).max() < 100


@pytest.mark.parametrize(("cell_type", "low", "high"), [("hspc", 10.0, 150.0), ("mk", 100.0, 2100.0)])
def test_clear_targets_lie_within_the_size_filter(
    truth: pa.Table, cell_type: str, low: float, high: float
) -> None:
    areas = targets(truth, cell_type)["area_um2"].to_numpy()
    assert areas.size > 5
    assert low < areas.min()
    assert areas.max() < high


def test_every_kind_with_a_target_has_a_label_and_no_other_has() -> None:
    assert all((kind.target == "") == (kind.label == "") for kind in KINDS.values())


def test_a_realistic_share_of_the_candidates_is_positive(truth: pa.Table) -> None:
    hspc = targets(truth, "hspc")
    assert 0.3 < pc.mean(pc.equal(hspc["label"], "positive").cast("float64")).as_py() < 0.6


def test_groups_differ_in_the_density_of_mk_and_in_nothing_else() -> None:
    terrain = make_terrain((600.0, 500.0), TerrainStyle(), np.random.default_rng(0))
    found = {}
    for treatment, mk in MK_PER_MM2.items():
        cells = place_cells(
            terrain, Densities(small=7000.0, mk=mk, mk_like=90.0, clumps=15.0), np.random.default_rng(1)
        )
        kinds = [placed.cell.kind for placed in cells]
        found[treatment] = kinds.count("mk"), kinds.count("hspc")
    assert found["HU"][0] > 1.4 * found["GC"][0]
    assert found["HU"][1] == pytest.approx(found["GC"][1], rel=0.12)


def test_the_study_has_two_balanced_groups_of_at_least_three() -> None:
    by_treatment = {t: [s.sex for s in DEMO_SLIDES if s.treatment == t] for t in MK_PER_MM2}
    assert {t: sorted(sexes) for t, sexes in by_treatment.items()} == {
        t: ["F", "F", "M", "M"] for t in MK_PER_MM2
    }
    assert any(len(s.sizes_um) == 2 for s in DEMO_SLIDES)
    assert any(min(s.origins[0]) < 0 for s in DEMO_SLIDES)
    assert len({s.um_per_px for s in DEMO_SLIDES}) > 1


def test_groups_are_written_for_the_report(slides: Path) -> None:
    assert (slides / GROUPS_FILE).read_text().splitlines() == [
        "slide_id,animal,batch,sex,treatment",
        "DEMO_FGC1,FGC1,simulated,F,GC",
        "DEMO_MHU1,MHU1,simulated,M,HU",
    ]


def test_reading_something_else_as_truth_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match="cannot be read"):
        read_truth(tmp_path / "t.parquet")


def test_a_perfect_detector_scores_one(truth: pa.Table) -> None:
    score = match_truth(truth, as_cells(truth.filter(pc.field("clear") & (pc.field("target") != ""))))
    for cell_type in ("mk", "hspc"):
        got = score.of(cell_type)
        assert (got.missed, got.false, got.f1) == (0, 0, 1.0)
        assert got.found == targets(truth, cell_type).num_rows


def test_nothing_found_scores_zero(truth: pa.Table) -> None:
    assert match_truth(truth, as_cells(truth.slice(0, 0))).hspc.f1 == 0.0


def test_missed_and_doubled_cells_count(truth: pa.Table) -> None:
    exact = as_cells(targets(truth, "mk"))
    score = match_truth(truth, pa.concat_tables([exact.slice(2), exact.slice(2, 1)])).mk
    assert (score.missed, score.false) == (2, 1)


def test_a_distractor_that_is_found_is_a_false_positive(truth: pa.Table) -> None:
    there = truth.filter(pc.field("target") == "")
    assert len(set(there["kind"].to_pylist())) > 1
    assert match_truth(truth, as_cells(there, "hspc")).hspc.false == there.num_rows


def test_a_cell_elsewhere_is_a_false_positive(truth: pa.Table) -> None:
    row = {
        "slide_id": "DEMO_FGC1", "scene": 0, "x_px": 5.0, "y_px": 5.0,
        "contour_px": [0, 0, 20, 0, 20, 20, 0, 20], "cell_type": "hspc", "cell_id": "c",
    }  # fmt: skip
    assert match_truth(truth, pa.Table.from_pylist([row])).hspc.false == 1


def test_what_is_not_clear_counts_neither_way(truth: pa.Table) -> None:
    unclear = truth.filter(~pc.field("clear") & (pc.field("target") == "hspc"))
    assert unclear.num_rows > 0
    score = match_truth(truth, as_cells(unclear)).hspc
    assert (score.found, score.false) == (0, 0)


def test_nuclei_of_an_mk_are_no_false_hspc(truth: pa.Table) -> None:
    score = match_truth(truth, as_cells(targets(truth, "mk"), "hspc"))
    assert score.hspc.false == 0


def test_cells_outside_the_filter_do_not_count(truth: pa.Table) -> None:
    cells = as_cells(targets(truth, "mk"))
    hidden = cells.append_column("in_filter", pa.array([False] * cells.num_rows))
    assert match_truth(truth, hidden).mk.found == 0


squares = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 15)), min_size=0, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(squares, squares)
def test_pairs_are_one_to_one_and_overlap_by_half(first: list, second: list) -> None:
    def outlines(items: list[tuple[int, int, int]]) -> Outlines:
        flat = [[x, y, x + s, y, x + s, y + s, x, y + s] for x, y, s in items]
        return Outlines.of(pa.table({"contour_px": pa.array(flat, pa.list_(pa.int32()))}))

    pairs = match_outlines(outlines(first), outlines(second))
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    for i, j in pairs:
        (xa, ya, a), (xb, yb, b) = first[i], second[j]
        shared = max(0, min(xa + a, xb + b) - max(xa, xb)) * max(0, min(ya + a, yb + b) - max(ya, yb))
        assert shared >= 0.5 * (a * a + b * b - shared)


def annotate(truth: pa.Table, cells: pa.Table, **skill: object) -> dict:
    return simulated_annotator(truth, cells, dataset="d", config_hash="h", skill=AnnotatorSkill(**skill))


def test_an_annotator_without_errors_says_the_truth(truth: pa.Table) -> None:
    objects = truth.filter(pc.field("target") != "")
    cells = as_cells(objects)
    labels = annotate(truth, cells, error_rate=0.0, unsure_rate=0.0)
    expected = {f"c{i}" for i, label in enumerate(objects["label"].to_pylist()) if label == "positive"}
    assert {*labels["mk"]["positive"], *labels["hspc"]["positive"]} == expected
    assert labels["mk"]["unsure"] == labels["hspc"]["unsure"] == []


def test_an_annotator_errs_at_the_stated_rates(truth: pa.Table) -> None:
    cells = as_cells(truth.filter(pc.field("target") == "hspc"))
    sure = annotate(truth, cells, error_rate=0.0, unsure_rate=0.0)["hspc"]
    labels = annotate(truth, cells, error_rate=0.2, unsure_rate=0.3)["hspc"]
    wrong = len(set(labels["positive"]) - set(sure["positive"])) + len(
        set(labels["negative"]) - set(sure["negative"])
    )
    assert len(labels["unsure"]) / cells.num_rows == pytest.approx(0.3, abs=0.07)
    assert wrong / (cells.num_rows - len(labels["unsure"])) == pytest.approx(0.2, abs=0.07)


def test_annotations_have_the_shape_of_an_export(truth: pa.Table) -> None:
    cells = as_cells(truth.filter(pc.field("target") != ""))
    labels = annotate(truth, cells, policy="area")
    assert (labels["format"], labels["version"], labels["annotator"]) == (
        "mkhspc-annotations",
        1,
        "simulated",
    )
    given = [cell_id for t in ("mk", "hspc") for ids in labels[t].values() for cell_id in ids]
    assert sorted(given) == sorted(cells["cell_id"].to_pylist())
    assert [event["cell_id"] for event in labels["events"]] == cells["cell_id"].to_pylist()
    assert {event["policy"] for event in labels["events"]} == {"area"}
    assert labels == annotate(truth, cells, policy="area"), "the same cells give the same labels"
