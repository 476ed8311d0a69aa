"""`mkhspc` in which every worker that begins the tile `$DEADLY_TILE` is killed, as by the kernel.

Workers import the module of what they are given, so that is this one and not the script.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from mkhspc.run.worker import TileWorker


class DeadlyWorker(TileWorker):
    """A worker's work that one tile ends."""

    def run(self, task: Any) -> dict[str, Any]:
        if task.tile_id == os.environ["DEADLY_TILE"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(task)


if __name__ == "__main__":
    import deadly

    from mkhspc.cli import main
    from mkhspc.run import do_tiles

    do_tiles.TileWorker = deadly.DeadlyWorker  # type: ignore[misc]
    main()
