from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from blobs import stained_noise, window_of
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import CELL_TYPES, CellType
from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.measure.crops import (
    CROP_SIZE_UM,
    MAX_SIDE_PX,
    crop_box,
    cut_crop,
    decode_crop,
    encode_crop,
    encoded_crops,
)


def encoded(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


@settings(deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30), st.just(3))))
def test_every_pixel_comes_back(rgb: NDArray[np.uint8]) -> None:
    assert np.array_equal(decode_crop(encode_crop(rgb)), rgb)


def test_the_same_pixels_give_the_same_bytes_wherever_they_lie_in_memory() -> None:
    rgb = stained_noise(0, 200, 200)
    view = rgb[20:134, 31:145]
    assert encode_crop(view) == encode_crop(view.copy())


@pytest.mark.parametrize("cell_type", CELL_TYPES)
@given(x=st.floats(-50, 1e6), y=st.floats(-50, 1e6), um_per_px=st.floats(0.1, 1.0))
def test_a_crop_has_one_physical_size_and_is_centred(
    cell_type: CellType, x: float, y: float, um_per_px: float
) -> None:
    box = crop_box(x, y, cell_type, um_per_px)
    assert box.width == box.height
    assert box.width * um_per_px == pytest.approx(CROP_SIZE_UM[cell_type], abs=0.51 * um_per_px)
    assert abs((box.x0 + box.x1) / 2 - x) <= 0.5 + 1e-6
    assert abs((box.y0 + box.y1) / 2 - y) <= 0.5 + 1e-6


def test_a_crop_shows_the_scene_pixel_by_pixel_and_white_beyond_it() -> None:
    rgb = stained_noise(0, 60, 50)
    crop = cut_crop(window_of(rgb, 100, 200), Box(90, 220, 130, 270))
    assert crop.shape == (50, 40, 3)
    assert np.array_equal(crop[:40, 10:], rgb[20:60, :30])
    assert (crop[:, :10] == 255).all()
    assert (crop[40:] == 255).all()


def test_a_crop_is_a_png_that_any_program_reads() -> None:
    rgb = stained_noise(0, 20, 30)
    with Image.open(io.BytesIO(encode_crop(rgb)), formats=["PNG"]) as image:
        image.verify()
        assert (image.size, image.mode) == ((30, 20), "RGB")
    cell = cv2.imdecode(np.frombuffer(encode_crop(rgb), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(cell[..., ::-1], rgb)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_crops_of_other_writers_are_read_too(kind: str) -> None:
    rgb, buffer = stained_noise(0, 20, 30), io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(decode_crop(buffer.getvalue()), rgb)


@pytest.mark.parametrize("chunk_bytes", [1, 3_000, 1 << 26])
def test_a_column_of_crops_holds_them_in_order_whatever_its_pieces(
    monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr("pipeline.measure.crops.CHUNK_BYTES", chunk_bytes)
    window = window_of(stained_noise(0, 60, 50), 100, 200)
    boxes = [Box(95 + 3 * i, 190, 120 + 3 * i, 220) for i in range(9)]
    column = encoded_crops(window, boxes)
    column.validate(full=True)
    assert column.to_pylist() == [encode_crop(cut_crop(window, box)) for box in boxes]


def test_no_crops_are_a_column_without_rows() -> None:
    assert encoded_crops(window_of(stained_noise(0, 9, 9)), []).to_pylist() == []


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
        decode_crop(data)


@settings(deadline=None)
@given(st.sampled_from(["WEBP", "PNG"]), st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_a_damaged_crop_is_refused_or_still_a_picture(kind: str, at: int, value: int, cut: bool) -> None:
    data = bytearray(encode_crop(stained_noise(0, 24, 24)))
    if kind == "PNG":
        data = bytearray(encoded(Image.fromarray(stained_noise(0, 24, 24)), "PNG"))
    at %= len(data)
    data[at] = value
    try:
        picture = decode_crop(bytes(data[:at] if cut else data))
    except InputError:
        return
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
