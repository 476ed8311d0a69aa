"""`mkhspc` in which every worker notes each tile that it begins, and whose worker it is, in `$BEGUN_TILES`.

Workers are new processes that import this file too, as processes started by 'spawn' do.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mkhspc.run.worker import TileWorker

_run = TileWorker.run
_parent = os.getppid()


def noted(self: TileWorker, task: Any) -> dict[str, Any]:
    with Path(os.environ["BEGUN_TILES"]).open("a") as file:
        file.write(f"{task.slide_id}/{task.tile_id} {_parent}\n")
    return _run(self, task)


TileWorker.run = noted  # type: ignore[method-assign]

if __name__ == "__main__":
    from mkhspc.cli import main

    main()
