"""Progress: how fast work goes, and how it is shown on a terminal and elsewhere."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import given, strategies as st
from rich.console import Console

from mkhspc.cli.progress import SHOWN_ERRORS, JsonLines, live
from mkhspc.cli.progress_view import View
from mkhspc.progress import SILENT_S, Event, Journal, steps_per_s
from mkhspc.units import duration_text, memory_text, rate_text


def test_no_rate_before_the_first_step() -> None:
    assert steps_per_s([], 0.0, 50.0) is None
    assert steps_per_s([0.0], 0.0, 0.0) is None


@given(
    every_s=st.floats(0.01, 5000.0),
    steps=st.integers(1, 400),
    begun_s=st.floats(0.0, 1e6),
    waited=st.floats(0.0, 0.99),
)
def test_even_steps_have_their_rate_whatever_the_pace(
    every_s: float, steps: int, begun_s: float, waited: float
) -> None:
    ends_s = [begun_s + every_s * (i + 1) for i in range(steps)]
    found = steps_per_s(ends_s, begun_s, ends_s[-1] + waited * every_s)
    # At the first steps the wait for the next one weighs most: never more than a factor of two.
    slack = 1.0 / min(steps, 8)
    assert found is not None
    assert (1.0 - slack) * 0.98 <= found * every_s <= 1.02 * (1.0 + slack)


def test_a_rate_forgets_what_was_long_ago() -> None:
    fast = [i * 0.1 for i in range(1, 1001)]  # ten a second, for 100 s
    slow = [100.0 + 10.0 * i for i in range(1, 61)]  # then one in 10 s
    assert steps_per_s(fast, 0.0, 100.0) == pytest.approx(10.0)
    assert steps_per_s(fast + slow, 0.0, 700.0) == pytest.approx(0.1)


def test_a_rate_falls_while_nothing_comes() -> None:
    ends_s = [float(i) for i in range(1, 101)]
    rates = [steps_per_s(ends_s, 0.0, now_s) or 0.0 for now_s in (100.0, 200.0, 400.0, 3600.0)]
    assert rates[0] == pytest.approx(1.0)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01


def test_steps_before_the_begin_do_not_count() -> None:
    assert steps_per_s([1.0, 2.0, 3.0, 1000.0, 1010.0], 990.0, 1010.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"), (8.44, "8.4 s"), (9.96, "10 s"), (99.4, "99 s"), (99.6, "2 min"), (720, "12 min"),
        (5940, "99 min"), (5999, "1 h 40 min"), (11100, "3 h 05 min"), (172_500, "47 h 55 min"),
        (187_200, "2 d 4 h"),
    ],
)  # fmt: skip
def test_durations_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("per_s", "text"),
    [(12.3, "12/s"), (3.21, "3.2/s"), (0.5, "30/min"), (0.02, "1.2/min"), (0.001, "3.6/h"), (1e-5, "0.0/h")],
)
def test_rates_choose_their_unit(per_s: float, text: str) -> None:
    assert rate_text(per_s) == text


@pytest.mark.parametrize(
    ("memory_bytes", "text"), [(3.24e9, "3.2 GB"), (9.6e8, "1.0 GB"), (9.4e8, "940 MB"), (0, "0 MB")]
)
def test_memory_is_in_decimal_units(memory_bytes: float, text: str) -> None:
    assert memory_text(memory_bytes) == text


@pytest.mark.parametrize(
    ("last", "silent_s", "state"),
    [
        ("end", 1e6, "ended"),
        ("interrupted", 1e6, "interrupted"),
        ("done", SILENT_S - 1, "working"),
        ("done", SILENT_S + 1, "lost"),
    ],
)
def test_a_process_without_an_end_is_lost_once_it_is_silent(last: str, silent_s: float, state: str) -> None:
    journal = Journal("j", (Event(0.0, "begin", {}), Event(5.0, last, {})), seen_s=1000.0)
    assert journal.state(1000.0 + silent_s) == state


def test_elsewhere_each_step_is_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    say = JsonLines()
    say("tiles", 3, 10, slide="A", slide_done=3, slide_total=6)
    say("tiles", 3, 10, slide="B", slide_done=0, slide_total=4)
    for memory_bytes in range(50):
        say("tiles", 3, 10, memory_bytes=memory_bytes)
    say("tiles", 4, 10, slide="A", memory_bytes=7, error="<x>")
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.err.splitlines()]
    assert captured.out == ""
    assert [(line["done"], line["slide"]) for line in lines] == [(3, "A"), (3, "B"), (4, "A")]
    assert lines[-1]["memory_bytes"] == 7


class Clock:
    """A clock that stands until it is told."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def tell_tiles(
    clock: Clock,
    view: View,
    slides: dict[str, tuple[int, int]],
    *,
    steps: int,
    every_s: float,
    failed: int = 0,
) -> None:
    """Announces slides of (done before, tiles), then does so many steps on the first that has any left."""
    done = {name: before for name, (before, _) in slides.items()}
    total = sum(tiles for _, tiles in slides.values())

    def say(name: str) -> None:
        view.update(
            "tiles", sum(done.values()), total, slide=name, slide_done=done[name],
            slide_total=slides[name][1], slide_failed=0, failed=failed, mk=3, hspc=1234, cells=1237,
            memory_bytes=int(3.2e9), limit_bytes=int(8e9), workers=2,
        )  # fmt: skip

    for name in slides:
        say(name)
    for _ in range(steps):
        clock.now_s += every_s
        name = next(name for name in slides if done[name] < slides[name][1])
        done[name] += 1
        say(name)


