"""A loader taken apart: torch loaders around its data set and batch sampler; ``set_epoch`` at odd moments."""

from __future__ import annotations

import gc
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, SequentialSampler

import dalipipe
from dalipipe import orders
from dalipipe.ops import image as ops
from dalipipe.parts import StepBatches

N = 23
POLICY = dalipipe.Policy([ops.RandomResizedCrop(8), ops.HorizontalFlip(), ops.Contrast(p=0.5), ops.Normalize()])


@pytest.fixture
def data() -> dalipipe.Arrays:
    pixels = np.random.default_rng(0).integers(0, 256, (N, 12, 14, 3), dtype=np.uint8)
    return dalipipe.Arrays(pixels, np.arange(N), classes=[f"class {i}" for i in range(N)])


def make(data: Any, **kw: Any) -> dalipipe.DataLoader:
    settings = {"batch_size": 4, "shuffle": True, "policy": POLICY, "seed": 3, "device": "cpu", **kw}
    if settings.get("sampler") is not None or settings.get("batch_sampler") is not None:
        del settings["shuffle"]
    if settings.get("batch_sampler") is not None:
        del settings["batch_size"]
    return dalipipe.DataLoader(data, **settings)


def rebuilt(loader: Any, skip: int = 0, **kw: Any) -> DataLoader:
    """As trainers do it."""

    class Skipping(BatchSampler):
        def __init__(self) -> None:
            self.batch_sampler = loader.batch_sampler

        def __iter__(self) -> Any:
            for i, batch in enumerate(self.batch_sampler):
                if i >= skip:
                    yield batch

        def __len__(self) -> int:
            return len(self.batch_sampler) - skip

    settings = {name: getattr(loader, name) for name in ("num_workers", "collate_fn", "timeout", "prefetch_factor")}
    settings |= {name: getattr(loader, name) for name in ("persistent_workers", "multiprocessing_context", "generator")}
    return DataLoader(loader.dataset, batch_sampler=Skipping(), **{**settings, **kw})


def content(batches: Any) -> list[Any]:
    return [(batch.indices.tolist(), *(field.clone() for field in batch)) for batch in batches]


def same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        x[0] == y[0] and all(torch.equal(p, q) for p, q in zip(x[1:], y[1:], strict=True))
        for x, y in zip(a, b, strict=True)
    )


SETTINGS: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "exact": {"shards": "exact"},
    "dropping": {"drop_last": True},
    "a rank of three": {"rank": 2, "world_size": 3, "batch_size": 3},
    "repeated": {"sampler": orders.Repeated(3)},
    "weighted": {"sampler": orders.Weighted(np.arange(N) + 1.0)},
    "torch's": {"sampler": RandomSampler(range(N))},
    "uint8": {"policy": None, "dtype": torch.uint8},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_torch_loader_around_the_parts_gives_the_same_batches(name: str, data: Any) -> None:
    kw = SETTINGS[name]
    straight = make(data, **kw)
    epochs = [content(straight) for _ in range(3)]
    loader = make(data, **kw)
    assert same(content(rebuilt(loader)), epochs[0])
    assert same(content(rebuilt(loader, skip=2)), epochs[1][2:]), "one epoch is taken, the next comes"
    assert same(content(loader), epochs[2])


def test_its_position_counts(data: Any) -> None:
    loader = make(data)
    everything = content(make(data))
    batches = iter(rebuilt(loader, skip=2))
    next(batches), next(batches)
    resumed = make(data)
    resumed.load_state_dict(loader.state_dict())
    assert same(content(resumed), everything[4:])
    assert same(content(batches), everything[4:])
    assert loader.state_dict()["epoch"] == 1


def test_it_works_ahead_and_lets_go(data: Any) -> None:
    loader = make(data)
    batches = iter(rebuilt(loader))
    next(batches)
    assert loader._current() is not None and loader._current()._batches is not None, "an epoch is under way"
    epoch = weakref.ref(loader._current())
    del batches
    gc.collect()
    assert epoch() is None and len(loader._lanes) == 1
    batches = iter(rebuilt(loader))
    for _ in range(len(loader)):
        next(batches)
    assert len(loader._lanes) == 1, "the last batch gives the lane back, though nobody has asked for one more"


