"""The filters: numpy, the native loops of every instruction set, torchvision and Pillow make the same of a picture."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from cases import pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import KEY, chw, compare, draw, hwc, ks
from passes import new_pass
from PIL import Image, features
from torchvision.transforms.v2 import functional as F

from dalipipe import native, rng
from dalipipe.ops import filtering
from dalipipe.ops import image as ops
from dalipipe.policy import Choice, Normal, Op, Policy
from dalipipe.quantiles import ndtri

TARGETS = ("scalar", "avx2", "avx512")
NOISE = np.array([1, 2, 3, 4, 5], np.uint32)


def run_native(x: np.ndarray, kind: int, params: dict[str, Any], **changes: Any) -> np.ndarray:
    """uint8 [H, W, C] through one filter of the native operator."""
    x = np.ascontiguousarray(x)
    s = new_pass((0, 0, *x.shape[:2]), x.shape[:2], x.shape[:2])
    s["data"], s["row_bytes"], (s["stored_h"], s["stored_w"]) = x.ctypes.data, x.strides[0], x.shape[:2]
    s["filter"], weights = kind, np.zeros(0, np.float32)
    values = np.asarray(params.get("values", ()), np.float32)
    s["filter_values"][: len(values)] = values
    s["noise"] = params.get("noise", 0)
    if "weights" in params:
        weights = np.ascontiguousarray(params["weights"], np.float32)
        s["filter_h"], s["filter_w"] = params["taps"]
    for name, value in changes.items():
        s[name] = value
    out = torch.empty((1, *x.shape), dtype=torch.uint8)
    one, zero = np.ones(x.shape[2], np.float32), np.zeros(x.shape[2], np.float32)
    native.fused_image(
        s[None],
        np.array([0, 1], np.int32),
        out,
        channels=x.shape[2],
        scale=one,
        bias=zero,
        weights=weights,
        layout="nhwc",
    )
    return out[0].numpy()


def on_every_target(x: np.ndarray, kind: int, params: dict[str, Any]) -> np.ndarray:
    """What all instruction sets and the reference agree on."""
    expected = filtering.apply(kind, x, {"values": np.zeros(12), **params})
    for name in TARGETS:
        try:
            native.cpu_target(name)
        except ValueError:
            continue
        try:
            made = run_native(x, kind, params)
        finally:
            native.cpu_target()
        assert (made == expected).all(), (name, kind, x.shape, params)
    return expected


def noisy_picture(seed: int, h: int, w: int, channels: int) -> np.ndarray:
    """Noise, or black and white, or a slope with some noise."""
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (h, w, channels))
    if seed % 3 == 1:
        x = x // 128 * 255
    if seed % 3 == 2:
        x = np.linspace(0, 255, w)[None, :, None] + x // 8
    return np.clip(x, 0, 255).astype(np.uint8)


# Formulas: reference and native ------------------------------------------------------------------------------------

SIDES = st.one_of(st.integers(1, 9), st.integers(1, 90))
PICTURES = st.builds(noisy_picture, st.integers(0, 2**32), SIDES, SIDES, st.sampled_from([1, 3]))


@settings(max_examples=60, deadline=None)
@given(PICTURES, st.data())
def test_every_target_equals_the_reference(x: np.ndarray, data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    taps = tuple((2 * random.integers(0, 12, 2) + 1).tolist())
    on_every_target(x, filtering.SHARPEN, {"values": [random.choice([1.0, 0.3, -0.9, random.normal(0, 20)])]})
    across, down = (filtering.gaussian_weights(n, random.uniform(0.01, 6)) for n in taps[::-1])
    on_every_target(x, filtering.SEPARABLE, {"weights": np.concatenate([across, down]), "taps": taps})
    weights = random.normal(0, 1, taps[0] * taps[1]).astype(np.float32) * (random.random(taps[0] * taps[1]) < 0.4)
    on_every_target(x, filtering.CONVOLVE, {"weights": weights, "taps": taps})
    noise = random.integers(0, 2**32, 5, dtype=np.uint32)
    on_every_target(
        x, filtering.GAUSSIAN_NOISE, {"values": [random.normal(0, 9), random.uniform(0, 90)], "noise": noise}
    )
    on_every_target(x, filtering.SALT_PEPPER, {"values": random.random(2), "noise": noise})
    unit, angle = random.uniform(1, 40), random.uniform(-7, 7)
    grid = [unit, unit * random.random(), *random.uniform(-50, 50, 2), math.cos(angle), math.sin(angle), 3, 200.5, 255]
    on_every_target(x, filtering.GRID, {"values": grid})
    on_every_target(x, filtering.JPEG, {"values": [random.integers(1, 101)]})


@pytest.mark.parametrize("kind", [filtering.GAUSSIAN_NOISE, filtering.SALT_PEPPER])
def test_noise_of_large_pictures(kind: int) -> None:  # more than the native loops draw at a time
    for channels in (1, 3):
        x = noisy_picture(kind, 70, 91, channels)
        on_every_target(
            x, kind, {"values": [0.5, 20.0] if kind == filtering.GAUSSIAN_NOISE else [0.5, 0.5], "noise": NOISE}
        )


def test_reflect_is_numpys() -> None:
    for side in range(1, 9):
        wide = np.pad(np.arange(side), 30, "reflect")
        assert (filtering.reflect(np.arange(-30, side + 30), side) == wide).all()


# Sharpness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.3, 1.0, 1.8, 1.9, 2.7, 11.3, 999.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_sharpness_is_torchvisions_to_the_bit(factor: float, channels: int) -> None:
    sizes = [(40, 50), (64, 33), (3, 3), (2, 9), (9, 1), (1, 1), (3, 70), (77, 5)]
    op = ops.Sharpness((factor, factor))
    compare(op, lambda x, _: F.adjust_sharpness(x, factor), sizes=sizes, channels=channels, moves=factor != 1)


def test_sharpness_is_torchvisions_at_any_factor() -> None:
    random = np.random.default_rng(0)
    for seed in range(40):
        x = noisy_picture(seed, 60, 50 + seed, 3)
        factor = float(random.choice([random.uniform(0, 2), random.uniform(0, 20), 1 - 1 / random.integers(2, 5000)]))
        ours = run_native(x, filtering.SHARPEN, {"values": [1.0 - factor]})
        assert (ours == hwc(F.adjust_sharpness(chw(x), factor))).all(), (x.shape, factor)


# Blur --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [(3, 3), (5, 9), (23, 7)])
@pytest.mark.parametrize("sigma", [0.1, 1.3, 5.0])
def test_gaussian_blur_is_torchvisions(kernel: tuple[int, int], sigma: float) -> None:
    sizes = [(40, 50), (33, 27), (64, 64), (24, 25)]
    drawn = draw(ops.GaussianBlur(kernel, (sigma, sigma)), sizes)
    apart = []
    for row, x in enumerate(pictures(sizes, 3)):
        theirs = hwc(F.gaussian_blur(chw(x), list(kernel), [sigma, sigma]))
        apart.append(np.abs(drawn.reference(row, x).astype(int) - theirs).ravel())
    share = np.concatenate(apart)
    assert share.max() <= 1 and (share > 0).mean() <= 0.001


def mirrored_sums(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlation in float64, [H, W, C]."""
    reach = [n // 2 for n in weights.shape]
    wide = np.pad(x.astype(np.float64), ((reach[0],) * 2, (reach[1],) * 2, (0, 0)), "reflect")
    windows = np.lib.stride_tricks.sliding_window_view(wide, weights.shape, (0, 1))
    return np.einsum("yxcij,ij->yxc", windows, weights.astype(np.float64))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 3), (4, 30), (30, 5)])
