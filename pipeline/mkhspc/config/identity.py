"""What decides which cells there are: the identity of a run, its hash, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from mkhspc.config.schema import (
    CELL_TYPES,
    NO_EMBEDDER,
    STORED_ABOVE_MAX,
    STORED_BELOW_MIN,
    STORED_SCORE,
    CellType,
    RunConfig,
)

STORED_FACTORS = (STORED_BELOW_MIN, STORED_ABOVE_MAX)
"""The areas stored reach from the filter's least times the first to its largest times the second."""
SHARED_SECTIONS = ("run", "compute")
"""Sections of the config whose command-line options do not carry the section's name."""
SHOWN_DIGITS = 12
"""So many hexadecimal digits of a SHA-256 are shown in a message."""
MODEL_HASHES = "model_hashes"
"""The key of an identity that holds the hashes of detectors and models."""
CALIBRATION_DRAW = "run.calibration_draw"
"""The key of an identity that holds the rule by which calibration windows are drawn; the first without it."""
DRAW_BY_NAME = 1
"""The first rule: tissue, seed, scene and the slide's name decide. Runs that began with it keep it."""
DRAW_BY_TISSUE = 2
"""The rule of new runs: tissue, seed and scene decide, so that a slide's name decides nothing."""


def identity(
    config: RunConfig,
    model_hashes: Mapping[str, str],
    stored_scores: Mapping[CellType, float] = STORED_SCORE,
    draw: int = DRAW_BY_TISSUE,
) -> dict[str, Any]:
    """The settings that decide which cells a run has, flat, by dotted key.

    Paths, the slide list, the fraction, the filter within the stored range, classifiers,
    workers, the gallery and groups are not among them: two runs of one identity agree on every
    cell of every tile that both have done.

    Args:
        stored_scores: the least score stored of each type.
        draw: the rule by which calibration windows are drawn.

    A run keeps the scores and the draw that it began with.
    """
    settings: dict[str, Any] = {
        "run.um_per_px": config.run.um_per_px,
        "run.tile_size": config.run.tile_size,
        "run.calibration_samples": config.run.calibration_samples,
        "run.seed": config.run.seed,
        "compute.embedder": ",".join(config.compute.embedders) or NO_EMBEDDER,
        MODEL_HASHES: dict(sorted(model_hashes.items())),
    }
    if draw != DRAW_BY_NAME:
        settings[CALIBRATION_DRAW] = draw
    if config.run.channel is not None:  # runs of before there was a choice keep their hash
        settings["run.channel"] = config.run.channel
    for cell_type in CELL_TYPES:
        section = config.cells(cell_type)
        settings[f"{cell_type}.detector"] = section.detector
        settings[f"{cell_type}.stored_area_um2"] = list(section.stored_areas_um2)
        if cell_type in stored_scores:
            settings[f"{cell_type}.stored_score"] = stored_scores[cell_type]
    return settings


def identity_begun_as(
    begun: Mapping[str, Any], config: RunConfig, model_hashes: Mapping[str, str]
) -> dict[str, Any]:
    """The identity of a config in a run that keeps the rules of `begun`, the identity that it began with."""
    return identity(config, model_hashes, stored_scores_of(begun), draw_of(begun))


def stored_scores_of(settings: Mapping[str, Any]) -> dict[CellType, float]:
    """The least score stored of each type by an identity; none of a run made before there were any."""
    keys = {cell_type: f"{cell_type}.stored_score" for cell_type in CELL_TYPES}
    return {cell_type: settings[key] for cell_type, key in keys.items() if key in settings}


def draw_of(settings: Mapping[str, Any]) -> int:
    """The rule by which a run of this identity draws its calibration windows."""
    draw: int = settings.get(CALIBRATION_DRAW, DRAW_BY_NAME)
    return draw


def config_hash(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of an identity, independent of key order."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def dataset_name(run_hash: str, slide_ids: list[str]) -> str:
    """12 hexadecimal digits that name a run by its identity and its first slides."""
    text = json.dumps([run_hash, sorted(slide_ids)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """One clause per setting in which two identities differ."""
    here, there = _flat(ours), _flat(theirs)
    return [
        f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
        for key in sorted({*here, *there})
        if here.get(key) != there.get(key)
    ]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With a key of its own for each model's hash, and one for the draw of every run."""
    plain = {key: value for key, value in settings.items() if key != MODEL_HASHES}
    plain[CALIBRATION_DRAW] = draw_of(settings)
    return plain | {f"model_hashes.{key}": v for key, v in settings.get(MODEL_HASHES, {}).items()}


def option_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """One clause per setting in which two identities differ, hashes apart, as the command line names it."""
    keys = sorted({*ours, *theirs} - {MODEL_HASHES})
    return [
        clause
        for key in keys
        if ours.get(key) != theirs.get(key)
        for clause in _option_clauses(key, theirs.get(key), ours.get(key))
    ]


def _option_clauses(key: str, there: Any, here: Any) -> Iterator[str]:
    """How a setting differs, in the words of the command line."""
    section, _, name = key.partition(".")
    if name == "stored_area_um2":
        for bound, factor, theirs, ours in zip(("min", "max"), STORED_FACTORS, there, here, strict=True):
            if theirs != ours:
                yield f"--{section}-{bound}-area-um is {theirs / factor:g} there and {ours / factor:g} here"
    else:
        option = f"--{name if section in SHARED_SECTIONS else f'{section}-{name}'}".replace("_", "-")
        values = ("not given" if value is None else value for value in (there, here))
        yield "{} is {} there and {} here".format(option, *values)


def weights_differences(
    kept: RunConfig, asked: RunConfig, there: Mapping[str, str], here: Mapping[str, str]
) -> list[str]:
    """Which weights differ, by name and by the first digits of their SHA-256.

    Args:
        kept, asked: the configs, which name the weights.
        there, here: their model hashes.
    """
    return [
        f"the weights of {model} are {_weights(kept, model, there)} there"
        f" and {_weights(asked, model, here)} here"
        for model in sorted({*there, *here} - {*CELL_TYPES})
        if there.get(model) != here.get(model)
    ]


def _weights(config: RunConfig, model: str, hashes: Mapping[str, str]) -> str:
    name = getattr(config.compute, f"{model}_weights", model)
    return f"{name} ({hashes.get(model, 'none')[:SHOWN_DIGITS]}...)"


def revision_differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Which detectors were changed themselves, of two sets of model hashes."""
    return [
        f"the {cell_type} detector is {there.get(cell_type)} there and {here.get(cell_type)} here"
        for cell_type in CELL_TYPES
        if there.get(cell_type) != here.get(cell_type)
    ]
