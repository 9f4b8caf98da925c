"""Transforms as policies: what each becomes, that it does the same to pictures, and what is said of it."""

from __future__ import annotations

import functools
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
from dalipipe.conversion import Report, UnsupportedTransformError, convert
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
    "crop, v2": v2.RandomCrop((18, 20), padding=[1, 9, 2, 0], fill=[200, 1, 1]),
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


@pytest.mark.parametrize("name", ["erase", "erase by noise", "noise", "box", "colours", "trivial", "channels"])
def test_a_seed_says_it_all(name: str) -> None:
    policy, _ = convert(RANDOM[name])
    x = picture(20, 22)
    assert all((a == b).all() for a, b in zip(ours(policy, x, 9), ours(policy, x, 9), strict=True))
    assert any((a != b).any() for a, b in zip(ours(policy, x, 9), ours(policy, x, 9, first=50), strict=True))
    assert pickle.loads(pickle.dumps(policy)) == policy == Policy.from_dict(policy.to_dict())


# What it becomes ----------------------------------------------------------------------------------------------------


def test_policies_are_what_one_would_write() -> None:
    transform = v1.Compose(
        [v1.RandomResizedCrop(224), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)]
    )
    policy, report = convert(transform)
    assert policy == Policy([ops.RandomResizedCrop(224), ops.HorizontalFlip(), ops.Normalize()])
    assert report.dtype == torch.float32 and report.ok and not report.refused
    assert [entry.within for entry in report.entries] == [0, 0, 0, 0]
    assert "on PIL pictures, as here, within 1/255" in report.entries[0].verdict
    assert report.entries[1].verdict == "exact"
    assert convert(v1.Resize(9), backend="tensor")[1].entries[0].verdict.startswith("within 1/255; v1 itself")
    assert convert(v2.Resize(9), backend="tensor")[1].entries[0].verdict == "exact"
    text = str(report)
    assert all(part in text for part in ("RandomResizedCrop(size=(224, 224))", "Normalize(", "gives torch.float32"))
    assert pickle.loads(pickle.dumps(report)) == report
    assert convert([v1.Resize(8), [v1.CenterCrop(8)]])[0] == Policy([ops.Resize(8), ops.CenterCrop(8)])
    assert convert([nn.Identity(), v2.Identity()])[0] == convert([])[0] == Policy([])
    assert convert(v1.CenterCrop(8))[0] == Policy([ops.CenterCrop(8)])


@pytest.mark.parametrize("t", [v1, v2], ids=["v1", "v2"])
def test_padding_is_read_as_it_was_written(t: Any) -> None:
    for given, wanted in ((3, 3), ([2, 5], (2, 5)), ([1, 9, 2, 0], (1, 9, 2, 0))):
        assert convert(t.Pad(given))[0] == Policy([ops.Pad(wanted)])
        crop = convert(t.RandomCrop(8, padding=given))[0].ops[0]
        assert ops.Pad(crop.padding).draw(None, np.array([[7, 7]]))["box"].tolist() == (
            ops.Pad(wanted).draw(None, np.array([[7, 7]]))["box"].tolist()
        )


def test_containers() -> None:
    invert, grey = v2.RandomInvert(1.0), v2.RandomGrayscale(1.0)
    assert convert(v2.RandomApply([invert, grey], p=0.3))[0] == Policy(
        [RandomApply((ops.Invert(), ops.Grayscale(p=1.0)), p=0.3)]
    )
    assert convert(v1.RandomApply(nn.ModuleList([v1.GaussianBlur(3)]), p=0.2))[0] == Policy(
        [ops.GaussianBlur(3, (0.1, 2.0), p=0.2)]
    )
    assert convert(v1.RandomChoice([invert, v1.Compose([invert, grey])], p=[1, 3]))[0] == Policy(
        [OneOf((ops.Invert(), RandomApply((ops.Invert(), ops.Grayscale(p=1.0)), p=1.0)), weights=(1.0, 3.0))]
    )
    assert convert(v2.RandomChoice([v2.Identity(), invert], p=[3, 1]))[0] == Policy([OneOf((ops.Invert(),), p=0.25)])
    assert convert(v1.RandomOrder([invert, grey]))[0] == Policy([RandomOrder((ops.Invert(), ops.Grayscale(p=1.0)))])
    assert convert([v2.RandomChoice([v2.Identity()]), v2.RandomOrder([v2.Identity()]), v2.ColorJitter()])[0] == Policy(
        []
    )


