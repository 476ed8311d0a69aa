"""What `mkhspc inspect` reports: a slide's facts, its tissue, and the tiles that it would be cut into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mkhspc.config import RunSection
from mkhspc.config.identity import DRAW_BY_TISSUE
from mkhspc.errors import InputError
from mkhspc.geometry import Box, area_um2
from mkhspc.progress import Progress, silent
from mkhspc.slide.calibration import calibrate_scenes
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.model import SceneInfo, SlideInfo
from mkhspc.slide.oddities import oddities
from mkhspc.slide.tiles import Tile, plan_tiles
from mkhspc.slide.tissue import TissueMask, tissue_and_damage


@dataclass(frozen=True)
class SceneReport:
    """A scene; what needs pixels or their size is None where the slide does not give them."""

    scene: int
    width_px: int
    height_px: int
    x0_px: int
    y0_px: int
    width_mm: float | None
    height_mm: float | None
    tissue_mm2: float | None
    fat_free_mm2: float | None
    tissue_share: float | None
    fat_free_share: float | None
    tiles: int | None
    channel: int | None
    pixel_type: str


@dataclass(frozen=True)
class SlideReport:
    """A slide, its scenes, and its tiles.

    Attributes:
        um_per_px: the pixel size in use, or None.
        refusal: why `segment` would refuse the slide, or '' when it would not.
        oddities: what is unusual about the slide and does not stop it, one line each.
        tissue: masks by scene; empty when they cannot be found.
        damaged: what cannot be decoded, by scene, in the scene's own coordinates; scenes without damage are
            left out. Only what was looked at is known, which may be a pyramid.
        tiles: of all scenes, in sampling order; None when they cannot be planned.
        halo_px: added on every side of a tile's core when it is read.
        read_share: pixels read for each pixel of tile core, or None without tiles.
    """

    info: SlideInfo
    um_per_px: float | None
    refusal: str
    oddities: tuple[str, ...]
    scenes: tuple[SceneReport, ...]
    tissue: Mapping[int, TissueMask]
    damaged: Mapping[int, Sequence[Box]]
    tiles: tuple[Tile, ...] | None
    tile_size: int
    halo_px: int | None
    read_share: float | None

    def to_dict(self) -> dict[str, Any]:
        """The report without masks and tiles, ready for JSON."""
        info = self.info
        return {
            "slide_id": info.slide_id,
            "path": str(info.path),
            "size_bytes": info.size_bytes,
            "um_per_px": self.um_per_px,
            "pixel_size_fault": info.pixel_size_fault or None,
            "pixel_type": info.pixel_type,
            "channels": [channel.name for channel in info.channels],
            "rgb_channels": [channel.index for channel in info.rgb_channels],
            "planes": dict(info.planes),
            "is_mosaic": info.is_mosaic,
            "compressions": list(info.compressions),
            "pyramid_levels": list(info.pyramid_levels),
            "scenes": [asdict(scene) for scene in self.scenes],
            "tile_size": self.tile_size,
            "tiles": None if self.tiles is None else len(self.tiles),
            "halo_px": self.halo_px,
            "read_share": self.read_share,
            "segment_refuses_because": self.refusal or None,
            "damaged": [
                {"scene": scene, **asdict(box)} for scene, boxes in self.damaged.items() for box in boxes
            ],
            "notes": list(self.oddities),
        }


def inspect_slide(
    slide: CziSlide, run: RunSection, halo_px: Callable[[float], int], progress: Progress = silent
) -> SlideReport:
    """Surveys a slide as far as it can be read.

    Args:
        run: tile size, seed and calibration windows.
        halo_px: what is read around a core, for a pixel size in µm.

    Raises:
        InputError: a disk or a server does not answer.
    """
    info, size, refusal = slide.info, slide.known_um_per_px, _refusal(slide)
    tissue: dict[int, TissueMask] = {}
    damaged: dict[int, Sequence[Box]] = {}
    scenes = () if refusal else info.read_scenes
    for done, scene in enumerate(scenes, start=1):
        tissue[scene.index], unseen = tissue_and_damage(slide, scene.index)
        damaged |= {scene.index: unseen} if unseen else {}
        progress("tissue", done, len(scenes), scene=scene.index)
    tiles = None if refusal else plan_tiles(info.slide_id, scenes, tissue, run.tile_size, run.seed)
    halo = None if size is None else halo_px(size)
    return SlideReport(
        info=info,
        um_per_px=size,
        refusal=refusal or _refusal_of_colours(slide, tissue, run),
        oddities=() if info.unreadable_because else tuple(oddities(slide)),
        scenes=tuple(_scene(scene, size, tissue.get(scene.index), tiles) for scene in info.scenes),
        tissue=tissue,
        damaged=damaged,
        tiles=tiles,
        tile_size=run.tile_size,
        halo_px=halo,
        read_share=_read_share(tiles or (), tissue, halo or 0),
    )


def _refusal(slide: CziSlide) -> str:
    if slide.info.unreadable_because:
        return f"{slide.info.unreadable_because} ({slide.info.remedy})"
    if slide.known_um_per_px is None:
        return f"{slide.info.pixel_size_fault} (give it in µm with --um-per-px)"
    return ""


def _refusal_of_colours(slide: CziSlide, tissue: Mapping[int, TissueMask], run: RunSection) -> str:
    """Why the survey would end at the calibration, or ''."""
    try:
        calibrate_scenes(slide, tissue, run, DRAW_BY_TISSUE)
    except InputError as error:
        return f"has colours that cannot be measured: {error.what} ({error.fix})"
    return ""


def _scene(
    scene: SceneInfo, um_per_px: float | None, tissue: TissueMask | None, tiles: tuple[Tile, ...] | None
) -> SceneReport:
    tissue_um2, fat_free_um2 = tissue.area_um2(scene.box) if tissue else (None, None)
    whole_um2 = area_um2(scene.box.area_px, um_per_px) if um_per_px else None
    return SceneReport(
        scene=scene.index,
        width_px=scene.width_px,
        height_px=scene.height_px,
        x0_px=scene.mosaic_box.x0,
        y0_px=scene.mosaic_box.y0,
        width_mm=_over(um_per_px and scene.width_px * um_per_px, 1e3),
        height_mm=_over(um_per_px and scene.height_px * um_per_px, 1e3),
        tissue_mm2=_over(tissue_um2, 1e6),
        fat_free_mm2=_over(fat_free_um2, 1e6),
        tissue_share=_over(tissue_um2, whole_um2),
        fat_free_share=_over(fat_free_um2, whole_um2),
        tiles=None if tiles is None else sum(tile.scene == scene.index for tile in tiles),
        channel=scene.channel,
        pixel_type="+".join(dict.fromkeys(kind for _, kind in scene.pixel_types)),
    )


def _over(value: float | None, unit: float | None) -> float | None:
    return None if value is None or unit is None else value / unit


def _read_share(tiles: Sequence[Tile], tissue: Mapping[int, TissueMask], halo_px: int) -> float | None:
    """What lies outside the scene is not read."""
    core_px = sum(tile.core.area_px for tile in tiles)
    read_px = sum(tile.core.grown(halo_px).clipped(tissue[tile.scene].scene_box).area_px for tile in tiles)
    return read_px / core_px if core_px else None
