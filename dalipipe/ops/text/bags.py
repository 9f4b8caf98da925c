"""What is drawn from bags of words or marks, whatever stood there.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dalipipe.ops.text.families import SHARE, Table, TextOp, check_words, misfits_beyond, set_amount
from dalipipe.policy import Measure, Params
from dalipipe.text import SPECIAL, Vocabulary, bags


@dataclass(frozen=True, repr=False)
class BagOfWords(TextOp):
    """Takes a text for a bag of words. ``mode`` "shuffle": its words in any order; "resample": as many words, each
    drawn from all that the texts of its class are made of, in proportion to how often they are there (the model that
    naive Bayes has of text).

    ``labels``: where "resample" finds classes: the field that holds them, whole numbers from 0; None: there is one bag,
    of all texts. A class without words draws from that one, too.
    """

    mode: Literal["shuffle", "resample"] = "shuffle"
    labels: Any = "label"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("shuffle", "resample"):
            raise ValueError(f"BagOfWords: mode must be 'shuffle' or 'resample', got {self.mode!r}")
        if self.labels is not None and not (isinstance(self.labels, str) and self.labels):
            raise ValueError(f"BagOfWords: labels must be the name of a field or None, got {self.labels!r}")

    @property
    def edit(self) -> str:
        return "shuffle" if self.mode == "shuffle" else "resample"

    def table(self, vocabulary: Vocabulary) -> Table:
        if self.mode == "shuffle":
            return Table()
        if not vocabulary.counts[len(SPECIAL) :].any():
            raise ValueError(
                f"{self!r} draws words as often as they are in the texts, which {vocabulary!r} does not know: build it "
                "from them (text.Vocabulary.build)"
            )
        if self.labels is None:
            return Table(bags=(bags.by_count(vocabulary),))
        if vocabulary.class_counts is None:
            raise ValueError(
                f"{self!r} draws words of a text's class, and {vocabulary!r} knows of no classes: give the data set "
                "labels, or the operator labels=None, one bag for all"
            )
        return Table(bags=tuple(bags.by_class(vocabulary)))


@dataclass(frozen=True, repr=False)
class PunctuationInsertion(TextOp):
    """Inserts marks before different words: 1 to ⌊``share`` · words + 1⌋ of them, all numbers equally likely, at most
    one before each word. ``share``: 0..1, or a range; ``marks``: what is drawn from, each as likely as the others.

    AEDA: Karimi, Rossi, Prati: "AEDA: an easier data augmentation technique for text classification" (Findings of
    EMNLP 2021), with its default and its six marks. A mark is a word of its own. Unlike its code it never wants more
    places than there are words.
    """

    share: Any = 0.3
    marks: tuple[str, ...] = bags.PUNCTUATION

    edit = "punctuate"
    measures: ClassVar[Mapping[str, Measure]] = {"share": SHARE}
    by_chance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        set_amount(self, "share")
        check_words(self, "marks", least=1)

    @property
    def amount(self) -> Any:
        return self.share

    def misfits(self, size: np.ndarray) -> np.ndarray | None:
        return misfits_beyond(2 * size)

    def output_size(self, params: Params, size: np.ndarray) -> np.ndarray:
        words = size[:, 0]
        return size + np.minimum((params["share"] * words).astype(np.int64) + 1, words)[:, None]

    def words(self, vocabulary: Vocabulary) -> Iterable[str]:
        return self.marks

    def table(self, vocabulary: Vocabulary) -> Table:
        return Table(bags=(bags.of_words(vocabulary, self.marks),))


AEDA = PunctuationInsertion
