"""Embedders: crops in batches against one crop at a time, and what workers hold beside their model server."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from sam2_scenes import random_weights

from conecells import save_cone_finder
from mkhspc.models.embedders import ARCHITECTURES, INPUT_SIDE_PX, EmbedderLoader
from mkhspc.models.weights.cache import WeightFile, weights_for
from mkhspc.simulate import SlideSpec, write_demo_slides

Row = dict[str, object]
Crops = NDArray[np.uint8]

THREADS = 2
CROPS = 64
REPEATS = 5
TARGET_SPEED = 1.2
SIDE_UM = 900.0
TILE_PX = 2048
WIDE_UM = (2000.0, 450.0)
WIDE_TILE_PX = 4096
WIDE_TILES = ("--sample-fraction", 0.5, "--seed", 3)
"""Two of three, one for each worker."""
WIDE_TILE_ID = "s0_4096_0"
"""The middle one of three tiles: what SAM2 must see beside it shows there."""
WORKERS = 2
TARGET_MEMORY = 1.15
TARGET_MEMORY_SAM2 = 1.25
SAMPLE_S = 0.05
NARROW = (
    "-c",
    "import sys; from smallcellpose import run; sys.exit(run(sys.argv[1:]))",
)
"""In the place of `-P -m mkhspc`: the same with Cellpose's classes on a narrow backbone."""


def rows(shared: Path | None, full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        resnet = WeightFile("resnet50", _random_resnet(scratch / "resnet50.pth"), "0" * 64)
        wheel = weights_for("efficientnet-lite0")
        return [
            _speed("resnet50", resnet),
            _speed("efficientnet-lite0", wheel),
            *_memory(scratch),
            _memory_with_cellpose(scratch),
            _memory_with_sam2(scratch),
        ]


# Speed


def _random_resnet(path: Path) -> Path:
    from torchvision.models import resnet50

    torch.manual_seed(1)
    torch.save(resnet50(weights=None).state_dict(), path)
    return path


def _speed(name: str, weights: WeightFile) -> Row:
    """Medians of turns: one side, the other, and again."""
    before = torch.get_num_threads()
    embedder, plain = EmbedderLoader(name, weights).load("cpu"), _plain(name, weights.path)
    torch.set_num_threads(THREADS)
    crops = np.random.default_rng(0).integers(
        0, 256, (CROPS, INPUT_SIDE_PX, INPUT_SIDE_PX, 3), dtype=np.uint8
    )
    sides: dict[str, Callable[[], object]] = {
        "batched": lambda: embedder.run([{"crops": crops}]),
        "single": lambda: [plain(crop) for crop in crops],
    }
    times_s: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(REPEATS + 1):
        for side, run in sides.items():
            begun_s = time.perf_counter()
            run()
            if turn:  # the first turn chooses kernels
                times_s[side].append(time.perf_counter() - begun_s)
    torch.set_num_threads(before)
    batched_s, single_s = (statistics.median(times_s[side]) for side in ("batched", "single"))
    return {
        "name": f"{ARCHITECTURES[name].title}, batches of crops, speed against one crop at a time",
        "value": single_s / batched_s,
        "unit": "x",
        "baseline": f"the package's network, {CROPS / single_s:.0f} crops of {INPUT_SIDE_PX} px a second "
        f"on {THREADS} threads",
        "target": f">= {TARGET_SPEED:g}",
        "ok": single_s / batched_s >= TARGET_SPEED,
    }


def _plain(name: str, path: Path) -> Callable[[Crops], Any]:
    """One crop, as the packages' own pages say."""
    from efficientnet_lite_pytorch import EfficientNet
    from torchvision.models import resnet50

    net = resnet50(weights=None) if name == "resnet50" else EfficientNet.from_name(name)
    net.load_state_dict(torch.load(path, weights_only=True))
    setattr(net, "fc" if name == "resnet50" else "_fc", torch.nn.Identity())
    net.eval()
    architecture = ARCHITECTURES[name]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (architecture.mean, architecture.std))

    def vector(crop: Crops) -> Any:
        with torch.inference_mode():
            return net(((torch.from_numpy(crop).permute(2, 0, 1).float() - mean) / std)[None])[0].numpy()

    return vector


# Memory


@dataclass
class _Watched:
    """What was seen of a run's processes while it ran.

    Attributes:
        server_pids: those that had torch in their memory, the short question for GPUs left out.
        peak_bytes: the highest sum of the others' memory, pages that several share counted once (PSS), and of
            the messages under way.
        server_bytes: of the model server at its highest.
    """

    server_pids: set[int] = field(default_factory=set)
    peak_bytes: int = 0
    server_bytes: int = 0


def _memory(scratch: Path) -> list[Row]:
    slide = _slide(scratch, "DEMO_MEMORY", (SIDE_UM, SIDE_UM))
    tiles = ("--tile-size", TILE_PX, "--num-workers", WORKERS)
    without = _watch(slide, scratch / "without", *tiles)
    with_model = _watch(slide, scratch / "with", *tiles, "--embedder", "efficientnet-lite0")
    return [
        _beside(f"{WORKERS} workers", "EfficientNet-Lite0", TILE_PX, without, with_model),
        {
            "name": "processes that map torch beside the one model server",
            "value": len(with_model.server_pids) - 1,
            "unit": "",
            "baseline": f"a copy in each of {WORKERS} workers",
            "target": "0",
            "ok": len(with_model.server_pids) == 1,
        },
    ]


