"""The manifest: what a run was asked to do, resolved once and read by every later stage.

It is changed without a lock. Revision N of it is the file `manifest.N.json`, made by an exclusive creation:
of several processes that change revision N - 1 the first wins, and the others read its work and try again.
`manifest.json`, the first revision at first, is a copy of the newest; a process killed before it made the
copy leaves an older one, so whoever reads goes on to the last revision there is. They are all kept: no
process, however slow, can bring an older one back.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from mkhspc.config import (
    CELL_TYPES,
    UM_PER_PX,
    CellRange,
    CellType,
    RunConfig,
    check,
    check_filter,
    config_hash,
    differences,
    from_dict,
    identity,
    to_dict,
)
from mkhspc.config.identity import (
    DRAW_BY_NAME,
    DRAW_BY_TISSUE,
    dataset_name,
    draw_of,
    identity_begun_as,
    stored_scores_of,
)
from mkhspc.config.typed import from_values
from mkhspc.errors import InputError, UsageError, some_of
from mkhspc.store import atomic
from mkhspc.store.exclusions import Exclusion
from mkhspc.store.layout import RunLayout, is_slide_id
from mkhspc.store.untrusted_json import SMALL, JsonError, content_of, parse_json

FORMAT = "mkhspc-run"
VERSION = 2
"""The format's version; version 2 added revisions and a checksum."""
SCORES_BEFORE: dict[CellType, float] = {"mk": 0.5, "hspc": 0.0}
"""The least scores of runs whose identity names none: they kept what was more likely an MK than not."""
TRIES = 200
"""Attempts to change a manifest. One fails when another process was first, or a cache of NFS is behind."""
MOST_WAIT_S = 0.2
"""Longest random pause between two attempts, in seconds."""


@dataclass(frozen=True)
class SceneEntry:
    """A scene of a slide: its index in the file and its size in level-0 pixels.

    Attributes:
        channel, channel_name: the one that is read; None in the manifests of the first runs.
    """

    scene: int
    width_px: int
    height_px: int
    channel: int | None = None
    channel_name: str | None = None


@dataclass(frozen=True)
class SlideEntry:
    """A slide of the run.

    Attributes:
        fingerprint: of the file, so that no other scan takes its place; see `CziDirectory`.
        code: what annotators see instead of its name.
        content: of its images, whatever the file's name and id; see `slide.czi.content`. None in the
            manifests of the first runs.
    """

    slide_id: str
    path: str
    size_bytes: int
    fingerprint: str
    um_per_px: Annotated[float, UM_PER_PX]
    scenes: tuple[SceneEntry, ...]
    code: str
    content: str | None = None

    def is_of_file_of(self, other: SlideEntry) -> bool:
        """Whether another entry is of the same file, whatever its place and its damage.

        What an entry of the first runs does not say agrees with anything.
        """
        scenes = tuple(map(_as_far_as, self.scenes, other.scenes)) + other.scenes[len(self.scenes) :]
        return self == replace(other, path=self.path, code=self.code, content=self.content, scenes=scenes)


def _as_far_as(known: SceneEntry, other: SceneEntry) -> SceneEntry:
    return other if known.channel is not None else replace(other, channel=None, channel_name=None)


