"""What is drawn for a batch: orders, random numbers, and operators folded into passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dalipipe.native.core import _C, three_of
from dalipipe.native.structs import FOLD_OP


def philox(counters: npt.ArrayLike, key: npt.ArrayLike) -> np.ndarray:
    """Philox4x32-10 of csrc/philox.h: uint32 [N,4] counters and a uint32 [2] key → uint32 [N,4]."""
    counters, key = np.ascontiguousarray(counters, np.uint32), np.asarray(key, np.uint32)
    if counters.ndim != 2 or counters.shape[1] != 4 or key.shape != (2,):
        raise ValueError(f"philox: expected counters [N,4] and a key [2], got {counters.shape} and {key.shape}")
    out = np.empty_like(counters)
    _C.philox(counters=counters, key0=int(key[0]), key1=int(key[1]), out=out)
    return out


def uniforms(
    indices: npt.ArrayLike,
    variants: npt.ArrayLike,
    slots: npt.ArrayLike,
    blocks: npt.ArrayLike,
    key: npt.ArrayLike,
) -> np.ndarray:
    """`dalipipe.rng.uniforms`: int64 [N] indices, their uint32 variants [N] or [1], and P slots and blocks → float64
    [N, P, 4].
    """
    indices, variants = np.ascontiguousarray(indices, np.int64), np.ascontiguousarray(variants, np.uint32)
    slots, blocks = np.ascontiguousarray(slots, np.uint32), np.ascontiguousarray(blocks, np.uint32)
    out = np.empty((len(indices), len(slots), 4))
    key = np.asarray(key, np.uint32)
    parts = {"indices": indices, "variants": variants.reshape(-1), "slots": slots, "blocks": blocks}
    _C.uniforms(**parts, key0=int(key[0]), key1=int(key[1]), out=out)
    return out


def fold(ops: np.ndarray, size: np.ndarray, normalize: tuple[npt.ArrayLike, npt.ArrayLike] | None) -> Any:
    """Operators drawn for N pictures → the passes that apply them: the arrays of `Folded` (csrc/fold.h), flat, structs
    as bytes.

    Args:
        ops: `FOLD_OP` [operators]; what they point to is as csrc/fold.h says.
        size: int64 [N, 2]: px, height and width.
        normalize: scale and bias of the output, float32 [3] each, or ``None``.

    Raises:
        ValueError: rows that do not rise within the batch.
    """
    ops, size = np.ascontiguousarray(ops, FOLD_OP), np.ascontiguousarray(size, np.int64)
    if size.shape != (len(size), 2):
        raise ValueError(f"fold: size must be [N, 2], got {size.shape}")
    scale, bias = ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)) if normalize is None else normalize
    return _C.fold(
        ops=ops.ctypes.data,
        op_count=len(ops),
        size=size.ctypes.data,
        n=len(size),
        normalises=normalize is not None,
        scale=three_of("scale", scale, 3),
        bias=three_of("bias", bias, 3),
    )


def permute(n: int, low_bits: int, high_bits: int, round_keys: Sequence[int], positions: npt.ArrayLike) -> np.ndarray:
    """`dalipipe.rng.Permutation`: int64 positions in [0, n) → int64 indices of the same shape."""
    positions = np.ascontiguousarray(positions, np.int64)
    out = np.empty_like(positions)
    _C.permute(n=n, low_bits=low_bits, high_bits=high_bits, round_keys=list(round_keys), positions=positions, out=out)
    return out
