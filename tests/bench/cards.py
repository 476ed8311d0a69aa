"""The size of the gallery and of the labels kept in the browser, against the design before it."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from PIL import Image

from mkhspc.gallery.options import SiteOptions
from mkhspc.gallery.site import build_site
from mkhspc.simulate import DEMO_SLIDES, write_demo_slides
from mkhspc.store import cells, manifest as manifests
from mkhspc.store.layout import RunLayout
from mkhspc.store.picture import decode_picture
from processes import mkhspc

Row = dict[str, object]

ROOT = Path(__file__).resolve().parents[2]
OLD_SIDE_PX = 300
OLD_QUALITY = 85
OLD_SAMPLE = 300
LABELS = 110_000

PACKED_LENGTH = """
import { locate, pack } from %(packing)s;
const squares = new Map();
let next = 1;
const draw = (n) => (next = (next * 48271) %% 2147483647) %% n;
for (let i = 0; i < %(labels)d; i++) {
  const { square, place } = locate(`FGC1_s0_hspc_${draw(60000)}_${draw(60000)}`);
  if (!squares.has(square)) squares.set(square, new Map());
  squares.get(square).set(place, "positive");
}
let length = 0;
for (const [square, labels] of squares) length += square.length + pack(labels).length;
console.log(2 * length);
"""


def rows(shared: Path | None, full: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as scratch:
        return [*_bytes_per_card(Path(scratch)), _label_bytes()]


def _bytes_per_card(scratch: Path) -> list[Row]:
    slides = write_demo_slides(scratch / "slides", specs=DEMO_SLIDES[:4])
    named = [word for slide in slides for word in ("--czi-path", slide.path)]
    done = mkhspc("segment", *named, "--output-dir", scratch / "run")
    if done.returncode:
        raise RuntimeError(done.stderr)
    layout = RunLayout(scratch / "run")
    summary = build_site(layout, SiteOptions(out=scratch / "site"))
    found: list[Row] = []
    for cell_type, new in sorted(summary.bytes_per_card.items()):
        old = fmean(_old_card_bytes(layout, cell_type))
        found.append(
            {
                "name": f"bytes of a card, {cell_type.upper()}: the design before over ours",
                "value": old / new,
                "unit": f"ratio ({old:,.0f} B over {new:,.0f} B)",
                "baseline": f"{OLD_SIDE_PX} px JPEG q{OLD_QUALITY} as base64 in the page, same crops",
                "target": None,
                "ok": None,
            }
        )
    return found


def _old_card_bytes(layout: RunLayout, cell_type: str) -> Iterator[int]:
    manifest = manifests.read(layout)
    left = OLD_SAMPLE
    for slide in manifest.slides:
        for crop in cells.iter_crops(layout, manifest, slide.slide_id):
            if f"_{cell_type}_" in crop.cell_id and left:
                picture = Image.fromarray(decode_picture(crop.image)).resize((OLD_SIDE_PX, OLD_SIDE_PX))
                buffer = io.BytesIO()
                picture.save(buffer, "JPEG", quality=OLD_QUALITY)
                yield len(base64.b64encode(buffer.getvalue()))
                left -= 1


def _label_bytes() -> Row:
    packing = json.dumps((ROOT / "static" / "js" / "packing.js").as_uri())
    code = PACKED_LENGTH % {"packing": packing, "labels": LABELS}
    done = subprocess.run(
        ["node", "--input-type=module", "-e", code], capture_output=True, text=True, check=True
    )
    ours = int(done.stdout)
    naive = {f"FGC1_s0_hspc_{i}_{i}": {"label": "positive", "time": 1767225600000 + i} for i in range(LABELS)}
    old = 2 * len(json.dumps(naive, separators=(",", ":")))
    return {
        "name": f"localStorage for {LABELS:,} labels: the plain way over ours",
        "value": old / ours,
        "unit": f"ratio ({old / 1e6:.1f} MB over {ours / 1e6:.2f} MB)",
        "baseline": "JSON {id: {label, time}}",
        "target": "ours <= 5 MiB",
        "ok": ours <= 5 * 2**20,
    }
