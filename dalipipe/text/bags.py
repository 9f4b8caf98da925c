"""Words to draw at random, in proportion to weights, and how much words say (`idf`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dalipipe.text.vocabulary import MASK, PAD, SPECIAL, UNKNOWN, Vocabulary

PUNCTUATION = (".", ";", "?", ":", "!", ",")
"""The marks that AEDA puts in (Karimi, Rossi, Prati, "AEDA: an easier data augmentation technique for text
classification", 2021).
"""
_ONE = 1 << 32
_MOST = 1 << 30  # entries, so that shares of 2^32 each add up in int64


@dataclass(frozen=True, eq=False)
class Bag:
    """Words to draw from. ``tokens`` int32 [count], or None: entry e is token ``first`` + e. ``keep`` uint32 and
    ``other`` int32 [count], an alias table (`alias`), or None: all are alike.
    """

    tokens: np.ndarray | None
    keep: np.ndarray | None = None
    other: np.ndarray | None = None
    count: int = 0
    first: int = 0


def alias(weights: Any) -> tuple[np.ndarray, np.ndarray]:
    """A table that draws entries in proportion to ``weights`` [n]: ``keep`` uint32 [n], ``other`` int32 [n]. With e a
    random entry and w a random word of 32 bits, the draw is e where w < keep[e], else other[e].

    Weights become whole multiples of 2⁻³²/n of their sum, rounded down (the largest takes the rest, less than 2⁻³²);
    these shares are then met exactly. An entry that is
    always kept has itself as its other. Source: M. D. Vose, "A linear algorithm for generating random numbers with a
    given distribution", IEEE Transactions on Software Engineering 17(9), 1991.

    Raises ``ValueError`` for weights that are not finite, below 0, all 0, or more than 2³⁰ of them.
    """
    given = np.asarray(weights, np.float64)
    n = len(given)
    if given.ndim != 1 or not 0 < n <= _MOST or not np.isfinite(given).all() or (given < 0).any() or not given.any():
        raise ValueError(f"alias: expected 1..2^30 weights, finite, 0 or more and not all 0, got {weights!r}")
    shares = _whole_shares(given, n * _ONE)
    keep = np.full(n, _ONE - 1, np.uint32)
    other = np.arange(n, dtype=np.int32)
    left = shares.tolist()
    small = [e for e in range(n) if left[e] < _ONE]
    large = [e for e in range(n) if left[e] > _ONE]
    while small:  # then there is a large one, as the mean of what is left is 2^32
        e, giver = small.pop(), large[-1]
        keep[e], other[e] = left[e], giver
        left[giver] -= _ONE - left[e]
        if left[giver] <= _ONE:
            large.pop()
        if left[giver] < _ONE:
            small.append(giver)
    return keep, other


def uniform(vocabulary: Vocabulary) -> Bag:
    """Every word of the texts, all alike; of a vocabulary without counts, every word."""
    tokens = _counted(vocabulary)
    if len(tokens) and len(tokens) == tokens[-1] - tokens[0] + 1:
        return Bag(None, count=len(tokens), first=int(tokens[0]))
    return Bag(tokens, count=len(tokens))


def by_count(vocabulary: Vocabulary, counts: Any = None) -> Bag:
    """Words as often as they stand in the texts: ``counts`` [V], None: the vocabulary's."""
    counts = np.asarray(vocabulary.counts if counts is None else counts)
    tokens = np.arange(len(SPECIAL), len(vocabulary), dtype=np.int32)
    return _weighted(tokens, counts[tokens])


def by_class(vocabulary: Vocabulary) -> list[Bag]:
    """A bag a class: words as often as they stand in its texts. A class without words draws from all.

    Raises ``ValueError`` where the vocabulary has no counts by class.
    """
    if vocabulary.class_counts is None:
        raise ValueError("by_class: the vocabulary has no counts by class: build it from texts with whole labels")
    words = slice(len(SPECIAL), None)
    return [by_count(vocabulary, counts if counts[words].any() else None) for counts in vocabulary.class_counts]


def by_tfidf(vocabulary: Vocabulary) -> Bag:
    """Words that say little, rather than those that say much: in proportion to max(S) - S(w), where S(w) is the word's
    count times its `idf`. Source: Q. Xie et al., "Unsupervised data augmentation for consistency training", 2020,
    appendix; where S is the same for all, all are alike.
    """
    tokens = _counted(vocabulary)
    score = vocabulary.counts[tokens] * idf(vocabulary)[tokens].astype(np.float64)
    weights = score.max(initial=0) - score
    return _weighted(tokens, weights) if weights.any() else Bag(tokens, count=len(tokens))


def of_words(vocabulary: Vocabulary, words: Iterable[str]) -> Bag:
    """These words, all alike. Raises ``ValueError`` for one that the vocabulary lacks."""
    words = tuple(words)
    missing = [word for word in words if word not in vocabulary]
    if missing:
        raise ValueError(f"of_words: {missing[0]!r} is not in the vocabulary: add it by with_words")
    return Bag(vocabulary.ids(words), count=len(words))


def idf(vocabulary: Vocabulary) -> np.ndarray:
    """float32 [V]: ln(texts / texts with the word); a word that is in none counts as if in one; 0 for `PAD`,
    and where no texts are known.
    """
    if not vocabulary.texts:
        return np.zeros(len(vocabulary), np.float32)
    values = np.log(vocabulary.texts / np.maximum(vocabulary.documents, 1))
    values[PAD] = 0
    return values.astype(np.float32)


def _counted(vocabulary: Vocabulary) -> np.ndarray:
    counts = vocabulary.counts.copy()
    counts[[PAD, UNKNOWN, MASK]] = 0
    tokens = np.flatnonzero(counts) if counts.any() else np.arange(len(SPECIAL), len(vocabulary))
    return tokens.astype(np.int32)


def _weighted(tokens: np.ndarray, weights: np.ndarray) -> Bag:
    there = weights > 0
    tokens = tokens[there]
    if not len(tokens):
        return Bag(tokens, count=0)
    keep, other = alias(weights[there])
    return Bag(tokens, keep, other, len(tokens))


def _whole_shares(weights: np.ndarray, total: int) -> np.ndarray:
    """int64 in proportion to weights, rounded down; the largest has what is missing to ``total``."""
    exact = weights / weights.max()
    shares = np.floor(exact * (total / exact.sum())).astype(np.int64)
    shares[np.argmax(shares)] += total - int(shares.sum())
    return shares
