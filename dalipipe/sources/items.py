"""Items of map-style data sets: which fields one has, and its values in the form that batches take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from PIL import Image

from dalipipe.schema import BoxFormat, Field, Schema
from dalipipe.sources.formats import field_name

Columns = Sequence[str | Field] | None
_LABEL_MAP_MODES = ("1", "L", "P", "I", "I;16")


@dataclass(frozen=True)
class Part:
    """One value of an item. ``path``: its place or key, and where that is a mapping, the key in it; ``dtype``,
    ``shape``: of a column, from the first item.
    """

    path: tuple[Any, ...]
    field: Field
    dtype: np.dtype | None = None
    shape: tuple[int, ...] = ()

    def value(self, value: Any) -> Any:
        """In a batch's form: a picture uint8 [H, W, C], boxes or points float32, a column's row, an object. Raises
        ``ValueError``.
        """
        if self.field.kind in ("image", "mask"):
            return _picture(value, self.field)
        if self.field.kind in ("boxes", "points"):
            return _places(value, self.field)
        if self.field.kind == "object":
            return value
        array = np.asarray(_plain(value))
        if array.shape != self.shape or not np.can_cast(array.dtype, self.dtype or array.dtype, "same_kind"):
            raise ValueError(
                f"{self.field.name}: expected {self.dtype} of shape {self.shape}, as the first item has, got "
                f"{array.dtype} of shape {array.shape}; if items differ, give columns=[..., "
                f'Field({self.field.name!r}, "object")]'
            )
        return array if self.shape else array.item()


@dataclass(frozen=True)
class Items:
    """How items are taken apart. ``whole``: an item is itself the one value."""

    parts: tuple[Part, ...]
    whole: bool = False
    length: int | None = None
    """Of items that are tuples."""

    @property
    def schema(self) -> Schema:
        return Schema(tuple(part.field for part in self.parts))

    def values(self, item: Any) -> tuple[Any, ...]:
        """One for each part. Raises ``ValueError`` for an item that is not as the first one."""
        if self.whole:
            return (self.parts[0].value(item),)
        if self.length is not None and (not isinstance(item, Sequence) or len(item) != self.length):
            found = f"of {len(item)} values" if isinstance(item, Sequence) else f"a {type(item).__name__}"
            raise ValueError(f"expected an item of {self.length} values, as the first one, got one {found}")
        if self.length is None and not isinstance(item, Mapping):
            raise ValueError(f"expected an item with keys, as the first one, got a {type(item).__name__}")
        return tuple(part.value(_follow(item, part.path)) for part in self.parts)


def infer(item: Any, columns: Columns) -> Items:
    """Takes an item apart: a mapping by its keys, a tuple by places (and a mapping in it that has torchvision's boxes,
    points or masks by its keys), all else as one value.

    Raises ``TypeError`` or ``ValueError`` where ``columns`` does not go with the item.
    """
    if isinstance(columns, str | Field) or not all(isinstance(column, str | Field) for column in columns or ()):
        raise TypeError(f"MapDataset: columns must be a list of names or Fields, got {columns!r}")
    given = None if columns is None else [c if isinstance(c, Field) else Field(c, "object") for c in columns]
    if given is not None and len({field.name for field in given}) != len(given):
        raise ValueError(f"MapDataset: columns must have different names, got {[field.name for field in given]}")

    if isinstance(item, Mapping):
        keys = list(item) if given is None else [field.name for field in given]
        missing = [key for key in keys if key not in item]
        if missing:
            raise ValueError(f"MapDataset: columns name {missing}, but an item has {', '.join(map(repr, item))}")
        paths = [(key,) for key in keys]
        names, values = [str(key) for key in keys], [item[key] for key in keys]
    else:
        whole = not isinstance(item, tuple | list)
        paths, names, values = _flat([item] if whole else item)
        if given is not None:
            if len(given) != len(values):
                raise ValueError(
                    f"MapDataset: columns must name each of an item's {len(values)} values, got {len(given)} names"
                )
            names = [field.name for field in given]
    if not values:
        raise ValueError("MapDataset: expected items with values, got an empty one")

    parts: list[Part] = []
    for path, value in zip(paths, values, strict=True):
        parts.append(_part(path, value, [part.field.kind for part in parts]))
    default = _names([part.field for part in parts])
    for i, name in enumerate(names):
        if given is not None and not isinstance(item, Mapping) and field_name(name) != name:
            raise ValueError(f"MapDataset: column {name!r}: expected a Python name, such as {field_name(name)!r}")
        own = _free(field_name(name or default[i]), parts[:i])
        parts[i] = replace(parts[i], field=replace(parts[i].field, name=own))
    for i, column in enumerate(columns or ()):
        if isinstance(column, Field):
            parts[i] = _as_asked(parts[i], column, values[i])
    parts = _beside_boxes(parts, values, [isinstance(column, Field) for column in columns or [""] * len(parts)])
    if isinstance(item, Mapping):
        return Items(tuple(parts))
    return Items(tuple(parts), whole=whole, length=None if whole else len(item))


def _flat(item: Sequence[Any]) -> tuple[list[tuple[Any, ...]], list[str], list[Any]]:
    """The paths of an item's values, their names ("" where they have none) and the values themselves."""
    paths: list[tuple[Any, ...]] = []
    names: list[str] = []
    values: list[Any] = []
    own = getattr(item, "_fields", None) or [""] * len(item)
    for place, (name, value) in enumerate(zip(own, item, strict=True)):
        if isinstance(value, Mapping) and any(_tv_tensor(one) for one in value.values()):
            paths += [(place, key) for key in value]
            names += [str(key) for key in value]
            values += value.values()
        else:
            paths.append((place,))
            names.append(name)
            values.append(value)
    return paths, names, values


