"""Tables older than a change of what is excluded are not taken for current."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from mkhspc.results.counts import unmerged_slides
from mkhspc.store import tables
from mkhspc.store.manifest.exclusions import Exclusion
from runs import make_run


def test_another_tile_with_as_many_cells_excluded_instead_makes_the_tables_stale(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("FGC1",), scenes=2, cells_per_type=30)
    rows = {t: tables.count_rows(run.layout.part("FGC1", t)) for t in run.layout.finished_tiles("FGC1")}
    pairs = ((a, b) for a in sorted(rows) for b in sorted(rows) if a < b and rows[a] == rows[b] > 0)
    first, other = next(pairs)
    before, after = (run.manifest.with_exclusions((Exclusion("FGC1", "x", t),)) for t in (first, other))
    whole = tables.read_table(run.layout.cells("FGC1"), run.manifest.config_hash)
    kept = whole.filter(pc.not_equal(whole["tile_id"], first))
    tables.write_table(run.layout.cells("FGC1"), kept, run.manifest.config_hash)
    assert unmerged_slides(run.layout, before) == []
    assert unmerged_slides(run.layout, after) == ["FGC1"]
