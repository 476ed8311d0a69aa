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
    pss_bytes_in_rollup,
    rss_bytes_in_statm,
    tree_memory,
    tree_rss_bytes,
)

MB = 1_000_000


@pytest.mark.parametrize("name", ["python3", "a b", "a) S 1 (b", "((", "x\ny)"])
def test_the_parent_is_found_behind_any_name(name: str) -> None:
    assert parent_in_stat(f"812 ({name}) S 77 812 812 0 -1 4194304 0 0") == 77


def test_memory_is_read_from_the_kernels_tables() -> None:
    assert rss_bytes_in_statm("5000 321 100 1 0 400 0\n", page_bytes=4096) == 321 * 4096
    rollup = "5500-7fff ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:  640 kB\nPss_Anon:  600 kB\n"
    assert pss_bytes_in_rollup(rollup) == 640 * 1024
    assert pss_bytes_in_rollup("") == 0


def test_a_peak_that_is_not_told_is_none() -> None:
    assert peak_bytes_in_status("Name:\tx\nVmHWM:\t  2000 kB\n") == 2000 * 1024
    assert peak_bytes_in_status("Name:\tx\n") is None


def test_only_what_is_below_the_root_belongs_to_it() -> None:
    parents = {1: 0, 10: 1, 11: 10, 12: 10, 13: 12, 20: 1, 21: 20}
    assert sorted(descendants(parents, 10)) == [10, 11, 12, 13]
    assert descendants(parents, 99) == [99]


def test_a_number_given_anew_while_looking_does_not_hang() -> None:
    assert sorted(descendants({10: 11, 11: 10}, 10)) == [10, 11]


def write_process(proc: Path, pid: int, parent: int, pages: int, pss_kb: int | None) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "stat").write_text(f"{pid} (python) S {parent} 1 1\n")
    (folder / "statm").write_text(f"9999 {pages} 5 1 0 5 0\n")
    if pss_kb is not None:
        (folder / "smaps_rollup").write_text(f"head\nRss: 1 kB\nPss: {pss_kb} kB\n")


def test_the_sum_is_over_the_tree_and_nothing_else(tmp_path: Path) -> None:
    write_process(tmp_path, 5, 1, 100, 300)
    write_process(tmp_path, 6, 5, 50, 100)
    write_process(tmp_path, 7, 6, 0, 0)
    write_process(tmp_path, 8, 1, 1000, 4000)
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    found = tree_memory(5, tmp_path)
    assert (found.rss_bytes, found.pss_bytes) == (150 * PAGE_BYTES, 400 * 1024)
    assert (found.processes, found.is_exact) == (3, True)
    assert tree_rss_bytes(5, tmp_path) == found.rss_bytes


def test_a_process_that_ended_meanwhile_counts_nothing(tmp_path: Path) -> None:
    write_process(tmp_path, 5, 1, 100, 300)
    write_process(tmp_path, 6, 5, 50, 100)
    for name in ("statm", "smaps_rollup"):
        (tmp_path / "6" / name).unlink()
    assert tree_memory(5, tmp_path).rss_bytes == 100 * PAGE_BYTES
    assert tree_rss_bytes(5, tmp_path) == 100 * PAGE_BYTES
    assert tree_memory(404, tmp_path).processes == 0


def test_shares_that_the_kernel_does_not_tell_are_bounded_from_above(tmp_path: Path) -> None:
    write_process(tmp_path, 5, 1, 100, 300)
    write_process(tmp_path, 6, 5, 50, None)
    found = tree_memory(5, tmp_path)
    assert found.pss_bytes == 300 * 1024 + 50 * PAGE_BYTES
    assert not found.is_exact


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
    ready, tell = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            own = bytearray(b"x") * 40_000_000
            os.write(tell, b"!")
            sys.stdin.read()
            os._exit(0)
        sys.stdin.read()
        os._exit(0)
    os.read(ready, 1)
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_children_of_children_count_and_shared_pages_count_once() -> None:
    with running(FAMILY) as pid:
        found = tree_memory(pid)
        known = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        pss = sum(process.memory_full_info().pss for process in known)
        rss = sum(process.memory_info().rss for process in known)
    assert found.processes == len(known) == 3
    assert found.rss_bytes > 3 * 80 * MB + 40 * MB
    assert 120 * MB < found.pss_bytes < 200 * MB
    assert found.pss_bytes == pytest.approx(pss, rel=0.02)
    assert found.rss_bytes == pytest.approx(rss, rel=0.02)


def test_the_tree_of_this_process_grows_and_shrinks_with_its_children() -> None:
    before = tree_memory()
    with running(FAMILY) as pid:
        during = tree_memory()
        assert during.pss_bytes - before.pss_bytes > 110 * MB
        assert during.processes >= before.processes + 3
    assert not Path(f"/proc/{pid}").exists()
    assert tree_memory().pss_bytes - before.pss_bytes < 20 * MB


PEAK = """
    import sys
    from mkhspc.process.memory import peak_bytes, tree_memory
    first = peak_bytes()
    block = bytearray(b"x") * {mb}_000_000
    del block
    print(first, peak_bytes(), tree_memory().rss_bytes, flush=True)
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
    from mkhspc.process.memory import give_back_gaps, tree_memory
    kept, freed = [], []
    for _ in range(2000):
        freed.append(bytes(60_000))
        kept.append(bytes(2_000))
    del freed
    before = tree_memory().rss_bytes
    give_back_gaps()
    print(before, tree_memory().rss_bytes)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc keeps what was freed, and can give it back"
)
def test_gaps_between_what_is_kept_are_given_back() -> None:
    words = [sys.executable, "-c", textwrap.dedent(GAPS)]
    before, after = map(int, subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())
    assert before - after > 60 * MB
