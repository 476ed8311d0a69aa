"""Many windows of one slide in a known order, each sub-block decoded about once (see `read_order`).

Threads decode the blocks of the next windows while the reading thread puts a window together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType

from mkhspc.errors import InputError
from mkhspc.geometry import Box, RgbImage
from mkhspc.slide.czi.block_cache import BlockCache, BlockKey
from mkhspc.slide.czi.read_order import SceneBox, WindowBlocks, mosaics_of
from mkhspc.slide.czi.slide import WHITE, CziSlide
from mkhspc.slide.czi.unpack import Image

AHEAD_PER_THREAD = 4
"""How many blocks may be decoded and not yet shown, for each decoding thread. With 2, two threads wait while
a window is put together."""
WORTH_A_COPY = 7 / 8
"""A part of a block is copied, and the rest forgotten, where it takes no more than this share of what is
held: many windows in one huge image would else copy nearly all of it each time."""


def always(*_: int) -> bool:
    """Every window is wanted, and has a place."""
    return True


class _Block:
    """A block that a thread decodes, and then what is kept of it."""

    def __init__(self, decoding: Future[Image]) -> None:
        self._image: Future[Image] | Image = decoding

    def image(self) -> Image:
        """Waits for the pixels; raises what decoding them raised."""
        if isinstance(self._image, Future):
            self._image = self._image.result()
        return self._image

    def keep(self, part: Box) -> None:
        """Forgets all but a part of the image, and perhaps a little more."""
        image = self.image()
        if part.area_px <= WORTH_A_COPY * image.box.area_px:
            self._image = image.part(part)


@dataclass(frozen=True)
class _Piece:
    """A block on its way into a window.

    Attributes:
        kept: the part of it that later windows need; None if they need nothing of it.
        is_new: it was not kept from an earlier window.
    """

    key: BlockKey
    block: _Block
    kept: Box | None
    is_new: bool


class WindowStream:
    """Reads windows of one slide in order, and decodes ahead of whoever asks for them.

    One thread uses the stream; `threads` more decode for it.
    """

    def __init__(
        self,
        slide: CziSlide,
        windows: Sequence[SceneBox],
        *,
        room_bytes: int,
        threads: int,
        is_wanted: Callable[[int], bool] = always,
        has_place: Callable[[], bool] = always,
    ) -> None:
        """Takes over the slide, and closes it.

        Args:
            windows: in the order of reading, from `order_windows`.
            room_bytes: of decoded blocks that may be kept for later windows.
            is_wanted: asked shortly before a window is begun; those not wanted are left out.
            has_place: whether blocks of the next window are decoded before it is asked for, because there is
                a place to show them in; if it had to wait for one, they would only take memory. Nothing is
                decoded for the windows after it.

        Raises:
            InputError: the slide's pixels are not RGB; it is closed then.
        """
        self._slide = slide
        try:
            self._blocks = WindowBlocks(mosaics_of(self._slide, windows), windows)
        except InputError:
            self._slide.close()
            raise
        self._cache: BlockCache[_Block] = self._blocks.cache(room_bytes)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._ahead = AHEAD_PER_THREAD * threads
        self._is_wanted = is_wanted
        self._has_place = has_place
        self._upcoming = self._steps_and_pieces()
        self._pending: deque[int | _Piece] = deque()
        self._new = 0
        self._begun_ahead = 0  # windows of which blocks may be under way, and which nobody has asked for yet
        self._is_drained = False

    def __enter__(self) -> WindowStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def decoded_bytes(self) -> int:
        """Of pixels decoded so far, those under way included."""
        return self._cache.loaded_bytes

    def close(self) -> None:
        """Stops decoding and closes the slide."""
        self._threads.shutdown(cancel_futures=True)
        self._slide.close()

    def next_window(self) -> int | None:
        """Index of the next wanted window, which `read_into` will show; None after the last."""
        return self._first_step() if self._look_ahead() else None

    def read_into(self, picture: RgbImage) -> None:
        """Shows the window that `next_window` named.

        Args:
            picture: (box.height, box.width, 3) uint8, RGB; white outside the scene and in its gaps.

        Raises:
            InputError: a sub-block of the window cannot be decoded; the next windows can be read.
        """
        step = self._first_step()
        self._pending.popleft()
        self._begun_ahead -= 1
        place = self._blocks.place(self._blocks.windows[step])
        for gap in self._blocks.gaps(step):
            picture[gap.slices_in(place)] = WHITE
        fault: Exception | None = None
        while self._look_ahead() and isinstance(piece := self._pending[0], _Piece):
            self._pending.popleft()
            try:
                self._show(piece, picture, place)
            except Exception as found:  # raised when all blocks of the window are through
                fault = fault or found
            self._new -= piece.is_new
        if fault is not None:
            raise fault

    def _first_step(self) -> int:
        """Index of the window whose blocks come first among the pending ones."""
        first = self._pending[0]
        if not isinstance(first, int):
            raise RuntimeError("the window before was not read to its end")
        return first

    def _show(self, piece: _Piece, picture: RgbImage, place: Box) -> None:
        image = piece.block.image()
        for part in self._blocks.parts(piece.key):
            image.show(part.clipped(place), picture, place)
        if piece.kept is not None:
            piece.block.keep(piece.kept)

    def _look_ahead(self) -> bool:
        """Begins to decode what is needed next; returns whether anything is left to show."""
        while not self._is_drained and (self._new < self._ahead or not self._pending):
            is_at_border = bool(self._pending) and isinstance(self._pending[-1], int)
            if is_at_border and (self._begun_ahead > 1 or not self._has_place()):
                break
            item = next(self._upcoming, None)
            if item is None:
                self._is_drained = True
            else:
                self._pending.append(item)
                self._begun_ahead += isinstance(item, int)
                self._new += isinstance(item, _Piece) and item.is_new
        return bool(self._pending)

    def _steps_and_pieces(self) -> Iterator[int | _Piece]:
        """Of every wanted window its index, then its blocks, which threads begin to decode."""
        for step, keys in enumerate(self._blocks.steps):
            if not self._is_wanted(step):
                continue
            yield step
            for key in keys:
                before = self._cache.loaded_bytes
                block = self._cache.get(key, step, partial(self._begin, key))
                yield _Piece(key, block, self._blocks.kept[step].get(key), self._cache.loaded_bytes > before)

    def _begin(self, key: BlockKey) -> _Block:
        return _Block(self._threads.submit(self._slide.decode, self._blocks.block(key)))
