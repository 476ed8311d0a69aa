"""The page of each cell: small files by which a link to a cell finds its page.

A browser that is asked for a cell fetches the one file that its id's CRC-32 falls into, however many
cells the site has. Two cells with the same CRC-32 are both listed with their pages; the
browser tries one after the other.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from mkhspc.config import CellType
from mkhspc.gallery.assets import content_hash

CELLS_PER_FILE = 1000
"""Cells that a lookup file has on average: about 15 kB to fetch."""
MAX_FILES = 4096
"""Most lookup files of a cell type."""


def file_count(cells: int) -> int:
    """A power of two: files for this many cells, at about a thousand cells a file."""
    files = 1
    while files < MAX_FILES and files * CELLS_PER_FILE < cells:
        files *= 2
    return files


def lookup_files(pages: Mapping[str, int], files: int) -> list[str]:
    """The files' JSON texts: `{"<crc32>": [page, ...]}`, in order of crc32 modulo `files`.

    Args:
        pages: cell id to the number of its page, from 1.
    """
    found: list[dict[int, list[int]]] = [{} for _ in range(files)]
    for cell_id, page in pages.items():
        crc = zlib.crc32(cell_id.encode())
        found[crc % files].setdefault(crc, []).append(page)
    return [json.dumps(dict(sorted(part.items())), separators=(",", ":")) for part in found]


def write_lookup(assets: Path, cell_type: CellType, pages: Iterable[tuple[str, int]]) -> tuple[str, int]:
    """Writes a cell type's files below `assets`; returns the name of their directory and their number."""
    where = dict(pages)
    texts = [text.encode() for text in lookup_files(where, file_count(len(where)))]
    directory = assets / f"{cell_type}-cells-{content_hash(*texts)}"
    directory.mkdir()
    for number, text in enumerate(texts):
        (directory / f"{number}.json").write_bytes(text)
    return directory.name, len(texts)
