"""From a TOML file, options or a manifest to a `RunConfig`, and back."""

from __future__ import annotations

import codecs
import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mkhspc.config.checks import check
from mkhspc.config.schema import RunConfig
from mkhspc.config.typed import refuse_unknown, with_values
from mkhspc.errors import InputError, UsageError

SAVE_AS_UTF8 = "save it as UTF-8 in your editor"
SECTIONS = ("run", "mk", "hspc", "compute", "gallery", "slurm")
LATER_SETTINGS = ("run.channel",)
"""Settings that the first runs did not have: written only where they are given, so that manifests without
them stay as they are."""


def load_config(path: Path | None, options: Mapping[str, Any] | None = None) -> RunConfig:
    """Reads a TOML file and lays command-line options over it.

    Args:
        path: the TOML file, or None for the defaults alone.
        options: values by dotted key, such as `{"mk.min_area_um2": 120.0}`; None values are
            options that were not given.

    Raises:
        InputError: the file cannot be read, is not TOML, or holds an unknown key or a wrong value.
        UsageError: an option's value is of the wrong type, or outside its limits.
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
    compute = replace(
        config.compute,
        sam2_weights=_placed_weights(folder, config.compute.sam2_weights),
        cellpose_weights=_placed_weights(folder, config.compute.cellpose_weights),
    )
    return replace(
        config,
        run=run,
        compute=compute,
        mk=replace(config.mk, classifier=placed(config.mk.classifier)),
        hspc=replace(config.hspc, classifier=placed(config.hspc.classifier)),
        gallery=replace(config.gallery, out=placed(config.gallery.out)),
    )


def _placed_weights(folder: Path, name: str) -> str:
    """A checkpoint's path has a slash in it or is that of a file; all else is a name of the catalogue."""
    is_path = os.sep in name or (folder / name).is_file()
    return str(folder / Path(name).expanduser()) if is_path else name


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(path.read_bytes(), path))
    except OSError as error:
        raise InputError(
            f"the config file cannot be read ({error.strerror})",
            where=path,
            fix="check the path given to --config",
        ) from error
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, and lists without end
        raise InputError(f"is not valid TOML: {error}", where=path, fix="see https://toml.io") from error


def _text(data: bytes, path: Path) -> str:
    """A config's text, without the byte order mark that editors of Windows put before UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data:
        raise InputError("the config file is in UTF-16, not in UTF-8", where=path, fix=SAVE_AS_UTF8)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"the config file is not in UTF-8 (line {line})", where=path, fix=SAVE_AS_UTF8
        ) from error


def from_dict(data: Mapping[str, Any]) -> RunConfig:
    """A `RunConfig` from nested dicts (a TOML file, or the manifest); unknown keys are errors."""
    base = RunConfig()
    refuse_unknown(data, [*SECTIONS, "groups"], "section")
    sections: dict[str, Any] = {}
    for name, values in data.items():
        if not isinstance(values, Mapping):
            raise InputError(
                f"{name} is {values!r}; it must be a table of settings",
                fix=f"write [{name}] on a line of its own",
            )
        sections[name] = (
            _groups(values) if name == "groups" else with_values(getattr(base, name), values, name)
        )
    given = frozenset(f"{name}.{key}" for name in SECTIONS for key in data.get(name, ()))
    return replace(base, **sections, given=given)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Nested plain dicts and lists, ready for JSON; `from_dict` is the inverse."""
    plain: dict[str, Any] = {"groups": {k: dict(v) for k, v in config.groups.items()}}
    for name in SECTIONS:
        section = getattr(config, name)
        values = {f.name: _plain(getattr(section, f.name)) for f in fields(section)}
        plain[name] = {
            key: value
            for key, value in values.items()
            if value is not None or f"{name}.{key}" not in LATER_SETTINGS
        }
    return plain


def with_options(config: RunConfig, options: Mapping[str, Any]) -> RunConfig:
    """Lays options, by dotted key, over a config; None means 'not given'."""
    for key, value in options.items():
        if value is None:
            continue
        name, _, setting = key.partition(".")
        changed: dict[str, Any] = {name: with_values(getattr(config, name), {setting: value}, name)}
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


def _groups(values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    for slide_id, factors in values.items():
        if not isinstance(factors, Mapping) or not all(isinstance(v, str) for v in factors.values()):
            raise InputError(
                f"groups.{slide_id} is {factors!r}; it must be a table of texts",
                fix='for example: FGC1 = {sex = "F", treatment = "GC"}',
            )
    return {slide_id: dict(factors) for slide_id, factors in values.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
