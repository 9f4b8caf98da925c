"""What lies under a folder: the files of a kind in it, and a way to see later that nothing was added or taken away."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from dalipipe.storage import Storage, is_remote

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")
_THREADS = 8  # a network file system answers many at once; a local disk's million files take a second either way


class Tree(NamedTuple):
    """``files``: folder, relative to the root and "" for itself, → sorted names of the files right in it.

    ``mtimes_ns``: local folder → when its entries last changed; a store has no folders, and none here.
    """

    files: dict[str, list[str]]
    mtimes_ns: dict[str, int]


def scan(root: str, storage: Storage, endings: tuple[str, ...] = PICTURES) -> Tree:
    """The files whose names end so, in upper or lower case.

    Raises ``FileNotFoundError`` or another ``OSError``: a folder that cannot be looked into is not passed over.
    """
    return _scan_store(root, storage, endings) if is_remote(root) else _scan_disk(root, endings)


def mtimes_ns(root: str, folders: Sequence[str]) -> np.ndarray:
    """int64 [N], of folders relative to the root. Raises ``OSError`` where one is gone."""
    with ThreadPoolExecutor(_THREADS) as pool:
        shares = pool.map(
            lambda part: [os.stat(os.path.join(root, folder)).st_mtime_ns for folder in part],
            [folders[first::_THREADS] for first in range(_THREADS)],
        )
        times = np.empty(len(folders), np.int64)
        for first, share in enumerate(shares):
            times[first::_THREADS] = share
    return times


def _scan_disk(root: str, endings: tuple[str, ...]) -> Tree:
    tree = Tree({}, {})
    if not os.path.isdir(root):
        raise FileNotFoundError(f"{root!r} is no folder")
    with ThreadPoolExecutor(_THREADS) as pool:
        level = [""]
        while level:
            below = []
            looks = pool.map(lambda name: _look(os.path.join(root, name), endings), level)
            for folder, look in zip(level, looks, strict=True):
                tree.files[folder], subfolders, tree.mtimes_ns[folder] = look
                below += [os.path.join(folder, name) for name in subfolders]
            level = below
    return tree


def _look(folder: str, endings: tuple[str, ...]) -> tuple[list[str], list[str], int]:
    """Files and folders in it, each sorted, and its time: taken first, so that a change meanwhile is seen later."""
    files, folders = [], []
    mtime_ns = os.stat(folder).st_mtime_ns
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():  # links followed, as torchvision does
                folders.append(entry.name)
            elif entry.name.lower().endswith(endings):
                files.append(entry.name)
    return sorted(files), sorted(folders), mtime_ns


def _scan_store(root: str, storage: Storage, endings: tuple[str, ...]) -> Tree:
    tree = Tree({"": []}, {})
    skip = len(os.path.join(root, ""))
    for file in storage.list(root):
        folder, _, name = file.path[skip:].rpartition("/")
        names = tree.files.setdefault(folder, [])
        if name.lower().endswith(endings):
            names.append(name)
    for names in tree.files.values():
        names.sort()
    return tree
