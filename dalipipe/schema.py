"""What a batch is made of: fields, their schema, and the named tuple that users unpack."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from functools import cache
from typing import Any, Literal, get_args

import numpy as np

Kind = Literal["image", "mask", "boxes", "points", "audio", "series", "text", "column", "object"]
BoxFormat = Literal["xyxy", "xywh", "cxcywh"]


@dataclass(frozen=True)
class Field:
    """One named part of a sample.

    ``kind`` says which operators may touch it and which decoder reads it: ``"image"`` is a picture (encoded bytes or
    uint8 pixels, HWC), ``"mask"`` a label map that moves with the image, ``"boxes"`` float32 [k, 4] and ``"points"``
    float32 [..., 2] (x, y) arrays in px that move with it, too: a batch holds a list of tensors, one a sample;
    ``"audio"`` is a sound (encoded bytes or float32 frames), ``"series"`` float32 [T, C] values over time: a batch
    holds them padded with zeros at the end, where lengths differ; ``"text"`` words as numbers: a batch holds int64 [N,
    L], padded at the end; ``"column"`` a number or a fixed-shape array that
    travels as it is (class labels, ids, targets), ``"object"`` a Python object (text, parsed JSON): a batch holds a
    list of them.
    """

    name: str
    kind: Kind
    channels: int | None = None
    """Of an image: 1 or 3; of audio: 1 or more, as it is in batches; of a series: 1 or more."""
    rate_hz: float | None = None
    """Of audio: frames a second, as it is in batches; what was recorded at another rate is resampled. Of a series:
    where it is known.
    """
    length: str | None = None
    """Of audio, series and text: the "column" field that says how many frames or numbers each sample of a batch has
    after augmentation, without what it is padded with. Sources give any numbers for it.
    """
    vocabulary: Any = dataclass_field(default=None, compare=False, repr=False)
    """Of text: the `text.Vocabulary` whose numbers its records are."""
    encoding: Any = dataclass_field(default=None, compare=False, repr=False)
    """Of text: the `text.Encoding` that says what becomes of words in a batch."""
    ignore_index: int = 255
    """Of a mask: the class that stands where geometry leaves the picture."""
    table: tuple[int, ...] | None = None
    """Of a mask: class index in the files → in the batch; what is beyond its end counts as its last entry."""
    format: BoxFormat = "xyxy"
    """Of boxes: two corners; a corner, width and height; or the centre, width and height. In px from the picture's left
    and top edge, so that a whole picture is 0, 0, width, height.
    """
    sanitize_px: float | None = None
    """Of boxes: those with a side shorter than this after all operators are dropped. ``None``: none, so that there are
    as many as there were, those outside the picture with a side of 0.
    """
    companions: tuple[str, ...] = ()
    """Of boxes: "object" fields that are arrays or tensors with a row a box (their labels). They come as tensors, too,
    without the rows of the boxes that are dropped.
    """

    def __post_init__(self) -> None:
        if self.format not in get_args(BoxFormat):
            raise ValueError(
                f"Field {self.name!r}: format must be one of {', '.join(get_args(BoxFormat))}, got {self.format!r}"
            )
        if self.sanitize_px is not None and not self.sanitize_px > 0:
            raise ValueError(f"Field {self.name!r}: sanitize_px must be above 0 px or None, got {self.sanitize_px!r}")
        object.__setattr__(self, "companions", tuple(self.companions))


@dataclass(frozen=True)
class Schema:
    """The fields of a sample, in the order in which a batch unpacks."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if len(set(names)) < len(names) or {"indices", "draws"} & set(names):
            raise ValueError(
                f'the fields {", ".join(names)}: each needs a name of its own, and "indices" and "draws" are a '
                "batch's; rename one"
            )
        kinds: dict[str, Kind] = {field.name: field.kind for field in self.fields}
        for field in self.of_kind("boxes"):
            for name in field.companions:
                if kinds.get(name) != "object":
                    found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
                    raise ValueError(
                        f'{field.name!r}: its companion {name!r} must be a field of kind "object"; there are {found}'
                    )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    def of_kind(self, kind: Kind) -> tuple[Field, ...]:
        return tuple(field for field in self.fields if field.kind == kind)


class _Batch:
    """Mixed into every batch type: what is known of a batch beyond its tensors."""

    indices: np.ndarray | None = None
    """int64 [N]: which samples of the data set these are; ``None`` on a batch that was rebuilt by
    ``type(batch)(...)``.
    """
    draws: np.ndarray | None = None
    """int64 [N]: as which augmentation of its sample each row came, the epoch drawn for × 65,536 + the copy within that
    epoch: rows with the same index and draw show the same. ``None`` as above.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return make_batch, (self._fields, tuple(self), self.indices, self.draws)  # type: ignore[attr-defined,arg-type]


@cache
def batch_type(names: tuple[str, ...]) -> type:
    """The named tuple for batches with these fields: ``images, labels = batch`` and ``batch.image`` both work.

    A named tuple, because Lightning, Accelerate, Hugging Face and ``torch.utils._pytree`` all know how to walk one.
    """
    return type("Batch", (_Batch, namedtuple("Batch", names)), {"__module__": __name__})


def make_batch(names: tuple[str, ...], values: Any, indices: np.ndarray | None, draws: np.ndarray | None = None) -> Any:
    batch = batch_type(names)(*values)
    batch.indices, batch.draws = indices, draws
    return batch
