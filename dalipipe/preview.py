"""What a policy does to the samples of a data set, to look at: as a whole, or operator by operator."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dalipipe.figures import Trace, Word, draw_grid, draw_texts, draw_traces, tinted
from dalipipe.loader import DataLoader
from dalipipe.ops.image import CenterCrop, GridMask, Normalize, Resize
from dalipipe.ops.image.families import BlendOp, CropOp, FilterOp, ResizeOp
from dalipipe.ops.mix import MixOp
from dalipipe.ops.signal import FeatureOp
from dalipipe.orders import Sequential, Subset
from dalipipe.policy import Choice, Normal, Op, Policy, Range
from dalipipe.records import SampleError
from dalipipe.schema import Field
from dalipipe.sources import Source

_CELL_PX = 112
_MOST_LINES = 5  # of a label


def preview(
    source: Source,
    policy: Policy,
    path: str | os.PathLike[str],
    *,
    samples: int | None = None,
    variants: int | None = None,
    each: bool = False,
    seed: int = 0,
    title: str = "",
    decoder: str = "auto",
    pass_over_bad: bool = False,
) -> Path:
    """Write a PNG with a row per picture, sound, series or text: the original, then ``variants`` (8; of signals and
    texts 3) of what training would see of it, in the first epochs from that seed.

    The samples are evenly spaced in ``source``, ``samples`` of them (6, of signals 4; with ``each`` 1, of texts 2). Of
    pictures, normalisation is undone, since it is not meant for eyes; label maps are laid over them. Sounds are drawn
    over time, with their spectrograms beneath them; where the policy makes features, these, and above them the sound
    that they are made of. Of texts, words that differ from the original are coloured by how: replaced, inserted, moved,
    deleted.

    ``each``: a row per operator instead, in the order in which the policy, its containers and macros unrolled, first
    names them. Each is applied alone and always, at strengths drawn as in the policy, and to pictures of the size, or
    to features of the kind, that the policy makes. Of blur, noise and the like the pictures' middle is shown, pixel by
    pixel.

    ``pass_over_bad``: take the next sample in the place of one that cannot be read.

    Raises:
        ValueError: ``samples`` or ``variants`` is less than one; there is no operator to show.
        SampleError: a sample cannot be read, decoded or augmented.
        ModuleNotFoundError: matplotlib is missing, and these are signals or texts.
    """
    texts = source.schema.of_kind("text")
    signals = [field for field in source.schema.fields if field.kind in ("audio", "series")]
    if samples is None:
        samples = (2 if texts else 1) if each else 4 if signals else 6
    if variants is None:
        variants = 3 if signals or texts else 8
    for name, value in (("samples", samples), ("variants", variants)):
        if value < 1:
            raise ValueError(f"preview: {name} must be at least 1, got {value}")
    shown = _Tracks if signals else _Texts if texts else _Album
    album: _Shown = shown(source, seed, decoder, pass_over_bad)
    picks = np.unique(np.linspace(0, len(source) - 1, min(samples, len(source))).round().astype(int)).tolist()
    if pass_over_bad:
        picks = sorted({album.next_readable(pick) for pick in picks})
    if each:
        rows, labels = album.each(picks, policy, variants)
    else:
        rows, labels = album.rows(picks, policy, variants), [_cut(album.name(pick), 20) for pick in picks]
    options: dict[str, Any] = {
        "row_labels": labels,
        "column_labels": ["original", *(str(variant + 1) for variant in range(variants))],
        "title": title,
    }
    if signals:
        audio = signals[0].kind == "audio"
        return draw_traces(rows, path, rate_hz=signals[0].rate_hz, spectra=audio, **options)
    if texts:
        return draw_texts(rows, path, **options)
    side_px = max(max(image.shape[:2]) for row in rows for image in row[1:])
    cell_px = side_px * round(_CELL_PX / side_px) if side_px <= _CELL_PX else _CELL_PX  # whole multiples stay crisp
    return draw_grid(rows, path, cell_px=cell_px, **options)


class _Shown(ABC):
    """The samples of a source, as they are and as a policy makes them. ``noun``: what people call them."""

    noun: str

    def __init__(self, source: Source, seed: int, decoder: str, pass_over_bad: bool) -> None:
        self._source, self._seed, self._decoder, self._pass_over_bad = source, seed, decoder, pass_over_bad

    @abstractmethod
    def original(self, index: int) -> Any: ...

    @abstractmethod
    def variants(self, picks: Sequence[int], policy: Policy, count: int) -> list[list[Any]]:
        """What training sees of these records in each of the first ``count`` epochs: an entry an epoch."""

    @abstractmethod
    def each(self, picks: Sequence[int], policy: Policy, count: int) -> tuple[list[list[Any]], list[str]]:
        """A row an operator and record, and what stands before it."""

    def rows(self, picks: Sequence[int], policy: Policy, count: int) -> list[list[Any]]:
        """A row a record: the original and its variants."""
        originals = [self.original(pick) for pick in picks]
        return [list(row) for row in zip(originals, *self.variants(picks, policy, count), strict=True)]

    def next_readable(self, first: int) -> int:
        count = len(self._source)
        for index in (*range(first, count), *range(first)):
            with contextlib.suppress(SampleError):
                self.original(index)
                return index
        raise ValueError(f"preview: none of the {count} {self.noun} can be read")

    def name(self, index: int) -> str:
        """Its class's, or its own."""
        labels, classes = self._source.labels, self._source.classes
        if labels is None:
            return os.path.basename(self._source.describe(index))
        label = int(labels[index])
        return classes[label] if classes else str(label)

    def _epochs(self, picks: Sequence[int], policy: Policy, count: int, dtype: torch.dtype) -> Iterator[Any]:
        """The batch that begins with these records, in each of the first ``count`` epochs."""
        with contextlib.closing(self._loader(picks, policy, dtype)) as loader:
            yield from _first_batches(loader, count)

    def _loader(self, picks: Sequence[int], policy: Policy, dtype: torch.dtype | None = None) -> DataLoader:
        """Whose batches begin with these records."""
        group = max((leaf.op.group for leaf in policy.leaves if isinstance(leaf.op, MixOp)), default=1)
        batch = [*picks, *self._others(picks, -len(picks) % group)]  # samples are mixed within whole groups
        return DataLoader(
            self._source,
            batch_size=len(batch),
            sampler=Subset(batch, Sequential()),
            policy=policy,
            dtype=dtype,
            seed=self._seed,
            decoder=self._decoder,
        )

    def _others(self, picks: Sequence[int], count: int) -> list[int]:
        """Records to mix with, far from each other."""
        step = max(1, len(self._source) // (count + 1))
        others = [(picks[-1] + (i + 1) * step) % len(self._source) for i in range(count)]
        return [self.next_readable(other) for other in others] if self._pass_over_bad else others


class _Album(_Shown):
    """The pictures of a source: uint8 [H, W, C], label maps laid over them."""

    noun = "pictures"

    def __init__(self, source: Source, seed: int, decoder: str, pass_over_bad: bool) -> None:
        super().__init__(source, seed, decoder, pass_over_bad)
        self._records = DataLoader(source, seed=seed, dtype=torch.uint8, decoder=decoder, device="cpu").dataset
        self._image = source.schema.of_kind("image")[0].name
        self._masks = source.schema.of_kind("mask")

    def original(self, index: int) -> np.ndarray:
        return self._seen(self._records.__getitems__([index]), None)[0]

    def variants(self, picks: Sequence[int], policy: Policy, count: int) -> list[list[np.ndarray]]:
        normalize = next((op for op in policy if isinstance(op, Normalize)), None)
        dtype = torch.uint8 if normalize is None else torch.float32
        return [self._seen(batch, normalize)[: len(picks)] for batch in self._epochs(picks, policy, count, dtype)]

    def each(self, picks: Sequence[int], policy: Policy, count: int) -> tuple[list[list[np.ndarray]], list[str]]:
        rows: list[list[np.ndarray]] = []
        labels: list[str] = []
        height, width = self.variants(picks[:1], policy, 1)[0][0].shape[:2]
        for op, before in _one_by_one(policy, (height, width)):
            fine = _is_fine(op) and max(height, width) > _CELL_PX
            for nth, pick in enumerate(picks):
                shown = [self.original(pick)] if not before else self.variants([pick], Policy(before), 1)[0]
                shown += [images[0] for images in self.variants([pick], Policy([*before, op]), count)]
                rows.append([_middle(image) for image in shown] if fine else shown)
                labels.append("" if nth else _label(op) + ("\nthe middle, 1:1" if fine else ""))
        if not rows:
            raise ValueError("preview: the policy has no operator to show; Normalize is not meant for eyes")
        return rows, labels

    def _seen(self, batch: Any, normalize: Normalize | None) -> list[np.ndarray]:
        images = getattr(batch, self._image)
        if normalize is not None:
            mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (normalize.mean, normalize.std))
            images = ((images.cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        seen: list[np.ndarray] = list(images.permute(0, 2, 3, 1).cpu().numpy())
        for field in self._masks:
            seen = [self._laid_over(*pair, field) for pair in zip(seen, getattr(batch, field.name), strict=True)]
        return seen

    @staticmethod
    def _laid_over(image: np.ndarray, mask: torch.Tensor, field: Field) -> np.ndarray:
        return tinted(image, mask.cpu().numpy(), ignore=field.ignore_index)


class _Tracks(_Shown):
    """The sounds or series of a source as traces."""

    noun = "signals"

    def __init__(self, source: Source, seed: int, decoder: str, pass_over_bad: bool) -> None:
        super().__init__(source, seed, decoder, pass_over_bad)
        self._field = next(field for field in source.schema.fields if field.kind in ("audio", "series"))

    def original(self, index: int) -> Trace:
        return self.variants([index], Policy([]), 1)[0][0]

    def variants(self, picks: Sequence[int], policy: Policy, count: int) -> list[list[Trace]]:
        def seen(policy: Policy) -> list[list[np.ndarray]]:
            return [self._seen(batch)[: len(picks)] for batch in self._epochs(picks, policy, count, torch.float32)]

        at = _features_at(policy)
        if at is None:
            return [[Trace(values) for values in epoch] for epoch in seen(policy)]
        before = policy.split(at)[0] if at else Policy([])
        pairs = zip(seen(before), seen(policy), strict=True)
        return [[Trace(*pair) for pair in zip(*epoch, strict=True)] for epoch in pairs]

    def rows(self, picks: Sequence[int], policy: Policy, count: int) -> list[list[Trace]]:
        plain = self.variants(picks, Policy([op for op in policy if isinstance(op, FeatureOp)]), 1)
        return [list(row) for row in zip(*plain, *self.variants(picks, policy, count), strict=True)]

    def each(self, picks: Sequence[int], policy: Policy, count: int) -> tuple[list[list[Trace]], list[str]]:
        rows: list[list[Trace]] = []
        labels: list[str] = []
        for op, before in _one_by_one_of_signals(policy):
            for nth, pick in enumerate(picks):
                shown = self.variants([pick], Policy(before), 1)[0]
                shown += [traces[0] for traces in self.variants([pick], Policy([*before, op]), count)]
                rows.append(shown)
                labels.append("" if nth else _label(op))
        if not rows:
            raise ValueError("preview: the policy has no operator to show")
        return rows, labels

    def _seen(self, batch: Any) -> list[np.ndarray]:
        """Of each sample, without what it is padded with: values [T, C], or features [bands, frames], the mean of its
        channels.
        """
        values = getattr(batch, self._field.name).float().cpu().numpy()
        frames_last = values.mean(axis=1) if values.ndim == 4 else values
        if self._field.kind == "series":
            frames_last = values.transpose(0, 2, 1)
        own = [slice(None)] * len(values)
        if self._field.length is not None:
            own = [slice(length) for length in getattr(batch, self._field.length).tolist()]
        rows = [row[:, part] for row, part in zip(frames_last, own, strict=True)]
        return rows if values.ndim == 4 else [row.T for row in rows]


class _Texts(_Shown):
    """The texts of a source as words, in variants with what has changed."""

    noun = "texts"

    def __init__(self, source: Source, seed: int, decoder: str, pass_over_bad: bool) -> None:
        super().__init__(source, seed, decoder, pass_over_bad)
        self._field = source.schema.of_kind("text")[0]

    def original(self, index: int) -> list[Word]:
        return [Word(text) for text in self._seen([index], Policy([]), 1)[0][0]]

    def variants(self, picks: Sequence[int], policy: Policy, count: int) -> list[list[list[Word]]]:
        originals = self._seen(picks, Policy([]), 1)[0]
        epochs = self._seen(picks, policy, count)
        return [[compared(*pair) for pair in zip(originals, epoch, strict=True)] for epoch in epochs]

    def each(self, picks: Sequence[int], policy: Policy, count: int) -> tuple[list[list[list[Word]]], list[str]]:
        rows: list[list[list[Word]]] = []
        labels: list[str] = []
        for op, _ in _one_by_one_of_signals(policy):
            for nth, pick in enumerate(picks):
                rows.append([self.original(pick), *(texts[0] for texts in self.variants([pick], Policy([op]), count))])
                labels.append("" if nth else _label(op))
        if not rows:
            raise ValueError("preview: the policy has no operator to show")
        return rows, labels

    def _seen(self, picks: Sequence[int], policy: Policy, count: int) -> list[list[list[str]]]:
        """The words of these records in each of the first ``count`` epochs."""
        name, length, encoding = self._field.name, self._field.length, self._field.encoding
        assert length is not None
        with contextlib.closing(self._loader(picks, policy)) as loader:
            vocabulary = loader.vocabulary
            assert vocabulary is not None

            def words(row: list[int]) -> list[str]:
                if encoding.tokenizer is None:
                    return vocabulary.words_of(row)
                return str(encoding.decode(row, vocabulary)).split()

            epochs = [
                zip(getattr(batch, name).tolist(), getattr(batch, length).tolist(), strict=True)
                for batch in _first_batches(loader, count)
            ]
            return [[words(row[:own]) for row, own in epoch][: len(picks)] for epoch in epochs]


def compared(before: Sequence[str], after: Sequence[str]) -> list[Word]:
    """The words of ``after``, and amid them those of ``before`` that are gone, with what became of them. A word that is
    gone in one place and new in another has moved.
    """
    parts = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    changed = [(before[b:bend], after[a:aend]) for kind, b, bend, a, aend in parts if kind != "equal"]
    gone = Counter(word for old, _ in changed for word in old)
    moved = gone & Counter(word for _, new in changed for word in new)
    left, arrived, words = moved.copy(), moved.copy(), []
    for kind, b, bend, a, aend in parts:
        if kind == "equal":
            words += [Word(word) for word in after[a:aend]]
            continue
        lost = []
        for word in before[b:bend]:
            if left[word]:
                left[word] -= 1
            else:
                lost.append(word)
        replaced = 0
        for word in after[a:aend]:
            if arrived[word]:
                arrived[word] -= 1
                words.append(Word(word, "moved"))
            elif replaced < len(lost):
                replaced += 1
                words.append(Word(word, "replaced"))
            else:
                words.append(Word(word, "inserted"))
        words += [Word(word, "deleted") for word in lost[replaced:]]
    return words


def _first_batches(loader: DataLoader, count: int) -> Iterator[Any]:
    """The first batch of each of the first ``count`` epochs."""
    for epoch in range(count):
        loader.set_epoch(epoch)
        yield next(iter(loader))


def _features_at(policy: Policy) -> int | None:
    """Which of a policy's nodes makes features."""
    return next((at for at, node in enumerate(policy) if isinstance(node, FeatureOp)), None)


def _one_by_one_of_signals(policy: Policy) -> Iterator[tuple[Op, list[Op]]]:
    """Each operator that a policy may apply, always applied, and what goes before it: of what changes features, what
    makes them.
    """
    seen: list[Op] = []
    before: list[Op] = []
    for leaf in policy.leaves:
        op = dataclasses.replace(leaf.op, p=1.0)
        if isinstance(op, FeatureOp):
            before = [op]
        elif op not in seen:
            seen.append(op)
            yield op, before


def _one_by_one(policy: Policy, size: tuple[int, int]) -> Iterator[tuple[Op, list[Op]]]:
    """Each operator that a policy may apply, always applied, and what goes before it.

    What says the size itself gets pictures as they are; all others get them at the size that the policy makes.
    """
    framed: list[Op] = [Resize(min(size)) if size[0] == size[1] else Resize(size), CenterCrop(size)]
    seen: list[Op] = []
    for leaf in policy.leaves:
        op = leaf.op
        if isinstance(op, Normalize):
            framed = [*framed, op]
        elif not isinstance(op, BlendOp):
            op = dataclasses.replace(op, p=1.0)
            if op not in seen:
                seen.append(op)
                yield op, [] if isinstance(op, (ResizeOp, CropOp)) else framed


def _label(op: Op) -> str:
    """Its name, and beneath it the fields that are not as by default, its own before its family's."""
    lines = [type(op).__name__]
    family = {field.name for field in dataclasses.fields(type(op).__mro__[1])}
    for field in sorted(dataclasses.fields(op), key=lambda field: field.name in family):
        value = _short(getattr(op, field.name))
        if field.name != "p" and value != _short(field.default):
            lines.append(_cut(f"{field.name} {value}", 26))
    return "\n".join(lines[:_MOST_LINES])


def _is_fine(op: Op) -> bool:
    """Whether there is nothing of it to see in a picture made smaller."""
    return isinstance(op, FilterOp) and not isinstance(op, GridMask)


def _middle(image: np.ndarray) -> np.ndarray:
    """As much of it as a cell holds."""
    y, x = (max(0, (side - _CELL_PX) // 2) for side in image.shape[:2])
    return image[y : y + _CELL_PX, x : x + _CELL_PX]


def _short(value: Any) -> str:
    if isinstance(value, Normal):
        middle, spread = value.times * value.mean, _short(abs(value.times * value.std))
        if not value.signed:
            return f"{_short(value.plus + middle)} ± {spread}"
        return (f"{_short(value.plus)} ± " if value.plus else "±") + f"{_short(abs(middle))} ± {spread}"
    if isinstance(value, Choice):
        values = sorted({sign * v for v in value.values for sign in ((1, -1) if value.signed else (1,))})
        return " | ".join(map(_short, values)) if len(values) <= 3 else f"{_short(values[0])} … {_short(values[-1])}"
    if isinstance(value, Range):
        return f"{_short(value.low)} … {_short(value.high)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))})" if len(set(value)) > 1 else "".join(map(_short, value[:1]))
    return f"{value + 0:.4g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
