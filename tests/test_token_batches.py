"""`TokenBatches`: every record once an epoch, within the budget; the same batches on any ranks, after any resume."""

from __future__ import annotations

import copy
import itertools
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dalipipe
from dalipipe import orders
from dalipipe.ops import signal as ops
from dalipipe.orders import TokenBatches
from dalipipe.sampler import TokenSteps


def steps(lengths: Any, tokens: float, *, seed: int = 3, world: int = 1, rank: int = 0, **kw: Any) -> TokenSteps:
    dealt = {name: kw.pop(name) for name in ("drop_last", "exact") if name in kw}
    order = TokenBatches(lengths, tokens, **kw).bound(len(lengths), seed)
    return TokenSteps(order, rank=rank, world_size=world, seed=seed, **dealt)  # type: ignore[arg-type]


LONG = np.random.default_rng(5).integers(1, 40, 77)
LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=150)


@settings(deadline=None, max_examples=300)
@given(
    lengths=LENGTHS,
    multiple=st.sampled_from([1, 2, 4, 8]),
    spare=st.integers(0, 500),
    window=st.integers(1, 5),
    rows=st.none() | st.integers(0, 20),
    epoch=st.integers(0, 3),
    floats=st.booleans(),
)
def test_every_record_once_within_the_budget(
    lengths: list[int], multiple: int, spare: int, window: int, rows: int | None, epoch: int, floats: bool
) -> None:
    counted = np.asarray(lengths, np.float32 if floats else np.uint8)  # no sum of uint8 would do
    tokens, most = multiple * max(lengths) + spare, None if rows is None else multiple + rows
    one = steps(counted, tokens, multiple=multiple, window=window, most=most)
    batches = [step.indices for step in one.batches(epoch)]
    assert len(batches) == one.steps_in(epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for number, batch in enumerate(batches):
        assert 0 < len(batch) <= one.largest(epoch)
        full = -(-len(batch) // multiple) * multiple
        assert full * float(counted[batch].max()) <= tokens, "also when it is filled up"
        assert most is None or full <= most
        assert full == len(batch) or number == len(batches) - 1, "what lacks rows comes last"
    assert one.remainder(epoch) == (len(batches[-1]) if len(lengths) % multiple else -1)
    # Without the rest, the same batches.
    dropped = steps(counted, tokens, multiple=multiple, window=window, most=most, drop_last=True)
    kept = [step.indices.tolist() for step in dropped.batches(epoch)]
    rest = len(lengths) % multiple
    whole = [batch.tolist() for batch in batches]
    whole[-1] = whole[-1][: len(whole[-1]) - rest]
    assert kept == [batch for batch in whole if batch]
    # A function of (seed, epoch): asked for in any order, by anyone.
    again = pickle.loads(pickle.dumps(steps(counted, tokens, multiple=multiple, window=window, most=most)))
    for number in reversed(range(len(batches))):
        assert again.step(epoch, number).indices.tolist() == batches[number].tolist()


@settings(deadline=None, max_examples=200)
@given(
    lengths=LENGTHS,
    spare=st.integers(0, 900),
    world=st.sampled_from([1, 2, 4, 8]),
    mode=st.sampled_from(["", "exact", "drop_last"]),
    epoch=st.integers(0, 2),
)
def test_ranks_share_the_same_batches_equally(
    lengths: list[int], spare: int, world: int, mode: str, epoch: int
) -> None:
    tokens, kw = 8 * max(lengths) + spare, {mode: True} if mode else {}
    alone = steps(lengths, tokens, **({"drop_last": True} if mode == "drop_last" else {}))
    ranks = [steps(lengths, tokens, world=world, rank=rank, **kw) for rank in range(world)]
    assert {rank.steps_in(epoch) for rank in ranks} == {alone.steps_in(epoch)}
    counted = 0
    for number, expected in enumerate(alone.batches(epoch)):
        shares = [rank.step(epoch, number) for rank in ranks]
        assert len({len(share) for share in shares}) == 1
        for share in shares:
            assert len(share) * max(lengths[i] for i in share.indices) <= tokens / world
            assert len(share) <= ranks[0].largest(epoch)
        together = np.concatenate([share.indices for share in shares])
        counts = np.concatenate([share.counts for share in shares])
        assert together[: len(expected)].tolist() == expected.indices.tolist()
        assert set(together[len(expected) :]) <= set(expected.indices)
        assert counts.tolist() == [mode != "exact" or row < len(expected) for row in range(len(together))]
        assert ranks[0].samples_before(epoch, number) == counted
        counted += len(expected)
        assert ranks[-1].step_after(epoch, counted) == number + 1
    for rank in ranks:
        rank.set_epoch(epoch)
        assert len(rank) == len(list(rank))
    assert sum(rank.num_valid_samples for rank in ranks) == counted
    assert counted == len(lengths) // 8 * 8 if mode == "drop_last" else counted == len(lengths)


def test_epochs_differ_and_lengths_in_a_batch_are_alike() -> None:
    lengths = np.random.default_rng(0).geometric(0.05, 4000)
    one = steps(lengths, 2048)
    epochs = [[step.indices for step in one.batches(epoch)] for epoch in range(3)]
    assert all({tuple(b) for b in a} != {tuple(b) for b in c} for a, c in itertools.pairwise(epochs))
    assert [b.tolist() for b in epochs[0]] != [s.indices.tolist() for s in steps(lengths, 2048, seed=4).batches(0)]
    for batches in epochs:
        padded = sum(len(b) * lengths[b].max() for b in batches)
        assert padded < 1.05 * lengths.sum()
        fullest = np.array([len(b) * lengths[b].max() for b in batches])
        assert fullest.mean() > 0.85 * 2048, "few batches, each near the budget"
        longest = np.array([lengths[b].max() for b in batches])
        assert abs(np.corrcoef(longest[1:], longest[:-1])[0, 1]) < 0.3, "batches are shuffled, not sorted"


def test_the_rest_is_of_any_length() -> None:
    one = steps(np.arange(1, 84), 700)
    short = np.array([[*one.batches(epoch)][-1].indices[-3:].mean() for epoch in range(200)])
    assert np.ptp(short) > 70 and len(np.unique(short)) == 11
    assert steps(np.arange(1, 84), 700).remainder(0) % 8 == 3


def test_what_stands_in_is_of_the_same_batch() -> None:
    lengths = np.random.default_rng(1).integers(1, 90, 300)
    one = steps(lengths, 1500)
    step = one.step(1, 4)
    bad = {int(step.indices[2]), int(step.indices[5])}
    other = one.without(1, step, bad, refill=True)
    assert not bad & set(other.indices.tolist()) and set(other.indices.tolist()) <= set(step.indices.tolist())
    assert other.same_as(steps(lengths, 1500).without(1, step, bad, refill=True))
    world = [steps(lengths, 1500, world=4, rank=rank) for rank in range(4)]
    shares = [rank.without(1, rank.step(1, 4), bad, refill=True).indices for rank in world]
    assert np.concatenate(shares).tolist() == other.indices.tolist()
    everything = one.without(1, step, set(step.indices.tolist()), refill=True)
    assert not set(everything.indices.tolist()) & set(step.indices.tolist()), "where all of it is bad, any other"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenBatches([3, 9], 50), "record 1 is 9 long, and 8 such rows are more than tokens=50"),
        (lambda: TokenBatches([3, 9], 50, window=0), "window must be at least 1"),
        (lambda: TokenBatches([3, 9], 50, multiple=0), "multiple must be at least 1"),
        (lambda: TokenBatches([3, 9], 100, most=4), "most must be at least multiple=8"),
        (lambda: TokenBatches([3, -9], 100), "at least 0, got -9"),
        (lambda: TokenBatches([], 100), "lengths must be numbers"),
        (lambda: TokenBatches([1.0, np.inf], 100), "lengths must be numbers"),
        (lambda: TokenBatches([1], float("nan")), "more than tokens=nan"),
        (lambda: TokenBatches([1, 2], 100).bound(3, 0), "2 lengths for a data set of 3 records"),
        (lambda: steps([1, 2], 100, world=3).steps, "which 3 ranks cannot share equally: give a multiple that 3"),
        (lambda: orders.Subset([0], TokenBatches([1], 100)), "Subset: .* as batch_sampler="),
        (lambda: orders.Repeated(2, TokenBatches([1], 100)), "Repeated: .* as batch_sampler="),
        (lambda: loader(sampler=TokenBatches(LONG, 400)), "as batch_sampler="),
        (lambda: loader(batch_sampler=TokenBatches(LONG, 400), shuffle=True), "give it without batch_size, shuffle"),
        (lambda: loader(batch_sampler=TokenBatches(LONG, 400), batch_size=4), "give it without batch_size, shuffle"),
        (lambda: loader(batch_sampler=orders.Shuffled()), "Shuffled says which sample follows which"),
        (lambda: loader(batch_sampler=TokenBatches(LONG[:5], 400)), "5 lengths for a data set of 77"),
    ],
)
def test_bad_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Whole loaders, of series: what has lengths -------------------------------------------------------------------------


