"""Decoding with NVIDIA DALI, on the host.

DALI's readers, random operators and checkpoints are not used: they depend on the batch slot, not on the sample. Bytes
and regions go in by index through ``external_source``, and exactly the predicted pixels come out.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dalipipe import native
from dalipipe.decoders.base import DecodeError
from dalipipe.decoders.pillow import decode_rgb
from dalipipe.records import Encoded, Pictures

_DALI_KINDS = [native.IMAGE_KINDS.index(kind) for kind in ("jpeg", "png", "webp", "bmp", "tiff", "pnm")]
_JPEG = native.IMAGE_KINDS.index("jpeg")
_RARE_JPEG = sum(native.IMAGE_FLAGS[name] for name in ("arithmetic", "lossless", "hierarchical"))
_ANIMATED = native.IMAGE_FLAGS["animated"]
_FAILED_TO_DECODE = "Failed to decode sample"


class MissingDaliError(ImportError):
    """NVIDIA DALI is not installed."""


@dataclass
class _Flight:
    """A batch on its way: what DALI reads from must stay alive until it comes out."""

    encoded: Encoded
    roi: np.ndarray
    by_pillow: np.ndarray
    fed: list[np.ndarray]


class DaliDecoder:
    """A `Decoder` on the host, whose pixels are Pillow's to the bit. At most ``depth`` batches may be in flight.

    Its decoders on CUDA devices are left alone: a picture's pixels depend on which of them takes it, and that on the
    batch; and regions, where chroma is upsampled as here, they leave to the host.
    """

    def __init__(self, *, batch_size: int, threads: int, depth: int) -> None:
        self._threads = threads
        self._pipeline = _make_pipeline(batch_size, threads, depth)
        self._single: Any = None
        self._in_flight: deque[_Flight] = deque()
        # A pipeline's first run starts as many runs as its queue is deep, and dies if they find nothing to decode.
        # Feed it pixels of no consequence now; from then on each run decodes one batch.
        for _ in range(depth):
            _feed(self._pipeline, [_one_pixel_jpeg()], np.array([[0, 0, 1, 1]]))
        self._pipeline.schedule_run()
        for _ in range(depth):
            self._pipeline.outputs()

    def submit(self, encoded: Encoded, headers: np.ndarray, roi: np.ndarray) -> None:
        kind, flags = headers["kind"], headers["flags"]
        by_pillow = (
            ~np.isin(kind, _DALI_KINDS) | ((flags & _ANIMATED) != 0) | ((kind == _JPEG) & ((flags & _RARE_JPEG) != 0))
        )
        fed = [_one_pixel_jpeg() if by_pillow[row] else encoded[row] for row in range(len(encoded))]
        _feed(self._pipeline, fed, np.where(by_pillow[:, None], [0, 0, 1, 1], roi))
        self._pipeline.schedule_run()
        self._in_flight.append(_Flight(encoded, roi, by_pillow, fed))

    def collect(self) -> tuple[Pictures, dict[int, Exception]]:
        flight = self._in_flight.popleft()
        errors: dict[int, Exception] = {}
        regions: Any = None
        try:
            (regions,) = self._pipeline.outputs()
            owners = [regions[row] for row in range(len(flight.encoded))]
            address = np.array([owner.data_ptr() for owner in owners], np.uint64)
        except RuntimeError:
            # One bad picture fails DALI's whole batch (the next is not affected): find it, and keep the others.
            owners = [self._decode_alone(flight, row, errors) for row in range(len(flight.encoded))]
            address = np.array([_address(owner) for owner in owners], np.uint64)
        for row in np.flatnonzero(flight.by_pillow).tolist():
            owners[row] = self._decode_by_pillow(flight, row, errors)
            address[row] = _address(owners[row])
        size = flight.roi[:, 2:].astype(np.int32)
        origin = flight.roi[:, :2].astype(np.int32)
        return Pictures.dense(address, size, origin, 3, (regions, owners)), errors

    def reset(self) -> None:
        while self._in_flight:
            self._in_flight.popleft()
            # A batch that nobody will see had a bad picture; or Python exits, and DALI has taken its pipelines down.
            with suppress(RuntimeError, AttributeError):
                self._pipeline.outputs()

    def close(self) -> None:
        self.reset()
        self._pipeline = self._single = None

    def _decode_alone(self, flight: _Flight, row: int, errors: dict[int, Exception]) -> Any:
        if flight.by_pillow[row]:
            return None
        if self._single is None:
            self._single = _make_pipeline(1, 1, 1)
        _feed(self._single, [flight.fed[row]], flight.roi[row : row + 1])
        try:
            self._single.schedule_run()
            (regions,) = self._single.outputs()
            return regions[0]
        except RuntimeError as error:
            if _FAILED_TO_DECODE in str(error):  # it does not say why; Pillow does, or can decode it after all
                return self._decode_by_pillow(flight, row, errors)
            errors[row] = DecodeError(f"cannot be decoded: {_cause(error)}")
            return np.zeros((*flight.roi[row, 2:].tolist(), 3), np.uint8)

    def _decode_by_pillow(self, flight: _Flight, row: int, errors: dict[int, Exception]) -> np.ndarray:
        try:
            return decode_rgb(flight.encoded[row], flight.roi[row])
        except DecodeError as error:
            errors[row] = error
            return np.zeros((*flight.roi[row, 2:].tolist(), 3), np.uint8)


def _address(owner: Any) -> int:
    """Of a region, DALI's or an array; 0: none."""
    if owner is None:
        return 0
    return int(owner.ctypes.data if isinstance(owner, np.ndarray) else owner.data_ptr())


