"""The steps between signals, their spectra and features; Fourier transforms are the caller's."""

from __future__ import annotations

from typing import Any

import numpy as np

from dalipipe.native.core import _C, check_array, check_threads
from dalipipe.native.structs import MEL_BAND, SPECTRAL_ROW, SPECTRAL_STEPS

#: What one step is given; csrc/spectral.h.
SpectralParams = Any

_STEPS = {name: step for step, name in enumerate(SPECTRAL_STEPS)}
_LOGS = {None: 0, "db": 1, "ln": 2}
_EDGES = {"zero": 0, "mirror": 1}


def spectral_params(
    rows: np.ndarray,
    *,
    device_rows: int = 0,
    n_fft: int = 0,
    lead: int = 0,
    edge: str = "zero",
    window: int = 0,
    source: int = 0,
    source_floats: int = 0,
    target: int = 0,
    target_floats: int = 0,
    tables: int = 0,
    table_floats: int = 0,
    bands: np.ndarray | None = None,
    device_bands: int = 0,
    squared: bool = True,
    log: str | None = None,
    mixed: int = 0,
    mixes: int = 0,
    top_db: float = 0.0,
) -> SpectralParams:
    """What `spectral_step` is given; csrc/spectral.h says what each step looks at. Memory goes by address.

    Args:
        rows: `SPECTRAL_ROW` [n], on the host. They and ``bands`` must outlive what is returned.
        device_rows: address of the same rows on the device, where that is a CUDA device.
        n_fft: frames of a transform, even.
        lead: frames of the signal that a row's first frame begins before it.
        edge: what lies before a signal and after it, "zero" or "mirror".
        window: of float32 [n_fft].
        source, target: of float32, with as many as ``source_floats``, ``target_floats``.
        tables: of float32 [table_floats].
        bands: `MEL_BAND` [M]; device_bands: address of the same on the device.
        squared: mel features of power, not of magnitudes.
        log: of mel features: None, "db" or "ln".
        mixed, mixes: how many signals a mix is made from, and makes.
        top_db: what a clamp leaves below the maximum.
    """
    check_array("rows", rows, SPECTRAL_ROW, (len(rows),), "spectral")
    return _C.SpectralParams(
        rows=rows.ctypes.data,
        n=len(rows),
        n_fft=n_fft,
        lead=lead,
        edge=_EDGES[edge],
        window=window,
        source=source,
        source_floats=source_floats,
        target=target,
        target_floats=target_floats,
        tables=tables,
        table_floats=table_floats,
        bands=0 if bands is None else check_array("bands", bands, MEL_BAND, (len(bands),), "spectral"),
        band_count=0 if bands is None else len(bands),
        squared=squared,
        log=_LOGS[log],
        mixed=mixed,
        mixes=mixes,
        top_db=top_db,
        device_rows=device_rows,
        device_bands=device_bands,
    )


def spectral_step(step: str, params: SpectralParams, *, threads: int = 1, stream: int | None = None) -> None:
    """Takes rows through one of `SPECTRAL_STEPS`.

    Args:
        step: its name.
        params: of `spectral_params`.
        threads: how many rows are worked on at a time; on the CPU.
        stream: a cudaStream_t: on CUDA, where all memory but ``rows`` and ``bands`` is the device's. None: on the CPU.

    Raises:
        ValueError: naming the step and the row, what was expected and what came.
    """
    if stream is None:
        check_threads("spectral", threads)
        _C.spectral_cpu(step=_STEPS[step], params=params, threads=threads)
    elif not _C.build_info()["cuda"]:
        raise ValueError("spectral: signals are on a CUDA device, but dalipipe was built without CUDA")
    else:
        _C.spectral_cuda(step=_STEPS[step], params=params, stream=stream)
