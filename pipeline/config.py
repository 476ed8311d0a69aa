"""What a run is asked to do: a TOML file and command-line options, resolved once.

`RunConfig` is frozen. It is resolved when a run is created, written to the run's manifest with the
hash of its *identity* (the settings that decide which cells there are), and read from there by
every later stage.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.errors import InputError, UsageError
from pipeline.geometry import equivalent_diameter

CellType = Literal["mk", "hspc"]
CELL_TYPES: tuple[CellType, ...] = ("mk", "hspc")

DETECTORS: dict[CellType, tuple[str, ...]] = {"mk": ("classical",), "hspc": ("classical",)}

DEVICES = ("auto", "cpu")
EMBEDDERS = ("none",)
ORDERS = ("random", "area", "uncertainty")
"""In which cards of a gallery come."""

STORED_BELOW_MIN = 0.5
"""Cells are stored from this share of the smallest area in the filter ..."""
STORED_ABOVE_MAX = 2.0
"""... to this multiple of the largest, so that `refilter` has room without a detector."""
LENGTH_PER_DIAMETER = 1.4
"""Longest cell kept, as a multiple of the diameter of a disc of the largest stored area."""


@dataclass(frozen=True)
class AreaRange:
    """A closed range of areas in µm²."""

    min_um2: float
    max_um2: float

    def contains(self, other: AreaRange) -> bool:
        return self.min_um2 <= other.min_um2 and other.max_um2 <= self.max_um2

    @property
    def max_length_um(self) -> float:
        """The longest a cell of this range may be: an area alone bounds no length."""
        return LENGTH_PER_DIAMETER * equivalent_diameter(self.max_um2)


@dataclass(frozen=True)
class RunSection:
    """`[run]`: where, which slides, which share of them."""

    output_dir: str = ""
    slides: tuple[str, ...] = ()
    sample_fraction: float = 1.0
    tile_size: int = 4096
    calibration_samples: int = 100
    seed: int = 0
    um_per_px: float | None = None
    scenes: tuple[int, ...] = ()


@dataclass(frozen=True)
class CellSection:
    """`[mk]` or `[hspc]`: the detector, the size filter in µm² and an optional classifier."""

    detector: str = "auto"
    min_area_um2: float = 0.0
    max_area_um2: float = 0.0
    classifier: str | None = None

    @property
    def filter(self) -> AreaRange:
        return AreaRange(self.min_area_um2, self.max_area_um2)

    @property
    def stored(self) -> AreaRange:
        """What is kept on disk; the filter is a view on it."""
        return AreaRange(STORED_BELOW_MIN * self.min_area_um2, STORED_ABOVE_MAX * self.max_area_um2)


@dataclass(frozen=True)
class ComputeSection:
    """`[compute]`: with what. Never changes which cells are found."""

    num_workers: int | Literal["auto"] = "auto"
    memory_gb: float | None = None
    device: str = "auto"
    embedder: str = "none"


@dataclass(frozen=True)
class GallerySection:
    """`[gallery]`: how the static site is made."""

    out: str | None = None
    cards_per_page: int = 300
    order: str = "random"
    max_site_mb: float = 1000.0
    title: str = "Bone marrow cells"


@dataclass(frozen=True)
class SlurmSection:
    """`[slurm]`: what the cluster's jobs ask for."""

    partition: str | None = None
    shards_per_slide: int = 1
    time_min: int = 720
    memory_gb: float | Literal["auto"] = "auto"
    cpus: int = 8
    gpus: int = 0
    account: str | None = None
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunConfig:
    """Every setting of a study, resolved. Field names are the keys of the TOML file.

    Attributes:
        given: dotted keys of the settings that were asked for; all others are defaults.
    """

    run: RunSection = field(default_factory=RunSection)
    mk: CellSection = field(default_factory=lambda: CellSection(min_area_um2=100.0, max_area_um2=2100.0))
    hspc: CellSection = field(default_factory=lambda: CellSection(min_area_um2=10.0, max_area_um2=150.0))
    compute: ComputeSection = field(default_factory=ComputeSection)
    gallery: GallerySection = field(default_factory=GallerySection)
    slurm: SlurmSection = field(default_factory=SlurmSection)
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def cells(self, cell_type: CellType) -> CellSection:
        return self.mk if cell_type == "mk" else self.hspc


SECTIONS = ("run", "mk", "hspc", "compute", "gallery", "slurm")


