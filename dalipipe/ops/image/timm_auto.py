"""timm's automatic policies: `timm_rand_augment` from its configuration strings, `timm_nodes` from its transforms.

After ``timm/data/auto_augment.py``: its operators by its names, its magnitudes (levels 0..10, normally distributed),
its ways of choosing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dalipipe.ops.image.auto import Mixture, along
from dalipipe.ops.image.colour import (
    AutoContrast,
    Brightness,
    Contrast,
    Equalize,
    Invert,
    Posterize,
    Saturation,
    Solarize,
    SolarizeAdd,
)
from dalipipe.ops.image.families import Colour
from dalipipe.ops.image.filters import GaussianBlur, Sharpness
from dalipipe.ops.image.geometry import Rotate, Shear, Translate, TranslatePx
from dalipipe.policy import Choice, Container, Node, Normal, OneOf, RandomApply

_LEVELS = 10.0
_TINY = 1e-9

_PLAIN: tuple[str, ...] = tuple(
    "AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast Brightness Sharpness "
    "ShearX ShearY TranslateXRel TranslateYRel".split()
)
_GROWING = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
_INCREASING = tuple(f"{name}Increasing" if name in _GROWING else name for name in _PLAIN)

_SETS: dict[str, dict[str, float] | tuple[str, ...]] = {
    "3a": ("SolarizeIncreasing", "Desaturate", "GaussianBlur"),
    "3aw": dict.fromkeys(("SolarizeIncreasing", "Desaturate", "GaussianBlur"), 6.0)
    | {"Rotate": 3.0, "ShearX": 2.0, "ShearY": 2.0, "PosterizeIncreasing": 1.0, "AutoContrast": 1.0}
    | dict.fromkeys(("ColorIncreasing", "SharpnessIncreasing", "ContrastIncreasing", "BrightnessIncreasing"), 1.0)
    | {"Equalize": 1.0, "Invert": 1.0},
    "weights": {"Rotate": 3.0, "ShearX": 2.0, "ShearY": 2.0, "TranslateXRel": 1.0, "TranslateYRel": 1.0}
    | {"ColorIncreasing": 0.25, "SharpnessIncreasing": 0.25, "AutoContrast": 0.25, "SolarizeIncreasing": 0.05}
    | {"SolarizeAdd": 0.05, "ContrastIncreasing": 0.05, "BrightnessIncreasing": 0.05, "Equalize": 0.05}
    | {"PosterizeIncreasing": 0.05, "Invert": 0.05},
}
"""timm's sets of operators (``-t…``), two with weights."""


@dataclass(frozen=True, repr=False)
class WeightedSample(Container):
    """``n`` different operators, one after the other, drawn by ``weights`` without replacement, in the order drawn.

    As ``numpy.random.choice(replace=False, p=weights)``: by the largest u^(1/weight) (Efraimidis, Spirakis: "Weighted
    random sampling with a reservoir", Information Processing Letters 97, 2006).
    """

    n: int = 1
    weights: tuple[float, ...] = ()

    counted: ClassVar[str | None] = "n"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.n, int) or not 1 <= self.n <= len(self.ops):
            raise ValueError(
                f"WeightedSample: n must lie in [1, {len(self.ops)}], the number of operators, got {self.n!r}"
            )
        weights = tuple(float(w) for w in self.weights)
        if len(weights) != len(self.ops) or not all(0.0 < w < math.inf for w in weights):
            raise ValueError(
                f"WeightedSample: weights must be {len(self.ops)} numbers > 0, one per operator, got {self.weights!r}"
            )
        object.__setattr__(self, "weights", weights)

    @property
    def draws(self) -> int:  # type: ignore[override]
        return len(self.ops)

    def choose(self, u: np.ndarray) -> np.ndarray:
        keys = np.log(np.maximum(u, 2.0**-33)) / np.array(self.weights)
        order = np.argsort(-keys, axis=1, kind="stable")[:, : self.n]  # [N, place]: the operator there
        return (order[:, :, None] == np.arange(len(self.ops))).reshape(len(u), -1)

    def children(self) -> Any:
        for gate in range(self.n * len(self.ops)):
            yield gate, gate % len(self.ops)