def series() -> dalipipe.Series:
    values = [np.full((length, 1), i, np.float32) for i, length in enumerate(LONG.tolist())]
    return dalipipe.Series(values, np.arange(len(LONG)) % 3)


def loader(**kw: Any) -> dalipipe.DataLoader:
    policy = dalipipe.Policy([ops.Jitter()])
    return dalipipe.DataLoader(series(), **{"seed": 11, "device": "cpu", "num_workers": 1, "policy": policy, **kw})


def batches_of(one: dalipipe.DataLoader) -> list[tuple[list[int], bytes]]:
    return [(batch.indices.tolist(), batch[0].numpy().tobytes()) for batch in one]


def rows_of(one: dalipipe.DataLoader) -> list[list[tuple[int, bytes]]]:
    """Each batch's samples and their values without the padding."""
    return [
        [(i, values[: LONG[i]].numpy().tobytes()) for i, values in zip(batch.indices.tolist(), batch[0], strict=True)]
        for batch in one
    ]


def test_lengths_of_epochs_are_exact() -> None:
    one = loader(batch_sampler=TokenBatches(LONG, 400, window=1))
    lengths = []
    for epoch in range(12):
        promised = len(one)
        given = 0
        for batch in one:
            given += 1
            assert len(one) == promised, "also in the last step"
            assert batch[0].shape[0] * batch[0].shape[1] <= 400
        assert given == promised
        one.set_epoch(epoch)
        assert len(one) == promised, "of the epoch that is asked for"
        one.set_epoch(epoch + 1)
        lengths.append(promised)
    assert len(set(lengths)) > 1, "or the test shows nothing"


