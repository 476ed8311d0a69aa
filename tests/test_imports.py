"""Imports point one way, and the command line starts without the heavy libraries."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

RANKS = {
    "errors": 0,
    "progress": 0,
    "units": 0,
    "process": 1,
    "charts": 1,
    "resources": 1,
    "geometry": 1,
    "pool": 2,
    "config": 2,
    "store": 3,
    "models": 4,
    "slide": 4,
    "simulate": 5,
    "detect": 5,
    "measure": 6,
    "budget": 7,
    "cluster": 8,
    "gallery": 4,
    "learn": 4,
    "results": 4,
    "run": 9,
    "api": 10,
    "demo": 11,
    "cli": 12,
}
"""A room may import rooms of a lower rank, and itself."""

SIDE_ROOMS = {"gallery", "learn", "results"}
"""See the store and nothing of the slides; know nothing of one another."""

HEAVY = (
    "torch", "matplotlib", "pandas", "sklearn", "skimage", "scipy", "cv2", "numpy", "pyarrow", "aicspylibczi",
)  # fmt: skip
MOST_IMPORT_S = 0.1
"""The seconds of processor time that `import mkhspc` may add to those of bare Python."""
MOST_HELP_S = 0.5
"""The seconds of processor time that `mkhspc --help` may take, Python included."""


def room_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root / "pipeline" / "mkhspc").with_suffix("").parts
    return parts[0]


def imported_rooms(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in modules if name.startswith("mkhspc.")} & set(RANKS)


def source_files(root: Path) -> list[Path]:
    top = {root / "pipeline" / "mkhspc" / "__init__.py", root / "pipeline" / "mkhspc" / "__main__.py"}
    return sorted(set((root / "pipeline" / "mkhspc").rglob("*.py")) - top)


def test_every_module_has_a_room(repository: Path) -> None:
    assert {room_of(path, repository) for path in source_files(repository)} <= set(RANKS)


def test_imports_point_one_way(repository: Path) -> None:
    wrong = []
    for path in source_files(repository):
        room = room_of(path, repository)
        for other in imported_rooms(path) - {room}:
            upward = RANKS[other] >= RANKS[room]
            sideways = room in SIDE_ROOMS and other in {
                "slide",
                "detect",
                "measure",
                "pool",
                "budget",
                "cluster",
            }
            if upward or sideways:
                wrong.append(f"{path.relative_to(repository)} ({room}) imports {other}")
    assert wrong == []


def test_the_pool_is_tested_without_a_slide(repository: Path) -> None:
    known = {"pool", *(room for room, rank in RANKS.items() if rank < RANKS["pool"]), "cli"}
    for path in sorted((repository / "tests" / "pool").glob("*.py")):
        assert imported_rooms(path) <= known, path
        assert not {"czifiles", "marrow", "runs"} & _imports(path), path


def test_only_one_module_knows_the_czi_library(repository: Path) -> None:
    users = [p for p in source_files(repository) if "aicspylibczi" in _imports(p)]
    assert [p.name for p in users] == ["slide.py"]


@pytest.mark.parametrize("statement", ["import mkhspc", "import mkhspc.cli"])
def test_the_package_imports_nothing_heavy(statement: str) -> None:
    code = f"import sys; {statement}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def processor_s(*words: str) -> float:
    """The processor time, of user and system, of a Python process; the least of three."""
    return min(_processor_s(words) for _ in range(3))


def _processor_s(words: tuple[str, ...]) -> float:
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_utime + used.ru_stime


def test_the_package_is_imported_at_once() -> None:
    bare_s = processor_s("-c", "pass")
    assert processor_s("-c", "import mkhspc") - bare_s < MOST_IMPORT_S


def test_help_is_shown_at_once() -> None:
    assert processor_s("-P", "-m", "mkhspc", "--help") < MOST_HELP_S


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mkhspc.cli import run_command; run_command(['--help']);"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_torch_is_imported_inside_functions_only(repository: Path) -> None:
    for path in source_files(repository):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not ({"torch", "sam2", "cellpose"} & _names(tree.body)), path


def _imports(path: Path) -> set[str]:
    return _names(list(ast.walk(ast.parse(path.read_text(encoding="utf-8")))))


def _names(nodes: list[ast.stmt] | list[ast.AST]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names
