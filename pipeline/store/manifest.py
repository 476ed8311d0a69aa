"""The manifest: what a run was asked to do, resolved once and read by every later stage."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import (
    CELL_TYPES,
    AreaRange,
    CellType,
    RunConfig,
    check,
    check_area_range,
    check_um_per_px,
    config_hash,
    differences,
    from_dict,
    identity,
    to_dict,
)
from pipeline.config.typed import built
from pipeline.errors import InputError, UsageError
from pipeline.store import atomic
from pipeline.store.layout import RunLayout, is_slide_id

FORMAT = "mkhspc-run"
VERSION = 1


@dataclass(frozen=True)
class SceneEntry:
    """A scene of a slide: its index in the file and its size in level-0 pixels."""

    scene: int
    width_px: int
    height_px: int


@dataclass(frozen=True)
class SlideEntry:
    """A slide of the run.

    Attributes:
        fingerprint: of the file, so that no other scan takes its place; see `CziDirectory`.
        code: what annotators see instead of its name.
    """

    slide_id: str
    path: str
    size_bytes: int
    fingerprint: str
    um_per_px: float
    scenes: tuple[SceneEntry, ...]
    code: str


@dataclass(frozen=True)
class Manifest:
    """Contents of `RUN/manifest.json`.

    Attributes:
        config: the resolved config that created the run.
        identity: the settings that decide which cells there are; `config_hash` is their hash.
        dataset: names the run in the gallery and in exported labels; never changes.
        filter: the size filter in force, per cell type: a view on the stored cells.
        detectors: the detector in use per cell type, and why it was chosen.
        versions: of the libraries whose numbers enter the results.
    """

    config: RunConfig
    identity: Mapping[str, Any]
    dataset: str
    slides: tuple[SlideEntry, ...]
    filter: Mapping[CellType, AreaRange]
    detectors: Mapping[CellType, str]
    versions: Mapping[str, str]
    model_hashes: Mapping[str, str]

    @property
    def config_hash(self) -> str:
        return config_hash(self.identity)

    def slide(self, slide_id: str) -> SlideEntry:
        for slide in self.slides:
            if slide.slide_id == slide_id:
                return slide
        raise InputError(f"the run has no slide '{slide_id}'")

    def stored(self, cell_type: CellType) -> AreaRange:
        """The areas that are on disk: the filter can be any range within."""
        return AreaRange(*self.identity[f"{cell_type}.stored_area_um2"])

    def with_filter(self, areas: Mapping[CellType, AreaRange]) -> Manifest:
        return replace(self, filter={**self.filter, **areas})


def dataset_name(run_hash: str, slide_ids: list[str]) -> str:
    """12 hexadecimal digits that name a run by its identity and its first slides."""
    text = json.dumps([run_hash, sorted(slide_ids)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def blind_codes(seed: int, slide_ids: list[str], taken: int = 0) -> dict[str, str]:
    """Codes S01, S02, ... in an order that the names do not give away.

    Args:
        taken: how many codes are in use already; new slides get the next ones.
    """

    def draw(slide_id: str) -> str:
        return hashlib.sha256(f"{seed}/code/{slide_id}".encode()).hexdigest()

    return {s: f"S{taken + i:02d}" for i, s in enumerate(sorted(slide_ids, key=draw), start=1)}


def write(layout: RunLayout, manifest: Manifest) -> None:
    """Replaces the manifest in one step."""
    atomic.write_text(layout.manifest, dumps(manifest))


def create(layout: RunLayout, manifest: Manifest) -> Manifest:
    """Creates the manifest, or reads the one that another process created first."""
    try:
        with atomic.creating(layout.manifest) as temporary:
            temporary.write_text(dumps(manifest), encoding="utf-8")
    except FileExistsError:
        return read(layout)
    return manifest


def update(layout: RunLayout, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Changes the manifest of a run; of several processes that do so no change is lost.

    Args:
        change: gives the new manifest for the one on disk, and may be called twice. A change that
            changes nothing needs no lock, so an array of jobs on a run that is ready takes none.

    Returns:
        The manifest that is on disk now.

    Raises:
        InputError: there is no manifest, it is damaged, or its file system takes no locks.
    """
    manifest = read(layout)
    if change(manifest) == manifest:
        return manifest
    with _locked(layout):
        manifest = read(layout)
        changed = change(manifest)
        if changed != manifest:
            write(layout, changed)
        return changed


