"""Orders: which record stands at which position of an epoch. Functions of (seed, epoch, position), without state."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dalipipe import rng

# What each kind of drawing mixes into the seed, so that none sees another's numbers.
_SHUFFLE, _BLOCKS, _WITHIN, _WEIGHTED, _GIVEN, _BATCHES, _SHORT = range(1, 8)
_WINDOWS_KEPT = 4

Labels = Callable[[], "np.ndarray | None"]  # asked only by orders that need them: a table reads them from its files


def _unknown() -> None:
    return None


class Order(ABC):
    """An epoch's order of records: any position of any epoch can be asked for at any time, on any rank.

    What is left open when an order is made (``size``, ``seed``) the loader fills in, by `bound`.
    """

    size: int
    """Positions in an epoch; 0: as many as the data set has records."""

    @abstractmethod
    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """int64 [N] positions in [0, size) → int64 [N] record indices."""

    def variants(self, epoch: int, positions: np.ndarray) -> np.ndarray | None:
        """int64 [N] in [0, 65536): which copy of its record stands there, so that copies are augmented differently.

        ``None``: no record has copies.
        """
        return None

    def bound(self, records: int, seed: int, labels: Labels = _unknown) -> Order:
        """This order for a data set of so many records. Raises ``ValueError`` where they don't go together."""
        changes: dict[str, Any] = {} if self.size else {"size": records}
        if getattr(self, "seed", 0) is None:
            changes["seed"] = seed
        return dataclasses.replace(self, **changes) if changes else self  # type: ignore[type-var]

    def settle(self, epoch: int) -> None:  # noqa: B027 - most have nothing to do
        """Does now what would be unsafe in another thread when the epoch runs."""

    def warn_of_batches(self, global_batch: int) -> None:  # noqa: B027 - most go with any
        """A warning where batches of so many do not suit it."""

    def identity(self, epoch: int) -> str:
        """What must be equal, besides the seed, for a position of the epoch to mean the same record."""
        return type(self).__name__


@dataclass(frozen=True)
class Sequential(Order):
    """Records as they stand."""

    size: int = 0

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return np.asarray(positions, np.int64)


@dataclass(frozen=True)
class Shuffled(Order):
    """Every record once an epoch, in an order drawn from (seed, epoch)."""

    size: int = 0
    seed: int | None = None

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return _permutation(self.size, self.seed, _SHUFFLE, epoch)(positions)


@dataclass(frozen=True, eq=False)
class BlockShuffled(Order):
    """Every record once an epoch; neighbours stay near each other, for storage that wants long reads.

    The blocks are shuffled, and the records of ``window`` blocks that then follow each other are shuffled together: so
    at most that many blocks are in use at a time. ``block``: records a block (of the last one: what is left), or the
    first record of every block (rising, from 0: a Parquet file's row groups, say).
    """

    block: int | Sequence[int]
    window: int = 16
    size: int = 0
    seed: int | None = None
    _memo: dict[int, tuple[np.ndarray, np.ndarray]] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"BlockShuffled: window must be at least 1 block, got {self.window}")
        starts = np.asarray(self.block)
        if starts.ndim == 0 and int(starts) < 1:
            raise ValueError(f"BlockShuffled: block must be at least 1 record, got {self.block}")
        if starts.ndim and (starts.ndim != 1 or not len(starts) or starts[0] != 0 or (np.diff(starts) < 1).any()):
            raise ValueError("BlockShuffled: block must be a number of records, or rising first records from 0")

    def bound(self, records: int, seed: int, labels: Labels = _unknown) -> Order:
        if (last := np.asarray(self.block).flat[-1]) >= records and np.ndim(self.block):
            raise ValueError(f"BlockShuffled: a block begins at record {last} of {records}")
        return super().bound(records, seed, labels)

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        positions = np.asarray(positions, np.int64)
        firsts, ends = self._blocks(epoch)  # of the blocks in this epoch's order: first record; positions up to its end
        group_ends = np.append(ends[self.window - 1 :: self.window], ends[-1])
        group = np.searchsorted(group_ends, positions, side="right")
        within = np.empty_like(positions)
        for g in np.unique(group).tolist():
            here = group == g
            begin = int(group_ends[g - 1]) if g else 0
            shuffle = _permutation(int(group_ends[g]) - begin, self.seed, _WITHIN, epoch, g)
            within[here] = begin + shuffle(positions[here] - begin)
        block = np.searchsorted(ends, within, side="right")
        return firsts[block] + within - np.where(block > 0, ends[block - 1], 0)

    def _blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        blocks = self._memo.get(epoch)
        if blocks is None:
            block = np.asarray(self.block)
            starts = block if block.ndim else np.arange(0, self.size, int(block))
            lengths = np.diff(np.append(starts, self.size))
            order = _permutation(len(starts), self.seed, _BLOCKS, epoch)(np.arange(len(starts)))
            blocks = starts[order].astype(np.int64), np.cumsum(lengths[order])
            self._memo.clear()
            self._memo[epoch] = blocks
        return blocks

    def identity(self, epoch: int) -> str:
        return f"BlockShuffled-{_digest(np.asarray(self.block))}-{self.window}"


