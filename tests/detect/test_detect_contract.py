"""A window's parts: what they share, and what is only made when it is asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mkhspc.detect import contract
from mkhspc.detect.contract import Window
from mkhspc.geometry import Box
from stained import Field

BOX = Box(40, 30, 140, 120)


@pytest.fixture
def window() -> Window:
    field = Field(100.0, 90.0)
    field.nucleus(30.0, 30.0, 6.0)
    return field.window()


def test_a_part_shows_the_stains_of_the_whole(window):
    part = window.part(BOX)
    assert part.box == BOX
    assert np.shares_memory(part.rgb, window.rgb)
    assert np.shares_memory(part.haematoxylin, window.haematoxylin)
    assert np.array_equal(part.eosin, window.eosin[BOX.slices_in(window.box)])
    assert part.haematoxylin.any()


def test_no_stains_are_separated_until_someone_asks(window, monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError("nobody has asked")

    monkeypatch.setattr(contract, "separate", never)
    part = window.part(BOX).apart(BOX.grown(-5))
    with pytest.raises(AssertionError, match="nobody"):
        _ = part.eosin


def test_what_is_apart_separates_its_own_stains_alone(window):
    apart = window.apart(BOX)
    assert np.array_equal(apart.eosin, window.eosin[BOX.slices_in(window.box)])
    assert not np.shares_memory(apart.eosin, window.eosin)


def test_a_part_with_other_pixels_has_other_stains(window):
    part = window.part(BOX)
    white = replace(part, rgb=np.full_like(part.rgb, 255))
    assert not white.haematoxylin.any()


def test_parts_are_clipped_and_want_what_they_are_told(window):
    assert window.part(window.box.grown(9)).box == window.box
    wanting = window.part(BOX, BOX.grown(-20))
    assert wanting.wanted == BOX.grown(-20)
    assert wanting.part(BOX.grown(-5)).wanted == BOX.grown(-20)
