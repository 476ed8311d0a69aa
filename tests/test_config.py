from __future__ import annotations

import codecs
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mkhspc import config
from mkhspc.budget.forecast import machine_for
from mkhspc.config import CellRange, RunConfig, load_config
from mkhspc.config.limits import Limit
from mkhspc.errors import InputError, MkhspcError, UsageError

STUDY = """
[run]
output_dir = "run"
slides = ["slides/*.czi"]
sample_fraction = 0.1
um_per_px = 0.1725
[mk]
min_area_um2 = 120
[compute]
num_workers = 4
[slurm]
partition = "gpu"
memory_gb = "auto"
extra = ["--qos=long"]
[groups]
FGC1 = {sex = "F", treatment = "GC"}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def test_the_defaults_are_those_of_the_contract() -> None:
    found = load_config(None)
    assert found.run.sample_fraction == 1.0
    assert found.run.tile_size == 4096
    assert found.run.calibration_samples == 100
    assert found.mk.filter == CellRange(100, 2100, 0.02)
    assert found.hspc.filter == CellRange(10, 150)


def test_a_study_file_is_read_with_its_types(tmp_path: Path) -> None:
    found = load_config(written(tmp_path, STUDY))
    assert found.run.um_per_px == 0.1725
    assert found.mk.min_area_um2 == 120.0
    assert found.compute.num_workers == 4
    assert found.slurm.memory_gb == "auto"
    assert found.groups["FGC1"] == {"sex": "F", "treatment": "GC"}


def test_paths_in_a_file_are_relative_to_that_file(tmp_path: Path) -> None:
    found = load_config(written(tmp_path, STUDY))
    assert found.run.output_dir == str(tmp_path / "run")
    assert found.run.slides == (str(tmp_path / "slides" / "*.czi"),)


def test_options_win_over_the_file(tmp_path: Path) -> None:
    found = load_config(written(tmp_path, STUDY), {"run.sample_fraction": 1.0, "run.seed": None})
    assert found.run.sample_fraction == 1.0
    assert found.run.seed == 0


def test_a_config_survives_json(tmp_path: Path) -> None:
    found = load_config(written(tmp_path, STUDY))
    assert config.from_dict(json.loads(json.dumps(config.to_dict(found)))) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run]\ntilesize = 1", ["study.toml", "tilesize", "tile_size"]),
        ("[runs]\nseed = 1", ["unknown section 'runs'", "compute"]),
        ("[run", ["not valid TOML"]),
        ("[run]\nseed = " + "[" * 100_000, ["not valid TOML", "recursion depth"]),
        ("[run]\nseed = " + "9" * 5000, ["not valid TOML", "5000 digits"]),
        ("[run]\nseed = 'x'", ["run.seed", "'x'", "whole number"]),
        ("[run]\nseed = true", ["run.seed", "True"]),
        ("[mk]\nmin_area_um2 = -1", ["mk.min_area_um2", "above 0"]),
        ("[groups]\nFGC1 = 'F'", ["FGC1", "treatment"]),
        ("run = 3", ["[run]", "table"]),
    ],
)
def test_a_wrong_file_is_an_input_error_that_says_what_and_what_is_valid(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        load_config(written(tmp_path, text))
    assert all(word in str(error.value) for word in words), str(error.value)
    assert len(str(error.value).splitlines()) <= 2


def test_a_file_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "given",
    [
        {"run.sample_fraction": 0.0},
        {"run.sample_fraction": 1.5},
        {"run.sample_fraction": float("nan")},
        {"mk.min_area_um2": -5.0},
        {"mk.min_area_um2": 3000.0},
        {"hspc.max_area_um2": float("inf")},
        {"run.um_per_px": 0.0},
        {"run.um_per_px": 400.0},
        {"run.tile_size": 10},
        {"compute.num_workers": 0},
        {"compute.num_workers": "many"},
        {"mk.detector": "magic"},
        {"compute.device": "cuda:x"},
        {"compute.device": "banana"},
        {"compute.embedder": "vgg"},
        {"compute.embedder": "resnet50,vgg"},
        {"gallery.order": "banana"},
        {"gallery.cards_per_page": 0},
        {"gallery.max_site_mb": -1.0},
        {"slurm.shards_per_slide": -3},
        {"slurm.cpus": 0},
        {"slurm.time_min": 0},
        {"slurm.gpus": -1},
        {"slurm.memory_gb": 0.0},
        {"slurm.memory_gb": "lots"},
    ],
)
def test_a_wrong_option_is_a_usage_error(given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        load_config(None, given)


def test_an_error_says_the_key_the_value_and_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_config(written(tmp_path, "[mk]\nmin_area_um2 = -1"))
    assert str(error.value) == f"{tmp_path / 'study.toml'}: mk.min_area_um2 is -1; areas must be above 0 µm²"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("run.tile_size", 10, "run.tile_size is 10; tile sizes must be 256 to 65536 px"),
        ("run.tile_size", "4096", "run.tile_size is '4096'; it must be a whole number of 256 to 65536 px"),
        ("run.tile_size", 4096.0, "run.tile_size is 4096.0; it must be a whole number of 256 to 65536 px"),
        ("run.tile_size", True, "run.tile_size is True; it must be a whole number of 256 to 65536 px"),
        ("run.scenes", "12", "run.scenes is '12'; it must be a list, each item a whole number"),
        ("run.sample_fraction", 2, "fractions must be above 0 and at most 1"),
        ("hspc.max_area_um2", float("inf"), "areas must be finite and above 0 µm²"),
        ("hspc.max_area_um2", 5, "hspc.max_area_um2 is 5; it must be above the minimum of 10 µm²"),
        ("mk.min_area_um2", -1.0, "mk.min_area_um2 is -1; areas must be above 0 µm²"),
        ("compute.num_workers", 0, "compute.num_workers is 0; it must be 'auto' or at least 1"),
        ("gallery.order", "size", "gallery.order is 'size'; it must be 'random', 'area' or 'uncertainty'"),
        ("mk.detector", "magic", "mk.detector is 'magic'; it must be auto, classical or sam2"),
    ],
)
def test_a_wrong_value_is_not_coerced_but_explained(key: str, value: object, words: str) -> None:
    with pytest.raises(UsageError) as error:
        load_config(None, {key: value})
    assert words in str(error.value)


def test_an_unknown_key_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown key in \[run\] 'tilesize'; did you mean 'tile_size'\?"):
        load_config(written(tmp_path, "[run]\ntilesize = 1"))


def hash_with(**given: object) -> str:
    changed = load_config(None, {key.replace("__", "."): value for key, value in given.items()})
    return config.config_hash(config.identity(changed, {}))


DEFAULT = config.config_hash(config.identity(RunConfig(), {}))


@pytest.mark.parametrize(
    "given",
    [
        {"run__um_per_px": 0.2},
        {"run__tile_size": 2048},
        {"run__calibration_samples": 50},
        {"run__seed": 1},
        {"mk__min_area_um2": 120.0},
        {"hspc__max_area_um2": 140.0},
    ],
)
def test_what_decides_the_cells_changes_the_hash(given: dict[str, object]) -> None:
    assert hash_with(**given) != DEFAULT


@pytest.mark.parametrize(
    "given",
    [
        {"run__output_dir": "elsewhere"},
        {"run__slides": ("a.czi",)},
        {"run__sample_fraction": 0.02},
        {"mk__classifier": "mk.skops"},
        {"compute__num_workers": 7},
        {"compute__memory_gb": 3.0},
        {"gallery__cards_per_page": 50},
    ],
)
def test_what_does_not_decide_the_cells_leaves_the_hash(given: dict[str, object]) -> None:
    assert hash_with(**given) == DEFAULT


def test_groups_and_model_hashes_enter_the_hash_only_where_they_count() -> None:
    grouped = replace(RunConfig(), groups={"a": {"sex": "F"}})
    assert config.config_hash(config.identity(grouped, {})) == DEFAULT
    assert config.config_hash(config.identity(RunConfig(), {"sam2": "00ff"})) != DEFAULT


def test_differences_name_the_setting_and_both_values() -> None:
    ours = config.identity(load_config(None, {"run.seed": 7}), {})
    assert config.differences(ours, config.identity(RunConfig(), {})) == ["run.seed is 0 there and 7 here"]


def test_the_stored_range_reaches_beyond_the_filter() -> None:
    assert RunConfig().stored("mk") == CellRange(50, 4200, 0.003)
    assert RunConfig().stored("mk").max_length_um == pytest.approx(102.4, abs=0.1)


def test_every_error_is_one_of_the_family() -> None:
    assert issubclass(UsageError, MkhspcError)
    assert UsageError("x").exit_code == 2


@pytest.mark.parametrize("value", ["0.5", True, None])
def test_a_limit_refuses_what_is_not_a_number(value: object) -> None:
    with pytest.raises(UsageError) as refused:
        Limit(least=0.0, most=1.0).check("--min-match", value)
    assert str(refused.value) == f"--min-match is {value!r}; it must be a number, 0 to 1"


def test_the_options_of_another_machine_have_the_limits_of_settings() -> None:
    with pytest.raises(UsageError, match=r"^--gpu-memory-gb is -1; it must be above 0 GB$"):
        machine_for(gpu_memory_gb=-1)
    with pytest.raises(UsageError, match=r"^--cores is 0; it must be at least 1$"):
        machine_for(cores=0)


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_config_is_read_with_and_without_a_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(mark + b"[run]\r\nseed = 7\r\n")
    assert load_config(path).run.seed == 7


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("[run]\nseed = 7\n".encode("utf-16"), "the config file is in UTF-16, not in UTF-8"),
        ("[run]\nseed = 7\n".encode("utf-16-le"), "the config file is in UTF-16, not in UTF-8"),
        (b'[run]\noutput_dir = "M\xfcller"\n', "the config file is not in UTF-8 (line 2)"),
    ],
)
def test_a_config_in_another_encoding_is_refused_with_the_way_out(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(data)
    with pytest.raises(InputError) as refused:
        load_config(path)
    assert str(refused.value) == f"{path}: {words}\n  save it as UTF-8 in your editor"
