"""What is chosen for a GPU: all models of a run lie on it together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mkhspc.config import ComputeSection, RunConfig, with_options
from mkhspc.models import choice
from mkhspc.models.choice import Fitness, RunModels, fitness, gpu_bytes, precision, with_weights
from mkhspc.models.device import Gpu, Precision, TorchError
from mkhspc.models.weights.cache import WeightFile
from mkhspc.models.weights.catalogue import CATALOGUE

GB = 1_000_000_000


@pytest.fixture
def weights_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MKHSPC_MODELS", str(tmp_path))
    monkeypatch.setattr(choice, "find_spec", lambda name: name)
    return tmp_path


def put(directory: Path, *names: str) -> None:
    """Files of the right names and sizes, which is all that a look at what is here reads."""
    for name in names:
        with (directory / CATALOGUE[name].file_name).open("wb") as file:
            file.truncate(CATALOGUE[name].size_bytes)


def gpu_of(monkeypatch: pytest.MonkeyPatch, memory_gb: float, precision: Precision = "bfloat16") -> None:
    found = [Gpu(f"GPU of {memory_gb:g} GB", int(memory_gb * GB), precision)]
    monkeypatch.setattr(choice, "gpus_here", lambda: found)


def compute(**options: str) -> ComputeSection:
    return replace(RunConfig().compute, **options)


def models_of(*names: str) -> RunModels:
    """By the names under which workers know them."""
    known = {"sam2": "sam2", "cpsa": "cellpose"}
    weights = {n: WeightFile(n, Path(n), CATALOGUE[n].sha256) for n in names}
    return RunModels({known.get(n[:4], n): file for n, file in weights.items()})


# Together


@pytest.mark.parametrize(
    ("memory_gb", "names"),
    [
        (4.1, ["sam2.1-small", "efficientnet-lite0"]),
        (8.3, ["sam2.1-base-plus", "resnet50"]),
        (8.3, ["cpsam"]),
        (15.8, ["sam2.1-large", "cpsam", "resnet50"]),
    ],
)
def test_what_the_docs_advise_for_a_card_fits_it(memory_gb: float, names: list[str]) -> None:
    assert gpu_bytes([CATALOGUE[name] for name in names]) <= memory_gb * GB
    assert models_of(*names).too_large_for(int(memory_gb * GB)) == []


@pytest.mark.parametrize("sam2", ["sam2.1-base-plus", "sam2.1-large"])
def test_an_8_gb_card_does_not_get_cellpose_and_a_large_sam2(sam2: str) -> None:
    models = models_of(sam2, "cpsam")
    assert models.too_large_for(int(8.59 * GB)) == [sam2, "cpsam"]


def test_weights_too_large_alone_are_reported_alone() -> None:
    assert models_of("sam2.1-tiny", "cpsam").too_large_for(6 * GB) == ["cpsam"]


def test_a_gpu_that_is_advised_gets_the_usual_batches_and_a_smaller_one_less() -> None:
    models = models_of("sam2.1-large", "cpsam", "resnet50")
    advised_bytes = gpu_bytes([CATALOGUE[name] for name in ("sam2.1-large", "cpsam", "resnet50")])
    usual = models.batches("cuda")
    assert models.batches("cuda", advised_bytes) == usual
    for gb in (10.0, 8.0, 6.0, 5.0):
        sizes = models.batches("cuda", int(gb * GB))
        assert sizes["cellpose"] < usual["cellpose"]
        for model, size in sizes.items():
            of = models.footprint(model)
            assert of is not None
            assert size == 1 or of.held_bytes + of.batch_bytes * size / usual[model] <= gb * GB
    assert set(models.batches("cuda", 1).values()) == {1}
    assert models.batches("cpu", 1) == models.batches("cpu")


def test_the_server_of_a_model_knows_what_the_plan_knows() -> None:
    models = models_of("sam2.1-tiny", "cpsam", "efficientnet-lite0")
    for model, loader in zip(models.weights, models.loaders, strict=True):
        assert models.footprint(model) is not None
        assert vars(loader)["footprint"] == models.footprint(model)


def test_a_users_own_weights_get_the_usual_batch() -> None:
    own = RunModels({"sam2": WeightFile("own.pt", Path("own.pt"), "0" * 64)})
    assert own.batches("cuda", 1) == own.batches("cuda")


def test_nothing_of_ours_needs_no_memory() -> None:
    assert gpu_bytes([]) == 0
    own = RunModels({"sam2": WeightFile("own.pt", Path("own.pt"), "0" * 64)})
    assert own.too_large_for(1) == []


@pytest.mark.parametrize(
    ("memory_gb", "expected"),
    [(8.59, ("sam2.1-tiny", "cpsam")), (24.0, ("sam2.1-large", "cpsam"))],
)
def test_the_best_weights_are_taken_that_fit_the_gpu_together(
    memory_gb: float, expected: tuple[str, str], weights_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(weights_here, "sam2.1-large", "sam2.1-base-plus", "sam2.1-tiny", "cpsam")
    gpu_of(monkeypatch, memory_gb)
    config = with_options(RunConfig(), {"mk.detector": "sam2", "hspc.detector": "cellpose"})
    found = with_weights(config).compute
    assert (found.sam2_weights, found.cellpose_weights) == expected


def test_a_model_is_fit_only_beside_the_others_of_the_run(
    weights_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(weights_here, "sam2.1-large", "cpsam")
    gpu_of(monkeypatch, 8.59)
    assert fitness("sam2", compute()).is_fit
    assert fitness("cellpose", compute()).is_fit
    found = fitness("cellpose", compute(), beside=["sam2"])
    assert not found.is_fit
    assert "cellpose that are here need more memory beside sam2 than GPU of 8.59 GB has" in found.reason
    put(weights_here, "sam2.1-tiny")
    assert fitness("cellpose", compute(), beside=["sam2"]).is_fit


def test_embedders_of_the_run_count_without_being_named(
    weights_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(weights_here, "sam2.1-small", "resnet50")
    gpu_of(monkeypatch, 4.1)
    assert fitness("sam2", compute()).is_fit
    assert "beside resnet50" in fitness("sam2", compute(embedder="resnet50")).reason


# Why not


def test_a_torch_that_does_not_start_is_a_reason_and_no_error(
    weights_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[Gpu]:
        raise TorchError("torch does not start: OSError: libcudart.so.13")

    put(weights_here, "sam2.1-tiny")
    monkeypatch.setattr(choice, "gpus_here", broken)
    found = fitness("sam2", compute())
    assert found == Fitness(
        False, "the weights of sam2 are here, but torch does not start: OSError: libcudart.so.13"
    )


def test_a_gpu_that_this_torch_cannot_use_is_none(
    weights_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(weights_here, "sam2.1-tiny")
    fine, old = Gpu("A100", 42 * GB, "bfloat16"), Gpu("P40", 24 * GB, "float16", fault="too old")
    unfit = Fitness(False, "the weights of sam2 are here, but P40: too old")
    monkeypatch.setattr(choice, "gpus_here", lambda: [fine, old])
    assert fitness("sam2", compute()).is_fit
    assert fitness("sam2", compute(device="cuda:1")) == unfit
    monkeypatch.setattr(choice, "gpus_here", lambda: [old])
    assert fitness("sam2", compute()) == unfit


@pytest.mark.parametrize(
    ("free_gb", "shortage"),
    [
        (None, ""),
        (23.0, ""),
        (10.0, ""),
        (2.0, ", but only 2.0 GB of A30 are free now: that may be too little"),
    ],
)
def test_memory_that_others_hold_now_is_reported_and_changes_nothing(
    free_gb: float | None, shortage: str, weights_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(weights_here, "sam2.1-large", "sam2.1-tiny")
    shared = Gpu("A30", 24 * GB, "bfloat16", free_bytes=None if free_gb is None else int(free_gb * GB))
    monkeypatch.setattr(choice, "gpus_here", lambda: [shared])
    assert fitness("sam2", compute()) == Fitness(True, f"its weights and A30 are here{shortage}")
    config = with_options(RunConfig(), {"mk.detector": "sam2"})
    assert with_weights(config).compute.sam2_weights == "sam2.1-large"


def test_a_driver_that_keeps_its_share_of_a_gpu_is_no_shortage(
    weights_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(weights_here, "cpsam")
    card = Gpu("card", gpu_bytes([CATALOGUE["cpsam"]]), "bfloat16")
    for free, is_told in ((0.95, False), (0.85, True)):
        used = replace(card, free_bytes=int(free * card.memory_bytes))
        monkeypatch.setattr(choice, "gpus_here", lambda used=used: [used])
        found = fitness("cellpose", compute())
        assert found.is_fit
        assert ("free now" in found.reason) == is_told


def test_of_gpus_that_differ_the_smallest_decides_and_the_fullest_is_reported(
    weights_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(weights_here, "sam2.1-large", "sam2.1-tiny")
    small = Gpu("T4", 5 * GB, "float16", free_bytes=5 * GB)
    full = Gpu("A30", 24 * GB, "bfloat16", free_bytes=GB)
    monkeypatch.setattr(choice, "gpus_here", lambda: [small, full])
    assert fitness("sam2", compute()).reason == (
        "its weights and T4 are here, but only 1.0 GB of A30 are free now: that may be too little"
    )
    config = with_options(RunConfig(), {"mk.detector": "sam2"})
    assert with_weights(config).compute.sam2_weights == "sam2.1-tiny"


@pytest.mark.parametrize(
    "fault",
    ["CUDA error: out of memory", "CUDA error: CUDA-capable device(s) is/are busy or unavailable"],
)
def test_a_gpu_that_others_use_up_just_now_is_chosen_all_the_same(
    fault: str, weights_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(weights_here, "sam2.1-large", "sam2.1-tiny")
    taken = Gpu("A30", 24 * GB, "bfloat16", fault=fault)
    monkeypatch.setattr(choice, "gpus_here", lambda: [taken])
    found = fitness("sam2", compute())
    assert found == Fitness(True, f"its weights and A30 are here, but others use A30 now: {fault}")
    config = with_options(RunConfig(), {"mk.detector": "sam2"})
    assert with_weights(config).compute.sam2_weights == "sam2.1-large"


def test_a_cpu_that_was_asked_for_is_no_missing_gpu(
    weights_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(weights_here, "cpsam")
    gpu_of(monkeypatch, 24.0)
    for jobs_gpus in (None, 2):
        found = fitness("cellpose", compute(device="cpu"), jobs_gpus)
        assert not found.is_fit
        assert "the CPU is asked for" in found.reason
        assert "no GPU" not in found.reason


def test_a_damaged_file_is_named_and_how_to_get_a_whole_one(weights_here: Path) -> None:
    path = weights_here / CATALOGUE["sam2.1-small"].file_name
    path.write_bytes(b"cut off")
    found = fitness("sam2", compute())
    assert not found.is_fit
    assert found.reason == (f"the weights of sam2 in {path} are damaged (mkhspc models fetch sam2.1-small)")
    path.rename(f"{path}.part")
    assert fitness("sam2", compute()).reason == (
        f"of the weights of sam2 only a part is here, {path}.part (mkhspc models fetch sam2.1-small)"
    )
    put(weights_here, "sam2.1-tiny")
    assert "damaged" not in fitness("sam2", compute(device="cpu")).reason


# Precision


@pytest.mark.parametrize(
    ("gpu", "names", "expected"),
    [
        ("bfloat16", ["sam2.1-tiny", "cpsam"], "bfloat16 on GPU of 24 GB"),
        ("bfloat16", ["sam2.1-tiny", "resnet50"], "sam2 bfloat16, resnet50 float32 on GPU of 24 GB"),
        ("float16", ["sam2.1-tiny", "cpsam", "resnet50"], "float32 on GPU of 24 GB"),
    ],
)
def test_the_manifest_tells_the_precision_of_each_model(
    gpu: Precision, names: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of(monkeypatch, 24.0, gpu)
    assert precision(models_of(*names), "auto") == expected
    assert precision(models_of(*names), "cpu") == "float32 on cpu"