def test_blur_of_pictures_smaller_than_its_reach(size: tuple[int, int]) -> None:
    x = noisy_picture(0, *size, 3)
    drawn = draw(ops.GaussianBlur((21, 25), (4.0, 4.0)), [size])
    across, down = np.split(drawn.params["weights"][0], [21])
    exact = mirrored_sums(x, down[:, None] * across[None, :])
    assert np.abs(drawn.reference(0, x) - exact).max() <= 0.5 + 1e-3


def test_gaussian_weights() -> None:
    weights = filtering.gaussian_weights(23, np.array([0.001, 1.0, 5.0]))
    assert weights.dtype == np.float32 and weights.shape == (3, 23)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert (weights[0] == np.eye(23)[11]).all() and (weights[1] == weights[1, ::-1]).all()
    np.testing.assert_allclose(
        weights[1, 11:15], np.exp(-0.5 * np.arange(4.0) ** 2) / math.sqrt(2 * math.pi), atol=1e-7
    )


def test_motion_blur_smears_along_a_line() -> None:
    flat, upright = (filtering.line_weights(5, np.array([2]), np.array([a]))[0] for a in (0.0, np.pi / 2))
    expected = np.zeros((5, 5))
    expected[2] = 0.2
    np.testing.assert_allclose(flat, expected, atol=1e-7)
    np.testing.assert_allclose(upright, expected.T, atol=1e-7)

    angle = np.random.default_rng(0).uniform(-7, 7, 50)
    weights = filtering.line_weights(9, np.full(50, 3), angle)
    y, x = np.mgrid[4:-5:-1, -4:5]
    np.testing.assert_allclose(weights.sum(axis=(1, 2)), 1, atol=1e-6)
    np.testing.assert_allclose((weights * x).sum(axis=(1, 2)), 0, atol=1e-6)
    across = np.abs(x * np.sin(angle)[:, None, None] - y * np.cos(angle)[:, None, None])
    assert weights.min() >= 0 and across[weights > 1e-6].max() < math.sqrt(2)
    along = (weights * (x * np.cos(angle)[:, None, None] + y * np.sin(angle)[:, None, None]) ** 2).sum(axis=(1, 2))
    assert np.abs(along - 4).max() < 0.5  # the mean of (-3, …, 3)², and what sharing between pixels adds

    x_in = noisy_picture(3, 20, 30, 3)
    drawn = draw(ops.MotionBlur((3, 11), (30.0, 30.0)), [(20, 30)] * 300)
    for row in range(5):
        exact = mirrored_sums(x_in, drawn.params["weights"][row].reshape(11, 11))
        assert np.abs(drawn.reference(row, x_in) - exact).max() <= 0.5 + 1e-3
    flat = draw(ops.MotionBlur((3, 11), 0.0), [(20, 30)] * 300).params["weights"]
    assert set(np.count_nonzero(flat, axis=1).tolist()) == {3, 5, 7, 9, 11}, "any odd length"


