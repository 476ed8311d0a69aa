"""What the gallery brings in, `convert` takes, and both read the same labels in it."""

from __future__ import annotations

import copy
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import skip_or_fail
from mkhspc.errors import InputError
from mkhspc.learn.labels.read import read_annotations

pytestmark = pytest.mark.browser

MK, MK2, HSPC = "A_s0_mk_1_2", "A_s0_mk_3_4", "A_s0_hspc_5_6"
EVENT = {
    "cell_id": MK, "label": "positive", "at": "2026-01-31T12:00:00.123Z", "dwell_ms": 840, "by": "key",
    "policy": "random", "inclusion_prob": 0.5, "seq": 1, "browser": "b", "annotator": "Ada",
}  # fmt: skip
EXPORT = {
    "format": "mkhspc-annotations", "version": 1, "dataset": "d", "config_hash": "h", "annotator": "Ада",
    "exported_at": "2026-01-31T12:00:00Z",
    "mk": {"positive": [MK], "negative": [MK2], "unsure": []},
    "hspc": {"positive": [], "negative": [], "unsure": [HSPC]},
    "events": [EVENT, {**EVENT, "cell_id": MK2, "label": "unlabelled", "seq": 2}],
}  # fmt: skip
PLAIN = json.dumps(EXPORT)
TAKEN = {
    "as exported": PLAIN.encode(),
    "letters as they are": json.dumps(EXPORT, ensure_ascii=False).encode(),
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "lines of Windows": json.dumps(EXPORT, indent=1).replace("\n", "\r\n").encode(),
    "version 1.0": PLAIN.replace('"version": 1', '"version": 1.0').encode(),
    "half an emoji": PLAIN.replace('"annotator": "', '"annotator": "\\ud83d ', 1).encode(),
    "unknown keys": json.dumps({**EXPORT, "mood": {"a": [1]}}).encode(),
    "events alone": json.dumps({**EXPORT, "mk": {}, "hspc": {}}).encode(),
    "one type": json.dumps({k: v for k, v in EXPORT.items() if k != "hspc"}).encode(),
    "a number as 1.0": PLAIN.replace('"seq": 1', '"seq": 1.0').encode(),
}
REFUSED = {
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-32": PLAIN.encode("utf-32"),
    "Latin-1": json.dumps({**EXPORT, "annotator": "Ärztin"}, ensure_ascii=False).encode("latin-1"),
    "cut off": PLAIN[: len(PLAIN) // 2].encode(),
    "NUL at the end": PLAIN.encode() + b"\0" * 512,
    "a web page": b"<!DOCTYPE html><html></html>",
    "nothing": b"",
    "twice": f"{PLAIN}\n{PLAIN}".encode(),
    "a type twice": (PLAIN[:-1] + ', "mk": {"positive": []}}').encode(),
    "a key twice, once escaped": PLAIN.replace('"seq": 1', '"seq": 1, "s\\u0065q": 2').encode(),
    "NaN": PLAIN.replace("0.5", "NaN").encode(),
    "a comma too many": PLAIN.replace("]}", ",]}", 1).encode(),
    "65 deep": PLAIN.replace("{", '{"x": ' + "[" * 64 + "]" * 64 + ", ", 1).encode(),
    "a number of 64 bits": PLAIN.replace("840", "9223372036854775808").encode(),
    "version true": PLAIN.replace('"version": 1', '"version": true').encode(),
    "no label": json.dumps({**EXPORT, "mk": {}, "hspc": {}, "events": []}).encode(),
}
VALUES = [
    None, True, False, 0, 1, -1, 1.5, 2.0, 10**19, "", " ", "x" * 300, MK, HSPC, "17", "positive",
    "unlabelled", "2026-01-31", "2024-02-29T12:00:00Z",
    "2026-02-31T12:00:00Z", "2026-01-31T24:00:00Z", "2026-01-31T12:00", "2026-01-31T12:00:00.1234567+05:30",
    "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", [], {}, [MK], [MK, MK],
    [17], {"positive": [MK]}, {"negative": [MK]}, {"negative": [], "unsure": [MK]}, [[MK]], [None],
]  # fmt: skip
"""What a value somewhere in a file is replaced by."""
SCRIPT = """
import fs from "node:fs";
import { readExported } from "./exchange.js";
const answers = {};
for (const name of fs.readdirSync(process.argv[1])) {
  try {
    const read = readExported(fs.readFileSync(`${process.argv[1]}/${name}`), "d", "h");
    answers[name] = { labels: Object.fromEntries(read.labels), annotator: read.annotator.toWellFormed() };
  } catch (error) {
    if (error.constructor.name !== "ImportError") throw error;
    answers[name] = { refused: error.message };
  }
}
console.log(JSON.stringify(answers));
"""


def changed(number: int) -> bytes:
    """The export with one or two values replaced or left out; the same for the same number."""
    rng = random.Random(number)
    data = copy.deepcopy(EXPORT)
    for _ in range(rng.choice([1, 1, 2])):
        parent, key = rng.choice(list(places(data)))
        if rng.random() < 0.2 and isinstance(parent, dict):
            del parent[key]
        else:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(data).encode()


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a file: the object or list, and the key."""
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(child, (dict, list)):
            yield from places(child)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    for name, content in {**TAKEN, **REFUSED, **{f"changed {n}": changed(n) for n in range(3000)}}.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def gallery(files: Path, repository: Path) -> dict[str, Any]:
    """What the gallery's reader makes of each file."""
    node = shutil.which("node")
    if node is None:
        skip_or_fail("REQUIRE_BROWSER", "no Node found (Debian: apt-get install nodejs)")
    done = subprocess.run(
        [str(node), "--input-type=module", "--eval", SCRIPT, str(files)],
        cwd=repository / "static" / "js", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def convert(path: Path) -> dict[str, Any]:
    """What `convert` makes of a file, in the same words."""
    try:
        found = read_annotations(path)
    except InputError as error:
        return {"refused": str(error)}
    name = found.annotator if found.is_named else "anonymous"
    return {"labels": {label.cell_id: label.value for label in found.labels}, "annotator": name}


@pytest.mark.parametrize("name", TAKEN)
def test_both_take_and_read_the_same(gallery: dict[str, Any], files: Path, name: str) -> None:
    assert "refused" not in gallery[name], gallery[name]
    ours = convert(files / name)
    assert ours["labels"] == gallery[name]["labels"]
    assert ours["annotator"].replace("\ufffd ", "") == gallery[name]["annotator"].replace("\ufffd ", "")


@pytest.mark.parametrize("name", REFUSED)
def test_both_refuse(gallery: dict[str, Any], files: Path, name: str) -> None:
    assert gallery[name]["refused"].startswith("This file ")
    assert convert(files / name)["refused"].startswith(str(files / name))


def test_whatever_the_gallery_takes_is_taken_and_means_the_same(gallery: dict[str, Any], files: Path) -> None:
    """The gallery may refuse more: only what it shows can be labelled in it."""
    taken = {name: answer for name, answer in gallery.items() if "refused" not in answer}
    assert 300 < len(taken) < len(gallery) - 300
    assert {name: convert(files / name) for name in taken if name not in TAKEN} == {
        name: answer for name, answer in taken.items() if name not in TAKEN
    }
