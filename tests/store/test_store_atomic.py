from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mkhspc.errors import InputError
from mkhspc.process.identity import ProcessId, host_token
from mkhspc.store import atomic


def test_a_file_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "deep" / "a.txt", "whole")
    assert (tmp_path / "deep" / "a.txt").read_text() == "whole"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.txt"]


def fail_while_writing(path: Path) -> None:
    with atomic.replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")


def test_a_failed_write_leaves_the_old_file_and_no_directory(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a.txt", "old")
    for path in (tmp_path / "a.txt", tmp_path / "x" / "y" / "b.txt"):
        with pytest.raises(OSError, match="disk full"):
            fail_while_writing(path)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_first_to_create_a_file_wins(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with atomic.creating(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(FileExistsError), atomic.creating(path) as temporary:
        temporary.write_text("second")
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_json_without_a_json_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_a_killed_writer_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    atomic.write_text(path, "old")
    code = f"""
import sys, time
from pathlib import Path
from mkhspc.store import atomic
with atomic.replacing(Path({str(path)!r})) as temporary:
    temporary.write_text("new" * 1000)
    print("writing", flush=True)
    time.sleep(60)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert path.read_text() == "old"
    leftovers = [p.name for p in tmp_path.iterdir() if p != path]
    assert len(leftovers) == 1
    assert leftovers[0].endswith(atomic.TEMPORARY_SUFFIX)


NO_LINKS = """
import errno, os
def no_link(*_):
    raise OSError(errno.EPERM, "Operation not permitted")
os.link = no_link
"""


@pytest.mark.parametrize("before", ["", NO_LINKS])
def test_many_processes_that_create_one_file_agree_on_one_winner(tmp_path: Path, before: str) -> None:
    path = tmp_path / "m.json"
    start = time.time() + 0.7
    code = f"""{before}
import sys, time
from pathlib import Path
from mkhspc.store import atomic
time.sleep(max(0, {start} - time.time()))
try:
    with atomic.creating(Path({str(path)!r})) as t:
        t.write_text(sys.argv[1])
    print("won")
except FileExistsError:
    print("lost")
"""
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(6)
    ]
    results = [racer.communicate()[0].strip() for racer in racers]
    assert sorted(results) == ["lost"] * 5 + ["won"]
    assert path.read_text() == str(results.index("won"))
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]


def test_a_file_system_on_which_nobody_can_be_first_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Libc:
        @staticmethod
        def renameat2(*_: object) -> int:
            atomic.ctypes.set_errno(errno.EINVAL)
            return -1

    def no_link(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "link", no_link)
    for libc in (Libc, object()):  # a system call that the file system refuses, or that is not there
        monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_, libc=libc, **__: libc)
        with pytest.raises(InputError, match="can neither link") as error, atomic.creating(tmp_path / "a"):
            pass
        assert "another file system" in error.value.fix
        assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_a_link_for_another_reason_is_not_called_one_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"), atomic.creating(tmp_path / "a"):
        pass


@pytest.mark.parametrize("write", [atomic.replacing, atomic.creating])
@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, has_links: bool
) -> None:
    """Else a loss of power could leave the final name on a file without its bytes, or no name at all."""
    story: list[str] = []
    final = tmp_path / "new" / "a"
    fsync, link, replace, move = os.fsync, os.link, os.replace, atomic._move

    def synced(descriptor: int) -> None:
        synced_path = Path(f"/proc/self/fd/{descriptor}").readlink()
        known = {final.parent: "directory", tmp_path: "parent"}
        story.append(known.get(synced_path, f"file of {synced_path.stat().st_size} bytes"))
        fsync(descriptor)

    def named(real: Any) -> Any:
        def call(*paths: Path) -> None:
            if real is link and not has_links:
                raise OSError(errno.EPERM, "Operation not permitted")
            real(*paths)
            story.append("name")

        return call

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", named(link))
    monkeypatch.setattr(os, "replace", named(replace))
    monkeypatch.setattr(atomic, "_move", named(move))
    with write(final) as temporary:
        temporary.write_text("12345")
    assert story == ["file of 5 bytes", "name", "directory", "parent"]
    assert final.read_text() == "12345"


def test_the_time_of_a_directory_is_that_of_its_files(tmp_path: Path) -> None:
    before = (tmp_path / "a").touch() or (tmp_path / "a").stat().st_mtime
    assert 0.0 <= atomic.file_system_time(tmp_path) - before < 60.0
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["a.txt", "s0_4096_8192.parquet", "x" * 250, "μ" * 120, "a@b.5@c.partial"])
def test_a_temporary_name_tells_its_writer(tmp_path: Path, name: str) -> None:
    with atomic.replacing(tmp_path / name) as temporary:
        temporary.write_text("x")
        assert temporary.exists()
        assert atomic.writer_of(temporary) == ProcessId(host_token(), os.getpid())
    assert (tmp_path / name).read_text() == "x"


@pytest.mark.parametrize("name", ["a.txt", "a.partial", "a.5@host", "a.x@host.partial"])
def test_another_name_tells_no_writer(name: str) -> None:
    assert atomic.writer_of(Path("/run") / name) is None


def test_threads_that_write_one_file_leave_one_whole(tmp_path: Path) -> None:
    texts = [str(i) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=atomic.write_text, args=(tmp_path / "a", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in texts
    assert len(list(tmp_path.iterdir())) == 1


def test_a_directory_taken_away_is_made_again(tmp_path: Path) -> None:
    is_over = threading.Event()

    def take_away() -> None:
        while not is_over.is_set():
            with suppress(OSError):
                (tmp_path / "d").rmdir()
            time.sleep(1e-4)

    thief = threading.Thread(target=take_away)
    thief.start()
    try:
        for i in range(100):
            atomic.write_text(tmp_path / "d" / "a", str(i))
            assert (tmp_path / "d" / "a").read_text() == str(i)
            (tmp_path / "d" / "a").unlink()
    finally:
        is_over.set()
        thief.join()


def test_a_link_that_a_server_made_and_denied_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_and_deny(*paths: Path) -> None:
        link(*paths)
        raise FileExistsError

    monkeypatch.setattr(os, "link", link_and_deny)
    with atomic.creating(tmp_path / "a") as temporary:
        temporary.write_text("first")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(FileExistsError), atomic.creating(tmp_path / "a") as temporary:
        temporary.write_text("second")
    assert (tmp_path / "a").read_text() == "first"
