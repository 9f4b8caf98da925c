"""Sizes as other libraries choose them: theirs, and wrong ones refused."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from dalipipe import rng
from dalipipe.ops import image as ops
from dalipipe.policy import Policy

SIDES = st.integers(1, 400)


def sizes(op: Any, height: int, width: int, n: int = 1) -> np.ndarray:
    """int64 [n, 2]: of what comes out."""
    (drawn,) = Policy([op]).draw(rng.make_key(4, 0), np.arange(n), np.tile((height, width), (n, 1)))
    return op.output_size(drawn.params, drawn.size)


@given(SIDES, SIDES, st.integers(1, 200), st.integers(200, 300) | st.none())
def test_shortest_size_is_torchvisions(height: int, width: int, short: int, longest: int | None) -> None:
    size = v2.RandomShortestSize(short, longest).make_params([torch.empty(3, height, width)])["size"]
    assert sizes(ops.RandomShortestSize(short, longest), height, width)[0].tolist() == [max(side, 1) for side in size]


@given(SIDES, SIDES, st.tuples(SIDES, SIDES))
def test_scale_jitter_is_torchvisions(height: int, width: int, target: tuple[int, int]) -> None:
    want = min(target[1] / height, target[0] / width) * 0.7
    found = sizes(ops.ScaleJitter(target, (0.7, 0.7)), height, width)[0]
    assert found.tolist() == [max(int(height * want), 1), max(int(width * want), 1)]


def test_zoom_out_is_torchvisions() -> None:
    theirs = v2.RandomZoomOut(side_range=(1.2, 3.0), p=1.0)
    image = torch.empty(3, 40, 61)
    padding = np.array([theirs.make_params([image])["padding"] for _ in range(2000)])  # left, top, right, bottom
    (drawn,) = Policy([ops.ZoomOut((1.2, 3.0), p=1.0)]).draw(
        rng.make_key(1, 0), np.arange(2000), np.tile((40, 61), (2000, 1))
    )
    box = drawn.params["box"]
    ours = np.stack([-box[:, 1], -box[:, 0], box[:, 3] + box[:, 1] - 61, box[:, 2] + box[:, 0] - 40], axis=1)
    assert (ours >= 0).all()
    assert all(ks_2samp(ours[:, i], padding[:, i]).pvalue > 1e-3 for i in range(4))


@given(SIDES, SIDES, st.tuples(SIDES, SIDES), st.sampled_from([0.0, 0.3, 1.0]))
def test_keep_ratio_is_timms(height: int, width: int, target: tuple[int, int], longest: float) -> None:
    transforms = pytest.importorskip("timm.data.transforms")
    theirs = transforms.ResizeKeepRatio.get_params(Image.new("L", (width, height)), target, longest)
    assert sizes(ops.ResizeKeepRatio(target, longest), height, width)[0].tolist() == [max(side, 1) for side in theirs]


@pytest.mark.parametrize("area", [True, False])
def test_keep_ratio_draws_as_timm_draws(area: bool) -> None:
    transforms = pytest.importorskip("timm.data.transforms")
    random.seed(0)
    image, drawn = Image.new("L", (500, 400)), (0.6, (0.3, 1.4), area, 0.7, (0.6, 1.8))
    theirs = np.array([transforms.ResizeKeepRatio.get_params(image, (224, 200), 0.2, *drawn) for _ in range(2000)])
    op = ops.ResizeKeepRatio(
        (224, 200), 0.2, scale_p=0.6, scale=(0.3, 1.4), scale_is_area=area, ratio_p=0.7, ratio=(0.6, 1.8)
    )
    ours = sizes(op, 400, 500, 2000)
    for weight in ((1, 0), (0, 1), (1, -1)):
        assert ks_2samp(ours @ weight, theirs @ weight).pvalue > 1e-3


@given(SIDES, SIDES, SIDES)
def test_pad_to(height: int, width: int, size: int) -> None:
    assert sizes(ops.PadTo(size), height, width)[0].tolist() == [max(height, size), max(width, size)]


@given(SIDES, SIDES, SIDES)
def test_shrink_to(height: int, width: int, size: int) -> None:
    expected = [height, width] if min(height, width) <= size else sizes(ops.Resize(size), height, width)[0].tolist()
    assert sizes(ops.ShrinkTo(size), height, width)[0].tolist() == expected


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ops.ShrinkTo(0), "ShrinkTo: size must be"),
        (lambda: ops.ShrinkTo((3, 4)), "ShrinkTo: size must be the shorter side"),
        (lambda: ops.PadTo(0), "PadTo: size must be"),
        (lambda: ops.PadTo(8, fill=300), "PadTo: fill must lie in"),
        (lambda: ops.ZoomOut((0.5, 2.0)), r"ZoomOut: side_range must lie in \[1, 1000\]"),
        (lambda: ops.RandomShortestSize(()), "RandomShortestSize: sizes must be one or more"),
        (lambda: ops.RandomShortestSize((3, -1)), "RandomShortestSize: sizes must be"),
        (lambda: ops.RandomShortestSize(3, max_size=0), "RandomShortestSize: max_size must be"),
        (lambda: ops.ScaleJitter(8, (0.0, 1.0)), "ScaleJitter: scale must lie in"),
        (lambda: ops.ScaleJitter(8, interpolation="box"), "ScaleJitter: interpolation must be"),
        (lambda: ops.ResizeKeepRatio(8, longest=1.5), "ResizeKeepRatio: longest must lie in"),
        (lambda: ops.ResizeKeepRatio(8, ratio=(2.0, 1.0)), "ResizeKeepRatio: ratio must lie in"),
        (lambda: ops.ResizeKeepRatio(8, ratio_p=-0.1), "ResizeKeepRatio: ratio_p must lie in"),
    ],
)
def test_wrong_fields(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