def drawn(view: View, *, width: int = 110, height: int = 40, colour: bool = False) -> str:
    out = io.StringIO()
    colours: Literal["standard"] | None = "standard" if colour else None
    console = Console(file=out, width=width, height=height, force_terminal=colour, color_system=colours)
    console.print(view)
    return out.getvalue()


def test_the_view_shows_tiles_slides_memory_and_cells() -> None:
    clock = Clock()
    view = View(clock)
    clock.now_s = 3.0
    view.update("survey", 1, 2, slide="A")
    clock.now_s = 6.0
    view.update("survey", 2, 2, slide="B")
    tell_tiles(clock, view, {"A": (0, 20), "B": (0, 60)}, steps=30, every_s=2.0, failed=3)
    lines = {line.split()[0]: line for line in drawn(view).splitlines()}
    assert "2/2" in lines["survey"]
    assert "6.0 s" in lines["survey"]
    assert "30/80" in lines["tiles"]
    assert "30/min, 2 min left" in lines["tiles"]
    assert "3 failed" in lines["tiles"]
    assert "20/20" in lines["A"]
    assert "10/60" in lines["B"]
    assert re.search(r"3\.2 GB of 8\.0 GB +2 workers", lines["memory"])
    assert re.search(r"3 MK +1,234 HSPC", lines["found"])


def test_a_resumed_run_has_no_rate_from_what_was_done_before() -> None:
    clock = Clock()
    view = View(clock)
    clock.now_s = 20.0
    tell_tiles(clock, view, {"A": (900, 1000)}, steps=0, every_s=0.0)
    assert "left" not in drawn(view)
    tell_tiles(clock, view, {"A": (900, 1000)}, steps=10, every_s=10.0)
    assert "5.0/min, 18 min left" in drawn(view), "10 steps in 120 s, and 90 to come"


def test_the_time_left_grows_while_nothing_comes() -> None:
    clock = Clock()
    view = View(clock)
    tell_tiles(clock, view, {"A": (0, 100)}, steps=50, every_s=1.0)
    assert "50 s left" in drawn(view)
    clock.now_s += 600.0
    assert "63 min left" in drawn(view), "8 steps in the last 608 s, and 50 to come"


