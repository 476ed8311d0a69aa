"""What the maker of a site asks for, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mkhspc.config import CellType
from mkhspc.errors import UsageError

ORDERS = ("random", "area", "uncertainty")
DEFAULT_TITLE = "Bone marrow cells"
MAX_CARDS_PER_PAGE = 2000
BYTES_PER_MB = 1_000_000


@dataclass(frozen=True)
class SiteOptions:
    """How a site is made.

    Attributes:
        out: the directory of the site; replaced whole if it holds a site already.
        order: `random` (stratified by slide), `area` (largest first) or `uncertainty` (scores
            nearest to the classifier's threshold first).
        max_cards: of each cell type, as a random sample stratified by slide; None shows all.
        max_site_mb: largest size of the whole site, in 10^6 bytes.
        blind_repeats: share of the cells that are shown a second time; 0 for none.
        blind: slides appear as codes (S01, S02, ...), not by name.
    """

    out: Path
    cards_per_page: int = 300
    order: str = "random"
    max_cards: int | None = None
    max_site_mb: float = 1000.0
    title: str = DEFAULT_TITLE
    blind_repeats: float = 0.03
    blind: bool = True

    @property
    def max_site_bytes(self) -> int:
        return int(self.max_site_mb * BYTES_PER_MB)


@dataclass(frozen=True)
class SiteSummary:
    """What was written.

    Attributes:
        size_bytes: of all files of the site together.
        pages, cells: per cell type; repeats are not counted among the cells.
        repeats: cards per cell type that show a cell a second time.
        bytes_per_card: of pages and pictures per card, by cell type.
    """

    out: Path
    dataset: str
    size_bytes: int
    pages: Mapping[CellType, int]
    cells: Mapping[CellType, int]
    repeats: Mapping[CellType, int]
    bytes_per_card: Mapping[CellType, float]


def check_options(options: SiteOptions) -> None:
    """Raises `UsageError` for a value that no site could have."""
    if options.order not in ORDERS:
        raise UsageError(
            f"there is no order '{options.order}'", where="--order", fix=f"it takes {', '.join(ORDERS)}"
        )
    if not 1 <= options.cards_per_page <= MAX_CARDS_PER_PAGE:
        raise UsageError(
            f"{options.cards_per_page} cards a page",
            where="--cards-per-page",
            fix=f"it takes 1 to {MAX_CARDS_PER_PAGE}",
        )
    if options.max_cards is not None and options.max_cards < 1:
        raise UsageError(f"{options.max_cards} cards", where="--max-cards", fix="it takes 1 or more")
    if not 0.0 <= options.blind_repeats <= 0.5:
        raise UsageError(
            f"a share of {options.blind_repeats:g}", where="--blind-repeats", fix="it takes 0 to 0.5"
        )
    if not options.max_site_mb > 0:
        raise UsageError(f"{options.max_site_mb:g} MB", where="--max-site-mb", fix="it takes a size above 0")
