"""What the parts of benchmarks/test_decode.py share: the pictures, turns, and the record of what came of them."""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from decode_peers import Batch
from devices import Device
from rounds import Timing, Turn, interleave, ratio, reason, write

import dalipipe
from dalipipe import native, rng
from dalipipe.decoders.base import inspect
from dalipipe.orders import Weighted
from dalipipe.plan import Draws, Plan, lower
from dalipipe.records import Encoded, Tiles

DEPTH = 2  # batches in flight, as in a loader
ENDLESS = 1 << 22  # samples of an epoch that is broken off
GOALS = {
    "times the best peer, end to end": ("≥", 10.0),
    "images/s, end to end": ("≥", 150_000.0),
    "data stall, from host memory": ("≤", 0.01),
    "data stall, kept on the device": ("≤", 0.01),
    "step over synthetic, from host memory": ("≤", 1.02),
    "step over synthetic, kept on the device": ("≤", 1.02),
}


@dataclass(frozen=True)
class Scale:
    """How much is done. ``turn_s``: a contender's; ``batches``: ours, the first is the peers', too; ``threads``,
    ``loads``: of the sweeps; ``steps``: of training, a round's; ``worker_batches``: of each worker process, a turn's.
    """

    turn_s: float
    batches: tuple[int, ...]
    threads: tuple[int, ...]
    loads: tuple[float, ...]
    steps: int
    worker_batches: int = 4


