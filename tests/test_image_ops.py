"""The reference of every image operator, against torchvision's functions and against plain properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import CASES, IDS, SIZES, Case, pictures
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from dalipipe import rng
from dalipipe.ops import image as ops
from dalipipe.policy import Drawn, Op, Policy

KEY = rng.make_key(5, 0)
BILINEAR, NEAREST = InterpolationMode.BILINEAR, InterpolationMode.NEAREST


def draw(op: Op, sizes: list[tuple[int, int]]) -> Drawn:
    return Policy([op]).draw(KEY, np.arange(len(sizes)), np.array(sizes))[0]


def chw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)


def hwc(x: torch.Tensor) -> np.ndarray:
    return x.permute(1, 2, 0).numpy()


def compare(op: Op, theirs, *, tolerance: int = 0, sizes=((40, 50), (33, 17), (64, 64))) -> None:  # type: ignore[no-untyped-def]
    """``theirs(picture [C, H, W], its parameters)`` must be what the reference makes of it."""
    sizes = list(sizes)
    drawn = draw(op, sizes)
    for row, x in enumerate(pictures(sizes, 3)):
        ours = drawn.reference(row, x)
        expected = hwc(theirs(chw(x), {k: v[row] for k, v in drawn.params.items()}))
        assert ours.shape == expected.shape and ours.dtype == expected.dtype
        difference = np.abs(ours.astype(int) - expected)
        assert difference.max() <= tolerance, (row, difference.max(), (difference > tolerance).mean())
        assert row > 0 or (ours.shape != x.shape or (ours != x).any()), "the case does nothing"


def test_resized_crop_is_torchvisions_to_the_bit() -> None:
    def theirs(x: torch.Tensor, params: dict[str, np.ndarray]) -> torch.Tensor:
        y, left, h, w = params["box"].tolist()
        return F.resized_crop(x, y, left, h, w, params["resized"].tolist(), antialias=True)

    for op in (ops.RandomResizedCrop(24), ops.RandomResizedCrop((90, 31)), ops.Resize((20, 60))):
        compare(op, theirs)


@pytest.mark.parametrize("size", [24, 41, 64, 90])
def test_resize_of_the_shorter_side_is_torchvisions(size: int) -> None:
    compare(ops.Resize(size), lambda x, _: F.resize(x, [size], antialias=True), sizes=((40, 50), (51, 17), (65, 65)))


@pytest.mark.parametrize("size", [(16, 16), (41, 52), (39, 60), (61, 17)])
def test_center_crop_is_torchvisions(size: tuple[int, int]) -> None:
    compare(ops.CenterCrop(size), lambda x, _: F.center_crop(x, list(size)))


def test_random_crop_is_pad_and_crop() -> None:
    def theirs(x: torch.Tensor, params: dict[str, np.ndarray]) -> torch.Tensor:
        y, left, h, w = params["box"].tolist()
        return F.crop(F.pad(x, [9] * 4, fill=[7.0, 8.0, 9.0]), y + 9, left + 9, h, w)

    compare(ops.RandomCrop((20, 30), padding=9, fill=(7, 8, 9)), theirs)


def test_random_crop_reaches_every_corner() -> None:
    corners = draw(ops.RandomCrop(32, padding=4), [(32, 32)] * 3000).params["box"][:, :2]
    assert corners.min() == -4 and corners.max() == 4
    counts = np.array([(corners[:, 0] == v).sum() for v in range(-4, 5)])
    assert np.abs(counts / 3000 - 1 / 9).max() < 0.03


def test_flips() -> None:
    compare(ops.HorizontalFlip(p=1.0), lambda x, _: F.horizontal_flip(x))
    compare(ops.VerticalFlip(p=1.0), lambda x, _: F.vertical_flip(x))


@pytest.mark.parametrize("angle", [-70.0, 15.0, 90.0, 133.3])
def test_rotate_is_torchvisions(angle: float) -> None:
    op = ops.Rotate((angle, angle))
    compare(op, lambda x, _: F.rotate(x, angle, BILINEAR), tolerance=1)


def test_affine_parts_are_torchvisions() -> None:
    def affine(x: torch.Tensor, **kw: object) -> torch.Tensor:
        settings = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **kw}
        return F.affine(x, interpolation=BILINEAR, **settings)  # type: ignore[arg-type]

    compare(ops.Shear((20, 20), (-10, -10)), lambda x, _: affine(x, shear=[20.0, -10.0]), tolerance=1)
    compare(ops.Scale((0.7, 0.7)), lambda x, _: affine(x, scale=0.7), tolerance=1)
    compare(ops.Scale((1.6, 1.6)), lambda x, _: affine(x, scale=1.6), tolerance=1)
    shift = ops.Translate((0.2, 0.2), (-0.1, -0.1))
    compare(shift, lambda x, _: affine(x, translate=[round(0.2 * x.shape[2]), round(-0.1 * x.shape[1])]))


def test_nearest_rotation_by_a_right_angle_is_exact() -> None:
    x = pictures([(31, 31)], 3)[0]
    for interpolation in ("nearest", "bilinear"):
        op = ops.Rotate((90, 90), interpolation=interpolation)  # type: ignore[arg-type]
        turned = draw(op, [(31, 31)]).reference(0, x)
        difference = np.abs(turned.astype(int) - np.rot90(x))
        # cos 90° is 6e-17 and not 0, so a pixel on the rim may be read from outside.
        assert difference[1:-1, 1:-1].max() <= 1


def test_colour_is_torchvisions_within_its_truncation() -> None:
    compare(ops.Brightness((0.6, 0.6)), lambda x, _: F.adjust_brightness(x, 0.6), tolerance=1)
    compare(ops.Brightness((1.7, 1.7)), lambda x, _: F.adjust_brightness(x, 1.7), tolerance=1)
    # torchvision truncates the luma, then truncates the blend; here one rounding ends it all.
    compare(ops.Contrast((0.4, 0.4)), lambda x, _: F.adjust_contrast(x, 0.4), tolerance=2)
    compare(ops.Contrast((1.9, 1.9)), lambda x, _: F.adjust_contrast(x, 1.9), tolerance=2)
    compare(ops.Saturation((0.3, 0.3)), lambda x, _: F.adjust_saturation(x, 0.3), tolerance=2)
    compare(ops.Saturation((2.5, 2.5)), lambda x, _: F.adjust_saturation(x, 2.5), tolerance=2)


def test_tables_and_inversion_are_torchvisions_to_the_bit() -> None:
    compare(ops.Invert(), lambda x, _: F.invert(x))
    compare(ops.Solarize((100, 100)), lambda x, _: F.solarize(x, 100))
    for bits in (1, 4, 7):
        compare(ops.Posterize((bits, bits)), lambda x, _, bits=bits: F.posterize(x, bits))


def test_erasing_is_torchvisions() -> None:
    def theirs(x: torch.Tensor, params: dict[str, np.ndarray]) -> torch.Tensor:
        y, left, h, w = params["box"].tolist()
        return F.erase(x, y, left, h, w, torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None])

    compare(ops.RandomErasing(p=1.0, value=(1, 2, 3)), theirs)


def test_normalize_is_torchvisions() -> None:
    x = pictures([(40, 50)], 3)[0]
    ours = draw(ops.Normalize(), [(40, 50)]).reference(0, x)
    expected = F.normalize(
        F.to_dtype(chw(x), torch.float32, scale=True), list(ops.IMAGENET_MEAN), list(ops.IMAGENET_STD)
    )
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, hwc(expected), atol=2e-6)


@pytest.mark.parametrize("case", [c for c in CASES if not c.always], ids=lambda c: c.name)
def test_p_zero_is_identity_and_p_one_touches_all(case: Case) -> None:
    import dataclasses

    sizes = [(40, 50)] * 5
    idle, busy = draw(dataclasses.replace(case.op, p=0.0), sizes), draw(dataclasses.replace(case.op, p=1.0), sizes)
    for row in range(5):
        x = pictures([(40, 50)], 3, seed=row)[0]
        assert (idle.reference(row, x) == x).all()
        assert (busy.reference(row, x) != x).any()
        assert (busy.reference(row, x) == busy.reference(row, x.copy())).all(), "replaying parameters gives the same"


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_awkward_sizes(case: Case, channels: int) -> None:
    if isinstance(case.op, ops.RandomCrop | ops.Normalize) and not getattr(case.op, "pad_if_needed", False):
        pytest.skip("takes no small pictures, or has three means")
    drawn = draw(case.op, SIZES)
    out = case.op.output_size(drawn.params, np.array(SIZES))
    for row, x in enumerate(pictures(SIZES, channels)):
        assert drawn.reference(row, x).shape == (*out[row], channels)
