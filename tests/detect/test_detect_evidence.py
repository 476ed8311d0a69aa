from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mkhspc.detect.classical.evidence import SUREST, Evidence, Patch, gather
from stained import Field

UM_PER_BLOCK = 0.44
TYPICAL = 32.0


def patch(cytoplasm: int = 60, around: int = 25, nucleus_um: float = 4.5) -> Patch:
    """A round cell of 12 µm radius with its nucleus in the middle, on even surroundings."""
    field = Field(50.0, 50.0, UM_PER_BLOCK)
    cell = field.within(25.0, 25.0, 12.0)
    nuclei = field.within(25.0, 25.0, nucleus_um)
    eosin = np.where(cell, cytoplasm, around).astype(np.uint8)
    return Patch(cell, nuclei, eosin, UM_PER_BLOCK)


def evidence(of: Patch) -> Evidence:
    found = gather(of, TYPICAL)
    assert found is not None
    return found


def test_a_plain_cell_is_measured():
    found = evidence(patch())
    assert found.area_um2 == pytest.approx(np.pi * 12.0**2, rel=0.03)
    assert found.nuclear_um2 == pytest.approx(np.pi * 4.5**2, rel=0.05)
    assert found.contrast == pytest.approx((60 - 25) / TYPICAL)
    assert (found.nuclear_rim, found.unevenness, found.enclosure) == (0.0, 0.0, 1.0)
    assert found.log_odds > 0


def grainy(of: Patch, grain: int = 11) -> Patch:
    """The same with columns of the cell brighter and darker in turn."""
    sign = np.where(np.arange(of.eosin.shape[1]) % 4 < 2, grain, -grain)
    return replace(of, eosin=np.where(of.cell, of.eosin.astype(int) + sign, of.eosin).astype(np.uint8))


@pytest.mark.parametrize(
    "worse",
    [
        grainy(patch(nucleus_um=1.5)),
        grainy(patch(nucleus_um=11.5)),
        grainy(patch(around=50)),
        grainy(patch(), grain=20),
    ],
    ids=["small nucleus", "nucleus at the rim", "pale cytoplasm", "uneven cytoplasm"],
)
def test_what_an_mk_lacks_counts_against_it(worse):
    assert evidence(worse).log_odds < evidence(grainy(patch())).log_odds


def test_a_side_without_an_edge_opens_the_cell():
    """Half the surroundings are as bright as the cell: it is closed in half the directions."""
    closed = patch()
    eosin = closed.eosin.copy()
    eosin[:, eosin.shape[1] // 2 :] = 60
    assert evidence(replace(closed, eosin=eosin)).enclosure == pytest.approx(0.5, abs=0.04)


def test_a_fall_counts_by_its_depth():
    falls = [evidence(patch(around=around)).enclosure for around in (60, 54, 51, 45, 42, 10)]
    assert falls == pytest.approx([0.0, 1 / 3, 0.5, 5 / 6, 1.0, 1.0])


def test_levels_move_in_finer_steps_than_the_pixels():
    """Noise that turns a few pixels from one value to the next must not move the level by a whole step."""
    flat = patch()
    rows, columns = np.nonzero(flat.cell & ~flat.nuclei)
    steps = []
    for share in np.linspace(0.4, 0.6, 9):
        eosin = flat.eosin.copy()
        raised = slice(0, int(share * len(rows)))
        eosin[rows[raised], columns[raised]] += 1
        steps.append(evidence(replace(flat, eosin=eosin)).contrast)
    assert np.diff(steps).max() < 0.2 / TYPICAL


def test_what_cannot_be_measured_is_no_evidence():
    whole = patch()
    assert gather(replace(whole, nuclei=np.zeros_like(whole.nuclei)), TYPICAL) is None
    assert gather(replace(whole, nuclei=np.ones_like(whole.nuclei)), TYPICAL) is None
    assert gather(replace(whole, cell=np.ones_like(whole.cell)), TYPICAL) is None


def test_no_outline_is_surer_than_the_limit():
    assert evidence(patch(nucleus_um=0.6, cytoplasm=26)).log_odds == -SUREST
