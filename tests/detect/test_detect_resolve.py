from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mkhspc.config import CELL_TYPES, CellRange, CellType, ComputeSection, RunConfig, with_options
from mkhspc.detect.contract import NeededCells
from mkhspc.detect.resolve import build_detectors, choose_detectors
from mkhspc.errors import InputError, UsageError
from mkhspc.geometry import Box, um_to_px
from mkhspc.models import choice
from mkhspc.models.choice import RunModels, fitness, needed, with_weights
from mkhspc.models.device import Gpu
from mkhspc.models.service import NoModels
from mkhspc.models.weights.cache import WeightFile

STORED = {t: RunConfig().stored(t) for t in CELL_TYPES}
SOME = {name: WeightFile(name, Path(name), f"{name:0<64}") for name in ("sam2", "cellpose")}


def config_with(**options: object) -> RunConfig:
    return with_options(RunConfig(), {key.replace("__", "."): value for key, value in options.items()})


def put(weights: str, directory: Path) -> None:
    """A file of the right name and size, which is all that a look at what is here reads."""
    weight = choice.weight_named(weights)
    with (directory / weight.file_name).open("wb") as file:
        file.truncate(weight.size_bytes)


def compute(device: str = "auto", **options: str) -> ComputeSection:
    return replace(RunConfig().compute, device=device, **options)


@pytest.fixture
def weights_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MKHSPC_MODELS", str(tmp_path))
    return tmp_path


def gpus(monkeypatch: pytest.MonkeyPatch, *memory_gb: float) -> None:
    found = [Gpu(f"GPU of {gb:g} GB", int(gb * 1e9), "bfloat16") for gb in memory_gb]
    monkeypatch.setattr(choice, "gpus_here", lambda: found)


