"""Policies: what is drawn, by whom, and their life as data."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from cases import CASES, IDS, Case

from dalipipe import rng
from dalipipe.ops import image as ops
from dalipipe.policy import (
    Choice,
    DrawError,
    Normal,
    OneOf,
    Policy,
    RandomApply,
    RandomOrder,
    SomeOf,
    draw_range,
)

KEY = rng.make_key(11, 2)
N = 3000
SIZE = np.tile(np.array([[40, 60]]), (N, 1))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_json_pickle_and_repr(case: Case) -> None:
    policy = Policy([case.op])
    assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert pickle.loads(pickle.dumps(policy.ops)) == policy.ops
    assert eval(repr(case.op), vars(ops) | {"Choice": Choice, "Normal": Normal}) == case.op
    assert hash(case.op) == hash(pickle.loads(pickle.dumps(case.op)))


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_draws_depend_on_the_sample_alone(case: Case) -> None:
    policy = Policy([ops.Invert(), case.op])
    indices = np.random.default_rng(0).integers(0, 10**9, 40)
    size = np.stack([40 + indices % 17, 50 + indices % 13], axis=1)
    whole = policy.draw(KEY, indices, size)[1]
    for rows in (range(1), range(7, 20), range(39, 40)):
        part = policy.draw(KEY, indices[rows], size[rows])[1]
        for place, row in enumerate(rows):
            ours, theirs = part.at(place), whole.at(row)
            assert (ours is None) == (theirs is None)
            assert ours is None or all((value == theirs[name]).all() for name, value in ours.items())


def test_p_is_the_share_that_is_touched() -> None:
    for p in (0.0, 0.1, 0.5, 1.0):
        drawn = Policy([ops.Brightness((2.0, 2.0), p=p)]).draw(KEY, np.arange(N), SIZE)[0]
        assert abs(drawn.applied.mean() - p) <= 4 * np.sqrt(p * (1 - p) / N)
        assert (drawn.params["matrix"][:, 0, 0] == 2.0).all() and len(drawn.params["matrix"]) == drawn.applied.sum()


def test_untouched_samples_have_no_parameters() -> None:
    policy = Policy(
        [ops.Rotate(30, p=0.5), ops.HorizontalFlip(), ops.Contrast(p=0.5), ops.Solarize(p=0.5), ops.RandomErasing()]
    )
    x = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for drawn in policy.draw(KEY, np.arange(100), SIZE[:100]):
        assert 0 < len(drawn.rows) < 100 and all(len(value) == len(drawn.rows) for value in drawn.params.values())
        for row in range(100):
            assert (drawn.at(row) is not None) == drawn.applied[row]
            assert drawn.applied[row] or drawn.reference(row, x) is x


def test_one_of_applies_exactly_one_by_weight() -> None:
    policy = Policy([OneOf([ops.Invert(), ops.Solarize(), ops.Posterize()], weights=(1, 2, 1), p=0.8)])
    applied = np.stack([drawn.applied for drawn in policy.draw(KEY, np.arange(N), SIZE)])
    assert set(applied.sum(axis=0).tolist()) == {0, 1}
    shares = applied.mean(axis=1)
    assert np.abs(shares - np.array([0.2, 0.4, 0.2])).max() < 4 * np.sqrt(0.25 / N)


def test_some_of_applies_as_many_as_asked() -> None:
    children = [ops.Invert(), ops.Solarize(), ops.Posterize(), ops.HorizontalFlip(p=1.0)]
    applied = np.stack([d.applied for d in Policy([SomeOf(children, (1, 3))]).draw(KEY, np.arange(N), SIZE)])
    counts = applied.sum(axis=0)
    assert set(counts.tolist()) == {1, 2, 3}
    assert np.abs(np.bincount(counts, minlength=4)[1:] / N - 1 / 3).max() < 0.04
    assert np.abs(applied.mean(axis=1) - 0.5).max() < 0.04


def test_random_apply_is_all_or_nothing() -> None:
    policy = Policy([RandomApply([ops.Invert(), ops.Solarize()], p=0.3)])
    invert, solarize = (d.applied for d in policy.draw(KEY, np.arange(N), SIZE))
    assert (invert == solarize).all() and abs(invert.mean() - 0.3) < 4 * np.sqrt(0.21 / N)


def test_random_order_applies_all_in_every_order_equally_often() -> None:
    children = [ops.Brightness(), OneOf([ops.Solarize(), ops.Posterize()]), ops.Invert()]
    policy = Policy([RandomOrder(children)])
    drawn = policy.draw(KEY, np.arange(N), SIZE)
    assert len(drawn) == 12  # three places, four operators
    names = np.full((3, N), "", dtype=object)
    for i, d in enumerate(drawn):
        kind = "table" if isinstance(d.op, ops.Solarize | ops.Posterize) else type(d.op).__name__
        names[i // 4, d.rows] += kind
    orders, counts = np.unique(["-".join(column) for column in names.T], return_counts=True)
    assert len(orders) == 6 and all(set(o.split("-")) == {"Brightness", "table", "Invert"} for o in orders)
    assert np.abs(counts / N - 1 / 6).max() < 4 * np.sqrt(5 / 36 / N)
    # Where it stands says nothing about how it is drawn: an operator has one slot.
    assert len({leaf.slot for leaf in policy.leaves if isinstance(leaf.op, ops.Brightness)}) == 1


def test_ranges() -> None:
    u = np.linspace(0, 1, 9999, endpoint=False)
    assert set(draw_range(Choice((1, 5)), u)) == {1, 5} and set(draw_range(Choice((2,), signed=True), u)) == {-2, 2}
    normal = Normal(9, 0.5, (0, 10), times=2, plus=-1)
    x = draw_range(normal, u)
    assert abs(x.mean() - 17) < 0.02 and abs(x.std() - 1) < 0.05 and x.max() == 19 == normal.high and normal.low == -1
    op = ops.Rotate(Choice((30,), signed=True))
    assert set(Policy([op]).draw(KEY, np.arange(99), SIZE[:99])[0].params["matrix"][:, 0, 1].round(6)) == {-0.5, 0.5}
    for range_ in (Choice((1, 2), signed=True), normal):
        policy = Policy([ops.Rotate(range_)])
        assert Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice(()), "Choice: values must be a list of one or more finite numbers"),
        (lambda: Choice(3), "Choice: values must be a list of one or more finite numbers, got 3"),
        (lambda: Choice("12"), "Choice: values must be a list of one or more finite numbers, got '12'"),
        (lambda: Choice((None,)), "Choice: values must be"),
        (lambda: Normal(0, -1, (0, 1)), "std ≥ 0"),
        (lambda: Normal(0, 1, (2, 1)), "within must be"),
        (lambda: Normal(0, 1, 3), "within must be finite numbers"),
        (lambda: Normal(0, 1, (float("-inf"), float("inf"))), "within must be finite numbers"),
        (lambda: Normal("a", 1, (0, 1)), "Normal: expected finite numbers"),
        (lambda: ops.Brightness(Choice((-1, 2))), r"Brightness: factor must lie in \[0, "),
        (lambda: RandomApply([]), "RandomApply: expected a list of one or more operators"),
        (lambda: RandomOrder([3]), "RandomOrder: expected operators and containers of them, got int"),
        (lambda: SomeOf([ops.Invert()], 2), r"SomeOf: n must lie in \[0, 1\]"),
        (lambda: SomeOf([ops.Invert()], "two"), "SomeOf: n must be"),
        (lambda: SomeOf([ops.Invert()], (0.5, 1)), r"SomeOf: n must be a whole number of .*got \(0.5, 1\)"),
        (lambda: SomeOf([ops.Invert()], True), "SomeOf: n must be a whole number of operators"),
        (lambda: OneOf([ops.Invert()], p=1.5), r"OneOf: p must be a probability in"),
        (lambda: OneOf([ops.Invert()], weights=(1, 2)), "OneOf: weights must be 1 numbers"),
        *(
            (lambda w=w: OneOf([ops.Invert()], weights=w), "OneOf: weights must be 1 numbers .* got")
            for w in (3, (None,), (float("nan"),), (float("inf"),), (-1,), ())
        ),
        (lambda: Policy(ops.Invert()), r"Policy: expected a list of operators, got Invert: Invert\(\)"),
        (lambda: Policy(None), "Policy: expected a list of operators, got NoneType"),
        (lambda: Policy.from_dict({"ops": [{"op": "Inverse"}]}), "no operator is called 'Inverse'"),
        (lambda: Policy.from_dict({"ops": [{"op": "Rotate", "degrees": {"uniform": [1, 2]}}]}), "a range is"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_containers_nest() -> None:
    policy = Policy([OneOf([SomeOf([ops.Invert(), ops.Solarize()], 2), ops.Posterize()])])
    invert, solarize, posterize = (d.applied for d in policy.draw(KEY, np.arange(200), SIZE[:200]))
    assert (invert == solarize).all() and (invert ^ posterize).all() and invert.any() and posterize.any()
    assert Policy.from_dict(policy.to_dict()) == policy


def test_slots_do_not_move_when_a_policy_grows() -> None:
    short = Policy([ops.RandomResizedCrop(32), ops.Rotate()])
    grown = Policy([*short.ops, ops.HorizontalFlip()])
    for a, b in zip(short.draw(KEY, np.arange(9), SIZE[:9]), grown.draw(KEY, np.arange(9), SIZE[:9]), strict=False):
        for name in a.params:
            assert (a.params[name] == b.params[name]).all()


def test_distribution_of_random_resized_crop_is_torchvisions() -> None:
    """Two-sample Kolmogorov–Smirnov against torchvision's own draws, wide and narrow pictures, fallback included."""
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    n = 4000
    for h, w, scale in ((40, 60, (0.08, 1.0)), (20, 200, (0.6, 1.0)), (300, 31, (0.3, 1.0))):
        theirs = np.array(
            [RandomResizedCrop.get_params(torch.empty(3, h, w), list(scale), [3 / 4, 4 / 3]) for _ in range(n)],
            np.float64,
        )
        drawn = Policy([ops.RandomResizedCrop(8, scale=scale)]).draw(KEY, np.arange(n), np.tile([[h, w]], (n, 1)))[0]
        ours = drawn.params["box"].astype(np.float64)
        for column in range(4):
            grid = np.unique(np.concatenate([ours[:, column], theirs[:, column]]))
            cdf = [np.searchsorted(np.sort(x[:, column]), grid, side="right") / n for x in (ours, theirs)]
            assert np.abs(cdf[0] - cdf[1]).max() < 2.0 * np.sqrt(2 / n), (h, w, column)


