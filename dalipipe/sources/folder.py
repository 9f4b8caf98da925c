"""Pictures in folders, one per class: ``root/<class>/**/<picture>``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from dalipipe import native
from dalipipe.records import Encoded, Records
from dalipipe.schema import Field, Schema
from dalipipe.sources.base import Source, digest

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")


class ImageFolder(Source):
    """Labelled pictures: a folder per class, the classes numbered in sorted order, as torchvision's ``ImageFolder``
    has them.

    Fields: ``image`` (any format that DALI or Pillow decodes, converted to RGB; EXIF orientation is left alone, as
    torchvision leaves it) and ``label`` (int64). Raises ``FileNotFoundError`` for a missing or empty root, a root
    without class folders, and a class without pictures.
    """

    schema = Schema((Field("image", "image", channels=3), Field("label", "column")))

    def __init__(self, root: str | os.PathLike[str]) -> None:
        root = os.fspath(root)
        if not os.path.isdir(root):
            raise FileNotFoundError(f"{root!r} is no folder: expected one with a sub-folder of pictures per class")
        classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        if not classes:
            loose = sum(_is_picture(entry.name) for entry in os.scandir(root))
            found = f"{loose} pictures directly in it" if loose else "nothing of the kind"
            raise FileNotFoundError(
                f"{root!r} has no class folders ({found}): "
                f"move the pictures into a sub-folder per class, {root}/<class>/*.jpg"
            )
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found_here = _pictures_under(os.path.join(root, name))
            if not found_here:
                raise FileNotFoundError(
                    f"class folder {os.path.join(root, name)!r} has no pictures "
                    f"({', '.join(EXTENSIONS)}): fill it or remove it"
                )
            paths += found_here
            labels += [label] * len(found_here)
        self._set(paths, labels, classes)

    @classmethod
    def from_samples(cls, samples: Sequence[tuple[str, int]], classes: Sequence[str] | None = None) -> ImageFolder:
        """From (path, label) pairs, as torchvision's ``ImageFolder.samples`` lists them."""
        if not len(samples):
            raise ValueError("ImageFolder.from_samples: expected at least one (path, label) pair, got none")
        self = cls.__new__(cls)
        self._set([os.fspath(path) for path, _ in samples], [int(label) for _, label in samples], classes)
        return self

    def _set(self, paths: list[str], labels: list[int], classes: Sequence[str] | None) -> None:
        self.paths, self.labels = paths, np.array(labels, np.int64)
        self.classes = None if classes is None else list(classes)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        paths = [self.paths[i] for i in indices.tolist()]
        arena, starts, errors = native.read_files(paths, threads=threads, allocate=allocate)
        return Records({"image": Encoded(arena, starts), "label": self.labels[indices]}, dict(errors))

    def fingerprint(self) -> str:
        # The root may move between machines; what lies under it, and in what order, may not.
        root = os.path.commonpath(self.paths) if len(self.paths) > 1 else os.path.dirname(self.paths[0])
        names = (os.fsencode(path[len(root) :]) for path in self.paths)
        return f"folder-{len(self)}-{digest([*names, self.labels.tobytes()])}"

    def describe(self, index: int) -> str:
        return self.paths[index]

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"ImageFolder({len(self)} pictures{classes})"


def _is_picture(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _pictures_under(folder: str) -> list[str]:
    """Sorted as torchvision sorts: folder by folder, names within."""
    found = []
    for parent, _, names in sorted(os.walk(folder, followlinks=True)):
        found += [os.path.join(parent, name) for name in sorted(names) if _is_picture(name)]
    return found
