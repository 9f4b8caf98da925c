"""On a CUDA device: the twins agree, the fused operator and each filter beside a device copy, DeiT's recipe beside
Kornia's and torchvision's on the device, the loader beside torch's.

    FAIL_WITHOUT_CUDA=1 pytest -m cuda && pytest benchmarks/test_gpu.py --data=DIR

Writes results/gpu.json, from which README's GPU table is made.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from deit_resident import resident
from rounds import interleave, ratio, write

import dalipipe
from dalipipe import rng
from dalipipe.engines.base import Output
from dalipipe.engines.native import NativeEngine
from dalipipe.ops import image as ops
from dalipipe.plan import lower
from dalipipe.records import Pictures
from dalipipe.schema import Field, Schema

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SCHEMA = Schema((Field("image", "image", channels=3),))
BATCH, STORED_PX, OUT_PX = 256, 315, 224
_WHOLE = ops.RandomResizedCrop(OUT_PX, scale=(1, 1), ratio=(1, 1))
POLICIES = {
    "crop, flip, normalise": [_WHOLE, ops.HorizontalFlip()],
    "and turn, colour, erase": [
        _WHOLE,
        ops.HorizontalFlip(),
        ops.Rotate(20),
        ops.Brightness(),
        ops.Contrast(),
        ops.Saturation(),
        ops.Solarize(p=0.2),
        ops.RandomErasing(),
    ],
    "and RandAugment": [_WHOLE, ops.HorizontalFlip(), ops.RandAugment()],
    "and AugMix": [_WHOLE, ops.HorizontalFlip(), ops.AugMix()],
}
ALONE = {
    "warp, bilinear": ops.Rotate(20),
    "warp, bicubic": ops.Rotate(20, interpolation="bicubic"),
    "perspective": ops.Perspective(p=1.0),
    "elastic": ops.Elastic(),
    "sharpness": ops.Sharpness(),
    "gaussian blur, 9 taps": ops.GaussianBlur(9),
    "gaussian blur, 23 taps": ops.GaussianBlur(23),
    "motion blur": ops.MotionBlur((7, 7)),
    "gaussian noise": ops.GaussianNoise(),
    "salt and pepper": ops.SaltAndPepper(),
    "grid mask": ops.GridMask(),
    "JPEG": ops.JpegCompression(),
    "autocontrast": ops.AutoContrast(),
    "equalize": ops.Equalize(),
    "contrast": ops.Contrast(),
    "hue": ops.Hue(),
    "table": ops.Gamma(),
    "erasing, noise": ops.RandomErasing(value="random", p=1.0),
}
RECIPE_GOAL = 20.0


def device_ms(work: Callable[[], Any], repeats: int = 30) -> float:
    """Median milliseconds of device time between two events around ``work``."""
    times = []
    for _ in range(repeats + 5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[5:])


def fused(nodes: list[Any], side_px: int) -> dict[str, float]:
    """One batch resident on the device → bf16 channels_last: checked against the CPU twin, then timed."""
    plan = lower(dalipipe.Policy([*nodes, ops.Normalize()]), SCHEMA)
    host = torch.randint(0, 256, (BATCH, side_px, side_px, 3), dtype=torch.uint8)
    device = host.cuda()
    size = np.tile([[side_px, side_px]], (BATCH, 1))
    draws = plan.draw(rng.make_key(0, 0), np.arange(BATCH), size)

    def pictures(tensor: torch.Tensor) -> Pictures:
        step = tensor.stride(0)
        return Pictures(
            address=(tensor.data_ptr() + np.arange(BATCH) * step).astype(np.uint64),
            row_bytes=np.full(BATCH, tensor.stride(1), np.int64),
            size_px=size.astype(np.int32),
            origin_px=np.zeros((BATCH, 2), np.int32),
            channels=3,
            owner=tensor,
            on_cuda=tensor.is_cuda,
        )

    def engine(name: str) -> NativeEngine:
        return NativeEngine(
            plan, Output(torch.device(name), torch.bfloat16, torch.channels_last), threads=os.cpu_count() or 1
        )

    on_cuda, on_cpu, there, here = engine("cuda"), engine("cpu"), pictures(device), pictures(host)
    out = on_cuda.apply(there, draws)
    assert torch.equal(out.cpu(), on_cpu.apply(here, draws)), "the CUDA twin differs from the CPU's"
    moved_bytes = device.numel() + out.numel() * out.element_size()
    # Kernels alone, as a profiler sees them: the host's part of the call overlaps with the batch before.
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(20):
            on_cuda.apply(there, draws)
        torch.cuda.synchronize()
    kernels_us = {e.key: e.device_time_total / 20 for e in recorded.key_averages() if e.device_time_total > 0}
    kernel_ms = sum(us for name, us in kernels_us.items() if "kernel" in name) / 1e3
    return {
        "kernel_ms": kernel_ms,
        "call_ms": device_ms(lambda: on_cuda.apply(there, draws)),
        "gb_per_s": moved_bytes / kernel_ms / 1e6,
        **{f"us {name[:60]}": round(us, 1) for name, us in kernels_us.items()},
    }


def copy_gb_per_s() -> float:
    """A device-to-device copy, bytes read and written counted."""
    source = torch.randint(0, 256, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / device_ms(lambda: target.copy_(source)) / 1e6


def recipe(device: str, batch: int, rounds: int) -> tuple[dict[str, Any], dict[str, float]]:
    """DeiT's, everyone's on one device: a summary by name, and how many times theirs dalipipe's rate is."""
    pictures = torch.randint(0, 256, (batch, 256, 256, 3), dtype=torch.uint8).to(device)
    runs = resident(pictures, torch.arange(batch).to(device))
    for name, run in runs.items():
        images, labels = run()
        assert images.shape == (batch, 3, OUT_PX, OUT_PX) and images.dtype == torch.float32, name
        assert torch.allclose(labels.sum(dim=1), torch.ones(batch, device=device), atol=1e-4), name
        assert bool(torch.isfinite(images).all()), name

    def timed(run: Callable[[], Any], times: int) -> Callable[[], int]:
        def turn() -> int:
            for _ in range(times):
                run()
            if device != "cpu":
                torch.cuda.synchronize()
            return times * batch

        return turn

    contenders = {name: timed(run, 50 if name == "dalipipe" else 1) for name, run in runs.items()}
    timings = interleave(contenders, rounds)
    factors = {name: ratio(timings, "dalipipe", name) for name in runs if name != "dalipipe"}
    return {name: timing.summary() for name, timing in timings.items()}, factors


