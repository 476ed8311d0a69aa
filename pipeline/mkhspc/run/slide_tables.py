"""The parts of a slide put together into its tables of cells and crops.

Each cell is in one part alone, that of the tile whose core holds its centroid, and its id was given
there: nothing is compared or merged. Parts are streamed in the order of their tiles, so memory does
not grow with the slide, and the tables' bytes depend on neither who made the parts nor when.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from mkhspc.cluster.read_status import exclude_failed, failed_tiles
from mkhspc.errors import IncompleteError
from mkhspc.measure.analysis import feature_names
from mkhspc.slide.tiles import Tile
from mkhspc.store import tables
from mkhspc.store.cells import filter_metadata, settle_in_filter, with_in_filter
from mkhspc.store.damage import DamagedTableError
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import CROPS, cells_schema

PARTS_KEY = "mkhspc:parts"
CROPS_PER_GROUP = 512
"""Some 12 MB, and 110 MB should all of them be MK."""
NAMED_TILES = 8
SEGMENT_AGAIN = "run the same `mkhspc segment` again: finished tiles are kept"


def missing_tiles(layout: RunLayout, slide_id: str, wanted: Sequence[Tile]) -> list[str]:
    """Ids of the wanted tiles that have no part yet, in order."""
    done = layout.finished_tiles(slide_id)
    return [tile.tile_id for tile in wanted if tile.tile_id not in done]


def refuse_missing(layout: RunLayout, missing: Mapping[str, Sequence[str]], unplanned: Sequence[str]) -> None:
    """Raises `IncompleteError` that names the first missing tiles, unless there are none.

    Args:
        missing: ids of the missing tiles, by slide id.
        unplanned: slides without a tile plan, of which every tile is missing.
    """
    named = [f"{slide_id}/{tile_id}" for slide_id, tiles in missing.items() for tile_id in tiles]
    clauses = [f"no tile of {', '.join(unplanned)} was begun"] if unplanned else []
    if named:
        more = f" and {len(named) - NAMED_TILES} more" if len(named) > NAMED_TILES else ""
        clauses.append(f"{len(named)} tiles are missing: {', '.join(named[:NAMED_TILES])}{more}")
    if not clauses:
        return
    failed = failed_tiles(layout)
    if named and all((slide_id, t) in failed for slide_id, tiles in missing.items() for t in tiles):
        fix = f"{SEGMENT_AGAIN}, or leave out those that fail for good: `{exclude_failed(layout.root)}`"
    else:
        fix = f"{SEGMENT_AGAIN}; `mkhspc status RUN --json` lists all that are missing"
    raise IncompleteError("; ".join(clauses), fix=fix)


def merge_slide(layout: RunLayout, manifest: Manifest, slide_id: str, tiles: Sequence[Tile]) -> bool:
    """Writes a slide's `cells` and `crops` from its finished tiles.

    Args:
        tiles: the slide's whole plan; those with a part that are not excluded are merged, so a table loses
            no other tiles. Of an excluded slide none is, and its tables have no rows.

    Returns:
        False when the tables already hold exactly these tiles.
    """
    done = manifest.kept_tiles(layout, slide_id)
    ordered = sorted(
        (tile for tile in tiles if tile.tile_id in done), key=lambda t: (t.scene, t.core.y0, t.core.x0)
    )
    paths = [layout.part(slide_id, tile.tile_id) for tile in ordered]
    signature = _signature([tile.tile_id for tile in ordered])
    is_current = _is_current(layout, manifest, slide_id, signature)
    if not is_current:
        _write_tables(layout, manifest, slide_id, paths, {PARTS_KEY: signature})
    settle_in_filter(layout, slide_id)
    return not is_current


def belong_together(layout: RunLayout, slide_id: str) -> bool:
    """Whether the tables of a slide were made of the same tiles."""
    schemas = (tables.read_schema(layout.cells(slide_id)), tables.read_schema(layout.crops(slide_id)))
    return len({tables.metadata_of(schema).get(PARTS_KEY) for schema in schemas}) == 1


def _signature(tile_ids: Sequence[str]) -> str:
    return hashlib.sha256(repr(list(tile_ids)).encode()).hexdigest()[:16]


def _is_current(layout: RunLayout, manifest: Manifest, slide_id: str, signature: str) -> bool:
    """Whether both tables hold the tiles of a signature, read to their ends."""
    paths = (layout.cells(slide_id), layout.crops(slide_id))
    return all(path.exists() and _holds(path, manifest, signature) for path in paths)


def _holds(table: Path, manifest: Manifest, signature: str) -> bool:
    try:
        if tables.metadata_of(tables.read_schema(table)).get(PARTS_KEY) != signature:
            return False
        tables.verify(table, manifest.config_hash)
    except DamagedTableError:
        return False
    return True


def _write_tables(
    layout: RunLayout, manifest: Manifest, slide_id: str, parts: Sequence[Path], metadata: dict[str, str]
) -> None:
    """Writes both tables side by side; the cells get their name last, so each of them has its crop."""
    names, config_hash = feature_names(manifest.config.compute.embedders), manifest.config_hash
    schema = cells_schema(names, has_weak_mk=manifest.stored("mk").has_weak)
    is_over = threading.Event()
    with ThreadPoolExecutor(3) as threads:  # Arrow works without the interpreter's lock
        crops = threads.submit(
            tables.write_stream,
            layout.crops(slide_id),
            CROPS,
            _until(is_over, _ahead(_crops(parts, config_hash), threads)),
            config_hash,
            metadata=metadata,
            group_rows=CROPS_PER_GROUP,
        )
        try:
            cells = _ahead(_cells(parts, manifest, schema), threads)
            of_cells = {**metadata, **filter_metadata(manifest)}
            tables.write_stream(
                layout.cells(slide_id), schema, _then(crops, cells), config_hash, metadata=of_cells
            )
        finally:
            is_over.set()


def _cells(parts: Sequence[Path], manifest: Manifest, schema: pa.Schema) -> Iterator[pa.Table]:
    stored = [name for name in schema.names if name != "in_filter"]
    for part in parts:
        piece = tables.read_table(part, manifest.config_hash, columns=stored)
        yield with_in_filter(piece, manifest.filter).select(schema.names)


def _crops(parts: Sequence[Path], config_hash: str) -> Iterator[pa.Table]:
    names = ["cell_id", *(f"crop_{name}" for name in CROPS.names[1:])]
    for part in parts:
        for piece in tables.read_pieces(part, config_hash, names, CROPS_PER_GROUP):
            yield piece.rename_columns(CROPS.names)


def _ahead(pieces: Iterator[pa.Table], threads: Executor) -> Iterator[pa.Table]:
    """The same pieces, the next one being read while the last is written."""
    coming = threads.submit(next, pieces, None)
    while (piece := coming.result()) is not None:
        coming = threads.submit(next, pieces, None)
        yield piece


def _then(earlier: Future[int], pieces: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same pieces, and after the last a wait for `earlier`, whose error ends them."""
    yield from pieces
    earlier.result()


def _until(is_over: threading.Event, pieces: Iterator[pa.Table]) -> Iterator[pa.Table]:
    for piece in pieces:
        if is_over.is_set():
            raise CancelledError
        yield piece
