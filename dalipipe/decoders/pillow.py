"""Decoding with Pillow: the reference, and the way for what DALI does not decode (GIF, arithmetic JPEG)."""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from dalipipe.decoders.base import DecodeError
from dalipipe.records import Encoded, Pictures


def decode_rgb(data: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """One encoded picture (uint8 [bytes]) → its region ``roi`` (y, x, h, w, px) as uint8 [h, w, 3].

    As torchvision's ``ImageFolder`` reads files: converted to RGB, the first frame of several, EXIF orientation left
    alone. 16-bit greyscale is scaled to 8 bits (Pillow itself would clip it).
    """
    from PIL import Image

    y, x, h, w = (int(v) for v in roi)
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            if image.mode.startswith("I;16"):
                wide = np.asarray(image)[y : y + h, x : x + w].astype(np.uint32)
                return np.repeat(((wide * 255 + 32767) // 65535).astype(np.uint8)[:, :, None], 3, axis=2)
            return np.array(np.asarray(image.convert("RGB"))[y : y + h, x : x + w])  # a copy: writable, rows dense
    except Exception as error:  # Pillow's parsers raise whatever a damaged file provokes
        raise DecodeError(f"cannot be decoded: {error}") from error


def decode_mask(data: np.ndarray | bytes) -> np.ndarray:
    """One encoded label map → its class indices, uint8 [H, W], or int32 [H, W] where a pixel has more than 8 bits.

    Grey values (of 1 bit: 0 and 1; of 2 and 4 bits: scaled to 8, as Pillow has them), and of a palette picture the
    indices, not the colours.

    Raises:
        DecodeError: damaged bytes, or a picture in colour, which names no classes.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(bytes(data))) as image:
            if image.mode in ("1", "L", "P"):
                return np.array(image).astype(np.uint8, copy=False)
            if image.mode == "I" or image.mode.startswith("I;16"):
                return np.array(image).astype(np.int32)
            mode = image.mode
    except Exception as error:  # Pillow's parsers raise whatever a damaged file provokes
        raise DecodeError(f"cannot be decoded: {error}") from error
    raise DecodeError(f"a mask must have one channel of class indices, grey or palette; this one is {mode}")


class PillowDecoder:
    """A `Decoder` of threads over `decode_rgb`; its pictures are in host memory."""

    def __init__(self, *, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="dalipipe-pillow")
        self._in_flight: deque[tuple[list[Future[np.ndarray]], np.ndarray]] = deque()

    def submit(self, encoded: Encoded, headers: np.ndarray, roi: np.ndarray) -> None:
        jobs = [self._pool.submit(decode_rgb, encoded[row], roi[row]) for row in range(len(encoded))]
        self._in_flight.append((jobs, roi))

    def collect(self) -> tuple[Pictures, dict[int, Exception]]:
        jobs, roi = self._in_flight.popleft()
        pictures: list[np.ndarray] = []
        errors: dict[int, Exception] = {}
        for row, job in enumerate(jobs):
            try:
                pictures.append(job.result())
            except DecodeError as error:
                errors[row] = error
                pictures.append(np.zeros((roi[row, 2], roi[row, 3], 3), np.uint8))
        return Pictures.from_arrays(pictures, roi[:, :2].astype(np.int32)), errors

    def reset(self) -> None:
        while self._in_flight:
            for job in self._in_flight.popleft()[0]:
                job.cancel()

    def close(self) -> None:
        self.reset()
        self._pool.shutdown(wait=True)
