"""Slides of one content: a copy under another name would count as a second animal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mkhspc.errors import InputError
from mkhspc.slide.czi.content import is_same
from mkhspc.store.manifest import SlideEntry

ONE_SCAN = "give it once: its cells would count twice"


def refuse_copies(known: Sequence[SlideEntry], new: Sequence[SlideEntry]) -> None:
    """Refuses slides that hold the images of another.

    Args:
        known: the slides of the run, which are not compared with one another.
        new: those that it would begin with, or take on.

    Raises:
        InputError: names both slides of a pair.
    """
    slides = [*known, *new]
    for nth, slide in enumerate(slides[len(known) :], start=len(known)):
        for other in slides[:nth]:
            if seem_one(other, slide) and _are_one(other, slide):
                raise InputError(
                    f"the slides '{other.slide_id}' and '{slide.slide_id}' are one scan:"
                    f" {other.path} and {slide.path} hold the same images",
                    fix=ONE_SCAN,
                )


def copies_in(slides: Sequence[SlideEntry]) -> Iterator[tuple[SlideEntry, SlideEntry]]:
    """Pairs of slides that are one scan, by what the manifest says of them."""
    for nth, slide in enumerate(slides):
        yield from ((other, slide) for other in slides[:nth] if seem_one(other, slide))


def seem_one(one: SlideEntry, other: SlideEntry) -> bool:
    """Whether two entries may be of one scan; of those of the first runs the fingerprint says it."""
    if one.content is not None and other.content is not None:
        return one.content == other.content
    return (one.fingerprint, one.size_bytes) == (other.fingerprint, other.size_bytes)


def _are_one(one: SlideEntry, other: SlideEntry) -> bool:
    """Whether the files hold the same images; a slide that is no longer there cannot prove the contrary."""
    paths = Path(one.path), Path(other.path)
    return paths[0] == paths[1] or not all(path.is_file() for path in paths) or is_same(*paths)
