"""What the maker of a site asks for, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mkhspc.config import ORDERS, CellType, GallerySection, Limit, Order, either
from mkhspc.errors import UsageError
from mkhspc.units import MB

LIMITS = {
    "cards_per_page": Limit(least=1, most=2000),
    "max_cards": Limit(least=1),
    "blind_repeats": Limit(least=0, most=0.5),
    "max_site_mb": Limit(above=0, unit="MB"),
}
"""The numbers that a site can be made with. Browsers get slow beyond 2000 cards on a page."""


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
    cards_per_page: int = GallerySection.cards_per_page
    order: Order = GallerySection.order
    max_cards: int | None = None
    max_site_mb: float = GallerySection.max_site_mb
    title: str = GallerySection.title
    blind_repeats: float = 0.03
    blind: bool = True

    @property
    def max_site_bytes(self) -> int:
        return int(self.max_site_mb * MB)


def site_options(section: GallerySection, given: Mapping[str, Any], *, blind: bool) -> SiteOptions:
    """The options of a site: those given, and for the others `[gallery]` of the run's config.

    Args:
        given: values by the names of `SiteOptions`; None where one was not given.

    Raises:
        UsageError: neither says where the site goes.
    """
    settings = asdict(section) | {name: value for name, value in given.items() if value is not None}
    if settings["out"] is None:
        raise UsageError(
            "no directory was given for the site", where="--out", fix="name a directory, such as --out site"
        )
    return SiteOptions(**{**settings, "out": Path(settings["out"]), "blind": blind})


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
        raise UsageError(f"--order is '{options.order}'; it must be {either(ORDERS)}")
    for name, limit in LIMITS.items():
        value = getattr(options, name)
        if value is not None:
            limit.check(f"--{name.replace('_', '-')}", value)
