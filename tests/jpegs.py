"""JPEG files of every kind that the native core takes, and what Pillow, which is libjpeg-turbo, makes of them."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from conftest import picture
from PIL import Image

SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "grey")


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
