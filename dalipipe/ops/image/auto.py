"""Automatic policies, each drawn sample by sample: `RandAugment`, `TrivialAugmentWide`, `AutoAugment`, `AugMix`.

They are torchvision's (``torchvision.transforms.v2``): its operators, its magnitudes, its defaults. Pictures keep their
size. ``interpolation`` ("nearest", "bilinear", "bicubic", or "random": bilinear or bicubic for each sample) and
``fill`` (one value or (R, G, B), 0..255) are those of the warps among the operators.

One that is made with a field that does not fit raises ``ValueError``, naming policy, field, what was expected and what
came.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from dalipipe.ops.image.auto_tables import SUB_POLICIES
from dalipipe.ops.image.colour import (
    AutoContrast,
    Brightness,
    Contrast,
    Equalize,
    Invert,
    Posterize,
    Saturation,
    Solarize,
)
from dalipipe.ops.image.families import BlendOp, Colour, Interpolation, check_fill, check_interpolation
from dalipipe.ops.image.filters import Sharpness
from dalipipe.ops.image.geometry import Rotate, Shear, Translate, TranslatePx
from dalipipe.policy import Choice, Macro, Node, OneOf, Op, Params, RandomApply, check_nodes, set_field
from dalipipe.quantiles import beta_quantile, dirichlet

# Magnitudes by operator: the first and the last of the bins. Translations are shares of the side.
_SPACE = {
    "ShearX": (0.0, 0.3),
    "ShearY": (0.0, 0.3),
    "TranslateX": (0.0, 150.0 / 331.0),
    "TranslateY": (0.0, 150.0 / 331.0),
    "Rotate": (0.0, 30.0),
    "Brightness": (0.0, 0.9),
    "Color": (0.0, 0.9),
    "Contrast": (0.0, 0.9),
    "Sharpness": (0.0, 0.9),
    "Posterize": (8.0, 4.0),
    "Solarize": (1.0, 0.0),
    "AutoContrast": None,
    "Equalize": None,
}
_WIDE_SPACE = {
    **_SPACE,
    **dict.fromkeys(("ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness"), (0.0, 0.99)),
    "TranslateX": (0.0, 32.0),  # px
    "TranslateY": (0.0, 32.0),
    "Rotate": (0.0, 135.0),
    "Posterize": (8.0, 2.0),
}
_MIX_SPACE = {**_SPACE, "TranslateX": (0.0, 1.0 / 3.0), "TranslateY": (0.0, 1.0 / 3.0), "Posterize": (4.0, 0.0)}

_PARAMETER_MAX = 10  # AugMix's bins


@dataclass(frozen=True, repr=False)
class RandAugment(Macro):
    """``num_ops`` (≥ 0) operators, each any of fourteen (one of which leaves the picture as it is), at one
    ``magnitude`` out of ``num_bins`` (≥ 2), 0 the weakest, ``num_bins`` − 1 the strongest.

    Cubuk, Zoph, Shlens, Le, "RandAugment: Practical automated data augmentation" (NeurIPS 2020).
    Raises ``ValueError`` where a number is not whole or out of range.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_bins: int = 31
    interpolation: Interpolation = "nearest"
    fill: Colour = 0

    counted: ClassVar[str | None] = "num_ops"

    def __post_init__(self) -> None:
        _check_whole(self, "num_ops", 0)
        _check_whole(self, "num_bins", 2)
        _check_whole(self, "magnitude", 0, self.num_bins - 1)
        check_interpolation(self)
        check_fill(self)

    def nodes(self) -> tuple[Node, ...]:
        return (_one_of(self, _SPACE, [self.magnitude], self.num_bins),) * self.num_ops


@dataclass(frozen=True, repr=False)
class TrivialAugmentWide(Macro):
    """One operator, any of fourteen (one of which leaves the picture as it is), at a magnitude drawn from ``num_bins``
    (≥ 2), of wide ranges.

    Müller, Hutter, "TrivialAugment: Tuning-free yet state-of-the-art data augmentation" (ICCV 2021).
    Raises ``ValueError`` where ``num_bins`` is not a whole number from 2 on.
    """

    num_bins: int = 31
    interpolation: Interpolation = "nearest"
    fill: Colour = 0

    def __post_init__(self) -> None:
        _check_whole(self, "num_bins", 2)
        check_interpolation(self)
        check_fill(self)

    def nodes(self) -> tuple[Node, ...]:
        return (_one_of(self, _WIDE_SPACE, range(self.num_bins), self.num_bins),)


