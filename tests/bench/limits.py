"""Runs under random limits on memory: which exceed theirs, which are refused, how well they knew."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from large import mirrored_marrow
from memorylimits import LIMIT_GB, Verdict, drawn_trials
from mkhspc.process.limits import SAFE_SHARE
from mkhspc.simulate import SlideSpec, write_demo_slides

Row = dict[str, object]

RUNS, RUNS_IN_SHORT = 50, 15
DENSE_PX = 2048
SPECS = (
    SlideSpec("TINY", "F", "GC", sizes_um=((140.0, 130.0),)),
    SlideSpec("DEMO_A", "F", "GC", sizes_um=((260.0, 230.0),), origins=((-300, 5000),)),
    SlideSpec("DEMO_B", "M", "HU", sizes_um=((200.0, 180.0), (190.0, 200.0)), origins=((0, 0), (1200, 90))),
)


def rows(shared: Path | None, full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        slides = [slide.path for slide in write_demo_slides(folder / "slides", seed=3, specs=SPECS)]
        if shared is not None:
            slides.append(mirrored_marrow(shared, folder / "dense.czi", DENSE_PX, DENSE_PX))
        trials = drawn_trials(slides, RUNS if full else RUNS_IN_SHORT, seed=50)
        verdicts = [trial.run(folder / str(nth)) for nth, trial in enumerate(trials)]
        return _rows(verdicts)


def _rows(verdicts: list[Verdict]) -> list[Row]:
    ran = [v for v in verdicts if v.exit_code == 0]
    refused = [v for v in verdicts if v.is_refused]
    above = [v for v in verdicts if v.is_above]
    shares = [v.peak_bytes / v.trial.limit_bytes for v in ran]
    ratios = [v.planned_bytes / v.peak_bytes for v in ran]
    runs = f"{len(verdicts)} runs under random limits of {LIMIT_GB[0]:g} to {LIMIT_GB[1]:g} GB"
    highest = f"highest peak of the {len(ran)} that ran: {max(shares):.2f} of the limit"
    return [
        _row(
            f"{runs}: above the limit (sum of RSS of all processes)",
            len(above),
            "0",
            len(above) == 0,
            highest,
        ),
        _row(
            f"{runs}: neither done nor refused up front with the memory needed",
            len(verdicts) - len(ran) - len(refused),
            "0",
            len(ran) + len(refused) == len(verdicts),
            f"{len(refused)} refused",
        ),
        _row(
            "those that ran: least planned peak memory over the measured peak",
            min(ratios),
            f">= {SAFE_SHARE:.2f}",
            min(ratios) >= SAFE_SHARE,
            f"median {statistics.median(ratios):.2f}, most {max(ratios):.2f} (tiles that are mostly glass)",
        ),
    ]


def _row(name: str, value: float, target: str, ok: bool, baseline: str) -> Row:
    unit = "runs" if target == "0" else "x"
    return {"name": name, "value": value, "unit": unit, "baseline": baseline, "target": target, "ok": ok}
