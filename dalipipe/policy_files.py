"""Policies as files: YAML to write by hand, JSON for programs. Whatever is wrong is named with its line and column.

    version: 1
    ops:
      - RandomResizedCrop: {size: 224, scale: [0.25, 1.0]}    # an operator, and its fields
      - HorizontalFlip                                         # an operator as it is by default
      - OneOf:
          p: 0.8
          ops: [{Brightness: {factor: [0.7, 1.3]}}, Invert]
      - Normalize

Names are those of the Python classes and their fields. A range to draw from is a pair, low and high, or a distribution:
``{choice: [4, 5, 6], signed: true}``, ``{normal: [9, 0.5], within: [0, 10]}``. An operator may also stand as
`Policy.to_dict` writes it, ``{"op": "Invert", "p": 0.5}``. Beside ``ops:`` may stand ``first_slot:`` and
``stored_after:``, which `Policy` explains.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import dalipipe.ops.image
import dalipipe.ops.mix
import dalipipe.ops.signal
import dalipipe.ops.text  # noqa: F401 - operators become known by name when they are defined
from dalipipe.policy import Node, Policy, node_types
from dalipipe.policy.data import value_from_data

Yaml = Any  # a node of PyYAML's tree

_VERSION = 1
_PLACES = ("first_slot", "stored_after")  # whole numbers
_MOST_VALUES = 100_000
_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))  # of what carries no tag
_SUFFIXES = (".yaml", ".yml", ".json")
_WIDTH = 100  # of a line with an operator and all its fields; longer ones get a line a field

_NULL = re.compile(r"(|~|null|Null|NULL)")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)")
_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_SPECIAL = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}


class PolicyFileError(ValueError):
    """A file that is no policy. ``source``: the file, as it was named; ``line`` and ``column`` count from 1."""

    def __init__(self, source: str, line: int, column: int, problem: str) -> None:
        super().__init__(f"{source}, line {line}, column {column}: {problem}")
        self.source, self.line, self.column, self.problem = source, line, column, problem

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.line, self.column, self.problem)


def load_policy(source: str | os.PathLike[str]) -> Policy:
    """The policy in a YAML or JSON file; or in a text: a string of several lines, or one that begins with ``{`` or
    ``ops:``.

    Raises:
        PolicyFileError: a ``ValueError`` that names line and column, what was expected there and what was found.
        FileNotFoundError: there is no such file.
        ImportError: PyYAML is missing.
    """
    if isinstance(source, str) and re.match(r"\s*(\{|(ops|version)\s*:)|.*\n", source):
        return _Reader("policy").read(source)
    name = os.fspath(source)
    data = Path(name).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _place(data[: error.start].decode("utf-8"))
        raise PolicyFileError(name, line, column, "the file is no UTF-8 text") from None
    return _Reader(name).read(text)


def save_policy(policy: Policy, path: str | os.PathLike[str]) -> Path:
    """Writes ``policy`` as YAML, or as JSON where ``path`` ends in ``.json``; `load_policy` gives it back as it is.

    Raises ``ValueError`` for another ending than .yaml, .yml or .json, ``TypeError`` for an operator that holds what no
    file can hold, a function.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"save_policy: the path must end in {', '.join(_SUFFIXES)}, got {path}")
    if path.suffix.lower() == ".json":
        text = json.dumps({"version": _VERSION, **_places(policy), "ops": _entries(policy)}, indent=1) + "\n"
    else:
        text = policy_yaml(policy)
    path.write_text(text, encoding="utf-8")
    return path


def policy_yaml(policy: Policy) -> str:
    """``policy`` as the YAML that `save_policy` writes."""
    lines = [line for entry in _entries(policy) for line in _entry_lines(entry, "  ")]
    places = [f"{key}: {value}" for key, value in _places(policy).items()]
    return "\n".join([f"version: {_VERSION}", *places, "ops:" if lines else "ops: []", *lines, ""])


# Reading -----------------------------------------------------------------------------------------------------------


