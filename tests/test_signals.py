"""Chains of passes over signals: native code on every instruction set against the specification in numpy, and the CUDA
kernel compiled for the host against native code, to the bit; the specification against numpy and scipy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from signal_passes import DTYPES, Chains, Maker

from dalipipe import native
from dalipipe.ops import filtering
from dalipipe.ops import signals as spec
from dalipipe.records import Signals

STRUCTS = {
    "SignalPass": native.SIGNAL_PASS,
    "CurveSegment": native.CURVE_SEGMENT,
    "Curve": native.CURVE,
    "ChannelGain": native.CHANNEL_GAIN,
    "Biquad": native.BIQUAD,
    "SignalWindow": native.SIGNAL_WINDOW,
    "SignalOut": native.SIGNAL_OUT,
}
KEY = np.array([1, 2, 3, 4, 5], np.uint32)


def bits(x: Any) -> np.ndarray:
    """What is compared: also a NaN's bits."""
    if isinstance(x, torch.Tensor):
        x = x.view({4: torch.int32, 2: torch.int16}[x.element_size()]).numpy()
    return np.array(x, order="C").view(f"u{x.itemsize}")


def same(got: list[Any], expected: list[Any]) -> bool:
    return all(np.array_equal(bits(a), bits(b)) for a, b in zip(got, expected, strict=True))


@pytest.fixture(params=["scalar", "avx2", "avx512"])
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        native.cpu_target(request.param)
    except ValueError:
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    native.cpu_target()


@pytest.fixture(scope="module")
def sosfilt() -> Callable[..., np.ndarray]:
    return pytest.importorskip("scipy.signal").sosfilt


def one(x: np.ndarray, *passes: dict[str, Any], chains: Chains | None = None, **how: Any) -> np.ndarray:
    """One sample [T, C] through passes, natively, after a look that the specification says the same."""
    chains = chains or Chains(x.shape[1])
    chains.add(x, *passes)
    got = chains.run(**how)
    assert same(got, chains.expected())
    return got[0].numpy().copy()


def noise(frames: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, channels)).astype(np.float32)


# Any chains --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRUCTS)
def test_structs_are_laid_out_alike(name: str) -> None:
    dtype, layout = STRUCTS[name], native.struct_layouts()[name]
    assert layout.pop("") == dtype.itemsize
    assert layout == {field: dtype.fields[field][1] for field in dtype.names}  # type: ignore[index]


@pytest.mark.parametrize("channels", [1, 2, 12, 64])
def test_chains_equal_their_specification(target: str, channels: int) -> None:
    for seed in range(8):
        chains = Maker(seed, channels=channels, longest=1000 if seed < 2 else 200).make(6)
        got = chains.run(planar=seed % 2 == 0, room=seed % 3, threads=1 + seed % 3)
        assert same(got, chains.expected()), seed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("planar", [True, False])