# Noise -------------------------------------------------------------------------------------------------------------


def test_normals_are_normal() -> None:
    edges = np.array([0, 1, 2, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1], np.uint32)
    word = np.concatenate([edges, filtering.words(NOISE, 200_000), np.arange(1 << 16, dtype=np.uint32)])
    exact = -ndtri(((word & 0x7FFFFFFF) + 0.5) / 2**32)
    made = filtering.normal(word)
    assert made.dtype == np.float32
    assert np.abs(made - np.where(word >> 31, -exact, exact)).max() < 5e-5

    sample = filtering.normals(NOISE, (100, 200, 5))
    assert ks(sample, ndtri((np.arange(100_000) + 0.5) / 100_000)) < 1.63
    assert abs(sample.mean()) < 0.01 and abs(sample.std() - 1) < 0.01
    assert abs(np.corrcoef(sample.ravel()[:-1], sample.ravel()[1:])[0, 1]) < 0.01


@pytest.mark.parametrize("name", TARGETS)
def test_native_normals_are_the_same_bits(name: str) -> None:
    """A box of noise over the whole picture shows them as float32."""
    try:
        native.cpu_target(name)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        x = np.zeros((37, 41, 3), np.uint8)
        s = new_pass((0, 0, 37, 41), (37, 41), (37, 41))
        s["data"], s["row_bytes"], s["stored_h"], s["stored_w"] = x.ctypes.data, x.strides[0], 37, 41
        s["erases"] = 1
        box = np.zeros(1, native.ERASE_BOX)
        box["h"], box["w"], box["sigma"], box["noise"] = 37, 41, 1, NOISE
        out = torch.empty((1, 37, 41, 3))
        native.fused_image(
            s[None],
            np.array([0, 1], np.int32),
            out,
            channels=3,
            scale=np.ones(3, np.float32),
            bias=np.zeros(3, np.float32),
            erases=box,
            layout="nhwc",
        )
    finally:
        native.cpu_target()
    expected = filtering.normals(NOISE, (37, 41, 3))
    assert (out[0].numpy().view(np.uint32) == (expected + np.float32(0)).view(np.uint32)).all()


def test_words_are_philox_from_block_two_to_the_31() -> None:
    counter = np.array([[3, 4, 5, (1 << 31) + k] for k in range(3)], np.uint32)
    assert (filtering.words(NOISE, 11) == rng.philox4x32(counter, NOISE[:2]).ravel()[:11]).all()


