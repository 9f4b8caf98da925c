"""How the processes of a node find the memory that one of them keeps: through a small file that names who has it open.

A line of it is a process and the number of its open file. Who is gone has nothing open any more, so the file is never
to be trusted, only tried; whoever comes next writes it anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterator

from dalipipe.cache.arena import HostArena


class MeetingError(OSError):
    """The processes of this user cannot meet here."""


def join(name: str, make: Callable[[], HostArena]) -> HostArena:
    """The arena of this name that another process has, else the one that ``make`` gives, for others to find.

    Raises ``OSError`` where either cannot be.
    """
    with _opened(name) as file:
        for pid, number in _holders(file):
            if pid != os.getpid():  # what this process had is closed, and its number may be another file's
                arena = HostArena.attach(pid, number, name)
                if arena is not None:
                    break
        else:
            os.ftruncate(file, 0)  # so that the file goes, should this fail
            arena = make()
        _write(file, [*_others(file, name), (os.getpid(), int(arena.descriptor or 0))])
        return arena


def leave(name: str) -> None:
    """This process no longer has it."""
    with contextlib.suppress(OSError), _opened(name) as file:
        _write(file, _others(file, name))


def tidy() -> None:
    """Removes the files of arenas that nobody has any more: of processes that were killed."""
    with contextlib.suppress(OSError):
        for name in os.listdir(_folder()):
            with contextlib.suppress(OSError), _opened(name, wait=False) as file:
                _write(file, _others(file, name, and_own=True))


def _folder() -> str:
    return os.path.join(tempfile.gettempdir(), f"dalipipe-{os.getuid()}")


def _path(name: str) -> str:
    return os.path.join(_folder(), name)


@contextlib.contextmanager
def _opened(name: str, *, wait: bool = True) -> Iterator[int]:
    """The file, locked; in the end it goes, if it names nobody."""
    folder = _folder()
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise MeetingError(f"{folder} must be a folder that nobody else may write to")
    while True:
        file = os.open(_path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not _is_at(file, _path(name)):  # it was removed while we waited
                continue
            try:
                yield file
            finally:
                if not _holders(file):
                    os.unlink(_path(name))
            return
        finally:
            os.close(file)


def _is_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _holders(file: int) -> list[tuple[int, int]]:
    found = []
    for line in os.pread(file, 1 << 20, 0).decode("ascii", "replace").splitlines():
        pid, _, number = line.partition(" ")
        if pid.isdecimal() and number.isdecimal():
            found.append((int(pid), int(number)))
    return found


def _others(file: int, name: str, *, and_own: bool = False) -> list[tuple[int, int]]:
    """Who else has it, and still lives."""
    found = []
    for pid, number in _holders(file):
        if and_own or pid != os.getpid():
            arena = HostArena.attach(pid, number, name)
            if arena is not None:
                arena.close()
                found.append((pid, number))
    return found


def _write(file: int, holders: list[tuple[int, int]]) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, "".join(f"{pid} {number}\n" for pid, number in holders).encode(), 0)
