"""The settings of a run as options of the command line: those of `segment`, `plan` and their like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from mkhspc.cli.options import AREA_OPTIONS, area_options
from mkhspc.config import DETECTORS, EMBEDDERS, NO_EMBEDDER, RunConfig, load_config

Command = TypeVar("Command", bound=Callable[..., Any])

DETECTOR_NAMES = {cell_type: ("auto", *names) for cell_type, names in DETECTORS.items()}
SETTINGS = {
    "output_dir": "run.output_dir",
    "sample_fraction": "run.sample_fraction",
    "tile_size": "run.tile_size",
    "calibration_samples": "run.calibration_samples",
    "seed": "run.seed",
    "um_per_px": "run.um_per_px",
    "mk_detector": "mk.detector",
    "hspc_detector": "hspc.detector",
    "mk_classifier": "mk.classifier",
    "hspc_classifier": "hspc.classifier",
    "memory_gb": "compute.memory_gb",
    "device": "compute.device",
    "sam2_weights": "compute.sam2_weights",
    "cellpose_weights": "compute.cellpose_weights",
    **AREA_OPTIONS,
}
"""Options of the command line and the settings that they stand for."""

OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--czi-path", multiple=True, metavar="FILE", help="A CZI slide; may be repeated."),
    click.option("--output-dir", metavar="RUN", help="The run's directory; the same again resumes."),
    click.option(
        "--config", type=click.Path(path_type=Path), metavar="FILE.toml", help="Settings of a study."
    ),
    click.option("--sample-fraction", type=float, help="Share of the tiles to do, such as 0.02. [1.0]"),
    click.option("--tile-size", type=int, help="Side of a tile's core in pixels. [4096]"),
    click.option("--num-workers", metavar="N|auto", help="Processes that work on tiles. [auto]"),
    click.option("--calibration-samples", type=int, help="Windows per scene to calibrate stains on. [100]"),
    click.option(
        "--mk-detector", type=click.Choice(("auto", *DETECTORS["mk"])), help="How MK are found. [auto]"
    ),
    click.option(
        "--hspc-detector", type=click.Choice(("auto", *DETECTORS["hspc"])), help="How HSPC are found. [auto]"
    ),
    partial(area_options, with_defaults=True),
    click.option("--mk-classifier", metavar="FILE.skops", help="Score the MK with this classifier."),
    click.option("--hspc-classifier", metavar="FILE.skops", help="Score the HSPC with this classifier."),
    click.option("--um-per-px", type=float, help="Pixel size in µm, where the slide states none."),
    click.option("--scene", "scenes", type=int, multiple=True, help="Only this scene; may be repeated."),
    click.option(
        "--embedder",
        "embedders",
        type=click.Choice((NO_EMBEDDER, *EMBEDDERS)),
        multiple=True,
        help="Describe cells by this network too; may be repeated. [none]",
    ),
    click.option("--device", metavar="NAME", help="Of models: auto, cpu, cuda:0, or cuda:0,cuda:1. [auto]"),
    click.option(
        "--sam2-weights", metavar="NAME|FILE", help="See `mkhspc models list`. [the best that are here]"
    ),
    click.option(
        "--cellpose-weights", metavar="NAME|FILE", help="See `mkhspc models list`. [the best that are here]"
    ),
    click.option("--memory-gb", type=float, help="Memory that the run may use. [what the machine allows]"),
    click.option("--seed", type=int, help="Decides the sampling order and the blind codes. [0]"),
)


def run_options(command: Command) -> Command:
    """Adds an option for every setting of a run."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def resolved(options: Mapping[str, Any]) -> RunConfig:
    """The config of a study with the options of `run_options` laid over it.

    Raises:
        InputError: the config file cannot be used.
        UsageError: an option is out of range.
    """
    values = dict(options)
    config: Path | None = values.pop("config")
    settings = {
        "run.slides": values.pop("czi_path") or None,
        "run.scenes": values.pop("scenes") or None,
        "compute.embedder": ",".join(values.pop("embedders")) or None,
        "compute.num_workers": _workers(values.pop("num_workers")),
        **{SETTINGS[name]: value for name, value in values.items()},
    }
    return load_config(config, settings)


def _workers(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.lstrip("-").isdigit() else text
