"""Orders: pure functions of (seed, epoch, position); torch's samplers under the same rule."""

from __future__ import annotations

import itertools
import pickle
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import data

import dalipipe
from dalipipe import orders
from dalipipe.sampler import GivenSteps, Sampler


def epoch_of(order: orders.Order, epoch: int = 0) -> list[int]:
    return order.at(epoch, np.arange(order.size)).tolist()


def bound(order: orders.Order, records: int = 50, seed: int = 3, labels: Any = None) -> orders.Order:
    return order.bound(records, seed, lambda: labels)


ORDERS = {
    "sequential": lambda: orders.Sequential(),
    "shuffled": lambda: orders.Shuffled(),
    "blocks": lambda: orders.BlockShuffled(7, window=3),
    "row groups": lambda: orders.BlockShuffled([0, 1, 20, 33], window=2),
    "buckets": lambda: orders.Bucketed(np.arange(50) % 11, 4, window=3),
    "weighted": lambda: orders.Weighted(np.arange(50) % 7),
    "weighted once": lambda: orders.Weighted(np.arange(50) % 7, 20, replacement=False),
    "subset": lambda: orders.Subset([3, 1, 4, 15, 9, 26]),
    "repeated": lambda: orders.Repeated(3),
    "repeated whole": lambda: orders.Repeated(3, orders.Sequential(), whole=True),
    "given": lambda: orders.as_order(data.RandomSampler(range(50))),  # type: ignore[arg-type]
    "given with replacement": lambda: orders.as_order(data.RandomSampler(range(50), True, 80)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", ORDERS)
def test_any_position_of_any_epoch_at_any_time(name: str) -> None:
    order, again = bound(ORDERS[name]()), bound(ORDERS[name]())
    whole = {epoch: epoch_of(order, epoch) for epoch in (0, 1, 5)}
    positions = np.random.default_rng(0).permutation(order.size)[:17]
    for epoch in (5, 0, 1):
        assert again.at(epoch, positions).tolist() == [whole[epoch][p] for p in positions]
        variants, all_variants = again.variants(epoch, positions), order.variants(epoch, np.arange(order.size))
        assert (variants is None) == (all_variants is None)
        if variants is not None:
            assert (variants == all_variants[positions]).all()
            pairs = set(zip(whole[epoch], all_variants.tolist(), strict=True))
            assert len(pairs) == order.size, "copies of a record are told apart"
        else:
            assert len(set(whole[epoch])) == order.size
        assert again.identity(epoch) == order.identity(epoch)
    assert all(0 <= i < 50 for i in whole[0])
    if name not in ("sequential", "repeated whole"):
        assert whole[0] != whole[1]
        if not name.startswith("given"):
            assert epoch_of(bound(ORDERS[name](), seed=4)) != whole[0]
    assert epoch_of(pickle.loads(pickle.dumps(order)), 1) == whole[1]


@settings(deadline=None, max_examples=200)
@given(n=st.integers(1, 300), block=st.integers(1, 40), window=st.integers(1, 9), epoch=st.integers(0, 3))
def test_block_shuffle_keeps_few_blocks_in_use(n: int, block: int, window: int, epoch: int) -> None:
    order = bound(orders.BlockShuffled(block, window), n)
    indices = epoch_of(order, epoch)
    assert sorted(indices) == list(range(n))
    groups: list[set[int]] = []
    ends = order._blocks(epoch)[1]  # type: ignore[attr-defined]
    start = 0
    for end in [*ends[window - 1 :: window].tolist(), n]:
        groups.append({i // block for i in indices[start:end]})
        start = end
    assert all(len(group) <= window for group in groups)
    assert sum(len(group) for group in groups) == -(-n // block), "no block comes back in another group"


@settings(deadline=None, max_examples=200)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=200),
    batch=st.integers(1, 20),
    window=st.integers(1, 6),
    epoch=st.integers(0, 3),
)
def test_buckets_hold_alike_lengths(lengths: list[int], batch: int, window: int, epoch: int) -> None:
    order = bound(orders.Bucketed(lengths, batch, window), len(lengths))
    indices = epoch_of(order, epoch)
    assert sorted(indices) == list(range(len(lengths)))
    some = np.random.default_rng(epoch).integers(0, len(lengths), 9)
    assert bound(orders.BucketSampler(lengths, batch, window), len(lengths)).at(epoch, some).tolist() == [
        indices[i] for i in some
    ], "any position by itself"
    shuffled = epoch_of(bound(orders.Shuffled(), len(lengths)), epoch)
    for begin in range(0, len(lengths), window * batch):
        mine = indices[begin : begin + window * batch]
        assert sorted(mine) == sorted(shuffled[begin : begin + window * batch]), "a window is shuffled records"
        cut = [[lengths[i] for i in mine[b : b + batch]] for b in range(0, len(mine), batch)]
        assert all(part == sorted(part) for part in cut)
        full = sorted(part for part in cut if len(part) == batch)
        assert all(a[-1] <= b[0] for a, b in itertools.pairwise(full)), "lengths of batches do not overlap"


def test_buckets_are_the_same_on_any_number_of_ranks() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 600)
    order = bound(orders.Bucketed(lengths, 48, window=4), 600)
    alone = Sampler(order, 48, drop_last=True)
    for world in (2, 3, 8):
        ranks = [Sampler(order, 48 // world, rank=r, world_size=world, drop_last=True) for r in range(world)]
        for number in (0, 5, 11):
            shares = [rank.step(3, number).indices for rank in ranks]
            assert np.concatenate(shares).tolist() == alone.step(3, number).indices.tolist()
    for first in range(alone.steps):
        resumed = [step.indices.tolist() for step in alone.batches(2, first)]
        assert resumed == [step.indices.tolist() for step in alone.batches(2)][first:]


def test_no_kind_of_record_is_left_for_the_short_batch() -> None:
    lengths = np.arange(103)
    order = bound(orders.Bucketed(lengths, 10, window=20), 103)
    short = np.array([epoch_of(order, epoch)[-3:] for epoch in range(300)])
    assert (np.diff(short) >= 1).all() and (np.ptp(short, axis=1) == 2).all(), "cut out of the sorted records"
    assert set(short[:, 0].tolist()) == set(range(0, 101, 10)), "between any two batches"


def test_batches_of_a_window_come_in_any_order() -> None:
    order = bound(orders.Bucketed(np.arange(60), 10, window=6), 60)
    first = [epoch_of(order, epoch)[0] for epoch in range(200)]
    assert set(first) == {0, 10, 20, 30, 40, 50}
    assert len({tuple(epoch_of(order, epoch)[::10]) for epoch in range(200)}) > 100


def test_buckets_within_a_subset() -> None:
    lengths = np.random.default_rng(1).integers(1, 99, 50)
    rows = np.arange(3, 50, 2)
    order = bound(orders.Subset(rows, orders.Bucketed(lengths[rows], 6)))
    assert sorted(epoch_of(order)) == rows.tolist()
    for begin in range(0, len(rows), 6):
        part = lengths[epoch_of(order)[begin : begin + 6]]
        assert (np.diff(part) >= 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], 0), "batch_size must be at least 1"),
        (([1, 2], 1, 0), "window must be at least 1"),
        (([], 1), "lengths must be numbers"),
        (([[1], [2]], 1), "lengths must be numbers"),
        (([1, np.nan], 1), "lengths must be numbers"),
        ((["a"], 1), "lengths must be numbers"),
        (([1, 2], 1), "2 lengths for a data set of 50 records"),
    ],
)
def test_buckets_check_what_they_are_given(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bound(orders.Bucketed(*arguments))


def test_weights_are_met() -> None:
    weights = np.array([0, 1, 2, 5, 0, 2.0])
    drawn = np.bincount(epoch_of(bound(orders.Weighted(weights, 100_000), 6)), minlength=6) / 100_000
    np.testing.assert_allclose(drawn, weights / 10, atol=0.01)
    first = [epoch_of(bound(orders.Weighted(weights, 1, replacement=False), 6), e)[0] for e in range(4000)]
    np.testing.assert_allclose(np.bincount(first, minlength=6) / 4000, weights / 10, atol=0.03)
    all_of_them = epoch_of(bound(orders.Weighted(weights, 4, replacement=False), 6))
    assert sorted(all_of_them) == [1, 2, 3, 5]


def test_classes_are_balanced() -> None:
    labels = np.repeat([0, 1, 2], [800, 150, 50])
    order = bound(orders.ClassBalanced(size=60_000), 1000, labels=labels)
    np.testing.assert_allclose(np.bincount(labels[epoch_of(order)]) / 60_000, 1 / 3, atol=0.01)
    assert bound(orders.ClassBalanced(), 1000, labels=labels).size == 1000
    subset = bound(orders.Subset(np.arange(700, 1000), orders.ClassBalanced(size=30_000)), 1000, labels=labels)
    np.testing.assert_allclose(np.bincount(labels[epoch_of(subset)]) / 30_000, 1 / 3, atol=0.02)


def test_repeats_stand_together_and_epochs_keep_their_length() -> None:
    order = bound(orders.Repeated(3), 10)
    indices = epoch_of(order)
    assert order.size == 10 and [len({*indices[i : i + 3]}) for i in (0, 3, 6, 9)] == [1, 1, 1, 1]
    assert order.variants(0, np.arange(10)).tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]  # type: ignore[union-attr]
    assert sorted(epoch_of(bound(orders.Repeated(2, whole=True), 5))) == sorted([*range(5)] * 2)