def test_failures_are_red() -> None:
    clock = Clock()
    view = View(clock)
    tell_tiles(clock, view, {"A": (0, 10)}, steps=5, every_s=1.0)
    assert "\x1b[31m" not in drawn(view, colour=True)
    tell_tiles(clock, view, {"A": (5, 10)}, steps=1, every_s=1.0, failed=2)
    coloured = drawn(view, colour=True)
    assert "\x1b[31m2 failed" in coloured
    assert "\x1b[31m━" in coloured


@pytest.mark.parametrize(("used", "colour"), [(0.5, "32"), (0.9, "33"), (1.1, "31")])
def test_memory_near_its_limit_changes_colour(used: float, colour: str) -> None:
    view = View(Clock())
    view.update("tiles", 0, 5, memory_bytes=int(used * 8e9), limit_bytes=int(8e9))
    line = next(line for line in drawn(view, colour=True).splitlines() if line.startswith("memory"))
    assert f"\x1b[{colour}m━" in line


@pytest.mark.parametrize(("width", "height"), [(110, 40), (80, 12), (60, 20)])
def test_the_view_fits_its_terminal(width: int, height: int) -> None:
    clock = Clock()
    view = View(clock)
    view.update("survey", 16, 16)
    slides = {f"a_slide_with_a_rather_long_name_{i}": (0, 40) for i in range(16)}
    tell_tiles(clock, view, slides, steps=230, every_s=1.0)
    lines = drawn(view, width=width, height=height).splitlines()
    assert len(lines) < height
    assert max(map(len, lines)) <= width
    assert all("━━━" in line for line in lines if "/" in line), "there is room for a bar"
    if height < 20:
        assert any("more" in line and "done" in line for line in lines)
        assert any("30/40" in line for line in lines), "the slide in work is among those shown"


def test_a_stage_that_comes_again_begins_anew() -> None:
    clock = Clock()
    view = View(clock)
    for done in range(1, 5):
        clock.now_s += 1.0
        view.update("score", done, 4)
    clock.now_s += 500.0
    view.update("score", 1, 2)
    clock.now_s += 8.0
    view.update("score", 2, 2)
    assert "508 s" not in drawn(view)
    assert "8 min" in drawn(view), "begun when the news before it came"


def test_only_the_first_failures_are_reported_at_once() -> None:
    out = io.StringIO()
    with live(Console(file=out, width=100, force_terminal=True)) as say:
        for i in range(SHOWN_ERRORS + 4):
            say("tiles", i + 1, 20, slide="A", tile=f"t{i}", error="broken\x1b[2J", failed=i + 1)
    text = out.getvalue()
    assert "A/t0: broken\\x1b[2J" in text, "what would steer the terminal is spelled out"
    assert f"A/t{SHOWN_ERRORS - 1}:" in text
    assert f"A/t{SHOWN_ERRORS}:" not in text


SCRIPT = """
from mkhspc.cli.progress import shown
with shown() as say:
    for done in range(1, 4):
        say("tiles", done, 3, slide="A", mk=1, hspc=2, cells=3)
"""


def in_a_terminal(command: list[str]) -> str:
    """What a command writes to its stderr when that is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stderr=theirs, stdin=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    text = b""
    try:
        while data := os.read(ours, 65536):
            text += data
    except OSError:  # the other end is closed: that is how a terminal ends on Linux
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0
    return text.decode()


def in_a_pipe(command: list[str]) -> str:
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr


@pytest.mark.parametrize(("run", "is_live"), [(in_a_terminal, True), (in_a_pipe, False)])
def test_a_terminal_gets_the_picture_and_a_pipe_gets_lines(
    run: Callable[[list[str]], str], is_live: bool
) -> None:
    text = run([sys.executable, "-c", SCRIPT])
    assert ("\x1b[" in text) is is_live
    if is_live:
        assert "3/3" in text
    else:
        assert [json.loads(line)["done"] for line in text.splitlines()] == [1, 2, 3]
