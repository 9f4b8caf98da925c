"""What gpu_report.py times of the engine's kernels: the fused operator with whole policies and with each operator
alone, checked against its CPU twin; DeiT's recipe beside Kornia's and torchvision's on the same device.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from deit_resident import resident
from devices import Device
from rounds import interleave, ratio

import dalipipe
from dalipipe import rng
from dalipipe.engines.base import Output
from dalipipe.engines.native import NativeEngine
from dalipipe.ops import image as ops
from dalipipe.plan import lower
from dalipipe.records import Pictures
from dalipipe.schema import Field, Schema

SCHEMA = Schema((Field("image", "image", channels=3),))
STORED_PX, OUT_PX = 315, 224
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


def fused(device: Device, nodes: list[Any], batch: int, side_px: int) -> dict[str, float | None]:
    """One batch resident on the device → bf16 channels_last: checked against the CPU twin, then timed."""
    plan = lower(dalipipe.Policy([*nodes, ops.Normalize()]), SCHEMA)
    host = torch.randint(0, 256, (batch, side_px, side_px, 3), dtype=torch.uint8)
    there = host.to(device.device)
    size = np.tile([[side_px, side_px]], (batch, 1))
    draws = plan.draw(rng.make_key(0, 0), np.arange(batch), size)

    def pictures(tensor: torch.Tensor) -> Pictures:
        step = tensor.stride(0)
        return Pictures(
            address=(tensor.data_ptr() + np.arange(batch) * step).astype(np.uint64),
            row_bytes=np.full(batch, tensor.stride(1), np.int64),
            size_px=size.astype(np.int32),
            origin_px=np.zeros((batch, 2), np.int32),
            channels=3,
            owner=tensor,
            on_cuda=tensor.is_cuda,
        )

    def run_on(where: torch.device, pixels: torch.Tensor) -> Callable[[], torch.Tensor]:
        output = Output(where, torch.bfloat16, torch.channels_last)
        engine, stored = NativeEngine(plan, output, threads=os.cpu_count() or 1), pictures(pixels)
        return lambda: engine.start(stored, draws)()

    run = run_on(device.device, there)
    out = run()
    assert torch.equal(out.cpu(), run_on(torch.device("cpu"), host)()), "the CUDA twin differs from the CPU's"
    moved_bytes = there.numel() + out.numel() * out.element_size()
    # Kernels alone: the host's part of the call overlaps with the batch before.
    kernels_us = device.kernels_us(run)
    kernel_ms = sum(us for name, us in kernels_us.items() if "kernel" in name) / 1e3
    return {
        "kernel_ms": kernel_ms,
        "call_ms": device.ms(run),
        "moved_mb": moved_bytes / 1e6,
        "gb_per_s": moved_bytes / kernel_ms / 1e6 if kernel_ms else None,
        **{f"us {name[:60]}": round(us, 1) for name, us in kernels_us.items()},
    }


def recipe(device: Device, batch: int) -> tuple[dict[str, Any], dict[str, float]]:
    """DeiT's, everyone's on one device: a summary by name, and how many times theirs dalipipe's rate is."""
    pictures = torch.randint(0, 256, (batch, 256, 256, 3), dtype=torch.uint8).to(device.device)
    runs = resident(pictures, torch.arange(batch).to(device.device))
    for name, run in runs.items():
        images, labels = run()
        assert images.shape == (batch, 3, OUT_PX, OUT_PX) and images.dtype == torch.float32, name
        assert torch.allclose(labels.sum(dim=1).cpu(), torch.ones(batch), atol=1e-4), name
        assert bool(torch.isfinite(images).all()), name

    def timed(run: Callable[[], Any], times: int) -> Callable[[], int]:
        def turn() -> int:
            for _ in range(times):
                run()
            device.synchronize()
            return times * batch

        return turn

    contenders = {name: timed(run, 50 if name == "dalipipe" else 1) for name, run in runs.items()}
    timings = interleave(contenders, device.rounds)
    factors = {name: ratio(timings, "dalipipe", name) for name in runs if name != "dalipipe"}
    return {name: timing.summary() for name, timing in timings.items()}, factors
