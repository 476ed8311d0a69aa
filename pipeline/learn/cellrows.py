"""The cells of a slide a batch at a time: two million fit through a small memory."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.store import tables
from pipeline.store.cells import with_in_filter
from pipeline.store.layout import RunLayout
from pipeline.store.manifest import Manifest

BATCH_ROWS = 65_536


def cell_batches(
    layout: RunLayout, manifest: Manifest, slide_id: str, columns: list[str]
) -> Iterator[pa.Table]:
    """Batches of a slide's cells in the order on disk.

    Args:
        columns: those wanted. `in_filter` is worked out anew from the manifest, and needs
            `cell_type` and `area_um2` among the columns.

    Raises:
        InputError: the table is missing, damaged, lacks a column, or belongs to another run.
    """
    path = layout.cells(slide_id)
    tables.read_table(path, manifest.config_hash, columns=[])
    on_disk = [name for name in columns if name != "in_filter"]
    missing = set(on_disk) - set(tables.read_schema(path).names)
    if missing:
        raise InputError(f"has no column {', '.join(sorted(missing))}", where=path)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=on_disk):
            rows = pa.Table.from_batches([batch])
            if len(on_disk) < len(columns):
                rows = with_in_filter(rows, manifest.filter)
            yield rows.select(columns)
