"""Which cells a site shows, in which order, and which of them it shows twice.

Everything here is decided by the run's seed and the cells' ids: the same run and options give the
same site, on any machine.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mkhspc.config import CELL_TYPES, CellType
from mkhspc.errors import InputError
from mkhspc.gallery.options import SiteOptions
from mkhspc.store import tables
from mkhspc.store.cells import read_cells
from mkhspc.store.layout import RunLayout
from mkhspc.store.manifest import Manifest
from mkhspc.store.schema import SCORES

LEAST_REPEATS = 50
"""Fewest blind repeats of a cell type, so that an annotator's self-agreement has an estimate."""
DEFAULT_THRESHOLD = 0.5
"""Threshold on the score when every cell has the same answer, so that none can be read off."""

_SHOWN = ["cell_id", "slide_id", "area_px", "area_um2", "score"]
_COLUMNS = ["cell_id", "slide_id", "cell_type", "area_px", "area_um2", "in_filter"]


@dataclass(frozen=True)
class Page:
    """The cards of one page: rows of the deck's table, and which of them are repeats.

    Attributes:
        rows: (n,) int64 indices into `Deck.cells`, in the order on the page.
        is_repeat: (n,) bool; a repeat is a cell of an earlier page, shown again.
    """

    rows: NDArray[np.int64]
    is_repeat: NDArray[np.bool_]


@dataclass(frozen=True)
class Deck:
    """All cards of one cell type.

    Attributes:
        cells: one row per cell shown, in the order shown: `cell_id`, `slide_id`, `area_px`,
            `area_um2` and `score` (null where the cell has none).
        inclusion: per slide, the probability with which a cell in the filter came to be shown.
        found: cells in the filter, shown or not.
    """

    cell_type: CellType
    cells: pa.Table
    pages: tuple[Page, ...]
    inclusion: Mapping[str, float]
    found: int

    @property
    def repeats(self) -> int:
        """Cards that show a cell a second time."""
        return sum(int(page.is_repeat.sum()) for page in self.pages)

    @property
    def cards(self) -> int:
        """All cards, repeats included."""
        return len(self.cells) + self.repeats


def choose_decks(layout: RunLayout, manifest: Manifest, options: SiteOptions) -> list[Deck]:
    """The decks of a site, one per cell type that has a cell in the filter.

    Slides are read one at a time, and only the cells that will be shown are kept.

    Raises:
        InputError: a table is missing or damaged, or the order needs scores that are not there.
    """
    found = _count_in_filter(layout, manifest)
    shown = {t: allocate(found[t], options.max_cards or int(found[t].sum())) for t in CELL_TYPES}
    chosen: dict[CellType, list[pa.Table]] = {t: [] for t in CELL_TYPES}
    for number, slide in enumerate(manifest.slides):
        cells = _slide_cells(layout, manifest, slide.slide_id)
        for cell_type in CELL_TYPES:
            of_type = cells.filter(pc.equal(cells["cell_type"], cell_type))
            wanted = int(shown[cell_type][number])
            chosen[cell_type].append(_interleave(of_type, wanted, manifest.config.run.seed))
    return [
        _deck(t, pa.concat_tables(chosen[t]), (found[t], shown[t]), manifest, options)
        for t in CELL_TYPES
        if found[t].any()
    ]


def _count_in_filter(layout: RunLayout, manifest: Manifest) -> dict[CellType, NDArray[np.int64]]:
    """Cells in the filter by type, each (slides,) int64 in the manifest's order."""
    counts = {t: np.zeros(len(manifest.slides), np.int64) for t in CELL_TYPES}
    for number, slide in enumerate(manifest.slides):
        cells = read_cells(layout, manifest, slide.slide_id, ["cell_type", "in_filter"])
        for cell_type in CELL_TYPES:
            wanted = pc.and_(cells["in_filter"], pc.equal(cells["cell_type"], cell_type))
            counts[cell_type][number] = pc.sum(wanted, min_count=0).as_py()
    return counts


