"""Runs the unit tests of the gallery's scripts with Node's own test runner."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import skip_or_fail


@pytest.mark.browser
def test_scripts_pass_their_unit_tests() -> None:
    node = shutil.which("node")
    if node is None:
        skip_or_fail("REQUIRE_BROWSER", "no Node found (Debian: apt-get install nodejs)")
    files = sorted(str(path) for path in Path(__file__).parent.glob("*.test.js"))
    done = subprocess.run([str(node), "--test", *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert f"# tests {len(files)}\n" not in done.stdout, "the files hold no tests of their own"
