"""What the pages of a site say: contexts for the templates, made from plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mkhspc.config import CellType
from mkhspc.gallery.crop_scratch import Picture
from mkhspc.gallery.outline import UNITS_PER_PX, outline_path
from mkhspc.gallery.pictures import DrawnSheets, SheetPlan
from mkhspc.resources import render
from mkhspc.store.annotations import BLIND_REPEAT

BLEED_PX = 1
"""Display pixels cut off around a crop, so that its neighbours on the sheet never shine through."""
BARS_UM: dict[CellType, int] = {"mk": 20, "hspc": 5}
"""Length of the scale bar on every card, in µm."""
NAMES: dict[CellType, tuple[str, str]] = {
    "mk": ("Megakaryocytes", "a megakaryocyte"),
    "hspc": ("Stem and progenitor cells", "a stem or progenitor cell"),
}
ORDERS_IN_WORDS = {
    "random": "in random order",
    "area": "in order of size, the largest first",
    "uncertainty": "in order of the classifier's doubt, the most doubtful first",
}


@dataclass(frozen=True)
class SiteFacts:
    """What every page of a site needs to know.

    Attributes:
        site_id: names this arrangement of cells on pages; another order gets another one.
        app: directory of scripts and styles below `assets`.
        lookups: per cell type, the directory of its lookup below `assets`, and its files.
    """

    title: str
    dataset: str
    config_hash: str
    site_id: str
    app: str
    order: str
    blind: bool
    pages: Mapping[CellType, int]
    cells: Mapping[CellType, int]
    lookups: Mapping[CellType, tuple[str, int]]

    @property
    def order_in_words(self) -> str:
        return ORDERS_IN_WORDS[self.order]

    @property
    def totals(self) -> list[tuple[CellType, str, int, int]]:
        """Cell type, its name, cells and pages, for each type that the site shows."""
        return [(t, NAMES[t][0], self.cells[t], self.pages[t]) for t in self.pages]


@dataclass(frozen=True)
class CardFacts:
    """What a card says about its cell. `place` is the slide's code, or its name if not blind."""

    cell_id: str
    is_repeat: bool
    place: str
    area_um2: float
    area_px: int
    score: float | None

    @property
    def area(self) -> str:
        return f"{self.area_um2:.1f} µm² | {self.area_px} px²"


@dataclass(frozen=True)
class CardView:
    """A card as the template draws it: which part of which sheet, and the outline over it."""

    facts: CardFacts
    sheet: int
    view_box: str
    outline: str


@dataclass(frozen=True)
class SheetView:
    """A sheet as the template names it; sizes in SVG units."""

    href: str
    width: int
    height: int


def page_name(number: int) -> str:
    """File name of a page, counted from 1."""
    return f"page-{number:03d}.html"


def card_views(
    facts: Sequence[CardFacts], pictures: Sequence[Picture], drawn: DrawnSheets
) -> Iterator[CardView]:
    """The cards of a page, from what they say and how their pictures were drawn."""
    shown = (drawn.plan.side_px - 2 * BLEED_PX) * UNITS_PER_PX
    for number, (fact, picture, scale) in enumerate(zip(facts, pictures, drawn.scales, strict=True)):
        sheet, x_px, y_px = drawn.plan.place(number)
        corner = f"{(x_px + BLEED_PX) * UNITS_PER_PX} {(y_px + BLEED_PX) * UNITS_PER_PX}"
        outline = outline_path(picture.contour_px, picture.origin_px, scale, (x_px, y_px))
        yield CardView(fact, sheet, f"{corner} {shown} {shown}", outline)


def sheet_views(plan: SheetPlan, hrefs: Sequence[str]) -> list[SheetView]:
    """The sheets of a page, with their sizes."""
    sizes = [plan.size_px(i) for i in range(len(hrefs))]
    return [
        SheetView(href, width * UNITS_PER_PX, height * UNITS_PER_PX)
        for href, (width, height) in zip(hrefs, sizes, strict=True)
    ]


def render_page(
    site: SiteFacts,
    page: Mapping[str, Any],
    sheets: Sequence[SheetView],
    cards: Sequence[CardView],
) -> str:
    """A page of cards. `page` is what `page_settings` returned."""
    return render(
        "page.html",
        site=site,
        page=page,
        settings=page,
        sheets=sheets,
        cards=cards,
        root="../",
        page_name=page_name,
        name=NAMES[page["cell_type"]][0],
        question=NAMES[page["cell_type"]][1],
        has_scores=any(card.facts.score is not None for card in cards),
    )


def page_settings(
    site: SiteFacts, cell_type: CellType, number: int, inclusion: Mapping[str, float], side_um: float
) -> dict[str, Any]:
    """What the scripts of a page need: written into it as JSON.

    Args:
        inclusion: by the slide's code or name as the cards show it, the probability with which
            a cell came to be shown.
        side_um: width of a crop.
    """
    return {
        **site_settings(site),
        "kind": "cards",
        "root": "../",
        "cell_type": cell_type,
        "page": number,
        "policy": site.order,
        "repeat_policy": BLIND_REPEAT,
        "inclusion_prob": dict(inclusion),
        "side_um": round(side_um, 2),
        "bar_um": BARS_UM[cell_type],
    }


def site_settings(site: SiteFacts) -> dict[str, Any]:
    """What the scripts of every page need."""
    known = asdict(site)
    return {name: known[name] for name in ("dataset", "config_hash", "site_id", "pages", "cells", "lookups")}


def render_index(site: SiteFacts, samples: Mapping[CellType, str]) -> str:
    """The first page. `samples` names a strip of example pictures per cell type."""
    settings = {**site_settings(site), "kind": "index", "root": ""}
    return render("index.html", site=site, settings=settings, samples=samples, root="", page_name=page_name)
