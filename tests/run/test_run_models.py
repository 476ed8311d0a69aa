"""`mkhspc segment` with models in processes of their own, typed as a user types it, on the smallest slide.

SAM2 has random weights in the official format, so it finds no megakaryocyte; its features and those of
EfficientNet-Lite0, whose weights come in a package, are real.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from conftest import need
from mkhspc.cluster.journal import read_journals
from mkhspc.models.weights.cache import read_digest
from mkhspc.store import cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from processes import mkhspc, started

need("sam2")
pytestmark = [pytest.mark.models, pytest.mark.slow]

PACKAGED = "efficientnet-lite0"
DEEP = [f"deep_{PACKAGED}_{i:04d}" for i in range(1280)] + [f"deep_sam2_{i:04d}" for i in range(256)]
MOST_EXTRA = 1.15
"""Memory of the workers, with models over without."""
MOST_OF_COLUMNS_BYTES = 60_000_000
"""More in the first process: to merge parts of 1,280 columns more takes it about 30 MB, however few cells."""


@pytest.fixture(autouse=True, scope="module")
def no_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Whatever lies in the cache of whoever runs the tests is not seen."""
    folder = tmp_path_factory.mktemp("no-weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MKHSPC_MODELS", str(folder))
        yield folder


def words(root: Path, slide: Path, *more: object) -> list[object]:
    """`segment` on two tiles, one of them with nearly all of the slide's cells."""
    tiles = ["--tile-size", 512, "--sample-fraction", 0.5, "--seed", 2]
    return ["segment", "--czi-path", slide, "--output-dir", root, *tiles, "--num-workers", 2, *more]


def by_sam2(checkpoint: Path) -> list[object]:
    options = ["--mk-detector", "sam2", "--sam2-weights", checkpoint, "--device", "cpu"]
    return [*options, "--embedder", "sam2", "--embedder", PACKAGED]


def table(root: Path) -> pa.Table:
    layout = RunLayout(root)
    manifest = manifests.read(layout)
    return pa.concat_tables([cells.read_cells(layout, manifest, s.slide_id) for s in manifest.slides])


def events(root: Path, name: str) -> list[Mapping[str, Any]]:
    return [e.facts for j in read_journals(RunLayout(root)) for e in j.events if e.name == name]


