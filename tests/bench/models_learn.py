"""Whether a network's features help a classifier: shape and colour with EfficientNet against without.

Whole slides, or whole patients, are held out. Everything goes through the commands that a user has.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from marrow import labels_from_dots
from mkhspc.config import CellType
from mkhspc.demo import drawn_cells
from mkhspc.simulate import TRUTH_FILE, read_truth, simulated_annotator, write_demo_slides
from mkhspc.store import cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from processes import mkhspc

Row = dict[str, object]

COLUMNS = ["cell_id", "slide_id", "scene", "cell_type", "x_px", "y_px", "contour_px", "in_filter"]


def rows(shared: Path | None, full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        found = _simulated(scratch)
        return found if shared is None else found + _real(shared, scratch)


def _simulated(scratch: Path) -> list[Row]:
    """The demo's slides, and its labels: by the simulated annotator, who errs."""
    slides = scratch / "slides"
    specs = write_demo_slides(slides)
    root = _segmented(scratch / "demo", *(slides / f"{spec.slide_id}.czi" for spec in specs))
    layout = RunLayout(root)
    manifest = manifests.read(layout)
    every = pa.concat_tables(cells.read_cells(layout, manifest, s.slide_id, COLUMNS) for s in manifest.slides)
    labels = simulated_annotator(
        read_truth(slides / TRUTH_FILE),
        drawn_cells(every, seed=0),
        dataset=manifest.dataset,
        config_hash=manifest.config_hash,
    )
    return _compared(
        root, labels, "slide", {"mk": "simulated MK, by slide", "hspc": "simulated HSPC, by slide"}
    )


def _real(shared: Path, scratch: Path) -> list[Row]:
    root = _segmented(scratch / "marrow", shared / "data/marrow/marrow.czi")
    layout = RunLayout(root)
    manifest = manifests.read(layout)
    labels = labels_from_dots(
        shared,
        cells.read_cells(layout, manifest, "marrow"),
        dataset=manifest.dataset,
        config_hash=manifest.config_hash,
    )
    return _compared(root, labels, "scene", {"hspc": "real marrow, dotted or not, by patient"})


def _segmented(root: Path, *slides: Path) -> Path:
    named = [word for slide in slides for word in ("--czi-path", slide)]
    _run("segment", *named, "--output-dir", root, "--embedder", "efficientnet-lite0")
    return root


def _compared(
    root: Path, labels: Mapping[str, Any], group_by: str, titles: Mapping[CellType, str]
) -> list[Row]:
    """Balanced accuracy of both, for each type in `titles`."""
    exported, training = root.with_suffix(".labels.json"), root.with_suffix(".training.json")
    exported.write_text(json.dumps(labels))
    _run("convert", "--annotations", exported, "--base-dir", root, "--output", training)
    both = {
        name: _accuracies(training, root.with_suffix(f".{name}"), group_by, titles, *options)
        for name, options in (("alone", ("--morph-only",)), ("with", ()))
    }
    return [
        {
            "name": f"{title}: balanced accuracy of shape, colour and EfficientNet-Lite0",
            "value": both["with"][cell_type],
            "unit": "share",
            "baseline": f"shape and colour alone: {both['alone'][cell_type]:.4f}",
            "target": f"> {both['alone'][cell_type]:.4f}",
            "ok": both["with"][cell_type] > both["alone"][cell_type],
        }
        for cell_type, title in titles.items()
    ]


def _accuracies(
    training: Path, folder: Path, group_by: str, titles: Mapping[CellType, str], *options: str
) -> dict[CellType, float]:
    folder.mkdir()
    outputs = {t: folder / f"{t}.skops" for t in titles}
    named = [word for t, path in outputs.items() for word in (f"--output-{t}", path)]
    _run(
        "train", "--training-data", training, *named, "--group-by", group_by,
        "--threshold-for", "balanced", *options,
    )  # fmt: skip
    cards = {t: json.loads(path.with_suffix(".json").read_text()) for t, path in outputs.items()}
    return {t: card["cross_validated"]["balanced_accuracy"]["value"] for t, card in cards.items()}


def _run(*arguments: object) -> None:
    done = mkhspc(*arguments, timeout_s=1800)
    if done.returncode:
        raise RuntimeError(done.stderr)
