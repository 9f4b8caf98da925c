"""Folding signals' operators: which of those drawn for a sample share a pass over its frames, and where passes end
because whole spectra are needed.

    time map → channels, gain → filter → times a curve → plus a curve → noise → windows

Operators in this order share a pass (``csrc/signal.h``); one that comes too late begins the sample's next. The passes
of a batch between two spectral operators are a chain: one native call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dalipipe import native
from dalipipe.ops import signal as ops
from dalipipe.ops import signals
from dalipipe.ops.signal import families
from dalipipe.ops.signal.families import EDGES, FRAMES, STAGES, with_frames
from dalipipe.ops.signal.gaps import FrequencyMask, SpecTimeMask, SpecTimeWarp
from dalipipe.policy import Drawn, Leaf, Params
from dalipipe.schema import Field

_ON_SPECTROGRAMS = (FrequencyMask, SpecTimeMask, SpecTimeWarp)
_TABLES = {
    "curves": native.CURVE,
    "segments": native.CURVE_SEGMENT,
    "channel_gains": native.CHANNEL_GAIN,
    "biquads": native.BIQUAD,
    "windows": native.SIGNAL_WINDOW,
}


@dataclass(frozen=True)
class Sounds:
    """Sounds that passes add and that are still to be found: ``at`` int64 [A]: which passes; ``frames`` int64 [A]: how
    long they last; ``params``: as the operator drew them.
    """

    op: families.SoundOp
    at: np.ndarray
    frames: np.ndarray
    params: Params


@dataclass(frozen=True)
class Chain:
    """The passes of samples ``rows`` int64 [A], rising: ``passes`` [P] of `SIGNAL_PASS`, in which stored frames and
    sounds are not filled in, ``starts`` int32 [A+1]; ``tables`` that they point to; ``size`` int64 [A, 4]: after
    them.
    """

    rows: np.ndarray
    passes: np.ndarray
    starts: np.ndarray
    tables: dict[str, np.ndarray]
    size: np.ndarray
    sounds: tuple[Sounds, ...] = ()


@dataclass(frozen=True)
class Spectral:
    """A spectral operator on samples ``rows`` int64 [A]: as drawn, on ``size`` int64 [A, 4]."""

    op: families.SpectralOp
    rows: np.ndarray
    params: Params
    size: np.ndarray


@dataclass(frozen=True)
class SignalParams:
    """What happens to N signals, in ``steps``, of which the last is a chain of all of them; ``out_size`` int64 [N,
    4].
    """

    steps: tuple[Chain | Spectral, ...]
    out_size: np.ndarray

    @property
    def last(self) -> Chain:
        chain = self.steps[-1]
        assert isinstance(chain, Chain)
        return chain


@dataclass
class _Table:
    """Rows of one of a chain's tables, gathered."""

    dtype: np.dtype
    parts: list[np.ndarray] = field(default_factory=list)
    count: int = 0

    def add(self, rows: np.ndarray) -> int:
        """Where they begin."""
        begin = self.count
        self.parts.append(rows)
        self.count += len(rows)
        return begin

    def finish(self) -> np.ndarray:
        return np.concatenate(self.parts) if self.parts else np.zeros(0, self.dtype)


