"""Erasing, grids and the end: at given boxes as torchvision and timm, and as they draw them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from cases import pictures
from oracle import chw, compare, draw, hwc, ks
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dalipipe.ops import image as ops

N = 2000


def test_erasing_is_torchvisions() -> None:
    def theirs(x: torch.Tensor, params: dict[str, np.ndarray]) -> torch.Tensor:
        for y, left, h, w in params["boxes"].tolist():
            x = F.erase(x, y, left, h, w, torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None])
        return x

    compare(ops.RandomErasing(p=1.0, value=(1, 2, 3)), theirs)
    compare(ops.RandomErasing(p=1.0, value=(1, 2, 3), count=3), theirs)


@pytest.mark.parametrize("size", [(40, 60), (9, 300), (3, 3), (1, 5)])
def test_boxes_are_drawn_as_torchvisions(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = [torch.empty(3, *size, dtype=torch.uint8)]
    made = [v2.RandomErasing(p=1.0).make_params(x) for _ in range(N)]
    theirs = np.array([[m["i"], m["j"], m["h"], m["w"]] if m["v"] is not None else [0] * 4 for m in made])
    ours = draw(ops.RandomErasing(p=1.0), [size] * N).params["boxes"]
    assert ours.shape == (N, 1, 4)
    for column in range(4):
        assert ks(ours[:, 0, column], theirs[:, column]) < 1.95, column
    assert (ours[..., :2] >= 0).all() and (ours[..., :2] + ours[..., 2:] <= size).all()


def test_several_boxes_are_drawn_as_timms() -> None:
    """Their number, and the share of the area that each has."""
    from timm.data.random_erasing import RandomErasing

    erasing = RandomErasing(1.0, 0.1, 0.3, min_count=1, max_count=3, device="cpu")
    random.seed(0)
    sizes, erased = (60, 60), []
    for _ in range(N):
        x = torch.ones(1, *sizes)
        erasing(x)
        erased.append(1 - x.mean().item())
    op = ops.RandomErasing((0.1, 0.3), (0.3, 1 / 0.3), count=(1, 3), p=1.0)
    drawn = draw(op, [sizes] * N)
    count = (drawn.params["boxes"][..., 2] > 0).sum(axis=1)
    assert {1, 2, 3} == set(count.tolist()) and abs((count == 3).mean() - 1 / 3) < 0.05
    white = np.full((*sizes, 1), 255, np.uint8)
    ours = [(drawn.reference(row, white) == 0).mean() for row in range(N)]
    assert ks(np.array(ours), np.array(erased)) < 1.95


def test_random_values_are_normal_after_normalisation_and_grey_noise_before() -> None:
    op = ops.RandomErasing((0.5, 0.5), (1.0, 1.0), value="random", p=1.0)
    assert op.noisy and not ops.RandomErasing().noisy
    drawn = draw(op, [(120, 120)] * 2)
    y, x, h, w = drawn.params["boxes"][0, 0]
    inside = drawn.reference(0, np.full((120, 120, 3), 7.0, np.float32))[y : y + h, x : x + w]
    assert abs(inside.mean()) < 0.05 and abs(inside.std() - 1.0) < 0.05
    noise = drawn.reference(0, np.full((120, 120, 3), 7, np.uint8))[y : y + h, x : x + w]
    assert abs(noise.mean() - 127.5) < 3 and 50 < noise.std() < 70
    assert (
        drawn.reference(0, np.zeros((120, 120, 3), np.uint8)) != drawn.reference(1, np.zeros((120, 120, 3), np.uint8))
    ).any()


@pytest.mark.parametrize("length", [1, 7, 16, 200])
def test_cutout_is_the_papers(length: int) -> None:
    """DeVries and Taylor's own code, at its own centres."""
    h, w = 40, 50
    drawn = draw(ops.Cutout(length, count=3), [(h, w)] * 50)
    x = pictures([(h, w)], 3)[0] | 1
    centres = set()
    for row in range(50):
        mask = np.ones((h, w, 1), np.uint8)
        for top, left, box_h, box_w in drawn.params["boxes"][row]:
            assert box_h == box_w == length
            y, x0 = top + length // 2, left + length // 2
            centres.add((int(y), int(x0)))
            bottom, right = y + length - length // 2, x0 + length - length // 2
            mask[max(y - length // 2, 0) : min(bottom, h), max(x0 - length // 2, 0) : min(right, w)] = 0
        assert (drawn.reference(row, x) == x * mask).all()
    assert {y for y, _ in centres} <= set(range(h)) and {x0 for _, x0 in centres} <= set(range(w))
    assert len(centres) > 100 and max(y for y, _ in centres) > 36 and min(y for y, _ in centres) < 3


def test_grid_mask_keeps_its_share() -> None:
    sizes = [(90, 110)] * 4
    for angle in (0.0, 30.0):
        drawn = draw(ops.GridMask((20, 30), 0.6, angle, (1, 2, 3)), sizes)
        assert drawn.params["values"].dtype == np.float32
        for row, x in enumerate(pictures(sizes, 3)):
            out = drawn.reference(row, x)
            hole = (out == (1, 2, 3)).all(axis=2)
            assert (out[~hole] == x[~hole]).all()
            assert abs(hole.mean() - 0.4**2) < 0.06
    whole = draw(ops.GridMask((20, 20), 1.0), sizes)
    x = pictures(sizes, 3)[0]
    assert (whole.reference(0, x) == x).all()


def test_grid_mask_starts_anywhere_in_a_cell() -> None:
    values = draw(ops.GridMask((20, 20), 0.5, 90.0), [(90, 110)] * N).params["values"]
    assert (values[:, 0] == 20).all() and (values[:, 1] == 10).all()
    assert 0 <= values[:, 2:4].min() < 1 and 19 < values[:, 2:4].max() <= 20
    assert abs(np.corrcoef(values[:, 2], values[:, 3])[0, 1]) < 0.1
    turned = np.degrees(np.arctan2(values[:, 5], values[:, 4]))
    assert -90 <= turned.min() < -80 and 80 < turned.max() <= 90


def test_normalize_is_torchvisions() -> None:
    for channels, mean, std in ((3, ops.IMAGENET_MEAN, ops.IMAGENET_STD), (1, (0.3,), (0.2,))):
        x = pictures([(40, 50)], channels)[0]
        ours = draw(ops.Normalize(mean, std), [(40, 50)]).reference(0, x)
        expected = F.normalize(F.to_dtype(chw(x), torch.float32, scale=True), list(mean), list(std))
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, hwc(expected), atol=2e-6)
