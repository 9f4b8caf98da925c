"""A loader's figures for Prometheus, over HTTP."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dalipipe.clock import Spread
from dalipipe.loader import DataLoader

if TYPE_CHECKING:
    from typing_extensions import Self

_PREFIX = "dalipipe"


class MetricsServer:
    """Answers Prometheus until `close`. ``port``: where."""

    def __init__(self, server: Any, thread: Any) -> None:
        self._server, self._thread = server, thread
        self.port: int = server.server_port

    def close(self) -> None:
        """Ends it; once more is fine."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def serve_metrics(
    loader: DataLoader | Mapping[str, DataLoader], port: int, *, address: str = "127.0.0.1"
) -> MetricsServer:
    """Serves a loader's `DataLoader.stats` to Prometheus at ``http://address:port/metrics``, in a thread of its own.

    Counters and histograms run since the loader was made. Each figure has the labels ``loader`` and ``rank``. A loader
    that is gone is no longer told of; serving keeps none alive.

    Args:
        loader: one, called ``train``; or several by name.
        port: 0: any that is free; `MetricsServer.port` says which.
        address: of the network interface; ``"0.0.0.0"``: all of them, so that other machines can ask, too. There is no
            password.

    Raises:
        ModuleNotFoundError: ``prometheus_client`` is not installed.
        OSError: the port is taken, or may not be had.
        ValueError: a port that is none.
    """
    loaders = {"train": loader} if isinstance(loader, DataLoader) else dict(loader)
    for name, one in loaders.items():
        if not isinstance(one, DataLoader):
            raise TypeError(f"serve_metrics: {name!r} must be a dalipipe.DataLoader, got {type(one).__name__}")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 1 << 16:
        raise ValueError(f"serve_metrics: port must be a whole number in 0..65535, got {port!r}")
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "serve_metrics: metrics need prometheus_client: pip install 'dalipipe[metrics]'", name="prometheus_client"
        ) from error
    registry = CollectorRegistry()
    registry.register(_Collector(loaders))
    try:
        return MetricsServer(*start_http_server(port, address, registry))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise type(error)(
            f"serve_metrics: port {port} of {address} cannot be had: {reason}; give another, or 0 for any that is free"
        ) from error


class _Collector:
    """Reads the loaders' figures whenever Prometheus asks."""

    def __init__(self, loaders: Mapping[str, DataLoader]) -> None:
        self._loaders = {name: weakref.ref(loader) for name, loader in loaders.items()}

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        families: dict[str, Any] = {}

        def family(kind: Any, name: str, words: str, *labels: str) -> Any:
            if name not in families:
                families[name] = kind(f"{_PREFIX}_{name}", words, labels=("loader", "rank", *labels))
            return families[name]

        for name, reference in self._loaders.items():
            loader = reference()
            if loader is None:
                continue
            stats, clock = loader.stats(), loader.clock
            of = [name, str(stats["rank"])]
            for stage, found in stats["stages"].items():
                for key, (total, words) in _OF_STAGE.items():
                    if key in found:
                        family(CounterMetricFamily, total, words, "stage").add_metric([*of, stage], found[key])
            for key, words in _OF_WAIT.items():
                family(CounterMetricFamily, key, words).add_metric(of, stats["wait"][key])
            family(CounterMetricFamily, "full_seconds", "Waited by the loader for room.").add_metric(
                of, stats["full_s"]
            )
            waiting = family(GaugeMetricFamily, "waiting_seconds", "Waited so far by a user who waits now; else 0.")
            waiting.add_metric(of, stats["waiting_s"])
            for key, words in _GAUGES.items():
                family(GaugeMetricFamily, key, words).add_metric(of, stats[key])
            # The sum of waits has the one under way in it, so that an alarm sees a stall while it lasts.
            waits, intervals = clock.wait.spread, clock.interval
            for key, words, spread, seconds in (
                ("wait_seconds", "Waited by the user for a batch.", waits, stats["wait"]["seconds"]),
                ("interval_seconds", "From one batch to the next of its epoch.", intervals, intervals.seconds),
            ):
                buckets = _buckets(spread)
                family(HistogramMetricFamily, key, words).add_metric(of, buckets=buckets, sum_value=seconds)
        yield from families.values()


_OF_STAGE = {
    "seconds": ("stage_seconds", "Spent in a stage of the loader."),
    "batches": ("stage_batches", "Batches that a stage has done."),
    "samples": ("stage_samples", "Samples that a stage has done."),
    "bytes": ("stage_bytes", "Bytes that a stage has read, where that is known."),
}
_OF_WAIT = {"batches": "Batches given to the user.", "samples": "Samples given to the user."}
_GAUGES = {
    "samples_per_s": "Given to the user over the last 10 seconds.",
    "ready_batches": "Finished batches that wait for the user.",
    "ready_batches_mean": "On average while epochs were under way.",
    "buffers_bytes": "Host memory kept to be used again.",
    "bad_samples": "Samples in quarantine.",
    "cached_samples": "Samples that the cache holds.",
    "cached_bytes": "Memory that they take.",
}


def _buckets(spread: Spread) -> list[tuple[str, int]]:
    """Cumulative, by doublings from 16 µs to a minute."""
    below = [(seconds, count) for seconds, count in spread.below() if 1e-5 < seconds < 100]
    return [*((f"{seconds:.6g}", count) for seconds, count in below), ("+Inf", spread.count)]
