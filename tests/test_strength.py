"""Policies, weaker and stronger: what holds for every operator, and what some of them do."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import cases
import numpy as np
import pytest
import signal_cases
import text_cases
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import dalipipe
from dalipipe import recipes, rng
from dalipipe.ops import image, signal, text
from dalipipe.ops.mix import CutMix, MixUp, TextCutMix, TimeCutMix
from dalipipe.ops.python import PythonStep
from dalipipe.policy import (
    Choice,
    Copies,
    Measure,
    Normal,
    OneOf,
    Op,
    Policy,
    RandomApply,
    SomeOf,
    node_types,
)
from dalipipe.policy.ranges import Range
from dalipipe.policy_files import load_policy, policy_yaml

KEY = rng.make_key(3, 1)
N = 64
OPERATORS: list[Any] = [case.op for case in (*cases.CASES, *signal_cases.CASES, *text_cases.CASES)]
OPERATORS += [MixUp(0.4, smoothing=0.1, p=0.7), CutMix(p=0.4), TimeCutMix(), TextCutMix()]
OPERATORS += [image.RandAugment(), image.TrivialAugmentWide(), image.AutoAugment(), image.AugMix(), image.AutoAugment()]
OPERATORS += [image.ColorJitter(0.2, 0.3, 0.4, 0.1), image.PhotometricDistort(), signal.SpecAugment(), text.AEDA()]
OPERATORS += [image.Mixture((image.Rotate(), image.Invert())), signal.AddBackgroundNoise(("noise.wav",))]
OPERATORS += list(image.timm_rand_augment()) + list(image.timm_rand_augment("rand-m7-mstd101-n2-t3aw"))
IDS = [f"{type(op).__name__}-{number}" for number, op in enumerate(OPERATORS)]
STRENGTHS = (0.0, 0.05, 0.3, 0.5, 0.9, 1.0, 1.3, 2.0, 10.0)


def policy_with(op: Any) -> Policy:
    needs_spectrogram = type(op).__name__ in ("FrequencyMask", "SpecTimeMask", "SpecTimeWarp", "SpecAugment")
    return Policy([signal.MelSpectrogram(), op] if needs_spectrogram else [op])


def size_for(policy: Policy, n: int = N) -> np.ndarray:
    one = {"image": (40, 50), "signal": (4000, 2, 8000, 1), "text": (30,), "mix": (40, 50)}
    return np.tile(np.array(one[policy.leaves[0].op.modality]), (n, 1))


def leaf_ops(node: Any) -> list[Op]:
    return [leaf.op for leaf in Policy([node]).leaves]


# All operators of all modalities -----------------------------------------------------------------------------------


def test_every_operator_is_among_them() -> None:
    known = {name for name, kind in node_types().items() if issubclass(kind, Op) and kind.__module__[:8] == "dalipipe"}
    tried = {type(op).__name__ for node in OPERATORS for op in leaf_ops(node)}
    assert known - tried == {"PythonStep", "BackTranslation"}  # which have tests of their own, below


@pytest.mark.parametrize("op", OPERATORS, ids=IDS)
def test_strength_one_is_as_written(op: Any) -> None:
    policy = policy_with(op)
    assert policy.at_strength(1.0) == policy
    assert policy.at_strength(1) == policy


@pytest.mark.parametrize("op", OPERATORS, ids=IDS)
def test_strength_zero_leaves_nothing_to_chance(op: Any) -> None:
    policy = policy_with(op).at_strength(0.0)
    for drawn in policy.draw(KEY, np.arange(N), size_for(policy)):
        if not drawn.op.stays:
            assert len(drawn.rows) == 0
            continue
        assert len(drawn.rows) == N
        for name, value in drawn.params.items():
            assert drawn.op.interpolation == "random" if name == "resample" and (value != value[:1]).any() else True
            if name != "resample":
                assert (value == value[:1]).all(), name


@pytest.mark.parametrize("op", OPERATORS, ids=IDS)
def test_any_strength_can_be_drawn_and_written(op: Any) -> None:
    for strength in STRENGTHS:
        policy = policy_with(op).at_strength(strength)
        assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
        policy.draw(KEY, np.arange(8), size_for(policy, 8))
    assert load_policy(policy_yaml(policy_with(op).at_strength(0.3))) == policy_with(op).at_strength(0.3)


@pytest.mark.parametrize("op", OPERATORS, ids=IDS)
def test_slots_stay(op: Any) -> None:
    """So that what follows draws the same numbers at every strength."""
    policy = policy_with(op)
    for strength in (0.0, 0.5, 2.0):
        other = policy.at_strength(strength)
        if any(leaf.op.from_macro for leaf in policy.leaves):
            continue  # these get a container more
        assert other.end_slot == policy.end_slot
        assert [leaf.slot for leaf in other.leaves] == [leaf.slot for leaf in policy.leaves]


@pytest.mark.parametrize("op", OPERATORS, ids=IDS)
def test_stronger_goes_further_or_touches_more(op: Any) -> None:
    """Field by field and in its probability, from strength to strength, up to what is allowed."""
    before = None
    for strength in STRENGTHS[1:]:
        leaves = leaf_ops(op.at_strength(strength))
        assert [type(leaf) for leaf in leaves] == [type(leaf) for leaf in leaf_ops(op)]
        found = [(leaf.p, *(away(leaf, name) for name in leaf.measures)) for leaf in leaves]
        if before is not None:
            for less, more in zip(before, found, strict=True):
                assert all(a <= b + 1e-9 for a, b in zip(less, more, strict=True)), (strength, less, more)
        before = found


def away(op: Op, name: str) -> float:
    """How far a field's values are from doing nothing."""
    measure, value = op.measures[name], getattr(op, name)
    if value is None:
        return 0.0
    ends = [value.low, value.high] if isinstance(value, Range) else np.ravel(value).tolist()
    if measure.kind == "noise_db":
        return -min(ends)
    if measure.kind == "log":
        return max(abs(math.log(max(end, 1e-300) / measure.neutral)) for end in ends)
    if not op.stays and any(end < measure.neutral < other for end in ends for other in ends) and measure.whole:
        return 0.0
    return max(abs(end - measure.neutral) for end in ends)


