"""On a CUDA device: the twins agree, the fused operator and each filter beside a device copy, DeiT's recipe beside
Kornia's and torchvision's on the device, the loader beside torch's.

    FAIL_WITHOUT_CUDA=1 pytest -m cuda && pytest benchmarks/test_gpu.py --data=DIR

Writes results/gpu.json, from which README's GPU table is made. `--dry-run` tries all of it where there is no GPU.
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
from devices import Device
from rounds import interleave, ratio, write

import dalipipe
from dalipipe import rng
from dalipipe.engines.base import Output
from dalipipe.engines.native import NativeEngine
from dalipipe.ops import image as ops
from dalipipe.plan import lower
from dalipipe.records import Pictures
from dalipipe.schema import Field, Schema

pytestmark = pytest.mark.timeout(0)

SCHEMA = Schema((Field("image", "image", channels=3),))
BATCH, DRY_BATCH, STORED_PX, OUT_PX = 256, 4, 315, 224
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


def share(kernels: dict[str, float | None], copy: float) -> str:
    """A batch's kernels beside a copy, in words."""
    ms, rate = kernels["kernel_ms"], kernels["gb_per_s"]
    return "not seen" if rate is None else f"{ms:.3f} ms a batch, {rate:,.0f} GB/s, {rate / copy:.0%} of the copy"


def test_gpu(photographs: Path, device: Device, results: Path) -> None:
    workers, root = len(os.sched_getaffinity(0)), str(photographs)
    batch = DRY_BATCH if device.dry_run else BATCH
    result: dict[str, Any] = {
        "dry_run": device.dry_run,
        "what": f"batches of {batch}; fused operator {STORED_PX} → {OUT_PX} px, bf16 NHWC; loader from JPEG files",
        "workers": workers,
        "figures": (figures := {}),
    }

    def save(shown: dict[str, str], **more: Any) -> None:
        """After each part: what comes after it may fail."""
        figures.update(shown)
        result.update(more)
        print(f"\n{shown}\n→ {write('gpu', result, results)}")

    copy = device.copy_gb_per_s()
    kernels = {name: fused(device, nodes, batch, STORED_PX) for name, nodes in POLICIES.items()}
    alone = {name: fused(device, [op], batch, OUT_PX) for name, op in ALONE.items()}
    shown = {
        "device copy": f"{copy:,.0f} GB/s",
        **{f"fused operator: {name}": share(each, copy) for name, each in kernels.items()},
        **{f"{name}, alone": share(each, copy) for name, each in alone.items()},
    }
    save(shown, copy_gb_per_s=copy, fused=kernels, alone=alone)
    rates, factors = recipe(device, batch)
    shown = {
        "DeiT's recipe": f"{rates['dalipipe']['per_s']:,.0f} images/s",
        **{f"DeiT's recipe over {n}": f"{v:.1f}× (wanted ≥ {RECIPE_GOAL:.0f})" for n, v in factors.items()},
    }
    save(shown, recipe={"contenders": rates, "ratios": factors})

    source = dalipipe.ImageFolder(root)
    loader = dalipipe.DataLoader(
        source,
        batch,
        shuffle=True,
        drop_last=True,
        policy=dalipipe.recipes.imagenet_train(OUT_PX),
        device=device.device,
        dtype=torch.bfloat16,
        memory_format=torch.channels_last,
        seed=0,
    )

    def ours() -> int:
        items = sum(len(images) for images, _ in loader)
        device.synchronize()
        return items

    samples = batch if device.dry_run else 4 * workers * batch  # so that its workers are busy for most of an epoch
    theirs = peers.torchvision_v2(
        root, batch, workers, batched_normalize=True, device=str(device.device), samples=samples
    )
    timings = interleave({"dalipipe": ours, "torchvision v2, DataLoader": theirs}, device.rounds)
    factor = ratio(timings, "dalipipe", "torchvision v2, DataLoader")
    shown = {
        "loader": f"{statistics.median(timings['dalipipe'].rates):,.0f} images/s",
        "loader over torch's DataLoader": f"{factor:.2f}×",
    }
    save(shown, contenders={name: timing.summary() for name, timing in timings.items()})
