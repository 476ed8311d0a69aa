"""A run as a command asks for it: opened, looked at, and then committed. Nothing is written before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from mkhspc.config import ComputeSection, RunConfig
from mkhspc.config.schema import RunSection
from mkhspc.errors import InputError, UsageError
from mkhspc.run.classifiers import refuse_unfit_classifiers
from mkhspc.run.opening.copies import refuse_copies
from mkhspc.run.opening.extend import merged_with
from mkhspc.run.opening.notices import chosen_detectors, deviations
from mkhspc.run.opening.settings import RunSettings, run_settings
from mkhspc.run.opening.slide_files import slide_files
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.model import SceneInfo, SlideInfo
from mkhspc.slide.oddities import oddities
from mkhspc.slide.survey import prepare_tile_plan
from mkhspc.slide.tiles import TilePlan, load_tile_plan, save_tile_plan
from mkhspc.store import manifest as manifests
from mkhspc.store.atomic import TEMPORARY_SUFFIX
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest, SceneEntry, SlideEntry


@dataclass(frozen=True)
class PendingRun:
    """A run as a command asks for it; the one on disk is unchanged until `commit`.

    Attributes:
        config: of the command, as it was given.
        settings: the same with every 'auto' resolved.
        slides: what the files that were looked at are.
        oddities: lines on what is unusual about those of them that are new to the run.
        wanted: ids of the slides to work on.
        found: the manifest on disk when the run was opened; None for a new run.
        manifest: what `commit` is to write.
        scratch: holds the tile plans of slides that the run does not name yet.
    """

    layout: RunLayout
    config: RunConfig
    settings: RunSettings
    slides: Sequence[SlideEntry]
    oddities: Sequence[str]
    wanted: tuple[str, ...]
    found: Manifest | None
    manifest: Manifest
    scratch: RunLayout

    @property
    def compute(self) -> ComputeSection:
        """Workers, memory and devices, as the command asks for them."""
        return self.settings.config.compute

    def notices(self) -> list[str]:
        """Lines on where the run does not do to the letter what the command asks for."""
        return [*self.oddities, *deviations(self.manifest, self.config, self.settings)]

    def choices(self) -> list[str]:
        """Lines on what 'auto' stands for in a run that is new."""
        return chosen_detectors(self.manifest, self.config) if self.found is None else []

    def unplanned(self) -> list[SlideEntry]:
        """Wanted slides that have no tile plan yet."""
        slides = (self.manifest.slide(slide_id) for slide_id in self.wanted)
        return [slide for slide in slides if not self.layout.plan(slide.slide_id).exists()]

    def tile_plan(self, slide_id: str) -> TilePlan:
        """The tile plan of a slide, surveyed where it has none; `commit` keeps it as it is."""
        known = self.found is not None and slide_id in {s.slide_id for s in self.found.slides}
        is_settled = known or self.layout.plan(slide_id).exists()
        return prepare_tile_plan(self.layout if is_settled else self.scratch, self.manifest, slide_id)

    def commit(self) -> Manifest:
        """Writes the manifest and the tile plans.

        Returns:
            The manifest on disk; it may hold what other processes have asked for meanwhile.

        Raises:
            InputError: another process has created the run meanwhile, with other settings, or has asked for
                a classifier that cannot be used; nothing is written then.
        """
        manifest = self._create() if self.found is None else None
        if manifest is None:
            manifest = manifests.update(self.layout, self._merged_with)
        for slide_id in self.wanted:
            if self.scratch.plan(slide_id).exists():
                plan = load_tile_plan(self.scratch, slide_id, manifest.config_hash)
                save_tile_plan(self.layout, slide_id, plan, manifest.config_hash)
        return manifest

    def _create(self) -> Manifest | None:
        """The manifest written; None where another process was first."""
        _refuse_foreign_files(self.layout)
        return self.manifest if manifests.create(self.layout, self.manifest) is self.manifest else None

    def _merged_with(self, there: Manifest) -> Manifest:
        """The manifest on disk with what is asked beyond it; merged anew where others have changed it."""
        if there == self.found:
            return self.manifest
        settings = run_settings(self.config, self.settings.jobs_gpus, there.config)
        merged = merged_with(there, settings, self.slides, self.layout.root)
        refuse_unfit_classifiers(merged)
        return merged


@contextmanager
def pending_run(
    config: RunConfig, only: Sequence[str] = (), jobs_gpus: int | None = None
) -> Iterator[PendingRun]:
    """Opens the run that a command asks for, be it there or new.

    Args:
        only: ids of the slides wanted, or none for all. The other slides of a run that exists are not looked
            at, so that one bad slide does not stop the rest.
        jobs_gpus: how many GPUs each job of a cluster gets, where they do the work; None when this machine
            does.

    Raises:
        UsageError: no slide or no output directory is named, or `only` names one that is not there.
        InputError: a slide cannot be used, or the run was made with other settings.
        OSError: a new run could not be written.
    """
    if not config.run.output_dir:
        raise UsageError("no output directory is named", fix="give one with --output-dir")
    layout = RunLayout(Path(config.run.output_dir))
    files = slide_files(config.run.slides)
    found = manifests.read(layout) if layout.manifest.exists() else None
    wanted = _wanted_ids(tuple(files), only)
    if found is not None:
        wanted = tuple(slide_id for slide_id in wanted if not found.is_excluded(slide_id))
    seen = [_seen(s, files[s], config.run) for s in (files if found is None else wanted)]
    slides = [slide.entry for slide in seen]
    if found is None:
        _refuse_foreign_files(layout)
        _try_to_write(layout)
    settings = run_settings(config, jobs_gpus, found.config if found else None)
    if found is None:
        refuse_copies((), slides)
    manifest = merged_with(found, settings, slides, layout.root) if found else settings.new_manifest(slides)
    known = {slide.slide_id for slide in found.slides} if found else set()
    unusual = [line for slide in seen if slide.entry.slide_id not in known for line in slide.oddities]
    with TemporaryDirectory(prefix="mkhspc-") as scratch:
        there = RunLayout(Path(scratch))
        yield PendingRun(layout, config, settings, slides, unusual, wanted, found, manifest, there)


def _wanted_ids(slide_ids: Sequence[str], only: Sequence[str]) -> tuple[str, ...]:
    """The ids named with --only, in the order of the slides; all where none is named.

    Raises:
        UsageError: `only` names a slide that the command does not.
    """
    for slide_id in only:
        if slide_id not in slide_ids:
            raise UsageError(
                f"there is no slide '{slide_id}'", where="--only", fix=f"there are: {', '.join(slide_ids)}"
            )
    return tuple(s for s in slide_ids if not only or s in only)


@dataclass(frozen=True)
class _SeenSlide:
    """A slide that was looked at: what the manifest says of it, and lines on what is unusual about it."""

    entry: SlideEntry
    oddities: Sequence[str]


def _seen(slide_id: str, path: Path, run: RunSection) -> _SeenSlide:
    """Looks at a slide; its entry has no blind code yet.

    Args:
        run: gives the pixel size where the file states none, the channel, and the scenes that must be there.

    Raises:
        InputError: the file is not a CZI slide that can be used.
    """
    with CziSlide.open(path, run.um_per_px, run.channel) as slide:
        slide.require_rgb()
        for scene in run.scenes:
            slide.readable_scene(scene)
        entry = SlideEntry(
            slide_id,
            path=str(path.resolve()),
            size_bytes=slide.info.size_bytes,
            fingerprint=slide.info.fingerprint,
            um_per_px=slide.um_per_px,
            scenes=tuple(_scene_entry(slide.info, scene) for scene in slide.info.read_scenes),
            code="",
            content=slide.content,
        )
        return _SeenSlide(entry, [f"{path}: {line}" for line in oddities(slide, run.scenes)])


def _scene_entry(slide: SlideInfo, scene: SceneInfo) -> SceneEntry:
    name = next(channel.name for channel in slide.channels if channel.index == scene.channel)
    return SceneEntry(scene.index, scene.width_px, scene.height_px, scene.channel, name)


def _try_to_write(layout: RunLayout) -> None:
    """Raises `OSError` where a new run could not be written: a survey may take long, and leaves no trace."""
    place = next(place for place in (layout.root, *layout.root.absolute().parents) if place.exists())
    TemporaryFile(dir=place).close()


def _refuse_foreign_files(layout: RunLayout) -> None:
    if _holds_foreign_files(layout) and not layout.manifest.exists():  # another process can be first
        raise InputError(
            "this directory holds files, but no run",
            where=layout.root,
            fix="give a new directory with --output-dir",
        )


def _holds_foreign_files(layout: RunLayout) -> bool:
    """Whether something is there that no creation of a run leaves, be it under way or killed."""
    if not layout.root.is_dir():
        return layout.root.exists()
    return any(not path.name.endswith(TEMPORARY_SUFFIX) for path in layout.root.iterdir())
