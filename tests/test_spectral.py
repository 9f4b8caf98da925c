"""Spectra: librosa's and torchaudio's definitions, written out in numpy; any batch as one by one; CUDA as the CPU."""

from __future__ import annotations

import ctypes
import io
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulation import compile_for_host
from hypothesis import given, settings
from hypothesis import strategies as st

from dalipipe import native, spectral
from dalipipe.records import Signals
from dalipipe.spectral import jobs

Function = Callable[..., Signals]
RATE_HZ = 8000


def sound(frames: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """float32 [frames, channels]: sweeps, clicks and noise."""
    random = np.random.default_rng(seed)
    t = np.arange(frames)[:, None] / RATE_HZ
    hz = random.uniform(100, 2000, channels)
    x = 0.3 * np.sin(2 * np.pi * hz * t * (1 + 0.5 * t)) + random.normal(0, 0.03, (frames, channels))
    x[:: max(frames // 7, 1)] += 0.5
    return x.astype(np.float32)


def tone(frames: int, hz: float) -> np.ndarray:
    return np.sin(2 * np.pi * hz / RATE_HZ * np.arange(frames)).astype(np.float32)[:, None]


def ragged(channels: int = 1) -> list[np.ndarray]:
    return [sound(n, channels, seed) for seed, n in enumerate((1, 2, 77, 511, 513, 3000, 4097, 1))]


def off(got: np.ndarray, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    return float(np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-9))


def level_db(x: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(x, dtype=np.float64)) + 1e-30))


# --- librosa and torchaudio, as they are defined


def hann(n: int) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)


