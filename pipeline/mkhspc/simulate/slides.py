"""The simulated study: eight slides in two treatments, written as CZI with their truth.

Everything here is made up. The slides exist so that every stage can be run, and judged against a
known truth, by someone who has no slide at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from mkhspc.progress import Progress, silent
from mkhspc.simulate import truth
from mkhspc.simulate.cells.kinds import HARD, TEXTBOOK
from mkhspc.simulate.czi_writer import Mosaic, holds, write_czi
from mkhspc.simulate.paint import Optics
from mkhspc.simulate.placement import Densities
from mkhspc.simulate.scene import SceneStyle, SimulatedScene, simulate_scene
from mkhspc.simulate.terrain import TerrainStyle
from mkhspc.store import atomic
from mkhspc.store.csv_text import csv_text

MK_PER_MM2 = {"GC": 100.0, "HU": 170.0}
"""True MK per mm² of marrow by treatment: the effect that a report should find. Sex has no effect."""
MK_LIKE_PER_MM2 = 120.0
"""Large cells that are not MK, per mm² of marrow."""
CLUMPS_PER_MM2 = 15.0
"""Tight clumps of small nuclei per mm² of marrow."""
SMALL_PER_MM2 = 7000.0
"""Small nuclei and their like, all kinds together, per mm² of marrow."""
SLIDE_VARIATION = 0.1
"""The standard deviation of a slide's MK density about its group's, as a share of it."""

TRUTH_FILE = "truth.parquet"
GROUPS_FILE = "groups.csv"


@dataclass(frozen=True)
class Look:
    """How a slide of hard cells was stained and imaged.

    Attributes:
        haem_rgb, eosin_rgb: optical density of one unit of stain in red, green and blue.
        white_rgb: grey levels of bare glass.
        unfocused_share: see `Optics`.
    """

    haem_rgb: tuple[float, float, float] = (0.61, 0.70, 0.36)
    eosin_rgb: tuple[float, float, float] = (0.17, 0.90, 0.40)
    white_rgb: tuple[float, float, float] = (237.0, 230.0, 237.0)
    unfocused_share: float = 0.12


@dataclass(frozen=True)
class SlideSpec:
    """What a simulated slide is asked to be.

    Attributes:
        name: file stem and slide id; begins with DEMO_, by which reports know a simulation.
        sizes_um: (width, height) of each scene.
        origins: x, y of each scene's corner in the file's coordinates.
        overlap_px: of neighbouring sub-blocks.
        look: None for a slide of textbook cells, evenly stained and in focus.
    """

    name: str
    sex: str
    treatment: str
    um_per_px: float = 0.22
    sizes_um: tuple[tuple[float, float], ...] = ((660.0, 530.0),)
    origins: tuple[tuple[int, int], ...] = ((0, 0),)
    overlap_px: int = 0
    terrain: TerrainStyle = field(default_factory=TerrainStyle)
    look: Look | None = None


DEMO_SLIDES: tuple[SlideSpec, ...] = (
    SlideSpec("DEMO_FGC1", "F", "GC", terrain=TerrainStyle(0.22)),
    SlideSpec("DEMO_FGC2", "F", "GC", origins=((-700, 90_000),), terrain=TerrainStyle(0.3), overlap_px=40),
    SlideSpec(
        "DEMO_MGC1", "M", "GC", um_per_px=0.1725, sizes_um=((520.0, 420.0),), terrain=TerrainStyle(0.16)
    ),
    SlideSpec(
        "DEMO_MGC2",
        "M",
        "GC",
        sizes_um=((420.0, 440.0), (330.0, 460.0)),
        origins=((0, 0), (2600, 310)),
        terrain=TerrainStyle(0.24),
    ),
    SlideSpec("DEMO_FHU1", "F", "HU", origins=((120_000, -4000),), terrain=TerrainStyle(0.26)),
    SlideSpec("DEMO_FHU2", "F", "HU", terrain=TerrainStyle(0.32, 26.0)),
    SlideSpec("DEMO_MHU1", "M", "HU", terrain=TerrainStyle(0.2, open_side=True)),
    SlideSpec("DEMO_MHU2", "M", "HU", sizes_um=((600.0, 580.0),), terrain=TerrainStyle(0.28, 19.0)),
)


EVEN = Look(unfocused_share=0.0)
"""The stain of the textbook's slides, in focus everywhere."""
MAGENTA = Look((0.62, 0.84, 0.30), (0.12, 0.98, 0.30), (238.0, 228.0, 236.0))
BLUE = Look((0.78, 0.62, 0.24), (0.28, 0.78, 0.34), (226.0, 230.0, 240.0))
YELLOW_GLASS = Look(white_rgb=(236.0, 226.0, 198.0))
WEAK_EOSIN = Look((0.66, 0.72, 0.34), (0.13, 0.62, 0.30), (214.0, 210.0, 216.0), 0.2)

