"""What is drawn for a batch: orders, random numbers, and operators folded into passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dalipipe.native.core import _C, check_array, three_of
from dalipipe.native.structs import FOLD_OP, GATE, GATE_BOX, GATE_LEAF, TOKEN_FOLD_OP, TOKEN_PASS


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


def noise_keys(indices: npt.ArrayLike, variants: npt.ArrayLike, slot: int, key: npt.ArrayLike) -> np.ndarray:
    """`dalipipe.rng.noise_keys`: int64 [N] indices, their variants [N] or [1] → uint32 [N, 5]."""
    indices, variants = np.ascontiguousarray(indices, np.int64), np.ascontiguousarray(variants, np.uint32)
    out, key = np.empty((len(indices), 5), np.uint32), np.asarray(key, np.uint32)
    _C.noise_keys(
        indices=indices, variants=variants.reshape(-1), slot=slot, key0=int(key[0]), key1=int(key[1]), out=out
    )
    return out


def open_leaves(
    u: np.ndarray, boxes: np.ndarray, leaves: np.ndarray, gates: np.ndarray, edges: np.ndarray
) -> list[np.ndarray]:
    """To which samples operators are applied: int64 each, rising.

    Args:
        u: float64 [N, columns]: numbers in [0, 1), of which csrc/gates.h says what decides what.
        boxes: `GATE_BOX` [containers]. leaves: `GATE_LEAF` [operators]. gates: `GATE` [G].
        edges: float64: the running sums of weights of containers that choose by them.

    Raises:
        ValueError: a container, gate or column that is not there.
    """
    n, columns = u.shape
    rows, counts = np.empty((len(leaves), n), np.int64), np.empty(len(leaves), np.int64)
    given = {}
    for name, array, dtype in (
        ("boxes", boxes, GATE_BOX),
        ("leaves", leaves, GATE_LEAF),
        ("gates", gates, GATE),
        ("edges", edges, np.float64),
    ):
        given[name] = check_array(name, array, dtype, (len(array),), "open_leaves")
    _C.open_leaves(
        u=check_array("u", u, np.float64, (n, columns), "open_leaves"),
        n=n,
        columns=columns,
        box_count=len(boxes),
        leaf_count=len(leaves),
        gate_count=len(gates),
        edge_count=len(edges),
        rows=rows.ctypes.data,
        counts=counts.ctypes.data,
        **given,
    )
    return [row[:count] for row, count in zip(rows, counts.tolist(), strict=True)]


def fold_tokens(ops: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Operators drawn for N texts → ``passes`` [P] of `TOKEN_PASS`, sample after sample, and ``starts`` int32 [N+1].

    ``ops``: `TOKEN_FOLD_OP` [operators]; what they point to is as csrc/gates.h says. Raises ``ValueError`` for a row
    outside the batch.
    """
    check_array("ops", ops, TOKEN_FOLD_OP, (len(ops),), "fold_tokens")
    passes, starts = np.empty(int(ops["count"].sum()), TOKEN_PASS), np.empty(n + 1, np.int32)
    _C.fold_tokens(ops=ops.ctypes.data, op_count=len(ops), n=n, starts=starts.ctypes.data, passes=passes.ctypes.data)
    return passes, starts


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