def test_torch_samplers_draw_from_seed_and_epoch_and_leave_the_generators_alone() -> None:
    generator = torch.Generator().manual_seed(7)

    class Own(data.Sampler[int]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            own = torch.randperm(20, generator=generator).tolist()
            yield from [own[i] for i in np.random.permutation(20)]  # noqa: NPY002
            yield random.randrange(20)

        def __len__(self) -> int:
            return 21

    own = Own()
    own.generator = generator  # type: ignore[attr-defined]
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    state = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), generator.get_state())  # type: ignore # noqa: NPY002
    order = bound(orders.as_order(own), 20)
    first, second = epoch_of(order, 0), epoch_of(order, 1)
    torch.manual_seed(99)
    torch.randperm(5, generator=generator)
    assert epoch_of(bound(orders.as_order(own), 20), 1) == second != first
    generator.manual_seed(8)
    assert epoch_of(bound(orders.as_order(own), 20), 1) != second, "its own seed counts"
    torch.manual_seed(0), generator.manual_seed(7)
    assert (torch.get_rng_state() == state[0]).all() and (np.random.get_state()[1] == state[1]).all()  # type: ignore # noqa: NPY002
    assert random.getstate() == state[2] and (generator.get_state() == state[3]).all()


@pytest.mark.parametrize(("n", "world", "drop"), [(23, 2, False), (23, 3, True), (24, 4, False), (5, 4, False)])
def test_distributed_samplers_global_batches(n: int, world: int, drop: bool) -> None:
    """Rank r's batch k of torch's loader and ours: parts of the same global batch."""
    theirs = [data.DistributedSampler(range(n), world, r, seed=5, drop_last=drop) for r in range(world)]  # type: ignore
    for epoch in (0, 3):
        for sampler in theirs:
            sampler.set_epoch(epoch)
        lists = [list(sampler) for sampler in theirs]
        steps = [Sampler(orders.whole(theirs[r]).bound(n, 1), 2, rank=r, world_size=world) for r in range(world)]
        for step in range(len(lists[0]) // 2):
            expected = sorted(i for part in lists for i in part[2 * step : 2 * step + 2])
            assert sorted(np.concatenate([s.step(epoch, step).indices for s in steps]).tolist()) == expected


def test_given_batches() -> None:
    batches = data.BatchSampler(data.RandomSampler(range(10)), 4, drop_last=False)  # type: ignore[arg-type]
    sampler = GivenSteps(orders.GivenBatches(batches, 10, 3))  # type: ignore[arg-type]
    sizes = [len(step) for step in sampler.batches(1)]
    assert sizes == [4, 4, 2] and sampler.steps == 3 and sampler.largest(1) == 4
    assert sorted(i for step in sampler.batches(1) for i in step.indices.tolist()) == list(range(10))
    assert [sampler.samples_before(1, k) for k in range(4)] == [0, 4, 8, 10]
    assert [sampler.step_after(1, n) for n in (0, 4, 8, 10)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: orders.Weighted([0, 0]), ValueError, "not all 0"),
        (lambda: orders.Weighted([1, -1]), ValueError, "≥ 0"),
        (lambda: orders.Weighted([1, 0], 2, replacement=False), ValueError, "only 1 weights are above 0"),
        (lambda: bound(orders.Weighted([1, 2])), ValueError, "2 weights for a data set of 50 records"),
        (lambda: bound(orders.ClassBalanced()), ValueError, "does not know its labels"),
        (lambda: bound(orders.ClassBalanced([1, 2])), ValueError, r"labels must be \[50\]"),
        (lambda: orders.BlockShuffled(0), ValueError, "at least 1 record"),
        (lambda: orders.BlockShuffled([0, 5, 5]), ValueError, "rising first records"),
        (lambda: bound(orders.BlockShuffled([0, 50])), ValueError, "begins at record 50 of 50"),
        (lambda: orders.BlockShuffled(3, 0), ValueError, "window must be at least 1"),
        (lambda: bound(orders.Subset([50])), IndexError, "index 50 is outside a data set of 50 records"),
        (lambda: orders.Subset([]), ValueError, "at least one record"),
        (lambda: orders.Repeated(0), ValueError, "times must lie in"),
        (lambda: bound(orders.Repeated(2, orders.Weighted(np.ones(50)))), ValueError, "repeats records already"),
        (lambda: orders.as_order(iter([1])), TypeError, "has no length"),
        (lambda: epoch_of(bound(orders.as_order([-1]))), IndexError, "index -1 is outside"),
    ],
)
def test_bad_arguments_are_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_sampler_that_breaks_its_promise_is_named() -> None:
    class Short(list):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 5

    with pytest.raises(ValueError, match="Short promised 5 indices and gave 2"):
        epoch_of(bound(orders.as_order(Short([1, 2]))))
    with pytest.raises(ValueError, match="Short promised 5 batches and gave 1"):
        GivenSteps(orders.GivenBatches(Short([[1]]), 9)).step(0, 0)  # type: ignore[arg-type]


def test_a_loader_of_other_batches_than_the_buckets_says_so() -> None:
    source = dalipipe.Series([np.zeros((1 + i % 5, 1)) for i in range(20)])
    with pytest.warns(UserWarning, match=r"batches of 4 are not the loader's of 5"):
        dalipipe.DataLoader(source, 5, sampler=orders.BucketSampler(source.lengths, 4), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dalipipe.DataLoader(source, 4, sampler=orders.BucketSampler(source.lengths, 4), device="cpu")
        sampler = orders.BucketSampler(source.lengths, 4)
        dalipipe.DataLoader(source, 2, sampler=sampler, device="cpu", rank=0, world_size=2, seed=0)