# DALI keeps the pipeline under construction in a thread-local, but its plugin loading is not thread-safe.
building = threading.Lock()


def _make_pipeline(batch_size: int, threads: int, depth: int) -> Any:
    try:
        from nvidia.dali import Pipeline, fn
        from nvidia.dali.types import INT32, RGB, UINT8  # type: ignore[attr-defined]
    except ImportError as error:
        raise MissingDaliError(
            "NVIDIA DALI is not installed: pip install 'dalipipe[cuda13]' (driver 580 or later) or 'dalipipe[cuda12]' "
            '(older drivers, and machines without a GPU); decoder="pillow" does without it, more slowly'
        ) from error

    with building:
        pipeline = Pipeline(
            batch_size=batch_size, num_threads=threads, device_id=None, exec_dynamic=True, prefetch_queue_depth=depth
        )
        with pipeline:
            # The sources' memory is kept alive until the batch is collected, so DALI need not copy it.
            encoded = fn.external_source(name="encoded", dtype=UINT8, ndim=1, no_copy=True)
            anchor = fn.external_source(name="anchor", dtype=INT32, ndim=1)
            shape = fn.external_source(name="shape", dtype=INT32, ndim=1)
            options = {"output_type": RGB, "adjust_orientation": False, "jpeg_fancy_upsampling": True}
            pipeline.set_outputs(fn.decoders.image_slice(encoded, anchor, shape, axes=[0, 1], device="cpu", **options))
        pipeline.build()
    return pipeline


def _feed(pipeline: Any, encoded: list[np.ndarray], roi: np.ndarray) -> None:
    from nvidia.dali.tensors import TensorCPU

    region = np.asarray(roi, np.int32)
    pipeline.feed_input("encoded", [TensorCPU(data) for data in encoded])  # what DALI makes of arrays, more slowly
    pipeline.feed_input("anchor", np.ascontiguousarray(region[:, :2]))
    pipeline.feed_input("shape", np.ascontiguousarray(region[:, 2:]))


@lru_cache(maxsize=1)
def _one_pixel_jpeg() -> np.ndarray:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (1, 1)).save(out, "JPEG")
    return np.frombuffer(out.getvalue(), np.uint8)


def _cause(error: RuntimeError) -> str:
    """The telling line of one of DALI's long messages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "failure" in line or "Failed" in line]
    return telling[-1] if telling else lines[-1]
