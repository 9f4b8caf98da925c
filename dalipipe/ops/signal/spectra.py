"""What works on spectra, or resamples: time stretch, pitch shift, rates, and the features of speech.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from dalipipe.ops.signal.families import (
    BINS,
    CHANNELS,
    FRAMES,
    RATE,
    SpectralOp,
    as_range,
    check_choice,
    check_flag,
    check_number,
    check_whole,
    needs_rate,
    with_frames,
)
from dalipipe.policy import Measure, Params, Range, draw_range

_WINDOW_S = 0.064


def window_frames(rate_hz: int) -> int:
    """Of a short-time spectrum by default: the power of two nearest to 64 ms (512 at 8 kHz, 1024 at 16, 2048 at 22.05
    to 44.1); of what has no rate, 512.
    """
    return 2 ** round(math.log2(_WINDOW_S * rate_hz)) if rate_hz > 0 else 512


class VocoderOp(SpectralOp):
    """Works by a phase vocoder over windows of ``n_fft`` frames; ``None``: `window_frames` of the rate."""

    n_fft: Any = None

    def windows(self, size: np.ndarray) -> np.ndarray:
        """int64 [A]: frames of its windows, for signals of ``size`` int64 [A, 4]."""
        if self.n_fft is not None:
            return np.full(len(size), self.n_fft, np.int64)
        rates, which = np.unique(size[:, RATE], return_inverse=True)
        return np.array([window_frames(rate) for rate in rates.tolist()], np.int64)[which]


def _check_window(op: Any) -> None:
    if op.n_fft is not None:
        check_whole(op, "n_fft", 16, 1 << 16)


@dataclass(frozen=True, repr=False)
class TimeStretch(VocoderOp):
    """Plays a sound faster, or slower (below 1), by a rate within ``rate``, 0.1..10, at the same pitch.

    ``leave_length_unchanged``: what is too long is cut off, what is missing silent. A phase vocoder, as
    ``librosa.effects.time_stretch``, with windows of ``n_fft`` frames (``None``: 64 ms) a quarter apart. Flanagan,
    Golden: "Phase vocoder" (Bell System Tech. J. 45, 1966). audiomentations' ``TimeStretch``.
    """

    rate: Any = (0.8, 1.25)
    leave_length_unchanged: bool = True
    n_fft: int | None = None
    p: float = field(default=0.5, kw_only=True)

    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"rate": Measure(1.0, 0.1, 10.0, "log")}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "rate", 0.1, 10.0)
        check_flag(self, "leave_length_unchanged")
        _check_window(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        rate = draw_range(self.rate, u[:, 0])
        frames = size[:, FRAMES]
        stretched = frames if self.leave_length_unchanged else np.maximum(np.rint(frames / rate).astype(np.int64), 1)
        return {"rate": rate, "frames": stretched}

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        return with_frames(size, params["frames"])


@dataclass(frozen=True, repr=False)
class PitchShift(VocoderOp):
    """Raises a sound's pitch by semitones within ``semitones``, −24..24, at the same speed.

    A phase vocoder stretches it, and a windowed sinc takes it back to its length. Windows are n_fft / 4 · √(pitch)
    apart, so that the cost does not depend on the semitones. audiomentations' ``PitchShift``.
    """

    semitones: Any = (-4.0, 4.0)
    n_fft: int | None = None
    p: float = field(default=0.5, kw_only=True)

    draws: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"semitones": Measure(0.0, -24.0, 24.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "semitones", -24.0, 24.0)
        _check_window(self)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {"semitones": draw_range(self.semitones, u[:, 0])}


@dataclass(frozen=True, repr=False)
class Resample(SpectralOp):
    """Gives a sound another rate within ``rate_hz``, 1..10⁶ Hz, rounded to whole Hz: as it would have been recorded,
    but for frequencies that no longer fit, which are filtered out. As long in seconds, rounded up to whole frames.
    """

    rate_hz: Any = 16000

    draws: ClassVar[int] = 1
    stays: ClassVar[bool] = True

    @property
    def measures(self) -> Mapping[str, Measure]:  # type: ignore[override]
        return {"rate_hz": Measure(math.sqrt(math.prod(self._ends)), 1.0, 1e6, "log")}

    def __post_init__(self) -> None:
        super().__post_init__()
        as_range(self, "rate_hz", 1.0, 1e6)

    @property
    def one_rate(self) -> bool:
        """Whether all sounds have the same rate after it."""
        low, high = self._ends
        return round(low) == round(high)

    @property
    def _ends(self) -> tuple[float, float]:
        return (self.rate_hz.low, self.rate_hz.high) if isinstance(self.rate_hz, Range) else self.rate_hz

    def misfits(self, size: np.ndarray) -> np.ndarray | None:
        return needs_rate(size)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        rate = np.rint(draw_range(self.rate_hz, u[:, 0])).astype(np.int64)
        return {"rate": rate, "frames": resampled_frames(size[:, FRAMES], size[:, RATE], rate)}

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        size = with_frames(size, params["frames"])
        size[:, RATE] = params["rate"]
        return size


def resampled_frames(frames: np.ndarray, rate_hz: np.ndarray, to_hz: Any) -> np.ndarray:
    """int64: how many frames a sound has at another rate."""
    return -(-frames.astype(np.int64) * to_hz // rate_hz)


class FeatureOp(SpectralOp):
    """Makes a spectrogram of every sample: the channels' bins become channels."""

    hop: Any
    n_out: Any

    stays: ClassVar[bool] = True

    def misfits(self, size: np.ndarray) -> np.ndarray | None:
        return needs_rate(size) | (size[:, BINS] > 1)

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {}

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        out = size.copy()
        out[:, FRAMES] = size[:, FRAMES] // self.hop + 1
        out[:, CHANNELS] = size[:, CHANNELS] * self.n_out
        out[:, RATE] = size[:, RATE] // self.hop
        out[:, BINS] = self.n_out
        return out


