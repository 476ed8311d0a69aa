"""Sub-blocks decoded one at a time are those of libCZI's to the bit, and damage is told."""

from __future__ import annotations

import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pyarrow as pa
import pytest
from aicspylibczi import CziFile
from numpy.typing import NDArray

from czifiles import Block, mosaic_blocks, noise, write_czi
from mkhspc.geometry import Box
from mkhspc.slide.czi.directory import SubBlock, read_directory
from mkhspc.slide.czi.jpegxr import BGR24, SIGNATURE, TURN_TAG, decode
from mkhspc.slide.czi.slide import CziSlide
from mkhspc.slide.czi.unpack import unpack

SUB_BLOCK = SubBlock(
    box=Box(100, 200, 150, 240),
    stored_width_px=50,
    stored_height_px=40,
    pixel_type="bgr24",
    compression="uncompressed",
    plane={},
    scene=0,
    has_scene=False,
    mosaic_index=0,
    position_bytes=0,
)
BGR = noise(40, 50)


RGB24 = BGR24[:-1] + b"\x0d"


def jpeg_xr(bgr: NDArray[np.uint8], **options: Any) -> bytes:
    """A picture coded as a microscope does, which differs in one byte from what this encoder writes."""
    stored: bytes = imagecodecs.jpegxr_encode(bgr[..., ::-1], **options)
    assert stored.count(RGB24) == 1
    return stored.replace(RGB24, BGR24)


def structured(height: int) -> NDArray[np.uint8]:
    """A picture of 90 columns with structure from fine to coarse."""
    rows, columns = np.mgrid[:height, :90]
    picture = 127 + 60 * np.sin(rows / 3) + 60 * np.cos((rows + columns) / 17)
    return np.stack([picture] * 3, -1).astype(np.uint8) ^ noise(height, 90) // 16


def stored_as(compression: str) -> tuple[bytes, SubBlock]:
    plain = BGR.tobytes()
    codec = pa.Codec("zstd")
    stored = {
        "uncompressed": plain,
        "zstd0": codec.compress(plain, asbytes=True),
        "zstd1": b"\x03\x01\x00" + codec.compress(plain, asbytes=True),
        "jpeg-xr": jpeg_xr(BGR, level=1.0),
    }[compression]
    return stored, replace(SUB_BLOCK, compression=compression)


def rgb_of(path: Path) -> list[NDArray[np.uint8]]:
    """Every level-0 sub-block as this package decodes it."""
    pictures = []
    with CziSlide.open(path) as slide:
        for block in read_directory(path).level_0:
            picture = np.empty((block.box.height, block.box.width, 3), np.uint8)
            slide.decode(block).show(block.box, picture, block.box)
            pictures.append(picture)
    return pictures


def rgb_of_libczi(path: Path) -> list[NDArray[np.uint8]]:
    czi = CziFile(path)
    pictures = []
    for block in read_directory(path).level_0:
        where = {**block.plane, "M": block.mosaic_index, **({"S": block.scene} if block.has_scene else {})}
        stored, _ = czi.read_image(**where)
        pictures.append(stored.reshape(block.stored_height_px, block.stored_width_px, 3)[..., ::-1])
    return pictures


def equal(ours: list[NDArray[np.uint8]], theirs: list[NDArray[np.uint8]]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["marrow.czi", "marrow_jxr.czi"])
def test_scanned_images_are_those_of_libczi(shared: Path, name: str) -> None:
    path = shared / "data" / "marrow" / name
    assert equal(rgb_of(path), rgb_of_libczi(path))


@pytest.mark.parametrize("compression", [None, "zstd0:ExplicitLevel=1", "zstd1:ExplicitLevel=5"])
def test_written_images_are_those_of_libczi(tmp_path: Path, compression: str | None) -> None:
    blocks = [*mosaic_blocks(noise(90, 120), (0, 0), 40), Block(np.zeros((40, 40, 3), np.uint8), 300, 0)]
    path = write_czi(tmp_path / "a.czi", blocks, compression=compression)
    assert equal(rgb_of(path), rgb_of_libczi(path))


@pytest.mark.parametrize("compression", ["uncompressed", "zstd0", "zstd1", "jpeg-xr"])
def test_a_part_is_shown_where_it_lies(compression: str) -> None:
    image = unpack(*stored_as(compression))
    picture = np.zeros((100, 100, 3), np.uint8)
    image.show(Box(110, 205, 130, 240), picture, Box(90, 190, 190, 290))
    assert (picture[15:50, 20:40] == BGR[5:40, 10:30, ::-1]).all()
    picture[15:50, 20:40] = 0
    assert not picture.any()


