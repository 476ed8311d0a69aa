"""The workflow of GitHub Actions is one that GitHub takes, and calls what a user would type."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="module")
def jobs(repository: Path) -> dict[str, Any]:
    (workflow,) = (repository / ".github" / "workflows").glob("*.yml")
    found: dict[str, Any] = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return found


def steps(jobs: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in jobs.values() for step in job["steps"]]


def test_what_actions_and_programs_are_given_is_text(jobs: dict[str, Any]) -> None:
    """GitHub refuses a list here, and 3.10 without quotes would be the number 3.1."""
    given = [step.get("with", {}) for step in steps(jobs)] + [job.get("env", {}) for job in jobs.values()]
    assert any(given)
    assert [value for values in given for value in values.values() if not isinstance(value, str)] == []


def test_versions_of_python_are_text_and_those_that_the_package_names(
    jobs: dict[str, Any], repository: Path
) -> None:
    versions = jobs["fast"]["strategy"]["matrix"]["python"]
    assert all(isinstance(version, str) for version in versions)
    named = re.findall(r"Python :: (3\.\d+)", (repository / "pyproject.toml").read_text())
    assert versions == named


def test_every_target_of_make_that_is_called_is_there(jobs: dict[str, Any], repository: Path) -> None:
    called = [target for step in steps(jobs) for target in re.findall(r"^make (\S+)", step.get("run", ""))]
    assert {"lint", "test-fast", "test"} <= set(called)
    makefile = (repository / "Makefile").read_text()
    assert [target for target in called if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