def test_gaussian_noise_has_the_drawn_mean_and_deviation() -> None:
    x = np.full((200, 300, 3), 128, np.uint8)
    drawn = draw(ops.GaussianNoise((5.0, 5.0), (17.0, 17.0)), [(200, 300)] * 2)
    added = [drawn.reference(row, x).astype(float) - 128 for row in (0, 1)]
    for values in added:
        assert abs(values.mean() - 5) < 0.2 and abs(values.std() - 17) < 0.2
    assert abs(np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1]) < 0.01, "every sample has noise of its own"
    assert abs(np.corrcoef(added[0][..., 0].ravel(), added[0][..., 1].ravel())[0, 1]) < 0.02, "and every channel"


def test_salt_and_pepper_sets_whole_pixels() -> None:
    x = np.full((200, 300, 3), 128, np.uint8)
    made = draw(ops.SaltAndPepper((0.3, 0.3), 0.2), [(200, 300)]).reference(0, x)
    assert (made == made[..., :1]).all() and set(np.unique(made).tolist()) == {0, 128, 255}
    assert abs((made[..., 0] == 255).mean() - 0.06) < 0.005 and abs((made[..., 0] == 0).mean() - 0.24) < 0.01


# Grid --------------------------------------------------------------------------------------------------------------


def test_an_upright_grid_is_cut_by_hand() -> None:
    x = np.zeros((40, 50, 1), np.uint8)
    made = filtering.grid(x, np.array([10, 6, 3, 8, 1, 0, 255, 0, 0, 0, 0, 0], np.float32))
    across, down = (np.arange(50) + 3) % 10 >= 6, (np.arange(40) + 8) % 10 >= 6
    assert (made[..., 0] == 255 * (down[:, None] & across[None, :])).all()
    assert (filtering.grid(x, np.array([10, 10, 3, 8, 0.6, 0.8, 255, 0, 0, 0, 0, 0], np.float32)) == 0).all()


def test_a_turned_grid_is_the_upright_one_turned() -> None:
    x = np.zeros((300, 300, 1), np.uint8)
    angle = 0.4
    values = np.array([40, 24, 7, 9, math.cos(angle), math.sin(angle), 255, 0, 0, 0, 0, 0], np.float32)
    made = filtering.grid(x, values)[..., 0]
    assert abs((made > 0).mean() - 0.16) < 0.02
    # One cell along either axis of the turned lattice: the same again.
    for dx, dy in ((math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))):
        shifted = np.roll(made, (-round(40 * dy), -round(40 * dx)), (0, 1))[50:-50, 50:-50]
        assert (shifted != made[50:-50, 50:-50]).mean() < 0.05


# JPEG --------------------------------------------------------------------------------------------------------------


def pillow_jpeg(x: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[2] == 1 else x).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(x.shape)


needs_turbo = pytest.mark.skipif(not features.check_feature("libjpeg_turbo"), reason="Pillow without libjpeg-turbo")


@needs_turbo
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows_to_the_bit_at_every_size(channels: int) -> None:
    seed = 0
    for h in range(1, 35):
        for w in range(1, 35):
            seed += 1
            x, quality = noisy_picture(seed, h, w, channels), 1 + 37 * seed % 100
            made = run_native(x, filtering.JPEG, {"values": [quality]})
            assert (made == pillow_jpeg(x, quality)).all(), (x.shape, quality)


@needs_turbo
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows_to_the_bit_at_every_quality(channels: int) -> None:
    for quality in range(1, 101):
        x = noisy_picture(quality, 83, 54, channels)
        theirs = pillow_jpeg(x, quality)
        assert (filtering.jpeg(x, quality) == theirs).all(), quality
        assert (run_native(x, filtering.JPEG, {"values": [quality]}) == theirs).all(), quality


@pytest.mark.filterwarnings("ignore:The image decoding")
def test_jpeg_is_torchvisions() -> None:
    for quality in (3, 40, 75, 99):
        op = ops.JpegCompression((quality, quality))
        compare(op, lambda x, _, quality=quality: F.jpeg(x.contiguous(), quality))


def test_every_quality_is_as_likely() -> None:
    quality = draw(ops.JpegCompression((40, 49)), [(8, 8)] * 5000).params["values"][:, 0]
    counts = np.bincount(quality.astype(int), minlength=101)
    assert counts[40:50].sum() == 5000 and counts[40:50].min() > 400


# Elastic -----------------------------------------------------------------------------------------------------------

