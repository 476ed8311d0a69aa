"""What the tiles of a run ask of memory, from their sizes alone, before any work begins."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mkhspc.models.service import MESSAGE_BYTES

WORKER_BYTES = 150_000_000
"""Bytes of a worker with its libraries loaded and no tile; measured."""
PLAN_BYTES_PER_PX = 3
"""Bytes that a worker holds for each pixel of a slide's tissue masks: two masks, and their packed form."""
RGB_BYTES_PER_PX = 3
"""Bytes of a pixel of a window: red, green and blue."""
HSPC_BYTES_PER_NEAR_PX = 7
"""Bytes that finding HSPC takes for each pixel near the core (`TileAnalysis.near_halo_px`)."""
MK_BYTES_PER_NEAR_PX = 4
"""Bytes that finding MK takes for each pixel near the core."""
MK_BYTES_PER_BLOCK = 8
"""Bytes that finding MK takes for each of its blocks in the window. From 0.3 µm a pixel on a block is a
pixel, and these images are the largest. This and the two above were measured on dense marrow at 0.22, 0.3 and
0.5 µm and rounded up; the tiles that are done replace them by the run's own figure."""
DEEP_BYTES_PER_PX = 3 * 4 * 10_000 / 4096**2
"""Bytes a pixel for each deep feature: three copies of a number of 4 bytes for the 10,000 cells of a dense
tile of 4096 px."""
MEASURED_MARGIN = 1.1
"""The factor on what a worker was seen to need, for tiles with more cells."""
ROOM_SHARE = 0.15
"""The share of the limit that may hold decoded sub-blocks for later windows, within `ROOM_BYTES`."""
ROOM_BYTES = (64_000_000, 1_000_000_000)
"""The least and the most bytes for decoded sub-blocks. Of the 600 MB that a limit of 4 GB gives, a slide of
20 Gpx in tiles of 4096 px takes 390 MB, and what it shows is decoded 1.14 times."""


def room_bytes(limit_bytes: int) -> int:
    """How much may be kept of decoded sub-blocks."""
    least, most = ROOM_BYTES
    return max(least, min(most, int(ROOM_SHARE * limit_bytes)))


@dataclass(frozen=True)
class Demand:
    """What the tiles of a run ask of memory.

    Attributes:
        tiles: left to do.
        window_px: of the largest window.
        near_px: of it, those near to the core; all unless said.
        blocks: of it, in which MK are sought.
        held_bytes: decoded sub-blocks kept for later windows, at most.
        block_bytes: of the largest sub-block.
        mask_px: of the tissue masks of the slide that has most.
        worker_bytes: of one worker at work on the largest window.
        server_bytes: of all model servers together.
        message_bytes: of the largest message between a worker and a model server.
        deep_columns: features of each cell that networks give.
        read_threads: that read already, and stay.
    """

    tiles: int
    window_px: int
    held_bytes: int
    block_bytes: int
    mask_px: int = 0
    worker_bytes: int = 0
    server_bytes: int = 0
    message_bytes: int = MESSAGE_BYTES
    deep_columns: int = 0
    near_px: int | None = None
    blocks: int = 0
    read_threads: int = 1

    def __post_init__(self) -> None:
        if not self.worker_bytes:
            near_px = self.window_px if self.near_px is None else self.near_px
            finding_bytes = max(
                HSPC_BYTES_PER_NEAR_PX * near_px,
                MK_BYTES_PER_NEAR_PX * near_px + MK_BYTES_PER_BLOCK * self.blocks,
            )
            work_bytes = (
                RGB_BYTES_PER_PX * self.window_px
                + finding_bytes
                + DEEP_BYTES_PER_PX * self.deep_columns * near_px
                + PLAN_BYTES_PER_PX * self.mask_px
            )
            object.__setattr__(self, "worker_bytes", WORKER_BYTES + round(work_bytes))

    @property
    def slot_bytes(self) -> int:
        return 3 * self.window_px

    def measured(self, worker_bytes: int, server_bytes: int, read_threads: int = 1) -> Demand:
        """The same with the most that a worker, and all model servers together, were seen to take."""
        return replace(self, worker_bytes=worker_bytes, server_bytes=server_bytes, read_threads=read_threads)
