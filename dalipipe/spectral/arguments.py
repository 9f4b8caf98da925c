"""Arguments of the functions on spectra, checked."""

from __future__ import annotations

import numpy as np


def check_n_fft(what: str, n_fft: int) -> None:
    if n_fft < 4 or n_fft % 2:
        raise ValueError(f"{what}: n_fft must be even and at least 4, got {n_fft}")


def check_per_sample(what: str, name: str, values: np.ndarray, n: int, low: float, high: float) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.shape != (n,):
        raise ValueError(f"{what}: {name} must be float64 [{n}], one a sample, got shape {values.shape}")
    if not (bad := ~((values >= low) & (values <= high))).any():
        return values
    row = int(np.argmax(bad))
    raise ValueError(f"{what}: {name} of sample {row} must be in {low} ... {high}, got {values[row]}")


def check_counts(what: str, name: str, values: np.ndarray, n: int) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (n,) or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{what}: {name} must be int64 [{n}], one a sample, got {values.dtype} {values.shape}")
    if (values < 1).any() or (values >= 2**31).any():
        raise ValueError(f"{what}: {name} must be in 1 ... 2^31 - 1, got {values.min()} ... {values.max()}")
    return values.astype(np.int64)


def check_hops(what: str, hop: int | np.ndarray, n: int) -> np.ndarray:
    return check_counts(what, "hop", np.full(n, hop) if np.ndim(hop) == 0 else np.asarray(hop), n)