@pytest.mark.parametrize("op", [op for op in OPERATORS if isinstance(op, Op)], ids=repr)
def test_measured_fields_are_there(op: Op) -> None:
    fields = {field.name for field in dataclasses.fields(op)}
    assert set(op.measures) <= fields and "p" not in op.measures
    assert not (op.by_chance and op.stays)


# To the bit ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in cases.CASES if not c.op.stays], ids=lambda case: case.name)
def test_pictures_at_strength_zero_are_the_pictures(case: cases.Case) -> None:
    pictures = np.stack(cases.pictures([(20, 24)] * 6, 3))
    plain = loaded(pictures, [])
    assert torch.equal(loaded(pictures, Policy([case.op]).at_strength(0.0).ops), plain)
    if not case.idle and not isinstance(case.op, image.ZoomOut):  # whose pictures have several sizes
        assert not torch.equal(loaded(pictures, [case.op]), plain)


@pytest.mark.parametrize(
    "recipe", [recipes.imagenet_train(16), recipes.deit(16), recipes.cifar10(), recipes.digits_train(16)]
)
def test_recipes_at_strength_zero_show_all_alike(recipe: Policy) -> None:
    pictures = np.repeat(np.stack(cases.pictures([(32, 32)], 3)), 5, axis=0)
    calm = loaded(pictures, recipe.at_strength(0.0).ops)
    assert (calm == calm[:1]).all()
    varied = loaded(pictures, recipe.ops)
    assert not (varied == varied[:1]).all()


def test_the_whole_picture_is_what_cifars_recipe_leaves() -> None:
    pictures = np.stack(cases.pictures([(32, 32)] * 4, 3))
    calm = loaded(pictures, recipes.cifar10().at_strength(0.0).ops)
    assert torch.equal(calm, loaded(pictures, recipes.cifar10_eval().ops))
    calm = loaded(pictures, recipes.digits_train(32).at_strength(0.0).ops)
    assert torch.equal(calm, loaded(pictures, recipes.digits_eval(32).ops))


