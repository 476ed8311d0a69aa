"""What decides which cells there are: the identity of a run, its hash, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mkhspc.config.schema import CELL_TYPES, NO_EMBEDDER, RunConfig


def identity(config: RunConfig, model_hashes: Mapping[str, str]) -> dict[str, Any]:
    """The settings that decide which cells a run has, flat, by dotted key.

    Paths, the slide list, the fraction, the size filter within the stored range, classifiers,
    workers, the gallery and groups are not among them: two runs of one identity agree on every
    cell of every tile that both have done.
    """
    settings: dict[str, Any] = {
        "run.um_per_px": config.run.um_per_px,
        "run.tile_size": config.run.tile_size,
        "run.calibration_samples": config.run.calibration_samples,
        "run.seed": config.run.seed,
        "compute.embedder": ",".join(config.compute.embedders) or NO_EMBEDDER,
        "model_hashes": dict(sorted(model_hashes.items())),
    }
    for cell_type in CELL_TYPES:
        section = config.cells(cell_type)
        settings[f"{cell_type}.detector"] = section.detector
        settings[f"{cell_type}.stored_area_um2"] = [section.stored.min_um2, section.stored.max_um2]
    return settings


def config_hash(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of an identity, independent of key order."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """One clause per setting in which two identities differ."""
    here, there = _flat(ours), _flat(theirs)
    return [
        f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
        for key in sorted({*here, *there})
        if here.get(key) != there.get(key)
    ]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With a key of its own for each model's hash."""
    plain = {key: value for key, value in settings.items() if key != "model_hashes"}
    return plain | {f"model_hashes.{key}": v for key, v in settings.get("model_hashes", {}).items()}