def _slide_values(slide: SlideEntry) -> dict[str, Any]:
    """As JSON; what is not known is left out, so that manifests of the first runs stay as they are."""
    scenes = [_known(asdict(scene)) for scene in slide.scenes]
    return {**_known(asdict(slide)), "scenes": scenes}


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Manifest:
    """Contents of `RUN/manifest.json`.

    Attributes:
        config: the resolved config that created the run.
        identity: the settings that decide which cells there are; `config_hash` is their hash.
        dataset: names the run in the gallery and in exported labels; never changes.
        filter: the filter in force, per cell type: a view on the stored cells.
        detectors: the detector in use per cell type, and why it was chosen.
        versions: of the libraries whose numbers enter the results.
        exclusions: slides and tiles that have left the study.
        revision: counts the changes of what the run was asked for, from 1.
    """

    config: RunConfig
    identity: Mapping[str, Any]
    dataset: str
    slides: tuple[SlideEntry, ...]
    filter: Mapping[CellType, CellRange]
    detectors: Mapping[CellType, str]
    versions: Mapping[str, str]
    model_hashes: Mapping[str, str]
    exclusions: tuple[Exclusion, ...] = ()
    revision: int = field(default=1, compare=False)

    @classmethod
    def begin(
        cls,
        config: RunConfig,
        slides: Sequence[SlideEntry],
        detectors: Mapping[CellType, str],
        versions: Mapping[str, str],
        model_hashes: Mapping[str, str],
    ) -> Manifest:
        """The manifest of a run that begins with these slides, which get their blind codes."""
        ids = [slide.slide_id for slide in slides]
        codes = blind_codes(config.run.seed, ids)
        settings = identity(config, model_hashes)
        return cls(
            config=config,
            identity=settings,
            dataset=dataset_name(config_hash(settings), ids),
            slides=tuple(replace(slide, code=codes[slide.slide_id]) for slide in slides),
            filter={t: config.cells(t).filter for t in CELL_TYPES},
            detectors=detectors,
            versions=versions,
            model_hashes=model_hashes,
        )

    @property
    def config_hash(self) -> str:
        return config_hash(self.identity)

    @property
    def calibration_draw(self) -> int:
        """The rule by which the run draws its calibration windows; see `config.identity`."""
        return draw_of(self.identity)

    def slide(self, slide_id: str) -> SlideEntry:
        for slide in self.slides:
            if slide.slide_id == slide_id:
                return slide
        known = some_of([slide.slide_id for slide in self.slides])
        raise InputError(f"the run has no slide '{slide_id}'", fix=f"its slides: {known}")

    def stored(self, cell_type: CellType) -> CellRange:
        """What is on disk: the filter can be any range within."""
        score = stored_scores_of(self.identity).get(cell_type, SCORES_BEFORE[cell_type])
        low_um2, high_um2 = self.identity[f"{cell_type}.stored_area_um2"]
        return CellRange(low_um2, high_um2, score)

    def is_excluded(self, slide_id: str, tile_id: str | None = None) -> bool:
        """Whether a slide, or a tile of it, has left the study."""
        return (slide_id, None) in self._excluded or (slide_id, tile_id) in self._excluded

    @cached_property
    def _excluded(self) -> frozenset[tuple[str, str | None]]:
        return frozenset((one.slide_id, one.tile_id) for one in self.exclusions)

    def kept_tiles(self, layout: RunLayout, slide_id: str) -> set[str]:
        """Ids of a slide's finished tiles that are in the study."""
        finished = layout.finished_tiles(slide_id)
        return {tile_id for tile_id in finished if not self.is_excluded(slide_id, tile_id)}

    def with_exclusions(self, exclusions: tuple[Exclusion, ...]) -> Manifest:
        return replace(self, exclusions=exclusions)

    def with_filter(self, views: Mapping[CellType, CellRange]) -> Manifest:
        return replace(self, filter={**self.filter, **views})


def blind_codes(seed: int, slide_ids: list[str], taken: int = 0) -> dict[str, str]:
    """Codes S01, S02, ... in an order that the names do not give away.

    Args:
        taken: how many codes are in use already; new slides get the next ones.
    """

    def draw(slide_id: str) -> str:
        return hashlib.sha256(f"{seed}/code/{slide_id}".encode()).hexdigest()

    return {s: f"S{taken + i:02d}" for i, s in enumerate(sorted(slide_ids, key=draw), start=1)}


def create(layout: RunLayout, manifest: Manifest) -> Manifest:
    """Creates the manifest, or reads the one that another process created first."""
    return manifest if _put(layout.manifest, manifest, None) else read(layout)


def update(layout: RunLayout, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Changes the manifest of a run; of several processes that do so no change is lost.

    Args:
        change: gives the new manifest for the one on disk, and may be called often. A change that
            changes nothing writes nothing.

    Returns:
        The manifest that is on disk now.

    Raises:
        InputError: there is no manifest, it is damaged, or other processes change it all the time.
    """
    for _ in range(TRIES):
        manifest = read(layout)
        changed = replace(change(manifest), revision=manifest.revision + 1)
        if changed == manifest:
            changed = manifest
        elif not _put(layout.manifest_revision(changed.revision), changed, layout.root):
            time.sleep(random.uniform(0.0, MOST_WAIT_S))
            continue
        _show_newest(layout)
        return changed
    raise InputError(
        f"other processes changed it {TRIES} times in a row, faster than this one could",
        where=layout.manifest,
        fix="end them, then try again",
    )


def _put(path: Path, manifest: Manifest, within: Path | None) -> bool:
    """Whether this process was the first to create the file, and so it holds the manifest."""
    try:
        with atomic.creating(path, within=within) as temporary:
            temporary.write_text(dumps(manifest), encoding="utf-8")
    except FileExistsError:
        return False
    return True


def _show_newest(layout: RunLayout) -> None:
    """Makes `manifest.json` the newest revision; a slow process may have made it an older one meanwhile."""
    while (newest := read(layout)).revision > _load(layout.manifest).revision:
        atomic.write_text(layout.manifest, dumps(newest), within=layout.root)


def read(layout: RunLayout) -> Manifest:
    """Reads the newest manifest of a run.

    Raises:
        InputError: there is none, it is damaged, or it was edited by hand.
    """
    try:
        manifest = _load(layout.manifest)
    except FileNotFoundError as error:
        raise InputError(
            "is not a run: it has no manifest.json", where=layout.root, fix="make one with `mkhspc segment`"
        ) from error
    while (later := layout.manifest_revision(manifest.revision + 1)).exists():
        manifest = _load(later)
    return manifest


def _load(path: Path) -> Manifest:
    try:
        return loads(content_of(path, SMALL), path)
    except FileNotFoundError:
        raise
    except JsonError as error:
        raise _damaged(f"it {error}", path) from error
    except OSError as error:
        raise InputError(
            f"cannot be read ({error})", where=path, fix="check the file's permissions, or restore it"
        ) from error


def dumps(manifest: Manifest) -> str:
    """The manifest as JSON text, the same for the same manifest."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "revision": manifest.revision,
        "dataset": manifest.dataset,
        "config_hash": manifest.config_hash,
        "identity": dict(manifest.identity),
        "seed": manifest.config.run.seed,
        "filter": {k: asdict(v) for k, v in manifest.filter.items()},
        "exclusions": [asdict(one) for one in manifest.exclusions],
        "detectors": dict(manifest.detectors),
        "model_hashes": dict(manifest.model_hashes),
        "versions": dict(manifest.versions),
        "blind_codes": {s.slide_id: s.code for s in manifest.slides},
        "slides": [_slide_values(slide) for slide in manifest.slides],
        "config": to_dict(manifest.config),
    }
    return atomic.dump_json({**data, "checksum": checksum(data)})


