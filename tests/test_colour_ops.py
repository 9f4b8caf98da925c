"""Colour operators: against torchvision's functions at the same parameters, and as torchvision draws them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import KEY, chw, compare, draw, hwc, ks
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dalipipe.ops import image as ops
from dalipipe.policy import Choice, Normal, Policy


def photograph(h: int = 60, w: int = 80) -> np.ndarray:
    """uint8 [h, w, 3]: smooth in every channel, with some grain, as photographs are."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:h, :w]
    waves = [
        110 + 70 * np.sin(0.11 * x + 0.05 * y + k) + 50 * np.cos(0.07 * y - 0.03 * x + 2 * k) for k in (0.0, 0.9, 2.1)
    ]
    return np.clip(np.stack(waves, axis=2) + rng.normal(0, 6, (h, w, 3)), 0, 255).astype(np.uint8)


FACTORS = [0.0, 0.1, 0.4, 0.73, 0.75, 1.0, 1.3, 1.5, 1.9, 2.0]
EXACT = (0.0, 0.75, 1.0, 1.5, 2.0)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_is_torchvisions_to_the_bit(factor: float, channels: int) -> None:
    op = ops.Brightness((factor, factor))
    compare(op, lambda x, _: F.adjust_brightness(x, factor), channels=channels, moves=factor != 1)


@pytest.mark.parametrize("factor", FACTORS)
def test_contrast_and_saturation_are_torchvisions_but_for_lumas_rounding(factor: float) -> None:
    """On all kinds of pictures within a level; on photographs rarely even that."""
    contrast, saturation = ops.Contrast((factor, factor)), ops.Saturation((factor, factor))
    moves = factor != 1
    compare(contrast, lambda x, _: F.adjust_contrast(x, factor), tolerance=1, moves=moves)
    compare(saturation, lambda x, _: F.adjust_saturation(x, factor), tolerance=1, moves=moves)
    x = photograph()
    for op, theirs, most in (
        (contrast, F.adjust_contrast(chw(x), factor), 0.02),
        (saturation, F.adjust_saturation(chw(x), factor), 0.0 if factor in EXACT else 0.3 * abs(1 - factor)),
    ):
        difference = draw(op, [x.shape[:2]]).reference(0, x).astype(int) - hwc(theirs)
        assert np.abs(difference).mean() <= most + 2e-3
        assert abs(difference.mean()) <= 0.1, "no bias"


@pytest.mark.parametrize("factor", FACTORS)
def test_one_channel_is_torchvisions_to_the_bit(factor: float) -> None:
    compare(ops.Contrast((factor, factor)), lambda x, _: F.adjust_contrast(x, factor), channels=1, moves=factor != 1)
    compare(ops.Saturation((factor, factor)), lambda x, _: F.adjust_saturation(x, factor), channels=1, moves=False)
    for op in (ops.Grayscale(p=1.0), ops.ChannelShuffle(), ops.Hue((0.3, 0.3))):
        compare(op, lambda x, _: x, channels=1, moves=False)


def test_grayscale_is_torchvisions_to_the_bit() -> None:
    compare(ops.Grayscale(p=1.0), lambda x, _: F.rgb_to_grayscale(x, num_output_channels=3))


@pytest.mark.parametrize("turns", [-0.5, -0.21, 0.04, 1 / 3, 0.5])
def test_hue_is_torchvisions(turns: float) -> None:
    compare(ops.Hue((turns, turns)), lambda x, _: F.adjust_hue(x, turns), tolerance=1, mean=0.001)


def test_channel_shuffle_gives_every_order_as_often() -> None:
    n = 3000
    params = draw(ops.ChannelShuffle(), [(2, 2)] * n).params["matrix"]
    orders, counts = np.unique(params.argmax(axis=2), axis=0, return_counts=True)
    assert len(orders) == 6 and np.abs(counts / n - 1 / 6).max() < 0.03
    compare(
        ops.ChannelShuffle(),
        lambda x, p: F.permute_channels(x, p["matrix"].argmax(axis=1).tolist()),
        sizes=[(9, 11)] * 12,
        moves=False,
    )


def test_tables_are_torchvisions_to_the_bit() -> None:
    compare(ops.Invert(), lambda x, _: F.invert(x))
    for threshold in (0.0, 99.5, 100.0, 255.0):
        compare(ops.Solarize((threshold, threshold)), lambda x, _, t=threshold: F.solarize(x, t))
    x = pictures([(40, 50)], 3)[0]
    assert (draw(ops.Solarize((256, 256)), [(40, 50)]).reference(0, x) == x).all()
    for bits in range(9):
        compare(ops.Posterize((bits, bits)), lambda x, _, b=bits: F.posterize(x, b), moves=bits < 8)


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0, 2.2])
@pytest.mark.parametrize("gain", [0.5, 1.0, 1.3])
def test_gamma_is_torchvisions(gamma: float, gain: float) -> None:
    theirs = F.adjust_gamma(torch.arange(256, dtype=torch.uint8)[None, None], gamma, gain)[0, 0].numpy()
    ours = draw(ops.Gamma((gamma, gamma), gain=gain), [(1, 1)]).params["table"][0]
    # Powers of float32 differ by their last bit from library to library.
    assert np.abs(ours.astype(int) - theirs).max() <= 1 and (ours != theirs).sum() <= 2


