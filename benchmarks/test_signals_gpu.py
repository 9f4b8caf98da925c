"""Signals on a CUDA device: chains agree with the CPU twin, and how many a second are augmented, draws counted.

    FAIL_WITHOUT_CUDA=1 pytest -m cuda && pytest benchmarks/test_signals_gpu.py

Signals lie on the device already, and the batch stays there. Writes results/signals_gpu.json.
`--dry-run` tries all of it where there is no GPU.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import Device
from rounds import write

import dalipipe
from dalipipe import rng
from dalipipe.engines.base import Output
from dalipipe.engines.signal import SignalEngine
from dalipipe.ops import signal as ops
from dalipipe.plan import lower
from dalipipe.records import Signals
from dalipipe.schema import Field, Schema
from dalipipe.transfers import upload_signals

pytestmark = pytest.mark.timeout(0)

# What: operators, kind, rate, frames, batch, and the best that peers do on two CPU cores (signals_cpu.json), a second.
CLIPS, SERIES = ("audio", 8000.0, 8000, 512), ("series", None, 427, 8192)
TASKS: dict[str, tuple[list[Any], tuple[str, float | None, int, int], str | None]] = {
    "time stretch": ([ops.TimeStretch(p=1.0)], CLIPS, "time stretch"),
    "pitch shift": ([ops.PitchShift(p=1.0)], CLIPS, "pitch shift"),
    "pitch shift, 12 semitones up": ([ops.PitchShift((12.0, 12.0), p=1.0)], CLIPS, None),
    "pitch shift, 12 semitones down": ([ops.PitchShift((-12.0, -12.0), p=1.0)], CLIPS, None),
    "gain, noise by SNR, shift": (
        [ops.Gain(p=1.0), ops.AddGaussianSNR(p=1.0), ops.TimeShift(p=1.0)],
        CLIPS,
        "gain, noise, shift",
    ),
    "low pass": ([ops.LowPassFilter(p=1.0)], CLIPS, None),
    "log-mel spectrogram": ([ops.MelSpectrogram(64, 256, 80)], CLIPS, None),
    "recipe speech": (list(dalipipe.recipes.speech(8000).ops), CLIPS, None),
    "warp, slice, jitter, flip": (
        [ops.TimeWarp(), ops.WindowSlice(0.9), ops.Jitter(0.03), ops.TimeFlip(p=0.5)],
        SERIES,
        "warp, slice, jitter, flip",
    ),
    "recipe series": (list(dalipipe.recipes.series().ops), SERIES, None),
}


def measure(device: Device, nodes: list[Any], form: tuple[str, float | None, int, int]) -> dict[str, Any]:
    kind, rate_hz, frames, n = form
    if device.dry_run:
        n = 8
    random = np.random.default_rng(0)
    t = np.arange(frames)[None, :, None] / 40.0
    values = np.sin(t * random.uniform(0.5, 2, (n, 1, 1))) + 0.1 * random.normal(size=(n, frames, 1))
    host = Signals.from_arrays(list(values.astype(np.float32)))
    there = host if device.dry_run else upload_signals(host, device.device)
    schema = Schema((Field("x", kind, channels=1, rate_hz=rate_hz),))  # type: ignore[arg-type]
    plan = lower(dalipipe.Policy(nodes), schema)
    engines = {
        where: SignalEngine(plan, Output(where, torch.float32, torch.contiguous_format), threads=os.cpu_count() or 1)
        for where in {device.device, torch.device("cpu")}
    }
    key, indices = rng.make_key(0, 0), np.arange(n)
    size = engines[device.device].size(host)
    draws = plan.draw(key, indices, size)
    out, lengths = engines[device.device].start(there, draws)()
    expected, wanted = engines[torch.device("cpu")].start(host, plan.draw(key, indices, size))()
    spectral = any(isinstance(node, ops.SpectralOp) for node in nodes)
    assert np.array_equal(lengths, wanted)
    off = float((out.cpu() - expected).abs().max())
    typical = float((out.cpu() - expected).abs().mean())
    assert (typical < 1e-2 * float(expected.abs().mean())) if spectral else off == 0.0, (off, typical)

    def whole() -> None:
        engines[device.device].start(there, plan.draw(key, indices, size))()

    def apply() -> None:
        engines[device.device].start(there, draws)()

    kernels_us = device.kernels_us(apply)
    busy_ms = sum(kernels_us.values()) / 1e3
    whole()
    device.synchronize()
    seconds = []
    for _ in range(3 if device.dry_run else 15):
        begin = time.perf_counter()
        whole()
        device.finish()
        seconds.append(time.perf_counter() - begin)
    draw_s = []
    for _ in range(5):
        begin = time.perf_counter()
        plan.draw(key, indices, size)
        draw_s.append(time.perf_counter() - begin)
    moved_bytes = host.frames.sum() * 4 + out.numel() * 4
    return {
        "n": n,
        "off": off,
        "per_s": n / float(np.median(seconds)),
        "device_per_s": n / busy_ms * 1e3 if busy_ms else None,
        "draw_us": 1e6 * float(np.median(draw_s)) / n,
        "gb_per_s": float(moved_bytes) / busy_ms / 1e6 if busy_ms else None,
        "kernels_us": {name[:80]: round(us, 1) for name, us in sorted(kernels_us.items(), key=lambda i: -i[1])[:8]},
    }


def test_signals_gpu(device: Device, results: Path) -> None:
    result: dict[str, Any] = {"dry_run": device.dry_run, "tasks": {}, "failed": {}}
    result["what"] = "clips of 8,000 frames at 8 kHz, 512 at a time; series of 427 frames, 8,192 at a time; float32"
    result["copy_gb_per_s"] = device.copy_gb_per_s()
    for name, (nodes, form, peer) in TASKS.items():
        try:
            result["tasks"][name] = {**measure(device, nodes, form), "peer": peer}
        except Exception as error:
            result["failed"][name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {result['tasks'].get(name) or result['failed'][name]}")
        print("→", write("signals_gpu", result, results))
    assert not result["failed"], result["failed"]