def test_other_lists_of_indices_get_their_pixels_too(data: Any) -> None:
    """A trainer may batch anew: the same sample in the same epoch has the same pixels."""
    loader = make(data)
    pixels = {i: row for batch in content(make(data)) for i, row in zip(batch[0], batch[1], strict=True)}
    sampler = DistributedSampler(loader.dataset, num_replicas=2, rank=1, shuffle=False)
    again = DataLoader(loader.dataset, batch_size=7, sampler=sampler, collate_fn=loader.collate_fn)
    seen = content(again)
    assert [i for batch in seen for i in batch[0]] == [*range(1, N, 2), 0]
    for indices, image, label in seen:
        assert label.tolist() == indices
        assert all(torch.equal(pixels[i], row) for i, row in zip(indices, image, strict=True))


def test_filled_up_batches_are_not_taken_for_what_they_were(data: Any) -> None:
    loader = make(data)
    ticket = list(loader.batch_sampler)[-1]
    assert len(ticket) == 3
    expected = [*ticket, 5]
    ticket += [5]
    assert loader.dataset.__getitems__(ticket).indices.tolist() == expected


def test_worker_processes_are_refused(data: Any) -> None:
    with pytest.raises(RuntimeError, match="needs num_workers=0"):
        next(iter(rebuilt(make(data), num_workers=1, prefetch_factor=None)))


def test_the_data_set_is_the_users(data: Any) -> None:
    import torchvision

    dataset = make(data).dataset
    assert len(dataset) == N and dataset.classes == data.classes and repr(dataset) == repr(data)
    assert pickle.loads(pickle.dumps(dataset)).classes == data.classes
    with pytest.raises(AttributeError, match="nonsense"):
        _ = dataset.nonsense
    digits = torchvision.datasets.FakeData(5, (3, 8, 8))
    digits.data, digits.targets = np.zeros((5, 8, 8, 3), np.uint8), [0, 1, 2, 3, 4]
    assert make(digits).dataset[2][0].size == digits[2][0].size
    other = make(make(data).dataset, seed=9)  # it can be given to another loader
    assert same(content(other), content(make(data, seed=9)))


def test_a_dropped_loader_needs_no_garbage_collector(data: Any) -> None:
    loader = make(data)
    content(rebuilt(loader))
    watch = weakref.ref(loader)
    gc.collect()
    gc.disable()
    try:
        del loader
        assert watch() is None
    finally:
        gc.enable()


# set_epoch ------------------------------------------------------------------------------------------------------------


def test_set_epoch_counts_until_the_first_batch(data: Any) -> None:
    """As with torch's samplers, which are read only then. Lightning calls ``iter`` first."""
    loader = make(data)
    epochs = [content(loader) for _ in range(4)]
    loader = make(data)
    batches = iter(loader)
    loader.sampler.set_epoch(2)
    assert loader.state_dict()["epoch"] == 2
    assert same(content(batches), epochs[2])
    assert same(content(loader), epochs[3])
    batches = iter(loader)
    loader.sampler.set_epoch(1)
    next(batches)
    loader.set_epoch(0)  # too late for this one
    assert same(content(batches), epochs[1][1:])
    assert same(content(loader), epochs[0])


def test_set_epoch_to_what_runs_leaves_the_position(data: Any) -> None:
    everything = content(make(data))
    loader = make(data)
    batches = iter(loader)
    loader.sampler.set_epoch(0)
    assert same(content([next(batches), next(batches)]), everything[:2])
    state = loader.state_dict()
    assert (state["epoch"], state["samples"]) == (0, 8)
    resumed = make(data)
    resumed.load_state_dict(state)
    batches = iter(resumed)
    resumed.sampler.set_epoch(0)
    assert resumed.state_dict() == state
    assert same(content(batches), everything[2:])
    assert resumed.state_dict()["epoch"] == 1


