"""`mkhspc clean`: what killed processes left goes, what may be in use stays."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mkhspc.cli import run_command
from mkhspc.cluster.clean import OTHER_HOST_AGE_S, find_leftovers, remove, tidy
from mkhspc.process.identity import host_token
from mkhspc.store import atomic
from mkhspc.store.layout import RunLayout
from runs import make_run


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return make_run(tmp_path / "run", slide_ids=("A",), cells_per_type=1).layout


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def temporary(final: Path, pid: int, host: str = "", age_s: float = 0.0) -> Path:
    final.parent.mkdir(parents=True, exist_ok=True)
    path = final.with_name(f"{final.name}.0123abcd.{pid}@{host or host_token()}.partial")
    path.write_bytes(b"x" * 1000)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def everything(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_clean_run_has_no_leftovers(layout: RunLayout) -> None:
    before = everything(layout.root)
    found = find_leftovers(layout)
    remove(found)
    assert (found.files, found.directories) == ([], [])
    assert everything(layout.root) == before


def test_what_a_killed_writer_left_goes_and_its_target_stays(layout: RunLayout) -> None:
    code = f"""
import os, signal
from pathlib import Path
from mkhspc.store import atomic
with atomic.replacing(Path({str(layout.cells("A"))!r})) as half:
    half.write_bytes(b"x" * 5000)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    before = everything(layout.root)
    subprocess.run([sys.executable, "-c", code], check=False)
    found = find_leftovers(layout)
    assert [(f.path.suffix, f.size_bytes, f.is_stale) for f in found.files] == [(".partial", 5000, True)]
    remove(found)
    assert everything(layout.root) == before


def test_the_file_of_a_living_writer_stays_however_old(layout: RunLayout) -> None:
    with atomic.replacing(layout.cells("A")) as half:
        half.write_text("half")
        os.utime(half, (0, 0))
        found = find_leftovers(layout)
        remove(found)
        assert [(f.path, f.is_stale) for f in found.files] == [(half, False)]
        assert f"process {os.getpid()} is running" in found.files[0].reason
        assert half.exists()


@pytest.mark.parametrize(
    ("age_s", "is_stale"), [(OTHER_HOST_AGE_S - 60, False), (OTHER_HOST_AGE_S + 60, True)]
)
def test_a_file_of_another_host_goes_when_it_is_old(layout: RunLayout, age_s: float, is_stale: bool) -> None:
    path = temporary(layout.cells("A"), os.getpid(), "node-7.cluster", age_s)
    found = find_leftovers(layout)
    remove(found)
    assert [f.is_stale for f in found.files] == [is_stale]
    assert "node-7.cluster" in found.files[0].reason
    assert path.exists() is not is_stale


@pytest.mark.parametrize("off_s", [-3600.0, 3600.0])
def test_a_clock_of_the_looking_host_that_jumps_removes_nothing(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    path = temporary(layout.cells("A"), os.getpid(), "node-7.cluster", 1800)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + off_s)
    for age_s, is_stale in ((2000, False), (1000, True)):
        assert [f.is_stale for f in find_leftovers(layout, age_s).files] == [is_stale]
    assert path.exists()


def test_the_file_of_a_process_in_a_container_of_this_hosts_name_stays(layout: RunLayout, gone: int) -> None:
    path = temporary(layout.cells("A"), gone, f"{socket.gethostname()}~00000000")
    remove(find_leftovers(layout))
    assert path.exists()


def test_a_run_is_tidied_of_directories_that_are_empty_and_of_nothing_else(
    layout: RunLayout, gone: int
) -> None:
    half = temporary(layout.part("C", "s0_0_0"), gone)
    before = everything(layout.root)
    for empty in (layout.part("B", "x").parent, layout.logs, layout.root / "notes"):
        empty.mkdir()
    tidy(layout)
    assert not layout.part("B", "x").parent.exists()
    assert not layout.logs.exists()
    assert (layout.root / "notes").exists(), "a user's"
    assert half.exists()
    assert everything(layout.root) == before


