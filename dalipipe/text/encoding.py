"""How edited words become the numbers in batches: the words' own, or a tokenizer's pieces of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dalipipe.text.vocabulary import PAD


@dataclass(frozen=True)
class Encoding:
    """What stands in a batch's rows.

    ``tokenizer``: a ``tokenizers.Tokenizer`` whose pieces of each word stand for it; None: the words' own numbers.
    ``prefix``, ``suffix``: numbers before and behind every text (``[CLS]``, ``[SEP]``). ``pad``: what rows are filled
    up with. ``max_length``: numbers in a row at most, prefix and suffix counted; texts lose their ends. ``multiple``:
    rows are as long as the longest of them, rounded up to a multiple of this, but never beyond ``max_length``.
    """

    tokenizer: Any = None
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    pad: int = PAD
    max_length: int | None = None
    multiple: int = 1
