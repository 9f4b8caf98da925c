"""Records on their way into a pack: read, and where settings say so decoded and taken through the policy's front."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from dalipipe import rng
from dalipipe.clock import StageClock
from dalipipe.decoders.base import inspect
from dalipipe.engines.base import Output
from dalipipe.faults import Quarantine, TooManyBadSamplesError
from dalipipe.ops.image import ShrinkTo
from dalipipe.orders import Sequential, Subset
from dalipipe.packing.settings import Settings
from dalipipe.pipeline import Epoch, Lane
from dalipipe.policy import Policy
from dalipipe.records import Encoded
from dalipipe.sampler import Sampler
from dalipipe.sources.base import Source
from dalipipe.stages import lower
from dalipipe.tracks.base import LaneConfig

BATCH = 64
_PIXELS = Output(torch.device("cpu"), torch.uint8, torch.channels_last)

Batch = tuple[np.ndarray, dict[str, Any]]
"""Record numbers int64 [n], and a column a field: pictures are `Encoded`, or a list of uint8 [H, W, C]; masks `Encoded`
or a list of int64 [H, W]; else as sources give them.
"""


def batches(
    source: Source, settings: Settings, copy: int, records: np.ndarray, quarantine: Quarantine, *, threads: int
) -> Iterator[Batch]:
    """Records int64 [N] in order, without those that go to quarantine."""
    quarantine.saw(len(records))
    if settings.decodes:
        yield from _prepared(source, settings, copy, records, quarantine, threads)
    else:
        yield from _as_they_are(source, records, quarantine, threads)


def _prepared(
    source: Source, settings: Settings, copy: int, records: np.ndarray, quarantine: Quarantine, threads: int
) -> Iterator[Batch]:
    policy = settings.policy
    if policy is None:
        policy = Policy([] if settings.resize is None else [ShrinkTo(settings.resize)])
    plan = lower(policy, source.schema)
    config = LaneConfig(source, plan, _PIXELS, BATCH, threads, 2, "auto", "auto", stacked=False)
    order = Subset(records, Sequential()).bound(len(source), settings.seed)
    # Exact: a bad record's row is filled up and marked, so that no other is in its place for good.
    sampler = Sampler(order, BATCH, exact=True, seed=settings.seed)
    epoch = Epoch(copy, rng.make_key(settings.seed, copy), sampler, copy)
    lane = Lane(config, quarantine, StageClock())
    try:
        for columns, step in _walk(lane, epoch, sampler, config.depth):
            rows = np.flatnonzero(step.counts)
            kept = {name: _of(_plain(column, name, source), rows) for name, column in columns.items()}
            if len(rows):
                yield step.indices[rows], kept
    except TooManyBadSamplesError:  # none is left to fill up rows with
        if not set(records.tolist()) <= quarantine.indices:
            raise
    finally:
        lane.close()


def _walk(lane: Lane, epoch: Epoch, sampler: Sampler, depth: int) -> Iterator[Any]:
    in_flight = 0
    for step in sampler.batches(epoch.number):
        lane.submit(lane.begin(epoch, step))
        in_flight += 1
        if in_flight == depth:
            yield lane.collect()
            in_flight -= 1
    for _ in range(in_flight):
        yield lane.collect()


def _plain(column: Any, name: str, source: Source) -> Any:
    """Tensors as arrays; a picture's channels last."""
    kinds = {field.name: field.kind for field in source.schema.fields}
    if not isinstance(column, list):
        return column
    values = [value.numpy() if isinstance(value, torch.Tensor) else value for value in column]
    return [value.transpose(1, 2, 0) for value in values] if kinds[name] == "image" else values


def _as_they_are(source: Source, records: np.ndarray, quarantine: Quarantine, threads: int) -> Iterator[Batch]:
    """Reads a batch ahead."""
    parts = [records[first : first + BATCH] for first in range(0, len(records), BATCH)]
    pictures = [field.name for field in source.schema.of_kind("image")]
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(source.read, parts[0], threads=threads) if parts else None
        for number, indices in enumerate(parts):
            assert coming is not None
            found = coming.result()
            if number + 1 < len(parts):
                coming = ahead.submit(source.read, parts[number + 1], threads=threads)
            errors = dict(found.errors)
            for name in pictures:
                column = found.columns[name]
                if not isinstance(column, Encoded):
                    raise ValueError(
                        f"pack: the data set's {name!r} comes as pixels, and there are no files to keep as they are: "
                        'give format="raw", or "tiled" with resize to make JPEGs of them'
                    )
                for row, error in inspect(column, threads=threads)[1].items():
                    errors.setdefault(row, error)
            for row, error in sorted(errors.items()):
                index = int(indices[row])
                quarantine.add(index, source.describe(index), error)
            rows = np.array([row for row in range(len(indices)) if row not in errors], np.int64)
            if len(rows):
                yield indices[rows], {name: _of(column, rows) for name, column in found.columns.items()}


def _of(column: Any, rows: np.ndarray) -> Any:
    if isinstance(column, list):
        return [column[row] for row in rows.tolist()]
    if isinstance(column, Encoded) and len(rows) == len(column):
        return column
    return column.of(rows) if hasattr(column, "of") else column[rows]