def test_what_is_written_is_cast_once(target: str, dtype: torch.dtype, planar: bool) -> None:
    chains = Maker(7, channels=3, longest=300).make(8)
    for got, expected in zip(chains.run(dtype=dtype, planar=planar, room=5), chains.expected(), strict=True):
        torch.testing.assert_close(got, torch.from_numpy(expected).to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("channels", [1, 2, 12, 64])
def test_the_cuda_kernel_equals_the_cpu(signals_on_cpu: Any, channels: int) -> None:
    for seed in range(15):
        chains = Maker(seed, channels=channels, longest=200).make(7)
        how = {"planar": seed % 2 == 0, "room": seed % 3, "dtype": DTYPES[seed % 3]}
        assert same(chains.run(signals_on_cpu.signals, **how), chains.run(**how)), seed
        assert signals_on_cpu.launches() == 1


@pytest.mark.cuda
@pytest.mark.parametrize("channels", [1, 2, 12, 64])
def test_a_gpu_equals_the_cpu(channels: int) -> None:
    for seed in range(15):
        chains = Maker(seed, channels=channels, longest=1000).make(50)
        how = {"planar": seed % 2 == 0, "room": seed % 3, "dtype": DTYPES[seed % 3]}
        assert same(chains.run(device=torch.device("cuda"), **how), chains.run(**how)), seed


def test_an_empty_batch_is_fine(signals_on_cpu: Any) -> None:
    assert Chains(2).run() == Chains(2).run(signals_on_cpu.signals) == []


def test_many_samples_by_many_threads() -> None:
    chains = Maker(3, channels=2, longest=50).make(100)
    assert same(chains.run(threads=4), chains.run())


def test_started_and_waited_for() -> None:
    x = noise(100)
    got = np.zeros((100, 1), np.float32)
    chains = Chains(1)
    chains.add(x, {"gain": 2.0})
    given = chains.arrays()
    outs = np.array([(got.ctypes.data, 1, 1, 100)], native.SIGNAL_OUT)
    passes, starts = given.pop("passes"), given.pop("starts")
    running = native.start_signals(passes, starts, outs, channels=1, dtype=torch.float32, **given, keep=(x, got))
    running.wait()
    np.testing.assert_array_equal(got, 2 * x)


# Time --------------------------------------------------------------------------------------------------------------


def test_a_crop_a_roll_and_a_flip() -> None:
    x = noise(10, 3)
    np.testing.assert_array_equal(one(x, {"start": 4, "out_frames": 3}), x[4:7])
    np.testing.assert_array_equal(one(x, {"start": 3, "edge": spec.WRAP}), np.roll(x, -3, axis=0))
    np.testing.assert_array_equal(one(x, {"start": 9, "direction": -1}), x[::-1])
    padded = np.pad(x, ((4, 7), (0, 0)))
    np.testing.assert_array_equal(one(x, {"start": -4, "out_frames": 21}), padded)


@pytest.mark.parametrize(("edge", "mode"), [(spec.HOLD, "edge"), (spec.WRAP, "wrap"), (spec.MIRROR, "reflect")])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_edges_are_those_of_numpy(edge: int, mode: Any, frames: int) -> None:
    x = noise(frames, 2)
    got = one(x, {"start": -25, "out_frames": frames + 50, "edge": edge})
    np.testing.assert_array_equal(got, np.pad(x, ((25, 25), (0, 0)), mode=mode))


@pytest.mark.parametrize("frames", [1, 2, 100, 1000])
def test_a_line_is_numpys_interpolation(frames: int) -> None:
    x = noise(frames)
    got = one(x, {"map": spec.LINE, "line_start": -3.0, "line_rate": 0.37, "edge": spec.HOLD, "interpolation": 1})
    np.testing.assert_allclose(
        got[:, 0], np.interp(-3.0 + 0.37 * np.arange(frames), np.arange(frames), x[:, 0]), atol=1e-5
    )


def test_a_curve_is_numpys_interpolation_at_a_spline() -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    x = noise(427, 3)
    knots, values = np.linspace(0, 426, 6), np.sort(np.random.default_rng(1).uniform(0, 426, 6))
    spline = interpolate.CubicSpline(knots, values)
    chains = Chains(3)
    curve = chains.curve(*((float(k), tuple(c[::-1])) for k, c in zip(knots, spline.c.T, strict=False)))
    got = one(x, {"map": spec.CURVE, "position": curve, "edge": spec.HOLD, "interpolation": 1}, chains=chains)
    for c in range(3):
        np.testing.assert_allclose(got[:, c], np.interp(spline(np.arange(427)), np.arange(427), x[:, c]), atol=1e-4)


def test_the_nearest_frame_is_the_next_where_two_are_as_near() -> None:
    x = np.arange(5, dtype=np.float32)[:, None]
    got = one(x, {"map": spec.LINE, "line_start": 0.5, "line_rate": 0.5, "interpolation": spec.NEAREST})
    assert got[:, 0].tolist() == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("edge", range(4))
def test_positions_may_be_anything(target: str, edge: int) -> None:
    chains = Chains(1)
    curve = chains.curve((0.0, (0.0, 1e308, 1e308, -1e308)))  # infinite, then not a number
    x = noise(50)
    for interpolation in range(2):
        chains.add(x, {"map": spec.CURVE, "position": curve, "edge": edge, "interpolation": interpolation})
    got = chains.run()
    assert same(got, chains.expected())
    assert all(torch.isfinite(y).all() for y in got)


# Amplitude ---------------------------------------------------------------------------------------------------------


def test_channels_are_mixed_up() -> None:
    x = noise(20, 3)
    chains = Chains(3)
    first = chains.put("channel_gains", [(2, 1.0), (0, -1.0), (0, 0.5)])
    got = one(x, {"channel_gains": first, "gain": 9.0}, chains=chains)
    np.testing.assert_array_equal(got, x[:, [2, 0, 0]] * np.float32([1, -1, 0.5]))


@pytest.mark.parametrize("channels", [1, 3, 40])
def test_biquads_are_scipys(sosfilt: Callable[..., np.ndarray], channels: int) -> None:
    from scipy import signal

    x = noise(800, channels)
    chains = Chains(channels)
    sections = signal.butter(7, [300, 3400], "bandpass", fs=16000, output="sos")
    first = chains.put("biquads", [(tuple(row[:3]), tuple(row[4:])) for row in sections])
    got = one(x, {"first_biquad": first, "biquads": len(sections)}, chains=chains)
    np.testing.assert_allclose(got, sosfilt(sections, x.astype(np.float64), axis=0), atol=1e-6)


def test_curves_multiply_then_add() -> None:
    x = noise(300, 2)
    chains = Chains(2)
    rising, flat = chains.curve((0.0, (0.0, 1 / 299, 0, 0))), chains.curve((0.0, (2.0, 0, 0, 0)))
    added = chains.curve((0.0, (1.0, 0, 0, 0)), (100.0, (-1.0, 0, 0, 0)))
    got = one(
        x,
        {"gain_curve": rising, "gain_curves": 2, "added_curve": added, "added_curves": 1},
        chains=chains,
    )
    assert flat == rising + 1
    ramp = np.stack([np.linspace(0, 1, 300), np.full(300, 2.0)], axis=1)
    step = np.where(np.arange(300) < 100, 1.0, -1.0)[:, None]
    np.testing.assert_allclose(got, x * ramp + step, atol=1e-6)


# Noise -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_the_signal_to_noise_ratio_is_exact(channels: int, snr_db: float) -> None:
    x = noise(5000, channels) * np.float32(0.1)
    recorded = noise(777, seed=1).ravel() * np.float32(3)
    level = 10 ** (-snr_db / 20)
    chains = Chains(channels)
    chains.recordings.append(recorded)
    chains.add(x, {"noise": spec.WHITE, "noise_level": spec.RELATIVE, "level": level, "key": KEY})
    of_file = {"noise_data": recorded.ctypes.data, "noise_frames": 777, "noise_start": 700}
    chains.add(x, {"noise": spec.RECORDED, "noise_level": spec.RELATIVE, "level": level, **of_file})
    got = chains.run()
    assert same(got, chains.expected())
    for y in got:
        added = y.numpy().astype(np.float64) - x
        ratio = np.sqrt(np.mean(x.astype(np.float64) ** 2) / np.mean(added**2))
        assert 20 * math.log10(ratio) == pytest.approx(snr_db, abs=1e-4)


def test_noise_is_keyed_by_element_and_not_by_layout() -> None:
    x = np.zeros((33, 5), np.float32)
    got = one(x, {"noise": spec.WHITE, "level": 1.0, "key": KEY}, planar=False)
    np.testing.assert_array_equal(got, filtering.normals(KEY, (33, 5)))


@pytest.mark.parametrize("silent", ["signal", "noise"])
def test_silence_stays_and_takes_no_noise_by_ratio(silent: str) -> None:
    x = noise(100, 2) * np.float32(silent == "noise")
    chains = Chains(2)
    recorded = noise(10).ravel() * np.float32(silent == "signal")
    chains.recordings.append(recorded)
    of_file = {"noise": spec.RECORDED, "noise_data": recorded.ctypes.data, "noise_frames": 10}
    np.testing.assert_array_equal(one(x, {**of_file, "noise_level": 1, "level": 1.0}, chains=chains), x)


# Windows -----------------------------------------------------------------------------------------------------------


def window(*row: Any, x: np.ndarray) -> np.ndarray:
    chains = Chains(x.shape[1])
    return one(x, {"first_window": chains.put("windows", [row]), "windows": 1}, chains=chains)


def test_windows() -> None:
    x = np.arange(1, 11, dtype=np.float32)[:, None].repeat(2, axis=1)
    assert window(2, 4, 0, 0, 0, 1, 0, -1.0, x=x).T.tolist() == [[1, 2, -1, -1, *range(5, 11)], [*range(1, 11)]]
    assert window(2, 4, 0, 0, 1, 2, 1, 0.0, x=x)[:, 1].tolist() == [1, 2, 2, 2, *range(5, 11)]
    assert window(0, 4, 0, 0, 1, 2, 1, 0.0, x=x)[:, 1].tolist() == [5, 5, 5, 5, *range(5, 11)]
    assert window(0, 10, 0, 0, 0, 2, 1, 7.0, x=x)[:, 1].tolist() == [7.0] * 10  # nothing stands about it
    assert window(5, 5, 0, 0, 0, 2, 0, 7.0, x=x).tolist() == x.tolist()


def test_fades_fall_to_a_window_and_rise_from_it() -> None:
    x = np.ones((12, 1), np.float32)
    got = window(5, 7, 3, 1, 0, 1, 0, 0.0, x=x)
    assert got.ravel().tolist() == [1, 1, 0.75, 0.5, 0.25, 0, 0, 0.5, 1, 1, 1, 1]
    got = window(-1, 1, 0, 3, 0, 1, 0, 0.0, x=x)  # reaches out of the signal
    assert got.ravel().tolist() == [0, 0.25, 0.5, 0.75, *[1] * 8]


# What is refused ---------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"out_frames": 0}, "out_frames must be 1 to"),
    ({"map": 3}, "map must be 0 to 2, got 3"),
    ({"edge": -1}, "edge must be 0 to 3"),
    ({"interpolation": 2}, "interpolation must be 0 to 1"),
    ({"direction": 0}, "direction must be 1 or -1, got 0"),
    ({"start": 1 << 41}, "start must be within"),
    ({"map": 1, "line_rate": math.inf}, "must be finite"),
    ({"map": 2, "position": 1}, "position 1 to 2 are not among 1"),
    ({"map": 2, "position": -1}, "position -1 to 0 are not among 1"),
    ({"channel_gains": 0}, "channel_gains 0 to 2 are not among 0"),
    ({"gain": math.nan}, "gain must be finite"),
    ({"biquads": 17}, "biquads must be 0 to 16"),
    ({"biquads": 1}, "biquads 0 to 1 are not among 0"),
    ({"biquads": -1}, "biquads"),
    ({"gain_curves": 3}, "gain_curves must be 0, 1 or 2"),
    ({"added_curve": 1, "added_curves": 1}, "added_curves 1 to 2 are not among 1"),
    ({"noise": 3}, "noise must be 0 to 2"),
    ({"noise": 1, "noise_level": 2}, "noise_level must be 0 to 1"),
    ({"noise": 1, "level": math.inf}, "level must be finite"),
    ({"noise": 2, "noise_frames": 1}, "noise_data is null"),
    ({"noise": 2, "noise_data": 64}, "noise_frames must be at least 1"),
    ({"noise": 2, "noise_data": 64, "noise_frames": 1, "noise_start": -1}, "noise_start must be"),
    ({"first_window": 1, "windows": 1}, "windows 1 to 2 are not among 1"),
    ({"in_frames": 9}, "in_frames must be 10, what the pass before it leaves, got 9"),
]


