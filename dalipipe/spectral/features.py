"""Features of speech: mel spectrograms and cepstra."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np

from dalipipe import native
from dalipipe.buffers import BufferPool
from dalipipe.records import Signals
from dalipipe.spectral.arguments import check_n_fft
from dalipipe.spectral.frames import addresses_of, analysed_frames, hann_window, rows_of
from dalipipe.spectral.jobs import Chunk, Job

Log = Literal["db", "ln"]
Norm = Literal["slaney"]
MelScale = Literal["htk", "slaney"]


def mel_spectrogram(
    signals: Signals,
    *,
    rate_hz: float,
    n_fft: int = 400,
    hop: int | None = None,
    win_length: int | None = None,
    n_mels: int = 128,
    f_min: float = 0.0,
    f_max: float | None = None,
    power: float = 2.0,
    log: Log | None = None,
    center: bool = True,
    norm: Norm | None = None,
    mel_scale: MelScale = "htk",
    top_db: float | None = 80.0,
    threads: int = 1,
    buffers: BufferPool | None = None,
) -> Signals:
    """Mel spectrograms, as torchaudio.transforms.MelSpectrogram (and AmplitudeToDB) makes them.

    Args:
        signals: N signals.
        rate_hz: their frames a second, which says what frequency a bin is.
        n_fft: frames of a transform; even.
        hop: frames from one transform to the next; None: win_length // 2.
        win_length: frames of the Hann window, at most n_fft; None: n_fft.
        n_mels: how many filters.
        f_min, f_max: Hz: the lowest filter's lower end, the highest one's upper end; None: rate_hz / 2.
        power: 2: of power; 1: of magnitudes.
        log: "db": 10 log10 of at least 1e-10; "ln": the natural logarithm of value + 1e-6; None: as they are.
        center: whether frame t is centred on t * hop, in a signal mirrored at its ends, or begins there.
        norm: "slaney": filters have the same area; None: the same height.
        mel_scale: "htk" or "slaney".
        top_db: of "db": what lies further below a sample's maximum is raised; None: nothing is.
        threads, buffers: as of `stretch`.

    Returns:
        N signals of channels · n_mels channels, channel by channel, planar: frame t is the spectrogram's.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    what = "mel_spectrogram"
    check_n_fft(what, n_fft)
    win_length = n_fft if win_length is None else win_length
    hop = win_length // 2 if hop is None else hop
    if not 1 <= win_length <= n_fft:
        raise ValueError(f"{what}: win_length must be in 1 ... n_fft, got {win_length}")
    if hop < 1:
        raise ValueError(f"{what}: hop must be at least 1, got {hop}")
    if power not in (1, 2):
        raise ValueError(f"{what}: power must be 1 or 2, got {power}")
    if log not in (None, "db", "ln"):
        raise ValueError(f'{what}: log must be None, "db" or "ln", got {log!r}')
    lead = n_fft // 2 if center else 0
    frames = signals.frames.astype(np.int64) + 2 * lead - n_fft
    if (frames < 0).any():
        row = int(np.argmax(frames < 0))
        raise ValueError(f"{what}: sample {row} must have at least n_fft frames, {n_fft}, got {signals.frames[row]}")
    bands, weights = _mel_bands(what, n_fft, rate_hz, n_mels, f_min, rate_hz / 2 if f_max is None else f_max, norm,
                                mel_scale)  # fmt: skip

    job = Job(what, signals.on_cuda, threads)
    rows = rows_of(signals)
    rows["hop"] = hop
    rows["rate"] = 1
    rows["analysed"] = np.repeat(frames // hop + 1, signals.channels)
    rate = None if signals.rate_hz is None else signals.rate_hz / hop
    result = job.results(frames // hop + 1, signals.channels * n_mels, rate, buffers)
    rows["out"] = addresses_of(result, signals.channels)
    rows["out_frames"] = rows["analysed"]
    window, tables, device_bands = (job.upload(array) for array in (hann_window(win_length, n_fft), weights, bands))

    def work(chunk: Chunk) -> None:
        spectra = analysed_frames(job, chunk, n_fft, window, lead, "mirror")
        job.run("mel", chunk, n_fft=n_fft, source=spectra, tables=tables, bands=(bands, device_bands),
                squared=power == 2, log=log)  # fmt: skip

    job.in_chunks(rows, work, rows["analysed"] * 8 * (n_fft + 2))
    if log == "db" and top_db is not None:
        whole = np.zeros(len(signals), native.SPECTRAL_ROW)
        whole["out"], whole["out_frames"] = result.address, result.frames.astype(np.int64) * result.channels
        job.at_once(whole, lambda chunk: job.run("clamp", chunk, threads=threads, top_db=top_db))
    return result


def mfcc(
    signals: Signals,
    *,
    rate_hz: float,
    n_mfcc: int = 40,
    log: Log = "db",
    n_mels: int = 128,
    threads: int = 1,
    buffers: BufferPool | None = None,
    **mel: Any,
) -> Signals:
    """Mel-frequency cepstral coefficients, as torchaudio.transforms.MFCC makes them: an orthonormal DCT-II of log mel.

    Args:
        signals, rate_hz, n_mels, threads, buffers: as of `mel_spectrogram`, and ``mel``: others of its arguments.
        n_mfcc: how many coefficients, at most n_mels.
        log: "db", with 80 dB of range; "ln".

    Returns:
        N signals of channels · n_mfcc channels, channel by channel, planar.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    if not 1 <= n_mfcc <= n_mels:
        raise ValueError(f"mfcc: n_mfcc must be in 1 ... n_mels, got {n_mfcc}")
    mels = mel_spectrogram(signals, rate_hz=rate_hz, log=log, n_mels=n_mels, threads=threads, **mel)
    job = Job("mfcc", signals.on_cuda, threads)
    result = job.results(mels.frames, signals.channels * n_mfcc, mels.rate_hz, buffers)
    rows = np.zeros(len(signals) * signals.channels, native.SPECTRAL_ROW)
    rows["in"], rows["out"] = addresses_of(mels, signals.channels), addresses_of(result, signals.channels)
    rows["in_frames"] = rows["out_frames"] = np.repeat(mels.frames, signals.channels)
    matrix = job.upload(_dct(n_mfcc, n_mels))
    job.at_once(rows, lambda chunk: job.run("mix", chunk, threads=threads, tables=matrix, mixed=n_mels, mixes=n_mfcc))
    return result


def _hz_to_mel(hz: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    return np.where(hz < 1000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def _mel_to_hz(mel: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))


@lru_cache(maxsize=16)
def _mel_bands(
    what: str, n_fft: int, rate_hz: float, n_mels: int, f_min: float, f_max: float, norm: str | None, scale: str
) -> tuple[np.ndarray, np.ndarray]:
    """`MEL_BAND` [n_mels] and their weights, float32; torchaudio.functional.melscale_fbanks."""
    if n_mels < 1:
        raise ValueError(f"{what}: n_mels must be at least 1, got {n_mels}")
    if not 0 <= f_min < f_max <= rate_hz / 2:
        raise ValueError(f"{what}: 0 <= f_min < f_max <= rate_hz / 2 must hold, got {f_min}, {f_max}, {rate_hz}")
    if norm not in (None, "slaney"):
        raise ValueError(f'{what}: norm must be None or "slaney", got {norm!r}')
    if scale not in ("htk", "slaney"):
        raise ValueError(f'{what}: mel_scale must be "htk" or "slaney", got {scale!r}')
    ends = _hz_to_mel(np.array([f_min, f_max], np.float64), scale)
    hz = _mel_to_hz(np.linspace(ends[0], ends[1], n_mels + 2), scale)[:, None]
    bins = np.arange(n_fft // 2 + 1) * (rate_hz / n_fft)
    rising, falling = (bins - hz[:-2]) / (hz[1:-1] - hz[:-2]), (hz[2:] - bins) / (hz[2:] - hz[1:-1])
    filters = np.clip(np.minimum(rising, falling), 0, None)
    if norm == "slaney":
        filters *= 2 / (hz[2:] - hz[:-2])
    bands = np.zeros(n_mels, native.MEL_BAND)
    used = filters > 0
    bands["first"] = used.argmax(axis=1)
    bands["count"] = np.where(used.any(axis=1), len(bins) - used[:, ::-1].argmax(axis=1) - bands["first"], 0)
    bands["weights"] = np.cumsum(bands["count"]) - bands["count"]
    parts = [row[band["first"] :][: band["count"]] for row, band in zip(filters, bands, strict=True)]
    return bands, np.concatenate(parts).astype(np.float32)


@lru_cache(maxsize=16)
def _dct(n_mfcc: int, n_mels: int) -> np.ndarray:
    """float32 [n_mfcc, n_mels]: an orthonormal DCT-II."""
    matrix = np.cos(np.pi / n_mels * np.arange(n_mfcc)[:, None] * (np.arange(n_mels) + 0.5)) * np.sqrt(2 / n_mels)
    matrix[0] *= np.sqrt(0.5)
    return matrix.astype(np.float32)
