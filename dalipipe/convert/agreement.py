"""How closely operators meet torchvision's, and what Pillow makes of the same.

Figures are in 255ths, over uint8 pictures; ``tests/test_convert.py`` holds them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dalipipe.policy import Op

_FLOATS = "values are rounded to 255ths, where it has floats"
_EACH = "each operator by itself"

# Operator → how far it may be from torchvision's v2 on tensors, and from what Pillow makes of pictures.
_TENSOR: dict[str, float] = {"Contrast": 1, "Saturation": 1, "GaussianBlur": 1, "Sharpness": 1, "JpegCompression": 1}
_PIL: dict[str, str] = {}


def agreement(ops: Iterable[Op], *, backend: str, v2: bool, is_float: bool) -> tuple[float, str]:
    """(k, what else there is to say) for operators that stand in for one transform."""
    within, notes, changing = 0.0, [], set()
    for op in ops:
        k, but = _on_tensors(op, v2 or backend == "pil")
        if is_float and not isinstance(op, FlipOp | EraseOp | Normalize | MixOp) and not _cuts_whole_pixels(op):
            k = max(k, 1.0)
            notes.append(_FLOATS)
        within = max(within, k)
        notes += [but] if but else []
        if backend == "pil" and (differs := _on_pil(op)):
            notes.append(f"on PIL pictures, as here, {differs}")
        if k:
            changing.add(type(op))
    notes += [_EACH] if len(changing) > 1 else []
    return within, "; ".join(dict.fromkeys(notes))
