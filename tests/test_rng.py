"""Randomness: known answers, uniformity, and the bijection."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalipipe import rng


# Random123's kat_vectors for philox4x32, 10 rounds.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    out = rng.philox4x32(np.array(counter, np.uint32), np.array(key, np.uint32))
    assert out.tolist() == expected


def test_native_philox_is_the_same() -> None:
    from dalipipe import native

    counters = np.random.default_rng(0).integers(0, 1 << 32, (100, 4), dtype=np.uint32)
    key = rng.make_key(123, 4)
    assert (native.philox(counters, key) == rng.philox4x32(counters, key)).all()


def test_mix64_known_answers() -> None:
    """SplitMix64 seeded with 0 begins with this word (Vigna's reference); negative and huge seeds are distinct."""
    assert rng.mix64(0) == 0xE220A8397B1DCDAF
    seeds = [0, 1, -1, 2**63, 2**64, 2**64 + 1, 2**200, -(2**70)]
    assert len({rng.mix64(seed) for seed in seeds}) == len(seeds)
    assert rng.mix64(1, 2) != rng.mix64(2, 1)


def test_uniforms_depend_on_the_sample_alone() -> None:
    key = rng.make_key(7, 3)
    slots, blocks = np.array([0, 5, 5]), np.array([0, 0, 1])
    indices = np.array([3, 10**12, 0, 77])
    together = rng.uniforms(key, indices, slots, blocks)
    for row, index in enumerate(indices):
        alone = rng.uniforms(key, np.array([index]), slots[1:2], blocks[1:2])
        assert (alone[0, 0] == together[row, 1]).all()
    assert len(np.unique(together)) == together.size
    assert not np.isin(rng.uniforms(key, indices, slots, blocks, variants=1), together).any()
    mixed = rng.uniforms(key, indices, slots, blocks, variants=np.array([0, 1, 0, 2]))
    assert (mixed[[0, 2]] == together[[0, 2]]).all() and not np.isin(mixed[[1, 3]], together).any()
    assert not np.isin(rng.uniforms(rng.make_key(7, 4), indices, slots, blocks), together).any()


def test_uniforms_are_uniform() -> None:
    u = rng.uniforms(rng.make_key(0, 0), np.arange(20_000), np.arange(3), np.zeros(3)).reshape(20_000, -1)
    assert u.min() >= 0 and u.max() < 1
    for column in u.T:  # Kolmogorov–Smirnov at about 1 in 10,000 by chance
        gap = np.abs(np.sort(column) - (np.arange(20_000) + 0.5) / 20_000).max()
        assert gap < 2.2 / np.sqrt(20_000)
    assert np.abs(np.corrcoef(u.T) - np.eye(12)).max() < 0.04


@settings(deadline=None, max_examples=40)
@given(
    indices=st.lists(st.integers(0, 2**63 - 1), max_size=5),
    pairs=st.lists(st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**31)), max_size=4),
    variant=st.integers(0, 2**16 - 1),
    seed=st.integers(0, 2**64),
)
def test_uniforms_are_philox_of_their_counters(
    indices: list[int], pairs: list[tuple[int, int]], variant: int, seed: int
) -> None:
    key = rng.make_key(seed, 3)
    slots, blocks = np.array([slot for slot, _ in pairs]), np.array([block for _, block in pairs])
    found = rng.uniforms(key, np.array(indices, np.int64), slots, blocks, variant)
    assert found.shape == (len(indices), len(pairs), 4)
    for row, index in enumerate(indices):
        for pair, (slot, block) in enumerate(pairs):
            counter = np.array([index & 0xFFFFFFFF, index >> 32, slot | variant << 16, block], np.uint32)
            assert (found[row, pair] == rng.philox4x32(counter, key) * 2.0**-32).all()


def test_permutation_stays_as_it_was() -> None:
    """States that were saved go on with the order that they began with."""
    assert rng.Permutation(10, rng.make_key(0, 0))(np.arange(10)).tolist() == [2, 0, 1, 3, 7, 8, 6, 4, 9, 5]
    found = rng.Permutation(10**9, rng.make_key(1, 2))(np.arange(4)).tolist()
    assert found == [611233697, 832828259, 504245485, 712595721]


@pytest.mark.parametrize("position", [-1, 5])
def test_permutation_refuses_positions_outside(position: int) -> None:
    with pytest.raises(ValueError, match="position"):
        rng.Permutation(5, rng.make_key(0, 0))(np.array([0, position]))


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**64), epoch=st.integers(0, 1000))
def test_permutation_is_a_bijection(n: int, seed: int, epoch: int) -> None:
    permutation = rng.Permutation(n, rng.make_key(seed, epoch))
    assert sorted(permutation(np.arange(n)).tolist()) == list(range(n))


def test_permutation_at_any_size_and_place() -> None:
    permutation = rng.Permutation(10**12, rng.make_key(1, 1))
    some = permutation(np.array([0, 5, 10**12 - 1]))
    assert ((some >= 0) & (some < 10**12)).all()
    assert (permutation(np.array([5])) == some[1]).all()


def test_permutations_look_random() -> None:
    """Over many keys, every item lands at every place about equally often, and neighbours part."""
    n, keys = 10, 4000
    counts = np.zeros((n, n))
    together = 0
    for epoch in range(keys):
        order = rng.Permutation(n, rng.make_key(0, epoch))(np.arange(n))
        counts[np.arange(n), order] += 1
        together += int((np.abs(np.diff(order)) == 1).sum())
    expected = keys / n
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 81 + 5 * np.sqrt(2 * 81)  # (n-1)² degrees of freedom, five standard deviations
    assert abs(together / keys - 2 * (n - 1) / n) < 0.1  # a random order has 2(n-1)/n neighbouring pairs
