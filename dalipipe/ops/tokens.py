"""What an edit does to one text, and what stands in a row of a batch, in plain Python: the specification that
``csrc/token.h`` and its twins meet, token by token.

A text is a list of ints, the numbers of its words. Every edit takes its random words one after the other
(`Noise.below`), as ``csrc/token.h`` says, and returns a new text; an empty one it leaves as it is. Amounts are

    n = max(least, ⌊share · tokens⌋), and at most what there is to edit.

The edits are those of the papers that the operators name (EDA: Wei and Zou, "EDA: easy data augmentation techniques for
boosting performance on text classification tasks", EMNLP-IJCNLP 2019; AEDA: Karimi, Rossi and Prati, "AEDA: an easier
data augmentation technique for text classification", Findings of EMNLP 2021; UDA: Xie, Dai, Hovy, Luong and Le,
"Unsupervised data augmentation for consistency training", NeurIPS 2020).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dalipipe.ops import filtering

Choices = Sequence[Sequence[int]]
"""Of token t, those that may stand for it: choices[t]; none for a token beyond."""


@dataclass(frozen=True)
class Bag:
    """Tokens to draw from: any entry e, all alike; where the next word is ≥ keep[e], entry other[e] instead, if there
    is such (Walker's alias method).
    """

    tokens: Sequence[int]
    keep: Sequence[int] | None = None
    other: Sequence[int] | None = None


@dataclass
class Noise:
    """The random words of an edit: those of the elements of a `NoiseKey`, uint32 [5], in order."""

    key: np.ndarray
    taken: int = 0
    words: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))

    def word(self) -> int:
        if self.taken == len(self.words):
            self.words = filtering.words(self.key, max(64, 2 * self.taken))
        self.taken += 1
        return int(self.words[self.taken - 1])

    def below(self, n: int) -> int:
        """0 to n − 1, alike."""
        return self.word() * n >> 32

    def choose(self, n: int, m: int) -> list[int]:
        """n of 0 to m − 1, rising; any n alike (Bentley and Floyd, "A sample of brilliance", CACM 1987)."""
        chosen: set[int] = set()
        for j in range(m - n, m):
            r = self.below(j + 1)
            chosen.add(j if r in chosen else r)
        return sorted(chosen)

    def draw(self, bag: Bag) -> int:
        e = self.below(len(bag.tokens))
        if bag.keep is not None and bag.other is not None and self.word() >= bag.keep[e]:
            e = bag.other[e] if 0 <= bag.other[e] < len(bag.tokens) else e
        return int(bag.tokens[e])


def amount(tokens: int, share: float, least: int = 0) -> int:
    """n, before what there is to edit limits it."""
    return max(least, int(share * tokens))


def replace(text: list[int], choices: Choices, share: float, least: int, key: np.ndarray) -> list[int]:
    """n of the tokens that have choices, each by one of these."""
    noise, out = Noise(key), list(text)
    found = _with_choices(text, choices)
    for k in noise.choose(min(amount(len(text), share, least), len(found)), len(found)):
        of = choices[text[found[k]]]
        out[found[k]] = int(of[noise.below(len(of))])
    return out


def insert(text: list[int], choices: Choices, share: float, least: int, key: np.ndarray) -> list[int]:
    """n times: one of the choices of any token that has some, at any place of the outcome."""
    noise = Noise(key)
    found = _with_choices(text, choices)
    if not found:
        return list(text)
    n = amount(len(text), share, least)
    new = {}
    for place in noise.choose(n, len(text) + n):
        of = choices[text[found[noise.below(len(found))]]]
        new[place] = int(of[noise.below(len(of))])
    old = iter(text)
    return [new[place] if place in new else next(old) for place in range(len(text) + n)]


def swap(text: list[int], share: float, least: int, key: np.ndarray, *, neighbours: bool = False) -> list[int]:
    """n times, at most once a token: two tokens change places, any or ``neighbours``."""
    out, noise, length = list(text), Noise(key), len(text)
    if length < 2:
        return out
    for _ in range(min(amount(length, share, least), length)):
        if neighbours:
            i = noise.below(length - 1)
            j = i + 1
        else:
            i, j = noise.below(length), noise.below(length - 1)
            j += j >= i
        out[i], out[j] = out[j], out[i]
    return out


def remove(text: list[int], share: float, key: np.ndarray) -> list[int]:
    """Each token goes with probability ``share``; if all would, any one stays."""
    if len(text) < 2:
        return list(text)
    noise, goes = Noise(key), int(share * 2.0**32)
    kept = [token for token in text if noise.word() >= goes]
    return kept or [text[noise.below(len(text))]]


def draw(text: list[int], bag: Bag, share: float, least: int, key: np.ndarray) -> list[int]:
    """n tokens, each by one of a bag."""
    noise, out = Noise(key), list(text)
    if not len(bag.tokens):
        return out
    for i in noise.choose(min(amount(len(text), share, least), len(text)), len(text)):
        out[i] = noise.draw(bag)
    return out


def draw_by_weight(text: list[int], bag: Bag, weights: Sequence[float], share: float, key: np.ndarray) -> list[int]:
    """Those that say little, each by one of a bag: token i with probability min(1, share · (C − sᵢ) / Z).

    sᵢ = how often it stands there · its weight (float32; a token beyond: 0), C the highest, Z the mean of C − sᵢ,
    summed up in order; float64. (The paper's frequencies are counts by the length, which cancels.) A
    token goes where its random word / 2³² is below that. Nothing happens where Z is 0.
    """
    length, noise, out = len(text), Noise(key), list(text)
    if not length or not len(bag.tokens):
        return out
    counts = Counter(text)
    scores = [
        counts[token] * (float(np.float32(weights[token])) if 0 <= token < len(weights) else 0.0) for token in text
    ]
    highest, gaps = max(scores), 0.0
    for score in scores:
        gaps += highest - score
    if not gaps > 0:
        return out
    scale = share * length * 2.0**32
    goes = [noise.word() * gaps < scale * (highest - score) for score in scores]
    return [noise.draw(bag) if now else token for now, token in zip(goes, text, strict=True)]


def reverse(text: list[int]) -> list[int]:
    """The order of all."""
    return text[::-1]


def mask(text: list[int], token: int, share: float, least: int, key: np.ndarray) -> list[int]:
    """n in a row become ``token``."""
    begin, end = _span(text, amount(len(text), share, least), Noise(key))
    return [*text[:begin], *[token] * (end - begin), *text[end:]]


def cut(text: list[int], share: float, least: int, key: np.ndarray) -> list[int]:
    """n in a row are taken out; one always stays."""
    begin, end = _span(text, min(amount(len(text), share, least), max(len(text) - 1, 0)), Noise(key))
    return [*text[:begin], *text[end:]]


def shuffle(text: list[int], share: float, least: int, key: np.ndarray) -> list[int]:
    """The order of n in a row: any alike (Fisher and Yates)."""
    noise = Noise(key)
    begin, end = _span(text, amount(len(text), share, least), noise)
    out = list(text)
    for i in range(end - begin - 1, 0, -1):
        j = noise.below(i + 1)
        out[begin + i], out[begin + j] = out[begin + j], out[begin + i]
    return out


def resample(text: list[int], bag: Bag, key: np.ndarray) -> list[int]:
    """All, each by one of a bag."""
    noise = Noise(key)
    return [noise.draw(bag) for _ in text] if len(bag.tokens) else list(text)


def punctuate(text: list[int], bag: Bag, share: float, key: np.ndarray) -> list[int]:
    """1 to ⌊share · tokens⌋ + 1 times, any number alike: one of a bag before different tokens."""
    noise, length = Noise(key), len(text)
    if not length or not len(bag.tokens):
        return list(text)
    n = min(1 + noise.below(int(share * length) + 1), length)
    marks = {}
    for i in noise.choose(n, length):
        marks[i] = noise.draw(bag)
    return [token for i in range(length) for token in ([marks[i], text[i]] if i in marks else [text[i]])]


def row(
    spans: Sequence[Sequence[int]],
    *,
    pieces: Choices | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    most: int | None = None,
) -> list[int]:
    """The numbers of a batch's row, without padding: ``prefix``, the ``pieces`` of the tokens of its spans (None: each
    token for itself; none for a token beyond), ``suffix``. Of more than ``most``, pieces at the end are lost.
    """
    tokens = [int(token) for span in spans for token in span]
    if pieces is not None:
        tokens = [int(piece) for token in tokens if 0 <= token < len(pieces) for piece in pieces[token]]
    room = len(tokens) if most is None else most - len(prefix) - len(suffix)
    return [*prefix, *tokens[:room], *suffix]


def _with_choices(text: list[int], choices: Choices) -> list[int]:
    return [i for i, token in enumerate(text) if 0 <= token < len(choices) and len(choices[token])]


def _span(text: list[int], n: int, noise: Noise) -> tuple[int, int]:
    n = min(n, len(text))
    begin = noise.below(len(text) - n + 1)
    return begin, begin + n
