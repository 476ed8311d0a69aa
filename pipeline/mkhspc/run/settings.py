"""What a command and a run agree on: the settings of a new run, what an old one may yet take on."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from mkhspc import __version__
from mkhspc.config import (
    CELL_TYPES,
    CellType,
    RunConfig,
    config_hash,
    identity,
    with_free_settings,
)
from mkhspc.config.schema import STORED_ABOVE_MAX, STORED_BELOW_MIN
from mkhspc.detect.resolve import DetectorChoice, build_detectors, choose_detectors
from mkhspc.errors import InputError
from mkhspc.models.choice import RunModels, precision, refuse_missing_device, with_weights
from mkhspc.models.service import NoModels
from mkhspc.progress import Journal
from mkhspc.slide.czi.unpack import READERS
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest, SlideEntry, blind_codes, dataset_name

LIBRARIES = (
    "numpy", "scipy", "opencv-python-headless", "aicspylibczi", "pylibCZIrw", "pyarrow",
    "pillow",
)  # fmt: skip
STORED_SHARES = (STORED_BELOW_MIN, STORED_ABOVE_MAX)
SHARED_SECTIONS = ("run", "compute")
"""Sections whose options do not carry their name."""
MODELS = "model_hashes"
SHOWN_DIGITS = 12
ON_CPU = "cpu"
MODEL_LIBRARIES = ("torch", "torchvision", "sam2", "cellpose")
NUMERIC = (
    "mkhspc", "numpy", "scipy", "opencv-python-headless", "pylibCZIrw", "reader",
    *MODEL_LIBRARIES, "precision",
)  # fmt: skip
"""Of those, the ones whose change can move a cell's outline by a pixel."""


def new_manifest(config: RunConfig, entries: Sequence[SlideEntry], jobs_gpus: int | None = None) -> Manifest:
    """The manifest of a run that begins with these slides; for `jobs_gpus` see `with_choices`."""
    config, chosen = with_choices(config, jobs_gpus)
    models = _model_hashes(config)
    settings = identity(config, models)
    ids = [entry.slide_id for entry in entries]
    codes = blind_codes(config.run.seed, ids)
    return Manifest(
        config=config,
        identity=settings,
        dataset=dataset_name(config_hash(settings), ids),
        slides=tuple(replace(entry, code=codes[entry.slide_id]) for entry in entries),
        filter={t: config.cells(t).filter for t in CELL_TYPES},
        detectors={t: f"{c.name}: {c.reason}" for t, c in chosen.items()},
        versions=_versions(config, jobs_gpus),
        model_hashes=models,
    )


def with_choices(
    config: RunConfig, jobs_gpus: int | None = None
) -> tuple[RunConfig, dict[CellType, DetectorChoice]]:
    """The config with 'auto' replaced by what it stands for here and now, and why.

    Args:
        jobs_gpus: that the jobs of a cluster get; None when this machine does the work.
    """
    if jobs_gpus is None:
        refuse_missing_device(config.compute.device)
    chosen = choose_detectors(config, jobs_gpus)
    return with_weights(_with_detectors(config, {t: c.name for t, c in chosen.items()}), jobs_gpus), chosen


def choices(manifest: Manifest, config: RunConfig) -> list[str]:
    """Lines that say what 'auto' stands for in a new run, and why."""
    return [
        f"{t.upper()} by the detector '{manifest.config.cells(t).detector}': {reason}"
        for t in CELL_TYPES
        if config.cells(t).detector == "auto"
        for reason in [manifest.detectors[t].partition(": ")[2]]
    ]


def grown(
    layout: RunLayout,
    manifest: Manifest,
    config: RunConfig,
    entries: Sequence[SlideEntry],
    jobs_gpus: int | None = None,
) -> Manifest:
    """The manifest with what a command asks for beyond it: slides, a larger fraction, free settings.

    Args:
        jobs_gpus: see `with_choices`.

    Raises:
        InputError: the run was made with other settings, or with another file of a slide's name.
    """
    asked = {t: config.cells(t).detector for t in CELL_TYPES}
    if jobs_gpus is None:
        refuse_missing_device(config.compute.device)
    kept = {t: manifest.config.cells(t).detector for t in CELL_TYPES}
    config = _with_detectors(config, {t: kept[t] if asked[t] == "auto" else asked[t] for t in CELL_TYPES})
    config = with_weights(_with_weights_of(config, manifest.config))
    config = _with_areas_of(config, manifest)
    _refuse_other_settings(layout, manifest, config)
    return _with_larger_ask(_with_slides(manifest, entries), config)


