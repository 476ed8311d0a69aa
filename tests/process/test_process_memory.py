"""The memory of a process tree, against processes that take a known amount."""

from __future__ import annotations

import platform
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mkhspc.process.memory import (
    PAGE_BYTES,
    descendants,
    parent_in_stat,
    peak_bytes,
    peak_bytes_in_status,
    rss_bytes_in_statm,
    tree_rss_bytes,
)

MB = 1_000_000


@pytest.mark.parametrize("name", ["python3", "a b", "a) S 1 (b", "((", "x\ny)"])
def test_the_parent_is_found_behind_any_name(name: str) -> None:
    assert parent_in_stat(f"812 ({name}) S 77 812 812 0 -1 4194304 0 0") == 77


def test_memory_is_read_from_the_kernels_tables() -> None:
    assert rss_bytes_in_statm("5000 321 100 1 0 400 0\n", page_bytes=4096) == 321 * 4096


def test_a_peak_that_is_missing_is_none() -> None:
    assert peak_bytes_in_status("Name:\tx\nVmHWM:\t  2000 kB\n") == 2000 * 1024
    assert peak_bytes_in_status("Name:\tx\n") is None


def test_only_what_is_below_the_root_belongs_to_it() -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 10, 13: 12, 20: 1, 21: 20}
    assert sorted(descendants(parents, 10)) == [10, 11, 12, 13]
    assert descendants(parents, 99) == [99]


def test_a_number_given_anew_while_looking_does_not_hang() -> None:
    assert sorted(descendants({10: 11, 11: 10}, 10)) == [10, 11]


def write_process(proc: Path, pid: int, parent: int, pages: int) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "stat").write_text(f"{pid} (python) S {parent} 1 1\n")
    (folder / "statm").write_text(f"9999 {pages} 5 1 0 5 0\n")


def test_the_sum_is_over_the_tree_and_nothing_else(tmp_path: Path) -> None:
    write_process(tmp_path, 5, 1, 100)
    write_process(tmp_path, 6, 5, 50)
    write_process(tmp_path, 7, 6, 0)
    write_process(tmp_path, 8, 1, 1000)
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    assert tree_rss_bytes(5, tmp_path) == 150 * PAGE_BYTES


def test_a_process_that_ended_meanwhile_counts_nothing(tmp_path: Path) -> None:
    write_process(tmp_path, 5, 1, 100)
    write_process(tmp_path, 6, 5, 50)
    (tmp_path / "6" / "statm").unlink()
    assert tree_rss_bytes(5, tmp_path) == 100 * PAGE_BYTES
    assert tree_rss_bytes(404, tmp_path) == 0


@contextmanager
def running(script: str) -> Iterator[int]:
    """A Python process that has printed a line and now waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline()
        yield process.pid
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


FAMILY = """
    import os, sys, time
    held = bytearray(os.urandom(1)) * 80_000_000
    ready, say = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            own = bytearray(b"x") * 40_000_000
            os.write(say, b"!")
            sys.stdin.read()
            os._exit(0)
        sys.stdin.read()
        os._exit(0)
    os.read(ready, 1)
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_children_of_children_count_and_shared_pages_count_for_each() -> None:
    with running(FAMILY) as pid:
        found = tree_rss_bytes(pid)
        known = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        rss = sum(process.memory_info().rss for process in known)
    assert len(known) == 3
    assert found > 3 * 80 * MB + 40 * MB
    assert found == pytest.approx(rss, rel=0.02)


def test_the_tree_of_this_process_grows_and_shrinks_with_its_children() -> None:
    before = tree_rss_bytes()
    with running(FAMILY) as pid:
        assert tree_rss_bytes() - before > 3 * 80 * MB
    assert not Path(f"/proc/{pid}").exists()
    assert tree_rss_bytes() - before < 20 * MB


PEAK = """
    import sys
    from mkhspc.process.memory import peak_bytes, tree_rss_bytes
    first = peak_bytes()
    block = bytearray(b"x") * {mb}_000_000
    del block
    print(first, peak_bytes(), tree_rss_bytes(), flush=True)
"""


def test_the_peak_is_that_of_this_process_and_outlives_what_was_freed() -> None:
    held = bytearray(b"x") * (300 * MB)
    script = textwrap.dedent(PEAK.format(mb=150))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, peak, now = map(int, done.stdout.split())
    assert first < 100 * MB, "what its parent holds is not its own"
    assert peak - first > 140 * MB
    assert now < peak - 140 * MB
    assert (peak_bytes() or 0) > len(held)


GAPS = """
    from mkhspc.process.memory import give_back_gaps, tree_rss_bytes
    kept, freed = [], []
    for _ in range(2000):
        freed.append(bytes(60_000))
        kept.append(bytes(2_000))
    del freed
    before = tree_rss_bytes()
    give_back_gaps()
    print(before, tree_rss_bytes())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc keeps what was freed, and can give it back"
)
def test_gaps_between_what_is_kept_are_given_back() -> None:
    words = [sys.executable, "-c", textwrap.dedent(GAPS)]
    before, after = map(int, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    assert before - after > 60 * MB
