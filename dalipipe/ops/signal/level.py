"""What changes a signal's values: gains, channels, noise, drifts, filters.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from dalipipe import rng
from dalipipe.ops.signal import curves
from dalipipe.ops.signal.families import (
    CHANNELS,
    FRAMES,
    RATE,
    SNR,
    BiquadOp,
    ChannelsOp,
    GainOp,
    NoiseOp,
    PlusOp,
    SoundOp,
    TimesOp,
    as_range,
    check_flag,
    check_number,
    check_whole,
    needs_rate,
)
from dalipipe.policy import Measure, Params, draw_range, set_field
from dalipipe.quantiles import ndtri


def _db(value: np.ndarray) -> np.ndarray:
    """Decibels → a factor of amplitude."""
    return np.power(10.0, value / 20.0).astype(np.float32)


@dataclass(frozen=True, repr=False)
class Gain(GainOp):
    """Louder or softer by ``gain_db`` decibels, −100..100. audiomentations' ``Gain``."""

    gain_db: Any = (-12.0, 12.0)
    p: float = field(default=0.5, kw_only=True)

    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"gain_db": Measure(0.0, -100.0, 100.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "gain_db", -100.0, 100.0)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"gain": _db(draw_range(self.gain_db, u[:, 0]))}


@dataclass(frozen=True, repr=False)
class PolarityInversion(GainOp):
    """Every value's negative. audiomentations' ``PolarityInversion``."""

    p: float = field(default=0.5, kw_only=True)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"gain": np.full(len(u), -1.0, np.float32)}


@dataclass(frozen=True, repr=False)
class AddGaussianSNR(NoiseOp):
    """White normal noise at a signal-to-noise ratio within ``snr_db`` decibels, −100..200: exactly, as the noise's
    RMS is measured, too. What is silent stays so. audiomentations' ``AddGaussianSNR``.
    """

    snr_db: Any = (5.0, 40.0)
    p: float = field(default=0.5, kw_only=True)

    draws: ClassVar[int] = 1
    relative: ClassVar[bool] = True
    measures: ClassVar[Mapping[str, Measure]] = {"snr_db": SNR}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "snr_db", -100.0, 200.0)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"level": _db(-draw_range(self.snr_db, u[:, 0]))}


@dataclass(frozen=True, repr=False)
class AddGaussianNoise(NoiseOp):
    """White normal noise of a standard deviation within ``amplitude``, 0..10⁶.

    audiomentations' ``AddGaussianNoise``.
    """

    amplitude: Any = (0.001, 0.015)
    p: float = field(default=0.5, kw_only=True)

    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"amplitude": Measure(0.0, 0.0, 1e6)}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "amplitude", 0.0, 1e6)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"level": draw_range(self.amplitude, u[:, 0]).astype(np.float32)}


@dataclass(frozen=True, repr=False)
class Jitter(NoiseOp):
    """White normal noise of standard deviation ``sigma``, 0..10⁶, on every value. Um et al. (ICMI 2017); 0.03 as in
    Iwana, Uchida (2021).
    """

    sigma: Any = 0.03

    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"sigma": Measure(0.0, 0.0, 1e6)}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "sigma", 0.0, 1e6)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"level": draw_range(self.sigma, u[:, 0]).astype(np.float32)}


@dataclass(frozen=True, repr=False)
class AddColorNoise(SoundOp):
    """Normal noise whose spectrum falls by ``decay_db`` decibels an octave (rises, below 0), −24..24, at a
    signal-to-noise ratio within ``snr_db``; one noise for all channels. 3 is pink, 6 brown, −3 blue. audiomentations'
    ``AddColorNoise``, whose ``f_decay`` counts the other way.
    """

    snr_db: Any = (5.0, 40.0)
    decay_db: Any = (-6.0, 6.0)
    p: float = field(default=0.3, kw_only=True)

    draws: ClassVar[int] = 2
    noisy: ClassVar[bool] = True
    measures: ClassVar[Mapping[str, Measure]] = {"snr_db": SNR}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "snr_db", -100.0, 200.0)
        as_range(self, "decay_db", -24.0, 24.0)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"level": _db(-draw_range(self.snr_db, u[:, 0])), "decay_db": draw_range(self.decay_db, u[:, 1])}


