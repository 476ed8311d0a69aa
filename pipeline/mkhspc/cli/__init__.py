"""The `mkhspc` command: parse, call, translate errors.

Commands are imported when they are called, so `mkhspc --help` reads none of the scientific stack.
"""

from __future__ import annotations

import errno
import importlib
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from mkhspc import __version__
from mkhspc.cli.notes import NotesOnStderr
from mkhspc.errors import MkhspcError, printable
from mkhspc.store.atomic import TEMPORARY_SUFFIX

COMMANDS = {
    "demo": ("mkhspc.cli.demo", "The whole journey on simulated slides, in about two minutes."),
    "inspect": ("mkhspc.cli.inspect", "What a CZI file holds: scenes, pixel size, tissue, tiles."),
    "plan": ("mkhspc.cli.plan", "What a run will take: workers, memory, time, disk, site."),
    "segment": ("mkhspc.cli.segment", "Find, measure and crop the cells of one or more slides."),
    "refilter": ("mkhspc.cli.refilter", "Change the filter of a run; no detector runs again."),
    "exclude": ("mkhspc.cli.exclude", "Leave damaged tiles or a slide out of a study, by name and reason."),
    "merge": ("mkhspc.cli.merge", "Put the finished tiles of a run together into its tables."),
    "status": ("mkhspc.cli.status", "How far a run is: tiles done, failed and left by slide."),
    "clean": ("mkhspc.cli.clean", "Remove what killed processes left in a run."),
    "gallery": ("mkhspc.cli.gallery", "Make the static labelling site of a run."),
    "serve": ("mkhspc.cli.serve", "Look at a site on this machine."),
    "publish": ("mkhspc.cli.publish", "Put a site on a branch of a git repository (GitHub Pages)."),
    "convert": ("mkhspc.cli.convert", "Turn exported labels into training data."),
    "train": ("mkhspc.cli.train", "Train a classifier for each cell type."),
    "validate": ("mkhspc.cli.validate", "Judge classifiers on groups that they have not seen."),
    "score": ("mkhspc.cli.score", "Score every cell of a run with classifiers."),
    "report": ("mkhspc.cli.report", "Counts and densities by slide and by group."),
    "models": ("mkhspc.cli.models", "Weights of SAM2, Cellpose and the embedders: list, fetch, verify."),
    "slurm": ("mkhspc.cli.slurm", "Write and submit the jobs of a study for a Slurm cluster."),
    "doctor": ("mkhspc.cli.doctor", "What is installed here and what is missing."),
}
"""Every command: the module that holds it under its own name, and its line in `mkhspc --help`."""


FIXES = {
    errno.ENOSPC: "make room, then run the same command again",
    errno.EDQUOT: "make room, then run the same command again",
    errno.EACCES: "give another place, or get the right to use this one",
    errno.EPERM: "give another place, or get the right to use this one",
    errno.EROFS: "give a place that can be written",
    errno.ENOTDIR: "check the path that you gave: a part of it is not a folder",
    errno.ENOENT: "check the path that you gave",
}
"""What a user can do, by the error number of a file operation."""


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mkhspc")
@click.option("-v", "--verbose", is_flag=True, help="Show a traceback with an error.")
def cli(verbose: bool) -> None:
    """Megakaryocytes (MK) and stem/progenitor cells (HSPC) in CZI scans of H&E bone marrow.

    \b
    Start here:
      mkhspc demo --out demo-out --serve
      mkhspc inspect slide.czi
      mkhspc segment --czi-path slide.czi --output-dir run --sample-fraction 0.02
      mkhspc gallery --run run --out site
    """


def _wrong_usage(error: click.ClickException) -> str:
    """What click found wrong, in one line, and where to read more."""
    what = printable(" ".join(error.format_message().split()))
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"mkhspc: {what}\n  see `{context.command_path if context else 'mkhspc'} --help`"


def _disk_fault(error: OSError) -> str:
    """The system's error about a file, the place, and what a user can do."""
    path = None if error.filename is None else Path(str(error.filename))
    if path is not None and path.suffix == TEMPORARY_SUFFIX:  # a name that no user has ever seen
        path = path.parent
    where = "" if path is None else f"{printable(str(path))}: "
    fix = FIXES.get(error.errno or 0, "")
    return f"{where}{error.strerror or error}" + (f"\n  {fix}" if fix else "")


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a command and ends the process with its exit code."""
    sys.exit(run_command(sys.argv[1:] if arguments is None else arguments))


def run_command(arguments: list[str]) -> int:
    """Runs `mkhspc` with these arguments and returns its exit code."""
    verbose = bool({"-v", "--verbose"} & set(arguments[:1]))
    logging.getLogger("mkhspc").handlers = [NotesOnStderr()]
    try:
        outcome: Any = cli.main(arguments, prog_name="mkhspc", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        click.echo(_wrong_usage(error) if arguments else error.format_message(), err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("mkhspc: interrupted; run the same command again to go on", err=True)
        return 130
    except MkhspcError as error:
        if verbose:
            traceback.print_exc()
        click.echo(f"mkhspc: {error}", err=True)
        return error.exit_code
    except OSError as error:  # a full disk, a read-only directory, a name too long
        if verbose:
            traceback.print_exc()
        click.echo(f"mkhspc: {_disk_fault(error)}", err=True)
        return MkhspcError.exit_code
    except MemoryError:
        if verbose:
            traceback.print_exc()
        click.echo("mkhspc: the memory is not enough\n  run it where more is free", err=True)
        return MkhspcError.exit_code
    return outcome if isinstance(outcome, int) else 0
