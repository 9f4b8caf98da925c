"""Every operator beside those of torchvision, Kornia and Albumentations that do the same kind of thing, each with
strengths drawn for every picture, at the same ranges where both have ranges.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask a server whether there is a newer one

import albumentations as A
import cv2
import kornia.augmentation as K
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dalipipe.ops import image as ops
from dalipipe.ops.mix import CutMix, MixUp

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 1000
BILINEAR, BICUBIC = v2.InterpolationMode.BILINEAR, v2.InterpolationMode.BICUBIC


@dataclass(frozen=True)
class Row:
    """An operator; ``None``: that library has none, or none that is drawn picture by picture.

    torchvision's takes uint8 [3, H, W], Kornia's float32 [N, 3, H, W] in 0..1, Albumentations' uint8 [H, W, 3].
    """

    family: str
    name: str
    ours: Any
    torchvision: Callable[[torch.Tensor], torch.Tensor] | None = None
    kornia: Callable[[torch.Tensor], torch.Tensor] | None = None
    albumentations: Any = None
    floats: bool = False
    """What comes out is float32."""
    similar: float = 30.0
    """Levels of 255 that the means of two libraries' pictures may be apart."""
    mixes: bool = False
    """torchvision's and Kornia's take a float batch and its labels."""


def rows() -> Iterator[Row]:
    yield from _sizes()
    yield from _warps()
    yield from _colour()
    yield from _filters()
    yield from _occlusion()
    yield from _policies()
    yield from _mixing()


def _sizes() -> Iterator[Row]:
    family = "Sizes, crops, flips"
    yield Row(
        family,
        "Resize 160",
        ops.Resize((160, 160)),
        v2.Resize((160, 160), antialias=True),
        K.Resize((160, 160), antialias=True),
        A.Resize(160, 160),
    )
    yield Row(
        family,
        "RandomResizedCrop 224",
        ops.RandomResizedCrop(224),
        v2.RandomResizedCrop(224, antialias=True),
        K.RandomResizedCrop((224, 224)),
        A.RandomResizedCrop((224, 224)),
    )
    yield Row(
        family,
        "RandomResizedCrop 224, bicubic",
        ops.RandomResizedCrop(224, interpolation="bicubic"),
        v2.RandomResizedCrop(224, interpolation=BICUBIC, antialias=True),
        K.RandomResizedCrop((224, 224), resample="BICUBIC"),
        A.RandomResizedCrop((224, 224), interpolation=cv2.INTER_CUBIC),
    )
    yield Row(
        family, "CenterCrop 192", ops.CenterCrop(192), v2.CenterCrop(192), K.CenterCrop(192), A.CenterCrop(192, 192)
    )
    yield Row(
        family,
        "RandomCrop 192",
        ops.RandomCrop(192),
        v2.RandomCrop(192),
        K.RandomCrop((192, 192)),
        A.RandomCrop(192, 192),
    )
    yield Row(family, "Pad 16", ops.Pad(16), v2.Pad(16), None, A.Pad(16))
    yield Row(
        family,
        "HorizontalFlip",
        ops.HorizontalFlip(p=1.0),
        v2.RandomHorizontalFlip(1.0),
        K.RandomHorizontalFlip(p=1.0),
        A.HorizontalFlip(p=1.0),
    )
    yield Row(
        family,
        "VerticalFlip",
        ops.VerticalFlip(p=1.0),
        v2.RandomVerticalFlip(1.0),
        K.RandomVerticalFlip(p=1.0),
        A.VerticalFlip(p=1.0),
    )


