from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mkhspc.cli import run_command
from mkhspc.errors import InputError
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import revisions
from runs import FakeRun, make_run, put_manifest

ADD_SLIDES = """
import errno, fcntl, sys, time
from dataclasses import replace
from pathlib import Path
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout

def with_slide(slide_id):
    def change(manifest):
        time.sleep(0.005)
        return replace(manifest, slides=(*manifest.slides, replace(manifest.slides[0], slide_id=slide_id)))
    return change

def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock = fcntl.lockf = no_locks
layout = RunLayout(Path(sys.argv[1]))
time.sleep(max(0.0, float(sys.argv[3]) - time.time()))
for i in range(5):
    manifests.update(layout, with_slide(f"{sys.argv[2]}-{i}"))
"""


def slide_ids(layout: RunLayout) -> list[str]:
    return [slide.slide_id for slide in manifests.read(layout).slides]


def with_slide(slide_id: str) -> Callable[[manifests.Manifest], manifests.Manifest]:
    def change(manifest: manifests.Manifest) -> manifests.Manifest:
        if slide_id in [slide.slide_id for slide in manifest.slides]:
            return manifest
        return replace(manifest, slides=(*manifest.slides, replace(manifest.slides[0], slide_id=slide_id)))

    return change


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    return make_run(tmp_path / "run", slide_ids=("A",), cells_per_type=4)