def load_config(path: Path | None, options: Mapping[str, Any] | None = None) -> RunConfig:
    """Reads a TOML file and lays command-line options over it.

    Args:
        path: the TOML file, or None for the defaults alone.
        options: values by dotted key, such as `{"mk.min_area_um2": 120.0}`; None values are
            options that were not given.

    Raises:
        InputError: the file cannot be read, is no TOML, or holds an unknown key or a wrong value.
        UsageError: an option's value is out of range.
    """
    config = RunConfig()
    if path is not None:
        try:
            config = _relative_to(path.absolute().parent, from_dict(_read_toml(path)))
            check(config)
        except (InputError, UsageError) as error:
            raise InputError(error.what, where=error.where or path, fix=error.fix) from error
    config = with_options(config, options or {})
    check(config)
    return config


def _relative_to(folder: Path, config: RunConfig) -> RunConfig:
    """Paths in a config file mean the same from wherever the command is typed."""

    def placed(path: str | None) -> str | None:
        return str(folder / path) if path else path

    run = replace(
        config.run,
        output_dir=placed(config.run.output_dir) or "",
        slides=tuple(str(folder / slide) for slide in config.run.slides),
    )
    return replace(
        config,
        run=run,
        mk=replace(config.mk, classifier=placed(config.mk.classifier)),
        hspc=replace(config.hspc, classifier=placed(config.hspc.classifier)),
        gallery=replace(config.gallery, out=placed(config.gallery.out)),
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the config file cannot be read ({error})", where=path) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"is not valid TOML: {error}", where=path) from error


def from_dict(data: Mapping[str, Any]) -> RunConfig:
    """A `RunConfig` from nested dicts (a TOML file, or the manifest); unknown keys are errors."""
    base = RunConfig()
    _refuse_unknown(data, [*SECTIONS, "groups"], "section")
    sections: dict[str, Any] = {}
    for name, values in data.items():
        if not isinstance(values, Mapping):
            raise InputError(f"[{name}] must be a table of settings, not {values!r}")
        sections[name] = _groups(values) if name == "groups" else _section(getattr(base, name), name, values)
    given = frozenset(f"{name}.{key}" for name in SECTIONS for key in data.get(name, ()))
    return replace(base, **sections, given=given)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Nested plain dicts and lists, ready for JSON; `from_dict` is the inverse."""
    plain: dict[str, Any] = {"groups": {k: dict(v) for k, v in config.groups.items()}}
    for name in SECTIONS:
        section = getattr(config, name)
        plain[name] = {f.name: _plain(getattr(section, f.name)) for f in fields(section)}
    return plain


def with_options(config: RunConfig, options: Mapping[str, Any]) -> RunConfig:
    """Lays options, by dotted key, over a config; None means 'not given'."""
    for key, value in options.items():
        if value is None:
            continue
        name, _, setting = key.partition(".")
        changed: dict[str, Any] = {name: _section(getattr(config, name), name, {setting: value})}
        config = replace(config, **changed, given=config.given | {key})
    return config


def with_free_settings(config: RunConfig, later: RunConfig) -> RunConfig:
    """`config` with what was given to `later` of the settings that decide no cell."""
    free = {
        key: getattr(getattr(later, key.partition(".")[0]), key.partition(".")[2])
        for key in sorted(later.given)
        if key.startswith(("compute.", "gallery.", "slurm.")) or key.endswith(".classifier")
    }
    return replace(with_options(config, free), groups={**config.groups, **later.groups})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _refuse_unknown(data: Mapping[str, Any], valid: list[str], kind: str) -> None:
    for name in data:
        if name not in valid:
            raise InputError(f"unknown {kind} '{name}'", fix=f"valid here: {', '.join(valid)}")


def _section(base: Any, name: str, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(type(base))
    _refuse_unknown(values, list(hints), f"key in [{name}]")
    return replace(base, **{key: _typed(value, hints[key], f"{name}.{key}") for key, value in values.items()})


def _groups(values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    for slide_id, factors in values.items():
        if not isinstance(factors, Mapping) or not all(isinstance(v, str) for v in factors.values()):
            raise InputError(
                f"[groups] {slide_id} must be a table of texts",
                fix='for example: FGC1 = {sex = "F", treatment = "GC"}',
            )
    return {slide_id: dict(factors) for slide_id, factors in values.items()}


def _typed(value: Any, hint: Any, key: str) -> Any:
    """`value` as the type of its field, or a `UsageError` that names the key."""
    options = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for option in options:
        converted = _as(value, option)
        if converted is not _WRONG:
            return converted
    raise UsageError(f"{key} cannot be {value!r}", fix=f"it takes {_describe(options)}")


_WRONG = object()


def _as(value: Any, hint: Any) -> Any:
    if hint is type(None):
        return None if value is None else _WRONG
    if get_origin(hint) is Literal:
        return value if value in get_args(hint) else _WRONG
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            return _WRONG
        items = tuple(_as(item, get_args(hint)[0]) for item in value)
        return _WRONG if _WRONG in items else items
    if isinstance(value, bool):
        return _WRONG
    if hint is float and isinstance(value, (int, float)):
        return float(value)
    return value if isinstance(value, hint) else _WRONG


def _describe(options: tuple[Any, ...]) -> str:
    names = {int: "a whole number", float: "a number", str: "a text"}
    words = []
    for option in options:
        if get_origin(option) is Literal:
            words += [repr(choice) for choice in get_args(option)]
        elif get_origin(option) is tuple:
            words.append(f"a list, each item {_describe(get_args(option)[:1])}")
        elif option is not type(None):
            words.append(names[option])
    return " or ".join(words)


def check(config: RunConfig) -> None:
    """Raises `UsageError` for a value that no run could have."""
    run = config.run
    _demand(
        0.0 < run.sample_fraction <= 1.0,
        "run.sample_fraction",
        run.sample_fraction,
        "a fraction above 0 and at most 1, such as 0.02",
    )
    _demand(256 <= run.tile_size <= 65536, "run.tile_size", run.tile_size, "256 to 65536 pixels")
    _demand(
        run.calibration_samples >= 1, "run.calibration_samples", run.calibration_samples, "at least 1 window"
    )
    if run.um_per_px is not None:
        check_um_per_px(run.um_per_px, "run.um_per_px")
    for cell_type in CELL_TYPES:
        check_area_range(config.cells(cell_type).filter, cell_type)
        detectors = ("auto", *DETECTORS[cell_type])
        _demand_one_of(detectors, f"{cell_type}.detector", config.cells(cell_type).detector)
    _check_compute(config.compute)
    _check_gallery(config.gallery)
    _check_slurm(config.slurm)


def _check_compute(compute: ComputeSection) -> None:
    workers, memory_gb = compute.num_workers, compute.memory_gb
    _demand(workers == "auto" or workers >= 1, "compute.num_workers", workers, "1 or more, or 'auto'")
    _demand(memory_gb is None or memory_gb > 0, "compute.memory_gb", memory_gb, "a size above 0 GB")
    _demand_one_of(DEVICES, "compute.device", compute.device)
    _demand_one_of(EMBEDDERS, "compute.embedder", compute.embedder)


def _check_gallery(gallery: GallerySection) -> None:
    _demand(gallery.cards_per_page >= 1, "gallery.cards_per_page", gallery.cards_per_page, "1 or more")
    _demand(gallery.max_site_mb > 0, "gallery.max_site_mb", gallery.max_site_mb, "a size above 0 MB")
    _demand_one_of(ORDERS, "gallery.order", gallery.order)


def _check_slurm(slurm: SlurmSection) -> None:
    for name, least in (("shards_per_slide", 1), ("time_min", 1), ("cpus", 1), ("gpus", 0)):
        value = getattr(slurm, name)
        _demand(value >= least, f"slurm.{name}", value, f"{least} or more")
    memory_gb = slurm.memory_gb
    _demand(
        memory_gb == "auto" or memory_gb > 0, "slurm.memory_gb", memory_gb, "a size above 0 GB, or 'auto'"
    )


def check_um_per_px(um_per_px: float, where: object) -> None:
    """A pixel size outside 0.02 to 20 µm is no light microscope's slide scan."""
    _demand(0.02 <= um_per_px <= 20.0, where, um_per_px, "a pixel size of 0.02 to 20 µm")


def check_area_range(area: AreaRange, cell_type: CellType) -> None:
    """Raises `UsageError` unless 0 < min < max, both finite."""
    _demand(area.min_um2 > 0, f"{cell_type}.min_area_um2", area.min_um2, "an area above 0 µm²")
    _demand(
        area.max_um2 > area.min_um2,
        f"{cell_type}.max_area_um2",
        area.max_um2,
        f"an area above the minimum of {area.min_um2:g} µm²",
    )


def _demand(fine: bool, where: object, value: object, takes: str) -> None:
    if not fine or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"{value!r} is out of range", where=where, fix=f"it takes {takes}")


def _demand_one_of(names: tuple[str, ...], where: str, value: str) -> None:
    _demand(value in names, where, value, " or ".join(names))


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
        "compute.embedder": config.compute.embedder,
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
    return [
        f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here"
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key)
    ]