class _Folding:
    """The chain that is being put together: first which operators share passes, then, in `finish`, the passes."""

    def __init__(self, size: np.ndarray) -> None:
        n = len(size)
        self.size = size
        self._depth = np.full(n, -1)  # of each sample's pass that is open
        self._stage = np.full(n, len(STAGES))  # the last that is taken in it
        self._began: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # samples, which of their passes, frames
        self._taken: list[tuple[families.PassOp, np.ndarray, np.ndarray, Params]] = []
        self._passes = np.zeros(0, native.SIGNAL_PASS)
        self._tables = {name: _Table(dtype) for name, dtype in _TABLES.items()}
        self._sounds: list[Sounds] = []

    @property
    def empty(self) -> bool:
        return not self._taken

    def then(self, op: families.PassOp, rows: np.ndarray, params: Params) -> np.ndarray:
        """Takes an operator in; int64 [A]: which of its passes each of its samples has it in."""
        first, last = op.stages
        late = self._stage[rows] >= first
        self._begin(rows if late.all() else rows[late])
        self._stage[rows] = last
        depth = self._depth[rows]
        self._taken.append((op, rows, depth, params))
        if "frames" in params:
            self.size[rows, FRAMES] = params["frames"]
        return depth

    def finish(self, rows: np.ndarray | None = None) -> Chain:
        """The chain of those samples that have passes; or of ``rows``, all of which then get one."""
        if rows is None:
            rows = np.flatnonzero(self._depth >= 0)
        else:
            self._begin(rows[self._depth[rows] < 0])
        starts = np.concatenate([[0], np.cumsum(self._depth[rows] + 1)])
        begin = np.zeros(len(self._depth), np.int64)
        begin[rows] = starts[:-1]
        self._passes = np.zeros(starts[-1], native.SIGNAL_PASS)
        self._passes["gain"], self._passes["direction"], self._passes["channel_gains"] = 1.0, 1, -1
        for of, depth, frames in self._began:
            self._set(begin[of] + depth, in_frames=frames, out_frames=frames)
        for op, of, depth, params in self._taken:
            at = begin[of] + depth
            _WRITERS[type(op)](self, op, at, params)
            if "frames" in params:
                self._set(at, out_frames=params["frames"])
        tables = {name: table.finish() for name, table in self._tables.items()}
        return Chain(rows, self._passes, starts.astype(np.int32), tables, self.size[rows], tuple(self._sounds))

    def _begin(self, rows: np.ndarray) -> None:
        """A new pass for each of these."""
        if len(rows):
            self._depth[rows] += 1
            self._stage[rows] = -1
            self._began.append((rows, self._depth[rows], self.size[rows, FRAMES]))

    def _set(self, at: np.ndarray, **values: object) -> None:
        for name, value in values.items():
            self._passes[name][at] = value

    def _curves(self, segments: np.ndarray) -> np.ndarray:
        """int64 [A]: where ``segments`` float64 [A, S, 5], of a curve each, are among the curves."""
        count = len(segments)
        there = np.isfinite(segments[..., 0])
        counts = there.sum(axis=1)
        kept = segments.reshape(-1, 5) if there.all() else segments[there]
        rows = np.ascontiguousarray(kept).view(native.CURVE_SEGMENT).reshape(-1)
        curves = np.zeros(count, native.CURVE)
        curves["first"] = self._tables["segments"].add(rows) + np.cumsum(counts) - counts
        curves["count"] = counts
        return self._tables["curves"].add(curves) + np.arange(count)

    # What each family writes into passes ``at`` int64 [A] -----------------------------------------------------------

    def shift(self, op: families.ShiftOp, at: np.ndarray, params: Params) -> None:
        self._set(at, start=params["start"], direction=params["direction"], edge=EDGES.index(op.edge))
        if "windows" in params:
            self.windows(op, at, params)

    def line(self, op: families.LineOp, at: np.ndarray, params: Params) -> None:
        ends = {"edge": signals.HOLD, "interpolation": signals.LINEAR}
        self._set(at, map=signals.LINE, line_start=params["line_start"], line_rate=params["line_rate"], **ends)

    def curve(self, op: families.CurveOp, at: np.ndarray, params: Params) -> None:
        ends = {"edge": signals.HOLD, "interpolation": op.interpolation}
        self._set(at, map=signals.CURVE, position=self._curves(params["segments"]), **ends)

    def gain(self, op: families.GainOp, at: np.ndarray, params: Params) -> None:
        self._set(at, gain=params["gain"])

    def channels(self, op: families.ChannelsOp, at: np.ndarray, params: Params) -> None:
        count, channels = params["source"].shape
        rows = np.zeros((count, channels), native.CHANNEL_GAIN)
        rows["from"], rows["gain"] = params["source"], params["gains"]
        first = self._tables["channel_gains"].add(rows.reshape(-1))
        self._set(at, channel_gains=first + channels * np.arange(count))

    def filter(self, op: families.BiquadOp, at: np.ndarray, params: Params) -> None:
        count, sections, _ = params["biquads"].shape
        rows = np.ascontiguousarray(params["biquads"]).view(native.BIQUAD).reshape(-1)
        first = self._tables["biquads"].add(rows)
        self._set(at, first_biquad=first + sections * np.arange(count), biquads=sections)

    def times(self, op: families.TimesOp, at: np.ndarray, params: Params) -> None:
        count, channels, segments, _ = params["curves"].shape
        where = self._curves(params["curves"].reshape(count * channels, segments, 5))[::channels]
        self._set(at, gain_curve=where, gain_curves=channels)

    def plus(self, op: families.PlusOp, at: np.ndarray, params: Params) -> None:
        count, channels, segments, _ = params["curves"].shape
        where = self._curves(params["curves"].reshape(count * channels, segments, 5))[::channels]
        self._set(at, added_curve=where, added_curves=channels)

    def noise(self, op: families.NoiseOp, at: np.ndarray, params: Params) -> None:
        kind = {"noise": signals.WHITE, "noise_level": int(op.relative)}
        self._set(at, **kind, level=params["level"], key=params["noise"])

    def sound(self, op: families.SoundOp, at: np.ndarray, params: Params) -> None:
        self._set(at, noise=signals.RECORDED, noise_level=signals.RELATIVE, level=params["level"])
        self._sounds.append(Sounds(op, at, self._passes["out_frames"][at].astype(np.int64), params))

    def windows(self, op: families.PassOp, at: np.ndarray, params: Params) -> None:
        windows, value = params["windows"], params["value"]
        there = windows[..., 1] >= windows[..., 0]
        counts = there.sum(axis=1)
        kept = windows[there]
        rows = np.zeros(len(kept), native.SIGNAL_WINDOW)
        for place, name in enumerate(("begin", "end", "fade_out", "fade_in", "first_channel", "end_channel")):
            rows[name] = kept[:, place]
        rows["value"], rows["fill"] = value[there], int(getattr(op, "hold", False))
        first = self._tables["windows"].add(rows)
        self._set(at, first_window=first + np.cumsum(counts) - counts, windows=counts)


