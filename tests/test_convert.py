"""Transforms as policies: what each becomes, that it does the same to pictures, and what is said of it."""

from __future__ import annotations

import pickle
import random
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.models import ResNet50_Weights
from torchvision.models.segmentation import FCN_ResNet50_Weights
from torchvision.transforms import InterpolationMode, v2

from dalipipe import rng
from dalipipe.convert import Report, UnsupportedTransformError, convert
from dalipipe.ops import image as ops
from dalipipe.ops import mix
from dalipipe.policy import OneOf, Policy, RandomApply, RandomOrder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLOAT = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


def picture(height: int = 37, width: int = 52, seed: int = 0, channels: int = 3) -> np.ndarray:
    """uint8 [H, W, C]: smooth areas, edges and noise."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (height // 6 + 2, width // 6 + 2, channels)).repeat(6, 0).repeat(6, 1)
    x = coarse[:height, :width] + draw.normal(0, 12, (height, width, channels))
    return np.clip(x, 0, 255).astype(np.uint8)


def ours(policy: Policy, x: np.ndarray, n: int = 1, first: int = 0) -> list[np.ndarray]:
    """[H, W, C] for each of n samples, through the specification."""
    drawn = policy.draw(rng.make_key(3, 0), np.arange(first, first + n), np.tile(x.shape[:2], (n, 1)))
    found = []
    for row in range(n):
        y = x
        for one in drawn:
            y = one.reference(row, y)
        found.append(y)
    return found


def theirs(transform: Any, x: np.ndarray, backend: str = "tensor") -> np.ndarray:
    """[H, W, C]."""
    given: Any = torch.from_numpy(x).permute(2, 0, 1).contiguous()
    if backend == "pil":
        given = Image.fromarray(x)
    out = transform(given)
    return np.asarray(out) if isinstance(out, Image.Image) else out.permute(1, 2, 0).numpy()


def in_255ths(report: Report, x: np.ndarray) -> np.ndarray:
    """What came out without a `Normalize`, as the loader gives it."""
    return x.astype(np.float32) / 255 if report.dtype != torch.uint8 and x.dtype == np.uint8 else x


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """torch's threads cost small pictures more than they do for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# One by one ---------------------------------------------------------------------------------------------------------

