"""Odd slides through the commands: what `inspect` says is what `plan` and `segment` do."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from czifiles import ZSTD, Block, bend_entry, mosaic_blocks, substitute, write_czi
from mkhspc.cli import run_command
from mkhspc.slide.czi.slide import CziSlide

UM_PER_PX = 0.22
Make = Callable[[Path, NDArray[np.uint8]], Path]


@pytest.fixture(scope="module")
def marrow(tiny_slide: Path) -> NDArray[np.uint8]:
    with CziSlide.open(tiny_slide) as slide:
        return slide.read(0, slide.scene(0).box)


def cut(rgb: NDArray[np.uint8], scene: int = 0, channel: int = 0, x: int = 0) -> list[Block]:
    blocks = mosaic_blocks(rgb, (x, 0), 300, 20, scene)
    return [Block(block.pixels, block.x, block.y, scene, {"C": channel}) for block in blocks]


def written(path: Path, blocks: Sequence[Block]) -> Path:
    return write_czi(path, blocks, UM_PER_PX, compression=ZSTD, channel="Brightfield")


def plain(path: Path, rgb: NDArray[np.uint8]) -> Path:
    return written(path, cut(rgb))


def two_channels(path: Path, rgb: NDArray[np.uint8]) -> Path:
    return written(path, [*cut(rgb // 4), *cut(rgb, channel=1)])


def gray_scene(path: Path, rgb: NDArray[np.uint8]) -> Path:
    return written(path, [*cut(rgb), Block(np.full((90, 90), 900, np.uint16), 9000, 0, 1)])


def gray_channel(path: Path, rgb: NDArray[np.uint8]) -> Path:
    return written(path, [*cut(rgb), Block(np.full((90, 90), 9, np.uint8), 0, 0, 0, {"C": 1})])


def empty_entry(path: Path, rgb: NDArray[np.uint8]) -> Path:
    path = written(path, [*cut(rgb), Block(rgb[:1, :1], 0, 0)])
    bend_entry(path, len(cut(rgb)), size_px=(0, 0), stored_px=(0, 0))
    return path


def merged(path: Path, rgb: NDArray[np.uint8]) -> Path:
    return written(path, [*cut(rgb), Block(rgb, 0, 0, 1)])


def broken_metadata(path: Path, rgb: NDArray[np.uint8]) -> Path:
    path = plain(path, rgb)
    substitute(path, b"</ImageDocument>", b"<ImageDocument/>")
    return path


def odd_metadata(path: Path, rgb: NDArray[np.uint8]) -> Path:
    path = plain(path, rgb)
    substitute(path, b">test<", b">t\0\xb5\x02<")
    return path


def in_two_files(path: Path, rgb: NDArray[np.uint8]) -> Path:
    path = plain(path, rgb)
    bend_entry(path, 1, part=1)
    return path


class Outcome:
    """What `segment` did with a slide that always has one name, for calibration draws by it."""

    def __init__(self, folder: Path, make: Make, rgb: NDArray[np.uint8], *options: object) -> None:
        folder.mkdir()
        self.slide = make(folder / "S.czi", rgb)
        self.run = folder / "run"
        self.options = [str(option) for option in options]

    def segment(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
        """The exit code, and what was said, detectors apart."""
        words = ["--czi-path", str(self.slide), "--output-dir", str(self.run), "--num-workers", "1"]
        capsys.readouterr()
        code = run_command(["segment", *words, *self.options])
        lines = [line.removeprefix("mkhspc: ") for line in capsys.readouterr().err.splitlines()]
        return code, [line for line in lines if not line.startswith("{") and "by the detector" not in line]

    def inspect(self, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        options = [] if "--scene" in self.options else self.options
        assert run_command(["inspect", str(self.slide), "--json", *options]) == code
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    @property
    def cells(self) -> pa.Table:
        return pq.read_table(self.run / "cells" / "S.parquet").replace_schema_metadata(None)

    @property
    def entry(self) -> dict[str, Any]:
        (entry,) = json.loads((self.run / "manifest.json").read_text())["slides"]
        found: dict[str, Any] = entry
        return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, marrow: NDArray[np.uint8]) -> pa.Table:
    outcome = Outcome(tmp_path_factory.mktemp("plain") / "a", plain, marrow)
    words = ["--czi-path", outcome.slide, "--output-dir", outcome.run, "--num-workers", 1]
    assert run_command(["segment", *map(str, words)]) == 0
    assert outcome.cells.num_rows > 3
    return outcome.cells


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (two_channels, ("--channel", 1), ["channel 1 (Channel:1) is read; "]),
        (gray_scene, (), ["scene 1 is left out: it has no RGB image (pixel type gray16)"]),
        (gray_channel, (), ["channel 0 (Brightfield) is read; "]),
        (empty_entry, (), ["1 entry of its directory without width or height is left out"]),
        (merged, ("--scene", 0), []),
        (odd_metadata, (), []),
        (broken_metadata, ("--um-per-px", UM_PER_PX), []),
    ],
)
def test_what_is_read_gives_the_cells_of_the_slide_without_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    marrow: NDArray[np.uint8],
    expected: pa.Table,
    make: Make,
    options: tuple[object, ...],
    said: list[str],
) -> None:
    outcome = Outcome(tmp_path / "a", make, marrow, *options)
    found = outcome.inspect(capsys)
    code, lines = outcome.segment(capsys)
    assert code == 0
    assert outcome.cells.equals(expected)
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert line.startswith(f"{outcome.slide}: {words}")
    assert found["segment_refuses_because"] is None
    if "--scene" not in options:
        assert [f"{outcome.slide}: {note}" for note in found["notes"]] == lines
    assert outcome.segment(capsys) == (0, []), "said once"


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (
            two_channels,
            ("--channel", 2),
            "has no channel 2; its channels are 0 (Brightfield, bgr24), 1 (Channel:1, bgr24)",
        ),
        (
            gray_channel,
            ("--channel", 1),
            "has no RGB image in channel 1; its channels are 0 (Brightfield, bgr24), 1 (Channel:1, gray8)",
        ),
        (plain, ("--channel", 1), "has no channel 1; its channels are 0 (Brightfield, bgr24)"),
        (broken_metadata, (), "has metadata that cannot be read ("),
    ],
)
def test_what_is_refused_is_refused_by_all_with_one_reason(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    marrow: NDArray[np.uint8],
    make: Make,
    options: tuple[object, ...],
    words: str,
) -> None:
    outcome = Outcome(tmp_path / "a", make, marrow, *options)
    assert outcome.inspect(capsys, code=3)["segment_refuses_because"].startswith(words)
    code, lines = outcome.segment(capsys)
    assert code == 3
    assert len(lines) == 2
    assert lines[0].startswith(f"{outcome.slide}: {words}")
    assert run_command(["plan", "--czi-path", str(outcome.slide), *outcome.options]) == 3
    assert capsys.readouterr().err.startswith(f"mkhspc: {outcome.slide}: {words}")
    assert not outcome.run.exists()


def test_a_gray_scene_that_is_asked_for_is_refused_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], marrow: NDArray[np.uint8]
) -> None:
    outcome = Outcome(tmp_path / "a", gray_scene, marrow, "--scene", 1)
    code, lines = outcome.segment(capsys)
    assert code == 3
    assert lines == [
        f"{outcome.slide}: scene 1 is not RGB: it holds gray16 in channel 0",
        "  the scenes that can be read are 0",
    ]


def test_one_of_several_files_is_refused_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], marrow: NDArray[np.uint8]
) -> None:
    outcome = Outcome(tmp_path / "a", in_two_files, marrow)
    words = [
        f"{outcome.slide}: is one of several files of one scan: its directory lists images of part 1",
        "  save the scan as a single CZI file in ZEN",
    ]
    assert outcome.segment(capsys) == (3, words)
    for command in (["inspect"], ["plan", "--czi-path"]):
        assert run_command([*command, str(outcome.slide)]) == 3
        assert capsys.readouterr().err == "mkhspc: " + "\n".join(words) + "\n"


class TestChannel:
    def test_the_manifest_names_the_one_that_is_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], marrow: NDArray[np.uint8]
    ) -> None:
        outcome = Outcome(tmp_path / "a", two_channels, marrow, "--channel", 1, "--sample-fraction", 0.1)
        assert outcome.segment(capsys)[0] == 0
        (scene,) = outcome.entry["scenes"]
        assert (scene["channel"], scene["channel_name"]) == (1, "Channel:1")
        manifest = json.loads((outcome.run / "manifest.json").read_text())
        assert manifest["config"]["run"]["channel"] == 1
        assert manifest["identity"]["run.channel"] == 1

    def test_another_one_is_another_run(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], marrow: NDArray[np.uint8]
    ) -> None:
        outcome = Outcome(tmp_path / "a", two_channels, marrow, "--channel", 1)
        assert outcome.segment(capsys)[0] == 0
        for options, here in (([], "not given"), (["--channel", "0"], "0")):
            outcome.options = options
            code, lines = outcome.segment(capsys)
            assert code == 3
            assert lines[0].endswith(
                f"the run was made with other settings: --channel is 1 there and {here} here"
            )

    def test_the_config_file_chooses_it_too(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], marrow: NDArray[np.uint8]
    ) -> None:
        study = tmp_path / "study.toml"
        study.write_text("[run]\nchannel = 1\n")
        outcome = Outcome(tmp_path / "a", two_channels, marrow, "--config", study, "--sample-fraction", 0.1)
        code, (line,) = outcome.segment(capsys)
        assert code == 0
        assert ": channel 1 (Channel:1) is read; " in line

    def test_without_a_choice_the_first_is_read_and_a_dark_one_warned_of_by_all(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], marrow: NDArray[np.uint8]
    ) -> None:
        outcome = Outcome(tmp_path / "a", two_channels, marrow)
        found = outcome.inspect(capsys)
        assert found["channels"] == ["Brightfield", "Channel:1"]
        assert found["rgb_channels"] == [0, 1]
        assert [scene["channel"] for scene in found["scenes"]] == [0]
        named, dark = found["notes"]
        assert named.startswith("channel 0 (Brightfield) is read; ")
        assert dark.startswith("channel 0 (Brightfield) is dark: ")
        assert dark.endswith("choose another: --channel 1")
        run_command(["plan", "--czi-path", str(outcome.slide)])
        planned = capsys.readouterr().err
        for note in (named, dark):
            assert f"mkhspc: {outcome.slide}: {note}\n" in planned
        assert [f"{outcome.slide}: {note}" for note in (named, dark)] == outcome.segment(capsys)[1][:2]

    def test_the_text_of_inspect_names_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], marrow: NDArray[np.uint8]
    ) -> None:
        outcome = Outcome(tmp_path / "a", two_channels, marrow)
        assert run_command(["inspect", str(outcome.slide), "--channel", "1"]) == 0
        text = capsys.readouterr().out
        assert "pixels      bgr24, Brightfield, Channel:1" in text
        assert "note        channel 1 (Channel:1) is read; " in text
        assert "dark" not in text

    def test_below_0_is_wrong_usage(self, tiny_slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run_command(["inspect", str(tiny_slide), "--channel", "-1"]) == 2
        assert "run.channel is -1; channels must be at least 0" in capsys.readouterr().err


def test_a_merged_picture_as_a_second_scene_is_warned_of_by_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], marrow: NDArray[np.uint8], expected: pa.Table
) -> None:
    outcome = Outcome(tmp_path / "a", merged, marrow)
    (note,) = outcome.inspect(capsys)["notes"]
    assert note.startswith("scenes 0 and 1 lie over one another: ")
    assert note.endswith("cells there count twice; choose one with --scene 0 or --scene 1")
    code, lines = outcome.segment(capsys)
    assert (code, lines) == (0, [f"{outcome.slide}: {note}"])
    assert outcome.cells.num_rows >= 2 * expected.num_rows - 3
