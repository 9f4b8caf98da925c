"""What every operator on signals promises, over the table of `signal_cases`: native passes are their specification, and
what is drawn depends on nothing but (seed, epoch, sample, operator).
"""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import signal as scipy_signal
from scipy.interpolate import CubicSpline, PchipInterpolator
from signal_cases import CASES, FRAMES, IDS, Case, made

import dalipipe
from dalipipe import rng
from dalipipe.engines.base import Output
from dalipipe.engines.signal import SignalEngine
from dalipipe.ops import signal as ops
from dalipipe.ops.signal import curves
from dalipipe.plan import lower
from dalipipe.records import Signals
from dalipipe.schema import Field, Schema

RATE_HZ = 8000.0
CPU = torch.device("cpu")


def schema(channels: int, kind: Any = "series", rate_hz: float | None = RATE_HZ) -> Schema:
    return Schema((Field("x", kind, channels=channels, rate_hz=rate_hz, length="length"), Field("length", "column")))


def run(
    nodes: list[Any],
    arrays: list[np.ndarray],
    *,
    indices: np.ndarray | None = None,
    kind: Any = "series",
    device: torch.device = CPU,
    threads: int = 1,
    seed: int = 3,
    rate_hz: float | None = RATE_HZ,
    dtype: torch.dtype = torch.float32,
) -> list[np.ndarray]:
    """What becomes of the arrays, [T, C] each, without padding (of spectrograms [T, C · bins])."""
    plan = lower(dalipipe.Policy(nodes), schema(arrays[0].shape[1], kind, rate_hz))
    engine = SignalEngine(plan, Output(device, dtype, torch.contiguous_format), threads=threads)
    signals = Signals.from_arrays(arrays)
    indices = np.arange(len(arrays)) if indices is None else indices
    draws = plan.draw(rng.make_key(seed, 0), indices, engine.size(signals))
    batch, frames = engine.start(signals, draws)()
    batch = batch.float().cpu()
    if batch.ndim == 4:  # [N, C, bins, T]
        batch = batch.flatten(1, 2).transpose(1, 2)
    elif kind == "audio":
        batch = batch.transpose(1, 2)
    found = [batch[row, :count].numpy().copy() for row, count in enumerate(frames.tolist())]
    for row, count in enumerate(frames.tolist()):
        assert not batch[row, count:].any(), "padding is zeros"
    engine.close()
    return found


