"""Texts in memory: from lists, lines, tables, JSON lines, Hugging Face data sets, and token ids."""

from __future__ import annotations

import keyword
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from dalipipe.records import Records, Tokens
from dalipipe.schema import Field, Schema
from dalipipe.sources.base import Source, digest, numbered_labels, to_numpy
from dalipipe.sources.packed import is_pack
from dalipipe.sources.text_files import Column, Errors, Where, as_numbers, read_rows
from dalipipe.sources.text_pack import read_text_pack
from dalipipe.storage import Storage
from dalipipe.text import Encoding, Vocabulary
from dalipipe.text.subwords import words_of_pieces
from dalipipe.text.vocabulary import Numbered, number
from dalipipe.text.words import SPLITTERS, Split, splitter

_RESERVED = ("text", "length", "label", "indices")
_MOST_CLASS_COUNTS = 1 << 27  # numbers: 1 GiB


class Text(Source):
    """Texts in memory, split into words once; labels, and other numbers by name.

    Fields: ``text`` (numbers of words, or a tokenizer's pieces of them; batches hold int64 [N, L], padded at the end),
    ``length`` (int64 [N]: numbers of each without the padding), then ``label`` and the columns.

    Args:
        texts: N of them. One without words is a row of length 0, or prefix and suffix alone.
        labels: whole numbers [N], names (numbered by ``classes``), other numbers [N] or [N, ...]; or None.
        split: "words" (`text.words.split`), "space" (at white space), "characters" (graphemes), or a function from str
            to a list of str (of a module, where the source is to be pickled).
        lower: whether texts are put into lower case first.
        vocabulary: the words and their numbers, as those of the texts that a model is trained on
            (``loader.vocabulary``); None: made from these texts. With a tokenizer it is extended by the words that it
            lacks, since the numbers in batches are the tokenizer's.
        min_count, most: of a vocabulary that is made: how often a word must be there, and how many words to keep at
            most. Others are `text.UNKNOWN`.
        tokenizer: a ``tokenizers.Tokenizer``, a fast tokenizer of transformers, or the path of one: its pieces of each
            word come in the word's place (`text.Encoding.of`). None: the words' own numbers; or a `text.Encoding`.
        max_length: numbers in a row at most, prefix and suffix counted. None: no limit.
        multiple: rows' lengths are rounded up to a multiple of this.
        classes: names by label; None: where labels are names, in sorted order.
        columns: further fields, each numbers [N] or [N, ...].

    Raises:
        ImportError: a package that the texts need (``regex``, ``tokenizers``) is missing.
        TypeError: what are no numbers.
        ValueError: no texts; something that is no text, or no valid Unicode, by its record; labels that are missing, or
            not as many; a name that is in no class.
    """

    in_memory = True

    def __init__(
        self,
        texts: Iterable[str],
        labels: Any = None,
        *,
        split: str | Split = "words",
        lower: bool = False,
        vocabulary: Vocabulary | None = None,
        min_count: int = 1,
        most: int | None = None,
        tokenizer: Any = None,
        max_length: int | None = None,
        multiple: int = 1,
        classes: Sequence[str] | None = None,
        _where: Where | None = None,
        **columns: Any,
    ) -> None:
        if isinstance(texts, str | bytes):
            raise ValueError("Text: expected a list of texts, got one: Text([text])")
        self._where = _where
        self.strings: list[str] | None = list(texts)
        """The texts as they were given; None: of token ids without their tokenizer."""
        if not self.strings:
            raise ValueError("Text: expected at least one text, got none")
        for row, text in enumerate(self.strings):
            _check_text(text, row, self.describe)
        self.split: tuple[Split, bool] | None = (splitter(split), lower)
        """How they were split, and whether put into lower case first; None: not known (any more)."""
        numbered = number(_split(self.strings, *self.split, self.describe))
        encoding = _encoding(tokenizer, max_length, multiple)
        self._fill(numbered, labels, vocabulary, encoding, classes, columns, min_count, most)

    def _fill(
        self,
        numbered: Numbered,
        labels: Any,
        vocabulary: Vocabulary | None,
        encoding: Encoding,
        classes: Sequence[str] | None,
        columns: dict[str, Any],
        min_count: int = 1,
        most: int | None = None,
    ) -> None:
        n = len(numbered.starts) - 1
        self.classes = None if classes is None else [str(name) for name in classes]
        self.columns: dict[str, np.ndarray] = {}
        if labels is not None:
            labels = _present(labels, self.describe)
            labels, self.classes = numbered_labels("Text", labels, self.classes, self.describe)
            self.labels = self.columns["label"] = labels
        for name, column in columns.items():
            if name in _RESERVED or keyword.iskeyword(name) or name.startswith("_"):
                raise ValueError(f"Text: {name!r} cannot be a column's name: rename it")
            self.columns[name] = to_numpy(f"Text: column {name!r}", column)
        for name, column in self.columns.items():
            if not column.ndim or len(column) != n:
                raise ValueError(f"Text: {n} texts but {len(column) if column.ndim else 'one'} of {name}")
            if column.dtype.kind not in "biuf":
                raise TypeError(f"Text: {name} must be numbers, got {column.dtype}")
        self._words, self._numbers, self._starts = numbered
        if vocabulary is None:
            counted = _class_labels(self.labels, len(self._words))
            vocabulary = Vocabulary.build(numbered, counted, min_count=min_count, most=most)
        self._use(vocabulary, encoding)

    def _use(self, vocabulary: Vocabulary, encoding: Encoding) -> None:
        if encoding.tokenizer is not None or encoding.known is not None:
            vocabulary = vocabulary.with_words(self._words)
        self.vocabulary, self.encoding = vocabulary, encoding
        self._tokens = vocabulary.ids(self._words)[self._numbers] if len(self._words) else self._numbers
        fields = [
            Field("text", "text", length="length", vocabulary=vocabulary, encoding=encoding),
            Field("length", "column"),
        ]
        self.schema = Schema((*fields, *(Field(name, "column") for name in self.columns)))

    @classmethod
    def open(
        cls,
        source: Any,
        *,
        text: Column = "text",
        label: Column | None = "label",
        columns: Sequence[Column] = (),
        header: bool | None = None,
        errors: Errors = "strict",
        split: str | Split = "words",
        lower: bool = False,
        vocabulary: Vocabulary | None = None,
        min_count: int = 1,
        most: int | None = None,
        tokenizer: Any = None,
        max_length: int | None = None,
        multiple: int = 1,
        classes: Sequence[str] | None = None,
        storage: Storage | None = None,
    ) -> Text:
        """From a file, local or a URL, of which all is read; or from a ``pyarrow.Table`` or a Hugging Face data set.

        - ``.txt``: a line a text, empty ones too; no labels.
        - ``.csv``: commas, a cell with commas or line ends between double quotes; ``.tsv``: tabs, and quotes mean
          nothing. Empty lines are passed over. The first line has the names of the columns where ``text`` is one of
          them. Columns without names go by number, from 0; of one or two, the last is the text, the first of two the
          label. Labels that are all numbers are numbers, unless ``classes`` has them as names.
        - ``.jsonl``, ``.json``: an object a line, or one list of them.
        - A folder that `dalipipe.pack` left, with the labels and columns that were packed: it says what has been
          applied to them, and a loader does the rest of the policy; epoch e reads copy e mod copies.
        - ``.parquet``, ``.pq``, ``.arrow``, ``.feather``, ``.ipc``, tables, data sets (one split, not streamed; the
          names of a ``ClassLabel`` are the classes). Files need pyarrow.

        Args:
            text, label, columns: columns by name or number. "label" may be missing; None: no labels. ``columns`` are
                numbers.
            header: of ``.csv`` and ``.tsv``: whether the first line has names; None: as said above.
            errors: what to do with bytes that are no UTF-8: "strict" (raise), or "replace" (by U+FFFD).
            storage: reads the file; None: local files, and stores by their default settings.
            split, lower, vocabulary, min_count, most, tokenizer, max_length, multiple, classes: as for `Text`.

        Raises:
            FileNotFoundError: no such file.
            ImportError: a format whose package is not installed.
            ValueError: a file that is not as it must be, by its line or row; no such column.
        """
        if errors not in ("strict", "replace"):
            raise ValueError(f'Text.open: errors must be "strict" or "replace", got {errors!r}')
        pack = None
        if isinstance(source, str | os.PathLike) and is_pack(source):
            pack = read_text_pack(os.fspath(source), storage or Storage())
            rows = pack.rows
        else:
            rows = read_rows(source, text, label, columns, header, errors, storage or Storage())
        classes = rows.classes if classes is None else list(classes)
        labels: Any = rows.labels
        named = isinstance(labels, list) and labels and all(isinstance(cell, str) for cell in labels)
        if named and not set(labels) <= set(classes or ()):
            found = as_numbers(labels)
            labels = labels if found is None else found
        if not rows.texts:
            name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the table"
            raise ValueError(f"{name}: expected at least one text, got none")
        made = cls(
            rows.texts,
            labels,
            split=split,
            lower=lower,
            vocabulary=vocabulary,
            min_count=min_count,
            most=most,
            tokenizer=tokenizer,
            max_length=max_length,
            multiple=multiple,
            classes=classes,
            _where=rows.where,
            **rows.columns,
        )
        if pack is not None:
            made.front, made.copies = pack.front, pack.copies
            made.labels = None if made.labels is None else made.labels[: len(made)]
        return made

    @classmethod
    def from_token_ids(
        cls,
        input_ids: Sequence[Any],
        word_ids: Sequence[Sequence[int | None]],
        labels: Any = None,
        *,
        tokenizer: Any = None,
        pad: int | None = None,
        max_length: int | None = None,
        multiple: int = 1,
        classes: Sequence[str] | None = None,
        **columns: Any,
    ) -> Text:
        """From texts that a tokenizer has been over: the ids of one word stay together, and come out as they are.

        Args:
            input_ids: N lists of whole numbers.
            word_ids: N lists, as long: which word each id is of, None where it is of none (special tokens), as
                ``encoding.word_ids`` of ``tokenizers`` and transformers. Ids of no word before and behind a text become
                prefix and suffix, which must be those of all; where texts do not all end alike, padding is dropped.
            tokenizer: the one that made the ids, as for `Text`: needed where operators write new words (synonyms), and
                for words to have their names. None: a word is called by its ids.
            pad: what rows are filled up with; None: the tokenizer's, else 0.
            labels, max_length, multiple, classes, columns: as for `Text`.

        Raises ``ValueError`` by record: lists that are not as long; ids of no word amid a text; another prefix or
        suffix than the first text's.
        """
        if not len(input_ids):
            raise ValueError("Text: expected at least one text, got none")
        base = Encoding() if tokenizer is None else _encoding(tokenizer, None, 1)
        found = words_of_pieces(input_ids, word_ids, pad=base.pad if pad is None else pad, encoding=base)
        self = cls.__new__(cls)
        self._where = None
        self.strings, self.split = found.strings, None
        encoding = found.encoding(max_length=max_length, multiple=multiple)
        self._fill(found.numbered, labels, None, encoding, classes, columns)
        return self

    def with_vocabulary(self, vocabulary: Vocabulary) -> Text:
        """The same texts, by the numbers of another vocabulary."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        for name in ("lengths", "_pieces"):
            other.__dict__.pop(name, None)
        other._use(vocabulary, self.encoding)
        return other

    def __len__(self) -> int:
        return (len(self._starts) - 1) // self.copies

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Records:
        rows = np.asarray(indices, np.int64)
        columns: dict[str, Any] = {
            "text": Tokens.ragged(self._tokens, self._starts, rows),
            "length": np.zeros(len(rows), np.int64),  # known once they are edited
        }
        for name, column in self.columns.items():
            columns[name] = column[rows]
        return Records(columns)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [N]: numbers in the row of every text as it is, prefix, suffix and pieces counted, not padding: by what
        texts are put together into batches. Of several copies: of the longest.
        """
        encoding, lengths = self.encoding, np.diff(self._starts)
        if self._pieces is not None:
            of_word = np.diff(self._pieces[0]).astype(np.int64)
            ends = np.concatenate([[0], np.cumsum(of_word[self._tokens])])
            lengths = ends[self._starts[1:]] - ends[self._starts[:-1]]
        lengths = lengths + len(encoding.prefix) + len(encoding.suffix)
        lengths = lengths if encoding.max_length is None else np.minimum(lengths, encoding.max_length)
        return lengths.reshape(self.copies, -1).max(axis=0)

    @cached_property
    def _pieces(self) -> tuple[np.ndarray, np.ndarray] | None:
        encoding = self.encoding
        return None if encoding.tokenizer is None and encoding.known is None else encoding.pieces(self.vocabulary)

    def decode(self, ids: Iterable[int]) -> str:
        """A row of a batch as text for people, without padding, prefix and suffix."""
        return self.encoding.decode(ids, self.vocabulary)

    def fingerprint(self) -> str:
        encoding = self.encoding
        parts = [self._tokens.tobytes(), self._starts.tobytes(), self.vocabulary.identity.encode()]
        parts += [repr((encoding.prefix, encoding.suffix, encoding.pad, encoding.max_length)).encode()]
        parts += [part.tobytes() for part in self._pieces or ()]
        for name, column in self.columns.items():
            parts += [f"{name} {column.dtype.str} {column.shape}".encode(), column.tobytes()]
        return f"text-{len(self)}-{digest(parts)}"

    def describe(self, index: int) -> str:
        return f"record {index}" if self._where is None else self._where(index)

    def __repr__(self) -> str:
        lengths = np.diff(self._starts)
        words = f"{lengths.min():,}–{lengths.max():,} words, {len(self.vocabulary):,} kinds"
        return f"Text({len(self):,} texts of {words}{f', {len(self.classes)} classes' if self.classes else ''})"

    def __getstate__(self) -> dict[str, Any]:
        own = self.split is not None and self.split[0] not in SPLITTERS.values()  # which may be no module's
        return {**self.__dict__, "labels": None, "split": None if own else self.split}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        labels = state["columns"].get("label")
        self.labels = labels if self.copies == 1 or labels is None else labels[: len(self)]


