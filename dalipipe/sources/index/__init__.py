"""What a source knows before it reads: which files there are, by compact names, kept on disk once it is worked out."""

from __future__ import annotations

from dalipipe.sources.index.cache import Arrays, cache_folder, cached_index

__all__ = ["Arrays", "cache_folder", "cached_index"]
