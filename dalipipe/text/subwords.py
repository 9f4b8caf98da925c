"""Texts that a tokenizer has been over: the ids of one word are a word here, and its pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from dalipipe.text.encoding import Encoding
from dalipipe.text.vocabulary import SPECIAL, Numbered, number


@dataclass(frozen=True)
class Subwords:
    """Texts as words, and what the words are made of.

    ``numbered``: the texts; a word's name is what the tokenizer makes of its ids, without it the ids themselves.
    ``pieces``: ids by name. ``prefix``, ``suffix``: what stood around every text. ``strings``: the texts for people, or
    None without a tokenizer.
    """

    numbered: Numbered
    pieces: dict[str, tuple[int, ...]]
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    strings: list[str] | None
    base: Encoding

    def encoding(self, *, max_length: int | None = None, multiple: int = 1) -> Encoding:
        """By which a text without edits comes out as the ids that it came as."""
        return replace(
            self.base,
            prefix=self.prefix,
            suffix=self.suffix,
            known=self.pieces,
            max_length=max_length,
            multiple=multiple,
        )


def words_of_pieces(
    input_ids: Sequence[Any],
    word_ids: Sequence[Sequence[int | None]],
    *,
    pad: int = 0,
    encoding: Encoding | None = None,
) -> Subwords:
    """Every different row of ids of one word becomes a word. Ids of no word (None) before the first and behind the last
    word are prefix and suffix. Where texts do not all end alike, ``pad`` behind them is dropped. ``encoding``: of the
    tokenizer that made the ids.

    Raises ``ValueError`` by record: lists that are not as long, ids of no word between words, a prefix or suffix that
    is not that of the others.
    """
    if len(input_ids) != len(word_ids):
        raise ValueError(f"expected as many lists of word ids as of ids, got {len(word_ids)} and {len(input_ids)}")
    texts: list[list[tuple[int, ...]]] = []
    before: list[tuple[int, ...] | None] = []  # None: a text without words, of which all is behind
    behind: list[tuple[int, ...]] = []
    for row, (given, words) in enumerate(zip(input_ids, word_ids, strict=True)):
        ids = [int(number) for number in given]
        if len(ids) != len(words):
            raise ValueError(f"record {row}: expected as many word ids as ids, got {len(words)} and {len(ids)}")
        own = [place for place, word in enumerate(words) if word is not None]
        begin, end = (own[0], own[-1] + 1) if own else (0, 0)
        if len(own) < end - begin:
            place = next(place for place in range(begin, end) if words[place] is None)
            raise ValueError(
                f"record {row}: the id {ids[place]} at {place} is of no word, but stands between words: texts of two "
                "parts cannot be edited as one"
            )
        cuts = [place for place in own if place == begin or words[place] != words[place - 1]]
        texts.append([tuple(ids[a:b]) for a, b in pairwise([*cuts, end])])
        before.append(tuple(ids[:begin]) if own else None)
        behind.append(tuple(ids[end:]))
    prefix, suffix = _around(before, behind, pad)
    base = encoding or Encoding()
    numbered: Any = number(texts)  # type: ignore[arg-type]
    rows: list[tuple[int, ...]] = numbered.words
    names = _names(rows, np.bincount(numbered.numbers, minlength=len(rows)), base.tokenizer)
    strings = None
    if base.tokenizer is not None:
        whole = [[piece for pieces in text for piece in pieces] for text in texts]
        strings = base.tokenizer.decode_batch(whole, skip_special_tokens=False)
    return Subwords(
        Numbered(names, numbered.numbers, numbered.starts),
        dict(zip(names, rows, strict=True)),
        prefix,
        suffix,
        strings,
        replace(base, pad=pad),
    )


def _around(
    before: list[tuple[int, ...] | None], behind: list[tuple[int, ...]], pad: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prefix and suffix, which are those of all texts."""
    prefix = next((ids for ids in before if ids is not None), ())
    whole = [ids if own is not None else ids[len(prefix) :] for own, ids in zip(before, behind, strict=True)]
    if len(set(whole)) > 1:
        whole = [_without(pad, ids) for ids in whole]
    first = next((row for row, own in enumerate(before) if own is not None), 0)
    for row, (own, ids) in enumerate(zip(before, behind, strict=True)):
        found = ids[: len(prefix)] if own is None else own
        if (found, whole[row]) != (prefix, whole[first]):
            raise ValueError(
                f"record {row}: expected the ids {prefix} before the words and {whole[first]} behind, as in record "
                f"{first}, got {found} and {whole[row]}; leave special tokens out where they differ "
                "(add_special_tokens=False)"
            )
    return prefix, whole[first] if whole else ()


def _without(pad: int, ids: tuple[int, ...]) -> tuple[int, ...]:
    count = len(ids)
    while count and ids[count - 1] == pad:
        count -= 1
    return ids[:count]


def _names(rows: list[tuple[int, ...]], counts: np.ndarray, tokenizer: Any) -> list[str]:
    """A name for each, all different: of those that read alike the most frequent has it, others their ids behind it."""
    numbers = [" ".join(map(str, row)) for row in rows]
    if tokenizer is None:
        return numbers
    read = [text.strip() for text in tokenizer.decode_batch([list(row) for row in rows], skip_special_tokens=False)]
    taken: Counter[str] = Counter(SPECIAL)
    names = [""] * len(rows)
    for place in np.argsort(-counts, kind="stable").tolist():
        name = read[place] if read[place] else numbers[place]
        names[place] = f"{name} {numbers[place]}" if taken[name] else name
        taken[names[place]] += 1
    return names