BILINEAR, BICUBIC = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC
FIXED = {
    # name: (transform without chance, share of values that must lie within what the report says)
    "resize": (v2.Resize((20, 31)), 1),
    "enlarge": (v2.Resize([60, 71], interpolation="bilinear"), 1),
    "bicubic": (v2.Resize((20, 31), interpolation=BICUBIC), 1),
    "nearest": (v1.Resize((20, 31), interpolation=InterpolationMode.NEAREST), 1),
    "shorter": (v1.Resize(24), 1),
    "shorter in a list": (v2.Resize([24]), 1),
    "longer": (v2.Resize(24, max_size=30), 1),
    "longest": (v2.Resize(None, max_size=30), 1),
    "middle": (v1.CenterCrop((20, 33)), 1),
    "middle and more": (v2.CenterCrop((50, 40)), 1),
    "pad": (v2.Pad([1, 2, 3, 4], fill=[9, 8, 7]), 1),
    "pad all": (v1.Pad(3, fill=40), 1),
    "pad two": (v1.Pad((3, 1)), 1),
    "crop": (v2.RandomCrop((37, 52)), 1),
    "box": (v1.RandomResizedCrop((20, 30), scale=(1, 1), ratio=(52 / 37, 52 / 37)), 1),
    "box, bicubic": (v2.RandomResizedCrop(24, (1.0, 1.0), (52 / 37, 52 / 37), interpolation=3), 1),
    "mirror": (v1.RandomHorizontalFlip(1.0), 1),
    "upside down": (v2.RandomVerticalFlip(1.0), 1),
    "turn": (v2.RandomRotation((17, 17), interpolation=BILINEAR, fill=30), 0.95),
    "turn, nearest": (v1.RandomRotation((-40, -40), fill=[1, 2, 3]), 0.99),
    "affine": (v2.RandomAffine((10, 10), None, (1.2, 1.2), (5, 5, 3, 3), BILINEAR, fill=9), 0.95),
    "affine, nearest": (v1.RandomAffine((-4, -4), shear=(5, 5)), 0.99),
    "bright": (v1.ColorJitter(brightness=(1.3, 1.3)), 1),
    "contrast": (v2.ColorJitter(contrast=(0.4, 0.4)), 1),
    "saturation": (v2.ColorJitter(saturation=(1.7, 1.7)), 1),
    "hue": (v2.ColorJitter(hue=(-0.31, -0.31)), 1),
    "grey": (v1.Grayscale(3), 1),
    "grey at random": (v2.RandomGrayscale(1.0), 1),
    "invert": (v1.RandomInvert(1.0), 1),
    "posterize": (v2.RandomPosterize(3, p=1.0), 1),
    "solarize": (v1.RandomSolarize(100, p=1.0), 1),
    "stretch": (v2.RandomAutocontrast(1.0), 1),
    "equalize": (v2.RandomEqualize(1.0), 1),
    "sharpen": (v1.RandomAdjustSharpness(1.8, p=1.0), 1),
    "soften": (v2.RandomAdjustSharpness(0.3, p=1.0), 1),
    "blur": (v2.GaussianBlur((5, 7), (1.1, 1.1)), 1),
    "jpeg": (v2.JPEG((40, 40)), 1),
    "in a row": (v1.Compose([v1.Resize(20), nn.Sequential(v1.CenterCrop(18)), v1.RandomInvert(1.0)]), 1),
    "maybe, always": (v2.RandomApply([v2.Resize((20, 20)), v2.RandomInvert(1.0)], p=1.0), 1),
    "one of one": (v1.RandomChoice([v1.Compose([v1.RandomInvert(1.0), v1.CenterCrop(12)])]), 1),
    "any order of one": (v2.RandomOrder([v2.RandomSolarize(30, p=1.0)]), 1),
    "grown": (v2.ScaleJitter((64, 48), (0.8, 0.8)), 1),
    "shortest": (v2.RandomShortestSize([24], max_size=30), 1),
    "zoomed out": (v2.RandomZoomOut(fill=7, side_range=(1.0, 1.0), p=1.0), 1),
    "float": (v1.ToTensor(), 1),
    "float16": (v2.Compose([v2.ToImage(), v2.ToDtype(torch.float16, scale=True)]), 1),
    "0..255 in floats": (v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32)]), 1),
    "there and back": (v1.Compose([v1.ToTensor(), v1.ToPILImage(), v1.RandomInvert(1.0), v1.PILToTensor()]), 1),
    "normalise": (v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)]), 1),
    "normalise twice": (v1.Compose([v1.ToTensor(), v1.Normalize([0.5], [0.5]), v1.Normalize(MEAN, STD)]), 1),
    "pad after normalising": (v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD), v1.Pad(2, fill=0)]), 1),
    "solarize floats": (v2.Compose([*FLOAT, v2.RandomSolarize(0.4, p=1.0)]), 1),
    "resize floats": (v2.Compose([*FLOAT, v2.Resize((20, 31), antialias=True), v2.Normalize(MEAN, STD)]), 1),
    "erase all": (v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD), v1.Pad(1, fill=1)]), 1),
    "weights": (ResNet50_Weights.IMAGENET1K_V2.transforms(), 1),
    "weights of segmentation": (FCN_ResNet50_Weights.DEFAULT.transforms(resize_size=30), 1),
}


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("size", [(37, 52), (64, 41)])
def test_does_what_the_transform_does(name: str, size: tuple[int, int]) -> None:
    """On PIL pictures where it wants them, else on tensors: there the report's figure holds."""
    transform, share = FIXED[name]
    wants_pil = any(isinstance(step, v1.ToTensor) for step in getattr(transform, "transforms", [transform]))
    if size != (37, 52) and name in ("crop", "box", "box, bicubic"):
        pytest.skip("made for pictures of 37×52")
    policy, report = convert(transform, backend="pil" if wants_pil else "tensor")
    assert report.ok
    within = max(entry.within or 0.0 for entry in report.entries)
    for seed in range(3):
        x = picture(*size, seed=seed)
        found, expected = in_255ths(report, ours(policy, x)[0]), theirs(transform, x, "pil" if wants_pil else "tensor")
        assert found.shape == expected.shape
        assert torch.from_numpy(expected).dtype == report.dtype
        units = next((255.0 * np.array(op.std) for op in policy if isinstance(op, ops.Normalize)), 255.0)
        units = 1.0 if expected.dtype == np.uint8 else units  # of one 255th
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64)) * units
        floats = {torch.uint8: 0.0, torch.float16: 0.2}.get(report.dtype, 1e-3)
        assert (difference <= within + floats).mean() >= share, f"{name}: {difference.max():.3f} off"


