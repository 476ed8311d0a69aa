"""Takes the README's pictures of a gallery: `python scripts/screenshots.py SITE OUT_DIR`.

The site is served on this machine and a few cards are labelled by key, as an annotator would.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from threading import Thread

from playwright.sync_api import Browser, Page, sync_playwright

from pipeline.gallery.serve import address_of, open_server

KEYS = "y n y u n y y n u y n y y n".split()  # noqa: SIM905
VIEWS = {
    "light": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "dark-phone": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "dark",
        "device_scale_factor": 2,
        "has_touch": True,
    },
}
PAGES = {
    "gallery-index": "index.html",
    "gallery-mk": "mk/page-001.html",
    "gallery-hspc": "hspc/page-001.html",
}


def main() -> None:
    """Takes every page in every view."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    options.out_dir.mkdir(parents=True, exist_ok=True)
    with open_server(options.site, 0) as server, sync_playwright() as playwright:
        Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        for view, settings in VIEWS.items():
            take(browser, address_of(server), settings, options.out_dir, view)
        browser.close()
        server.shutdown()


def take(browser: Browser, address: str, settings: dict[str, object], out_dir: Path, view: str) -> None:
    """Takes each page once in one view: the pages of cards first, so that the index has counts."""
    context = browser.new_context(**settings)  # type: ignore[arg-type]
    page = context.new_page()
    for name, path in reversed(PAGES.items()):
        page.goto(address + path)
        page.wait_for_selector("html[data-ready]", state="attached")
        if name != "gallery-index":
            label(page)
        page.wait_for_timeout(700)
        page.screenshot(path=out_dir / f"{name}-{view}.png")
    context.close()


def label(page: Page) -> None:
    """Puts the hint away, labels some cards and returns to the top."""
    if page.locator("#hint button").is_visible():
        page.click("#hint button")
    for key in KEYS:
        page.keyboard.press(key)
    page.evaluate("() => scrollTo(0, 0)")


if __name__ == "__main__":
    main()
