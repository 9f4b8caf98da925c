"""Randomness as a function: the same numbers for (seed, epoch, sample, slot), whoever asks, wherever, in any order.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011). ``csrc/philox.h``
holds the same ten rounds, for the numbers of a whole batch and for noise that is drawn per element on the device.

Counter: word 0, 1: sample index; word 2: operator slot (low 16 bits) and variant (high 16 bits); word 3: draw block.
Key: 64 bits mixed from (seed, epoch).
"""

from __future__ import annotations

import numpy as np

from dalipipe import native

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)
_MASK64 = (1 << 64) - 1

_ELEMENT_BLOCK = 1 << 31

MAX_SLOTS = 1 << 16
MAX_VARIANTS = 1 << 16


def philox4x32(counters: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Ten rounds of Philox: uint32 [..., 4] counters and a uint32 [2] key give uint32 [..., 4]."""
    c0, c1, c2, c3 = (counters[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = int(key[0]), int(key[1])
    for _ in range(10):
        # 32 × 32 → 64 bits never overflows a uint64, so plain products are exact.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _WORD) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _WORD) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def mix64(*words: int) -> int:
    """Hashes integers of any size into 64 bits: SplitMix64's finaliser, chained (Steele, Lea, Flood, OOPSLA 2014)."""
    state = 0
    for word in words:
        while True:  # 64 bits at a time, so that large seeds count in full
            state = (state + (word & _MASK64) + 0x9E3779B97F4A7C15) & _MASK64
            state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
            state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
            state ^= state >> 31
            word >>= 64
            if word in (0, -1):
                break
    return state


def make_key(seed: int, epoch: int) -> np.ndarray:
    """The uint32 [2] key of an epoch."""
    mixed = mix64(seed, epoch)
    return np.array([mixed & 0xFFFFFFFF, mixed >> 32], np.uint32)


def uniforms(
    key: np.ndarray, indices: np.ndarray, slots: np.ndarray, blocks: np.ndarray, variants: np.ndarray | int = 0
) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [N, P, 4]: four for each sample index and each (slot, block) pair.

    ``indices`` int64 [N]; ``slots``, ``blocks`` integers [P]; ``variants``: integers [N], or one for all.
    """
    return native.uniforms(indices, variants, slots, blocks, key)


def noise_keys(key: np.ndarray, indices: np.ndarray, slot: int, variants: np.ndarray | int = 0) -> np.ndarray:
    """uint32 [N, 5]: the `NoiseKey` (``csrc/ops.h``) of each sample ``indices`` int64 [N], for noise drawn per element.

    Element e takes word e % 4 of block 2³¹ + e // 4; operators draw from blocks far below.
    """
    return native.noise_keys(indices, variants, slot, key)


def element_uniforms(keys: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` numbers per element of N samples: `noise_keys` uint32 [N, 5], of one epoch → float64 [N,
    count] in [0, 1), multiples of 2⁻³².
    """
    blocks = -(-count // 4)
    counters = np.empty((len(keys), blocks, 4), np.uint32)
    counters[..., :3] = keys[:, None, 2:]
    counters[..., 3] = np.uint32(_ELEMENT_BLOCK) + np.arange(blocks, dtype=np.uint32)
    if not counters.size:
        return np.zeros((len(keys), count))
    words = native.philox(counters.reshape(-1, 4), keys[0, :2]).reshape(len(keys), -1)
    return words[:, :count] * 2.0**-32


class Permutation:
    """A keyed bijection on [0, n): shuffles without an array, so that position p of any epoch costs O(1) at any n.

    A Feistel network over the smallest power of two ≥ n, with cycle walking (``csrc/permutation.h``; Black, Rogaway:
    "Ciphers with arbitrary finite domains", CT-RSA 2002).
    """

    _ROUNDS = 8

    def __init__(self, n: int, key: np.ndarray) -> None:
        if n < 1:
            raise ValueError(f"Permutation: n must be at least 1, got {n}")
        self.n = n
        bits = max(2, (n - 1).bit_length())
        self._low_bits, self._high_bits = bits // 2, bits - bits // 2
        counters = np.zeros((self._ROUNDS, 4), np.uint32)
        counters[:, 0] = np.arange(self._ROUNDS)
        counters[:, 3] = 0xFFFFFFFF  # a block no operator draws from
        words = philox4x32(counters, key).astype(np.uint64)
        self._round_keys = (words[:, 0] | (words[:, 1] << _WORD)).tolist()

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """int64 [N] positions in [0, n) → int64 [N] indices in [0, n)."""
        return native.permute(self.n, self._low_bits, self._high_bits, self._round_keys, positions)
