"""Every command has help with an example, is documented, and fails as the contract says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner

from mkhspc.cli import COMMANDS, cli, run_command
from mkhspc.cli.options import command_line
from mkhspc.config import NO_EMBEDDER, ORDERS
from mkhspc.gallery.options import SiteOptions
from mkhspc.learn.classifier.models import ModelName, ThresholdFor
from mkhspc.learn.labels.resolve import OnConflict
from mkhspc.models.embedders import ARCHITECTURES
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout
from processes import mkhspc
from runs import make_run


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_a_summary_and_an_example(name: str) -> None:
    shown = CliRunner().invoke(command(name), ["--help"], prog_name=f"mkhspc {name}")
    assert shown.exit_code == 0
    assert re.search(rf"Examples?:\n\s+mkhspc {name}", shown.output), shown.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_word_of_help(name: str) -> None:
    options = [p for p in command(name).params if isinstance(p, click.Option)]
    assert [o.name for o in options if not o.help] == []


def test_help_names_the_size_filter_of_a_new_run() -> None:
    shown = " ".join(CliRunner().invoke(command("segment"), ["--help"]).output.split())
    assert "--mk-min-area-um FLOAT Smallest MK (the whole cell), in µm². [100]" in shown
    assert "--hspc-max-area-um FLOAT Largest HSPC, in µm². [150]" in shown
    refilter = " ".join(CliRunner().invoke(command("refilter"), ["--help"]).output.split())
    assert "[100]" not in refilter, "there the default is the run's own"


def test_commands_to_copy_call_the_program_that_is_there_and_quote_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "bin" / "mkhspc"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", [str(program)])
    assert command_line("serve", "my site") == f"{program} serve 'my site'"
    monkeypatch.setattr("sys.argv", ["/lib/mkhspc/__main__.py"])
    assert command_line("serve", "site") == f"{sys.executable} -P -m mkhspc serve site"
    monkeypatch.setenv("PATH", str(program.parent))
    for called in ("/lib/mkhspc/__main__.py", str(program), "mkhspc"):
        monkeypatch.setattr("sys.argv", [called])
        assert command_line("serve", "site") == "mkhspc serve site"
    run = make_run(tmp_path / "my run", slide_ids=("A",), cells_per_type=10)
    assert run_command(["refilter", str(run.layout.root), "--mk-min-area-um", "120"]) == 0
    shown = capsys.readouterr().out
    assert f"next: mkhspc gallery --run '{run.layout.root}' --out SITE" in shown
    assert "tiles:" in shown


def test_refilter_names_the_slides_that_it_cannot_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A", "B"), cells_per_type=10)
    words = ["refilter", str(run.layout.root), "--mk-min-area-um", "120"]
    assert run_command(words) == 0
    assert "no tables yet" not in capsys.readouterr().err
    run.layout.cells("B").unlink()
    assert run_command(words) == 0
    said = capsys.readouterr().err
    assert f"no tables yet: B; to make them: mkhspc merge {run.layout.root}\n" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str, repository: Path) -> None:
    pages = [repository / "README.md", *(repository / "docs").glob("*.md")]
    assert any(f"mkhspc {name}" in page.read_text(encoding="utf-8") for page in pages)


@pytest.mark.parametrize(
    ("arguments", "what", "see"),
    [
        (["segmnt"], "'segmnt'", "mkhspc --help"),
        (["segment", "--tile-sise", "3"], "--tile-sise", "mkhspc segment --help"),
        (["segment", "--tile-size", "big"], "'big' is not a valid integer", "mkhspc segment --help"),
        (["segment", "--tile-size", "a\nb\x1b[31m"], "'--tile-size'", "mkhspc segment --help"),
        (["segment", "--mk-detector", "magic"], "'classical'", "mkhspc segment --help"),
        (["merge"], "RUN", "mkhspc merge --help"),
        (["merge", "run", "extra"], "extra", "mkhspc merge --help"),
        (["convert"], "--", "mkhspc convert --help"),
        (["-v"], "command", "mkhspc --help"),
    ],
)
def test_wrong_usage_is_two_lines_what_and_where_to_read_more(
    capsys: pytest.CaptureFixture[str], arguments: list[str], what: str, see: str
) -> None:
    assert run_command(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    first, second = shown.err.splitlines()
    assert first.startswith("mkhspc: ")
    assert what in first
    assert second == f"  see `{see}`"
    assert "\x1b" not in shown.err


@pytest.mark.parametrize("form", ["--annotations a.json b.json", "--annotations a.json --annotations b.json"])
def test_convert_takes_what_a_shell_makes_of_a_wildcard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",), cells_per_type=10)
    ids = list(run.truth)
    for name, part in (("a", ids[:9]), ("b", ids[9:])):
        (tmp_path / f"{name}.json").write_text(json.dumps({i: int(run.truth[i]) for i in part}))
    monkeypatch.chdir(tmp_path)
    code = run_command(["convert", *form.split(), "--base-dir", "run", "--output", "training.json", "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert [file["file"] for file in json.loads(shown.out)["files"]] == ["a.json", "b.json"]
    assert len(json.loads(Path("training.json").read_text())["samples"]) > 9


def test_no_command_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([]) in (0, 2)  # click changed its mind between versions
    shown = capsys.readouterr()
    assert "Start here:" in shown.out + shown.err


def test_an_error_is_at_most_two_lines_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["status", "/no/such/run"]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("mkhspc: /no/such/run: there is no such run")
    assert len(shown.err.splitlines()) <= 2


def test_memory_that_ran_out_is_said_in_two_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise MemoryError("Unable to allocate 14.5 GiB")

    monkeypatch.setattr("mkhspc.store.manifest.read", full)
    assert run_command(["status", "run"]) == 3
    assert capsys.readouterr().err.splitlines() == [
        "mkhspc: the memory is not enough",
        "  run it where more is free",
    ]


def test_verbose_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["-v", "status", "/no/such/run"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_the_version_is_that_of_the_package() -> None:
    from mkhspc import __version__

    assert __version__ in CliRunner().invoke(cli, ["--version"]).output


def test_the_choices_of_options_are_those_that_the_code_knows() -> None:
    """The command line names them itself, so that help needs no scientific library."""

    def choices(name: str, option: str) -> tuple[str, ...]:
        (found,) = (p for p in command(name).params if f"--{option}" in p.opts)
        assert isinstance(found.type, click.Choice)
        return tuple(found.type.choices)

    assert choices("train", "model") == get_args(ModelName)
    assert choices("train", "threshold-for") == get_args(ThresholdFor)
    assert choices("convert", "on-conflict") == get_args(OnConflict)
    assert set(choices("segment", "embedder")) == {NO_EMBEDDER, *ARCHITECTURES, "sam2"}
    assert choices("gallery", "order") == ORDERS


def test_the_defaults_in_help_are_those_of_the_settings() -> None:
    shown = " ".join(CliRunner().invoke(command("gallery"), ["--help"]).output.split())
    site = SiteOptions(Path("site"))
    assert f"Cells on a page. [{site.cards_per_page}]" in shown
    assert f"[{site.max_site_mb:g}]" in shown
    assert f"[default: {site.blind_repeats}]" in shown


def test_slides_are_arguments_too(tiny_slide: Path, tmp_path: Path) -> None:
    done = mkhspc("segment", tiny_slide, "--output-dir", tmp_path / "run", "--sample-fraction", 0.1)
    assert done.returncode == 0, done.stderr
    assert [slide.slide_id for slide in manifests.read(RunLayout(tmp_path / "run")).slides] == ["TINY"]


@pytest.mark.parametrize("words", [["merge"], ["status"], ["clean"], ["refilter", "--mk-min-area-um", "120"]])
def test_a_run_is_named_as_an_argument_or_with_run(words: list[str], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("A",))
    root = str(run.layout.root)
    assert run_command([*words, root]) == run_command([*words, "--run", root])


@pytest.mark.parametrize(
    ("given", "said"), [([], "no run is named"), (["a", "--run", "b"], "two runs are named")]
)
def test_a_command_takes_one_run(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["status", *given]) == 2
    assert said in capsys.readouterr().err