def _slide_cells(layout: RunLayout, manifest: Manifest, slide_id: str) -> pa.Table:
    """The cells of a slide in the filter, with `score` and `is_positive`, null where there are none."""
    cells = read_cells(layout, manifest, slide_id, _COLUMNS)
    cells = cells.filter(cells["in_filter"]).drop_columns(["in_filter"])
    scores = read_scores(layout, manifest, slide_id)
    at = pc.index_in(cells["cell_id"], scores["cell_id"].combine_chunks())
    cells = cells.append_column("score", scores["score"].take(at))
    return cells.append_column("is_positive", scores["is_positive"].take(at))


def read_scores(layout: RunLayout, manifest: Manifest, slide_id: str) -> pa.Table:
    """The scores of a slide; no rows if it was never scored."""
    if not layout.scores(slide_id).exists():
        return SCORES.empty_table()
    return tables.read_table(layout.scores(slide_id), manifest.config_hash, columns=SCORES.names)


def _interleave(cells: pa.Table, wanted: int, seed: int) -> pa.Table:
    """A random `wanted` of a slide's cells with the column `position` (0 to 1), which interleaves slides.

    The k-th cell drawn gets a random position in the k-th of `wanted` equal parts of the site, so
    that every page shows the slides in proportion to their cells.
    """
    names = cells["cell_id"].to_pylist()
    drawn = np.argsort(uniform_draws(f"{seed}/card", names), kind="stable")[:wanted]
    jitter = uniform_draws(f"{seed}/place", [names[i] for i in drawn])
    return cells.take(drawn).append_column(
        "position", pa.array((np.arange(wanted) + jitter) / max(1, wanted))
    )


def _deck(
    cell_type: CellType,
    cells: pa.Table,
    counts: tuple[NDArray[np.int64], NDArray[np.int64]],
    manifest: Manifest,
    options: SiteOptions,
) -> Deck:
    """Puts the drawn cells of a type in order; `counts` are those found and shown, per slide."""
    found, shown = counts
    return Deck(
        cell_type=cell_type,
        cells=cells.take(_order(cells, cell_type, options.order)).select(_SHOWN),
        pages=plan_pages(len(cells), options, f"{manifest.config.run.seed}/{cell_type}/repeats"),
        inclusion={
            slide.slide_id: float(shown[i] / found[i]) for i, slide in enumerate(manifest.slides) if found[i]
        },
        found=int(found.sum()),
    )


def uniform_draws(key: str, names: Iterable[str]) -> NDArray[np.float64]:
    """A number in [0, 1) per name, as good as random and always the same for the same key."""
    prefix = f"{key}/".encode()

    def draw(name: str) -> int:
        return int.from_bytes(hashlib.blake2b(prefix + name.encode(), digest_size=6).digest(), "big")

    return np.fromiter((draw(name) for name in names), np.float64) / 2.0**48


