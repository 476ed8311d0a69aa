"""`mkhspc status`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live

from pipeline.cli.options import json_option, print_json, run_argument
from pipeline.cli.status_view import picture, to_json

if TYPE_CHECKING:
    from pipeline.engine.status import RunStatus

WATCH_EVERY_S = 2.0


@click.command(short_help="How far a run is: tiles done, failed and left by slide.")
@run_argument
@json_option
@click.option("--watch", is_flag=True, help="Look again every 2 seconds, until no tile is left.")
def status(run_dir: Path, as_json: bool, watch: bool) -> None:
    """How far a run is: tiles done, failed and left by slide, rate, time left, cells and memory.

    Reads the run's files alone, so it works while the run goes on, from any machine, and tells of
    all the processes that share the run. With --watch a terminal shows it live; elsewhere it is one
    JSON line every 2 seconds.

    \b
    Examples:
      mkhspc status run
      mkhspc status run --watch
    """
    from pipeline.engine.status import run_status
    from pipeline.store.layout import RunLayout

    layout = RunLayout(run_dir)

    def look() -> RunStatus:
        return run_status(layout)

    if watch:
        _watch(look, as_lines=as_json or not sys.stdout.isatty())
    elif as_json:
        print_json(to_json(look()))
    else:
        Console().print(picture(look()))


def _watch(look: Callable[[], RunStatus], *, as_lines: bool) -> None:
    """Shows the status until every tile is there and nobody works, or Ctrl-C."""
    try:
        if as_lines:
            for found in _looks(look):
                click.echo(json.dumps(to_json(found)))
            return
        with Live(console=Console(), auto_refresh=False) as screen:
            for found in _looks(look):
                screen.update(picture(found), refresh=True)
    except KeyboardInterrupt:
        return  # the way out of watching, not of the run


def _looks(look: Callable[[], RunStatus]) -> Iterator[RunStatus]:
    while True:
        found = look()
        yield found
        if found.is_finished and not found.working:
            return
        time.sleep(WATCH_EVERY_S)
