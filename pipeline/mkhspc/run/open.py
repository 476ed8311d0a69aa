"""Opening a run: slides checked, settings agreed with the manifest, every slide's tiles planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import numpy as np

from mkhspc.config import RunConfig
from mkhspc.errors import InputError, UsageError
from mkhspc.geometry import Box
from mkhspc.run import settings as agreement
from mkhspc.slide.czi.read_order import Visit, mosaics_of, plan_reads
from mkhspc.slide.czi.slide import CziSlide, is_damage
from mkhspc.slide.czi.stream import WindowStream
from mkhspc.slide.czi.unpack import Pixels
from mkhspc.slide.stains import SceneCalibration, calibrate
from mkhspc.slide.tiles import (
    CALIBRATION_WINDOW_UM,
    TilePlan,
    _is_asked_for,
    calibration_boxes,
    plan_tiles,
    read_plan,
    write_plan,
)
from mkhspc.slide.tissue import TissueMask, survey
from mkhspc.store import manifest as manifests
from mkhspc.store.atomic import TEMPORARY_SUFFIX
from mkhspc.store.layout import RunLayout, distinct_slide_ids
from mkhspc.store.manifest import Manifest, SceneEntry, SlideEntry

CALIBRATION_ROOM_BYTES = 64_000_000
"""Of decoded images that are kept for other windows; less than what calibration takes afterwards."""
SPARE_WINDOWS = 2
"""So many times the calibration windows asked for are drawn where some of them cannot be decoded."""
Accept = Callable[[Manifest], object]
"""Looks at a manifest before it is written, and raises what it holds against it."""
Tell = Callable[[str], object]
"""Takes a line for whoever runs the command: nothing is wrong, but not as they may think."""


def ignore(_: object) -> None:
    """Accepts every manifest, and tells no one."""


def open_run(
    config: RunConfig,
    only: Sequence[str] = (),
    *,
    accept: Accept = ignore,
    tell: Tell = ignore,
    jobs_gpus: int | None = None,
) -> tuple[RunLayout, Manifest, tuple[str, ...]]:
    """Creates a run or opens the one that is there, if its settings agree.

    Arguments and errors are those of `proposed`.

    Returns:
        The run's layout, its manifest, and the ids of the slides that are wanted.
    """
    with proposed(config, only, accept=accept, tell=tell, jobs_gpus=jobs_gpus) as proposal:
        return proposal.layout, proposal.take(), proposal.wanted


@contextmanager
def proposed(
    config: RunConfig,
    only: Sequence[str] = (),
    *,
    accept: Accept = ignore,
    tell: Tell = ignore,
    jobs_gpus: int | None = None,
) -> Iterator[Proposal]:
    """Yields the run that a command asks for; the one on disk is unchanged until it is taken.

    Args:
        only: ids of the slides wanted, or none for all. A run that is there is opened without
            a look at the others, so that one bad slide does not stop the rest.
        tell: takes lines on where the run is not what the command asked for, and on what 'auto' stands for in
            one that is new.
        jobs_gpus: that the jobs of a cluster get, where they do the work; None when this machine does.

    Raises:
        UsageError: no slide or no output directory is named, or `only` names one that is not there.
        InputError: a slide cannot be used, or the run was made with other settings.
    """
    if not config.run.output_dir:
        raise UsageError("no output directory given", fix="give one with --output-dir")
    layout = RunLayout(Path(config.run.output_dir))
    files = distinct_slide_ids(_slide_files(config))
    wanted = _wanted(tuple(files), only)
    there = manifests.read(layout) if layout.manifest.exists() else None
    entries = [_slide_entry(s, files[s], config) for s in (files if there is None else wanted)]
    if there is None:
        _refuse_foreign_files(layout)
        _try_to_write(layout)
        manifest = agreement.new_manifest(config, entries, jobs_gpus)
    else:
        manifest = agreement.grown(layout, there, config, entries, jobs_gpus)
    accept(manifest)
    for line in agreement.surprises(manifest, config, jobs_gpus):
        tell(line)
    known = frozenset(s.slide_id for s in there.slides) if there else frozenset()
    with TemporaryDirectory(prefix="mkhspc-") as drafts:
        drafted = RunLayout(Path(drafts))
        yield Proposal(config, layout, manifest, wanted, entries, known, drafted, accept, jobs_gpus, tell)


@dataclass(frozen=True)
class Proposal:
    """A run as a command asks for it.

    Attributes:
        manifest: the run's, created or grown, not on disk yet.
        wanted: ids of the slides to work on.
        known: ids of the slides that the run has already.
        drafts: holds the plans of the others: on disk, a plan is of a slide that the manifest names.
    """

    config: RunConfig
    layout: RunLayout
    manifest: Manifest
    wanted: tuple[str, ...]
    entries: Sequence[SlideEntry]
    known: frozenset[str]
    drafts: RunLayout
    accept: Accept
    jobs_gpus: int | None
    tell: Tell

    def plan(self, slide_id: str) -> TilePlan:
        """The tile plan of a slide, which does not depend on whether the proposal is taken."""
        is_settled = slide_id in self.known or self.layout.plan(slide_id).exists()
        return prepare_plan(self.layout if is_settled else self.drafts, self.manifest, slide_id)

    def take(self) -> Manifest:
        """Writes the manifest and the plans; returns what is on disk, which others may have grown too."""
        manifest = self._reopened() if self.layout.manifest.exists() else self._created()
        for slide_id in self.wanted:
            if self.drafts.plan(slide_id).exists():
                plan = read_plan(self.drafts, slide_id, manifest.config_hash)
                write_plan(self.layout, slide_id, plan, manifest.config_hash)
        return manifest

    def _created(self) -> Manifest:
        """The manifest, written; or the one that another process wrote first, grown."""
        _refuse_foreign_files(self.layout)
        created = manifests.create(self.layout, self.manifest)
        if created is not self.manifest:
            return self._reopened()
        for line in agreement.choices(self.manifest, self.config):
            self.tell(line)
        return created

    def _reopened(self) -> Manifest:
        """The manifest on disk, grown by what this command asks for beyond it."""

        def grown(manifest: Manifest) -> Manifest:
            larger = agreement.grown(self.layout, manifest, self.config, self.entries, self.jobs_gpus)
            self.accept(larger)
            return larger

        return manifests.update(self.layout, grown)


def _wanted(slide_ids: tuple[str, ...], only: Sequence[str]) -> tuple[str, ...]:
    for slide_id in only:
        if slide_id not in slide_ids:
            raise UsageError(
                f"there is no slide '{slide_id}'", where="--only", fix=f"there are: {', '.join(slide_ids)}"
            )
    return tuple(s for s in slide_ids if s in only) if only else slide_ids


def _slide_files(config: RunConfig) -> list[Path]:
    paths: list[Path] = []
    for pattern in config.run.slides:
        literal = Path(pattern)
        if literal.exists():
            paths.append(literal)
            continue
        found = sorted(literal.parent.glob(literal.name)) if literal.name else []
        if not found:
            raise InputError("there is no such slide", where=pattern, fix="check the path to the CZI file")
        paths += found
    if not paths:
        raise UsageError("no slide given", fix="give one with --czi-path, or [run] slides in a config")
    return paths


def _slide_entry(slide_id: str, path: Path, config: RunConfig) -> SlideEntry:
    with CziSlide.open(path, um_per_px=config.run.um_per_px) as slide:
        slide.require_rgb()
        for scene in config.run.scenes:
            slide.scene(scene)
        scenes = tuple(SceneEntry(s.index, s.width_px, s.height_px) for s in slide.info.scenes)
        return SlideEntry(
            slide_id,
            path=str(path.resolve()),
            size_bytes=slide.info.size_bytes,
            fingerprint=slide.info.fingerprint,
            um_per_px=slide.um_per_px,
            scenes=scenes,
            code="",
        )


def _try_to_write(layout: RunLayout) -> None:
    """Raises `OSError` where a new run could not be written: a survey may take long, and leaves no trace."""
    place = next(place for place in (layout.root, *layout.root.absolute().parents) if place.exists())
    TemporaryFile(dir=place).close()


def _refuse_foreign_files(layout: RunLayout) -> None:
    if _holds_foreign_files(layout) and not layout.manifest.exists():  # another process can be first
        raise InputError(
            "is not empty and holds no run", where=layout.root, fix="give a new directory with --output-dir"
        )


def _holds_foreign_files(layout: RunLayout) -> bool:
    """Whether something is there that no creation of a run leaves, be it under way or killed."""
    if not layout.root.is_dir():
        return layout.root.exists()
    return any(not path.name.endswith(TEMPORARY_SUFFIX) for path in layout.root.iterdir())


def prepare_plan(layout: RunLayout, manifest: Manifest, slide_id: str) -> TilePlan:
    """The frozen tile plan of a slide: read when it is there, else surveyed and written.

    Tissue and calibration depend on the slide and the seed, never on the tile size.
    """
    if layout.plan(slide_id).exists():
        return read_plan(layout, slide_id, manifest.config_hash)
    entry, run = manifest.slide(slide_id), manifest.config.run
    with CziSlide.open(Path(entry.path), um_per_px=entry.um_per_px) as slide:
        tissue = survey(slide)
        plan = TilePlan(
            tiles=plan_tiles(slide_id, slide.info.scenes, tissue, run.tile_size, run.seed),
            tissue=tissue,
            calibration=_calibrations(slide, tissue, manifest),
        )
    return write_plan(layout, slide_id, plan, manifest.config_hash)


def _calibrations(
    slide: CziSlide, tissue: Mapping[int, TissueMask], manifest: Manifest
) -> dict[int, SceneCalibration]:
    """By scene with tissue; a scene that cannot be calibrated may only be one that is not asked for."""
    calibrations = {}
    for scene, mask in tissue.items():
        if mask.tissue.any():
            try:
                calibrations[scene] = _calibrate(slide, scene, mask, manifest)
            except InputError:
                if _is_asked_for(manifest, scene):
                    raise
    return calibrations


def _calibrate(slide: CziSlide, scene: int, mask: TissueMask, manifest: Manifest) -> SceneCalibration:
    try:
        return calibrate(_calibration_windows(slide, scene, mask, manifest), slide.um_per_px)
    except InputError as error:
        raise InputError(
            f"scene {scene} cannot be calibrated: {error.what}",
            where=slide.info.path,
            fix="look at it with `mkhspc inspect --preview`, and leave it out with --scene",
        ) from error


def _calibration_windows(slide: CziSlide, scene: int, mask: TissueMask, manifest: Manifest) -> list[Pixels]:
    """Pixels of the windows drawn; in the place of each that cannot be decoded the next one drawn.

    Raises:
        InputError: none can be decoded, or a disk or a server does not answer.
    """
    run = manifest.config.run
    side_px = round(CALIBRATION_WINDOW_UM / slide.um_per_px)

    def drawn(count: int) -> list[Box]:  # more windows begin with those of fewer
        return calibration_boxes(mask, count, side_px, run.seed, slide.info.slide_id, scene)

    boxes = drawn(run.calibration_samples)
    windows, faults = _decodable(slide, scene, boxes)
    if faults:
        spare = drawn(SPARE_WINDOWS * run.calibration_samples)[len(boxes) :]
        while spare and (wanting := len(boxes) - len(windows)):
            windows += _decodable(slide, scene, spare[:wanting])[0]
            spare = spare[wanting:]
    if faults and not windows:
        raise faults[0]
    return windows


def _decodable(slide: CziSlide, scene: int, boxes: Sequence[Box]) -> tuple[list[Pixels], list[InputError]]:
    """Pixels of those boxes in which no image is damaged, in their order, and the errors of the others.

    They lie all over the scene, and on a small one many in the same images: those are decoded once.
    """
    visits = [Visit(scene, box) for box in boxes]
    plan = plan_reads(mosaics_of(slide, visits), visits, CALIBRATION_ROOM_BYTES)
    found: dict[int, Pixels] = {}
    faults: list[InputError] = []
    in_order = [visits[nth] for nth in plan.order]
    with WindowStream(
        slide.info.path, slide.um_per_px, in_order, room_bytes=plan.room_bytes, threads=1
    ) as stream:
        while (step := stream.next_window()) is not None:
            box = in_order[step].box
            pixels = np.empty((box.height, box.width, 3), np.uint8)
            try:
                stream.read_into(pixels)
            except InputError as error:
                if not is_damage(error):
                    raise
                faults.append(error)
            else:
                found[plan.order[step]] = pixels
    return [found[nth] for nth in sorted(found)], faults