@contextmanager
def _locked(layout: RunLayout) -> Iterator[None]:
    """Holds the lock of a run's manifest; it ends with the process at the latest.

    The lock has a file of its own, because the manifest is replaced by another file; and the file
    is opened for writing, without which NFS gives no exclusive lock.
    """
    with layout.manifest_lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise InputError(
                f"cannot be locked ({error.strerror})",
                where=layout.manifest_lock,
                fix="mount the file system with locks (option flock), or give an --output-dir on another",
            ) from error
        yield


def read(layout: RunLayout) -> Manifest:
    """Reads the manifest of a run.

    Raises:
        InputError: there is none, it is damaged, or it was edited so that its hash is wrong.
    """
    try:
        return loads(layout.manifest.read_text(encoding="utf-8"), layout.manifest)
    except FileNotFoundError as error:
        raise InputError(
            "is no run: it has no manifest.json", where=layout.root, fix="make one with `mkhspc segment`"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=layout.manifest) from error


def dumps(manifest: Manifest) -> str:
    """The manifest as JSON text, the same for the same manifest."""
    return atomic.dump_json(
        {
            "format": FORMAT,
            "version": VERSION,
            "dataset": manifest.dataset,
            "config_hash": manifest.config_hash,
            "identity": dict(manifest.identity),
            "seed": manifest.config.run.seed,
            "filter": {k: asdict(v) for k, v in manifest.filter.items()},
            "detectors": dict(manifest.detectors),
            "model_hashes": dict(manifest.model_hashes),
            "versions": dict(manifest.versions),
            "blind_codes": {s.slide_id: s.code for s in manifest.slides},
            "slides": [asdict(slide) for slide in manifest.slides],
            "config": to_dict(manifest.config),
        }
    )


def loads(text: str, where: Path) -> Manifest:
    """The manifest in a JSON text; `where` is named in errors.

    Nothing in it is trusted: paths are made from its slides' ids.
    """
    try:
        data = json.loads(text)
        is_ours = data.get("format") == FORMAT and data.get("version") == VERSION
        manifest = _from_dict(data) if is_ours else None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(repr(error), where) from error
    except (InputError, UsageError) as error:
        raise _damaged(f"{error.where or ''} {error.what}".strip(), where) from error
    if manifest is None:
        raise InputError(
            f"is not the manifest of a run of version {VERSION}",
            where=where,
            fix="segment into a new directory",
        )
    if edited := _edited(data, manifest):
        raise InputError(
            f"was edited: {edited}",
            where=where,
            fix="restore the original: tiles were made with the settings it had",
        )
    return manifest


def _edited(data: Mapping[str, Any], manifest: Manifest) -> str | None:
    """Which of the places that say the same thing differ, if any."""
    if data["config_hash"] != manifest.config_hash:
        return "its settings no longer fit its config_hash"
    if changed := differences(identity(manifest.config, manifest.model_hashes), manifest.identity):
        return f"its config is not that of its identity: {changed[0]}"
    if data["seed"] != manifest.config.run.seed:
        return f"its seed is {data['seed']} and that of its config {manifest.config.run.seed}"
    if data["blind_codes"] != {slide.slide_id: slide.code for slide in manifest.slides}:
        return "its blind codes are not those of its slides"
    for cell_type in CELL_TYPES:
        if not manifest.stored(cell_type).contains(manifest.filter[cell_type]):
            return f"the filter of {cell_type} reaches beyond what is stored"
    return None


def _damaged(how: str, where: Path) -> InputError:
    return InputError(f"is damaged ({how})", where=where, fix="restore it, or segment into a new directory")


def _from_dict(data: Mapping[str, Any]) -> Manifest:
    manifest = Manifest(
        config=from_dict(data["config"]),
        identity=data["identity"],
        dataset=data["dataset"],
        slides=tuple(built(SlideEntry, slide, "slides") for slide in data["slides"]),
        filter={t: built(AreaRange, data["filter"][t], f"filter.{t}") for t in CELL_TYPES},
        detectors=data["detectors"],
        versions=data["versions"],
        model_hashes=data["model_hashes"],
    )
    check(manifest.config)
    for cell_type, area in manifest.filter.items():
        check_area_range(area, cell_type)
    for slide in manifest.slides:
        check_um_per_px(slide.um_per_px, f"slide {slide.slide_id}")
        if not is_slide_id(slide.slide_id):
            raise InputError(f"'{slide.slide_id}' is no slide id")
    if len({slide.slide_id for slide in manifest.slides}) < len(manifest.slides):
        raise InputError("two slides have one id")
    return manifest
