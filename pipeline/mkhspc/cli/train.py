"""`mkhspc train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mkhspc.cli import progress
from mkhspc.cli.options import command_line, json_option, print_json
from mkhspc.config.options import paths_by_type

if TYPE_CHECKING:
    from mkhspc.config import CellType
    from mkhspc.learn.classifier.models import ModelName, ThresholdFor

MODELS = ("auto", "random-forest", "logistic", "boosting")
AIMS = ("f1", "recall", "balanced")
_OUTPUT = click.Path(dir_okay=False, path_type=Path)
_TOO_LONG_TO_PRINT = ("cells", "labels", "identity")


@click.command(short_help="Train a classifier for each cell type.")
@click.option(
    "--training-data",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="From `mkhspc convert`; may be repeated.",
)
@click.option("--output-mk", type=_OUTPUT, metavar="FILE.skops", help="Train MK; write it here.")
@click.option("--output-hspc", type=_OUTPUT, metavar="FILE.skops", help="Train HSPC; write it here.")
@click.option("--morph-only", is_flag=True, help="Only shape, colour and texture; no deep features.")
@click.option("--model", type=click.Choice(MODELS), default="auto", show_default=True, help="What to train.")
@click.option(
    "--group-by",
    default="slide",
    show_default=True,
    metavar="slide|scene|FILE.csv",
    help="What is held out whole. The CSV has columns `slide_id` (and `scene`), or `cell_id`, and `group`.",
)
@click.option(
    "--threshold-for",
    type=click.Choice(AIMS),
    default="f1",
    show_default=True,
    help="What the threshold serves: F1, finding 90 % of the positives, or balanced accuracy.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Same seed, same files."
)
@json_option
def train(
    training_data: tuple[Path, ...],
    output_mk: Path | None,
    output_hspc: Path | None,
    morph_only: bool,
    model: ModelName,
    group_by: str,
    threshold_for: ThresholdFor,
    seed: int,
    as_json: bool,
) -> None:
    """Train a classifier for each cell type.

    Every labelled cell is also predicted by a classifier that saw nothing of its group:
    these out-of-fold predictions (FILE.oof.csv) and a model card (FILE.json) are written
    beside the classifier, for `mkhspc validate`. The choice of the model, its calibration
    and its threshold happen without the group held out.

    A type with too few labels is left out, and said so; if none can be trained, the exit code is 3.

    \b
    Examples:
      mkhspc train --training-data train.json --output-mk mk.skops --output-hspc hspc.skops
      mkhspc train --training-data train.json --output-mk mk.skops --group-by animals.csv
    """
    from mkhspc.api import commands

    with progress.shown() as show:
        cards = commands.train(
            training_data,
            output_mk=output_mk,
            output_hspc=output_hspc,
            group_by=group_by,
            morph_only=morph_only,
            progress=show,
            model=model,
            threshold_for=threshold_for,
            seed=seed,
        )
    outputs = paths_by_type(output_mk, output_hspc)
    if as_json:
        print_json(
            {t: {k: v for k, v in card.items() if k not in _TOO_LONG_TO_PRINT} for t, card in cards.items()}
        )
        return
    for cell_type, card in cards.items():
        _print_card(cell_type, card, outputs[cell_type])


def _print_card(cell_type: CellType, card: dict[str, Any], path: Path) -> None:
    click.echo(
        f"{cell_type}: {card['positive']} positive and {card['negative']} negative cells in"
        f" {len(card['groups'])} groups, {len(card['features'])} features, {'+'.join(card['recipe'])}"
    )
    figures = card["cross_validated"]
    shown = [
        f"{name.replace('_', ' ')} "
        + ("undefined" if figures[name] is None else f"{figures[name]['value']:.3f}")
        for name in ("accuracy", "baseline_accuracy", "recall", "precision", "roc_auc")
    ]
    click.echo(f"  on groups not seen: {', '.join(shown)}")
    click.echo(f"  wrote {path}; next: {command_line('validate', f'--{cell_type}-classifier', path)}")
