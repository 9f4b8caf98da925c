"""The loader: torch's ``DataLoader`` as users know it, over a pipeline that keeps no state worth losing."""

from __future__ import annotations

import json
import os
import sys
import weakref
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import DistributedSampler

from dalipipe import decoders, engines, rng
from dalipipe.engines.base import Output
from dalipipe.faults import BadSample, OnError, Quarantine
from dalipipe.orders import GivenBatches, Order, Sequential, Shuffled, as_order, whole
from dalipipe.pipeline import Epoch, Lane, Prefetcher
from dalipipe.plan import Plan, lower
from dalipipe.policy import Policy
from dalipipe.sampler import GivenSteps, Sampler
from dalipipe.sources import as_source
from dalipipe.sources.base import digest
from dalipipe.tracks.base import LaneConfig, StageClock

_STATE_VERSION = 2
_DEPTH = 2  # batches being decoded at one time


class StateMismatchError(ValueError):
    """A saved state that this loader cannot continue exactly. ``differences``: field → (saved, here)."""

    def __init__(self, differences: dict[str, tuple[Any, Any]]) -> None:
        lines = [f"  {name}: saved {saved!r}, here {here!r}" for name, (saved, here) in differences.items()]
        super().__init__("the saved state belongs to another loader:\n" + "\n".join(lines))
        self.differences = differences

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.differences,)


