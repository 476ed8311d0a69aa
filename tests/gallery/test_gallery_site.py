from __future__ import annotations

import dataclasses
import io
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mkhspc.config import CELL_TYPES, CellRange, CellType
from mkhspc.errors import CheckFailedError, InputError, UsageError
from mkhspc.gallery.options import SiteOptions, SiteSummary
from mkhspc.gallery.select import choose_decks
from mkhspc.gallery.site import build_site, cards_that_fit
from mkhspc.store.cells import iter_crops
from runs import FakeRun, make_run, put_manifest

SLIDES = ("FGC1", "FHU1", "MGC1")


class Cards(HTMLParser):
    """Reads the cards of a page as a machine would."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.cards: list[dict[str, str | None]] = []
        self.buttons: list[str | None] = []
        self.text = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "article":
            self.cards.append(dict(attrs))
        if tag == "button" and "data-label" in dict(attrs):
            self.buttons.append(dict(attrs)["data-label"])

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def own(self) -> list[str | None]:
        return [card["data-cell-id"] for card in self.cards if "data-cell-id" in card]

    @property
    def repeats(self) -> list[str | None]:
        return [card["data-repeat-of"] for card in self.cards if "data-repeat-of" in card]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return make_run(tmp_path_factory.mktemp("run") / "run", slide_ids=SLIDES)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """A run for tests that need no second page."""
    return make_run(tmp_path_factory.mktemp("small") / "run", slide_ids=("FGC1",), cells_per_type=10)


@pytest.fixture(scope="module")
def site(run: FakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    build(run, out)
    return out


def build(run: FakeRun, out: Path, **settings: Any) -> SiteSummary:
    return build_site(run.layout, SiteOptions(**{"out": out, "cards_per_page": 40, **settings}))


def pages_of(site: Path, cell_type: str) -> list[Cards]:
    return [Cards(page) for page in sorted((site / cell_type).glob("page-*.html"))]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_every_cell_in_the_filter_has_one_card_on_one_page(run: FakeRun, site: Path) -> None:
    for deck in choose_decks(run.layout, run.manifest, SiteOptions(out=site, cards_per_page=40)):
        shown = [cell_id for page in pages_of(site, deck.cell_type) for cell_id in page.own]
        assert shown == deck.cells["cell_id"].to_pylist()


def test_pages_are_full_but_for_the_last(site: Path) -> None:
    sizes = [len(page.own) for page in pages_of(site, "hspc")]
    assert len(sizes) > 2
    assert set(sizes[:-1]) == {40}
    assert 0 < sizes[-1] <= 40


def test_every_card_starts_unlabelled_and_holds_three_buttons(site: Path) -> None:
    for page in pages_of(site, "mk"):
        assert {card["data-state"] for card in page.cards} == {"unlabelled"}
        assert page.buttons == ["positive", "negative", "unsure"] * len(page.cards)


def test_repeats_are_marked_apart_and_stand_on_later_pages(site: Path) -> None:
    seen: set[str | None] = set()
    repeats: list[str | None] = []
    for page in pages_of(site, "hspc"):
        assert set(page.repeats) <= seen
        seen |= set(page.own)
        repeats += page.repeats
    assert len(repeats) == 50
    assert len(set(repeats)) == 50


def test_site_json_tells_the_truth(run: FakeRun, site: Path) -> None:
    data = json.loads((site / "site.json").read_text())
    pages = {t: pages_of(site, t) for t in ("mk", "hspc")}
    assert data["dataset"] == run.manifest.dataset
    assert data["config_hash"] == run.manifest.config_hash
    assert data["pages"] == sum(len(p) for p in pages.values())
    assert data["cells"] == sum(len(page.own) for p in pages.values() for page in p)
    assert data["bytes"] == sum(len(content) for content in contents(site).values())
    assert data["cell_types"]["hspc"]["blind_repeats"] == 50
    assert data["cell_types"]["hspc"]["inclusion_probability"] == {"S01": 1.0, "S02": 1.0, "S03": 1.0}


def test_the_same_run_gives_the_same_bytes(run: FakeRun, site: Path, tmp_path: Path) -> None:
    build(run, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(site)


def test_what_the_annotator_reads_is_blind(run: FakeRun, site: Path) -> None:
    for page in [*pages_of(site, "mk"), *pages_of(site, "hspc")]:
        assert not any(name in page.text for name in SLIDES)
        assert {s.code for s in run.manifest.slides} >= set(re.findall(r"S\d\d", page.text))


def test_codes_in_site_json_stand_in_an_order_that_tells_nothing(site: Path) -> None:
    data = json.loads((site / "site.json").read_text())
    codes = list(data["cell_types"]["hspc"]["inclusion_probability"])
    assert codes == sorted(codes)


def test_no_blind_shows_names(small: FakeRun, tmp_path: Path) -> None:
    build(small, tmp_path / "open", blind=False)
    assert "FGC1" in pages_of(tmp_path / "open", "mk")[0].text


def test_cards_tell_both_areas(site: Path) -> None:
    assert re.search(r"\d+\.\d µm² \| \d+ px²", pages_of(site, "mk")[0].text)


def test_a_card_shows_the_part_of_the_sheet_where_its_crop_lies(run: FakeRun, site: Path) -> None:
    text = (site / "mk" / "page-001.html").read_text()
    sheet = re.search(r'<image id="s0" href="\.\./(assets/[^"]+)"', text)
    assert sheet is not None
    picture = Image.open(site / sheet[1]).convert("RGB")
    cards = re.findall(
        r'data-cell-id="([^"]+)"[^>]*><svg viewBox="(\d+) (\d+) (\d+) \d+"><use href="#s0"', text
    )
    crops = {c.cell_id: c.image for s in SLIDES for c in iter_crops(run.layout, run.manifest, s)}
    for cell_id, *numbers in cards:
        x, y, side = (int(n) // 4 for n in numbers)
        shown = np.asarray(picture.crop((x, y, x + side, y + side)), float)
        crop = Image.open(io.BytesIO(crops[cell_id])).resize((side + 2, side + 2), Image.Resampling.LANCZOS)
        meant = np.asarray(crop, float)[1:-1, 1:-1]
        assert np.abs(shown - meant).mean() < 8.0, cell_id


def test_the_outline_surrounds_the_cell(run: FakeRun, site: Path) -> None:
    text = (site / "mk" / "page-001.html").read_text()
    for view_box, path in re.findall(r'viewBox="([\d ]+)"><use[^>]*/><path d="([^"]+)"', text)[:20]:
        x, y, side, _ = (int(n) for n in view_box.split())
        numbers = [int(n) for n in re.findall(r"-?\d+", path)]
        points = np.cumsum(np.reshape(numbers, (-1, 2)), axis=0)
        assert np.abs(points.mean(axis=0) - (x + side / 2, y + side / 2)).max() < side * 0.1


def test_assets_are_named_by_their_contents(run: FakeRun, site: Path, tmp_path: Path) -> None:
    build(run, tmp_path / "other", order="area")
    for name, content in contents(tmp_path / "other" / "assets").items():
        if name in contents(site / "assets"):
            assert contents(site / "assets")[name] == content


def test_every_link_of_a_page_leads_somewhere(site: Path) -> None:
    for page in [site / "index.html", *site.glob("*/page-*.html")]:
        for link in re.findall(r'(?:href|src)="([^"#][^"]*)"', page.read_text()):
            assert (page.parent / link).resolve().exists(), f"{page.name}: {link}"


def test_pages_carry_noindex_and_a_strict_policy(site: Path) -> None:
    for page in [site / "index.html", *site.glob("*/page-*.html")]:
        text = page.read_text()
        assert '<meta name="robots" content="noindex' in text
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
        assert policy is not None
        assert policy[1].startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert " style=" not in text
        assert not re.search(r"\son\w+=", text)


def test_the_lookup_finds_every_cell_on_its_page(site: Path) -> None:
    written = re.search(r'id="settings">(.+?)</script>', (site / "index.html").read_text())
    assert written
    settings = json.loads(written[1])
    for cell_type in ("mk", "hspc"):
        directory, files = settings["lookups"][cell_type]
        for number, page in enumerate(pages_of(site, cell_type), start=1):
            for cell_id in page.own:
                crc = zlib.crc32(str(cell_id).encode())
                found = json.loads((site / "assets" / directory / f"{crc % files}.json").read_text())
                assert number in found[str(crc)]


HOSTILE = '<script>alert("1")</script>\' onload=x & {{ 7*7 }}'


def test_a_hostile_title_is_inert(small: FakeRun, tmp_path: Path) -> None:
    build(small, tmp_path / "site", title=HOSTILE)
    for page in (tmp_path / "site").rglob("*.html"):
        assert "<script>alert" not in page.read_text()
        assert HOSTILE in Cards(page).text


def test_hostile_slide_names_are_inert(tmp_path: Path) -> None:
    # the store makes names safe; the gallery must not depend on that
    run = make_run(tmp_path / "run", slide_ids=("FGC1", "FHU1"), cells_per_type=5)
    slides = [
        dataclasses.replace(s, code=f"<img src=x onerror=alert({i})>\"'")
        for i, s in enumerate(run.manifest.slides)
    ]
    put_manifest(run.layout, dataclasses.replace(run.manifest, slides=tuple(slides)))
    build(run, tmp_path / "site")
    for page in (tmp_path / "site").rglob("*.html"):
        assert "<img src=x" not in page.read_text()


def test_a_new_site_replaces_the_old_one_whole(small: FakeRun, tmp_path: Path) -> None:
    build(small, tmp_path / "site", cards_per_page=3)
    build(small, tmp_path / "site", cards_per_page=300)
    assert len(pages_of(tmp_path / "site", "hspc")) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["site"]


def test_a_site_over_the_limit_is_refused_and_the_old_one_stays(run: FakeRun, tmp_path: Path) -> None:
    build(run, tmp_path / "site")
    before = contents(tmp_path / "site")
    with pytest.raises(
        CheckFailedError, match=r"would take .* MB; 0\.2 MB are allowed\n  --max-cards \d+ would fit"
    ):
        build(run, tmp_path / "site", max_site_mb=0.2)
    assert contents(tmp_path / "site") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["site"]


def test_the_number_of_cards_that_the_refusal_names_fits(run: FakeRun, tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError) as refused:
        build(run, tmp_path / "site", max_site_mb=0.3)
    named = re.search(r"--max-cards (\d+)", str(refused.value))
    assert named
    fits = int(named[1])
    summary = build(run, tmp_path / "site", max_site_mb=0.35, max_cards=fits)
    assert summary.size_bytes > 0.2e6


def test_cards_that_fit_fills_the_smaller_type_first() -> None:
    options = SiteOptions(out=Path("site"), blind_repeats=0.0)
    assert cards_that_fit(1000.0, [(10, 10.0), (1000, 1.0)], options) == 900
    assert cards_that_fit(0.0, [(10, 10.0)], options) == 0
    assert cards_that_fit(1e9, [(10, 10.0), (7, 1.0)], options) == 10


def test_cards_that_fit_counts_the_repeats() -> None:
    options = SiteOptions(out=Path("site"), cards_per_page=300)
    assert cards_that_fit(1000.0, [(2000, 1.0)], options) == 950


@pytest.mark.parametrize("name", ["notes.txt", "site.json"])
def test_a_directory_that_is_no_site_is_never_touched(small: FakeRun, tmp_path: Path, name: str) -> None:
    out = tmp_path / "precious"
    out.mkdir()
    (out / name).write_text("{}")
    with pytest.raises(InputError):
        build(small, out)
    assert contents(out) == {name: b"{}"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["precious"]


def test_a_site_with_foreign_files_in_it_is_not_replaced(small: FakeRun, tmp_path: Path) -> None:
    build(small, tmp_path / "site")
    (tmp_path / "site" / "CNAME").write_text("marrow.example.org")
    with pytest.raises(InputError, match="not part of the site: CNAME"):
        build(small, tmp_path / "site")
    assert (tmp_path / "site" / "CNAME").exists()


def test_a_file_in_the_place_of_the_site_is_refused(small: FakeRun, tmp_path: Path) -> None:
    (tmp_path / "site").write_text("a file")
    with pytest.raises(InputError, match="is a file"):
        build(small, tmp_path / "site")


def test_an_empty_directory_may_become_a_site(small: FakeRun, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    assert build(small, tmp_path / "site").pages["mk"] >= 1


def test_a_run_with_a_missing_crop_makes_no_site(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("FGC1",), cells_per_type=5)
    run.layout.crops("FGC1").unlink()
    with pytest.raises(InputError, match=r"FGC1\.parquet"):
        build(run, tmp_path / "site")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_a_run_without_a_cell_in_the_filter_makes_no_site(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", slide_ids=("FGC1",), cells_per_type=5)
    largest: dict[CellType, float] = {t: run.manifest.stored(t).max_um2 for t in CELL_TYPES}
    nothing = {t: CellRange(area_um2 - 0.02, area_um2 - 0.01, 1.0) for t, area_um2 in largest.items()}
    put_manifest(run.layout, run.manifest.with_filter(nothing))
    with pytest.raises(CheckFailedError, match="nothing to show"):
        build(run, tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"order": "suggested"},
        {"cards_per_page": 0},
        {"max_cards": 0},
        {"blind_repeats": 0.9},
        {"max_site_mb": 0.0},
    ],
)
def test_an_option_out_of_range_is_refused(small: FakeRun, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(settings)).replace('_', '-')}"):
        build(small, tmp_path / "site", **settings)
