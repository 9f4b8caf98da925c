"""What operators on texts share: texts are numbers of words, int32 [T], and an operator is one edit of them
(``csrc/token.h``). A text's size is int64 [1]: words, an upper bound once edits may have taken some out.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dalipipe.ops import tokens
from dalipipe.policy import Measure, Op, Params, check_range, draw_range
from dalipipe.text import Vocabulary
from dalipipe.text.bags import Bag

MOST_WORDS = 1 << 28
"""Of one text, after all edits."""
SHARE = Measure(0.0, 0.0, 1.0)
"""What shares of words are measured by."""


@dataclass(frozen=True)
class Table:
    """What an edit needs of a vocabulary, besides the text. ``choices``: ``starts`` int32 [V + 1] and ``tokens`` int32,
    of which those from starts[t] to starts[t + 1] may stand for word t; ``bags``: what is drawn from, one for all
    texts, or one for each class; ``weights`` float32 [V]: how much words say.
    """

    choices: tuple[np.ndarray, np.ndarray] | None = None
    bags: tuple[Bag, ...] = ()
    weights: np.ndarray | None = None

    def of(self, label: int) -> dict[str, Any]:
        """As `ops.tokens` takes it, for texts of this class."""
        found: dict[str, Any] = {} if self.weights is None else {"weights": self.weights}
        if self.choices is not None:
            found["choices"] = np.split(self.choices[1], self.choices[0][1:-1])
        if self.bags:
            bag = self.bags[label]
            words = np.arange(bag.first, bag.first + bag.count) if bag.tokens is None else bag.tokens
            lists = [None if part is None else part.tolist() for part in (bag.keep, bag.other)]
            found["bag"] = tokens.Bag(words.tolist(), *lists)
        return found


class TextOp(Op):
    """An edit: ``edit``, which of `native.TOKEN_EDITS`; ``amount``: which share of the words it is for, a number or a
    range; ``least``: how many words at least; ``token``: what it writes. ``labels``: the field with the classes that
    its bags are for; None: there is one bag for all.
    """

    modality: ClassVar[str] = "text"
    noisy: ClassVar[bool] = True

    edit: Any
    amount: Any = 1.0
    least: ClassVar[int] = 0
    token: ClassVar[int] = 0
    labels: Any = None

    @property
    def draws(self) -> int:  # type: ignore[override]
        return 0 if isinstance(self.amount, float) else 1

    def words(self, vocabulary: Vocabulary) -> Iterable[str]:
        """Those that it may write and that texts of this vocabulary need not have; in an order that depends on nothing
        else.
        """
        return ()

    def table(self, vocabulary: Vocabulary) -> Table:
        """Of a vocabulary that has its `words`."""
        return Table()

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        amount = self.amount
        return {"share": draw_range(amount, u[:, 0]) if self.draws else np.full(len(u), amount)}

    def reference(self, x: np.ndarray, params: Params, table: Table | None = None, label: int = 0) -> np.ndarray:
        """Also given what `table` made, where the edit needs any, and the text's class, where there are bags for
        classes.
        """
        given: dict[str, Any] = {"share": float(params["share"]), "key": params["noise"]}
        given |= {"least": self.least, "token": self.token, "neighbours": self.edit == "swap_neighbours"}
        if table is not None:
            given |= table.of(0 if self.labels is None else label)
        edit = getattr(tokens, self.edit.removesuffix("_neighbours"))
        takes = {name: given[name] for name in inspect.signature(edit).parameters if name in given}
        return np.array(edit(x.tolist(), **takes), np.int32)


def set_amount(op: Any, name: str, low: float = 0.0, high: float = 1.0) -> None:
    """A field that is a number, or a range to draw one from for each text."""
    value = getattr(op, name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = check_range(op, name, (value, value), low, high)[0]
    else:
        value = check_range(op, name, value, low, high)
    object.__setattr__(op, name, value)


def misfits_beyond(size: np.ndarray) -> np.ndarray:
    """bool [A]: texts that would be longer than any may be."""
    return size[:, 0] > MOST_WORDS


def check_words(op: Any, name: str, otherwise: str = "", least: int = 0) -> None:
    """A field of ``least`` or more words; ``otherwise``: what else it may be."""
    value = getattr(op, name)
    several = isinstance(value, list | tuple | set | frozenset)
    if not several or len(value) < least or not all(isinstance(word, str) and word for word in value):
        some = "one or more words" if least else "words"
        raise ValueError(f"{type(op).__name__}: {name} must be {some} {otherwise}".rstrip() + f", got {value!r}")
    # A set is put in order, so that it is written and compared as the same each time.
    object.__setattr__(op, name, tuple(sorted(value) if isinstance(value, set | frozenset) else value))
