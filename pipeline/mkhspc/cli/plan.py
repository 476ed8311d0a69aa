"""`mkhspc plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mkhspc.cli import progress
from mkhspc.cli.notes import note
from mkhspc.cli.options import idle_gpus, json_option, print_json
from mkhspc.cli.run_options import resolved, run_options

if TYPE_CHECKING:
    from mkhspc.budget.forecast import Forecast

from mkhspc.units import GB, MB


@click.command(short_help="What a run will take: workers, memory, time, disk, site.")
@run_options
@click.option("--cores", type=int, help="Cores of the machine meant. [those here]")
@click.option("--gpus", type=int, help="GPUs of the machine meant. [those here]")
@click.option("--gpu-memory-gb", type=float, help="Memory of each GPU.")
@json_option
def plan(
    cores: int | None,
    gpus: int | None,
    gpu_memory_gb: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """What a run will take: workers, memory, time, disk, and the size of its gallery.

    Surveys the slides and does one tile for real, in a directory that is thrown away. With
    --memory-gb, --cores, --gpus and --gpu-memory-gb the answer is for a machine of that kind, which
    need not be this one. Detectors that are not named are chosen for this one, but with --gpus for
    the machine meant, if their weights are here. The tile is then done with them on what is here: without
    a GPU that can take hours.

    \b
    Examples:
      mkhspc plan slides/*.czi --sample-fraction 0.1
      mkhspc plan --config study.toml --memory-gb 128 --cores 32 --gpus 2 --gpu-memory-gb 40
    """
    from mkhspc.process.signals import interruptible

    with progress.shown() as show, interruptible():  # what it does in passing is thrown away however it ends
        from mkhspc.budget.forecast import machine_for
        from mkhspc.run.plan import plan_run

        config = resolved(options)
        machine = machine_for(config.compute.memory_gb, cores, gpus, gpu_memory_gb)
        found = plan_run(config, machine, show, note)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(describe(found, gpus or 0))


def describe(found: Forecast, gpus: int = 0) -> str:
    """A forecast as lines for people.

    Args:
        gpus: of the machine meant.
    """
    cells = ", ".join(f"{n:,} {t.upper()}" for t, n in found.cells.items())
    slides = f"{found.slides}, {found.tiles:,} tile{'' if found.tiles == 1 else 's'}"
    rows = [
        ("slides", slides),
        ("workers", f"{found.workers}{_ahead(found.queue)}"),
        (
            "memory",
            f"{found.peak_bytes / GB:.1f} GB at most, of {found.limit_bytes / GB:.1f} GB"
            f" ({found.limit_set_by})",
        ),
        ("time", f"about {_duration(found.time_s)}{_speed(found)}"),
        ("cells", f"about {cells} stored"),
        ("disk", f"about {found.disk_bytes / GB:.2f} GB"),
        ("gallery", f"about {found.site_bytes / MB:,.0f} MB"),
        ("reading", f"{found.decoded_share:.2f} times the pixels of the images touched are decoded"),
        (
            "measured",
            f"{found.first_tile.tile_id}: {found.first_tile.seconds:.1f} s,"
            f" {found.first_tile.worker_bytes / GB:.2f} GB a worker",
        ),
    ]
    rows[3:3] = _models(found, gpus)
    rows += [
        (
            f"{option.workers} workers",
            f"{option.peak_bytes / GB:.1f} GB, {'fits' if option.fits else 'would not fit'}",
        )
        for option in found.options
    ]
    return "\n".join(f"{name:<12}{text}" for name, text in rows)


ASKED_AT_ONCE = {"sam2": "{:,} prompts of one window", "cellpose": "{:,} blocks"}


def _models(found: Forecast, gpus: int) -> list[tuple[str, str]]:
    """What is on the devices, and what of it is too large for them."""
    if not found.batch:
        return [("GPUs", f"{idle_gpus(str(gpus))} (mkhspc models list)")] if gpus else []
    batches = ", ".join(
        f"{model} {ASKED_AT_ONCE.get(model, '{:,} crops').format(n)}" for model, n in found.batch.items()
    )
    devices = f"{found.devices} device{'' if found.devices == 1 else 's'}"
    rows = [("models", f"{found.owner_bytes / GB:.1f} GB of that, on {devices}"), ("at once", batches)]
    if found.too_large:
        rows.append(("too small", f"the GPU, for {', '.join(found.too_large)}: see `mkhspc models list`"))
    return rows


def _speed(found: Forecast) -> str:
    """Models that another kind of device will run were timed on what is here."""
    device = found.first_tile.device
    return f", with models as fast as on {device} here" if device else ""


def _ahead(windows: int) -> str:
    return f", and {windows} window{'' if windows == 1 else 's'} read ahead" if windows else ""


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