def stft(x: np.ndarray, n_fft: int, hop: int, mode: str) -> np.ndarray:
    """complex [frames, bins] of x [T]; centred."""
    x = np.pad(x.astype(np.float64), n_fft // 2, mode=mode)
    frames = np.lib.stride_tricks.sliding_window_view(x, n_fft)[::hop]
    return np.fft.rfft(frames * hann(n_fft))


def stretched(x: np.ndarray, rate: float, n_fft: int, hop: int) -> np.ndarray:
    """librosa.effects.time_stretch of x [T]: its steps, one after the other, in float64 and with angles."""
    spectrum = stft(x, n_fft, hop, "constant")
    steps = np.arange(0, len(spectrum), rate)
    spectrum = np.pad(spectrum, ((0, 2), (0, 0)))
    advance = hop * np.arange(n_fft // 2 + 1) * 2 * np.pi / n_fft
    phase = np.angle(spectrum[0])
    made = []
    for step in steps:
        here, following = spectrum[int(step)], spectrum[int(step) + 1]
        alpha = step % 1.0
        made.append(((1 - alpha) * np.abs(here) + alpha * np.abs(following)) * np.exp(1j * phase))
        turn = np.angle(following) - np.angle(here) - advance
        phase = phase + advance + turn - 2 * np.pi * np.round(turn / (2 * np.pi))
    length = max(round(len(x) / rate), 1)
    frames = np.fft.irfft(np.array(made), n_fft) * hann(n_fft)
    out = np.zeros(max((len(frames) - 1) * hop + n_fft, length + n_fft))
    windows = np.zeros_like(out)
    for t, frame in enumerate(frames[: -(-(length + n_fft) // hop)]):
        out[t * hop : t * hop + n_fft] += frame
        windows[t * hop : t * hop + n_fft] += hann(n_fft) ** 2
    out[windows > 1e-38] /= windows[windows > 1e-38]
    return out[n_fft // 2 :][:length]


def hz_of(mel: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, 200 / 3 * mel, 1000 * 6.4 ** ((mel - 15) / 27))


def mel_filters(n_fft: int, n_mels: int, scale: str, norm: str | None, f_min: float = 0.0) -> np.ndarray:
    """[bins, n_mels], to half the rate; torchaudio.functional.melscale_fbanks."""
    grid = np.linspace(0, 60, 600001) if scale == "slaney" else np.linspace(0, 3000, 600001)
    ends = [np.interp(hz, hz_of(grid, scale), grid) for hz in (f_min, RATE_HZ / 2)]
    points = hz_of(np.linspace(*ends, n_mels + 2), scale)
    slopes = points[None] - np.linspace(0, RATE_HZ / 2, n_fft // 2 + 1)[:, None]
    width = np.diff(points)
    filters = np.maximum(0, np.minimum(-slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:]))
    return filters * (2 / (points[2:] - points[:-2]) if norm else 1)


# --- stretching


@pytest.mark.parametrize("n_fft", [512, 400])
@pytest.mark.parametrize("rate", [0.5, 0.813, 1.0, 1.25, 2.0, 3.3])
def test_stretch_is_librosas(n_fft: int, rate: float) -> None:
    arrays = [sound(n, 2, seed) for seed, n in enumerate((4000, 1234, 300))]
    for hop in (n_fft // 4, 100, 181):
        got = spectral.stretch(Signals.from_arrays(arrays), np.full(3, rate), n_fft=n_fft, hop=hop)
        for i, x in enumerate(arrays):
            for c in range(2):
                assert off(got[i][:, c], stretched(x[:, c], rate, n_fft, hop)) < 1e-4


def test_stretch_of_each_at_its_own_rate_and_hop() -> None:
    arrays = [sound(n, 1, n) for n in (2000, 900, 3100, 1777)]
    rate, hop = np.array([0.5, 1.9, 1.1, 0.77]), np.array([64, 100, 128, 33])
    got = spectral.stretch(Signals.from_arrays(arrays), rate, n_fft=256, hop=hop)
    for i, x in enumerate(arrays):
        assert off(got[i][:, 0], stretched(x[:, 0], rate[i], 256, int(hop[i]))) < 1e-4


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 700), st.floats(0.3, 4), st.integers(1, 80), st.sampled_from([16, 64, 70]))
def test_stretch_of_any_length_is_librosas(frames: int, rate: float, hop: int, n_fft: int) -> None:
    hop = min(hop, n_fft // 2)
    x = sound(frames, 1, frames)
    got = spectral.stretch(Signals.from_arrays([x]), np.array([rate]), n_fft=n_fft, hop=hop)[0][:, 0]
    expected = stretched(x[:, 0], rate, n_fft, hop)
    assert got.shape == expected.shape
    # Where a window barely reaches, its rounding is divided by next to nothing, in librosa as here.
    inner = slice(0, max(len(got) - n_fft, 0))
    assert off(got[inner], expected[inner]) < 2e-3


def speech(folder: Path, count: int = 12) -> list[np.ndarray]:
    found = []
    with tarfile.open(folder / "fsdd_600.tar") as tar:
        for member in tar:
            if member.name.endswith(".wav") and len(found) < count:
                with wave.open(io.BytesIO(tar.extractfile(member).read())) as file:
                    raw = np.frombuffer(file.readframes(file.getnframes()), np.int16)
                found.append((raw / 32768).astype(np.float32)[:, None])
    return found


@pytest.mark.parametrize("rate", [0.5, 0.8, 1.25, 2.0])
def test_stretch_of_speech_is_librosas(real_data: Path, rate: float) -> None:
    arrays = speech(real_data)
    got = spectral.stretch(Signals.from_arrays(arrays), np.full(len(arrays), rate), n_fft=512, hop=128, threads=2)
    for i, x in enumerate(arrays):
        assert off(got[i][:, 0], stretched(x[:, 0], rate, 512, 128)) < 1e-3


@pytest.mark.parametrize("rate", [0.5, 0.9, 1.0, 1.6, 2.0])
def test_stretch_beside_librosa_itself(rate: float) -> None:
    librosa = pytest.importorskip("librosa")
    x = sound(5000, 2)
    got = spectral.stretch(Signals.from_arrays([x]), np.array([rate]), n_fft=512, hop=100)[0]
    expected = librosa.effects.time_stretch(x.T.astype(np.float64), rate=rate, n_fft=512, hop_length=100).T
    assert off(got, expected) < 1e-3


# --- resampling


@pytest.mark.parametrize("ratio", [0.5, 0.7718, 1.0, 1.31, 2.0])
def test_resampled_tones_stay_tones(ratio: float) -> None:
    for share in (0.03, 0.4, 0.75):  # of what the lower of both rates holds
        hz = share * RATE_HZ / 2 * min(1, 2.0 ** (-np.ceil(-24 * np.log2(min(ratio, 1)) - 1e-9) / 24))
        out = int(8000 * ratio)
        got = spectral.resample(Signals.from_arrays([tone(8000, hz)]), np.array([ratio]), np.array([out]))[0]
        expected = np.sin(2 * np.pi * hz / RATE_HZ / ratio * np.arange(out))[:, None]
        inner = slice(200, -200)
        assert level_db(got[inner] - expected[inner]) - level_db(expected[inner]) < -60, share


@pytest.mark.parametrize(("ratio", "hz"), [(0.5, 2100), (0.5, 3500), (0.6, 2560), (0.77, 3300)])
def test_what_no_longer_fits_is_gone(ratio: float, hz: float) -> None:
    got = spectral.resample(Signals.from_arrays([tone(8000, hz)]), np.array([ratio]), np.array([int(8000 * ratio)]))[0]
    assert level_db(got[200:-200]) - level_db(tone(8000, hz)) < -50


def test_resample_as_scipy_does() -> None:
    signal = pytest.importorskip("scipy.signal")
    x = signal.lfilter(*signal.butter(6, 0.5), sound(4000)[:, 0]).astype(np.float32)[:, None]
    got = spectral.resample(Signals.from_arrays([x]), np.array([1.5]), np.array([6000]))[0]
    expected = signal.resample_poly(x.astype(np.float64), 3, 2, window=("kaiser", 12.0))
    assert off(got[200:-200], expected[200:-200]) < 2e-2


def test_past_a_signals_end_is_silence() -> None:
    got = spectral.resample(Signals.from_arrays([sound(100)]), np.array([2.0]), np.array([1000]))
    assert (got[0][300:] == 0).all()
    assert np.abs(got[0][:190]).max() > 0.1


# --- pitch


@pytest.mark.parametrize("semitones", [-12.0, -5.3, -1.0, 0.0, 2.0, 7.0, 12.0])
def test_pitch_moves_by_what_was_drawn(semitones: float) -> None:
    hz = 800.0
    x = np.concatenate([tone(8000, hz)] * 2, axis=1)
    got = spectral.pitch_shift(Signals.from_arrays([x]), np.array([semitones]), n_fft=512)[0]
    assert got.shape == x.shape
    for c in range(2):
        bins = np.abs(np.fft.rfft(got[1000:-1000, c] * hann(6000)))
        assert abs(int(bins.argmax()) - hz * 2 ** (semitones / 12) * 6000 / RATE_HZ) <= 1
    assert abs(level_db(got[1000:-1000]) - level_db(x)) < 2  # a vocoder's bins do not quite add up


def test_pitch_is_librosas() -> None:
    x = sound(6000)
    semitones = np.array([-3.0])
    got = spectral.pitch_shift(Signals.from_arrays([x]), semitones, n_fft=512)[0]
    rate = 2.0 ** (3 / 12)
    longer = stretched(x[:, 0], rate, 512, round(128 * np.sqrt(1 / rate)))[:, None].astype(np.float32)
    expected = spectral.resample(Signals.from_arrays([longer]), np.array([rate]), np.array([6000]))[0]
    assert off(got, expected) < 1e-4


# --- mel features


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", [None, "slaney"])
@pytest.mark.parametrize("power", [1, 2])
def test_mel_is_torchaudios(scale: Any, norm: Any, power: int) -> None:
    arrays = [sound(n, 2, n) for n in (4000, 801, 2000)]
    given = {"rate_hz": RATE_HZ, "n_fft": 400, "n_mels": 40, "norm": norm, "mel_scale": scale, "power": power}
    got = spectral.mel_spectrogram(Signals.from_arrays(arrays), **given)
    assert got.channels == 80
    for i, x in enumerate(arrays):
        expected = [np.abs(stft(x[:, c], 400, 200, "reflect")) ** power for c in range(2)]
        expected = np.concatenate([e @ mel_filters(400, 40, scale, norm) for e in expected], axis=1)
        assert off(got[i], expected) < 1e-5


def test_mel_with_all_its_options() -> None:
    x = sound(3000, 1)
    got = spectral.mel_spectrogram(
        Signals.from_arrays([x], np.array([float(RATE_HZ)])), rate_hz=RATE_HZ, n_fft=512, hop=90, win_length=300,
        n_mels=20, f_min=200, center=False,
    )  # fmt: skip
    window = np.pad(hann(300), 106)
    frames = np.lib.stride_tricks.sliding_window_view(x[:, 0].astype(np.float64), 512)[::90]
    expected = np.abs(np.fft.rfft(frames * window)) ** 2 @ mel_filters(512, 20, "htk", None, 200)
    assert off(got[0], expected) < 1e-5
    assert got.rate_hz is not None and got.rate_hz[0] == RATE_HZ / 90


def test_logarithms_of_mel() -> None:
    arrays = [sound(n, 2, n) for n in (3000, 1100)]
    arrays[0][1500:] *= 1e-6  # far below the loudest
    signals, given = Signals.from_arrays(arrays), {"rate_hz": RATE_HZ, "n_fft": 256, "n_mels": 30}
    plain, db, ln, all_db = (
        spectral.mel_spectrogram(signals, **given, log=log, top_db=top)
        for log, top in ((None, 80.0), ("db", 80.0), ("ln", 80.0), ("db", None))
    )
    for i in range(2):
        expected = 10 * np.log10(np.maximum(plain[i].astype(np.float64), 1e-10))
        np.testing.assert_allclose(all_db[i], expected, atol=2e-5)
        np.testing.assert_allclose(db[i], np.maximum(expected, expected.max() - 80), atol=2e-5)
        np.testing.assert_allclose(ln[i], np.log(plain[i].astype(np.float64) + 1e-6), atol=5e-6)
    assert (all_db[0] < db[0] - 10).any()


def test_mfcc_is_a_dct_of_log_mel() -> None:
    signals, given = Signals.from_arrays([sound(3000, 2), sound(900, 2)]), {"rate_hz": RATE_HZ, "n_fft": 256}
    mels = spectral.mel_spectrogram(signals, **given, n_mels=30, log="db")
    got = spectral.mfcc(signals, **given, n_mels=30, n_mfcc=13)
    matrix = np.cos(np.pi / 30 * np.outer(np.arange(13), np.arange(30) + 0.5)) * np.sqrt(2 / 30)
    matrix[0] /= np.sqrt(2)
    for i in range(2):
        expected = np.concatenate([mels[i][:, :30] @ matrix.T, mels[i][:, 30:] @ matrix.T], axis=1)
        assert off(got[i], expected) < 1e-5


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mel_beside_librosa_itself(scale: Any) -> None:
    librosa = pytest.importorskip("librosa")
    x = sound(5000)
    got = spectral.mel_spectrogram(
        Signals.from_arrays([x]), rate_hz=RATE_HZ, n_fft=512, hop=128, n_mels=40, norm="slaney", mel_scale=scale
    )[0]
    expected = librosa.feature.melspectrogram(
        y=x[:, 0], sr=RATE_HZ, n_fft=512, hop_length=128, n_mels=40, htk=scale == "htk", pad_mode="reflect"
    ).T
    assert off(got, expected) < 1e-3


# --- noise


def noise_keys(n: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 2**32, (n, 5), dtype=np.uint32)


@pytest.mark.parametrize("decay", [-6.02, -3.01, 0.0, 3.01])
def test_noise_has_its_colour(decay: float) -> None:
    got = spectral.coloured_noise(noise_keys(8), np.full(8, 60_000), np.full(8, decay))
    power = np.mean([np.abs(np.fft.rfft(got[i][:, 0])) ** 2 for i in range(8)], axis=0)
    octaves = [10 * np.log10(power[2**k : 2 ** (k + 1)].mean()) for k in range(6, 15)]
    assert np.polyfit(np.arange(len(octaves)), octaves, 1)[0] == pytest.approx(decay, abs=0.15)
    for i in range(8):
        assert np.sqrt(np.mean(np.square(got[i], dtype=np.float64))) == pytest.approx(1, abs=1e-5)
    assert off(got[0], got[1]) > 0.3


def test_noise_is_its_key_and_length() -> None:
    keys, frames = noise_keys(9), np.array([1, 2, 31, 32, 33, 1000, 1000, 4097, 7999])
    decay = np.linspace(-6, 6, 9)
    all_of_them = spectral.coloured_noise(keys, frames, decay, threads=3)
    for i in range(9):
        alone = spectral.coloured_noise(keys[i : i + 1], frames[i : i + 1], decay[i : i + 1])
        np.testing.assert_array_equal(alone[0], all_of_them[i])
        assert len(alone[0]) == frames[i] and np.isfinite(alone[0]).all()
    assert not np.array_equal(all_of_them[5], all_of_them[6])


# --- whatever the batch


def between(low: float, high: float, signals: Signals) -> np.ndarray:
    """A parameter for each that depends on its length alone."""
    return low + (high - low) * (signals.frames % 17) / 16


FUNCTIONS: dict[str, Function] = {
    "stretch": lambda s, **how: spectral.stretch(s, between(0.5, 2.5, s), n_fft=128, hop=30, **how),
    "pitch_shift": lambda s, **how: spectral.pitch_shift(s, between(-12, 12, s), n_fft=128, **how),
    "resample": lambda s, **how: spectral.resample(s, between(0.4, 2.1, s), 3 + 2 * s.frames % 799, **how),
    "mel": lambda s, **how: spectral.mel_spectrogram(s, rate_hz=RATE_HZ, n_fft=128, hop=50, n_mels=12, log="db", **how),
    "magnitudes": lambda s, **how: spectral.mel_spectrogram(
        s, rate_hz=RATE_HZ, n_fft=64, n_mels=7, power=1, log="ln", **how
    ),
    "mfcc": lambda s, **how: spectral.mfcc(s, rate_hz=RATE_HZ, n_fft=128, n_mels=12, n_mfcc=5, **how),
}
each = pytest.mark.parametrize("name", FUNCTIONS)


@each
@pytest.mark.parametrize("channels", [1, 2])
def test_a_batch_is_its_samples_one_by_one(name: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, run = ragged(channels), FUNCTIONS[name]
    alone = [run(Signals.from_arrays([x]))[0].copy() for x in arrays]
    for chunk_bytes in (1, 50_000, 1 << 20):
        monkeypatch.setattr(jobs, "_CHUNK_BYTES", chunk_bytes)
        for threads in (1, 3):
            got = run(Signals.from_arrays(arrays), threads=threads)
            for i, expected in enumerate(alone):
                np.testing.assert_array_equal(got[i], expected)


@each
def test_every_instruction_set_gives_the_same_bits(name: str) -> None:
    signals, got = Signals.from_arrays(ragged(2)), {}
    best = native.cpu_target()
    try:
        for target in ("scalar", "avx2", "avx512"):
            try:
                native.cpu_target(target)
            except ValueError:
                continue
            got[target] = FUNCTIONS[name](signals)
    finally:
        native.cpu_target(best)
    for other in got.values():
        for i in range(len(signals)):
            np.testing.assert_array_equal(other[i], got["scalar"][i])


@each
def test_silence_stays_silence(name: str) -> None:
    got = FUNCTIONS[name](Signals.from_arrays([np.zeros((n, 1), np.float32) for n in (1, 500)]))
    for i in range(2):
        if name in ("stretch", "pitch_shift", "resample"):
            assert (got[i] == 0).all()
        else:
            assert np.isfinite(got[i]).all()


@each
def test_strides_are_followed(name: str) -> None:
    whole = sound(2 * 900, 4)
    dense, views = [], []
    for view in (whole[::2, ::2], whole[::-2, 1:3], whole[:900, ::-2]):
        views.append(view)
        dense.append(np.ascontiguousarray(view))
    got, expected = (FUNCTIONS[name](Signals.from_arrays(arrays)) for arrays in (views, dense))
    for i in range(3):
        np.testing.assert_array_equal(got[i], expected[i])


@each
def test_no_samples(name: str) -> None:
    none = Signals.from_arrays([sound(10)]).of(np.zeros(0, np.int64))
    assert len(FUNCTIONS[name](none)) == 0


def test_mkl_is_left_as_it_was() -> None:
    before = jobs._mkl_threads()(2)
    try:
        FUNCTIONS["stretch"](Signals.from_arrays(ragged()), threads=2)
        assert jobs._mkl_threads()(2) in (0, 2)
    finally:
        jobs._mkl_threads()(before)
    assert torch.get_num_threads() >= 1


# --- what cannot be done is said


BAD: list[tuple[str, Callable[[Signals], Any]]] = [
    ("stretch: rate of sample 1", lambda s: spectral.stretch(s, np.array([1.0, np.nan]))),
    ("stretch: rate of sample 0", lambda s: spectral.stretch(s, np.array([0.0, 1.0]))),
    ("stretch: rate must be float64 \\[2\\]", lambda s: spectral.stretch(s, np.ones(3))),
    ("stretch: n_fft must be even", lambda s: spectral.stretch(s, np.ones(2), n_fft=255)),
    ("stretch: hop must be in", lambda s: spectral.stretch(s, np.ones(2), hop=0)),
    ("stretch: threads", lambda s: spectral.stretch(s, np.ones(2), threads=0)),
    ("pitch_shift: semitones of sample 1", lambda s: spectral.pitch_shift(s, np.array([0, 99.0]))),
    ("resample: ratio of sample 0", lambda s: spectral.resample(s, np.array([-1, 1.0]), np.ones(2, np.int64))),
    ("resample: out_frames must be in", lambda s: spectral.resample(s, np.ones(2), np.zeros(2, np.int64))),
    ("win_length must be", lambda s: spectral.mel_spectrogram(s, rate_hz=8000, win_length=500)),
    ("power must be", lambda s: spectral.mel_spectrogram(s, rate_hz=8000, power=3)),
    ("f_min < f_max", lambda s: spectral.mel_spectrogram(s, rate_hz=8000, f_max=4001)),
    ("sample 0 must have at least", lambda s: spectral.mel_spectrogram(s, rate_hz=8000, center=False)),
    ("n_mfcc must be", lambda s: spectral.mfcc(s, rate_hz=8000, n_mfcc=200)),
    ("keys must be uint32", lambda s: spectral.coloured_noise(np.zeros((2, 4)), np.ones(2, int), np.zeros(2))),
]


@pytest.mark.parametrize(("message", "call"), BAD, ids=[message for message, _ in BAD])
def test_bad_arguments_are_named(message: str, call: Callable[[Signals], Any]) -> None:
    with pytest.raises(ValueError, match=message):
        call(Signals.from_arrays([sound(100), sound(900)]))


def test_native_steps_stay_within_their_memory() -> None:
    rows = np.zeros(2, native.SPECTRAL_ROW)
    memory = np.zeros(1000, np.float32)
    rows["in"], rows["in_frames"], rows["in_step"] = memory.ctypes.data, 100, 1
    rows["hop"], rows["rate"], rows["analysed"], rows["analysed_at"] = 10, 1, 4, [0, 13]
    given = {"n_fft": 60, "window": memory.ctypes.data, "target": memory.ctypes.data, "target_floats": 1000}
    with pytest.raises(ValueError, match="spectral cut: row 1: analysed frames must end within 1000 floats"):
        native.spectral_step("cut", native.spectral_params(rows, **given))


@pytest.mark.parametrize(("name", "dtype"), [("SpectralRow", native.SPECTRAL_ROW), ("MelBand", native.MEL_BAND)])
def test_structs_are_the_same_on_both_sides(name: str, dtype: np.dtype) -> None:
    layout = native.struct_layouts()[name]
    assert layout.pop("") == dtype.itemsize
    assert layout == {field: place[1] for field, place in dtype.fields.items()}


# --- on CUDA


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """csrc/cuda/spectral.cu compiled for the host."""
    library = ctypes.CDLL(str(compile_for_host(tmp_path_factory.mktemp("spectral"), "spectral")))
    library.spectral.restype = ctypes.c_char_p
    return library.spectral


@pytest.fixture
def on_kernels(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Signals]], Signals]:
    """Calls something whose native steps are the kernels."""
    real = native.spectral_params

    def params(rows: np.ndarray, **given: Any) -> Any:
        bands = given.get("bands")
        given |= {"device_rows": rows.ctypes.data, "device_bands": 0 if bands is None else bands.ctypes.data}
        return real(rows, **given)

    def step(name: str, prepared: Any, **how: Any) -> None:
        message = kernels(ctypes.c_int32(native.SPECTRAL_STEPS.index(name)), ctypes.c_void_p(prepared.address))
        if message:
            raise ValueError(message.decode())

    def run(call: Callable[[], Signals]) -> Signals:
        with monkeypatch.context() as patch:
            patch.setattr(native, "spectral_params", params)
            patch.setattr(native, "spectral_step", step)
            return call()

    return run


@each
def test_kernels_give_the_bits_of_the_host(name: str, on_kernels: Any) -> None:
    arrays = [sound(n, 2, seed)[::-1] for seed, n in enumerate((1, 2, 77, 511, 300))]
    signals = Signals.from_arrays(arrays)
    expected, got = FUNCTIONS[name](signals), on_kernels(lambda: FUNCTIONS[name](signals))
    for i in range(len(signals)):
        np.testing.assert_array_equal(got[i], expected[i])


def test_kernels_make_the_same_noise(on_kernels: Any) -> None:
    given = noise_keys(4), np.array([1, 100, 333, 700]), np.array([-6.0, 0, 3, 6])
    expected, got = spectral.coloured_noise(*given), on_kernels(lambda: spectral.coloured_noise(*given))
    for i in range(4):
        np.testing.assert_array_equal(got[i], expected[i])


def test_kernels_check_what_they_are_given(on_kernels: Any) -> None:
    rows = np.zeros(1, native.SPECTRAL_ROW)
    with pytest.raises(ValueError, match="spectral resample: row 0: out must not be null"):
        on_kernels(lambda: native.spectral_step("resample", native.spectral_params(rows)))


def to_cuda(signals: Signals) -> Signals:
    tensors = [torch.from_numpy(np.ascontiguousarray(signals[i])).cuda() for i in range(len(signals))]
    return Signals(
        address=np.array([t.data_ptr() for t in tensors], np.uint64),
        frames=signals.frames,
        frame_step=np.full(len(signals), signals.channels),
        channel_step=np.ones(len(signals), np.int64),
        channels=signals.channels,
        owner=tensors,
        on_cuda=True,
    )


def from_cuda(signals: Signals) -> list[np.ndarray]:
    memory = signals.owner.cpu().numpy()
    begins = (signals.address.astype(np.int64) - signals.owner.data_ptr()) // 4
    shape = [(signals.channels, int(n)) for n in signals.frames]
    return [memory[b : b + c * t].reshape(c, t).T for b, (c, t) in zip(begins, shape, strict=True)]


@pytest.mark.cuda
@each
def test_a_device_gives_what_the_host_gives(name: str) -> None:
    host = Signals.from_arrays([sound(n, 2, seed) for seed, n in enumerate((1, 2, 77, 511, 3000, 8000))])
    expected, got = FUNCTIONS[name](host), from_cuda(FUNCTIONS[name](to_cuda(host)))
    for i in range(len(host)):
        # Logarithms make much of what FFTs leave of silence, another rounding on each device.
        a, b = (np.exp(x[i]) if name == "magnitudes" else x[i] for x in (got, expected))
        assert off(a, b) < 1e-4, i


@pytest.mark.cuda
def test_a_device_makes_the_same_noise() -> None:
    given = noise_keys(4), np.array([1, 100, 333, 7000]), np.array([-6.0, 0, 3, 6])
    expected, got = spectral.coloured_noise(*given), from_cuda(spectral.coloured_noise(*given, device="cuda"))
    for i in range(4):
        assert off(got[i], expected[i]) < 1e-4
