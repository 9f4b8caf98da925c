"""Pictures that are in memory already, or memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dalipipe.records import Pictures, Records
from dalipipe.schema import Field, Schema
from dalipipe.sources.base import Source, digest


class Arrays(Source):
    """Equal-sized pictures in one array, and labels.

    ``images``: uint8 [N, H, W, C] with C 1 or 3, or [N, H, W] (grey); numpy, a memory map or a torch tensor. They are
    not copied. ``labels``: numbers [N] or [N, ...], or ``None``; whole numbers travel as int64. Raises ``TypeError`` or
    ``ValueError`` naming what came and what to do about it.
    """

    def __init__(self, images: Any, labels: Any = None, *, classes: Sequence[str] | None = None) -> None:
        images = _to_numpy("images", images)
        if images.dtype != np.uint8:
            raise TypeError(
                f"Arrays: images must be uint8 (0..255), got {images.dtype}; "
                "convert with (images * 255).round().astype('uint8')"
            )
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.shape[3] not in (1, 3):
            hint = (
                "; move the channels to the end with images.transpose(0, 2, 3, 1)"
                if images.ndim == 4 and images.shape[1] in (1, 3)
                else ""
            )
            raise ValueError(
                f"Arrays: images must be [N, H, W, C] with C 1 or 3, or [N, H, W], got shape {images.shape}{hint}"
            )
        if 0 in images.shape:
            raise ValueError(f"Arrays: expected at least one picture of at least one pixel, got shape {images.shape}")
        if images.strides[3] != 1 or images.strides[2] != images.shape[3]:
            images = np.ascontiguousarray(images)
        self.images = images
        self.labels: np.ndarray | None = None
        fields = [Field("image", "image", channels=images.shape[3])]
        if labels is not None:
            labels = _to_numpy("labels", labels)
            if len(labels) != len(images):
                raise ValueError(f"Arrays: {len(images)} images but {len(labels)} labels")
            if labels.dtype.kind not in "biuf":
                raise TypeError(f"Arrays: labels must be numbers, got {labels.dtype}")
            self.labels = labels.astype(np.int64) if labels.dtype.kind in "iu" else labels
            fields.append(Field("label", "column"))
        self.classes = None if classes is None else [str(name) for name in classes]
        self.schema = Schema(tuple(fields))

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        n, (h, w, channels) = len(indices), self.images.shape[1:]
        base, step, row_bytes = self.images.ctypes.data, self.images.strides[0], self.images.strides[1]
        pictures = Pictures(
            address=(base + indices.astype(np.int64) * step).astype(np.uint64),
            row_bytes=np.full(n, row_bytes, np.int64),
            size_px=np.tile(np.array([[h, w]], np.int32), (n, 1)),
            origin_px=np.zeros((n, 2), np.int32),
            channels=channels,
            owner=self.images,
        )
        columns: dict[str, Any] = {"image": pictures}
        if self.labels is not None:
            columns["label"] = self.labels[indices]
        return Records(columns)

    def fingerprint(self) -> str:
        # All pixels of a large array would take seconds to hash; its shape, labels and a few pictures tell data sets
        # apart.
        some = np.linspace(0, len(self) - 1, min(len(self), 16)).astype(np.int64)
        parts = [repr(self.images.shape).encode(), *(np.ascontiguousarray(self.images[i]).tobytes() for i in some)]
        if self.labels is not None:
            parts.append(np.ascontiguousarray(self.labels).tobytes())
        return f"arrays-{len(self)}-{digest(parts)}"

    def __repr__(self) -> str:
        return f"Arrays({len(self)} pictures of {self.images.shape[1]}×{self.images.shape[2]}×{self.images.shape[3]})"


def _to_numpy(name: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor
        if value.device.type != "cpu":
            raise TypeError(f"Arrays: {name} must be on the host, got a tensor on {value.device}; use .cpu()")
        value = value.detach().numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TypeError(f"Arrays: {name} must be one array: {error}") from error
    if array.ndim == 0 or array.dtype == object:
        raise TypeError(f"Arrays: {name} must be one array of numbers, got {type(value).__name__}")
    return array