def loaded(pictures: np.ndarray, ops: Any) -> torch.Tensor:
    source = dalipipe.Arrays(pictures, np.zeros(len(pictures), np.int64))
    loader = dalipipe.DataLoader(source, len(pictures), policy=Policy(ops), num_workers=1, device="cpu", seed=1)
    return next(iter(loader)).image


@pytest.mark.parametrize(
    "case",
    [c for c in signal_cases.CASES if not c.op.stays and not c.after_mel],
    ids=lambda case: case.name,
)
def test_signals_at_strength_zero_are_the_signals(case: Any) -> None:
    signals = [np.random.default_rng(i).normal(size=(700 + 20 * i, 2)).astype(np.float32) for i in range(4)]
    ours = loaded_series(signals, Policy([case.op]).at_strength(0.0))
    assert torch.equal(ours, loaded_series(signals, Policy([])))


def loaded_series(signals: list[np.ndarray], policy: Policy) -> torch.Tensor:
    source = dalipipe.Series(signals, np.zeros(len(signals), np.int64), rate_hz=8000)
    loader = dalipipe.DataLoader(source, len(signals), policy=policy, num_workers=1, device="cpu", seed=1)
    return next(iter(loader))[0]


@pytest.mark.parametrize("case", text_cases.CASES, ids=lambda case: case.name)
def test_texts_at_strength_zero_are_the_texts(case: Any) -> None:
    texts = ["w1 w2 w3 w4 w5 the w8", "w3", "w5 w8 w8 w2"]
    source = dalipipe.Text(texts, np.array([0, 1, 0]), classes=["a", "b"])
    loader = dalipipe.DataLoader(source, 3, policy=Policy([case.op]).at_strength(0.0), num_workers=1, device="cpu")
    numbers = next(iter(loader))[0]
    words = loader.vocabulary.words
    assert [" ".join(words[n] for n in row if n) for row in numbers.tolist()] == texts


# What some of them do -----------------------------------------------------------------------------------------------


def test_magnitudes_shrink_and_grow() -> None:
    assert image.Rotate(20).at_strength(0.5) == image.Rotate(10)
    assert image.Rotate(20).at_strength(3) == image.Rotate(60)
    assert image.Rotate(120).at_strength(3) == image.Rotate(180)
    assert image.Rotate((-360, 360)).at_strength(2) == image.Rotate((-360, 360))
    assert image.Brightness((0.6, 1.4)).at_strength(0.5) == image.Brightness((0.8, 1.2))
    assert image.Brightness((0.6, 1.4)).at_strength(3).factor == (0.0, pytest.approx(2.2))
    assert image.Posterize((4, 6)).at_strength(0.5) == image.Posterize((6, 7))
    assert signal.Gain((-12.0, 6.0)).at_strength(0.25) == signal.Gain((-3.0, 1.5))
    assert signal.TimeStretch((0.8, 1.25)).at_strength(2).rate == (pytest.approx(0.64), pytest.approx(1.5625))
    crop = image.RandomResizedCrop(24, (0.25, 1.0), (0.5, 2.0)).at_strength(0.5)
    assert crop.scale == (0.5, 1.0) and crop.ratio == (pytest.approx(math.sqrt(0.5)), pytest.approx(math.sqrt(2)))
    assert image.RandomResizedCrop((10, 40)).at_strength(0).ratio == (pytest.approx(4), pytest.approx(4))
    assert image.RandomResize(10, 30).at_strength(0.5) == image.RandomResize(15, 25)


def test_noise_is_measured_by_its_amplitude() -> None:
    weaker = signal.AddGaussianSNR((10.0, 20.0)).at_strength(0.1)
    assert weaker.snr_db == (pytest.approx(30.0), pytest.approx(40.0))
    assert signal.AddGaussianSNR((10.0, 20.0)).at_strength(1e-12).snr_db == (200.0, 200.0)


def test_what_knows_no_less_is_applied_less_often() -> None:
    assert image.HorizontalFlip().at_strength(0.4) == image.HorizontalFlip(p=0.2)
    assert image.HorizontalFlip().at_strength(2) == image.HorizontalFlip(p=0.5)  # never all mirrored
    assert image.Grayscale(p=0.1).at_strength(2) == image.Grayscale(p=0.2)
    assert image.Invert(p=0.9).at_strength(2) == image.Invert(p=0.9)
    swap = text.RandomSwap(0.1, p=0.8)
    assert swap.at_strength(0.5) == text.RandomSwap(0.1, p=0.4)
    assert swap.at_strength(4) == text.RandomSwap(0.4, p=0.8)
    assert MixUp(smoothing=0.1).at_strength(0.5) == MixUp(smoothing=0.05, p=0.5)


