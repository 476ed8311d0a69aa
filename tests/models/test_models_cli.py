"""`mkhspc models`: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from weightserver import Served, content, names_in, serving, sha256, weight_of

from mkhspc.cli import run_command
from mkhspc.cli.models import models as models_group
from mkhspc.models.weights.catalogue import CATALOGUE

DATA = content(size_bytes=50_000)
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A catalogue of two files, `small` and `other`, and the server that both come from."""
    monkeypatch.setenv("MKHSPC_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("MKHSPC_OFFLINE", raising=False)
    with serving(Served(DATA)) as server:
        for name in list(CATALOGUE):
            monkeypatch.delitem(CATALOGUE, name)
        for name in ("small", "other"):
            monkeypatch.setitem(CATALOGUE, name, weight_of(DATA, server.url, name))
        yield server


@pytest.mark.parametrize("name", models_group.commands)
def test_help_has_an_example_and_a_word_for_every_option(name: str) -> None:
    command = models_group.commands[name]
    shown = CliRunner().invoke(command, ["--help"], prog_name=f"mkhspc models {name}")
    assert re.search(rf"Examples?:\n\s+mkhspc models {name}", shown.output), shown.output
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_no_command_is_wrong_usage_in_two_lines(capsys: Captured) -> None:
    assert run_command(["models"]) == 2
    assert capsys.readouterr().err == "mkhspc: Missing command.\n  see `mkhspc models --help`\n"


def test_list_shows_what_is_here_and_asks_nobody(served: Served, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small.pt.part").write_bytes(DATA[:1000])
    (tmp_path / "models" / "other.pt").write_bytes(DATA)
    assert run_command(["models", "list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].endswith("in part; fetch goes on")
    assert shown[2].endswith("here")
    assert run_command(["models", "list", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["directory"] == str(tmp_path / "models")
    small, other = facts["weights"]
    assert (small["state"], small["present_bytes"], small["size_bytes"]) == ("partial", 1000, len(DATA))
    assert (other["state"], other["path"]) == ("here", str(tmp_path / "models" / "other.pt"))
    assert other["sha256"] == sha256(DATA)
    assert served.asked == []


def test_fetch_prints_path_and_digest(served: Served, tmp_path: Path, capsys: Captured) -> None:
    assert run_command(["models", "fetch", "small"]) == 0
    shown = capsys.readouterr()
    path = tmp_path / "models" / "small.pt"
    assert shown.out == f"small  {path}  sha256 {sha256(DATA)}\n"
    assert {json.loads(line)["stage"] for line in shown.err.splitlines()} == {"small"}
    assert path.read_bytes() == DATA


def test_fetch_all_takes_each_once(served: Served, capsys: Captured) -> None:
    assert run_command(["models", "fetch", "all", "small", "--json"]) == 0
    assert [file["name"] for file in json.loads(capsys.readouterr().out)] == ["small", "other"]
    assert len(served.asked) == 2


def test_fetch_from_another_address_or_a_mirror(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("small", "other"):
        monkeypatch.setitem(CATALOGUE, name, weight_of(DATA, "http://127.0.0.1:9/nobody", name))
    assert run_command(["models", "fetch", "small", "--url", f"{served.url}?token=1"]) == 0
    assert run_command(["models", "fetch", "other", "--mirror", served.url.rpartition("/")[0]]) == 0
    assert len(served.asked) == 2


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["fetch"], "NAME"),
        (["fetch", "smal"], "no weights are called 'smal'"),
        (["verify", "smal"], "no weights are called 'smal'"),
        (["fetch", "all", "--url", "http://h/x"], "--url is the address of one file"),
        (["fetch", "small", "--url", "http://h/x", "--mirror", "http://h"], "--url is the address"),
        (["fetch", "small", "--url", "file:///etc/passwd"], "is not the address of a web server"),
    ],
)
def test_wrong_usage(served: Served, arguments: list[str], what: str, capsys: Captured) -> None:
    assert run_command(["models", *arguments]) == 2
    spoken = capsys.readouterr().err
    assert what in spoken
    assert len(spoken.splitlines()) == 2
    assert served.asked == []


@pytest.mark.parametrize("way", ["option", "variable"])
def test_offline_asks_nobody(
    served: Served, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    if way == "variable":
        monkeypatch.setenv("MKHSPC_OFFLINE", "1")
    arguments = ["models", "fetch", "small", *(["--offline"] if way == "option" else [])]
    assert run_command(arguments) == 3
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("mkhspc: small: the weights are not in")
    assert "copy small.pt" in second
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small.pt").write_bytes(DATA)
    assert run_command(arguments) == 0
    assert served.asked == []


def test_a_wrong_file_ends_with_3_and_a_refusal_too(served: Served, tmp_path: Path, capsys: Captured) -> None:
    served.data = content(2, len(DATA))
    assert run_command(["models", "fetch", "small"]) == 3
    served.refusals = [(404, None)]
    assert run_command(["models", "fetch", "small"]) == 3
    spoken = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
    assert len(spoken) == 4
    assert names_in(tmp_path / "models") == set()


def test_verify_reads_every_byte(served: Served, tmp_path: Path, capsys: Captured) -> None:
    assert run_command(["models", "verify"]) == 1
    assert "no weights are here" in capsys.readouterr().err
    assert run_command(["models", "fetch", "all"]) == 0
    assert run_command(["models", "verify"]) == 0
    capsys.readouterr()
    path = tmp_path / "models" / "small.pt"
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(30_000)
        file.write(bytes(1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # a bit that fell over leaves no time
    assert run_command(["models", "verify", "--json"]) == 1
    shown = capsys.readouterr()
    assert [entry["verdict"] for entry in json.loads(shown.out)] == ["damaged", "right"]
    assert "1 of 2 are not the published files: small" in shown.err
    assert "models fetch small" in shown.err
    assert run_command(["models", "fetch", "small"]) == 0, "what verify found is not forgotten"
    assert path.read_bytes() == DATA
    path.unlink()
    assert run_command(["models", "verify"]) == 0
    assert run_command(["models", "verify", "small", "other"]) == 1
    assert "missing" in capsys.readouterr().out