def test_boxes_stay_inside() -> None:
    rng_ = np.random.default_rng(0)
    size = rng_.integers(1, 60, (N, 2))
    for op in (ops.RandomResizedCrop(8), ops.RandomErasing(p=1.0)):
        params = Policy([op]).draw(KEY, np.arange(N), size)[0].params
        box = params["box"] if "box" in params else params["boxes"][:, 0]
        assert (box >= 0).all() and (box[:, :2] + box[:, 2:] <= size).all()
        if isinstance(op, ops.RandomResizedCrop):
            assert (box[:, 2:] >= 1).all()


def test_a_picture_too_small_to_crop_is_named() -> None:
    size = np.array([[40, 40], [40, 40], [20, 40]])
    with pytest.raises(
        DrawError, match=r"RandomCrop\(size=\(32, 32\)\) cannot take a sample of size \(20, 40\)"
    ) as caught:
        Policy([ops.RandomCrop(32)]).draw(KEY, np.arange(3), size)
    assert caught.value.row == 2
    assert pickle.loads(pickle.dumps(caught.value)).row == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ops.Brightness((1.5, 0.5)),
            r"Brightness: factor must lie in \[0, .*\], low before high, got \(1.5, 0.5\)",
        ),
        (lambda: ops.Brightness((0.5, float("nan"))), "Brightness: factor"),
        (lambda: ops.Brightness("much"), "Brightness: factor must be a pair of numbers"),
        (lambda: ops.Rotate("19"), "Rotate: degrees must be a pair of numbers .* got '19'"),
        (lambda: ops.Rotate(p=1.2), r"Rotate: p must be a probability in .*got 1.2"),
        (
            lambda: ops.RandomResizedCrop(0),
            r"RandomResizedCrop: size must be a whole number of pixels ≥ 1 or \(height, width\), got 0",
        ),
        (lambda: ops.RandomResizedCrop(224, scale=(0.5, 2)), r"RandomResizedCrop: scale must lie in \[1e-09, 1\]"),
        (lambda: ops.RandomCrop(8, padding=-1), "RandomCrop: padding"),
        (lambda: ops.Resize((3, 4, 5)), "Resize: size"),
        (lambda: ops.Rotate(fill=300), r"Rotate: fill must lie in \[0, 255\], got 300"),
        (lambda: ops.Rotate(interpolation="cubic"), "Rotate: interpolation must be"),
        (lambda: ops.Normalize((0.5, 0.5)), "Normalize: mean and std"),
        (lambda: ops.Normalize(0.5, 0.0), "Normalize: mean must be finite and std positive"),
        (lambda: OneOf([]), "OneOf: expected a list of one or more operators"),
        (lambda: OneOf([ops.Invert()], weights=(1, 2)), "OneOf: weights must be 1 numbers"),
        (lambda: SomeOf([ops.Invert()], 2), r"SomeOf: n must lie in \[0, 1\]"),
        (lambda: Policy.from_dict({"ops": [{"op": "Blurr"}]}), "no operator is called 'Blurr'; there are .*Brightness"),
        (
            lambda: Policy.from_dict({"ops": [{"op": "Rotate", "angle": 3}]}),
            "Rotate: has no field 'angle'; its fields are degrees",
        ),
        (lambda: Policy.from_dict({"ops": [{"op": "Resize"}]}), "Resize: .*size"),
        (lambda: Policy.from_dict([1]), "Policy: expected"),
    ],
)
def test_bad_values_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_wrong_types_are_named() -> None:
    with pytest.raises(TypeError, match="Policy: expected operators and containers of them, got str"):
        Policy(["Rotate"])  # type: ignore[list-item]
