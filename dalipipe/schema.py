"""What a batch is made of: fields, their schema, and the named tuple that users unpack."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

Kind = Literal["image", "mask", "column", "object"]


@dataclass(frozen=True)
class Field:
    """One named part of a sample.

    ``kind`` says which operators may touch it and which decoder reads it: ``"image"`` is a picture (encoded bytes or
    uint8 pixels, HWC), ``"mask"`` a label map that moves with the image, ``"column"`` a number or a fixed-shape array
    that travels as it is (class labels, ids, targets), ``"object"`` a Python object (text, parsed JSON): a batch holds
    a list of them.
    """

    name: str
    kind: Kind
    channels: int | None = None
    """Of an image: 1 or 3."""
    ignore_index: int = 255
    """Of a mask: the class that stands where geometry leaves the picture."""
    table: tuple[int, ...] | None = None
    """Of a mask: class index in the files → in the batch; what is beyond its end counts as its last entry."""


@dataclass(frozen=True)
class Schema:
    """The fields of a sample, in the order in which a batch unpacks."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if len(set(names)) < len(names) or "indices" in names:
            raise ValueError(
                f'the fields {", ".join(names)}: each needs a name of its own, and "indices" is a batch\'s; rename one'
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

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._fields, tuple(self), self.indices)  # type: ignore[attr-defined,arg-type]


@cache
def batch_type(names: tuple[str, ...]) -> type:
    """The named tuple for batches with these fields: ``images, labels = batch`` and ``batch.image`` both work.

    A named tuple, because Lightning, Accelerate, Hugging Face and ``torch.utils._pytree`` all know how to walk one.
    """
    return type("Batch", (_Batch, namedtuple("Batch", names)), {"__module__": __name__})


def make_batch(names: tuple[str, ...], values: Any, indices: np.ndarray | None) -> Any:
    batch = batch_type(names)(*values)
    batch.indices = indices
    return batch


def _rebuild(names: tuple[str, ...], values: tuple[Any, ...], indices: np.ndarray | None) -> Any:
    return make_batch(names, values, indices)
