"""The gallery in a real Chromium, driven by its keys and buttons as an annotator would."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from labelfiles import write
from mkhspc.gallery.options import SiteOptions
from mkhspc.gallery.serve import address_of, open_server
from mkhspc.gallery.site import build_site
from mkhspc.learn.labels.convert import convert
from runs import FakeRun, make_run, put_manifest

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"
STATE = (
    "[...document.querySelectorAll('article[data-cell-id]')].map(a => [a.dataset.cellId, a.dataset.state])"
)
TOOLS_RIGHT = (
    "Math.max(...[...document.querySelectorAll('.tools button, .tools b')]"
    ".map(e => e.getBoundingClientRect().right))"
)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """A run whose slides' codes are as hostile as can be: they are what a card shows."""
    run = make_run(tmp_path_factory.mktemp("browser") / "run")
    slides = tuple(dataclasses.replace(s, code=f"{s.code}{HOSTILE}") for s in run.manifest.slides)
    hostile = dataclasses.replace(run.manifest, slides=slides)
    put_manifest(run.layout, hostile)
    return FakeRun(run.layout, hostile)


def build(run: FakeRun, out: Path, **settings: Any) -> None:
    build_site(run.layout, SiteOptions(**{"out": out, "cards_per_page": 40, "title": HOSTILE, **settings}))