@dataclass(frozen=True, eq=False)
class Bucketed(Order):
    """Every record once an epoch, in batches of records of similar lengths, so that little of a batch is padding.

    Records are shuffled and taken a window at a time, sorted there by length and cut into batches, and the batches of
    a window are shuffled. So what stands in a batch is still drawn anew each epoch; the larger the window, the more
    alike its lengths, and the less of chance is left in it.

    ``lengths``: numbers [records], in any unit: ``AudioFolder.durations_s()``, ``Series.lengths``. ``batch_size``: of
    the batches of all ranks together, the loader's times the number of ranks. ``window``: batches sorted together. An
    epoch's last batch may be short; its length is drawn, so that ``drop_last`` leaves out no kind of record.
    """

    lengths: Any
    batch_size: int
    window: int = 50
    size: int = 0
    seed: int | None = None
    _memo: dict[tuple[int, int], np.ndarray] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", _as_lengths(type(self).__name__, self.lengths))
        for name in ("batch_size", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{type(self).__name__}: {name} must be at least 1, got {getattr(self, name)}")

    def bound(self, records: int, seed: int, labels: Labels = _unknown) -> Order:
        if len(self.lengths) != records:
            raise ValueError(f"{type(self).__name__}: {len(self.lengths)} lengths for a data set of {records} records")
        return super().bound(records, seed, labels)

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        positions = np.asarray(positions, np.int64)
        window, within = np.divmod(positions, self.window * self.batch_size)
        indices = np.empty_like(positions)
        for w in np.unique(window).tolist():
            here = window == w
            indices[here] = self._window(epoch, w)[within[here]]
        return indices

    def _window(self, epoch: int, number: int) -> np.ndarray:
        """int64: the records of a window in their order."""
        kept = self._memo.get((epoch, number))
        if kept is not None:
            return kept
        begin = number * self.window * self.batch_size
        positions = np.arange(begin, min(begin + self.window * self.batch_size, self.size))
        records = _permutation(self.size, self.seed, _SHUFFLE, epoch)(positions)
        records = records[np.argsort(self.lengths[records], kind="stable")]
        full, rest = divmod(len(records), self.batch_size)
        # The short batch is cut out between two others, and comes last.
        cut = rng.mix64(self.seed or 0, _SHORT, epoch) % (full + 1) * self.batch_size
        short = records[cut : cut + rest]
        batches = np.concatenate([records[:cut], records[cut + rest :]]).reshape(full, self.batch_size)
        if full:
            batches = batches[_permutation(full, self.seed, _BATCHES, epoch, number)(np.arange(full))]
        made = np.concatenate([batches.ravel(), short])
        if len(self._memo) >= _WINDOWS_KEPT:
            self._memo.clear()
        self._memo[epoch, number] = made
        return made

    def warn_of_batches(self, global_batch: int) -> None:
        if global_batch != self.batch_size:
            warnings.warn(
                f"BucketSampler: its batches of {self.batch_size} are not the loader's of {global_batch} (those of all "
                "ranks together), which hold unlike lengths then, and more padding: give it "
                f"batch_size={global_batch}",
                stacklevel=3,
            )

    def identity(self, epoch: int) -> str:
        return f"Bucketed-{_digest(self.lengths)}-{self.batch_size}-{self.window}"


BucketSampler = Bucketed
"""By the name that users of other libraries look for."""


@dataclass(frozen=True, eq=False)
class TokenBatches(Order):
    """Every record once an epoch, in batches of as many records of similar lengths as a budget of numbers holds.

        loader = DataLoader(texts, batch_sampler=TokenBatches(texts.lengths, tokens=16_384), policy=..., seed=0)

    So short texts come many together and long ones few, and each step is about as much work. Records are shuffled and
    taken a window at a time, sorted there by length, and cut into batches of which the padded numbers, rows × longest,
    are at most ``tokens``; all batches of an epoch are shuffled. They are batches of all ranks together, functions of
    (seed, epoch) alone: the same on any number of ranks, each of which takes an equal share of the rows, so at most
    ``tokens`` / ranks numbers. (fairseq's ``max_tokens`` and ``required_batch_size_multiple``, per rank there; Ott et
    al., "fairseq: a fast, extensible toolkit for sequence modeling", NAACL 2019.)

    ``lengths``: numbers ≥ 0 [records], of what the data set holds: ``Text.lengths``, ``Series.lengths``, or
    ``AudioFolder.durations_s()``; what a policy adds to a record is not counted. ``tokens``: the budget, in their unit.
    ``window``: about how many batches' records are sorted together. ``multiple``: of what a batch's rows are a
    multiple, so that any number of ranks that divides it shares them equally, and mixing operators find their groups
    whole. ``most``: rows a batch at most.

    Where the records are no multiple of ``multiple``, an epoch's last batch lacks some rows, of a length that is drawn:
    a single rank gets it so, several fill it up with rows of its own, ``shards="exact"`` marks those, and ``drop_last``
    leaves out the records that are too few. Epochs may differ by a few batches.

    Raises:
        ValueError: where ``multiple`` rows as long as the longest record are more than ``tokens``.
    """

    lengths: Any
    tokens: float
    window: int = 50
    multiple: int = 8
    most: int | None = None
    size: int = 0
    seed: int | None = None
    _memo: dict[int, tuple[np.ndarray, np.ndarray]] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        lengths = _as_lengths("TokenBatches", self.lengths)
        lengths = lengths.astype(np.float64 if lengths.dtype.kind == "f" else np.int64)
        object.__setattr__(self, "lengths", lengths)
        for name in ("window", "multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"TokenBatches: {name} must be at least 1, got {getattr(self, name)}")
        if self.most is not None and self.most < self.multiple:
            raise ValueError(f"TokenBatches: most must be at least multiple={self.multiple} rows, got {self.most}")
        if lengths.min() < 0:
            raise ValueError(f"TokenBatches: lengths must be at least 0, got {lengths.min()}")
        longest = int(np.argmax(lengths))
        if not lengths[longest] * self.multiple <= self.tokens:
            raise ValueError(
                f"TokenBatches: record {longest} is {lengths[longest]} long, and {self.multiple} such rows are more "
                f"than tokens={self.tokens}: give more tokens or a smaller multiple, or cut or leave out long records"
            )

    def bound(self, records: int, seed: int, labels: Labels = _unknown) -> Order:
        if len(self.lengths) != records:
            raise ValueError(f"TokenBatches: {len(self.lengths)} lengths for a data set of {records} records")
        return super().bound(records, seed, labels)

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return self._epoch(epoch)[0][positions]

    def ends(self, epoch: int) -> np.ndarray:
        """int64 [batches]: positions up to each batch's end."""
        return self._epoch(epoch)[1]

    def settle(self, epoch: int) -> None:
        self._epoch(epoch)

    def identity(self, epoch: int) -> str:
        return f"TokenBatches-{_digest(self.lengths)}-{self.tokens}-{self.window}-{self.multiple}-{self.most}"

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 [size] records, batch after batch; int64 [batches] positions up to each batch's end."""
        kept = self._memo.get(epoch)
        if kept is None:
            kept = self._cut(epoch)
            while len(self._memo) > 1:  # kept: this epoch, and the last, which an iterator may still be in
                self._memo.pop(min(self._memo))
            self._memo[epoch] = kept
        return kept

    def _cut(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        records = _permutation(self.size, self.seed, _SHUFFLE, epoch)(np.arange(self.size))
        batches: list[np.ndarray] = []
        short: list[np.ndarray] = []  # the batch that lacks some rows, if there is one
        for begin in range(0, self.size, self._together):
            window = records[begin : begin + self._together]
            window = window[np.argsort(self.lengths[window], kind="stable")]
            full, rest = divmod(len(window), self.multiple)
            lacking = rng.mix64(self.seed or 0, _SHORT, epoch) % (full + 1) if rest else -1
            if rest:  # one group of rows anywhere is filled up with its last, while batches are made of groups
                cut = lacking * self.multiple + rest
                window = np.insert(window, cut, np.repeat(window[cut - 1], self.multiple - rest))
            groups = window.reshape(-1, self.multiple)
            for first, last in self._runs(self.lengths[groups[:, -1]]):
                if first <= lacking < last:  # its rows are the batch's last, and this the epoch's last batch
                    others = np.concatenate([groups[first:lacking], groups[lacking + 1 : last]])
                    short = [np.append(others.ravel(), groups[lacking, :rest])]
                else:
                    batches.append(groups[first:last].ravel())
        if batches:
            order = _permutation(len(batches), self.seed, _BATCHES, epoch)(np.arange(len(batches)))
            batches = [batches[number] for number in order.tolist()]
        batches += short
        return np.concatenate(batches), np.cumsum([len(batch) for batch in batches], dtype=np.int64)

    def _runs(self, longest: np.ndarray) -> Iterator[tuple[int, int]]:
        """Numbers [groups], rising: the longest rows of groups → groups that make a batch, as many as may."""
        first, most = 0, len(longest) if self.most is None else self.most // self.multiple
        while first < len(longest):
            least = longest[first] * self.multiple
            ahead = longest[first : first + min(most, int(self.tokens / least) if least else most)]
            fits = np.arange(1, len(ahead) + 1) * self.multiple * ahead <= self.tokens  # first true, then false
            last = first + int(np.count_nonzero(fits))
            yield first, last
            first = last

    @cached_property
    def _together(self) -> int:
        """Records in a window: whole groups."""
        # Summed exactly, so that it is the same on any processor.
        total = math.fsum(self.lengths) if self.lengths.dtype.kind == "f" else int(self.lengths.sum())
        records = self.window * self.tokens * len(self.lengths) / total if total else math.inf
        if self.most is not None:
            records = min(records, self.window * self.most)
        return self.multiple * max(1, math.ceil(min(records, len(self.lengths)) / self.multiple))


@dataclass(frozen=True, eq=False)
class Weighted(Order):
    """Records drawn with probability in proportion to their weights, as torch's ``WeightedRandomSampler`` draws.

    ``weights``: numbers ≥ 0 [records], not all zero. ``size``: draws an epoch, by default as many as there are records.
    ``replacement=False`` draws no record twice (Efraimidis and Spirakis, "Weighted random sampling with a reservoir",
    2006). A record that is drawn several times is augmented differently each time.
    """

    weights: Any
    size: int = 0
    replacement: bool = True
    seed: int | None = None
    _memo: dict[int, np.ndarray] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        weights = np.asarray(self.weights, np.float64)
        if weights.ndim != 1 or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
            raise ValueError(
                f"{type(self).__name__}: weights must be numbers ≥ 0 [records], not all 0, got {self.weights!r}"
            )
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "size", self.size or len(weights))
        drawable = int((weights > 0).sum())
        if not self.replacement and self.size > drawable:
            raise ValueError(
                f"Weighted: {self.size} records without replacement, but only {drawable} weights are above 0"
            )

    def bound(self, records: int, seed: int, labels: Labels = _unknown) -> Order:
        if len(self.weights) != records:
            raise ValueError(f"Weighted: {len(self.weights)} weights for a data set of {records} records")
        return super().bound(records, seed, labels)

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        if not self.replacement:
            return self._without_replacement(epoch)[positions]
        u = _uniform(self.seed, _WEIGHTED, epoch, np.asarray(positions))
        # A product that rounds up to the total must not fall past the last record that can be drawn.
        return np.minimum(np.searchsorted(self._cumulated, u * self._cumulated[-1], side="right"), self._last)

    def variants(self, epoch: int, positions: np.ndarray) -> np.ndarray | None:
        return np.asarray(positions, np.int64) % rng.MAX_VARIANTS if self.replacement else None

    @cached_property
    def _cumulated(self) -> np.ndarray:
        return np.cumsum(self.weights)

    @cached_property
    def _last(self) -> int:
        return int(np.flatnonzero(self.weights)[-1])

    def _without_replacement(self, epoch: int) -> np.ndarray:
        drawn = self._memo.get(epoch)
        if drawn is None:
            u = _uniform(self.seed, _WEIGHTED, epoch, np.arange(len(self.weights)))
            with np.errstate(divide="ignore", invalid="ignore"):
                times = -np.log1p(-u) / self.weights  # exponential clocks: the first to ring are drawn
            times[self.weights == 0] = np.inf
            drawn = np.argsort(times, kind="stable")[: self.size]
            self._memo.clear()
            self._memo[epoch] = drawn
        return drawn

    def identity(self, epoch: int) -> str:
        return f"Weighted-{_digest(self.weights)}-{self.size}-{self.replacement}"


@dataclass(frozen=True, eq=False)
class ClassBalanced(Order):
    """Records drawn so that every class comes equally often. ``labels`` int [records]: by default the data set's."""

    labels: Any = None
    size: int = 0
    seed: int | None = None

    def bound(self, records: int, seed: int, labels: Labels = _unknown) -> Order:
        known = labels() if self.labels is None else np.asarray(self.labels)
        if known is None:
            raise ValueError(
                "ClassBalanced: this data set does not know its labels before it is read: give "
                "ClassBalanced(labels=[...])"
            )
        if known.ndim != 1 or len(known) != records:
            raise ValueError(f"ClassBalanced: labels must be [{records}], one a record, got shape {known.shape}")
        _, class_of, counts = np.unique(known, return_inverse=True, return_counts=True)
        weights = 1.0 / counts[class_of]
        return Weighted(weights, self.size, seed=self.seed).bound(records, seed)

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        raise TypeError("ClassBalanced has no order of its own: bound() gives one")


@dataclass(frozen=True, eq=False)
class Subset(Order):
    """Only some records. ``indices`` int [n]; ``order`` says how they follow each other, by default shuffled."""

    indices: Any
    order: Order = field(default_factory=Shuffled)

    def __post_init__(self) -> None:
        _one_by_one("Subset", self.order)
        indices = np.asarray(self.indices, np.int64)
        if indices.ndim != 1 or not len(indices):
            raise ValueError(f"Subset: indices must be a list of at least one record, got shape {indices.shape}")
        object.__setattr__(self, "indices", indices)

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.order.size

    def bound(self, records: int, seed: int, labels: Labels = _unknown) -> Order:
        _check_range("Subset", self.indices, records)

        def some() -> np.ndarray | None:
            known = labels()
            return None if known is None else known[self.indices]

        return dataclasses.replace(self, order=self.order.bound(len(self.indices), seed, some))

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return self.indices[self.order.at(epoch, positions)]

    def variants(self, epoch: int, positions: np.ndarray) -> np.ndarray | None:
        return self.order.variants(epoch, positions)

    def settle(self, epoch: int) -> None:
        self.order.settle(epoch)

    def warn_of_batches(self, global_batch: int) -> None:
        self.order.warn_of_batches(global_batch)

    def identity(self, epoch: int) -> str:
        return f"Subset-{_digest(self.indices)}-{self.order.identity(epoch)}"


@dataclass(frozen=True, eq=False)
class Repeated(Order):
    """Repeated augmentation: each record stands ``times`` times in a row, differently augmented each time.

    An epoch stays as long as ``order``'s, and so sees 1/``times`` of the records (Hoffer et al., "Augment your batch",
    CVPR 2020; as DeiT and timm train); ``whole=True`` makes it ``times`` as long, and it sees all.
    """

    times: int = 3
    order: Order = field(default_factory=Shuffled)
    whole: bool = False

    def __post_init__(self) -> None:
        _one_by_one("Repeated", self.order)
        if not 1 <= self.times <= rng.MAX_VARIANTS:
            raise ValueError(f"Repeated: times must lie in 1..{rng.MAX_VARIANTS}, got {self.times}")

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.order.size * (self.times if self.whole else 1)

    def bound(self, records: int, seed: int, labels: Labels = _unknown) -> Order:
        order = self.order.bound(records, seed, labels)
        if order.variants(0, np.zeros(1, np.int64)) is not None:
            raise ValueError(f"Repeated: {type(order).__name__} repeats records already")
        return dataclasses.replace(self, order=order)

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return self.order.at(epoch, np.asarray(positions) // self.times)

    def variants(self, epoch: int, positions: np.ndarray) -> np.ndarray | None:
        return np.asarray(positions, np.int64) % self.times

    def settle(self, epoch: int) -> None:
        self.order.settle(epoch)

    def identity(self, epoch: int) -> str:
        return f"Repeated-{self.times}-{self.whole}-{self.order.identity(epoch)}"


@dataclass(frozen=True)
class _Listed:
    """An epoch that a user's sampler gave: int64 [positions] indices; int64 [batches] positions up to a batch's end."""

    indices: np.ndarray
    ends: np.ndarray | None
    repeats: bool


class Given(Order):
    """The order of a torch ``Sampler``, or of any iterable of record indices with a length.

    What the sampler draws it draws from (seed, epoch): torch's, numpy's and Python's generators are seeded while it is
    asked for an epoch's indices, and put back after; so is a ``generator`` of its own, from the seed that it was made
    with. ``set_epoch`` is called where it has one.
    """

    def __init__(self, sampler: Any, records: int = 0, seed: int = 0) -> None:
        if not hasattr(sampler, "__len__"):
            raise TypeError(
                f"{type(sampler).__name__} has no length: an epoch's batches must be known; give it a __len__"
            )
        self.sampler, self.records, self.seed = sampler, records, seed
        self._listed: dict[int, _Listed] = {}

    @property
    def size(self) -> int:  # type: ignore[override]
        return len(self.sampler)

    def bound(self, records: int, seed: int, labels: Labels = _unknown) -> Order:
        return type(self)(self.sampler, records, seed)

    def at(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        return self._epoch(epoch).indices[positions]

    def variants(self, epoch: int, positions: np.ndarray) -> np.ndarray | None:
        """A sampler may give a record more than once: each place then has its own."""
        return np.asarray(positions, np.int64) % rng.MAX_VARIANTS if self._epoch(epoch).repeats else None

    def settle(self, epoch: int) -> None:
        self._epoch(epoch)

    def identity(self, epoch: int) -> str:
        listed = self._epoch(epoch)
        arrays = (listed.indices,) if listed.ends is None else (listed.indices, listed.ends)
        return f"{type(self.sampler).__name__}-{_digest(*arrays)}"

    def _epoch(self, epoch: int) -> _Listed:
        listed = self._listed.get(epoch)
        if listed is None:
            with _drawing_from(self.seed, epoch, self.sampler):
                listed = self._list()
            _check_range(type(self.sampler).__name__, listed.indices, self.records)
            while len(self._listed) > 1:  # kept: this epoch, and the last, which an iterator may still be in
                self._listed.pop(min(self._listed))
            self._listed[epoch] = listed
        return listed

    def _list(self) -> _Listed:
        indices = np.array([int(i) for i in self.sampler], np.int64)
        if len(indices) != len(self.sampler):
            raise ValueError(
                f"{type(self.sampler).__name__} promised {len(self.sampler)} indices and gave {len(indices)}"
            )
        return _Listed(indices, None, len(np.unique(indices)) < len(indices))


class GivenBatches(Given):
    """The order of a torch ``BatchSampler``, or of any iterable of lists of record indices with a length."""

    @property
    def size(self) -> int:  # type: ignore[override]
        raise TypeError("how many records a batch sampler gives is known epoch by epoch")

    def ends(self, epoch: int) -> np.ndarray:
        """int64 [batches]: positions up to each batch's end."""
        ends = self._epoch(epoch).ends
        assert ends is not None
        return ends

    def _list(self) -> _Listed:
        batches = [np.array([int(i) for i in batch], np.int64) for batch in self.sampler]
        name = type(self.sampler).__name__
        if len(batches) != len(self.sampler):
            raise ValueError(f"{name} promised {len(self.sampler)} batches and gave {len(batches)}")
        if not all(len(batch) for batch in batches):
            raise ValueError(f"{name} gave an empty batch")
        indices = np.concatenate([np.zeros(0, np.int64), *batches])
        ends = np.cumsum([len(batch) for batch in batches], dtype=np.int64)
        return _Listed(indices, ends, len(np.unique(indices)) < len(indices))


@contextlib.contextmanager
def _drawing_from(seed: int, epoch: int, sampler: Any) -> Iterator[None]:
    """Inside, whatever a sampler (or the one inside a batch sampler) may draw from is seeded by (seed, epoch)."""
    parts = [part for part in (sampler, getattr(sampler, "sampler", None)) if part is not None]
    for part in parts:
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
    generators = [g for part in parts if isinstance(g := getattr(part, "generator", None), torch.Generator)]
    states = [(g, g.get_state()) for g in generators]
    python, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 - a user's sampler may draw from it
    seed = rng.mix64(seed, _GIVEN, epoch)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
            for generator in generators:
                generator.manual_seed(rng.mix64(seed, generator.initial_seed()))
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpys)  # noqa: NPY002
        for generator, state in states:
            generator.set_state(state)


def as_order(sampler: Any) -> Order:
    """An `Order` as it is; anything that iterates over record indices and has a length as `Given`."""
    if isinstance(sampler, Order):
        return _one_by_one("sampler", sampler)
    if not isinstance(sampler, Iterable):
        raise TypeError(
            "sampler must be a dalipipe order (Shuffled, Weighted, ...), a torch Sampler or another iterable of record "
            f"indices, got {type(sampler).__name__}"
        )
    return Given(sampler)


def _one_by_one(name: str, order: Order) -> Order:
    if isinstance(order, TokenBatches):
        raise ValueError(f"{name}: TokenBatches says which records make which batch: give it as batch_sampler=")
    return order


def whole(sampler: torch.utils.data.DistributedSampler[Any]) -> Given:
    """What all ranks of a torch ``DistributedSampler`` share: their batches k together are the same global batch k."""
    shared = copy.copy(sampler)
    shared.num_replicas, shared.rank, shared.num_samples = 1, 0, sampler.total_size
    return Given(shared)


def _permutation(size: int, *words: int | None) -> rng.Permutation:
    seed, kind, epoch, *more = (word or 0 for word in words)
    return rng.Permutation(size, rng.make_key(rng.mix64(seed, kind, *more), epoch))


def _uniform(seed: int | None, kind: int, epoch: int, counters: np.ndarray) -> np.ndarray:
    """float64 [N] in [0, 1), 53 bits each."""
    zero = np.zeros(1, np.uint32)
    key = rng.make_key(rng.mix64(seed or 0, kind), epoch)
    u = rng.uniforms(key, counters, zero, zero)[:, 0]
    return np.minimum(u[:, 0] + u[:, 1] * 2.0**-32, 1 - 2.0**-53)


def _as_lengths(name: str, given: Any) -> np.ndarray:
    lengths = np.asarray(given)
    if lengths.ndim != 1 or not len(lengths) or lengths.dtype.kind not in "iuf" or not np.isfinite(lengths).all():
        raise ValueError(f"{name}: lengths must be numbers [records], got {given!r}")
    return lengths


def _check_range(name: str, indices: np.ndarray, records: int) -> None:
    wrong = (indices < 0) | (indices >= records)
    if wrong.any():
        raise IndexError(f"{name}: index {indices[wrong][0]} is outside a data set of {records} records")


def _digest(*arrays: np.ndarray) -> str:
    from hashlib import blake2b

    h = blake2b(digest_size=8)
    for array in arrays:
        h.update(f"{array.dtype}{array.shape}".encode())
        h.update(np.ascontiguousarray(array).tobytes())
    return h.hexdigest()
