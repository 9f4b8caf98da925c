"""Shards written on a Ray cluster: the same function that one machine calls, on many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dalipipe.packing.settings import Plan
from dalipipe.packing.shard import ShardReport, write_shard
from dalipipe.sources.base import Source

_RETRIES = 3  # of a shard whose worker is lost


def write_on_ray(
    source: Source, plan: Plan, shards: list[int], out: Path, *, threads: int, address: str | None
) -> Iterator[ShardReport]:
    """Writes these shards, in the order in which they get done. ``out`` must be the same folder on every node.

    ``threads``: cores a shard. A lost worker's shard is written again by another, three times at most.

    Raises ``ImportError`` where Ray is missing, ``ConnectionError`` where it cannot be reached, and what
    `write_shard` raises.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("packing on a cluster needs Ray: pip install 'dalipipe[ray]'") from error
    started = not ray.is_initialized()
    if started:
        _connect(ray, address)

    @ray.remote(num_cpus=threads, max_retries=_RETRIES)
    def write(source: Source, plan: Plan, shard: int, out: str, threads: int) -> ShardReport:
        return write_shard(source, plan, shard, Path(out), threads=threads)

    try:
        shared = ray.put(source), ray.put(plan)
        pending = [write.remote(*shared, shard, str(out.resolve()), threads) for shard in shards]
        while pending:
            (done,), pending = ray.wait(pending, num_returns=1)
            try:
                yield ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from error
            except ray.exceptions.WorkerCrashedError as error:
                raise RuntimeError(
                    f"a worker was lost {_RETRIES + 1} times while it wrote a shard: it may be short of memory; resume "
                    "goes on"
                ) from error
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    except ConnectionError as error:
        raise ConnectionError(f"there is no Ray cluster at {address}: {error}") from error
