"""Words and the numbers that stand for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

SPECIAL = ("<pad>", "<unk>", "<mask>")
"""The first words of every vocabulary: padding, any word that is not in it, a word that is hidden."""
PAD, UNKNOWN, MASK = range(3)


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
        self._ids = {word: number for number, word in enumerate(self.words)}
        if len(self._ids) < len(self.words):
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise ValueError(f"Vocabulary: expected words that are there once, got {twice!r} twice")
        size = len(self.words)
        self.counts = np.zeros(size, np.int64) if counts is None else np.asarray(counts, np.int64)
        self.documents = np.zeros(size, np.int64) if documents is None else np.asarray(documents, np.int64)
        self.class_counts = None if class_counts is None else np.asarray(class_counts, np.int64)
        self.texts = texts

    @classmethod
    def build(
        cls,
        texts: Sequence[Sequence[str]],
        labels: np.ndarray | None = None,
        *,
        min_count: int = 1,
        most: int | None = None,
    ) -> Vocabulary:
        """The words of ``texts``, each a list of words: the most frequent first, of equally frequent ones the first in
        Unicode's order. ``labels`` int64 [texts]: their classes. ``min_count``: how often a word must stand in them;
        ``most``: words to keep, without `SPECIAL`.
        """
        counted = Counter(word for text in texts for word in text)
        kept = sorted((word for word in counted if counted[word] >= min_count), key=lambda word: (-counted[word], word))
        bare = cls(word for word in kept[:most] if word not in SPECIAL)
        size = len(bare)
        ids = [bare.ids(text) for text in texts]
        counts = np.zeros(size, np.int64)
        documents = np.zeros(size, np.int64)
        classes = 0 if labels is None or not len(labels) else int(labels.max()) + 1
        class_counts = np.zeros((classes, size), np.int64)
        for row, numbers in enumerate(ids):
            np.add.at(counts, numbers, 1)
            documents[np.unique(numbers)] += 1
            if labels is not None:
                np.add.at(class_counts[labels[row]], numbers, 1)
        kinds = class_counts if classes else None
        return cls(bare.words[len(SPECIAL) :], counts=counts, documents=documents, class_counts=kinds, texts=len(ids))

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

    def words_of(self, ids: Iterable[int]) -> list[str]:
        """The words of numbers, without padding."""
        return [self.words[number] for number in map(int, ids) if number != PAD]

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    @cached_property
    def identity(self) -> str:
        """A short text that changes when words or their ids do."""
        from hashlib import blake2b

        return blake2b("\n".join(self.words).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()

    def __repr__(self) -> str:
        return f"Vocabulary({len(self):,} words of {self.texts:,} texts)"
