"""Sizes, crops, flips and warps: against torchvision's functions at the same parameters, and as torchvision draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import pictures
from oracle import chw, compare, draw, hwc, ks
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from dalipipe.ops import image as ops
from dalipipe.policy import Choice, Normal

MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}
RESAMPLES = ("bilinear", "bicubic", "nearest")
BILINEAR = InterpolationMode.BILINEAR

# Sizes and crops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", RESAMPLES)
def test_resized_crop_is_torchvisions_to_the_bit(interpolation: str) -> None:
    def theirs(x: torch.Tensor, params: dict[str, np.ndarray]) -> torch.Tensor:
        y, left, h, w = params["box"].tolist()
        size = params["resized"].tolist()
        return F.resized_crop(x, y, left, h, w, size, MODES[interpolation], antialias=True)

    kinds = {"interpolation": interpolation}
    for op in (
        ops.RandomResizedCrop(24, **kinds),
        ops.RandomResizedCrop((90, 31), **kinds),
        ops.Resize((20, 60), **kinds),
    ):
        compare(op, theirs)


@pytest.mark.parametrize("size", [24, 41, 64, 90])
@pytest.mark.parametrize("max_size", [None, 91])
def test_resize_of_the_shorter_side_is_torchvisions(size: int, max_size: int | None) -> None:
    compare(
        ops.Resize(size, max_size=max_size),
        lambda x, _: F.resize(x, [size], max_size=max_size, antialias=True),
        sizes=((40, 50), (51, 17), (65, 65), (9, 100)),
    )


def test_resize_of_the_longer_side_is_torchvisions() -> None:
    compare(
        ops.Resize(None, max_size=47),
        lambda x, _: F.resize(x, None, max_size=47, antialias=True),
        sizes=((40, 50), (51, 17), (65, 65)),
    )


def test_a_side_never_vanishes() -> None:
    for op in (ops.Resize(None, max_size=5), ops.Resize(4, max_size=5)):
        assert draw(op, [(1, 100), (100, 1)]).params["resized"].tolist() == [[1, 5], [5, 1]]


def test_random_resize_is_torchvisions() -> None:
    def theirs(x: torch.Tensor, params: dict[str, np.ndarray]) -> torch.Tensor:
        return F.resize(x, [int(params["resized"].min())], antialias=True)

    compare(ops.RandomResize(20, 30), theirs)
    short = draw(ops.RandomResize(20, 23), [(40, 50)] * 300).params["resized"][:, 0]
    assert sorted(set(short.tolist())) == [20, 21, 22], "max_size is left out, as torchvision's randint does"
    assert (draw(ops.RandomResize(20, 20), [(40, 50)]).params["resized"] == (20, 25)).all()


def test_random_interpolation_is_one_of_two() -> None:
    sizes = [(40, 50)] * 300
    for op in (
        ops.Resize(24, interpolation="random"),
        ops.RandomResize(24, 30, interpolation="random"),
        ops.RandomResizedCrop(24, interpolation="random"),
    ):
        resample = draw(op, sizes).params["resample"]
        assert set(resample.tolist()) == {0, 1} and 0.35 < resample.mean() < 0.65
    for warp in (ops.Rotate(), ops.Translate(), ops.Shear(), ops.Affine(10), ops.Perspective(p=1.0), ops.Scale()):
        params = draw(type(warp)(*([10] if isinstance(warp, ops.Affine) else []), interpolation="random", p=1.0), sizes)
        assert set(params.params["warp"].tolist()) == {1, 3}


@pytest.mark.parametrize("size", [(16, 16), (41, 52), (39, 60), (61, 17)])
def test_center_crop_is_torchvisions(size: tuple[int, int]) -> None:
    compare(ops.CenterCrop(size), lambda x, _: F.center_crop(x, list(size)))


@pytest.mark.parametrize("padding", [9, (3, 8), (1, 2, 3, 9)])
def test_random_crop_is_pad_and_crop(padding: int | tuple[int, ...]) -> None:
    left, top = (padding, padding) if isinstance(padding, int) else padding[:2]

    def theirs(x: torch.Tensor, params: dict[str, np.ndarray]) -> torch.Tensor:
        y, x0, h, w = params["box"].tolist()
        padded = F.pad(x, padding if isinstance(padding, int) else list(padding), fill=[7.0, 8.0, 9.0])
        return F.crop(padded, y + top, x0 + left, h, w)

    compare(ops.RandomCrop((20, 16), padding=padding, fill=(7, 8, 9)), theirs)


def test_random_crop_reaches_every_corner() -> None:
    corners = draw(ops.RandomCrop(32, padding=4), [(32, 32)] * 3000).params["box"][:, :2]
    assert corners.min() == -4 and corners.max() == 4
    counts = np.array([(corners[:, 0] == v).sum() for v in range(-4, 5)])
    assert np.abs(counts / 3000 - 1 / 9).max() < 0.03
    uneven = draw(ops.RandomCrop(32, padding=(0, 1, 2, 3)), [(32, 32)] * 3000).params["box"]
    assert uneven[:, 0].min() == -1 and uneven[:, 0].max() == 3
    assert uneven[:, 1].min() == 0 and uneven[:, 1].max() == 2


@pytest.mark.parametrize("padding", [4, (2, 5), (1, 2, 3, 4), 0])
def test_pad_is_torchvisions(padding: int | tuple[int, ...]) -> None:
    theirs = padding if isinstance(padding, int) else list(padding)
    compare(ops.Pad(padding, fill=(1, 2, 3)), lambda x, _: F.pad(x, theirs, fill=[1.0, 2.0, 3.0]), moves=padding != 0)


def test_flips() -> None:
    compare(ops.HorizontalFlip(p=1.0), lambda x, _: F.horizontal_flip(x))
    compare(ops.VerticalFlip(p=1.0), lambda x, _: F.vertical_flip(x))


# Warps -------------------------------------------------------------------------------------------------------------


def affine(x: torch.Tensor, **kw: object) -> torch.Tensor:
    settings = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], "interpolation": BILINEAR, **kw}
    return F.affine(x, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("angle", [-70.0, 15.0, 133.3])
def test_rotate_is_torchvisions(angle: float) -> None:
    compare(ops.Rotate((angle, angle)), lambda x, _: F.rotate(x, angle, BILINEAR), tolerance=1, mean=0.01)
    nearest = ops.Rotate((angle, angle), interpolation="nearest", fill=(9, 8, 7))
    compare(nearest, lambda x, _: F.rotate(x, angle, fill=[9.0, 8.0, 7.0]))


@pytest.mark.parametrize("interpolation", RESAMPLES)
@pytest.mark.parametrize("angle", [0.0, 90.0, 180.0, -90.0, 270.0, 360.0])
def test_turns_by_right_angles_move_pixels_to_pixels(interpolation: str, angle: float) -> None:
    for side in (30, 31):
        x = pictures([(side, side)], 3)[0]
        turned = draw(ops.Rotate((angle, angle), interpolation=interpolation), [(side, side)]).reference(0, x)
        assert (turned == np.rot90(x, round(angle / 90))).all()


def test_affine_parts_are_torchvisions() -> None:
    close = {"tolerance": 1, "mean": 0.05}
    compare(ops.Shear((20, 20), (-10, -10)), lambda x, _: affine(x, shear=[20.0, -10.0]), **close)
    compare(ops.Scale((0.7, 0.7)), lambda x, _: affine(x, scale=0.7), **close)
    compare(ops.Scale((1.6, 1.6)), lambda x, _: affine(x, scale=1.6), **close)
    shift = ops.Translate((0.2, 0.2), (-0.1, -0.1))
    compare(shift, lambda x, _: affine(x, translate=[round(0.2 * x.shape[2]), round(-0.1 * x.shape[1])]))
    whole = ops.Translate((0.23, 0.23), (-0.19, -0.19), rounding="truncate")
    compare(whole, lambda x, _: affine(x, translate=[int(0.23 * x.shape[2]), int(-0.19 * x.shape[1])]))
    px = ops.TranslatePx(Choice((7.9,)), Choice((-3.2,)), fill=(1, 2, 3))
    compare(px, lambda x, _: affine(x, translate=[7, -3], fill=[1.0, 2.0, 3.0], interpolation=MODES["nearest"]))


def test_affine_is_torchvisions() -> None:
    op = ops.Affine((30, 30), (0.0, 0.0), (1.2, 1.2), (10, 10, -5, -5))
    compare(op, lambda x, _: affine(x, angle=30.0, scale=1.2, shear=[10.0, -5.0]), tolerance=1, mean=0.05)
    op = ops.Affine((-31, -31), (0.0, 0.0), None, (10, 10), interpolation="nearest")
    compare(op, lambda x, _: affine(x, angle=-31.0, shear=[10.0, 0.0], interpolation=MODES["nearest"]))


@pytest.mark.parametrize("axis", ["x", "y"])
def test_shear_about_the_corner_is_auto_augments(axis: str) -> None:
    shear = [math.degrees(math.atan(0.3)) * (axis == "x"), math.degrees(math.atan(0.3)) * (axis == "y")]
    op = ops.Shear(**{"x": 0.0, "y": 0.0, axis: (0.3, 0.3)}, unit="slope", center="corner")
    compare(op, lambda x, _: affine(x, shear=shear, center=[0, 0]), tolerance=1, mean=0.05)


def test_subpixel_translation_is_pillows() -> None:
    from PIL import Image

    x = pictures([(40, 50)], 3)[0]
    for name, mode in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        op = ops.Translate(0.0, (0.083, 0.083), rounding="none", interpolation=name)
        ours = draw(op, [(40, 50)]).reference(0, x).astype(int)
        theirs = Image.fromarray(np.ascontiguousarray(x)).transform(
            (50, 40), Image.Transform.AFFINE, (1, 0, 0, 0, 1, -0.083 * 40), mode
        )
        # Pillow leaves a rim of its own where a tap lies outside.
        assert np.abs(ours - np.asarray(theirs))[8:-4, 4:-4].max() <= 1


def test_perspective_is_torchvisions() -> None:
    """At torchvision's own corners: what a draw makes of its uniforms is followed by hand."""
    sizes = [(40, 50), (33, 17), (64, 64), (7, 90)]
    op = ops.Perspective(0.6, p=1.0)
    rng = np.random.default_rng(0)
    u = rng.random((len(sizes), op.draws))
    params = op.draw(u, np.array(sizes))
    for row, (x, (h, w)) in enumerate(zip(pictures(sizes, 3), sizes, strict=True)):
        bound_h, bound_w = int(0.6 * (h // 2)) + 1, int(0.6 * (w // 2)) + 1
        drawn = [(int(a * bound_w), int(b * bound_h)) for a, b in u[row, :8].reshape(4, 2)]
        end = [[a + (i in (1, 2)) * (w - bound_w), b + (i in (2, 3)) * (h - bound_h)] for i, (a, b) in enumerate(drawn)]
        start = [[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]]
        theirs = hwc(F.perspective(chw(x), start, end, BILINEAR))
        difference = np.abs(op.reference(x, {k: v[row] for k, v in params.items()}).astype(int) - theirs)
        assert difference.max() <= 2 and difference.mean() < 0.02, (row, difference.max(), difference.mean())


def test_perspective_of_small_pictures_holds() -> None:
    sizes = [(h, w) for h in range(1, 6) for w in range(1, 6)] * 20
    matrix = draw(ops.Perspective(1.0, p=1.0), sizes).params["matrix"]
    assert np.isfinite(matrix).all()
    assert (matrix[:20] != np.eye(3)).any()
    assert (matrix[0] == np.eye(3)).all()  # a single pixel
    assert (draw(ops.Perspective(0.0, p=1.0), sizes).params["matrix"] == np.eye(3)).all()


def test_what_does_nothing_is_the_identity() -> None:
    """So that it costs nothing: a fold looks for it."""
    sizes = [(40, 50), (33, 17), (1, 1)]
    for op in (ops.Rotate((0, 0)), ops.Rotate((360, 360)), ops.Scale((1, 1)), ops.Translate(0, 0), ops.Shear(0, 0)):
        assert (draw(op, sizes).params["matrix"] == np.eye(3)).all(), op


# As torchvision draws ----------------------------------------------------------------------------------------------

N = 2000


def torchvisions(transform: v2.Transform, size: tuple[int, int], *names: str) -> np.ndarray:
    """float64 [N, …]: drawn by its ``make_params``."""
    x = [torch.empty(3, *size, dtype=torch.uint8)]
    torch.manual_seed(0)
    rows = [transform.make_params(x) for _ in range(N)]
    return np.array([np.concatenate([np.ravel(row[name]) for name in names]) for row in rows], np.float64)


@pytest.mark.parametrize("size", [(40, 60), (20, 200)])
def test_boxes_are_drawn_as_torchvisions(size: tuple[int, int]) -> None:
    theirs = torchvisions(v2.RandomResizedCrop(8, scale=(0.3, 1.0)), size, "top", "left", "height", "width")
    ours = draw(ops.RandomResizedCrop(8, scale=(0.3, 1.0)), [size] * N).params["box"]
    for column in range(4):
        assert ks(ours[:, column], theirs[:, column]) < 1.95, column
    theirs = torchvisions(v2.RandomCrop(16, padding=(1, 2, 3, 4)), size, "top", "left")
    ours = draw(ops.RandomCrop(16, padding=(1, 2, 3, 4)), [size] * N).params["box"][:, :2] + (2, 1)
    for column in range(2):
        assert ks(ours[:, column], theirs[:, column]) < 1.95, column


def test_affine_is_drawn_as_torchvisions() -> None:
    size = (40, 60)
    settings = {"degrees": (-20, 50), "translate": (0.3, 0.1), "scale": (0.5, 1.5), "shear": (-10, 20, -5, 5)}
    theirs = torchvisions(v2.RandomAffine(**settings), size, "angle", "translate", "scale", "shear")
    matrix = draw(ops.Affine(**settings), [size] * N).params["matrix"]
    # Forward, about the middle: x' = scale · turn · shear · x + shift.
    middle = np.array([(60 - 1) / 2, (40 - 1) / 2])
    forward = np.linalg.inv(matrix)
    shift = forward[:, :2, 2] + forward[:, :2, :2] @ middle - middle
    scale = np.sqrt(np.linalg.det(forward[:, :2, :2]))
    for column, ours in ((1, np.rint(shift[:, 0])), (2, np.rint(shift[:, 1])), (3, scale)):
        assert ks(ours, theirs[:, column]) < 1.95, column
    only = draw(ops.Affine((-20, 50)), [size] * N).params["matrix"]
    assert ks(np.degrees(np.arctan2(-only[:, 1, 0], only[:, 0, 0])), theirs[:, 0]) < 1.95
    slanted = draw(ops.Affine(0, shear=(-10, 20, -5, 5)), [size] * N).params["matrix"]
    linear = np.linalg.inv(slanted[:, :2, :2])
    assert ks(-np.degrees(np.arctan(linear[:, 1, 0])), theirs[:, 5]) < 1.95


def test_perspective_is_drawn_as_torchvisions() -> None:
    size = (40, 60)
    theirs = torchvisions(v2.RandomPerspective(0.5), size, "coefficients")
    matrix = draw(ops.Perspective(0.5, p=1.0), [size] * N).params["matrix"]
    half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    ours = half @ matrix @ np.linalg.inv(half)
    ours = (ours / ours[:, 2:, 2:]).reshape(N, 9)
    for column in range(8):
        assert ks(ours[:, column], theirs[:, column]) < 1.95, column


@pytest.mark.parametrize("field", ["degrees", "x", "factor"])
def test_ranges_take_distributions(field: str) -> None:
    kind = {"degrees": ops.Rotate, "x": ops.Translate, "factor": ops.Scale}[field]
    extra = {"y": 0.0} if field == "x" else {}
    sizes = [(101, 101)] * 400
    one, other = (0.25, 0.75)
    matrix = draw(kind(**{field: Choice((one, other))}, **extra), sizes).params["matrix"].reshape(-1, 9)
    expected = draw(kind(**{field: (one, one)}, **extra), sizes[:1]).params["matrix"].reshape(9)
    share = (matrix == expected).all(axis=1).mean()
    assert len(np.unique(matrix, axis=0)) == 2 and 0.4 < share < 0.6
    spread = draw(kind(**{field: Normal(0.5, 0.1, (0.3, 0.6))}, **extra), sizes).params["matrix"].reshape(-1, 9)
    assert len(np.unique(spread, axis=0)) > 2
