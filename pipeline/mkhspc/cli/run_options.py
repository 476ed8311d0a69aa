"""The settings of a run as options of the command line: those of `segment`, `plan` and their like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from mkhspc.cli.options import default_of, filter_options
from mkhspc.config import DETECTORS, EMBEDDERS, NO_EMBEDDER, CellType, RunConfig, load_config
from mkhspc.config.options import settings_of

Command = TypeVar("Command", bound=Callable[..., Any])


def _detectors(cell_type: CellType) -> click.Choice[str]:
    return click.Choice(("auto", *DETECTORS[cell_type]))


def _setting(name: str, key: str, words: str, **kind: Any) -> Callable[[Any], Any]:
    """The option for a setting; its help ends with the setting's default."""
    return click.option(name, help=f"{words} {default_of(key)}", **kind)


OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--czi-path",
        multiple=True,
        metavar="FILE",
        help="A CZI slide, a folder of them, or a quoted wildcard; may be repeated.",
    ),
    click.option(
        "--output-dir",
        "--run",
        "output_dir",
        metavar="RUN",
        help="The run's directory; the same again resumes.",
    ),
    click.option(
        "--config", type=click.Path(path_type=Path), metavar="FILE.toml", help="Settings of a study."
    ),
    _setting(
        "--sample-fraction", "run.sample_fraction", "Share of the tiles to do, such as 0.02.", type=float
    ),
    _setting("--tile-size", "run.tile_size", "Side of a tile's core in pixels.", type=int),
    _setting("--num-workers", "compute.num_workers", "Processes that work on tiles.", metavar="N|auto"),
    _setting(
        "--calibration-samples",
        "run.calibration_samples",
        "Windows per scene to calibrate stains on.",
        type=int,
    ),
    _setting("--mk-detector", "mk.detector", "How MK are found.", type=_detectors("mk")),
    _setting("--hspc-detector", "hspc.detector", "How HSPC are found.", type=_detectors("hspc")),
    partial(filter_options, with_defaults=True),
    click.option("--mk-classifier", metavar="FILE.skops", help="Score the MK with this classifier."),
    click.option("--hspc-classifier", metavar="FILE.skops", help="Score the HSPC with this classifier."),
    click.option("--um-per-px", type=float, help="Pixel size in µm, where the slide states none."),
    click.option("--scene", "scenes", type=int, multiple=True, help="Only this scene; may be repeated."),
    click.option(
        "--channel", type=int, metavar="N", help="The channel to read, where several are RGB. [the first]"
    ),
    click.option(
        "--embedder",
        "embedders",
        type=click.Choice((NO_EMBEDDER, *EMBEDDERS)),
        multiple=True,
        help=f"Describe cells by this network too; may be repeated. {default_of('compute.embedder')}",
    ),
    _setting(
        "--device", "compute.device", "Where models run: auto, cpu, cuda:0, or cuda:0,cuda:1.", metavar="NAME"
    ),
    click.option(
        "--sam2-weights", metavar="NAME|FILE", help="See `mkhspc models list`. [the best that are here]"
    ),
    click.option(
        "--cellpose-weights", metavar="NAME|FILE", help="See `mkhspc models list`. [the best that are here]"
    ),
    click.option("--memory-gb", type=float, help="Memory that the run may use. [what the machine allows]"),
    _setting("--seed", "run.seed", "Decides the sampling order and the blind codes.", type=int),
)


def run_options(command: Command) -> Command:
    """Adds an option for every setting of a run, and slides as arguments."""
    for option in reversed(OPTIONS):
        command = option(command)
    return click.argument("slides", nargs=-1, metavar="[CZI]...")(command)


def resolved(options: Mapping[str, Any]) -> RunConfig:
    """The config of a study with the options of `run_options` laid over it.

    Raises:
        InputError: the config file cannot be used.
        UsageError: an option is out of range.
    """
    values = dict(options)
    config: Path | None = values.pop("config")
    values["slides"] = (*values["slides"], *values.pop("czi_path"))
    values["num_workers"] = _workers(values["num_workers"])
    return load_config(config, settings_of(values))


def _workers(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.lstrip("-").isdigit() else text