@given(strength=st.floats(0.01, 5.0), mean=st.floats(-3, 3), plus=st.floats(-3, 3), times=st.floats(0.1, 3))
@example(strength=1.25, mean=0.0, plus=1.1, times=0.1)  # an end that is the neutral value but for rounding
def test_ranges_scale_about_what_does_nothing(strength: float, mean: float, plus: float, times: float) -> None:
    u = np.linspace(0, 0.999, 50)
    normal = Normal(mean, 1.0, (-4.0, 4.0), signed=True, times=times, plus=plus)
    scaled = Measure(0.7).scaled(normal, strength)
    np.testing.assert_allclose(scaled.draw(u), 0.7 + strength * (normal.draw(u) - 0.7), atol=1e-9)
    choice = Choice((1.0, 2.0), signed=True)
    np.testing.assert_allclose(Measure().scaled(choice, strength).draw(u), strength * choice.draw(u))
    limited = Measure(0.7, -5.0, 5.0).scaled(normal, strength)
    assert limited.low >= min(-5.0, normal.low) - 1e-9 and limited.high <= max(5.0, normal.high) + 1e-9


def test_signed_choices_about_another_value() -> None:
    scaled = Measure(1.0).scaled(Choice((0.5,), signed=True), 0.5)
    assert sorted(scaled.values) == [0.25, 0.75] and not scaled.signed


def test_containers_choose_as_before() -> None:
    policy = Policy([OneOf((image.Rotate(20), image.Invert()), weights=(3, 1), p=0.8), image.Solarize(p=0.3)])
    weaker = policy.at_strength(0.5)
    assert weaker.ops[0] == OneOf((image.Rotate(10), image.Invert(p=0.5)), weights=(3, 1), p=0.8)
    rows = [drawn.rows for drawn in policy.draw(KEY, np.arange(N), size_for(policy))]
    for ours, theirs in zip(weaker.draw(KEY, np.arange(N), size_for(policy)), rows, strict=True):
        assert set(ours.rows) <= set(theirs)
    assert (rows[0] == weaker.draw(KEY, np.arange(N), size_for(policy))[0].rows).all()
    assert policy.at_strength(0).ops[0].p == 0.0


def test_numbers_of_operators() -> None:
    policy = Policy([RandomApply((SomeOf((image.Invert(), image.Rotate()), n=1),)), image.RandAugment(2)])
    assert policy.counts and not Policy([image.Invert()]).counts
    one = policy.with_count(2)
    assert one.ops[0].ops[0].n == (2, 2) and one.ops[1].num_ops == 2
    assert policy.with_count(0).ops[0].ops[0].p == 0.0 and policy.with_count(0).ops[1].nodes() == ()
    with pytest.raises(ValueError, match="SomeOf: n must lie in"):
        policy.with_count(3)
    with pytest.raises(ValueError, match="SomeOf, RandAugment"):
        Policy([image.Invert()]).with_count(1)
    with pytest.raises(ValueError, match="whole number"):
        policy.with_count(-1)


def test_functions_cannot_be_told_to_do_less() -> None:
    policy = Policy([PythonStep(lambda picture: picture)])
    assert policy.at_strength(1) is not None
    with pytest.raises(ValueError, match="leave it out"):
        policy.at_strength(0.5)


def test_back_translation_keeps_its_translators() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    there, back = Named("a"), Named("b")
    weaker = text.BackTranslation(there, back, p=0.8).at_strength(0.5)
    assert weaker.p == 0.4 and weaker.translators == (there, back)


def test_what_is_stored_stays() -> None:
    policy = Policy([image.Rotate(20), image.Invert(p=0.4)], stored_after=1)
    weaker = policy.at_strength(0.5)
    assert weaker.ops == (image.Rotate(20), image.Invert(p=0.2)) and weaker.stored_after == 1
    copied = policy.with_copies(3)
    assert copied.ops == (image.Rotate(20), Copies((image.Invert(p=0.4),), 3)) and copied.stored_after == 1
    assert Policy([image.Invert()], stored_after=1).with_copies(2) == Policy([image.Invert()], stored_after=1)


