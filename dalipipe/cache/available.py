"""How much memory this process may still take: of the machine's, and of what its control groups leave it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
# Versions 2 and 1: the bound, what is used, and of that the part which is given up when memory gets short.
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available_bytes(cgroups: Path = _CGROUPS) -> int:
    """Host memory that can be had without taking any from others."""
    found = [_machine()]
    for folder in _groups(cgroups):
        for limit, used, reclaimable in _FILES:
            with suppress(OSError, ValueError):  # "max", or no such file
                bound, taken = int((folder / limit).read_text()), int((folder / used).read_text())
                found.append(bound - taken + _stat(folder, reclaimable))
    return max(min(found), 0)


def _machine() -> int:
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # without what the page cache could give up


def _stat(folder: Path, name: str) -> int:
    with suppress(OSError):
        for line in (folder / "memory.stat").read_text().splitlines():
            if line.startswith(name + " "):
                return int(line.split()[1])
    return 0


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's groups and of all above them."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            folder = root / "memory" if controllers else root
            parts = Path(path.lstrip("/")).parts
            for depth in range(len(parts), -1, -1):
                yield folder.joinpath(*parts[:depth])
