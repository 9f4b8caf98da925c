"""A record's fields as the files of a sample: what each is called, its bytes, and what the index says of it."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from dalipipe import native
from dalipipe.decoders.base import inspect
from dalipipe.packing.settings import Settings
from dalipipe.records import Encoded, Pictures
from dalipipe.schema import Field

_EXTENSIONS = {"jpeg": "jpg", "tiff": "tif", "pnm": "ppm", "unknown": "bin"}
_JPEG = native.IMAGE_KINDS.index("jpeg")


@dataclass(frozen=True)
class Member:
    """A file: its extension, and its bytes, of which the index points to those behind ``header``.

    ``size_px``: height and width of a picture.
    """

    extension: str
    body: bytes | np.ndarray
    header: bytes = b""
    size_px: tuple[int, int] | None = None


@dataclass
class Encoding:
    """How one field is stored. ``store``: "column", "encoded", "raw", or what files hold: "npy", "txt", "json", "bin".

    ``field``: as readers of the pack get it. ``left``: why pictures stayed as they were, counted.
    """

    field: Field
    store: str
    encode: Callable[[Any], list[Member | Exception]] | None
    left: Counter[str]


class Encoder:
    """Makes files of the fields of batches; how is settled by the first of them."""

    def __init__(self, fields: Sequence[Field], settings: Settings, *, threads: int) -> None:
        self._given, self._settings, self._threads = fields, settings, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="dalipipe-pack")
        self.encodings: list[Encoding] = []

    def settle(self, columns: dict[str, Any]) -> None:
        """Raises ``ValueError`` for a field that cannot be stored."""
        self.encodings = [self._encoding(field, columns[field.name]) for field in self._given]

    def encode(self, columns: dict[str, Any]) -> list[tuple[Encoding, list[Member | Exception] | np.ndarray]]:
        """By field: a file a record, or what is wrong with it; of columns the array."""
        if not self.encodings:
            self.settle(columns)
        out: list[tuple[Encoding, list[Member | Exception] | np.ndarray]] = []
        for encoding in self.encodings:
            column = columns[encoding.field.name]
            out.append((encoding, np.asarray(column) if encoding.encode is None else encoding.encode(column)))
        return out

    def close(self) -> None:
        self._pool.shutdown()

    def _encoding(self, field: Field, column: Any) -> Encoding:
        left: Counter[str] = Counter()
        prefix = f"{field.name}."
        if field.kind == "column":
            return Encoding(field, "column", None, left)
        if field.kind == "image":
            prefix = "" if sum(other.kind == "image" for other in self._given) == 1 else prefix
            if isinstance(column, Encoded):
                return Encoding(field, "encoded", lambda files: self._files(files, prefix, left), left)
            channels = column[0].shape[2]
            field = replace(field, channels=channels)
            if self._settings.format == "raw":
                return Encoding(field, "raw", lambda pictures: [_raw(picture, prefix) for picture in pictures], left)
            field = replace(field, channels=3)
            return Encoding(field, "encoded", lambda pictures: self._jpegs(pictures, prefix), left)
        if field.kind == "mask":
            if isinstance(column, Encoded):
                return Encoding(field, "encoded", lambda files: _as_files(files, prefix), left)
            # What was moved has its new labels already.
            field = field if isinstance(column, Pictures) else replace(field, table=None)
            return Encoding(field, "encoded", lambda masks: self._masks(masks, prefix), left)
        value = next(iter(column))
        store = "npy" if field.kind in ("boxes", "points") else _store_of(field, value)
        extension = prefix + store
        return Encoding(field, store, lambda values: [_object(value, store, extension) for value in values], left)

    def _files(self, files: Encoded, prefix: str, left: Counter[str]) -> list[Member | Exception]:
        members = _as_files(files, prefix, threads=self._threads)
        if self._settings.format != "tiled":
            return members
        made = native.tile_jpegs(
            files.arena,
            files.starts,
            tile_px=self._settings.tile_px,
            metadata=self._settings.metadata,
            threads=self._threads,
        )
        for row, (data, reason) in enumerate(made):
            member = members[row]
            assert isinstance(member, Member)
            if data is not None:
                members[row] = replace(member, body=data)
            elif member.extension.endswith("jpg"):
                left[str(reason)] += 1
            else:
                left[f"{member.extension.removeprefix(prefix)} files"] += 1
        return members

    def _jpegs(self, pictures: list[np.ndarray], prefix: str) -> list[Member | Exception]:
        """Made anew, so with loss; in tiles."""

        def one(picture: np.ndarray) -> bytes:
            out = io.BytesIO()
            grey = picture.shape[2] == 1
            image = Image.fromarray(np.ascontiguousarray(picture[..., 0] if grey else picture))
            image.save(out, "JPEG", quality=self._settings.quality)
            return out.getvalue()

        encoded = list(self._pool.map(one, pictures))
        starts = np.cumsum([0, *map(len, encoded)])
        arena = np.frombuffer(b"".join(encoded), np.uint8)
        made = native.tile_jpegs(arena, starts, tile_px=self._settings.tile_px, threads=self._threads)
        return [
            Member(f"{prefix}jpg", whole if data is None else data, size_px=picture.shape[:2])
            for (data, _), whole, picture in zip(made, encoded, pictures, strict=True)
        ]

    def _masks(self, masks: Any, prefix: str) -> list[Member | Exception]:
        labels = [masks[row] for row in range(len(masks))]
        return list(self._pool.map(lambda mask: _png(np.squeeze(mask), prefix), labels))


def _as_files(files: Encoded, prefix: str, *, threads: int = 1) -> list[Member | Exception]:
    headers, _ = inspect(files, threads=threads)
    members: list[Member | Exception] = []
    for row in range(len(files)):
        kind = native.IMAGE_KINDS[headers["kind"][row]]
        size = (int(headers["height"][row]), int(headers["width"][row]))
        members.append(Member(prefix + _EXTENSIONS.get(kind, kind), files[row], size_px=size))
    return members


def _raw(picture: np.ndarray, prefix: str) -> Member:
    pixels = np.ascontiguousarray(picture)
    return Member(f"{prefix}npy", pixels.reshape(-1), _npy_header(pixels), pixels.shape[:2])


def _png(mask: np.ndarray, prefix: str) -> Member | Exception:
    if mask.min() < 0 or mask.max() > 65535:
        return ValueError(f"labels from {mask.min()} to {mask.max()} fit no PNG, which has 0 to 65535")
    out = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8 if mask.max() <= 255 else np.uint16)).save(out, "PNG")
    return Member(f"{prefix}png", out.getvalue(), size_px=mask.shape[:2])


def _store_of(field: Field, value: Any) -> str:
    if isinstance(value, str):
        return "txt"
    if isinstance(value, bytes):
        return "bin"
    if isinstance(value, np.ndarray) or hasattr(value, "detach"):
        return "npy"
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"pack: field {field.name!r} holds a {type(value).__name__}, which no pack can hold ({error}): "
            "texts, bytes, arrays, and what JSON knows can be stored; leave the field out"
        ) from error
    return "json"


def _object(value: Any, store: str, extension: str) -> Member | Exception:
    try:
        if store == "npy":
            array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
            return Member(extension, npy_file(array))
        data = value.encode() if store == "txt" else value if store == "bin" else json.dumps(value).encode()
        return Member(extension, bytes(data))
    except Exception as error:  # another type than the first record's
        return ValueError(
            f"{extension}: a {type(value).__name__} that cannot be stored as the first record is: {error}"
        )


def npy_file(array: np.ndarray) -> bytes:
    return _npy_header(array) + np.ascontiguousarray(array).tobytes()


def _npy_header(array: np.ndarray) -> bytes:
    """Of the array, made contiguous."""
    array = np.ascontiguousarray(array)
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, np.lib.format.header_data_from_array_1_0(array))
    return out.getvalue()
