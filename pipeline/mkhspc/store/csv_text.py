"""CSV as text: the one writer of all CSV files, whose cells no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_FORMULA = re.compile(r"'*(\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")
"""How a formula begins, by OWASP's page 'CSV Injection': a sign, in its full width too, or a tab or line end.

Spreadsheets pass over spaces in front. Apostrophes count too, so that `restored` finds each text again.
"""


def csv_text(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table as CSV, lines ended by a line feed; empty where a value is None.

    Texts that a spreadsheet would take for a formula get an apostrophe in front; `restored` takes it away.
    Numbers stay as they are, those in texts too.
    """
    return "".join(_line(row) for row in (header, *rows))


def harmless(text: str) -> str:
    """A text that a spreadsheet shows and never runs; '-0.31' is a number and stays."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text.strip(" ")) else text


def restored(cell: str) -> str:
    """The text of which `harmless` made this cell."""
    return cell[1:] if cell.startswith("'") and harmless(cell[1:]) == cell else cell


def _line(row: Iterable[Any]) -> str:
    """One line; the csv module quotes a carriage return only if lines end with one."""
    text = io.StringIO()
    cells = [harmless(value) if isinstance(value, str) else value for value in row]
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"
