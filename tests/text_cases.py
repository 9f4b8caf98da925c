"""One table of operators on texts: what every operator promises is tested over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dalipipe import native
from dalipipe.engines.text import TextEngine
from dalipipe.ops import text as ops
from dalipipe.policy import Choice, Op
from dalipipe.text import Vocabulary

SYNONYMS = {"w3": ["x3", "w4", "new word"], "w5": ["y5"], "w8": ["w9", "w10", "z8", "w3"], "w2": ["the"]}


@dataclass(frozen=True)
class Case:
    """An operator, set to touch every sample."""

    op: Op
    idle: bool = False
    """It may draw what changes nothing in a text of many words."""

    @property
    def name(self) -> str:
        return type(self.op).__name__


_PAIRS = tuple((word, tuple(others)) for word, others in SYNONYMS.items())

CASES = [
    Case(ops.SynonymReplacement(0.1, SYNONYMS, stop_words=("w2", "w5"))),
    Case(ops.SynonymReplacement((0.2, 0.9), _PAIRS, stop_words=())),
    Case(ops.RandomInsertion(0.1, SYNONYMS, stop_words=("w2",))),
    Case(ops.RandomInsertion(Choice((0.3, 1.0)), SYNONYMS, stop_words=())),
    Case(ops.RandomSwap(), idle=True),
    Case(ops.RandomSwap((0.1, 0.5), neighbours=True), idle=True),
    Case(ops.RandomDeletion(0.5)),
    Case(ops.RandomDeletion((0.9, 1.0))),
    Case(ops.RandomReplacement(0.3), idle=True),
    Case(ops.RandomReplacement((0.2, 0.8), by="tfidf"), idle=True),
    Case(ops.WordReversal()),
    Case(ops.WordReversal(letters=True)),
    Case(ops.WordReversal(letters=True, share=(0.2, 0.4))),
    Case(ops.SpanMask()),
    Case(ops.SpanMask((0.0, 1.0), fill="cut")),
    Case(ops.SpanShuffle(), idle=True),
    Case(ops.BagOfWords()),
    Case(ops.BagOfWords("resample")),
    Case(ops.BagOfWords("resample", labels=None)),
    Case(ops.PunctuationInsertion()),
    Case(ops.AEDA((0.0, 1.0), marks=("!", "w7"))),
]
IDS = [f"{case.name}-{number}" for number, case in enumerate(CASES)]
WORDS = (40, 0, 1, 2, 3, 137, 1000, 64, 0, 5)
"""Awkward on purpose."""
CLASSES = 3


def made(words: tuple[int, ...] | list[int], seed: int = 0) -> list[list[str]]:
    """Texts of these numbers of words, of which some are frequent; a text of some words has one with synonyms."""
    random = np.random.default_rng(seed)
    texts = []
    for count in words:
        text = [f"w{int(rank)}" for rank in np.minimum(random.zipf(1.3, count), 200) + 1]
        if count >= 5:
            text[1], text[3] = "w3", "w8"
        texts.append(text)
    return texts


def vocabulary(texts: list[list[str]]) -> Vocabulary:
    """Of texts whose classes go round."""
    return Vocabulary.build(texts, np.arange(len(texts)) % CLASSES)


def use_kernels(emulation: Any, patch: pytest.MonkeyPatch) -> None:
    """From here on engines run csrc/cuda's kernels, compiled for the host."""

    order = "passes starts data lengths capacities places out out_lengths".split()

    def edit(*, threads: int, keep: Any, **given: Any) -> native.Running:
        texts = [given.pop(name) for name in order]
        emulation.edit_tokens(*texts, **given)
        return native.Running(None)

    def on(name: str) -> Any:
        return lambda *given, threads, **options: getattr(emulation, name)(*given, **options)

    patch.setattr(TextEngine, "_longest", lambda engine, words: None)  # as it is on a device
    patch.setattr(native, "start_edit_tokens", edit)
    for name in ("count_rows", "write_rows"):
        patch.setattr(native, name, on(name))
