"""Which data these are, by what is in them: names and labels alone do not tell."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

import numpy as np

from dalipipe.records import Column
from dalipipe.sources.base import Source, digest

_LOOKED_AT = 64  # records


def identity(source: Source, *, threads: int = 1) -> str:
    """A short text that changes when records, their order or what is in them does, and does not where they move: what
    is kept of the data, such as a teacher's answers, is checked against it.

    The source's fingerprint, and the bytes of 64 records from the first to the last one, which are read for it: so it
    is cheap, and other files under the same names are told, but not one changed file among thousands. Where a record
    may be read differently each time (`Source.repeatable`), the fingerprint alone.
    """
    if not source.repeatable:
        return source.fingerprint()
    rows = evenly(len(source) * source.copies, _LOOKED_AT)
    records = source.read(rows, threads=threads)
    good = [row for row in range(len(rows)) if row not in records.errors]
    parts = [source.fingerprint().encode(), *(content_of(records.columns, row) for row in good)]
    return f"{len(source)}-{digest(parts)}"


def evenly(total: int, most: int) -> np.ndarray:
    """int64: ``most`` of ``total`` rows, or all, from the first to the last one."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).astype(np.int64))


def content_of(columns: Mapping[str, Column], row: int) -> bytes:
    """A digest of one record."""
    parts = []
    for name, column in columns.items():
        value = column[row]
        if isinstance(value, np.ndarray | np.generic):
            parts.append(f"{name} {value.dtype.str} {value.shape}".encode() + value.tobytes())
            continue
        try:
            parts.append(name.encode() + pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
        except Exception:  # its type has to do
            parts.append(name.encode() + type(value).__name__.encode())
    return digest(parts).encode()
