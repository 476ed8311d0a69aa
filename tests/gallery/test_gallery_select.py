from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from mkhspc.errors import InputError
from mkhspc.gallery.options import SiteOptions
from mkhspc.gallery.select import allocate, choose_decks, plan_pages, plan_repeats
from mkhspc.store import tables
from mkhspc.store.cells import read_cells
from mkhspc.store.schema import SCORES
from runs import FakeRun, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(tmp_path_factory.mktemp("run"), cells_per_type=80)


def options(**settings: Any) -> SiteOptions:
    return dataclasses.replace(SiteOptions(out=Path("site"), cards_per_page=50), **settings)


def shown_ids(run: FakeRun, **settings: Any) -> dict[str, list[str]]:
    decks = choose_decks(run.layout, run.manifest, options(**settings))
    return {deck.cell_type: deck.cells["cell_id"].to_pylist() for deck in decks}


def test_exactly_the_cells_in_the_filter_are_shown(run: FakeRun) -> None:
    wanted, left_out = set(), 0
    for slide in run.manifest.slides:
        cells = read_cells(run.layout, run.manifest, slide.slide_id, ["cell_id", "in_filter"])
        wanted |= set(cells.filter(cells["in_filter"])["cell_id"].to_pylist())
        left_out += len(cells) - cells["in_filter"].to_pylist().count(True)
    shown = shown_ids(run)
    assert left_out > 0
    assert sorted(shown["mk"] + shown["hspc"]) == sorted(wanted)


def test_the_same_run_gives_the_same_order(run: FakeRun) -> None:
    assert shown_ids(run) == shown_ids(run)


def test_another_seed_gives_another_order(run: FakeRun, tmp_path: Path) -> None:
    other = make_run(tmp_path, cells_per_type=1, seed=1)
    ids = shown_ids(FakeRun(run.layout, dataclasses.replace(run.manifest, config=other.manifest.config)))
    assert sorted(ids["hspc"]) == sorted(shown_ids(run)["hspc"])
    assert ids["hspc"] != shown_ids(run)["hspc"]


def test_random_order_neither_follows_area_nor_place(run: FakeRun) -> None:
    (deck,) = [d for d in choose_decks(run.layout, run.manifest, options()) if d.cell_type == "hspc"]
    areas = deck.cells["area_um2"].to_numpy()
    assert abs(np.corrcoef(areas, np.arange(len(areas)))[0, 1]) < 0.2


def test_pages_hold_each_slide_in_proportion(run: FakeRun) -> None:
    for deck in choose_decks(run.layout, run.manifest, options()):
        slides = np.array(deck.cells["slide_id"].to_pylist())
        for slide_id in set(slides):
            share = np.mean(slides == slide_id)
            so_far = np.cumsum(slides == slide_id)
            expected = share * np.arange(1, len(slides) + 1)
            assert np.abs(so_far - expected).max() <= 2.0


def test_a_sample_is_stratified_and_its_probability_recorded(run: FakeRun) -> None:
    whole = {deck.cell_type: deck for deck in choose_decks(run.layout, run.manifest, options())}
    for deck in choose_decks(run.layout, run.manifest, options(max_cards=60)):
        assert len(deck.cells) == 60
        assert deck.found == len(whole[deck.cell_type].cells)
        slides = deck.cells["slide_id"].to_pylist()
        all_slides = whole[deck.cell_type].cells["slide_id"].to_pylist()
        for slide_id, share in deck.inclusion.items():
            assert share == pytest.approx(slides.count(slide_id) / all_slides.count(slide_id))
            assert share == pytest.approx(60 / deck.found, abs=0.02)


def test_a_larger_sample_holds_the_smaller_one(run: FakeRun) -> None:
    small, large = shown_ids(run, max_cards=40), shown_ids(run, max_cards=90)
    assert set(small["mk"]) < set(large["mk"])


def test_without_a_sample_every_cell_was_sure_to_be_shown(run: FakeRun) -> None:
    for deck in choose_decks(run.layout, run.manifest, options(max_cards=10_000)):
        assert set(deck.inclusion.values()) == {1.0}


def test_area_order_shows_the_largest_first(run: FakeRun) -> None:
    for deck in choose_decks(run.layout, run.manifest, options(order="area")):
        areas = deck.cells["area_um2"].to_pylist()
        assert areas == sorted(areas, reverse=True)


def test_uncertainty_order_without_scores_is_refused(run: FakeRun) -> None:
    with pytest.raises(InputError, match=r"(?s)needs a score for every mk cell.*mkhspc score"):
        choose_decks(run.layout, run.manifest, options(order="uncertainty"))


def test_uncertainty_order_starts_at_the_threshold(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_scores(run, threshold=0.3)
    for deck in choose_decks(run.layout, run.manifest, options(order="uncertainty")):
        distance = np.abs(deck.cells["score"].to_numpy() - 0.3)
        assert np.all(np.diff(distance) > -0.05)
        assert distance[0] < 0.05


def write_scores(run: FakeRun, threshold: float) -> None:
    for number, slide in enumerate(run.manifest.slides):
        ids = read_cells(run.layout, run.manifest, slide.slide_id, ["cell_id"])["cell_id"].to_pylist()
        scores = np.random.default_rng(number).random(len(ids)).astype(np.float32)
        columns = [ids, ["test"] * len(ids), scores, scores >= threshold]
        table = pa.table([pa.array(c) for c in columns], names=SCORES.names).cast(SCORES)
        tables.write_table(run.layout.scores(slide.slide_id), table, run.manifest.config_hash)


@given(
    st.lists(st.integers(0, 500), min_size=1, max_size=20).filter(any),
    st.integers(1, 3000),
)
def test_draws_are_shared_in_proportion_and_none_is_lost(available: list[int], wanted: int) -> None:
    sizes = np.array(available)
    drawn = allocate(sizes, wanted)
    assert drawn.sum() == min(wanted, sizes.sum())
    assert np.all(drawn >= 0)
    assert np.all(drawn <= sizes)
    if wanted >= np.count_nonzero(sizes):
        assert np.all(drawn[sizes > 0] >= 1)


@given(st.integers(1, 900), st.integers(1, 120), st.floats(0, 0.5))
def test_pages_deal_every_cell_once_and_repeat_only_earlier_ones(count: int, size: int, share: float) -> None:
    pages = plan_pages(count, options(cards_per_page=size, blind_repeats=share), "key")
    own = np.concatenate([page.rows[~page.is_repeat] for page in pages])
    assert own.tolist() == list(range(count))
    assert all(len(page.rows[~page.is_repeat]) <= size for page in pages)
    repeats = np.concatenate([page.rows[page.is_repeat] for page in pages])
    assert len(set(repeats.tolist())) == len(repeats)
    for page in pages:
        assert not page.is_repeat[0]
        assert np.all(page.rows[page.is_repeat] < page.rows[~page.is_repeat].min())


def test_repeats_are_three_in_a_hundred_but_fifty_at_least_and_never_more_than_there_are() -> None:
    def count(pages: list[int], share: float = 0.03) -> int:
        return sum(len(page) for page in plan_repeats(pages, share, "key"))

    assert count([300] * 100) == 900
    assert count([300] * 3) == 50
    assert count([300, 5]) == 50
    assert count([20, 20]) == 20
    assert count([300]) == 0
    assert count([300] * 100, share=0.0) == 0


def test_repeats_are_spread_evenly_over_later_pages() -> None:
    per_page = [len(page) for page in plan_repeats([300] * 101, 0.03, "key")]
    assert per_page[0] == 0
    assert {9, 10} >= set(per_page[1:])
