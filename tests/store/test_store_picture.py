from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from blobs import stained_noise
from mkhspc.errors import InputError
from mkhspc.store import picture
from mkhspc.store.picture import MAX_SIDE_PX, decode_picture, encode_picture


def encoded(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


@settings(deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30), st.just(3))))
def test_every_pixel_comes_back(rgb: NDArray[np.uint8]) -> None:
    assert np.array_equal(decode_picture(encode_picture(rgb)), rgb)


def test_the_same_pixels_give_the_same_bytes_wherever_they_lie_in_memory() -> None:
    rgb = stained_noise(0, 200, 200)
    view = rgb[20:134, 31:145]
    assert encode_picture(view) == encode_picture(view.copy())


def test_a_picture_is_a_tiff_that_pillow_reads() -> None:
    rgb = stained_noise(0, 20, 30)
    with Image.open(io.BytesIO(encode_picture(rgb)), formats=["TIFF"]) as image:
        assert (image.size, image.mode) == ((30, 20), "RGB")
        assert np.array_equal(np.array(image), rgb)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_crops_of_other_writers_are_read_too(kind: str) -> None:
    rgb, buffer = stained_noise(0, 20, 30), io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(decode_picture(buffer.getvalue()), rgb)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        encoded(Image.new("RGB", (9, 9)), "JPEG"),
        encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 4)), "WEBP"),
        encoded(Image.new("L", (9, 9)), "PNG"),
        encoded(Image.new("RGB", (MAX_SIDE_PX + 1, 2)), "PNG"),
    ],
    ids=["empty", "text", "jpeg", "transparent", "grey", "huge"],
)
def test_what_is_no_crop_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        decode_picture(data)


@settings(deadline=None)
@given(st.sampled_from(["WEBP", "PNG"]), st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_a_damaged_crop_is_refused_or_still_a_picture(kind: str, at: int, value: int, cut: bool) -> None:
    data = bytearray(encoded(Image.fromarray(stained_noise(0, 24, 24)), kind))
    at %= len(data)
    data[at] = value
    try:
        pixels = decode_picture(bytes(data[:at] if cut else data))
    except InputError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255), st.booleans())
def test_no_damage_to_a_runs_own_picture_is_overlooked(at: int, change: int, cut: bool) -> None:
    data = bytearray(encode_picture(stained_noise(0, 24, 24)))
    at %= len(data)
    data[at] ^= change
    with pytest.raises(InputError):
        decode_picture(bytes(data[:at] if cut else data))


@pytest.mark.parametrize("side", [0, MAX_SIDE_PX + 1, 2**32 - 1])
def test_a_picture_of_an_impossible_size_is_not_unpacked(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = encode_picture(np.zeros((2, 2, 3), np.uint8))[picture.HEAD.size :]
    forged = picture._head(side, 2, len(packed), zlib.crc32(packed)) + packed
    monkeypatch.setattr(picture, "_codec", None)
    with pytest.raises(InputError):
        decode_picture(forged)


@pytest.mark.parametrize("rows", [None, 1, 3])
def test_a_head_that_is_right_about_rubbish_or_another_picture_is_refused(rows: int | None) -> None:
    packed = b"rubbish" * 9
    if rows is not None:
        packed = encode_picture(np.zeros((rows, 2, 3), np.uint8))[picture.HEAD.size :]
    with pytest.raises(InputError, match="damaged"):
        decode_picture(picture._head(2, 2, len(packed), zlib.crc32(packed)) + packed)
