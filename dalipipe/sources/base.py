"""What a source is: records by index, without state."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from dalipipe.policy import Policy
from dalipipe.records import Records
from dalipipe.schema import Schema


class Source(ABC):
    """Random access to N records. Picklable, safe to read from several threads; it keeps no position."""

    schema: Schema
    classes: list[str] | None = None
    """Names of the label values, where known."""
    labels: np.ndarray | None = None
    """int64 [N]: every record's label, where known without reading the records."""
    transform: Any = None
    """A transform of torchvision's or timm's for the pictures: a loader without a policy converts it. Reading does not
    apply it.
    """
    front: Policy | None = None
    """What has been applied to the records already: a loader runs the rest of the policy that begins with it."""
    copies: int = 1
    """How often every record is there, each time prepared differently: copy c of record i is read as number c · len +
    i. Epoch e takes copy e mod copies.
    """
    repeatable: bool = True
    """Whether a record is the same each time that it is read; what a user's own code gives need not be."""
    in_memory: bool = False
    """Whether reading gives pictures by address, of memory or memory maps that the source keeps: nothing is gained by
    keeping them once more.
    """
    may_have_tiles: bool = True
    """Whether its pictures may be JPEGs in tiles, as `dalipipe.pack` writes them, which a CUDA device can decode."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        """Records ``indices`` int64 [N], in that order, each below len · `copies`; a record that cannot be read is
        reported, and costs no other.

        ``allocate(nbytes)`` gives uint8 memory for what is read, where a caller has some to use again.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A short text that changes when the records or their order do: what a saved position is checked against."""

    def describe(self, index: int) -> str:
        """A record's name for people: its path, say."""
        return f"record {index}"

    def files(self) -> Iterable[str]:
        """The local files that records are read from, as far as that can be told."""
        return ()

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Frees what reading holds open; reading again opens it again."""


def changed_labels(labels: np.ndarray, target_transform: Callable[[int], Any] | None) -> np.ndarray:
    """int64 [N]: the labels as ``target_transform`` gives them, which is called once for each that there is.

    Raises ``ValueError`` where it gives anything but a whole number.
    """
    if target_transform is None:
        return labels
    present, places = np.unique(labels, return_inverse=True)
    changed = [target_transform(label) for label in present.tolist()]
    for label, value in zip(present.tolist(), changed, strict=True):
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise ValueError(
                f"target_transform must give a whole number for a label, got {value!r} for {label}; wrap the data set, "
                "dalipipe.MapDataset(dataset), for targets of another kind"
            )
    return np.array(changed, np.int64)[places]


def to_numpy(name: str, value: Any) -> np.ndarray:
    """An array, a tensor on the host or lists as one array. Raises ``TypeError`` that calls it ``name``."""
    if hasattr(value, "detach"):  # a torch tensor
        if value.device.type != "cpu":
            raise TypeError(f"{name} must be on the host, got a tensor on {value.device}; use .cpu()")
        value = value.detach().numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TypeError(f"{name} must be one array: {error}") from error
    if array.ndim == 0 or array.dtype == object:
        raise TypeError(f"{name} must be one array of numbers, got {type(value).__name__}")
    return array


def numbered_labels(
    owner: str, labels: Any, classes: list[str] | None, where: Callable[[int], str] | None = None
) -> tuple[np.ndarray, list[str] | None]:
    """Labels as numbers, and their names: names are numbered by ``classes``, None: in sorted order; whole numbers
    become int64. ``where``: what a record is called.

    Raises ``TypeError`` or ``ValueError`` that calls the source ``owner``.
    """
    array = to_numpy(f"{owner}: labels", labels)
    if array.dtype.kind in "US":
        names = array.astype(str)
        if classes is None:
            found, numbers = np.unique(names, return_inverse=True)
            return numbers.astype(np.int64), found.tolist()
        number = {name: i for i, name in enumerate(classes)}
        unknown = next((row for row, name in enumerate(names.tolist()) if name not in number), None)
        if unknown is not None:
            at = owner if where is None else where(unknown)
            raise ValueError(
                f"{at}: label {str(names[unknown])!r} is none of the {len(classes)} classes ({classes[0]!r}, …)"
            )
        return np.array([number[name] for name in names.tolist()], np.int64), classes
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{owner}: labels must be numbers or names, got {array.dtype}")
    array = array.astype(np.int64) if array.dtype.kind in "biu" else array
    whole = array.ndim == 1 and array.dtype == np.int64
    if classes is not None and whole and len(array) and not 0 <= array.min() <= array.max() < len(classes):
        raise ValueError(
            f"{owner}: labels run from {array.min()} to {array.max()}, but there are {len(classes)} classes"
        )
    return array, classes


def digest(parts: Iterable[bytes]) -> str:
    """A 16-digit hash of byte strings, their lengths counted in."""
    h = hashlib.blake2b(digest_size=8)
    for part in parts:
        h.update(len(part).to_bytes(8, "little"))
        h.update(part)
    return h.hexdigest()
