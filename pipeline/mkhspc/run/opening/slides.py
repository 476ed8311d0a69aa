"""The slides that a command names: their files, their ids, and what the manifest says of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mkhspc.config.schema import RunSection
from mkhspc.errors import InputError, UsageError
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.store.layout import distinct_slide_ids
from mkhspc.store.manifest import SceneEntry, SlideEntry


def slide_files(patterns: Sequence[str]) -> dict[str, Path]:
    """Files by slide id, for paths and wildcards in the order in which they are named.

    Raises:
        UsageError: nothing is named.
        InputError: a path does not exist, or two files would have one slide id.
    """
    paths = [path for pattern in patterns for path in _files(pattern)]
    if not paths:
        raise UsageError("no slide is named", fix="give one with --czi-path, or [run] slides in a config")
    return distinct_slide_ids(paths)


def _files(pattern: str) -> list[Path]:
    literal = Path(pattern)
    if literal.exists():
        return [literal]
    found = sorted(literal.parent.glob(literal.name)) if literal.name else []
    if not found:
        raise InputError("this slide does not exist", where=pattern, fix="check the path to the CZI file")
    return found


def wanted_ids(slide_ids: Sequence[str], only: Sequence[str]) -> tuple[str, ...]:
    """The ids named with --only, in the order of the slides; all where none is named.

    Raises:
        UsageError: `only` names a slide that the command does not.
    """
    for slide_id in only:
        if slide_id not in slide_ids:
            raise UsageError(
                f"there is no slide '{slide_id}'", where="--only", fix=f"there are: {', '.join(slide_ids)}"
            )
    return tuple(s for s in slide_ids if not only or s in only)


def slide_entry(slide_id: str, path: Path, run: RunSection) -> SlideEntry:
    """What the manifest says of a slide; it has no blind code yet.

    Args:
        run: gives the pixel size where the file states none, and the scenes that must be there.

    Raises:
        InputError: the file is not a CZI slide that can be used.
    """
    with CziSlide.open(path, um_per_px=run.um_per_px) as slide:
        slide.require_rgb()
        for scene in run.scenes:
            slide.scene(scene)
        scenes = tuple(SceneEntry(s.index, s.width_px, s.height_px) for s in slide.info.scenes)
        return SlideEntry(
            slide_id,
            path=str(path.resolve()),
            size_bytes=slide.info.size_bytes,
            fingerprint=slide.info.fingerprint,
            um_per_px=slide.um_per_px,
            scenes=scenes,
            code="",
        )
