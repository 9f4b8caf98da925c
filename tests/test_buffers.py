"""Memory that is used again: never under a user's eyes, and never much more than was in use at one time."""

from __future__ import annotations

import gc

import numpy as np
import torch

from dalipipe.buffers import BufferPool


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def test_memory_comes_back_when_nobody_refers_to_it() -> None:
    pool = BufferPool()
    array = pool.take(100_000)
    first = address(array)
    part = torch.from_numpy(array).view(torch.float32)[3:5]
    del array
    gc.collect()
    assert address(pool.take(100_000)) != first, "a view of a view of it is still in use"
    seen = part.numpy()
    del part
    gc.collect()
    assert address(pool.take(100_000)) != first
    del seen
    gc.collect()
    assert address(pool.take(100_000)) == first


def test_sizes_and_alignment() -> None:
    pool = BufferPool()
    for nbytes in (0, 1, 4096, 4097, 3 << 20):
        array = pool.take(nbytes)
        assert array.shape == (nbytes,) and array.dtype == np.uint8 and array.flags.writeable
        assert nbytes == 0 or address(array) % 4096 == 0
        array[:] = 7


def test_what_is_kept_is_bounded_for_any_sizes() -> None:
    """Batches of ever-changing size, some of them alive at a time: as a loader's arenas are."""
    pool, rng, alive, most = BufferPool(), np.random.default_rng(0), [], 0
    for _ in range(3000):
        alive.append(pool.take(int(rng.integers(1 << 12, 1 << 20))))
        alive = alive[-4:]
        in_use = pool._in_use_bytes
        most = max(most, in_use)
        assert in_use + pool.free_bytes <= 1.25 * pool._most_in_use_bytes
        assert in_use <= 2 * sum(len(a) for a in alive) + 5 * 4096 + (1 << 21)
    assert most <= pool._most_in_use_bytes
    pool.close()
    alive.clear()
    gc.collect()
    assert pool.free_bytes == 0 and pool._in_use_bytes == 0
