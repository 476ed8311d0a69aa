"""What a run takes on from a later command: slides, a larger fraction, settings that decide no cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mkhspc.config import CELL_TYPES, RunConfig, with_free_settings
from mkhspc.config.identity import (
    DRAW_BY_TISSUE,
    MODEL_HASHES,
    identity_begun_as,
    option_differences,
    revision_differences,
    weights_differences,
)
from mkhspc.errors import InputError, some_of
from mkhspc.run.opening.copies import refuse_copies
from mkhspc.run.opening.settings import RunSettings
from mkhspc.store.manifest import Manifest, SlideEntry, blind_codes

OTHER_OPTIONS = "use the settings it was made with, or give a new --output-dir"
OTHER_WEIGHTS = "use the weights that it was made with, or give a new --output-dir"
OTHER_REVISION = "use the version of mkhspc that it was made with, or give a new --output-dir"


def merged_with(
    manifest: Manifest, settings: RunSettings, slides: Sequence[SlideEntry], where: Path
) -> Manifest:
    """The manifest of a run with what a command asks for beyond it.

    Args:
        settings: of the command, resolved with the run's own detectors and weights.
        slides: that the command names.
        where: the run's directory, named in errors.

    Raises:
        InputError: the run was made with other settings, with another file of a slide's name, or it has a
            slide of one content with a new one.
    """
    config = _with_filter_of(settings.config, manifest)
    merged = _with_settings(manifest, config)
    _refuse_other_settings(manifest, config, settings, where)
    _refuse_new_slides_of_old_draw(manifest, slides, where)
    return _with_slides(merged, slides)


def _with_filter_of(config: RunConfig, manifest: Manifest) -> RunConfig:
    """The config with the filter that the run began with, where it names the one that is in force now."""
    sections = {}
    for cell_type in CELL_TYPES:
        asked, kept = config.cells(cell_type), manifest.config.cells(cell_type)
        if asked.filter == manifest.filter[cell_type]:
            asked = replace(
                asked,
                min_area_um2=kept.min_area_um2,
                max_area_um2=kept.max_area_um2,
                min_score=kept.min_score,
            )
        sections[cell_type] = asked
    return replace(config, mk=sections["mk"], hspc=sections["hspc"])


def _with_slides(manifest: Manifest, entries: Sequence[SlideEntry]) -> Manifest:
    """The manifest with slides that are new to it, and with the present paths of those it knows."""
    known = {slide.slide_id: slide for slide in manifest.slides}
    for entry in entries:
        old = known.get(entry.slide_id)
        if old is not None and not old.is_of_file_of(entry):
            raise InputError(
                f"this file is not the slide '{entry.slide_id}' of the run: {_difference(old, entry)}",
                where=entry.path,
                fix="use the file that the run began with, or a new --output-dir",
            )
    new = [entry for entry in entries if entry.slide_id not in known]
    refuse_copies(manifest.slides, new)
    codes = blind_codes(manifest.config.run.seed, [entry.slide_id for entry in new], taken=len(known))
    paths = {entry.slide_id: entry.path for entry in entries}
    return replace(
        manifest,
        slides=(
            *(replace(s, path=paths.get(s.slide_id, s.path)) for s in manifest.slides),
            *(replace(entry, code=codes[entry.slide_id]) for entry in new),
        ),
    )


def _refuse_new_slides_of_old_draw(manifest: Manifest, entries: Sequence[SlideEntry], where: Path) -> None:
    """Raises `InputError` where slides would be calibrated on windows that their names decide."""
    known = {slide.slide_id for slide in manifest.slides}
    new = [entry.slide_id for entry in entries if entry.slide_id not in known]
    if new and manifest.calibration_draw != DRAW_BY_TISSUE:
        raise InputError(
            "this run was begun when a slide's name helped to decide on which windows its colours are"
            f" calibrated; it is finished with the slides it has, and takes no new ones: {some_of(new)}",
            where=where,
            fix="leave them out (--only names the slides to go on with),"
            " or segment all slides into a new --output-dir",
        )


def _difference(old: SlideEntry, new: SlideEntry) -> str:
    if old.um_per_px != new.um_per_px:
        return f"its pixel size is {new.um_per_px:g} µm, not {old.um_per_px:g}"
    if old.fingerprint != new.fingerprint and old.size_bytes == new.size_bytes:
        return "it is another scan of the same size (its fingerprint differs)"
    return "its size or its scenes differ"


def _with_settings(manifest: Manifest, config: RunConfig) -> Manifest:
    """The manifest with the larger fraction, the union of scenes, and the settings that decide no cell."""
    old, new = manifest.config.run, config.run
    scenes = tuple(sorted({*old.scenes, *new.scenes})) if old.scenes and new.scenes else ()
    run = replace(old, sample_fraction=max(old.sample_fraction, new.sample_fraction), scenes=scenes)
    return replace(manifest, config=with_free_settings(replace(manifest.config, run=run), config))


def _refuse_other_settings(manifest: Manifest, config: RunConfig, settings: RunSettings, where: Path) -> None:
    """Raises `InputError` that names the settings in which the run differs from what is asked."""
    asked = identity_begun_as(manifest.identity, config, {})
    clauses, fix = option_differences(asked, manifest.identity), OTHER_OPTIONS
    clauses += _score_differences(manifest.config, config)
    if not clauses:  # only then a look at the weights, which need not be here
        hashes = manifest.identity[MODEL_HASHES], settings.model_hashes
        clauses, fix = weights_differences(manifest.config, config, *hashes), OTHER_WEIGHTS
        if not clauses:
            clauses, fix = revision_differences(*hashes), OTHER_REVISION
    elif all("-area-um is " in clause or "-min-score is " in clause for clause in clauses):
        fix = "change a run's filter with `mkhspc refilter`"
    if clauses:
        raise InputError(f"the run was made with other settings: {'; '.join(clauses)}", where=where, fix=fix)


def _score_differences(kept: RunConfig, asked: RunConfig) -> list[str]:
    """One clause for each least score that a command names other than the run began with."""
    return [
        f"--{t}-min-score is {kept.cells(t).min_score:g} there and {asked.cells(t).min_score:g} here"
        for t in CELL_TYPES
        if f"{t}.min_score" in asked.given and asked.cells(t).min_score != kept.cells(t).min_score
    ]
