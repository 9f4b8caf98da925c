"""The engine of signals: chains of passes, each a native call for a batch, and spectral operators between them; on the
host's cores or on a CUDA device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dalipipe import native, spectral
from dalipipe.buffers import BufferPool
from dalipipe.engines.base import Output
from dalipipe.ops import signal as ops
from dalipipe.ops.signal.families import BINS, CHANNELS, FRAMES, RATE
from dalipipe.ops.signal.spectra import resampled_frames
from dalipipe.passes.mix import MixParams
from dalipipe.passes.signal import Chain, SignalParams, Sounds, Spectral
from dalipipe.plan import Draws, Plan
from dalipipe.policy import Params
from dalipipe.records import Signals
from dalipipe.transfers import upload_signals

Finished = tuple[torch.Tensor, np.ndarray]
"""A batch, padded with zeros, and how many frames of each sample are its own: int64 [N]."""


class SignalEngine:
    """Applies a plan to batches of signals.

    What comes out: sounds [N, C, T], other series [N, T, C], spectrograms [N, C, bins, T], on the output's device, T
    as long as the longest. Host tensors' memory comes back to a pool when nobody refers to them any more.
    """

    def __init__(
        self,
        plan: Plan,
        output: Output,
        *,
        threads: int,
        sounds: Mapping[ops.AddBackgroundNoise, Signals] | None = None,
    ) -> None:
        """``sounds``: the recordings of each operator that adds some, on the host."""
        assert plan.field is not None
        if output.device.type == "cuda" and not native.build_info()["cuda"]:
            raise RuntimeError(
                "dalipipe was built without CUDA: build it where an nvcc is found (DALIPIPE_CUDA unset), "
                'or give device="cpu"'
            )
        output.check(plan)
        self._plan, self._output, self._threads, self._field = plan, output, threads, plan.field
        self._buffers = BufferPool()
        self._sounds = dict(sounds or {})
        if output.device.type == "cuda":
            self._sounds = {op: upload_signals(kept, output.device) for op, kept in self._sounds.items()}

    @property
    def _rate_hz(self) -> float | None:
        return self._field.rate_hz

    def size(self, signals: Signals) -> np.ndarray:
        """int64 [N, 4]: of signals as they will be when the plan's operators get them (`families`)."""
        size = np.ones((len(signals), 4), np.int64)
        size[:, FRAMES], size[:, CHANNELS] = signals.frames, signals.channels
        size[:, RATE] = int(self._rate_hz or 0)
        rows = others(signals, self._rate_hz)
        if len(rows):
            size[rows, FRAMES] = _resampled(signals, rows, self._rate_hz)
        return size

    def start(self, signals: Signals, draws: Draws) -> Callable[[], Finished]:
        """N signals on the host, or on the output's device → what gives the batch, and waits for it where it has to; on
        CUDA it is queued on the stream that is current here.
        """
        params: SignalParams = draws.params
        if self._output.device.type == "cuda" and not signals.on_cuda:
            signals = upload_signals(signals, self._output.device)
        rows = others(signals, self._rate_hz)
        if len(params.steps) == 1 and not len(rows):
            return self._last(params.last, signals, draws)

        def finish() -> Finished:
            # What needs whole spectra is torch's work, too: all of it happens when the batch is collected.
            now = signals
            if len(rows):
                now = at_rate(now, self._rate_hz, threads=self._threads)
            for step in params.steps[:-1]:
                now = self._between(step, now)
            return self._last(params.last, now, draws)()

        if self._output.device.type == "cuda":
            batch = finish()
            return lambda: batch
        return finish

    @property
    def buffers_bytes(self) -> int:
        return self._buffers.free_bytes

    def close(self) -> None:
        self._buffers.close()

    def _between(self, step: Chain | Spectral, signals: Signals) -> Signals:
        if isinstance(step, Spectral):
            changed = self._spectral(step, signals.of(step.rows))
            return changed if len(step.rows) == len(signals) else signals.with_rows(step.rows, changed)
        taken, channels = signals.of(step.rows), signals.channels
        frames = step.size[:, FRAMES]
        starts = np.concatenate([[0], np.cumsum(frames)]) * channels
        memory = self._empty((int(starts[-1]),), torch.float32)
        out = Signals(
            address=(memory.data_ptr() + 4 * starts[:-1]).astype(np.uint64),
            frames=frames.astype(np.int32),
            frame_step=np.ones(len(frames), np.int64),
            channel_step=frames.copy(),
            channels=channels,
            owner=memory,
            on_cuda=memory.is_cuda,
        )
        outs = np.zeros(len(frames), native.SIGNAL_OUT)
        outs["data"], outs["frames"] = out.address, frames
        outs["frame_step"], outs["channel_step"] = 1, frames
        self._run(step, taken, outs, memory)()
        return out if len(step.rows) == len(signals) else signals.with_rows(step.rows, out)

    def _last(self, chain: Chain, signals: Signals, draws: Draws) -> Callable[[], Finished]:
        n, frames = len(signals), chain.size[:, FRAMES].copy()
        longest, channels, bins = int(frames.max(initial=0)), signals.channels, int(chain.size[:, BINS].max(initial=1))
        time_last = self._field.kind == "audio" or bins > 1
        shape = (n, channels, longest) if time_last else (n, longest, channels)
        out = self._empty(shape, self._output.dtype)
        outs = np.zeros(n, native.SIGNAL_OUT)
        step_bytes = longest * channels * out.element_size()
        outs["data"] = (out.data_ptr() + np.arange(n, dtype=np.int64) * step_bytes).astype(np.uint64)
        outs["frame_step"], outs["channel_step"] = (1, longest) if time_last else (channels, 1)
        outs["frames"] = longest
        wait = self._run(chain, signals, outs, out)

        def finish() -> Finished:
            wait()
            if draws.mix is not None:
                _mix(out, draws.mix, time_last, bins, frames, self._threads)
            return (out.view(n, channels // bins, bins, longest) if bins > 1 else out), frames

        return finish

    def _run(self, chain: Chain, signals: Signals, outs: np.ndarray, memory: torch.Tensor) -> Callable[[], None]:
        """Starts a chain; what is returned waits for it on the host."""
        passes, first = chain.passes, chain.starts[:-1]
        for name, value in (
            ("data", signals.address),
            ("frame_step", signals.frame_step),
            ("channel_step", signals.channel_step),
            ("in_frames", signals.frames),
        ):
            passes[name][first] = value
        held = [self._find(sounds, passes) for sounds in chain.sounds]
        running = native.start_signals(
            passes,
            chain.starts,
            outs,
            channels=signals.channels,
            dtype=memory.dtype,
            device=memory.device,
            threads=self._threads,
            keep=(signals, held, memory),
            **chain.tables,
        )
        return running.wait

    def _find(self, sounds: Sounds, passes: np.ndarray) -> Signals:
        """Fills in where sounds that passes add lie, and returns what holds them."""
        op, params = sounds.op, sounds.params
        if isinstance(op, ops.AddBackgroundNoise):
            found = self._sounds[op].of(params["which"])
            begin = (params["place"] * found.frames).astype(np.int64)
        else:
            assert isinstance(op, ops.AddColorNoise)
            device, threads = self._output.device, self._threads
            frames, decay = sounds.frames, params["decay_db"]
            found = spectral.coloured_noise(params["noise"], frames, -decay, device=device, threads=threads)
            begin = np.zeros(len(found), np.int64)
        for name, value in (("noise_data", found.address), ("noise_frames", found.frames), ("noise_start", begin)):
            passes[name][sounds.at] = value
        return found

    def _spectral(self, step: Spectral, signals: Signals) -> Signals:
        op, params, threads = step.op, step.params, self._threads
        if isinstance(op, ops.VocoderOp):
            # Windows go by rates, which an operator before may have made many.
            windows = op.windows(step.size)
            changed = signals
            for n_fft in np.unique(windows).tolist():
                rows = np.flatnonzero(windows == n_fft)
                changed = changed.with_rows(rows, self._vocode(op, params, signals, rows, n_fft))
            return changed
        if isinstance(op, ops.Resample):
            ratio = params["rate"] / step.size[:, RATE]
            return spectral.resample(signals, ratio, params["frames"], threads=threads)
        mel: dict[str, Any] = {"rate_hz": float(step.size[0, RATE]), "threads": threads}  # that of all
        assert isinstance(op, ops.MelSpectrogram | ops.MFCC)
        for name in ("n_fft", "hop", "win_length", "n_mels", "f_min", "f_max", "mel_scale"):
            mel[name] = getattr(op, name)
        if isinstance(op, ops.MFCC):
            return spectral.mfcc(signals, n_mfcc=op.n_mfcc, **mel)
        return spectral.mel_spectrogram(signals, power=op.power, log=op.log, norm=op.norm, **mel)

    def _vocode(self, op: ops.VocoderOp, params: Params, signals: Signals, rows: np.ndarray, n_fft: int) -> Signals:
        taken, threads = signals.of(rows), self._threads
        if isinstance(op, ops.TimeStretch):
            return spectral.stretch(taken, params["rate"][rows], n_fft=n_fft, hop=n_fft // 4, threads=threads)
        return spectral.pitch_shift(taken, params["semitones"][rows], n_fft=n_fft, threads=threads)

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if self._output.device.type == "cuda":
            return torch.empty(shape, dtype=dtype, device=self._output.device)
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        memory = self._buffers.take(math.prod(shape) * dtype.itemsize)
        return torch.frombuffer(memory, dtype=dtype).view(shape)


def others(signals: Signals, rate_hz: float | None) -> np.ndarray:
    """int64 [A]: those that have another rate; none where either is not known."""
    if signals.rate_hz is None or rate_hz is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero(signals.rate_hz != rate_hz)


def at_rate(signals: Signals, rate_hz: float | None, *, threads: int) -> Signals:
    """Signals as they would have been recorded at one rate."""
    rows = others(signals, rate_hz)
    if len(rows):
        assert signals.rate_hz is not None and rate_hz is not None
        frames, ratio = _resampled(signals, rows, rate_hz), rate_hz / signals.rate_hz[rows]
        signals = signals.with_rows(rows, spectral.resample(signals.of(rows), ratio, frames, threads=threads))
    return replace(signals, rate_hz=None)


def _resampled(signals: Signals, rows: np.ndarray, rate_hz: float | None) -> np.ndarray:
    assert signals.rate_hz is not None and rate_hz is not None
    return resampled_frames(signals.frames[rows], signals.rate_hz[rows].astype(np.int64), int(rate_hz))


def _mix(out: torch.Tensor, mix: MixParams, time_last: bool, bins: int, frames: np.ndarray, threads: int) -> None:
    """Mixes a batch's samples with each other, in place, and lengthens those that take of a longer one."""
    pairs = mix.pairs.copy()
    if time_last:  # a "picture" with a channel for each channel and bin, a row high
        n, channels, longest = out.shape
        picture = out.view(n, channels, 1, longest)
        begin, length = pairs["boxes"][..., 0].copy(), pairs["boxes"][..., 2].copy()
        pairs["boxes"][..., 0], pairs["boxes"][..., 2] = 0, np.minimum(length, 1)
        pairs["boxes"][..., 1], pairs["boxes"][..., 3] = begin, length
    else:
        picture = out.view(out.shape[0], 1, *out.shape[1:])
    native.mix(picture, pairs, threads=threads, layout="nchw")
    blended = mix.weight != 1
    frames[blended] = np.maximum(frames, frames[mix.partner])[blended]