def _follow(item: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        if isinstance(item, Mapping) and key not in item:
            raise ValueError(f"the item has no {key!r}, but the first one has")
        item = item[key]
    return item


def _part(path: tuple[Any, ...], value: Any, before: Sequence[str]) -> Part:
    """``before``: the kinds of the values before it; a second picture of one channel is a label map."""
    if _is_label_map(value, "image" in before):
        return Part(path, Field("", "mask", channels=1))
    if _tv_tensor(value) == "BoundingBoxes":
        return Part(path, Field("", "boxes", format=_box_format(value)))
    if _tv_tensor(value) == "KeyPoints":
        return Part(path, Field("", "points"))
    channels = _channels(value)
    if channels is not None:
        return Part(path, Field("", "image", channels=channels))
    return _column(Part(path, Field("", "object")), value) or Part(path, Field("", "object"))


def _beside_boxes(parts: list[Part], values: list[Any], asked: list[bool]) -> list[Part]:
    """Arrays with a row a box are as ragged as the boxes, so objects unless asked for as something else; and boxes that
    were not told their companions have them all.
    """
    rows = [len(v) if p.field.kind == "boxes" else _rows(v) for p, v in zip(parts, values, strict=True)]
    counts = {n for part, n in zip(parts, rows, strict=True) if part.field.kind == "boxes"}
    parts = [
        Part(part.path, Field(part.field.name, "object"))
        if part.field.kind == "column" and n in counts and not fixed
        else part
        for part, n, fixed in zip(parts, rows, asked, strict=True)
    ]
    for i, part in enumerate(parts):
        if part.field.kind == "boxes" and not part.field.companions:
            beside = (p.field for p, n in zip(parts, rows, strict=True) if n == rows[i])
            names = tuple(field.name for field in beside if field.kind == "object")
            parts[i] = replace(part, field=replace(part.field, companions=names))
    return parts


def _rows(value: Any) -> int | None:
    """Of an array or tensor; ``None`` for what is none."""
    return len(value) if (isinstance(value, np.ndarray) or _is_tensor(value)) and value.ndim else None


def _column(part: Part, value: Any) -> Part | None:
    """The part as a column; ``None`` where the value is no number and no array of numbers."""
    value = _plain(value)
    if not isinstance(value, bool | int | float | np.generic | np.ndarray):
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        return None
    whole = array.ndim == 0 and array.dtype.kind in "iu"
    field = replace(part.field, kind="column", channels=None)
    return replace(part, field=field, dtype=np.dtype(np.int64) if whole else array.dtype, shape=array.shape)


def _as_asked(part: Part, field: Field, value: Any) -> Part:
    if field.kind == "column":
        column = _column(replace(part, field=field), value)
        if column is None:
            raise TypeError(f"MapDataset: {field.name} cannot be a column: an item has a {type(value).__name__} there")
        return column
    if field.kind == "image":
        field = replace(field, channels=field.channels or part.field.channels or 3)
    elif field.kind == "mask":
        field = replace(field, channels=1)
    return Part(part.path, field)


def _names(fields: Sequence[Field]) -> list[str]:
    """Of a tuple's values: beside a picture there are "mask", "boxes", "points" and "label"; all else is called by its
    place.
    """
    names = [f"column_{i}" for i in range(len(fields))]
    kinds = [field.kind for field in fields]
    if "image" in kinds:
        for kind, name in (*((kind, kind) for kind in ("image", "mask", "boxes", "points")), ("column", "label")):
            if kind in kinds:
                names[kinds.index(kind)] = name
    return names


def _free(name: str, parts: Sequence[Part]) -> str:
    while any(part.field.name == name for part in parts):
        name += "_"
    return name


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "numpy")


