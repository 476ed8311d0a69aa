"""Tables that people write are read as spreadsheets save them."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from mkhspc.cli import run_command
from mkhspc.config.user_table import read_user_table
from mkhspc.errors import InputError
from mkhspc.results.design import read_design
from runs import make_run

TRUTH = (
    {"slide_id": "FGC1", "animal": "m 1", "Sex": "F"},
    {"slide_id": "FHU1", "animal": "m 2", "Sex": "F, old"},
)

PLAIN = 'slide_id,animal,Sex\nFGC1,m 1,F\nFHU1,m 2,"F, old"\n'
SPELLINGS = {
    "commas": PLAIN.encode(),
    "a byte order mark": codecs.BOM_UTF8 + PLAIN.encode(),
    "UTF-16": PLAIN.encode("utf-16"),
    "ends of Windows": PLAIN.replace("\n", "\r\n").encode(),
    "ends of old Macs": PLAIN.replace("\n", "\r").encode(),
    "semicolons": b"slide_id;animal;Sex\nFGC1;m 1;F\nFHU1;m 2;F, old\n",
    "semicolons, all quoted": b'"slide_id";"animal";"Sex"\n"FGC1";"m 1";"F"\n"FHU1";"m 2";"F, old"\n',
    "tabs": b"slide_id\tanimal\tSex\nFGC1\tm 1\tF\nFHU1\tm 2\tF, old\n",
    "what Excel is told": b"sep=;\r\nslide_id;animal;Sex\r\nFGC1;m 1;F\r\nFHU1;m 2;F, old\r\n",
    "spaces": b' slide_id , animal , Sex \n FGC1 , m 1 ,F\nFHU1 , m 2, "F, old"\n',
    "capitals": b'Slide_ID,ANIMAL,Sex\nFGC1,m 1,F\nFHU1,m 2,"F, old"\n',
    "words": b'slide id,Animal,Sex\nFGC1,m 1,F\nFHU1,m 2,"F, old"\n',
    "a hyphen, and one word": b'Slide-Id,animal,Sex\nFGC1,m 1,F\nFHU1,m 2,"F, old"\n',
    "empty lines and columns": b'\n\nslide_id,animal,Sex,,\n,,,,\nFGC1,m 1,F,,\n\nFHU1,m 2,"F, old",,\n,,\n',
}


@pytest.mark.parametrize("data", SPELLINGS.values(), ids=list(SPELLINGS))
def test_a_table_is_read_however_it_was_saved(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "groups.csv"
    path.write_bytes(data)
    table = read_user_table(path, ("slide_id", "animal", "batch"), [("slide_id",)], "--groups")
    assert table.columns == ("slide_id", "animal", "Sex")
    assert table.rows == TRUTH


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"Schnitt;Tier\nFGC1;1\n", "has no column slide_id; its first line is: Schnitt, Tier\n"),
        (
            b"slide_id animal sex\nFGC1 a F\n",
            "no column slide_id; its first line is: slide_id animal sex\n",
        ),
        (b"", "has no column slide_id; it is empty\n"),
        (b"slide_id,Slide ID\nFGC1,FGC1\n", "has two columns slide_id"),
        (b"slide_id;sex;sex\nFGC1;F;M\n", "has two columns sex"),
        (b"slide_id;sex\nFGC1;F;GC\n", "line 2: has more values than columns"),
        (b"slide_id;;sex\nFGC1;a;F\n", "line 2: has more values than columns"),
        (
            b"slide_id,sex\nFGC1,F\nM\xfcller,F\n",
            "is not a CSV file in UTF-8 (line 3)\n  save it as 'CSV",
        ),
        (b'slide_id,sex\n"FGC1,F\n', "is not a CSV file (unexpected end of data)"),
    ],
)
def test_a_table_that_leaves_a_doubt_is_refused_with_what_was_found(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "groups.csv"
    path.write_bytes(data)
    with pytest.raises(InputError) as refused:
        read_user_table(path, ("slide_id",), [("slide_id",)], "--groups")
    assert words in str(refused.value)


def test_slides_that_a_run_has_not_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", slide_ids=("FGC1", "FHU1"), cells_per_type=2)
    manifest = run.manifest
    path = tmp_path / "groups.csv"
    path.write_text("Slide ID;sex\nFGC1;F\nfhu1.czi;F\n")
    with pytest.raises(InputError) as refused:
        read_design(manifest, path)
    assert "does not name FHU1 of this run; it names fhu1.czi, which the run does not have" in str(
        refused.value
    )
    path.write_text("Slide ID;sex\nFGC1;F\nMGC9;M\nFHU1;F\n")
    design = read_design(manifest, path)
    assert (list(design.slides), design.others) == (["FGC1", "FHU1"], ("MGC9",))
    where = ("--run", run.layout.root, "--out", tmp_path / "out", "--groups", path)
    assert run_command(["report", *map(str, where)]) == 0
    words = "the groups name slides that the run does not have, which are left out: MGC9"
    assert words in capsys.readouterr().err
