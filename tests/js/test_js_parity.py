"""What the gallery's scripts and the Python around them both know is the same on both sides."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from conftest import skip_or_fail
from mkhspc.config import CELL_TYPES, ORDERS
from mkhspc.errors import InputError
from mkhspc.gallery import pages
from mkhspc.learn.labels import events
from mkhspc.learn.labels.label import UNKNOWN_POLICY
from mkhspc.learn.labels.resolve import REPRESENTATIVE
from mkhspc.store import annotations
from mkhspc.store.schema import parse_cell_id

CELL_IDS = [
    "A_s0_mk_1_2", "A_s12_hspc_0_99_3", "Ä b_s0_mk_7_7", "a_s1_mk_s0_hspc_3_4", "A_mk_1_2", "A_s0_mk_1",
    "A_s0_MK_1_2", "A_s0_nk_1_2", "_s0_mk_1_2", "A_s0_mk_1_2_", "A_s0_mk_-1_2", " A_s0_mk_1_2 ", "", "mk",
]  # fmt: skip
NUMBERS = [1, 9, 10, 99, 100, 999, 1000, 12345]
SCRIPT = """
import { ANONYMOUS, FORMAT, VERSION, readExported } from "./exchange.js";
import { STATES, UNLABELLED, parseCellId } from "./cells.js";
import { crc32, pageAddress } from "./lookup.js";
import { LabelStore } from "./store.js";
const { ids, numbers, types, policies } = JSON.parse(process.argv[1]);
const reads = (policy) => {
  const events = [{ cell_id: "A_s0_mk_1_2", label: "positive", at: "2026-01-31T12:00:00Z", policy }];
  try {
    readExported(JSON.stringify({ format: FORMAT, version: VERSION, dataset: "d", events }), "d");
    return true;
  } catch {
    return false;
  }
};
console.log(JSON.stringify({
  format: FORMAT, version: VERSION, anonymous: ANONYMOUS, states: STATES, unlabelled: UNLABELLED,
  ids: ids.map(parseCellId), crcs: ids.map(crc32), prefix: new LabelStore({}, "d5").prefix,
  pages: numbers.map((n) => pageAddress("", types[0], n)), policies: policies.map(reads),
}));
"""
POLICIES = [*ORDERS, annotations.BLIND_REPEAT, UNKNOWN_POLICY, "", "x" * 40, "x" * 41]


@pytest.fixture(scope="module")
def scripts(repository: Path) -> dict[str, Any]:
    """What the scripts say, asked with Node."""
    node = shutil.which("node")
    if node is None:
        skip_or_fail("REQUIRE_BROWSER", "no Node found (Debian: apt-get install nodejs)")
    asked = json.dumps({"ids": CELL_IDS, "numbers": NUMBERS, "types": CELL_TYPES, "policies": POLICIES})
    done = subprocess.run(
        [str(node), "--input-type=module", "--eval", SCRIPT, asked],
        cwd=repository / "static" / "js", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


pytestmark = pytest.mark.browser


def test_the_exported_file_has_one_format_version_and_nameless_annotator(scripts: dict[str, Any]) -> None:
    assert (scripts["format"], scripts["version"]) == (annotations.FORMAT, annotations.VERSION)
    assert scripts["anonymous"] == annotations.ANONYMOUS


def test_labels_have_the_same_values(scripts: dict[str, Any]) -> None:
    assert tuple(scripts["states"]) == annotations.VALUES
    assert scripts["unlabelled"] == annotations.UNLABELLED


@pytest.mark.parametrize(("number", "cell_id"), list(enumerate(CELL_IDS)))
def test_a_cell_id_is_read_the_same_way(scripts: dict[str, Any], number: int, cell_id: str) -> None:
    """The scripts know no old ids without a scene: a gallery shows none."""
    found = scripts["ids"][number]
    try:
        name = parse_cell_id(cell_id)
    except InputError:
        assert found is None
        return
    if str(name) != cell_id:
        assert found is None
        return
    assert (found["group"], found["type"]) == (
        f"{name.slide_id}_s{name.scene}_{name.cell_type}",
        name.cell_type,
    )
    assert (found["x"], found["y"], int(found.get("nth") or 1)) == (name.x, name.y, name.nth)


def test_pages_have_the_same_names(scripts: dict[str, Any]) -> None:
    names = [pages.page_name(number) for number in NUMBERS]
    assert scripts["pages"] == [f"{CELL_TYPES[0]}/{name}" for name in names]


def test_a_cells_file_of_the_lookup_is_the_same(scripts: dict[str, Any]) -> None:
    assert scripts["crcs"] == [zlib.crc32(cell_id.encode()) for cell_id in CELL_IDS]


def test_keys_of_the_browsers_storage_begin_as_the_contract_says(scripts: dict[str, Any]) -> None:
    assert scripts["prefix"] == "mkhspc/1/d5/"


def test_every_policy_that_a_page_writes_is_one_that_both_sides_read(scripts: dict[str, Any]) -> None:
    def is_read(policy: str) -> bool:
        event = {
            "cell_id": "A_s0_mk_1_2",
            "label": "positive",
            "at": "2026-01-31T12:00:00Z",
            "policy": policy,
        }
        try:
            events.read_events({"events": [event]}, Path("x.json"))
        except InputError:
            return False
        return True

    assert scripts["policies"] == [is_read(policy) for policy in POLICIES]
    assert scripts["policies"] == [True] * (len(ORDERS) + 2) + [False, True, False]


def test_python_has_one_word_for_what_gallery_and_learning_share() -> None:
    assert REPRESENTATIVE in ORDERS
    assert set(pages.ORDERS_IN_WORDS) == set(ORDERS)
    assert set(pages.NAMES) == set(pages.BARS_UM) == set(CELL_TYPES)


def test_a_name_is_as_long_in_the_dialog_as_in_the_file(repository: Path) -> None:
    (typed,) = re.findall(
        r'maxlength="(\d+)"', (repository / "site_templates/partials/dialogs.html").read_text()
    )
    (kept,) = re.findall(r"MAX_NAME = (\d+);", (repository / "static/js/exchange.js").read_text())
    assert typed == kept
