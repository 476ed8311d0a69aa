"""What a run takes on from a later command: slides, a larger fraction, settings that decide no cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mkhspc.config import CELL_TYPES, RunConfig, with_free_settings
from mkhspc.config.schema import STORED_ABOVE_MAX, STORED_BELOW_MIN
from mkhspc.errors import InputError
from mkhspc.run.opening.settings import RunSettings
from mkhspc.store.manifest import Manifest, SlideEntry, blind_codes

STORED_FACTORS = (STORED_BELOW_MIN, STORED_ABOVE_MAX)
"""The areas stored reach from the filter's least times the first to its largest times the second."""
SHARED_SECTIONS = ("run", "compute")
"""Sections of the config whose command-line options do not carry the section's name."""
MODEL_HASHES = "model_hashes"
"""The key of a run's identity that holds the hashes of its models."""
SHOWN_DIGITS = 12
"""So many hexadecimal digits of a SHA-256 are shown in a message."""


def merged_with(
    manifest: Manifest, settings: RunSettings, slides: Sequence[SlideEntry], where: Path
) -> Manifest:
    """The manifest of a run with what a command asks for beyond it.

    Args:
        settings: of the command, resolved with the run's own detectors and weights.
        slides: that the command names.
        where: the run's directory, named in errors.

    Raises:
        InputError: the run was made with other settings, or with another file of a slide's name.
    """
    settings = replace(settings, config=_with_areas_of(settings.config, manifest))
    _refuse_other_settings(manifest, settings, where)
    return _with_settings(_with_slides(manifest, slides), settings.config)


def _with_areas_of(config: RunConfig, manifest: Manifest) -> RunConfig:
    """The config with the areas that the run began with, where it names the filter that is in force now."""
    sections = {}
    for cell_type in CELL_TYPES:
        asked, kept = config.cells(cell_type), manifest.config.cells(cell_type)
        if asked.filter == manifest.filter[cell_type]:
            asked = replace(asked, min_area_um2=kept.min_area_um2, max_area_um2=kept.max_area_um2)
        sections[cell_type] = asked
    return replace(config, mk=sections["mk"], hspc=sections["hspc"])


def _with_slides(manifest: Manifest, entries: Sequence[SlideEntry]) -> Manifest:
    """The manifest with slides that are new to it, and with the present paths of those it knows."""
    known = {slide.slide_id: slide for slide in manifest.slides}
    for entry in entries:
        old = known.get(entry.slide_id)
        if old is not None and replace(entry, path=old.path, code=old.code) != old:
            raise InputError(
                f"this file is not the slide '{entry.slide_id}' of the run: {_difference(old, entry)}",
                where=entry.path,
                fix="use the file that the run began with, or a new --output-dir",
            )
    new = [entry for entry in entries if entry.slide_id not in known]
    codes = blind_codes(manifest.config.run.seed, [entry.slide_id for entry in new], taken=len(known))
    paths = {entry.slide_id: entry.path for entry in entries}
    return replace(
        manifest,
        slides=(
            *(replace(s, path=paths.get(s.slide_id, s.path)) for s in manifest.slides),
            *(replace(entry, code=codes[entry.slide_id]) for entry in new),
        ),
    )


def _difference(old: SlideEntry, new: SlideEntry) -> str:
    if old.um_per_px != new.um_per_px:
        return f"its pixel size is {new.um_per_px:g} µm, not {old.um_per_px:g}"
    if (old.size_bytes, old.scenes) != (new.size_bytes, new.scenes):
        return "its size or its scenes differ"
    return "it is another scan of the same size (its fingerprint differs)"


def _with_settings(manifest: Manifest, config: RunConfig) -> Manifest:
    """The manifest with the larger fraction, the union of scenes, and the settings that decide no cell."""
    old, new = manifest.config.run, config.run
    scenes = tuple(sorted({*old.scenes, *new.scenes})) if old.scenes and new.scenes else ()
    run = replace(old, sample_fraction=max(old.sample_fraction, new.sample_fraction), scenes=scenes)
    return replace(manifest, config=with_free_settings(replace(manifest.config, run=run), config))


def _refuse_other_settings(manifest: Manifest, settings: RunSettings, where: Path) -> None:
    ours, theirs = settings.identity({}), manifest.identity
    different = [key for key in sorted({*ours, *theirs} - {MODEL_HASHES}) if ours.get(key) != theirs.get(key)]
    if different:  # before a look at the weights, which need not be here
        fix = "use the settings it was made with, or give a new --output-dir"
        if all(key.endswith(".stored_area_um2") for key in different):
            fix = "change a run's size filter with `mkhspc refilter`"
        clauses = [clause for key in different for clause in _clauses(key, theirs.get(key), ours.get(key))]
    else:
        there, here = theirs[MODEL_HASHES], settings.model_hashes
        clauses = list(_weights_clauses(manifest.config, settings.config, there, here))
        made_with = "the weights" if clauses else "the version of mkhspc"
        clauses = clauses or list(_revision_clauses(there, here))
        fix = f"use {made_with} that it was made with, or give a new --output-dir"
    if clauses:
        raise InputError(f"the run was made with other settings: {'; '.join(clauses)}", where=where, fix=fix)


def _weights_clauses(
    kept: RunConfig, asked: RunConfig, there: Mapping[str, str], here: Mapping[str, str]
) -> Iterator[str]:
    """Which weights differ, by name and by the first digits of their SHA-256."""
    for model in sorted({*there, *here} - {*CELL_TYPES}):
        if there.get(model) != here.get(model):
            names = (getattr(config.compute, f"{model}_weights", model) for config in (kept, asked))
            digests = (hashes.get(model, "none")[:SHOWN_DIGITS] for hashes in (there, here))
            yield "the weights of {} are {} ({}...) there and {} ({}...) here".format(
                model, *(word for pair in zip(names, digests, strict=True) for word in pair)
            )


def _revision_clauses(there: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    """Which detectors were changed themselves."""
    for cell_type in CELL_TYPES:
        if there.get(cell_type) != here.get(cell_type):
            yield f"the {cell_type} detector is {there.get(cell_type)} there and {here.get(cell_type)} here"


def _clauses(key: str, there: Any, here: Any) -> Iterator[str]:
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
