"""The crops of a site, gathered from the run in one pass and read back page by page.

A page interleaves slides, while crops lie slide by slide. So they are copied once, in the order in
which the run stores them, into one scratch file with an index by card: memory stays small however
many cells there are, and no table is read twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mkhspc.errors import InputError
from mkhspc.gallery.select import Deck
from mkhspc.progress import Progress
from mkhspc.store.cells import Crop, iter_crops, read_cells
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest

SCRATCH_SUFFIX = ".scratch"

_ENTRY = np.dtype(
    [
        ("at", "i8"),
        ("image_bytes", "i4"),
        ("points", "i4"),
        ("x0_px", "i4"),
        ("y0_px", "i4"),
        ("um_per_px", "f8"),
    ]
)


@dataclass(frozen=True)
class Picture:
    """A cell's encoded crop and its contour.

    Attributes:
        image: the lossless crop as the run stores it.
        contour_px: (n, 2) int32 corners x, y, level-0 px of the scene.
        origin_px: x, y of the crop's top-left pixel, level-0 px of the scene.
    """

    image: bytes
    contour_px: NDArray[np.int32]
    origin_px: tuple[int, int]
    um_per_px: float


class PictureFile:
    """A scratch file of pictures, one per cell of a deck, addressed by the deck's row.

    It lies in `directory`, and is gone when its `with` block ends.
    """

    def __init__(self, directory: Path, deck: Deck) -> None:
        self._path = directory / f"{deck.cell_type}{SCRATCH_SUFFIX}"
        self._file: BinaryIO = self._path.open("w+b")
        self._rows = {cell_id: row for row, cell_id in enumerate(deck.cells["cell_id"].to_pylist())}
        self._index = np.zeros(len(self._rows), _ENTRY)
        self._end = 0

    def __enter__(self) -> PictureFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink()

    def __contains__(self, cell_id: str) -> bool:
        return cell_id in self._rows

    def add(self, crop: Crop, contour: NDArray[np.int32]) -> None:
        """Appends the picture of one cell; `contour` is flat, x0, y0, x1, y1, ..."""
        record = crop.image + contour.astype("<i4").tobytes()
        self._index[self._rows[crop.cell_id]] = (
            self._end,
            len(crop.image),
            len(contour),
            crop.x0_px,
            crop.y0_px,
            crop.um_per_px,
        )
        self._file.write(record)
        self._end += len(record)

    def read(self, rows: Sequence[int]) -> list[Picture]:
        """The pictures of these rows, in this order."""
        return [self._read(self._index[row]) for row in rows]

    def missing(self) -> int:
        """How many cells have no picture yet."""
        return int(np.count_nonzero(self._index["image_bytes"] == 0))

    def _read(self, entry: np.void) -> Picture:
        self._file.seek(int(entry["at"]))
        record = self._file.read(int(entry["image_bytes"]) + 4 * int(entry["points"]))
        return Picture(
            image=record[: int(entry["image_bytes"])],
            contour_px=np.frombuffer(record, "<i4", offset=int(entry["image_bytes"])).reshape(-1, 2),
            origin_px=(int(entry["x0_px"]), int(entry["y0_px"])),
            um_per_px=float(entry["um_per_px"]),
        )


def gather(
    layout: RunLayout,
    manifest: Manifest,
    decks: Sequence[Deck],
    files: Sequence[PictureFile],
    progress: Progress,
) -> None:
    """Copies the crop and contour of every cell of the decks into the decks' files.

    Raises:
        InputError: a cell has no crop.
    """
    for done, slide in enumerate(manifest.slides, start=1):
        wanted = {cell_id for deck in decks for cell_id in _ids_of(deck, slide.slide_id)}
        contours = _Contours(layout, manifest, slide.slide_id)
        for crop in iter_crops(layout, manifest, slide.slide_id, wanted) if wanted else ():
            file = next(file for file in files if crop.cell_id in file)
            file.add(crop, contours[crop.cell_id])
        progress("collect crops", done, len(manifest.slides))
    for deck, file in zip(decks, files, strict=True):
        if file.missing():
            raise InputError(
                f"{file.missing()} {deck.cell_type} cells have no crop",
                where=layout.root / "crops",
                fix="make the tables again with `mkhspc merge`",
            )


def _ids_of(deck: Deck, slide_id: str) -> list[str]:
    ids: list[str] = deck.cells.filter(pc.equal(deck.cells["slide_id"], slide_id))["cell_id"].to_pylist()
    return ids


class _Contours:
    """The contours of one slide's cells in the filter, by cell id, without a Python list a cell."""

    def __init__(self, layout: RunLayout, manifest: Manifest, slide_id: str) -> None:
        cells = read_cells(layout, manifest, slide_id, ["cell_id", "contour_px", "in_filter"])
        cells = cells.filter(cells["in_filter"]).combine_chunks()
        self._rows = {cell_id: row for row, cell_id in enumerate(cells["cell_id"].to_pylist())}
        lists = pa.concat_arrays([*cells["contour_px"].chunks, pa.array([], cells["contour_px"].type)])
        self._flat = lists.flatten().to_numpy()
        self._ends = np.cumsum(lists.value_lengths().to_numpy(zero_copy_only=False))

    def __getitem__(self, cell_id: str) -> NDArray[np.int32]:
        row = self._rows[cell_id]
        start = int(self._ends[row - 1]) if row else 0
        contour: NDArray[np.int32] = self._flat[start : int(self._ends[row])]
        return contour
