"""Colour: linear (a matrix), about the colour wheel, by tables and by histograms. None of it moves a pixel.

Formulas and defaults are those of torchvision's v2 functions on uint8 tensors: luma is 0.2989 R + 0.587 G + 0.114 B,
factors blend with what an operator fades to, and results are truncated.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any, ClassVar

import numpy as np

from dalipipe.ops import pixels
from dalipipe.ops.image.families import (
    ColourOp,
    HueOp,
    StretchOp,
    TableOp,
    check_number,
    check_symmetric,
    linear_colour,
)
from dalipipe.policy import (
    Macro,
    Measure,
    Node,
    OneOf,
    Params,
    RandomApply,
    RandomOrder,
    Range,
    check_range,
    draw_range,
    set_field,
)

_MAX_FACTOR = 1e4

# Linear ------------------------------------------------------------------------------------------------------------

_GREY_MATRIX = np.broadcast_to(pixels.GREY, (3, 3))


@dataclass(frozen=True, repr=False)
class FactorOp(ColourOp):
    """Colour by one number f, drawn within ``factor``, (low, high) in 0..10⁴ or a `policy.Range`; 1: unchanged."""

    factor: Any = (0.6, 1.4)
    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"factor": Measure(1.0, 0.0, _MAX_FACTOR)}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "factor", check_range(self, "factor", self.factor, 0.0, _MAX_FACTOR))

    def drawn_factor(self, u: np.ndarray) -> np.ndarray:
        """float64 [N, 1, 1]."""
        return draw_range(self.factor, u[:, 0])[:, None, None]


class Brightness(FactorOp):
    """Multiplies: out = f·rgb. ``factor`` 0: black, 1: unchanged. torchvision's ``adjust_brightness``."""

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return linear_colour(self.drawn_factor(u) * np.eye(3))


class Contrast(FactorOp):
    """Blends with the mean of the picture's luma: out = f·rgb + (1 − f)·mean(luma). ``factor`` 0: that grey alone, 1:
    unchanged. torchvision's ``adjust_contrast``.
    """

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        f = self.drawn_factor(u)
        return linear_colour(f * np.eye(3), (1 - f) * _GREY_MATRIX, _rounded_luma(f))

    def of_grey(self, params: Params) -> Params:  # its own mean, to which nothing was rounded
        share = 1.0 - params["matrix"][..., :1, :1]
        return {**params, "mean_matrix": share * np.eye(3), "offset": np.zeros_like(params["offset"])}


class Saturation(FactorOp):
    """Blends with the grey picture: out = f·rgb + (1 − f)·luma. ``factor`` 0: grey, 1: unchanged. torchvision's
    ``adjust_saturation``.
    """

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        f = self.drawn_factor(u)
        return linear_colour(f * np.eye(3) + (1 - f) * _GREY_MATRIX, offset=_rounded_luma(f) + _grain(f))

    def of_grey(self, params: Params) -> None:
        return None


@dataclass(frozen=True, repr=False)
class Grayscale(ColourOp):
    """The picture's luma in all three channels, as torchvision's ``RandomGrayscale``."""

    p: float = 0.1

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return linear_colour(np.broadcast_to(_GREY_MATRIX, (len(size), 3, 3)))

    def of_grey(self, params: Params) -> None:
        return None


@dataclass(frozen=True, repr=False)
class ChannelShuffle(ColourOp):
    """The three channels in another order, any of the six as likely: torchvision's ``RandomChannelPermutation``."""

    draws: ClassVar[int] = 1

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        orders = np.array(list(permutations(range(3))))
        return linear_colour(np.eye(3)[orders[(u[:, 0] * len(orders)).astype(np.int64)]])

    def of_grey(self, params: Params) -> None:
        return None


def _rounded_luma(f: np.ndarray) -> np.ndarray:
    """float64 [N, 3]: the offset for luma that torchvision rounds down before it blends with (1 − f) of it.

    A matrix cannot round. What rounding takes is 0.5 on average over the pixels of a picture in colour, so that much is
    taken from all of them: errors before the last truncation are then spread evenly about 0, below 0.5·|1 − f|, and
    the mean that contrast needs is nearly right.
    """
    return np.broadcast_to(0.5 * (f - 1)[:, :, 0], (len(f), 3))