_FAMILIES: dict[type, Callable[[_Folding, Any, np.ndarray, Params], None]] = {
    families.ShiftOp: _Folding.shift,
    families.LineOp: _Folding.line,
    families.CurveOp: _Folding.curve,
    families.GainOp: _Folding.gain,
    families.ChannelsOp: _Folding.channels,
    families.BiquadOp: _Folding.filter,
    families.TimesOp: _Folding.times,
    families.PlusOp: _Folding.plus,
    families.NoiseOp: _Folding.noise,
    families.SoundOp: _Folding.sound,
    families.WindowOp: _Folding.windows,
}


class _Writers(dict[type, Any]):
    """By the operator's class, looked up among its families once."""

    def __missing__(self, cls: type) -> Any:
        self[cls] = next(write for family, write in _FAMILIES.items() if issubclass(cls, family))
        return self[cls]


_WRITERS = _Writers()


@dataclass(frozen=True)
class SignalFold:
    """A policy's operators on signals, checked: `fold` makes steps of what is drawn for them."""

    leaves: tuple[Leaf, ...]
    positions: tuple[int, ...]
    """Where they stand among the policy's leaves."""

    normalize = None  # what engines of pictures do at the end

    def fold(self, drawn: Sequence[Drawn], size: np.ndarray) -> SignalParams:
        """The steps of N signals of ``size`` int64 [N, 4], given what was drawn for the policy."""
        steps, size, _ = self._fold(drawn, size)
        return SignalParams(steps, size)

    def _fold(
        self, drawn: Sequence[Drawn], size: np.ndarray
    ) -> tuple[tuple[Chain | Spectral, ...], np.ndarray, list[tuple[int, np.ndarray]]]:
        """Also, of each operator, in which chain and which of its passes samples have it."""
        steps: list[Chain | Spectral] = []
        places: list[tuple[int, np.ndarray]] = []
        folding = _Folding(np.array(size, np.int64))
        for one in (drawn[position] for position in self.positions):
            op, rows = one.op, one.rows
            if isinstance(op, families.PassOp):
                places.append((len(steps), folding.then(op, rows, one.params) if len(rows) else rows))
                continue
            assert isinstance(op, families.SpectralOp)
            if not folding.empty:
                steps.append(folding.finish())
            places.append((len(steps), np.zeros(len(rows), np.int64)))
            if len(rows):
                steps.append(Spectral(op, rows, one.params, one.size))
            after = folding.size
            after[rows] = op.output_size(one.params, one.size)
            if isinstance(op, ops.TimeStretch) and op.leave_length_unchanged:
                stretched = stretched_frames(one.size[:, FRAMES], one.params["rate"])
                folding = _Folding(after)
                after[rows] = with_frames(after[rows], stretched)
                folding.then(_AS_LONG, rows, _as_long(one.size[:, FRAMES]))
            else:
                folding = _Folding(after)
        out = folding.finish(np.arange(len(size)))
        return (*steps, out), folding.size, places

    def explain(self, drawn: Sequence[Drawn], size: np.ndarray) -> list[str]:
        """What became of these samples: how many passes they took, then a line per operator."""
        n = len(size)
        steps, _, places = self._fold(drawn, size)
        counts = np.zeros(n, np.int64)
        for step in steps:
            if isinstance(step, Chain):
                counts[step.rows] += np.diff(step.starts)
        shares = [f"{count}: {share / n:.0%}" for count, share in enumerate(np.bincount(counts)) if share]
        lines = [f"passes a sample takes: {', '.join(shares)}"]
        for leaf, (number, depth) in zip(self.leaves, places, strict=True):
            if not len(depth):
                lines.append(f"{leaf.op!r}: drawn for none of {n:,} samples")
            elif isinstance(leaf.op, families.PassOp):
                low, high = int(depth.min()) + 1, int(depth.max()) + 1
                where = f"pass {low}" if low == high else f"passes {low} to {high}"
                part = f", after {number} other step(s)" if number else ""
                stage = STAGES[leaf.op.stages[0]]
                lines.append(f"{leaf.op!r}: {stage}, {where}{part}; {len(depth) / n:.0%} of samples")
            else:
                lines.append(f"{leaf.op!r}: over whole spectra, all samples together; {len(depth) / n:.0%} of samples")
        return lines


