"""How closely operators meet torchvision's, and where Pillow would have made something else of the same pictures.

Figures are in 255ths of the range. ``tests/test_convert.py`` holds those for tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dalipipe.ops.image.families import CropOp, ElasticOp, EraseOp, FlipOp, ResizeOp, WarpOp
from dalipipe.ops.image.occlusion import Normalize
from dalipipe.ops.mix import MixOp
from dalipipe.policy import Op

_FLOATS = "values are rounded to 255ths, where it has floats"
_EACH = "each operator by itself"

# Within how many 255ths of torchvision's v2 on uint8 tensors; those that are not named here, or below, are exact.
_TENSOR = dict.fromkeys(("Contrast", "Saturation", "Sharpness", "GaussianBlur", "GaussianNoise"), 1)
# On PIL pictures, where that is further off; the worse, the later.
_ON_PIL = (
    "",
    "within 1/255",
    "within 6/255, since it turns hues in 8 bits",
    "98 % of pixels are within 1/255",
    "99.8 % of pixels are the same",
    "it takes nearest pixels elsewhere",
)
_CLOSE, _HUE, _WARP, _NEAREST_WARP, _NEAREST = range(1, 6)
_PIL = {"AutoContrast": _CLOSE, "Grayscale": _CLOSE, "Hue": _HUE}


def agreement(ops: Iterable[Op], *, backend: str, v2: bool, is_float: bool) -> tuple[float, str]:
    """(k, what else there is to say) for operators that stand in for one transform: of torchvision's ``v2`` or v1, on a
    ``backend``, on floats or not.
    """
    within, on_pil, notes, changing = 0.0, 0, [], set()
    for op in ops:
        k, but = _on_tensors(op)
        if isinstance(op, ResizeOp) and backend == "tensor" and not v2:
            k, but = 1.0, "v1 itself resizes tensors in floats"
        if is_float and not _keeps_values(op):
            k = max(k, 1.0)
            notes.append(_FLOATS)
        within = max(within, k)
        notes.append(but)
        on_pil = max(on_pil, _on_pil(op) if backend == "pil" else 0)
        if k:
            changing.add(type(op))
    notes += [_EACH] if len(changing) > 1 else []
    notes += [f"on PIL pictures, as here, {_ON_PIL[on_pil]}"] if on_pil else []
    return within, "; ".join(dict.fromkeys(filter(None, notes)))


def _on_tensors(op: Any) -> tuple[float, str]:
    if isinstance(op, ElasticOp):
        return 1.0, "for the same displacements, and those are drawn from other noise"
    if isinstance(op, WarpOp):
        if _is_nearest(op):
            return 0.0, "but for pixels that lie between two, to float32's last digit"
        return 1.0, "but for the border, where it blends the fill in twice"
    return float(_TENSOR.get(type(op).__name__, 0.0)), ""


def _on_pil(op: Any) -> int:
    """Place in `_ON_PIL`."""
    if isinstance(op, ResizeOp):
        return _NEAREST if _is_nearest(op) else _CLOSE
    if isinstance(op, WarpOp):
        return _NEAREST_WARP if _is_nearest(op) else _WARP
    return _PIL.get(type(op).__name__, 0)


def _is_nearest(op: Any) -> bool:
    return bool(op.interpolation == "nearest")


def _keeps_values(op: Op) -> bool:
    """Whether it only moves pixels, or comes after the last rounding."""
    if isinstance(op, CropOp):
        return bool((np.rint(op.fill) == np.asarray(op.fill)).all())
    return isinstance(op, FlipOp | EraseOp | Normalize | MixOp)