def with_precisions(manifest: Manifest, journals: Sequence[Journal]) -> Manifest:
    """The manifest with what networks computed in that it does not tell yet.

    Whoever creates a run for a cluster cannot know it, and jobs that may end at any moment leave the
    manifest alone: the journals have it, and the merge puts it in.
    """
    told = manifest.versions.get("precision", "")
    loaded = [event.facts for journal in journals for event in journal.events if event.name == "models"]
    found = {
        f"{precision} on {facts['device']}"
        for facts in loaded
        for precision in facts["precision"].values()
        if not _is_told(precision, str(facts["device"]), told)
    }
    if not found:
        return manifest
    words = "; ".join([*([told] if told else []), *sorted(found)])
    return replace(manifest, versions={**manifest.versions, "precision": words})


def _is_told(precision: str, device: str, told: str) -> bool:
    """Whether it is among what was told, of a GPU under any name; of the CPU under its own."""
    if device == ON_CPU:
        return f"{precision} on {ON_CPU}" in told
    return precision in re.sub(rf"\w+ on {ON_CPU}\b", "", told)


def surprises(manifest: Manifest, config: RunConfig, jobs_gpus: int | None = None) -> list[str]:
    """Lines for whoever gave a command that the run, as it stands, does not follow to the letter."""
    return [
        *_wider_than_asked(manifest, config),
        *_other_filters(manifest, config),
        *_strangers_in_groups(manifest, config),
        *_other_versions(manifest, config, jobs_gpus),
    ]


def _model_hashes(config: RunConfig) -> dict[str, str]:
    """What tells the cells of one detector from those of another, or of itself before it was changed.

    By cell type the detector, by model the SHA-256 of its weights.
    """
    models = RunModels.of(config)
    names = {t: config.cells(t).detector for t in CELL_TYPES}
    stored = {t: config.cells(t).stored for t in CELL_TYPES}
    detectors = build_detectors(names, stored, models, NoModels())
    return {
        **{t: f"{detector.name}-{detector.revision}" for t, detector in detectors.items()},
        **{model: weights.sha256 for model, weights in models.weights.items()},
    }


def _with_weights_of(config: RunConfig, kept: RunConfig) -> RunConfig:
    """The config with the run's own weights where it asks for none by name."""
    names = {
        key: getattr(kept.compute, key)
        for key in ("sam2_weights", "cellpose_weights")
        if getattr(config.compute, key) == "auto"
    }
    return replace(config, compute=replace(config.compute, **names))


def _with_areas_of(config: RunConfig, manifest: Manifest) -> RunConfig:
    """The config with the areas that the run began with, where it names the filter that is in force now."""
    sections = {}
    for cell_type in CELL_TYPES:
        asked, kept = config.cells(cell_type), manifest.config.cells(cell_type)
        if asked.filter == manifest.filter[cell_type]:
            asked = replace(asked, min_area_um2=kept.min_area_um2, max_area_um2=kept.max_area_um2)
        sections[cell_type] = asked
    return replace(config, mk=sections["mk"], hspc=sections["hspc"])


def _refuse_other_settings(layout: RunLayout, manifest: Manifest, config: RunConfig) -> None:
    ours, theirs = identity(config, {}), manifest.identity
    different = [key for key in sorted({*ours, *theirs} - {MODELS}) if ours.get(key) != theirs.get(key)]
    if different:  # told without a look at weights, which need not be here
        fix = "use the settings it was made with, or give a new --output-dir"
        if all(key.endswith(".stored_area_um2") for key in different):
            fix = "change a run's size filter with `mkhspc refilter`"
        clauses = [clause for key in different for clause in _clauses(key, theirs.get(key), ours.get(key))]
    else:
        there, here = theirs[MODELS], _model_hashes(config)
        clauses = list(_weights_clauses(manifest.config, config, there, here))
        made_with = "the weights" if clauses else "the version of mkhspc"
        clauses = clauses or list(_revision_clauses(there, here))
        fix = f"go on with {made_with} that it was made with, or give a new --output-dir"
    if clauses:
        raise InputError(
            f"the run was made with other settings: {'; '.join(clauses)}", where=layout.root, fix=fix
        )


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
        for bound, factor, theirs, ours in zip(("min", "max"), STORED_SHARES, there, here, strict=True):
            if theirs != ours:
                yield f"--{section}-{bound}-area-um is {theirs / factor:g} there and {ours / factor:g} here"
    else:
        option = f"--{name if section in SHARED_SECTIONS else f'{section}-{name}'}".replace("_", "-")
        values = ("not given" if value is None else value for value in (there, here))
        yield "{} is {} there and {} here".format(option, *values)


