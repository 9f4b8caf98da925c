"""What a file's extension says of the field that it gives, and how its bytes become that field's value."""

from __future__ import annotations

import io
import json
import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dalipipe.schema import Field

IMAGES = tuple("jpg jpeg png webp ppm pgm pnm bmp tif tiff gif".split())
MASKS = ("mask", "seg", "segmentation")
_FORMATS = {
    **dict.fromkeys(IMAGES, "image"),
    **dict.fromkeys("cls cls2 index inx id".split(), "integer"),
    **dict.fromkeys(["json", "jsn"], "json"),
    **dict.fromkeys("txt text transcript".split(), "text"),
    "npy": "npy",
}  # any other: bytes

#: Extensions with semicolons between them, or one of JSON and where in it a number is: ``("json", "box", "left")``.
FieldSpec = str | tuple[Any, ...]


def field_name(text: str) -> str:
    """A name that a batch can have, near to this one."""
    name = re.sub(r"\W", "_", text).strip("_") or "field"
    name = f"field_{name}" if name[0].isdigit() else name
    return f"{name}_" if keyword.iskeyword(name) else name


@dataclass(frozen=True)
class Reading:
    """How a field is read: from the file with one of these extensions, the first that a sample has."""

    name: str
    extensions: tuple[str, ...]
    format: str  # "image", "integer", "json", "number" (in JSON), "text", "npy", "bytes" or "key"
    path: tuple[str, ...] = ()  # where in JSON the number is
    dtype: type | None = None  # int or float; None: what the first sample has there

    @classmethod
    def parse(cls, name: str, spec: FieldSpec) -> Reading:
        """What a user wrote. Raises ``TypeError`` or ``ValueError`` saying what was expected."""
        if field_name(name) != name:
            raise ValueError(f"field {name!r}: expected a Python name, such as {field_name(name)!r}")
        if spec == "__key__":
            return cls(name, (), "key")
        first, *rest = spec if isinstance(spec, tuple) and spec else (spec,)
        if not isinstance(first, str):
            raise TypeError(f'field {name!r}: expected "jpg;jpeg;png" or ("json", "label"), got {spec!r}')
        extensions = tuple(part.strip().lower().removeprefix(".") for part in first.split(";"))
        formats = {_format(extension) for extension in extensions}
        if len(formats) > 1:
            raise ValueError(f"field {name!r}: expected extensions of one kind, got {first!r} ({', '.join(formats)})")
        dtype = rest.pop() if rest and rest[-1] in (int, float) else None
        if not isinstance(spec, tuple):
            return cls(name, extensions, formats.pop())
        if formats != {"json"} or not rest or not all(isinstance(key, str) for key in rest):
            raise ValueError(f'field {name!r}: expected ("json", "key", ...), with int or float after it, got {spec!r}')
        return cls(name, extensions, "number", tuple(rest), dtype)

    @property
    def field(self) -> Field:
        if self.format == "image":
            is_mask = self.name in MASKS
            return Field(self.name, "mask" if is_mask else "image", channels=1 if is_mask else 3)
        return Field(self.name, "column" if self.format in ("integer", "number", "npy") else "object")

    @property
    def needs_file(self) -> bool:
        return self.format not in ("integer", "key")  # which the index of a shard has

    def decode(self, data: bytes) -> Any:
        """The value of one sample: an array for "number" and "npy". Raises ``ValueError``."""
        if self.format == "text":
            return data.decode("utf-8")
        if self.format == "npy":
            return self._numbers(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))
        if self.format not in ("json", "number"):
            return data
        value = json.loads(data)
        if self.format == "json":
            return value
        for key in self.path:
            if not isinstance(value, dict) or key not in value:
                raise ValueError(f"its JSON has no {'.'.join(self.path)}")
            value = value[key]
        array = self._numbers(np.asarray(value))
        return array.astype(np.float32 if self.dtype is float or array.dtype.kind == "f" else np.int64)

    def _numbers(self, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind not in "biuf":
            raise ValueError(f"expected numbers, got {array.dtype} {str(array.tolist())[:40]!r}")
        if self.dtype is int and array.dtype.kind == "f":
            raise ValueError(f"expected whole numbers, got {array.tolist()}")
        return array


def infer(extensions: Sequence[str]) -> list[Reading]:
    """One field for each file of a sample, pictures first, then masks, numbers and the rest.

    A lone picture is called ``image`` and may have any picture's extension, ``cls`` is called ``label``, others have
    their extension's name.
    """
    plain = [extension for extension in extensions if extension in IMAGES]
    readings: list[Reading] = []
    for extension in extensions:
        stem, _, last = extension.rpartition(".")
        alternatives: tuple[str, ...] = (extension,)
        if plain == [extension]:
            name, alternatives = "image", (extension, *(other for other in IMAGES if other != extension))
        elif extension == "cls":
            name = "label"
        else:
            name = field_name(stem if last in IMAGES and stem else extension)
        while any(name == reading.name for reading in readings):
            name += "_"
        readings.append(Reading(name, alternatives, _format(extension)))
    order = ("image", "mask", "column", "object")
    return sorted(readings, key=lambda reading: order.index(reading.field.kind))


def _format(extension: str) -> str:
    return _FORMATS.get(extension.rpartition(".")[2], "bytes")