class _Reader:
    """Goes through YAML's tree of nodes, which know their places, and makes a policy of it."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._types = node_types()
        self._seen = 0

    def read(self, text: str) -> Policy:
        try:
            root = self._compose(text)
            if root is None:
                problem = "the file is empty: a policy is `ops:` and a list of operators"
                raise PolicyFileError(self._source, 1, 1, problem)
            return self._policy(root)
        except RecursionError:
            raise PolicyFileError(self._source, 1, 1, "lists and mappings are nested too deeply") from None

    def _compose(self, text: str) -> Yaml | None:
        try:
            yaml = importlib.import_module("yaml")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "policy files need PyYAML; install it with: pip install pyyaml", name=error.name
            ) from error
        if text.lstrip().startswith("{"):  # JSON may be indented with tabs, and has them nowhere else
            text = text.replace("\t", " ")
        try:
            # The base loader takes every scalar for a text: which are numbers is for `_scalar` to say, by YAML 1.2.
            node: Yaml | None = yaml.compose(text, Loader=yaml.BaseLoader)
            return node
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = error.problem or str(error)
            if "'\\t'" in problem:
                problem = "a tab: YAML is indented with spaces"
            elif "another document" in problem:
                problem = "a second document: a policy is one"
            elif error.context and error.context_mark:
                problem += f", {error.context} that begins in line {error.context_mark.line + 1}"
                problem += "; is it indented as its neighbours are?" if "<block end>" in problem else ""
            raise PolicyFileError(self._source, mark.line + 1, mark.column + 1, problem) from None
        except yaml.reader.ReaderError as error:
            line, column = _place(text[: error.position])
            raise PolicyFileError(self._source, line, column, f"U+{error.character:04X}, which is no text") from None

    def _policy(self, root: Yaml) -> Policy:
        top = self._mapping(root, "a policy must be a mapping with `ops:`")
        for key, (key_node, _) in top.items():
            if key not in ("version", "ops", *_PLACES):
                near = "; operators stand in the list under ops" if key in self._types else ""
                near = near or _nearest(key, ("version", "ops", *_PLACES)) or "; it has version and ops"
                raise self._error(key_node, f"a policy has no {key!r}{near}")
        if "version" in top:
            node = top["version"][1]
            if (version := self._value(node)) != _VERSION:
                raise self._error(node, f"version must be {_VERSION}, got {version!r}")
        if "ops" not in top:
            raise self._error(root, "a policy needs `ops:`, a list of operators")
        nodes = self._nodes(top["ops"][1], "ops must be a list of operators")
        places = {key: self._value(top[key][1]) for key in _PLACES if key in top}
        try:
            return Policy(nodes, **places)
        except (ValueError, TypeError) as error:
            at = next((key for key in places if key in str(error)), "ops")
            raise self._error(top[at][0], str(error)) from error

    def _nodes(self, node: Yaml, expected: str) -> tuple[Node, ...]:
        return tuple(self._node(entry) for entry in self._items(node, expected))

    def _node(self, node: Yaml) -> Node:
        """An operator, a container with what is in it, or a macro."""
        given: dict[str, tuple[Yaml, Yaml]] = {}
        fields_node = None
        if node.id == "scalar" and not _is_null(node):
            name_node = node
        else:
            given = self._mapping(node, "an operator must be a name, or `Name: {field: value}`")
            if "op" in given:
                name_node = given.pop("op")[1]
            else:
                name_node, fields_node = self._only(node, given)
        kind = self._kind(name_node)
        fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
        if fields_node is not None:
            first = next((name for name in fields if name != "p"), "p")
            expected = f"{kind.__name__} takes its fields by name, {{{first}: ...}}"
            given = {} if _is_null(fields_node) else self._mapping(fields_node, expected)
        return self._made(kind, fields, name_node, given)

    def _kind(self, node: Yaml) -> type:
        name = self._value(node)
        if isinstance(name, str) and name in self._types:
            return self._types[name]
        near = _nearest(name, self._types) or f"; there are {', '.join(sorted(self._types))}"
        raise self._error(node, f"no operator is called {name!r}{near}")

    def _made(self, kind: type, fields: dict[str, Any], name_node: Yaml, given: dict[str, tuple[Yaml, Yaml]]) -> Node:
        name = kind.__name__
        for key, (key_node, _) in given.items():
            if key not in fields:
                near = _nearest(key, fields) or f"; its fields are {', '.join(sorted(fields))}"
                raise self._error(key_node, f"{name} has no field {key!r}{near}")
        for key, field in fields.items():
            if key not in given and field.default is field.default_factory is dataclasses.MISSING:
                raise self._error(name_node, f"{name} needs {key}")
        taken = {key: self._field(name, key, value) for key, (_, value) in given.items()}
        try:
            made: Node = kind(**taken)
            return made
        except (ValueError, TypeError) as error:
            problem = str(error).removeprefix(f"{name}: ")
            # The operator's complaint, "Name: field must ...", begins with the field.
            of = next((word for word in re.findall(r"\w+", problem) if word in given), None)
            raise self._error(given[of][1] if of else name_node, f"{name}: {problem}") from error

    def _field(self, name: str, key: str, node: Yaml) -> Any:
        if key == "ops":
            return self._nodes(node, f"{name}: ops must be a list of operators")
        try:
            return value_from_data(self._value(node))
        except PolicyFileError:
            raise
        except ValueError as error:
            raise self._error(node, f"{name}: {key}: {error}") from error

    def _only(self, node: Yaml, keys: dict[str, tuple[Yaml, Yaml]]) -> tuple[Yaml, Yaml]:
        """The one operator of an entry, and its fields."""
        if not keys:
            raise self._error(node, "expected an operator, got an empty mapping")
        first, *others = keys
        if not others:
            return keys[first]
        if _is_null(keys[first][1]) and first in self._types and not any(other in self._types for other in others):
            problem = f"the fields of {first} belong further in: indent {', '.join(others)} beneath it"
            raise self._error(keys[others[0]][0], problem)
        second = next((other for other in others if other in self._types), None)
        if first in self._types and second:
            problem = f"{second} in the entry of {first}: an operator begins with a dash of its own"
            raise self._error(keys[second][0], problem)
        problem = f"expected one operator, `Name: {{field: value}}`, got the keys {', '.join(keys)}"
        raise self._error(node, problem)

    def _value(self, node: Yaml) -> Any:
        """As JSON has it."""
        if node.id == "sequence":
            return [self._value(item) for item in self._items(node, "")]
        if node.id == "mapping":
            return {key: self._value(value) for key, (_, value) in self._mapping(node, "").items()}
        self._check(node, "scalar", "")
        return _scalar(node)

    def _items(self, node: Yaml, expected: str) -> Sequence[Yaml]:
        self._check(node, "sequence", expected)
        items: Sequence[Yaml] = node.value
        return items

    def _mapping(self, node: Yaml, expected: str) -> dict[str, tuple[Yaml, Yaml]]:
        """Key → its node and its value's."""
        self._check(node, "mapping", expected)
        found: dict[str, tuple[Yaml, Yaml]] = {}
        for key_node, value_node in node.value:
            self._check(key_node, "scalar", "before a colon there must be a name")
            key = key_node.value
            if key in found:
                first = found[key][0].start_mark.line + 1
                raise self._error(key_node, f"{key} is given twice; the first stands in line {first}")
            found[key] = (key_node, value_node)
        return found

    def _check(self, node: Yaml, kind: str, expected: str) -> None:
        """Every node comes by here."""
        self._seen += 1
        if self._seen > _MOST_VALUES:  # aliases of aliases can make a short file a very long one
            raise self._error(node, f"more than {_MOST_VALUES:,} values")
        if node.tag not in _TAGS:
            raise self._error(node, f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')}: policies have no tags")
        if node.id != kind:
            kinds = {"sequence": "a list", "mapping": "a mapping"}
            got = kinds.get(node.id) or ("nothing" if _is_null(node) else repr(_scalar(node)))
            raise self._error(node, f"{expected}, got {got}")

    def _error(self, node: Yaml, problem: str) -> PolicyFileError:
        return PolicyFileError(self._source, node.start_mark.line + 1, node.start_mark.column + 1, problem)


def _is_null(node: Yaml) -> bool:
    return node.id == "scalar" and node.style is None and _NULL.fullmatch(node.value) is not None


def _scalar(node: Yaml) -> Any:
    """By YAML 1.2's core schema, in which 1e-3 is a number, and "no" a text."""
    text: str = node.value
    if node.style is not None:  # quoted
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return _SPECIAL.get(text.lower(), text)


def _nearest(name: Any, names: Iterable[str]) -> str:
    """ "; did you mean X?" where there is one like it."""
    of = {known.lower(): known for known in names}
    found = difflib.get_close_matches(str(name).lower(), of, n=1, cutoff=0.6)
    return f"; did you mean {of[found[0]]}?" if found else ""


def _place(before: str) -> tuple[int, int]:
    """Line and column, from 1, of what follows this text."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


# Writing -----------------------------------------------------------------------------------------------------------


def _places(policy: Policy) -> dict[str, Any]:
    return {key: value for key, value in policy.to_dict().items() if key in _PLACES}


def _entries(policy: Policy) -> list[dict[str, Any]]:
    """As `Policy.to_dict` has them, all of it plain values."""
    entries: list[dict[str, Any]] = policy.to_dict()["ops"]
    left = list(entries)
    while left:
        entry = left.pop()
        left += entry.get("ops", [])
        for key, value in entry.items():
            try:
                if key != "ops":
                    json.dumps(value)
            except TypeError:
                raise TypeError(f"{entry['op']}: {key} is {value!r}, which no policy file can hold") from None
    return entries


def _entry_lines(entry: dict[str, Any], pad: str) -> list[str]:
    name = entry["op"]
    values = {key: value for key, value in entry.items() if key not in ("op", "ops")}
    children = entry.get("ops")
    if children is None:
        if not values:
            return [f"{pad}- {name}"]
        line = f"{pad}- {name}: {_flow(values)}"
        if len(line) <= _WIDTH:
            return [line]
    lines = [f"{pad}- {name}:", *(f"{pad}    {key}: {_flow(value)}" for key, value in values.items())]
    if children is not None:
        lines.append(f"{pad}    ops:")
        lines += [line for child in children for line in _entry_lines(child, pad + "      ")]
    return lines


def _flow(value: Any) -> str:
    """A value on one line, which readers of YAML 1.1 and 1.2 take for the same."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"(?!(?i:true|false|null|yes|no|on|off)$)[A-Za-z][A-Za-z0-9_-]+", value):
        return value
    if isinstance(value, float):
        text = repr(value)
        if text in ("inf", "-inf", "nan"):
            return text.replace("inf", ".inf").replace("nan", ".nan")
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return json.dumps(value)
