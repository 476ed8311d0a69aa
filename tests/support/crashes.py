"""Killing real runs at random moments and counting what it costs."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mkhspc.pool.pool import TRIES

TILE_PX = 256
WORKERS = 2
VICTIMS = ("group", "parent", "worker")
ORPHANS_END_S = 30.0


@dataclass(frozen=True)
class Segment:
    """`mkhspc segment` of one slide into a run, whose workers note the tiles that they begin."""

    slide: Path
    root: Path
    workers: int = WORKERS

    @property
    def notes(self) -> Path:
        return self.root.with_name(f"{self.root.name}.begun")

    @property
    def errors(self) -> Path:
        """What the process that was started last says; a pipe would wait for its orphans."""
        return self.root.with_name(f"{self.root.name}.err")

    def start(self, *more: object) -> subprocess.Popen[bytes]:
        words = ["segment", "--czi-path", self.slide, "--output-dir", self.root, "--tile-size", TILE_PX]
        noted = Path(__file__).with_name("noted.py")
        with self.errors.open("w") as errors:
            return subprocess.Popen(
                [sys.executable, *map(str, (noted, *words, "--num-workers", self.workers, *more))],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "BEGUN_TILES": str(self.notes)},
                start_new_session=True,
            )

    def begun(self) -> dict[int, Counter[str]]:
        """How often each tile was begun, by the number of the process whose worker did it."""
        found: dict[int, Counter[str]] = defaultdict(Counter)
        for line in self.notes.read_text().splitlines() if self.notes.exists() else ():
            tile, process = line.split()
            found[int(process)][tile] += 1
        return found

    def begun_in_all(self) -> int:
        return sum(tiles.total() for tiles in self.begun().values())

    def finished(self) -> dict[str, tuple[int, int]]:
        """The tiles that have their part, and which file it is."""
        found = {}
        for part in (self.root / "parts").glob("*/*.parquet"):
            facts = part.stat()
            found[f"{part.parent.name}/{part.stem}"] = (facts.st_ino, facts.st_mtime_ns)
        return found


def digest(root: Path) -> dict[str, str]:
    """Every table and part of a run and the hash of its bytes."""
    folders = ("tiles", "parts", "cells", "crops")
    files = sorted(p for folder in folders for p in (root / folder).rglob("*.parquet"))
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def empty_directories(root: Path) -> list[Path]:
    return [p for p in root.rglob("*") if p.is_dir() and not any(p.iterdir())]


def leftovers(root: Path) -> list[Path]:
    return [p for p in root.rglob("*") if p.suffix in (".partial", ".claim")]


@dataclass
class Toll:
    """What a series of kills cost.

    Attributes:
        kills: by victim.
        lost: finished tiles whose part was gone or another file in the end.
        again: of every process killed, the tiles that it had begun and a later one began again.
        repeated: tiles that one process began again beyond one for each worker it lost.
        differing: runs that ended with other bytes than an undisturbed one.
        orphans: processes that outlived their killed parent.
        runs: that were brought to their end.
    """

    kills: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    again: list[int] = field(default_factory=list)
    repeated: int = 0
    differing: int = 0
    orphans: int = 0
    runs: int = 0


@dataclass
class _Life:
    """A process, and the workers that were killed under it."""

    process: subprocess.Popen[bytes]
    workers_lost: int = 0


def killed_at_random(
    slide: Path, expected: dict[str, str], wall_s: float, folder: Path, kills: int, seed: int
) -> Toll:
    """Kills `mkhspc segment` at random moments, starts it again each time, and begins anew when it is done.

    Args:
        expected: the digest of an undisturbed run, which took `wall_s`.
    """
    rng, toll = random.Random(seed), Toll()
    while toll.kills.total() < kills:
        run = Segment(slide, folder / f"run-{toll.runs}")
        lives = _until_done(run, rng, wall_s, kills - toll.kills.total(), toll)
        begun = [run.begun()[life.process.pid] for life in lives]
        for number, (life, tiles) in enumerate(zip(lives, begun, strict=True), start=1):
            later = {tile for others in begun[number:] for tile in others}
            if number < len(lives):
                toll.again.append(len(set(tiles) & later))
            toll.repeated += max(0, tiles.total() - len(tiles) - life.workers_lost)
        toll.runs += 1
        toll.differing += digest(run.root) != expected
    return toll


def _until_done(run: Segment, rng: random.Random, wall_s: float, most: int, toll: Toll) -> list[_Life]:
    """Brings one run to its end over at most so many kills; returns its processes in order."""
    finished: dict[str, tuple[int, int]] = {}
    orphans: list[psutil.Process] = []
    lives = [_Life(run.start())]
    while True:
        process = lives[-1].process
        try:
            process.wait(rng.uniform(0, wall_s) if most else None)
        except subprocess.TimeoutExpired:
            victim = _kill(process, rng.choice(VICTIMS), rng, orphans)
            finished |= run.finished()
            toll.kills[victim] += 1
            most -= 1
            if victim == "worker":
                lives[-1].workers_lost += 1
            else:
                lives.append(_Life(run.start()))
        else:
            if process.returncode == 4 and lives[-1].workers_lost >= TRIES:  # twice at the same tile
                lives.append(_Life(run.start()))
                continue
            if process.returncode:
                raise RuntimeError(run.errors.read_text())
            toll.lost += len(finished.items() - run.finished().items())
            toll.orphans += len(_outlived(orphans))
            return lives


def _outlived(orphans: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(orphans, timeout=ORPHANS_END_S)
    return [process for process in alive if not _is_zombie(process)]


def _is_zombie(process: psutil.Process) -> bool:
    """Whether it has ended, and nobody asked how."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _kill(
    process: subprocess.Popen[bytes], victim: str, rng: random.Random, orphans: list[psutil.Process]
) -> str:
    """Kills the whole group, the parent alone, or a worker if there is one; returns which it was."""
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if _is_worker(child)]
    if victim == "worker" and workers:
        rng.choice(workers).kill()
        return "worker"
    if victim == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    orphans += children
    return "group" if victim == "group" else "parent"


def _is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any("spawn_main" in word for word in process.cmdline())
    return False
