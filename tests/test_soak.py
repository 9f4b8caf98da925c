"""Long runs and sudden ends: memory, threads and descriptors stay flat, and a signal ends a process at once."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import dalipipe
from dalipipe.ops import image as ops

POLICY = dalipipe.Policy([ops.RandomResizedCrop(32), ops.HorizontalFlip(), ops.Normalize()])


def holdings() -> dict[str, Any]:
    gc.collect()
    me = psutil.Process()
    threads = sorted(thread.name for thread in threading.enumerate())
    return {"rss": me.memory_info().rss, "threads": threads, "descriptors": me.num_fds()}


@pytest.mark.parametrize("decoder", ["dali", "pillow"])
def test_fifty_epochs_and_fifty_early_breaks(jpeg_folder: Any, decoder: str) -> None:
    source = dalipipe.ImageFolder(jpeg_folder(n=150, size=(96, 128)))
    loader = dalipipe.DataLoader(source, 16, shuffle=True, policy=POLICY, seed=1, device="cpu", decoder=decoder)

    def run(epochs: int) -> None:
        for _ in range(epochs):
            assert sum(len(batch.image) for batch in loader) == 150
            for number, _batch in enumerate(loader):
                if number == 2:
                    break

    run(8)  # DALI's buffers reach their size
    before = holdings()
    run(25)
    half = holdings()
    run(25)
    after = holdings()
    assert after["threads"] == before["threads"] and after["descriptors"] == before["descriptors"]
    grown = (half["rss"] - before["rss"]) / 2**20, (after["rss"] - half["rss"]) / 2**20
    print(f"{grown[0]:+.1f} and {grown[1]:+.1f} MiB in the first and second 25 epochs, {after}")
    assert grown[1] < 8, f"{grown} MiB in the first and second 25 epochs"
    loader.close()
    assert threading.active_count() <= len(before["threads"])


ENDLESS = """
import sys, time, numpy as np, dalipipe
from dalipipe.ops import image as ops

class Hanging(dalipipe.ImageFolder):
    def read(self, indices, **kw):
        if self.hang and 100 in indices:
            time.sleep(600)
        return super().read(indices, **kw)

source = Hanging(sys.argv[1])
source.hang = sys.argv[2] == "hanging"
policy = dalipipe.Policy([ops.RandomResizedCrop(32), ops.Normalize()])
loader = dalipipe.DataLoader(source, 10, policy=policy, device="cpu")
for epoch in range(10**6):
    for number, batch in enumerate(loader):
        print(epoch, number, flush=True)
        time.sleep(0.01)
"""


@pytest.mark.parametrize("storage", ["working", "hanging"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_an_epoch_within_two_seconds(jpeg_folder: Any, number: signal.Signals, storage: str) -> None:
    root = jpeg_folder(n=150)
    command = [sys.executable, "-c", ENDLESS, str(root), storage]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None and child.stderr is not None
        for line in child.stdout:
            if line.startswith("0 7" if storage == "hanging" else "1 3"):
                break
        time.sleep(0.3)
        begin = time.monotonic()
        child.send_signal(number)
        child.wait(timeout=30)
        took_s = time.monotonic() - begin
        errors = child.stderr.read()
    assert took_s < 2, (took_s, errors)
    if number == signal.SIGTERM:
        assert child.returncode == -signal.SIGTERM
    else:
        assert "KeyboardInterrupt" in errors and "Fatal" not in errors and "core dumped" not in errors
        assert child.returncode in (1, 130, -signal.SIGINT)


def test_a_loader_whose_storage_hangs_times_out(tmp_path: Path, jpeg_folder: Any) -> None:
    class Hanging(dalipipe.ImageFolder):
        def read(self, indices: Any, **kw: Any) -> Any:
            if 20 in indices:
                woken.wait(20)
            return super().read(indices, **kw)

    woken = threading.Event()
    loader = dalipipe.DataLoader(Hanging(jpeg_folder(n=30)), 5, policy=POLICY, device="cpu", timeout=0.5)
    begin, given = time.monotonic(), 0
    with pytest.raises(TimeoutError, match=r"no batch came in 0.5 s"):
        for _ in loader:
            given += 1
            begin = time.monotonic()
    took_s = time.monotonic() - begin
    woken.set()
    assert given == 3 and 0.4 < took_s < 3, "one batch is being decoded while the next is read"
