"""Text → words and back. What readers see as one character (a grapheme cluster) is never split.

Source of what a cluster is: Unicode Standard Annex #29, *Unicode text segmentation*, by the ``regex`` package, which
text that is all ASCII does without.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Any

Split = Callable[[str], list[str]]

# Scripts that put no spaces between words. Without a dictionary their words are not known: characters
# stand alone.
_UNSPACED = "Hani Hira Kana Bopo Thai Laoo Khmr Mymr Yiii"

# `start` begins a word, `inner` goes on with it; `clear`: no cluster goes on here; `alone`: words of one cluster.
_WORD = r"(?:{start}{inner}*)"
_PATTERN = r"""
  {alone}
  (?:https?://|www\.)[^\s<>"]*(?:{start}|/){clear}
| [A-Za-z0-9._+-]{{1,64}}@[A-Za-z0-9-]{{1,64}}(?:\.[A-Za-z0-9-]{{1,64}})+{clear}
| \d+(?:[.,:/]\d+)+{inner}*
| (?:[A-Za-z]\.){{2,}}(?![A-Za-z]){clear}
| [#@]?{word}(?:[{joins}]{word})*
| {apostrophe}(?:[sdmt]|re|ve|ll|[SDMT]|RE|VE|LL)(?![\w'’]){clear}
| {marks}
  {rest}
"""
_ASCII = {
    "start": r"[A-Za-z0-9_]",
    "inner": r"[A-Za-z0-9_]",
    "clear": "",
    "joins": "'-",
    "apostrophe": "'",
    "alone": "",
    "rest": "",
}
_EXTENDING = r"\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}"
_SCRIPTS = "".join(rf"\p{{scx={script}}}" for script in _UNSPACED.split())
_APART = r"\p{GCB=Prepend}\u2139"  # ℹ is a letter and a picture, which a joiner may tie to others
_UNICODE = {
    "start": rf"(?:[[\p{{L}}\p{{N}}_]--[{_EXTENDING}{_SCRIPTS}{_APART}]]|(?=\p{{GCB=Prepend}})\X)",
    "inner": rf"(?:[[\p{{L}}\p{{N}}_{_EXTENDING}]--[{_APART}[[\p{{L}}--[{_EXTENDING}]]&&[{_SCRIPTS}]]]])",
    "clear": rf"(?![{_EXTENDING}])",
    "joins": "'’-",
    "apostrophe": "['’]",
    # Digits, and # and *, in a box; a character of an unspaced script, with its marks.
    "alone": rf"[0-9\#*]\uFE0F?\u20E3{{clear}}|(?=[\p{{L}}&&[{_SCRIPTS}]])\X|",
    "rest": r"|(?!\p{GCB=Control})\X",
}

_CLOSING = frozenset(".,;:!?%)]}…’”»") | {"n't", "n’t", "''"}
_OPENING = frozenset("([{“‘«¿¡$£€") | {"``"}
_KNOWN, _KNOWN_LENGTH = 1 << 16, 32
_CLITIC = re.compile(r"['’](?:[sdmt]|re|ve|ll)", re.IGNORECASE)
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u2060\ufeff"))  # soft hyphens, word joiners, byte order marks


def split(text: str) -> list[str]:
    """The words of ``text``, after Unicode's normalisation NFC.

    - Letters, digits, ``_`` and the marks on them make words, and so they do with an apostrophe or a hyphen between
      them (``don't``, ``n't``, ``mother-in-law``). An English ending (``'s``, ``'ll``) that stands alone is a word.
    - Numbers keep their ``. , : /`` (``3.14``, ``10:30``), initials their dots (``U.S.``), URLs, e-mail addresses,
      ``#tags`` and ``@names`` are words.
    - Punctuation marks are words of their own, a row of the same ASCII mark one (``...``, ``--``).
    - Scripts that put no spaces between words (Chinese characters, kana, Thai, Khmer, …) come by characters, with their
      marks; Korean and all others by words.
    - Emoji are words of their own, whatever they are put together from (skin tones, families, flags, keycaps).
    - White space and control characters separate; soft hyphens, word joiners and byte order marks are dropped.

    Raises ``ImportError`` where text is not all ASCII and the ``regex`` package is missing.
    """
    words: list[str] = []
    for chunk in text.split():
        words += _known(chunk) if len(chunk) <= _KNOWN_LENGTH else _found(chunk)
    return words


def characters(text: str) -> list[str]:
    """Every grapheme cluster of ``text``, after NFC, that is not white space."""
    return [cluster for cluster in graphemes(unicodedata.normalize("NFC", text)) if not cluster.isspace()]


SPLITTERS: dict[str, Split] = {"words": split, "space": str.split, "characters": characters}
"""Ways to split text, by name."""


def splitter(name: str | Split) -> Split:
    """One of `SPLITTERS`, or what was given. Raises ``ValueError`` for another name."""
    if isinstance(name, str):
        if name not in SPLITTERS:
            raise ValueError(f"split must be one of {', '.join(map(repr, SPLITTERS))} or a function, got {name!r}")
        return SPLITTERS[name]
    if not callable(name):
        raise ValueError(f"split must be a name or a function from str to a list of str, got {name!r}")
    return name


def graphemes(word: str) -> list[str]:
    """What readers see as characters. Raises ``ImportError`` as `split` does."""
    if word.isascii() and "\r\n" not in word:
        return list(word)
    return _clusters().findall(word)


def reverse(word: str) -> str:
    """``word`` from its last grapheme to its first. Where they would run into each other that way and make other
    characters (flags, letters of Hangul), it is left as it is; so twice is always the word itself.
    """
    if word.isascii() and "\r" not in word:
        return word[::-1]
    clusters = graphemes(word)[::-1]
    reversed_ = "".join(clusters)
    return reversed_ if graphemes(reversed_) == clusters else word


def join(words: Iterable[str]) -> str:
    """Words as text for people: spaces between them, but none before closing punctuation and English endings, none
    behind opening brackets, none inside a straight ``"`` pair, none between characters of scripts that have none.
    """
    parts: list[str] = []
    before, opened, quoted = "", False, False
    for word in words:
        if word == '"':
            opens, closes = not quoted, quoted
            quoted = opens
        else:
            opens, closes = word in _OPENING, is_closing(word)
        tight = opened or closes or (_is_unspaced(before[-1:]) and _is_unspaced(word[:1]))
        if before and not (tight and _are_two(before[-1:], word[:1])):
            parts.append(" ")
        parts.append(word)
        before, opened = word, opens
    return "".join(parts)


def is_closing(word: str) -> bool:
    """Whether text has no space before it: a closing mark, or an English ending."""
    return word in _CLOSING or (word[:1] in "'’" and _CLITIC.fullmatch(word) is not None)


def starts_unspaced(word: str) -> bool:
    """Whether it begins with a character of a script that has no spaces, or with such a script's punctuation."""
    return _is_unspaced(word[:1])


def _found(chunk: str) -> list[str]:
    """The words of text without white space."""
    if chunk.isascii():
        return _ascii().findall(chunk)
    return _unicode().findall(unicodedata.normalize("NFC", chunk.translate(_INVISIBLE)))


_known = lru_cache(_KNOWN)(_found)  # most of what stands between spaces has been there before: twice the speed


@cache
def _ascii() -> re.Pattern[str]:
    return re.compile(_written(_ASCII), re.VERBOSE)


@cache
def _unicode() -> Any:
    regex = _regex()
    return regex.compile(_written(_UNICODE), regex.VERBOSE | regex.V1)


@cache
def _clusters() -> Any:
    return _regex().compile(r"\X")


def _written(parts: dict[str, str]) -> str:
    marks = "|".join(f"{re.escape(mark)}+{parts['clear']}" for mark in string.punctuation)
    alone = parts["alone"].replace("{clear}", parts["clear"])
    return _PATTERN.format(**{**parts, "alone": alone}, word=_WORD.format(**parts), marks=marks)


@cache
def _is_unspaced(character: str) -> bool:
    if character.isascii():
        return False
    fitting = _regex().compile(rf"[[{_SCRIPTS}\u3000-\u303F\uFF01-\uFF0F\uFF1A-\uFF20]--[{_EXTENDING}]]", _regex().V1)
    return fitting.match(character) is not None


@cache
def _are_two(before: str, character: str) -> bool:
    """Whether they would stand beside each other, and not become one grapheme."""
    return (before + character).isascii() or len(graphemes(before + character)) == 2


def _regex() -> Any:
    try:
        import regex
    except ImportError as error:
        raise ImportError(
            "text that is not all ASCII is split by the regex package: pip install 'dalipipe[text]'"
        ) from error
    return regex
