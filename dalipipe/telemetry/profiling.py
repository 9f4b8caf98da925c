"""A loader's stages in a profiler's pictures: ranges for Nsight Systems, traces beside torch.profiler's."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dalipipe.clock import Nvtx, Observer
from dalipipe.loader import DataLoader

_WORDS = {"wait": "wait for a batch", "full": "wait for room"}
_BASE_S = 7_889_238  # torch's traces count from the last multiple of this quarter of a year


@contextmanager
def annotate(loader: DataLoader) -> Iterator[None]:
    """Shows the loader's stages and the user's waits as NVTX ranges while it lasts, in the threads that they are in.

    ``DALIPIPE_NVTX=1`` in the environment does so for all loaders of a process.

    Raises ``RuntimeError`` from torch where it was built without NVTX.
    """
    with _watching(loader, Nvtx()):
        yield


@contextmanager
def trace(
    loader: DataLoader, path: str | os.PathLike[str], *, merge: str | os.PathLike[str] | None = None
) -> Iterator[None]:
    """Writes what the loader does while it lasts as a trace, for Perfetto or ``chrome://tracing``.

    There are the loader's threads with their stages, the user's waits for batches, the loader's for room, and how many
    finished batches wait. Its clock is that of torch.profiler's traces, and threads go by the same numbers, so both can
    lie in one picture. About ten events a batch are kept in memory until the end: trace some seconds, not days.

    Args:
        loader: running or not.
        path: the file to write; packed where it ends in ``.gz``.
        merge: a trace that ``torch.profiler`` has exported by the time this ends, ``.json`` or ``.json.gz``: what is
            written has its events, too.

    Raises:
        FileNotFoundError: at the end, where there is no such trace to merge; the loader's own is written anyway.
        ValueError: it is no trace.
    """
    recorder = _Recorder()
    try:
        with _watching(loader, recorder):
            yield
    finally:
        _write(path, recorder.trace())
    if merge is None:
        return
    other = Path(merge)
    if not other.is_file():
        raise FileNotFoundError(
            f"trace: there is no {other} to merge; call the profiler's export_chrome_trace({str(other)!r}) before the "
            f"trace of the loader ends. {os.fspath(path)} holds the loader's events alone"
        )
    _write(path, recorder.trace(_read(other)))


@contextmanager
def _watching(loader: DataLoader, observer: Observer) -> Iterator[None]:
    clock = loader.clock
    clock.observers = (*clock.observers, observer)
    try:
        yield
    finally:
        clock.observers = tuple(other for other in clock.observers if other is not observer)


class _Recorder:
    """An `Observer` that remembers."""

    def __init__(self) -> None:
        self._to_unix_ns = _unix_ns_of_clock()
        self._spans: list[tuple[str, float, float, int, int, int]] = []
        self._ready: list[tuple[float, int]] = []
        self._threads: dict[int, str] = {}

    def entered(self, name: str) -> None:
        pass

    def left(self, name: str, begin_s: float, end_s: float, samples: int, nbytes: int) -> None:
        thread = threading.current_thread()
        number = thread.native_id or 0
        self._threads[number] = thread.name
        self._spans.append((name, begin_s, end_s, samples, nbytes, number))

    def ready(self, batches: int) -> None:
        self._ready.append((time.perf_counter(), batches))

    def trace(self, other: dict[str, Any] | None = None) -> dict[str, Any]:
        """In Chrome's format, within ``other``, where there is one."""
        if other is None:
            other = {
                "displayTimeUnit": "ms",
                "baseTimeNanoseconds": time.time_ns() // 10**9 // _BASE_S * _BASE_S * 10**9,
            }
            other["traceEvents"] = []
        base_ns = other.get("baseTimeNanoseconds", 0)
        named = {event.get("tid") for event in other["traceEvents"] if event.get("name") == "thread_name"}

        def ts(seconds: float) -> float:
            return (self._to_unix_ns - base_ns + round(1e9 * seconds)) / 1e3

        process = {"pid": os.getpid(), "cat": "dalipipe"}
        events: list[dict[str, Any]] = [
            {**process, "ph": "M", "name": "thread_name", "tid": number, "args": {"name": name}}
            for number, name in self._threads.items()
            if number not in named
        ]
        for name, begin_s, end_s, samples, nbytes, thread in self._spans:
            event = {"ph": "X", "name": _WORDS.get(name, name), "tid": thread, "ts": ts(begin_s)}
            counts = {"samples": samples, "bytes": nbytes}
            args = {key: value for key, value in counts.items() if value}
            events.append({**process, **event, "dur": 1e6 * (end_s - begin_s), "args": args})
        for at_s, batches in self._ready:
            counter = {"ph": "C", "name": "batches ready", "tid": 0, "ts": ts(at_s)}
            events.append({**process, **counter, "args": {"batches": batches}})
        return {**other, "traceEvents": [*other["traceEvents"], *events]}


def _unix_ns_of_clock() -> int:
    """What `time.perf_counter` has to be added to for Unix time, which torch's traces are in, ns."""
    asked = []
    for _ in range(5):
        before, unix, after = time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()
        asked.append((after - before, unix - (before + after) // 2))
    return min(asked)[1]


def _read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    try:
        found = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"trace: {path} is no trace of torch.profiler's: {error}") from error
    if isinstance(found, list):  # Chrome's other form
        found = {"traceEvents": found}
    if not isinstance(found, dict) or not isinstance(found.get("traceEvents"), list):
        raise ValueError(f"trace: {path} is no trace of torch.profiler's: it has no traceEvents")
    return found


def _write(path: str | os.PathLike[str], trace: dict[str, Any]) -> None:
    data = json.dumps(trace).encode()
    Path(path).write_bytes(gzip.compress(data) if os.fspath(path).endswith(".gz") else data)
