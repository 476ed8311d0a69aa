"""One side of a comparison with SAM2's own generator, in a process of its own, whose memory is its alone.

    python sam2_sides.py stage|generator CHECKPOINT WINDOW.pickle

prints what it took as JSON.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localmodels import LocalModels
from mkhspc.config import RunConfig
from mkhspc.detect.contract import Window
from mkhspc.detect.sam2 import Sam2Mk
from mkhspc.errors import MkhspcError
from mkhspc.models.sam2 import Sam2
from mkhspc.models.sam2_loader import Sam2Loader
from mkhspc.models.service import Message, array_of

STORED = RunConfig().stored("mk")
CELL_RADIUS_PX = 9.0
"""In the decoder's image, whose pixels are of a µm in a window of 256 µm: a cell of 254 µm²."""


class Counted:
    """The model, and what it was asked."""

    def __init__(self, model: Sam2) -> None:
        self.model = model
        self.precision = model.precision
        self.windows, self.prompts, self.survivors = 0, 0, 0

    def run(self, requests: list[Message]) -> Any:
        self.windows += len(requests)
        self.prompts += sum(len(array_of(request, "points")) for request in requests)
        answers = self.model.run(requests)
        for answer in answers:
            if isinstance(answer, MkhspcError):
                raise answer
            self.survivors += len(array_of(answer, "prompt"))
        return answers


def with_round_cells(model: Sam2) -> None:
    """Puts a disc at its prompt in the place of each mask, once that has been computed.

    Masks of random weights reach from border to border and would all be rejected, which spares what comes
    after: here they are cut out, enlarged and pooled as in a run.
    """
    decode = model._decode

    def decoded(embedding: Any, coordinates: Any, labels: Any, batch: int) -> tuple[Any, Any]:
        import torch

        logits, score = decode(embedding, coordinates, labels, batch)
        side = logits.shape[-1]
        centres = torch.from_numpy(coordinates[:, 0] * side / model.net.image_size)
        rows, columns = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
        x, y = (centre[:, None, None] for centre in centres.T)
        discs = 2.0 * (CELL_RADIUS_PX - torch.hypot(columns - x, rows - y))
        return discs[:, None].expand_as(logits).contiguous(), score

    model._decode = decoded  # type: ignore[method-assign]


def stage(model: Sam2, window: Window) -> dict[str, int]:
    """The detector with nothing rejected by score: with random weights they say nothing of a mask."""
    with_round_cells(model)
    counted = Counted(model)
    detector = Sam2Mk(
        LocalModels({"sam2": counted}), "random", STORED.max_length_um, min_score=0.0, min_stability=0.0
    )
    detector.detect(window, STORED)
    return {"windows": counted.windows, "prompts": counted.prompts, "survivors": counted.survivors}


def generator(net: Any, window: Window) -> dict[str, int]:
    """The package's generator as it comes; its thresholds spare it the masks of random weights."""
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    SAM2AutomaticMaskGenerator(net).generate(window.rgb)
    return {"windows": 1, "prompts": 32 * 32}


def official(checkpoint: Path) -> Any:
    """The package's own network with the weights."""
    from sam2.build_sam import build_sam2

    return build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", str(checkpoint), device="cpu")


def status_bytes(field: str) -> int:
    """A field of this process's status, such as VmRSS."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def main() -> None:
    side, checkpoint, window_file = sys.argv[1:]
    window = pickle.loads(Path(window_file).read_bytes())  # written by `models_mk` a moment ago, for us alone
    work: dict[str, tuple[Callable[[Path], Any], Callable[[Any, Window], dict[str, int]]]] = {
        "stage": (lambda path: Sam2Loader(path).load("cpu"), stage),
        "generator": (official, generator),
    }
    load, use = work[side]
    model = load(Path(checkpoint))
    before_bytes = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak, VmHWM, starts again from here
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    found = use(model, window)
    took = {"wall_s": time.perf_counter() - begun_s, "cpu_s": time.process_time() - begun_cpu_s}
    print(json.dumps({**found, **took, "extra_bytes": status_bytes("VmHWM") - before_bytes}))


if __name__ == "__main__":
    main()
