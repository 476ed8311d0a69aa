from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from mkhspc.errors import InputError
from mkhspc.store.schema import CellName, cell_names, feature_columns, parse_cell_id

slide_ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
places = st.tuples(st.floats(0, 1e6), st.floats(0, 1e6))


@given(
    slide_ids,
    st.integers(0, 99),
    st.sampled_from(["mk", "hspc"]),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(1, 9),
)
def test_a_name_is_read_back_from_its_id(slide, scene, cell_type, x, y, nth) -> None:
    name = CellName(slide, scene, cell_type, x, y, nth)
    assert parse_cell_id(str(name)) == name


def test_an_old_id_means_scene_0() -> None:
    assert parse_cell_id("FGC1_mk_12_34") == CellName("FGC1", 0, "mk", 12, 34)
    assert parse_cell_id("2024_s1_F_hspc_12_34") == CellName("2024_s1_F", 0, "hspc", 12, 34)


@pytest.mark.parametrize(
    "text", ["", "FGC1", "FGC1_s0_nk_1_2", "FGC1_s0_mk_1", "FGC1_s0_mk_1_2_3_4", "x" * 500]
)
def test_what_is_no_id_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="is not a cell id"):
        parse_cell_id(text)


@given(st.lists(st.tuples(places, st.integers(1, 10**4)), max_size=12), st.randoms())
def test_names_are_unique_and_do_not_depend_on_the_order(cells, random) -> None:
    cells = [((math.floor(x) % 3 + 0.25, math.floor(y) % 3 + 0.5), area) for (x, y), area in cells]
    named = cell_names("S", 0, "mk", [c for c, _ in cells], [a for _, a in cells])
    assert len({str(n) for n in named}) == len(cells)
    order = list(range(len(cells)))
    random.shuffle(order)
    again = cell_names("S", 0, "mk", [cells[i][0] for i in order], [cells[i][1] for i in order])
    together = {(cells[i], str(n)) for i, n in zip(order, again, strict=True)}
    assert together == set(zip(cells, map(str, named), strict=True))


def test_cells_that_share_a_place_are_numbered_from_the_largest() -> None:
    named = cell_names("S", 1, "hspc", [(5.2, 6.9), (5.8, 6.1), (5.0, 7.0)], [50, 80, 10])
    assert [str(n) for n in named] == ["S_s1_hspc_5_6_2", "S_s1_hspc_5_6", "S_s1_hspc_5_7"]


def test_features_are_told_by_their_prefix() -> None:
    assert feature_columns(["cell_id", "shape_a", "deep_1", "area_px"]) == ["shape_a", "deep_1"]
