"""Names of many files in one: braces as a shell has them, and wildcards."""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from dalipipe.storage.base import Storage
from dalipipe.storage.remote import is_remote

Patterns = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_MOST = 10_000_000  # names; more of them is a typing error


def expand(patterns: Patterns, storage: Storage | None = None) -> list[str]:
    """The paths and URLs that one pattern, or several one after the other, stand for.

    ``{000000..000099}`` counts, with the zeros (``{0..90..10}`` by tens), ``{a..c}`` too, ``{train,val}`` lists; braces
    nest. ``*``, ``?``, ``[…]`` and ``**`` (folders at any depth) match local files, and objects of a store, which
    ``storage`` lists; what they match is sorted. Web servers do not list, so in ``http(s)://`` these are characters
    like any other, as they are in the name of a local file that exists.

    Raises ``FileNotFoundError`` where wildcards match nothing, ``ValueError`` for more than ten million names, and what
    `Storage.list` raises.
    """
    if isinstance(patterns, str | os.PathLike):
        patterns = [patterns]
    names = [name for pattern in patterns for name in expand_braces(os.fspath(pattern))]
    return [match for name in names for match in _matches(name, storage)]


def expand_braces(text: str) -> list[str]:
    """``a{1..3}`` → ``a1 a2 a3``, in the order a shell has; braces that neither count nor list stay as they are."""
    for found in re.finditer("{", text):
        end = _closing(text, found.start())
        choices = None if end is None else _choices(text[found.end() : end])
        if end is None or choices is None:
            continue
        tails = expand_braces(text[end + 1 :])
        if len(choices) * len(tails) > _MOST:
            raise ValueError(f"{text!r} stands for more than {_MOST} names")
        return [text[: found.start()] + choice + tail for choice in choices for tail in tails]
    return [text]


def _closing(text: str, start: int) -> int | None:
    """Where the brace that opens at ``start`` closes."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return None


def _choices(inside: str) -> Sequence[str] | None:
    """What a pair of braces stands for; None: for itself."""
    if counted := re.fullmatch(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?", inside):
        first, last = counted[1], counted[2]
        padded = any(re.match(r"-?0\d", number) for number in (first, last))
        width = max(len(first), len(last)) if padded else 0
        return [f"{number:0{width}d}" for number in _count(int(first), int(last), counted[3])]
    if counted := re.fullmatch(r"(?=[a-z]\.\.[a-z]|[A-Z]\.\.[A-Z])(.)\.\.(.)(?:\.\.(-?\d+))?", inside):
        return [chr(code) for code in _count(ord(counted[1]), ord(counted[2]), counted[3])]
    parts, depth = [""], 0
    for character in inside:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [choice for part in parts for choice in expand_braces(part)] if len(parts) > 1 else None


def _count(first: int, last: int, step: str | None) -> range:
    by = max(abs(int(step or 1)), 1)
    numbers = range(first, last + 1, by) if first <= last else range(first, last - 1, -by)
    if len(numbers) > _MOST:
        raise ValueError(f"{{{first}..{last}}} stands for more than {_MOST} names")
    return numbers


def _matches(name: str, storage: Storage | None) -> list[str]:
    """The name itself, unless it has wildcards."""
    if name.startswith(("http://", "https://")) or not glob.has_magic(name):
        return [name]
    if is_remote(name):
        root = name[: re.search(r"[*?[]", name).start()].rpartition("/")[0] + "/"  # type: ignore[union-attr]
        pattern = name[len(root) :].split("/")
        listed = (storage or Storage()).list(root)
        found = [file.path for file in listed if _fits(file.path[len(root) :].split("/"), pattern)]
    elif os.path.exists(name):
        return [name]
    else:
        found = sorted(path for path in glob.glob(name, recursive=True) if not os.path.isdir(path))
    if not found:
        raise FileNotFoundError(errno.ENOENT, "no file matches", name)
    return found


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern or not parts:
        return not parts and all(each == "**" for each in pattern)
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or _fits(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
