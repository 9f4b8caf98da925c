"""Tracks: the way of one field through a loader, a module per modality. `base` says what a track is."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from dalipipe.clock import StageClock
from dalipipe.stages import StagedPlan
from dalipipe.tracks.base import LaneConfig, Track

# Kind of field → its module, its track, and what tells people of it; loaded when there is such a field. A new modality
# adds its line here.
_TRACKS = {
    "image": ("image", "ImageTrack", "explain_images"),
    "audio": ("signal", "SignalTrack", "explain_signals"),
    "series": ("signal", "SignalTrack", "explain_signals"),
    "text": ("text", "TextTrack", "explain_texts"),
}


def make_track(config: LaneConfig, clock: StageClock) -> Track | None:
    """``None`` where there is nothing to decode or augment."""
    if config.plan.field is None:
        return None
    if isinstance(config.plan, StagedPlan):
        from dalipipe.tracks.staged import StagedTrack

        return StagedTrack(config, clock)
    module, track, _ = _TRACKS[config.plan.field.kind]
    made: Track = getattr(_module(module), track)(config, clock)
    return made


def explain(config: LaneConfig, key: np.ndarray, indices: np.ndarray) -> str:
    """What becomes of records int64 [n] in the epoch with this `rng.make_key`, in lines."""
    if config.plan.field is None:
        return "nothing to decode or augment"
    records = config.source.read(indices, threads=config.threads)
    rows = np.array([row for row in range(len(indices)) if row not in records.errors], np.int64)
    module, _, explain_them = _TRACKS[config.plan.field.kind]
    return "\n".join(getattr(_module(module), explain_them)(config, key, indices, records.columns, rows))


def _module(name: str) -> Any:
    return importlib.import_module(f"dalipipe.tracks.{name}")
