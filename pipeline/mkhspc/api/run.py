"""A run as an object: its slides, its cells as Arrow tables, their crops and contours."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from mkhspc.config import CellRange, CellType
from mkhspc.config.options import FilterBounds, StrPath, filter_changes
from mkhspc.errors import UsageError, some_of
from mkhspc.geometry import RgbImage
from mkhspc.progress import Progress, silent
from mkhspc.store import manifest as manifests
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest, SlideEntry
from mkhspc.store.manifest.exclusions import Exclusion
from mkhspc.store.picture import decode_picture
from mkhspc.store.selection import (
    Selection,
    column_names,
    find_cells,
    find_crops,
    select_cells,
    select_scores,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from mkhspc.cluster.status import RunStatus
    from mkhspc.results.report import Report
    from mkhspc.store.summary import RunSummary

_log = logging.getLogger("mkhspc")


class Run:
    """A run on disk, as `mkhspc.segment` makes it and `mkhspc.open_run` opens it.

    Nothing is kept in memory but the manifest: every table is read when it is asked for, and only the
    columns asked for. Coordinates are in the scene of a cell, from its top-left corner, x to the right
    and y down, in µm or in level-0 pixels.

    Attributes:
        path: the run's directory.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        self._layout = RunLayout(self.path)
        self._manifest = manifests.read(self._layout)

    def __repr__(self) -> str:
        names = [slide.slide_id for slide in self._manifest.slides]
        tiles = sum(len(self._layout.finished_tiles(name)) for name in names)
        filters = "; ".join(f"{t.upper()} of {view}" for t, view in self._manifest.filter.items())
        return (
            f"<mkhspc.Run {str(self.path)!r}: {len(names)} slide{'' if len(names) == 1 else 's'}"
            f" ({some_of(names, 4)}), {tiles:,} finished tile{'' if tiles == 1 else 's'}; filter: {filters}>"
        )

    @property
    def slides(self) -> tuple[SlideEntry, ...]:
        """The slides: `slide_id`, `path`, `size_bytes`, `um_per_px`, `scenes`, and the blind `code`."""
        return self._read().slides

    @property
    def filter(self) -> Mapping[CellType, CellRange]:
        """The filter in force by cell type: `min_um2`, `max_um2` and `min_score`, all included."""
        return self._read().filter

    @property
    def columns(self) -> list[str]:
        """The columns that `cells` can give, features included.

        Raises:
            InputError: the run has no tables yet.
        """
        return column_names(self._layout, self._read())

    def cells(
        self,
        *,
        cell_type: CellType | None = None,
        slide: str | None = None,
        in_filter: bool | None = True,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The cells as an Arrow table: a row a cell, slide by slide in the order of the run.

        Args:
            cell_type: 'mk' or 'hspc'; None for both.
            slide: the id of a slide; None for all.
            in_filter: True for the cells in the filter in force, which galleries and reports show;
                False for those outside it; None for all that are stored.
            columns: the columns wanted, in their order; None for all. Only these are read.

        Raises:
            UsageError: there is no such column, slide or cell type; the message names those that there are.
            InputError: a slide has no tables yet, or a table is damaged.
        """
        return select_cells(
            self._layout, self._read(), Selection(cell_type, slide, in_filter), _listed(columns)
        )

    def scores(self, *, cell_type: CellType | None = None, slide: str | None = None) -> pa.Table:
        """What classifiers say of the stored cells: an Arrow table, a row a cell that was scored.

        Its columns are `cell_id`, `classifier_id`, `score` (a probability from 0 to 1) and `is_positive`
        (whether the score reaches the classifier's own threshold).

        Raises:
            UsageError: there is no such slide or cell type.
            InputError: no cell has a score yet, or a table is damaged.
        """
        return select_scores(self._layout, self._read(), Selection(cell_type, slide))

    def crops(self, cell_ids: Iterable[object]) -> list[RgbImage]:
        """Pictures of cells, in the order of their ids: arrays of shape (H, W, 3), uint8, RGB.

        A crop is a square around the cell's centroid, of 80 µm for an MK and 25 µm for an HSPC, in the
        slide's own pixels and without loss; what lies outside the scene is white.

        Args:
            cell_ids: such as a column `cell_id` of `cells`.

        Raises:
            InputError: an id is not that of a stored cell of this run.
        """
        found = find_crops(self._layout, self._read(), _texts(cell_ids))
        return [decode_picture(crop.image) for crop in found]

    def contours(
        self, cell_ids: Iterable[object], *, unit: Literal["um", "px"] = "um"
    ) -> list[NDArray[np.float64]]:
        """Outlines of cells, in the order of their ids: arrays of shape (N, 2), float64, with x before y.

        Args:
            cell_ids: such as a column `cell_id` of `cells`.
            unit: 'um' or level-0 'px', in the coordinates of the scene. The first corner is not repeated.

        Raises:
            UsageError: there is no such unit.
            InputError: an id is not that of a stored cell of this run.
        """
        if unit not in ("um", "px"):
            raise UsageError(f"contours have no unit '{unit}'", fix="choose 'um' or 'px'")
        manifest = self._read()
        found = find_cells(self._layout, manifest, _texts(cell_ids), ["slide_id", "contour_px"])
        scales = {slide.slide_id: slide.um_per_px if unit == "um" else 1.0 for slide in manifest.slides}
        return [
            scales[slide_id] * np.array(contour, np.float64).reshape(-1, 2)
            for slide_id, contour in zip(
                *(found[name].to_pylist() for name in found.column_names), strict=True
            )
        ]

    def refilter(self, **bounds: Unpack[FilterBounds]) -> RunSummary:
        """Changes the filter within what is stored; no detector runs, no cell is renamed.

        Args:
            bounds: `mk_min_area_um`, `mk_max_area_um`, `hspc_min_area_um`, `hspc_max_area_um` in µm², and
                `mk_min_score`, `hspc_min_score` from 0 to 1.

        Returns:
            How many tiles are done, and how many cells are stored and in the filter, by type.

        Raises:
            UsageError: no bound is given, or the range is empty or reaches beyond what is stored.
        """
        from mkhspc.run.refilter import refilter

        if all(bound is None for bound in bounds.values()):
            raise UsageError(
                "no area and no score was given", fix="give at least one, such as --mk-min-area-um 200"
            )
        summary = refilter(self._layout, filter_changes("refilter", bounds))
        unmerged = [s.slide_id for s in self._read().slides if not self._layout.cells(s.slide_id).exists()]
        if unmerged:
            _log.warning(
                f"not counted, for they have no tables yet: {some_of(unmerged)}; to make them: "
                + shlex.join(["mkhspc", "merge", str(self.path)])
            )
        return summary

    @property
    def exclusions(self) -> tuple[Exclusion, ...]:
        """What has left the study: `slide_id`, `tile_id` (None for the whole slide) and `reason` each."""
        return self._read().exclusions

    def exclude(
        self,
        *,
        slides: str | Sequence[str] = (),
        tiles: str | Sequence[str] = (),
        failed: bool = False,
        reason: str | None = None,
        undo: bool = False,
        dry_run: bool = False,
    ) -> tuple[Exclusion, ...]:
        """Leaves slides or tiles out of the study; `merge` then makes the tables anew.

        Args:
            slides: ids of whole slides.
            tiles: names of tiles, such as 'FGC1/s0_8192_4096'.
            failed: every tile that failed too, each for its own error unless a reason is given.
            reason: why, for the reports; needed for what is named.
            undo: take back what is named instead.
            dry_run: change nothing.

        Returns:
            All that is left out of the study then.

        Raises:
            UsageError: nothing is named, a name is unknown, a reason is missing, or nothing would be left.
        """
        from mkhspc.run import exclude as excluding

        named = excluding.Named(_texts(slides), _texts(tiles))
        if not (named or (failed and not undo)):
            raise UsageError(
                "no slide and no tile is named", fix="name some with --slide or --tile, or ask for --failed"
            )
        if undo:
            return excluding.include(self._layout, named, dry_run=dry_run).exclusions
        added = excluding.exclusions_of(self._layout, named, reason or "") if named else []
        if failed:
            added += excluding.failed_exclusions(self._layout, reason)
        return excluding.exclude(self._layout, added, dry_run=dry_run).exclusions

    def merge(self, *, progress: Progress = silent) -> RunSummary:
        """Puts the finished tiles of a sharded run together into its tables; `segment` does it by itself.

        Raises:
            IncompleteError: tiles that the run asks for are missing.
        """
        from mkhspc.process.signals import interruptible
        from mkhspc.run.merge import merge

        with interruptible():
            return merge(self._layout, progress=progress)

    def status(self) -> RunStatus:
        """How far the run is, by slide and by process, from its files alone."""
        from mkhspc.cluster.read_status import run_status

        return run_status(self._layout)

    def report(self, *, groups: StrPath | None = None, out: StrPath | None = None) -> Report:
        """Counts and densities per mm² of tissue, by slide and by group.

        Args:
            groups: a CSV file with the columns slide_id, animal, batch and any factors; None for the groups
                of the run's configuration.
            out: a directory for results.csv, groups.csv, comparisons.csv, density.png and report.html;
                None writes nothing.

        Raises:
            IncompleteError: slides are not finished and merged.
            InputError: the groups cannot be used, or `out` holds something other than a report.
        """
        return report_on(self._layout, groups, out)

    def _read(self) -> Manifest:
        """The manifest as it is now: another process may have changed the filter or added slides."""
        self._manifest = manifests.read(self._layout)
        return self._manifest


def report_on(
    layout: RunLayout, groups: StrPath | None, out: StrPath | None, said: Collection[CellType] = ()
) -> Report:
    """As `Run.report`.

    Args:
        said: types of cells whose classifiers were named with their concerns just before.
    """
    from mkhspc.results.page import refuse_foreign, write_report
    from mkhspc.results.report import make_report

    if out is not None:
        refuse_foreign(Path(out))
    report = make_report(layout, None if groups is None else Path(groups))
    for sentence in report.concerns_without(said):
        _log.warning(sentence)
    if out is not None:
        write_report(report, Path(out))
    return report


def open_run(path: StrPath) -> Run:
    """Opens the run in a directory; nothing but its manifest is read.

    Raises:
        InputError: the directory holds no run, or its manifest is damaged.
    """
    return Run(path)


def _texts(cell_ids: Iterable[object]) -> list[str]:
    """Ids as texts: the values of an Arrow column are objects of its own."""
    return [cell_ids] if isinstance(cell_ids, str) else [str(cell_id) for cell_id in cell_ids]


def _listed(columns: Sequence[str] | None) -> Sequence[str] | None:
    return [columns] if isinstance(columns, str) else columns
