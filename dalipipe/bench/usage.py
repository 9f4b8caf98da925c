"""What a process and all its children use: processor seconds and memory, from /proc. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """``pid`` and what descends from it, as far as it is alive."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def cpu_s(pid: int) -> float:
    """Processor seconds so far of ``pid``'s tree, with those of children that have ended and were waited for."""
    return total_cpu_s(tree(pid))


def total_cpu_s(pids: list[int]) -> float:
    """As `cpu_s`, of processes that are known: quick, where finding a tree looks at all processes of the machine."""
    return sum(sum(map(int, fields[11:15])) for one in pids if (fields := _stat(one))) / _TICKS_PER_S


def pss_bytes(pid: int) -> int:
    """Memory of ``pid``'s tree: what processes share counts once (proportional set size)."""
    total = 0
    for one in tree(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def _stat(pid: int) -> list[str]:
    """What follows the name in /proc/PID/stat: state, parent, ...; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