@dataclass(frozen=True)
class Level:
    """timm's magnitude: ``mean``, or normally distributed about it with ``std``, or (``std`` infinite) uniform from 0
    to it; what lies outside 0..``top`` is moved to the ends.
    """

    mean: float
    std: float = 0.0
    top: float = _LEVELS

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean) or self.mean < 0 or not self.std >= 0 or not 0 < self.top < math.inf:
            raise ValueError(
                "timm's magnitude: expected a magnitude ≥ 0, a deviation ≥ 0 and a maximum > 0, got "
                f"{self.mean}, {self.std} and {self.top}"
            )

    def range(
        self, times: float, plus: float = 0.0, *, signed: bool = False, bottom: float = 0.0, top: float = math.inf
    ) -> Any:
        """What an operator's field takes: plus ± times · level, the level at least ``bottom`` and at most ``top``."""
        top = min(self.top, top)
        signs = (-1.0, 1.0) if signed else (1.0,)
        if self.std == 0.0:
            level = min(max(self.mean, bottom), top)
            return Choice(tuple(plus + sign * times * level for sign in signs))
        if math.isinf(self.std):
            if self.mean > top:
                raise ValueError(
                    f"timm's magnitude: uniform ones up to {self.mean:g} reach beyond {top:g}, the most that is used"
                )
            ends = [plus + sign * times * v for v in (bottom, max(self.mean, bottom)) for sign in signs]
            return min(ends), max(ends)
        return Normal(self.mean, self.std, (bottom, top), signed, times, plus)


def timm_rand_augment(
    config: str = "rand-m9-mstd0.5-inc1",
    *,
    fill: Colour = (128, 128, 128),
    interpolation: str = "random",
    translate_share: float = 0.45,
) -> tuple[Node, ...]:
    """The RandAugment that timm makes of ``config``: "rand" and, in any order, -m… magnitude (10), -n… operators (2),
    -p… probability of each (0.5), -mstd… deviation of the magnitude (0; above 100: uniform from 0 on), -mmax… largest
    magnitude (10), -inc1 for operators that grow with it, -t… set of operators (3a, 3aw, weights).

    ``fill`` is timm's ``img_mean``, 0..255; ``interpolation`` "random" draws from bilinear and bicubic, as timm by
    default; ``translate_share``: the largest translation, as a share of the side (timm's ``translate_pct``). Raises
    ``ValueError`` naming the part of ``config`` that is not understood.
    """
    scheme, *parts = config.split("-") if isinstance(config, str) else ("",)
    if scheme != "rand":
        raise ValueError(f'timm_rand_augment: config must begin with "rand", got {config!r}')
    values = {"m": _LEVELS, "n": 2.0, "p": 0.5, "mstd": 0.0, "mmax": _LEVELS, "inc": 0.0}
    chosen = ""
    for part in parts:
        matched = re.fullmatch(r"(m|n|p|mstd|mmax|inc)([0-9.]+|inf)", part)
        if part.startswith("t") and part[1:] in _SETS:
            chosen = part[1:]
        elif matched:
            values[matched[1]] = float(matched[2])
        else:
            known = f"{', '.join(values)} with a number, or t with {', '.join(_SETS)}"
            raise ValueError(f"timm_rand_augment: config {config!r}: expected parts {known}; got {part!r}")
    level = Level(values["m"], math.inf if values["mstd"] > 100.0 else values["mstd"], values["mmax"])
    names = _SETS[chosen] if chosen else _INCREASING if values["inc"] else _PLAIN
    operators = [
        timm_operator(
            name, level, p=values["p"], fill=fill, interpolation=interpolation, translate_share=translate_share
        )
        for name in names
    ]
    return _layers(operators, int(values["n"]), tuple(names.values()) if isinstance(names, dict) else None)


def timm_nodes(transform: Any) -> tuple[Node, ...]:
    """What a ``RandAugment``, ``AutoAugment`` or ``AugMixAugment`` of timm, or one ``AugmentOp``, stands for.

    Raises ``ValueError`` where it holds what has no counterpart, ``TypeError`` where it is none of these.
    """
    kind = type(transform).__name__
    if kind == "AugmentOp":
        return (_augment_op(transform),)
    if kind == "RandAugment":
        weights = transform.choice_weights
        chosen = None if weights is None else tuple(float(w) for w in weights)
        return _layers([_augment_op(op) for op in transform.ops], int(transform.num_layers), chosen)
    if kind == "AutoAugment":
        groups = tuple(RandomApply(tuple(_augment_op(op) for op in ops), p=1.0) for ops in transform.policy)
        return (OneOf(groups),)
    if kind == "AugMixAugment":
        if transform.blended:
            raise ValueError("timm's AugMixAugment: blended=True has no counterpart; the plain mixture (b0) has")
        ops = tuple(_augment_op(op) for op in transform.ops)
        depth = int(transform.depth) if transform.depth > 0 else -1
        return (Mixture(ops, int(transform.width), depth, float(transform.alpha)),)
    raise TypeError(f"timm_nodes: expected one of timm's automatic policies, got {kind}: {transform!r}")


def _layers(operators: list[Node], n: int, weights: tuple[float, ...] | None) -> tuple[Node, ...]:
    if weights is None:
        return (OneOf(tuple(operators)),) * n
    return (WeightedSample(tuple(operators), n=n, weights=weights),) if n else ()


def _augment_op(op: Any) -> Node:
    hparams = op.hparams
    fill: Any = op.kwargs["fillcolor"]
    return timm_operator(
        op.name,
        Level(float(op.magnitude), float(op.magnitude_std), float(op.magnitude_max or _LEVELS)),
        p=float(op.prob),
        fill=tuple(fill) if isinstance(fill, list) else fill,
        interpolation=_interpolation(op.kwargs["resample"]),
        translate_share=float(hparams.get("translate_pct", 0.45)),
        translate_px=float(hparams.get("translate_const", 250)),
    )


