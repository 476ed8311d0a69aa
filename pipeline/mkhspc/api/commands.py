"""The commands as functions of Python: `segment`, `convert`, `train`, `validate` and `score`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from mkhspc.api.run import Run
from mkhspc.config import CellType, load_config
from mkhspc.config.options import (
    AreaBounds,
    SegmentOptions,
    StrPath,
    bounds_by_type,
    paths_by_type,
    refuse_unknown_keywords,
    settings_of,
)
from mkhspc.errors import UsageError
from mkhspc.progress import Progress, silent
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout

if TYPE_CHECKING:
    from mkhspc.learn.classifier.models import ModelName, ThresholdFor
    from mkhspc.learn.labels.convert import Conversion
    from mkhspc.learn.labels.resolve import OnConflict
    from mkhspc.learn.score import ScoreSummary
    from mkhspc.learn.validate import Verdict

_log = logging.getLogger("mkhspc")


class TrainSettings(TypedDict, total=False):
    """How a classifier is trained.

    Attributes:
        model: 'auto', 'random-forest', 'logistic' or 'boosting'.
        threshold_for: what the threshold serves: 'f1', 'recall' (finds 90 % of the positives) or 'balanced'.
        seed: the same seed on the same data writes the same files.
    """

    model: ModelName
    threshold_for: ThresholdFor
    seed: int


class GateLimits(TypedDict, total=False):
    """What a classifier must reach, each from 0 to 1; with `confident`, the low end of its interval must."""

    min_accuracy: float
    min_recall: float
    min_precision: float
    confident: bool


def segment(
    config: StrPath | None = None,
    *,
    only: str | Sequence[str] = (),
    progress: Progress = silent,
    **options: Unpack[SegmentOptions],
) -> Run:
    """Finds, measures and crops the cells of one or more slides, as `mkhspc segment` does.

    The same call again resumes a run that was stopped; a higher `sample_fraction` only adds tiles. Lines
    about what the run does beyond what was asked go to the logger 'mkhspc'.

    Args:
        config: a TOML file that describes the study; None where the options say everything.
        only: the id, or ids, of the slides to work on now; the run stays that of all slides. None are all.
        progress: called after every step as `progress(stage, done, total, **facts)`.
        options: any option of `mkhspc segment`, with underscores: see `SegmentOptions`. An option wins over
            the file.

    Returns:
        The run, with its tables.

    Raises:
        UsageError: an option is unknown or out of range, or there is too little memory.
        InputError: a slide or the file cannot be used, or the run was made with other settings.
        IncompleteError: tiles failed; what is done is kept, and the same call again tries the rest.
        InterruptedRunError: a signal stopped the run.
        CheckFailedError: not one cell was found.
    """
    from mkhspc.process.limits import require_least_memory
    from mkhspc.process.signals import interruptible
    from mkhspc.run.segment import segment as segment_slides

    slide_ids = [only] if isinstance(only, str) else only
    require_least_memory()
    with interruptible():
        settings = load_config(None if config is None else Path(config), settings_of(options))
        summary = segment_slides(settings, only=slide_ids, progress=progress, notify=_log.warning)
    return Run(summary.root)


def convert(
    annotations: StrPath | Iterable[StrPath],
    run: StrPath | Run,
    output: StrPath,
    *,
    min_match: float = 0.98,
    on_conflict: OnConflict = "majority",
    progress: Progress = silent,
    **bounds: Unpack[AreaBounds],
) -> Conversion:
    """Turns exported labels into training data and writes it to `output`, as `mkhspc convert` does.

    Args:
        annotations: one or more files that a gallery, or an older program of the lab, exported.
        run: the run that was labelled.
        output: the JSON file of training data to write.
        min_match: share of each file's labels, from 0 to 1, that must find a cell.
        on_conflict: 'majority', 'latest' or 'exclude': what becomes of a cell with different labels.
        bounds: areas in µm² that are checked against the run's own filter.

    Returns:
        The training data with the report of each file: its `match_rate`, and how its labels found cells.

    Raises:
        UsageError: a keyword is unknown, a value out of range, no labels are given, or the output would
            replace them.
        InputError: a file cannot be used or labels another run, or too few labels find a cell; nothing is
            written then.
    """
    from mkhspc.learn.labels import convert as converting
    from mkhspc.learn.training_file import write_training

    files = _paths(annotations)
    if not files:
        raise UsageError("no file of labels was given", fix="name the exported files with --annotations")
    if Path(output).resolve() in {path.resolve() for path in files}:
        raise UsageError(
            "is one of the label files, and would be overwritten", where=output, fix="choose another --output"
        )
    conversion = converting.convert(
        files,
        _layout(run),
        min_match=min_match,
        on_conflict=on_conflict,
        expected_filter=bounds_by_type("convert", bounds),
        progress=progress,
    )
    write_training(Path(output), conversion)
    return conversion


def train(
    training_data: StrPath | Iterable[StrPath],
    *,
    output_mk: StrPath | None = None,
    output_hspc: StrPath | None = None,
    group_by: StrPath = "slide",
    morph_only: bool = False,
    progress: Progress = silent,
    **settings: Unpack[TrainSettings],
) -> dict[CellType, dict[str, Any]]:
    """Trains a classifier for each cell type that has an output, as `mkhspc train` does.

    Args:
        training_data: one or more files that `convert` wrote.
        output_mk, output_hspc: the `.skops` files to write; a model card (`.json`) and the out-of-fold
            predictions (`.oof.csv`) are written beside each.
        group_by: what is held out whole: 'slide', 'scene', or a CSV file with a column `group`.
        morph_only: whether deep features are left out.
        settings: `model`, `threshold_for` and `seed`: see `TrainSettings`.

    Returns:
        The model card of each type that was trained. A type with too few labels is left out, and the logger
        'mkhspc' says so.

    Raises:
        UsageError: a setting is unknown or out of range, no output is named, or one is not a .skops file.
        InputError: the training data cannot be used, or no type has enough labels.
    """
    from mkhspc.learn import train as training
    from mkhspc.learn.classifier.fit import Settings

    refuse_unknown_keywords("train", settings, TrainSettings.__annotations__)
    chosen = Settings(**settings, group_by=str(group_by), morph_only=morph_only)

    def left_out(cell_type: CellType, error: training.TooLittleError) -> None:
        _log.warning(f"{cell_type} is left out: {error.what}; {error.fix}")

    return training.train(
        _paths(training_data), paths_by_type(output_mk, output_hspc), chosen, progress, left_out
    )


def validate(
    *,
    mk_classifier: StrPath | None = None,
    hspc_classifier: StrPath | None = None,
    training_data: StrPath | Iterable[StrPath] = (),
    run: StrPath | Run | None = None,
    report: StrPath | None = None,
    **limits: Unpack[GateLimits],
) -> list[Verdict]:
    """Judges classifiers on groups that they have not seen, as `mkhspc validate` does.

    Args:
        mk_classifier, hspc_classifier: the `.skops` files to judge.
        training_data: files that the classifiers must have been trained on; none = not checked.
        run: the run that they must be of; its numbers of cells weight the figures for the population.
        report: a directory for report.html, report.json and pictures; None writes nothing.
        limits: `min_accuracy`, `min_recall`, `min_precision`, `confident`: see `GateLimits`.

    Returns:
        A verdict for each classifier: `passed`, `figures` with their 95 % intervals, `checks` and `notes`.
        A classifier that fails is not an error here, as it is for the command.

    Raises:
        UsageError: a limit is unknown or not from 0 to 1, or no classifier is named.
        InputError: a file is missing or damaged, or belongs to other labels or another run.
    """
    from mkhspc.learn import validate as judging, validation_report
    from mkhspc.learn.limits import Limits

    refuse_unknown_keywords("validate", limits, GateLimits.__annotations__)
    demanded = Limits(
        accuracy=limits.get("min_accuracy", Limits.accuracy),
        recall=limits.get("min_recall", Limits.recall),
        precision=limits.get("min_precision", Limits.precision),
        confident=limits.get("confident", Limits.confident),
    )
    verdicts = judging.validate(
        paths_by_type(mk_classifier, hspc_classifier),
        demanded,
        training_data=_paths(training_data),
        run=None if run is None else _layout(run),
    )
    if report is not None:
        validation_report.write_report(Path(report), verdicts, demanded)
    return verdicts


def score(
    run: StrPath | Run,
    *,
    mk_classifier: StrPath | None = None,
    hspc_classifier: StrPath | None = None,
    allow_other_run: bool = False,
    progress: Progress = silent,
) -> ScoreSummary:
    """Scores every stored cell of a run with classifiers, as `mkhspc score` does; no detector runs.

    Args:
        mk_classifier, hspc_classifier: `.skops` files; the new scores of a type replace its older ones.
        allow_other_run: whether a classifier may come from a run that differs in tile size, seed or
            calibration windows.

    Returns:
        How many cells of each type are positive, in all and in the filter, and what speaks against the
        scores (`concerns`, which the logger 'mkhspc' has too).

    Raises:
        UsageError: no classifier is named.
        InputError: a classifier cannot be used for this run, or the run has no tables yet.
    """
    from mkhspc.learn.score import apply_classifiers

    layout = _layout(run)
    manifest = manifests.read(layout)
    summary = apply_classifiers(
        layout,
        manifest,
        [slide.slide_id for slide in manifest.slides],
        paths_by_type(mk_classifier, hspc_classifier),
        progress,
        allow_other_run=allow_other_run,
    )
    for concern in summary.concerns:
        _log.warning(concern)
    return summary


def _layout(run: StrPath | Run) -> RunLayout:
    return RunLayout(run.path if isinstance(run, Run) else Path(run))


def _paths(files: StrPath | Iterable[StrPath]) -> tuple[Path, ...]:
    return (Path(files),) if isinstance(files, (str, PathLike)) else tuple(Path(file) for file in files)