FIELDS = [((40, 50), (60.0, 30.0), (5.0, 5.0)), ((33, 7), (9.0, 9.0), (3.0, 1.0)), ((1, 1), (9.0, 9.0), (2.0, 2.0))]
FIELDS += [((5, 64), (20.0, 7.0), (0.0, 0.0)), ((64, 64), (8.0, 8.0), (0.0, 2.0))]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("size", "alpha", "sigma"), FIELDS)
def test_native_displacement_is_the_same_bits(name: str, size: Any, alpha: Any, sigma: Any) -> None:
    try:
        native.cpu_target(name)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        taps, weights = filtering.elastic_blur(np.array(sigma))
        out, field = torch.full((2, *size), np.nan), np.zeros(1, native.ELASTIC_FIELD)
        field["out"], field["weights"], (field["h"], field["w"]) = out.data_ptr(), weights.ctypes.data, size
        field["taps"], field["scale"], field["noise"] = taps, np.float32(alpha) / 2, NOISE
        native.elastic(field, out)
    finally:
        native.cpu_target()
    assert (out.numpy() == filtering.displacement(size, np.array(alpha), np.array(sigma), NOISE)).all()


def test_displacement_is_torchvisions() -> None:
    """What ``ElasticTransform.make_params`` does to its noise, done to ours, in its units: halves of the picture."""
    h, w, alpha, sigma = 60, 90, (50.0, 20.0), (2.0, 3.0)
    noise = 2 * filtering.unit(filtering.words(NOISE, 2 * h * w)).reshape(2, 1, 1, h, w) - 1
    theirs = []
    for axis, side in ((0, w), (1, h)):
        taps = int(8 * sigma[axis] + 1) // 2 * 2 + 1
        blurred = F.gaussian_blur(torch.from_numpy(noise[axis]), [taps, taps], list(sigma))
        theirs.append((blurred[0, 0] * alpha[axis] / side) * side / 2)
    ours = filtering.displacement((h, w), np.array(alpha), np.array(sigma), NOISE)
    assert ours.dtype == np.float32 and np.abs(ours).max() > 1
    np.testing.assert_allclose(ours, torch.stack(theirs).numpy(), atol=2e-5)


# Operators ---------------------------------------------------------------------------------------------------------

FILTERS: list[Op] = [
    ops.Sharpness((0.2, 1.8)),
    ops.Sharpness(Normal(0.0, 0.5, (0.0, 0.9), signed=True, plus=1.0)),
    ops.GaussianBlur(5),
    ops.GaussianBlur((3, 9), Choice((0.5, 2.0))),
    ops.MotionBlur(7, 45.0),
    ops.GaussianNoise(3.0, (2.0, 9.0)),
    ops.SaltAndPepper(0.1, (0.2, 0.7)),
    ops.JpegCompression(30),
    ops.JpegCompression(Normal(60.0, 10.0, (20.0, 90.0))),
]


@pytest.mark.parametrize("op", FILTERS, ids=repr)
def test_filters_travel(op: Op) -> None:
    policy = Policy([op])
    assert Policy.from_dict(policy.to_dict()) == policy
    assert eval(repr(op), {**vars(ops), "Choice": Choice, "Normal": Normal}) == op


@pytest.mark.parametrize("op", FILTERS, ids=repr)
def test_a_drawn_filter_is_the_native_one(op: Any) -> None:
    sizes = [(40, 50), (9, 70), (1, 1)]
    drawn = draw(op, sizes)
    for row, x in enumerate(pictures(sizes, 3)):
        params = drawn.at(row)
        assert params is not None and params["values"].dtype == np.float32
        assert (run_native(x, op.kind, params) == drawn.reference(row, x)).all()


def test_draws_follow_their_ranges() -> None:
    n = [(8, 8)] * 4000
    share = draw(ops.Sharpness((0.25, 2.0)), n).params["values"][:, 0]
    assert ks(1 - share, np.linspace(0.25, 2, 4000)) < 1.95
    sigma = draw(ops.GaussianNoise(0.0, (3.0, 8.0)), n).params["values"]
    assert (sigma[:, 0] == 0).all() and ks(sigma[:, 1], np.linspace(3, 8, 4000)) < 1.95
    middle = draw(ops.GaussianBlur(23, (0.5, 2.0)), n).params["weights"][:, 11]
    assert ks(middle, filtering.gaussian_weights(23, np.linspace(0.5, 2, 4000))[:, 11]) < 1.95


