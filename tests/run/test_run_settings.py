from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mkhspc.cluster.journal import read_journals
from mkhspc.run.opening.versions import _is_same, with_precisions
from mkhspc.store.layout import RunLayout
from runs import make_run


def written(layout: RunLayout, process: str, line: str) -> None:
    layout.logs.mkdir(exist_ok=True)
    (layout.logs / f"segment-{process}.jsonl").write_text(line + "\n")


def test_a_manifest_tells_in_what_the_jobs_of_a_cluster_computed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",), cells_per_type=4)
    assert with_precisions(run.manifest, read_journals(run.layout)) == run.manifest
    event = '{"event": "models", "at_s": %d.0, "device": "%s", "precision": {"sam2": "%s", "cellpose": "%s"}}'
    written(run.layout, "one", event % (1, "cuda:0", "bfloat16", "bfloat16"))
    written(run.layout, "two", event % (2, "cuda:1", "bfloat16", "float32"))
    told = with_precisions(run.manifest, read_journals(run.layout))
    assert told.versions["precision"] == "bfloat16 on cuda:0; bfloat16 on cuda:1; float32 on cuda:1"
    assert with_precisions(told, read_journals(run.layout)) == told
    known = replace(run.manifest, versions={**run.manifest.versions, "precision": "bfloat16 on an A100"})
    assert with_precisions(known, read_journals(run.layout)).versions["precision"] == (
        "bfloat16 on an A100; float32 on cuda:1"
    )


def test_what_the_cpu_computed_in_is_reported_though_a_gpu_had_the_same_for_another_model(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",), cells_per_type=4)
    began = "sam2 bfloat16, resnet50 float32 on an A100"
    known = replace(run.manifest, versions={**run.manifest.versions, "precision": began})
    event = '{"event": "models", "at_s": 1.0, "device": "cpu", "precision": {"sam2": "float32"}}'
    written(run.layout, "one", event)
    told = with_precisions(known, read_journals(run.layout))
    assert told.versions["precision"] == f"{began}; float32 on cpu"
    assert with_precisions(told, read_journals(run.layout)) == told
    assert not _is_same("precision", began, "float32 on cpu")
    assert _is_same("precision", told.versions["precision"], "float32 on cpu")
    assert _is_same("precision", began, "sam2 bfloat16, resnet50 float32 on an H100")
    assert not _is_same("precision", "float32 on cpu", "bfloat16 on an H100")