@pytest.mark.parametrize("compression", ["uncompressed", "zstd0", "zstd1", "jpeg-xr"])
def test_an_image_of_another_size_is_no_image(compression: str) -> None:
    stored, block = stored_as(compression)
    for wider in (49, 51):
        with pytest.raises(ValueError, match=r"."):
            unpack(stored, replace(block, stored_width_px=wider))


@pytest.mark.parametrize("compression", ["uncompressed", "zstd0", "zstd1", "jpeg-xr"])
def test_bytes_that_are_no_image_are_refused(compression: str) -> None:
    _, block = stored_as(compression)
    for stored in (b"", b"no image at all", bytes(500)):
        with pytest.raises(ValueError, match=r"."):
            unpack(stored, block)


@pytest.mark.parametrize("header", [b"\x03\x01\x01", b"\x03\x02\x00", b"\x02\x00", b"\x00"])
def test_a_zstd_header_of_another_kind_is_refused(header: bytes) -> None:
    stored, block = stored_as("zstd1")
    with pytest.raises(ValueError, match="its zstd header is unknown"):
        unpack(header + stored[3:], block)


def test_another_compression_is_named() -> None:
    with pytest.raises(ValueError, match="compressed as lzw"):
        unpack(b"", replace(SUB_BLOCK, compression="lzw"))


@pytest.mark.parametrize("level", [0.1, 0.4, 0.6, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("height", [16, 100, 128])
def test_a_jpeg_xr_image_is_that_of_the_encoder(level: float, height: int) -> None:
    picture = structured(height)
    found = decode(jpeg_xr(picture, level=level), 90, height)
    assert found.shape == picture.shape
    difference = np.abs(found.astype(int) - picture[..., ::-1])
    assert difference.mean() < (0.01 if level == 1.0 else 60 * (1 - level))


def changed(stored: bytes, place: int, mask: int) -> bytes:
    return stored[:place] + bytes([stored[place] ^ mask]) + stored[place + 1 :]


def test_a_jpeg_xr_image_of_another_kind_is_refused() -> None:
    plain = jpeg_xr(structured(100), level=0.9)
    stream = plain.index(SIGNATURE)
    turned = plain.index(struct.pack("<HHI", TURN_TAG, 4, 1))
    wrong = [
        ("it is not a JPEG-XR image", changed(plain, stream, 1)),
        ("its JPEG-XR headers cannot be read", plain[:20]),
        ("its JPEG-XR headers cannot be read", changed(plain, plain[4] + 1, 0x40)),
        ("its JPEG-XR headers cannot be read", changed(plain, turned + 2, 4 ^ 5)),
        ("its pixels are not 24-bit BGR", plain.replace(BGR24, RGB24)),
        ("its pixels are not 24-bit BGR", changed(plain, stream + 11, 0x01)),
        ("its pixels are not 24-bit BGR", changed(plain, stream + 11, 0x40)),
        ("its pixels are not 24-bit BGR", changed(plain, stream + 16, 0x80)),
        ("it is of 90 x 104 px, not 90 x 100", changed(plain, stream + 15, 99 ^ 103)),
        ("it ends 1,000 bytes early", plain[:-1000]),
    ]
    for reason, stored in wrong:
        with pytest.raises(ValueError, match=f"^{reason}$"):
            decode(stored, 90, 100)
    with pytest.raises(ValueError, match=r"^it is of 90 x 100 px, not 90 x 101$"):
        decode(plain, 90, 101)


def test_a_jpeg_xr_image_whose_codestream_is_damaged_is_refused() -> None:
    plain = jpeg_xr(structured(100), level=0.9)
    with pytest.raises(ValueError, match=r"."):
        decode(changed(plain, plain.index(SIGNATURE) + 8, 0xF0), 90, 100)


@pytest.mark.slow
def test_a_system_without_room_is_not_taken_for_damage(tmp_path: Path) -> None:
    """Damage is left white where tissue is looked for: a slide would become empty."""
    code = """
import resource, sys
from pathlib import Path
from mkhspc.slide.czi.jpegxr import decode
stored = Path(sys.argv[1]).read_bytes()
decode(stored, 900, 1000)
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for more in range(0, 20_000_000, 100_000):
    resource.setrlimit(resource.RLIMIT_AS, (taken + more, resource.RLIM_INFINITY))
    try:
        decode(stored, 900, 1000)
        print("done")
    except MemoryError:
        print("MemoryError")
"""
    (tmp_path / "image.jxr").write_bytes(jpeg_xr(noise(1000, 900), level=0.9))
    found = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "image.jxr"], capture_output=True, text=True, check=True
    )
    assert set(found.stdout.split()) == {"MemoryError", "done"}
