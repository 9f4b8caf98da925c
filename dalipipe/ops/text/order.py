"""Words in another order, and words left out.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dalipipe.ops.text.families import SHARE, TextOp, set_amount
from dalipipe.policy import Measure


@dataclass(frozen=True, repr=False)
class RandomSwap(TextOp):
    """Exchanges two words, max(1, ⌊``alpha`` · words⌋) times: any two, or with ``neighbours`` two beside each other.

    ``alpha``: a share of all words, 0..1, or a range of shares. A text of one word stays.

    EDA's RS: Wei, Zou: "EDA: easy data augmentation techniques for boosting performance on text classification tasks"
    (EMNLP 2019), with its default. Unlike its code the two are always different ones.
    """

    alpha: Any = 0.1
    neighbours: bool = False

    least: ClassVar[int] = 1
    measures: ClassVar[Mapping[str, Measure]] = {"alpha": SHARE}
    by_chance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        set_amount(self, "alpha")
        if not isinstance(self.neighbours, bool):
            raise ValueError(f"RandomSwap: neighbours must be True or False, got {self.neighbours!r}")

    @property
    def amount(self) -> Any:
        return self.alpha

    @property
    def edit(self) -> str:
        return "swap_neighbours" if self.neighbours else "swap"


@dataclass(frozen=True, repr=False)
class RandomDeletion(TextOp):
    """Leaves each word out with probability ``share``, 0..1, or one within a range. One always stays, each as likely as
    the others.

    EDA's RD: Wei, Zou (EMNLP 2019), with its default: no sentence becomes empty.
    """

    share: Any = 0.1

    edit = "remove"
    measures: ClassVar[Mapping[str, Measure]] = {"share": SHARE}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_amount(self, "share")

    @property
    def amount(self) -> Any:
        return self.share
