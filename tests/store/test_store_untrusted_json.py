"""JSON from outside is read within limits; a text beyond them is refused in a clause that says why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mkhspc.errors import InputError
from mkhspc.store.untrusted_json import LABELS, MAX_DEPTH, SMALL, JsonError, JsonLimits, parse_json, read_json
from processes import watched

READ = """
import sys
from pathlib import Path
from mkhspc.errors import InputError
from mkhspc.process.memory import peak_bytes
from mkhspc.store.untrusted_json import LABELS, read_json
try:
    read_json(Path(sys.argv[1]), LABELS)
except InputError as error:
    print(peak_bytes(), str(error).splitlines()[0])
"""


def test_what_was_written_is_read() -> None:
    text = '{"name": "\\u00b5m \\ud83d\\ude00", "area": [1, -2.5e3, 9223372036854775807], "none": null}'
    value = {"name": "µm 😀", "area": [1, -2500.0, 2**63 - 1], "none": None}
    assert (
        parse_json(text) == parse_json(text.encode()) == parse_json(b"\xef\xbb\xbf" + text.encode()) == value
    )


def test_the_deepest_text_is_read_and_one_deeper_is_not() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(JsonError, match="is nested too deep"):
        parse_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "1" * 5000])
def test_a_whole_number_beyond_64_bits_is_refused(number: str) -> None:
    with pytest.raises(JsonError, match=rf"holds a whole number of {len(number.lstrip('-')):,} digits"):
        parse_json(f"[{number}]")


@pytest.mark.parametrize("part", ["[],", '"ab",', '{"a": 0},'])
def test_a_file_of_nothing_is_refused_before_it_takes_memory(tmp_path: Path, part: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text("[" + part * (180_000_000 // len(part)) + "[]]")
    done = watched([sys.executable, "-c", READ, str(path)])
    peak, _, said = done.process.stdout.partition(" ")
    assert "is the most that is read" in said
    assert str(path) in said
    assert int(peak) < 300_000_000


@pytest.mark.parametrize("limits", [SMALL, LABELS])
def test_a_file_that_claims_more_than_the_limit_is_not_read(tmp_path: Path, limits: JsonLimits) -> None:
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(5 * 10**9)  # sparse: takes no room
    with pytest.raises(InputError, match=f"is larger than {limits.max_bytes // 2**20} MiB"):
        read_json(tmp_path / "huge.json", limits)


def test_a_device_that_never_ends_is_refused() -> None:
    with pytest.raises(InputError, match="is larger than 64 MiB"):
        read_json(Path("/dev/zero"), SMALL)
