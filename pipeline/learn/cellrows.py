"""The cells of a slide a batch at a time: two million fit through a small memory."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

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
    on_disk = [name for name in columns if name != "in_filter"]
    for rows in tables.read_pieces(path, manifest.config_hash, on_disk, BATCH_ROWS):
        yield (with_in_filter(rows, manifest.filter) if len(on_disk) < len(columns) else rows).select(columns)
