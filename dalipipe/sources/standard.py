"""CIFAR and MNIST in the files in which they are published; torchvision is asked for nothing but their download."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import zlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from dalipipe.sources.arrays import Arrays
from dalipipe.storage import Storage, is_remote

DIGITS = "zero one two three four five six seven eight nine".split()
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

Root = str | os.PathLike[str]
Read = tuple[np.ndarray, np.ndarray, Sequence[str] | None]  # images, labels, classes


class CIFAR10(Arrays):
    """CIFAR-10: pictures uint8 [50000 or 10000, 32, 32, 3] and labels of 10 classes, read into memory.

    Args:
        root: a folder, or URL, that holds ``cifar-10-batches-py`` (as torchvision puts it) or ``cifar-10-batches-bin``,
            or either of the two itself.
        train: the training part, else the test part.
        download: have torchvision fetch it into ``root`` where it is not there yet.
        storage: what reads; None: local files, and stores by their default settings.

    Raises:
        FileNotFoundError: its files are not there.
        ValueError: they are not what they should be. Pickled files may hold arrays and plain values, and run nothing.

    Source: A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
    """

    def __init__(
        self, root: Root, train: bool = True, *, download: bool = False, storage: Storage | None = None
    ) -> None:
        parts = tuple(f"data_batch_{i}" for i in range(1, 6)) if train else ("test_batch",)
        pickled = _Pickled("cifar-10-batches-py", parts, "labels", "batches.meta", "label_names")
        binary = _Binary("cifar-10-batches-bin", tuple(f"{part}.bin" for part in parts), 1, 0, "batches.meta.txt")
        _fill(self, "CIFAR10", root, train, download, lambda: _read_cifar(root, pickled, binary, 10, storage))


class CIFAR100(Arrays):
    """CIFAR-100: as `CIFAR10`, with 100 classes, or with their 20 superclasses where ``coarse``.

    Its folder is ``cifar-100-python`` or ``cifar-100-binary``.
    """

    def __init__(
        self,
        root: Root,
        train: bool = True,
        *,
        coarse: bool = False,
        download: bool = False,
        storage: Storage | None = None,
    ) -> None:
        part, kind = "train" if train else "test", "coarse" if coarse else "fine"
        pickled = _Pickled("cifar-100-python", (part,), f"{kind}_labels", "meta", f"{kind}_label_names")
        binary = _Binary("cifar-100-binary", (f"{part}.bin",), 2, int(not coarse), f"{kind}_label_names.txt")
        count = 20 if coarse else 100
        _fill(self, "CIFAR100", root, train, download, lambda: _read_cifar(root, pickled, binary, count, storage))


class MNIST(Arrays):
    """MNIST: grey pictures uint8 [60000 or 10000, 28, 28, 1] and labels of 10 digits; arguments as of `CIFAR10`.

    Its files (``train-images-idx3-ubyte``, …; gzipped or not) lie in ``root/MNIST/raw``, as torchvision puts them, or
    in ``root`` itself.

    Source: Y. LeCun, C. Cortes, C. J. C. Burges, *The MNIST Database of Handwritten Digits*, 1998.
    """

    def __init__(
        self, root: Root, train: bool = True, *, download: bool = False, storage: Storage | None = None
    ) -> None:
        classes = [f"{number} - {word}" for number, word in enumerate(DIGITS)]
        _fill(self, "MNIST", root, train, download, lambda: _read_mnist(root, "MNIST", train, classes, storage))


class FashionMNIST(Arrays):
    """Fashion-MNIST: as `MNIST`, with pictures of clothes, in ``root/FashionMNIST/raw`` or in ``root`` itself.

    Source: H. Xiao, K. Rasul, R. Vollgraf, *Fashion-MNIST*, 2017.
    """

    def __init__(
        self, root: Root, train: bool = True, *, download: bool = False, storage: Storage | None = None
    ) -> None:
        name = "FashionMNIST"
        _fill(self, name, root, train, download, lambda: _read_mnist(root, name, train, FASHION, storage))


def _fill(source: Arrays, name: str, root: Root, train: bool, download: bool, read: Callable[[], Read]) -> None:
    try:
        images, labels, classes = read()
    except FileNotFoundError as error:
        if not download:
            raise FileNotFoundError(f"{name}: {error}; give download=True to fetch it") from None
        if is_remote(os.fspath(root)):
            raise ValueError(f"{name}: download=True needs a local folder, got {os.fspath(root)!r}") from None
        from torchvision import datasets

        getattr(datasets, name)(os.fspath(root), train=train, download=True)
        images, labels, classes = read()
    Arrays.__init__(source, images, labels, classes=classes)


def _read_first(candidates: Sequence[Sequence[str]], storage: Storage) -> tuple[Sequence[str], list[bytes]]:
    """The first group of files that is there at all, and their bytes. Raises ``OSError`` for one missing in it."""
    for paths in candidates:
        arena, starts, errors = storage.read(paths, threads=len(paths))
        if len(errors) == len(paths) and all(isinstance(error, FileNotFoundError) for error in errors.values()):
            continue
        if errors:
            raise next(iter(errors.values()))
        return paths, [arena[starts[i] : starts[i + 1]].tobytes() for i in range(len(paths))]
    tried = ", ".join(dict.fromkeys(paths[0] for paths in candidates))
    raise FileNotFoundError(f"none of its files is there (looked for {tried})")


# CIFAR -------------------------------------------------------------------------------------------------------------

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


class _Pickled(NamedTuple):
    """The Python version: pickled dicts with ``data`` uint8 [N, 3072] and a list of labels."""

    folder: str
    parts: tuple[str, ...]
    labels: str
    meta: str
    names: str


class _Binary(NamedTuple):
    """The binary version: per picture some label bytes, then its 3072 pixels; class names in a text file."""

    folder: str
    parts: tuple[str, ...]
    label_bytes: int
    label_byte: int
    meta: str


def _read_cifar(root: Root, pickled: _Pickled, binary: _Binary, classes: int, storage: Storage | None) -> Read:
    root, storage = os.fspath(root), storage or Storage()
    forms: list[tuple[_Pickled | _Binary, str]] = []
    for form in (pickled, binary):
        forms += [(form, os.path.join(root, form.folder)), (form, root)]
    groups = [[os.path.join(folder, name) for name in (*form.parts, form.meta)] for form, folder in forms]
    paths, contents = _read_first(groups, storage)
    form = forms[groups.index(list(paths))][0]
    parts = [_parse_cifar(form, path, data) for path, data in zip(paths, contents[:-1], strict=False)]
    images = np.empty((sum(len(data) for data, _ in parts), _SIDE, _SIDE, 3), np.uint8)
    first = 0
    for data, _ in parts:  # stored colour by colour
        images[first : first + len(data)] = data.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
        first += len(data)
    labels = np.concatenate([labels for _, labels in parts])
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= classes:
        raise ValueError(f"{paths[0]}: labels run from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    if isinstance(form, _Pickled):
        names = [_text(name) for name in _unpickle(paths[-1], contents[-1]).get(form.names, [])]
    else:
        names = contents[-1].decode().split()
    if len(names) != classes:
        raise ValueError(f"{paths[-1]}: expected the names of {classes} classes, got {len(names)}")
    return images, labels, names


def _parse_cifar(form: _Pickled | _Binary, path: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 3072] and int64 [N]."""
    if isinstance(form, _Binary):
        record = form.label_bytes + _PIXELS
        if not content or len(content) % record:
            raise ValueError(f"{path}: {len(content)} bytes are no whole number of records of {record}; fetch it again")
        rows = np.frombuffer(content, np.uint8).reshape(-1, record)
        return rows[:, form.label_bytes :], rows[:, form.label_byte].astype(np.int64)
    batch = _unpickle(path, content)
    data, labels = batch.get("data"), batch.get(form.labels)
    data = data.value if isinstance(data, _Array) else None
    if data is None or data.ndim != 2 or data.shape[1] != _PIXELS:
        got = "none" if data is None else data.shape
        raise ValueError(f"{path}: expected 'data' as uint8 [N, {_PIXELS}], got {got}")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(label) is int for label in labels):
        raise ValueError(f"{path}: expected {len(data)} whole numbers as {form.labels!r}")
    return data, np.array(labels, np.int64)


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _unpickle(path: str, content: bytes) -> dict[str, Any]:
    """A pickled dict of plain values and uint8 arrays (`_Array`); nothing that a file could make run is built."""
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        return {_text(key): item for key, item in value.items()}
    except Exception as error:  # a damaged pickle raises whatever it comes upon
        raise ValueError(f"{path} is no readable CIFAR file ({error}); fetch it again") from error


