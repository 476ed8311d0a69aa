"""Makes the static labelling site of a run: choose cells, gather crops, write pages, swap it in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mkhspc.config import CellType
from mkhspc.errors import CheckFailedError
from mkhspc.gallery import site_files, site_swap
from mkhspc.gallery.crop_scratch import SCRATCH_SUFFIX, PictureFile, gather
from mkhspc.gallery.options import SiteOptions, SiteSummary, check_options
from mkhspc.gallery.publishing.publish import MAX_SITE_BYTES
from mkhspc.gallery.select import Deck, choose_decks, count_repeats, page_sizes_of
from mkhspc.gallery.writer import SiteWriter
from mkhspc.progress import Progress, silent
from mkhspc.store import atomic, manifest as manifests
from mkhspc.store.layout import RunLayout
from mkhspc.units import MB


def build_site(layout: RunLayout, options: SiteOptions, progress: Progress = silent) -> SiteSummary:
    """Writes the site of a run to `options.out`, in the place of a site that is there.

    The site is made in a directory beside its place and swapped in when it is whole; on any error
    the old site stays as it was.

    Raises:
        UsageError: an option is out of range.
        InputError: the run's tables are missing or damaged, the order needs scores that are not
            there, or `options.out` holds something other than a site.
        CheckFailedError: no cell lies in the filter, or the site would be larger than allowed.
    """
    check_options(options)
    site_swap.refuse_foreign(options.out)
    manifest = manifests.read(layout)
    decks = choose_decks(layout, manifest, options)
    if not decks:
        raise CheckFailedError(
            "no cell lies in the filter, so there is nothing to show",
            where=layout.root,
            fix="widen the filter with `mkhspc refilter`",
        )
    with site_swap.replacing_site(options.out) as root:
        writer = SiteWriter(root, manifest, decks, options)
        with ExitStack() as scratch:
            files = [scratch.enter_context(PictureFile(root, deck)) for deck in decks]
            gather(layout, manifest, decks, files, progress)
            _write_pages(writer, decks, files, options, progress)
        writer.write_index()
        return _finish(writer, decks, options)


def _write_pages(
    writer: SiteWriter,
    decks: Sequence[Deck],
    files: Sequence[PictureFile],
    options: SiteOptions,
    progress: Progress,
) -> None:
    """Writes every page, the first page of each cell type first: from them the site's size is estimated."""
    for deck, file in zip(decks, files, strict=True):
        writer.write_samples(deck, file)
        for number in writer.write_pages(deck, file, [1]):
            progress(f"{deck.cell_type} pages", number, len(deck.pages))
    left = {deck.cell_type: deck.cards - len(deck.pages[0].rows) for deck in decks}
    to_come = sum(left[t] * each for t, each in writer.bytes_per_card.items())
    refuse_too_large(_size_bytes(writer.root) + to_come, writer.bytes_per_card, decks, options)
    for deck, file in zip(decks, files, strict=True):
        for number in writer.write_pages(deck, file, range(2, len(deck.pages) + 1)):
            progress(f"{deck.cell_type} pages", number, len(deck.pages))


def refuse_too_large(
    size_bytes: float, bytes_per_card: Mapping[CellType, float], decks: Sequence[Deck], options: SiteOptions
) -> None:
    """Raises `CheckFailedError` if a site of this size, expected or real, is larger than allowed."""
    if size_bytes <= options.max_site_bytes:
        return
    beside = size_bytes - sum(deck.cards * bytes_per_card[deck.cell_type] for deck in decks)
    types = [(len(deck.cells), bytes_per_card[deck.cell_type]) for deck in decks]
    fits = cards_that_fit(options.max_site_bytes - beside, types, options)
    raise CheckFailedError(
        f"the site would take {size_bytes / MB:,.1f} MB; {options.max_site_mb:g} MB are allowed",
        where=options.out,
        fix=(f"--max-cards {fits} would fit, or " if fits else "")
        + f"raise --max-site-mb (GitHub Pages hold {MAX_SITE_BYTES // MB} MB at most)",
    )


def cards_that_fit(spare_bytes: float, types: Sequence[tuple[int, float]], options: SiteOptions) -> int:
    """Largest `max_cards` whose cards, repeats included, take no more than `spare_bytes`.

    Args:
        types: cells in the filter and bytes a card, of each cell type.
    """

    def needed_bytes(max_cards: int) -> float:
        sizes = [page_sizes_of(min(cells, max_cards), options.cards_per_page) for cells, _ in types]
        cards = [sum(of_type) + count_repeats(of_type, options.blind_repeats) for of_type in sizes]
        return sum(count * each for count, (_, each) in zip(cards, types, strict=True))

    low, high = 0, max(cells for cells, _ in types)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if needed_bytes(middle) <= spare_bytes else (low, middle - 1)
    return low


def _finish(writer: SiteWriter, decks: Sequence[Deck], options: SiteOptions) -> SiteSummary:
    size_bytes = _write_site_json(writer, decks, options)
    refuse_too_large(size_bytes, writer.bytes_per_card, decks, options)
    return SiteSummary(
        out=options.out,
        dataset=writer.facts.dataset,
        size_bytes=size_bytes,
        pages=writer.facts.pages,
        cells=writer.facts.cells,
        repeats={deck.cell_type: deck.repeats for deck in decks},
        bytes_per_card=writer.bytes_per_card,
    )


def _write_site_json(writer: SiteWriter, decks: Sequence[Deck], options: SiteOptions) -> int:
    """Writes `site.json`, which counts itself; returns the size of the whole site."""
    others = size_bytes = _size_bytes(writer.root)
    files = site_files.digests(writer.root)
    while True:
        text = atomic.dump_json({**_site_json(writer, decks, options, size_bytes), "files": files})
        if others + len(text.encode()) == size_bytes:
            break
        size_bytes = others + len(text.encode())
    (writer.root / site_files.SITE_JSON).write_text(text, encoding="utf-8")
    return size_bytes


def _site_json(
    writer: SiteWriter, decks: Sequence[Deck], options: SiteOptions, size_bytes: int
) -> dict[str, Any]:
    facts = writer.facts
    return {
        "format": site_swap.FORMAT,
        "version": site_swap.VERSION,
        "title": facts.title,
        "dataset": facts.dataset,
        "config_hash": facts.config_hash,
        "site_id": facts.site_id,
        "build": writer.build,
        "pages": sum(facts.pages.values()),
        "cells": sum(facts.cells.values()),
        "bytes": size_bytes,
        "blind": options.blind,
        "cards_per_page": options.cards_per_page,
        "excluded": writer.excluded,
        "cell_types": {deck.cell_type: _deck_json(writer, deck, options) for deck in decks},
    }


def _deck_json(writer: SiteWriter, deck: Deck, options: SiteOptions) -> dict[str, Any]:
    return {
        "pages": len(deck.pages),
        "cells": len(deck.cells),
        "cells_in_filter": deck.found,
        "blind_repeats": deck.repeats,
        "order": options.order,
        "inclusion_probability": writer.inclusion(deck),
        "bytes_per_card": round(writer.bytes_per_card[deck.cell_type], 1),
    }


def _size_bytes(root: Path) -> int:
    """Size of all files of the site so far; scratch files are none of them."""
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix != SCRATCH_SUFFIX]
    return sum(path.stat().st_size for path in files)