@dataclass(frozen=True, repr=False)
class AutoAugment(Macro):
    """One of twenty-five pairs of operators, found by search for the data set that ``policy`` names: "imagenet",
    "cifar10" or "svhn". Each operator of the pair has a probability and a magnitude of its own.

    Cubuk, Zoph, Mané, Vasudevan, Le, "AutoAugment: Learning augmentation strategies from data" (CVPR 2019).
    Raises ``ValueError`` where no policy has that name.
    """

    policy: str = "imagenet"
    interpolation: Interpolation = "nearest"
    fill: Colour = 0

    def __post_init__(self) -> None:
        if not isinstance(self.policy, str) or self.policy not in SUB_POLICIES:
            raise ValueError(f"AutoAugment: policy must be one of {', '.join(SUB_POLICIES)}, got {self.policy!r}")
        check_interpolation(self)
        check_fill(self)

    def nodes(self) -> tuple[Node, ...]:
        space = {**_SPACE, "Invert": None}
        pairs = [
            [_operator(self, name, space[name], [magnitude], 10, p) for name, p, magnitude in sub_policy]
            for sub_policy in SUB_POLICIES[self.policy]
        ]
        return (OneOf(tuple(RandomApply(tuple(pair), p=1.0) for pair in pairs)),)


@dataclass(frozen=True, repr=False)
class AugMix(Macro):
    """A mixture of the picture and ``width`` (≥ 1) chains that start from it: of ``depth`` operators each, or, below 1,
    of 1 to 3. Magnitudes are drawn from the lowest ``severity`` (1..10) of ten. Without ``all_ops``, none changes
    brightness, colour, contrast or sharpness. Weights: by ``alpha``, as `Mixture`'s.

    Hendrycks, Mu, Cubuk, Zoph, Gilmer, Lakshminarayanan, "AugMix: A simple data processing method to improve robustness
    and uncertainty" (ICLR 2020). Raises ``ValueError`` where a number is out of range.
    """

    severity: int = 3
    width: int = 3
    depth: int = -1
    alpha: float = 1.0
    all_ops: bool = True
    interpolation: Interpolation = "bilinear"
    fill: Colour = 0

    def __post_init__(self) -> None:
        _check_whole(self, "severity", 1, _PARAMETER_MAX)
        _check_mixture(self)
        check_interpolation(self)
        check_fill(self)

    def nodes(self) -> tuple[Node, ...]:
        left_out = () if self.all_ops else ("Brightness", "Color", "Contrast", "Sharpness")
        space = {name: ends for name, ends in _MIX_SPACE.items() if name not in left_out}
        ops = tuple(_operator(self, name, ends, range(self.severity), _PARAMETER_MAX) for name, ends in space.items())
        return (Mixture(ops, self.width, self.depth, self.alpha),)


@dataclass(frozen=True, repr=False)
class Mixture(Macro):
    """AugMix of any ``ops``: w₀ · picture + Σ wᵢ · chainᵢ. Each chain starts from the picture and applies ``depth`` of
    the operators, drawn one by one; below 1, 1 to 3 of them.

    w₀ comes from Beta(``alpha``, ``alpha``), the ``width`` others share 1 − w₀ by a Dirichlet(``alpha``). The sum is
    truncated to uint8. The operators must keep the picture's size. ``alpha``: 10⁻⁶..10⁶, 1: uniform.
    """

    ops: tuple[Node, ...]
    width: int = 3
    depth: int = -1
    alpha: float = 1.0

    def __post_init__(self) -> None:
        set_field(self, "ops", check_nodes("Mixture", self.ops))
        _check_mixture(self)

    def at_strength(self, strength: float) -> Node:
        """Applied less often: a mixture of unchanged pictures is not quite one."""
        if strength <= 1.0:
            return super().at_strength(strength)
        return replace(self, ops=tuple(op.at_strength(strength) for op in self.ops))

    def nodes(self) -> tuple[Node, ...]:
        step = OneOf(self.ops)
        if self.depth < 1:
            chain: tuple[Node, ...] = (step, RandomApply((step, RandomApply((step,), p=1 / 2)), p=2 / 3))
        else:
            chain = (step,) * self.depth
        placed: list[Node] = [MixtureStep("keep", width=self.width, alpha=self.alpha)]
        for i in range(self.width):
            end = "last" if i == self.width - 1 else "add"
            placed += [*chain, MixtureStep(end, i, self.width, self.alpha)]
        return tuple(placed)