def files(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def deep_features(found: pa.Table) -> np.ndarray:
    return np.column_stack([found[name].to_numpy() for name in DEEP])


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    """The command ended with this code and two lines that say all this."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line[0] != "{"]
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("mkhspc: ")
    assert lines[1].startswith("  ")
    for words in says:
        assert words in " ".join(lines)


@pytest.fixture(scope="module")
def plain(tiny_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without models."""
    root = tmp_path_factory.mktemp("plain") / "run"
    done = mkhspc(*words(root, tiny_slide))
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def whole(tiny_slide: Path, sam2_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with MK by SAM2, and with both kinds of deep features."""
    root = tmp_path_factory.mktemp("whole") / "run"
    done = mkhspc(*words(root, tiny_slide, *by_sam2(sam2_checkpoint)))
    assert done.returncode == 0, done.stderr
    return root


def test_cells_have_the_deep_features_of_every_embedder(whole: Path) -> None:
    found = table(whole)
    assert len(found) > 30
    assert [name for name in found.column_names if name.startswith("deep_")] == DEEP
    vectors = deep_features(found)
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors, axis=0)) == len(found)


def test_hspc_are_those_of_the_run_without_models(whole: Path, plain: Path) -> None:
    expected = table(plain)
    expected = expected.filter(pa.compute.equal(expected["cell_type"], "hspc"))
    others = ("inside_mk_id", "inside_mk_ids")  # other MK, other insides
    kept = [name for name in expected.column_names if name not in others]
    assert table(whole).select(kept).equals(expected.select(kept))


def test_the_manifest_tells_weights_versions_and_precision(whole: Path, sam2_checkpoint: Path) -> None:
    manifest = manifests.read(RunLayout(whole))
    assert manifest.model_hashes["sam2"] == read_digest(sam2_checkpoint)
    assert re.fullmatch(r"[0-9a-f]{64}", manifest.model_hashes[PACKAGED])
    assert manifest.model_hashes["mk"].endswith(read_digest(sam2_checkpoint)[:16])
    assert manifest.versions["torch"] == version("torch")
    assert manifest.versions["precision"] == "float32 on cpu"
    assert manifest.detectors["mk"] == "sam2: it was asked for"
    (loaded,) = events(whole, "models")
    assert loaded["device"] == "cpu"
    assert loaded["precision"] == {"sam2": "float32", PACKAGED: "float32"}
    assert all(done["models_s"] <= done["seconds"] for done in events(whole, "done"))
    assert any(sum(done["mk_by_sam2"].values()) > 0 for done in events(whole, "done"))


def test_the_same_settings_again_do_nothing(whole: Path, tiny_slide: Path, sam2_checkpoint: Path) -> None:
    before = files(whole)
    done = mkhspc(*words(whole, tiny_slide, *by_sam2(sam2_checkpoint)))
    assert done.returncode == 0, done.stderr
    parts = {path: at for path, at in files(whole).items() if path.startswith("parts")}
    assert parts == {path: at for path, at in before.items() if path.startswith("parts")}
    assert len(events(whole, "models")) == 1


def test_other_weights_are_refused(
    whole: Path, tiny_slide: Path, sam2_checkpoint: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(sam2_checkpoint.read_bytes() + b"\0")
    before = files(whole)
    done = mkhspc(*words(whole, tiny_slide, *by_sam2(other)))
    digests = [read_digest(path)[:12] for path in (sam2_checkpoint, other)]
    says = f"sam2 are {sam2_checkpoint} ({digests[0]}...) there and {other} ({digests[1]}...) here"
    assert_refused(done, 3, says, "use the weights that it was made with")
    assert files(whole) == before


def test_another_embedder_is_refused(whole: Path, tiny_slide: Path) -> None:
    before = files(whole)
    done = mkhspc(*words(whole, tiny_slide, "--embedder", "resnet50"))
    says = f"made with other settings: --embedder is {PACKAGED},sam2 there and resnet50 here"
    assert_refused(done, 3, says, "use the settings it was made with")
    assert files(whole) == before


def test_weights_that_are_missing_are_reported_with_both_ways_out(
    tiny_slide: Path, tmp_path: Path, no_weights: Path
) -> None:
    done = mkhspc(*words(tmp_path / "run", tiny_slide, "--mk-detector", "sam2"))
    fetch, copy = (
        "mkhspc models fetch sam2.1-large",
        "copy sam2.1_hiera_large.pt from another machine's cache",
    )
    assert_refused(done, 3, f"the weights are not in {no_weights}", fetch, copy)
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_wrong_usage(tiny_slide: Path, tmp_path: Path) -> None:
    done = mkhspc(*words(tmp_path / "run", tiny_slide, "--embedder", PACKAGED, "--device", "cuda:97"))
    assert_refused(done, 2, "there is no device 'cuda:97'", "there are: cpu")
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_leaves_no_run(tiny_slide: Path, sam2_checkpoint: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(sam2_checkpoint.read_bytes()[:1_000_000])
    done = mkhspc(*words(tmp_path / "run", tiny_slide, *by_sam2(damaged)))
    assert_refused(done, 3, f"{damaged}: is truncated")
    assert '"tiles"' not in done.stderr
    assert not (tmp_path / "run").exists()


def test_shards_give_the_cells_of_the_whole_and_are_merged_where_no_weights_are(
    whole: Path, tiny_slide: Path, sam2_checkpoint: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copy(sam2_checkpoint, tmp_path / "weights.pt"))
    root = tmp_path / "run"
    for shard in ("1/2", "0/2"):
        done = mkhspc(*words(root, tiny_slide, *by_sam2(weights), "--shard", shard))
        assert done.returncode == 0, done.stderr
    weights.unlink()
    done = mkhspc("merge", root)
    assert done.returncode == 0, done.stderr
    found, expected = table(root), table(whole)
    kept = [name for name in expected.column_names if not name.startswith("deep_")]
    assert found.select(kept).equals(expected.select(kept))
    # Batches differ, and with them the last bits.
    np.testing.assert_allclose(deep_features(found), deep_features(expected), rtol=1e-3, atol=1e-4)


@dataclass
class Seen:
    """A process of a run's pool, or a model server, over its life.

    Attributes:
        has_torch: a library of torch was mapped into it.
        has_cells: a library was that only those who find cells use.
        peak_bytes: proportional to what it shares.
    """

    has_torch: bool = False
    has_cells: bool = False
    peak_bytes: int = 0


@dataclass
class Watched:
    """A run that was looked at until it ended; its first process has the number of the command."""

    code: int
    stderr: str
    own: Seen = field(default_factory=Seen)
    children: dict[int, Seen] = field(default_factory=dict)

    @property
    def servers(self) -> dict[int, Seen]:
        return {pid: seen for pid, seen in self.children.items() if seen.has_torch}

    @property
    def workers(self) -> list[Seen]:
        return [s for s in self.children.values() if s.has_cells and not s.has_torch]

    @property
    def bytes_of_workers(self) -> int:
        return sum(worker.peak_bytes for worker in self.workers)


def watched(*arguments: object, each: Callable[[int, Seen], object] = lambda pid, seen: None) -> Watched:
    """Runs `mkhspc`; `each` is called with every look at a child."""
    process = started(*arguments)
    run = Watched(code=-1, stderr="")
    while process.poll() is None:
        _look(process.pid, run.own)
        for pid in _spawned(process.pid):
            seen = run.children.setdefault(pid, Seen())
            _look(pid, seen)
            each(pid, seen)
        time.sleep(0.02)
    run.stderr, run.code = process.communicate()[1], process.returncode
    return run


def _spawned(parent: int) -> list[int]:
    """Workers and model servers: what else the command starts asks torch for its devices, and ends."""
    try:
        children = psutil.Process(parent).children()
        return [child.pid for child in children if any("spawn_main" in word for word in child.cmdline())]
    except psutil.Error:
        return []


def _look(pid: int, seen: Seen) -> None:
    try:
        maps = Path(f"/proc/{pid}/maps").read_text()
        seen.peak_bytes = max(seen.peak_bytes, psutil.Process(pid).memory_full_info().pss)
    except (OSError, psutil.Error):
        return
    seen.has_torch |= "libtorch" in maps
    seen.has_cells |= "/cv2" in maps and "/pyarrow/" in maps


def test_workers_never_map_torch_and_take_no_more_memory_than_without_models(
    tiny_slide: Path, tmp_path: Path
) -> None:
    without = watched(*words(tmp_path / "without", tiny_slide))
    with_models = watched(*words(tmp_path / "with", tiny_slide, "--embedder", PACKAGED))
    assert (without.code, with_models.code) == (0, 0), with_models.stderr
    assert len(without.servers) == 0
    assert len(with_models.servers) == 1
    assert not with_models.own.has_torch
    assert len(without.workers) == len(with_models.workers) == 2
    assert with_models.bytes_of_workers <= MOST_EXTRA * without.bytes_of_workers
    assert with_models.own.peak_bytes <= without.own.peak_bytes + MOST_OF_COLUMNS_BYTES


def test_a_server_that_is_killed_is_started_again_and_the_run_completes(
    whole: Path, tiny_slide: Path, sam2_checkpoint: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    killed: list[int] = []

    def kill_once(pid: int, seen: Seen) -> None:
        if not killed and seen.has_torch and events(root, "models"):
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    run = watched(*words(root, tiny_slide, *by_sam2(sam2_checkpoint)), each=kill_once)
    assert run.code == 0, run.stderr
    assert len(run.servers) == 2
    texts = [event["text"] for event in events(root, "device")]
    assert len(texts) == 2
    assert re.fullmatch(r"cpu: .*died \(.*SIGKILL.*\); it is started again", texts[0])
    assert re.fullmatch(r"cpu: the models are there again after \d+ s", texts[1])
    assert not events(root, "failed")
    assert table(root)["cell_id"].equals(table(whole)["cell_id"])


def test_a_classifier_with_deep_features_is_refused_by_a_run_without_them(
    whole: Path, tiny_slide: Path, tmp_path: Path
) -> None:
    labels = {"positive": [], "negative": []}
    for place, cell_id in enumerate(table(whole)["cell_id"].to_pylist()):
        labels["positive" if place % 2 else "negative"].append(cell_id)
    manifest = manifests.read(RunLayout(whole))
    annotations = tmp_path / "annotations.json"
    head = {"format": "mkhspc-annotations", "version": 1, "exported_at": "2026-01-31T12:00:00Z"}
    run = {"dataset": manifest.dataset, "config_hash": manifest.config_hash, "annotator": "A"}
    annotations.write_text(json.dumps({**head, **run, "hspc": labels, "events": []}))
    training, classifier = tmp_path / "training.json", tmp_path / "hspc.skops"
    done = mkhspc("convert", "--annotations", annotations, "--base-dir", whole, "--output", training)
    assert done.returncode == 0, done.stderr
    document = json.loads(training.read_text())
    for place, sample in enumerate(document["samples"]):
        sample["scene"] = place // 2 % 2  # else all were of one group, which teaches nothing
    training.write_text(json.dumps(document))
    learn = ["--model", "logistic", "--group-by", "scene", "--output-hspc", classifier]
    done = mkhspc("train", "--training-data", training, *learn)
    assert done.returncode == 0, done.stderr
    done = mkhspc(*words(tmp_path / "run", tiny_slide, "--hspc-classifier", classifier))
    says = f"{classifier}: needs features that the run does not have: deep_"
    assert_refused(done, 3, says, "segment with the embedder it was trained with, or train with --morph-only")
    assert not (tmp_path / "run").exists()