def test_dtypes() -> None:
    def dtype(*steps: Any) -> torch.dtype:
        return convert(list(steps))[1].dtype

    image = v2.ToImage()
    assert dtype(v2.Resize(8)) == dtype(image) == dtype(v2.ToTensor(), v2.ToPILImage()) == torch.uint8
    assert dtype(image, v2.ToDtype(torch.bfloat16, scale=True)) == torch.bfloat16
    assert dtype(image, v2.ConvertImageDtype(torch.float16)) == torch.float16
    types = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}
    assert dtype(image, v2.ToDtype(types, scale=True)) == torch.float32
    assert dtype(image, v2.ToDtype({tv_tensors.Mask: torch.int64, "others": None})) == torch.uint8
    policy, report = convert(
        [image, v2.ToDtype({torch.Tensor: torch.float32, tv_tensors.Mask: torch.int32, "others": None})]
    )
    assert policy == Policy([ops.Normalize(0.0, 1 / 255)]) and "masks come as int64" in report.entries[1].verdict
    assert convert(FLOAT)[0] == convert(v1.ToTensor())[0] == Policy([])


def test_erasing_stands_where_its_value_means_what_it_says() -> None:
    erase, normalise, flip = v2.RandomErasing(1.0, value=0.5), v2.Normalize([0.5], [0.25]), v2.RandomVerticalFlip(1.0)
    after = convert([*FLOAT, normalise, erase])[0]
    assert after == Policy([ops.Normalize(0.5, 0.25), ops.RandomErasing(value=0.5, p=1.0)])
    before = convert([*FLOAT, erase, normalise])[0]
    assert before == Policy([ops.Normalize(0.5, 0.25), ops.RandomErasing(value=0.0, p=1.0)])
    assert convert([*FLOAT, erase])[0] == Policy([ops.Normalize(0.0, 1.0), ops.RandomErasing(value=0.5, p=1.0)])
    early = convert([*FLOAT, erase, flip, normalise])[0]
    assert early == Policy([ops.RandomErasing(value=127.5, p=1.0), ops.VerticalFlip(p=1.0), ops.Normalize(0.5, 0.25)])
    assert convert([v2.PILToTensor(), v2.RandomErasing(value=7)])[0] == Policy([ops.RandomErasing(value=7.0)])
    chosen = convert([*FLOAT, normalise, v2.RandomChoice([erase, v2.RandomErasing(1.0, value=1)])])[0]
    assert [type(node) for node in chosen] == [ops.Normalize, OneOf]
    for x in (picture(12, 16), picture(30, 9)):  # and so it does
        policy, _ = convert([*FLOAT, v2.RandomErasing(1.0, (1.0, 1.0), (1.0, 1.0), value=0.5), normalise])
        assert policy.draw(rng.make_key(0, 0), np.arange(9), np.tile(x.shape[:2], (9, 1)))[1].params["boxes"].any() == 0


def test_mixing() -> None:
    choice = v2.RandomChoice([v2.MixUp(alpha=0.2, num_classes=10), v2.CutMix(num_classes=10)])
    policy, report = convert([v1.ToTensor(), choice])
    assert policy == Policy([OneOf((mix.MixUp(0.2, num_classes=10), mix.CutMix(1.0, num_classes=10)))])
    assert report.ok and "partner" in report.entries[1].verdict
    assert convert([*FLOAT, v2.RandomErasing(), v2.CutMix(num_classes=3)])[0] == Policy(
        [ops.Normalize(0.0, 1.0), ops.RandomErasing(), mix.CutMix(1.0, num_classes=3)]
    )
    with pytest.raises(UnsupportedTransformError, match="must come last"):
        convert([v2.MixUp(num_classes=3), v2.RandomHorizontalFlip()])


def test_grey_pictures() -> None:
    assert convert([v1.Grayscale(), v1.RandomGrayscale(0.5)], channels=1)[1].ok
    with pytest.raises(UnsupportedTransformError, match=r"Grayscale\(num_output_channels=1\).*num_output_channels=3"):
        convert(v1.Grayscale())
    with pytest.raises(UnsupportedTransformError, match="number stays"):
        convert(v2.RGB(), channels=1)
    policy, _ = convert(
        v1.Compose([v1.RandomRotation((30, 30)), v1.ToTensor(), v1.Normalize([0.5], [0.2])]), channels=1
    )
    x = picture(20, 22, channels=1)
    assert ours(policy, x)[0].shape == (20, 22, 1)


