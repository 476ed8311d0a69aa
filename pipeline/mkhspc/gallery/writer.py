"""Writes the files of a site: sheets of crops, pages of cards, the index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mkhspc.config import CellType
from mkhspc.gallery import assets, pages
from mkhspc.gallery.crop_scratch import Picture, PictureFile
from mkhspc.gallery.lookup import write_lookup
from mkhspc.gallery.options import SiteOptions
from mkhspc.gallery.pictures import SUFFIX, DrawnSheets, display_side_px, draw_sheets, plan_sheets
from mkhspc.gallery.select import Deck, Page
from mkhspc.store.manifest import Manifest

SAMPLE_CARDS = 8
"""Example crops of each cell type on the index."""
DRAWERS = min(8, os.cpu_count() or 1)
"""Pages drawn at the same time; each holds its sheets in memory, about 20 MB."""


class SiteWriter:
    """A site while it is being written below an empty directory.

    Attributes:
        facts: what every page says; fixed before the first page is written.
    """

    def __init__(self, root: Path, manifest: Manifest, decks: Sequence[Deck], options: SiteOptions) -> None:
        self.root = root
        self._card_bytes: dict[CellType, int] = {deck.cell_type: 0 for deck in decks}
        self._cards: dict[CellType, int] = {deck.cell_type: 0 for deck in decks}
        self._manifest = manifest
        self._blind = options.blind
        self._side_px: dict[CellType, int] = {}
        self._samples: dict[CellType, str] = {}
        self._digest = hashlib.sha256()
        for deck in decks:
            (root / deck.cell_type).mkdir()
        self.facts = _site_facts(root, manifest, decks, options)

    @property
    def bytes_per_card(self) -> dict[CellType, float]:
        """Bytes of the pages and sheets written so far, per card (repeats are cards too)."""
        return {t: self._card_bytes[t] / self._cards[t] for t in self._cards if self._cards[t]}

    @property
    def build(self) -> str:
        """A hash of all pages written so far, and so of the sheets that they name."""
        return self._digest.hexdigest()[: assets.HASH_DIGITS]

    def label(self, slide_id: str) -> str:
        """What the annotator sees of a slide: its code, or its name if the site is not blind."""
        return self._manifest.slide(slide_id).code if self._blind else slide_id

    @property
    def excluded(self) -> list[dict[str, str | None]]:
        """What has left the study: the slide as the annotator knows it, the tile or None, and the reason.

        A blind site keeps the reason to itself, which may name the slide.
        """
        return [
            {"slide": self.label(one.slide_id), "tile": one.tile_id}
            | ({} if self._blind else {"reason": one.reason})
            for one in self._manifest.exclusions
        ]

    def inclusion(self, deck: Deck) -> dict[str, float]:
        """Inclusion probabilities by the slides' labels, in an order that does not reveal names."""
        return dict(sorted((self.label(slide_id), share) for slide_id, share in deck.inclusion.items()))

    def write_samples(self, deck: Deck, file: PictureFile) -> None:
        """Writes a strip of example crops for the index, and settles the size of display pictures."""
        images = [p.image for p in file.read(range(min(SAMPLE_CARDS, len(deck.cells))))]
        side_px = self._side_px[deck.cell_type] = display_side_px(deck.cell_type, images)
        drawn = draw_sheets(images, replace(plan_sheets(len(images), side_px), columns=len(images)))
        self._samples[deck.cell_type] = self._write_picture(f"{deck.cell_type}-sample", drawn.sheets[0])

    def write_pages(self, deck: Deck, file: PictureFile, numbers: Sequence[int]) -> Iterator[int]:
        """Writes these pages, counted from 1, and their sheets; yields each number when it is done.

        Pages are drawn side by side, one a core, and written in order.
        """
        side_px = self._side_px[deck.cell_type]
        with ThreadPoolExecutor(DRAWERS) as pool:
            for start in range(0, len(numbers), DRAWERS):
                batch = numbers[start : start + DRAWERS]
                pictures = [file.read(deck.pages[number - 1].rows.tolist()) for number in batch]
                drawings = pool.map(lambda shown: _draw(shown, side_px), pictures)
                for number, shown, drawn in zip(batch, pictures, drawings, strict=True):
                    self._write_page(deck, number, shown, drawn)
                    yield number

    def _write_page(self, deck: Deck, number: int, pictures: list[Picture], drawn: DrawnSheets) -> None:
        names = [
            self._write_picture(f"{deck.cell_type}-{number:03d}-{i}", sheet)
            for i, sheet in enumerate(drawn.sheets)
        ]
        side_um = drawn.plan.side_px / drawn.scales[0] * pictures[0].um_per_px
        settings = pages.page_settings(self.facts, deck.cell_type, number, self.inclusion(deck), side_um)
        cards = list(pages.card_views(self._card_facts(deck, deck.pages[number - 1]), pictures, drawn))
        sheets = pages.sheet_views(drawn.plan, names)
        text = pages.render_page(self.facts, settings, sheets, cards)
        size_bytes = self._write_text(f"{deck.cell_type}/{pages.page_name(number)}", text)
        self._card_bytes[deck.cell_type] += size_bytes + sum(len(sheet) for sheet in drawn.sheets)
        self._cards[deck.cell_type] += len(cards)

    def write_index(self) -> None:
        """Writes the first page, when all others are there."""
        text = pages.render_index(self.facts, self._samples)
        self._write_text("index.html", text)

    def _card_facts(self, deck: Deck, page: Page) -> list[pages.CardFacts]:
        rows = deck.cells.take(page.rows).to_pylist()
        return [
            pages.CardFacts(
                cell_id=row["cell_id"],
                is_repeat=bool(is_repeat),
                place=self.label(row["slide_id"]),
                area_um2=row["area_um2"],
                area_px=row["area_px"],
                score=row["score"],
            )
            for row, is_repeat in zip(rows, page.is_repeat, strict=True)
        ]

    def _write_picture(self, name: str, picture: bytes) -> str:
        file_name = f"{name}.{assets.content_hash(picture)}.{SUFFIX}"
        (self.root / "assets" / file_name).write_bytes(picture)
        return file_name

    def _write_text(self, name: str, text: str) -> int:
        content = text.encode()
        (self.root / name).write_bytes(content)
        self._digest.update(content)
        return len(content)


def _draw(pictures: Sequence[Picture], side_px: int) -> DrawnSheets:
    return draw_sheets([picture.image for picture in pictures], plan_sheets(len(pictures), side_px))


def _site_facts(
    root: Path, manifest: Manifest, decks: Sequence[Deck], options: SiteOptions
) -> pages.SiteFacts:
    folder = root / "assets"
    app = assets.write_app(folder)
    lookups = {deck.cell_type: write_lookup(folder, deck.cell_type, _own_pages(deck)) for deck in decks}
    return pages.SiteFacts(
        title=options.title,
        dataset=manifest.dataset,
        config_hash=manifest.config_hash,
        site_id=assets.content_hash(*(name.encode() for name, _ in lookups.values())),
        app=app,
        order=options.order,
        blind=options.blind,
        pages={deck.cell_type: len(deck.pages) for deck in decks},
        cells={deck.cell_type: len(deck.cells) for deck in decks},
        lookups=lookups,
    )


def _own_pages(deck: Deck) -> Iterator[tuple[str, int]]:
    """Cell ids with the page, counted from 1, on which each is shown first."""
    ids = deck.cells["cell_id"].to_pylist()
    for number, page in enumerate(deck.pages, start=1):
        yield from ((ids[row], number) for row in page.rows[~page.is_repeat])
