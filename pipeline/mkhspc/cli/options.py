"""Options that several commands share, defined once."""

from __future__ import annotations

import functools
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mkhspc.config import RunConfig
from mkhspc.config.options import AREA_SETTINGS, FILTER_SETTINGS

Command = TypeVar("Command", bound=Callable[..., Any])

run_option = click.option(
    "--run", "run_dir", required=True, type=click.Path(path_type=Path), help="The run's directory."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def run_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the run's directory as an argument, or as --run: the command gets it as `run_dir`."""

    @click.argument("run_dir", metavar="RUN", required=False, type=click.Path(path_type=Path))
    @click.option("--run", "named", type=click.Path(path_type=Path), help="The run's directory, as RUN.")
    @functools.wraps(command)
    def with_run(*, run_dir: Path | None, named: Path | None, **options: Any) -> Any:
        given = [path for path in (run_dir, named) if path is not None]
        if len(given) != 1:
            words = "no run is" if not given else "two runs are"
            raise click.UsageError(f"{words} named; give one, as RUN or with --run")
        return command(run_dir=given[0], **options)

    return with_run


def area_options(command: Command, *, with_defaults: bool = False) -> Command:
    """Adds --mk-min-area-um, --mk-max-area-um, --hspc-min-area-um and --hspc-max-area-um, in µm².

    Args:
        with_defaults: the help names the size filter of a new run.
    """
    for name in reversed(AREA_SETTINGS):
        cell_type, bound, *_ = name.split("_")
        words = "Smallest" if bound == "min" else "Largest"
        what = "MK (the whole cell)" if cell_type == "mk" else "HSPC"
        option = f"--{name.replace('_', '-')}"
        default = f" {default_of(AREA_SETTINGS[name])}" if with_defaults else ""
        shown = f"{words} {what}, in µm².{default}"
        command = click.option(option, name, type=float, help=shown)(command)
    return command


def filter_options(command: Command, *, with_defaults: bool = False) -> Command:
    """Adds the options of `area_options`, --mk-min-score and --hspc-min-score."""
    for name in ("hspc_min_score", "mk_min_score"):
        default = f" {default_of(FILTER_SETTINGS[name])}" if with_defaults else ""
        shown = f"Least score of {name.split('_')[0].upper()}, by the detector, 0 to 1.{default}"
        command = click.option(f"--{name.replace('_', '-')}", name, type=float, help=shown)(command)
    return area_options(command, with_defaults=with_defaults)


def default_of(setting: str) -> str:
    """The default of a setting such as 'run.tile_size', in the brackets that a help text shows it in."""
    section, _, field = setting.partition(".")
    value = getattr(getattr(RunConfig(), section), field)
    return f"[{value:g}]" if isinstance(value, float) else f"[{value}]"


def command_line(*words: object) -> str:
    """A command of `mkhspc` to copy into a shell: the program as it can be called here, names quoted."""
    return shlex.join([*_program(), *map(str, words)])


def _program() -> list[str]:
    """`mkhspc` where the shell finds this one, else the path it was called by, else the module."""
    called, found = Path(sys.argv[0]), shutil.which("mkhspc")
    if found is not None and (called.name != "mkhspc" or Path(found).resolve() == called.resolve()):
        return ["mkhspc"]
    return [str(called)] if called.name == "mkhspc" else [sys.executable, "-P", "-m", "mkhspc"]


def print_json(value: Any) -> None:
    """Writes a result to stdout as JSON."""
    click.echo(json.dumps(value, indent=1, allow_nan=False))


def idle_gpus(gpus: str) -> str:
    """A note for a user who asks for GPUs where no model runs."""
    return f"{gpus} would stand idle: no detector or embedder of this run is a model"
