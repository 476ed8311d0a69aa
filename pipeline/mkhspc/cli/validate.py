"""`mkhspc validate`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

import click

from mkhspc.cli.options import json_option, print_json
from mkhspc.errors import CheckFailedError, UsageError

_SHARE = click.FloatRange(0.0, 1.0)
_FILE = click.Path(path_type=Path)


def _refuse_group_by(context: click.Context, option: click.Parameter, value: str | None) -> None:
    """The option is `train`'s: what was held out in training cannot be chosen afterwards."""
    if value is not None:
        raise UsageError(
            "is an option of `mkhspc train`: validate takes the groups held out there",
            where="--group-by",
            fix=f"train again with `mkhspc train --group-by {quote(value)}`, then validate",
        )


@click.command(short_help="Judge classifiers on groups that they have not seen.")
@click.option("--mk-classifier", type=_FILE, metavar="FILE.skops", help="The MK classifier to judge.")
@click.option("--hspc-classifier", type=_FILE, metavar="FILE.skops", help="The HSPC classifier to judge.")
@click.option("--min-accuracy", type=_SHARE, default=0.75, show_default=True, help="Least accuracy.")
@click.option("--min-recall", type=_SHARE, default=0.70, show_default=True, help="Least recall of positives.")
@click.option(
    "--min-precision", type=_SHARE, default=0.70, show_default=True, help="Least precision of positives."
)
@click.option("--confident", is_flag=True, help="Demand it of the lower end of each 95 % interval.")
@click.option(
    "--training-data",
    multiple=True,
    type=_FILE,
    metavar="FILE.json",
    help="Check that the classifiers were trained on exactly these labels; may be repeated.",
)
@click.option(
    "--run",
    "run_dir",
    type=_FILE,
    metavar="RUN",
    help="Check that they are of this run; its cells weight the figures for the population.",
)
@click.option(
    "--report",
    "report_dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write report.html, report.json and pictures here.",
)
@click.option(
    "--group-by",
    hidden=True,
    expose_value=False,
    callback=_refuse_group_by,
    help="An option of `mkhspc train`.",
)
@json_option
def validate(
    mk_classifier: Path | None,
    hspc_classifier: Path | None,
    min_accuracy: float,
    min_recall: float,
    min_precision: float,
    confident: bool,
    training_data: tuple[Path, ...],
    run_dir: Path | None,
    report_dir: Path | None,
    as_json: bool,
) -> None:
    """Judge classifiers on groups that they have not seen.

    The figures come from the out-of-fold predictions that `mkhspc train` wrote beside each
    classifier. Each must reach the three thresholds and beat 'always the commoner label';
    otherwise the exit code is 1. Intervals take the group (slide, scene, animal) as the unit.

    \b
    Examples:
      mkhspc validate --mk-classifier mk.skops --hspc-classifier hspc.skops
      mkhspc validate --mk-classifier mk.skops --confident --run run --report validation
    """
    from mkhspc.api import commands
    from mkhspc.learn import validation_report
    from mkhspc.learn.limits import Limits

    limits = Limits(min_accuracy, min_recall, min_precision, confident)
    verdicts = commands.validate(
        mk_classifier=mk_classifier,
        hspc_classifier=hspc_classifier,
        training_data=training_data,
        run=run_dir,
        min_accuracy=min_accuracy,
        min_recall=min_recall,
        min_precision=min_precision,
        confident=confident,
    )
    values = validation_report.to_json(verdicts, limits)
    if as_json:
        print_json(values)
    else:
        for item in values["classifiers"]:
            _print_verdict(item)
    if report_dir is not None:
        page = validation_report.write_report(report_dir, verdicts, limits)
        click.echo(f"wrote {page}", err=as_json)
    failures = [f"{v.cell_type}: {c.sentence}" for v in verdicts for c in v.checks if not c.passed]
    if failures:
        raise CheckFailedError("; ".join(failures), fix="label more cells, of more slides, and train again")


def _print_verdict(item: dict[str, Any]) -> None:
    click.echo(
        f"{item['cell_type']} ({item['classifier']}): {'passed' if item['passed'] else 'FAILED'};"
        f" {item['positive']} of {item['cells']} labelled cells positive, {len(item['groups'])} groups"
    )
    for name in ("accuracy", "recall", "precision", "baseline_accuracy", "accuracy_gain", "f1", "roc_auc"):
        click.echo(f"  {name.replace('_', ' '):18} {_figure(item['figures'][name])}{_population(item, name)}")
    for note in item["notes"]:
        click.echo(f"  note: {note}")


def _figure(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "not defined"
    few = ", too few groups" if figure["too_few_groups"] else ""
    return f"{figure['value']:6.3f}  ({figure['low']:.3f} to {figure['high']:.3f}{few})"


def _population(item: dict[str, Any], name: str) -> str:
    figure = (item["population"] or {}).get(name)
    return "" if figure is None else f"   population {figure['value']:.3f}"
