"""`mkhspc status`."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live

from mkhspc.cli.options import json_option, print_json, run_argument
from mkhspc.cli.status_view import picture, to_json

if TYPE_CHECKING:
    from mkhspc.cluster.status import RunStatus

WATCH_EVERY_S = 2.0
ASK_SLURM_EVERY_S = 30.0
"""Slurm's accounting serves the whole cluster."""


@click.command(short_help="How far a run is: tiles done, failed and left by slide.")
@run_argument
@json_option
@click.option("--watch", is_flag=True, help="Look again every 2 seconds, until no tile is left.")
def status(run_dir: Path, as_json: bool, watch: bool) -> None:
    """How far a run is: tiles done, failed and left by slide, rate, time left, cells and memory.

    Reads the run's files alone, so it works while the run goes on, from any machine, and shows
    all the processes that share the run. For a run of `mkhspc slurm`, and where there is sacct, it
    says as well which jobs died and why. With --watch a terminal shows it live; elsewhere it is
    one JSON line every 2 seconds. --json lists every tile that is missing, and why those failed
    that did.

    \b
    Examples:
      mkhspc status run
      mkhspc status run --watch
      mkhspc status run --json
    """
    looks = _looks(run_dir)
    if watch:
        _watch(looks, as_lines=as_json or not sys.stdout.isatty())
    elif as_json:
        print_json(to_json(next(looks)))
    else:
        Console().print(picture(next(looks)))


def _watch(looks: Iterator[RunStatus], *, as_lines: bool) -> None:
    """Shows the status until every tile is there and nobody works, or Ctrl-C."""
    try:
        if as_lines:
            for found in looks:
                click.echo(json.dumps(to_json(found)))
            return
        with Live(console=Console(), auto_refresh=False) as screen:
            for found in looks:
                screen.update(picture(found), refresh=True)
    except KeyboardInterrupt:
        return  # the way out of watching, not of the run


def _looks(run_dir: Path) -> Iterator[RunStatus]:
    """The status now, and again every `WATCH_EVERY_S` until nothing is left to wait for."""
    from mkhspc.cluster.read_status import run_status, with_task_ends
    from mkhspc.cluster.sacct import slurm_report
    from mkhspc.store.layout import RunLayout

    layout = RunLayout(run_dir)
    asked_s = -math.inf
    while True:
        found = run_status(layout)
        if time.monotonic() - asked_s > ASK_SLURM_EVERY_S:
            report, asked_s = slurm_report(layout), time.monotonic()
        found = with_task_ends(found, report.dead, report.problem)
        yield found
        if found.is_finished and not found.working:
            return
        time.sleep(WATCH_EVERY_S)
