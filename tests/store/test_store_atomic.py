from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.store import atomic


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
from pipeline.store import atomic
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


def test_many_processes_that_create_one_file_agree_on_one_winner(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    start = time.time() + 0.7
    code = f"""
import sys, time
from pathlib import Path
from pipeline.store import atomic
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


@pytest.mark.parametrize("name", ["a.txt", "s0_4096_8192.parquet", "x" * 250, "μ" * 120, "a@b.5@c.partial"])
def test_a_temporary_name_tells_its_writer(tmp_path: Path, name: str) -> None:
    with atomic.replacing(tmp_path / name) as temporary:
        temporary.write_text("x")
        assert temporary.exists()
        assert atomic.owner_of(temporary) == atomic.Owner(socket.gethostname(), os.getpid())
    assert (tmp_path / name).read_text() == "x"


@pytest.mark.parametrize("name", ["a.txt", "a.partial", "a.5@host", "a.x@host.partial"])
def test_another_name_tells_no_writer(name: str) -> None:
    assert atomic.owner_of(Path("/run") / name) is None


def test_a_process_that_ended_is_not_running() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not atomic.Owner(socket.gethostname(), ended.pid).is_running
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert zombie.stdout is not None
    zombie.stdout.read()
    deadline_s = time.monotonic() + 10
    while atomic.Owner(socket.gethostname(), zombie.pid).is_running and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not atomic.Owner(socket.gethostname(), zombie.pid).is_running
    zombie.wait()
    assert atomic.Owner(socket.gethostname(), os.getpid()).is_running
    assert atomic.Owner(socket.gethostname(), os.getpid()).is_here
    assert not atomic.Owner("elsewhere", os.getpid()).is_here


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
