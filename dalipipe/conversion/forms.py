"""What a picture is between two steps of a transform, what a step becomes, and readers for what transforms hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from dalipipe.policy import Node

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
_PIL_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_IMAGE_TYPES = ("Image", "Tensor", "others")  # keys of torchvision's fill and dtype mappings, first come first served


class Refusal(Exception):
    """Why a step cannot be converted, and what would do instead."""


@dataclass(frozen=True)
class Form:
    """A picture between two steps: on which ``backend``, of which ``dtype``, and what its values mean.

    A value stands for (v / 255 − ``mean``) / ``std``, v being the pixel's 0..255. ``channels``: 1 or 3.
    """

    backend: str = "pil"
    dtype: torch.dtype = torch.uint8
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1 / 255,)
    channels: int = 3

    @property
    def is_float(self) -> bool:
        return self.dtype != torch.uint8

    @property
    def is_unit(self) -> bool:
        """Floats 0..1."""
        return self.is_float and set(self.mean) == {0.0} and set(self.std) == {1.0}

    @property
    def is_bytes(self) -> bool:
        """Values 0..255, of whatever dtype."""
        return set(self.mean) == {0.0} and set(self.std) == {1 / 255}

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> Form:
        """After (value − mean) / std."""
        n = max(map(len, (mean, std, self.mean, self.std)))
        m0, s0, m1, s1 = (_repeated(v, n) for v in (self.mean, self.std, mean, std))
        means = tuple(a + s * m for a, s, m in zip(m0, s0, m1, strict=True))
        return replace(self, mean=means, std=tuple(a * b for a, b in zip(s0, s1, strict=True)))

    def pixel(self, value: Any) -> Any:
        """A value or colour of this form as 0..255: a number, or three."""
        values = value if isinstance(value, tuple) else (value,)
        if not self.is_float:
            return values if len(values) > 1 else values[0]
        n = max(len(values), len(self.mean))
        parts = zip(_repeated(values, n), _repeated(self.mean, n), _repeated(self.std, n), strict=True)
        pixels = tuple(255.0 * (v * s + m) for v, m, s in parts)
        return pixels[0] if len(set(pixels)) == 1 else pixels

    def value(self, pixel: Any) -> Any:
        """0..255 as a value or colour of this form: `pixel` undone."""
        values = pixel if isinstance(pixel, tuple) else (pixel,)
        n = max(len(values), len(self.mean))
        parts = zip(_repeated(values, n), _repeated(self.mean, n), _repeated(self.std, n), strict=True)
        found = tuple((v / 255.0 - m) / s for v, m, s in parts)
        return found[0] if len(set(found)) == 1 else found

    def colours(self, what: str) -> None:
        """Raises `Refusal` unless colours can be changed here as torchvision changes them."""
        if self.is_float and not self.is_unit:
            said = "0..255 in floats, which it takes for 0..1" if self.is_bytes else "normalised"
            raise Refusal(f"{what} follows values that are {said}: put it before that step")


@dataclass(frozen=True)
class Made:
    """What a step became: ``nodes`` of a policy, and the ``form`` of the picture after it (``None``: as before).

    ``note``: what is to be said beyond what its operators' agreement says. What an erasing fills in is a value of the
    form before it: where it goes is known once all steps are.
    """

    nodes: tuple[Node, ...] = ()
    form: Form | None = None
    note: str = ""


Converter = Callable[[Any, Form], Made]


class Table(dict[str, Converter]):
    """Converters by the name of the class that they take. Calling it with names decorates one."""

    def __call__(self, *names: str) -> Callable[[Converter], Converter]:
        def add(converter: Converter) -> Converter:
            self.update(dict.fromkeys(names, converter))
            return converter

        return add


def made(*nodes: Node, note: str = "") -> Made:
    return Made(nodes, note=note)


def is_v2(transform: Any) -> bool:
    """Of torchvision's transforms."""
    return ".v2." in type(transform).__module__


# Readers ------------------------------------------------------------------------------------------------------------


def interpolation(value: Any) -> Any:
    """A name of ours from torchvision's enum, a string or Pillow's number; a pair of them is "random"."""
    if isinstance(value, tuple | list):
        names = sorted(interpolation(v) for v in value)
        if names != ["bicubic", "bilinear"]:
            raise Refusal(f"it draws its interpolation from {names}: bilinear and bicubic are what can be drawn from")
        return "random"
    name = _PIL_INTERPOLATIONS.get(int(value)) if isinstance(value, int) else getattr(value, "value", value)
    if name not in _INTERPOLATIONS:
        raise Refusal(f"its interpolation is {name}: {', '.join(_INTERPOLATIONS)} can be had")
    return name


def pair(value: Any) -> tuple[int, int]:
    """A size: (height, width) from a number, a list of one or of two."""
    values = [int(v) for v in value] if isinstance(value, tuple | list) else [int(value)]
    return (values[0], values[-1])


def colour(value: Any, form: Form) -> Any:
    """A fill of ours, 0..255, from torchvision's: a number, a list, a mapping by type, or ``None``."""
    if isinstance(value, Mapping):
        by_name = {key if isinstance(key, str) else key.__name__: one for key, one in value.items()}
        value = next((by_name[name] for name in _IMAGE_TYPES if name in by_name), 0)
    if value is None:
        value = 0
    values = tuple(float(v) for v in value) if isinstance(value, tuple | list) else float(value)
    pixels = form.pixel(values)
    if not all(-0.5 <= v <= 255.5 for v in (pixels if isinstance(pixels, tuple) else (pixels,))):
        raise Refusal(f"its fill is {value}, beyond the values that a picture has there")
    return pixels


def numbers(value: Any) -> tuple[float, ...]:
    """Of a list, a tensor or one number; float32 as the shortest number for it: 0.485, not 0.48500001430511475."""
    if isinstance(value, torch.Tensor):
        value = [float(str(v)) for v in value.detach().cpu().flatten().numpy()]
    return tuple(float(v) for v in value) if isinstance(value, tuple | list) else (float(value),)


def scaled(form: Form, dtype: torch.dtype, *, scale: bool) -> Form:
    """After a change of dtype as torchvision makes it. Raises `Refusal` where values would be lost."""
    if dtype not in (*_FLOATS, torch.uint8):
        raise Refusal(f"it asks for {dtype}: a batch is float32, float16, bfloat16 or uint8")
    if (dtype != torch.uint8) == form.is_float or not scale:
        keeps = form.is_bytes or dtype != torch.uint8
        if not keeps:
            raise Refusal("it makes whole numbers of values 0..1 without scaling them, which leaves nothing of them")
        return replace(form, dtype=dtype)
    if dtype == torch.uint8 and not form.is_unit:
        raise Refusal("it scales values that are not 0..1 to 0..255")
    return replace(form, dtype=dtype, std=(1.0,) if dtype != torch.uint8 else (1 / 255,))


def _repeated(values: Sequence[float], n: int) -> tuple[float, ...]:
    return tuple(values) * n if len(values) == 1 else tuple(values)