class _Array:
    """Stands for ``numpy.ndarray`` in a pickle: numpy's own would take its shape and type from the file unchecked."""

    value: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C").value


class _DType:
    """Stands for ``numpy.dtype``."""

    def __init__(self, name: Any = None, *flags: Any) -> None:
        self.name = _text(name)

    def __setstate__(self, state: Any) -> None:
        pass  # a byte order, which one byte has not


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    if not isinstance(dtype, _DType) or dtype.name not in ("u1", "|u1", "uint8"):
        raise pickle.UnpicklingError("it holds an array that is not uint8")
    array = _Array()
    array.value = np.frombuffer(data, np.uint8).reshape(shape, order="F" if order == "F" else "C")
    return array


class _Unpickler(pickle.Unpickler):
    _STAND_INS: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
        ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
        ("numpy.core.numeric", "_frombuffer"): _array,  # protocol 5
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),  # how protocol 2 spells bytes
    }

    def find_class(self, module: str, name: str) -> Any:
        found = self._STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which has no place in such a file")
        return found


# MNIST -------------------------------------------------------------------------------------------------------------


def _read_mnist(root: Root, name: str, train: bool, classes: Sequence[str], storage: Storage | None) -> Read:
    root, part = os.fspath(root), "train" if train else "t10k"
    groups = [
        [os.path.join(root, folder, f"{part}-{what}{suffix}") for what in (f"images{dot}idx3", f"labels{dot}idx1")]
        for folder in (f"{name}/raw", "")
        for dot in "-."
        for suffix in ("-ubyte", "-ubyte.gz")
    ]
    paths, contents = _read_first(groups, storage or Storage())
    images, labels = (_parse_idx(path, data, axes) for path, data, axes in zip(paths, contents, (3, 1), strict=True))
    if labels.max(initial=0) >= len(classes):
        raise ValueError(f"{paths[1]}: label {labels.max()}, expected 0 to {len(classes) - 1}")
    return images, labels, classes


def _parse_idx(path: str, content: bytes, axes: int) -> np.ndarray:
    """IDX: two zero bytes, the type (8: uint8), the number of axes, their sizes as big-endian uint32, the values."""
    if path.endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is no whole gzip file ({error}); fetch it again") from error
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
        raise ValueError(f"{path} is no IDX file of uint8 with {axes} axes: it starts with {content[:4]!r}")
    shape = np.frombuffer(content, ">u4", axes, offset=4).tolist()
    if len(content) - start != int(np.prod(shape, dtype=object)):
        raise ValueError(f"{path}: expected the bytes of {shape} after the header, got {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