# What it refuses ----------------------------------------------------------------------------------------------------


class Custom:
    def __call__(self, x: Any) -> Any:
        return x


class Subclass(v2.CenterCrop):
    def transform(self, inpt: Any, params: Any) -> Any:
        return inpt


REFUSED: list[tuple[Any, str]] = [
    (Custom(), "Custom is not known here"),
    (Subclass(3), "Subclass is not known here"),
    (v1.Lambda(abs), "calls abs"),
    (np.array, r"numpy\.array is not known here"),
    (v2.functional.invert, r"torchvision\S*\.invert is not known here"),
    (functools.partial(v2.functional.posterize, bits=3), r"functools\.partial is not known here"),
    (v2.Lambda(lambda x: x), "calls .*<lambda>"),
    (v2.FiveCrop(8), "several pictures of one"),
    (v1.TenCrop(8), "several pictures of one"),
    (v2.Resize(8, interpolation=InterpolationMode.LANCZOS), "interpolation is lanczos: nearest, bilinear, bicubic can"),
    (v2.Resize(8, interpolation=InterpolationMode.NEAREST_EXACT), "interpolation is nearest-exact"),
    ([v2.ToImage(), v2.Resize(8, antialias=False)], "antialias=True"),
    (v2.RandomRotation(9, expand=True), "a size of its own"),
    (v2.RandomRotation(9, center=[0, 0]), r"its center is \(0, 0\)"),
    (v2.RandomAffine(9, center=[0, 0]), r"its center is \(0, 0\)"),
    ([v2.ToImage(), v2.RandomRotation(9, interpolation=BICUBIC)], "does not warp tensors bicubically"),
    (v1.Pad(4, padding_mode="reflect"), 'padding_mode="reflect": a constant fill'),
    (v2.RandomCrop(4, padding=4, padding_mode="edge"), 'padding_mode="edge"'),
    (v1.RandomAffine(9, shear=89), "shear must lie in"),
    (v1.LinearTransformation(torch.eye(12), torch.zeros(12)), "on the batch that comes out"),
    (v2.RandomIoUCrop(), "bounding boxes"),
    (v2.SanitizeBoundingBoxes(), "sanitize_px"),
    (v2.ConvertBoundingBoxFormat("XYWH"), "format="),
    (v2.UniformTemporalSubsample(3), "videos"),
    (v2.Normalize(MEAN, STD), "float tensors only"),
    ([*FLOAT, v2.Normalize([0.5], [0.0])], "std positive"),
    ([*FLOAT, v2.Normalize(MEAN, STD), v2.ColorJitter(0.4)], "ColorJitter follows values that are normalised"),
    ([*FLOAT, v2.Normalize(MEAN, STD), v2.RandAugment()], "RandAugment follows values that are normalised"),
    ([*FLOAT, v2.Normalize(MEAN, STD), v2.ToPILImage()], "not 0..1"),
    ([v2.ToImage(), v2.ToDtype(torch.float32), v2.RandomInvert()], "0..255 in floats"),
    ([*FLOAT, v2.ToDtype(torch.uint8)], "leaves nothing of them"),
    ([v2.ToImage(), v2.ToDtype(torch.float64, scale=True)], "torch.float64"),
    (v2.ToDtype(torch.float32, scale=True), "leaves PIL pictures as they are"),
    ([v1.ToTensor(), v1.ToTensor()], "here comes a tensor: leave it out"),
    (v1.ToPILImage("L"), "mode L"),
    ([*FLOAT, v2.JPEG(50)], "uint8 pictures only"),
    ([*FLOAT, v2.GaussianNoise(clip=False)], "clip=True"),
    ([v2.ToImage(), v2.RandomErasing(value="random")], "put it after ToDtype"),
    ([*FLOAT, v2.RandomErasing(value="random"), v2.Normalize(MEAN, STD)], "put it last"),
    ([*FLOAT, v2.RandomErasing(value="random"), v2.RandomHorizontalFlip()], "put it last"),
    ([*FLOAT, v2.Normalize(MEAN, STD), v2.Pad(2, fill=9.0)], "its fill is 9.0"),
    (v2.RandomApply([v2.ToImage(), *FLOAT[1:]]), "for some of the pictures only"),
    (v2.RandomChoice([v2.CenterCrop(3), Custom()]), "Custom is not known here"),
    (v2.RandomOrder([v2.RandomApply([Custom()])]), "Custom is not known here"),
    (v1.RandomApply([v1.RandomPosterize(9)]), "Posterize: bits must lie in"),
]


