"""The library inside other people's programs: scripts without a guard, threads, pools, notebooks."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mkhspc
from labelfiles import export, truth_labels, write
from runs import make_run

BEGIN = """
import sys
with open("times-run", "a") as times:
    times.write("once ")
import mkhspc
"""
SEGMENT = """
def segment(name="run"):
    run = mkhspc.segment(slides="TINY.czi", output_dir=name, tile_size=256, num_workers=2)
    return run.cells(in_filter=None).num_rows
"""
EVERYTHING = """
def everything():
    assert segment() > 0
    run = mkhspc.open_run("run")
    mk = run.cells(cell_type="mk", in_filter=None)
    run.merge(), run.status(), run.refilter(mk_min_area_um=120.0), run.report(out="report")
    run.crops(mk["cell_id"]), run.contours(mk["cell_id"])
    run.exclude(tiles=f"TINY/{mk['tile_id'][0]}", reason="folded")
    labelled = mkhspc.open_run("labelled")
    mkhspc.convert("anna.json", labelled, "training.json")
    mkhspc.train("training.json", output_mk="mk.skops", model="logistic")
    mkhspc.validate(mk_classifier="mk.skops", training_data="training.json", run=labelled, report="gate")
    mkhspc.score(labelled, mk_classifier="mk.skops")
    return labelled.scores().num_rows
"""
IN_A_THREAD = """
import threading
answers = []
thread = threading.Thread(target=lambda: answers.append(everything()))
thread.start()
thread.join()
print(*answers)
"""
TWO_AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    print(*pool.map(segment, ["one", "two"]))
"""
LABELLED_MK = 300
"""Above the number from which folds are fitted in several processes."""


@pytest.fixture
def folder(tiny_slide: Path, tmp_path: Path) -> Path:
    """A slide, a run with 300 labelled MK, and the file of their labels."""
    (tmp_path / "TINY.czi").symlink_to(tiny_slide)
    made = make_run(tmp_path / "labelled", cells_per_type=LABELLED_MK // 3)
    write(tmp_path / "anna.json", export(made.manifest, truth_labels(made, lambda c: "_mk_" in c)))
    return tmp_path


def answer(folder: Path, words: list[str], typed: str | None = None) -> list[str]:
    """What a program in this folder prints; its top level must have run exactly once."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder, input=typed, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "times-run").read_text() == "once "
    return done.stdout.split()


def as_script(folder: Path, program: str) -> list[str]:
    (folder / "study.py").write_text(program)
    return answer(folder, ["study.py"])


def as_module(folder: Path, program: str) -> list[str]:
    (folder / "study.py").write_text(program)
    return answer(folder, ["-m", "study"])


def as_text(folder: Path, program: str) -> list[str]:
    return answer(folder, ["-c", program])


def typed_in(folder: Path, program: str) -> list[str]:
    return answer(folder, ["-"], typed=program)


def embedded(folder: Path, program: str) -> list[str]:
    """As in a notebook: `__main__` is a module of the interpreter's own and has no file."""
    (folder / "kernel.py").write_text(
        "import code, sys, types\n"
        "sys.modules['__main__'] = main = types.ModuleType('__main__')\n"
        f"code.InteractiveInterpreter(vars(main)).runcode(compile({program!r}, '<cell 1>', 'exec'))\n"
    )
    return answer(folder, ["kernel.py"])


def test_the_program_of_these_tests_calls_everything_that_there_is() -> None:
    functions = [name for name in mkhspc.__all__ if inspect.isfunction(getattr(mkhspc, name))]
    methods = [n for n, _ in inspect.getmembers(mkhspc.Run, inspect.isfunction) if not n.startswith("_")]
    assert [n for n in functions if f"mkhspc.{n}(" not in SEGMENT + EVERYTHING] == []
    assert [n for n in methods if f".{n}(" not in EVERYTHING] == []


@pytest.mark.slow
def test_a_script_without_a_guard_is_run_once_whatever_it_calls(folder: Path) -> None:
    assert as_script(folder, f"{BEGIN}{SEGMENT}{EVERYTHING}print(everything())") == [str(LABELLED_MK)]


@pytest.mark.slow
def test_everything_can_be_called_in_a_thread(folder: Path) -> None:
    assert as_script(folder, BEGIN + SEGMENT + EVERYTHING + IN_A_THREAD) == [str(LABELLED_MK)]


@pytest.mark.slow
@pytest.mark.parametrize("way", [as_script, as_module, as_text, typed_in, embedded])
def test_two_runs_at_once_in_threads_find_the_same_cells(
    folder: Path, way: Callable[[Path, str], list[str]]
) -> None:
    one, two = way(folder, BEGIN + SEGMENT + TWO_AT_ONCE)
    assert one == two
    assert int(one) > 0


def test_what_the_script_itself_spawns_still_finds_its_functions(folder: Path) -> None:
    """Only the library's own processes do without the script."""
    program = """
import multiprocessing
from multiprocessing import spawn
from mkhspc.process.spawned import OwnProcess

def double(n):
    return 2 * n

if __name__ == "__main__":
    before = spawn.get_preparation_data
    process = OwnProcess(target=print, args=("own",))
    process.start()
    process.join()
    assert spawn.get_preparation_data is before
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(double, [21]))
"""
    (folder / "times-run").write_text("once ")
    assert as_script(folder, program) == ["own", "[42]"]


def test_a_pool_that_may_start_no_processes_is_told_what_may(folder: Path) -> None:
    program = f"""{BEGIN}{SEGMENT}
def caught(_):
    try:
        return segment()
    except mkhspc.UsageError as error:
        return str(error)

import multiprocessing
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.map(caught, [0])[0])
"""
    said = " ".join(as_script(folder, program))
    assert said == (
        "no worker can be started inside a worker of multiprocessing.Pool: it may have no processes"
        " call mkhspc from a thread, or from concurrent.futures.ProcessPoolExecutor"
    )