@pytest.fixture(scope="module")
def site(run: FakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    build(run, out)
    return out


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with open_server(site, 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield address_of(server)
        server.shutdown()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh browser profile; anything on the console that is an error fails the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(10_000)
    faults: list[str] = []

    def listen(page: Page) -> None:
        def hear(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                faults.append(message.text)

        page.on("console", hear)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))

    context.on("page", listen)
    yield context
    context.close()
    assert faults == []


@pytest.fixture
def open_page(context: BrowserContext, address: str) -> Callable[..., Page]:
    def open_page(name: str = "mk/page-001.html") -> Page:
        page = context.new_page()
        go(page, address + name)
        return page

    return open_page


def go(page: Page, address: str) -> None:
    page.goto(address)
    ready(page)


def ready(page: Page) -> None:
    page.wait_for_selector("html[data-ready]", state="attached")


def press(page: Page, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def states(page: Page) -> dict[str, str]:
    return dict(page.evaluate(STATE))


def labelled(page: Page) -> dict[str, str]:
    return {cell_id: state for cell_id, state in states(page).items() if state != "unlabelled"}


def counts(page: Page) -> dict[str, int]:
    names = ("positive", "negative", "unsure", "left")
    return {name: int(page.locator(f"[data-count={name}]").inner_text()) for name in names}


def export(page: Page) -> dict[str, Any]:
    with page.expect_download() as download:
        page.click("[data-action=export]")
    data: dict[str, Any] = json.loads(Path(download.value.path()).read_text())
    return {**data, "file_name": download.value.suggested_filename}


def give_file(page: Page, data: object) -> None:
    text = data if isinstance(data, str) else json.dumps(data)
    with page.expect_file_chooser() as chooser:
        page.click("[data-action=import]")
    chooser.value.set_files(
        [{"name": "labels.json", "mimeType": "application/json", "buffer": text.encode()}]
    )


def give_name(page: Page, name: str) -> None:
    page.click("[data-action=annotator]")
    page.fill("#annotator-name", name)
    page.click("[data-action=save-annotator]")


def current(page: Page) -> int:
    return int(page.evaluate("[...document.querySelectorAll('article')].indexOf(document.activeElement)"))


def test_labels_given_by_key_are_there_after_a_reload(open_page: Callable[..., Page]) -> None:
    page = open_page()
    press(page, "y n u y")
    expected = labelled(page)
    assert list(expected.values()) == ["positive", "negative", "unsure", "positive"]
    assert counts(page) == {"positive": 2, "negative": 1, "unsure": 1, "left": 36}
    page.reload()
    ready(page)
    assert labelled(page) == expected
    assert counts(page)["left"] == 36


def test_work_goes_on_at_the_first_card_without_a_label(open_page: Callable[..., Page]) -> None:
    page = open_page()
    press(page, "y n u")
    page.reload()
    ready(page)
    press(page, "y")
    assert list(labelled(page).values()) == ["positive", "negative", "unsure", "positive"]


def test_undo_and_redo(open_page: Callable[..., Page]) -> None:
    page = open_page()
    press(page, "y n u z z")
    assert list(labelled(page).values()) == ["positive"]
    press(page, "Z")
    assert list(labelled(page).values()) == ["positive", "negative"]
    page.click("[data-action=undo]")
    page.click("[data-action=redo]")
    assert list(labelled(page).values()) == ["positive", "negative"]
    page.reload()
    ready(page)
    assert list(labelled(page).values()) == ["positive", "negative"]


def test_x_takes_a_label_off_and_stays(open_page: Callable[..., Page]) -> None:
    page = open_page()
    press(page, "y ArrowLeft x")
    assert labelled(page) == {}
    assert current(page) == 0
    page.reload()
    ready(page)
    assert labelled(page) == {}


def test_arrows_move_on_the_grid_as_it_is_seen(open_page: Callable[..., Page]) -> None:
    page = open_page()
    columns = page.evaluate(
        "new Set([...document.querySelectorAll('article')].map(a => a.getBoundingClientRect().left)).size"
    )
    assert columns > 2
    press(page, "ArrowRight ArrowDown")
    assert current(page) == columns + 1
    press(page, "ArrowLeft ArrowUp")
    assert current(page) == 0


def test_buttons_label_without_moving_on(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.locator("article").nth(3).locator("[data-label=negative]").click()
    assert list(labelled(page).values()) == ["negative"]
    assert list(states(page).values())[3] == "negative"
    press(page, "ArrowRight u")
    assert list(states(page).values())[3:5] == ["negative", "unsure"]


def test_a_selection_is_labelled_in_one_step(open_page: Callable[..., Page]) -> None:
    page = open_page()
    cards = page.locator("article > svg")
    cards.nth(1).click()
    cards.nth(4).click(modifiers=["Shift"])
    cards.nth(6).click(modifiers=["Control"])
    press(page, "n")
    assert [i for i, state in enumerate(states(page).values()) if state == "negative"] == [1, 2, 3, 4, 6]
    press(page, "z")
    assert labelled(page) == {}
    press(page, "a y")
    assert counts(page) == {"positive": 40, "negative": 0, "unsure": 0, "left": 0}
    expect(page.locator("#notices")).to_have_text("40 cards: yes. z or Undo takes it back.")
    events = export(page)["events"]
    assert {event["by"] for event in events[:5]} == {"bulk"}


def test_with_a_selection_the_buttons_of_its_cards_answer_for_them_all(
    open_page: Callable[..., Page],
) -> None:
    """On a touch screen there are no keys."""
    page = open_page()
    page.click("[data-action=select-all]")
    assert page.locator("article.selected").count() == 40
    page.locator("article").nth(2).locator("[data-label=negative]").click()
    assert counts(page) == {"positive": 0, "negative": 40, "unsure": 0, "left": 0}
    assert page.locator("article.selected").count() == 0
    page.locator("article > svg").nth(1).click(modifiers=["Control"])
    page.locator("article").nth(5).locator("[data-label=unsure]").click()
    assert counts(page) == {"positive": 0, "negative": 39, "unsure": 1, "left": 0}


def test_select_all_again_and_escape_let_go(open_page: Callable[..., Page]) -> None:
    page = open_page()
    for let_go in ("a", "Escape"):
        press(page, "a")
        expect(page.locator("#notices")).to_contain_text("40 cards selected")
        press(page, let_go)
        assert page.locator("article.selected").count() == 0
        expect(page.locator("#notices")).to_contain_text("No card is selected")
    press(page, "y")
    assert list(labelled(page).values()) == ["positive"]


def test_the_pressed_button_takes_the_label_off_but_a_double_click_does_not(
    open_page: Callable[..., Page],
) -> None:
    page = open_page()
    button = page.locator("article").nth(1).locator("[data-label=positive]")
    button.dblclick()
    expect(button).to_have_attribute("aria-pressed", "true")
    assert list(labelled(page).values()) == ["positive"]
    page.wait_for_timeout(700)  # longer than any double click
    button.click()
    assert labelled(page) == {}
    press(page, "z")
    assert list(labelled(page).values()) == ["positive"]


def test_export_has_the_shape_of_the_contract(open_page: Callable[..., Page], run: FakeRun) -> None:
    page = open_page()
    press(page, "y n u")
    ids = list(labelled(page))
    data = export(page)
    assert data["file_name"] == f"annotations_{run.manifest.dataset}_anonymous.json"
    assert (data["format"], data["version"], data["annotator"]) == ("mkhspc-annotations", 1, "anonymous")
    assert (data["dataset"], data["config_hash"]) == (run.manifest.dataset, run.manifest.config_hash)
    assert data["mk"] == {"positive": ids[:1], "negative": ids[1:2], "unsure": ids[2:3]}
    assert data["hspc"] == {"positive": [], "negative": [], "unsure": []}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", data["exported_at"])
    assert [event["cell_id"] for event in data["events"]] == ids
    for event in data["events"]:
        assert (event["policy"], event["inclusion_prob"], event["by"]) == ("random", 1, "key")
        assert event["dwell_ms"] >= 0
        assert event["at"].endswith("Z")


def test_an_export_holds_the_labels_of_all_pages(open_page: Callable[..., Page]) -> None:
    page = open_page()
    press(page, "y y")
    press(page, "]")
    page.wait_for_url("**/mk/page-002.html")
    ready(page)
    press(page, "n")
    go(page, page.url.replace("mk/page-002", "hspc/page-001"))
    press(page, "u")
    data = export(page)
    assert [len(data["mk"][label]) for label in ("positive", "negative")] == [2, 1]
    assert len(data["hspc"]["unsure"]) == 1


def test_an_import_brings_everything_back(open_page: Callable[..., Page], context: BrowserContext) -> None:
    page = open_page()
    press(page, "y n u")
    expected = labelled(page)
    data = export(page)
    page.evaluate("localStorage.clear()")
    page.evaluate(
        "indexedDB.databases().then(all => Promise.all(all.map(d => indexedDB.deleteDatabase(d.name))))"
    )
    page.reload()
    ready(page)
    assert labelled(page) == {}
    give_file(page, data)
    expect(page.locator("[data-count=left]")).to_have_text("37")
    assert labelled(page) == expected
    again = export(page)
    assert [again[key] for key in ("mk", "hspc", "events")] == [data[key] for key in ("mk", "hspc", "events")]


def test_events_are_numbered_in_one_log_over_pages_and_tabs(
    open_page: Callable[..., Page], context: BrowserContext
) -> None:
    page = open_page()
    press(page, "y n")
    page.reload()
    ready(page)
    other = context.new_page()
    other.goto(page.url)
    ready(other)
    press(other, "u")
    export(other)
    press(page, "z y")
    events = export(page)["events"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert len({event["browser"] for event in events}) == 1
    assert {event["annotator"] for event in events} == {"anonymous"}


def test_a_new_log_begins_under_another_id_though_the_old_one_is_remembered(
    open_page: Callable[..., Page],
) -> None:
    page = open_page()
    press(page, "y")
    (before,) = export(page)["events"]
    page.evaluate(
        "indexedDB.databases().then(all => Promise.all(all.map(d => indexedDB.deleteDatabase(d.name))))"
    )
    page.reload()
    ready(page)
    press(page, "n")
    (after,) = export(page)["events"]
    assert (before["seq"], after["seq"]) == (1, 1)
    assert before["browser"] != after["browser"]


def test_a_label_given_with_the_clock_at_2099_and_corrected_later_is_the_correction(
    open_page: Callable[..., Page], run: FakeRun, tmp_path: Path
) -> None:
    page = open_page()
    page.clock.set_fixed_time("2099-01-01T12:00:00Z")
    press(page, "y y")
    first, second = labelled(page)
    monday = export(page)
    page.clock.set_fixed_time("2026-02-02T12:00:00Z")
    page.locator(f'[data-cell-id="{first}"] [data-label=negative]').click()
    expect(page.locator("[data-count=negative]")).to_have_text("1")
    tuesday = export(page)
    assert [event["at"][:4] for event in tuesday["events"]] == ["2099", "2099", "2026"]
    files = [write(tmp_path / f"{n}.json", data) for n, data in enumerate((tuesday, monday))]
    conversion = convert(files, run.layout)
    given = {d.cell_id: d.value for d in (*conversion.samples, *conversion.outside_filter)}
    assert given == {first: "negative", second: "positive"}
    assert "dated in the future (2099-01-01T12:00:00+00:00)" in conversion.concerns[0]


def test_labels_brought_in_from_another_person_count_for_that_person(
    open_page: Callable[..., Page], run: FakeRun, tmp_path: Path, browser: Browser
) -> None:
    page = open_page()
    give_name(page, "Иванова")
    press(page, "y y")
    hers = export(page)
    assert hers["file_name"] == f"annotations_{run.manifest.dataset}_Иванова.json"
    other = browser.new_context().new_page()
    other.goto(page.url)
    ready(other)
    give_name(other, "田中")
    give_file(other, hers)
    expect(other.locator("[data-count=positive]")).to_have_text("2")
    other.locator("article").nth(3).locator("[data-label=negative]").click()
    his = export(other)
    other.context.close()
    assert [event["annotator"] for event in his["events"]] == ["Иванова", "Иванова", "田中"]
    files = [write(tmp_path / f"{n}.json", data) for n, data in enumerate((hers, his))]
    conversion = convert(files, run.layout)
    decided = (*conversion.samples, *conversion.outside_filter)
    assert sorted(d.annotators for d in decided) == [("Иванова",), ("Иванова",), ("田中",)]


def conflicting(page: Page) -> tuple[dict[str, Any], list[str]]:
    """Gives two labels; returns a file that has the first as it is, the second not, and a third new one."""
    press(page, "y y")
    ids = list(states(page))[:3]
    data = export(page)
    data["mk"] = {"positive": ids[:1], "negative": ids[1:3], "unsure": []}
    return data, ids


@pytest.mark.parametrize(("choice", "second"), [("mine", "positive"), ("theirs", "negative")])
def test_labels_that_differ_are_asked_about(open_page: Callable[..., Page], choice: str, second: str) -> None:
    page = open_page()
    data, ids = conflicting(page)
    give_file(page, data)
    expect(page.locator("#conflicts")).to_be_visible()
    assert labelled(page) == {ids[0]: "positive", ids[1]: "positive"}
    page.click(f"[data-choice={choice}]")
    expect(page.locator("[data-count=left]")).to_have_text("37")
    assert labelled(page) == {ids[0]: "positive", ids[1]: second, ids[2]: "negative"}


def test_labels_that_differ_can_be_chosen_one_by_one(open_page: Callable[..., Page]) -> None:
    page = open_page()
    data, ids = conflicting(page)
    give_file(page, data)
    page.click("#conflicts summary")
    assert "FGC1" not in page.locator("#conflict-list").inner_text()
    page.locator("#conflict-list input[value=theirs]").check()
    page.click("[data-choice=listed]")
    expect(page.locator("[data-count=left]")).to_have_text("37")
    assert labelled(page)[ids[1]] == "negative"


def test_an_import_that_is_called_off_changes_nothing(open_page: Callable[..., Page]) -> None:
    page = open_page()
    data, ids = conflicting(page)
    give_file(page, data)
    expect(page.locator("#conflicts")).to_be_visible()
    press(page, "Escape")
    expect(page.locator("#conflicts")).to_be_hidden()
    assert labelled(page) == {ids[0]: "positive", ids[1]: "positive"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "not JSON"),
        ('{"positive": []}', "holds no labels"),
        ('{"format": "mkhspc-annotations", "version": 1, "dataset": "other"}', "another dataset"),
    ],
)
def test_a_file_that_is_not_for_this_gallery_is_refused(
    open_page: Callable[..., Page], text: str, message: str
) -> None:
    page = open_page()
    press(page, "y")
    give_file(page, text)
    expect(page.locator("#notices")).to_contain_text(message)
    assert list(labelled(page).values()) == ["positive"]


def test_a_file_with_a_damaged_event_is_refused_whole(open_page: Callable[..., Page]) -> None:
    """`convert` would refuse all that is exported afterwards."""
    page = open_page()
    press(page, "y")
    data = export(page)
    page.keyboard.press("z")
    data["events"][0]["at"] = "noon"
    give_file(page, data)
    expect(page.locator("#notices")).to_contain_text("damaged event")
    assert labelled(page) == {}


def test_an_import_of_more_labels_than_fit_unpacked_is_kept(
    open_page: Callable[..., Page], run: FakeRun
) -> None:
    """110,000 labels as single keys take 7 million characters of the 5 that a browser gives."""
    page = open_page()
    press(page, "y")
    data = export(page)
    data["hspc"]["negative"] = [f"FGC1_s0_hspc_{i % 90_001}_{i * 7 % 60_013}" for i in range(110_000)]
    give_file(page, data)
    expect(page.locator("#notices")).to_contain_text("Imported 110000 labels", timeout=60_000)
    expect(page.locator("#warning")).to_be_hidden()
    page.reload()
    ready(page)
    assert len(export(page)["hspc"]["negative"]) == 110_000


def test_a_hostile_name_from_a_file_is_shown_as_text(open_page: Callable[..., Page]) -> None:
    page = open_page()
    data, _ = conflicting(page)
    give_file(page, {**data, "annotator": HOSTILE})
    expect(page.locator("#conflicts-facts")).to_contain_text("<img src=x")
    page.click("[data-choice=theirs]")
    expect(page.locator("#notices")).to_contain_text("<img src=x")
    expect(page.locator("[data-annotator]")).to_contain_text("<img src=x")
    assert page.locator("header img, header script, dialog img, #notices img").count() == 0


def test_labels_survive_a_gallery_of_another_order_and_size(
    run: FakeRun, site: Path, open_page: Callable[..., Page]
) -> None:
    page = open_page("hspc/page-002.html")
    press(page, "y n u y n")
    expected = labelled(page)
    try:
        build(run, site, cards_per_page=300, order="area", title="Made anew")
        go(page, page.url.replace("page-002", "page-001"))
        assert labelled(page) == expected
        assert export(page)["hspc"]["positive"] == sorted(i for i, s in expected.items() if s == "positive")
    finally:
        build(run, site)


def test_two_tabs_see_and_keep_each_others_labels(open_page: Callable[..., Page]) -> None:
    one, two = open_page(), open_page()
    press(two, "ArrowRight")
    for _ in range(4):
        press(one, "y ArrowRight")
        press(two, "n ArrowRight")
    expect(one.locator("[data-count=negative]")).to_have_text("4")
    expect(two.locator("[data-count=positive]")).to_have_text("4")
    assert labelled(one) == labelled(two)
    assert list(states(one).values())[:8] == ["positive", "negative"] * 4
    one.reload()
    ready(one)
    assert len(labelled(one)) == 8


def test_undo_leaves_alone_what_another_tab_has_changed_since(open_page: Callable[..., Page]) -> None:
    one, two = open_page(), open_page()
    press(one, "y")
    expect(two.locator("[data-count=positive]")).to_have_text("1")
    press(two, "n")
    expect(one.locator("[data-count=negative]")).to_have_text("1")
    press(one, "z")
    assert list(labelled(one).values()) == ["negative"]
    expect(one.locator("#notices")).to_contain_text("another tab")


def test_old_labels_are_packed_away_and_stay(open_page: Callable[..., Page], run: FakeRun) -> None:
    page = open_page()
    press(page, "y n u")
    expected = labelled(page)
    prefix = f"mkhspc/1/{run.manifest.dataset}/"
    long_ago = "".join(page.evaluate("[(Date.now() - 1e7).toString(36)]"))
    page.evaluate(
        "([prefix, at]) => { for (const k of Object.keys(localStorage)) if (k.startsWith(prefix + 'new/'))"
        " localStorage[k] = localStorage[k][0] + at; }",
        [prefix, long_ago],
    )
    page.reload()
    ready(page)
    page.wait_for_function("p => !Object.keys(localStorage).some(k => k.startsWith(p + 'new/'))", arg=prefix)
    assert labelled(page) == expected
    page.reload()
    ready(page)
    assert labelled(page) == expected
    press(page, "ArrowUp Home x")
    assert len(labelled(page)) == 2


def test_no_other_key_of_the_origin_is_touched(open_page: Callable[..., Page], run: FakeRun) -> None:
    page = open_page()
    page.evaluate("localStorage.setItem('mkhspc/1/other/new/x', 'p1'); localStorage.setItem('theme', 'dark')")
    press(page, "y n c c a u")
    export(page)
    press(page, "]")
    page.wait_for_url("**/page-002.html")
    ready(page)
    keys = page.evaluate("Object.keys(localStorage)")
    assert page.evaluate("[localStorage['mkhspc/1/other/new/x'], localStorage.theme]") == ["p1", "dark"]
    others = {key for key in keys if not key.startswith(f"mkhspc/1/{run.manifest.dataset}/")}
    assert others == {"mkhspc/1/other/new/x", "theme"}


def test_a_full_storage_is_shown_and_the_labels_can_still_be_exported(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.evaluate(
        "() => { for (let n = 4e6, i = 0; n >= 1; ) {"
        " try { localStorage.setItem('fill' + i, 'x'.repeat(n)); i++; } catch { n = Math.floor(n / 2); } } }"
    )
    press(page, "y n")
    expect(page.locator("#warning")).to_contain_text("2 labels are held by this tab alone")
    assert len(export(page)["mk"]["positive"]) == 1
    page.evaluate(
        "Object.keys(localStorage).filter(k => k.startsWith('fill')).forEach(k => delete localStorage[k])"
    )
    press(page, "u")
    expect(page.locator("#warning")).to_be_hidden()
    page.reload()
    ready(page)
    assert list(labelled(page).values()) == ["positive", "negative", "unsure"]


def test_damaged_labels_are_reported_and_left_as_they_are(
    open_page: Callable[..., Page], run: FakeRun
) -> None:
    page = open_page()
    first = next(iter(states(page)))
    slide_scene_type, x, y = first.rsplit("_", 2)
    key = f"mkhspc/1/{run.manifest.dataset}/set/{slide_scene_type}/{int(x) // 8192}.{int(y) // 8192}"
    page.evaluate("key => localStorage.setItem(key, 'damaged')", key)
    page.reload()
    ready(page)
    expect(page.locator("#warning")).to_contain_text("damaged and cannot be read")
    press(page, "y")
    assert len(labelled(page)) == 1
    assert page.evaluate("key => localStorage.getItem(key)", key) == "damaged"


def test_labels_work_without_indexeddb_and_the_annotator_learns_of_it(
    context: BrowserContext, open_page: Callable[..., Page]
) -> None:
    context.add_init_script("Object.defineProperty(window, 'indexedDB', {value: undefined})")
    page = open_page()
    expect(page.locator("#notices")).to_contain_text("Labels are safe")
    press(page, "y n")
    assert len(export(page)["events"]) == 2
    page.reload()
    ready(page)
    assert list(labelled(page).values()) == ["positive", "negative"]


def test_repeats_answer_to_the_events_alone_and_do_not_show_that_they_are_repeats(
    open_page: Callable[..., Page],
) -> None:
    page = open_page("hspc/page-003.html")
    assert counts(page)["left"] == page.locator("article[data-cell-id]").count()
    repeats = page.locator("article[data-repeat-of]")
    repeated = [repeats.nth(i).get_attribute("data-repeat-of") for i in range(repeats.count())]
    assert len(repeated) > 10
    own, again = page.locator("article[data-cell-id]").nth(1), repeats.first
    look = "e => [e.className, ...[...e.querySelectorAll('*')].map(c => c.tagName + c.className)].join()"
    assert own.evaluate(look) == again.evaluate(look)
    before = counts(page)
    again.locator("[data-label=unsure]").click()
    expect(again).to_have_attribute("data-state", "unsure")
    assert counts(page) == before
    assert repeated[0] not in "".join(page.evaluate("Object.keys(localStorage)"))
    data = export(page)
    assert data["hspc"]["unsure"] == []
    assert [(e["cell_id"], e["policy"]) for e in data["events"]] == [(repeated[0], "blind-repeat")]
    page.reload()
    ready(page)
    expect(again).to_have_attribute("data-state", "unsure")
    press(page, "z")
    again.locator("[data-label=negative]").click()
    press(page, "z")
    expect(again).to_have_attribute("data-state", "unsure")


def test_contours_lie_over_the_crop_and_can_be_hidden(open_page: Callable[..., Page]) -> None:
    page = open_page()
    path = page.locator("article path").first
    expect(path).to_be_visible()
    press(page, "c")
    expect(path).to_be_hidden()
    page.reload()
    ready(page)
    expect(path).to_be_hidden()
    page.click("[data-action=contours]")
    expect(path).to_be_visible()


@pytest.mark.parametrize("width", [1440, 390])
def test_the_first_visits_help_covers_no_card(open_page: Callable[..., Page], width: int) -> None:
    page = open_page()
    page.set_viewport_size({"width": width, "height": 844})
    hint = page.locator("#hint").bounding_box()
    card = page.locator("article").first.bounding_box()
    assert hint is not None
    assert card is not None
    assert hint["y"] + hint["height"] <= card["y"]
    press(page, "y")
    page.click("#hint button")
    page.reload()
    ready(page)
    expect(page.locator("#hint")).to_be_hidden()


def test_help_opens_by_key_and_closes(open_page: Callable[..., Page]) -> None:
    page = open_page()
    press(page, "?")
    expect(page.locator("#help")).to_be_visible()
    press(page, "y")
    assert labelled(page) == {}
    press(page, "Escape")
    expect(page.locator("#help")).to_be_hidden()


def test_a_link_to_a_cell_leads_there_from_any_page(open_page: Callable[..., Page], address: str) -> None:
    page = open_page("hspc/page-003.html")
    wanted = list(states(page))[-1]
    for start in ("index.html", "mk/page-001.html", "hspc/page-001.html", "hspc/page-003.html"):
        page.goto("about:blank")
        page.goto(f"{address}{start}#cell={wanted}")
        page.wait_for_url(f"**/hspc/page-003.html#cell={wanted}")
        page.wait_for_function("id => document.activeElement?.dataset.cellId === id", arg=wanted)
        box = page.locator(f'article[data-cell-id="{wanted}"]').bounding_box()
        assert box is not None
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 900


def test_a_link_to_a_repeated_cell_leads_to_its_own_card(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page("hspc/page-003.html")
    wanted = page.locator("article[data-repeat-of]").first.get_attribute("data-repeat-of")
    page.goto(f"{address}hspc/page-003.html#cell={wanted}")
    page.wait_for_function("id => document.activeElement?.dataset.cellId === id", arg=wanted)
    assert "page-003" not in page.url


def test_a_link_to_a_cell_that_is_not_shown_says_so(open_page: Callable[..., Page]) -> None:
    page = open_page("mk/page-001.html#cell=FGC1_s0_mk_999999_999999")
    expect(page.locator("#notices")).to_contain_text("does not show that cell")


def test_hostile_names_are_shown_as_text(open_page: Callable[..., Page]) -> None:
    page = open_page()
    assert HOSTILE in page.locator("article b").first.inner_text()
    assert page.locator("article img, article script").count() == 0
    assert HOSTILE in page.title()


def test_the_annotators_name_goes_into_the_file(open_page: Callable[..., Page], run: FakeRun) -> None:
    page = open_page()
    give_name(page, "Zoë <b>")
    press(page, "y")
    data = export(page)
    assert (data["annotator"], data["file_name"]) == (
        "Zoë <b>",
        f"annotations_{run.manifest.dataset}_Zoë_b.json",
    )


def test_the_scale_bar_says_how_long_it_is(open_page: Callable[..., Page]) -> None:
    for name, words in (("mk/page-001.html", '"20 µm"'), ("hspc/page-001.html", '"5 µm"')):
        page = open_page(name)
        bar = "getComputedStyle(document.querySelector('article'), '::before')"
        assert page.evaluate(f"{bar}.content") == words
        settings = json.loads(page.locator("#settings").inner_text())
        side_px = page.evaluate("document.querySelector('article > svg').getBoundingClientRect().width")
        width_px = float(page.evaluate(f"{bar}.width").removesuffix("px"))
        assert width_px / side_px == pytest.approx(settings["bar_um"] / settings["side_um"], abs=0.01)


def test_the_annotators_name_can_be_typed(open_page: Callable[..., Page]) -> None:
    page = open_page()
    dialog = page.locator("#annotator")
    page.click("[data-action=annotator]")
    page.keyboard.type("Anna yn")
    press(page, "Backspace z Enter")
    expect(dialog).not_to_be_visible()
    page.wait_for_timeout(200)
    expect(dialog).not_to_be_visible()  # the Enter did not press the button that has the focus again
    expect(page.locator("[data-annotator]")).to_have_text("Anna yz")
    assert labelled(page) == {}


def test_escape_leaves_the_name_as_it_is(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.click("[data-action=annotator]")
    page.keyboard.type("Anna")
    press(page, "Escape")
    expect(page.locator("#annotator")).not_to_be_visible()
    expect(page.locator("[data-annotator]")).to_have_text("anonymous")


def test_labels_not_yet_exported_are_counted(open_page: Callable[..., Page]) -> None:
    page = open_page()
    badge = page.locator("[data-unexported]")
    expect(badge).to_be_hidden()
    press(page, "y n u")
    expect(badge).to_have_text("3")
    export(page)
    expect(badge).to_be_hidden()


def test_the_overview_counts_labels_and_leads_back_to_work(
    open_page: Callable[..., Page], address: str
) -> None:
    page = open_page("hspc/page-001.html")
    press(page, "y n u y")
    go(page, f"{address}index.html")
    totals = page.locator("[data-totals=hspc] dd").all_inner_texts()
    assert totals[:3] == ["2", "1", "1"]
    expect(page.locator("#resume a")).to_have_attribute("href", "hspc/page-001.html")
    assert page.locator(".type[data-cell-type=hspc] .pages a").first.get_attribute("title") == "10 % labelled"


def test_a_card_that_is_out_of_sight_is_not_labelled(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.mouse.move(700, 600)
    page.mouse.wheel(0, 5000)
    page.wait_for_function("() => scrollY > 800")
    press(page, "y")
    assert labelled(page) == {}
    press(page, "y")
    assert list(labelled(page).values()) == ["positive"]


def test_a_key_held_down_labels_one_card(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.keyboard.down("y")
    page.keyboard.down("y")
    page.keyboard.down("y")
    assert list(labelled(page).values()) == ["positive"]


def test_it_fits_a_phone(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    for name in ("index.html", "mk/page-001.html", "hspc/page-001.html"):
        go(page, address + name)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.evaluate("document.querySelectorAll('[data-unexported]').forEach(b => (b.hidden = false))")
        page.evaluate("document.querySelector('[data-unexported]').textContent = '12345'")
        assert page.evaluate(TOOLS_RIGHT) <= 390
    buttons = page.locator("article").first.locator("[data-label]")
    for i in range(3):
        box = buttons.nth(i).bounding_box()
        assert box is not None
        assert box["height"] >= 44
        assert box["width"] >= 44
    buttons.nth(0).tap()
    assert list(labelled(page).values()) == ["positive"]
    context.close()


def test_the_help_of_a_phone_begins_at_its_top_and_tells_of_buttons(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 600}, has_touch=True, is_mobile=True)
    page = context.new_page()
    go(page, f"{address}mk/page-001.html")
    page.locator("[data-action=help]").tap()
    expect(page.locator("#help .for-touch")).to_be_visible()
    assert page.evaluate("document.getElementById('help').scrollTop") < 200
    context.close()


@pytest.mark.parametrize("name", ["index.html", "mk/page-001.html"])
def test_a_page_opened_as_a_file_points_to_serve(browser: Browser, site: Path, name: str) -> None:
    page = browser.new_page()
    page.goto((site / name).as_uri())
    expect(page.locator("#needs-server")).to_contain_text("mkhspc serve")
    page.close()


def test_without_scripts_every_card_is_there_and_a_sentence_says_why_nothing_works(
    browser: Browser, address: str
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}mk/page-001.html")
    assert page.locator("article[data-cell-id]").count() == 40
    expect(page.locator("noscript p")).to_be_visible()
    context.close()