def _interpolation(resample: Any) -> str:
    names = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
    several = sorted(int(v) for v in resample) if isinstance(resample, (tuple, list)) else None
    if several == [2, 3]:
        return "random"
    if several is not None or int(resample) not in names:
        raise ValueError(f"timm's automatic policies: interpolation {resample!r} has no counterpart")
    return names[int(resample)]


def timm_operator(
    name: str,
    level: Level,
    *,
    p: float = 1.0,
    fill: Colour = (128, 128, 128),
    interpolation: str = "random",
    translate_share: float = 0.45,
    translate_px: float = 250.0,
) -> Node:
    """timm's ``AugmentOp`` of that ``name``: "Rotate", "ColorIncreasing", "TranslateXRel", …

    ``translate_share``, ``translate_px``: the largest translation, of the side or in pixels. Raises ``ValueError``
    where timm has no operator of that name.
    """
    warp: dict[str, Any] = {"interpolation": interpolation, "fill": fill, "p": p}
    bare = {"AutoContrast": AutoContrast, "Equalize": Equalize, "Invert": Invert}
    factors = {"Color": Saturation, "Contrast": Contrast, "Brightness": Brightness, "Sharpness": Sharpness}
    if name in bare:
        return bare[name](p=p)
    if name in factors:
        return factors[name](level.range(0.18, 0.1), p=p)
    if name.removesuffix("Increasing") in factors:
        return _enhanced(factors[name.removesuffix("Increasing")], level, p)
    match name:
        case "Rotate":
            return Rotate(level.range(3.0, signed=True), **warp)
        case "ShearX" | "ShearY":
            return Shear(**along(name[-1], level.range(0.03, signed=True)), unit="slope", center="corner", **warp)
        case "TranslateX" | "TranslateY":
            px = level.range(translate_px / _LEVELS, signed=True)
            return TranslatePx(**along(name[-1], px), rounding="none", **warp)
        case "TranslateXRel" | "TranslateYRel":
            share = level.range(translate_share / _LEVELS, signed=True)
            return Translate(**along(name[-4], share), rounding="none", **warp)
        case "Posterize":
            return _posterize(level.range(0.4, top=20.0), p)
        case "PosterizeIncreasing":
            return _posterize(level.range(-0.4, 5.0 - _TINY, top=12.4), p)  # 4 − ⌊0.4 · level⌋, at least 0
        case "PosterizeOriginal":
            return _posterize(level.range(0.4, 4.0, top=10.0), p)
        case "Solarize":  # from ⌊25.6 · level⌋ on, so all above 25.6 · level − 1 (0 itself left out)
            return Solarize(level.range(25.6, -1.0 + _TINY, bottom=1.0 / 25.6, top=_LEVELS), p=p)
        case "SolarizeIncreasing":  # from 256 − ⌊25.6 · level⌋ on, so all from 256 − 25.6 · level on
            return Solarize(level.range(-25.6, 256.0, top=_LEVELS), p=p)
        case "SolarizeAdd":
            return SolarizeAdd(level.range(11.0, top=128.0 / 11.0), p=p)
        case "Desaturate":
            return Saturation(level.range(-0.05, 0.5, top=_LEVELS), p=p)
        case "GaussianBlur":
            return GaussianBlur(_BLUR_TAPS, level.range(0.19, 0.1, top=_LEVELS), p=p)
        case "GaussianBlurRand" if level.std == 0.0:
            return GaussianBlur(_BLUR_TAPS, (0.1, max(0.1, 0.2 * min(level.mean, level.top, _LEVELS))), p=p)
    raise ValueError(f"timm's automatic policies: no operator {name!r} at a magnitude of {level}")


_BLUR_TAPS = 13  # three deviations of the widest, 2 px, on either side


def _enhanced(factor: Any, level: Level, p: float) -> Node:
    """1 ± 0.09 · level, but at least 0.1."""
    if level.top <= _LEVELS:
        return factor(level.range(0.09, 1.0, signed=True), p=p)
    return OneOf((factor(level.range(0.09, 1.0)), factor(level.range(-0.09, 1.0, top=_LEVELS))), p=p)


def _posterize(bits: Any, p: float) -> Node:
    """The whole part of ``bits``; uniform ones are taken apart, since `Posterize` takes a pair for whole numbers."""
    if not isinstance(bits, tuple):
        return Posterize(bits, p=p)
    low, high = bits
    kept = range(int(low), math.floor(high) + 1)
    shares = tuple(min(high, n + 1) - max(low, n) for n in kept) if high > low else (1.0,)
    return OneOf(tuple(Posterize((n, n)) for n in kept), p=p, weights=shares)