@pytest.mark.parametrize(("transform", "words"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refused_by_name(transform: Any, words: str) -> None:
    with pytest.raises(UnsupportedTransformError, match=words) as caught:
        convert(transform)
    steps = transform if isinstance(transform, list) else [transform]
    culprit = caught.value.report.refused[0]
    named = culprit.transform.startswith(tuple(type(step).__name__ for step in steps))
    assert named or any(word in culprit.transform for word in ("object", "function", "partial"))
    assert culprit.transform[:150] in str(caught.value) and 'on_unsupported="python"' in str(caught.value)
    assert not caught.value.report.ok and "refused, because" in str(caught.value.report)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_all_that_is_refused_is_named_at_once() -> None:
    with pytest.raises(UnsupportedTransformError, match="2 of 4 steps") as caught:
        convert([v2.FiveCrop(3), v2.CenterCrop(3), Custom(), v1.ToTensor()])
    assert [entry.verdict.split(",")[0] for entry in caught.value.report.entries] == ["refused", "exact"] * 2


def test_wrong_arguments() -> None:
    for wrong in (None, 3, "RandomCrop", Policy([ops.Invert()])):
        with pytest.raises(TypeError, match="expected a transform or a list of transforms, got"):
            convert(wrong)
    for wrong in ({"backend": "cuda"}, {"on_unsupported": "skip"}, {"channels": 4}):
        with pytest.raises(ValueError, match=f"convert: {next(iter(wrong))} must be one of .*, got"):
            convert(v1.ToTensor(), **wrong)


# Recipes ------------------------------------------------------------------------------------------------------------

V2_BACKENDS, V1_BACKENDS = ("pil", "tensor"), ("pil", "tensor")
POLICIES = (None, "ra", "ta_wide", "augmix", "imagenet", "cifar10", "svhn")


def classification_train(t: Any, backend: str, policy: str | None, erase: float, hflip: float = 0.5) -> Any:
    """``ClassificationPresetTrain`` of torchvision's references/classification/presets.py."""
    steps: list[Any] = [t.PILToTensor()] if backend == "tensor" else []
    steps.append(t.RandomResizedCrop(224, interpolation=BILINEAR, antialias=True))
    if hflip > 0:
        steps.append(t.RandomHorizontalFlip(hflip))
    if policy == "ra":
        steps.append(t.RandAugment(interpolation=BILINEAR, magnitude=9))
    elif policy == "ta_wide":
        steps.append(t.TrivialAugmentWide(interpolation=BILINEAR))
    elif policy == "augmix":
        steps.append(t.AugMix(interpolation=BILINEAR, severity=3))
    elif policy is not None:
        steps.append(t.AutoAugment(policy=t.autoaugment.AutoAugmentPolicy(policy), interpolation=BILINEAR))
    if backend == "pil":
        steps.append(t.PILToTensor())
    steps += [t.ToDtype(torch.float, scale=True)] if t is v2 else [t.ConvertImageDtype(torch.float)]
    steps.append(t.Normalize(mean=MEAN, std=STD))
    if erase > 0:
        steps.append(t.RandomErasing(p=erase))
    if t is v2:
        steps.append(t.ToPureTensor())
    return t.Compose(steps)


def classification_eval(t: Any, backend: str) -> Any:
    steps: list[Any] = [t.PILToTensor()] if backend == "tensor" else []
    steps += [t.Resize(256, interpolation=BILINEAR, antialias=True), t.CenterCrop(224)]
    if backend == "pil":
        steps.append(t.PILToTensor())
    steps += [t.ToDtype(torch.float, scale=True)] if t is v2 else [t.ConvertImageDtype(torch.float)]
    return t.Compose([*steps, t.Normalize(mean=MEAN, std=STD), *([t.ToPureTensor()] if t is v2 else [])])


if not hasattr(v2, "autoaugment"):
    v2.autoaugment = v1.autoaugment  # type: ignore[attr-defined]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("backend", ["pil", "tensor"])
@pytest.mark.parametrize("t", [v1, v2], ids=["v1", "v2"])
def test_torchvisions_training_recipe(t: Any, backend: str, policy: str | None) -> None:
    preset = types.new_class("ClassificationPresetTrain", exec_body=lambda body: body.update(__module__="presets"))()
    preset.transforms = classification_train(t, backend, policy, erase=0.1)
    preset.__class__.__call__ = lambda self, x: self.transforms(x)
    for transform in (preset, preset.transforms, classification_train(t, backend, policy, 0.0, 0.0)):
        made, report = convert(transform)
        assert report.ok and report.dtype == torch.float32, report
        assert isinstance(made.ops[0], ops.RandomResizedCrop) and any(isinstance(op, ops.Normalize) for op in made)
    kinds = {"ra": ops.RandAugment, "ta_wide": ops.TrivialAugmentWide, "augmix": ops.AugMix}
    wanted = () if policy is None else (kinds.get(policy, ops.AutoAugment),)
    names = [type(op) for op in convert(preset)[0]]
    assert names == [ops.RandomResizedCrop, ops.HorizontalFlip, *wanted, ops.Normalize, ops.RandomErasing]


@pytest.mark.parametrize("backend", ["pil", "tensor"])
@pytest.mark.parametrize("t", [v1, v2], ids=["v1", "v2"])
def test_torchvisions_evaluation_recipe(t: Any, backend: str) -> None:
    transform = classification_eval(t, backend)
    policy, report = convert(transform)
    assert policy == Policy([ops.Resize(256), ops.CenterCrop(224), ops.Normalize()]) and report.ok
    x = picture(300, 260)
    given = Image.fromarray(x)
    difference = np.abs(ours(policy, x)[0] - transform(given).permute(1, 2, 0).numpy()) * 255 * np.array(STD)
    assert difference.max() < (1e-3 if backend == "tensor" and t is v2 else 1.001)


def test_torchvisions_mixing_recipe() -> None:
    for mixes in ([v2.MixUp(alpha=0.2, num_classes=1000)], [v2.MixUp(num_classes=9), v2.CutMix(num_classes=9)]):
        assert convert(v2.RandomChoice(mixes))[1].ok

    class RandomMixUp(nn.Module):  # of references/classification/transforms.py
        __module__ = "transforms"

        def __init__(self, num_classes: int, p: float = 0.5, alpha: float = 1.0, inplace: bool = False) -> None:
            super().__init__()
            self.num_classes, self.p, self.alpha, self.inplace = num_classes, p, alpha, inplace

    class RandomCutMix(RandomMixUp):
        __module__ = "transforms"

    policy, report = convert(v1.RandomChoice([RandomMixUp(7, 1.0, 0.2), RandomCutMix(7, 0.4)]))
    assert policy == Policy([OneOf((mix.MixUp(0.2, num_classes=7), mix.CutMix(1.0, num_classes=7, p=0.4)))])
    assert report.ok


def reference_scripts() -> Any:
    """What of references/segmentation/{transforms,v2_extras}.py is not torchvision's own."""
    module = types.SimpleNamespace()

    def add(name: str, home: str, **attributes: Any) -> None:
        def __init__(self: Any, *args: Any, **kw: Any) -> None:
            values = {**attributes, **dict(zip(attributes, args, strict=False)), **kw}
            self.__dict__.update(values)

        def __call__(self: Any, image: Any, target: Any) -> Any: ...

        setattr(module, name, type(name, (), {"__init__": __init__, "__call__": __call__, "__module__": home}))

    add("Compose", "transforms", transforms=())
    add("RandomResize", "transforms", min_size=0, max_size=0)
    add("RandomHorizontalFlip", "transforms", flip_prob=0.5)
    add("RandomCrop", "transforms", size=0)
    add("CenterCrop", "transforms", size=0)
    add("PILToTensor", "transforms")
    add("ToDtype", "transforms", dtype=None, scale=False)
    add("Normalize", "transforms", mean=(), std=())
    return module


class PadIfSmaller(v2.Transform):
    """Of references/segmentation/v2_extras.py."""

    __module__ = "v2_extras"

    def __init__(self, size: int, fill: Any = 0) -> None:
        super().__init__()
        self.size = size
        self.fill = v2._utils._setup_fill_arg(fill)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        _, height, width = v2._utils.query_chw(flat_inputs)
        padding = [0, 0, max(self.size - width, 0), max(self.size - height, 0)]
        return {"padding": padding, "needs_padding": any(padding)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if not params["needs_padding"]:
            return inpt
        fill = v2._utils._get_fill(self.fill, type(inpt))
        return self._call_kernel(v2.functional.pad, inpt, padding=params["padding"], fill=fill)


@pytest.mark.parametrize("backend", ["pil", "tensor", "tv_tensor"])
def test_torchvisions_segmentation_recipe(backend: str) -> None:
    first = {"pil": [], "tensor": [v2.PILToTensor()], "tv_tensor": [v2.ToImage()]}[backend]
    kind = tv_tensors.Image if backend == "tv_tensor" else torch.Tensor
    last = [v2.PILToTensor()] if backend == "pil" else []
    last += [v2.ToDtype({kind: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True)]
    last += [v2.Normalize(mean=MEAN, std=STD), v2.ToPureTensor()]
    pad = PadIfSmaller(40, fill={tv_tensors.Mask: 255, "others": 0})
    train = [v2.RandomResize(min_size=20, max_size=80), v2.RandomHorizontalFlip(0.5), pad, v2.RandomCrop(40)]
    policy, report = convert(v2.Compose([*first, *train, *last]))
    assert report.ok and report.dtype == torch.float32
    assert policy == Policy(
        [ops.RandomResize(20, 80), ops.HorizontalFlip(), ops.PadTo(40), ops.RandomCrop(40), ops.Normalize()]
    )
    assert ours(policy, picture(25, 60), 20)[3].shape == (40, 40, 3)
    small = picture(25, 60)
    assert (ours(convert(pad, backend="tensor")[0], small)[0] == theirs(pad, small)).all()
    assert convert(v2.Compose([*first, v2.Resize(size=(52, 52)), *last]))[1].ok
    padded = v2.RandomCrop(40, pad_if_needed=True, fill={tv_tensors.Image: 7, tv_tensors.Mask: 255})
    assert convert(padded, backend="tensor")[0] == Policy([ops.RandomCrop(40, pad_if_needed=True, fill=7.0)])


def test_torchvisions_segmentation_recipe_in_v1() -> None:
    t = reference_scripts()
    steps = [t.RandomResize(20, 80), t.RandomHorizontalFlip(0.3), t.RandomCrop(40), t.PILToTensor()]
    policy, report = convert(t.Compose([*steps, t.ToDtype(torch.float, scale=True), t.Normalize(mean=MEAN, std=STD)]))
    assert report.ok
    assert policy == Policy(
        [ops.RandomResize(20, 81), ops.HorizontalFlip(p=0.3), ops.PadTo(40), ops.RandomCrop(40), ops.Normalize()]
    )
    namesake = t.RandomCrop(40)
    namesake.padding = 4
    with pytest.raises(UnsupportedTransformError, match=r"transforms\.RandomCrop is not known here"):
        convert(namesake)


DEIT = {"color_jitter": 0.3, "auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic"}
DEIT |= {"re_prob": 0.25, "re_mode": "pixel", "re_count": 1}


def test_timms_recipes() -> None:
    data = pytest.importorskip("timm.data")
    policy, report = convert(data.create_transform(224, is_training=True, **DEIT))
    assert report.ok and report.dtype == torch.float32
    assert policy.ops[:2] == (ops.RandomResizedCrop(224, interpolation="bicubic"), ops.HorizontalFlip())
    assert policy.ops[2:-2] == ops.timm_rand_augment(
        "rand-m9-mstd0.5-inc1", fill=(124.0, 116.0, 104.0), interpolation="bicubic"
    )
    assert policy.ops[-2] == ops.Normalize()
    erasing = policy.ops[-1]
    assert isinstance(erasing, ops.RandomErasing) and (erasing.value, erasing.p, erasing.count) == ("random", 0.25, 1)
    assert erasing.scale == pytest.approx((0.02, 1 / 3)) and erasing.ratio == pytest.approx((0.3, 1 / 0.3))
    assert pickle.loads(pickle.dumps(policy)) == policy == Policy.from_dict(policy.to_dict())
    for settings in (
        {"auto_augment": "rand-m9-mstd0.5"},
        {
            "auto_augment": "rand-m7-n3-mstd0.5-tweights",
            "vflip": 0.3,
            "re_prob": 0.3,
            "re_mode": "const",
            "re_count": 3,
        },
        {"auto_augment": "augmix-m5-w4-d2", "interpolation": "bilinear"},
        {"auto_augment": "v0", "mean": (0.5,) * 3, "std": (0.5,) * 3},
        {"auto_augment": "originalr-mstd0.5"},
        {"auto_augment": "3a", "color_jitter": 0.3, "scale": (0.3, 1.0), "ratio": (0.9, 1.1)},
        {"color_jitter": (0.4, 0.4, 0.2, 0.1), "color_jitter_prob": 0.8, "grayscale_prob": 0.2},
        {"gaussian_blur_prob": 0.5, "hflip": 0.0, "normalize": False},
        {"use_prefetcher": True},
        {"no_aug": True},
    ):
        made, report = convert(data.create_transform(96, is_training=True, **settings))
        assert report.ok, report
        assert (report.dtype == torch.uint8) == (
            bool(settings.get("use_prefetcher")) or settings.get("normalize") is False
        )
        assert ours_shape(made, 96)
    for settings in (
        {},
        {"crop_mode": "border"},
        {"crop_mode": "squash"},
        {"interpolation": "bicubic", "crop_pct": 1.0},
    ):
        for size in (96, (3, 96, 64)):
            transform = data.create_transform(size, **settings)
            made, report = convert(transform)
            assert report.ok
            for x in (picture(120, 100), picture(61, 140)):
                difference = ours(made, x)[0] - transform(Image.fromarray(x)).permute(1, 2, 0).numpy()
                assert np.abs(difference * 255 * np.array(STD)).max() < 1.001


def ours_shape(policy: Policy, size: int) -> bool:
    """Whether pictures end at that size."""
    drawn = policy.draw(rng.make_key(0, 0), np.arange(50), np.tile((120, 90), (50, 1)))
    end = np.tile((120, 90), (50, 1))
    for one in drawn:
        end[one.rows] = one.op.output_size(one.params, one.size)
    return bool((end == size).all())


def test_timms_mixing() -> None:
    data = pytest.importorskip("timm.data")
    both = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1, "num_classes": 1000}
    policy, report = convert(data.Mixup(**both, prob=0.9, switch_prob=0.3))
    fields = {"num_classes": 1000, "smoothing": 0.1}
    assert policy == Policy([OneOf((mix.MixUp(0.8, **fields), mix.CutMix(1.0, **fields)), p=0.9, weights=(0.7, 0.3))])
    assert report.ok
    assert convert(data.Mixup(0.2, num_classes=7, label_smoothing=0.0))[0] == Policy([mix.MixUp(0.2, num_classes=7)])
    assert convert(data.Mixup(0.0, 0.3, num_classes=7))[0] == Policy([mix.CutMix(0.3, num_classes=7, smoothing=0.1)])


def test_timms_refused() -> None:
    data = pytest.importorskip("timm.data")
    make = functools.partial(data.create_transform, 96, is_training=True)
    for transform, words in (
        (make(train_crop_mode="rkrc"), 'padding_mode="reflect"'),
        (make(train_crop_mode="rkrr"), 'padding_mode="reflect"'),
        (make(re_prob=0.1, re_mode="rand"), 'mode="rand"'),
        (make(re_prob=0.1, re_num_splits=2), "num_splits=2"),
        (make(auto_augment="augmix-b1"), "blended"),
        (data.create_transform(96, crop_border_pixels=3), "TrimBorder.*fixed"),
        (data.Mixup(correct_lam=False, num_classes=3), "correct_lam"),
        (data.Mixup(cutmix_minmax=(0.2, 0.8), num_classes=3), "cutmix_minmax"),
        (make(interpolation="lanczos", no_aug=True), "lanczos"),
        (data.create_transform(96, is_training=True, naflex=True), "naflex_transforms"),
    ):
        with pytest.raises(UnsupportedTransformError, match=words):
            convert(transform)
