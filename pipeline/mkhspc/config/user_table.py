"""Tables that people write: CSV files as spreadsheets save them, with a header that names the columns.

Commas, semicolons and tabs separate; a byte order mark, UTF-16, spaces around values, quotes, empty lines and
Excel's first line `sep=;` are taken as they come.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mkhspc.errors import InputError, some_of

DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class UserTable:
    """A table as it was written.

    Attributes:
        columns: names in order; those that the reader knows under their own spelling.
        rows: the values of each row that holds any, by column.
        lines: the line of the file in which each row ends, for errors.
    """

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    lines: tuple[int, ...]


def read_user_table(
    path: Path, known: Collection[str], needed: Sequence[Collection[str]], option: str
) -> UserTable:
    """Reads a table.

    Args:
        known: columns whose names are found however they are spelt: `Slide ID` is `slide_id`.
        needed: sets of columns, of which the table must have one.
        option: by which the user names the file, for errors.

    Raises:
        InputError: it cannot be read, lacks columns, names one twice, or a row has more or fewer values.
    """
    try:
        text = _decoded(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix=f"check {option}") from error
    try:
        return _table(text, path, known, needed)
    except csv.Error as error:
        raise InputError(f"is not a CSV file ({error})", where=path, fix="save it as CSV in UTF-8") from error


def _decoded(data: bytes, path: Path) -> str:
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"is not a CSV file in UTF-8 (line {line})", where=path, fix="save it as 'CSV UTF-8'"
        ) from error


def _table(text: str, path: Path, known: Collection[str], needed: Sequence[Collection[str]]) -> UserTable:
    spellings = {_bare(name): name for name in known}
    headers = {delimiter: _header(text, delimiter, spellings) for delimiter in DELIMITERS}
    for delimiter, header in headers.items():
        if any(set(columns) <= set(header) for columns in needed):
            return _checked(header, list(_full_rows(text, delimiter))[1:], path)
    raise _lacks_columns(max(headers.values(), key=len), path, needed)


def _header(text: str, delimiter: str, spellings: Mapping[str, str]) -> list[str]:
    """The names in the first line, where this delimiter makes sense of it."""
    try:
        _, names = next(_full_rows(text, delimiter), (0, []))
    except csv.Error:
        return []
    return [spellings.get(_bare(name), name) for name in names]


def _full_rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that hold any value, with the lines in which they end."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    for values in reader:
        row = [value.strip() for value in values]
        if any(row) and not _names_separator(row, reader.line_num):
            yield reader.line_num, row


def _names_separator(row: Sequence[str], line: int) -> bool:
    """Whether this is the line that names the separator to Excel: `sep=;`."""
    return line == 1 and re.fullmatch(r"sep=.?", row[0], re.IGNORECASE) is not None and not any(row[1:])


def _bare(name: str) -> str:
    """A name without what people spell in several ways: capitals, spaces, hyphens, underscores."""
    return re.sub(r"[\s_-]+", "", name.casefold())


def _checked(header: Sequence[str], rows: Sequence[tuple[int, list[str]]], path: Path) -> UserTable:
    twice = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    if twice:
        raise InputError(f"has two columns {twice[0]}", where=path, fix="give each column its own name")
    for line, row in rows:
        if (len(row) > len(header) and any(row[len(header) :])) or _has_nameless(header, row):
            raise InputError(
                "has more values than columns",
                where=f"{path}, line {line}",
                fix="give every column one value",
            )
    named = [name for name in header if name]
    return UserTable(
        columns=tuple(named),
        rows=tuple(_by_name(header, row) for _, row in rows),
        lines=tuple(line for line, _ in rows),
    )


def _has_nameless(header: Sequence[str], row: Sequence[str]) -> bool:
    return any(value and not name for name, value in zip(header, row, strict=False))


def _by_name(header: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    values = [*row, *[""] * (len(header) - len(row))]
    return {name: value for name, value in zip(header, values, strict=False) if name}


def _lacks_columns(header: Sequence[str], path: Path, needed: Sequence[Collection[str]]) -> InputError:
    found = f"its first line is: {some_of(header, 12)}" if header else "it is empty"
    words = " or ".join(" and ".join(columns) for columns in needed)
    return InputError(
        f"has no column {words}; {found}",
        where=path,
        fix="its first line must name the columns, with commas, semicolons or tabs between",
    )
