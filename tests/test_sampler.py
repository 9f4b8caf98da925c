"""Order and shards: every sample once, the same global batches on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler

from dalipipe.orders import Sequential, Shuffled
from dalipipe.sampler import Sampler


@settings(deadline=None, max_examples=100)
@given(
    n=st.integers(1, 200),
    batch=st.integers(1, 40),
    epoch=st.integers(0, 5),
    drop=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_one_rank_gives_every_sample_once(n: int, batch: int, epoch: int, drop: bool, seed: int) -> None:
    sampler = Sampler(Shuffled(n, seed), batch, drop_last=drop)
    batches = [sampler.step(epoch, step).indices for step in range(sampler.steps)]
    seen = np.concatenate(batches) if batches else np.array([], np.int64)
    assert len(np.unique(seen)) == len(seen) == (n // batch * batch if drop else n) == len(sampler)
    assert all(len(b) == batch for b in batches[: None if drop else -1])
    sampler.set_epoch(epoch)
    assert list(sampler) == seen.tolist()


@settings(deadline=None, max_examples=100)
@given(n=st.integers(1, 200), per_rank=st.integers(1, 6), world=st.integers(2, 6), drop=st.booleans())
def test_ranks_share_the_same_global_batches(n: int, per_rank: int, world: int, drop: bool) -> None:
    alone = Sampler(Shuffled(n, 3), per_rank * world, drop_last=drop)
    ranks = [Sampler(Shuffled(n, 3), per_rank, drop_last=drop, rank=r, world_size=world) for r in range(world)]
    assert {rank.steps for rank in ranks} == {alone.steps}
    for step in range(alone.steps):
        together = np.concatenate([rank.step(1, step).indices for rank in ranks])
        expected = alone.step(1, step).indices
        assert (together[: len(expected)] == expected).all()
        assert len(together) == per_rank * world
        # What fills up a short last batch comes from the epoch's beginning, as in DistributedSampler.
        start = alone.order.at(1, np.arange(len(together) - len(expected)) % n)
        assert (together[len(expected) :] == start).all()


@settings(deadline=None, max_examples=300)
@given(
    n=st.integers(1, 300),
    batch=st.integers(1, 20),
    world=st.integers(1, 8),
    mode=st.sampled_from(["drop", "pad", "exact"]),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_every_sample_once_an_epoch_over_all_ranks(
    n: int, batch: int, world: int, mode: str, epoch: int, shuffle: bool
) -> None:
    order = Shuffled(n, 9) if shuffle else Sequential(n)
    kw = {"drop_last": mode == "drop", "exact": mode == "exact", "world_size": world}
    ranks = [Sampler(order, batch, rank=r, **kw) for r in range(world)]  # type: ignore[arg-type]
    counted, given = [], 0
    for sampler in ranks:
        steps = list(sampler.batches(epoch))
        assert len(steps) == sampler.steps == ranks[0].steps
        assert len(sampler) == sum(len(step) for step in steps)
        sizes = {len(step) for step in steps if world > 1 or mode != "pad"}
        assert sizes <= {batch}, "all steps are equal"
        counted += [index for step in steps for index in step.indices[step.counts].tolist()]
        given += sum(len(step) for step in steps)
    if mode == "exact":
        assert sorted(counted) == list(range(n))
    elif mode == "drop":
        assert len(counted) == len(set(counted)) == n // (batch * world) * batch * world
    else:
        assert set(counted) == set(range(n))
        assert given == (n if world == 1 else -(-n // (batch * world)) * batch * world)


def test_steps_match_torch_distributed_sampler() -> None:
    for n in (1, 7, 10, 64):
        for world in (2, 3):
            torchs = DistributedSampler(range(n), num_replicas=world, rank=0, shuffle=False)  # type: ignore[arg-type]
            ours = Sampler(Sequential(n), 1, rank=0, world_size=world)
            assert ours.steps == len(torchs)


def test_epochs_differ_and_come_back() -> None:
    sampler = Sampler(Shuffled(100, 5), 100)
    first, second = sampler.step(0, 0).indices, sampler.step(1, 0).indices
    assert (first != second).any()
    assert (first == sampler.step(0, 0).indices).all()
    assert (Shuffled(100, 6).at(0, np.arange(100)) != first).any()


def test_epochs_advance_by_themselves_unless_set() -> None:
    sampler = Sampler(Sequential(4), 2)
    assert [sampler.take_epoch() for _ in range(3)] == [0, 1, 2]
    sampler.set_epoch(9)
    assert [sampler.take_epoch() for _ in range(2)] == [9, 10]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Sampler(Sequential(4), 0)
    with pytest.raises(ValueError, match="rank=2, world_size=2"):
        Sampler(Sequential(4), 1, rank=2, world_size=2)
    with pytest.raises(IndexError, match="step 2 of an epoch of 2"):
        Sampler(Sequential(4), 2).step(0, 2)


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 300), batch=st.integers(1, 20), world=st.integers(1, 3), first=st.integers(0, 20))
def test_batches_are_the_indices_of_each_step(n: int, batch: int, world: int, first: int) -> None:
    sampler = Sampler(Shuffled(n, 1), batch, rank=world - 1, world_size=world)
    got = [b.indices.tolist() for b in sampler.batches(3, first)]
    assert got == [sampler.step(3, step).indices.tolist() for step in range(first, sampler.steps)]
