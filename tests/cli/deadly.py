"""`mkhspc` in which every worker that begins the tile `$DEADLY_TILE` is killed, as by the kernel.

Workers are new processes that import this file too, as processes started by 'spawn' do.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from mkhspc.run.worker import TileWorker

_run = TileWorker.run


def deadly(self: TileWorker, task: Any) -> dict[str, Any]:
    if task.tile_id == os.environ["DEADLY_TILE"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return _run(self, task)


TileWorker.run = deadly  # type: ignore[method-assign]

if __name__ == "__main__":
    from mkhspc.cli import main

    main()