class DataLoader(TorchDataLoader):
    """Batches of decoded, augmented samples on the training device; a drop-in for ``torch.utils.data.DataLoader``.

    The same pixels come out for (seed, epoch, sample) with any batch size, number of threads or ranks, after any
    resume. Batches unpack in the data set's field order, ``images, labels = batch``, and are named: ``batch.image`` [N,
    C, H, W], ``batch.label`` int64 [N]; ``batch.indices`` says which samples they are.

    Args:
        dataset: a dalipipe source (`ImageFolder`, `Arrays`, `TarShards`, `TFRecords`, `Table`, ...), a torchvision or
        Hugging Face data set, or any other map-style torch ``Dataset``.
        batch_size: samples a batch on this rank.
        shuffle: a new order each epoch, drawn from the seed.
        sampler: another order: one of `dalipipe.orders` (``Weighted``, ``ClassBalanced``, ``BlockShuffled``,
        ``Repeated``, ``Subset``), dealt to all ranks; or a torch ``Sampler``, which speaks for this rank alone, unless
        it is a ``DistributedSampler``.
        batch_sampler: a torch ``BatchSampler`` or other lists of indices, for this rank.
        num_workers: threads (not processes) that read, decode and augment; ``None``: as many as there are cores.
        drop_last: leave a short last batch out.
        timeout: seconds to wait for a batch before a ``TimeoutError``; 0: for ever.
        policy: what happens to the pictures; ``None``: decoding only, so all must have one size.
        device: ``"auto"`` (the current CUDA device where there is one, else the CPU), or a device.
        dtype: float32, float16, bfloat16 (normalised as the policy says, else 0..1), or uint8 (0..255).
        memory_format: ``torch.contiguous_format`` or ``torch.channels_last``.
        seed: of order and augmentation; ``None`` draws it from ``generator`` or torch's default one, so
        ``torch.manual_seed`` works. prefetch_factor: finished batches kept waiting.
        rank, world_size: this process among those that share the data set; from ``torch.distributed`` by default.
        shards: how the last global batch is shared. ``"equal"`` fills it up from the epoch's beginning, so that all
        ranks take equal steps (a single rank gets it short); ``"exact"`` fills it up too, and adds a field ``valid``
        bool [N] to batches that says which rows count, so that metrics count every sample once.
        on_error: what becomes of a sample that cannot be read, decoded or augmented. ``"raise"``: a `SampleError`;
        ``"skip"``: its batch comes without it, so shorter (in exact shards as long, and marked); ``"substitute"``:
        another sample, drawn from (seed, epoch, position), takes its place.
        max_bad: the share of bad samples beyond which a `TooManyBadSamplesError` ends the epoch.
        quarantine: a file that gets a line of JSON for each bad sample: index, where, cause, when.
        decoder: ``"auto"``, ``"dali"`` or ``"pillow"``. engine: ``"auto"``, ``"native"`` or ``"reference"``.
        pin_memory, persistent_workers, multiprocessing_context, worker_init_fn, in_order, pin_memory_device: taken for
        compatibility; there are no worker processes for them to matter to.

    Raises:
        TypeError, ValueError: an argument of another kind or range, saying what to give instead.
        ValueError: from ``iter``, where the device asked for is not there.
        SampleError, TooManyBadSamplesError, TimeoutError: from ``next``, as said above.
        MissingDaliError: from ``iter``, where DALI is needed and not installed.
    """

    batch_size: int | None

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int | None = None,
        collate_fn: Any = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Any = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        policy: Policy | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        seed: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        shards: Literal["equal", "exact"] = "equal",
        on_error: OnError = "raise",
        max_bad: float = 0.1,
        quarantine: str | os.PathLike[str] | None = None,
        decoder: str = "auto",
        engine: str = "auto",
    ) -> None:
        if collate_fn is not None:
            raise TypeError("DataLoader: collate_fn is not taken: batches are made on the device")
        _check_count("batch_size", batch_size, 1)
        threads = len(os.sched_getaffinity(0)) if num_workers is None else num_workers
        _check_count("num_workers", threads, 0)
        _check_count("prefetch_factor", 2 if prefetch_factor is None else prefetch_factor, 1)
        if not isinstance(timeout, (int, float)) or not timeout >= 0:
            raise ValueError(f"DataLoader: timeout must be seconds, at least 0, got {timeout!r}")
        for name, value, names in (
            ("decoder", decoder, decoders.NAMES),
            ("engine", engine, engines.NAMES),
            ("shards", shards, ("equal", "exact")),
        ):
            if value not in names:
                raise ValueError(f"DataLoader: {name} must be one of {', '.join(names)}, got {value!r}")
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(
                f"DataLoader: policy must be a dalipipe.Policy, got {type(policy).__name__}; see dalipipe.recipes"
            )

        self._source = as_source(dataset)
        self._plan: Plan = lower(policy or Policy([]), self._source.schema)
        self._dtype, self._memory_format, self._device_wanted = dtype, memory_format, device
        # Says what is wrong now, not in the first epoch.
        Output(torch.device("cpu"), dtype, memory_format).check(self._plan)
        if device != "auto" and torch.device(device).type not in ("cpu", "cuda"):
            raise ValueError(f'DataLoader: device must be "auto", a CPU or a CUDA device, got {device!r}')
        self._decoder_name, self._engine_name = decoder, engine
        self._threads, self._ahead, self._timeout_s = max(1, threads), prefetch_factor or 2, float(timeout)

        order = _order(shuffle, sampler, batch_sampler, batch_size=batch_size, drop_last=drop_last, shards=shards)
        rank, world_size = _rank_and_world(rank, world_size, sampler if batch_sampler is None else batch_sampler)
        if seed is None and world_size > 1 and (not isinstance(order, Sequential) or len(self._plan.policy)):
            raise ValueError(f"DataLoader: {world_size} ranks share the data set, so give each the same seed=")
        self._seed_given = seed is not None
        self.seed = (
            int(torch.empty((), dtype=torch.int64).random_(generator=generator).item()) if seed is None else int(seed)
        )
        self._order = order
        size = len(self._source)
        bound = order.bound(size, self.seed, self._source.labels)
        self._steps: Sampler
        if isinstance(bound, GivenBatches):
            self._steps = GivenSteps(bound, seed=self.seed)
        else:
            exact = shards == "exact"
            self._steps = Sampler(
                bound, batch_size, drop_last=drop_last, rank=rank, world_size=world_size, exact=exact, seed=self.seed
            )
        if self._steps.steps == 0:
            raise ValueError(
                f"DataLoader: a batch of {self._steps.global_batch} is larger than the data set of {size} samples, and "
                "drop_last=True would leave no batch: give a smaller batch_size or drop_last=False"
            )

        self._quarantine = Quarantine(on_error, max_bad, quarantine, size)
        self._lanes: list[Lane] = []
        self._largest = 0 if batch_sampler is not None else batch_size  # samples that lanes are built for
        self._clock = StageClock()
        self._current: Any = lambda: None  # a weak reference to the newest iterator
        self._position = (0, 0)  # of the newest iterator: epoch, steps given
        self._started = False
        self._resume: tuple[int, int] | None = None
        self._fingerprints: tuple[str, str] | None = None
        if batch_sampler is not None:
            super().__init__(dataset, batch_sampler=batch_sampler, num_workers=0, generator=generator)
        else:
            shown = self._steps if sampler is None or isinstance(sampler, Order) else sampler
            super().__init__(
                dataset, batch_size=batch_size, sampler=shown, num_workers=0, drop_last=drop_last, generator=generator
            )
        self._epoch_shown = getattr(self.sampler, "epoch", None)
        self.num_workers = threads  # trainers read it; torch itself must not start processes

    # Iterating ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Batches an epoch on this rank, exactly."""
        return self._steps.steps

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """An epoch: the one set by `set_epoch` or restored by `load_state_dict`, else the next."""
        self._follow_sampler()
        if self._resume is not None:
            epoch, step = self._resume
            self._steps.set_epoch(epoch)
            self._steps.take_epoch()
            self._resume = None
        else:
            epoch, step = self._steps.take_epoch(), 0
        self._steps.order.settle(epoch)
        iterator = _Epoch(self, epoch, step)
        self._current, self._position, self._started = weakref.ref(iterator), (epoch, step), True
        return iterator

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next ``iter`` gives; a restored position within that very epoch stays."""
        if self._resume is not None and self._resume[0] != epoch:
            self._resume = None
        self._steps.set_epoch(epoch)

    def _follow_sampler(self) -> None:
        """Training scripts call ``set_epoch`` on a sampler of their own, too."""
        epoch = getattr(self.sampler, "epoch", None)
        if self.sampler is not self._steps and isinstance(epoch, int) and epoch != self._epoch_shown:
            self._epoch_shown = epoch
            self.set_epoch(epoch)

    @property
    def device(self) -> torch.device:
        """Where batches come out. ``"auto"`` is settled here, and not when the loader is made, to leave CUDA alone
        until then.
        """
        if self._device_wanted == "auto":
            return (
                torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
            )
        device = torch.device(self._device_wanted)
        if device.type == "cpu":
            return device
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = torch.cuda.current_device() if device.index is None and found else device.index or 0
        if index >= found:
            raise ValueError(
                f"DataLoader: device={self._device_wanted!r}, but torch sees {found} CUDA devices here: give "
                'device="auto" or "cpu", or see what `dalipipe doctor` says of the driver'
            )
        return torch.device("cuda", index)

    @property
    def classes(self) -> list[str] | None:
        """Names of the label values, where the data set knows them."""
        return self._source.classes

    @property
    def plan(self) -> Plan:
        """The policy as it will run; ``print(loader.plan.explain())``."""
        return self._plan

    @property
    def bad_samples(self) -> list[BadSample]:
        """The samples that this loader found to be bad, in the order in which it met them."""
        return list(self._quarantine.found)

    def _config(self) -> LaneConfig:
        output = Output(self.device, self._dtype, self._memory_format)
        return LaneConfig(
            self._source,
            self._plan,
            output,
            self._largest,
            self._threads,
            _DEPTH,
            self._decoder_name,
            self._engine_name,
            mask=self._steps.exact,
        )

    def _take_lane(self, epoch: int) -> tuple[Lane, LaneConfig]:
        if isinstance(self._steps, GivenSteps) and self._steps.largest(epoch) > self._largest:
            self._largest = self._steps.largest(epoch)
            while self._lanes:
                self._lanes.pop().close()
        config = self._config()
        return (self._lanes.pop() if self._lanes else Lane(config, self._quarantine, self._clock)), config

    # State ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The position, counted in samples given to the user: JSON- and ``weights_only``-safe, and under 1 KB but
        for the indices of bad samples.
        """
        self._follow_sampler()
        if self._resume is not None:
            epoch, step = self._resume
        elif self._started:
            epoch, step = self._position
            if self._steps.epoch != epoch or not self._steps._taken:  # set_epoch has been called since
                epoch, step = self._steps.epoch, 0
            elif step == len(self):
                epoch, step = epoch + 1, 0
        else:
            epoch, step = self._steps.epoch, 0
        return {
            "version": _STATE_VERSION,
            "epoch": epoch,
            "samples": self._steps.samples_before(epoch, step),
            **self._identity(epoch),
            "bad": self._quarantine.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next ``iter`` continues there, exactly, on any number of ranks with the same global batch.

        A loader made without a seed takes the saved one. Raises `StateMismatchError` where the rest could not be the
        same.
        """
        if not isinstance(state, dict) or state.get("version") != _STATE_VERSION:
            version = state.get("version") if isinstance(state, dict) else type(state).__name__
            raise StateMismatchError({"version": (version, _STATE_VERSION)})
        differences: dict[str, tuple[Any, Any]] = {}
        for name in ("epoch", "samples", "seed"):
            if type(state.get(name)) is not int or state[name] < (-(2**63) if name == "seed" else 0):
                differences[name] = (state.get(name), "a whole number")
        bad: Any = state.get("bad")
        if not isinstance(bad, list) or not all(type(i) is int and 0 <= i < len(self._source) for i in bad):
            differences["bad"] = (bad, f"indices of samples, 0..{len(self._source) - 1}")
        if differences:
            raise StateMismatchError(differences)
        seed, self.seed = self.seed, self.seed if self._seed_given else state["seed"]
        try:
            self._bind(self.seed)
            here = self._identity(state["epoch"])
            differences = {name: (state.get(name), value) for name, value in here.items() if state.get(name) != value}
            if not differences:
                step = self._steps.step_after(state["epoch"], state["samples"])
                if step > len(self) or self._steps.samples_before(state["epoch"], step) != state["samples"]:
                    differences["samples"] = (state["samples"], f"whole batches, at most {len(self)}")
            if differences:
                raise StateMismatchError(differences)
        except BaseException:
            self.seed = seed
            self._bind(seed)
            raise
        self._quarantine.load(bad)
        epoch = state["epoch"]
        self._resume = (epoch + 1, 0) if step >= len(self) else (epoch, step)
        self._steps.set_epoch(self._resume[0])

    def _bind(self, seed: int) -> None:
        self._steps.seed = seed
        self._steps.order = self._order.bound(len(self._source), seed, self._source.labels)

    def _identity(self, epoch: int) -> dict[str, Any]:
        """What must be equal for a position in this epoch to mean the same."""
        if self._fingerprints is None:  # once: a state may be taken at every step
            policy = json.dumps(self._plan.policy.to_dict(), sort_keys=True)
            self._fingerprints = (self._source.fingerprint(), digest([policy.encode()]))
        dataset, policy_digest = self._fingerprints
        return {
            "seed": self.seed,
            "global_batch": self._steps.global_batch,
            "order": self._steps.order.identity(epoch),
            "drop_last": self.drop_last,
            "exact": self._steps.exact,
            "skips": self._quarantine.on_error == "skip",
            "dataset": dataset,
            "policy": policy_digest,
        }

    # Looking in and cleaning up ---------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """What the loader has done and holds.

        ``stage_s``: seconds that each stage has taken so far in the loader's threads; ``ready_batches``: finished ones
        that wait for the user now; ``buffers_bytes``: host memory kept for idle lanes to use again; ``bad_samples``:
        how many are in quarantine.
        """
        current = self._current()
        return {
            "stage_s": dict(self._clock.seconds),
            "ready_batches": current.ready if current is not None else 0,
            "buffers_bytes": sum(lane.buffers_bytes for lane in self._lanes),
            "bad_samples": len(self._quarantine.indices),
        }

    def close(self) -> None:
        """Ends the running epoch and frees what the loader holds; iterating again is fine."""
        current = self._current()
        if current is not None:
            current.close()
        while self._lanes:
            self._lanes.pop().close()
        self._source.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickles what was asked for and the position, not what runs."""
        state = self.__dict__.copy()
        state["_saved"] = self.state_dict()
        state.update(_lanes=[], _clock=None, _current=None, _resume=None, _started=False, _position=(0, 0))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("_saved")
        self.__dict__.update(state)
        self._clock, self._current = StageClock(), lambda: None
        self.load_state_dict(saved)


class _Epoch:
    """An epoch under way. Dropping it, or `close`, ends its thread and gives its lane back."""

    def __init__(self, loader: DataLoader, epoch: int, step: int) -> None:
        self._loader, self._epoch, self._step = loader, epoch, step
        self._lane, config = loader._take_lane(epoch)
        self._cuda = config.output.device if config.output.device.type == "cuda" else None
        course = Epoch(epoch, rng.make_key(loader.seed, epoch), loader._steps)
        self._batches: Prefetcher | None = Prefetcher(self._lane, course, step, config, loader._ahead)

    def __iter__(self) -> _Epoch:
        return self

    def __next__(self) -> Any:
        if self._batches is None:
            raise StopIteration
        try:
            batch = self._batches.get(self._loader._timeout_s)
        except BaseException:
            self.close()
            raise
        if batch is None:
            self.close()
            raise StopIteration
        if self._cuda is not None:
            # The memory was allocated on the loader's stream: tell the allocator who uses it now.
            stream = torch.cuda.current_stream(self._cuda)
            for value in batch:
                if isinstance(value, torch.Tensor):
                    value.record_stream(stream)
        self._step += 1
        if self._loader._current() is self:
            self._loader._position = (self._epoch, self._step)
        return batch

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def ready(self) -> int:
        return self._batches.ready if self._batches is not None else 0

    def close(self) -> None:
        batches, self._batches = self._batches, None
        if batches is not None:
            if batches.close():
                self._loader._lanes.append(self._lane)

    def __del__(self, _exiting: Any = sys.is_finalizing) -> None:
        if getattr(self, "_batches", None) is not None and not _exiting():  # at exit the thread has been ended already
            self.close()


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f"DataLoader: {name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"DataLoader: {name} must be at least {least}, got {value}")


def _order(shuffle: bool, sampler: Any, batch_sampler: Any, *, batch_size: int, drop_last: bool, shards: str) -> Order:
    """The order asked for, as torch's ``DataLoader`` reads its arguments."""
    if batch_sampler is not None:
        if batch_size != 1 or shuffle or sampler is not None or drop_last or shards != "equal":
            raise ValueError(
                "DataLoader: batch_sampler says which samples make which batch: give it without batch_size, shuffle, "
                "sampler, drop_last and shards"
            )
        return GivenBatches(batch_sampler)
    if sampler is None:
        return Shuffled() if shuffle else Sequential()
    if shuffle:
        raise ValueError("DataLoader: sampler says the order, so shuffle=True cannot be had with it")
    return whole(sampler) if isinstance(sampler, DistributedSampler) else as_order(sampler)


def _rank_and_world(rank: int | None, world_size: int | None, sampler: Any) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError(
            f"DataLoader: give both rank and world_size or neither, got rank={rank}, world_size={world_size}"
        )
    if rank is not None and world_size is not None:
        return rank, world_size
    if isinstance(sampler, DistributedSampler):
        return sampler.rank, sampler.num_replicas
    if sampler is not None and not isinstance(sampler, Order):  # it speaks for this rank
        return 0, 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