def checksum(data: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of all values but `checksum`, however they are laid out."""
    values = {key: value for key, value in data.items() if key != "checksum"}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def loads(text: str | bytes, where: Path) -> Manifest:
    """The manifest in a JSON text; `where` is named in errors.

    Nothing in it is trusted: paths are made from its slides' ids.
    """
    try:
        data = parse_json(text)
        is_ours = data.get("format") == FORMAT and data.get("version") == VERSION and _is_known_draw(data)
        manifest = _from_dict(data) if is_ours else None
        edited = _edited(data, manifest) if manifest else None
    except JsonError as error:
        raise _damaged(f"it {error}", where) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(repr(error), where) from error
    except (InputError, UsageError) as error:
        raise _damaged(f"{error.where or ''} {error.what}".strip(), where) from error
    if manifest is None:
        raise InputError(
            f"is not a manifest that this version of mkhspc reads ({FORMAT}, version {VERSION})",
            where=where,
            fix="use the mkhspc that made the run, or segment into a new directory",
        )
    if edited:
        raise InputError(
            f"was edited: {edited}",
            where=where,
            fix="undo the edit: the tiles were made with the settings it had. Use `mkhspc segment` to add"
            " slides or tiles, and `mkhspc refilter` to change the filter",
        )
    return manifest


def _is_known_draw(data: Mapping[str, Any]) -> bool:
    return draw_of(data["identity"]) in (DRAW_BY_NAME, DRAW_BY_TISSUE)


def _edited(data: Mapping[str, Any], manifest: Manifest) -> str | None:
    """What an edit by hand has made inconsistent, or None."""
    if data["config_hash"] != manifest.config_hash:
        return "its config_hash is not that of its settings"
    asked = identity_begun_as(manifest.identity, manifest.config, manifest.model_hashes)
    if changed := differences(asked, manifest.identity):
        return f"its config is not that of its identity: {changed[0]}"
    if data["seed"] != manifest.config.run.seed:
        return f"its seed is {data['seed']} and that of its config {manifest.config.run.seed}"
    if data["blind_codes"] != {slide.slide_id: slide.code for slide in manifest.slides}:
        return "its blind codes are not those of its slides"
    for cell_type in CELL_TYPES:
        if not manifest.stored(cell_type).contains(manifest.filter[cell_type]):
            return f"the filter of {cell_type} reaches beyond what is stored"
    if data["checksum"] != checksum(data):
        return "its checksum is not that of its values"
    return None


def _damaged(how: str, where: Path) -> InputError:
    return InputError(f"is damaged ({how})", where=where, fix="restore it, or segment into a new directory")


def _with_scores(data: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a manifest, with least scores in the filter and the config of a run made before these."""
    whole = {"filter": dict(data["filter"]), "config": dict(data["config"])}
    floors = {**SCORES_BEFORE, **stored_scores_of(data["identity"])}
    for cell_type in CELL_TYPES:
        for part in whole.values():
            part[cell_type] = {"min_score": floors[cell_type], **part[cell_type]}
    return {**data, **whole}


def _from_dict(data: Mapping[str, Any]) -> Manifest:
    data = _with_scores(data)
    manifest = Manifest(
        config=from_dict(data["config"]),
        identity=data["identity"],
        dataset=data["dataset"],
        slides=tuple(from_values(SlideEntry, s, f"slides[{i}]") for i, s in enumerate(data["slides"])),
        filter={t: from_values(CellRange, data["filter"][t], f"filter.{t}") for t in CELL_TYPES},
        detectors=data["detectors"],
        versions=data["versions"],
        model_hashes=data["model_hashes"],
        exclusions=tuple(
            from_values(Exclusion, one, f"exclusions[{i}]")
            for i, one in enumerate(data.get("exclusions", ()))
        ),
        revision=data["revision"],
    )
    check(manifest.config)
    for cell_type, view in manifest.filter.items():
        check_filter(view, cell_type)
    for slide in manifest.slides:
        if not is_slide_id(slide.slide_id):
            raise InputError(f"'{slide.slide_id}' is not a slide id")
    if len({slide.slide_id for slide in manifest.slides}) < len(manifest.slides):
        raise InputError("two slides have the same id")
    return manifest
