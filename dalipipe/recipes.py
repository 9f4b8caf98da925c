"""Ready policies, named after what they are for."""

from __future__ import annotations

from dalipipe.ops.image import (
    Brightness,
    CenterCrop,
    Contrast,
    HorizontalFlip,
    Normalize,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    Rotate,
    Translate,
    timm_rand_augment,
)
from dalipipe.policy import Policy

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def imagenet_train(size: int = 224) -> Policy:
    """Random box resized to ``size`` px, mirrored half the time, ImageNet's normalisation: the recipe of ResNet and
    most since.
    """
    return Policy([RandomResizedCrop(size), HorizontalFlip(), Normalize()])


def imagenet_eval(size: int = 224) -> Policy:
    """Shorter side to 256/224 of ``size``, the middle ``size`` px, ImageNet's normalisation."""
    return Policy([Resize(round(size * 256 / 224)), CenterCrop(size), Normalize()])


def deit(size: int = 224) -> Policy:
    """DeiT's, but for its mixing of pictures: `imagenet_train`, bicubic, with timm's RandAugment and boxes of noise
    (Touvron et al., "Training data-efficient image transformers & distillation through attention", ICML 2021).
    """
    mean_colour = (124, 116, 104)  # of ImageNet
    return Policy(
        [
            RandomResizedCrop(size, interpolation="bicubic"),
            HorizontalFlip(),
            *timm_rand_augment("rand-m9-mstd0.5-inc1", fill=mean_colour, interpolation="bicubic"),
            Normalize(),
            RandomErasing((0.02, 1 / 3), (0.3, 1 / 0.3), value="random", p=0.25),
        ]
    )


def deit_eval(size: int = 224) -> Policy:
    """As `imagenet_eval`, bicubic."""
    return Policy([Resize(round(size * 256 / 224), interpolation="bicubic"), CenterCrop(size), Normalize()])


def cifar10() -> Policy:
    """32 px out of the picture padded by 4, mirrored half the time, CIFAR-10's normalisation (He et al., CVPR 2016)."""
    return Policy([RandomCrop(32, padding=4), HorizontalFlip(), Normalize(CIFAR10_MEAN, CIFAR10_STD)])


def cifar10_eval() -> Policy:
    """CIFAR-10's normalisation alone."""
    return Policy([Normalize(CIFAR10_MEAN, CIFAR10_STD)])


def digits_train(size: int = 32) -> Policy:
    """Handwriting: gentle crops, turns, shifts, brightness and contrast; never mirrored, since a mirrored 2 is no 2."""
    return Policy(
        [
            RandomResizedCrop(size, scale=(0.7, 1.0), ratio=(0.85, 1.18)),
            Rotate(12.0, p=0.7),
            Translate(0.08, 0.08, p=0.7),
            Brightness((0.7, 1.3), p=0.5),
            Contrast((0.7, 1.3), p=0.5),
            Normalize(0.5, 0.25),
        ]
    )


def digits_eval(size: int = 32) -> Policy:
    """Resized to ``size`` px, normalised as `digits_train` does."""
    return Policy([Resize((size, size)), Normalize(0.5, 0.25)])
