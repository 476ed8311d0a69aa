"""The wheel holds every file that the program needs, and runs from it without the source tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(repository)],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


def tracked(repository: Path, folder: str) -> set[str]:
    files = (p for p in (repository / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(repository)) for p in files}


def test_the_wheel_holds_every_module_template_style_and_script(repository: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {n.removeprefix("pipeline/") for n in tracked(repository, "pipeline") if n.endswith(".py")}
    shipped = set.union(
        *(tracked(repository, name) for name in ("site_templates", "static", "scripts/slurm"))
    )
    assert len(shipped) > 5
    assert modules <= names
    assert {f"mkhspc/{name}" for name in shipped} <= names


def test_the_wheel_installs_one_package(wheel: Path) -> None:
    """Another name at the top would overwrite, or be overwritten by, another distribution's files."""
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"mkhspc"}


def test_the_wheel_finds_its_templates_without_the_source_tree(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r});"
        "from mkhspc.resources import PACKAGE, resource_dir;"
        "print(PACKAGE); print(resource_dir('site_templates')); print(resource_dir('static'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    package, templates, static = map(Path, done.stdout.split())
    assert package == tmp_path / "site" / "mkhspc"
    assert templates == package / "site_templates"
    assert static == package / "static"


def test_the_base_install_needs_no_torch(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert not any("torch" in need for need in project["dependencies"])
    assert any(need.startswith("torch") for need in project["optional-dependencies"]["models"])
    assert {"models", "dev"} <= set(project["optional-dependencies"])


FAKE_PYTHON = """#!/bin/sh
[ "$1 $2" = "-m venv" ] || exit 0
mkdir -p "$3/bin"
printf '#!/bin/sh\\necho pip "$@" >> pip.log\\n' > "$3/bin/pip"
chmod +x "$3/bin/pip"
"""


def test_make_installs_again_when_the_environment_was_removed(repository: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(repository / name, tmp_path)

    def installs() -> int:
        subprocess.run(["make", "install", f"PYTHON={python}"], cwd=tmp_path, check=True, capture_output=True)
        return len((tmp_path / "pip.log").read_text().splitlines())

    assert installs() == 1
    assert installs() == 1, "what is there is not installed again"
    shutil.rmtree(tmp_path / ".venv")
    assert installs() == 2


def test_the_licence_is_the_gpl(repository: Path) -> None:
    assert "GNU GENERAL PUBLIC LICENSE" in (repository / "LICENSE").read_text()[:200]