class TestAuto:
    def test_without_weights_it_is_classical_and_says_how_to_get_them(self, weights_here: Path) -> None:
        found = choose_detectors(RunConfig())
        assert {t: c.name for t, c in found.items()} == {"mk": "classical", "hspc": "classical"}
        assert "mkhspc models fetch sam2.1-large" in found["mk"].reason
        assert "mkhspc models fetch cpsam" in found["hspc"].reason

    def test_with_weights_and_no_gpu_it_is_classical(
        self, weights_here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put("sam2.1-tiny", weights_here)
        gpus(monkeypatch)
        found = choose_detectors(RunConfig())["mk"]
        assert found.name == "classical"
        assert "no GPU" in found.reason

    def test_with_weights_and_a_gpu_that_holds_them_it_is_the_real_model(
        self, weights_here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put("sam2.1-large", weights_here)
        put("cpsam", weights_here)
        gpus(monkeypatch, 24.0)
        found = choose_detectors(RunConfig())
        assert {t: c.name for t, c in found.items()} == {"mk": "sam2", "hspc": "cellpose"}
        assert "GPU of 24 GB" in found["mk"].reason

    def test_the_smallest_gpu_that_is_used_decides(
        self, weights_here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put("sam2.1-large", weights_here)
        gpus(monkeypatch, 24.0, 2.0)
        assert not fitness("sam2", compute("auto")).is_fit
        assert "GPU of 2 GB" in fitness("sam2", compute("auto")).reason
        assert fitness("sam2", compute("cuda:0")).is_fit
        assert not fitness("sam2", compute("cpu")).is_fit

    def test_a_device_that_is_not_there_is_refused(
        self, weights_here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put("sam2.1-large", weights_here)
        gpus(monkeypatch, 24.0)
        with pytest.raises(UsageError, match=r"no device 'cuda:3'\n.*cuda:0"):
            choose_detectors(config_with(compute__device="cuda:3"))

    @pytest.mark.usefixtures("torch")
    def test_the_best_weights_that_are_here_are_taken_and_named(self, weights_here: Path) -> None:
        asked = config_with(mk__detector="sam2")
        assert with_weights(asked).compute.sam2_weights == "sam2.1-large", "the error is to name this"
        put("sam2-large", weights_here)
        put("sam2.1-tiny", weights_here)
        assert with_weights(asked).compute.sam2_weights == "sam2.1-tiny"
        put("sam2.1-base-plus", weights_here)
        assert with_weights(asked).compute.sam2_weights == "sam2.1-base-plus"
        own = replace(asked, compute=replace(asked.compute, sam2_weights="own.pt"))
        assert with_weights(own).compute.sam2_weights == "own.pt"
        assert with_weights(RunConfig()) == RunConfig()

    def test_the_best_weights_that_fit_the_gpu_are_taken(
        self, weights_here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = config_with(mk__detector="sam2")
        put("sam2.1-large", weights_here)
        put("sam2.1-tiny", weights_here)
        gpus(monkeypatch, 6.0)
        assert with_weights(asked).compute.sam2_weights == "sam2.1-tiny"
        gpus(monkeypatch, 24.0)
        assert with_weights(asked).compute.sam2_weights == "sam2.1-large"

    def test_weights_of_the_users_own_are_judged_and_not_others(
        self, weights_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gpus(monkeypatch, 24.0)
        own = tmp_path / "own.pt"
        own.write_bytes(b"weights")
        assert fitness("sam2", compute(sam2_weights=str(own))).is_fit
        put("sam2.1-large", weights_here)
        with pytest.raises(InputError, match=r"mkhspc models fetch sam2\.1-tiny"):
            fitness("sam2", compute(sam2_weights="sam2.1-tiny"))

    def test_without_the_models_package_it_is_classical(
        self, weights_here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put("sam2.1-large", weights_here)
        gpus(monkeypatch, 24.0)
        monkeypatch.setattr(choice, "find_spec", lambda name: None if name == "sam2" else name)
        assert "sam2 is not installed" in fitness("sam2", compute()).reason

    @pytest.mark.usefixtures("torch")
    def test_weights_that_are_asked_for_and_missing_are_an_error(self, weights_here: Path) -> None:
        with pytest.raises(InputError, match=r"mkhspc models fetch sam2\.1-large"):
            RunModels.of(with_weights(config_with(mk__detector="sam2")))


@pytest.mark.parametrize(
    ("options", "models"),
    [
        ({}, []),
        ({"mk__detector": "sam2"}, ["sam2"]),
        ({"hspc__detector": "cellpose"}, ["cellpose"]),
        ({"hspc__detector": "cellpose+sam2"}, ["cellpose", "sam2"]),
        ({"compute__embedder": "resnet50,sam2"}, ["resnet50", "sam2"]),
        ({"compute__embedder": "none", "mk__detector": "classical"}, []),
    ],
)
def test_a_run_needs_the_models_that_it_asks(options: dict[str, object], models: list[str]) -> None:
    assert needed(config_with(**options)) == models


@pytest.mark.parametrize(
    ("mk", "hspc"), [("classical", "classical"), ("sam2", "cellpose"), ("classical", "cellpose+sam2")]
)
def test_detectors_are_those_asked_for(mk: str, hspc: str) -> None:
    names: dict[CellType, str] = {"mk": mk, "hspc": hspc}
    detectors = build_detectors(names, STORED, RunModels(SOME), NoModels())
    assert {t: d.name for t, d in detectors.items()} == names
    assert {t: d.cell_type for t, d in detectors.items()} == {"mk": "mk", "hspc": "hspc"}


@pytest.mark.parametrize(("mk", "hspc"), [("sam3", "classical"), ("classical", "classic")])
def test_an_unknown_name_stands_for_no_detector(mk: str, hspc: str) -> None:
    with pytest.raises(UsageError, match=r"there is no detector '(sam3|classic)' for (mk|hspc)"):
        build_detectors({"mk": mk, "hspc": hspc}, STORED, RunModels(SOME), NoModels())


@pytest.mark.parametrize(
    ("mk", "hspc"), [("classical", "classical"), ("sam2", "cellpose"), ("classical", "cellpose+sam2")]
)
@pytest.mark.parametrize("um_per_px", [0.1, 0.22, 0.5])
def test_a_detector_sees_the_cells_that_are_needed_with_what_is_around_them(
    mk: str, hspc: str, um_per_px: float
) -> None:
    cells = NeededCells(longest_um=40.0, centroid_um=25.0, point_um=8.0)
    for detector in build_detectors({"mk": mk, "hspc": hspc}, STORED, RunModels(SOME), NoModels()).values():
        reach_px = um_to_px(detector.halo_um(cells), um_per_px)
        for x in range(-5000, 5000, 777):
            core = Box(x, -x, x + 1024, 1024 - x)
            seen = detector.seen_box(core, cells, um_per_px)
            least = core.grown(um_to_px(cells.point_um + cells.longest_um / 2, um_per_px))
            assert least.clipped(seen) == least
            assert seen.clipped(core.grown(reach_px)) == seen


def test_cells_too_long_for_cellpose_are_refused_before_any_work() -> None:
    stored = {**STORED, "hspc": CellRange(5.0, 900.0)}
    names: dict[CellType, str] = {"mk": "classical", "hspc": "cellpose"}
    with pytest.raises(UsageError, match="lower the largest area"):
        build_detectors(names, stored, RunModels(SOME), NoModels())


def test_other_weights_are_another_revision() -> None:
    names: dict[CellType, str] = {"mk": "sam2", "hspc": "cellpose+sam2"}
    other = {name: replace(weights, sha256="f" * 64) for name, weights in SOME.items()}
    one, two = (build_detectors(names, STORED, RunModels(w), NoModels()) for w in (SOME, other))
    assert all(one[t].revision != two[t].revision for t in CELL_TYPES)


def test_an_unknown_detector_is_refused_with_the_valid_ones() -> None:
    config = replace(RunConfig(), mk=replace(RunConfig().mk, detector="watershed"))
    with pytest.raises(UsageError, match=r"'watershed' for mk\n.*auto, classical, sam2"):
        choose_detectors(config)


def test_nobody_is_asked_by_mistake() -> None:
    with pytest.raises(RuntimeError, match="'sam2'"):
        NoModels().ask("sam2", {})