def test_a_file_that_names_no_writer_goes_when_it_is_old(layout: RunLayout) -> None:
    young, old = layout.root / "a.partial", layout.root / "b.partial"
    for path in (young, old):
        path.touch()
    os.utime(old, (0, 0))
    remove(find_leftovers(layout))
    assert (young.exists(), old.exists()) == (True, False)


def test_a_claim_goes_with_its_process(layout: RunLayout, gone: int) -> None:
    stale, held = layout.claim("A", "s0_1_1"), layout.claim("A", "s0_2_2")
    stale.write_text(f"{host_token()} {gone} 00000000")
    held.write_text(f"{host_token()} {os.getpid()} 00000000")
    remove(find_leftovers(layout))
    assert (stale.exists(), held.exists()) == (False, True)


def test_directories_that_are_empty_then_go_too(layout: RunLayout, gone: int) -> None:
    temporary(layout.part("B", "s0_0_0"), gone)
    kept = temporary(layout.part("C", "s0_0_0"), os.getpid())
    layout.logs.mkdir()
    found = find_leftovers(layout)
    remove(found)
    assert found.directories == [layout.logs, layout.part("B", "x").parent]
    assert not any(path.exists() for path in found.directories)
    assert kept.exists()


def test_what_a_user_keeps_in_the_run_is_not_looked_at(layout: RunLayout, gone: int) -> None:
    theirs = temporary(layout.root / "site" / "index.html", gone)
    (layout.root / "notes").mkdir()
    (layout.root / "cells" / "download.part").touch()
    remove(find_leftovers(layout))
    assert theirs.exists()
    assert (layout.root / "notes").is_dir()
    assert (layout.root / "cells" / "download.part").exists()


def test_a_link_is_not_followed(layout: RunLayout, gone: int, tmp_path: Path) -> None:
    outside = temporary(tmp_path / "outside" / "a", gone)
    (layout.root / "parts" / "linked").symlink_to(outside.parent)
    remove(find_leftovers(layout))
    assert outside.exists()


def test_a_temporary_name_beside_its_final_one_frees_nothing(layout: RunLayout, gone: int) -> None:
    path = temporary(layout.root / "x", gone)
    path.unlink()
    os.link(layout.cells("A"), path)
    found = find_leftovers(layout)
    remove(found)
    assert [f.size_bytes for f in found.files] == [0]
    assert layout.cells("A").exists()
    assert not path.exists()


def test_the_command_says_what_it_removed(
    layout: RunLayout, gone: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = temporary(layout.part("B", "s0_0_0"), gone)
    other = temporary(layout.cells("A"), 12, "node-7")
    name = str(path.relative_to(layout.root))
    assert run_command(["clean", str(layout.root), "--dry-run"]) == 0
    assert f"would remove {name} (1,000 bytes): process {gone} is gone" in capsys.readouterr().out
    assert path.exists()
    assert run_command(["clean", str(layout.root), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["removed"] == [{"path": name, "bytes": 1000, "reason": f"process {gone} is gone"}]
    assert facts["removed_bytes"] == 1000
    assert facts["removed_directories"] == ["parts/B"]
    assert [kept["path"] for kept in facts["kept"]] == [str(other.relative_to(layout.root))]
    assert not path.exists()
    assert run_command(["clean", str(layout.root), "--other-hosts-after-h", "0"]) == 0
    assert "removed 1 temporary files, 1,000 bytes; kept 0" in capsys.readouterr().out
    assert not other.exists()


def test_a_directory_that_is_no_run_is_not_cleaned(
    tmp_path: Path, gone: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = temporary(tmp_path / "downloads" / "film", gone)
    assert run_command(["clean", str(path.parent)]) == 3
    assert "is not a run" in capsys.readouterr().err
    assert path.exists()
