"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def parse_bytes(size: int | str) -> int:
    """``512MiB``, ``2 GB``, ``1000000`` → bytes, at least 1. Raises ``ValueError``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*", str(size), re.IGNORECASE)
    unit = "" if match is None else match[2].lower()
    unit = unit if unit in _UNITS else f"{unit}b"
    if match is None or unit not in _UNITS or int(float(match[1]) * _UNITS[unit]) < 1:
        raise ValueError(f"expected a number of bytes, such as 512MiB or 2GB, got {size!r}")
    return int(float(match[1]) * _UNITS[unit])


def format_bytes(nbytes: int) -> str:
    """``3.1 GiB``, ``512 MiB``, ``17 bytes``."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if nbytes >= 1 << power:
            return f"{nbytes / (1 << power):.3g} {unit}" if nbytes < 1000 << power else f"{nbytes >> power:,} {unit}"
    return f"{nbytes} bytes"
