"""Ready policies, named after what they are for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dalipipe.ops.image import (
    Brightness,
    CenterCrop,
    ColorJitter,
    Contrast,
    HorizontalFlip,
    Normalize,
    PadTo,
    RandomCrop,
    RandomErasing,
    RandomResize,
    RandomResizedCrop,
    Resize,
    ResizeKeepRatio,
    Rotate,
    ScaleJitter,
    Translate,
    timm_rand_augment,
)
from dalipipe.ops.signal import (
    AddGaussianSNR,
    AdjustDuration,
    FrequencyMask,
    Gain,
    Jitter,
    MelSpectrogram,
    PitchShift,
    Scaling,
    SpecTimeMask,
    TimeStretch,
    TimeWarp,
    WindowSlice,
    WindowWarp,
)
from dalipipe.ops.text import PunctuationInsertion, RandomDeletion, RandomInsertion, RandomSwap, SynonymReplacement
from dalipipe.policy import OneOf, Policy

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


_MEAN_COLOUR = (124, 116, 104)  # of ImageNet


def segmentation_train(size: int = 480) -> Policy:
    """Pictures with label maps, which move along: the shorter side to half to twice 520/480 of ``size``, ``size`` px
    anywhere in it, mirrored half the time, ImageNet's normalisation. torchvision's reference for segmentation; what is
    padded is ignored.
    """
    base = round(size * 520 / 480)
    return Policy(
        [
            RandomResize(base // 2, 2 * base + 1),
            RandomCrop(size, pad_if_needed=True, fill=_MEAN_COLOUR),
            HorizontalFlip(),
            Normalize(),
        ]
    )


def segmentation_eval(size: int = 480) -> Policy:
    """Whole pictures with label maps: the longer side to ``size`` px, padded to a square; what is padded is ignored."""
    return Policy([ResizeKeepRatio((size, size), longest=1.0), PadTo(size, fill=_MEAN_COLOUR), Normalize()])


def cityscapes_train(size: int = 1024) -> Policy:
    """Street scenes of twice the width, ``size`` px high: half to twice as large, three quarters of ``size`` anywhere
    in it, mirrored half the time, colours a little others, ImageNet's normalisation. The scales, crops and mirroring
    that DeepLab and most since train Cityscapes with, at 1024 (Chen et al., "Encoder-decoder with atrous separable
    convolution for semantic image segmentation", ECCV 2018).
    """
    return Policy(
        [
            ScaleJitter((size, 2 * size), (0.5, 2.0)),
            RandomCrop(3 * size // 4, pad_if_needed=True, fill=_MEAN_COLOUR),
            HorizontalFlip(),
            ColorJitter(0.25, 0.25, 0.25),
            Normalize(),
        ]
    )


def cityscapes_eval(size: int = 1024) -> Policy:
    """Whole street scenes, ``size`` px high and twice as wide; at 1024 as they are published, at which results are
    compared.
    """
    return Policy([Resize((size, 2 * size)), Normalize()])


def speech(rate_hz: int = 16000, duration_s: float = 1.0, n_mels: int = 64) -> Policy:
    """Spoken words and commands: speed, pitch, place, loudness and noise vary a little; then a log-mel spectrogram of
    windows of 32 ms, 10 ms apart, with one narrow mask each along frequency and time. Batches are [N, C, n_mels, 1 +
    100 · duration_s].

    Masks are filled with what speech has in the mean: filled with silence they are the loudest thing there is. What
    that and the rest bring on real data is in docs/signals.md.
    """
    features = speech_eval(rate_hz, duration_s, n_mels)
    return Policy(
        [
            TimeStretch((0.85, 1.15), p=0.5),
            PitchShift((-2.0, 2.0), p=0.5),
            AdjustDuration(duration_s=duration_s, position="both"),
            Gain((-6.0, 6.0), p=0.5),
            AddGaussianSNR((10.0, 40.0), p=0.3),
            features.ops[-1],
            FrequencyMask(n_mels // 8, value=_SPEECH_MEAN),
            SpecTimeMask(round(10 * duration_s), most=0.2, value=_SPEECH_MEAN),
        ]
    )


_SPEECH_MEAN = -5.0  # of the logarithm of mel power, of spoken digits


def speech_eval(rate_hz: int = 16000, duration_s: float = 1.0, n_mels: int = 64) -> Policy:
    """As long as `speech` makes them, in the middle, and the same spectrogram."""
    n_fft = 2 ** round(math.log2(0.032 * rate_hz))
    return Policy(
        [
            AdjustDuration(duration_s=duration_s, position="center"),
            MelSpectrogram(n_mels, n_fft, round(0.01 * rate_hz), f_min=20.0),
        ]
    )


def series() -> Policy:
    """Time series of any kind: warped or sliced, scaled, a little noise; what Iwana and Uchida found to help most and
    harm least ("An empirical survey of data augmentation for time series classification with neural networks", PLOS
    ONE 2021). For series of values about 1 in size, as after z-normalisation.
    """
    return Policy(
        [
            OneOf((WindowWarp(), WindowSlice(0.9), TimeWarp(max_speed_ratio=2.0)), p=0.8),
            Scaling(0.1, p=0.5),
            Jitter(0.03, p=0.5),
        ]
    )


def series_eval() -> Policy:
    """Series as they are."""
    return Policy([])


def eda(
    alpha: float = 0.1, copies: int = 9, synonyms: Any = "builtin", stop_words: str | Sequence[str] | None = "english"
) -> Policy:
    """Sentences with one of EDA's four edits each: synonyms, insertions, swaps, deletions of a share ``alpha`` of the
    words (Wei, Zou: "EDA: easy data augmentation techniques for boosting performance on text classification tasks",
    EMNLP 2019). They call for ``alpha`` 0.05 and 16 copies of 500 sentences, 8 of 2,000, and 0.1 and 4 of more.

    EDA writes a data set of each sentence and ``copies`` edited ones; here every sentence is edited anew in every
    epoch, with probability ``copies`` / (``copies`` + 1), so that in the mean as many of those seen are as they were
    written.
    """
    if isinstance(copies, bool) or not isinstance(copies, int) or copies < 0:
        raise ValueError(f"eda: copies must be a whole number, at least 0, got {copies!r}")
    given = {"synonyms": synonyms, "stop_words": stop_words}
    edits = (SynonymReplacement(alpha, **given), RandomInsertion(alpha, **given), RandomSwap(alpha))
    return Policy([OneOf((*edits, RandomDeletion(alpha)), p=copies / (copies + 1))])


def eda_eval() -> Policy:
    """Sentences as they are."""
    return Policy([])


def aeda(share: float = 0.3, copies: int = 9) -> Policy:
    """Sentences with punctuation marks strewn in (Karimi, Rossi, Prati: "AEDA: an easier data augmentation technique
    for text classification", Findings of EMNLP 2021); ``copies`` as for `eda`.
    """
    if isinstance(copies, bool) or not isinstance(copies, int) or copies < 0:
        raise ValueError(f"aeda: copies must be a whole number, at least 0, got {copies!r}")
    return Policy([PunctuationInsertion(share, p=copies / (copies + 1))])


def aeda_eval() -> Policy:
    """Sentences as they are."""
    return Policy([])
