"""Texts that a tokenizer has been over: the ids of one word are a word here, and its pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    word are prefix and suffix; ``pad`` behind is dropped. ``encoding``: of the tokenizer that made the ids.

    Raises ``ValueError`` by record: lists that are not as long, ids of no word between words, a prefix or suffix that
    is not that of the first text.
    """
    if len(input_ids) != len(word_ids):
        raise ValueError(f"expected as many lists of word ids as of ids, got {len(word_ids)} and {len(input_ids)}")
    texts: list[list[tuple[int, ...]]] = []
    around: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    for row, (given, of_word) in enumerate(zip(input_ids, word_ids, strict=True)):
        ids, words = [int(number) for number in given], list(of_word)
        if len(ids) != len(words):
            raise ValueError(f"record {row}: expected as many word ids as ids, got {len(words)} and {len(ids)}")
        while ids and ids[-1] == pad and words[-1] is None:
            ids.pop()
            words.pop()
        own = [place for place, word in enumerate(words) if word is not None]
        begin, end = (own[0], own[-1] + 1) if own else _between(len(ids), around)
        found = tuple(ids[:begin]), tuple(ids[end:])
        if around is not None and found != around:
            raise ValueError(
                f"record {row}: expected the ids {around[0]} before the words and {around[1]} behind, as in record 0, "
                f"got {found[0]} and {found[1]}; leave special tokens out (add_special_tokens=False) where they differ"
            )
        around = found
        if len(own) < end - begin:
            place = next(place for place in range(begin, end) if words[place] is None)
            raise ValueError(
                f"record {row}: the id {ids[place]} at {place} is of no word, but stands between words: texts of two "
                "parts cannot be edited as one"
            )
        cuts = [place for place in range(begin, end) if place == begin or words[place] != words[place - 1]]
        texts.append([tuple(ids[a:b]) for a, b in zip(cuts, [*cuts[1:], end], strict=True)])
    base = encoding or Encoding()
    numbered: Any = number(texts)  # type: ignore[arg-type]
    rows: list[tuple[int, ...]] = numbered.words
    names = _names(rows, np.bincount(numbered.numbers, minlength=len(rows)), base.tokenizer)
    strings = None
    if base.tokenizer is not None:
        whole = [[piece for pieces in text for piece in pieces] for text in texts]
        strings = base.tokenizer.decode_batch(whole, skip_special_tokens=False)
    prefix, suffix = around or ((), ())
    return Subwords(
        Numbered(names, numbered.numbers, numbered.starts),
        dict(zip(names, rows, strict=True)),
        prefix,
        suffix,
        strings,
        replace(base, pad=pad),
    )


def _between(count: int, around: tuple[tuple[int, ...], tuple[int, ...]] | None) -> tuple[int, int]:
    """Where the words of a text without words would stand: behind the others' prefix, or half of what is there."""
    begin = min(count, count // 2 if around is None else len(around[0]))
    return begin, begin


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
