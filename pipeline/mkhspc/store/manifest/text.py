"""A manifest as JSON text, and back: nothing in a text is trusted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mkhspc.config import (
    CELL_TYPES,
    CellRange,
    check,
    check_filter,
    differences,
    from_dict,
    to_dict,
)
from mkhspc.config.identity import (
    DRAW_BY_NAME,
    DRAW_BY_TISSUE,
    draw_of,
    identity_begun_as,
    stored_scores_of,
)
from mkhspc.config.typed import from_values
from mkhspc.errors import InputError, UsageError
from mkhspc.store import atomic
from mkhspc.store.layout import is_slide_id
from mkhspc.store.manifest.exclusions import Exclusion
from mkhspc.store.manifest.record import SCORES_BEFORE, Manifest, SlideEntry, slide_values
from mkhspc.store.untrusted_json import JsonError, parse_json

FORMAT = "mkhspc-run"
VERSION = 2
"""The format's version; version 2 added revisions and a checksum."""


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
        "slides": [slide_values(slide) for slide in manifest.slides],
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
        raise damaged(f"it {error}", where) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(repr(error), where) from error
    except (InputError, UsageError) as error:
        raise damaged(f"{error.where or ''} {error.what}".strip(), where) from error
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


def damaged(how: str, where: Path) -> InputError:
    """The error for a manifest that is not as it was written."""
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