@pytest.mark.parametrize("strength", [-0.1, math.nan, math.inf, "1", None, True])
def test_bad_strengths(strength: Any) -> None:
    with pytest.raises(ValueError, match="strength must be a number ≥ 0"):
        Policy([image.Invert()]).at_strength(strength)


# Copies -------------------------------------------------------------------------------------------------------------


def test_copies_are_all_or_nothing() -> None:
    ops = [image.RandomResizedCrop(20), image.HorizontalFlip(p=1.0), image.Invert(), image.Normalize()]
    policy = Policy(ops).with_copies(3)
    n = 4000
    drawn = policy.draw(KEY, np.arange(n), size_for(policy, n))
    by_op = {type(one.op).__name__: one.applied for one in drawn[2:] if one.op.p > 0}
    assert (by_op["HorizontalFlip"] == by_op["Invert"]).all() and by_op["Normalize"].all()
    assert abs(by_op["Invert"].mean() - 0.75) < 4 * math.sqrt(0.75 * 0.25 / n)
    varied, calm = (one.applied for one in drawn[:2])
    assert (varied == by_op["Invert"]).all() and (calm == ~varied).all()
    assert policy.with_copies(0) == policy.at_strength(0)


def test_copies_come_in_containers_of_the_native_core() -> None:
    """What csrc/gates.h does is what containers say, also where they draw the same."""
    policy = Policy([image.Brightness(p=0.6), image.Invert(p=0.4), image.RandomResizedCrop(9)]).with_copies(2)
    indices = np.arange(500)
    u = rng.uniforms(KEY, indices, policy._pair_slots, policy._pair_blocks, 0).reshape(500, -1)
    for ours, theirs in zip(policy._gating.rows(u), policy._gating._rows(u), strict=True):
        assert (ours == theirs).all()


def test_copies_at_other_strengths_and_in_files() -> None:
    policy = recipes.digits_train(16).with_copies(4)
    assert load_policy(policy_yaml(policy)) == policy == Policy.from_dict(json.loads(json.dumps(policy.to_dict())))
    weaker = policy.at_strength(0.5)
    assert weaker == recipes.digits_train(16).at_strength(0.5).with_copies(4)
    pictures = np.stack(cases.pictures([(20, 20)] * 30, 1))
    plain = loaded(pictures, recipes.digits_train(16).at_strength(0).ops)
    some = loaded(pictures, policy.ops)
    kept = (some == plain).flatten(1).all(1).float().mean()
    assert 0 < kept < 0.5


def test_copies_of_sounds_and_of_what_is_mixed() -> None:
    speech = recipes.speech(8000, 0.05, 16).with_copies(2)
    signals = [np.random.default_rng(i).normal(size=(350 + 20 * i, 1)).astype(np.float32) for i in range(6)]
    source = dalipipe.Series(signals, np.zeros(6, np.int64), rate_hz=8000)
    loader = dalipipe.DataLoader(source, 6, policy=speech, num_workers=1, device="cpu", seed=1)
    assert torch.isfinite(next(iter(loader))[0]).all()
    mixed = Policy([image.Rotate(), image.Normalize(), OneOf((MixUp(group=2), CutMix(group=2)))]).with_copies(1)
    pictures = np.stack(cases.pictures([(20, 20)] * 8, 3))
    source = dalipipe.Arrays(pictures, np.arange(8) % 2, classes=["a", "b"])
    loader = dalipipe.DataLoader(source, 8, policy=mixed, num_workers=1, device="cpu", seed=1)
    labels = next(iter(loader)).label
    own = torch.nn.functional.one_hot(torch.arange(8) % 2, 2).float()
    assert labels.shape == (8, 2) and (labels == own).all(1).any()


@pytest.mark.parametrize("copies", [-1, 1.5, True, "2", None])
def test_bad_copies(copies: Any) -> None:
    with pytest.raises(ValueError, match="copies must be a whole number ≥ 0"):
        Policy([image.Invert()]).with_copies(copies)