def _grain(f: np.ndarray) -> np.ndarray:
    """float64 [N, 1]: half of the steps in which f·v + (1 − f)·v' of whole numbers comes, where f is a simple fraction.

    Of such steps the lowest is a whole number, which an error below 0 would truncate to the one before; in their
    middle, errors either way are as harmless. (Saturation by 0, 0.5, 0.75, 1.5 becomes exact. Steps of a factor that
    is drawn from a range are too fine to matter.)
    """
    parts = np.arange(1, 21)
    whole = np.abs(f[:, :, 0] * parts - np.rint(f[:, :, 0] * parts)) < 1e-9
    step = np.where(whole.any(axis=1), 1.0 / parts[whole.argmax(axis=1)], 0.0)[:, None]
    # Above 1, it is black, where rounding takes nothing, that must not reach the next step.
    return np.where(f[:, :, 0] == 1, 0.0, np.where(f[:, :, 0] > 1, 0.499, 0.5) * step)


# Hue ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Hue(HueOp):
    """Turns colours about the colour wheel (that of HSV) by a share of it within ``turns``, −0.5..0.5, 0: unchanged;
    a number a means (−a, a). Luma changes along; grey stays. torchvision's ``adjust_hue``.
    """

    turns: Any = (-0.1, 0.1)
    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"turns": Measure(0.0, -0.5, 0.5)}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "turns", check_symmetric(self, "turns", 0.5))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"hue": draw_range(self.turns, u[:, 0])}


# Tables ------------------------------------------------------------------------------------------------------------

_byte_values = np.arange(256)


class Invert(TableOp):
    """255 − value. torchvision's ``invert``."""

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"table": np.broadcast_to((255 - _byte_values).astype(np.uint8), (len(size), 256))}


@dataclass(frozen=True, repr=False)
class Posterize(TableOp):
    """Keeps the highest bits of every value: a whole number of them within ``bits`` (0..8), both ends included; of a
    number drawn from a `policy.Range`, the whole part. 8: unchanged, 0: black. torchvision's ``posterize``.
    """

    bits: Any = (4, 4)
    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"bits": Measure(8.0, 0.0, 8.0, whole=True)}

    def __post_init__(self) -> None:
        super().__post_init__()
        bits = check_range(self, "bits", self.bits, 0, 8)
        if not isinstance(bits, Range):
            if any(b != int(b) for b in bits):
                raise ValueError(f"Posterize: bits must be two whole numbers (low, high), got {self.bits!r}")
            bits = tuple(int(b) for b in bits)
        set_field(self, "bits", bits)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        if isinstance(self.bits, Range):
            bits = self.bits.draw(u[:, 0]).astype(np.int64)
        else:
            low, high = self.bits
            bits = low + (u[:, 0] * (high - low + 1)).astype(np.int64)
        mask = (0xFF << (8 - bits)) & 0xFF
        return {"table": (_byte_values & mask[:, None]).astype(np.uint8)}


@dataclass(frozen=True, repr=False)
class Solarize(TableOp):
    """Inverts values from a threshold on, drawn within ``threshold``: 0 inverts all, 256 none. torchvision's
    ``solarize``.
    """

    threshold: Any = (128.0, 128.0)
    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"threshold": Measure(256.0, 0.0, 256.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "threshold", check_range(self, "threshold", self.threshold, 0.0, 256.0))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        threshold = draw_range(self.threshold, u[:, 0])[:, None]
        return {"table": np.where(_byte_values >= threshold, 255 - _byte_values, _byte_values).astype(np.uint8)}


@dataclass(frozen=True, repr=False)
class SolarizeAdd(TableOp):
    """Adds a whole number, the whole part of what is drawn within ``amount`` (0..255), to values below ``threshold``
    (a number, 0..256).

    Cubuk et al., "RandAugment" (NeurIPS 2020), as in timm.
    """

    amount: Any = (0.0, 110.0)
    threshold: float = 128.0
    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"amount": Measure(0.0, 0.0, 255.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "amount", check_range(self, "amount", self.amount, 0.0, 255.0))
        set_field(self, "threshold", check_number(self, "threshold", 0.0, 256.0))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        amount = np.floor(draw_range(self.amount, u[:, 0]))[:, None]
        table = np.where(_byte_values < self.threshold, np.minimum(_byte_values + amount, 255), _byte_values)
        return {"table": table.astype(np.uint8)}