def allocate(available: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """Shares `wanted` draws among strata in proportion to their sizes.

    Each stratum that has anything gets at least one while there are enough draws to go round;
    what is left over goes to the largest remainders.

    Returns:
        (n,) int64 draws per stratum, never above what is available there.
    """
    total = int(available.sum())
    if wanted >= total:
        return available.astype(np.int64)
    floor = np.minimum(available, 1) if wanted >= np.count_nonzero(available) else np.zeros_like(available)
    spare = available - floor
    quota = (wanted - int(floor.sum())) * spare / max(1, int(spare.sum()))
    drawn = floor + np.floor(quota).astype(np.int64)
    by_remainder = np.argsort(np.floor(quota) - quota, kind="stable")
    drawn[by_remainder[: wanted - int(drawn.sum())]] += 1
    return drawn.astype(np.int64)


def _order(cells: pa.Table, cell_type: CellType, order: str) -> pa.Array:
    """Indices that put cells in an order; cells that tie stand in the order of their ids."""
    if order == "area":
        by, direction = cells["area_um2"], "descending"
    elif order == "uncertainty":
        by, direction = _distance_from_threshold(cells, cell_type), "ascending"
    else:
        by, direction = cells["position"], "ascending"
    keyed = pa.table({"by": by, "cell_id": cells["cell_id"]})
    return pc.sort_indices(keyed, sort_keys=[("by", direction), ("cell_id", "ascending")])


def _distance_from_threshold(cells: pa.Table, cell_type: CellType) -> NDArray[np.float64]:
    if cells["score"].null_count:
        raise InputError(
            f"the order 'uncertainty' needs a score for every {cell_type} cell; "
            f"{cells['score'].null_count} of {len(cells)} have none",
            fix=f"run `mkhspc score --run RUN --{cell_type}-classifier FILE.skops` first",
        )
    scores = cells["score"].to_numpy().astype(np.float64)
    distance: NDArray[np.float64] = np.abs(
        scores - _threshold(scores, cells["is_positive"].to_numpy().astype(bool))
    )
    return distance


def _threshold(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """The score between the highest negative and the lowest positive cell, which brackets the threshold."""
    if positive.all() or not positive.any():
        return DEFAULT_THRESHOLD
    return float(scores[~positive].max() + scores[positive].min()) / 2.0


def plan_pages(count: int, options: SiteOptions, key: str) -> tuple[Page, ...]:
    """Distributes `count` cells, in order, over pages and adds the blind repeats.

    Repeats are inserted at random positions, never first on a page, and only on pages after the
    one that shows the cell itself.
    """
    sizes = page_sizes_of(count, options.cards_per_page)
    own = np.split(np.arange(count), np.cumsum(sizes)[:-1])
    again = plan_repeats(sizes, options.blind_repeats, key)
    rng = random.Random(f"{key}/places")
    return tuple(_with_repeats(rows, extra, rng) for rows, extra in zip(own, again, strict=True))


def count_repeats(page_sizes: Sequence[int], share: float) -> int:
    """How many cells are shown again: a share of them, but at least `LEAST_REPEATS`.

    Never more than stand on a page that has another one after it.
    """
    wanted = max(LEAST_REPEATS, int(np.ceil(share * sum(page_sizes)))) if share > 0 else 0
    return min(wanted, sum(page_sizes[:-1]))


def page_sizes_of(count: int, cards_per_page: int) -> list[int]:
    """Cells on each page when `count` cells fill one page after another."""
    return [min(cards_per_page, count - start) for start in range(0, count, cards_per_page)]


def plan_repeats(page_sizes: Sequence[int], share: float, key: str) -> list[list[int]]:
    """Which cells, by their place in the order, each page shows again.

    Spread evenly over the pages after the first; no cell is repeated twice.
    """
    later = len(page_sizes) - 1
    wanted = count_repeats(page_sizes, share)
    starts = np.cumsum([0, *page_sizes]).tolist()
    repeats: list[list[int]] = [[] for _ in page_sizes]
    pool: list[int] = []
    rng = random.Random(key)
    for page in range(1, len(page_sizes)):
        pool += range(starts[page - 1], starts[page])
        for _ in range(wanted * page // later - wanted * (page - 1) // later):
            chosen = int(rng.random() * len(pool))
            pool[chosen], pool[-1] = pool[-1], pool[chosen]
            repeats[page].append(pool.pop())
    return repeats


def _with_repeats(own: NDArray[np.int64], extra: list[int], rng: random.Random) -> Page:
    """A page of these rows, with the extra ones inserted at random positions after the first."""
    rows, is_repeat = own.tolist(), [False] * len(own)
    for row in extra:
        place = 1 + int(rng.random() * len(rows))
        rows.insert(place, row)
        is_repeat.insert(place, True)
    return Page(np.array(rows, np.int64), np.array(is_repeat, np.bool_))
