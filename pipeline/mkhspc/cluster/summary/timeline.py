"""The time at work of a run: the moments in which at least one process ran, without the pauses between."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from mkhspc.units import duration_text

MIN_PAUSE_S = 60.0
"""Seconds: a shorter time in which no process ran does not count as a pause between two processes."""


class Timeline:
    """Turns moments into time at work.

    Args:
        spans: begin and end of each process, in seconds since 1970.
    """

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        self._begins: list[float] = []
        self._ends: list[float] = []
        for begin_s, end_s in sorted(spans):
            if self._ends and begin_s - self._ends[-1] <= MIN_PAUSE_S:
                self._ends[-1] = max(self._ends[-1], end_s)
            else:
                self._begins.append(begin_s)
                self._ends.append(end_s)
        self._before = [0.0]
        for begin_s, end_s in zip(self._begins, self._ends, strict=True):
            self._before.append(self._before[-1] + end_s - begin_s)

    @property
    def total_s(self) -> float:
        """All the time at work."""
        return self._before[-1]

    def at_work_s(self, at_s: float) -> float:
        """Returns how much time at work had passed at a moment."""
        i = bisect_right(self._begins, at_s) - 1
        return self._before[i] + min(at_s, self._ends[i]) - self._begins[i] if i >= 0 else 0.0

    def pauses(self) -> list[tuple[float, float]]:
        """Returns for each pause the time at work before it, and how long it lasted, in seconds."""
        gaps = zip(self._before[1:-1], self._ends, self._begins[1:], strict=False)
        return [(before_s, begin_s - end_s) for before_s, end_s, begin_s in gaps]

    def pauses_text(self) -> str:
        """Says how long the run stood still, or nothing if it never did."""
        lengths_s = [length_s for _, length_s in self.pauses()]
        if len(lengths_s) == 1:
            return f"stopped for {duration_text(lengths_s[0])}"
        return f"stopped {len(lengths_s)} times, {duration_text(sum(lengths_s))} in all" if lengths_s else ""