def test_two_iterators_keep_their_epochs(data: Any) -> None:
    loader = make(data)
    first = iter(loader)
    loader.set_epoch(5)
    second = iter(loader)
    assert content(first)[0][0] == content(make(data))[0][0]
    fifth = make(data)
    fifth.set_epoch(5)
    assert same(content(second), content(fifth))


class Own(torch.utils.data.Sampler):
    """A user's sampler that knows epochs."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return N

    def __iter__(self) -> Any:
        return iter(np.random.default_rng(self.epoch).permutation(N).tolist())


@pytest.mark.parametrize("kind", ["sampler", "batch_sampler"])
def test_epochs_of_users_samplers_advance_and_are_followed(kind: str, data: Any) -> None:
    def loader_and_sampler() -> Any:
        own = Own()
        given = own if kind == "sampler" else BatchSampler(own, 4, False)
        return make(data, **{kind: given}), own

    loader, own = loader_and_sampler()
    epochs = [content(loader) for _ in range(5)]
    assert len({str([batch[0] for batch in epoch]) for epoch in epochs}) == 5
    for i, epoch in enumerate(epochs):
        assert [j for batch in epoch for j in batch[0]] == np.random.default_rng(i).permutation(N).tolist()
    loader, own = loader_and_sampler()
    own.set_epoch(3)
    assert same(content(loader), epochs[3])
    batches = iter(loader)
    own.set_epoch(2)
    assert same(content(batches), epochs[2])


# Made again -----------------------------------------------------------------------------------------------------------


def test_step_batches_around_another_sampler_are_torchs(data: Any) -> None:
    mine = StepBatches(SequentialSampler(range(N)), 5, False)
    assert list(mine) == list(BatchSampler(SequentialSampler(range(N)), 5, False)) and len(mine) == 5
    loader = make(data, batch_sampler=mine)
    assert [batch[0] for batch in content(loader)] == list(mine)
    assert loader.state_dict()["global_batch"] == 5, "it deals the sampler out itself"


def test_samplers_tell_the_samples_that_count(data: Any) -> None:
    for kw in ({}, {"drop_last": True}, {"shards": "exact"}):
        for world in (1, 2, 3):
            ranks = [make(data, batch_size=5, rank=rank, world_size=world, **kw) for rank in range(world)]
            told = sum(rank.sampler.num_valid_samples for rank in ranks)
            assert told == (N // (5 * world) * 5 * world if kw.get("drop_last") else N)


# Ranks that come later -----------------------------------------------------------------------------------------------


def test_a_loader_shares_out_once_there_are_others(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning and Accelerate may begin ``torch.distributed`` after the loader is made."""
    loader, unseeded = make(data), make(data, seed=None)
    pinned = make(data, rank=0, world_size=1)
    alone = content(make(data))
    assert len(loader) == 6
    with monkeypatch.context() as patch:
        patch.setattr("dalipipe.sampler.current_place", lambda otherwise: (1, 2))
        assert (len(loader), loader.sampler.num_replicas, loader.sampler.rank) == (3, 2, 1)
        ours = content(loader)
        assert same(ours, content(make(data, rank=1, world_size=2)))
        with pytest.raises(ValueError, match="2 ranks share the data set, so give each the same seed="):
            iter(unseeded)
        unseeded.load_state_dict(make(data).state_dict() | {"global_batch": 8})  # now they have the same
        iter(unseeded)
        with pytest.raises(ValueError, match="a batch of 26 is larger than the data set of 23 samples"):
            make(data, batch_size=13, drop_last=True)
        assert same(content(pinned), alone)
    assert len(loader) == 3, "its position still counts batches of two ranks"


def test_arguments_without_meaning_do_not_keep_it_from_being_pickled(data: Any) -> None:
    loader = make(data, worker_init_fn=lambda i: None, collate_fn=None)
    assert same(content(pickle.loads(pickle.dumps(loader))), content(loader))
