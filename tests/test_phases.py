"""Policies that follow each other: what phases may be, and what a loader makes of them at every boundary."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dalipipe
from dalipipe import DataLoader, OneOf, Phases, Policy, StateMismatchError
from dalipipe.ops import image as ops
from dalipipe.ops import signal
from dalipipe.ops.mix import CutMix, MixUp
from dalipipe.policy import Macro

MIXED = Policy(
    [
        ops.RandomCrop(10, padding=2),
        ops.HorizontalFlip(),
        ops.Normalize(),
        OneOf([MixUp(0.8, smoothing=0.1), CutMix(smoothing=0.1)]),
    ]
)
UNMIXED = MIXED.without_mixing()
LAST = 2  # the first epoch without
PHASES = Phases({0: MIXED, LAST: UNMIXED})


def source(n: int = 40) -> dalipipe.Arrays:
    images = np.random.default_rng(0).integers(0, 256, (n, 12, 14, 3), dtype=np.uint8)
    return dalipipe.Arrays(images, np.arange(n) % 5, classes="abcde")


def make(policy: Any = PHASES, batch_size: int = 8, **kw: Any) -> DataLoader:
    return DataLoader(
        kw.pop("data", None) or source(),
        batch_size,
        **{"seed": 5, "device": "cpu", "shuffle": True, "policy": policy, "num_workers": 2, **kw},
    )


def epochs(loader: DataLoader, count: int) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    return [[(batch.image.clone(), batch.label.clone()) for batch in loader] for _ in range(count)]


def same(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)
    )


# The phases themselves ---------------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(1, 30), st.integers(0, 3), max_size=5), st.integers(0, 3), st.integers(0, 40))
def test_an_epoch_has_the_last_policy_given_before_it(later: dict[int, int], first: int, epoch: int) -> None:
    policies = [Policy([ops.RandomCrop(size)]) for size in (8, 9, 10, 11)]
    given_ = {0: first, **later}
    phases = Phases({start: policies[number] for start, number in given_.items()})
    wanted = policies[given_[max(start for start in given_ if start <= epoch)]]
    assert phases.at(epoch) == wanted and phases.start_of(epoch) <= epoch
    assert all(phases.at(start) != phases.at(start - 1) for start in phases.starts[1:])  # none changes nothing
    assert phases == Phases(dict(reversed(phases.policies.items()))) and pickle.loads(pickle.dumps(phases)) == phases
    json.dumps(phases.to_dict())


def test_strength_that_grows() -> None:
    phases = Phases.by_epoch(lambda epoch: Policy([ops.Rotate(10.0 * (epoch // 2))]), 6)
    assert phases.starts == (0, 2, 4) and phases.at(100) == Policy([ops.Rotate(20.0)]) and len(phases) == 3


@pytest.mark.parametrize(
    "policies, error, message",
    [
        ({1: MIXED}, ValueError, r"epoch 0 must have a policy, got policies for the epochs \[1\]"),
        ({}, ValueError, "epoch 0 must have a policy"),
        ({0: MIXED, -1: MIXED}, ValueError, "whole numbers, at least 0, got -1"),
        ({0: MIXED, 1.5: MIXED}, ValueError, "whole numbers, at least 0, got 1.5"),
        ({0: MIXED, True: MIXED}, ValueError, "whole numbers, at least 0, got True"),
        ({0: MIXED, 3: None}, TypeError, "epoch 3 must have a dalipipe.Policy, got NoneType"),
        ([MIXED], TypeError, "a mapping, epoch → Policy, got list"),
    ],
)
def test_what_phases_cannot_be(policies: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Phases(policies)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Phases.by_epoch(lambda _: MIXED, 0)


# Without mixing ----------------------------------------------------------------------------------------------------


def test_without_mixing_all_else_is_drawn_as_it_was() -> None:
    plain = epochs(make(Policy(MIXED.ops[:3])), 2)
    for got, was in zip(epochs(make(UNMIXED), 2), plain, strict=True):
        for (image, label), (bare, index) in zip(got, was, strict=True):
            assert torch.equal(image, bare)
            assert torch.allclose(label, torch.full((8, 5), 0.02).scatter_(1, index[:, None], 0.92), rtol=0, atol=1e-7)
    assert UNMIXED.without_mixing() == UNMIXED != MIXED and UNMIXED.end_slot == MIXED.end_slot
    assert Policy(MIXED.ops[:3]).without_mixing() == Policy(MIXED.ops[:3])


def test_a_name_for_operators_that_mix_is_refused() -> None:
    class MadeUp(Macro):
        def nodes(self) -> tuple[Any, ...]:
            return (MixUp(),)

    with pytest.raises(ValueError, match="stands for operators that mix: write them out"):
        Policy([MadeUp()]).without_mixing()


# Through the loader ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefetch_factor", [1, 4])
@pytest.mark.parametrize("cache", [None, "ram"])
def test_each_epoch_has_its_policy(prefetch_factor: int, cache: Any) -> None:
    """Also where more batches are waited for than there are in an epoch, so that the next one's might be made early."""
    loader = make(prefetch_factor=prefetch_factor, cache=cache)
    mixed, unmixed = epochs(make(MIXED), 4), epochs(make(UNMIXED), 4)
    found = []
    for number in range(4):
        assert loader.plan.policy == (MIXED if number == 0 or number <= LAST else UNMIXED)  # of the last one begun
        found.append([(batch.image, batch.label) for batch in loader])
        assert loader.plan.policy == PHASES.at(number)
    for number in range(4):
        assert same(found[number], (mixed if number < LAST else unmixed)[number])
        assert not same(found[number], (unmixed if number < LAST else mixed)[number])
    loader.set_epoch(1)  # and back again
    assert same(epochs(loader, 1)[0], mixed[1])
    assert "MixUp" in loader.plan.explain() and "mixing" not in loader.explain()


