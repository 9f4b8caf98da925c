"""What a decoder is, and the look at the headers that comes before it."""

from __future__ import annotations

import io
from typing import Protocol

import numpy as np

from dalipipe import native
from dalipipe.records import Encoded, Pictures

MAX_PIXELS = 178_956_970
"""A picture with more pixels is refused as a decompression bomb; the bound at which Pillow refuses too."""

# Flags of headers that decoders would take, and give grey areas for without a word.
_REFUSED = {"truncated": "truncated after {} bytes", "damaged": "damaged: there is a marker within its picture data"}


class DecodeError(ValueError):
    """Bytes that are no picture, or one that is damaged."""


class Decoder(Protocol):
    """Decodes batches in the order they were submitted; how many may be in flight is said when it is made."""

    def submit(self, encoded: Encoded, headers: np.ndarray, roi: np.ndarray) -> None:
        """N encoded pictures, their headers (`inspect`) and regions int64 [N, 4] as y, x, h, w (px, inside the
        picture).
        """
        ...

    def collect(self) -> tuple[Pictures, dict[int, Exception]]:
        """The oldest batch in flight: N regions, RGB, and what could not be decoded, by row (its region is then
        black).
        """
        ...

    def reset(self) -> None:
        """Forgets what is in flight."""
        ...

    def close(self) -> None:
        """Frees everything; the decoder cannot be used again."""
        ...


def inspect(encoded: Encoded, *, threads: int) -> tuple[np.ndarray, dict[int, Exception]]:
    """Reads N headers: `native.IMAGE_HEADER` [N] with sizes filled in, and the pictures to refuse, by row.

    A refused row's header reads as one pixel, so that what follows has something to work on.
    """
    headers = native.probe_images(encoded.arena, encoded.starts, threads=threads)
    errors: dict[int, Exception] = {}
    sizeless = (headers["height"] <= 0) | (headers["width"] <= 0)
    for row in np.flatnonzero(sizeless).tolist():
        try:
            headers["width"][row], headers["height"][row] = _size_by_pillow(encoded[row])
        except DecodeError as error:
            errors[row] = error
    pixels = headers["height"].astype(np.int64) * headers["width"]
    for row in np.flatnonzero(pixels > MAX_PIXELS).tolist():
        size = f"{headers['width'][row]}×{headers['height'][row]}"
        errors[row] = DecodeError(f"{size} px is more than {MAX_PIXELS} pixels: refused as a decompression bomb")
    for flag, what in _REFUSED.items():
        for row in np.flatnonzero(headers["flags"] & native.IMAGE_FLAGS[flag]).tolist():
            reason = what.format(len(encoded[row]))
            errors.setdefault(row, DecodeError(f"the file is {reason}; fetch it again or remove it"))
    for row in errors:
        headers["height"][row] = headers["width"][row] = 1
    return headers, errors


def _size_by_pillow(data: np.ndarray) -> tuple[int, int]:
    """Width and height of a format that the native probe does not read."""
    from PIL import Image, UnidentifiedImageError

    if not len(data):
        raise DecodeError("the file is empty")
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            return image.size
    except UnidentifiedImageError:
        raise DecodeError(f"not a picture: it starts with {data[:12].tobytes()!r}") from None
    except Exception as error:  # whatever a broken header makes Pillow's parsers raise
        raise DecodeError(f"the header cannot be read: {error}") from error
