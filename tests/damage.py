"""Folders of JPEG files of which some are damaged, in the ways that real data sets are."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
from conftest import picture
from PIL import Image

# What still decodes, however odd, must come out; the other ways make a bad sample.
GOOD_ODDITIES = ("cmyk", "progressive")
BAD = (
    "truncated",
    "wrong magic",
    "zero bytes",
    "html",
    "header flip",
    "scan flip",
    "vanished",
    "forbidden",
    "bomb",
)


def jpeg(seed: int, size: tuple[int, int] = (48, 64), mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(*size, seed=seed)).convert(mode).save(out, "JPEG", **{"quality": 90, **options})
    return out.getvalue()


def damaged(way: str, seed: int) -> bytes:
    """The bytes of one damaged file."""
    data = bytearray(jpeg(seed))
    if way == "truncated":
        return bytes(data[: len(data) * 2 // 3])
    if way == "wrong magic":
        return b"RIFX" + bytes(data[4:])
    if way == "zero bytes":
        return b""
    if way == "html":
        return b"<!DOCTYPE html><html><body><h1>503 Service Unavailable</h1></body></html>\n"
    if way == "header flip":  # a Huffman table that promises more codes than there are
        at = data.index(b"\xff\xc4") + 5
        data[at] ^= 0xFF
        return bytes(data)
    if way == "scan flip":  # a marker of another kind of file in the middle of the entropy-coded data
        at = data.index(b"\xff\xda") + 40
        data[at : at + 2] = b"\xff\xc3"
        return bytes(data)
    if way == "bomb":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", 65000, 65000)
        return bytes(data)
    if way == "cmyk":
        return jpeg(seed, mode="CMYK")
    if way == "progressive":
        return jpeg(seed, progressive=True)
    raise ValueError(way)


def make_folder(root: Path, n: int, every: int = 20, classes: int = 4) -> dict[str, str]:
    """``n`` JPEG files in class folders, one in ``every`` of them damaged (each way in turn) → path → way.

    The files that are to vanish are still there; `make_unreadable` takes them away once the folder has been listed.
    """
    ways = [*BAD, *GOOD_ODDITIES]
    found = {}
    good = [jpeg(seed) for seed in range(8)]
    for i in range(n):
        path = root / f"class_{i % classes}" / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i % every == every // 2:
            way = ways[i // every % len(ways)]
            found[str(path)] = way
            path.write_bytes(good[i % 8] if way in ("vanished", "forbidden") else damaged(way, i))
        else:
            path.write_bytes(good[i % 8])
    return found


def make_unreadable(damage: dict[str, str]) -> None:
    for path, way in damage.items():
        if way == "vanished":
            os.unlink(path)
        elif way == "forbidden":
            os.chmod(path, 0)


def pillow_refuses(data: bytes) -> bool:
    """Whether the strictest common decoder refuses these bytes."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            np.asarray(image.convert("RGB"))
        return False
    except Exception:
        return True
