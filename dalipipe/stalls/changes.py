"""What would help: changes to a loader or its machine, tried on some batches where they can be, else calculated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from dalipipe import native
from dalipipe.cache import SampleCache
from dalipipe.cache.settings import CacheSettings
from dalipipe.clock import StageClock
from dalipipe.cores import usable_cores
from dalipipe.decoders import decoder_of
from dalipipe.decoders.dali import MissingDaliError
from dalipipe.engines.base import Output
from dalipipe.records import Encoded, Pictures
from dalipipe.sampler import Step
from dalipipe.stages import StagedPlan
from dalipipe.stalls.held import bytes_of
from dalipipe.stalls.model import Setting
from dalipipe.stalls.pipelines import OwnPipeline
from dalipipe.stalls.walking import Measured, Stages, Walks
from dalipipe.tracks.staged import DecodedTrack

_TRIED = 16  # batches
_MOST_BYTES = 1 << 30  # of pixels that are held for a trial
_AHEAD = 8
TRAINING = ("copy to device", "step")
_ORDER = ("read", "cache", "probe", "draw", "decode", "python", "augment", "assemble", "copy", *TRAINING)


@dataclass(frozen=True)
class Change:
    """``setting``: what it makes of the loader; the others as of `WhatIf`."""

    name: str
    how: str
    setting: Setting
    basis: Literal["tried", "calculated"]


def setting_of(
    walks: Walks, stages: Stages, cores: float, *, in_memory: bool | None = None, ahead: int | None = None
) -> Setting:
    """A loader with these stages. ``in_memory``: whether what is read is in memory, so that the lane reads by itself;
    ``ahead``: finished batches waiting; ``None``: as the loader has it.
    """
    if in_memory is None:
        in_memory = walks.cache is not None or walks.config.source.in_memory
    before, decoding, engine = _threads(walks, stages)
    elsewhere = {"read", *TRAINING, decoding, engine, *before}
    pipeline = partial(
        OwnPipeline,
        ahead=walks.ahead if ahead is None else ahead,
        depth=walks.config.depth,
        reads_ahead=not in_memory,
        before=before,
        decoding=decoding,
        engine=engine,
        after=tuple(name for name in in_order(stages) if name not in elsewhere),
    )
    return Setting(stages, pipeline, cores)


def timed_beside(walks: Walks, stages: Iterable[str], clock: StageClock) -> dict[str, float]:
    """A batch's seconds in the stages that the loader's own threads do themselves, by the clock of a running loader:
    what native threads or a device do is waited for.
    """
    if walks.config.output.device.type != "cpu":
        return {}
    _, decoding, engine = _threads(walks, stages)
    timed = {name: times for name, times in clock.stages.items() if name not in (decoding, engine) and times.batches}
    return {name: times.seconds / times.batches for name, times in timed.items()}


def _threads(walks: Walks, stages: Iterable[str]) -> tuple[tuple[str, ...], str | None, str | None]:
    """``before``, ``decoding`` and ``engine`` of an `OwnPipeline`."""
    config = walks.config
    plan, on_host = config.plan, config.output.device.type == "cpu"
    kind = None if plan.field is None else plan.field.kind
    if kind == "image":
        decoding = "decode" if "decode" in stages else None
        return ("probe", "draw"), decoding, "augment" if decoding is None and on_host and not _staged(walks) else None
    if kind is not None:
        return ("decode", "draw"), None, "augment" if on_host else None
    return ("probe", "draw"), None, None


def known_as(name: str, walks: Walks) -> str:
    """A stage as people know it."""
    if name == "read" and not walks.config.source.repeatable:
        return "item"  # the user's code
    return "copy" if name == "copy to device" else name


def in_order(stages: Iterable[str]) -> list[str]:
    """As a batch passes them."""
    return sorted(stages, key=lambda name: _ORDER.index(name) if name in _ORDER else _ORDER.index("assemble"))


@dataclass(frozen=True)
class Changes:
    """What may be changed about a loader. ``now``: as it is; ``cached``: with all files in memory."""

    walks: Walks
    now: Setting
    cached: Setting

    def calculated(self) -> Iterator[Change]:
        walks, now = self.walks, self.now
        if walks.fetches:
            # Where files are mapped they are read by whoever looks at them; else other stages have no part in it.
            names = [name for name in self.cached.stages if name == "read" or (walks.in_maps and name not in TRAINING)]
            stages = {name: self.cached.stages[name] for name in names}
            how = "files in memory, or on a disk that keeps up"
            yield Change("faster storage", how, now.with_stages(stages), "calculated")
        twice = now.scaled({"step": 0.5})
        faster = "a GPU twice as fast" if torch.cuda.is_available() else "a training step twice as fast"
        yield Change(faster, "half of what computing takes", twice, "calculated")
        if walks.ahead < _AHEAD:
            deeper = setting_of(walks, now.stages, now.cores, ahead=_AHEAD)
            yield Change(f"keeping {_AHEAD} batches ready", f"prefetch_factor={_AHEAD}", deeper, "calculated")

    def tried(self) -> Iterator[Change]:
        walks, threads = self.walks, self.walks.config.threads
        if threads < (there := round(usable_cores())):
            yield self._with(f"running {there} threads", f"num_workers={there}", threads=there)
        yield self._twice_the_cores()
        if walks.encoded is None:
            return
        current, on_cuda = decoder_of(walks.config.decoder), walks.config.output.device.type == "cuda"
        for decoder in ("native", "dali") if on_cuda else ("native",):
            if decoder != current:
                with suppress(MissingDaliError):
                    yield self._with(f"the {decoder} decoder", f'decoder="{decoder}"', decoder=decoder)
        if walks.cache is not None:
            return
        if walks.config.source.repeatable:
            yield from self._kept_in_memory()
        if not walks.config.source.in_memory:
            if not _in_tiles(walks.encoded, threads):
                yield self._in_tiles()
            yield from self._as_pixels()

    def _with(self, name: str, how: str, **changes: Any) -> Change:
        """With changes of the lane's configuration."""
        stages = self._compared(self.walks.stages(self.walks.held, batches=_TRIED, **changes))
        return Change(name, how, self._setting({**stages, "read": self.now.stages["read"]}), "tried")

    def _twice_the_cores(self) -> Change:
        """What halving the threads costs is what twice as many bring, about, where there are cores for them."""
        now, threads = replace(self.now, cores=2 * self.now.cores), self.walks.config.threads
        if threads > 1:
            half = self._compared(self.walks.stages(self.walks.held, batches=_TRIED, threads=threads // 2))
            ratios = {name: _ratio(now.stages[name], half[name]) for name in half if name in now.stages}
            now = now.scaled({name: min(1.0, max(0.5, ratio)) for name, ratio in ratios.items() if name != "read"})
        how = f"a machine with {now.cores:g} cores, num_workers={2 * threads}"
        return Change("twice the cores", how, now, "calculated")

    def _kept_in_memory(self) -> Iterator[Change]:
        walks, config, batches = self.walks, self.walks.config, min(_TRIED, len(self.walks.steps))
        assert config.plan.field is not None
        device = torch.device("cpu") if _staged(walks) else config.output.device
        cache = SampleCache(CacheSettings("ram", None), walks.held, config.plan.field.name, config.decoder, device)
        try:
            kept = self._compared(walks.stages(walks.held, batches=batches, warm_up=batches, cache=cache))
            share = cache.share
        finally:
            cache.close()
        if share:
            mixed = {
                name: _mixed(self.now.stages.get(name), kept.get(name), share)
                for name in {**kept, **self.now.stages}
                if name not in TRAINING
            }
            how = 'cache="ram"' + ("" if share == 1.0 else f", which holds {share:.0%} of the data set")
            yield Change("keeping pictures in memory", how, self._setting(mixed, in_memory=True), "tried")

    def _in_tiles(self) -> Change:
        threads, name = self.walks.config.threads, self._field

        def tiled(columns: dict[str, Any]) -> dict[str, Any]:
            files: Encoded = columns[name]
            made = native.tile_jpegs(files.arena, files.starts, threads=threads)
            bodies = [files[row].tobytes() if data is None else data for row, (data, _) in enumerate(made)]
            arena = np.frombuffer(b"".join(bodies), np.uint8)
            return {**columns, name: Encoded(arena, np.cumsum([0, *map(len, bodies)]))}

        return self._stored("packing in tiles", "dalipipe pack DATA OUT", tiled, _TRIED, in_memory=False)

    def _as_pixels(self) -> Iterator[Change]:
        config, name, files = self.walks.config, self._field, self.walks.encoded
        assert files is not None
        headers = native.probe_images(files.arena, files.starts, threads=config.threads)
        batch_bytes = 3 * int((headers["height"].astype(np.int64) * headers["width"]).sum())
        if batch_bytes > _MOST_BYTES:
            return
        on_host = Output(torch.device("cpu"), torch.uint8, torch.channels_last)
        track = DecodedTrack(replace(config, output=on_host, depth=1), StageClock())
        nothing = np.zeros(0, np.int64)

        def decoded(columns: dict[str, Any]) -> dict[str, Any]:
            track.submit(columns, nothing, Step(nothing, nothing, None, nothing))
            arrays = [np.array(picture) for picture in track.collect()[name]]  # the decoder's memory is used again
            return {**columns, name: Pictures.from_arrays(arrays)}

        try:
            batches = min(_TRIED, _MOST_BYTES // max(1, batch_bytes))
            yield self._stored(
                "packing as pixels", "dalipipe pack DATA OUT --format raw", decoded, batches, in_memory=True
            )
        finally:
            track.close()

    def _stored(
        self, name: str, how: str, change: Callable[[dict[str, Any]], dict[str, Any]], batches: int, *, in_memory: bool
    ) -> Change:
        """The data set in another form: as much longer to read as it has more bytes, which leaves out that few large
        files are sooner read than many small ones.
        """
        held = self.walks.held.changed(change, batches, in_memory=in_memory)
        before, after = (
            sum(bytes_of(column) for records in list(source)[: len(list(held))] for column in records.columns.values())
            for source in (self.walks.held, held)
        )
        larger = after / max(before, 1)
        stages = self._compared(self.walks.stages(held, batches=batches))
        setting = self._setting({**stages, "read": self.now.stages["read"].times(larger)}, in_memory=in_memory)
        return Change(name, f"{how}: {larger:.2g} times the bytes", setting, "tried")

    @property
    def _field(self) -> str:
        assert self.walks.config.plan.field is not None
        return self.walks.config.plan.field.name

    def _setting(self, stages: Stages, *, in_memory: bool | None = None) -> Setting:
        training = {name: measured for name, measured in self.now.stages.items() if name in TRAINING}
        return setting_of(self.walks, {**stages, **training}, self.now.cores, in_memory=in_memory)

    def _compared(self, stages: Stages) -> Stages:
        """What was measured of a changed loader, compared with what was of the loader with all files in memory at about
        the same time, as a change of what the loader does now.
        """
        out = {}
        for name, measured in stages.items():
            now, cached = self.now.stages.get(name), self.cached.stages.get(name)
            if name != "read" and now is not None and cached is not None:
                measured = Measured(now.seconds * _ratio(measured, cached), measured.cores)
            out[name] = measured
        return out


def _staged(walks: Walks) -> bool:
    return isinstance(walks.config.plan, StagedPlan) and bool(walks.config.plan.stages)


def _ratio(one: Measured, other: Measured) -> float:
    return float(one.seconds.mean()) / max(float(other.seconds.mean()), 1e-12)


def _mixed(now: Measured | None, changed: Measured | None, share: float) -> Measured:
    """A stage that does so much of its work in the changed way."""
    none = Measured(np.zeros(1), 0.0)
    now, changed = now or none, changed or none
    seconds = (1.0 - share) * now.seconds + share * float(changed.seconds.mean())
    cpu_s = (1.0 - share) * now.cores * now.seconds.sum() + share * changed.cores * changed.seconds.mean() * len(
        seconds
    )
    return Measured.of(seconds, float(cpu_s))


def _in_tiles(files: Encoded, threads: int) -> bool:
    """Whether most are."""
    return float((native.Stripped(files.arena, files.starts, None, threads=threads).nbytes > 0).mean()) > 0.5