@dataclass(frozen=True, repr=False)
class MixtureStep(BlendOp):
    """Where `Mixture` keeps the picture, and where its ``chain`` ends, with that chain's weight. Those of one mixture
    draw from the same numbers, so that their weights fit together.
    """

    step: str = "keep"
    chain: int = 0
    width: int = 3
    alpha: float = 1.0

    from_macro: ClassVar[bool] = True

    @property
    def draws(self) -> int:  # type: ignore[override]
        return 1 + self.width

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        kept = beta_quantile(self.alpha, self.alpha)(u[:, 0])
        return {"weight": (1.0 - kept) * dirichlet(self.alpha, u[:, 1:])[:, self.chain], "kept_weight": kept}


# What they share ---------------------------------------------------------------------------------------------------


def _one_of(macro: Any, space: Mapping[str, Any], chosen: Iterable[int], bins: int) -> OneOf:
    """Any operator of the space, or, as likely as each of them, none."""
    ops = tuple(_operator(macro, name, ends, chosen, bins) for name, ends in space.items())
    return OneOf(ops, p=len(ops) / (len(ops) + 1))


def _operator(
    macro: Any, name: str, ends: tuple[float, float] | None, chosen: Iterable[int], bins: int, p: float = 1.0
) -> Op:
    """An operator as torchvision's automatic policies name it, at any of the ``chosen`` of ``bins`` magnitudes.

    Magnitudes are float32, of torch's ``linspace``, since whether a threshold is passed may depend on their last bit.
    """
    warp: dict[str, Any] = {"interpolation": macro.interpolation, "fill": macro.fill, "p": p}
    if ends is None:
        return {"AutoContrast": AutoContrast, "Equalize": Equalize, "Invert": Invert}[name](p=p)
    if name.startswith("Translate") and ends[1] < 1.0:  # a share of the side: float32 px, then truncated
        shares = Choice(tuple(ends[1] * i / (bins - 1) for i in chosen), signed=True)
        return Translate(**along(name[-1], shares), rounding="truncate", **warp)
    magnitudes = [float(linspace(*ends, bins)[i]) for i in chosen]
    either = Choice(tuple(magnitudes), signed=True)
    match name:
        case "ShearX" | "ShearY":
            return Shear(**along(name[-1], either), unit="slope", center="corner", **warp)
        case "TranslateX" | "TranslateY":
            whole = Choice(tuple(math.trunc(m) for m in magnitudes), signed=True)
            return TranslatePx(**along(name[-1], whole), **warp)
        case "Rotate":
            return Rotate(either, **warp)
        case "Posterize":
            return Posterize(Choice(tuple(float(np.rint(m)) for m in magnitudes)), p=p)
        case "Solarize":
            return Solarize(Choice(tuple(float(np.float32(255.0 * m)) for m in magnitudes)), p=p)
    factor = {"Brightness": Brightness, "Color": Saturation, "Contrast": Contrast, "Sharpness": Sharpness}[name]
    return factor(Choice(tuple(1.0 + sign * m for m in magnitudes for sign in (-1.0, 1.0))), p=p)


def along(axis: str, values: Any) -> dict[str, Any]:
    """The fields of a translation or shear along "X" or "Y" alone."""
    return {"x": 0.0, "y": 0.0, axis.lower(): values}


def linspace(start: float, end: float, n: int) -> np.ndarray:
    """float32 [n]: torch's, to the bit. It counts from both ends towards the middle, and rounds each value once."""
    first, last, i = np.float32(start), np.float32(end), np.arange(n)
    step = np.float64((last - first) / np.float32(n - 1))
    return np.where(i < n // 2, first + step * i, last - step * (n - 1 - i)).astype(np.float32)


def _check_whole(macro: Macro, name: str, low: int, high: int | None = None) -> None:
    value = getattr(macro, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        expected = f"≥ {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{type(macro).__name__}: {name} must be a whole number {expected}, got {value!r}")


def _check_mixture(macro: Any) -> None:
    _check_whole(macro, "width", 1)
    _check_whole(macro, "depth", -1)
    if not isinstance(macro.alpha, (int, float)) or not 1e-6 <= macro.alpha <= 1e6:
        raise ValueError(f"{type(macro).__name__}: alpha must lie in [1e-06, 1e+06], got {macro.alpha!r}")
