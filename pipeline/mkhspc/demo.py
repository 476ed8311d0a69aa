"""The whole journey on simulated slides: every stage, from pixels to a report, in a few minutes.

The slides, the truth and the labels are made up by a program. What the journey shows is that the
stages work together, and how far what they find is from what is there.
"""

from __future__ import annotations

from collections import Counter
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
from mkhspc.learn.classifier.fit import Settings
from mkhspc.learn.labels.convert import convert
from mkhspc.learn.limits import DEFAULT_LIMITS
from mkhspc.learn.score import apply_classifiers
from mkhspc.learn.train import train
from mkhspc.learn.training_file import write_training
from mkhspc.learn.validate import Verdict, validate
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
    TypeScore,
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
"""The title of the gallery."""
CONFIDENT = 0.5
"""The score from which a candidate is more likely an MK than not."""
MARK = "SIMULATED.txt"
"""The name of a file that lies in every folder that the demo made; only there does it replace files."""


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

    @property
    def classifiers(self) -> dict[CellType, Path]:
        return {t: self.root / "classifiers" / f"{t}.skops" for t in CELL_TYPES}

    def classifier_words(self) -> list[object]:
        """The options of a command that name both classifiers."""
        return [word for t, path in self.classifiers.items() for word in (f"--{t}-classifier", path)]


@dataclass(frozen=True)
class Listeners:
    """Who hears of the demo while it runs.

    Attributes:
        announce: called before each stage with the words of the command by which a user would run it,
            without the program's name.
        notify: called with a line of text about what a stage does beyond what was asked.
    """

    progress: Progress = silent
    announce: Callable[..., object] = lambda *words: None
    notify: Callable[[str], object] = lambda line: None


@dataclass(frozen=True)
class DemoResult:
    """What the demo made.

    Attributes:
        found: cells in the filter against those that were drawn.
        confident_mk: the same for MK from a score of `CONFIDENT` on.
        labels: how many cells of each type the simulated annotator labelled.
    """

    paths: DemoPaths
    slides: Sequence[DemoSlide]
    skill: AnnotatorSkill
    found: DemoScore
    confident_mk: TypeScore
    labels: Mapping[CellType, int]
    verdicts: Sequence[Verdict]


def run_demo(root: Path, listeners: Listeners = Listeners()) -> DemoResult:
    """Runs every stage in `root`; another call resumes, and keeps whole slides and finished tiles.

    Raises:
        UsageError: the folder holds something that the demo did not make.
    """
    _claim_folder(root)
    paths, skill, progress = DemoPaths(root), AnnotatorSkill(), listeners.progress
    slides = write_demo_slides(paths.slides, progress=progress)
    atomic.write_text(paths.study, study_toml(slides))

    listeners.announce("segment", "--config", paths.study)
    segment(load_config(paths.study), progress=progress, notify=listeners.notify)
    layout = RunLayout(paths.run)
    manifest = manifests.read(layout)

    listeners.announce("gallery", "--run", paths.run, "--out", paths.site)
    build_site(layout, SiteOptions(out=paths.site, title=TITLE), progress)

    truth, found = read_truth(paths.slides / TRUTH_FILE), _all_cells(layout, manifest)
    chosen = drawn_cells(found, skill.seed)
    annotations = paths.annotations(manifest.dataset)
    hashes = {"dataset": manifest.dataset, "config_hash": manifest.config_hash}
    atomic.write_json(annotations, simulated_annotator(truth, chosen, skill=skill, **hashes))

    _train(paths, annotations, listeners)
    verdicts = _validate(paths, listeners)
    _score(paths, manifest, listeners)

    listeners.announce("report", "--run", paths.run, "--out", paths.report)
    write_report(make_report(layout), paths.report)
    labels = {t: pc.sum(pc.equal(chosen["cell_type"], t)).as_py() for t in CELL_TYPES}
    confident = found.filter(pc.greater_equal(found["detector_score"], CONFIDENT))
    return DemoResult(
        paths=paths,
        slides=slides,
        skill=skill,
        found=match_truth(truth, found),
        confident_mk=match_truth(truth, confident).mk,
        labels=labels,
        verdicts=verdicts,
    )


def _claim_folder(root: Path) -> None:
    """Marks the folder as the demo's; a folder that holds anything else is refused."""
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
    columns = ["cell_id", "slide_id", "scene", "cell_type", "x_px", "y_px", "contour_px"]
    columns += ["detector_score", "in_filter"]
    return pa.concat_tables(cells.read_cells(layout, manifest, s.slide_id, columns) for s in manifest.slides)


def drawn_cells(found: pa.Table, seed: int) -> pa.Table:
    """A random draw of cells in the filter, `LABELS_PER_SLIDE` of each type and slide at most."""
    strata = list(zip(found["slide_id"].to_pylist(), found["cell_type"].to_pylist(), strict=True))
    inside = found["in_filter"].to_pylist()
    drawn: Counter[tuple[str, CellType]] = Counter()
    rows = []
    for row in np.random.default_rng(seed).permutation(len(found)).tolist():
        stratum = strata[row]
        if inside[row] and drawn[stratum] < LABELS_PER_SLIDE[stratum[1]]:
            drawn[stratum] += 1
            rows.append(row)
    return found.take(pa.array(rows, pa.int64()))


def _train(paths: DemoPaths, annotations: Path, listeners: Listeners) -> None:
    """Turns labels into training data, and trains a classifier for each cell type."""
    listeners.announce(
        "convert", "--annotations", annotations, "--base-dir", paths.run, "--output", paths.training
    )
    conversion = convert([annotations], RunLayout(paths.run), progress=listeners.progress)
    write_training(paths.training, conversion)
    named = [word for t, path in paths.classifiers.items() for word in (f"--output-{t}", path)]
    listeners.announce("train", "--training-data", paths.training, *named)
    train([paths.training], paths.classifiers, Settings(), listeners.progress)


def _validate(paths: DemoPaths, listeners: Listeners) -> list[Verdict]:
    listeners.announce("validate", *paths.classifier_words(), "--report", paths.validation)
    verdicts = validate(paths.classifiers)
    write_validation(paths.validation, verdicts, DEFAULT_LIMITS)
    return verdicts


def _score(paths: DemoPaths, manifest: Manifest, listeners: Listeners) -> None:
    """Scores the run with both classifiers, whatever the verdicts on them."""
    listeners.announce("score", "--run", paths.run, *paths.classifier_words())
    slide_ids = [slide.slide_id for slide in manifest.slides]
    apply_classifiers(RunLayout(paths.run), manifest, slide_ids, paths.classifiers, listeners.progress)