@dataclass(frozen=True, repr=False)
class AddBackgroundNoise(SoundOp):
    """A part of one of the recordings ``sounds`` (paths of audio files), from a random place on and round again, at a
    signal-to-noise ratio within ``snr_db``. They are read once, mixed to one channel, and kept at the field's rate.
    audiomentations' ``AddBackgroundNoise``.
    """

    sounds: tuple[str, ...] = ()
    snr_db: Any = (3.0, 10.0)
    p: float = field(default=0.5, kw_only=True)

    draws: ClassVar[int] = 3
    measures: ClassVar[Mapping[str, Measure]] = {"snr_db": SNR}

    def __post_init__(self) -> None:
        super().__post_init__()
        sounds = self.sounds
        if isinstance(sounds, str) or not sounds or not all(isinstance(path, str) for path in sounds):
            raise ValueError(f"AddBackgroundNoise: sounds must be one or more paths of audio files, got {sounds!r}")
        set_field(self, "sounds", tuple(sounds))
        as_range(self, "snr_db", -100.0, 200.0)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        which = np.minimum((u[:, 1] * len(self.sounds)).astype(np.int64), len(self.sounds) - 1)
        return {"level": _db(-draw_range(self.snr_db, u[:, 0])), "which": which, "place": u[:, 2]}


def _normals(params: Params, count: int) -> np.ndarray:
    """float64 [A, count]: standard normals of each sample."""
    return ndtri(rng.element_uniforms(params["noise"], count))


@dataclass(frozen=True, repr=False)
class Scaling(ChannelsOp):
    """Every channel times a factor of its own, Normal(1, ``sigma``). Um et al. (ICMI 2017); 0.1 as in Iwana, Uchida
    (2021).
    """

    sigma: float = 0.1

    noisy: ClassVar[bool] = True
    measures: ClassVar[Mapping[str, Measure]] = {"sigma": Measure(0.0, 0.0, 1e3)}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "sigma", check_number(self, "sigma", 0.0, 1e3))

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {}

    def complete(self, params: Params, size: np.ndarray) -> Params:
        channels = _one(size[:, CHANNELS])
        gains = (1.0 + self.sigma * _normals(params, channels)).astype(np.float32)
        return {**params, "source": np.tile(np.arange(channels), (len(size), 1)), "gains": gains}


@dataclass(frozen=True, repr=False)
class Rotation(ChannelsOp):
    """Turns every channel's sign with probability one half (``flip``), and puts channels in another order
    (``permute``): what turning a sensor's axes would do. Um et al. (ICMI 2017), as in Iwana, Uchida (2021), there one
    order for a whole data set.
    """

    flip: bool = True
    permute: bool = True

    noisy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag(self, "flip")
        check_flag(self, "permute")

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {}

    def complete(self, params: Params, size: np.ndarray) -> Params:
        channels = _one(size[:, CHANNELS])
        u = rng.element_uniforms(params["noise"], 2 * channels)
        signs = np.where(u[:, :channels] < 0.5, -1.0, 1.0) if self.flip else np.ones((len(size), channels))
        order = np.argsort(u[:, channels:], axis=1, kind="stable")
        source = order if self.permute else np.tile(np.arange(channels), (len(size), 1))
        return {**params, "source": source, "gains": signs.astype(np.float32)}


def _one(channels: np.ndarray) -> int:
    """That of all; there are none to draw for where there are no samples."""
    return int(channels[0]) if len(channels) else 1


def _knots(size: np.ndarray, count: int) -> np.ndarray:
    """float64 [A, 1, count]: evenly spaced over each signal."""
    end = np.maximum(size[:, FRAMES] - 1, 1).astype(np.float64)[:, None, None]
    return end * (np.arange(count) / (count - 1))


@dataclass(frozen=True, repr=False)
class MagnitudeWarp(TimesOp):
    """Every channel times a smooth curve about 1: a cubic spline through ``knots`` inner knots and two at the ends,
    whose values are Normal(1, ``sigma``). Um et al. (ICMI 2017); defaults as in Iwana, Uchida (2021).
    """

    sigma: float = 0.2
    knots: int = 4

    noisy: ClassVar[bool] = True
    measures: ClassVar[Mapping[str, Measure]] = {"sigma": Measure(0.0, 0.0, 1e3)}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "sigma", check_number(self, "sigma", 0.0, 1e3))
        check_whole(self, "knots", 0, 64)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {}

    def complete(self, params: Params, size: np.ndarray) -> Params:
        channels, count = _one(size[:, CHANNELS]), self.knots + 2
        y = 1.0 + self.sigma * _normals(params, channels * count).reshape(len(size), channels, count)
        return {**params, "curves": curves.cubic_spline(_knots(size, count), y)}


