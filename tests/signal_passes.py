"""Chains of passes over signals, made at random: as the native operator takes them, and through their specification."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dalipipe import native
from dalipipe.ops import signals as spec

TABLES = {
    "curves": native.CURVE,
    "segments": native.CURVE_SEGMENT,
    "channel_gains": native.CHANNEL_GAIN,
    "biquads": native.BIQUAD,
    "windows": native.SIGNAL_WINDOW,
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass
class Chains:
    """Samples with their passes. Arrays of rows are lists until ``run``."""

    channels: int
    passes: list[np.ndarray] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    inputs: list[np.ndarray] = field(default_factory=list)  # [T, C], any strides
    tables: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: {name: [] for name in TABLES})
    recordings: list[np.ndarray] = field(default_factory=list)

    def add(self, x: np.ndarray, *passes: dict[str, Any]) -> None:
        """A sample: ``x`` float32 [T, C], and what its passes set; the rest of a pass does nothing."""
        self.inputs.append(x)
        frames = len(x)
        for fields in passes:
            row = np.zeros((), native.SIGNAL_PASS)
            row["in_frames"] = row["out_frames"] = frames
            row["direction"] = row["gain"] = 1
            row["channel_gains"] = -1
            for name, value in fields.items():
                row[name] = value
            frames = int(row["out_frames"])
            self.passes.append(row)
        self.starts.append(len(self.passes))

    def put(self, name: str, rows: list[tuple[Any, ...]]) -> int:
        """Adds rows to a table; the first one's place."""
        self.tables[name] += rows
        return len(self.tables[name]) - len(rows)

    def curve(self, *segments: tuple[float, tuple[float, ...]]) -> int:
        """Adds a curve: (begin, c) of each segment."""
        first = self.put("segments", list(segments))
        return self.put("curves", [(first, len(segments))])

    def arrays(self) -> dict[str, Any]:
        made = {name: np.array(rows, TABLES[name]) for name, rows in self.tables.items()}
        passes = np.array(self.passes, native.SIGNAL_PASS).reshape(-1)
        for x, first in zip(self.inputs, self.starts, strict=False):
            passes[first]["data"] = x.ctypes.data
            passes[first]["frame_step"], passes[first]["channel_step"] = (step // 4 for step in x.strides)
        return {"passes": passes, "starts": np.array(self.starts, np.int32), **made}

    def run(
        self, signals: Any = native.signals, dtype: Any = torch.float32, planar: bool = True, room: int = 0, **how: Any
    ) -> list[torch.Tensor]:
        """What ``signals`` makes of them: [T, C] each; checks that nothing but its out and its padding is written."""
        given, device = self.arrays(), how.get("device", torch.device("cpu"))
        held = [_moved(array, given["passes"], name, device) for array, name in self._addressed()]
        outs = np.zeros(len(self.inputs), native.SIGNAL_OUT)
        kept, views = [], []
        for i, last in enumerate(self.starts[1:]):
            frames = int(self.passes[last - 1]["out_frames"])
            shape = (self.channels + 2, frames + room) if planar else (frames + room + 2, self.channels)
            whole = torch.full(shape, 77, dtype=dtype, device=device)
            view = whole[1:-1].T if planar else whole[1:-1]
            outs[i] = (view.data_ptr(), view.stride(0), view.stride(1), frames + room)
            kept.append(whole)
            views.append(view)
        signals(given.pop("passes"), given.pop("starts"), outs, channels=self.channels, dtype=dtype, **given, **how)
        del held  # on a device, what the stream has passed by the time that memory is used again
        for whole, view in zip(kept, views, strict=True):
            assert (whole[[0, -1]] == 77).all(), "it writes outside"
            assert not room or (view[-room:] == 0).all(), "padding is zeros"
        return [view[: len(view) - room].cpu() for view in views]

    def _addressed(self) -> list[tuple[np.ndarray, str]]:
        return [(x, "data") for x in self.inputs] + [(x, "noise_data") for x in self.recordings]

    def expected(self) -> list[np.ndarray]:
        """What the specification makes of them."""
        return [
            self._through(x, self.passes[first:last])
            for x, first, last in zip(self.inputs, self.starts, self.starts[1:], strict=False)
        ]

    def _segments(self, curve: int) -> list[spec.Segment]:
        first, count = self.tables["curves"][curve]
        return [spec.Segment(*row) for row in self.tables["segments"][first : first + count]]

    def _through(self, x: np.ndarray, passes: list[np.ndarray]) -> np.ndarray:
        with np.errstate(all="ignore"):
            for s in passes:
                x = self._one(x, s)
        return x

    def _one(self, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        frames, edge, how = int(s["out_frames"]), int(s["edge"]), int(s["interpolation"])
        if s["map"] == spec.SHIFT:
            x = spec.shift(x, int(s["start"]), frames, direction=int(s["direction"]), edge=edge)
        elif s["map"] == spec.LINE:
            x = spec.line(x, float(s["line_start"]), float(s["line_rate"]), frames, edge=edge, interpolation=how)
        else:
            x = spec.curve(x, self._segments(int(s["position"])), frames, edge=edge, interpolation=how)
        if (first := int(s["channel_gains"])) >= 0:
            source, gains = zip(*self.tables["channel_gains"][first : first + self.channels], strict=True)
            x = spec.channels(x, np.array(source), np.array(gains))
        else:
            x = spec.gain(x, s["gain"])
        if s["biquads"]:
            rows = self.tables["biquads"][int(s["first_biquad"]) :][: int(s["biquads"])]
            x = spec.biquads(x, np.array([[*b, *a] for b, a in rows]))
        if s["gain_curves"]:
            x = spec.times(x, [self._segments(int(s["gain_curve"]) + i) for i in range(s["gain_curves"])])
        if s["added_curves"]:
            x = spec.plus(x, [self._segments(int(s["added_curve"]) + i) for i in range(s["added_curves"])])
        relative = bool(s["noise_level"])
        if s["noise"] == spec.WHITE:
            x = spec.white_noise(x, s["level"], s["key"], relative=relative)
        elif s["noise"] == spec.RECORDED:
            recorded = next(r for r in self.recordings if r.ctypes.data == int(s["noise_data"]))
            x = spec.recorded_noise(x, s["level"], recorded, int(s["noise_start"]), relative=relative)
        given = self.tables["windows"][int(s["first_window"]) :][: int(s["windows"])]
        return spec.windows(x, [spec.Window(*row) for row in given])


class Maker:
    """Chains of any passes that the operator takes, signals of up to ``longest`` frames."""

    def __init__(self, seed: int, *, channels: int, longest: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.longest = longest
        self.chains = Chains(channels)

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def frames(self) -> int:
        few, some = self.rng.integers(1, 9), self.rng.integers(1, self.longest + 1)
        return int(self.rng.choice([1, few, some, some, some]))

    def signal(self) -> np.ndarray:
        frames, channels = self.frames(), self.chains.channels
        x = self.rng.normal(size=(frames, channels)).astype(np.float32)
        if self.chance(0.1):
            x[:] = 0
        form = self.rng.integers(4)
        if form == 1:
            return np.asfortranarray(x)
        if form == 2:
            wide = np.zeros((frames, 3, channels + 2), np.float32)
            wide[:, 1, 1:-1] = x
            return wide[:, 1, 1:-1]
        return np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1] if form == 3 else x

    def curve(self, frames: int, scale: float) -> int:
        begins = np.sort(self.rng.uniform(-0.2, 1.2, self.rng.integers(1, 6)) * frames)
        if self.chance(0.3):
            begins = np.round(begins)
        shape = scale / np.maximum(frames, 1.0) ** np.arange(4)
        return self.chains.curve(*((float(b), tuple(self.rng.normal(size=4) * shape)) for b in begins))

    def curves(self, frames: int) -> tuple[int, int]:
        count = int(self.rng.choice([1, self.chains.channels]))
        first, *_ = [self.curve(frames, 1.0) for _ in range(count)]
        return first, count

    def some_pass(self, frames: int) -> dict[str, Any]:
        r, chains = self.rng, self.chains
        s: dict[str, Any] = {"out_frames": frames if self.chance(0.5) else self.frames()}
        out = s["out_frames"]
        s["edge"], s["map"] = int(r.integers(4)), int(r.choice([0, 0, 1, 2]))
        s["interpolation"] = int(r.integers(2))
        if s["map"] == spec.SHIFT:
            s["direction"] = int(r.choice([1, -1]))
            s["start"] = int(r.choice([0, frames - 1, r.integers(-3 * frames, 3 * frames + 1), -(1 << 40)]))
        elif s["map"] == spec.LINE:
            s["line_start"] = float(r.choice([0, r.normal() * frames, 1e300]))
            s["line_rate"] = float(r.choice([1, 0.5, -1, r.normal() * 3 * frames / out, -1e300]))
        else:
            s["position"] = self.curve(out, 1.5 * frames)
        if self.chance(0.3):
            s["gain"] = r.normal()
        elif self.chance(0.3):
            gains = [(int(r.integers(chains.channels)), float(r.normal())) for _ in range(chains.channels)]
            s["channel_gains"] = chains.put("channel_gains", gains)
        if self.chance(0.2):
            rows = [(tuple(r.normal(size=3)), tuple(r.uniform(-0.5, 0.45, 2))) for _ in range(r.integers(1, 4))]
            s["first_biquad"], s["biquads"] = chains.put("biquads", rows), len(rows)
        if self.chance(0.3):
            s["gain_curve"], s["gain_curves"] = self.curves(out)
        if self.chance(0.3):
            s["added_curve"], s["added_curves"] = self.curves(out)
        if self.chance(0.5):
            s["noise_level"], s["level"] = int(r.integers(2)), float(r.normal())
            s["noise"] = int(r.integers(1, 3))
            s["key"] = r.integers(0, 1 << 32, 5, dtype=np.uint32)
            if s["noise"] == spec.RECORDED:
                recorded = r.normal(size=self.frames()).astype(np.float32) * self.chance(0.9)
                recorded = recorded.astype(np.float32)
                chains.recordings.append(recorded)
                s["noise_data"], s["noise_frames"] = recorded.ctypes.data, len(recorded)
                s["noise_start"] = int(r.integers(0, 3 * len(recorded)))
        if self.chance(0.3):
            rows = [self.window(out) for _ in range(r.integers(1, 4))]
            s["first_window"], s["windows"] = chains.put("windows", rows), len(rows)
        return s

    def window(self, frames: int) -> tuple[Any, ...]:
        r = self.rng
        begin, end = sorted(int(v) for v in r.integers(-frames, 2 * frames + 1, 2))
        fades = [int(v) for v in r.integers(0, frames + 1, 2)] if self.chance(0.5) else [0, 0]
        first, last = sorted(int(v) for v in r.integers(0, self.chains.channels + 1, 2))
        return begin, end, *fades, first, last, int(r.integers(2)), float(r.normal())

    def make(self, samples: int) -> Chains:
        for _ in range(samples):
            x = self.signal()
            frames, passes = len(x), []
            for _ in range(self.rng.integers(1, 5)):
                passes.append(self.some_pass(frames))
                frames = passes[-1]["out_frames"]
            self.chains.add(x, *passes)
        return self.chains


def _moved(array: np.ndarray, passes: np.ndarray, name: str, device: torch.device) -> Any:
    """Takes an array to a device, strides and all, and passes that point to it along; what holds it there."""
    if device.type == "cpu" or not array.size:
        return None
    low, high = np.lib.array_utils.byte_bounds(array)
    there = torch.tensor(np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low)), device=device)
    passes[name][passes[name] == array.ctypes.data] = there.data_ptr() + array.ctypes.data - low
    return there