@dataclass
class Bench:
    """What all parts use. ``result``: what is written, as ``name``. `order` int64 [N]: the records, shuffled, as
    `plain` and `tiled` hold them in host memory.
    """

    device: Device
    scale: Scale
    root: Path
    pack: dalipipe.Packed
    folder: Path
    result: dict[str, Any]
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    began: float = field(default_factory=time.perf_counter)
    where: str = ""
    """The part under way."""
    name: str = "decode_gpu"

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[dict[str, Any]]:
        """One part's results, which are written when it ends, however it ends."""
        print(f"== {name}", flush=True)
        self.where = name
        began, found = time.perf_counter(), self.result.setdefault(name, {})
        try:
            yield found
        except Exception as error:
            traceback.print_exc()
            self.result["failed"][name] = reason(error)
        self.result["seconds"][name] = round(time.perf_counter() - began, 1)
        self.save()
        gc.collect()

    def save(self) -> Path:
        return write(self.name, self.result, self.folder)

    def absent(self, name: str, why: str) -> None:
        """A peer that this part does without."""
        self.result["absent"][f"{self.where}: {name}"] = why

    def met(self, goal: str, measured: float) -> None:
        sign, wanted = GOALS[goal]
        met = measured >= wanted if sign == "≥" else measured <= wanted
        self.result["goals"][goal] = {"wanted": f"{sign} {wanted:,g}", "measured": round(measured, 4), "met": met}

    # Data -----------------------------------------------------------------------------------------------------------

    @cached_property
    def order(self) -> np.ndarray:
        return np.random.default_rng(0).permutation(len(self.pack))

    @cached_property
    def plain(self) -> Encoded:
        return self._read(dalipipe.ImageFolder(self.root))

    @cached_property
    def tiled(self) -> Encoded:
        return self._read(self.pack)

    def _read(self, source: Any) -> Encoded:
        records = source.read(self.order, threads=self.cores)
        assert not records.errors, records.errors
        column: Encoded = records.columns["image"]
        return column

    @cached_property
    def size(self) -> np.ndarray:
        """int64 [N, 2]."""
        headers, errors = inspect(self.tiled, threads=self.cores)
        assert not errors, errors
        return np.stack([headers["height"], headers["width"]], axis=1).astype(np.int64)

    @cached_property
    def whole(self) -> np.ndarray:
        """int64 [N, 4]: the regions that are all of the pictures."""
        return np.concatenate([np.zeros_like(self.size), self.size], axis=1)

    @cached_property
    def plan(self) -> Plan:
        plan = lower(dalipipe.recipes.imagenet_train(peers.SIZE), self.pack.schema)
        assert isinstance(plan, Plan)
        return plan

    def draws(self, rows: slice) -> Draws:
        return self.plan.draw(rng.make_key(0, 0), self.order[rows], self.size[rows])

    @cached_property
    def crops(self) -> np.ndarray:
        """int64 [N, 4]: the regions that training looks at, as the policy draws them."""
        return self.draws(slice(None)).params.roi

    def slices(self, batch: int) -> list[slice]:
        """Full batches."""
        return [slice(begin, begin + batch) for begin in range(0, len(self.order) - batch + 1, batch)]

    def of_peers(self, roi: np.ndarray | None, batch: int) -> list[Batch]:
        """Plain files, as people have them."""
        plain = self.plain
        return [
            Batch([plain[row].tobytes() for row in range(rows.start, rows.stop)], None if roi is None else roi[rows])
            for rows in self.slices(batch)
        ]

    @cached_property
    def resident(self) -> Tiles:
        """All files, stripped, on the device."""
        queue = self.device.queue()
        stripped = native.Stripped(self.tiled.arena, self.tiled.starts, None, threads=self.cores)
        assert not stripped.refused, stripped.refused
        starts, total = np.cumsum(stripped.nbytes) - stripped.nbytes, int(stripped.nbytes.sum())
        staged, there = queue.pinned(total), queue.empty(total)
        stripped.write((staged.data_ptr() + starts).astype(np.uint64), threads=self.cores)
        queue.copy(staged, there.data_ptr())
        queue.mark()()
        return Tiles((there.data_ptr() + starts).astype(np.uint64), stripped.shapes, there)

    @property
    def cache(self) -> dict[str, Any]:
        """A loader's options: on the device, with room for the files and not for their pixels."""
        return {"cache": "device", "cache_bytes": 2 * int(self.tiled.starts[-1])}

    def loader(self, batch: int, **options: Any) -> dalipipe.DataLoader:
        """As training has it, of an epoch that does not end: pictures are drawn with replacement."""
        return dalipipe.DataLoader(
            self.pack,
            batch,
            sampler=Weighted(np.ones(len(self.pack)), size=ENDLESS),
            drop_last=True,
            policy=dalipipe.recipes.imagenet_train(peers.SIZE),
            device=self.device.device,
            dtype=torch.bfloat16,
            memory_format=torch.channels_last,
            seed=0,
            autotune=False,  # its trials would take a part of what is timed
            **options,
        )

    # Turns ----------------------------------------------------------------------------------------------------------

    def endless(self, run: Callable[[], Any], items: int, ready: int = 0) -> Callable[[], tuple[int, float]]:
        """Batch after batch until the turn is over; the first ``ready``, made while others had their turn, aside."""

        def turn() -> tuple[int, float]:
            for _ in range(ready):
                run()
            done, begin = 0, time.perf_counter()
            while not done or time.perf_counter() < begin + self.scale.turn_s:
                run()
                done += items
            self.device.synchronize()
            return done, time.perf_counter() - begin

        return turn

    def pipelined(self, submit: Callable[[], Any], collect: Callable[[], Any], items: int) -> Callable[[], int]:
        """So too, with `DEPTH` batches in flight, and none left at the end."""

        def turn() -> int:
            done, end = 0, time.perf_counter() + self.scale.turn_s
            for _ in range(DEPTH):
                submit()
            while time.perf_counter() < end:
                collect()
                submit()
                done += items
            for _ in range(DEPTH):
                collect()
                done += items
            self.device.synchronize()
            return done

        return turn

    def of_loader(self, loader: dalipipe.DataLoader) -> Callable[[], tuple[int, float]]:
        """A new epoch, its start included, broken off when the turn is over: what is in flight does not count."""

        def turn() -> tuple[int, float]:
            done, begin = 0, time.perf_counter()
            batches: Any = iter(loader)
            with contextlib.closing(batches):
                for images, _ in batches:
                    done += len(images)
                    if time.perf_counter() >= begin + self.scale.turn_s:
                        break
                self.device.finish()
                return done, time.perf_counter() - begin

        return turn

    def sweep(
        self, name: str, settings: Iterable[dict[str, Any]], make: Callable[..., Callable[[], tuple[int, float]]]
    ) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """Each setting's rate in a turn after a first one, and the best, ``None`` where none works."""
        tried: list[dict[str, Any]] = []
        for setting in settings:
            try:
                turn = make(**setting)
                turn()
                done, seconds = turn()
                tried.append({**setting, "per_s": round(done / seconds, 1)})
                del turn
            except Exception as error:
                tried.append({**setting, "failed": reason(error)})
                if isinstance(error, ImportError):
                    break
            print(f"  {name}: {tried[-1]}", flush=True)
            gc.collect()
        good = [each for each in tried if "per_s" in each]
        if not good:
            self.absent(name, tried[0]["failed"])
            return tried, None
        best = max(good, key=lambda each: each["per_s"])
        return tried, {key: value for key, value in best.items() if key != "per_s"}

    def enter(self, contenders: dict[str, Turn], name: str, make: Callable[[], Turn]) -> None:
        """Among the contenders; or it is absent, where it cannot be made."""
        try:
            contenders[name] = make()
        except Exception as error:
            self.absent(name, reason(error))

    def compare(self, contenders: dict[str, Turn], found: dict[str, Any]) -> None:
        """Rounds, and how many times the best peer's rate the best of ours is: saved after each round."""
        failed: dict[str, str] = {}

        def note(timings: dict[str, Timing]) -> None:
            for name, why in failed.items():
                self.absent(name, why)
            found["contenders"] = {name: timing.summary() for name, timing in timings.items()}
            by_rate = sorted(timings, key=lambda name: -statistics.median(timings[name].rates))
            ours = [name for name in by_rate if name.startswith("dalipipe")]
            theirs = [name for name in by_rate if not name.startswith("dalipipe")]
            found["best"], found["best_peer"] = next(iter(ours), None), next(iter(theirs), None)
            found.pop("ratios", None)  # of a peer that has failed since
            if ours and theirs:
                found["ratios"] = {name: round(ratio(timings, name, theirs[0]), 2) for name in ours}
            self.save()

        interleave(contenders, self.device.rounds, failed=failed, after_round=note)
        lost = {name: why for name, why in failed.items() if name.startswith("dalipipe")}
        assert not lost, lost
