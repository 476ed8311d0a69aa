"""Life of a process that serves models: it loads them, and answers until its parent ends it or is gone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from mkhspc.errors import MkhspcError
from mkhspc.models.device import FREE_MEMORY, INSTALL, LOOK_AT_GPU, DeviceMemoryError, is_full, is_lost
from mkhspc.models.server.activity import Activity
from mkhspc.models.server.reports import Loaded, ServerLostError
from mkhspc.models.server.server import ModelServer, in_one_line
from mkhspc.models.service import Loader, Model
from mkhspc.process.limits import usable_cores
from mkhspc.process.memory import tree_rss_bytes
from mkhspc.process.signals import STOP_SIGNALS

EXIT_LOST = 1
"""The exit code of a server that lost its GPU."""


@dataclass(frozen=True)
class ServerSettings:
    """What a server's process is started with.

    Attributes:
        socket: the path where it is to listen; its folder is removed when the parent ends without doing so.
        request_s: the seconds that one request may take.
    """

    device: str
    loaders: Sequence[Loader]
    socket: Path
    request_s: float


def run_server(settings: ServerSettings, parent: Connection, activity: Activity) -> None:
    """Loads the models, reports to the parent, and answers workers.

    Sends the parent `Loaded`, lines for the run's log, and last the error that it ends of, if any.

    Args:
        activity: the parent has set the time for loading; here it is set for each batch.
    """
    _prepare(settings, parent)
    begun_s = time.monotonic()
    try:
        models = {loader.name: _load(loader, settings.device) for loader in settings.loaders}
    except MkhspcError as error:
        parent.send(error)
        return
    _compute_in_full_float32()
    activity.end()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(settings.socket))
        listener.listen()
        parent.send(
            Loaded(
                settings.device,
                rss_bytes=tree_rss_bytes(),
                load_s=round(time.monotonic() - begun_s, 3),
                precision={name: model.precision for name, model in models.items()},
            )
        )
        try:
            ModelServer(models, settings.device, listener, parent, activity, settings.request_s).serve()
        except Exception as error:
            if not is_lost(error):
                raise
            what = f"the GPU was lost ({in_one_line(error)})"
            with suppress(ConnectionError):
                parent.send(ServerLostError(what, where=settings.device, fix=LOOK_AT_GPU))
            os._exit(EXIT_LOST)  # an orderly end would use the GPU once more


def _prepare(settings: ServerSettings, parent: Connection) -> None:
    """Sets the process up before any model's package is imported."""
    for number in STOP_SIGNALS:  # the parent decides; a Ctrl-C reaches the whole process group
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent, settings.socket.parent), daemon=True).start()
    os.dup2(2, 1)  # what libraries print is not a result of the command
    if settings.device == "cpu":  # some packages put things on a GPU wherever there is one
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin would take the workers' cores


def _end_with(parent: Connection, directory: Path) -> None:
    """Ends this process with its parent, in the middle of whatever it does."""
    with suppress(EOFError, OSError):
        parent.recv()
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


def _load(loader: Loader, device: str) -> Model:
    try:
        return loader.load(device)
    except MkhspcError:
        raise
    except Exception as error:  # the parent is to report it, whatever it is
        kind = DeviceMemoryError if is_full(error) else MkhspcError
        raise kind(
            f"the model '{loader.name}' does not load on {device}: {in_one_line(error)}", fix=_way_out(error)
        ) from error


def _way_out(error: Exception) -> str:
    """What to do about a model that does not load."""
    if isinstance(error, ImportError):
        return INSTALL
    if is_full(error):
        return FREE_MEMORY
    return LOOK_AT_GPU if is_lost(error) else "check its weights with: mkhspc models verify"


def _compute_in_full_float32() -> None:
    """Switches TF32 off for all models here.

    Cellpose's import switches it on for products of matrices; for convolutions it is on by default.
    """
    if "torch" in sys.modules:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
