from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from mkhspc.errors import InputError
from mkhspc.store.layout import (
    MAX_SLIDE_ID_LENGTH,
    RunLayout,
    distinct_slide_ids,
    is_slide_id,
    slide_id_of,
)


@given(st.text(min_size=1).filter(lambda s: "/" not in s and "\0" not in s))
def test_a_slide_id_is_safe_everywhere(stem: str) -> None:
    try:
        slide_id = slide_id_of(Path(f"{stem}.czi"))
    except InputError:
        return
    assert slide_id == slide_id_of(Path(f"{slide_id}.czi")), "making safe is idempotent"
    assert is_slide_id(slide_id)
    assert not set(slide_id) & set("/\\<>\"'`&;|$ \n\t*?")
    assert slide_id not in ("", ".", "..")
    assert RunLayout(Path("/run")).cells(slide_id).parent == Path("/run/cells")


@pytest.mark.parametrize(
    ("name", "slide_id"),
    [
        ("FGC1.czi", "FGC1"),
        ("a b'c\".czi", "a_b_c"),
        ("<script>alert(1)</script>.czi", "script"),
        ("..czi", None),
        ("2024.01.F-1.czi", "2024.01.F-1"),
    ],
)
def test_names_of_files(name: str, slide_id: str | None) -> None:
    if slide_id is None:
        with pytest.raises(InputError):
            slide_id_of(Path("/x") / name)
    elif name.startswith("<"):
        assert slide_id_of(Path(name.replace("/", ""))).startswith("script")
    else:
        assert slide_id_of(Path(name)) == slide_id


def test_a_name_that_leaves_no_room_for_temporary_names_is_refused() -> None:
    longest = "x" * MAX_SLIDE_ID_LENGTH
    assert slide_id_of(Path(f"{longest}.czi")) == longest
    with pytest.raises(InputError, match="rename the slide"):
        slide_id_of(Path(f"{longest}x.czi"))


@pytest.mark.parametrize("text", ["", ".", "..", "../../evil", "a/b", "a b", "a\n", ".hidden", "x" * 151])
def test_what_is_no_slide_id(text: str) -> None:
    assert not is_slide_id(text)


def test_one_file_under_two_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.czi").touch()
    (tmp_path / "b.czi").symlink_to(tmp_path / "a.czi")
    with pytest.raises(InputError, match="one slide under two names"):
        distinct_slide_ids([tmp_path / "a.czi", tmp_path / "b.czi"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.czi").symlink_to(tmp_path / "a.czi")
    assert list(distinct_slide_ids([tmp_path / "a.czi", tmp_path / "other" / "a.czi"])) == ["a"]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two slides have the name 'x'"):
        distinct_slide_ids([tmp_path / "a" / "x.czi", tmp_path / "b" / "x.czi"])


def test_one_file_given_twice_counts_once(tmp_path: Path) -> None:
    assert list(distinct_slide_ids([tmp_path / "x.czi", tmp_path / "." / "x.czi"])) == ["x"]
