"""Takes the README's pictures of the demo: `python scripts/screenshots.py demo-out docs/images`.

The gallery is served on this machine and a few cards are labelled by key, as an annotator would.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from threading import Thread
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from mkhspc.gallery.serve import address_of, open_server

KEYS = "y n y u n y y n y u y n".split()  # noqa: SIM905
MAX_BYTES = 500_000
PALETTES = (256, 192, 128, 96)
"""Numbers of colours to try: the first with which a picture is small enough."""
WIDE: dict[str, Any] = {"viewport": {"width": 1440, "height": 760}, "color_scheme": "light"}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "color_scheme": "dark",
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
PAGE: dict[str, Any] = {"viewport": {"width": 1100, "height": 1385}, "color_scheme": "light"}


def main() -> None:
    """Writes gallery-light.png, gallery-phone-dark.png and report.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="what `mkhspc demo` has written")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    report = (options.demo / "report" / "report.html").resolve().as_uri()
    with open_server(options.demo / "site", 0) as server, sync_playwright() as playwright:
        Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        cards = f"{address_of(server)}mk/page-001.html"
        pictures = {
            "gallery-light": gallery(browser, cards, WIDE),
            "gallery-phone-dark": gallery(browser, cards, PHONE),
            "report": taken(browser, report, PAGE),
        }
        browser.close()
        server.shutdown()
    options.out_dir.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (options.out_dir / f"{name}.png").write_bytes(small(picture))


def taken(browser: Browser, address: str, view: dict[str, Any]) -> bytes:
    """A picture of a page as it opens."""
    context = browser.new_context(**view)
    page = context.new_page()
    page.goto(address)
    picture = page.screenshot()
    context.close()
    return picture


def gallery(browser: Browser, address: str, view: dict[str, Any]) -> bytes:
    """A picture of a page of cards, some of them labelled."""
    context = browser.new_context(**view)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    label(page)
    page.wait_for_load_state("networkidle")
    picture = page.screenshot()
    context.close()
    return picture


def label(page: Page) -> None:
    """Puts the hint away, labels some cards and returns to the top."""
    page.click("#hint button")
    for key in KEYS:
        page.keyboard.press(key)
    page.evaluate("() => scrollTo(0, 0)")


def small(picture: bytes) -> bytes:
    """A PNG with as many colours as `MAX_BYTES` allow."""
    if len(picture) < MAX_BYTES:
        return picture
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in PALETTES:
        out = io.BytesIO()
        image.quantize(colours).save(out, "PNG", optimize=True)
        if out.tell() < MAX_BYTES:
            return out.getvalue()
    raise SystemExit(f"takes {out.tell()} bytes even with {colours} colours")


if __name__ == "__main__":
    main()