def _warps() -> Iterator[Row]:
    family = "Warps"
    how: dict[str, Any] = {"interpolation": BILINEAR}
    yield Row(
        family,
        "Rotate",
        ops.Rotate(30),
        v2.RandomRotation(30, **how),
        K.RandomRotation(30.0, p=1.0),
        A.Rotate(30, border_mode=cv2.BORDER_CONSTANT, p=1.0),
    )
    yield Row(
        family,
        "Rotate, bicubic",
        ops.Rotate(30, interpolation="bicubic"),
        None,
        K.RandomRotation(30.0, resample="BICUBIC", p=1.0),
        A.Rotate(30, interpolation=cv2.INTER_CUBIC, border_mode=cv2.BORDER_CONSTANT, p=1.0),
    )
    yield Row(
        family,
        "Translate",
        ops.Translate(0.1, 0.1),
        v2.RandomAffine(0, translate=(0.1, 0.1), **how),
        K.RandomTranslate((-0.1, 0.1), (-0.1, 0.1), p=1.0),
        A.Affine(translate_percent={"x": (-0.1, 0.1), "y": (-0.1, 0.1)}, p=1.0),
    )
    yield Row(
        family,
        "Scale",
        ops.Scale((0.8, 1.2)),
        v2.RandomAffine(0, scale=(0.8, 1.2), **how),
        K.RandomAffine(0.0, scale=(0.8, 1.2), p=1.0),
        A.Affine(scale=(0.8, 1.2), p=1.0),
    )
    yield Row(
        family,
        "Shear",
        ops.Shear(10),
        v2.RandomAffine(0, shear=10, **how),
        K.RandomShear(10.0, p=1.0),
        A.Affine(shear={"x": (-10, 10), "y": (0, 0)}, p=1.0),
    )
    yield Row(
        family,
        "Affine",
        ops.Affine(15, (0.1, 0.1), (0.8, 1.2), 10),
        v2.RandomAffine(15, (0.1, 0.1), (0.8, 1.2), 10, **how),
        K.RandomAffine(15.0, (0.1, 0.1), (0.8, 1.2), 10.0, p=1.0),
        A.Affine(
            rotate=(-15, 15),
            translate_percent={"x": (-0.1, 0.1), "y": (-0.1, 0.1)},
            scale=(0.8, 1.2),
            shear={"x": (-10, 10), "y": (0, 0)},
            p=1.0,
        ),
    )
    yield Row(
        family,
        "Perspective",
        ops.Perspective(0.5, p=1.0),
        v2.RandomPerspective(0.5, p=1.0),
        K.RandomPerspective(0.5, p=1.0),
        A.Perspective((0.05, 0.25), fit_output=True, p=1.0),
        similar=80.0,  # Albumentations' fills the frame
    )
    yield Row(
        family,
        "Elastic",
        ops.Elastic(50.0, 5.0),
        v2.ElasticTransform(50.0, 5.0),
        K.RandomElasticTransform((41, 41), (5.0, 5.0), (0.4, 0.4), p=1.0),
        A.ElasticTransform(50.0, 5.0, p=1.0),
    )


def _colour() -> Iterator[Row]:
    family, near_1 = "Colour", (0.6, 1.4)
    yield Row(
        family,
        "Brightness",
        ops.Brightness(near_1),
        v2.ColorJitter(brightness=near_1),
        K.RandomBrightness(near_1),
        A.RandomBrightnessContrast((-0.4, 0.4), (0, 0), p=1.0),
    )
    yield Row(
        family,
        "Contrast",
        ops.Contrast(near_1),
        v2.ColorJitter(contrast=near_1),
        K.RandomContrast(near_1),
        A.ColorJitter((1, 1), near_1, (1, 1), (0, 0), p=1.0),
    )
    yield Row(
        family,
        "Saturation",
        ops.Saturation(near_1),
        v2.ColorJitter(saturation=near_1),
        K.RandomSaturation(near_1),
        A.ColorJitter((1, 1), (1, 1), near_1, (0, 0), p=1.0),
    )
    yield Row(
        family,
        "Hue",
        ops.Hue((-0.1, 0.1)),
        v2.ColorJitter(hue=0.1),
        K.RandomHue((-0.1, 0.1)),
        A.ColorJitter((1, 1), (1, 1), (1, 1), (-0.1, 0.1), p=1.0),
    )
    jitter = (0.4, 0.4, 0.4, 0.1)
    yield Row(
        family,
        "ColorJitter",
        ops.ColorJitter(*jitter),
        v2.ColorJitter(*jitter),
        K.ColorJitter(*jitter),
        A.ColorJitter(near_1, near_1, near_1, (-0.1, 0.1), p=1.0),
    )
    yield Row(family, "PhotometricDistort", ops.PhotometricDistort(), v2.RandomPhotometricDistort())
    yield Row(
        family,
        "Grayscale",
        ops.Grayscale(p=1.0),
        v2.Grayscale(3),
        K.RandomGrayscale(p=1.0),
        A.ToGray(p=1.0),
    )
    yield Row(
        family,
        "Posterize",
        ops.Posterize((4, 4)),
        v2.RandomPosterize(4, p=1.0),
        K.RandomPosterize((4, 4), p=1.0),
        A.Posterize(4, p=1.0),
    )
    yield Row(
        family,
        "Solarize",
        ops.Solarize((128.0, 128.0)),
        v2.RandomSolarize(128, p=1.0),
        K.RandomSolarize((0.5, 0.5), (0.0, 0.0), p=1.0),
        A.Solarize((0.5, 0.5), p=1.0),
    )
    yield Row(
        family,
        "SolarizeAdd",
        ops.SolarizeAdd((0.0, 110.0)),
    )
    yield Row(family, "Invert", ops.Invert(), v2.RandomInvert(1.0), K.RandomInvert(p=1.0), A.InvertImg(p=1.0))
    yield Row(
        family,
        "AutoContrast",
        ops.AutoContrast(),
        v2.RandomAutocontrast(1.0),
        K.RandomAutoContrast(p=1.0),
        A.AutoContrast(p=1.0),
    )
    yield Row(family, "Equalize", ops.Equalize(), v2.RandomEqualize(1.0), K.RandomEqualize(p=1.0), A.Equalize(p=1.0))
    yield Row(
        family,
        "Gamma",
        ops.Gamma((0.7, 1.5)),
        lambda x: F.adjust_gamma(x, random.uniform(0.7, 1.5)),
        K.RandomGamma((0.7, 1.5)),
        A.RandomGamma((70, 150), p=1.0),
    )
    yield Row(
        family,
        "ChannelShuffle",
        ops.ChannelShuffle(),
        v2.RandomChannelPermutation(),
        K.RandomChannelShuffle(p=1.0),
        A.ChannelShuffle(p=1.0),
    )


