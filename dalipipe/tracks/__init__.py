"""Tracks: the way of one field through a loader, a module per modality. `base` says what a track is."""

from __future__ import annotations

from dalipipe.stages import StagedPlan
from dalipipe.tracks.base import LaneConfig, StageClock, Track
from dalipipe.tracks.image import ImageTrack
from dalipipe.tracks.staged import StagedTrack

# Kind of field → its track. A new modality adds its line here.
_TRACKS = {"image": ImageTrack}


def make_track(config: LaneConfig, clock: StageClock) -> Track | None:
    """``None`` where there is nothing to decode or augment."""
    if config.plan.field is None:
        return None
    if isinstance(config.plan, StagedPlan):
        return StagedTrack(config, clock)
    return _TRACKS[config.plan.field.kind](config, clock)
