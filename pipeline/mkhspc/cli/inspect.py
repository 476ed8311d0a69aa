"""`mkhspc inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mkhspc.cli import progress
from mkhspc.cli.options import default_of, json_option
from mkhspc.config import CELL_TYPES, RunConfig, load_config
from mkhspc.errors import CheckFailedError, IncompleteError, InputError, UsageError, printable
from mkhspc.units import GB, MB

if TYPE_CHECKING:
    from mkhspc.measure.analysis import TileAnalysis
    from mkhspc.process.limits import MemoryLimit
    from mkhspc.slide.inspect import SceneReport, SlideReport

MOST_GB = 8
"""GB that `inspect` takes at most of its own accord: twice what 75 x 25 mm at 0.22 µm a pixel take."""


@click.command(short_help="What a CZI file holds: scenes, pixel size, tissue, tiles.")
@click.argument("czi", type=click.Path(path_type=Path))
@click.option("--tile-size", type=int, help=f"Side of a tile in pixels. {default_of('run.tile_size')}")
@click.option("--um-per-px", type=float, help="Pixel size in µm, instead of the file's.")
@click.option("--channel", type=int, metavar="N", help="The channel to read. [the first RGB one]")
@click.option("--preview", type=click.Path(path_type=Path), metavar="FILE.png", help="Also draw a picture.")
@click.option("--memory-gb", type=float, help="Memory that it may take. [what is free, 8 at most]")
@json_option
def inspect(
    czi: Path,
    tile_size: int | None,
    um_per_px: float | None,
    channel: int | None,
    preview: Path | None,
    memory_gb: float | None,
    as_json: bool,
) -> None:
    """What a CZI file holds: scenes, pixel size, compression, tissue, tiles.

    The picture of --preview shows tissue (green), fat (orange) and the tiles. A slide that
    `segment` would refuse is described as far as it can be, with the reason, and the exit code is
    that of `segment`: 3 for such a slide, 1 without tissue, 4 where images cannot be decoded (the
    picture crosses them out, and their tiles would fail).

    \b
    Examples:
      mkhspc inspect slide.czi
      mkhspc inspect slide.czi --preview slide.png --json
      mkhspc inspect huge.czi --memory-gb 30
      mkhspc inspect slide.czi --channel 1
    """
    from mkhspc.budget.survey_memory import refuse_inspection
    from mkhspc.slide.czi.slide import CziSlide
    from mkhspc.slide.inspect import inspect_slide

    given = {
        "run.tile_size": tile_size,
        "run.um_per_px": um_per_px,
        "run.channel": channel,
        "compute.memory_gb": memory_gb,
    }
    config = load_config(None, given)
    if preview is not None and preview.suffix.lower() != ".png":
        raise UsageError(
            "the preview can only be written as PNG", where=preview, fix="give it a name that ends in .png"
        )
    with CziSlide.open(_only_slide(czi), config.run.um_per_px, config.run.channel) as slide:
        refuse_inspection(slide, config.run.calibration_samples, _memory(config.compute.memory_gb))
        with progress.shown() as show:
            report = inspect_slide(slide, config.run, _analysis(config).halo_px, show)
        click.echo(json.dumps(report.to_dict(), indent=1) if as_json else describe(report))
        is_damaged = bool(report.damaged)
        if preview is not None:
            from mkhspc.slide.preview import draw_preview, write_png

            picture, shows_damage = draw_preview(slide, report)
            write_png(preview, picture)
            is_damaged = is_damaged or shows_damage
    _refuse_as_segment(report, is_damaged)


def _only_slide(named: Path) -> Path:
    """The slide that a path, a folder or a wildcard names, as `segment` understands them."""
    from mkhspc.run.opening.slide_files import files_named

    first, *others = files_named(str(named))
    if others:
        raise UsageError(
            f"names {1 + len(others)} slides; `inspect` looks at one",
            where=named,
            fix=f"name one of them, such as {first}",
        )
    return first


def _refuse_as_segment(report: SlideReport, is_damaged: bool) -> None:
    """Raises the error with the exit code that `segment` would end with on this slide."""
    where = report.info.path
    if report.refusal:
        raise InputError(f"`segment` would refuse this slide: it {report.refusal}", where=where)
    if not report.tiles:
        raise CheckFailedError("`segment` would find no tissue on this slide", where=where)
    if is_damaged:
        raise IncompleteError(
            "holds images that cannot be decoded: `segment` would fail the tiles that need them",
            where=where,
            fix="copy the slide again from where it came from",
        )


def _memory(memory_gb: float | None) -> MemoryLimit:
    """What is free; unless the user says otherwise no more than any scan of a glass slide needs."""
    from mkhspc.process.limits import MemoryLimit, memory_limit

    usual = MemoryLimit(MOST_GB * GB, "`inspect` itself")
    limits = [memory_limit(memory_gb), *([] if memory_gb else [usual])]
    return min(limits, key=lambda limit: limit.limit_bytes)


def _analysis(config: RunConfig) -> TileAnalysis:
    """What `segment` would look for with the same settings."""
    from mkhspc.measure.analysis import TileAnalysis
    from mkhspc.run.opening.settings import run_settings

    settings = run_settings(config)
    return TileAnalysis.of(settings.config, {t: config.stored(t) for t in CELL_TYPES}, settings.models)


def describe(report: SlideReport) -> str:
    """The report as lines of text, safe to print whatever the file is called."""
    info = report.info
    lines = [printable(info.path.name)]
    lines += [f"  {name:<12}{value}" for name, value in _facts(report)]
    lines += [f"  scene {scene.scene:<6}{_scene_line(scene)}" for scene in report.scenes]
    lines += [f"  {'note':<12}{printable(line)}" for line in report.oddities]
    return "\n".join(lines)


def _facts(report: SlideReport) -> list[tuple[str, str]]:
    info = report.info
    reduced = ", ".join(f"1/{level}" for level in info.pyramid_levels if level > 1)
    images = f"{', '.join(info.compressions)}; {'pyramid ' + reduced if reduced else 'no pyramid'}"
    size = f"{report.um_per_px:.6g} µm" if report.um_per_px else f"unknown: the file {info.pixel_size_fault}"
    facts = [
        ("slide id", info.slide_id),
        ("file", f"{info.size_bytes / MB:,.1f} MB, {'a mosaic' if info.is_mosaic else 'no mosaic'}"),
        ("images", images),
        ("pixels", f"{info.pixel_type}, {printable(', '.join(channel.name for channel in info.channels))}"),
        ("pixel size", printable(size)),
    ]
    other = [
        f"{count} {name} ({'middle' if name == 'Z' else 'first'} is read)" for name, count in info.planes
    ]
    if other:
        facts.append(("planes", ", ".join(other)))
    if report.tiles is not None:
        facts.append(("tiles", _tiles_line(report)))
    facts.append(("segment", _verdict(report)))
    return facts


def _verdict(report: SlideReport) -> str:
    if report.refusal:
        return f"would refuse it: it {printable(report.refusal)}"
    if not report.tiles:
        return "would find no tissue on it"
    damaged = sum(map(len, report.damaged.values()))
    if damaged:
        places = "1 place" if damaged == 1 else f"{damaged} places"
        return f"would take it, but for the tiles at {places} that cannot be decoded"
    return "would take it"


def _tiles_line(report: SlideReport) -> str:
    line = f"{len(report.tiles or ())} of {report.tile_size} px"
    if report.read_share is None:
        return f"{line}: no tissue found"
    return (
        f"{line}; with a halo of {report.halo_px} px, {report.read_share:.2f} pixels read for each in a core"
    )


def _scene_line(scene: SceneReport) -> str:
    parts = [f"{scene.width_px:,} x {scene.height_px:,} px at ({scene.x0_px}, {scene.y0_px})"]
    if scene.channel is None:
        parts.append(f"{scene.pixel_type}, not read")
    if scene.width_mm is not None and scene.height_mm is not None:
        parts.append(f"{scene.width_mm:.2f} x {scene.height_mm:.2f} mm")
    if scene.tissue_mm2 is not None and scene.fat_free_mm2 is not None:
        parts.append(f"tissue {scene.tissue_mm2:.3f} mm² ({scene.tissue_share:.0%})")
        parts.append(f"without fat {scene.fat_free_mm2:.3f} mm² ({scene.fat_free_share:.0%})")
        parts.append(f"{scene.tiles} {'tile' if scene.tiles == 1 else 'tiles'}")
    return ", ".join(parts)
