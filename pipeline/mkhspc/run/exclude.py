"""Leaving out of a study, by name and reason, what damage or a bad slide would spoil or hold up."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from mkhspc.cluster.read_status import failed_tiles
from mkhspc.errors import UsageError, some_of
from mkhspc.slide.tiles import load_tile_plan
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.manifest.exclusions import Exclusion, with_added, without


@dataclass(frozen=True)
class Named:
    """What a command names.

    Attributes:
        slides: ids of whole slides.
        tiles: names of tiles, such as 'A/s0_0_0'.
    """

    slides: Sequence[str] = ()
    tiles: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.slides or self.tiles)

    @property
    def names(self) -> list[str]:
        return [*self.slides, *self.tiles]


def exclusions_of(layout: RunLayout, named: Named, reason: str) -> list[Exclusion]:
    """The exclusions that a command asks for.

    Raises:
        UsageError: there is no such slide or tile in the run's plan, or no reason is given.
    """
    if not reason.strip():
        raise UsageError("no reason is given", fix="say why with --reason: every report names it")
    manifest = manifests.read(layout)
    there = [slide.slide_id for slide in manifest.slides]
    for slide_id in named.slides:
        _refuse_unknown(slide_id, there, "slide")
    tiles = [_parted(name, there) for name in named.tiles]
    for slide_id in dict.fromkeys(slide_id for slide_id, _ in tiles):
        planned = _planned(layout, manifest, slide_id)
        for of_slide, tile_id in tiles:
            if of_slide == slide_id:
                _refuse_unknown(tile_id, planned, f"tile of {slide_id}")
    words = " ".join(reason.split())
    return [
        *(Exclusion(slide_id, words) for slide_id in named.slides),
        *(Exclusion(slide_id, words, tile_id) for slide_id, tile_id in tiles),
    ]


def failed_exclusions(layout: RunLayout, reason: str | None) -> list[Exclusion]:
    """Every tile that failed, for this reason or for its own error."""
    paths = {slide.slide_id: slide.path for slide in manifests.read(layout).slides}
    return [
        Exclusion(slide_id, " ".join((reason or _first_line(error, paths[slide_id])).split()), tile_id)
        for (slide_id, tile_id), error in failed_tiles(layout).items()
    ]


def _first_line(error: str, path: str) -> str:
    """What failed, without the slide's path, which is no reason, and without what to do."""
    return re.split(r"\n|\s{2,}", error, maxsplit=1)[0].removeprefix(f"{path}: ") or "it failed"


def exclude(layout: RunLayout, added: Sequence[Exclusion], *, dry_run: bool = False) -> Manifest:
    """Records exclusions; tables that were made before are stale then, and `merge` makes them anew.

    Args:
        dry_run: write nothing.

    Raises:
        UsageError: nothing of the study would be left.
    """

    def changed(there: Manifest) -> Manifest:
        found = there.with_exclusions(with_added(there.exclusions, added))
        if found != there:
            _refuse_nothing_left(layout, found)
        return found

    return _changed(layout, changed, dry_run)


def include(layout: RunLayout, named: Named, *, dry_run: bool = False) -> Manifest:
    """Takes exclusions back; of a slide those of its tiles as well.

    Args:
        dry_run: write nothing.

    Raises:
        UsageError: something named is not excluded.
    """

    def changed(there: Manifest) -> Manifest:
        taken_back = [name for name in named.names for name in _excluded_under(name, there)]
        return there.with_exclusions(without(there.exclusions, taken_back))

    return _changed(layout, changed, dry_run)


def _excluded_under(name: str, manifest: Manifest) -> list[str]:
    """The exclusions of a name: of a slide its tiles' as well."""
    names = [one.name for one in manifest.exclusions]
    under = [one for one in names if one == name or one.startswith(f"{name}/")]
    if not under:
        fix = f"excluded are: {some_of(names)}" if names else "nothing of this run is"
        raise UsageError(f"'{name}' is not excluded", fix=fix)
    return under


def _changed(layout: RunLayout, change: Callable[[Manifest], Manifest], dry_run: bool) -> Manifest:
    return change(manifests.read(layout)) if dry_run else manifests.update(layout, change)


def _refuse_unknown(name: str, there: Collection[str], what: str) -> None:
    if name not in there:
        near = get_close_matches(name, list(there), n=3, cutoff=0.5)
        fix = f"did you mean {' or '.join(near)}?" if near else f"there are: {some_of(list(there))}"
        raise UsageError(f"this run has no {what} '{name}'", fix=fix)


def _parted(name: str, slide_ids: Collection[str]) -> tuple[str, str]:
    slide_id, _, tile_id = name.rpartition("/")
    if not slide_id or not tile_id:
        raise UsageError(
            f"'{name}' is not the name of a tile",
            fix="a name is SLIDE/TILE, as `mkhspc status --json` lists it",
        )
    _refuse_unknown(slide_id, slide_ids, "slide")
    return slide_id, tile_id


def _planned(layout: RunLayout, manifest: Manifest, slide_id: str) -> list[str]:
    if not layout.plan(slide_id).exists():
        raise UsageError(
            f"the tiles of {slide_id} are not planned yet",
            fix=f"leave the whole slide out: --slide {slide_id}",
        )
    return [tile.tile_id for tile in load_tile_plan(layout, slide_id, manifest.config_hash).tiles]


def _refuse_nothing_left(layout: RunLayout, manifest: Manifest) -> None:
    if not any(_has_tiles_left(layout, manifest, slide.slide_id) for slide in manifest.slides):
        raise UsageError("nothing of the study would be left", fix="leave out fewer slides or tiles")


def _has_tiles_left(layout: RunLayout, manifest: Manifest, slide_id: str) -> bool:
    """Only a slide with excluded tiles has its plan read: another's may be missing, or damaged."""
    if manifest.is_excluded(slide_id):
        return False
    if not any(one.slide_id == slide_id for one in manifest.exclusions):
        return True
    return not all(manifest.is_excluded(slide_id, tile) for tile in _planned(layout, manifest, slide_id))
