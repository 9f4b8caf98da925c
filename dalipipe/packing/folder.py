"""The folder of a pack under way: what is in it, who writes there, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from dalipipe.packing.shard import WORK, sync_folder
from dalipipe.sources.packed import INDEX, MANIFEST

_OWN = (WORK, INDEX, MANIFEST, "bad.jsonl")
_PARTS = re.compile(r"shard-.*\.tar|text-.*\.jsonl")


def make_room(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Makes the folder, or finds that a pack may be written there. Raises `FileExistsError` where none may."""
    if resume and overwrite:
        raise ValueError("pack: resume continues a pack and overwrite replaces it: give one of them")
    there = sorted(os.listdir(folder)) if folder.is_dir() else []
    own = [name for name in there if name in _OWN or _PARTS.match(name)]
    if len(own) < len(there):
        other = next(name for name in there if name not in own)
        raise FileExistsError(f"{folder} holds {other!r}, which is no part of a pack; name another folder")
    if own and not (resume or overwrite):
        state = "a pack" if MANIFEST in own else "a pack under way"
        raise FileExistsError(
            f"{folder} holds {state}: resume (--resume) continues it, overwrite (--overwrite) replaces it"
        )
    if overwrite:
        for name in sorted(own, key=lambda name: name != MANIFEST):  # first what says that it is whole
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if overwrite or MANIFEST not in own:
        (folder / WORK).mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two runs must not write into one folder; a killed one holds nothing."""
    with open(folder / WORK / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"another run is packing into {folder}: wait for it, or name another folder") from error
        yield


def write_whole(path: Path, data: bytes) -> None:
    """A file that is there as a whole, or as it was."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    sync_folder(path.parent)


def sync(path: Path) -> None:
    """What is in the file stays so after a crash."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
