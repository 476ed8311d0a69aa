"""What the documents say can be run and found: snippets, the example, paths, links and targets of make."""

from __future__ import annotations

import importlib.util
import logging
import re
import runpy
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
from PIL import Image

import mkhspc
from conftest import ROOT
from labelfiles import export, write
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
PLACES = (ROOT, ROOT / "pipeline" / "mkhspc", ROOT / "tests")
"""Where a path in a document may begin."""
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
FILE = r"[\w./-]+\.py|(pipeline|tests|static|docs|scripts|site_templates|\.github)/[\w./-]+"
"""A file of the project; other names in backticks are files of a user."""
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def ids(page: Path) -> str:
    return page.name


def in_code(page: Path, pattern: str) -> list[str]:
    """What stands between backticks and is, as a whole, of this pattern."""
    found = CODE.findall(page.read_text(encoding="utf-8"))
    return [text for text in found if re.fullmatch(pattern, text)]


def label_every_other_cell(run: mkhspc.Run) -> None:
    cells = run.cells(columns=["cell_id", "cell_type"]).to_pylist()
    labels = {cell["cell_id"]: ("positive", "negative")[nth % 2] for nth, cell in enumerate(cells)}
    manifest = manifests.read(RunLayout(run.path))
    write(Path("annotations_anna.json"), export(manifest, labels))


@pytest.fixture
def study(small_slides: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which the snippets run."""
    (tmp_path / "slides").mkdir()
    for path in small_slides.values():
        (tmp_path / "slides" / path.name).symlink_to(path)
    (tmp_path / "groups.csv").write_text("slide_id,treatment\nDEMO_A,GC\nDEMO_B,HU\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    logging.getLogger("mkhspc").setLevel(logging.NOTSET)  # the last snippet keeps it quiet


@pytest.mark.slow
def test_the_snippets_and_the_example_run(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (readme,) = re.findall(
        r"^    import mkhspc\n(?:    .*\n|\n)+",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    exec(textwrap.dedent(readme), {})
    page = ROOT / "docs" / "api.md"
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for snippet in SNIPPET.finditer(text):
        line = text[: snippet.start(1)].count("\n")
        exec(compile("\n" * line + snippet[1], str(page), "exec"), names)
        if not Path("annotations_anna.json").exists():
            run = names["run"]
            assert isinstance(run, mkhspc.Run)
            label_every_other_cell(run)
    said = capsys.readouterr().out
    assert "anna: 100% of" in said
    assert "cells have no column 'area'" in said
    assert (study / "report" / "report.html").exists()

    monkeypatch.setattr(sys, "argv", ["look_at_a_run.py", "run", "look.png"])
    with mpl.rc_context({"backend": "agg"}):
        runpy.run_path(str(ROOT / "docs" / "examples" / "look_at_a_run.py"))
    with Image.open(study / "look.png") as picture:
        assert picture.size == (1320, 840)
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 1000  # crops are there, not axes alone


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_file_that_is_named_exists(page: Path) -> None:
    for name in in_code(page, FILE):
        inside = [place / name for place in PLACES] if "/" in name else []
        elsewhere = [] if "/" in name else [path for place in PLACES[1:] for path in place.rglob(name)]
        assert any(path.exists() for path in inside) or elsewhere or (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_name_of_the_package_exists(page: Path) -> None:
    for name in in_code(page, r"mkhspc(\.\w+)+"):
        first = name.split(".")[1]
        assert hasattr(mkhspc, first) or importlib.util.find_spec(f"mkhspc.{first}"), name


def test_a_newcomer_is_told_of_every_room(repository: Path) -> None:
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for room in (repository / "pipeline" / "mkhspc").iterdir():
        if (room / "__init__.py").exists():
            assert f"`{room.name}/`" in text, room.name


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert re.match(r"https?:|mailto:", target) or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_target_of_make_exists(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"(?:^    |`)make ([a-z][\w-]*)", text, re.MULTILINE):
        assert target in targets, target


def test_what_is_cited_is_this_version(repository: Path) -> None:
    cited = (repository / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {mkhspc.__version__}\n" in cited