def test_a_lane_of_one_phase_is_not_used_in_another() -> None:
    """Two epochs under way at once, each with its own policy."""
    loader = make()
    loader.set_epoch(LAST - 1)
    early = iter(loader)
    first = [next(early)]
    loader.set_epoch(LAST)
    late = [(batch.image, batch.label) for batch in loader]
    rest = [(batch.image, batch.label) for batch in [*first, *early]]
    assert same(rest, epochs(make(MIXED), LAST)[LAST - 1]) and same(late, epochs(make(UNMIXED), LAST + 1)[LAST])


def test_an_epoch_set_after_iter_has_its_own_policy() -> None:
    """As Lightning does it."""
    loader = make()
    batches = iter(loader)
    loader.set_epoch(LAST)
    assert same([(batch.image, batch.label) for batch in batches], epochs(make(UNMIXED), LAST + 1)[LAST])


def test_resumes_before_every_batch_around_the_boundary() -> None:
    whole = [batch for epoch in epochs(make(), LAST + 3) for batch in epoch]
    loader, steps, done = make(), len(make()), 0
    for _ in range(LAST + 2):
        for _ in loader:
            done += 1
            if done in range((LAST - 1) * steps, (LAST + 1) * steps + 2):
                resumed = make()
                resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
                rest = [batch for epoch in epochs(resumed, 2) for batch in epoch]
                assert len(rest) > steps and same(rest, whole[done : done + len(rest)])


@pytest.mark.parametrize("world_size", [2, 4])
def test_same_on_any_number_of_ranks_and_after_a_change_of_it(world_size: int) -> None:
    given_: Any = {"data": source(64), "batch_size": 32}
    whole = [batch for epoch in epochs(make(**given_), LAST + 2) for batch in epoch]
    alone = make(**given_)
    alone.set_epoch(LAST - 1)
    next(iter(alone))
    share = 32 // world_size
    for rank in range(world_size):
        part = make(data=source(64), batch_size=share, rank=rank, world_size=world_size)
        part.load_state_dict(alone.state_dict())
        rest = [batch for epoch in epochs(part, 3) for batch in epoch]
        mine = slice(rank * share, (rank + 1) * share)
        assert same(rest, [(image[mine], label[mine]) for image, label in whole[2 * LAST - 1 :]])


def test_pickled_with_its_position() -> None:
    loader = make()
    loader.set_epoch(LAST - 1)
    for _ in loader:
        pass
    assert same(epochs(pickle.loads(pickle.dumps(loader)), 1)[0], epochs(make(UNMIXED), LAST + 1)[LAST])


def test_a_state_of_other_phases_is_told_by_name() -> None:
    state = make().state_dict()
    assert state["phases"] == [0, LAST]
    with pytest.raises(StateMismatchError, match=r"phases: saved \[0, 2\], here \[0, 3\]") as caught:
        make(Phases({0: MIXED, 3: UNMIXED})).load_state_dict(state)
    assert set(caught.value.differences) == {"phases", "policy"}
    for policy in (MIXED, UNMIXED, Phases({0: MIXED, LAST: Policy([*UNMIXED.ops[:3], MixUp(p=0.0)])})):
        with pytest.raises(StateMismatchError, match="policy"):
            make(policy).load_state_dict(state)
    with pytest.raises(StateMismatchError, match=r"phases: saved \[0\], here \[0, 2\]"):
        make().load_state_dict(make(MIXED).state_dict())


