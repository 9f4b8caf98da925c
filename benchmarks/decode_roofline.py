"""How near the decoder's kernels are to what the device's memory can do, and what a batch costs the host."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from decode_bench import Bench
from huffman_symbols import count_symbols

from dalipipe import native
from dalipipe.decoders.base import inspect
from dalipipe.decoders.device import TileDecoder
from dalipipe.engines.base import Output
from dalipipe.engines.native import NativeEngine
from dalipipe.records import Encoded, Tiles


def roofline(bench: Bench, found: dict[str, Any]) -> None:
    """A batch's kernels, one after the other: time, bytes, symbols; the host's work for it; which of them is most."""
    device, batch, cores = bench.device, bench.scale.batches[0], bench.cores
    rows = slice(0, batch)
    found["batch"] = batch
    copy, upload = device.copy_gb_per_s(), device.upload_gb_per_s()
    found["copy_gb_per_s"], found["upload_gb_per_s"] = round(copy, 1), round(upload, 1)

    # On the device.
    tiles, draws = bench.resident, bench.draws(rows)
    roi, here = draws.params.roi, Tiles(tiles.address[rows], tiles.shape[rows], tiles.owner)
    decoder = TileDecoder(device.queue(), threads=cores)
    engine = NativeEngine(bench.plan, Output(device.device, torch.bfloat16, torch.channels_last), threads=cores)

    def run() -> torch.Tensor:
        decoder.submit(here, roi)
        pictures, _ = decoder.collect()
        return engine.start(pictures, draws)()

    with contextlib.closing(decoder), contextlib.closing(engine):
        kernels_us, out = device.kernels_us(run), run()
    encoded = Encoded(bench.tiled.arena, bench.tiled.starts[: batch + 1])
    stripped = native.Stripped(encoded.arena, encoded.starts, roi, threads=cores)
    moved = moved_bytes(tiles.shape[rows], roi, int(stripped.nbytes.sum()), out.numel() * out.element_size())
    symbols, counted = symbols_per_byte(bench)
    found["symbols"] = {"per_byte": round(symbols, 4), "counted_in": f"{counted} photographs, extrapolated by bytes"}
    found["kernels"] = {}
    busy_us = sum(us for name, us in kernels_us.items() if not name.startswith("Memcpy"))
    for name, nbytes in moved.items():
        us = sum(each for key, each in kernels_us.items() if is_kernel(key, name))
        found["kernels"][name] = {
            "us": round(us, 1) if us else None,
            "share": round(us / busy_us, 3) if us else None,
            "mb": round(nbytes / 1e6, 2),
            "gb_per_s": round(nbytes / us / 1e3, 1) if us else None,
            "of_copy": round(nbytes / us / 1e3 / copy, 3) if us else None,
        }
    read_us = found["kernels"]["read_kernel"]["us"]
    found["symbols"]["per_s"] = round(symbols * int(stripped.nbytes.sum()) / read_us * 1e6) if read_us else None
    found["all_us"] = {name[:60]: round(us, 1) for name, us in kernels_us.items()}
    found["kernels_images_per_s"] = round(batch / busy_us * 1e6) if busy_us else None

    # On the host.
    where = np.zeros(batch, np.uint64)
    staged = device.queue().pinned(int(stripped.nbytes.sum()))
    where[:] = staged.data_ptr() + np.cumsum(stripped.nbytes) - stripped.nbytes
    direct = {
        "strip": lambda: native.Stripped(encoded.arena, encoded.starts, roi, threads=cores),
        "write": lambda: stripped.write(where, threads=cores),
        "probe": lambda: inspect(encoded, threads=cores),
        "draw": lambda: bench.draws(rows),
    }
    found["host_ms"] = {name: round(host_ms(work), 3) for name, work in direct.items()}
    found["loader_ms"] = stages(bench, batch, found["host_ms"])
    spent = found["loader_ms"]
    most = {
        "the device: kernels": busy_us / 1e3,
        "the upload": float(stripped.nbytes.sum()) / upload / 1e6,
        "the loader's thread: read, probe, draw, strip": sum(
            spent[each] for each in ("read", "probe", "draw", "strip")
        ),
        "the decoder's thread: write": found["host_ms"]["write"],
    }
    found["limits_ms"] = {name: round(ms, 3) for name, ms in most.items()}
    found["limit"] = max(most, key=lambda name: most[name]) if busy_us else None


def is_kernel(key: str, name: str) -> bool:
    """Whether a profiler's name is that of the decoder's kernel; "fused": of the operator after it."""
    decoders = ("read_kernel", "transform_kernel", "colour_kernel")
    if name == "fused":
        return "_kernel" in key and "dalipipe" in key and not any(each in key for each in decoders)
    return name in key


def moved_bytes(shape: np.ndarray, roi: np.ndarray, compressed: int, output: int) -> dict[str, int]:
    """Bytes that each kernel reads and writes at least: levels of 2 bytes, planes and pixels of 1."""
    beside = np.stack([shape["down"] > 1, shape["across"] > 1], axis=1).astype(np.int64)  # csrc/jpeg/region.h
    mcu = 8 * np.stack([shape["down"], shape["across"]], axis=1).astype(np.int64)
    size = np.stack([shape["height"], shape["width"]], axis=1)
    begin = np.maximum(roi[:, :2] - beside, 0) // mcu
    end = -(-np.minimum(roi[:, :2] + roi[:, 2:] + beside, size) // mcu)
    blocks = (end - begin).prod(axis=1) * (shape["down"] * shape["across"] + shape["components"] - 1)
    samples, pixels = 64 * int(blocks.sum()), 3 * int(roi[:, 2:].prod(axis=1).sum())
    return {
        "read_kernel": compressed + 2 * samples,
        "transform_kernel": 2 * samples + samples,
        "colour_kernel": samples + pixels,
        "fused": pixels + output,
    }


def symbols_per_byte(bench: Bench, photographs: int = 16) -> tuple[float, int]:
    """Huffman symbols a byte of stripped JPEG, and in how many pictures they were counted."""
    rows = np.unique(np.linspace(0, len(bench.order) - 1, photographs).astype(np.int64))
    if bench.device.dry_run:
        rows = rows[:2]
    files = bench.tiled.of(rows)
    nbytes = native.Stripped(files.arena, files.starts, None).nbytes
    return sum(count_symbols(files[row].tobytes()) for row in range(len(rows))) / int(nbytes.sum()), len(rows)


def host_ms(work: Callable[[], Any], repeats: int = 10) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def stages(bench: Bench, batch: int, direct: dict[str, float]) -> dict[str, float]:
    """Milliseconds a batch of each of a loader's stages, from files; stripping, which it does not clock, as measured
    alone; ``total``: from batch to batch. To decode and to augment is mostly to wait for the device.
    """
    loader = bench.loader(batch)
    turn = bench.of_loader(loader)
    turn()
    before = loader.stats()["stages"]
    pictures, total = turn()
    spent = {
        name: now["seconds"] - (before[name]["seconds"] if name in before else 0.0)
        for name, now in loader.stats()["stages"].items()
    }
    loader.close()
    spent = {name: round(1e3 * s / pictures * batch, 3) for name, s in {**spent, "total": total}.items()}
    return {"strip": direct["strip"], **spent}
