"""What `mkhspc doctor` tells of models, GPUs and weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import need
from mkhspc.models.weights.catalogue import CATALOGUE
from processes import mkhspc


def test_weights_that_are_here_are_told_from_those_that_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MKHSPC_MODELS", str(tmp_path))
    (tmp_path / CATALOGUE["cpsam"].file_name).write_bytes(b"cut off")
    done = mkhspc("doctor", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["weights_dir"] == str(tmp_path)
    assert set(facts["weights"]) == set(CATALOGUE)
    assert (facts["weights"]["sam2.1-large"], facts["weights"]["cpsam"]) == ("missing", "damaged")


@pytest.mark.models
def test_gpus_are_told_by_the_names_that_device_takes() -> None:
    torch = need("torch")
    facts = json.loads(mkhspc("doctor", "--json").stdout)
    assert list(facts["gpus"]) == [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    assert ("gpus  none" in mkhspc("doctor").stdout) == (torch.cuda.device_count() == 0)
