"""Words for other words: synonyms, words of the vocabulary, words backwards.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dalipipe.ops.text.families import SHARE, Table, TextOp, check_words, misfits_beyond, set_amount
from dalipipe.policy import Measure, Params, set_field
from dalipipe.text import SPECIAL, Vocabulary, bags, synonyms
from dalipipe.text.synonyms import SynonymSource
from dalipipe.text.words import reverse


class SynonymsOp(TextOp):
    """Writes synonyms of a text's words.

    ``synonyms``: "builtin" (a small table of common English words), "wordnet" (WordNet by nltk, where that is
    installed), the path of a ``.tsv`` or ``.tsv.gz``, a mapping from words to theirs, or pairs of these, as which
    policy files have it; or a `text.SynonymSource`, which no policy file can hold. ``stop_words``: words that are left
    alone, whatever their case: "english", those given, or None: none.
    """

    synonyms: Any
    stop_words: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        set_amount(self, "alpha")
        given = self.synonyms
        if isinstance(given, os.PathLike):
            set_field(self, "synonyms", os.fspath(given))
        elif isinstance(given, Mapping | list | tuple):
            set_field(self, "synonyms", _pairs(self, given.items() if isinstance(given, Mapping) else given))
        elif not isinstance(given, str | SynonymSource):
            raise ValueError(
                f'{type(self).__name__}: synonyms must be "builtin", "wordnet", the path of a table, words and lists '
                f"of theirs, or a text.SynonymSource, got {given!r}"
            )
        if self.stop_words is not None and self.stop_words != "english":
            check_words(self, "stop_words", 'or "english", or None')

    @property
    def amount(self) -> Any:
        return self.alpha  # type: ignore[attr-defined]

    def words(self, vocabulary: Vocabulary) -> Iterable[str]:
        return synonyms.words(self._source, vocabulary, self.stop_words)

    def table(self, vocabulary: Vocabulary) -> Table:
        return Table(choices=synonyms.choices(self._source, vocabulary, self.stop_words))

    @property
    def _source(self) -> SynonymSource:
        given = self.synonyms
        return synonyms.open_synonyms(dict(given) if isinstance(given, tuple) else given)


@dataclass(frozen=True, repr=False)
class SynonymReplacement(SynonymsOp):
    """Writes one of its synonyms in the place of each of max(1, ⌊``alpha`` · words⌋) different words that have some.

    ``alpha``: a share of all words, 0..1, or a range of shares. ``synonyms``, ``stop_words``: `SynonymsOp`.

    EDA's SR: Wei, Zou: "EDA: easy data augmentation techniques for boosting performance on text classification tasks"
    (EMNLP 2019), with its default. Unlike its code: every place is drawn by itself, and which synonym as well, each as
    likely as the others (there a word is replaced in all its places, which count as one, and what comes out hangs on
    Python's hash seed); stop words are a field.
    """

    alpha: Any = 0.1
    synonyms: Any = "builtin"
    stop_words: Any = "english"

    edit = "replace"
    least: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"alpha": SHARE}
    by_chance: ClassVar[bool] = True


@dataclass(frozen=True, repr=False)
class RandomInsertion(SynonymsOp):
    """Inserts, max(1, ⌊``alpha`` · words⌋) times, a synonym of any of a text's words that have some, anywhere.

    ``alpha``: a share of all words, 0..1, or a range of shares. ``synonyms``, ``stop_words``: `SynonymsOp`.

    EDA's RI: Wei, Zou (EMNLP 2019), with its default. Unlike its code: places are all alike, the end among them (there
    nothing comes behind the last word); the synonym is any (there it is always the first); no attempt comes to
    nothing, as the words drawn are those that have synonyms, of the text as it was (there also of what has been put
    in); stop words are left out here, too, and a field.
    """

    alpha: Any = 0.1
    synonyms: Any = "builtin"
    stop_words: Any = "english"

    edit = "insert"
    least: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"alpha": SHARE}
    by_chance: ClassVar[bool] = True

    def misfits(self, size: np.ndarray) -> np.ndarray | None:
        return misfits_beyond(2 * size + 1)

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        words = size[:, 0]
        return size + np.maximum((params["share"] * words).astype(np.int64), self.least)[:, None]


@dataclass(frozen=True, repr=False)
class RandomReplacement(TextOp):
    """Writes words of the vocabulary in the place of others.

    ``alpha``: a share of all words, 0..1, or a range of shares. ``by``:

    - "uniform": max(1, ⌊``alpha`` · words⌋) different words; all that the data set has are alike;
    - "tfidf": words that say little are replaced, by others that say little; ``alpha`` is the share that is replaced
      in the mean. Xie, Dai, Hovy, Luong, Le: "Unsupervised data augmentation for consistency training" (NeurIPS 2020):
      a word's score is how often it is in the text over the text's words, times log(texts / texts with the word); it
      goes with a probability in proportion to the text's largest score less its own, and what comes is drawn in
      proportion to the largest less its own of the scores that words have in all texts together. Unlike the paper's
      code, these do not go by each text's length: they are the word's count times the logarithm.
    """

    alpha: Any = 0.1
    by: Literal["uniform", "tfidf"] = "uniform"

    least: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"alpha": SHARE}
    by_chance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        set_amount(self, "alpha")
        if self.by not in ("uniform", "tfidf"):
            raise ValueError(f"RandomReplacement: by must be 'uniform' or 'tfidf', got {self.by!r}")

    @property
    def amount(self) -> Any:
        return self.alpha

    @property
    def edit(self) -> str:
        return "draw" if self.by == "uniform" else "draw_by_weight"

    def table(self, vocabulary: Vocabulary) -> Table:
        if len(vocabulary) == len(SPECIAL):
            raise ValueError(f"{self!r}: there are no words to draw, the data set has none")
        if self.by == "uniform":
            return Table(bags=(bags.uniform(vocabulary),))
        if not vocabulary.texts:
            raise ValueError(
                f"{self!r} goes by how often words are in the texts, which {vocabulary!r} does not know: build it from "
                "them (text.Vocabulary.build), or give by='uniform'"
            )
        return Table(bags=(bags.by_tfidf(vocabulary),), weights=bags.idf(vocabulary))


@dataclass(frozen=True, repr=False)
class WordReversal(TextOp):
    """Turns the order of all words round; or, with ``letters``, the letters of ⌊``share`` · words⌋ different words,
    0..1, or a range of shares: each letter with the marks that belong to it.

    A control rather than a model of how people write: what a classifier still gets right of it, it gets from words
    without their order.
    """

    letters: bool = False
    share: Any = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        set_amount(self, "share")
        if not isinstance(self.letters, bool):
            raise ValueError(f"WordReversal: letters must be True or False, got {self.letters!r}")
        if not self.letters and self.share != 1.0:
            raise ValueError(f"WordReversal: share is for letters=True, as all words are turned, got {self.share!r}")

    @property
    def amount(self) -> Any:
        return self.share

    @property
    def edit(self) -> str:
        return "replace" if self.letters else "reverse"

    def words(self, vocabulary: Vocabulary) -> Iterable[str]:
        if not self.letters:
            return ()
        counted = vocabulary.counts.any()  # then what operators have added is counted nowhere
        return (reverse(word) for word, count in _words(vocabulary) if count or not counted)

    def table(self, vocabulary: Vocabulary) -> Table:
        if not self.letters:
            return Table()
        counts, backwards = np.zeros(len(vocabulary) + 1, np.int32), []
        for number, (word, _) in enumerate(_words(vocabulary), len(SPECIAL)):
            other = reverse(word)
            if other != word and other in vocabulary:
                counts[number + 1] = 1
                backwards.append(other)
        return Table(choices=(np.cumsum(counts, dtype=np.int32), vocabulary.ids(backwards)))


def _words(vocabulary: Vocabulary) -> Iterable[tuple[str, int]]:
    """All but `SPECIAL`, and how often they are in the texts."""
    return zip(vocabulary.words[len(SPECIAL) :], vocabulary.counts[len(SPECIAL) :].tolist(), strict=True)


def _pairs(op: Any, pairs: Any) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """((word, (synonym, ...)), ...)"""
    found = []
    for pair in pairs:
        good = isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
        others = () if not good else (pair[1],) if isinstance(pair[1], str) else pair[1]
        if not good or not isinstance(others, list | tuple) or not all(isinstance(other, str) for other in others):
            raise ValueError(
                f"{type(op).__name__}: synonyms must be a name, a path, a text.Synonyms, or words and the list of "
                f"theirs, got {pair!r}"
            )
        found.append((pair[0], tuple(others)))
    return tuple(found)
