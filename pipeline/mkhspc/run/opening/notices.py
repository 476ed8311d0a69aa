"""Lines for whoever gives a command: nothing is wrong, but the run is not quite what they may think."""

from __future__ import annotations

from dataclasses import replace

from mkhspc.config import CELL_TYPES, CellRange, CellType, RunConfig
from mkhspc.run.opening.copies import copies_in
from mkhspc.run.opening.settings import RunSettings
from mkhspc.run.opening.versions import changed_versions
from mkhspc.store.manifest import Manifest
from mkhspc.store.manifest.exclusions import summary_lines


def chosen_detectors(manifest: Manifest, config: RunConfig) -> list[str]:
    """Which detectors 'auto' stands for in a new run, and why.

    Args:
        config: of the command, with 'auto' where it was asked for.
    """
    return [
        f"{t.upper()} by the detector '{manifest.config.cells(t).detector}': {reason}"
        for t in CELL_TYPES
        if config.cells(t).detector == "auto"
        for reason in [manifest.detectors[t].partition(": ")[2]]
    ]


def deviations(manifest: Manifest, config: RunConfig, settings: RunSettings) -> list[str]:
    """Where a run, as it stands, does not do to the letter what a command asks for.

    Args:
        config: of the command.
        settings: the same, resolved.
    """
    return [
        *_wider_than_asked(manifest, config),
        *(f"left out of the study: {line}" for line in summary_lines(manifest.exclusions)),
        *_other_filters(manifest, config),
        *_unknown_in_groups(manifest, config),
        *_other_versions(manifest, settings),
        *_copies(manifest),
    ]


def _wider_than_asked(manifest: Manifest, config: RunConfig) -> list[str]:
    """What a run does beyond the present command: it never takes back what it was asked before."""
    whole, asked = manifest.config.run, config.run
    lines = []
    if asked.sample_fraction < whole.sample_fraction:
        lines.append(
            f"the run was asked for {100 * whole.sample_fraction:g}% of its tiles before and does them all,"
            f" not {100 * asked.sample_fraction:g}% alone"
        )
    if asked.scenes and set(asked.scenes) != set(whole.scenes):
        scenes = f"scenes {', '.join(map(str, whole.scenes))}" if whole.scenes else "all scenes"
        lines.append(f"the run was asked for {scenes} before and does them all, not those of --scene alone")
    return lines


def _other_filters(manifest: Manifest, config: RunConfig) -> list[str]:
    """Filters that the command names and `mkhspc refilter` has changed since."""
    return [
        f"the filter of {t.upper()} is {now} since `mkhspc refilter`, not {asked}"
        for t, now, asked in ((t, manifest.filter[t], _asked(manifest, config, t)) for t in CELL_TYPES)
        if asked != now
    ]


def _asked(manifest: Manifest, config: RunConfig, cell_type: CellType) -> CellRange:
    """The filter that a command asks for; a score that it does not name is the one in force."""
    asked = config.cells(cell_type).filter
    named = f"{cell_type}.min_score" in config.given
    return asked if named else replace(asked, min_score=manifest.filter[cell_type].min_score)


def _unknown_in_groups(manifest: Manifest, config: RunConfig) -> list[str]:
    """Names in [groups] that are perhaps misspelt, before a night's work that no report can use."""
    slide_ids = [slide.slide_id for slide in manifest.slides]
    unknown = [name for name in config.groups if name not in slide_ids]
    if not unknown:
        return []
    names = ", ".join(f'"{name}"' for name in unknown)
    without = [slide_id for slide_id in slide_ids if slide_id not in config.groups]
    meant = f"; slides without groups: {', '.join(without)}" if without else ""
    return [f"[groups] names {names}, but the run has no such slide{meant}"]


def _other_versions(manifest: Manifest, settings: RunSettings) -> list[str]:
    """Libraries whose numbers may differ from those that the run began with."""
    changed = changed_versions(manifest.versions, settings.versions)
    if not changed:
        return []
    return [f"the run began with {', '.join(changed)}: cells of new tiles may differ slightly from the old"]


def _copies(manifest: Manifest) -> list[str]:
    """Slides that an earlier version took twice."""
    return [
        f"the slides '{one.slide_id}' and '{other.slide_id}' of the run are one scan and count as two:"
        " give one of them to a new run"
        for one, other in copies_in(manifest.slides)
    ]