def _memory_with_cellpose(scratch: Path) -> Row:
    """Of HSPC by Cellpose with a narrow backbone: a small model server, and messages of full size."""
    slide, weights = scratch / "DEMO_MEMORY" / "DEMO_MEMORY.czi", scratch / "cones"
    save_cone_finder(weights)
    tiles = ("--tile-size", TILE_PX, "--num-workers", WORKERS)
    by_cellpose = ("--hspc-detector", "cellpose", "--cellpose-weights", weights, "--device", "cpu")
    without = _watch(slide, scratch / "cells-without", *tiles)
    with_model = _watch(slide, scratch / "cells-with", *tiles, *by_cellpose, entry=NARROW)
    return _beside(f"{WORKERS} workers", "Cellpose", TILE_PX, without, with_model)


def _memory_with_sam2(scratch: Path) -> Row:
    """Of MK by SAM2, whose windows reach far beyond the tile; a tile for each worker."""
    slide, weights = _slide(scratch, "DEMO_WIDE", WIDE_UM), random_weights(scratch / "tiny.pt")
    tiles = ("--tile-size", WIDE_TILE_PX, "--num-workers", WORKERS, *WIDE_TILES)
    by_sam2 = ("--mk-detector", "sam2", "--sam2-weights", weights, "--device", "cpu")
    without = _watch(slide, scratch / "wide-without", *tiles)
    with_model = _watch(slide, scratch / "wide-with", *tiles, *by_sam2)
    done = {path.stem for path in scratch.glob("wide-*/parts/*/*.parquet")}
    if len(done) != WORKERS or WIDE_TILE_ID not in done:
        raise RuntimeError(f"the sample is {done}: choose a --seed that gives {WIDE_TILE_ID} and one more")
    return _beside(f"{WORKERS} workers", "SAM2", WIDE_TILE_PX, without, with_model, TARGET_MEMORY_SAM2)


def _slide(scratch: Path, name: str, size_um: tuple[float, float]) -> Path:
    write_demo_slides(scratch / name, specs=(SlideSpec(name, "F", "HU", sizes_um=(size_um,)),))
    return scratch / name / f"{name}.czi"


def _beside(
    workers: str,
    model: str,
    tile_px: int,
    without: _Watched,
    with_model: _Watched,
    target: float = TARGET_MEMORY,
) -> Row:
    ratio = with_model.peak_bytes / without.peak_bytes
    return {
        "name": f"memory of a run with {workers} beside the model server of {model}, "
        f"over the run without a model, tiles of {tile_px} px",
        "value": ratio,
        "unit": "x",
        "baseline": f"{without.peak_bytes / 1e6:.0f} MB for {workers} and the parent; "
        f"the model server takes {with_model.server_bytes / 1e6:.0f} MB more",
        "target": f"<= {target:g}",
        "ok": ratio <= target,
    }


def _watch(
    slide: Path, root: Path, *options: object, entry: Sequence[str] = ("-P", "-m", "mkhspc")
) -> _Watched:
    seen = _Watched()
    words = [sys.executable, *entry, "segment", "--czi-path", slide, "--output-dir", root, *options]
    process = subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    watcher = threading.Thread(target=_sample, args=(process.pid, seen), daemon=True)
    watcher.start()
    _, said = process.communicate()
    watcher.join()
    if process.returncode:
        raise RuntimeError(said)
    return seen


def _sample(pid: int, seen: _Watched) -> None:
    """Until the process has ended."""
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        servers_bytes = others_bytes = 0
        messages_bytes: dict[int, int] = {}
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            try:
                has_torch = "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()
                asks_for_gpus = "mkhspc.models.device" in process.cmdline()
                # Of a model server the plain figure does: to share its pages out takes time.
                held_bytes = process.memory_info().rss if has_torch else process.memory_full_info().pss
                messages_bytes |= _messages_bytes(process.pid)
            except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, ProcessLookupError):
                continue  # it ended between the listing and the look
            if asks_for_gpus:
                continue
            if has_torch:
                seen.server_pids.add(process.pid)
            if process.pid in seen.server_pids:
                servers_bytes += held_bytes
            else:
                others_bytes += held_bytes
        seen.peak_bytes = max(seen.peak_bytes, others_bytes + sum(messages_bytes.values()))
        seen.server_bytes = max(seen.server_bytes, servers_bytes)
        time.sleep(SAMPLE_S)


def _messages_bytes(pid: int) -> dict[int, int]:
    """By file, the messages that a process has open: written and read as files, nobody maps them."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed between the listing and the look
            if "mkhspc-message" in str(link.readlink()):
                status = link.stat()
                found[status.st_ino] = 512 * status.st_blocks
    return found
