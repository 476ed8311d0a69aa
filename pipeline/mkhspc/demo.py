"""The whole journey on simulated slides: every stage, from pixels to a report, in a few minutes.

The slides, the truth and the labels are made up by a program. What the journey shows is that the
stages work together, and how far what they find is from what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mkhspc.config import CELL_TYPES, CellType, load_config
from mkhspc.errors import UsageError
from mkhspc.gallery.options import SiteOptions
from mkhspc.gallery.site import build_site
from mkhspc.learn import train, validate
from mkhspc.learn.labels import convert
from mkhspc.learn.score import apply_classifiers
from mkhspc.learn.training_file import write_training
from mkhspc.learn.validation_report import write_report as write_validation
from mkhspc.progress import Progress, silent
from mkhspc.results.page import write_report
from mkhspc.results.report import make_report
from mkhspc.run.segment import segment
from mkhspc.simulate import (
    TRUTH_FILE,
    AnnotatorSkill,
    DemoScore,
    DemoSlide,
    match_truth,
    read_truth,
    simulated_annotator,
    write_demo_slides,
)
from mkhspc.store import atomic, cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest

LABELS_PER_SLIDE: Mapping[CellType, int] = {"mk": 40, "hspc": 150}
"""How many cells of each slide the simulated annotator labels: a few hours of a real one's work."""
TITLE = "Simulated bone marrow"
MARK = "SIMULATED.txt"
"""Lies in every folder that the demo wrote, and in no other: it replaces files of its names there."""
Say = Callable[..., object]
"""Takes the words of a command, the program left out."""


@dataclass(frozen=True)
class DemoPaths:
    """Where the demo puts what it makes."""

    root: Path

    @property
    def slides(self) -> Path:
        return self.root / "slides"

    @property
    def study(self) -> Path:
        return self.root / "study.toml"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def site(self) -> Path:
        return self.root / "site"

    @property
    def training(self) -> Path:
        return self.root / "labels" / "training.json"

    @property
    def validation(self) -> Path:
        return self.root / "validation"

    @property
    def report(self) -> Path:
        return self.root / "report"

    def annotations(self, dataset: str) -> Path:
        return self.root / "labels" / f"annotations_{dataset}_simulated.json"

    def classifier(self, cell_type: CellType) -> Path:
        return self.root / "classifiers" / f"{cell_type}.skops"


@dataclass(frozen=True)
class DemoResult:
    """What the demo ends with."""

    paths: DemoPaths
    slides: Sequence[DemoSlide]
    skill: AnnotatorSkill
    found: DemoScore
    labels: Mapping[CellType, int]
    verdicts: Sequence[validate.Verdict]


def run_demo(
    root: Path,
    progress: Progress = silent,
    say: Say = lambda *words: None,
    tell: Callable[[str], object] = lambda line: None,
) -> DemoResult:
    """Runs every stage in `root`.

    Run again it resumes: slides that are whole and finished tiles are kept.

    Args:
        say: told, before each stage, the words of the command by which a user would call it.
        tell: takes lines about what the run does beyond the command's wish.

    Raises:
        UsageError: the folder holds something else.
    """
    _take(root)
    paths, skill = DemoPaths(root), AnnotatorSkill()
    slides = write_demo_slides(paths.slides, progress=progress)
    atomic.write_text(paths.study, study_toml(slides))
    truth = read_truth(paths.slides / TRUTH_FILE)

    say("segment", "--config", paths.study)
    segment(load_config(paths.study), progress=progress, notify=tell)
    layout = RunLayout(paths.run)
    manifest = manifests.read(layout)

    say("gallery", "--run", paths.run, "--out", paths.site)
    build_site(layout, SiteOptions(out=paths.site, title=TITLE), progress)

    found = _all_cells(layout, manifest)
    chosen = drawn_cells(found, skill.seed)
    labels = _learn(paths, manifest, truth, chosen, skill, progress, say)
    verdicts = _judge(paths, layout, manifest, progress, say)

    say("report", "--run", paths.run, "--out", paths.report)
    write_report(make_report(layout), paths.report)
    return DemoResult(paths, slides, skill, match_truth(truth, found), labels, verdicts)


