"""Lowering: what folds folds exactly, what cannot starts a pass, what makes no sense is refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from cases import CASES, IDS, SIZES, Case, pictures
from hypothesis import given, settings
from hypothesis import strategies as st

from dalipipe import rng
from dalipipe.engines import make_engine
from dalipipe.engines.base import Output
from dalipipe.ops import image as ops
from dalipipe.passes.folding import Folding
from dalipipe.plan import Plan, lower
from dalipipe.policy import Node, OneOf, Policy, SomeOf
from dalipipe.records import Pictures
from dalipipe.schema import Field, Schema

RGB = Schema((Field("image", "image", channels=3), Field("label", "column")))
KEY = rng.make_key(3, 1)


def passes(*nodes: Node, sizes: tuple[tuple[int, int], ...] = ((40, 50), (50, 40))) -> list[int]:
    """How many passes each sample takes."""
    plan = lower(Policy(nodes), RGB)
    return np.diff(plan.draw(KEY, np.arange(len(sizes)), np.array(sizes)).params.starts).tolist()


def test_what_shares_a_pass() -> None:
    everything = [
        ops.RandomResizedCrop(32),
        OneOf([ops.Rotate(), ops.Translate(), ops.Shear()]),
        ops.RandomCrop(28),
        ops.HorizontalFlip(),
        ops.Elastic(p=0.0),
        ops.GaussianBlur(5),
        ops.Equalize(),
        SomeOf([ops.Brightness((0.5, 0.9)), ops.Contrast((0.5, 0.9)), ops.Saturation((0.5, 0.9))], 2),
        ops.Hue(),
        ops.Solarize(),
        ops.Posterize(),
        ops.Cutout(4),
        ops.Normalize(),
        ops.RandomErasing(),
    ]
    assert passes(*everything) == [1, 1]
    assert passes(ops.Perspective(p=1.0), ops.CenterCrop(20), ops.GaussianBlur(3)) == [1, 1]
    assert passes(ops.Equalize(), ops.Brightness((0.5, 1.0)), ops.HorizontalFlip(p=1.0)) == [1, 1]
    assert passes(ops.Resize(256), ops.CenterCrop(224), ops.Normalize()) == [1, 1]
    assert passes() == [1, 1]


@pytest.mark.parametrize(
    "nodes",
    [
        (ops.Brightness(), ops.Resize(8)),
        (ops.Resize(9), ops.Resize(8)),
        (ops.CenterCrop(30), ops.RandomCrop(30, padding=4)),
        (ops.Solarize(), ops.Brightness()),
        (ops.Rotate(fill=1), ops.Shear(fill=2)),
        (ops.Rotate(), ops.Shear()),
        (ops.Rotate(), ops.Elastic()),
        (ops.Rotate(), ops.CenterCrop(20), ops.Rotate()),
        (ops.Cutout(9), ops.HorizontalFlip(p=1.0)),
        (ops.Elastic(), ops.HorizontalFlip(p=1.0)),
        (ops.Elastic(), ops.Rotate()),
        (ops.GaussianBlur(5), ops.HorizontalFlip(p=1.0)),
        (ops.GaussianBlur(5), ops.Sharpness()),
        (ops.Brightness(), ops.GaussianBlur(5)),
        (ops.Brightness(), ops.Equalize()),
        (ops.Hue(), ops.Saturation()),
        (ops.Brightness((1.4, 1.5)), ops.Brightness((0.5, 0.6))),  # what the first clamps the second must not see
        (ops.Cutout(9), ops.Posterize()),
    ],
    ids=lambda nodes: "-".join(type(n).__name__ for n in nodes),
)
def test_what_starts_a_pass(nodes: tuple[Node, ...]) -> None:
    assert passes(*nodes) == [2, 2]


def test_a_sample_pays_for_what_is_drawn_for_it() -> None:
    """A warp after colour takes a second pass, of the samples that have both."""
    plan = lower(Policy([ops.Brightness(p=0.5), ops.Rotate(p=0.5), ops.CenterCrop(20)]), RGB)
    draws = plan.draw(KEY, np.arange(400), np.tile([[40, 50]], (400, 1)))
    bright, turned = (drawn.applied for drawn in draws.drawn[:2])
    assert (np.diff(draws.params.starts) == np.where(bright, 2, 1)).all() and turned.any()
    randaugment = lower(Policy([ops.RandomResizedCrop(32), ops.RandAugment()]), RGB)
    starts = randaugment.draw(KEY, np.arange(400), np.tile([[40, 50]], (400, 1))).params.starts
    assert np.diff(starts).max() <= 3


EXACT = [
    ops.RandomResizedCrop((33, 41)),
    ops.Resize(29, interpolation="bicubic"),
    ops.RandomCrop((25, 27), padding=6, fill=7, pad_if_needed=True),
    ops.HorizontalFlip(),
    ops.VerticalFlip(),
    ops.GaussianBlur(5),
    ops.Sharpness((0.0, 2.0)),
    ops.GaussianNoise(),
    ops.JpegCompression((20, 60)),
    ops.GridMask(),
    ops.Equalize(),
    ops.AutoContrast(),
    ops.Brightness((0.5, 1.5)),
    ops.Hue(),
    ops.Solarize(),
    ops.Posterize((2, 6)),
    ops.Cutout(7, value=(1, 2, 3)),
    ops.RandomErasing(value="random"),
    ops.Elastic(alpha=20.0, sigma=3.0),
]


@settings(max_examples=80, deadline=None)
@given(st.permutations(EXACT), st.integers(0, 10**6))
def test_any_order_of_anything_equals_one_operator_after_the_other(order: list[Node], first: int) -> None:
    """Each operator is drawn for some samples and not for others, so every sample has other passes; bit for bit."""
    nodes = [dataclasses.replace(op, p=0.5) for op in order]  # type: ignore[type-var]
    # A resize is exact only to a level where the picture was turned before it: its weights are not quite symmetric.
    nodes.sort(key=lambda op: isinstance(op, ops.HorizontalFlip | ops.VerticalFlip))
    plan = lower(Policy([*nodes, ops.CenterCrop((24, 26))]), RGB)
    images = pictures([(40, 50), (33, 47), (64, 31), (21, 50)], 3, seed=first)
    output = Output(torch.device("cpu"), torch.uint8, torch.contiguous_format)
    draws = plan.draw(KEY, first + np.arange(4), np.array([x.shape[:2] for x in images]))
    native, reference = (
        make_engine(name, plan, output, threads=2).start(Pictures.from_arrays(images), draws)()
        for name in ("native", "reference")
    )
    assert torch.equal(native, reference)


def run(
    plan: Plan, engine: str, images: list[np.ndarray], dtype: torch.dtype = torch.uint8, first: int = 0
) -> np.ndarray:
    output = Output(torch.device("cpu"), dtype, torch.contiguous_format)
    size = np.array([x.shape[:2] for x in images])
    draws = plan.draw(KEY, first + np.arange(len(images)), size)
    return make_engine(engine, plan, output, threads=2).start(Pictures.from_arrays(images), draws)().float().numpy()


@pytest.mark.parametrize(
    "nodes",
    [
        (ops.Resize((30, 41)), ops.CenterCrop(24)),
        (ops.Resize((20, 20)), ops.CenterCrop(24, fill=50)),
        (ops.HorizontalFlip(), ops.RandomCrop((20, 25), padding=3, fill=9), ops.VerticalFlip()),
        (
            ops.RandomResizedCrop(24),
            ops.HorizontalFlip(),
            ops.VerticalFlip(),
            ops.Solarize(),
            ops.Posterize(),
            ops.HorizontalFlip(),
        ),
        (ops.Solarize(p=0.5), ops.Resize((9, 9)), ops.Posterize(p=0.5), ops.RandomErasing(value=200)),
        (ops.RandomErasing(value=(1, 2, 3)), ops.RandomErasing(value=99), ops.Resize((13, 13)), ops.Invert()),
        (ops.RandomResizedCrop(24), ops.Translate(0.3, 0.3, fill=40), ops.HorizontalFlip(), ops.CenterCrop(20)),
        (ops.RandomResizedCrop(24), ops.Rotate(30, p=0.5), ops.HorizontalFlip(), ops.RandomCrop(20)),
        # The nearest pixels of a picture that is turned are not those of the picture, turned.
        (ops.HorizontalFlip(), ops.VerticalFlip(), ops.Resize((17, 21), interpolation="nearest")),
        (ops.VerticalFlip(), ops.RandomResizedCrop((19, 23), interpolation="nearest"), ops.HorizontalFlip()),
        # What a warp pushes out of the picture stays out where a crop makes it larger again.
        (ops.Resize((30, 40)), ops.Rotate((20, 40)), ops.RandomCrop(24, padding=8)),
        (ops.Resize((30, 40)), ops.Rotate((20, 40), fill=99), ops.HorizontalFlip(), ops.Pad(9, fill=99)),
        (ops.Resize((30, 40)), ops.Translate((0.2, 0.4), 0.3), ops.VerticalFlip(), ops.CenterCrop((50, 30))),
        (
            ops.HorizontalFlip(),
            ops.Resize((24, 24)),
            ops.Shear(15, fill=(9, 99, 199)),
            ops.VerticalFlip(),
            ops.CenterCrop((30, 18)),
        ),
    ],
    ids=lambda nodes: "-".join(type(n).__name__ for n in nodes),
)
def test_folding_changes_nothing(nodes: tuple[Node, ...]) -> None:
    """Integer geometry, tables and one warp: the folded pass equals the operators one by one, bit for bit; where flips
    or crops fold into a warp's matrix, its coordinates differ in the last bit of a float, and a pixel by one at most.
    """
    plan = lower(Policy(nodes), RGB)
    images = pictures([(40, 50), (33, 47), (64, 31), (40, 50), (25, 26), (30, 30)] * 3, 3)
    folded, one_by_one = run(plan, "native", images), run(plan, "reference", images)
    assert folded.shape == one_by_one.shape
    assert np.abs(folded - one_by_one).max() <= 1
    exact = not any(isinstance(leaf.op, ops.Rotate | ops.Shear) for leaf in plan.policy.leaves)
    assert not exact or (folded == one_by_one).all()


def test_colour_folds_without_the_clamps_between() -> None:
    """Four colour operators fold into one rounding, within two of four roundings."""
    nodes = [ops.Contrast((0.5, 0.9)), ops.Brightness((0.9, 1.0)), ops.Saturation((0.3, 1.0)), ops.Contrast((0.8, 1.1))]
    images = [np.clip(x, 70, 180) for x in pictures([(20, 30)] * 9, 3)]
    plan = lower(Policy(nodes), RGB)
    assert passes(*nodes) == [1, 1]
    difference = np.abs(run(plan, "native", images) - run(plan, "reference", images))
    assert difference.max() <= 2 and difference.mean() < 0.6


def test_what_a_warp_pushes_out_does_not_come_back() -> None:
    plan = lower(Policy([ops.Translate((0.5, 0.5), 0.0), ops.Translate((-0.5, -0.5), 0.0)]), RGB)
    x = pictures([(40, 40)], 3)
    out = run(plan, "native", x)[0].transpose(1, 2, 0)
    assert (out[:, :20] == x[0][:, :20]).all() and (out[:, 20:] == 0).all()
    assert (run(plan, "reference", x)[0].transpose(1, 2, 0) == out).all()


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((ops.Normalize(), ops.Rotate()), r"Rotate\(\) stands after Normalize: only erasing may follow it"),
        ((ops.Normalize(), ops.Normalize()), "normalises twice"),
        ((OneOf([ops.Normalize(), ops.Invert()]),), "move it out of its container"),
    ],
)
def test_what_makes_no_sense_is_refused(nodes: tuple[Node, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lower(Policy(nodes), RGB)


def test_channels_must_fit() -> None:
    grey = Schema((Field("image", "image", channels=1),))
    with pytest.raises(ValueError, match="has 3 means for pictures of 1 channel"):
        lower(Policy([ops.Normalize()]), grey)
    lower(Policy([ops.Normalize(0.5, 0.5)]), grey)
    with pytest.raises(ValueError, match="needs a data set with one field of kind image"):
        lower(Policy([ops.Invert()]), Schema((Field("label", "column"),)))


def test_explain_tells_what_happens() -> None:
    text = lower(Policy([ops.Brightness(p=0.5), ops.Resize(8), ops.Normalize()]), RGB).explain()
    assert "passes a sample takes: 1: " in text and ", 2: " in text
    for line in ("Brightness(p=0.5): colour matrix, pass 1; ", "Resize(size=8): resize, passes 1 to 2; 100%"):
        assert line in text
    assert "Normalize(): normalise" in text
    assert "drawn for none" in lower(Policy([ops.Invert(p=0.0)]), RGB).explain()


def test_roi_is_enough_and_not_all() -> None:
    """Decoding only the region gives the same pixels as decoding everything."""
    plan = lower(Policy([ops.Resize((30, 30)), ops.CenterCrop(10), ops.HorizontalFlip()]), RGB)
    images = pictures([(90, 120), (61, 45), (8, 8), (30, 30)], 3)
    draws = plan.draw(KEY, np.arange(4), np.array([x.shape[:2] for x in images]))
    roi = draws.params.roi
    parts = [x[y : y + h, left : left + w] for x, (y, left, h, w) in zip(images, roi.tolist(), strict=True)]
    assert parts[0].size < images[0].size / 4
    engine = make_engine("native", plan, Output(torch.device("cpu"), torch.uint8, torch.contiguous_format), threads=1)
    whole = engine.start(Pictures.from_arrays(images), draws)()
    part = engine.start(Pictures.from_arrays(parts, roi[:, :2].astype(np.int32)), draws)()
    assert (whole == part).all()


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operator_alone_is_its_reference(case: Case, channels: int) -> None:
    """The native engine equals the numpy specification bit for bit, at awkward sizes, strided rows and all."""
    if isinstance(case.op, ops.Normalize) and channels == 1:
        pytest.skip("has three means")
    sizes = SIZES if case.op.misfits(np.array(SIZES)) is None else [(40, 50), (33, 57)]
    plan = lower(Policy([case.op]), Schema((Field("image", "image", channels=channels),)))
    dtype = torch.float32 if isinstance(case.op, ops.Normalize) else torch.uint8
    for seed, size in enumerate(sizes):
        for image in pictures([size] * 4, channels, seed):  # one by one: not every operator makes sizes equal
            native, reference = (run(plan, engine, [image], dtype, seed) for engine in ("native", "reference"))
            assert (native == reference).all(), size


@pytest.mark.parametrize("rows", [[1, 0], [0, 2], [-1, 0], [1, 1]])
def test_rows_that_do_not_rise_within_the_batch_are_refused(rows: list[int]) -> None:
    drawn = Policy([ops.HorizontalFlip(p=1.0)]).draw(rng.make_key(0, 0), np.arange(2), np.full((2, 2), 9))[0]
    folding = Folding(np.full((2, 2), 9), channels=3)
    folding.then(dataclasses.replace(drawn, rows=np.array(rows)))
    with pytest.raises(ValueError, match="rows must rise"):
        folding.finish(None)


def test_a_parameter_of_another_shape_is_refused() -> None:
    drawn = Policy([ops.RandomCrop(4)]).draw(rng.make_key(0, 0), np.arange(2), np.full((2, 2), 9))[0]
    folding = Folding(np.full((2, 2), 9), channels=3)
    with pytest.raises(ValueError, match=r"shape \(2, 4\), got \(2, 3\)"):
        folding.then(dataclasses.replace(drawn, params={"box": drawn.params["box"][:, :3]}))
