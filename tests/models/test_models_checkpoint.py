"""Files of weights that cannot be read, and machines that cannot hold them: neither is a damaged file."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from conftest import need
from mkhspc.errors import InputError
from mkhspc.models.weights.checkpoint import read_checkpoint

torch = need("torch")
pytestmark = pytest.mark.models


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(3)}, path)
    return path


def failing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> Exception:
    def load(*_: object, **__: object) -> Any:
        raise error

    monkeypatch.setattr(torch, "load", load)
    return error


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_gives_no_bytes_is_reported_with_its_own_reason(
    path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(OSError(number, os.strerror(number)), monkeypatch)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path, "fetch it again")
    assert str(caught.value) == (
        f"{path}: the weights cannot be read ({os.strerror(number)})\n  fetch it again"
    )


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_a_full_memory_stays_one(path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(error, monkeypatch)
    with pytest.raises(type(error)) as caught:
        read_checkpoint(path, "fetch it again")
    assert caught.value is error


@pytest.mark.parametrize(
    "error", [OSError(errno.EINVAL, "Invalid argument"), OSError("no number"), EOFError()]
)
def test_what_the_readers_say_of_bytes_that_are_none_is_damage(
    path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(error, monkeypatch)
    with pytest.raises(InputError, match="is truncated"):
        read_checkpoint(path, "fetch it again")
