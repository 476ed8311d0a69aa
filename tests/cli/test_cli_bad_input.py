"""Every wrong thing that the project promises to refuse: its exit code, one or two lines, nothing left."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from czifiles import Block, noise, write_czi
from mkhspc.cli import run_command
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout
from runs import FakeRun, make_run


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[object]) -> tuple[int, str]:
    """Exit code and message of a command that must write at most two lines and no result."""
    code = run_command([str(a) for a in arguments])
    shown = capsys.readouterr()
    assert shown.out == ""
    message = "\n".join(line for line in shown.err.splitlines() if not line.startswith("{"))
    assert 1 <= len(message.splitlines()) <= 2, message
    assert "Traceback" not in message
    return code, message


def segment(slide: Path, run: Path, *more: object) -> list[object]:
    return ["segment", "--czi-path", slide, "--output-dir", run, *more]


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_czi(tmp_path / "slide.czi", [Block(noise(300, 400), 0, 0)])


def test_a_truncated_slide(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = slide.read_bytes()
    for keep in (0, 10, 600, len(whole) // 2, len(whole) - 100):
        slide.write_bytes(whole[:keep])
        code, message = refused(capsys, segment(slide, tmp_path / "run"))
        assert code == 3, (keep, message)
        assert "slide.czi" in message
        assert not (tmp_path / "run").exists()


def test_a_png_that_is_called_czi(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(noise(20, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.czi")
    code, message = refused(capsys, segment(tmp_path / "a.czi", tmp_path / "run"))
    assert code == 3
    assert "a.czi" in message
    assert "CZI" in message


@pytest.mark.parametrize("um_per_px", [None, 0.0])
def test_no_pixel_size(tmp_path: Path, capsys: pytest.CaptureFixture[str], um_per_px: float | None) -> None:
    path = write_czi(tmp_path / "a.czi", [Block(noise(100, 100), 0, 0)], um_per_px)
    code, message = refused(capsys, segment(path, tmp_path / "run"))
    assert code == 3
    assert "--um-per-px" in message
    assert not (tmp_path / "run").exists()


def test_a_gray_slide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gray = np.zeros((50, 50), np.uint16)
    path = write_czi(tmp_path / "a.czi", [Block(gray, 0, 0)])
    code, message = refused(capsys, segment(path, tmp_path / "run"))
    assert code == 3
    assert "gray16" in message
    assert run_command(["inspect", str(path)]) == 3


def test_two_slides_of_one_name(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other" / "slide.czi"
    other.parent.mkdir()
    shutil.copy(slide, other)
    code, message = refused(capsys, segment(slide, tmp_path / "run", "--czi-path", other))
    assert code == 3
    assert "two slides have the name 'slide'" in message


@pytest.mark.parametrize(
    ("name", "slide_id"),
    [
        ("with spaces.czi", "with_spaces"),
        ("it's.czi", "it_s"),
        ('say "x".czi', "say_x"),
        ("<script>alert(1)<.czi", "script_alert_1"),
        ("..; rm -rf x.czi", "rm_-rf_x"),
        (r"..\..\evil.czi", "evil"),
        ("away/../../evil.czi", "evil"),
        ("line\nend\x1b[31m.czi", "line_end_31m"),
    ],
)
def test_hostile_slide_names_become_safe_ids(
    tiny_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, slide_id: str
) -> None:
    home = tmp_path / "home"
    (home / "away").mkdir(parents=True)
    hostile = Path(shutil.copy(tiny_slide, home / name))
    code = run_command([str(a) for a in segment(hostile, home / "run", "--num-workers", 1)])
    assert code == 0, capsys.readouterr().err
    (entry,) = json.loads((home / "run" / "manifest.json").read_text())["slides"]
    assert entry["slide_id"] == slide_id
    assert (home / "run" / "cells" / f"{slide_id}.parquet").exists()
    made = {p for p in tmp_path.rglob("*") if home / "run" not in (p, *p.parents)}
    assert made == {home, home / "away", hostile.resolve()}, "nothing but the run is made"


@pytest.mark.parametrize("name", [b"Maus_\xe4.czi", b"a\xff\xfe\xe4/Maus.czi"], ids=["file", "folder"])
def test_a_slide_name_that_is_not_utf_8_is_taken(
    tiny_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: bytes
) -> None:
    latin = tmp_path / os.fsdecode(name)
    latin.parent.mkdir(exist_ok=True)
    shutil.copy(tiny_slide, latin)
    for command in (["inspect", "--preview", str(tmp_path / "p.png")], ["plan", "--czi-path"]):
        assert run_command([*command, str(latin)]) == 0, capsys.readouterr()
    for _ in range(2):  # the second time it is found again by its name
        assert run_command([str(a) for a in segment(latin, tmp_path / "run")]) == 0, capsys.readouterr()
    (entry,) = manifests.read(RunLayout(tmp_path / "run")).slides
    assert entry.slide_id == "Maus"
    assert os.fsencode(entry.path) == os.fsencode(latin.resolve())
    (tmp_path / "run" / "manifest.json").read_text(encoding="utf-8")
    for command in (["status"], ["merge"], ["gallery", "--out", str(tmp_path / "site"), "--run"]):
        assert run_command([*command, str(tmp_path / "run")]) == 0, capsys.readouterr()


def test_a_run_whose_name_is_not_utf_8_is_refused(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latin = tmp_path / os.fsdecode(b"Lauf_\xe4")
    for command in (segment(slide, latin), ["status", latin], ["merge", latin]):
        code, message = refused(capsys, command)
        assert code == 3
        assert message.splitlines() == [
            rf"mkhspc: {tmp_path}/Lauf_\udce4: the name of a run's directory must be UTF-8",
            "  give another, or rename it",
        ]
    assert not latin.exists()


def test_a_slide_name_too_long_for_the_files_of_a_run(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = slide.rename(tmp_path / f"{'x' * 200}.czi")
    code, message = refused(capsys, segment(long, tmp_path / "run"))
    assert code == 3
    assert "rename the slide" in message
    assert not (tmp_path / "run").exists()


def test_one_slide_under_two_names(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link.czi").symlink_to(slide)
    code, message = refused(capsys, segment(slide, tmp_path / "run", "--czi-path", tmp_path / "link.czi"))
    assert code == 3
    assert "one slide under two names" in message
    assert not (tmp_path / "run").exists()


def test_a_missing_slide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused(capsys, segment(tmp_path / "none.czi", tmp_path / "run"))
    assert code == 3
    assert "none.czi" in message


def test_an_unknown_config_key_lists_the_valid_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.toml").write_text("[run]\ntile_sise = 3\n")
    code, message = refused(capsys, ["segment", "--config", tmp_path / "study.toml"])
    assert code == 3
    assert "tile_sise" in message
    assert "tile_size" in message


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('[run]\nslides = ["no\\nsuch\\u001b[31m.czi"]\noutput_dir = "run"\n', 3),
        ('[run]\n"tile\\nsize\\u001b[31m" = 3\n', 3),
        ('[mk]\ndetector = "a\\nb\\u001b[31m"\n', 3),
        ('[groups]\n"A\\nB\\u001b[31m" = "F"\n', 3),
    ],
)
def test_line_ends_and_escape_codes_of_a_config_are_not_let_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, code: int
) -> None:
    (tmp_path / "study.toml").write_text(text)
    found, message = refused(capsys, ["segment", "--config", tmp_path / "study.toml"])
    assert found == code
    assert r"\n" in message
    assert "\x1b" not in message


def test_line_ends_in_the_name_of_a_folder_are_not_let_through(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a\nb", "c\nd\x1b[31m"):
        (tmp_path / folder).mkdir()
        shutil.copy(slide, tmp_path / folder / "slide.czi")
    both = [tmp_path / folder / "slide.czi" for folder in ("a\nb", "c\nd\x1b[31m")]
    code, message = refused(capsys, segment(both[0], tmp_path / "run", "--czi-path", both[1]))
    assert code == 3
    assert r"a\nb/slide.czi" in message
    assert "\x1b" not in message


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--mk-min-area-um", -1),
        ("--mk-min-area-um", 5000),
        ("--sample-fraction", 0),
        ("--sample-fraction", 1.5),
        ("--um-per-px", 0),
        ("--shard", "4/4"),
        ("--shard", "x"),
        ("--num-workers", 0),
        ("--device", "cuda:99"),
    ],
)
def test_values_out_of_range(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: object
) -> None:
    code, message = refused(capsys, segment(slide, tmp_path / "run", option, value))
    assert code == 2, message
    assert not (tmp_path / "run").exists()


def test_a_directory_that_is_no_run(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    code, message = refused(capsys, segment(slide, tmp_path / "run"))
    assert code == 3
    assert "holds files, but no run" in message
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_the_demo_does_not_write_over_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study.toml"
    study.write_text("[run]")
    code, message = refused(capsys, ["demo", "--out", tmp_path])
    assert (code, study.read_text()) == (2, "[run]")
    assert message == (
        f"mkhspc: {tmp_path}: is not empty, and `mkhspc demo` did not make it\n"
        "  give another folder with --out"
    )


def test_what_a_killed_creation_leaves_does_not_block_the_run(
    tiny_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json.0123abcd.17@node-1~00000000.partial").touch()
    code = run_command([str(a) for a in segment(tiny_slide, tmp_path / "run", "--num-workers", 1)])
    assert code == 0, capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(tmp_path_factory.mktemp("fake") / "run", slide_ids=("A", "B"), cells_per_type=10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("yes, no, yes", "JSON"),
        (r'{"mk": {"positive": ["A\n\u001b[31m_s0_mk_1_2", "A_s0_mk_3_4"], "negative": []}}', r"\n\x1b[31m"),
        ('["A_s0_mk_1_2", "A_s0_mk_3_4"]', ""),
        ('{"mk": {"negative": [1, 2, 3], "positive": [4]}}', "integer"),
        ('{"A_s0_mk_1_2": "perhaps"}', ""),
        ('{"something": "else"}', ""),
    ],
)
def test_annotations_that_cannot_be_used(
    run: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    labels, training = tmp_path / "labels.json", tmp_path / "training.json"
    labels.write_text(text)
    code, message = refused(
        capsys,
        ["convert", "--annotations", labels, "--base-dir", run.layout.root, "--output", training],
    )
    assert code == 3, message
    assert words in message
    assert not training.exists()


def test_no_annotations_at_all(run: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused(
        capsys, ["convert", "--base-dir", run.layout.root, "--output", tmp_path / "training.json"]
    )
    assert code == 2
    assert "--annotations" in message


def test_annotations_of_another_run(run: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [f"Z_s0_mk_{i}_{i}" for i in range(9)]
    labels, training = tmp_path / "labels.json", tmp_path / "training.json"
    labels.write_text(json.dumps({"mk": {"positive": other[:4], "negative": other[4:]}, "hspc": {}}))
    code, message = refused(
        capsys,
        ["convert", "--annotations", labels, "--base-dir", run.layout.root, "--output", training],
    )
    assert code == 3, message
    assert not training.exists()


class Bomb:
    """A pickle that would write a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.path)!r}, 'w')",)