def _check_mel(op: Any) -> None:
    check_whole(op, "n_fft", 16, 1 << 16)
    check_whole(op, "n_mels", 1, 4096)
    hop = op.hop if op.hop is not None else (op.win_length or op.n_fft) // 2
    object.__setattr__(op, "hop", hop)
    check_whole(op, "hop", 1, 1 << 20)
    if op.win_length is not None:
        check_whole(op, "win_length", 1, op.n_fft)
    object.__setattr__(op, "f_min", check_number(op, "f_min", 0.0, 1e6))
    if op.f_max is not None:
        object.__setattr__(op, "f_max", check_number(op, "f_max", op.f_min + 1e-6, 1e6))
    check_choice(op, "mel_scale", ("htk", "slaney"))


@dataclass(frozen=True, repr=False)
class MelSpectrogram(FeatureOp):
    """Power in ``n_mels`` bands of the mel scale, over Hann windows of ``win_length`` frames (``n_fft`` by default),
    ``hop`` frames apart (half a window), centred, the sound mirrored at its ends: 1 + T // hop frames.

    ``log``: "db" gives 10 log₁₀, "ln" the natural logarithm of the power and 10⁻⁶, ``None`` neither. ``f_max``: half
    the rate by default. ``power``: of the magnitude. ``norm`` "slaney": bands of equal area. Else as
    ``torchaudio.transforms.MelSpectrogram``. It stands before operators on spectrograms; the batch is [N, C, n_mels,
    frames].
    """

    n_mels: int = 64
    n_fft: int = 512
    hop: int | None = None
    win_length: int | None = None
    f_min: float = 0.0
    f_max: float | None = None
    power: float = 2.0
    log: Literal["db", "ln"] | None = "ln"
    norm: Literal["slaney"] | None = None
    mel_scale: Literal["htk", "slaney"] = "htk"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_mel(self)
        object.__setattr__(self, "power", check_number(self, "power", 0.1, 10.0))
        check_choice(self, "log", ("db", "ln", None))
        check_choice(self, "norm", ("slaney", None))

    draw = FeatureOp.draw

    @property
    def n_out(self) -> int:
        return self.n_mels


@dataclass(frozen=True, repr=False)
class MFCC(FeatureOp):
    """``n_mfcc`` mel-frequency cepstral coefficients: an orthonormal cosine transform (DCT-II) of a `MelSpectrogram` in
    decibels. As ``torchaudio.transforms.MFCC``.
    """

    n_mfcc: int = 40
    n_mels: int = 64
    n_fft: int = 512
    hop: int | None = None
    win_length: int | None = None
    f_min: float = 0.0
    f_max: float | None = None
    mel_scale: Literal["htk", "slaney"] = "htk"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_mel(self)
        check_whole(self, "n_mfcc", 1, self.n_mels)

    draw = FeatureOp.draw

    @property
    def n_out(self) -> int:
        return self.n_mfcc
