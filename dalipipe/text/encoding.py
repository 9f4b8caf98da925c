"""How edited words become the numbers in batches: the words' own, or a tokenizer's pieces of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dalipipe.text.vocabulary import MASK, PAD, UNKNOWN, Vocabulary
from dalipipe.text.words import is_closing, join, starts_unspaced

_AT_ONCE = 1 << 14  # words
_PADS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")
_ENDS = ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>")
_MASKS = ("[MASK]", "<mask>", "<|mask|>")


@dataclass(frozen=True)
class Encoding:
    """What stands in a batch's rows.

    ``tokenizer``: a ``tokenizers.Tokenizer`` whose pieces of each word stand for it; None: the words' own numbers.
    ``prefix``, ``suffix``: numbers before and behind every text (``[CLS]``, ``[SEP]``). ``pad``: what rows are filled
    up with. ``max_length``: numbers in a row at most, prefix and suffix counted; texts lose their ends. ``multiple``:
    rows are as long as the longest of them, rounded up to a multiple of this, but never beyond ``max_length``.

    ``unknown``, ``mask``: the tokenizer's numbers for `UNKNOWN` and `MASK`, where it has some. ``spaced``: whether
    words are given to it with the space before them, as byte-level models learned them (`pieces`). ``known``: pieces
    by word that were made elsewhere, for which no tokenizer is asked.

    Raises ``ValueError`` for a length that leaves no room.
    """

    tokenizer: Any = None
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    pad: int = PAD
    max_length: int | None = None
    multiple: int = 1
    unknown: int | None = None
    mask: int | None = None
    spaced: bool = False
    known: Mapping[str, tuple[int, ...]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, value in (("max_length", self.max_length), ("multiple", self.multiple)):
            if type(value) is not int and not (name == "max_length" and value is None):
                raise ValueError(f"Encoding: {name} must be a whole number, got {value!r}")
        least = len(self.prefix) + len(self.suffix) + 1
        if self.max_length is not None and not self.max_length >= least:
            around = f", {least - 1} for prefix and suffix and one for the text" if least > 1 else ""
            raise ValueError(f"Encoding: max_length must be at least {least}{around}, got {self.max_length!r}")
        if not self.multiple >= 1:
            raise ValueError(f"Encoding: multiple must be at least 1, got {self.multiple!r}")

    @classmethod
    def of(cls, tokenizer: Any, *, max_length: int | None = None, multiple: int = 1) -> Encoding:
        """That of a tokenizer: a ``tokenizers.Tokenizer``, a fast tokenizer of transformers, or the path of a
        ``tokenizer.json`` or of a folder that has one. Nothing is downloaded.

        Prefix and suffix are what it puts around a text. ``pad`` is its padding token, else its end of text, else 0.
        A model's dropout is turned off: a word's pieces are the same each time.

        Raises:
            FileNotFoundError: no such file or folder.
            ImportError: ``tokenizers`` is not installed.
            TypeError: a tokenizer of another kind.
            ValueError: one whose prefix and suffix cannot be told from the text between.
        """
        backend, named = _opened(tokenizer)
        settings = json.loads(backend.to_str())
        if settings["model"].get("dropout") is not None:
            settings["model"]["dropout"] = None
        # A copy, so that nobody else's settings change.
        backend = type(backend).from_str(json.dumps(settings, ensure_ascii=False))
        backend.no_truncation()
        backend.no_padding()

        def number(name: str, *usual: str) -> int | None:
            names = (named[name],) if named.get(name) is not None else usual
            found = (backend.token_to_id(token) for token in names)
            return next((token for token in found if token is not None), None)

        pad = number("pad_token", *_PADS)
        pad = number("eos_token", *_ENDS) if pad is None else pad
        unknown = number("unk_token") if named.get("unk_token") is not None else _unknown(backend)
        mask = number("mask_token", *_MASKS)
        prefix, suffix = _around(backend)
        return cls(
            tokenizer=backend,
            prefix=prefix,
            suffix=suffix,
            pad=0 if pad is None else pad,
            max_length=max_length,
            multiple=multiple,
            unknown=unknown,
            mask=mask,
            spaced=_wants_spaces(backend),
        )

    def given(self, words: Iterable[str]) -> list[str]:
        """Words as the tokenizer is given them: themselves; or, where it is ``spaced`` (byte-level models without
        ``add_prefix_space``, as GPT-2's), with a space before them, but for closing punctuation, English endings, and
        characters of scripts that have none, before which text has no space either. So the first word of a text has
        its space too, and a word behind an opening bracket.
        """
        if not self.spaced:
            return list(words)
        return [word if is_closing(word) or starts_unspaced(word) else f" {word}" for word in words]

    def pieces(self, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
        """What stands for each word: ``starts`` int32 [V + 1] and ``pieces`` int32; those of word t are
        pieces[starts[t]:starts[t + 1]]. What the tokenizer gives for the word alone, so a text's are what it gives for
        its words (``encode(encoding.given(words), is_pretokenized=True)``). `PAD` has none; `UNKNOWN` the tokenizer's
        unknown token, or none; `MASK` its mask token, else as `UNKNOWN`.

        Raises ``ValueError`` for a word whose pieces are not ``known`` where there is no tokenizer.
        """
        unknown = [] if self.unknown is None else [self.unknown]
        own = {PAD: [], UNKNOWN: unknown, MASK: unknown if self.mask is None else [self.mask]}
        known = self.known or {}
        found: list[Any] = [own[t] if t in own else known.get(word) for t, word in enumerate(vocabulary.words)]
        asked = [t for t, pieces in enumerate(found) if pieces is None]
        if asked and self.tokenizer is None:
            raise ValueError(
                f"Encoding: the pieces of {vocabulary.words[asked[0]]!r} are not known: give the tokenizer that made "
                "the others, or use operators that write no new words"
            )
        for begin in range(0, len(asked), _AT_ONCE):
            some = asked[begin : begin + _AT_ONCE]
            texts = [[word] for word in self.given(vocabulary.words[t] for t in some)]
            encoded = self.tokenizer.encode_batch_fast(texts, is_pretokenized=True, add_special_tokens=False)
            for t, one in zip(some, encoded, strict=True):
                found[t] = one.ids
        starts = np.zeros(len(found) + 1, np.int32)
        np.cumsum([len(pieces) for pieces in found], out=starts[1:])
        return starts, np.fromiter((piece for pieces in found for piece in pieces), np.int32, int(starts[-1]))

    def decode(self, ids: Iterable[int], vocabulary: Vocabulary) -> str:
        """A row of a batch as text for people, without padding, prefix and suffix."""
        numbers = [int(number) for number in ids]
        if self.tokenizer is not None:
            text: str = self.tokenizer.decode(numbers, skip_special_tokens=True)
            return text
        return join(vocabulary.words_of(numbers))


def _around(backend: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What it puts before and behind a text, seen on one that it has pieces for."""
    for probe in ("a", *backend.get_vocab()):
        bare, whole = backend.encode(probe, add_special_tokens=False).ids, backend.encode(probe).ids
        begins = [i for i in range(len(whole)) if bare and whole[i : i + len(bare)] == bare]
        if len(begins) == 1:
            return tuple(whole[: begins[0]]), tuple(whole[begins[0] + len(bare) :])
    raise ValueError("Encoding: no text shows what this tokenizer puts around one: it has no words, or changes them")


def _opened(tokenizer: Any) -> tuple[Any, dict[str, Any]]:
    """The ``tokenizers.Tokenizer``, and what special tokens are called, as far as that is known."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(f"subword models need tokenizers ({error}): pip install 'dalipipe[text]'") from error
    if isinstance(tokenizer, Tokenizer):
        return tokenizer, {}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer):
        names = ("pad_token", "eos_token", "unk_token", "mask_token")
        return backend, {name: getattr(tokenizer, name, None) for name in names}
    if not isinstance(tokenizer, str | os.PathLike):
        raise TypeError(
            "Encoding: expected a tokenizers.Tokenizer, a fast tokenizer of transformers, or the path of one, got "
            f"{type(tokenizer).__name__}; a slow tokenizer has AutoTokenizer.from_pretrained(folder, use_fast=True)"
        )
    path = os.fspath(tokenizer)
    folder, file = (
        (path, os.path.join(path, "tokenizer.json")) if os.path.isdir(path) else (os.path.dirname(path), path)
    )
    if not os.path.isfile(file):
        raise FileNotFoundError(
            f"there is no {file}: give a tokenizer.json, or a folder that has one (tokenizer.save_pretrained); nothing "
            "is downloaded"
        )
    return Tokenizer.from_file(file), _named(folder)


def _named(folder: str) -> dict[str, Any]:
    """What transformers wrote beside a tokenizer."""
    named: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            for key in ("pad_token", "eos_token", "unk_token", "mask_token"):
                token = content.get(key)
                token = token.get("content") if isinstance(token, dict) else token
                if token is not None:
                    named[key] = token
    return named


def _unknown(backend: Any) -> int | None:
    """What its model has for what it does not know."""
    model = json.loads(backend.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    return None if model.get("unk_token") is None else backend.token_to_id(model["unk_token"])


def _wants_spaces(backend: Any) -> bool:
    """Whether words given one by one would run together, and a space before them says that they don't."""

    def ids(text: str | list[str]) -> list[int]:
        return list(backend.encode(text, is_pretokenized=isinstance(text, list), add_special_tokens=False).ids)

    return ids(["a", "a"]) != ids("a a") == ids(["a", " a"])
