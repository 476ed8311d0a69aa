"""Writes the files of a site: sheets of crops, pages of cards, the index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config import CellType
from pipeline.gallery import assets, pages
from pipeline.gallery.lookup import write_lookup
from pipeline.gallery.options import SiteOptions
from pipeline.gallery.pictures import PictureFile
from pipeline.gallery.select import Deck, Page
from pipeline.gallery.sprites import SUFFIX, display_side_px, draw_sheets, open_crop, plan_sheets
from pipeline.store.manifest import Manifest

SAMPLE_CARDS = 8


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
        self._environment = assets.environment()
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

    def inclusion(self, deck: Deck) -> dict[str, float]:
        """Inclusion probabilities by the slides' labels, in an order that tells nothing of names."""
        return dict(sorted((self.label(slide_id), share) for slide_id, share in deck.inclusion.items()))

    def write_samples(self, deck: Deck, file: PictureFile) -> None:
        """Writes a strip of example crops for the index, and settles the size of display pictures."""
        crops = [open_crop(p.image) for p in file.read(range(min(SAMPLE_CARDS, len(deck.cells))))]
        side_px = self._side_px[deck.cell_type] = display_side_px(deck.cell_type, crops)
        plan = replace(plan_sheets(len(crops), side_px), columns=len(crops))
        (strip,) = draw_sheets(crops, plan)
        self._samples[deck.cell_type] = self._write_picture(f"{deck.cell_type}-sample", strip)

    def write_page(self, deck: Deck, file: PictureFile, number: int) -> None:
        """Writes page `number`, counted from 1, and its sheets."""
        page = deck.pages[number - 1]
        pictures = file.read(page.rows.tolist())
        crops = [open_crop(picture.image) for picture in pictures]
        sides_px = [max(crop.size) for crop in crops]
        plan = plan_sheets(len(crops), self._side_px[deck.cell_type])
        sheets = draw_sheets(crops, plan)
        names = [
            self._write_picture(f"{deck.cell_type}-{number:03d}-{i}", sheet) for i, sheet in enumerate(sheets)
        ]
        settings = pages.page_settings(
            self.facts,
            deck.cell_type,
            number,
            self.inclusion(deck),
            sides_px[0] * pictures[0].um_per_px,
        )
        cards = list(pages.card_views(self._card_facts(deck, page), pictures, sides_px, plan))
        sheet_views = pages.sheet_views(plan, names)
        text = pages.render_page(self._environment, self.facts, settings, sheet_views, cards)
        size = self._write_text(f"{deck.cell_type}/{pages.page_name(number)}", text)
        self._card_bytes[deck.cell_type] += size + sum(len(sheet) for sheet in sheets)
        self._cards[deck.cell_type] += len(cards)

    def write_index(self) -> None:
        text = pages.render_index(self._environment, self.facts, self._samples)
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
    """Cell ids with the page, counted from 1, on which each is no repeat."""
    ids = deck.cells["cell_id"].to_pylist()
    for number, page in enumerate(deck.pages, start=1):
        yield from ((ids[row], number) for row in page.rows[~page.is_repeat])
