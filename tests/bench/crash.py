"""SIGKILL at random moments of real runs: what is lost, done again or different."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from crashes import VICTIMS, WORKERS, Segment, Toll, digest, killed_at_random
from mkhspc.simulate import SlideSpec, write_demo_slides

Row = dict[str, object]

KILLS, KILLS_IN_SHORT = 100, 25


def rows(shared: Path | None, full: bool) -> list[Row]:
    kills = KILLS if full else KILLS_IN_SHORT
    with tempfile.TemporaryDirectory() as scratch:
        spec = SlideSpec("TINY", "F", "GC", sizes_um=((140.0, 130.0),))
        (slide,) = write_demo_slides(Path(scratch), seed=3, specs=(spec,))
        whole = Segment(slide.path, Path(scratch) / "undisturbed")
        begun_s = time.monotonic()
        if whole.start().wait():
            raise RuntimeError(whole.errors.read_text())
        wall_s = time.monotonic() - begun_s
        toll = killed_at_random(slide.path, digest(whole.root), wall_s, Path(scratch), kills, seed=100)
    return _rows(toll)


def _rows(toll: Toll) -> list[Row]:
    victims = ", ".join(f"{toll.kills[victim]} {victim}" for victim in VICTIMS)
    kills = f"SIGKILL at {toll.kills.total()} random moments ({victims})"
    return [
        _row(f"{kills}: finished tiles lost", toll.lost, "tiles", 0),
        _row(
            f"{kills}: most tiles done again after one, with {WORKERS} workers",
            max(toll.again),
            "tiles",
            WORKERS,
        ),
        _row(f"{kills}: tiles done again for other reasons", toll.repeated, "tiles", 0),
        _row(f"{kills}: runs of {toll.runs} with other bytes", toll.differing, "runs", 0),
        _row(f"{kills}: workers that outlived their parent", toll.orphans, "processes", 0),
    ]


def _row(name: str, value: int, unit: str, most: int) -> Row:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "baseline": "an undisturbed run",
        "target": f"<= {most}" if most else "0",
        "ok": value <= most,
    }
