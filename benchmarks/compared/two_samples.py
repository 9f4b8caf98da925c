"""Two samples of numbers or names: do they come from one distribution?"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

UNLIKELY = 0.01
"""A p below it is looked at again."""

_FEW = 64

Values = dict[str, list[Any]]  # by parameter: what was drawn


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(D, p): the largest distance of two samples' distribution functions, and how often chance makes it as large.

    Where values repeat, as whole numbers do, p is too large, never too small.
    """
    a, b = np.sort(a), np.sort(b)
    grid = np.unique(np.concatenate([a, b]))
    d = np.abs(np.searchsorted(a, grid, "right") / len(a) - np.searchsorted(b, grid, "right") / len(b)).max()
    root = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    x = (root + 0.12 + 0.11 / root) * d  # Stephens' correction
    if x < 0.2:
        return float(d), 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))
    return float(d), min(max(sum(terms), 0.0), 1.0)


def chi_squared(a: Counter[Any], b: Counter[Any]) -> tuple[float, float]:
    """(D, p) for how often each of several things was drawn; D is the largest difference of shares. What came fewer
    than ten times counts as one thing.
    """
    n, m = a.total(), b.total()
    keys = sorted(set(a) | set(b), key=repr)
    pairs = [(a[key], b[key]) for key in keys if a[key] + b[key] >= 10]
    rare = (n - sum(x for x, _ in pairs), m - sum(y for _, y in pairs))
    pairs += [rare] if sum(rare) else []
    d = max(abs(x / n - y / m) for x, y in pairs)
    if len(pairs) < 2:
        return d, 1.0
    statistic = sum((x * math.sqrt(m / n) - y * math.sqrt(n / m)) ** 2 / (x + y) for x, y in pairs)
    freedom = torch.tensor((len(pairs) - 1) / 2, dtype=torch.float64)
    return d, float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64)))


def compare(ours: Values, others: Values) -> Iterator[dict[str, Any]]:
    """A comparison for each parameter that varies: by Kolmogorov and Smirnov, or by χ² where that sees more, which is
    names and numbers of which there are few.
    """
    if set(ours) != set(others):
        raise ValueError(f"different things were drawn: ours {sorted(ours)}, theirs {sorted(others)}")
    seen: list[tuple[list[Any], list[Any]]] = []
    for name in ours:
        a, b = ours[name], others[name]
        if (a, b) in seen:  # a sigma for x, the same for y
            continue
        seen.append((a, b))
        if isinstance(a[0], str):
            test, (d, p) = "χ²", chi_squared(Counter(a), Counter(b))
        else:
            x, y = np.asarray(a, np.float64).round(5), np.asarray(b, np.float64).round(5)  # theirs are float32
            different = len(np.unique(np.concatenate([x, y])))
            if different == 1:
                continue
            few = different <= _FEW
            test = "χ²" if few else "KS"
            d, p = chi_squared(Counter(x.tolist()), Counter(y.tolist())) if few else kolmogorov_smirnov(x, y)
        yield {"parameter": name, "test": test, "draws": [len(a), len(b)], "d": round(d, 5), "p": round(p, 5)}


def samples(what: Any, n: int, again: int = 0) -> np.ndarray:
    """Indices of samples, others for each comparison: what is drawn for these has nothing to do with the others."""
    return np.arange(n) + n * (zlib.crc32(f"{what!r} {again}".encode()) % 100_000)