@dataclass(frozen=True, repr=False)
class Gamma(TableOp):
    """``gain`` · value ^ γ, values counted from 0 to 1, γ drawn within ``gamma``, 0..100: above 1 darkens, below
    lightens. ``gain``: a number, 0..10⁴. torchvision's ``adjust_gamma``.
    """

    gamma: Any = (0.7, 1.5)
    gain: float = 1.0
    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"gamma": Measure(1.0, 0.0, 100.0, "log")}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "gamma", check_range(self, "gamma", self.gamma, 0.0, 100.0))
        set_field(self, "gain", check_number(self, "gain", 0.0, _MAX_FACTOR))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        gamma = draw_range(self.gamma, u[:, 0]).astype(np.float32)[:, None]
        value = np.minimum(
            np.float32(self.gain) * (_byte_values.astype(np.float32) / np.float32(255)) ** gamma, np.float32(1)
        )
        # torchvision's way back: 256 steps, the last of them for 1.
        return {"table": (value * np.float32(255.999)).astype(np.uint8)}


# Histograms --------------------------------------------------------------------------------------------------------


class AutoContrast(StretchOp):
    """Stretches every channel's values so that they reach from 0 to 255. torchvision's ``autocontrast``."""

    stretch: ClassVar[int] = 1


class Equalize(StretchOp):
    """Spreads every channel's values so that all are about as frequent, as Pillow and torchvision's ``equalize`` do."""

    stretch: ClassVar[int] = 2


# What stands for several -------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class ColorJitter(Macro):
    """`Brightness`, `Contrast`, `Saturation` and `Hue`, those that are given, in an order drawn per sample.

    ``brightness``, ``contrast``, ``saturation``: a range of factors, 0: black or grey, 1: unchanged; a number a means
    (max(0, 1 − a), 1 + a). ``hue``: a range of turns, −0.5..0.5; a number a means (−a, a). ``None``: left out. As
    torchvision's ``ColorJitter``.
    """

    brightness: Any = None
    contrast: Any = None
    saturation: Any = None
    hue: Any = None

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            if isinstance(value, (int, float)):
                if not value >= 0.0:  # also true for NaN
                    raise ValueError(f"ColorJitter: {name} must be a number ≥ 0 or a range of factors, got {value!r}")
                value = (max(0.0, 1.0 - value), 1.0 + value)
            if value is not None:
                set_field(self, name, check_range(self, name, value, 0.0, _MAX_FACTOR))
        if self.hue is not None:
            set_field(self, "hue", check_symmetric(self, "hue", 0.5))

    def nodes(self) -> tuple[Node, ...]:
        kinds = {"brightness": Brightness, "contrast": Contrast, "saturation": Saturation, "hue": Hue}
        given = {name: kind(getattr(self, name)) for name, kind in kinds.items() if getattr(self, name) is not None}
        return (RandomOrder(tuple(given.values())),) if given else ()


@dataclass(frozen=True, repr=False)
class PhotometricDistort(Macro):
    """Brightness, contrast, saturation, hue and the order of the channels, each changed with probability ``p``,
    contrast before saturation or after hue.

    ``brightness``, ``contrast``, ``saturation``: ranges of factors, 1: unchanged. ``hue``: a range of turns, −0.5..0.5.

    Liu et al., "SSD: Single shot multibox detector" (ECCV 2016), as torchvision's ``RandomPhotometricDistort``.
    """

    brightness: Any = (0.875, 1.125)
    contrast: Any = (0.5, 1.5)
    saturation: Any = (0.5, 1.5)
    hue: Any = (-0.05, 0.05)
    p: float = 0.5

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            set_field(self, name, check_range(self, name, getattr(self, name), 0.0, _MAX_FACTOR))
        set_field(self, "hue", check_symmetric(self, "hue", 0.5))
        set_field(self, "p", check_number(self, "p", 0.0, 1.0))

    def nodes(self) -> tuple[Node, ...]:
        contrast = Contrast(self.contrast, p=self.p)
        colour = (Saturation(self.saturation, p=self.p), Hue(self.hue, p=self.p))
        orders = (RandomApply((contrast, *colour), p=1.0), RandomApply((*colour, contrast), p=1.0))
        return (Brightness(self.brightness, p=self.p), OneOf(orders), ChannelShuffle(p=self.p))
