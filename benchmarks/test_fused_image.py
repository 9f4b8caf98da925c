"""The fused operator by itself, on one core, beside torchvision v2 doing the same to the same pixels.

    pytest benchmarks/test_fused_image.py

Crop, antialiased resize, flip, normalise: 64 pictures, 315x315 → 224x224, uint8 → float32 NCHW. Every instruction set
that the machine has is timed; outputs are verified first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from rounds import interleave, ratio, write
from torchvision.transforms.v2 import functional as F

from dalipipe import native
from dalipipe.buffers import BufferPool

N, STORED_PX, OUT_PX = 64, 315, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION = "torchvision v2"


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pictures() -> list[torch.Tensor]:
    """uint8 [H,W,C] each, with slopes and grain as photographs have."""
    generator = torch.Generator().manual_seed(0)
    slopes = torch.nn.functional.interpolate(
        torch.rand(N, 3, 12, 12, generator=generator), (STORED_PX, STORED_PX), mode="bicubic"
    )
    grain = torch.randn(slopes.shape, generator=generator) * 6
    return list((slopes * 255 + grain).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous())


def fused(pictures: list[torch.Tensor], out: torch.Tensor, target: str | None) -> Callable[[], int]:
    samples = np.zeros(N, native.IMAGE_PASS)
    samples["data"] = [picture.data_ptr() for picture in pictures]
    samples["row_bytes"] = STORED_PX * 3
    for name in ("stored_h", "stored_w", "crop_h", "crop_w"):
        samples[name] = STORED_PX
    for name in ("resized_h", "resized_w", "canvas_h", "canvas_w", "out_h", "out_w"):
        samples[name] = OUT_PX
    samples["table"] = -1
    starts = np.arange(N + 1, dtype=np.int32)
    samples["flip"] = np.arange(N) % 2
    scale = 1 / (255 * np.float64(STD))
    bias = -np.float64(MEAN) / STD

    def run() -> int:
        native.cpu_target(target)
        native.fused_image(samples, starts, out, channels=3, scale=scale, bias=bias)
        native.cpu_target()
        return N

    return run


def torchvision_v2(pictures: list[torch.Tensor], out: torch.Tensor) -> Callable[[], int]:
    planes = [picture.permute(2, 0, 1) for picture in pictures]  # a view: channels_last, as decoders give them

    def run() -> int:
        for i, picture in enumerate(planes):
            x = F.resized_crop(picture, 0, 0, STORED_PX, STORED_PX, [OUT_PX, OUT_PX], antialias=True)
            x = F.horizontal_flip(x) if i % 2 else x
            x = F.to_dtype(x, torch.float32, scale=True)
            out[i] = F.normalize(x, list(MEAN), list(STD), inplace=True)
        return N

    return run


def test_fused_image(
    pictures: list[torch.Tensor], one_torch_thread: None, pytestconfig: pytest.Config, benchmark: Any
) -> None:
    pool = BufferPool()  # where the loader's output comes from
    out, theirs = (
        torch.from_numpy(pool.take(N * 3 * OUT_PX * OUT_PX * 4)).view(torch.float32).view(N, 3, OUT_PX, OUT_PX).zero_()
        for _ in range(2)
    )
    contenders = {TORCHVISION: torchvision_v2(pictures, theirs)}
    for target in ("scalar", "avx2", "avx512"):
        with contextlib.suppress(ValueError):  # not on this machine
            native.cpu_target(target)
            contenders[f"dalipipe, {target}"] = fused(pictures, out, target)
    native.cpu_target()
    ours = f"dalipipe, {native.cpu_target()}"

    contenders[TORCHVISION]()
    for name, run in contenders.items():
        if name != TORCHVISION:
            out.zero_()
            run()
            worst = float((out - theirs).abs().max())
            assert worst < 1e-5, f"{name} and torchvision differ by {worst}"

    rounds = 4 * pytestconfig.getoption("--rounds")
    timings = benchmark.pedantic(interleave, args=(contenders, rounds, 2), rounds=1, iterations=1)
    us_per_image = {name: float(1e6 / np.median(timing.rates)) for name, timing in timings.items()}
    result = {
        "what": f"{STORED_PX}×{STORED_PX} → {OUT_PX}×{OUT_PX}, crop, resize, flip, normalise → float32 NCHW, one core",
        "us_per_image": us_per_image[ours],
        "us_per_image_by_contender": us_per_image,
        "over_torchvision": ratio(timings, ours, TORCHVISION),
        "contenders": {name: timing.summary() for name, timing in timings.items()},
    }
    benchmark.extra_info.update(us_per_image)
    path = write("fused_image_cpu", result, pytestconfig.getoption("--results"))
    print(f"\n{us_per_image}\n{result['over_torchvision']:.1f}× torchvision\n→ {path}")