def _with_slides(manifest: Manifest, entries: Sequence[SlideEntry]) -> Manifest:
    known = {slide.slide_id: slide for slide in manifest.slides}
    for entry in entries:
        old = known.get(entry.slide_id)
        if old is not None and replace(entry, path=old.path, code=old.code) != old:
            raise InputError(
                f"is not the slide '{entry.slide_id}' of this run: {_difference(old, entry)}",
                where=entry.path,
                fix="use the file that the run began with, or a new --output-dir",
            )
    new = [entry for entry in entries if entry.slide_id not in known]
    codes = blind_codes(manifest.config.run.seed, [entry.slide_id for entry in new], taken=len(known))
    moved = {entry.slide_id: entry.path for entry in entries}
    return replace(
        manifest,
        slides=(
            *(replace(s, path=moved.get(s.slide_id, s.path)) for s in manifest.slides),
            *(replace(entry, code=codes[entry.slide_id]) for entry in new),
        ),
    )


def _difference(old: SlideEntry, new: SlideEntry) -> str:
    if old.um_per_px != new.um_per_px:
        return f"its pixel size is {new.um_per_px:g} µm, not {old.um_per_px:g}"
    if (old.size_bytes, old.scenes) != (new.size_bytes, new.scenes):
        return "its size or its scenes differ"
    return "it is another scan of the same size (its fingerprint differs)"


def _with_larger_ask(manifest: Manifest, config: RunConfig) -> Manifest:
    """The larger fraction, the union of scenes, and what was given last of all that decides no cell."""
    old, new = manifest.config.run, config.run
    scenes = tuple(sorted({*old.scenes, *new.scenes})) if old.scenes and new.scenes else ()
    run = replace(old, sample_fraction=max(old.sample_fraction, new.sample_fraction), scenes=scenes)
    return replace(manifest, config=with_free_settings(replace(manifest.config, run=run), config))


def _wider_than_asked(manifest: Manifest, config: RunConfig) -> list[str]:
    """What a run does beyond the present command's wish: it never takes back what it was asked before."""
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
    """Size filters that the command names and `mkhspc refilter` has changed since."""
    return [
        f"the size filter of {t.upper()} is {now.min_um2:g} to {now.max_um2:g} µm² since `mkhspc refilter`,"
        f" not {asked.min_um2:g} to {asked.max_um2:g}"
        for t, now, asked in ((t, manifest.filter[t], config.cells(t).filter) for t in CELL_TYPES)
        if asked != now
    ]


def _strangers_in_groups(manifest: Manifest, config: RunConfig) -> list[str]:
    """Names in [groups] that are perhaps misspelt, told before a night's work that no report can use."""
    slide_ids = [slide.slide_id for slide in manifest.slides]
    strangers = [name for name in config.groups if name not in slide_ids]
    if not strangers:
        return []
    names = ", ".join(f'"{name}"' for name in strangers)
    is_none = "which is no slide" if len(strangers) == 1 else "which are no slides"
    without = [slide_id for slide_id in slide_ids if slide_id not in config.groups]
    meant = f"; slides without groups: {', '.join(without)}" if without else ""
    return [f"[groups] names {names}, {is_none} of this run{meant}"]


def _other_versions(manifest: Manifest, config: RunConfig, jobs_gpus: int | None) -> list[str]:
    here = _versions(
        replace(manifest.config, compute=replace(manifest.config.compute, device=config.compute.device)),
        jobs_gpus,
    )
    changed = [
        f"{name} {manifest.versions.get(name, 'unknown')} (here {here[name]})"
        for name in NUMERIC
        if name in here and not _agree(name, manifest.versions.get(name), here[name])
    ]
    return (
        [f"the run began with {', '.join(changed)}: cells of new tiles may differ slightly from the old"]
        if changed
        else []
    )


def _agree(name: str, there: str | None, here: str) -> bool:
    """Whether the numbers are the same; in what networks compute is not known before a merge has told it."""
    if name == "precision":
        parts = (part.partition(" on ") for part in here.split(", "))
        return there is None or all(_is_told(precision, device, there) for precision, _, device in parts)
    return there == here


def _with_detectors(config: RunConfig, names: Mapping[CellType, str]) -> RunConfig:
    return replace(
        config,
        mk=replace(config.mk, detector=names["mk"]),
        hspc=replace(config.hspc, detector=names["hspc"]),
    )


def _version_of(name: str) -> str:
    """Of a package that is there, perhaps installed under another name than it is imported by."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _versions(config: RunConfig, jobs_gpus: int | None = None) -> dict[str, str]:
    libraries = {name: version(name) for name in LIBRARIES}
    own = {"mkhspc": __version__, "python": platform.python_version(), "reader": READERS, **libraries}
    models = RunModels.of(config)
    if not models.weights:
        return own
    packages = {name: _version_of(name) for name in MODEL_LIBRARIES if find_spec(name)}
    if jobs_gpus is not None:
        return {**own, **packages}
    return {**own, **packages, "precision": precision(models, config.compute.device)}