NAN = float("nan")
RANGE = ["much", (1,), (2.0, 1.0), (NAN, NAN), (0.0, 1e300), Choice((-1e300,)), 1j, None, NAN, -1e9]
KERNEL = [0, 2, -3, 1.5, (3, 4), (3, 5, 7), "5", True, None, 257]
BAD: list[tuple[Any, str, list[Any]]] = [
    (ops.Sharpness, "factor", [*RANGE, (-0.1, 1.0)]),
    (ops.GaussianBlur, "kernel_size", [*KERNEL, [3, 2]]),
    (ops.GaussianBlur, "sigma", [*RANGE, 0.0, (0.0, 1.0), 501.0]),
    (ops.MotionBlur, "kernel_size", [*KERNEL, (7, 3)]),
    (ops.MotionBlur, "angle", RANGE),
    (ops.GaussianNoise, "mean", [*RANGE, 256.0]),
    (ops.GaussianNoise, "sigma", [*RANGE, -1.0]),
    (ops.SaltAndPepper, "amount", [*RANGE, 1.1]),
    (ops.SaltAndPepper, "salt", [*RANGE, (-0.1, 1.0)]),
    (ops.JpegCompression, "quality", [*RANGE, 0, 101, (1.5, 9), (40, 120)]),
]


@pytest.mark.parametrize(("cls", "name", "values"), BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_bad_values_are_named(cls: Any, name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"^{cls.__name__}: {name} must .*, got "):
            cls(**{**({"kernel_size": 3} if cls is ops.GaussianBlur else {}), name: value})


@pytest.mark.parametrize(
    ("kind", "params", "changes", "message"),
    [
        (8, {}, {}, "filter must be 0 to 7, got 8"),
        (-1, {}, {}, "filter must be 0 to 7, got -1"),
        (
            1,
            {"values": [NAN]},
            {},
            r"filter_values\[0\] \(share of the smooth picture\) must lie in \[-1000, 1000\], got",
        ),
        (1, {"values": [1001]}, {}, "got 1001"),
        (2, {"weights": np.ones(6), "taps": (2, 4)}, {}, "filter_h must be odd, 1 to 4095, got 2"),
        (2, {"weights": np.ones(5), "taps": (3, 3)}, {}, "needs 6 weights from 0 on, there are 5"),
        (2, {"weights": np.ones(6), "taps": (3, 3)}, {"filter_weights": -1}, "needs 6 weights from -1 on"),
        (3, {"weights": np.ones(8), "taps": (3, 3)}, {}, "needs 9 weights from 0 on, there are 8"),
        (3, {"weights": np.full(9, np.inf), "taps": (3, 3)}, {}, "weights must add up to at most 1e\\+06, got inf"),
        (3, {"weights": np.full(9, NAN), "taps": (3, 3)}, {}, "weights must add up"),
        (4, {"values": [0, -1]}, {}, "sigma"),
        (5, {"values": [1.5, 0]}, {}, "amount"),
        (5, {"values": [0.5, NAN]}, {}, "salt"),
        (6, {"values": [0.5, 0]}, {}, "unit"),
        (6, {"values": [9, 3, 0, NAN, 1, 0]}, {}, "offset y"),
        (6, {"values": [9, 3, 0, 0, 1, 0, 256]}, {}, "colour"),
        (7, {"values": [0]}, {}, "quality"),
        (7, {"values": [50.5]}, {}, r"filter_values\[0\] \(quality\) must be a whole number, got 50.5"),
    ],
)
def test_the_native_operator_refuses(kind: int, params: Any, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^fused_image: sample 0: .*{message}"):
        run_native(noisy_picture(0, 9, 9, 3), kind, params, **changes)


def test_samples_have_noise_of_their_own_and_keep_it() -> None:
    policy = Policy([ops.GaussianNoise(), ops.SaltAndPepper()])
    index, size = np.array([4, 9]), np.array([[8, 8]] * 2)
    first, again = (policy.draw(KEY, index, size) for _ in range(2))
    alone = policy.draw(KEY, index[1:], size[1:])
    for a, b, c in zip(first, again, alone, strict=True):
        assert (a.params["noise"] == b.params["noise"]).all() and (a.params["noise"][1] == c.params["noise"][0]).all()
    keys = np.concatenate([drawn.params["noise"] for drawn in first])
    assert len(np.unique(keys, axis=0)) == 4
