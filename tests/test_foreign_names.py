"""A lab's own scripts beside the data, and its own packages, are never taken for parts of this program.

Every kind of process (a command, its workers, a model server, a job of a cluster, a command that
was printed) is started in a folder with a `mkhspc.py`, a `pipeline.py` and a `socket.py`, with another
`pipeline` on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from conftest import need
from processes import command

FOREIGN = """from pathlib import Path
Path(__file__).with_suffix(".imported").touch()
raise ImportError("this is not a part of mkhspc")
"""
SCRIPT = [str(Path(sys.executable).with_name("mkhspc"))]
MODULE = command()


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A working directory of a lab's own scripts; no process may import any of them."""
    folder = tmp_path / "lab"
    (folder / "packages" / "pipeline").mkdir(parents=True)
    for name in ("mkhspc.py", "pipeline.py", "socket.py", "packages/pipeline/__init__.py"):
        (folder / name).write_text(FOREIGN)
    return folder


def run(words: Sequence[str], lab: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in the lab's folder; none of the foreign modules was imported, and it went well."""
    environment = {**os.environ, "PYTHONPATH": str(lab / "packages"), **variables}
    done = subprocess.run(words, cwd=lab, env=environment, capture_output=True, text=True, check=False)
    imported = [str(path.relative_to(lab)) for path in lab.rglob("*.imported")]
    assert (done.returncode, imported) == (0, []), done.stderr
    return done


def segment(slide: Path, *more: str) -> list[str]:
    tiles = ["--tile-size", "512", "--sample-fraction", "0.5", "--num-workers", "2"]
    return ["segment", "--czi-path", str(slide), "--output-dir", "run", *tiles, *more]


def test_a_foreign_module_here_would_be_seen(lab: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import mkhspc"], cwd=lab, check=False, capture_output=True)
    assert done.returncode == 1
    assert (lab / "mkhspc.imported").exists()


@pytest.mark.slow
@pytest.mark.parametrize("program", [SCRIPT, MODULE], ids=["script", "module"])
def test_commands_and_their_workers_import_no_foreign_module(
    program: list[str], lab: Path, tiny_slide: Path
) -> None:
    done = run([*program, *segment(tiny_slide)], lab, PATH="/usr/bin:/bin")
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("next: "))
    printed = shlex.split(line.removeprefix("next: ").replace("SITE", "site"))
    assert printed[: len(program)] == program, "what is printed can be called where it is printed"
    done = run(printed, lab, PATH="/usr/bin:/bin")
    assert done.stdout.endswith(f"Look at it: {shlex.join([*program, 'serve', 'site'])}\n")
    assert json.loads((lab / "site" / "site.json").read_text())["cells"] > 0


@pytest.mark.slow
def test_a_model_server_imports_no_foreign_module(lab: Path, tiny_slide: Path) -> None:
    need("efficientnet_lite_pytorch")
    done = run(
        [*SCRIPT, *segment(tiny_slide, "--embedder", "efficientnet-lite0", "--device", "cpu", "--json")], lab
    )
    assert json.loads(done.stdout)["tiles"] > 0


@pytest.mark.slow
def test_the_jobs_of_a_cluster_import_no_foreign_module(lab: Path, tiny_slide: Path) -> None:
    (lab / "study.toml").write_text(
        f'[run]\noutput_dir = "run"\nslides = ["{tiny_slide}"]\ntile_size = 512\nsample_fraction = 0.5\n'
        '[gallery]\nout = "site"\n'
    )
    listed = run([*MODULE, "slurm", "--config", "study.toml", "--out", "jobs"], lab).stdout
    jobs = [line for line in listed.splitlines() if line.endswith(".sbatch")]
    assert len(jobs) == 3
    for job in jobs:
        assert " -P -m mkhspc" in Path(lab / job).read_text()
        run(["bash", str(lab / job)], lab, SLURM_ARRAY_TASK_ID="0", SLURM_ARRAY_JOB_ID="1")
    assert json.loads((lab / "site" / "site.json").read_text())["cells"] > 0