def test_a_pickle_as_classifier_is_refused_and_not_loaded(
    run: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model.pkl", "model.skops"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
        code, message = refused(
            capsys, ["score", "--run", run.layout.root, "--mk-classifier", tmp_path / name]
        )
        assert code in (2, 3), message
        assert not (tmp_path / "boom").exists()
        assert not run.layout.scores("A").exists()


def test_the_notes_name_of_a_classifier_is_refused_with_the_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "training.json").write_text("{}")
    code, message = refused(
        capsys,
        ["train", "--training-data", tmp_path / "training.json", "--output-mk", "mk_classifier.pkl"],
    )
    assert code == 2
    assert "mk_classifier.skops" in message


def test_a_classifier_is_checked_before_a_night_of_segmenting(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mk.skops").write_bytes(b"no zip")
    code, message = refused(
        capsys, segment(slide, tmp_path / "run", "--mk-classifier", tmp_path / "mk.skops")
    )
    assert code == 3
    assert "mk.skops" in message
    assert not (tmp_path / "run").exists()


def test_a_classifier_of_another_run_is_refused_before_anything_is_made(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class OfAnotherRun:
        config_hash: str = "00ff"
        identity: dict[str, object] = field(default_factory=lambda: {"run.seed": 1})
        feature_names: tuple[str, ...] = ()

    monkeypatch.setattr(
        "mkhspc.run.classifiers.read_classifiers", lambda paths: {t: OfAnotherRun() for t in paths}
    )
    code, message = refused(capsys, segment(slide, tmp_path / "run", "--mk-classifier", "mk.skops"))
    assert code == 3
    assert "mk.skops: learned from a run with other settings" in message
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_reported_and_nothing_half_written_stays(
    run: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, message = refused(capsys, ["gallery", "--run", run.layout.root, "--out", "/proc/none/site"])
    assert code == 3, message
