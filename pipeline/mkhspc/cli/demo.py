"""`mkhspc demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from mkhspc.cli import progress
from mkhspc.cli.notes import note
from mkhspc.cli.options import command_line, json_option, print_json

if TYPE_CHECKING:
    from mkhspc.demo import DemoResult
    from mkhspc.simulate import TypeScore


@click.command(short_help="The whole journey on simulated slides, in about two minutes.")
@click.option(
    "--out",
    "out",
    default="demo-out",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where to write.",
)
@click.option("--serve", "then_serve", is_flag=True, help="Open the gallery on this machine at the end.")
@json_option
def demo(out: Path, then_serve: bool, as_json: bool) -> None:
    """The whole journey on simulated slides, in about two minutes.

    Writes simulated bone-marrow slides as real CZI files, then runs every stage on them:
    segment, gallery, convert, train, validate, score, report. The slides, their truth and
    the labels are simulated; the stages are those of a real study.

    \b
    Example:
      mkhspc demo --out demo-out --serve
    """
    from mkhspc.demo import Listeners, run_demo

    with progress.shown() as show:
        result = run_demo(out, Listeners(show, _announce, note))
    if as_json:
        print_json(_facts(result))
    else:
        _print(result)
    if then_serve:
        from mkhspc.cli.serve import serve

        click.get_current_context().invoke(serve, site=result.paths.site)


def _announce(*words: object) -> None:
    click.echo(f"$ {command_line(*words)}", err=True)


def _facts(result: DemoResult) -> dict[str, object]:
    return {
        "simulated": True,
        "found": {
            "mk": _counts(result.found.mk),
            "hspc": _counts(result.found.hspc),
            "mk_confident": _counts(result.confident_mk),
        },
        "labels": dict(result.labels),
        "passed": {v.cell_type: v.passed for v in result.verdicts},
        "site": str(result.paths.site),
        "report": str(result.paths.report / "report.html"),
    }


def _counts(score: TypeScore) -> dict[str, object]:
    return {"found": score.found, "missed": score.missed, "false": score.false, "f1": score.f1}


def _print(result: DemoResult) -> None:
    from mkhspc.demo import CONFIDENT

    console = Console()
    found = Table(
        "cells", "true", "found", "missed", "false", "F1", title="Found against true (simulated slides)"
    )
    rows = {
        "MK": result.found.mk,
        f"MK from a score of {CONFIDENT} on": result.confident_mk,
        "HSPC": result.found.hspc,
    }
    for name, score in rows.items():
        numbers = (score.found + score.missed, score.found, score.missed, score.false)
        found.add_row(name, *(f"{n:,}" for n in numbers), f"{score.f1:.3f}")
    console.print(found)
    click.echo("MK are candidates down to a low score, so that none is missed; the classifier below decides.")
    verdicts = Table(
        "classifier", "labels", "accuracy", "recall", "precision", "verdict",
        title="Validator's verdict on slides held out (simulated labels)",
    )  # fmt: skip
    for verdict in result.verdicts:
        figures = (verdict.figures[name] for name in ("accuracy", "recall", "precision"))
        shown = ("-" if f is None else f"{f.value:.3f} ({f.low:.3f} to {f.high:.3f})" for f in figures)
        word = "passed" if verdict.passed else "failed"
        verdicts.add_row(verdict.cell_type.upper(), str(result.labels[verdict.cell_type]), *shown, word)
    console.print(verdicts)
    skill = result.skill
    click.echo(
        f"Everything here is simulated: {len(result.slides)} slides, their truth, and an annotator who is"
        f" wrong about {skill.error_rate:.0%} and unsure of {skill.unsure_rate:.0%} of the cells."
    )
    click.echo(f"Gallery:  {command_line('serve', result.paths.site)}")
    click.echo(f"Verdict:  {result.paths.validation / 'report.html'}")
    click.echo(f"Report:   {result.paths.report / 'report.html'}")
