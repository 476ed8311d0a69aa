"""Many windows of one slide in a known order, with each sub-block decoded about once (see `read_order`).

Threads with a handle each decode ahead of the window that is put together, and show what they decoded in
it themselves; they also cut and pack what is kept of it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

from mkhspc.errors import InputError
from mkhspc.geometry import Box
from mkhspc.slide.czi.directory import read_directory
from mkhspc.slide.czi.packed import PackedImage
from mkhspc.slide.czi.read_order import Assembly, BlockKey, Foreseen, Visit, mosaics_of
from mkhspc.slide.czi.slide import WHITE, CziSlide
from mkhspc.slide.czi.unpack import Image, Pixels

AHEAD_PER_THREAD = 2
"""Blocks that may be decoded and not yet shown, for each decoding thread."""


class _View:
    """A window being put together, by the threads that decode its blocks and the one that reads it."""

    def __init__(self, picture: Pixels, box: Box, gaps: Sequence[Box]) -> None:
        self._picture = picture
        self._box = box
        self._awaited = 1  # the reader, until it has named every block
        self._fault: Exception | None = None
        self._is_whole = threading.Condition()
        for gap in gaps:
            picture[gap.slices_in(box)] = WHITE

    def expect(self) -> None:
        """One more block will be shown."""
        with self._is_whole:
            self._awaited += 1

    def show(self, image: Image | PackedImage | Exception, parts: Sequence[Box]) -> None:
        """Shows parts of a decoded block, which lie in the window; a fault fails the window."""
        try:
            if isinstance(image, Exception):
                raise image
            for piece in image.pieces(parts):
                for part in parts:
                    piece.show(part, self._picture, self._box)
        except Exception as fault:  # raised again in the thread that reads, which waits for this block
            self._fault = self._fault or fault
        finally:
            self._settle()

    def wait(self) -> None:
        """Waits for all blocks; raises what one of them failed with."""
        self._settle()
        with self._is_whole:
            self._is_whole.wait_for(lambda: not self._awaited)
        if self._fault is not None:
            raise self._fault

    def _settle(self) -> None:
        with self._is_whole:
            self._awaited -= 1
            if not self._awaited:
                self._is_whole.notify()


class _Decoded:
    """A block's pixels, or what was raised for them, as soon as a thread has decoded it.

    Args:
        packs: whether what is kept is packed.
    """

    def __init__(self, packs: bool) -> None:
        self._image: Image | PackedImage | Exception | None = None
        self._packs = packs
        self._waiting: list[tuple[_View, Sequence[Box], Box | None]] = []
        self._lock = threading.Lock()

    def decode(self, read: Callable[[CziSlide], Image], slide: CziSlide) -> None:
        """Decodes, and shows the block in the windows that wait for it."""
        try:
            image: Image | Exception = read(slide)
        except Exception as fault:  # raised again for each window that needs the block
            image = fault
        with self._lock:
            self._image = image
        for waiting in self._waiting:
            self._show(*waiting)

    def show_in(self, view: _View, parts: Sequence[Box], later: Box | None, threads: _Decoders) -> None:
        """Lets the thread that decodes the block show it, or another one if that is done.

        Args:
            later: what is to be kept for the windows after this one.
        """
        view.expect()
        with self._lock:
            is_decoded = self._image is not None
            if not is_decoded:
                self._waiting.append((view, parts, later))
        if is_decoded:
            threads.do(lambda _: self._show(view, parts, later))

    def _show(self, view: _View, parts: Sequence[Box], later: Box | None) -> None:
        """One window at a time: the next one is begun when this one is whole."""
        image = self._image
        assert image is not None
        try:
            if later is not None and not isinstance(image, Exception):
                self._image = self._kept(image, later)
        except Exception as fault:  # as in `_View.show`: the thread that reads waits for this block
            image = fault
        view.show(image, parts)

    def _kept(self, image: Image | PackedImage, later: Box) -> Image | PackedImage:
        if isinstance(image, PackedImage):
            return image.part(later)
        if self._packs:
            return PackedImage.of(image, later)
        return image if later == image.box else image.part(later)


class _Decoders:
    """Threads with a handle of a slide each; `concurrent.futures` takes ten times as long to hand work over.

    Args:
        handles: one a thread.
    """

    def __init__(self, handles: Sequence[CziSlide]) -> None:
        self._waiting: SimpleQueue[Callable[[CziSlide], None] | None] = SimpleQueue()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._live, args=(handle,), name=f"decode-{nth}", daemon=True)
            for nth, handle in enumerate(handles)
        ]
        for thread in self._threads:
            thread.start()

    def do(self, work: Callable[[CziSlide], None]) -> None:
        """Has one of the threads do it, in the order of calls; it raises nothing."""
        self._waiting.put(work)

    def close(self) -> None:
        """Ends the threads, and closes their handles; work that was not begun is left."""
        self._is_closed = True
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _live(self, handle: CziSlide) -> None:
        while (work := self._waiting.get()) is not None:
            if not self._is_closed:
                work(handle)
        handle.close()


@dataclass(frozen=True)
class _Piece:
    """A block on its way into a window; see `_Decoded.show_in`."""

    block: _Decoded
    parts: Sequence[Box]
    later: Box | None
    is_new: bool


class WindowStream:
    """Reads windows of one slide, in order, ahead of whoever asks for them.

    One thread uses the stream; `threads` more decode for it.
    """

    def __init__(
        self,
        path: Path,
        um_per_px: float,
        visits: Sequence[Visit],
        *,
        room_bytes: int,
        threads: int,
        packs: bool = False,
        is_wanted: Callable[[int], bool] = lambda step: True,
        has_place: Callable[[], bool] = lambda: True,
    ) -> None:
        """Opens `threads` handles of the slide.

        Args:
            room_bytes: of decoded blocks that may be kept for later windows, as they are before packing.
            packs: what is kept: half its memory for some 0.1 s a window, a hundredth of a tile's work.
            is_wanted: asked shortly before a window is begun; those not wanted are left out.
            has_place: whether blocks of the next window are decoded before it is asked for, for there is a
                place to show them in; where it would have to wait for one, they only take memory.

        Raises:
            InputError: the slide cannot be opened or is no RGB slide.
        """
        directory = read_directory(path)
        self._visits = visits
        first = CziSlide(directory, um_per_px)
        try:
            self._assembly = Assembly.of(mosaics_of(first, visits), visits)
        except InputError:
            first.close()
            raise
        self._cache: Foreseen[_Decoded] = self._assembly.cache(room_bytes)
        self._decoders = _Decoders([first, *(first.another_handle() for _ in range(threads - 1))])
        self._ahead = AHEAD_PER_THREAD * threads
        self._packs = packs
        self._is_wanted = is_wanted
        self._has_place = has_place
        self._pieces = self._foresee()
        self._pending: deque[_Piece | int] = deque()
        self._new = 0
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
        """Stops decoding and closes the handles."""
        self._decoders.close()

    def next_window(self) -> int | None:
        """Index of the next wanted window, which `read_into` will show; None after the last."""
        self._look_ahead()
        if not self._pending:
            return None
        first = self._pending[0]
        if not isinstance(first, int):
            raise RuntimeError("the window before was not read to its end")
        return first

    def read_into(self, picture: Pixels) -> None:
        """Shows the window that `next_window` named.

        Args:
            picture: (box.height, box.width, 3) uint8, RGB; white outside the scene and in its gaps.

        Raises:
            InputError: a sub-block of the window cannot be decoded; the next windows can be read.
        """
        step = self._pending.popleft()
        assert isinstance(step, int)
        place = self._assembly.place(self._visits[step])
        view = _View(picture, place, self._assembly.gaps(step))
        while self._look_ahead() and isinstance(piece := self._pending[0], _Piece):
            self._pending.popleft()
            seen = [part.clipped(place) for part in piece.parts]
            parts = [part for part in seen if part.area_px]
            piece.block.show_in(view, parts, piece.later, self._decoders)
            self._new -= piece.is_new
        view.wait()

    def _look_ahead(self) -> bool:
        """Begins to decode what is needed next; returns whether anything is left to show."""
        while not self._is_drained and (self._new < self._ahead or not self._pending):
            if self._pending and isinstance(self._pending[-1], int) and not self._has_place():
                break
            item = next(self._pieces, None)
            if item is None:
                self._is_drained = True
            else:
                self._pending.append(item)
                self._new += isinstance(item, _Piece) and item.is_new
        return bool(self._pending)

    def _foresee(self) -> Iterator[_Piece | int]:
        """Of every wanted window its index, then its blocks."""
        for step, keys in enumerate(self._assembly.steps):
            if not self._is_wanted(step):
                continue
            yield step
            for key in keys:
                before = self._cache.loaded_bytes
                block = self._cache.get(key, step, partial(self._begin, key))
                later = self._assembly.later[step].get(key)
                yield _Piece(block, self._assembly.parts(key), later, self._cache.loaded_bytes > before)

    def _begin(self, key: BlockKey) -> _Decoded:
        """Has a block decoded."""
        stored = self._assembly.block(key)
        foot = max((part.y1 for part in self._assembly.parts(key)), default=stored.box.y0 + 1)
        rows = foot - stored.box.y0
        block = _Decoded(self._packs)
        self._decoders.do(partial(block.decode, lambda slide: slide.decode(stored, rows)))
        return block