@pytest.mark.parametrize(("fields", "said"), BAD)
def test_a_pass_that_cannot_be_done_is_named(fields: dict[str, Any], said: str, signals_on_cpu: Any) -> None:
    chains = Chains(2)
    chains.curve((0.0, (0.0, 1.0, 0.0, 0.0)))
    chains.put("windows", [(0, 1, 0, 0, 0, 1, 0, 0.0)])
    x = noise(10, 2)
    chains.add(x, {})
    chains.add(x, {}, fields)
    for signals in (native.signals, signals_on_cpu.signals):
        with pytest.raises(ValueError, match=f"signals: sample 1, pass 1: .*{said}"):
            chains.run(signals)


TABLES: list[tuple[str, tuple[Any, ...], str]] = [
    ("segments", (math.nan, (0, 0, 0, 0)), "segment 0 must be finite"),
    ("curves", (0, 1), "curve 0: segments 0 to 1 must be one or more of 0"),
    ("channel_gains", (2, 1.0), "channel gain 0: from must be 0 to 1, got 2"),
    ("biquads", ((1, 0, math.inf), (0, 0)), "biquad 0 must be finite"),
    ("windows", (2, 1, 0, 0, 0, 1, 0, 0.0), "must not end before it begins"),
    ("windows", (0, 1, -1, 0, 0, 1, 0, 0.0), "fades must not be negative"),
    ("windows", (0, 1, 0, 0, 0, 3, 0, 0.0), "channels 0 to 3 are not among 2"),
    ("windows", (0, 1, 0, 0, 0, 1, 2, 0.0), "fill must be 0 or 1"),
]


