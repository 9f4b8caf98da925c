"""Samples kept in memory, so that later epochs neither read nor decode them.

`settings` checks what was asked for; `samples` stands before a source and joins what is kept with what is read;
`layout` says what is kept of a sample, `store` where; `arena` and `device` are the memory, `meeting` is how the
processes of a node come to share it, and `available` says how much there is.
"""

from __future__ import annotations

from dalipipe.cache.samples import Reading, SampleCache
from dalipipe.cache.settings import CacheSettings, Place, make_settings

__all__ = ["CacheSettings", "Place", "Reading", "SampleCache", "make_settings"]
