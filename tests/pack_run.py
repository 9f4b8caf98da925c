"""Packs a folder once undisturbed and once killed at random moments: python pack_run.py FOLDER KILLS.

The runs are children of this process, forked before anything but imports has happened in it. Last line: how many were
killed, how many files there are, and the two trees' digests, as JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

import dalipipe
from dalipipe.ops import image as ops
from dalipipe.packing import run as _  # noqa: F401 - so that children need not import it


def child(root: Path, out: Path) -> int:
    """Forks a run that continues what there is; returns its process."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        policy = dalipipe.Policy([ops.RandomResizedCrop(48), ops.HorizontalFlip(), ops.Normalize()])
        source = dalipipe.ImageFolder(root, cache=False)
        dalipipe.pack(source, out, policy=policy, split_at=2, copies=2, shard_size="60KiB", resume=True)
        status = 0
    finally:
        os._exit(status)


def wait(pid: int, seconds: float | None = None) -> int | None:
    """Its exit status; ``None``: it was still at work after so many seconds, and is so no more."""
    end = time.monotonic() + (1e9 if seconds is None else seconds)
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def tree(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def main(folder: Path, kills: int) -> None:
    chance = random.Random(0)
    rng = np.random.default_rng(0)
    root = folder / "pictures"
    for i in range(300):
        path = root / f"class_{i % 3}" / f"{i:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(out, "JPEG", quality=60)
        path.write_bytes(out.getvalue())
    begun = time.monotonic()
    assert wait(child(root, folder / "whole")) == 0
    takes_s = time.monotonic() - begun
    killed = 0
    out = folder / "out"
    while killed < kills:
        status = wait(child(root, out), chance.uniform(0, 0.5) * takes_s)
        if status is None:
            killed += 1
        elif status:
            raise SystemExit(f"a run ended with status {status}")
        elif killed < kills:  # done before it could be killed as often as that: once more from the start
            assert tree(out) == tree(folder / "whole")
            out = folder / f"out{killed}"
    assert wait(child(root, out)) == 0
    trees = [tree(folder / "whole"), tree(out)]
    digests = [hashlib.sha256(json.dumps(each).encode()).hexdigest() for each in trees]
    print(json.dumps([killed, len(trees[0]), *digests]))


main(Path(sys.argv[1]), int(sys.argv[2]))
