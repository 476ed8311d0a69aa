"""The page on how a run went: its numbers, its charts, and how it looks in a browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, strategies as st
from playwright.sync_api import Browser, sync_playwright

from mkhspc.charts import DARK, LIGHT
from mkhspc.cluster.summary import series
from mkhspc.cluster.summary.page import RunPage, write_run_summary
from mkhspc.cluster.summary.plots import run_png
from mkhspc.cluster.summary.series import histogram
from mkhspc.cluster.summary.timeline import Timeline
from mkhspc.progress import Event, Journal

T0 = 1_769_860_800.0
HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"
GB = 1e9


def begin(at_s: float, slides: dict[str, tuple[int, int, int]], **facts: Any) -> Event:
    """The first line of a process; slides as (asked, share, done)."""
    named = {name: dict(zip(("asked", "share", "done"), n, strict=True)) for name, n in slides.items()}
    return Event(
        T0 + at_s,
        "begin",
        {
            "host": "node1", "pid": 7, "job": None, "shard": None, "host_s": T0 + at_s, "workers": 2,
            "limit_bytes": 8 * GB, "slides": named, "dataset": "d1", "config_hash": "c1",
            "identity": {"run.tile_size": 4096, "mk.stored_area_um2": [50.0, 4200.0], "run.um_per_px": None},
            "versions": {"mkhspc": "1.0", "numpy": "2.0"}, **facts,
        },
    )  # fmt: skip


def done(at_s: float, slide_id: str, tile: int, seconds: float = 2.0, mk: int = 1, hspc: int = 10) -> Event:
    facts = {"slide_id": slide_id, "tile_id": f"t{tile}", "seconds": seconds, "mk": mk, "hspc": hspc}
    return Event(T0 + at_s, "done", facts)


def failed(at_s: float, slide_id: str, tile: int, error: str = "broken", name: str = "failed") -> Event:
    return Event(T0 + at_s, name, {"slide_id": slide_id, "tile_id": f"t{tile}", "error": error})


def memory(at_s: float, peak_bytes: float, workers: int = 2, limit_bytes: float = 8 * GB) -> Event:
    facts = {"memory_bytes": peak_bytes / 2, "peak_bytes": peak_bytes, "limit_bytes": limit_bytes}
    return Event(T0 + at_s, "memory", {**facts, "workers": workers})


def journal(name: str, *events: Event, end: str | None = "end", broken_lines: int = 0) -> Journal:
    last = [Event(events[-1].at_s, end, {"signal": "SIGUSR1"})] if end else []
    return Journal(name, (*events, *last), events[-1].at_s, broken_lines)


def page(*journals: Journal, now_s: float = 1e6) -> RunPage:
    return RunPage(journals, T0 + now_s)


def fact(found: RunPage, name: str) -> tuple[str, str]:
    return next((f.value, f.note) for f in found.facts if f.name == name)


@pytest.fixture
def story() -> list[Journal]:
    """A run that was killed, resumed, stopped by a signal, and ended with one tile that fails always."""
    killed = journal(
        "a", begin(0, {"A": (5, 5, 0), "B": (2, 2, 0)}), memory(1, 3 * GB), done(10, "A", 0),
        failed(12, "A", 1), done(20, "A", 2, seconds=9.0), end=None, broken_lines=1,
    )  # fmt: skip
    # Tile 3 had its part when the process was killed, and no line.
    stopped = journal(
        "b", begin(7220, {"A": (5, 5, 3), "B": (2, 2, 0)}, pid=8), done(7230, "A", 1),
        failed(7235, "A", 4, name="retry"), failed(7240, "A", 4, HOSTILE), end="interrupted",
    )  # fmt: skip
    ended = journal(
        "c", begin(7250, {"A": (5, 5, 4), "B": (2, 2, 0)}, pid=9, versions={"mkhspc": "1.1"}, host_s=T0),
        memory(7251, 7 * GB), failed(7252, "A", 4, HOSTILE), done(7260, "B", 0), done(7270, "B", 1),
    )  # fmt: skip
    return [killed, stopped, ended]


def test_slides_are_told_from_the_journals_alone(story: list[Journal]) -> None:
    found = page(*story)
    a, b = found.slides
    assert (a.slide_id, a.asked, a.done, a.failed, a.left) == ("A", 5, 4, 1, 1)
    assert (b.slide_id, b.asked, b.done, b.failed, b.left) == ("B", 2, 2, 0, 0)
    assert (a.cells, a.median_s) == ({"mk": 3, "hspc": 30}, 2.0)
    assert found.unheard_tiles == 1
    assert (found.state.value, found.state.note, found.state.is_bad) == ("incomplete", "1 tile left", True)


def test_the_figures_on_top(story: list[Journal]) -> None:
    found = page(*story)
    assert fact(found, "tiles") == ("6", "of 7 asked for")
    assert fact(found, "cells") == ("55", "5 MK, 50 HSPC")
    assert fact(found, "time at work") == ("70 s", "since 2026-01-31 12:00 UTC")
    assert fact(found, "throughput") == ("4.3/min", "tiles while at work")
    assert fact(found, "peak memory") == ("7.0 GB", "88 % of the 8.0 GB allowed")
    assert fact(found, "failed tiles") == ("1", "1 more at a first try")
    assert fact(found, "processes") == ("3", "2 restarts, 1 killed")


def test_failures_say_what_became_of_them(story: list[Journal]) -> None:
    rows = [(row.tile, row.error, row.tries, row.state) for row in page(*story).failures]
    assert rows == [("A/t4", HOSTILE, 3, "failed"), ("A/t1", "broken", 1, "done since")]


def test_processes_say_what_became_of_them(story: list[Journal]) -> None:
    killed, stopped, ended = page(*story).processes
    assert (killed.ending, killed.is_bad, killed.tiles, killed.peak) == (
        "killed: it wrote no end",
        True,
        2,
        "3.0 GB",
    )
    assert killed.note == "1 line of its journal lost"
    assert (stopped.ending, stopped.is_bad, stopped.tiles) == ("stopped by SIGUSR1", False, 1)
    assert (ended.ending, ended.worked, ended.workers) == ("did its share", "20 s", "2")
    assert ended.note == "its clock is 2 h 01 min behind the file system's"


def test_plan_and_waiting_are_reported_where_they_are_known(story: list[Journal]) -> None:
    assert "waiting" not in [fact.name for fact in page(*story).facts]
    waited = Event(T0 + 5, "done", {**done(5, "A", 0, seconds=9.0).facts, "waited_s": 1.0})
    found = page(journal("a", begin(0, {}, planned_peak_bytes=4 * GB), memory(1, 3.5 * GB), waited))
    assert fact(found, "waiting") == ("10.0 %", "of the workers' time, for pixels")
    assert found.processes[0].peak == "3.5 GB, 4.0 GB planned"


def test_the_slowest_tiles_come_first(story: list[Journal]) -> None:
    slowest = page(*story).slowest
    assert slowest[0] == {"tile": "A/t2", "took": "9.0 s", "cells": 11, "host": "node1"}
    assert len(slowest) == 5


def test_settings_and_versions(story: list[Journal]) -> None:
    found = page(*story)
    assert found.settings == [
        ("run.tile_size", "4096"), ("mk.stored_area_um2", "50 to 4200"), ("run.um_per_px", "–"),
    ]  # fmt: skip
    assert found.versions == [("mkhspc", "1.0, then 1.1"), ("numpy", "2.0")]


def test_pixel_sizes_and_revisions_are_written_out() -> None:
    identity = {"model_hashes": {"mk": "classical-3", "hspc": "classical-2"}}
    slides = {"A": (1, 1, 0), "B": (1, 1, 0)}
    first = journal("a", begin(0, slides, identity=identity, um_per_px={"A": 0.22}))
    second = journal("b", begin(9, slides, identity=identity, um_per_px={"A": 0.22, "B": 0.1725}))
    assert page(first, second).settings == [
        ("model_hashes.mk", "classical-3"), ("model_hashes.hspc", "classical-2"),
        ("pixel size of B", "0.1725 µm"), ("pixel size of A", "0.22 µm"),
    ]  # fmt: skip


def test_shards_ask_for_the_run_together() -> None:
    shards = [
        journal(f"s{i}", begin(i, {"A": (10, 5, 0)}, shard=f"{i}/2"), done(5 + i, "A", i)) for i in range(2)
    ]
    again = journal("s2", begin(50, {"A": (10, 5, 1)}, shard="0/2"), done(55, "A", 2))
    found = page(*shards, again)
    (slide,) = found.slides
    assert (slide.asked, slide.done, slide.left) == (10, 3, 7)
    assert fact(found, "processes") == ("3", "1 restart")


def test_a_tile_done_by_two_processes_counts_once() -> None:
    twice = [journal(name, begin(0, {"A": (4, 4, 0)}), done(5, "A", 0), end=None) for name in "ab"]
    found = page(*twice)
    assert found.slides[0].done == 1
    assert fact(found, "cells")[0] == "11"


def test_a_process_that_still_works_is_at_work() -> None:
    found = page(journal("a", begin(0, {"A": (4, 4, 0)}), done(5, "A", 0), end=None), now_s=30.0)
    assert (found.state.value, found.state.is_bad) == ("at work", False)
    assert fact(found, "time at work")[0] == "30 s"
    assert found.processes[0].ending == "at work"


def test_a_run_without_a_tile_has_a_page(tmp_path: Path) -> None:
    bare = journal("a", Event(T0, "begin", {}), end=None)
    path = write_run_summary(tmp_path, [bare], T0)
    assert path is not None
    assert "<picture" not in path.read_text()


def test_without_a_journal_there_is_no_page(tmp_path: Path) -> None:
    assert write_run_summary(tmp_path, [], T0) is None
    assert list(tmp_path.iterdir()) == []


def test_the_page_needs_nothing_from_elsewhere_and_escapes_what_it_is_told(
    story: list[Journal], tmp_path: Path
) -> None:
    hostile = journal("h", begin(9000, {HOSTILE: (1, 1, 0)}, host=HOSTILE), done(9001, HOSTILE, 0))
    path = write_run_summary(tmp_path, [*story, hostile], T0 + 1e6)
    assert path == tmp_path / "run-summary.html"
    text = path.read_text()
    assert "<script" not in text
    assert "<img src=x" not in text
    assert text.count("&lt;script&gt;") >= 3
    assert not re.search(r'<\w[^<>]*\s(src|href|srcset)=(?!"data:image/png;base64,)|url\(|@import', text)
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_journals_give_the_same_page(story: list[Journal], tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        path = write_run_summary(tmp_path, story, T0 + 1e6)
        assert path is not None
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]


DRAW = """
import sys
from pathlib import Path
from mkhspc.cluster.summary.page import write_run_summary
from mkhspc.progress import Event, Journal
assert "matplotlib" not in sys.modules, "it is loaded when a page is drawn, no sooner"
tile = Event(9.0, "done", {"slide_id": "A", "tile_id": "t", "seconds": 1.0})
assert write_run_summary(Path(sys.argv[1]), [Journal("a", (Event(0.0, "begin", {}), tile), 9.0)], 9.0)
assert "matplotlib" in sys.modules
"""


def test_drawing_says_nothing_where_no_file_can_be_kept(tmp_path: Path) -> None:
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), "/proc/nowhere")
    done = subprocess.run(
        [sys.executable, "-c", DRAW, tmp_path],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_demo_slides_are_called_simulated(tmp_path: Path) -> None:
    for slide_id, expected in (("DEMO_A", True), ("A", False)):
        path = write_run_summary(tmp_path, [journal("a", begin(0, {slide_id: (1, 1, 0)}))], T0)
        assert path is not None
        assert ("Simulated" in path.read_text()) is expected


def test_pauses_are_no_time_at_work() -> None:
    timeline = Timeline([(100.0, 200.0), (150.0, 300.0), (310.0, 320.0), (5000.0, 5080.0)])
    assert timeline.total_s == 220.0 + 80.0
    assert timeline.pauses() == [(220.0, 4680.0)]
    assert [timeline.at_work_s(at_s) for at_s in (0.0, 100.0, 305.0, 320.0, 4000.0, 5040.0, 9e9)] == [
        0.0, 0.0, 205.0, 220.0, 220.0, 260.0, 300.0,
    ]  # fmt: skip
    assert timeline.pauses_text() == "stopped for 78 min"


SPANS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e5)), min_size=1, max_size=12)


@given(SPANS, st.lists(st.floats(-1e3, 2e6), min_size=2, max_size=20))
def test_time_at_work_never_runs_backwards_nor_faster_than_time(
    spans: Sequence[tuple[float, float]], moments: list[float]
) -> None:
    timeline = Timeline((begin_s, begin_s + length_s) for begin_s, length_s in spans)
    moments.sort()
    at_work = [timeline.at_work_s(at_s) for at_s in moments]
    for (early, late), (before, after) in zip(pairwise(moments), pairwise(at_work), strict=True):
        assert -1e-6 <= after - before <= late - early + 1e-6
    assert timeline.at_work_s(3e6) == pytest.approx(timeline.total_s)
    assert timeline.total_s <= sum(length_s for _, length_s in spans) + 60.0 * len(spans)


def test_every_tile_stands_in_the_chart(story: list[Journal]) -> None:
    chart = page(*story).throughput
    assert chart is not None
    assert (chart.unit, chart.bin_s) == ("minute", pytest.approx(70 / 12))
    for bars, tiles in ((chart.done, 5), (chart.failed, 3)):
        assert len(bars) == 12
        assert sum(bars) * chart.bin_s / 60 == pytest.approx(tiles)


@pytest.mark.parametrize(
    ("tiles", "every_s", "unit"), [(600, 0.1, "second"), (60, 4.0, "minute"), (20, 600.0, "hour")]
)
def test_throughput_is_told_by_the_unit_that_fits(tiles: int, every_s: float, unit: str) -> None:
    events = [done(every_s * i, "A", i) for i in range(1, tiles + 1)]
    chart = page(journal("a", begin(0, {"A": (tiles, tiles, 0)}), *events)).throughput
    assert chart is not None
    assert chart.unit == unit


def test_histogram_keeps_what_lies_on_the_edges() -> None:
    assert histogram([0.0, 1.0, 4.99, 5.0, 10.0], 10.0, 2) == [3, 2]


def test_memory_is_drawn_against_its_limit(story: list[Journal]) -> None:
    chart = page(*story).memory
    assert chart is not None
    assert chart.limits == (8 * GB,)
    assert chart.lines == (((1.0, 3 * GB),), ((51.0, 7 * GB),))
    assert chart.note == ""


def test_a_limit_far_above_is_written_and_not_drawn() -> None:
    chart = page(journal("a", begin(0, {}), memory(1, GB), memory(2, GB, limit_bytes=900 * GB))).memory
    assert chart is not None
    assert chart.limits == ()
    assert chart.note == "The limit of 8.0 GB, 900.0 GB lies far above."


def test_workers_of_all_processes_add_up() -> None:
    first = journal("a", begin(0, {}, workers=4), memory(50, GB, workers=3), done(100, "A", 0))
    second = journal("b", begin(20, {}, workers=2), done(80, "A", 1))
    assert page(first, second).workers == ((0.0, 4), (20.0, 6), (50.0, 5), (80.0, 3), (100.0, 0))


def test_nothing_is_drawn_of_nothing() -> None:
    assert series.throughput(Timeline([]), []) is None
    assert run_png(Timeline([(0.0, 9.0)]), None, None, (), LIGHT) is None


def test_a_picture_shows_what_it_is_given_on_light_and_on_dark_paper(story: list[Journal]) -> None:
    found = page(*story)
    shown = found.throughput, found.memory, found.workers
    light, dark = (run_png(found.timeline, *shown, theme) for theme in (LIGHT, DARK))
    fewer = run_png(found.timeline, found.throughput, None, (), LIGHT)
    assert light is not None
    assert dark is not None
    assert fewer is not None
    heights = []
    for png, paper in ((light, 255), (dark, 0x16), (fewer, 255)):
        picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert picture[0, 0, 2] == paper
        assert (picture != picture[0, 0]).any()
        heights.append(len(picture))
    assert heights[0] == heights[1] > 2 * heights[2] * 0.9
    without_limit = replace(found.memory, limits=()) if found.memory else None
    assert run_png(found.timeline, found.throughput, without_limit, found.workers, LIGHT) != light


def many(count: int) -> list[Journal]:
    """Processes of an array with long names and enough tiles to fill the charts."""
    journals = []
    for i in range(count):
        events = [done(600 * i + 3 * k, f"slide_{i}", k, seconds=k % 7) for k in range(1, 150)]
        peaks = [memory(600 * i + 10 * k, (3 + k % 3) * GB) for k in range(1, 45)]
        of_slide = {f"slide_{i}": (160, 160, 0)}
        events = sorted([*events, *peaks, failed(600 * i + 77, f"slide_{i}", 155)], key=lambda e: e.at_s)
        journals.append(journal(f"j{i}", begin(600 * i, of_slide, job=f"88_{i}", host="node" * 9), *events))
    return journals


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(browser: Browser, tmp_path: Path, width: int, scheme: Any) -> None:
    path = write_run_summary(tmp_path, many(6), T0 + 1e6)
    assert path is not None
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(path.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == width, "it never scrolls sideways"
    picture = tab.locator(".charts img")
    shown, *_ = picture.evaluate_all(
        "images => images.map(i => [i.currentSrc, i.naturalWidth, i.offsetWidth])"
    )
    assert shown[0] in path.read_text()
    assert (f'srcset="{shown[0]}"' in path.read_text()) is (scheme == "dark")
    assert shown[1] >= shown[2] >= 640, "it can be read, on a telephone by scrolling it alone"
    ground, ink = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        ".map(c => c.match(/\\d+/g).map(Number).reduce((a, b) => a + b))"
    )
    assert (ground < ink) is (scheme == "dark")
    assert said == []
    tab.close()
