"""What a manifest says: slides, settings, the filter in force, what has left the study."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any

from mkhspc.config import (
    CELL_TYPES,
    UM_PER_PX,
    CellRange,
    CellType,
    RunConfig,
    config_hash,
    identity,
)
from mkhspc.config.identity import (
    dataset_name,
    draw_of,
    stored_scores_of,
)
from mkhspc.errors import InputError, some_of
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest.exclusions import Exclusion

SCORES_BEFORE: dict[CellType, float] = {"mk": 0.5, "hspc": 0.0}
"""The least scores of runs whose identity names none: they kept what was more likely an MK than not."""


@dataclass(frozen=True)
class SceneEntry:
    """A scene of a slide: its index in the file and its size in level-0 pixels.

    Attributes:
        channel, channel_name: the one that is read; None in the manifests of the first runs.
    """

    scene: int
    width_px: int
    height_px: int
    channel: int | None = None
    channel_name: str | None = None


@dataclass(frozen=True)
class SlideEntry:
    """A slide of the run.

    Attributes:
        fingerprint: of the file, so that no other scan takes its place; see `CziDirectory`.
        code: what annotators see instead of its name.
        content: of its images, whatever the file's name and id; see `slide.czi.content`. None in the
            manifests of the first runs.
    """

    slide_id: str
    path: str
    size_bytes: int
    fingerprint: str
    um_per_px: Annotated[float, UM_PER_PX]
    scenes: tuple[SceneEntry, ...]
    code: str
    content: str | None = None

    def is_of_file_of(self, other: SlideEntry) -> bool:
        """Whether another entry is of the same file, whatever its place and its damage.

        What an entry of the first runs does not say agrees with anything.
        """
        scenes = tuple(map(_as_far_as, self.scenes, other.scenes)) + other.scenes[len(self.scenes) :]
        return self == replace(other, path=self.path, code=self.code, content=self.content, scenes=scenes)


def _as_far_as(known: SceneEntry, other: SceneEntry) -> SceneEntry:
    return other if known.channel is not None else replace(other, channel=None, channel_name=None)


def slide_values(slide: SlideEntry) -> dict[str, Any]:
    """As JSON; what is not known is left out, so that manifests of the first runs stay as they are."""
    scenes = [_known(asdict(scene)) for scene in slide.scenes]
    return {**_known(asdict(slide)), "scenes": scenes}


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Manifest:
    """Contents of `RUN/manifest.json`.

    Attributes:
        config: the resolved config that created the run.
        identity: the settings that decide which cells there are; `config_hash` is their hash.
        dataset: names the run in the gallery and in exported labels; never changes.
        filter: the filter in force, per cell type: a view on the stored cells.
        detectors: the detector in use per cell type, and why it was chosen.
        versions: of the libraries whose numbers enter the results.
        exclusions: slides and tiles that have left the study.
        revision: counts the changes of what the run was asked for, from 1.
    """

    config: RunConfig
    identity: Mapping[str, Any]
    dataset: str
    slides: tuple[SlideEntry, ...]
    filter: Mapping[CellType, CellRange]
    detectors: Mapping[CellType, str]
    versions: Mapping[str, str]
    model_hashes: Mapping[str, str]
    exclusions: tuple[Exclusion, ...] = ()
    revision: int = field(default=1, compare=False)

    @classmethod
    def begin(
        cls,
        config: RunConfig,
        slides: Sequence[SlideEntry],
        detectors: Mapping[CellType, str],
        versions: Mapping[str, str],
        model_hashes: Mapping[str, str],
    ) -> Manifest:
        """The manifest of a run that begins with these slides, which get their blind codes."""
        ids = [slide.slide_id for slide in slides]
        codes = blind_codes(config.run.seed, ids)
        settings = identity(config, model_hashes)
        return cls(
            config=config,
            identity=settings,
            dataset=dataset_name(config_hash(settings), ids),
            slides=tuple(replace(slide, code=codes[slide.slide_id]) for slide in slides),
            filter={t: config.cells(t).filter for t in CELL_TYPES},
            detectors=detectors,
            versions=versions,
            model_hashes=model_hashes,
        )

    @property
    def config_hash(self) -> str:
        return config_hash(self.identity)

    @property
    def calibration_draw(self) -> int:
        """The rule by which the run draws its calibration windows; see `config.identity`."""
        return draw_of(self.identity)

    def slide(self, slide_id: str) -> SlideEntry:
        for slide in self.slides:
            if slide.slide_id == slide_id:
                return slide
        known = some_of([slide.slide_id for slide in self.slides])
        raise InputError(f"the run has no slide '{slide_id}'", fix=f"its slides: {known}")

    def stored(self, cell_type: CellType) -> CellRange:
        """What is on disk: the filter can be any range within."""
        score = stored_scores_of(self.identity).get(cell_type, SCORES_BEFORE[cell_type])
        low_um2, high_um2 = self.identity[f"{cell_type}.stored_area_um2"]
        return CellRange(low_um2, high_um2, score)

    def is_excluded(self, slide_id: str, tile_id: str | None = None) -> bool:
        """Whether a slide, or a tile of it, has left the study."""
        return (slide_id, None) in self._excluded or (slide_id, tile_id) in self._excluded

    @cached_property
    def _excluded(self) -> frozenset[tuple[str, str | None]]:
        return frozenset((one.slide_id, one.tile_id) for one in self.exclusions)

    def kept_tiles(self, layout: RunLayout, slide_id: str) -> set[str]:
        """Ids of a slide's finished tiles that are in the study."""
        finished = layout.finished_tiles(slide_id)
        return {tile_id for tile_id in finished if not self.is_excluded(slide_id, tile_id)}

    def with_exclusions(self, exclusions: tuple[Exclusion, ...]) -> Manifest:
        return replace(self, exclusions=exclusions)

    def with_filter(self, views: Mapping[CellType, CellRange]) -> Manifest:
        return replace(self, filter={**self.filter, **views})


def blind_codes(seed: int, slide_ids: list[str], taken: int = 0) -> dict[str, str]:
    """Codes S01, S02, ... in an order that the names do not give away.

    Args:
        taken: how many codes are in use already; new slides get the next ones.
    """

    def draw(slide_id: str) -> str:
        return hashlib.sha256(f"{seed}/code/{slide_id}".encode()).hexdigest()

    return {s: f"S{taken + i:02d}" for i, s in enumerate(sorted(slide_ids, key=draw), start=1)}