class _AsLong(families.ShiftOp):
    """Cut off, or silent at the end."""


_AS_LONG = _AsLong()


def _as_long(frames: np.ndarray) -> Params:
    return {"start": np.zeros_like(frames), "direction": np.ones_like(frames), "frames": frames}


def stretched_frames(frames: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """int64 [A]: how long signals are that are played at ``rate`` float64 [A]."""
    return np.maximum(np.rint(frames / rate).astype(np.int64), 1)


def lower_signal(leaves: Sequence[Leaf], positions: Sequence[int], field: Field, stored_leaves: int = 0) -> SignalFold:
    """Checks a policy's operators on signals, which stand at ``positions`` among its leaves.

    Raises ``ValueError`` naming the operator that stands in the wrong place.
    """
    features: families.SignalOp | None = None
    many_rates: families.SignalOp | None = None
    for leaf in leaves:
        op = leaf.op
        if isinstance(op, ops.Resample) and (leaf.gates or op.p != 1.0 or not op.one_rate):
            many_rates = op
        if isinstance(op, ops.FeatureOp):
            if leaf.gates or op.p != 1.0:
                raise ValueError(f"{op!r} applies to every sample: give it p=1, in no container")
            if features is not None:
                raise ValueError(f"{op!r}: {features!r} has made a spectrogram already; keep one of them")
            if field.rate_hz is None:
                raise ValueError(f"{op!r}: {field.name!r} has no rate: give its source a rate_hz")
            if many_rates is not None:
                raise ValueError(
                    f"{op!r}: its bands need one rate, and {many_rates!r} leaves several: give it one, p=1"
                )
            features = op
        elif isinstance(op, _ON_SPECTROGRAMS) and features is None:
            raise ValueError(f"{op!r} applies to spectrograms: put MelSpectrogram or MFCC before it")
        elif isinstance(op, families.SpectralOp) and features is not None:
            raise ValueError(f"{op!r} applies to sounds, and {features!r} has made a spectrogram: move it before")
    return SignalFold(tuple(leaves), tuple(positions))