def nodes_of(case: Case) -> list[Any]:
    return [ops.MelSpectrogram(8, 64), case.op] if case.after_mel else [case.op]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_native_passes_are_the_specification(case: Case, channels: int) -> None:
    if case.spectral or case.after_mel:
        pytest.skip("has no reference of single samples")
    arrays = made(FRAMES, channels)
    plan = lower(dalipipe.Policy([case.op]), schema(channels))
    size = np.array([[len(a), channels, int(RATE_HZ), 1] for a in arrays])
    draws = plan.draw(rng.make_key(3, 0), np.arange(len(arrays)), size)
    for row, got in enumerate(run([case.op], arrays)):
        expected = draws.drawn[0].reference(row, arrays[row])
        assert np.array_equal(got, expected), (row, np.abs(got - expected).max())


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_p_decides_whether_it_is_applied(case: Case) -> None:
    arrays = made(FRAMES, 2)
    before = run([ops.MelSpectrogram(8, 64)], arrays) if case.after_mel else arrays
    after = run(nodes_of(case), arrays)
    if not case.idle:
        assert all(a.shape != b.shape or not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert any(a.shape != b.shape or not np.array_equal(a, b) for a, b in zip(before, after, strict=True)) or (
        case.idle and case.name == "TimeWarp"
    )
    if isinstance(case.op, ops.FeatureOp):
        return
    never = replace(case.op, p=0.0)
    nodes = [ops.MelSpectrogram(8, 64), never] if case.after_mel else [never]
    for a, b in zip(before, run(nodes, arrays), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_what_is_drawn_depends_on_the_sample_alone(case: Case) -> None:
    arrays = made(FRAMES, 2)
    together = run(nodes_of(case), arrays, threads=2)
    order = np.array([4, 0, 3])
    others = run(nodes_of(case), [arrays[i] for i in order], indices=order)
    for i, other in zip(order.tolist(), others, strict=True):
        assert np.array_equal(together[i], other)
    another = run(nodes_of(case), arrays, seed=4)
    fixed = isinstance(case.op, ops.FeatureOp | ops.Reverse | ops.TimeFlip | ops.TimeResize | ops.PolarityInversion)
    assert fixed or case.name == "AdjustDuration" or not all(map(np.array_equal, together, another)) or case.idle


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_batch_without_samples_is_none(case: Case) -> None:
    plan = lower(dalipipe.Policy(nodes_of(case)), schema(1))
    draws = plan.draw(rng.make_key(3, 0), np.zeros(0, np.int64), np.zeros((0, 4), np.int64))
    assert draws.params.out_size.shape == (0, 4) and len(draws.params.last.passes) == 0


@pytest.mark.cuda
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_device_gives_what_the_host_gives(case: Case, channels: int) -> None:
    arrays = made(FRAMES, channels)
    there = run(nodes_of(case), arrays, device=torch.device("cuda", torch.cuda.current_device()))
    for host, device in zip(run(nodes_of(case), arrays), there, strict=True):
        if case.spectral or case.after_mel:  # FFTs round in ways of their own; logarithms of silence show it
            assert host.shape == device.shape and np.abs(host - device).mean() <= 1e-2 * (np.abs(host).mean() + 1e-6)
        else:
            assert np.array_equal(host, device)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_json_pickle_and_repr(case: Case) -> None:
    policy = dalipipe.Policy([case.op])
    assert dalipipe.Policy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert eval(repr(case.op), {**vars(ops), "Choice": dalipipe.Choice}) == case.op


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_silence_stays_finite(case: Case) -> None:
    for got in run(nodes_of(case), [np.zeros((count, 2), np.float32) for count in FRAMES]):
        assert np.isfinite(got).all()


@pytest.mark.parametrize("case", [c for c in CASES if c.rate], ids=[c.name for c in CASES if c.rate])
def test_series_without_a_rate_are_refused(case: Case) -> None:
    with pytest.raises(ValueError, match=case.name):
        run(nodes_of(case), made((40, 50), 1), rate_hz=None)


@pytest.mark.parametrize("rate_hz", [8000.0, 11025.0, 22050.0, 48000.0, 96000.0])
def test_any_rate(rate_hz: float) -> None:
    arrays = made((901, 1000), 1)
    policy = [ops.TimeShift(p=1.0), ops.LowPassFilter(p=1.0), ops.PitchShift(p=1.0), ops.TimeMask(p=1.0)]
    for a, b in zip(arrays, run([*policy, ops.TimeStretch(p=1.0)], arrays, kind="audio", rate_hz=rate_hz), strict=True):
        assert a.shape == b.shape and np.isfinite(b).all()
    with pytest.raises(ValueError, match="MelSpectrogram"):
        lower(dalipipe.Policy([ops.MelSpectrogram()]), schema(1, "audio", None))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["audio", "series"])
def test_other_dtypes_and_layouts(dtype: torch.dtype, kind: str) -> None:
    arrays = made(FRAMES, 3)
    nodes = [ops.TimeWarp(), ops.Jitter(0.1), ops.Gain(p=1.0)]
    for a, b in zip(run(nodes, arrays), run(nodes, arrays, kind=kind, dtype=dtype), strict=True):
        assert np.array_equal(torch.from_numpy(a).to(dtype).float().numpy(), b)


@pytest.mark.parametrize("seed", range(8))
def test_chains_are_one_operator_after_the_other(seed: int) -> None:
    random = np.random.default_rng(seed)
    able = [case.op for case in CASES if not case.spectral and not case.after_mel]
    nodes = [able[i] for i in random.integers(0, len(able), 6)]
    arrays = made([int(n) for n in random.integers(1, 400, 9)], 2, seed)
    plan = lower(dalipipe.Policy(nodes), schema(2))
    size = np.array([[len(a), 2, int(RATE_HZ), 1] for a in arrays])
    draws = plan.draw(rng.make_key(3, 0), np.arange(len(arrays)), size)
    for row, got in enumerate(run(nodes, arrays)):
        expected = arrays[row]
        for drawn in draws.drawn:
            expected = drawn.reference(row, expected)
        assert np.array_equal(got, expected)
    assert "pass" in plan.explain(20, (300, 2, 8000, 1))


def test_windows_go_by_each_sounds_own_rate() -> None:
    arrays = made((900, 800, 1000, 700), 1)
    nodes = [ops.Resample((2000.0, 16000.0)), ops.PitchShift((2.0, 3.0), p=1.0), ops.TimeStretch(p=1.0)]
    together = run(nodes, arrays, kind="audio")
    for row, array in enumerate(arrays):
        assert np.array_equal(together[row], run(nodes, [array], indices=np.array([row]), kind="audio")[0])


def test_bands_of_features_go_by_the_rate_that_sounds_then_have() -> None:
    array = made((2000,), 1)[0]
    mel = ops.MelSpectrogram(16, 128)
    resampled = run([ops.Resample(4000)], [array], kind="audio")[0]
    expected = run([mel], [resampled], kind="audio", rate_hz=4000.0)[0]
    assert np.array_equal(run([ops.Resample(4000), mel], [array], kind="audio")[0], expected)


# Parity ---------------------------------------------------------------------------------------------------------------


def test_curves_are_scipys() -> None:
    random = np.random.default_rng(0)
    for knots in range(2, 9):
        x, t = np.linspace(0, 426, knots), np.arange(427.0)
        y = random.normal(size=(20, knots)).cumsum(axis=1)
        y[::3] = np.sort(y[::3], axis=1)
        pchip = curves.evaluate(curves.pchip(np.broadcast_to(x, y.shape), y), t)
        spline = curves.evaluate(curves.cubic_spline(np.broadcast_to(x, y.shape), y), t)
        assert np.abs(pchip - PchipInterpolator(x, y, axis=1)(t)).max() < 1e-9
        assert np.abs(spline - CubicSpline(x, y, axis=1)(t)).max() < 1e-9


def test_time_warp_is_scipys_pchip() -> None:
    array = made((427,), 2)[0]
    plan = lower(dalipipe.Policy([ops.TimeWarp()]), schema(2))
    drawn = plan.draw(rng.make_key(3, 0), np.arange(1), np.array([[427, 2, 8000, 1]])).drawn[0]
    segments = drawn.params["segments"][0]
    knots = np.append(segments[:, 0], 426.0)
    d = 426.0 - segments[-1, 0]
    end = ((segments[-1, 4] * d + segments[-1, 3]) * d + segments[-1, 2]) * d + segments[-1, 1]
    position = PchipInterpolator(knots, np.append(segments[:, 1], end))(np.arange(427.0))
    speed = np.diff(np.append(segments[:, 1], end))
    assert speed.max() / speed.min() == pytest.approx(3.0)
    assert position[0] == 0 and position[-1] == pytest.approx(426)
    got = run([ops.TimeWarp()], [array])[0]
    for channel in range(2):
        assert np.abs(got[:, channel] - np.interp(position, np.arange(427), array[:, channel])).max() < 1e-5


@pytest.mark.parametrize("order", [2, 4, 8])
def test_filters_are_scipys(order: int) -> None:
    array = made((3000,), 1)[0]
    for op, kind in (
        (ops.LowPassFilter((700, 700), 6 * order, p=1.0), "low"),
        (ops.HighPassFilter((700, 700), 6 * order, p=1.0), "high"),
    ):
        expected = scipy_signal.sosfilt(scipy_signal.butter(order, 700, kind, fs=8000, output="sos"), array[:, 0])
        assert np.abs(run([op], [array])[0][:, 0] - expected).max() < 1e-5
    band = run([ops.BandPassFilter((1000, 1000), 1.0, 6 * order, p=1.0)], [array])[0][:, 0]
    both = [scipy_signal.butter(order, f, kind, fs=8000, output="sos") for f, kind in ((500, "high"), (1500, "low"))]
    assert np.abs(band - scipy_signal.sosfilt(np.concatenate(both), array[:, 0])).max() < 1e-5


@pytest.mark.parametrize("op", [ops.AddGaussianSNR((7.0, 31.0), p=1.0), ops.AddColorNoise((7.0, 31.0), p=1.0)])
def test_signal_to_noise_ratios_are_the_drawn_ones(op: Any) -> None:
    arrays = made((8000, 137, 2000, 16), 2)
    plan = lower(dalipipe.Policy([op]), schema(2))
    size = np.array([[len(a), 2, 8000, 1] for a in arrays])
    level = plan.draw(rng.make_key(3, 0), np.arange(4), size).drawn[0].params["level"]
    for array, got, wanted in zip(arrays, run([op], arrays), -20 * np.log10(level), strict=True):
        noise = got.astype(np.float64) - array
        found = 20 * np.log10(np.sqrt(np.mean(array.astype(np.float64) ** 2)) / np.sqrt(np.mean(noise**2)))
        assert found == pytest.approx(wanted, abs=0.1)


def test_coloured_noise_falls_as_asked() -> None:
    tone = np.ones((1 << 15, 1), np.float32)
    for decay in (-3.0, 0.0, 6.0):
        noise = run([ops.AddColorNoise((0, 0), (decay, decay), p=1.0)], [tone])[0][:, 0] - 1.0
        f, power = scipy_signal.welch(noise, fs=8000, nperseg=1024)
        octaves = np.log2(f[8:400])
        slope = np.polyfit(octaves, 10 * np.log10(power[8:400]), 1)[0]
        assert -slope == pytest.approx(decay, abs=0.4)


# What goes wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ops.TimeShift((0.5, 2.0)), r"TimeShift: shift must lie in \[-1, 1\]"),
        (lambda: ops.AdjustDuration(), "AdjustDuration: give frames or duration_s"),
        (lambda: ops.AdjustDuration(10, padding="zeros"), "padding must be one of 'zero'"),
        (lambda: ops.TimeStretch((0.0, 1.0)), r"TimeStretch: rate must lie in \[0.1, 10\]"),
        (lambda: ops.LowPassFilter(rolloff_db=13), "rolloff_db must be 12, 24"),
        (lambda: ops.AddBackgroundNoise("a.wav"), "sounds must be one or more paths"),
        (lambda: ops.MelSpectrogram(n_mels=0), r"MelSpectrogram: n_mels must be a whole number in \[1"),
        (lambda: ops.MelSpectrogram(mel_scale="bark"), "mel_scale must be one of"),
        (lambda: ops.MFCC(80, 64), "n_mfcc"),
        (lambda: lower(dalipipe.Policy([ops.Resample((4e3, 9e3)), ops.MFCC()]), schema(1)), "its bands need one rate"),
        (lambda: lower(dalipipe.Policy([ops.Resample(4e3, p=0.5), ops.MFCC()]), schema(1)), "its bands need one rate"),
        (lambda: ops.Dropout(fill="last"), "fill must be a number"),
        (lambda: ops.SpecAugment(0, 0, 27, 0), "nothing is left"),
        (lambda: ops.WindowWarp(scales=()), "scales must be one or more factors"),
        (lambda: ops.TimeWarp(mode="linear"), "mode must be one of"),
        (lambda: lower(dalipipe.Policy([ops.FrequencyMask()]), schema(1)), "put MelSpectrogram or MFCC before it"),
        (lambda: lower(dalipipe.Policy([ops.MelSpectrogram(), ops.PitchShift()]), schema(1)), "move it before"),
        (lambda: lower(dalipipe.Policy([ops.MelSpectrogram(p=0.5)]), schema(1)), "applies to every sample"),
        (lambda: lower(dalipipe.Policy([ops.MelSpectrogram(), ops.MFCC()]), schema(1)), "keep one of them"),
        (lambda: lower(dalipipe.Policy([dalipipe.ops.image.HorizontalFlip()]), schema(1)), "applies to image fields"),
        (
            lambda: Output(CPU, torch.uint8, torch.contiguous_format).check(lower(dalipipe.Policy([]), schema(1))),
            "uint8",
        ),
    ],
)
def test_errors_name_what_was_expected(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