def _take(root: Path) -> None:
    """Makes the folder the demo's; a study of the same names is not written over."""
    if (root / MARK).exists():
        return
    if root.exists() and not root.is_dir():
        raise UsageError("is not a folder", where=root, fix="give another one with --out")
    if root.exists() and any(root.iterdir()):
        raise UsageError(
            "is not empty, and `mkhspc demo` did not make it",
            where=root,
            fix="give another folder with --out",
        )
    atomic.write_text(
        root / MARK, "Made by `mkhspc demo`: the slides, the labels and all that follows from them.\n"
    )


def study_toml(slides: Sequence[DemoSlide]) -> str:
    """The config of the simulated study, as a user would write it."""
    groups = "\n".join(f'{s.slide_id} = {{sex = "{s.sex}", treatment = "{s.treatment}"}}' for s in slides)
    return f"""# A study of simulated slides, written by `mkhspc demo`. Paths are relative to this file.
[run]
output_dir = "run"
slides = ["slides/DEMO_*.czi"]

[gallery]
out = "site"
title = "{TITLE}"

[groups]
{groups}
"""


def _all_cells(layout: RunLayout, manifest: Manifest) -> pa.Table:
    columns = ["cell_id", "slide_id", "scene", "cell_type", "x_px", "y_px", "contour_px", "in_filter"]
    return pa.concat_tables(cells.read_cells(layout, manifest, s.slide_id, columns) for s in manifest.slides)


def drawn_cells(found: pa.Table, seed: int) -> pa.Table:
    """A random draw of cells in the filter, `LABELS_PER_SLIDE` of each type and slide at most."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(found))
    keys = zip(found["slide_id"].to_pylist(), found["cell_type"].to_pylist(), strict=True)
    by_row, inside = list(keys), found["in_filter"].to_pylist()
    taken: dict[tuple[str, CellType], int] = {}
    rows = []
    for row in order.tolist():
        key = by_row[row]
        if inside[row] and taken.get(key, 0) < LABELS_PER_SLIDE[key[1]]:
            taken[key] = taken.get(key, 0) + 1
            rows.append(row)
    return found.take(pa.array(rows, pa.int64()))


def _learn(
    paths: DemoPaths,
    manifest: Manifest,
    truth: pa.Table,
    chosen: pa.Table,
    skill: AnnotatorSkill,
    progress: Progress,
    say: Say,
) -> dict[CellType, int]:
    """Labels the chosen cells from the truth, and trains on them; returns how many were labelled."""
    annotations = paths.annotations(manifest.dataset)
    exported = simulated_annotator(
        truth, chosen, dataset=manifest.dataset, config_hash=manifest.config_hash, skill=skill
    )
    atomic.write_json(annotations, exported)
    say("convert", "--annotations", annotations, "--base-dir", paths.run, "--output", paths.training)
    request = convert.Request(annotations=(annotations,), run=RunLayout(paths.run))
    write_training(paths.training, convert.convert(request, progress))
    outputs = {t: paths.classifier(t) for t in CELL_TYPES}
    named = [word for t, path in outputs.items() for word in (f"--output-{t}", path)]
    say("train", "--training-data", paths.training, *named)
    train.train(train.Request(training_data=(paths.training,), outputs=outputs), progress)
    return {t: pc.sum(pc.equal(chosen["cell_type"], t)).as_py() for t in CELL_TYPES}


def _judge(
    paths: DemoPaths,
    layout: RunLayout,
    manifest: Manifest,
    progress: Progress,
    say: Say,
) -> list[validate.Verdict]:
    """Validates both classifiers, and scores the run with them whatever the verdict."""
    classifiers = {t: paths.classifier(t) for t in CELL_TYPES}
    named = [word for t, path in classifiers.items() for word in (f"--{t}-classifier", path)]
    say("validate", *named, "--report", paths.validation)
    request = validate.Request(classifiers=classifiers)
    verdicts = validate.validate(request)
    write_validation(paths.validation, verdicts, request.limits)
    say("score", "--run", paths.run, *named)
    apply_classifiers(layout, manifest, [s.slide_id for s in manifest.slides], classifiers, progress)
    return verdicts
