"""Which files a path, a folder or a wildcard names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from mkhspc.config import load_config
from mkhspc.errors import InputError
from mkhspc.run.opening.slide_files import files_named, slide_files

MACOS = "what macOS keeps beside its files (AppleDouble)"
NAMES = ("slides/a.czi", "slides/B.CZI", "slides/._a.czi", "slides/.hidden.czi", "slides/notes.txt")
BATCHES = ("batch1/x1.czi", "batch2/x2.Czi", "batch2/deep/x3.czi", "batch2/x10.czi", ".trash/x4.czi")


def put(root: Path, names: Iterable[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def named(root: Path, pattern: str) -> list[str]:
    return [str(path.relative_to(root)) for path in files_named(str(root / pattern))]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("slides/*.czi", ["slides/B.CZI", "slides/a.czi"]),
        ("slides/*.CZI", ["slides/B.CZI", "slides/a.czi"]),
        ("slides/*", ["slides/B.CZI", "slides/a.czi"]),
        ("slides", ["slides/B.CZI", "slides/a.czi"]),
        ("slides/", ["slides/B.CZI", "slides/a.czi"]),
        ("batch*/x?.czi", ["batch1/x1.czi", "batch2/x2.Czi"]),
        ("batch[2-9]/*.czi", ["batch2/x10.czi", "batch2/x2.Czi"]),
        ("batch*", ["batch1/x1.czi", "batch2/x10.czi", "batch2/x2.Czi"]),
        ("**/x*.czi", ["batch1/x1.czi", "batch2/deep/x3.czi", "batch2/x10.czi", "batch2/x2.Czi"]),
        ("batch2/**/*.czi", ["batch2/deep/x3.czi", "batch2/x10.czi", "batch2/x2.Czi"]),
        ("./batch1/../batch*/x1.czi", ["batch1/../batch1/x1.czi"]),
    ],
)
def test_a_wildcard_or_a_folder_names_slides(tmp_path: Path, pattern: str, found: list[str]) -> None:
    put(tmp_path, (*NAMES, *BATCHES))
    assert named(tmp_path, pattern) == found


@pytest.mark.parametrize(
    ("names", "pattern", "found"),
    [
        (["M[12].czi", "M1.czi"], "M[12].czi", ["M[12].czi"]),
        (["M1.czi", "M2.czi"], "M[12].czi", ["M1.czi", "M2.czi"]),
        (["set [1]/a.czi", "set 1/b.czi"], "set [1]/*.czi", ["set [1]/a.czi"]),
        (["set [1]/a.czi"], "set [1]", ["set [1]/a.czi"]),
        (["b1/M[1]a.czi", "b2/M[1]b.czi", "b2/M1c.czi"], "b?/M[1]*.czi", ["b1/M[1]a.czi", "b2/M[1]b.czi"]),
        (["what?.czi", "whatX.czi"], "what?.czi", ["what?.czi"]),
    ],
)
def test_brackets_that_are_there_are_meant_literally(
    tmp_path: Path, names: list[str], pattern: str, found: list[str]
) -> None:
    put(tmp_path, names)
    assert named(tmp_path, pattern) == found


@pytest.mark.parametrize(
    ("names", "pattern", "words"),
    [
        (
            ["s/._a.czi", "s/._b.czi"],
            "s/*.czi",
            f"*.czi: no CZI file matches this, only {MACOS}: ._a.czi, ._b",
        ),
        (["s/._a.czi"], "**/*.czi", f"no CZI file matches this, only {MACOS}: ._a.czi"),
        (["s/._a.czi"], "s", f"s: this folder holds no CZI file, only {MACOS}: ._a.czi"),
        (["s/._a.czi"], "s/._a.czi", f"s/._a.czi: is no slide, but {MACOS}\n  name the slide itself, a.czi"),
        (["s/deep/a.czi"], "s", "/s: this folder holds no CZI file\n  name the folder that does, or those"),
        (["s/a.txt"], "s/*", "/s/*: no CZI file matches this\n"),
        ([], "a.czi", "/a.czi: this slide does not exist\n  check the path to the CZI file"),
        ([], "nowhere/**/*.czi", "nowhere/**/*.czi: no CZI file matches this\n"),
    ],
)
def test_what_names_no_slide_is_said(tmp_path: Path, names: list[str], pattern: str, words: str) -> None:
    put(tmp_path, names)
    with pytest.raises(InputError) as refused:
        files_named(str(tmp_path / pattern))
    assert words in str(refused.value)
    assert str(refused.value).count("macOS") <= 1


def test_wildcards_of_a_config_mean_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "study [2]"
    put(home, (*NAMES, *BATCHES))
    (home / "study.toml").write_text('[run]\nslides = ["slides/*.czi", "batch*/x?.czi", "slides/a.czi"]\n')
    monkeypatch.chdir("/")
    found = slide_files(load_config(home / "study.toml").run.slides)
    assert list(found) == ["B", "a", "x1", "x2"]
    assert found["x2"] == home / "batch2" / "x2.Czi"


def test_a_slide_that_is_gone_is_not_left_out(tmp_path: Path) -> None:
    put(tmp_path, ["a.czi"])
    (tmp_path / "b.czi").symlink_to(tmp_path / "nowhere.czi")
    assert named(tmp_path, "*.czi") == ["a.czi", "b.czi"]


def test_two_files_of_one_name_in_two_folders_are_refused(tmp_path: Path) -> None:
    put(tmp_path, ["one/a.czi", "two/a.CZI"])
    with pytest.raises(InputError, match=re.escape("two slides have the name 'a'")):
        slide_files([str(tmp_path / "*" / "*.czi")])
