"""Words and the numbers that stand for them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

SPECIAL = ("<pad>", "<unk>", "<mask>")
"""The first words of every vocabulary: padding, any word that is not in it, a word that is hidden."""
PAD, UNKNOWN, MASK = range(3)


class Numbered(NamedTuple):
    """Texts as numbers back to back: ``words``: each that there is, once; ``numbers`` int32 [tokens]: places in it;
    ``starts`` int64 [texts + 1].
    """

    words: list[str]
    numbers: np.ndarray
    starts: np.ndarray


def number(texts: Iterable[Sequence[str]]) -> Numbered:
    """Numbers the words of ``texts``, each a list of words, in the order in which they come."""
    places: defaultdict[str, int] = defaultdict()
    places.default_factory = places.__len__
    parts = [np.fromiter(map(places.__getitem__, text), np.int32, len(text)) for text in texts]
    starts = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=starts[1:])
    return Numbered(list(places), np.concatenate(parts) if parts else np.zeros(0, np.int32), starts)


class Vocabulary:
    """Words by their ids, and what is known of the texts that they were gathered from.

    ``words``: those after `SPECIAL`, each once; ids are their places, `SPECIAL` first. ``counts`` int64 [V]: how often
    each stands in the texts; ``documents`` int64 [V]: in how many of them; ``class_counts`` int64 [classes, V]: how
    often in those of each class, or None; ``texts``: how many there were. What is not counted is 0.

    Raises ``ValueError`` for a word that is there twice.
    """

    def __init__(
        self,
        words: Iterable[str],
        *,
        counts: Any = None,
        documents: Any = None,
        class_counts: Any = None,
        texts: int = 0,
    ) -> None:
        self.words: tuple[str, ...] = (*SPECIAL, *words)
        # What a text calls "<unk>" is no known word; what it calls "<pad>" or "<mask>" is a word like any other.
        named = [SPECIAL[UNKNOWN], *self.words[len(SPECIAL) :]]
        self._ids = dict(zip(named, [UNKNOWN, *range(len(SPECIAL), len(self.words))], strict=True))
        if len(self._ids) < len(named):
            twice = next(word for word, count in Counter(named).items() if count > 1)
            raise ValueError(f"Vocabulary: expected words that are there once, got {twice!r} twice")
        size = len(self.words)
        self.counts = np.zeros(size, np.int64) if counts is None else np.asarray(counts, np.int64)
        self.documents = np.zeros(size, np.int64) if documents is None else np.asarray(documents, np.int64)
        self.class_counts = None if class_counts is None else np.asarray(class_counts, np.int64)
        self.texts = texts

    @classmethod
    def build(
        cls,
        texts: Sequence[Sequence[str]] | Numbered,
        labels: np.ndarray | None = None,
        *,
        min_count: int = 1,
        most: int | None = None,
    ) -> Vocabulary:
        """The words of ``texts``, each a list of words: the most frequent first, of equally frequent ones the first in
        Unicode's order. ``labels`` int64 [texts]: their classes. ``min_count``: how often a word must stand in them;
        ``most``: words to keep, without `SPECIAL`.

        Raises ``ValueError`` for a ``min_count`` below 1, and for a ``most`` below 0.
        """
        if min_count < 1:
            raise ValueError(f"Vocabulary: min_count must be at least 1, got {min_count}")
        if most is not None and most < 0:
            raise ValueError(f"Vocabulary: most must be at least 0, or None, got {most}")
        words, numbers, starts = texts if isinstance(texts, Numbered) else number(texts)
        times = np.bincount(numbers, minlength=len(words)).tolist()
        kept = [place for place, word in enumerate(words) if times[place] >= min_count and word != SPECIAL[UNKNOWN]]
        kept.sort(key=lambda place: (-times[place], words[place]))
        bare = cls(words[place] for place in kept[:most])
        size, count = len(bare), len(starts) - 1
        ids = bare.ids(words)[numbers]
        text_of = np.repeat(np.arange(count), np.diff(starts))
        places = np.sort(text_of * size + ids)  # np.unique took three quarters of all the time
        once = places[np.diff(places, prepend=-1) > 0] % size
        kinds = None
        if labels is not None and len(labels):
            classes = int(labels.max()) + 1
            kinds = np.bincount(labels[text_of] * size + ids, minlength=classes * size).reshape(classes, size)
        return cls(
            bare.words[len(SPECIAL) :],
            counts=np.bincount(ids, minlength=size),
            documents=np.bincount(once, minlength=size),
            class_counts=kinds,
            texts=count,
        )

    def with_words(self, words: Iterable[str]) -> Vocabulary:
        """The same, and behind it those of ``words`` that it lacks, in their order; they have been counted nowhere."""
        new = [word for word in dict.fromkeys(words) if word not in self._ids]
        if not new:
            return self
        more = np.zeros(len(new), np.int64)
        kinds = self.class_counts
        if kinds is not None:
            kinds = np.concatenate([kinds, np.zeros((len(kinds), len(new)), np.int64)], axis=1)
        return Vocabulary(
            (*self.words[len(SPECIAL) :], *new),
            counts=np.concatenate([self.counts, more]),
            documents=np.concatenate([self.documents, more]),
            class_counts=kinds,
            texts=self.texts,
        )

    def ids(self, words: Iterable[str]) -> np.ndarray:
        """int32: the numbers of words; `UNKNOWN` for those that it lacks."""
        known = self._ids
        return np.array([known.get(word, UNKNOWN) for word in words], np.int32)

    def ids_of(self, texts: Iterable[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Many texts, each a list of words: int32 numbers back to back, and where each begins, int64 [texts + 1]."""
        words, numbers, starts = number(texts)
        return self.ids(words)[numbers], starts

    def words_of(self, ids: Iterable[int]) -> list[str]:
        """The words of numbers, without padding. Raises ``ValueError`` for a number that is of none."""
        numbers = [number for number in map(int, ids) if number != PAD]
        for number in numbers:
            if not 0 <= number < len(self.words):
                raise ValueError(
                    f"number {number} is of no word here, of {len(self.words)}: a loader's batches have the words of "
                    "loader.vocabulary, to which its policy has added some"
                )
        return [self.words[number] for number in numbers]

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    @cached_property
    def identity(self) -> str:
        """A short text that changes when words or their ids do."""
        return blake2b("\n".join(self.words).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def __repr__(self) -> str:
        return f"Vocabulary({len(self):,} words of {self.texts:,} texts)"