def _filters() -> Iterator[Row]:
    family = "Filters and noise"
    yield Row(
        family,
        "Sharpness",
        ops.Sharpness((1.4, 1.4)),
        v2.RandomAdjustSharpness(1.4, p=1.0),
        K.RandomSharpness((0.4, 0.4), p=1.0),
        A.Sharpen((0.2, 0.5), p=1.0),
    )
    for taps in (9, 23):
        yield Row(
            family,
            f"GaussianBlur {taps}×{taps}",
            ops.GaussianBlur(taps, (0.5, 2.0)),
            v2.GaussianBlur(taps, (0.5, 2.0)),
            K.RandomGaussianBlur((taps, taps), (0.5, 2.0), p=1.0),
            A.GaussianBlur((taps, taps), (0.5, 2.0), p=1.0),
        )
    yield Row(
        family,
        "MotionBlur 7×7",
        ops.MotionBlur((7, 7)),
        None,
        K.RandomMotionBlur(7, 180.0, 0.0, p=1.0),
        A.MotionBlur((7, 7), p=1.0),
    )
    yield Row(
        family,
        "GaussianNoise",
        ops.GaussianNoise(0.0, 15.0),
        v2.GaussianNoise(0.0, 15 / 255),
        K.RandomGaussianNoise(0.0, 15 / 255, p=1.0),
        A.GaussNoise((15 / 255, 15 / 255), p=1.0),
    )
    yield Row(
        family,
        "SaltAndPepper",
        ops.SaltAndPepper((0.01, 0.06)),
        None,
        K.RandomSaltAndPepperNoise((0.01, 0.06), (0.5, 0.5), p=1.0),
        A.SaltAndPepper((0.01, 0.06), p=1.0),
    )
    yield Row(
        family,
        "JpegCompression",
        ops.JpegCompression((40, 100)),
        v2.JPEG((40, 100)),
        K.RandomJPEG((40.0, 100.0)),
        A.ImageCompression(quality_range=(40, 100), p=1.0),
    )


def _occlusion() -> Iterator[Row]:
    family, scale, ratio = "Occlusion, normalising", (0.02, 0.33), (0.3, 3.3)
    yield Row(
        family,
        "RandomErasing",
        ops.RandomErasing(scale, ratio, p=1.0),
        v2.RandomErasing(1.0, scale, ratio),
        K.RandomErasing(scale, ratio, p=1.0),
        A.Erasing(scale, ratio, p=1.0),
    )
    yield Row(
        family,
        "RandomErasing, noise",
        ops.RandomErasing(scale, ratio, value="random", p=1.0),
        v2.RandomErasing(1.0, scale, ratio, value="random"),
        None,
        A.Erasing(scale, ratio, fill="random", p=1.0),
    )
    holes: dict[str, Any] = {"num_holes_range": (1, 1), "hole_height_range": (56, 56), "hole_width_range": (56, 56)}
    yield Row(family, "Cutout 56", ops.Cutout(56), None, None, A.CoarseDropout(**holes, p=1.0))
    yield Row(
        family,
        "GridMask",
        ops.GridMask((48.0, 96.0), 0.6),
        None,
        None,
        A.GridDropout(0.4, unit_size_range=(48, 96), random_offset=True, p=1.0),
    )
    yield Row(
        family,
        "Normalize → float32",
        ops.Normalize(MEAN, STD),
        v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]),
        K.Normalize(MEAN, STD),
        A.Normalize(MEAN, STD),
        floats=True,
    )


def _policies() -> Iterator[Row]:
    family = "Automatic policies"
    yield Row(family, "RandAugment", ops.RandAugment(), v2.RandAugment())
    yield Row(family, "TrivialAugmentWide", ops.TrivialAugmentWide(), v2.TrivialAugmentWide())
    yield Row(family, "AutoAugment", ops.AutoAugment(), v2.AutoAugment())
    yield Row(family, "AugMix", ops.AugMix(), v2.AugMix())


def _mixing() -> Iterator[Row]:
    family, key = "Mixing → float32", ["input", "class"]
    yield Row(
        family,
        "MixUp",
        MixUp(0.8, num_classes=CLASSES),
        v2.MixUp(alpha=0.8, num_classes=CLASSES),
        K.RandomMixUpV2(data_keys=key),
        floats=True,
        mixes=True,
    )
    yield Row(
        family,
        "CutMix",
        CutMix(1.0, num_classes=CLASSES),
        v2.CutMix(alpha=1.0, num_classes=CLASSES),
        K.RandomCutMixV2(use_correct_lambda=True, data_keys=key),
        floats=True,
        mixes=True,
    )