RANDOM = {
    "crop": v1.RandomCrop((18, 20), padding=(5, 1, 2, 3), fill=200),
    "crop, v2": v2.RandomCrop((18, 20), padding=[5, 1, 2, 3], fill=[200, 1, 1]),
    "crop, padded up": v2.RandomCrop(30, padding=1, pad_if_needed=True, fill=9),
    "box": v1.RandomResizedCrop(16, scale=(0.2, 0.7), ratio=(0.5, 0.9)),
    "sizes and crop": v2.Compose([v2.RandomResize(20, 30), v2.RandomCrop(16)]),
    "mirror": v1.RandomHorizontalFlip(0.3),
    "turn": v2.RandomRotation((-10, 50), fill=99),
    "affine": v1.RandomAffine((-10, 30), translate=(0.3, 0.1), scale=(0.7, 1.0), shear=(0, 20)),
    "affine, both ways": v2.RandomAffine(5, shear=[-5, 5, 0, 20], fill=40),
    "perspective": v2.RandomPerspective(0.7, p=0.6, fill=70),
    "elastic": v2.ElasticTransform(alpha=[60.0, 20.0], sigma=[3.0, 5.0]),
    "colours": v1.ColorJitter(0.4, 0.6, (0.2, 1.1), 0.1),
    "colours, one": v2.ColorJitter(contrast=(0.4, 0.8)),
    "distort": v2.RandomPhotometricDistort(p=0.7),
    "channels": v2.RandomChannelPermutation(),
    "grey": v1.RandomGrayscale(0.4),
    "posterize": v2.RandomPosterize(2, p=0.4),
    "blur": v1.GaussianBlur(5, sigma=(0.5, 3.0)),
    "noise": v2.GaussianNoise(0.1, 0.2),
    "jpeg": v2.JPEG((5, 40)),
    "erase": v1.RandomErasing(0.7, scale=(0.1, 0.3), ratio=(0.5, 4.0), value=(3, 200, 90)),
    "erase by noise": v1.Compose([v1.ToTensor(), v1.RandomErasing(0.9, (0.2, 0.4), value="random")]),
    "randaugment": v2.RandAugment(2, 14, 31, fill=50),
    "trivial": v1.TrivialAugmentWide(fill=50),
    "auto": v2.AutoAugment(v2.AutoAugmentPolicy.SVHN, fill=50),
    "maybe": v2.RandomApply([v2.RandomInvert(1.0), v2.RandomSolarize(90, p=0.5)], p=0.3),
    "one of": v1.RandomChoice([v1.RandomInvert(1.0), v1.ColorJitter(0.9), v1.RandomHorizontalFlip(0.0)], p=[1, 2, 4]),
    "one of, with none": v2.RandomChoice([v2.Identity(), v2.RandomInvert(1.0), v2.RandomGrayscale(1.0)]),
    "any order": v2.RandomOrder([v2.RandomInvert(1.0), v2.RandomSolarize(80, p=1.0), v2.RandomPosterize(2, p=0.8)]),
    "zoomed out": v2.Compose([v2.RandomZoomOut(90, (1.0, 2.0), p=0.6), v2.Resize((20, 20))]),
    "jittered scale": v2.Compose([v2.ScaleJitter((30, 40), (0.7, 1.5)), v2.Resize((20, 20))]),
    "shortest": v2.Compose([v2.RandomShortestSize([20, 25, 30], max_size=35), v2.CenterCrop(20)]),
}


@pytest.mark.filterwarnings("ignore:The image decoding")
@pytest.mark.parametrize("name", RANDOM)
def test_draws_as_the_transform_draws(name: str) -> None:
    """What comes out has the same distribution: a few weighted sums of pixels, Kolmogorov and Smirnov's test."""
    transform, n = RANDOM[name], {"elastic": 60, "colours": 120, "distort": 120}.get(name, 1000)
    wants_pil = isinstance(getattr(transform, "transforms", [transform])[0], v1.ToTensor)
    policy, report = convert(transform, backend="pil" if wants_pil else "tensor")
    assert report.ok
    x = picture(27, 24, seed=5)
    torch.manual_seed(0)
    random.seed(0)
    expected = [theirs(transform, x, "pil" if wants_pil else "tensor") for _ in range(n)]
    found = ours(policy, x, n)
    assert {y.shape for y in found} <= {y.shape for y in expected}
    weights = np.random.default_rng(1).normal(size=(4, *expected[0].shape)) ** 3  # a few pixels count most
    for weight in weights:
        sums = [[(weight * in_255ths(report, y)).sum() for y in ys] for ys in (found, expected)]
        sums = [np.round(s, 1 if report.dtype == torch.uint8 else 4) for s in sums]
        assert ks_2samp(*sums).pvalue > 2e-4
