from __future__ import annotations

import ast
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from mkhspc.store.csv_text import csv_text, harmless, restored


@pytest.mark.parametrize(
    "text",
    [
        "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", " \t@x", "\u00a0=1",
        "\uff1d1", "-", "=", "+49 30 1234", "-x_s0_mk_1_2", "\tx", "--1", "-inf", "1".join("+-"),
    ],
)  # fmt: skip
def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe(text: str) -> None:
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize(
    "text",
    ["", "FGC1", "-0.31", "+0.5", "-1", "+.5", "-3.2e-05", " -0.31", "a=1", "a@b", "12", "2026-01-31",
     "'quoted'", "µm²"],
)  # fmt: skip
def test_a_number_and_a_plain_text_stay(text: str) -> None:
    assert harmless(text) == text


@given(st.one_of(st.text(), st.text(alphabet="'=+-@ \t\r\n0.1ex", max_size=8)))
def test_what_was_written_is_read_again_as_it_was(text: str) -> None:
    made = csv_text(["a", text], [[text, "b"], [1.5, text]])
    assert [[restored(cell) for cell in row] for row in csv.reader(io.StringIO(made, newline=""))] == [
        ["a", text], [text, "b"], ["1.5", text],
    ]  # fmt: skip
    assert made.endswith("\n")


def test_numbers_truths_and_nothing_are_written_as_they_are() -> None:
    assert csv_text(["=x", "n"], [[None, -0.31], [True, -3], ["+0.5", 1e-09], ["=1", 'a,"b']]) == (
        '\'=x,n\n,-0.31\nTrue,-3\n+0.5,1e-09\n\'=1,"a,""b"\n'
    )


def test_every_csv_of_the_project_goes_through_this_writer(repository: Path) -> None:
    own = repository / "pipeline" / "mkhspc" / "store" / "csv_text.py"
    writers = {
        str(path.relative_to(repository))
        for path in (repository / "pipeline").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in ("writer", "DictWriter", "write_csv", "to_csv", "savetxt")
    }
    assert writers == {str(own.relative_to(repository))}
