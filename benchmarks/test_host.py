"""What the host can feed: the loader over tiled JPEGs as for a CUDA device, whose own work is left out.

    pytest benchmarks/test_host.py --data=DIR

Reading, headers, draws, stripping and writing for the upload, passes: all that a GPU would wait for. From files, and
with cache="device", where pictures lie stripped in the device's memory. Beside it, the whole work on the host.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import pytest
import torch
from rounds import interleave, write

import dalipipe
from dalipipe import native
from dalipipe.engines.base import common_size
from dalipipe.engines.native import NativeEngine

pytestmark = pytest.mark.timeout(0)

GOAL = 150_000  # images/s that one device is to be fed with
CORES = 16


class NoDevice:
    """A `Queue` that does nothing. Its memory is there; what is written for it is written."""

    on_cuda = False

    def __init__(self) -> None:
        self._device = torch.empty(1 << 30, dtype=torch.uint8)
        self._pinned = [torch.zeros(256 << 20, dtype=torch.uint8) for _ in range(4)]  # more than are in flight

    def empty(self, nbytes: int) -> torch.Tensor:
        return self._device[-self._device.data_ptr() % 16 :][:nbytes]

    def pinned(self, nbytes: int) -> torch.Tensor:
        self._pinned.append(self._pinned.pop(0))
        memory = self._pinned[-1]
        memory[:16_384] = 0  # nothing is damaged
        return memory[-memory.data_ptr() % 16 :][:nbytes]

    def upload_bytes(self, n: int) -> int:
        return 128 * n + 64

    def decode_tiles(self, jpegs: Any, shapes: Any, regions: Any, out: Any, **_: Any) -> None:
        native.decode_tiles_params(jpegs, shapes, regions, out)

    def copy(self, pinned: torch.Tensor, address: int) -> None: ...

    def mark(self) -> Callable[[], Any]:
        return lambda: None

    def follow(self) -> None: ...

    def lend(self, memory: torch.Tensor) -> None: ...

    def upload(self, pictures: Any, threads: int) -> Any:
        raise AssertionError("all of these are JPEGs of tiles")


@contextlib.contextmanager
def left_out(monkeypatch: pytest.MonkeyPatch, queue: NoDevice) -> Any:
    """Loaders take the host's memory for a device's, and nothing is done there."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "tests")
    from emulation import decode_as_on_device

    batch = torch.empty(1024, peers.SIZE, peers.SIZE, 3, dtype=torch.bfloat16)

    def start(engine: Any, pictures: Any, draws: Any) -> Callable[[], torch.Tensor]:
        common_size(draws)
        engine._passes(pictures, draws.params)
        return lambda: batch[: len(pictures)].permute(0, 3, 1, 2)

    with monkeypatch.context() as patched:
        decode_as_on_device(patched, queue, lambda threads: pytest.fail("another decoder is wanted"))
        patched.setattr(NativeEngine, "start", start)
        yield


def loader(pack: Path, batch: int, workers: int, **options: Any) -> dalipipe.DataLoader:
    return dalipipe.DataLoader(
        dalipipe.Packed(pack),
        batch,
        shuffle=True,
        num_workers=workers,
        policy=dalipipe.recipes.imagenet_train(peers.SIZE),
        dtype=torch.bfloat16,
        memory_format=torch.channels_last,
        device="cpu",
        seed=0,
        **options,
    )


def test_host(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config, benchmark: Any
) -> None:
    workers, queue = len(os.sched_getaffinity(0)), NoDevice()
    dalipipe.pack(dalipipe.ImageFolder(photographs), tmp_path / "pack", format="tiled")
    file_bytes = sum(os.path.getsize(path) for path in (tmp_path / "pack").glob("*.tar"))

    def turn(loading: dalipipe.DataLoader, epochs: int, *, on_host: bool = False) -> Callable[[], int]:
        def run() -> int:
            with contextlib.nullcontext() if on_host else left_out(monkeypatch, queue):
                return sum(len(batch.indices) for _ in range(epochs) for batch in loading)

        return run

    loaders, contenders = [], {}
    for batch in (256, 1000):
        for name, cached, epochs in (("from files", False, 4), ("cache on the device", True, 20)):
            options = {"cache": "device", "cache_bytes": int(1.2 * file_bytes)} if cached else {}
            loaders.append(loader(tmp_path / "pack", batch, workers, **options))
            contenders[f"{name}, batches of {batch:,}"] = turn(loaders[-1], epochs)
    loaders.append(loader(tmp_path / "pack", 256, workers))
    contenders["all on the host, batches of 256"] = turn(loaders[-1], 1, on_host=True)
    timings = benchmark.pedantic(
        interleave, args=(contenders, pytestconfig.getoption("--rounds")), rounds=1, iterations=1
    )
    for one in loaders:
        one.close()
    result = {
        "what": "RandomResizedCrop 224 + flip + normalise → bf16 channels last, without the device's own work",
        "images": "3,000 tiled JPEGs: 125 ImageNet photographs, 24 times each, in the page cache",
        "workers": workers,
        "goal": {"per_s": GOAL, "cores": CORES, "cpu_ms": 1e3 * CORES / GOAL},
        "contenders": {name: timing.summary() for name, timing in timings.items()},
    }
    path = write("host_cpu", result, pytestconfig.getoption("--results"))
    print(f"\n{ ({name: round(statistics.median(t.rates)) for name, t in timings.items()}) }\n→ {path}")