@pytest.mark.parametrize(("name", "row", "said"), TABLES)
def test_a_table_that_cannot_be_is_refused(name: str, row: tuple[Any, ...], said: str) -> None:
    chains = Chains(2)
    chains.put(name, [row])
    chains.add(noise(10, 2), {})
    with pytest.raises(ValueError, match=said):
        chains.run()


def test_segments_must_rise() -> None:
    chains = Chains(1)
    chains.curve((5.0, (0, 0, 0, 0)), (4.0, (0, 0, 0, 0)))
    with pytest.raises(ValueError, match="curve 0: its segments must rise"):
        chains.run()


def test_arguments_are_checked_by_name() -> None:
    x, out = noise(10), np.zeros((10, 1), np.float32)
    chains = Chains(1)
    chains.add(x, {})
    given = chains.arrays()
    passes, starts = given["passes"], given["starts"]
    outs = np.array([(out.ctypes.data, 1, 1, 10)], native.SIGNAL_OUT)
    how: dict[str, Any] = {"channels": 1, "dtype": torch.float32}
    with pytest.raises(ValueError, match="float16, bfloat16, float32, got torch"):
        native.signals(passes, starts, outs, channels=1, dtype=torch.uint8)
    with pytest.raises(ValueError, match="outs must be contiguous SIGNAL_OUT"):
        native.signals(passes, starts, np.zeros(2, native.SIGNAL_OUT), **how)
    with pytest.raises(ValueError, match="windows must be contiguous SIGNAL_WINDOW"):
        native.signals(passes, starts, outs, windows=np.zeros(2, np.int32), **how)
    with pytest.raises(ValueError, match="starts must go from 0 to 1"):
        native.signals(passes, np.array([0, 2], np.int32), outs, **how)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        native.signals(passes, starts, outs, threads=0, **how)
    with pytest.raises(ValueError, match="sample 0: its out must have room for 10 frames, got 9"):
        native.signals(passes, starts, np.array([(out.ctypes.data, 1, 1, 9)], native.SIGNAL_OUT), **how)
    with pytest.raises(ValueError, match="channels must be 1 to"):
        native.signals(passes, starts, outs, channels=0, dtype=torch.float32)


# Finite ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_signals_that_are_not_finite_are_found(target: str, bad: float) -> None:
    made = Maker(1, channels=3, longest=200)
    arrays = [made.signal() for _ in range(30)]
    expected = np.ones(30, np.uint8)
    for i in range(0, 30, 3):
        place = made.rng.integers(len(arrays[i])), made.rng.integers(3)
        arrays[i][place] = bad
        expected[i] = 0
    s = Signals.from_arrays(arrays)
    got = native.finite_signals(s.address, s.frames, s.frame_step, s.channel_step, channels=3, threads=2)
    np.testing.assert_array_equal(got, expected)
