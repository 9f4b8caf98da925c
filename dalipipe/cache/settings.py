"""What a cache is to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from dalipipe.sizes import parse_bytes

Place = Literal["ram", "device"]


@dataclass(frozen=True)
class CacheSettings:
    """``place``: whose memory; ``nbytes``: how much of it, ``None``: a share of what there is."""

    place: Place
    nbytes: int | None


def make_settings(cache: Any, cache_bytes: Any) -> CacheSettings | None:
    """``None`` where nothing is to be kept. Raises ``TypeError`` or ``ValueError`` naming what to give instead."""
    if cache is None:
        if cache_bytes is not None:
            raise ValueError(f'DataLoader: cache_bytes={cache_bytes!r} goes with cache="ram" or cache="device"')
        return None
    if cache not in get_args(Place):
        raise ValueError(f'DataLoader: cache must be "ram", "device" or None, got {cache!r}')
    if cache_bytes is None:
        return CacheSettings(cache, None)
    if not isinstance(cache_bytes, int | str) or isinstance(cache_bytes, bool):
        raise TypeError(f'DataLoader: cache_bytes must be a number of bytes or a text as "8GiB", got {cache_bytes!r}')
    try:
        return CacheSettings(cache, parse_bytes(cache_bytes))
    except ValueError as error:
        raise ValueError(f"DataLoader: cache_bytes: {error}") from error
