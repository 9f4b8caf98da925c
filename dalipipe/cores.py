"""How many of the processor's cores there are to use."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores() -> float:
    """By this process: its affinity, and a container's quota where there is one, which need not be whole."""
    try:
        cores = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # not on Linux
        cores = float(os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, float(quota) / float(period))
    except (OSError, ValueError):  # no limit, or "max"
        return cores


def threads() -> int:
    """For this process to run side by side, at least 1: its share, where torchrun has started several on this node."""
    there = max(1, round(usable_cores()))
    return max(1, there // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