@dataclass(frozen=True, repr=False)
class Drift(PlusOp):
    """Lets every channel drift away from its values, smoothly: a cubic spline through a random walk of
    ``n_drift_points`` inner points, from 0 at the beginning, at its greatest as far as ``max_drift``, 0..10⁶, in the
    signal's units.

    tsaug's ``Drift``, which measures ``max_drift`` in each series' range by default.
    """

    max_drift: Any = 0.5
    n_drift_points: int = 3

    draws: ClassVar[int] = 1
    noisy: ClassVar[bool] = True
    measures: ClassVar[Mapping[str, Measure]] = {"max_drift": Measure(0.0, 0.0, 1e6)}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "max_drift", 0.0, 1e6)
        check_whole(self, "n_drift_points", 0, 64)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"max_drift": draw_range(self.max_drift, u[:, 0])}

    def complete(self, params: Params, size: np.ndarray) -> Params:
        channels, count = _one(size[:, CHANNELS]), self.n_drift_points + 2
        walk = np.cumsum(_normals(params, channels * count).reshape(len(size), channels, count), axis=2)
        walk -= walk[..., :1]
        between = np.linspace(0.0, count - 1.0, 16 * (count - 1) + 1)  # fine enough to find how far it goes
        away = np.abs(curves.evaluate(curves.cubic_spline(np.arange(float(count)), walk), between)).max(axis=2)
        walk *= params["max_drift"][:, None, None] / np.maximum(away, 1e-300)[..., None]
        return {**params, "curves": curves.cubic_spline(_knots(size, count), walk)}


class _Filter(BiquadOp):
    """Butterworth filters, 6 dB an octave for each order, as second-order sections from their analogue prototype by the
    bilinear transform: what ``scipy.signal.butter(order, …, output="sos")`` has, section by section.
    """

    def misfits(self, size: np.ndarray) -> np.ndarray | None:
        return needs_rate(size)


def _butterworth(order: int, cutoff_hz: np.ndarray, rate_hz: np.ndarray, high: bool) -> np.ndarray:
    """float64 [A, order / 2, 5]: a low or high pass of an even order."""
    nyquist = 0.5 * rate_hz
    k = np.tan(0.5 * np.pi * np.clip(cutoff_hz / nyquist, 1e-6, 0.999))
    sections = np.empty((len(k), order // 2, 5))
    for section in range(order // 2):
        q = 2.0 * np.sin(np.pi * (2 * section + 1) / (2 * order))  # 1 / Q of this pair of poles
        norm = 1.0 / (1.0 + q * k + k * k)
        b = norm if high else k * k * norm
        sections[:, section, 0], sections[:, section, 1], sections[:, section, 2] = b, -2.0 * b if high else 2.0 * b, b
        sections[:, section, 3] = 2.0 * (k * k - 1.0) * norm
        sections[:, section, 4] = (1.0 - q * k + k * k) * norm
    return sections


def _check_rolloff(op: Any) -> None:
    if op.rolloff_db not in (12, 24, 36, 48, 60, 72, 84, 96):
        raise ValueError(
            f"{type(op).__name__}: rolloff_db must be 12, 24, … 96 decibels an octave, got {op.rolloff_db!r}"
        )


@dataclass(frozen=True, repr=False)
class _CutoffOp(_Filter):
    cutoff_hz: Any = (150.0, 7500.0)
    rolloff_db: int = 12
    p: float = field(default=0.5, kw_only=True)

    draws: ClassVar[int] = 1
    high: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "cutoff_hz", 1e-3, 1e9)
        _check_rolloff(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        cutoff = draw_range(self.cutoff_hz, u[:, 0])
        return {"biquads": _butterworth(self.rolloff_db // 6, cutoff, size[:, RATE].astype(np.float64), self.high)}


@dataclass(frozen=True, repr=False)
class LowPassFilter(_CutoffOp):
    """Takes away what lies above a cutoff within ``cutoff_hz``, by ``rolloff_db`` decibels an octave (12, 24, … 96): a
    Butterworth filter. audiomentations' ``LowPassFilter``, which draws the roll-off, too.
    """


@dataclass(frozen=True, repr=False)
class HighPassFilter(_CutoffOp):
    """Takes away what lies below a cutoff within ``cutoff_hz``; else as `LowPassFilter`. audiomentations'
    ``HighPassFilter``.
    """

    cutoff_hz: Any = (20.0, 2400.0)

    high: ClassVar[bool] = True


@dataclass(frozen=True, repr=False)
class BandPassFilter(_Filter):
    """Keeps a band about a centre within ``center_hz``, as wide as a share of it within ``bandwidth``, 0.01..1.99: a
    high pass at its lower end and a low pass at its upper one. audiomentations' ``BandPassFilter``.
    """

    center_hz: Any = (200.0, 4000.0)
    bandwidth: Any = (0.5, 1.99)
    rolloff_db: int = 12
    p: float = field(default=0.5, kw_only=True)

    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "center_hz", 1e-3, 1e9)
        as_range(self, "bandwidth", 0.01, 1.99)
        _check_rolloff(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        centre, rate = draw_range(self.center_hz, u[:, 0]), size[:, RATE].astype(np.float64)
        half = 0.5 * draw_range(self.bandwidth, u[:, 1])
        order = self.rolloff_db // 6
        low = _butterworth(order, centre * (1.0 - half), rate, True)
        return {"biquads": np.concatenate([low, _butterworth(order, centre * (1.0 + half), rate, False)], axis=1)}
