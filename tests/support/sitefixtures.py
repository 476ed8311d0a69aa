"""A small site, and repositories to publish it to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitrepos import make_bare, make_work_tree
from mkhspc.gallery.options import SiteOptions
from mkhspc.gallery.site import build_site
from runs import FakeRun, make_run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(tmp_path_factory.mktemp("publish") / "run", slide_ids=("FGC1",), cells_per_type=12)


@pytest.fixture
def site(small_run: FakeRun, tmp_path: Path) -> Path:
    build_site(small_run.layout, SiteOptions(out=tmp_path / "site"))
    return tmp_path / "site"


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Git as on a machine where nobody has said who they are."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in [name for name in os.environ if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def bare(nobody: None, tmp_path: Path) -> Path:
    return make_bare(tmp_path / "target.git")


@pytest.fixture
def work_tree(nobody: None, tmp_path: Path) -> Path:
    return make_work_tree(tmp_path / "code")
