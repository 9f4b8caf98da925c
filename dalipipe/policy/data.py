"""Nodes as plain data, JSON-ready."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from dalipipe.policy.nodes import Node, node_types
from dalipipe.policy.ranges import Range, range_from_dict

_OPERATORS = ("dalipipe.ops.image", "dalipipe.ops.mix", "dalipipe.ops.signal", "dalipipe.ops.text")


def node_to_dict(node: Node) -> dict[str, Any]:
    """{"op": name, field: value, …}, without fields that are as by default; `node_from_dict` is its inverse."""
    data: dict[str, Any] = {"op": type(node).__name__}
    for f in fields(node):
        value = getattr(node, f.name)
        if f.name == "ops":
            data["ops"] = [node_to_dict(op) for op in value]
        elif f.default is MISSING or value != f.default:
            data[f.name] = _value_to_data(value)
    return data


def node_from_dict(data: Any) -> Node:
    """Raises ``ValueError`` naming the operator and the field."""
    if not isinstance(data, Mapping) or "op" not in data:
        raise ValueError(f'Policy: expected an operator as {{"op": name, field: value, ...}}, got {data!r}')
    name, types = data["op"], node_types()
    if name not in types:
        for module in _OPERATORS:  # a policy in a pack may be the first to ask for them
            importlib.import_module(module)
        types = node_types()
    if name not in types:
        raise ValueError(f"Policy: no operator is called {name!r}; there are {', '.join(sorted(types))}")
    known = {f.name for f in fields(types[name])}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key == "op":
            continue
        if key not in known:
            raise ValueError(f"{name}: has no field {key!r}; its fields are {', '.join(sorted(known))}")
        values[key] = tuple(node_from_dict(node) for node in value) if key == "ops" else value_from_data(value)
    try:
        return types[name](**values)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None


def value_from_data(value: Any) -> Any:
    """A field's value: lists become tuples, mappings ranges."""
    if isinstance(value, Mapping):
        return range_from_dict(value)
    return tuple(value_from_data(v) for v in value) if isinstance(value, list | tuple) else value


def _value_to_data(value: Any) -> Any:
    if isinstance(value, Range):
        return value.to_dict()
    return [_value_to_data(v) for v in value] if isinstance(value, tuple) else value
