"""Folding texts' operators: every one of those drawn for a sample is a pass over its tokens, in their order, and what
they draw from stands in tables that are made once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dalipipe import native
from dalipipe.ops.text import Table, TextOp
from dalipipe.policy import Drawn, Leaf
from dalipipe.schema import Field
from dalipipe.sources.base import digest
from dalipipe.text import Encoding, Vocabulary
from dalipipe.text.bags import Bag


@dataclass(frozen=True)
class Classes:
    """Passes ``at`` int64 [A] of samples ``rows`` int64 [A] that have a bag for each class, ``count`` of them: to which
    of the bags they name, the sample's class in the field ``labels`` is still to be added.
    """

    labels: str
    count: int
    at: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class TextParams:
    """What happens to N texts: ``passes`` [P] of `TOKEN_PASS`, sample after sample, ``starts`` int32 [N+1];
    ``out_size`` int64 [N, 1]: how many tokens they have at most, before, between and after their passes.
    """

    passes: np.ndarray
    starts: np.ndarray
    out_size: np.ndarray
    classes: tuple[Classes, ...] = ()


@dataclass(frozen=True)
class Edit:
    """An operator, a `TOKEN_PASS` [1] with what is the same in all of its passes, and its table."""

    op: TextOp
    pattern: np.ndarray
    table: Table


@dataclass(frozen=True)
class Tables:
    """What the operators of a policy draw from, each table once."""

    choices: tuple[tuple[np.ndarray, np.ndarray], ...]
    bags: tuple[Bag, ...]
    weights: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class TextFold:
    """A policy's operators on texts, checked: `fold` makes passes of what is drawn for them.

    ``vocabulary``: the data set's, and behind it what operators may write.
    """

    edits: tuple[Edit, ...]
    positions: tuple[int, ...]
    """Where they stand among the policy's leaves."""
    vocabulary: Vocabulary
    encoding: Encoding
    tables: Tables

    normalize = None  # what engines of pictures do at the end

    @cached_property
    def identity(self) -> str:
        """A short text that changes when words' numbers or what edits draw from do, as with a file of synonyms."""
        tables = [*self.tables.choices, *self.tables.bags, *self.tables.weights]
        return digest([self.vocabulary.identity.encode(), *(part for table in tables for part in _parts(table))])

    @cached_property
    def pieces(self) -> tuple[np.ndarray, np.ndarray] | None:
        """What a tokenizer makes of each word of the vocabulary (`Encoding.pieces`); None: words' own numbers stand for
        them.
        """
        encoding = self.encoding
        return None if encoding.tokenizer is encoding.known is None else encoding.pieces(self.vocabulary)

    def fold(self, drawn: Sequence[Drawn], size: np.ndarray) -> TextParams:
        """The passes of N texts of ``size`` int64 [N, 1], given what was drawn for the policy."""
        out_size, classes, held = np.array(size, np.int64), [], []
        ops = np.zeros(len(self.edits), native.TOKEN_FOLD_OP)
        for one, edit, position in zip(ops, self.edits, self.positions, strict=True):
            rows, params, before = drawn[position].rows, drawn[position].params, drawn[position].size
            after = edit.op.output_size(params, before)
            if after is not before:
                out_size[rows] = after
            share, noise = np.ascontiguousarray(params["share"], np.float64), np.ascontiguousarray(params["noise"])
            one["rows"], one["count"], one["pattern"] = rows.ctypes.data, len(rows), edit.pattern[0]
            one["share"], one["noise"] = share.ctypes.data, noise.ctypes.data
            held.append((rows, share, noise))
            if edit.op.labels is not None and edit.table.bags:
                at = np.empty(len(rows), np.int64)
                one["at"] = at.ctypes.data
                classes.append(Classes(edit.op.labels, len(edit.table.bags), at, rows))
        passes, starts = native.fold_tokens(ops, len(size))
        return TextParams(passes, starts, out_size, tuple(classes))

    def explain(self, drawn: Sequence[Drawn], size: np.ndarray) -> list[str]:
        """What became of these samples: how many edits they took, then a line per operator."""
        n = len(size)
        counts = np.diff(self.fold(drawn, size).starts)
        shares = [f"{count}: {share / n:.0%}" for count, share in enumerate(np.bincount(counts)) if share]
        lines = [f"edits a text takes: {', '.join(shares)}; {self.vocabulary!r}"]
        for edit, position in zip(self.edits, self.positions, strict=True):
            rows, table, notes = drawn[position].rows, edit.table, []
            if table.choices is not None:
                notes.append(f"{np.count_nonzero(np.diff(table.choices[0])):,} words have others")
            if table.bags:
                notes.append(f"{len(table.bags)} bag(s) of up to {max(bag.count for bag in table.bags):,} words")
            some = f"{len(rows) / n:.0%} of samples" if len(rows) else f"drawn for none of {n:,} samples"
            lines.append(f"{edit.op!r}: {'; '.join([*notes, some])}")
        return lines


def lower_text(leaves: Sequence[Leaf], positions: Sequence[int], field: Field, stored_leaves: int = 0) -> TextFold:
    """A policy's operators on texts, which stand at ``positions`` among its leaves, and their tables.

    Raises ``ValueError`` naming the operator that needs what the field's vocabulary does not know.
    """
    ops: list[Any] = [leaf.op for leaf in leaves]
    encoding: Encoding = field.encoding
    if (encoding.tokenizer is not None or encoding.known is not None) and encoding.mask is encoding.unknown is None:
        hiding = next((op for op in ops if op.edit == "mask"), None)
        if hiding is not None:
            raise ValueError(f'{hiding!r}: the tokenizer has no mask token, nor an unknown one: give fill="cut"')
    # Each is asked for what it makes of the data set's words. What another wrote may find nothing of its own there.
    vocabulary = field.vocabulary.with_words(word for op in ops for word in op.words(field.vocabulary))
    choices, bags, weights = _Gathered(), _Gathered(), _Gathered()
    edits = []
    for op in ops:
        table, one = op.table(vocabulary), np.zeros(1, native.TOKEN_PASS)
        one["edit"], one["least"], one["token"] = native.TOKEN_EDITS.index(op.edit), op.least, op.token
        one["choices"] = choices.add([] if table.choices is None else [table.choices])
        one["weights"] = weights.add([] if table.weights is None else [table.weights])
        one["bag"] = bags.add(table.bags)
        edits.append(Edit(op, one, table))
    tables = Tables(tuple(choices.tables), tuple(bags.tables), tuple(weights.tables))
    return TextFold(tuple(edits), tuple(positions), vocabulary, encoding, tables)


class _Gathered:
    """Tables of one kind, each there once."""

    def __init__(self) -> None:
        self.tables: list[Any] = []
        self._first: dict[str, int] = {}  # of those added together, by what is in them

    def add(self, tables: Sequence[Any]) -> int:
        """Where they stand, one after the other; -1: there are none."""
        if not tables:
            return -1
        content = digest(part for table in tables for part in _parts(table))
        if content not in self._first:
            self._first[content] = len(self.tables)
            self.tables.extend(tables)
        return self._first[content]


def _parts(table: Any) -> list[bytes]:
    """What is in it."""
    if isinstance(table, Bag):
        table = table.tokens, table.keep, table.other, table.count, table.first
    parts = table if isinstance(table, tuple) else (table,)
    return [part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode() for part in parts]
