"""Flipped bits in a finished part, and what checksums cost: bytes in, bytes out, no detector."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from mkhspc.store import tables
from mkhspc.store.damage import DamagedTableError
from parts import large_run

Row = dict[str, object]

FLIPS = 400
"""Of bodies, and of footers."""
CELLS = 1400
CROP_BYTES = (20_000, 26_000)
"""A part of about 33 MB, with crops as large as those of HSPC on marrow."""
REPEATS = 7


def rows(shared: Path | None, full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        run = large_run(Path(scratch) / "run", 1, 1, CELLS, crop_bytes=CROP_BYTES)
        (part,) = run.parts
        return [*_flips(part, run.manifest.config_hash), *_costs(part, run.manifest.config_hash)]


def _flips(part: Path, config_hash: str) -> list[Row]:
    good, data = tables.read_table(part, config_hash), part.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    found = []
    for place, where in (("bodies", range(4, footer)), ("footers", range(footer, len(data)))):
        refused = changed = 0
        rng = random.Random(place)
        for _ in range(FLIPS):
            flipped = bytearray(data)
            flipped[rng.choice(where)] ^= 1 << rng.randrange(8)
            part.write_bytes(flipped)
            try:
                changed += not tables.read_table(part, config_hash).equals(good, check_metadata=True)
            except DamagedTableError:
                refused += 1
        found.append(
            {
                "name": f"bits flipped in {place} of a part: tables that are read with another value",
                "value": changed,
                "unit": f"of {FLIPS}",
                "baseline": f"{refused} refused, {FLIPS - refused - changed} harmless",
                "target": "0",
                "ok": changed == 0,
            }
        )
    part.write_bytes(data)
    return found


def _costs(part: Path, config_hash: str) -> list[Row]:
    table, size_mb = tables.read_table(part, config_hash), part.stat().st_size / 1e6
    copy = part.with_name("s0_1_1.parquet")

    def write_plainly() -> None:
        with pq.ParquetWriter(copy, table.schema, **tables._encoding(table.schema)) as writer:
            writer.write_table(table, row_group_size=tables.rows_per_group(table.schema))

    plain_read_s = _median_s(lambda: pq.read_table(part, memory_map=False))
    read_s = _median_s(lambda: tables.read_table(part, config_hash))
    plain_write_s = _median_s(write_plainly)
    copy.unlink()
    write_s = _median_s(lambda: tables.write_table(copy, table, config_hash))
    return [
        {
            "name": f"a part of {size_mb:.0f} MB: time to {what} with checksums, over plain pyarrow",
            "value": ours_s / plain_s,
            "unit": "x",
            "baseline": f"plain: {1000 * plain_s:.0f} ms; with: {1000 * ours_s:.0f} ms",
            "target": None,
            "ok": None,
        }
        for what, ours_s, plain_s in (
            ("write it in one step", write_s, plain_write_s),
            ("read it", read_s, plain_read_s),
        )
    ]


def _median_s(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        begun_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun_s)
    return statistics.median(times)
