"""Boxes and points: moved with their pictures by the same draws, in numpy; and what goes with the boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dalipipe.ops.targets import Fields, box_corners, format_boxes, move_boxes, move_points
from dalipipe.policy import Drawn
from dalipipe.schema import Field, Schema
from dalipipe.tracks.base import RowErrors


class Targets:
    """The fields of kinds "boxes" and "points", and the boxes' companions: of each, a list of tensors, one a sample."""

    def __init__(self, schema: Schema, device: torch.device) -> None:
        self._boxes, self._points, self._device = schema.of_kind("boxes"), schema.of_kind("points"), device

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._boxes or self._points)

    def move(self, columns: Mapping[str, Any], drawn: Sequence[Drawn], fields: Fields) -> dict[str, list[torch.Tensor]]:
        """By name, on the device: boxes float32 [k, 4], points float32 [..., 2], companions as they were, [k, ...].

        ``columns``: what was read, a list of arrays for each field. Raises `RowErrors`.
        """
        out = {}
        for field in self._points:
            flat, rows = _joined(columns[field.name], 2)
            moved = _tensors(move_points(flat, rows, drawn, fields), rows, len(columns[field.name]))
            shaped = [one.view(value.shape) for one, value in zip(moved, columns[field.name], strict=True)]
            out[field.name] = self._send(shaped)
        for field in self._boxes:
            flat, rows = _joined(columns[field.name], 4)
            corners = move_boxes(box_corners(flat, field.format), rows, drawn, fields)
            kept = np.ones(len(rows), bool)
            if field.sanitize_px is not None:
                kept = (corners[:, 2:] - corners[:, :2] >= field.sanitize_px).all(axis=1)
            n = len(columns[field.name])
            out[field.name] = self._send(_tensors(format_boxes(corners, field.format)[kept], rows[kept], n))
            for name in field.companions:
                out[name] = self._send(_companions(field, name, columns, kept))
        return out

    def _send(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        """To the device, in one copy where they can be joined."""
        if len({(value.dtype, value.shape[1:]) for value in values}) != 1:
            return [value.to(self._device) for value in values]
        return list(torch.cat(values).to(self._device).split([len(value) for value in values]))


def _joined(values: list[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Of N samples' arrays: all rows, [K, width], and whose each is, int64 [K]."""
    flat = [value.reshape(-1, width) for value in values]
    return np.concatenate(flat), np.repeat(np.arange(len(flat)), [len(one) for one in flat])


def _tensors(moved: np.ndarray, rows: np.ndarray, n: int) -> list[torch.Tensor]:
    """The inverse of `_joined`, as float32 tensors."""
    return list(torch.from_numpy(moved.astype(np.float32)).split(np.bincount(rows, minlength=n).tolist()))


def _companions(field: Field, name: str, columns: Mapping[str, Any], kept: np.ndarray) -> list[torch.Tensor]:
    """``kept`` bool [K]: of all samples' boxes, one after the other."""
    found, errors, start = [], {}, 0
    for row, (boxes, value) in enumerate(zip(columns[field.name], columns[name], strict=True)):
        end = start + len(boxes)
        try:
            tensor = torch.as_tensor(value)
            if not tensor.ndim or len(tensor) != len(boxes):
                raise ValueError(f"expected a row a box, [{len(boxes)}, ...], got shape {tuple(tensor.shape)}")
            found.append(tensor[torch.from_numpy(kept[start:end])])
        except (TypeError, ValueError, RuntimeError) as error:
            errors[row] = ValueError(f"{name}, which goes with {field.name}: {error}")
        start = end
    if errors:
        raise RowErrors(errors)  # type: ignore[arg-type]
    return found