def test_histograms_are_torchvisions_to_the_bit() -> None:
    sizes = ((40, 50), (33, 17), (64, 64), (1, 1), (3, 2), (200, 13))
    for channels in (1, 3):
        compare(ops.Equalize(), lambda x, _: F.equalize(x), sizes=sizes, channels=channels)
        narrow = [x // 2 + 40 for x in pictures(list(sizes), channels)]
        drawn = draw(ops.AutoContrast(), sizes)
        for row, x in enumerate(narrow):
            ours = drawn.reference(row, x)
            assert (ours == hwc(F.autocontrast(chw(x)))).all()
        assert (drawn.reference(0, narrow[0]) != narrow[0]).any()


def test_solarize_add_is_timms() -> None:
    from PIL import Image
    from timm.data.auto_augment import solarize_add

    x = np.ascontiguousarray(pictures([(40, 50)], 3)[0])
    for amount, threshold in ((0.0, 128), (55.9, 128), (110.0, 200)):
        ours = draw(ops.SolarizeAdd((amount, amount), threshold=threshold), [(40, 50)]).reference(0, x)
        assert (ours == np.asarray(solarize_add(Image.fromarray(x), int(amount), thresh=threshold))).all()


# As they are drawn -------------------------------------------------------------------------------------------------


def test_bits_are_whole_numbers_between_both_ends() -> None:
    sizes = [(2, 2)] * 500
    kept = {
        bits: set(draw(ops.Posterize(bits), sizes).params["table"][:, 255].tolist())
        for bits in ((4, 6), Choice((4.0, 6.0)), Normal(5.5, 0.3, (4.0, 6.9)))
    }
    whole = {4: 0b11110000, 5: 0b11111000, 6: 0b11111100}
    assert list(kept.values()) == [set(whole.values()), {whole[4], whole[6]}, set(whole.values())]


@given(st.floats(0.0, 3.0), st.floats(0.0, 3.0))
@settings(max_examples=30, deadline=None)
def test_factors_stay_within_their_range(a: float, b: float) -> None:
    low, high = sorted((a, b))
    f = draw(ops.Brightness((low, high)), [(1, 1)] * 50).params["matrix"][:, 0, 0]
    assert (f >= low).all() and (f <= high * (1 + 1e-12)).all()


N = 2000


def steps_of(policy: Policy) -> list[list[tuple[str, dict[str, Any]]]]:
    """What N samples go through: operators by name, with their parameters, in order."""
    through: list[list[tuple[str, dict[str, Any]]]] = [[] for _ in range(N)]
    for drawn in policy.draw(KEY, np.arange(N), np.full((N, 2), 8)):
        for place, row in enumerate(drawn.rows.tolist()):
            params = {name: value[place] for name, value in drawn.params.items()}
            through[row].append((type(drawn.op).__name__, params))
    return through


def factor_of(name: str, params: dict[str, Any]) -> float:
    if name == "Hue":
        return float(params["hue"])
    if name == "Saturation":  # f + (1 − f)·0.2989
        return float((params["matrix"][0, 0] - 0.2989) / (1 - 0.2989))
    return float(params["matrix"][0, 0])


def test_jitter_is_torchvisions() -> None:
    """The same factors, and every order of the four as likely."""
    torch.manual_seed(0)
    theirs = v2.ColorJitter(0.4, 0.3, (0.5, 1.1), 0.2)
    made = [theirs.make_params([]) for _ in range(N)]
    jitter = ops.ColorJitter(0.4, 0.3, (0.5, 1.1), 0.2)
    through = steps_of(Policy([jitter]))
    assert all(len(steps) == 4 for steps in through)
    for name in ("brightness", "contrast", "saturation", "hue"):
        kind = name.capitalize()
        ours = np.array([factor_of(kind, dict(steps)[kind]) for steps in through])
        assert ks(ours, np.array([m[f"{name}_factor"] for m in made])) < 1.95, name
    _, counts = np.unique([" ".join(name for name, _ in steps) for steps in through], return_counts=True)
    assert len(counts) == 24 and counts.min() > N / 24 / 2
    assert ops.ColorJitter().nodes() == ()
    assert len(steps_of(Policy([ops.ColorJitter(hue=0.1), ops.Invert()]))[0]) == 2
    assert ops.ColorJitter(brightness=1.5).brightness == (0.0, 2.5), "factors end at 0, as torchvision's"


def test_photometric_distort_is_torchvisions() -> None:
    """Each part as often, with the same factors, contrast as often before as after."""
    torch.manual_seed(0)
    made = [v2.RandomPhotometricDistort().make_params([torch.empty(3, 2, 2)]) for _ in range(N)]
    through = steps_of(Policy([ops.PhotometricDistort()]))
    for name in ("brightness", "contrast", "saturation", "hue"):
        kind = name.capitalize()
        ours = np.array([factor_of(kind, dict(steps)[kind]) for steps in through if kind in dict(steps)])
        theirs = np.array([m[f"{name}_factor"] for m in made if m[f"{name}_factor"] is not None])
        assert abs(len(ours) - N / 2) < 4 * np.sqrt(N / 4)
        assert ks(ours, theirs) < 1.95, name
    orders = [[name for name, _ in steps] for steps in through]
    both = [o.index("Contrast") < o.index("Hue") for o in orders if "Contrast" in o and "Hue" in o]
    assert 0.4 < np.mean(both) < 0.6
    assert all(o.count("Contrast") <= 1 and (o[:1] == ["Brightness"] or "Brightness" not in o) for o in orders)
    assert abs(sum(o[-1:] == ["ChannelShuffle"] for o in orders) - N / 2) < 4 * np.sqrt(N / 4)