def test_gpu(photographs: Path, pytestconfig: pytest.Config) -> None:
    workers, root = len(os.sched_getaffinity(0)), str(photographs)
    copy = copy_gb_per_s()
    kernels = {name: fused(nodes, STORED_PX) for name, nodes in POLICIES.items()}
    alone = {name: fused([op], OUT_PX) for name, op in ALONE.items()}
    recipe_rates, recipe_factors = recipe("cuda", BATCH, pytestconfig.getoption("--rounds"))

    source = dalipipe.ImageFolder(root)
    loader = dalipipe.DataLoader(
        source,
        BATCH,
        shuffle=True,
        drop_last=True,
        policy=dalipipe.recipes.imagenet_train(OUT_PX),
        dtype=torch.bfloat16,
        memory_format=torch.channels_last,
        seed=0,
    )

    def ours() -> int:
        items = sum(len(images) for images, _ in loader)
        torch.cuda.synchronize()
        return items

    theirs = peers.torchvision_v2(root, BATCH, workers, batched_normalize=False, device="cuda")
    timings = interleave({"dalipipe": ours, "torchvision v2, DataLoader": theirs}, pytestconfig.getoption("--rounds"))
    factor = ratio(timings, "dalipipe", "torchvision v2, DataLoader")
    figures = {
        "device copy": f"{copy:,.0f} GB/s",
        **{
            f"fused operator: {n}": f"{k['gb_per_s']:,.0f} GB/s, {k['gb_per_s'] / copy:.0%} of the copy"
            for n, k in kernels.items()
        },
        **{
            f"{n}, alone": f"{k['kernel_ms']:.3f} ms a batch, {k['gb_per_s'] / copy:.0%} of the copy"
            for n, k in alone.items()
        },
        "DeiT's recipe": f"{recipe_rates['dalipipe']['per_s']:,.0f} images/s",
        **{f"DeiT's recipe over {n}": f"{v:.1f}× (wanted ≥ {RECIPE_GOAL:.0f})" for n, v in recipe_factors.items()},
        "loader": f"{statistics.median(timings['dalipipe'].rates):,.0f} images/s",
        "loader over torch's DataLoader": f"{factor:.2f}×",
    }
    result = {
        "what": f"batches of {BATCH}; fused operator {STORED_PX} → {OUT_PX} px, bf16 NHWC; loader from JPEG files",
        "figures": figures,
        "copy_gb_per_s": copy,
        "fused": kernels,
        "alone": alone,
        "recipe": {"contenders": recipe_rates, "ratios": recipe_factors},
        "workers": workers,
        "contenders": {name: timing.summary() for name, timing in timings.items()},
    }
    path = write("gpu", result, pytestconfig.getoption("--results"))
    print(f"\n{figures}\n→ {path}")
