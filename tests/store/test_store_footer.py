"""Flipped bits, cuts and doubled bytes in tables: refused, or the table is the same to the last value."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mkhspc.errors import InputError
from mkhspc.store import footer, tables
from mkhspc.store.damage import DamagedTableError
from mkhspc.store.layout import RunLayout
from runs import make_run

FLIPS = 150
"""Of each place and table; a thousand times as many flips were tried once, with the same end."""
KINDS = ("parts", "cells", "crops", "scores", "tiles")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    made = make_run(tmp_path_factory.mktemp("flips") / "it's a run", slide_ids=("A",), cells_per_type=6)
    scores = pa.table({"cell_id": [f"A_s0_mk_{n}_0" for n in range(9)], "score": [n / 9 for n in range(9)]})
    tables.write_table(made.layout.scores("A"), scores, made.manifest.config_hash)
    return made.layout


def table_of(run: RunLayout, kind: str) -> Path:
    if kind == "parts":
        return max((run.root / "parts" / "A").glob("*.parquet"), key=lambda part: part.stat().st_size)
    return run.root / kind / "A.parquet"


def hash_of(path: Path) -> str:
    return pq.read_schema(path).metadata[tables.CONFIG_HASH_KEY.encode()].decode()


class Flipped:
    """A table next to which copies with other bytes are read."""

    def __init__(self, path: Path) -> None:
        self.data, self.run_hash = path.read_bytes(), hash_of(path)
        self.good = tables.read_table(path, self.run_hash)
        self.footer = len(self.data) - 8 - int.from_bytes(self.data[-8:-4], "little")
        self.copy = path.with_name("copy.parquet")
        self.headers = set(self._headers(pq.read_metadata(path)))

    def _headers(self, facts: pq.FileMetaData) -> Iterator[int]:
        """Some 30 bytes from where each page begins; later pages of a column count as bodies here."""
        for group in range(facts.num_row_groups):
            for column in range(facts.num_columns):
                found = facts.row_group(group).column(column)
                starts = (found.dictionary_page_offset, found.data_page_offset)
                for start in (start for start in starts if start is not None):
                    yield from range(start, start + 30)

    def bits(self, place: str) -> list[tuple[int, int]]:
        body = range(4, self.footer)
        where = {
            "body": [at for at in body if at not in self.headers],
            "headers": sorted(self.headers),
            "footer": range(self.footer, len(self.data)),
        }[place]
        return [(at, bit) for at in where for bit in range(8)]

    def with_bit(self, at: int, bit: int) -> bytes:
        changed = bytearray(self.data)
        changed[at] ^= 1 << bit
        return bytes(changed)

    def is_refused(self, data: bytes) -> bool:
        """Whether a copy of these bytes is refused; one that is read has to be the same table."""
        self.copy.write_bytes(data)
        try:
            read = tables.read_table(self.copy, self.run_hash)
        except DamagedTableError:
            return True
        finally:
            self.copy.unlink()
        assert read.equals(self.good, check_metadata=True)
        return False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["body", "headers", "footer"])
def test_no_flipped_bit_changes_a_table_in_silence(run: RunLayout, kind: str, place: str) -> None:
    table = Flipped(table_of(run, kind))
    bits = table.bits(place)
    chosen = random.Random(kind + place).sample(bits, min(FLIPS, len(bits)))
    refused = [table.is_refused(table.with_bit(*bit)) for bit in chosen]
    if place == "headers":  # some say how many bytes of statistics there are not, and the like
        assert sum(refused) > 0.7 * len(refused)
    else:
        assert all(refused)


def test_every_flip_of_the_footers_length_and_of_the_magic_number_is_refused(run: RunLayout) -> None:
    for kind in KINDS:
        table = Flipped(table_of(run, kind))
        size = len(table.data)
        assert all(table.is_refused(table.with_bit(a, b)) for a in range(size - 8, size) for b in range(8))


@pytest.mark.parametrize("name", [*footer.KEYS, *footer.KEYS.values()])
def test_no_flip_of_a_checksums_own_key_turns_it_off(run: RunLayout, name: str) -> None:
    table = Flipped(table_of(run, "parts"))
    text = name.encode()
    is_the_crc = name == "0" * 8
    at = table.data.index(b"mkhspc:footer_crc32\x18\x08") + 21 if is_the_crc else table.data.index(text)
    assert all(table.is_refused(table.with_bit(at + n, bit)) for n in range(len(text)) for bit in range(8))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_table_with_bytes_taken_out_or_doubled_is_refused(run: RunLayout, data: st.DataObject) -> None:
    table = Flipped(table_of(run, data.draw(st.sampled_from(KINDS))))
    size = len(table.data)
    begin = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(begin + 1, min(size, begin + 5000)))
    assert table.is_refused(table.data[:begin] + table.data[end:])
    assert table.is_refused(table.data[:end] + table.data[begin:])


def test_a_table_twice_in_one_file_is_refused(run: RunLayout) -> None:
    table = Flipped(table_of(run, "cells"))
    assert table.is_refused(table.data + table.data)


def test_the_same_rows_give_the_same_bytes_with_checksums(run: RunLayout, tmp_path: Path) -> None:
    again = make_run(tmp_path / "run", slide_ids=("A",), cells_per_type=6).layout
    for kind in ("parts", "cells", "crops", "tiles"):
        assert table_of(again, kind).read_bytes() == table_of(run, kind).read_bytes()


def test_a_table_of_before_there_were_checksums_is_read(run: RunLayout) -> None:
    path = table_of(run, "cells")
    good = tables.read_table(path, hash_of(path))
    old = path.with_name("old.parquet")
    pq.write_table(good, old)
    assert tables.read_table(old, hash_of(path)).equals(good)
    assert tables.count_rows(old) == len(good)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("parts", "the part of tile {tile} of slide A\n  run `mkhspc merge '{root}'`, which sets it aside"),
        (
            "cells",
            "the cells of slide A\n  make it again from the finished tiles with `mkhspc merge '{root}'`",
        ),
        (
            "crops",
            "the crops of slide A\n  make it again from the finished tiles with `mkhspc merge '{root}'`",
        ),
        (
            "scores",
            "the scores of slide A\n  make it again with `mkhspc score --run '{root}' --mk-classifier",
        ),
        ("tiles", "the tile plan of slide A\n  restore it, or segment into a new directory"),
    ],
)
def test_a_damaged_table_is_named_by_file_slide_and_tile(
    run: RunLayout, tmp_path: Path, kind: str, words: str
) -> None:
    whole = table_of(run, kind)
    path = tmp_path / "my run" / whole.relative_to(run.root)
    path.parent.mkdir(parents=True)
    data = bytearray(whole.read_bytes())
    data[-40] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedTableError) as caught:
        tables.read_table(path, hash_of(whole))
    message = str(caught.value)
    assert message.startswith(f"{path}: is damaged (its footer is not as it was written")
    assert words.format(tile=path.stem, root=tmp_path / "my run") in message


def test_what_the_disk_does_not_give_is_no_damage(tmp_path: Path) -> None:
    """A link to itself is an error of the system, as are EIO and ESTALE."""
    path = tmp_path / "run" / "cells" / "A.parquet"
    path.parent.mkdir(parents=True)
    path.symlink_to(path)
    with pytest.raises(InputError, match=r"cannot be read \(Too many levels of symbolic links\)") as caught:
        tables.read_table(path, "h")
    assert not isinstance(caught.value, DamagedTableError)
