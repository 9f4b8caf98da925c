"""Signals: sounds are decoded, parameters drawn, and chains of passes make them a batch, padded where lengths
differ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dalipipe import native
from dalipipe.clock import StageClock
from dalipipe.decoders.audio import decode_audio
from dalipipe.engines.signal import SignalEngine, at_rate
from dalipipe.ops.signal import AddBackgroundNoise
from dalipipe.plan import Draws, Plan
from dalipipe.records import Encoded, Signals
from dalipipe.sampler import Step
from dalipipe.schema import Field
from dalipipe.tracks.base import LaneConfig, RowErrors, draw_step


@dataclass(frozen=True)
class _Flight:
    columns: Mapping[str, Any]
    draws: Draws
    batch: Callable[[], tuple[torch.Tensor, np.ndarray]]


class SignalTrack:
    """A `Track` for sounds, encoded or as frames, and for other series."""

    def __init__(self, config: LaneConfig, clock: StageClock) -> None:
        plan = config.plan
        assert isinstance(plan, Plan) and plan.field is not None
        self._config, self._clock, self._plan, self._field = config, clock, plan, plan.field
        if config.engine == "reference":
            raise ValueError(f'engine="reference" is for pictures, not for {self._field.kind}: leave it out')
        sounds = {op: load_sounds(op, self._field.rate_hz, threads=config.threads) for op in _background(plan)}
        self._engine = SignalEngine(plan, config.output, threads=config.threads, sounds=sounds)
        self._in_flight: deque[_Flight] = deque()

    def submit(self, columns: Mapping[str, Any], key: np.ndarray, step: Step) -> None:
        signals = self._decode(columns[self._field.name])
        draws = draw_step(self._plan, self._clock, key, step, self._engine.size(signals))
        if self._config.output.device.type == "cpu":  # at work while the next batch is read and drawn
            batch = self._engine.start(signals, draws)
        else:  # on the stream that is current when it is collected
            batch = partial(self._on_device, signals, draws)
        self._in_flight.append(_Flight(columns, draws, batch))

    def collect(self) -> dict[str, Any]:
        flight = self._in_flight.popleft()
        with self._clock.stage("augment", len(flight.columns[self._field.name])):
            batch, frames = flight.batch()
        found: dict[str, Any] = {self._field.name: batch}
        if self._field.length is not None:
            found[self._field.length] = torch.from_numpy(frames)
        mix, params = self._plan.mix, flight.draws.mix
        if mix is not None and params is not None:
            classes = self._config.source.classes
            labels = mix.mix_labels(flight.columns[mix.labels], params, None if classes is None else len(classes))
            found[mix.labels] = torch.from_numpy(labels)
        return found

    @property
    def buffers_bytes(self) -> int:
        return self._engine.buffers_bytes

    def reset(self) -> None:
        self._in_flight.clear()

    def close(self) -> None:
        self.reset()
        self._engine.close()

    def _on_device(self, signals: Signals, draws: Draws) -> tuple[torch.Tensor, np.ndarray]:
        return self._engine.start(signals, draws)()

    def _decode(self, column: Encoded | Signals) -> Signals:
        with self._clock.stage("decode", len(column)):
            signals, errors = decoded(column, self._field, threads=self._config.threads)
        if errors:
            raise RowErrors(errors)
        return signals


def decoded(column: Encoded | Signals, field: Field, *, threads: int) -> tuple[Signals, dict[int, Exception]]:
    """N signals on the host, and what is wrong with some, by row: they cannot be decoded, have no frames, or values
    that are no numbers.
    """
    errors: dict[int, Exception] = {}
    if isinstance(column, Encoded):
        column, errors = decode_audio(column, channels=field.channels or 1, threads=threads)
    for row in np.flatnonzero(column.frames == 0).tolist():
        errors.setdefault(row, ValueError(f"{field.name!r} has no frames: remove the sample, or leave it out"))
    finite = native.finite_signals(
        column.address,
        column.frames,
        column.frame_step,
        column.channel_step,
        channels=column.channels,
        threads=threads,
    )
    for row in np.flatnonzero(finite == 0).tolist():
        errors.setdefault(row, ValueError(f"{field.name!r} has values that are NaN or infinite: mend or remove it"))
    return column, errors


def _background(plan: Plan) -> list[AddBackgroundNoise]:
    return [leaf.op for leaf in plan.policy.leaves if isinstance(leaf.op, AddBackgroundNoise)]


def load_sounds(op: AddBackgroundNoise, rate_hz: float | None, *, threads: int) -> Signals:
    """Its recordings, of one channel each, at this rate.

    Raises ``FileNotFoundError``, or ``ValueError`` naming the file that cannot be used.
    """
    files = []
    for path in op.sounds:
        if not Path(path).is_file():
            raise FileNotFoundError(f"AddBackgroundNoise: there is no file {path}: give paths that are there")
        files.append(np.fromfile(path, np.uint8))
    encoded = Encoded(np.concatenate(files), np.cumsum([0, *map(len, files)]))
    sounds, errors = decoded(encoded, Field("sounds", "audio", channels=1, rate_hz=rate_hz), threads=threads)
    for row, error in sorted(errors.items()):
        raise ValueError(f"AddBackgroundNoise: {op.sounds[row]} cannot be used: {error}") from error
    return at_rate(sounds, rate_hz, threads=threads)


def explain_signals(
    config: LaneConfig, key: np.ndarray, indices: np.ndarray, columns: Mapping[str, Any], rows: np.ndarray
) -> list[str]:
    """What becomes of the signals of records ``indices`` int64 [n] that were read into ``columns``; ``rows`` int64 [m]:
    those without an error.
    """
    plan = config.plan
    assert plan.field is not None
    name, column = plan.field.name, columns[plan.field.name]
    signals, errors = decoded(column, plan.field, threads=config.threads)
    rows = rows[~np.isin(rows, list(errors))]
    how = "files, decoded on the host" if isinstance(column, Encoded) else "frames as they are stored"
    lines = [f"{name!r}: {how}"]
    if not len(rows):
        return [*lines, f"    none of the {len(indices)} looked at is good"]
    frames = np.sort(signals.frames[rows])
    lines.append(f"    {frames[0]:,} to {frames[-1]:,} frames of {signals.channels} channel(s)")
    size = (int(frames[len(frames) // 2]), signals.channels, int(plan.field.rate_hz or 0), 1)
    return [*lines, plan.explain(size=size)]