def _encoding(tokenizer: Any, max_length: int | None, multiple: int) -> Encoding:
    if isinstance(tokenizer, Encoding):
        given: dict[str, Any] = {"max_length": max_length, "multiple": None if multiple == 1 else multiple}
        return replace(tokenizer, **{name: value for name, value in given.items() if value is not None})
    if tokenizer is None:
        return Encoding(max_length=max_length, multiple=multiple)
    return Encoding.of(tokenizer, max_length=max_length, multiple=multiple)


def _check_text(text: Any, row: int, where: Callable[[int], str]) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{where(row)}: expected a text, got {str(text)[:40]!r} ({type(text).__name__})")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where(row)}: no valid Unicode: {error.reason}, at character {error.start}") from None


def _split(strings: list[str], split: Split, lower: bool, where: Callable[[int], str]) -> Iterable[Sequence[str]]:
    ours = split in SPLITTERS.values()
    for row, text in enumerate(strings):
        words = split(text.lower() if lower else text)
        if not ours and not (isinstance(words, list | tuple) and all(isinstance(word, str) for word in words)):
            raise ValueError(f"{where(row)}: split must give a list of str, got {str(words)[:60]!r}")
        yield words


def _present(labels: Any, where: Callable[[int], str]) -> Any:
    """Labels, of which none is missing."""
    kind = getattr(getattr(labels, "dtype", None), "kind", "O")  # of a tensor's dtype there is none
    if kind == "f":
        missing = np.isnan(np.asarray(labels)).reshape(len(labels), -1).any(axis=1).tolist()
    else:
        labels = list(labels) if kind == "O" and not hasattr(labels, "detach") else labels
        missing = [label is None or label != label for label in labels] if isinstance(labels, list) else []
    if True in missing:
        raise ValueError(f"{where(missing.index(True))}: no label: give it one, or leave the text out")
    return labels


def _class_labels(labels: np.ndarray | None, words: int) -> np.ndarray | None:
    """Labels by which words can be counted: whole numbers from 0, of which there are not too many."""
    if labels is None or labels.ndim != 1 or labels.dtype != np.int64 or not len(labels) or labels.min() < 0:
        return None
    return labels if (int(labels.max()) + 1) * (words + 3) <= _MOST_CLASS_COUNTS else None
