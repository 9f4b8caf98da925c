"""Words in a row: hidden, taken out, shuffled.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dalipipe.ops.text.families import SHARE, TextOp, set_amount
from dalipipe.policy import Measure
from dalipipe.text import MASK


@dataclass(frozen=True, repr=False)
class SpanMask(TextOp):
    """Hides max(1, ⌊``share`` · words⌋) words in a row, anywhere: cutout for text. ``share``: 0..1, or a range.

    ``fill`` "mask": each becomes the vocabulary's ``<mask>``, with a tokenizer its mask token; "cut": they are taken
    out, but one word always stays.

    Span cutoff: Shen, Zheng, Shen, Qu, Chen: "A simple but tough-to-beat data augmentation approach for natural
    language understanding and generation" (2020), which sets embeddings to zero instead. The default is the share that
    BERT and SpanBERT (Joshi et al., TACL 2020) hide, the latter in several spans.
    """

    share: Any = 0.15
    fill: Literal["mask", "cut"] = "mask"

    least: ClassVar[int] = 1
    token: ClassVar[int] = MASK
    measures: ClassVar[Mapping[str, Measure]] = {"share": SHARE}
    by_chance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        set_amount(self, "share")
        if self.fill not in ("mask", "cut"):
            raise ValueError(f"SpanMask: fill must be 'mask' or 'cut', got {self.fill!r}")

    @property
    def amount(self) -> Any:
        return self.share

    @property
    def edit(self) -> str:
        return "mask" if self.fill == "mask" else "cut"


@dataclass(frozen=True, repr=False)
class SpanShuffle(TextOp):
    """Shuffles max(2, ⌊``share`` · words⌋) words in a row, anywhere. ``share``: 0..1, or a range.

    Every order of them is equally likely, the one they are in as well. A shuffle that stays near: Lample, Conneau,
    Denoyer, Ranzato: "Unsupervised machine translation using monolingual corpora only" (ICLR 2018) moves all words of
    a text by up to three places.
    """

    share: Any = 0.3

    edit = "shuffle"
    least: ClassVar[int] = 2
    measures: ClassVar[Mapping[str, Measure]] = {"share": SHARE}
    by_chance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        set_amount(self, "share")

    @property
    def amount(self) -> Any:
        return self.share
