"""Files in folders, one per class; pictures so, ``root/<class>/**/<picture>``, or in a list of paths and labels."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dalipipe.records import Encoded, Records
from dalipipe.schema import Field, Schema
from dalipipe.sources.base import Source, changed_labels, digest
from dalipipe.sources.index import cached_index
from dalipipe.sources.index.listing import is_absolute, parse_list
from dalipipe.sources.index.names import Names, common_folder
from dalipipe.sources.index.scan import PICTURES, mtimes_ns, scan
from dalipipe.storage import Storage, is_remote

if TYPE_CHECKING:
    from typing_extensions import Self

_WORTH_KEEPING = 10_000  # files; fewer are found again as fast as an index is read
_SETTLED_NS = (
    2_000_000_000  # a folder changed this shortly before it was scanned may change again within a clock's tick
)
Index = dict[str, np.ndarray]


class LabelledFiles(Source):
    """Files with a label each: what sources of encoded files in folders have in common."""

    paths: Names
    _what: ClassVar[str]  # for people
    _endings: ClassVar[tuple[str, ...]]

    def _find(
        self,
        root: str | os.PathLike[str],
        target_transform: Callable[[int], int] | None,
        storage: Storage | None,
        *,
        cache: bool,
        index_dir: str | os.PathLike[str] | None,
        refresh: bool,
        label: str = "top",
    ) -> None:
        """Looks for the files under a folder: arguments as of `ImageFolder`; ``label``: which folder names the class,
        the "top" one below the root, or the file's "parent".
        """
        root = os.fspath(root)
        storage = storage or Storage()
        remote = is_remote(root)
        if not remote and not os.path.isdir(root):
            raise FileNotFoundError(f"{root!r} is no folder: expected one with a sub-folder of {self._what} per class")
        if index_dir is not None and not remote and _lies_under(index_dir, root):
            raise ValueError(
                f"index_dir {os.fspath(index_dir)!r} lies in {root!r}, which it would change; name another"
            )

        def is_current(kept: Index) -> bool:
            if refresh:
                return False
            if remote:
                return True
            folders = _texts(kept, "folder")
            return bool(
                kept["folder_mtimes_ns"].max() < kept["scanned_ns"] - _SETTLED_NS
                and np.array_equal(mtimes_ns(root, folders[:]), kept["folder_mtimes_ns"])
            )

        def build() -> Index:
            return _index_of_folders(root, storage, self._what, self._endings, label)

        if cache:
            of = [*_known_as(root, storage), self._what, label]
            index = cached_index("folder2", of, build, is_current, index_dir, keep=_is_large)
        else:
            index = build()
        names, classes = _texts(index, "name", os.path.join(root, "")), _texts(index, "class")[:]
        self._set(names, changed_labels(index["labels"], target_transform), classes, storage)

    def _set(
        self, paths: Names, labels: np.ndarray | None, classes: Sequence[str] | None, storage: Storage | None
    ) -> Self:
        self.paths, self.storage, self.labels = paths, storage or Storage(), labels
        self.classes = None if classes is None else list(classes)
        return self

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        # The root may move between machines; what lies under it, and in what order, may not.
        labels = b"" if self.labels is None else self.labels.tobytes()
        return f"folder-{len(self)}-{digest([self.paths.arena.tobytes(), labels])}"

    def describe(self, index: int) -> str:
        return self.paths[index]

    def files(self) -> Iterable[str]:
        return (path for path in self.paths if not is_remote(path))

    def close(self) -> None:
        self.storage.close()

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"{type(self).__name__}({len(self)} {self._what}{classes})"


class ImageFolder(LabelledFiles):
    """Labelled pictures: a folder per class, the classes numbered in sorted order, as torchvision's ``ImageFolder``
    has them.

    Fields: ``image`` (any format that DALI or Pillow decodes, converted to RGB; EXIF orientation is left alone, as
    torchvision leaves it) and ``label`` (int64).

    Args:
        root: a folder, or the URL of one in a store (``s3://bucket/train``).
        transform: of torchvision or timm, for the pictures: a loader without a policy converts it (`dalipipe.convert`).
        target_transform: a function of a label, to another whole number: called once for each class.
        storage: reads and lists; None: local files, and stores by their default settings.
        cache: keep what was found in large folders (10,000 pictures and more) in an index file. That of a local folder
            holds until a folder under the root changes; a store's, which nobody can see change, until ``refresh``.
        index_dir: where index files lie; None: ``$DALIPIPE_CACHE/index``, by default ``~/.cache/dalipipe/index``.
        refresh: look again, and replace the index file.

    ``paths`` is a sequence of ``str`` that takes the memory of its bytes.

    Raises:
        FileNotFoundError: a missing or empty root, a root without class folders, a class without pictures.
        ValueError: an ``index_dir`` within the root, a ``target_transform`` that gives anything but whole numbers.
    """

    schema = Schema((Field("image", "image", channels=3), Field("label", "column")))
    labels: np.ndarray
    may_have_tiles = False
    _what = "pictures"
    _endings = PICTURES

    def __init__(
        self,
        root: str | os.PathLike[str],
        transform: Any = None,
        target_transform: Callable[[int], int] | None = None,
        *,
        storage: Storage | None = None,
        cache: bool = True,
        index_dir: str | os.PathLike[str] | None = None,
        refresh: bool = False,
    ) -> None:
        self._find(root, target_transform, storage, cache=cache, index_dir=index_dir, refresh=refresh)
        self.transform = transform

    @classmethod
    def from_samples(
        cls,
        samples: Sequence[tuple[str, int]],
        classes: Sequence[str] | None = None,
        *,
        storage: Storage | None = None,
    ) -> ImageFolder:
        """From (path, label) pairs, as torchvision's ``ImageFolder.samples`` lists them; a path may be a URL."""
        if not len(samples):
            raise ValueError("ImageFolder.from_samples: expected at least one (path, label) pair, got none")
        paths = [os.fspath(path) for path, _ in samples]
        labels = np.array([int(label) for _, label in samples], np.int64)
        return cls.__new__(cls)._set(without_common_folder(paths), labels, classes, storage)

    @classmethod
    def from_list(
        cls,
        file: str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        *,
        delimiter: str | None = None,
        classes: Sequence[str] | None = None,
        storage: Storage | None = None,
        cache: bool = True,
        index_dir: str | os.PathLike[str] | None = None,
    ) -> ImageFolder:
        """From a text file (UTF-8; local or a URL) of one ``path<delimiter>label`` a line.

        Args:
            root: what relative paths start from; None: the folder of ``file``. Absolute paths and URLs stay as they
                are.
            delimiter: "\\t"; "," (quotes as in CSV); " " (the last in the line, so that a path may hold some); None: by
                the first line.
            classes: names by label; where labels are names, they are numbered by it, and without it in sorted order.
            storage, cache, index_dir: as for a folder; the index of a list holds until the list changes.

        A first line that says ``path``, ``filename``, ``image`` or the like is a header.

        Raises:
            FileNotFoundError: no such file.
            ValueError: an empty list, or a line that is not as it must be, by its number.
        """
        file, storage = os.fspath(file), storage or Storage()
        root = os.path.join(os.path.dirname(file) if root is None else os.fspath(root), "")
        info = storage.info(file)
        version = np.frombuffer(f"{info.size_bytes} {info.version}".encode(), np.uint8)

        def build() -> Index:
            return {**_index_of_list(file, root, delimiter, storage), "version": version}

        if cache:
            of = [*_known_as(file, storage), root, delimiter or ""]
            index = cached_index(
                "list1", of, build, lambda kept: np.array_equal(kept["version"], version), index_dir, keep=_is_large
            )
        else:
            index = build()
        paths, labels = _texts(index, "name", _texts(index, "prefix")[0]), index["labels"]
        if len(index["class_starts"]) > 1:  # labels are names
            names = _texts(index, "class")[:]
            if classes is not None:
                labels = renumbered(labels, names, list(classes), file)
            else:
                classes = names
        elif classes is not None and not 0 <= labels.min() <= labels.max() < len(classes):
            raise ValueError(
                f"{file}: labels run from {labels.min()} to {labels.max()}, but there are {len(classes)} classes"
            )
        return cls.__new__(cls)._set(paths, labels, classes, storage)

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        arena, starts, errors = self.storage.read(self.paths.take(indices), threads=threads, allocate=allocate)
        return Records({"image": Encoded(arena, starts), "label": self.labels[indices]}, dict(errors))


# An index: names in one arena (`name`, `name_starts`), int64 labels [N], and the classes' names the same way.


def _texts(index: Index, what: str, prefix: str = "") -> Names:
    return Names(index[what], index[f"{what}_starts"], prefix)


def _arrays(what: str, names: Names) -> Index:
    return {what: names.arena, f"{what}_starts": names.starts}


def _is_large(index: Index) -> bool:
    return len(index["labels"]) >= _WORTH_KEEPING


def _index_of_folders(root: str, storage: Storage, what: str, endings: tuple[str, ...], label: str) -> Index:
    scanned_ns = time.time_ns()
    tree = scan(root, storage, endings)
    # As torchvision orders them: class by class, in each folder by folder, in each by name.
    if label == "top":
        folders = sorted((folder.partition("/")[0], folder) for folder in tree.files if folder)
    else:  # a folder without files is but on the way to others
        folders = sorted((folder.rpartition("/")[2], folder) for folder in tree.files if folder and tree.files[folder])
    classes: list[str] = []
    counts: list[int] = []
    names: list[str] = []
    for name, members in groupby(folders, key=lambda pair: pair[0]):
        before = len(names)
        for _, folder in members:
            names += [f"{folder}/{file}" for file in tree.files[folder]]
        classes.append(name)
        counts.append(len(names) - before)
        if not counts[-1]:
            raise FileNotFoundError(
                f"class folder {os.path.join(root, name)!r} has no {what} ({', '.join(endings)}): fill it or remove it"
            )
    if not classes:
        loose = len(tree.files[""])
        found = f"{loose} {what} directly in it" if loose else "nothing of the kind"
        raise FileNotFoundError(
            f"{root!r} has no class folders ({found}): "
            f"move the {what} into a sub-folder per class, {root}/<class>/*{endings[0]}"
        )
    return {
        **_arrays("name", Names.of(names)),
        **_arrays("class", Names.of(classes)),
        **_arrays("folder", Names.of(list(tree.mtimes_ns))),
        "labels": np.repeat(np.arange(len(classes)), counts),
        "folder_mtimes_ns": np.array(list(tree.mtimes_ns.values()), np.int64),
        "scanned_ns": np.array(scanned_ns),
    }


def _index_of_list(file: str, root: str, delimiter: str | None, storage: Storage) -> Index:
    arena, starts, errors = storage.read([file], threads=1)
    if errors:
        raise errors[0]
    names, values = parse_list(os.fsdecode(arena[: starts[1]].tobytes()), file, delimiter)
    if any(is_absolute(name) for name in names):
        paths = without_common_folder([name if is_absolute(name) else root + name for name in names])
    else:
        paths = Names.of(names, root)
    classes: list[str] = []
    try:
        labels = np.array([int(value) for value in values], np.int64)
    except ValueError:
        classes = sorted(set(values))
        number = {name: i for i, name in enumerate(classes)}
        labels = np.array([number[value] for value in values], np.int64)
    return {
        **_arrays("name", paths),
        **_arrays("prefix", Names.of([paths.prefix])),
        **_arrays("class", Names.of(classes)),
        "labels": labels,
    }


def _known_as(path: str, storage: Storage) -> list[str]:
    """What tells it from others: buckets of one name may stand at several endpoints."""
    return [path, str((storage.options or {}).get("endpoint"))] if is_remote(path) else [os.path.abspath(path)]


def _lies_under(path: str | os.PathLike[str], root: str) -> bool:
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(root), ""))


def without_common_folder(paths: list[str]) -> Names:
    """The folder that all lie under becomes their prefix."""
    folder = common_folder(paths)
    return Names.of([path[len(folder) :] for path in paths], folder)


def renumbered(labels: np.ndarray, names: list[str], classes: list[str], file: str) -> np.ndarray:
    """Numbers of ``names`` → of ``classes``, int64 [N]. Raises ``ValueError`` for a name that is no class."""
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise ValueError(f"{file}: label {unknown[0]!r} is none of the {len(classes)} classes ({classes[0]!r}, …)")
    return np.array([classes.index(name) for name in names], np.int64)[labels]
