"""Tracks: the way of one field through a loader, a module per modality. `base` says what a track is."""

from __future__ import annotations

from typing import Any

import numpy as np

from dalipipe.clock import StageClock
from dalipipe.stages import StagedPlan
from dalipipe.tracks.base import LaneConfig, Track
from dalipipe.tracks.image import ImageTrack, explain_images
from dalipipe.tracks.signal import SignalTrack, explain_signals
from dalipipe.tracks.staged import StagedTrack
from dalipipe.tracks.text import TextTrack, explain_texts

# Kind of field → its track, and what tells people of it. A new modality adds its line here.
_TRACKS: dict[str, Any] = {"image": ImageTrack, "audio": SignalTrack, "series": SignalTrack, "text": TextTrack}
_EXPLAIN = {
    "image": explain_images,
    "audio": explain_signals,
    "series": explain_signals,
    "text": explain_texts,
}


def make_track(config: LaneConfig, clock: StageClock) -> Track | None:
    """``None`` where there is nothing to decode or augment."""
    if config.plan.field is None:
        return None
    if isinstance(config.plan, StagedPlan):
        return StagedTrack(config, clock)
    return _TRACKS[config.plan.field.kind](config, clock)


def explain(config: LaneConfig, key: np.ndarray, indices: np.ndarray) -> str:
    """What becomes of records int64 [n] in the epoch with this `rng.make_key`, in lines."""
    if config.plan.field is None:
        return "nothing to decode or augment"
    records = config.source.read(indices, threads=config.threads)
    rows = np.array([row for row in range(len(indices)) if row not in records.errors], np.int64)
    return "\n".join(_EXPLAIN[config.plan.field.kind](config, key, indices, records.columns, rows))
