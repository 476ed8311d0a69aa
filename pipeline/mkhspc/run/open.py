"""Opening a run: slides checked, settings agreed with the manifest, every slide's tiles planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from mkhspc.config import RunConfig
from mkhspc.errors import InputError, UsageError
from mkhspc.run import settings as agreement
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.survey import prepare_tile_plan
from mkhspc.slide.tiles import TilePlan, load_tile_plan, save_tile_plan
from mkhspc.store import manifest as manifests
from mkhspc.store.atomic import TEMPORARY_SUFFIX
from mkhspc.store.layout import RunLayout, distinct_slide_ids
from mkhspc.store.manifest import Manifest, SceneEntry, SlideEntry

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
        return prepare_tile_plan(self.layout if is_settled else self.drafts, self.manifest, slide_id)

    def take(self) -> Manifest:
        """Writes the manifest and the plans; returns what is on disk, which others may have grown too."""
        manifest = self._reopened() if self.layout.manifest.exists() else self._created()
        for slide_id in self.wanted:
            if self.drafts.plan(slide_id).exists():
                plan = load_tile_plan(self.drafts, slide_id, manifest.config_hash)
                save_tile_plan(self.layout, slide_id, plan, manifest.config_hash)
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