def _plain(value: Any) -> Any:
    """Tensors as arrays; numpy has no bfloat16, which becomes float32."""
    if not _is_tensor(value):
        return value
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


def _tv_tensor(value: Any) -> str:
    """What a tensor of torchvision's tells of itself: "Mask", "BoundingBoxes", ...; else empty."""
    return type(value).__name__ if type(value).__module__.startswith("torchvision.tv_tensors") else ""


def _box_format(value: Any) -> BoxFormat:
    name: Any = value.format.value.lower()
    if name not in get_args(BoxFormat):
        raise ValueError(
            f"boxes must be upright ({', '.join(get_args(BoxFormat))}), got torchvision's {name}: convert them before"
        )
    return name


def _is_label_map(value: Any, after_picture: bool) -> bool:
    if _tv_tensor(value) == "Mask":
        return True
    if not after_picture:
        return False
    if isinstance(value, Image.Image):
        return value.mode in _LABEL_MAP_MODES
    return _channels(value) == 1


def _channels(value: Any) -> int | None:
    """Of a picture; ``None`` for what is none."""
    if isinstance(value, Image.Image):
        return 3
    is_tensor = _is_tensor(value)
    if not is_tensor and not isinstance(value, np.ndarray):
        return None
    if str(value.dtype).removeprefix("torch.") != "uint8" or value.ndim not in (2, 3):
        return None
    channels = 1 if value.ndim == 2 else int(value.shape[0 if is_tensor else 2])
    return channels if channels in (1, 3) else None


def _picture(value: Any, field: Field) -> np.ndarray:
    """uint8 [H, W, channels], dense."""
    channels = field.channels or 3
    if isinstance(value, Image.Image):
        array = _decoded(value, field)
    elif _is_tensor(value):
        value = value.detach().cpu()
        array = (value.permute(1, 2, 0) if value.ndim == 3 else value).contiguous().numpy()
    else:
        array = np.asarray(value)
    if field.kind == "mask" and array.dtype.kind in "biu" and array.dtype != np.uint8:
        if array.size and (array.min() < 0 or array.max() > 255):
            raise ValueError(f"{field.name}: expected label values 0..255, got {array.min()}..{array.max()}")
        array = array.astype(np.uint8)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.dtype != np.uint8 or array.ndim != 3 or 0 in array.shape or array.shape[2] not in (1, channels):
        raise ValueError(
            f"{field.name}: expected a picture of {channels} channels (PIL, uint8 array [H, W, C] or uint8 tensor "
            f"[C, H, W]), got {type(value).__name__} of {array.dtype} and shape {tuple(array.shape)}"
        )
    if array.shape[2] != channels:
        array = np.repeat(array, channels, axis=2)
    return np.ascontiguousarray(array)


def _places(value: Any, field: Field) -> np.ndarray:
    """float32: boxes [k, 4] in the field's format, points [..., 2]."""
    if _tv_tensor(value) == "BoundingBoxes" and _box_format(value) != field.format:
        from torchvision.transforms.v2.functional import convert_bounding_box_format

        value = convert_bounding_box_format(value.float(), new_format=field.format.upper())
    array = np.asarray(_plain(value))
    width = 4 if field.kind == "boxes" else 2
    if not array.size and array.ndim <= 2:
        array = np.zeros((0, width))
    if array.dtype.kind not in "iuf" or array.ndim < 2 or array.shape[-1] != width or (width == 4 and array.ndim > 2):
        expected = "[k, 4]" if width == 4 else "[..., 2]"
        raise ValueError(f"{field.name}: expected {expected} numbers, got {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array, np.float32)


def _decoded(image: Image.Image, field: Field) -> np.ndarray:
    """As torchvision's data sets convert: to RGB. 16-bit greyscale is scaled to 8 bits, as our decoders do."""
    if field.kind == "mask":
        return np.asarray(image)
    if image.mode.startswith("I;16"):
        return ((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    mode = "RGB" if field.channels == 3 else "L"
    return np.asarray(image if image.mode == mode else image.convert(mode))
