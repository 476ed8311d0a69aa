"""Classifiers on real marrow: the expert's dots as labels, whole patients held out."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from marrow import labels_from_dots
from mkhspc.store import cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from processes import mkhspc

Row = dict[str, object]

REFERENCE = "random forest on 13 features, leave one patient out: 0.72 and 0.82 over all eleven images"
MODELS = ("random-forest", "auto")


def rows(shared: Path | None, full: bool) -> list[Row]:
    if shared is None:
        return []
    with tempfile.TemporaryDirectory() as scratch:
        training = _training_data(shared, Path(scratch))
        return [row for model in MODELS for row in _figures(training, model, Path(scratch))]


def _run(*arguments: object) -> str:
    done = mkhspc(*arguments)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr)
    return done.stdout


def _training_data(shared: Path, scratch: Path) -> Path:
    root = scratch / "run"
    _run("segment", "--czi-path", shared / "data/marrow/marrow.czi", "--output-dir", root)
    layout = RunLayout(root)
    manifest = manifests.read(layout)
    exported = labels_from_dots(
        shared,
        cells.read_cells(layout, manifest, "marrow"),
        dataset=manifest.dataset,
        config_hash=manifest.config_hash,
    )
    (scratch / "labels.json").write_text(json.dumps(exported))
    training = scratch / "training.json"
    _run("convert", "--annotations", scratch / "labels.json", "--base-dir", root, "--output", training)
    return training


def _figures(training: Path, model: str, scratch: Path) -> list[Row]:
    classifier = scratch / f"{model}.skops"
    _run(
        "train", "--training-data", training, "--output-hspc", classifier,
        "--group-by", "scene", "--model", model,
    )  # fmt: skip
    (verdict,) = json.loads(_run("validate", "--hspc-classifier", classifier, "--json"))["classifiers"]
    figures = verdict["figures"]
    return [
        {
            "name": f"dotted or not, {model}: {name.replace('_', ' ')}",
            "value": figures[name]["value"],
            "unit": "share",
            "baseline": baseline,
            "target": None,
            "ok": None,
        }
        for name, baseline in (
            ("balanced_accuracy", REFERENCE),
            ("roc_auc", REFERENCE),
            ("accuracy", f"always the commoner label: {figures['baseline_accuracy']['value']:.3f}"),
        )
    ]
