"""`mkhspc` in which every worker notes each tile that it begins, and whose worker it is, in `$BEGUN_TILES`.

Workers import the module of what they are given, so that is this one and not the script.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mkhspc.run.worker import TileWorker


class NotedWorker(TileWorker):
    """A worker's work with a note of its beginning."""

    def run(self, task: Any) -> dict[str, Any]:
        with Path(os.environ["BEGUN_TILES"]).open("a") as file:
            file.write(f"{task.slide_id}/{task.tile_id} {os.getppid()}\n")
        return super().run(task)


if __name__ == "__main__":
    import noted
    from mkhspc.cli import main
    from mkhspc.run import do_tiles

    do_tiles.TileWorker = noted.NotedWorker  # type: ignore[misc]
    main()
