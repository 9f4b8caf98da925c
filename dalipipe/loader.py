"""The loader: torch's ``DataLoader`` as users know it, over a pipeline that keeps no state worth losing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import weakref
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch.utils.data import DataLoader as TorchDataLoader

from dalipipe import cores, decoders, engines, rng
from dalipipe.arguments import check_count, check_draws, order_of, phases_of, rank_and_world
from dalipipe.autotune import BUDGET_S, Settings, Tuner, is_tuner_state, ladder
from dalipipe.cache import Place, SampleCache, make_settings
from dalipipe.clock import StageClock
from dalipipe.conversion import OnUnsupported, Report
from dalipipe.engines.base import Output
from dalipipe.faults import BadSample, OnError, Quarantine
from dalipipe.orders import GivenBatches, Order, Sequential, TokenBatches
from dalipipe.parts import DatasetView, StepBatches, as_it_is
from dalipipe.pipeline import Epoch, Lane, Prefetcher, Trials
from dalipipe.plan import Plan
from dalipipe.policy import Phases, Policy
from dalipipe.sampler import GivenSteps, Sampler, TokenSteps, current_place
from dalipipe.sources import as_source
from dalipipe.sources.base import Source, digest
from dalipipe.stages import StagedPlan, check_forms, lower
from dalipipe.text import Vocabulary
from dalipipe.tracks import explain
from dalipipe.tracks.base import LaneConfig

_STATE_VERSION = 2
_DEPTH = 2  # batches being decoded at one time
_NOT_KEPT = {"self", "__class__", "collate_fn", "pin_memory", "worker_init_fn", "multiprocessing_context"}
_NOT_KEPT |= {"persistent_workers", "pin_memory_device", "in_order"}  # arguments that mean nothing here


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
    C, H, W], ``batch.label`` int64 [N]; ``batch.indices`` says which samples they are. Sounds come as [N, C, T], other
    series as [N, T, C], spectrograms as [N, C, bins, T], padded with zeros where lengths differ; ``batch.length`` int64
    [N] then says how long each is. Texts come as int64 [N, L], words' numbers in `vocabulary` or a tokenizer's, padded
    at the end, with their ``length``, too.

    Args:
        dataset: a dalipipe source (`ImageFolder`, `Arrays`, `TarShards`, `TFRecords`, `Table`, ...), a torchvision or
        Hugging Face data set, or any other map-style torch ``Dataset``.
        batch_size: samples a batch on this rank.
        shuffle: a new order each epoch, drawn from the seed.
        sampler: another order: one of `dalipipe.orders` (``Weighted``, ``ClassBalanced``, ``BlockShuffled``,
        ``Repeated``, ``Subset``), dealt to all ranks; or a torch ``Sampler``, which speaks for this rank alone, unless
        it is a ``DistributedSampler``.
        batch_sampler: `TokenBatches`, as many samples a batch as a budget of numbers holds, dealt to all ranks; or a
        torch ``BatchSampler`` or other lists of indices, for this rank.
        num_workers: threads (not processes) that read, decode and augment; ``None``: see ``autotune``. The
        loader's `threads` says so; its attribute ``num_workers`` is 0, so that nobody starts processes.
        drop_last: leave a short last batch out.
        timeout: seconds to wait for a batch before a ``TimeoutError``; 0: for ever.
        policy: what happens to pictures, sounds, series or texts; ``None``: what the data set's ``transform`` says,
        converted (`convert`), or, where it has none, decoding only, so all pictures must have one size. Of a policy
        whose first part a pack has applied already the rest is run. `Phases`: one policy after the other, each from its
        epoch on.
        device: ``"auto"`` (the current CUDA device where there is one, else the CPU), or a device.
        dtype: float32, float16, bfloat16 (normalised as the policy says, else 0..1), or uint8 (0..255); ``None``: what
        a converted transform gives, else float32.
        memory_format: ``torch.contiguous_format`` or ``torch.channels_last``.
        seed: of order and augmentation; ``None`` draws it from ``generator`` or torch's default one, so
        ``torch.manual_seed`` works. prefetch_factor: finished batches kept waiting; ``None``: see ``autotune``.
        rank, world_size: this process among those that share the data set; from ``torch.distributed`` by default,
        which may begin after the loader is made.
        draw_epochs: how many epochs are augmented differently: epoch e takes the draws of epoch e mod draw_epochs
        again, in an order of its own; ``None``: each draws anew. What was worked out for a picture as it was augmented,
        by a teacher say, can then be kept: ``batch.indices`` and ``batch.draws`` [N] name it. Not with operators that
        mix.
        shards: how the last global batch is shared. ``"equal"`` fills it up from the epoch's beginning, so that all
        ranks take equal steps (a single rank gets it short); ``"exact"`` fills it up too, and adds a field ``valid``
        bool [N] to batches that says which rows count, so that metrics count every sample once.
        on_error: what becomes of a sample that cannot be read, decoded or augmented. ``"raise"``: a `SampleError`;
        ``"skip"``: its batch comes without it, so shorter (in exact shards as long, and marked); ``"substitute"``:
        another sample, drawn from (seed, epoch, position), takes its place. Several ranks that average gradients want
        ``"substitute"``: a shorter batch would weigh as much as a full one.
        max_bad: the share of bad samples beyond which a `TooManyBadSamplesError` ends the epoch.
        quarantine: a file that gets a line of JSON for each bad sample: index, where, cause, when.
        on_unsupported: what to do with a step of the data set's ``transform`` that cannot be converted: ``"raise"``, or
        let it run in ``"python"``, picture by picture, which costs time.
        decoder: ``"auto"``, ``"native"`` (dalipipe's own: of baseline JPEGs on the host, on a CUDA device of JPEGs in
        tiles, as `dalipipe pack` writes them; others go to DALI), ``"dali"`` or ``"pillow"``, both on the host; the
        pixels are the same. engine: ``"auto"``,
        ``"native"`` or ``"reference"``.
        cache: keep samples in memory, so that they are not read and decoded again: in ``"ram"``, which the processes
        of this node share, or on the ``"device"``, where batches are made (of a CPU, that is the same). What comes
        first stays; what does not fit is read as before. Kept are whole pictures, decoded, where all of them will
        fit, else files; on a CUDA device files only where they are JPEGs in tiles, which it decodes by itself. It
        holds for data sets whose samples stay as they are. cache_bytes: how much memory that may take on this node or
        device, ``8 << 30`` or ``"8GiB"``; ``None``: half of what is available on this node, or a quarter of what is
        free on the device, when the first epoch begins. `explain` tells what is kept.
        autotune: whether settings that are not given are chosen while the first epoch runs, by how fast batches are
        then made: ``num_workers`` up to twice the cores; on a CUDA device, with ``decoder="auto"``, whether JPEGs in
        tiles are decoded there or on the host; ``prefetch_factor`` up to 8. The mean and the tail of batches' times
        count, and of what is as good the fewest threads. Trials are batches of the epoch, the same as with any
        settings: a quarter of them at most, and some 10 s of making them, or a number of seconds given; up to 512 MiB
        of batches wait meanwhile. Where the training is slower than the loader nothing can be told, so nothing is
        changed, and after some epochs of that no more is tried. Trials go on in the next epoch, and begin in the
        second where a cache is filled by the first. ``False``, or epochs of few batches: as many threads as there are
        cores, and 2 batches. ``stats()["tuned"]`` says what was chosen; states keep it for machines of as many cores.
        (The share of DALI's hardware decoder is none of this: DALI decodes on the host here.)
        pin_memory, persistent_workers, multiprocessing_context, worker_init_fn, in_order, pin_memory_device: taken for
        compatibility; there are no worker processes for them to matter to.

    Raises:
        TypeError, ValueError: an argument of another kind or range, saying what to give instead.
        UnsupportedTransformError: naming the steps of the data set's ``transform`` that cannot be converted.
        ValueError: from ``iter``, where the device asked for is not there.
        SampleError, TooManyBadSamplesError, TimeoutError: from ``next``, as said above.
        MissingDaliError: from ``iter``, where DALI is needed and not installed.
    """

    batch_size: int | None
    use_stateful_dataloader = True  # Accelerate's save_state and load_state then take the position along
    mixup_enabled = False  # timm asks

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
        policy: Policy | Phases | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        seed: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        shards: Literal["equal", "exact"] = "equal",
        on_error: OnError = "raise",
        max_bad: float = 0.1,
        quarantine: str | os.PathLike[str] | None = None,
        on_unsupported: OnUnsupported = "raise",
        decoder: str = "auto",
        engine: str = "auto",
        cache: Place | None = None,
        cache_bytes: int | str | None = None,
        draw_epochs: int | None = None,
        autotune: bool | float = True,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in _NOT_KEPT}
        if isinstance(dataset, DatasetView):
            if dataset._settings is not None:  # from another loader's attributes: it is made again around a sampler
                new = {name: given[name] for name in ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")}
                self.__init__(**{**dataset._settings, **new})  # type: ignore[misc]
                return
            dataset = given["dataset"] = dataset._dataset
        if isinstance(batch_sampler, StepBatches) and batch_sampler.steps is None:
            sampler, batch_size, drop_last = batch_sampler.sampler, batch_sampler.batch_size, batch_sampler.drop_last
            batch_sampler = None
        if collate_fn not in (None, as_it_is):
            raise TypeError("DataLoader: collate_fn is not taken: batches are made on the device")
        check_count("batch_size", batch_size, 1)
        check_count("num_workers", 0 if num_workers is None else num_workers, 0)
        check_count("prefetch_factor", 2 if prefetch_factor is None else prefetch_factor, 1)
        check_count("draw_epochs", 1 if draw_epochs is None else draw_epochs, 1)
        if not isinstance(timeout, (int, float)) or not timeout >= 0:
            raise ValueError(f"DataLoader: timeout must be seconds, at least 0, got {timeout!r}")
        if not isinstance(autotune, (bool, int, float)) or not 0 <= autotune < math.inf:
            raise ValueError(f"DataLoader: autotune must be True, False or seconds, at least 0, got {autotune!r}")
        for name, value, names in (
            ("decoder", decoder, decoders.NAMES),
            ("engine", engine, engines.NAMES),
            ("shards", shards, ("equal", "exact")),
            ("on_unsupported", on_unsupported, get_args(OnUnsupported)),
        ):
            if value not in names:
                raise ValueError(f"DataLoader: {name} must be one of {', '.join(names)}, got {value!r}")
        if policy is not None and not isinstance(policy, Policy | Phases):
            raise TypeError(
                f"DataLoader: policy must be a dalipipe.Policy, got {type(policy).__name__}; see dalipipe.recipes, "
                "dalipipe.convert, which makes one of a transform, and dalipipe.Phases, of several"
            )

        self._draw_epochs = draw_epochs
        cache_settings = make_settings(cache, cache_bytes)
        self._source = as_source(dataset)
        self._phases, self._conversion = phases_of(policy, self._source, on_unsupported)
        self._plans = {first: lower(one, self._source.schema) for first, one in self._phases.policies.items()}
        check_forms(self._plans)
        if draw_epochs is not None:
            check_draws(draw_epochs, self._plans)
        field = self._plans[0].field
        if cache_settings is not None and field is not None and field.kind != "image":
            raise ValueError(f"DataLoader: cache keeps pictures, and {field.name!r} is {field.kind}: leave it out")
        if dtype is None:
            dtype = torch.float32 if self._conversion is None else self._conversion.dtype
        self._dtype, self._memory_format, self._device_wanted = dtype, memory_format, device
        # Says what is wrong now, not in the first epoch.
        for plan in self._plans.values():
            last = plan.last if isinstance(plan, StagedPlan) else plan
            Output(torch.device("cpu"), dtype, memory_format).check(last)
        if device != "auto" and torch.device(device).type not in ("cpu", "cuda"):
            raise ValueError(f'DataLoader: device must be "auto", a CPU or a CUDA device, got {device!r}')
        self._decoder_name, self._engine_name = decoder, engine
        self._cache_settings = cache_settings
        self._cache: SampleCache | None = None
        self._timeout_s = float(timeout)

        self._given = given
        self._tuner = self._new_tuner()
        self._seed_given = self._seed_shared = seed is not None
        self.seed = (
            int(torch.empty((), dtype=torch.int64).random_(generator=generator).item()) if seed is None else int(seed)
        )
        size = len(self._source)
        self._steps: Sampler
        if isinstance(others := getattr(batch_sampler, "steps", None), Sampler):  # of the loader this is made from
            self._steps, self._order, self.seed = others, others.order, others.seed
        else:
            order = order_of(shuffle, sampler, batch_sampler, batch_size=batch_size, drop_last=drop_last, shards=shards)
            rank, world_size = rank_and_world(rank, world_size, sampler if batch_sampler is None else batch_sampler)
            self._order, bound = order, order.bound(size, self.seed, self._labels)
            if isinstance(bound, GivenBatches):
                self._steps = GivenSteps(bound, seed=self.seed)
            else:
                dealt: Any = {"rank": rank, "world_size": world_size, "seed": self.seed}
                dealt.update(drop_last=drop_last, exact=shards == "exact")
                if isinstance(bound, TokenBatches):
                    self._steps = TokenSteps(bound, **dealt)
                else:
                    self._steps = Sampler(bound, batch_size, **dealt)
        self._check_shares()
        self._order.warn_of_batches(self._steps.global_batch)
        if self._plans[0].mix is not None:
            together = batch_size if batch_sampler is None else getattr(batch_sampler, "batch_size", None)
            if isinstance(self._steps, TokenSteps):
                together = self._steps.global_batch // self._steps.world_size
            if isinstance(together, int):
                self._plans[0].mix.warn_of_cut_groups(together)

        self._quarantine = Quarantine(on_error, max_bad, quarantine, size)
        self._lanes: list[Lane] = []
        self._largest = self._steps.batch_size  # samples that lanes are built for
        self._clock = StageClock()
        self._accelerated = False
        self._current: Any = lambda: None  # a weak reference to the newest iterator
        self._position = (0, 0)  # of the newest iterator: epoch, steps given
        self._started = False
        self._resume: tuple[int, int] | None = None
        self._fingerprints: tuple[str, str] | None = None
        if isinstance(batch_sampler, Order):
            batch_sampler = StepBatches(self._steps, 1, drop_last)
        if batch_sampler is not None:
            super().__init__(dataset, batch_sampler=batch_sampler, collate_fn=as_it_is, generator=generator)
            if isinstance(self._steps, TokenSteps):
                vars(self)["sampler"] = self._steps
        else:
            shown = self._steps if sampler is None or isinstance(sampler, Order) else sampler
            super().__init__(
                dataset, batch_size, sampler=shown, drop_last=drop_last, collate_fn=as_it_is, generator=generator
            )
            vars(self)["batch_sampler"] = StepBatches(self._steps, batch_size, drop_last)
        self._epochs_shown = self._epochs_of_samplers()
        # Lightning notes down arguments, and stumbles over positional ones: it shall go by the attributes.
        vars(self).pop("__pl_saved_args", None)

    @property
    def dataset(self) -> Any:
        """The data set, with its attributes and items. A torch ``DataLoader`` built around it and `batch_sampler`, as
        Accelerate's ``skip_first_batches`` builds one, gives this loader's batches.
        """
        return DatasetView(self._given["dataset"], loader=self)  # a new one: one that is kept would close a circle

    @dataset.setter
    def dataset(self, dataset: Any) -> None:
        """torch sets it. Lightning looks among the attributes for what it needs to make a loader again."""
        vars(self)["dataset"] = DatasetView(dataset, settings=self._given)

    def again(self, **changes: Any) -> DataLoader:
        """Another loader of this data set, policy and seed, made with the same arguments but for ``changes``. What this
        one has chosen by trials the other takes over.
        """
        other = DataLoader(**{**self._given, "seed": self.seed, **changes})
        if self._tuner.found and not other._tuner.settled:
            other._tuner.take(self._tuner.settings, "taken from another loader")
        return other

    @property
    def threads(self) -> int:
        """Threads that read, decode and augment. ``num_workers``, which counts worker processes, is 0."""
        return self._tuner.settings.threads

    @property
    def _ahead(self) -> int:
        """Finished batches kept waiting."""
        return self._tuner.settings.ahead

    @property
    def source(self) -> Source:
        """What is read from: the data set itself, or what stands around one of another kind."""
        return self._source

    @property
    def dtype(self) -> torch.dtype:
        """Of pictures and signals in batches."""
        return self._dtype

    # Iterating ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Batches on this rank, exactly: of the epoch under way, else of the next. Those of `TokenBatches` may have
        a few more or less than others.
        """
        current, steps = self._current(), self._steps
        under_way = steps._taken and current is not None and not current.over
        return steps.steps_in(steps.epoch if under_way else steps.next_epoch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """An epoch: the one set by `set_epoch` or restored by `load_state_dict`, else the next."""
        self._follow_samplers()
        watcher: Any = self.batch_sampler
        if type(watcher) is not StepBatches and getattr(watcher, "steps", None) is self._steps:
            for _ in watcher:  # Lightning's: it notes down for predictions what passes through it
                pass
        epoch, step = (self._steps.next_epoch, 0) if self._resume is None else self._resume
        return self._begin(epoch, step)

    def _begin(self, epoch: int, step: int) -> _Epoch:
        """An epoch from a step on."""
        self._check_shares()
        self._resume = None
        self._steps.set_epoch(epoch)
        self._steps.take_epoch()
        self._settle(epoch)
        iterator = _Epoch(self, self._steps, epoch, step)
        self._current, self._position, self._started = weakref.ref(iterator), (epoch, step), True
        return iterator

    def _batch_of(self, indices: list[int]) -> Any:
        """These records as a batch of this epoch, on its own."""
        steps = GivenSteps(GivenBatches([indices], len(self._source), self.seed), seed=self.seed)
        steps.order.settle(self._steps.epoch)
        with contextlib.closing(_Epoch(self, steps, self._steps.epoch, 0)) as batches:
            return next(batches)

    def _check_shares(self) -> None:
        """When the loader is made, and whenever an epoch begins: ``torch.distributed`` may have begun in between."""
        steps = self._steps
        drawn = not isinstance(steps.order, Sequential) or any(len(policy) for policy in self._phases)
        if steps.world_size > 1 and drawn and not self._seed_shared:
            raise ValueError(f"DataLoader: {steps.world_size} ranks share the data set, so give each the same seed=")
        if steps.steps == 0:
            raise ValueError(
                f"DataLoader: a batch of {steps.global_batch} is larger than the data set of {len(self._source)} "
                "samples, and drop_last=True would leave no batch: give a smaller batch_size or drop_last=False"
            )

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next ``iter`` gives; a restored position within that very epoch stays."""
        if self._resume is not None and self._resume[0] != epoch:
            self._resume = None
        self._steps.set_epoch(epoch)

    def _draws_of(self, epoch: int) -> int:
        """The epoch whose draws this one takes."""
        return epoch if self._draw_epochs is None else epoch % self._draw_epochs

    def _settle(self, epoch: int) -> None:
        self._steps.order.settle(epoch)
        self._epochs_shown = self._epochs_of_samplers()

    def _follow_samplers(self) -> None:
        """Training scripts call ``set_epoch`` on samplers of their own, too."""
        shown, self._epochs_shown = self._epochs_shown, self._epochs_of_samplers()
        for before, now in zip(shown, self._epochs_shown, strict=True):
            if now != before and isinstance(now, int):
                self.set_epoch(now)

    def _epochs_of_samplers(self) -> list[Any]:
        batch_sampler = self.batch_sampler
        samplers = (self.sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
        return [None if one is self._steps else getattr(one, "epoch", None) for one in samplers]

    @property
    def _is_accelerate_prepared(self) -> bool:
        """Accelerate asks when it is given the loader, and leaves it as it is: it deals itself out, on the device. What
        Accelerate wants to know of an epoch's end it is told from then on.
        """
        self._accelerated = True
        return True

    @_is_accelerate_prepared.setter
    def _is_accelerate_prepared(self, prepared: bool) -> None:
        """Accelerate sets it, too."""

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
    def vocabulary(self) -> Vocabulary | None:
        """Of texts: the words that numbers in batches stand for, the data set's and behind them those that the policy
        may write; a data set to validate with is made with it. ``None`` for data of other kinds.
        """
        return getattr(self._plans[0].fold, "vocabulary", None)

    @property
    def plan(self) -> Plan | StagedPlan:
        """The policy as it runs in the epoch last begun or set; ``print(loader.plan.explain())``."""
        return self._plan_of(self._steps.epoch)

    def _plan_of(self, epoch: int) -> Plan | StagedPlan:
        return self._plans[self._phases.start_of(epoch)]

    def explain(self, samples: int = 64) -> str:
        """How samples come, seen from some of the data set's: what decodes them, how much of their files that takes,
        and what the policy then does (``plan.explain``).
        """
        count = min(samples, len(self._source))
        indices = np.unique(np.linspace(0, len(self._source) - 1, count).astype(np.int64))
        epoch = self._steps.next_epoch
        lines = [explain(self._config(epoch), rng.make_key(self.seed, self._draws_of(epoch)), indices)]
        if self._cache_settings is not None:
            cache = self._opened_cache()
            lines.append("cache: nothing to decode, so nothing to keep" if cache is None else cache.describe())
        return "\n".join(lines)

    @property
    def conversion(self) -> Report | None:
        """How closely the data set's ``transform`` is met, step by step; ``None`` where it has none."""
        return self._conversion

    @property
    def bad_samples(self) -> list[BadSample]:
        """The samples that this loader found to be bad, in the order in which it met them."""
        return list(self._quarantine.found)

    def _config(self, epoch: int) -> LaneConfig:
        output = Output(self.device, self._dtype, self._memory_format)
        return LaneConfig(
            self._source,
            self._plan_of(epoch),
            output,
            self._largest,
            self.threads,
            _DEPTH,
            self._decoder_name,
            self._engine_name,
            mask=self._steps.exact,
            tiles_on=self._tuner.settings.tiles_on,
        )

    def _new_tuner(self) -> Tuner:
        given, most = self._given, cores.threads()
        threads, ahead, autotune = (given[name] for name in ("num_workers", "prefetch_factor", "autotune"))
        field = self._plans[0].field
        tiles = field is not None and field.kind == "image" and self._source.may_have_tiles
        return Tuner(
            Settings(max(1, most if threads is None else threads), ahead or Settings.ahead),
            threads=ladder(most) if threads is None else None,
            ahead=ahead is None,
            places=tiles and self._decoder_name == "auto",
            budget_s=BUDGET_S if autotune is True else float(autotune),
        )

    def _trials(self, steps: Sampler, epoch: int, first: int) -> Trials | None:
        """What this epoch tries settings with; ``None``: nothing is to be tried in it."""
        tuner, cache = self._tuner, self._opened_cache()
        if tuner.settled or (cache is not None and not cache.useless and not cache.kept[0]):
            return None
        tuner.on(self.device.type)
        share = tuner.share_of(steps.steps_in(epoch) - first)
        if tuner.settled or not share:
            return None
        quarantine, clock = self._quarantine, self._clock
        return Trials(tuner, share, lambda config: Lane(config, quarantine, clock, cache))

    def _take_lane(self, steps: Sampler, epoch: int) -> tuple[Lane, LaneConfig]:
        self._largest = max(self._largest, steps.largest(epoch))
        config = self._config(epoch)
        while self._lanes:
            lane = self._lanes.pop()
            if lane.serves(config):
                return lane, config
            lane.close()
        return Lane(config, self._quarantine, self._clock, self._opened_cache()), config

    def _opened_cache(self) -> SampleCache | None:
        """The samples kept for all lanes, of which there are none before an epoch begins: it depends on the device."""
        field = self._plans[0].field
        if self._cache is None and self._cache_settings is not None and field is not None:
            # Steps in Python work on the host, whatever comes after them.
            staged = any(isinstance(plan, StagedPlan) and plan.stages for plan in self._plans.values())
            device = torch.device("cpu") if staged else self.device
            decoder = decoders.decoder_of(self._decoder_name)
            self._cache = SampleCache(self._cache_settings, self._source, field.name, decoder, device)
        return self._cache

    # State ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The position, counted in samples given to the user: JSON- and ``weights_only``-safe, and under 1 KB but
        for the indices of bad samples.
        """
        self._follow_samplers()
        if self._resume is not None:
            epoch, step = self._resume
        elif self._started:
            epoch, step = self._position
            current = self._current()
            begun = self._steps._taken or (current is not None and not current.settled)
            if self._steps.epoch != epoch or not begun:  # set_epoch has been called since
                epoch, step = self._steps.epoch, 0
            elif step == self._steps.steps_in(epoch):
                epoch, step = epoch + 1, 0
        else:
            epoch, step = self._steps.epoch, 0
        return {
            "version": _STATE_VERSION,
            "epoch": epoch,
            "samples": self._steps.samples_before(epoch, step),
            **self._identity(epoch),
            "tuned": self._tuner.state(cores.threads()),
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
        tuned = state.get("tuned")  # states of before there was tuning have none
        if tuned is not None and not is_tuner_state(tuned):
            differences["tuned"] = (tuned, "None, or what stats() says was chosen, and cores")
        if differences:
            raise StateMismatchError(differences)
        seed, self.seed = self.seed, self.seed if self._seed_given else state["seed"]
        try:
            self._bind(self.seed)
            here, state = self._identity(state["epoch"]), {"phases": [0], **state}  # of before there were several
            differences = {name: (state.get(name), value) for name, value in here.items() if state.get(name) != value}
            if not differences:
                step = self._steps.step_after(state["epoch"], state["samples"])
                steps = self._steps.steps_in(state["epoch"])
                if step > steps or self._steps.samples_before(state["epoch"], step) != state["samples"]:
                    differences["samples"] = (state["samples"], f"whole batches, at most {steps}")
            if differences:
                raise StateMismatchError(differences)
        except BaseException:
            self.seed = seed
            self._bind(seed)
            raise
        self._quarantine.load(bad)
        if tuned is not None and tuned["cores"] == cores.threads() and self._given["autotune"]:
            self._tuner = self._new_tuner()  # trials under way are another's
            self._tuner.load(tuned)
        self._seed_shared = True  # by all who take this state
        epoch = state["epoch"]
        self._resume = (epoch + 1, 0) if step >= steps else (epoch, step)
        self._steps.set_epoch(self._resume[0])

    def _labels(self) -> np.ndarray | None:
        return self._source.labels

    def _bind(self, seed: int) -> None:
        self._steps.seed = seed
        self._steps.order = self._order.bound(len(self._source), seed, self._labels)

    def _identity(self, epoch: int) -> dict[str, Any]:
        """What must be equal for a position in this epoch to mean the same."""
        if self._fingerprints is None:  # once: a state may be taken at every step
            # A policy alone as itself, however it was given: states of before there were phases are still good.
            policies = next(iter(self._phases)) if len(self._phases) == 1 else self._phases
            parts = [json.dumps(policies.to_dict(), sort_keys=True, default=_in_words).encode()]
            for plan in self._plans.values():
                drawn_from = getattr(plan.fold, "identity", None)  # files that a policy names may change
                parts += [] if drawn_from is None else [drawn_from.encode()]
            self._fingerprints = (self._source.fingerprint(), digest(parts))
        dataset, policy_digest = self._fingerprints
        return {
            "seed": self.seed,
            "global_batch": self._steps.global_batch,
            "order": self._steps.order.identity(epoch),
            "drop_last": self._steps.drop_last,
            "exact": self._steps.exact,
            "skips": self._quarantine.on_error == "skip",
            "dataset": dataset,
            "phases": list(self._phases.starts),
            "policy": policy_digest,
            "draw_epochs": self._draw_epochs,
        }

    # Looking in and cleaning up ---------------------------------------------------------------------------------------

    @property
    def clock(self) -> StageClock:
        """What `stats` is made of, as it runs."""
        return self._clock

    def stats(self) -> dict[str, Any]:
        """What the loader has done and holds.

        What is counted is counted since the loader was made.

        ``stages``: what each has taken in the loader's threads, by name: ``batches``, ``samples``, ``bytes`` (of files
        read, where that is known), ``seconds``, and of a batch's time ``p50_ms`` and ``p99_ms``. ``read``: files, or
        memory; ``probe``: headers; ``draw``: what happens to each sample; ``decode``: until its pixels are there, which
        other threads may have made meanwhile; ``augment``, on CUDA until the device has done it; ``python``: steps that
        are the user's; ``cache``: keeping what was read; ``copy``: until a CUDA device has what was still on the host.

        ``wait``: the user's, in ``next``: the same figures, of the batches given. ``interval``: from one batch given to
        the next of its epoch, ``p50_ms`` and ``p99_ms``. ``samples_per_s``: given over the last 10 s. ``full_s``: how
        long the loader has waited for room, since it was ahead. Seconds grow while something is under way, so a stall
        shows while it lasts; ``waiting_s``: how long the user has been waiting in ``next`` now, 0: not at all.
        ``ready_batches``: finished ones that wait for the user now; ``ready_batches_mean``: on average, while epochs
        were under way. ``rank``: whose figures these are.

        ``buffers_bytes``: host memory kept for idle lanes to use again; ``bad_samples``: how many are in quarantine;
        ``cached_samples``, ``cached_bytes``: what the cache holds, of all that share it.

        ``tuned``: ``num_workers``, ``prefetch_factor`` and, where there is a choice, ``tiles_on`` "device" or "host",
        as they are used; ``settled``: whether they stay; ``reason``: why they are these; ``seconds``: how long batches
        of trials that told something took to make; ``tried``: of each setting how many trials and batches, and a
        batch's time, mean_ms and p95_ms.
        """
        current = self._current()
        samples, nbytes = (0, 0) if self._cache is None else self._cache.kept
        clock = self._clock
        return {
            "stages": {name: times.summary() for name, times in list(clock.stages.items())},
            "wait": clock.wait.summary(),
            "interval": clock.interval.summary(),
            "samples_per_s": clock.samples_per_s(),
            "full_s": clock.full.so_far_s,
            "waiting_s": clock.wait.longest_under_way_s,
            "ready_batches": current.ready if current is not None else 0,
            "ready_batches_mean": clock.ready_mean,
            "rank": self._steps.rank,
            "buffers_bytes": sum(lane.buffers_bytes for lane in self._lanes),
            "bad_samples": len(self._quarantine.indices),
            "cached_samples": samples,
            "cached_bytes": nbytes,
            "tuned": self._tuner.summary(),
        }

    def close(self) -> None:
        """Ends the running epoch and frees what the loader holds; iterating again is fine."""
        current = self._current()
        if current is not None:
            current.close()
        while self._lanes:
            self._lanes.pop().close()
        if self._cache is not None:
            self._cache.close()
        self._source.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickles what was asked for and the position, not what runs."""
        state = self.__dict__.copy()
        state["_saved"] = self.state_dict()
        state.update(_lanes=[], _clock=None, _tuner=None, _current=None, _resume=None, _started=False)
        state["_position"] = (0, 0)
        state["_accelerated"] = False
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("_saved")
        self.__dict__.update(state)
        self._clock, self._current = StageClock(), lambda: None
        self._tuner = self._new_tuner()
        self.load_state_dict(saved)


class _Epoch:
    """An epoch under way. Dropping it, or `close`, ends its thread, which gives its lane back."""

    def __init__(self, loader: DataLoader, steps: Sampler, epoch: int, step: int) -> None:
        self._loader, self._steps, self.epoch, self.step = loader, steps, epoch, step
        self.over = False
        self.settled = False
        """Whether it is certain that this is the epoch wanted: from the first batch on."""
        self._gradients: Any = None
        self._given_s: float | None = None  # when the last batch was
        self._start()

    def _start(self) -> None:
        loader = self._loader
        self._count = self._steps.steps_in(self.epoch)
        lane, config = loader._take_lane(self._steps, self.epoch)
        self._cuda = config.output.device if config.output.device.type == "cuda" else None
        draws = loader._draws_of(self.epoch)
        course = Epoch(self.epoch, rng.make_key(loader.seed, draws), self._steps, draws)
        trials = loader._trials(self._steps, self.epoch, self.step)
        self._batches: Prefetcher | None = Prefetcher(
            lane, course, self.step, config, loader._ahead, loader._lanes.append, trials
        )

    def __iter__(self) -> _Epoch:
        return self

    def __next__(self) -> Any:
        clock = self._loader.clock
        with clock.waiting() as waited:
            if torch.autograd._profiler_enabled():  # as torch's loaders call it, for tools that look for it
                with torch.profiler.record_function("enumerate(DataLoader)#dalipipe.DataLoader.__next__"):
                    batch = self._next()
            else:
                batch = self._next()
            waited.samples = len(batch.indices)
        self._given_s = clock.gave(waited, self._given_s)
        return batch

    def _next(self) -> Any:
        if not self.settled:
            self._settle()
        try:
            batch = None if self._batches is None else self._batches.get(self._loader._timeout_s)
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
        self.step += 1
        if self._loader._current() is self:
            self._loader._position = (self.epoch, self.step)
        if self.end_of_dataloader:
            self._end()
        return batch

    def _settle(self) -> None:
        """What `set_epoch` has said since ``iter`` still counts, as it does for torch's samplers, which are read at the
        first batch: Lightning calls ``iter`` first.
        """
        self.settled = True
        loader = self._loader
        if loader._current() is not self:
            return
        loader._follow_samplers()
        if not self._steps._taken:
            if self._steps.epoch != self.epoch:
                self._end()
                self.epoch, self.step = self._steps.epoch, 0
                loader._settle(self.epoch)
                self._start()
            self._steps.take_epoch()
        if loader._accelerated:
            self._gradients = sys.modules["accelerate.state"].GradientState()
            self._gradients._add_dataloader(self)

    @property
    def end_of_dataloader(self) -> bool:
        """Whether the last batch has been given. Accelerate asks, to step at the end of an epoch."""
        return self.step >= self._count

    @property
    def remainder(self) -> int:
        """How many rows of the last global batch count; -1: all. Accelerate asks, to count every sample once."""
        steps = self._steps
        return -1 if steps.world_size != current_place()[1] else steps.remainder(self.epoch)

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def ready(self) -> int:
        return self._batches.ready if self._batches is not None else 0

    def close(self) -> None:
        self.over = True
        self._end()
        if self._gradients is not None:
            self._gradients._remove_dataloader(self)
            self._gradients = None

    def _end(self) -> None:
        batches, self._batches = self._batches, None
        if batches is not None:
            batches.close()


def _in_words(step: Any) -> str:
    """A Python step as it says itself, but for its address, which is another in each process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(step))
