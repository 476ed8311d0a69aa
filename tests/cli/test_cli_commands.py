"""Every command has help with an example, is documented, and fails as the contract says."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipeline.cli import COMMANDS, cli, run_command


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


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str, repository: Path) -> None:
    pages = [repository / "README.md", *(repository / "docs").glob("*.md")]
    assert any(f"mkhspc {name}" in page.read_text(encoding="utf-8") for page in pages)


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["segmnt"]) == 2
    assert "segmnt" in capsys.readouterr().err


def test_an_unknown_option_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["segment", "--tile-sise", "3"]) == 2
    assert "--tile-sise" in capsys.readouterr().err


def test_an_error_is_at_most_two_lines_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["status", "/no/such/run"]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("mkhspc: /no/such/run: is no run")
    assert len(shown.err.splitlines()) <= 2


def test_verbose_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["-v", "status", "/no/such/run"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_the_version_is_that_of_the_package() -> None:
    from pipeline import __version__

    assert __version__ in CliRunner().invoke(cli, ["--version"]).output
