"""JPEG files of every kind that the native core takes, and what Pillow, which is libjpeg-turbo, makes of them."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from conftest import picture
from hypothesis import strategies as st
from PIL import Image

from dalipipe import native

SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "grey")
SIZES = [
    (1, 1),
    (2, 3),
    (7, 9),
    (8, 8),
    (16, 16),
    (17, 15),
    (31, 33),
    (5, 200),
    (200, 5),
    (48, 64),
    (64, 67),
    (100, 300),
]


def jpeg(height: int, width: int, seed: int = 0, sampling: str = "4:2:0", **options: Any) -> bytes:
    """A picture of this size as JPEG; ``options`` of Pillow's. Of "4:4:0" the picture is jumbled, but a picture; and
    progressive only in whole MCUs.
    """
    h, w = (height, width) if sampling != "4:4:0" else (8 * -(-height // 16), 16 * -(-width // 8))
    if sampling == "4:4:0" and (height % 16 or width % 8):
        options.pop("progressive", None)
    out = io.BytesIO()
    image = Image.fromarray(picture(h, w, seed))
    if sampling == "grey":
        image = image.convert("L")
    else:
        options["subsampling"] = "4:2:2" if sampling == "4:4:0" else sampling
    image.save(out, "JPEG", **{"quality": 90, **options})
    data = bytearray(out.getvalue())
    if sampling == "4:4:0":  # as many MCUs of 8x16 px as there are of 16x8
        at = frame(data)
        data[at + 5 : at + 9] = struct.pack(">HH", height, width)
        assert data[at + 11] == 0x21
        data[at + 11] = 0x12
    return bytes(data)


def frame(data: bytes | bytearray) -> int:
    """Where the frame header lies."""
    return next(at for marker in (0xC0, 0xC1, 0xC2) if (at := data.find(bytes([0xFF, marker, 0]))) > 0)


def decode(data: bytes) -> np.ndarray:
    """uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def arena(files: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [bytes], int64 [N+1]."""
    starts = np.concatenate([[0], np.cumsum([len(file) for file in files])]).astype(np.int64)
    return np.frombuffer(b"".join(files), np.uint8).copy(), starts


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """Marker and body of every segment before the scan's data."""
    found, at = [], 2
    while True:
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        found.append((marker, data[at + 4 : at + 2 + length]))
        if marker == 0xDA:
            return found
        at += 2 + length


def tile(*files: bytes, **options: object) -> list[tuple[bytes | None, str | None]]:
    return native.tile_jpegs(*arena(files), **options)  # type: ignore[arg-type]


def tiled(file: bytes, **options: object) -> bytes:
    ((made, reason),) = tile(file, **options)
    assert made is not None, reason
    return made


@st.composite
def files_of_jpeg(draw: st.DrawFn, *, progressive: bool = True) -> bytes:
    options: dict[str, object] = {"quality": draw(st.integers(1, 100)), "sampling": draw(st.sampled_from(SAMPLINGS))}
    if progressive:
        options["progressive"] = draw(st.booleans())
    options["optimize"] = draw(st.booleans())
    if draw(st.booleans()):
        options[draw(st.sampled_from(["restart_marker_blocks", "restart_marker_rows"]))] = draw(st.integers(1, 9))
    size = draw(st.tuples(st.integers(1, 90), st.integers(1, 150)))
    return jpeg(*size, draw(st.integers(0, 99)), **options)  # type: ignore[arg-type]


@st.composite
def regions(draw: st.DrawFn, file: bytes) -> tuple[int, int, int, int]:
    height, width = struct.unpack_from(">HH", file, frame(file) + 5)
    y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return y, x, draw(st.integers(1, height - y)), draw(st.integers(1, width - x))