HARD_SLIDES: tuple[SlideSpec, ...] = (
    SlideSpec("DEMO_HARD1", "F", "GC", terrain=TerrainStyle(0.25, open_side=True), look=Look()),
    SlideSpec("DEMO_HARD2", "F", "GC", terrain=TerrainStyle(0.32, open_side=True), look=MAGENTA),
    SlideSpec("DEMO_HARD3", "M", "GC", terrain=TerrainStyle(0.2, open_side=True), look=BLUE),
    SlideSpec("DEMO_HARD4", "F", "HU", terrain=TerrainStyle(0.28, open_side=True), look=YELLOW_GLASS),
    SlideSpec("DEMO_HARD5", "M", "HU", terrain=TerrainStyle(0.24, open_side=True), look=WEAK_EOSIN),
    SlideSpec(
        "DEMO_HARD6",
        "M",
        "HU",
        um_per_px=0.1725,
        sizes_um=((520.0, 420.0),),
        terrain=TerrainStyle(0.3, open_side=True),
        look=Look(unfocused_share=0.25),
    ),
)
"""Slides on which a detector does as badly as on real marrow: `kinds.HARD` in stains from magenta to blue, on
glass that is not white, partly out of focus, with tissue that runs out of the scene."""


@dataclass(frozen=True)
class DemoSlide:
    """A simulated slide on disk.

    Attributes:
        objects: true objects of each target that are clear, by kind.
        tissue_um2: area inside the tissue's outline, all scenes.
        marrow_um2: the same without fat and gaps, as it was drawn.
    """

    slide_id: str
    path: Path
    um_per_px: float
    sex: str
    treatment: str
    objects: dict[str, int]
    tissue_um2: float
    marrow_um2: float


def write_demo_slides(
    out_dir: Path, *, seed: int = 0, specs: Sequence[SlideSpec] = DEMO_SLIDES, progress: Progress = silent
) -> list[DemoSlide]:
    """Simulates slides and writes `<name>.czi` each, `truth.parquet` and `groups.csv`.

    The same seed and spec give the same pixels, whatever else is written beside them.

    Args:
        out_dir: made when needed. A slide that is there with the same pixels is left as it is, so that
            runs go on with it; other files of the same names are replaced.
        specs: which slides; the whole study by default.

    Returns:
        The slides in the order of `specs`. See `truth.SCHEMA` for `truth.parquet`.
    """
    slides, tables = [], []
    for done, spec in enumerate(specs):
        progress("simulate", done, len(specs), slide=spec.name)
        scenes = list(_scenes(spec, seed))
        path = out_dir / f"{spec.name}.czi"
        mosaics = [Mosaic(scene.rgb, origin) for scene, origin in zip(scenes, spec.origins, strict=True)]
        if not holds(path, mosaics, spec.um_per_px):  # a file written anew is another scan to a run
            write_czi(path, mosaics, spec.um_per_px, overlap_px=spec.overlap_px)
        table = truth.table_of(spec.name, spec.um_per_px, [scene.objects for scene in scenes])
        tables.append(table)
        slides.append(_summary(spec, path, scenes, table))
    progress("simulate", len(specs), len(specs))
    truth.write_truth(out_dir / TRUTH_FILE, pa.concat_tables(tables), seed)
    atomic.write_text(out_dir / GROUPS_FILE, _groups_csv(specs))
    return slides


def _scenes(spec: SlideSpec, seed: int) -> Iterator[SimulatedScene]:
    rng = np.random.default_rng([seed, *spec.name.encode()])
    densities = Densities(
        small=SMALL_PER_MM2 * rng.normal(1.0, 0.05),
        mk=MK_PER_MM2[spec.treatment] * rng.normal(1.0, SLIDE_VARIATION),
        mk_like=MK_LIKE_PER_MM2,
        clumps=CLUMPS_PER_MM2,
        mixture=TEXTBOOK if spec.look is None else HARD,
    )
    optics = _optics(rng, spec.look or EVEN)
    style = SceneStyle(spec.terrain, densities, optics)
    for size_um, child in zip(spec.sizes_um, rng.spawn(len(spec.sizes_um)), strict=True):
        yield simulate_scene(size_um, spec.um_per_px, style, child)


def _optics(rng: np.random.Generator, look: Look) -> Optics:
    """Stain strength and hue, lamp and focus of one slide: no two are alike."""
    haem = np.array(look.haem_rgb) * rng.normal(1.0, 0.07) * rng.normal(1.0, 0.03, 3)
    eosin = np.array(look.eosin_rgb) * rng.normal(1.0, 0.1) * rng.normal(1.0, 0.05, 3)
    white = np.array(look.white_rgb) + rng.normal(0.0, 2.0, 3)
    return Optics(
        haem_rgb=tuple(haem.tolist()),
        eosin_rgb=tuple(eosin.tolist()),
        white_rgb=tuple(white.tolist()),
        focus_um=float(rng.uniform(0.16, 0.26)),
        noise=float(rng.uniform(1.5, 2.6)),
        unfocused_share=look.unfocused_share,
    )


def _summary(spec: SlideSpec, path: Path, scenes: list[SimulatedScene], table: pa.Table) -> DemoSlide:
    kinds = table.filter(table["clear"])["kind"].value_counts().to_pylist()
    return DemoSlide(
        slide_id=spec.name,
        path=path,
        um_per_px=spec.um_per_px,
        sex=spec.sex,
        treatment=spec.treatment,
        objects={row["values"]: row["counts"] for row in kinds},
        tissue_um2=sum(scene.tissue_um2 for scene in scenes),
        marrow_um2=sum(scene.marrow_um2 for scene in scenes),
    )


def _groups_csv(specs: Sequence[SlideSpec]) -> str:
    header = ("slide_id", "animal", "batch", "sex", "treatment")
    rows = (
        (spec.name, spec.name.removeprefix("DEMO_"), "simulated", spec.sex, spec.treatment) for spec in specs
    )
    return csv_text(header, rows)