@pytest.mark.parametrize("world", [1, 2, 4])
def test_resumed_at_every_step_on_any_number_of_ranks(world: int) -> None:
    def make(ranks: int, rank: int) -> dalipipe.DataLoader:
        return loader(batch_sampler=TokenBatches(LONG, 400), rank=rank, world_size=ranks, drop_last=True)

    alone = make(1, 0)
    everything = [rows_of(alone) for _ in range(2)]
    running = make(1, 0)
    states = [running.state_dict()]
    for _ in range(2):
        for _batch in running:
            states.append(running.state_dict())
    for state in states:
        ranks = [make(world, rank) for rank in range(world)]
        for one in ranks:
            one.load_state_dict(copy.deepcopy(state))
            assert one.state_dict() == state
        tail = []
        while ranks[0].state_dict()["epoch"] < 2:
            for parts in zip(*(rows_of(one) for one in ranks), strict=True):
                tail.append([row for part in parts for row in part])
        whole = [*everything[0], *everything[1]]
        assert tail == whole[len(whole) - len(tail) :]
        assert sum(len(batch) for batch in tail) == 2 * 72 - 72 * state["epoch"] - state["samples"]


def test_exact_shards_count_every_sample_once() -> None:
    made = [loader(batch_sampler=TokenBatches(LONG, 400), shards="exact", rank=rank, world_size=4) for rank in range(4)]
    counted = [i for one in made for batch in one for i in batch.indices[batch.valid.numpy()].tolist()]
    assert sorted(counted) == list(range(77))
    assert len({len(one) for one in made}) == 1


def test_another_budget_is_another_order() -> None:
    state = loader(batch_sampler=TokenBatches(LONG, 400)).state_dict()
    for other in (TokenBatches(LONG, 401), TokenBatches(LONG, 400, most=8), TokenBatches(LONG[::-1], 400)):
        with pytest.raises(dalipipe.StateMismatchError, match="order: saved 'TokenBatches-"):
            loader(batch_sampler=other).load_state_dict(state)
    with pytest.raises(dalipipe.StateMismatchError, match="samples: saved 1"):
        loader(batch_sampler=TokenBatches(LONG, 400)).load_state_dict({**state, "samples": 1})


def test_a_torch_loader_built_around_the_parts_gives_the_batches() -> None:
    """As Accelerate's ``skip_first_batches`` builds one."""
    one = loader(batch_sampler=TokenBatches(LONG, 400))
    around: Any = torch.utils.data.DataLoader(one.dataset, batch_sampler=one.batch_sampler, collate_fn=one.collate_fn)
    assert len(around) == len(one)
    assert batches_of(around) == batches_of(loader(batch_sampler=TokenBatches(LONG, 400)))
    rest = loader(batch_sampler=TokenBatches(LONG, 400))
    rest.sampler.set_epoch(3)  # type: ignore[attr-defined]
    assert batches_of(rest)[0] != batches_of(one)[0]
    assert batches_of(pickle.loads(pickle.dumps(rest)))


def test_a_first_batch_that_is_smaller_than_a_later_one() -> None:
    """Lanes are built for the largest batch of the epoch."""
    lengths = np.sort(LONG)
    one = loader(batch_sampler=TokenBatches(LONG, 8 * int(lengths[-1]), multiple=1))
    sizes = [len(batch[0]) for _ in range(3) for batch in one]
    assert max(sizes) > 3 * min(sizes)


def test_padding_that_is_saved(real_data: Path) -> None:
    """On the Stanford sentiment treebank's lengths: of plain batches more than half is padding, of these 4 %."""
    with tarfile.open(real_data / "text_classification.tar") as tar:
        file = tar.extractfile("text/sst2_train.tsv")
        assert file is not None
        lengths = np.array([len(line.split(b"\t")[1].split()) for line in file.read().splitlines()])

    def share(batches: Any) -> float:
        batches = list(batches)
        return 1 - lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in batches)

    tokens = 4096
    mine = share(step.indices for step in steps(lengths, tokens).batches(0))
    count = steps(lengths, tokens).steps_in(0)
    shuffled = orders.Shuffled(len(lengths), 3).at(0, np.arange(len(lengths)))
    plain = share(np.array_split(shuffled, count))
    assert mine < 0.06 and plain > 0.5