def test_one_phase_is_its_policy() -> None:
    """So states of before there were phases can be loaded."""
    one, before = make(Phases({0: MIXED, 7: MIXED})), make(MIXED).state_dict()
    assert before.pop("phases") == [0]
    one.load_state_dict(before)
    assert same(epochs(one, 1)[0], epochs(make(MIXED), 1)[0])


def test_pictures_may_grow() -> None:
    loader = make(Phases({0: Policy([ops.RandomCrop(8)]), 1: Policy([ops.RandomCrop(12)])}))
    assert [tuple(next(iter(loader)).image.shape[2:]) for _ in range(2)] == [(8, 8), (12, 12)]


@pytest.mark.parametrize(
    "phases, message",
    [
        (
            {0: MIXED, 3: Policy(MIXED.ops[:3])},
            r"from epoch 3 on has another mixing than the first one: None, not labels='label', .*without_mixing\(\)",
        ),
        (
            {0: Policy(MIXED.ops[:3]), 3: MIXED},
            r"from epoch 3 on has another mixing .*, not None; policy.without_mixing\(\)",
        ),
        (
            {0: MIXED, 1: Policy([*MIXED.ops[:3], MixUp(num_classes=9)])},
            r"epoch 1 on has another mixing .*num_classes=9, not .*num_classes=None",
        ),
        ({0: Policy(MIXED.ops[:3]), 2: Policy(MIXED.ops[:2])}, "epoch 2 on has another normalisation"),
        ({0: Policy(MIXED.ops[:3]), 2: Policy([signal.TimeMask()])}, "applies to (signal|audio)"),
    ],
)
def test_phases_of_other_forms(phases: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(Phases(phases))


def test_spectrograms_stay() -> None:
    sounds = dalipipe.Series([np.zeros((400, 1), np.float32)] * 4, np.arange(4), rate_hz=1600)
    features = [Policy([signal.MelSpectrogram(bins, 64, 32)]) for bins in (8, 9)]
    with pytest.raises(ValueError, match="another spectrogram than the first one"):
        make(Phases({0: features[0], 1: features[1]}), 2, data=sounds)


def test_words_stay() -> None:
    texts = dalipipe.Text(["a good film", "a bad film"], [0, 1], classes=["bad", "good"])
    with_words, without = dalipipe.recipes.eda(synonyms={"good": ["great"]}), Policy([])
    with pytest.raises(ValueError, match=r"another vocabulary than the first one: .* with p=0"):
        make(Phases({0: with_words, 1: without}), 2, data=texts)
    off = Policy([OneOf(with_words.ops[0].ops, p=0.0)])  # type: ignore[union-attr]
    loader = make(Phases({0: with_words, 1: off}), 2, data=texts)
    assert loader.vocabulary is not None and all(len(list(loader)) == 1 for _ in range(2))


def test_a_packs_front_is_taken_off_every_phase(tmp_path: Any) -> None:
    images = source(16)
    whole = Policy([ops.Resize((10, 10)), *MIXED.ops[1:]], stored_after=1)
    dalipipe.pack(images, tmp_path / "pack", policy=whole.split(1)[0])
    packed = dalipipe.Packed(tmp_path / "pack")
    phases = Phases({0: whole, 1: whole.without_mixing()})
    assert [
        same(a, b)
        for a, b in zip(epochs(make(phases, data=packed), 2), epochs(make(phases, data=images), 2), strict=True)
    ] == [True, True]


def test_what_is_no_policy() -> None:
    with pytest.raises(TypeError, match=r"must be a dalipipe.Policy, got dict; see .* dalipipe.Phases"):
        make({0: MIXED})


def test_strength_grows_from_epoch_to_epoch() -> None:
    """From pictures as they are to the policy as it is written, in batches of one form."""
    phases = Phases.by_epoch(lambda epoch: MIXED.at_strength(epoch / 2), 3)
    none, half, whole = epochs(make(phases), 3)
    assert len(phases) == 3 and same(whole, epochs(make(MIXED), 3)[2]) and not same(half, epochs(make(MIXED), 2)[1])
    assert all(label.dtype == torch.float32 and (label.amax(1) > 0.9).all() for _, label in none)