def test_no_change_of_several_processes_is_lost_and_none_needs_a_lock(run: FakeRun) -> None:
    start_s = str(time.time() + 2.0)
    writers = [
        subprocess.Popen([sys.executable, "-c", ADD_SLIDES, str(run.layout.root), name, start_s])
        for name in "BCD"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert sorted(slide_ids(run.layout)) == ["A", *(f"{name}-{i}" for name in "BCD" for i in range(5))]
    newest = manifests.loads(run.layout.manifest.read_text(), run.layout.manifest)
    assert newest.revision == manifests.read(run.layout).revision == 16


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_takes_changes(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(fcntl, "lockf", no_locks)
    manifests.update(run.layout, with_slide("B"))
    assert slide_ids(run.layout) == ["A", "B"]
    assert not [path for path in run.layout.root.iterdir() if "lock" in path.name]


def test_a_change_that_changes_nothing_writes_nothing(run: FakeRun) -> None:
    before = {path: path.stat().st_ino for path in run.layout.root.iterdir()}
    manifest = manifests.update(run.layout, lambda current: replace(current, versions=dict(current.versions)))
    assert manifest == manifests.read(run.layout)
    assert {path: path.stat().st_ino for path in run.layout.root.iterdir()} == before


class Killed(BaseException):
    """In the place of SIGKILL: nothing that would tidy up afterwards is let through."""


def dies_at(monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Lets the nth call that changes the disk, and each after it, end the process."""
    calls = itertools.count()
    for name in ("link", "replace", "rename", "unlink", "fsync"):
        real = getattr(os, name)

        def call(*args: Any, real: Callable[..., Any] = real, **more: Any) -> Any:
            if next(calls) >= nth:
                raise Killed
            return real(*args, **more)

        monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("nth", range(10))
def test_a_change_that_was_killed_is_made_or_not_and_blocks_nobody(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    with monkeypatch.context() as patch:
        dies_at(patch, nth)
        killed = False
        try:
            manifests.update(run.layout, with_slide("B"))
        except Killed:
            killed = True
    assert killed == (nth < 8), "every call was tried"
    assert slide_ids(run.layout) in (["A"], ["A", "B"])
    assert manifests.read(run.layout).revision == len(slide_ids(run.layout))
    manifests.update(run.layout, with_slide("B"))
    assert slide_ids(run.layout) == ["A", "B"]
    manifests.update(run.layout, with_slide("C"))
    assert slide_ids(run.layout) == ["A", "B", "C"]
    shown = json.loads(run.layout.manifest.read_text())
    assert [slide["slide_id"] for slide in shown["slides"]] == ["A", "B", "C"]


def test_a_slow_process_brings_no_older_manifest_back(run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """It made revision 2, and others went on before it came to show it."""
    show, others = revisions.atomic.write_text, iter("CD")

    def late(path: Path, text: str, *, within: Path) -> None:
        for slide_id in others:
            manifests.update(run.layout, with_slide(slide_id))
        show(path, text, within=within)

    monkeypatch.setattr(revisions.atomic, "write_text", late)
    manifests.update(run.layout, with_slide("B"))
    assert slide_ids(run.layout) == ["A", "B", "C", "D"]
    assert manifests.loads(run.layout.manifest.read_text(), run.layout.manifest).revision == 4


def test_a_manifest_that_never_rests_is_said(run: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "_put", lambda path, manifest, within: False)
    monkeypatch.setattr(revisions, "MOST_WAIT_S", 0.0)
    with pytest.raises(InputError, match="changed it 200 times in a row"):
        manifests.update(run.layout, with_slide("B"))


def test_a_change_of_no_run_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such run"):
        manifests.update(RunLayout(tmp_path / "run"), lambda manifest: manifest)
    assert not (tmp_path / "run").exists()


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m["filter"]["mk"].update(min_um2="a"), "filter.mk.min_um2 is 'a'; it must be a number"),
        (lambda m: m["filter"]["mk"].update(min_um2=float("nan")), "NaN is not a number in JSON"),
        (lambda m: m["filter"]["mk"].update(min_um2=9000), "above the minimum"),
        (lambda m: m["filter"].pop("hspc"), "hspc"),
        (lambda m: m["slides"][0].update(slide_id="../../evil"), "is not a slide id"),
        (lambda m: m["slides"][1].update(slide_id="A"), "two slides have the same id"),
        (
            lambda m: m["slides"][0].update(um_per_px=0.0),
            r"slides\[0\].um_per_px is 0; pixel sizes must be 0.02 to 20 µm",
        ),
        (
            lambda m: m["slides"][0].update(um_per_px="0.2"),
            r"slides\[0\].um_per_px is '0.2'; it must be a number",
        ),
        (lambda m: m["slides"][0].update(scenes=[{"scene": 0, "width_px": 5}]), "height_px"),
        (lambda m: m["slides"][0].update(scenes=3), r"slides\[0\].scenes"),
        (lambda m: m["slides"][0].update(extra=3), "extra"),
        (lambda m: m.update(slides=["A"]), "damaged"),
        (lambda m: m["config"]["run"].update(sample_fraction=7.0), "run.sample_fraction"),
        (lambda m: m.pop("seed"), "seed"),
        (lambda m: m.pop("checksum"), "checksum"),
    ],
)
def test_a_damaged_manifest_is_refused_with_what_is_wrong(tmp_path: Path, edit: Edit, words: str) -> None:
    assert "is damaged" in refused(tmp_path, edit, words)


HOSTILE = [
    ("nested", b"[" * 100_000, "it is nested too deep: 64 lists and objects inside one another are the most"),
    ("nested less", b'{"format": ' + b"[" * 200 + b"]" * 200 + b"}", "it is nested too deep"),
    ("digits", b'{"format": ' + b"9" * 5000 + b"}", "it holds a whole number of 5,000 digits"),
    ("no text", b"\xff\xfe{}", "it is not JSON: it is not text in UTF-8"),
    ("lists", b"[" + b"[]," * 1_000_000 + b"[]]", "it holds about 1,000,002 lists and objects"),
]


@pytest.mark.parametrize(("content", "words"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_a_hostile_manifest_is_refused_in_two_lines(
    run: FakeRun, content: bytes, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run.layout.manifest.write_bytes(content)
    assert run_command(["status", str(run.layout.root)]) == 3
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"mkhspc: {run.layout.manifest}: is damaged ({words}")
    assert second == "  restore it, or segment into a new directory"


def test_a_manifest_that_claims_gigabytes_is_not_read(run: FakeRun) -> None:
    with run.layout.manifest.open("ab") as file:
        file.truncate(5 * 10**9)  # sparse: takes no room
    with pytest.raises(InputError, match=r"is damaged \(it is larger than 64 MiB\)"):
        manifests.read(run.layout)


def refused(folder: Path, edit: Edit, words: str) -> str:
    """What is said of the manifest of a run that was edited."""
    layout = make_run(folder / "run", slide_ids=("A", "B"), cells_per_type=4).layout
    data = json.loads(layout.manifest.read_text())
    edit(data)
    layout.manifest.write_text(json.dumps(data))
    with pytest.raises(InputError, match=words) as error:
        manifests.read(layout)
    assert error.value.where == layout.manifest
    assert len(str(error.value).splitlines()) == 2
    return str(error.value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.update(config_hash="0" * 16), "its config_hash"),
        (lambda m: m["identity"].update({"run.tile_size": 1024}), "its config_hash"),
        (lambda m: m["config"]["run"].update(tile_size=1024), "run.tile_size"),
        (lambda m: m["config"]["run"].update(seed=9), "run.seed"),
        (lambda m: m["config"]["run"].update(calibration_samples=9), "run.calibration_samples"),
        (lambda m: m["config"]["mk"].update(detector="sam2"), "mk.detector"),
        (lambda m: m["config"]["compute"].update(embedder="resnet50"), "compute.embedder"),
        (lambda m: m["model_hashes"].update(mk="classical-0"), "model_hashes.mk"),
        (lambda m: m.update(seed=9), "its seed is 9"),
        (lambda m: m["blind_codes"].update(A="S09"), "blind codes"),
        (lambda m: m["slides"][0].update(code="S09"), "blind codes"),
        (lambda m: m["filter"]["mk"].update(min_um2=0.5), "the filter of mk"),
        (lambda m: m["filter"]["mk"].update(min_um2=150.0), "its checksum"),
        (lambda m: m["config"]["run"].update(sample_fraction=0.5), "its checksum"),
        (lambda m: m["slides"][0].update(um_per_px=0.3), "its checksum"),
        (lambda m: m["slides"][0].update(fingerprint="0" * 16), "its checksum"),
        (lambda m: m["slides"][0].update(path="/elsewhere.czi"), "its checksum"),
        (lambda m: m.update(dataset="0" * 12), "its checksum"),
        (lambda m: m["versions"].update(numpy="0"), "its checksum"),
        (lambda m: m.update(revision=7), "its checksum"),
    ],
)
def test_a_manifest_edited_by_hand_is_refused(tmp_path: Path, edit: Edit, words: str) -> None:
    """Each of these would find other cells under the old name, or show other codes than were used."""
    assert "was edited" in refused(tmp_path, edit, words)


def test_a_later_revision_edited_by_hand_is_refused_by_its_name(run: FakeRun) -> None:
    manifests.update(run.layout, with_slide("B"))
    path = run.layout.manifest_revision(2)
    manifests.update(run.layout, with_slide("C"))
    assert slide_ids(run.layout) == ["A", "B", "C"], "what an older one says is not read any more"
    newest = run.layout.manifest_revision(3)
    newest.write_text(newest.read_text().replace('"C"', '"D"'))
    assert slide_ids(run.layout) == ["A", "B", "C"], "manifest.json is the same"
    run.layout.manifest.write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="was edited") as error:
        manifests.read(run.layout)
    assert error.value.where == newest


def test_the_checksum_is_of_the_values_and_not_of_how_they_are_written(run: FakeRun) -> None:
    data = json.loads(run.layout.manifest.read_text())
    run.layout.manifest.write_text(json.dumps(dict(reversed(data.items())), indent=4))
    assert manifests.read(run.layout) == run.manifest


def test_a_manifest_that_is_put_in_the_place_of_another_is_the_newest(run: FakeRun) -> None:
    manifests.update(run.layout, with_slide("B"))
    put_manifest(run.layout, run.manifest)
    assert slide_ids(run.layout) == ["A"]
    manifests.update(run.layout, with_slide("C"))
    assert slide_ids(run.layout) == ["A", "C"]
