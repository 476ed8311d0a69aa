from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mkhspc.cli import run_command
from mkhspc.cli.options import command_line
from mkhspc.store.cells import read_cells
from runs import FakeRun, make_run, write_cells


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(tmp_path_factory.mktemp("cli") / "run", slide_ids=("FGC1",), cells_per_type=12)


def test_gallery_reports_what_it_made(
    run: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["gallery", "--run", str(run.layout.root), "--out", str(tmp_path / "site"), "--json"]
    assert run_command(arguments) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    site = json.loads((tmp_path / "site" / "site.json").read_text())
    assert report["size_bytes"] == site["bytes"]
    assert sum(report["cells"].values()) == site["cells"]
    assert all(json.loads(line)["stage"] for line in said.err.splitlines())


def test_gallery_takes_options(run: FakeRun, tmp_path: Path) -> None:
    out = tmp_path / "site"
    options = [
        "--cards-per-page",
        "5",
        "--order",
        "area",
        "--max-cards",
        "7",
        "--title",
        "T",
        "--blind-repeats",
        "0",
    ]
    assert (
        run_command(["gallery", "--run", str(run.layout.root), "--out", str(out), *options, "--no-blind"])
        == 0
    )
    site = json.loads((out / "site.json").read_text())
    assert (site["cards_per_page"], site["title"], site["blind"]) == (5, "T", False)
    assert site["cell_types"]["mk"]["order"] == "area"
    assert site["cell_types"]["mk"]["cells"] == 7
    assert site["cell_types"]["mk"]["blind_repeats"] == 0


def test_the_command_to_look_at_a_site_can_be_copied(
    run: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my site"
    assert run_command(["gallery", "--run", str(run.layout.root), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.endswith(f"Look at it: {command_line('serve', out)}\n")
    assert f"'{out}'" in said.out, "names are quoted"
    assert "lack cells" not in said.err


def test_tables_older_than_the_tiles_are_shown_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", slide_ids=("FGC1", "FHU1"), cells_per_type=12)
    cells = read_cells(run.layout, run.manifest, "FHU1")
    write_cells(run.layout, run.manifest, "FHU1", cells.slice(3))
    assert run_command(["gallery", "--run", str(run.layout.root), "--out", str(tmp_path / "site")]) == 0
    assert (
        "mkhspc: the tables of FHU1 lack cells of finished tiles, which are not shown;"
        " run the same `mkhspc segment` again to finish them\n"
    ) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["gallery", "--run", "{run}"], 2, "--out"),
        (["gallery", "--run", "{run}", "--out", "{out}", "--order", "suggested"], 2, "suggested"),
        (["gallery", "--run", "{run}", "--out", "{out}", "--order", "uncertainty"], 3, "mkhspc score"),
        (["gallery", "--run", "{run}", "--out", "{run}"], 3, "does not hold a site of mkhspc"),
        (["gallery", "--run", "{out}", "--out", "{out}"], 3, "there is no such run"),
        (["gallery", "--run", "{run}", "--out", "{out}", "--max-site-mb", "0.001"], 1, "MB are allowed"),
        (["serve", "{run}"], 3, "is not a site"),
        (["publish", "{run}", "--repo", "{run}"], 3, "is not a site"),
    ],
)
def test_errors_end_with_their_code_and_two_lines_at_most(
    run: FakeRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    places = {"run": run.layout.root, "out": tmp_path / "out"}
    assert run_command([a.format(**places) for a in arguments]) == code
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
    assert said in "\n".join(error)
    assert sum("public" not in line for line in error) <= (5 if code == 2 else 2)
    assert not (tmp_path / "out").exists()


def test_publish_says_that_pages_are_public(
    run: FakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site, repo = tmp_path / "site", tmp_path / "repo.git"
    run_command(["gallery", "--run", str(run.layout.root), "--out", str(site)])
    subprocess.run(["git", "init", "--quiet", "--bare", str(repo)], check=True)
    assert run_command(["publish", str(site), "--repo", str(repo), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "public" in said.err
    assert "would be" in said.out
    assert run_command(["publish", str(site), "--repo", str(repo), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pushed"] is True
