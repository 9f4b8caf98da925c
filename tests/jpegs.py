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


# Of JPEGs written token by token: a DC size or an AC symbol, and the value's bits.
Token = tuple[int, int]
_AC = [*range(256)]
_AC.remove(0xFF)
_AC = sorted(symbol for symbol in _AC if symbol & 15 <= 10)  # those that a baseline file may have


def from_tokens(tiles: Sequence[Sequence[Token]], width: int, tail: Sequence[str]) -> bytes:
    """A grey JPEG, ``width`` blocks of 8x8 px to a tile, tiles one below the other: in each the DC token of a block and
    its AC tokens, then those of the next. Bits of ``tail`` end each tile, filled up with ones.

    AC codes are of eight bits, but for symbols above 0x80, of sixteen.
    """
    short, long = [s for s in _AC if s <= 0x80], [s for s in _AC if s > 0x80]
    codes = {symbol: f"{i:08b}" for i, symbol in enumerate(short)}
    codes |= {symbol: f"{(len(short) << 8) + i:016b}" for i, symbol in enumerate(long)}
    out = bytearray(b"\xff\xd8")

    def segment(marker: int, body: bytes) -> None:
        out.extend([0xFF, marker])
        out.extend(struct.pack(">H", len(body) + 2) + body)

    segment(0xDB, bytes([0, *range(1, 65)]))
    segment(0xC0, struct.pack(">BHHB3B", 8, 8 * len(tiles), 8 * width, 1, 1, 0x11, 0))
    segment(0xC4, bytes([0x00, 0, 0, 0, 12, *[0] * 12, *range(12)]))
    segment(0xC4, bytes([0x10, *[0] * 7, len(short), *[0] * 7, len(long), *short, *long]))
    segment(0xDD, struct.pack(">H", width))
    segment(0xDA, bytes([1, 1, 0, 0, 63, 0]))
    for number, (tokens, end) in enumerate(zip(tiles, tail, strict=True)):
        bits, left = "", 0
        for symbol, value in tokens:
            is_dc = left == 0
            size = symbol if is_dc else symbol & 15
            bits += f"{symbol:04b}" if is_dc else codes[symbol]
            bits += f"{value & (1 << size) - 1:0{size}b}" if size else ""
            advance = 1 if is_dc else (symbol >> 4) + 1 if size else 16 if symbol == 0xF0 else 64
            left = 63 if is_dc else max(left - advance, 0)
        bits += end
        bits += "1" * (-len(bits) % 8)
        data = int(bits or "0", 2).to_bytes(len(bits) // 8, "big")
        out += data.replace(b"\xff", b"\xff\0")
        out += bytes([0xFF, 0xD0 + number % 8 if number + 1 < len(tiles) else 0xD9])
    return bytes(out)
