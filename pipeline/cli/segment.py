"""`mkhspc segment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import progress
from pipeline.cli.options import AREA_OPTIONS, area_options, json_option, note, print_json
from pipeline.config import DETECTORS, load_config

if TYPE_CHECKING:
    from pipeline.store.summary import RunSummary, ShardSummary

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
    **AREA_OPTIONS,
}
"""Options of the command line and the settings that they stand for."""


@click.command(short_help="Find, measure and crop the cells of one or more slides.")
@click.option("--czi-path", multiple=True, metavar="FILE", help="A CZI slide; may be repeated.")
@click.option("--output-dir", metavar="RUN", help="The run's directory; the same again resumes.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE.toml", help="Settings of a study.")
@click.option("--sample-fraction", type=float, help="Share of the tiles to do, such as 0.02. [1.0]")
@click.option("--tile-size", type=int, help="Side of a tile's core in pixels. [4096]")
@click.option("--num-workers", metavar="N|auto", help="Processes that work on tiles. [auto]")
@click.option("--calibration-samples", type=int, help="Windows per scene to calibrate stains on. [100]")
@click.option("--mk-detector", type=click.Choice(("auto", *DETECTORS["mk"])), help="How MK are found. [auto]")
@click.option(
    "--hspc-detector", type=click.Choice(("auto", *DETECTORS["hspc"])), help="How HSPC are found. [auto]"
)
@area_options
@click.option("--mk-classifier", metavar="FILE.skops", help="Score the MK with this classifier.")
@click.option("--hspc-classifier", metavar="FILE.skops", help="Score the HSPC with this classifier.")
@click.option("--um-per-px", type=float, help="Pixel size in µm, where the slide states none.")
@click.option("--scene", "scenes", type=int, multiple=True, help="Only this scene; may be repeated.")
@click.option("--shard", metavar="I/N", help="Only the I-th of N parts of the tiles, from 0.")
@click.option("--only", multiple=True, metavar="SLIDE_ID", help="Only this slide; may be repeated.")
@click.option("--device", help="auto or cpu; the classical detectors need no other. [auto]")
@click.option("--memory-gb", type=float, help="Memory that the run may use. [what the machine allows]")
@click.option("--seed", type=int, help="Decides the sampling order and the blind codes. [0]")
@json_option
def segment(
    czi_path: tuple[str, ...],
    config: Path | None,
    num_workers: str | None,
    scenes: tuple[int, ...],
    shard: str | None,
    only: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Find, measure and crop the cells of one or more slides.

    Run the same command again to resume. A higher --sample-fraction only adds tiles:
    no cell changes its id.

    \b
    Examples:
      mkhspc segment --czi-path slide.czi --output-dir run --sample-fraction 0.02
      mkhspc segment --config study.toml
    """
    from pipeline import run
    from pipeline.engine.schedule import Shard

    settings = {SETTINGS[name]: value for name, value in options.items()}
    settings |= {
        "run.slides": czi_path or None,
        "run.scenes": scenes or None,
        "compute.num_workers": _workers(num_workers),
    }
    resolved = load_config(config, settings)
    part = Shard.parse(shard) if shard else None
    with progress.shown() as show:
        summary = (
            run.segment(resolved, only=only, progress=show, tell=note)
            if part is None
            else run.segment_shard(resolved, part, only=only, progress=show, tell=note)
        )
    print_summary(summary, as_json)


def print_summary(summary: RunSummary | ShardSummary, as_json: bool) -> None:
    """What was done, and where to go on: two lines, or JSON."""
    from pipeline.store.summary import ShardSummary

    if as_json:
        print_json(summary.to_dict())
    elif isinstance(summary, ShardSummary):
        click.echo(f"shard {summary.shard} is done: {summary.tiles} tiles, in {summary.root}")
        click.echo(f"next, when all shards are done: mkhspc merge {summary.root}")
    else:
        found = ", ".join(
            f"{summary.in_filter[t]:,} {t.upper()} (of {summary.stored[t]:,} stored)" for t in summary.stored
        )
        click.echo(f"{summary.tiles} tiles: {found}, in {summary.root}")
        click.echo(f"next: mkhspc gallery --run {summary.root} --out SITE")


def _workers(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.lstrip("-").isdigit() else text
