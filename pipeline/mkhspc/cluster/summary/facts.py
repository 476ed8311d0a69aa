"""The numbers on top of the page of a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mkhspc.cluster.summary.record import RunRecord, moment_text, shares_of
from mkhspc.config import CELL_TYPES
from mkhspc.units import duration_text, memory_text, rate_text


@dataclass(frozen=True)
class Fact:
    """A number that stands out: its name, its value, and a note on it."""

    name: str
    value: str
    note: str = ""
    is_bad: bool = False


def state_of_run(run: RunRecord) -> Fact:
    """Says whether the run is complete, and how many tiles are left."""
    left = sum(row.left or 0 for row in run.slides)
    note = f"{left:,} {'tile' if left == 1 else 'tiles'} left" if left else ""
    if "working" in run.states.values():
        return Fact("state", "at work", note)
    return Fact("state", "incomplete" if left else "complete", note, is_bad=left > 0)


def key_facts(run: RunRecord) -> tuple[Fact, ...]:
    """The numbers of a run, in the order in which the page shows them."""
    asked, done = sum(row.asked or 0 for row in run.slides), sum(row.done for row in run.slides)
    cells = {t: sum(row.cells[t] for row in run.slides) for t in CELL_TYPES}
    by_type = ", ".join(f"{count:,} {cell_type.upper()}" for cell_type, count in cells.items())
    total_s = run.timeline.total_s
    rate = rate_text(len(run.done) / total_s) if run.done and total_s else "–"
    return (
        Fact("tiles", f"{done:,}", f"of {asked:,} asked for"),
        Fact("cells", f"{sum(cells.values()):,}", by_type),
        Fact("time at work", duration_text(total_s), f"since {moment_text(run.begin_s)}"),
        Fact("throughput", rate, "tiles while at work"),
        *_waiting(run),
        _peak_memory(run),
        _failed_tiles(run),
        _processes(run),
    )


def _waiting(run: RunRecord) -> Iterator[Fact]:
    """The share of their time that workers waited for the pixels of their next tile, where it is known."""
    facts = [event.facts for _, event in run.done.values() if "waited_s" in event.facts]
    spent_s = sum(fact["waited_s"] + fact["seconds"] for fact in facts)
    if spent_s:
        share = sum(fact["waited_s"] for fact in facts) / spent_s
        yield Fact("waiting", f"{100 * share:.1f} %", "of the workers' time, for pixels")


def _peak_memory(run: RunRecord) -> Fact:
    """The memory of the process that came nearest to its limit."""
    peaks = [(event.facts["peak_bytes"], event.facts["limit_bytes"]) for _, event in run.named("memory")]
    if not peaks:
        return Fact("peak memory", "–")
    peak, limit = max(peaks, key=lambda pair: pair[0] / max(1, pair[1]))
    note = f"{100 * peak / max(1, limit):.0f} % of the {memory_text(limit)} allowed"
    return Fact("peak memory", memory_text(peak), note, is_bad=peak > limit)


def _failed_tiles(run: RunRecord) -> Fact:
    recovered = len(run.failures) - len(run.given_up)
    note = f"{recovered:,} more at a first try" if recovered else ""
    return Fact("failed tiles", f"{len(run.given_up):,}", note, is_bad=bool(run.given_up))


def _processes(run: RunRecord) -> Fact:
    """All processes; restarts are those that took up a share of the run that another had begun."""
    shares = {(j.origin.get("shard"), tuple(shares_of(j))) for j in run.journals}
    restarts = len(run.journals) - len(shares)
    lost = sum(state == "lost" for state in run.states.values())
    counts = ((restarts, "restart" if restarts == 1 else "restarts"), (lost, "killed"))
    note = ", ".join(f"{number:,} {words}" for number, words in counts if number)
    return Fact("processes", f"{len(run.journals):,}", note, is_bad=lost > 0)
