"""What a pack is to be: settings that are checked, and the plan that they and the data set make."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from dalipipe.ops.python import PythonStep
from dalipipe.policy import Policy
from dalipipe.sizes import parse_bytes
from dalipipe.sources.base import Source, digest

Format = Literal["tiled", "copy", "raw"]

_STAT_THREADS = 16


class PackMismatchError(ValueError):
    """A pack under way that cannot be continued like this. ``differences``: setting → (there, here)."""

    def __init__(self, out: str, differences: dict[str, tuple[Any, Any]]) -> None:
        lines = [f"  {name}: there {there!r}, here {here!r}" for name, (there, here) in differences.items()]
        super().__init__(
            f"the pack in {out} is another one; continue it with the same settings, or replace it (overwrite):\n"
            + "\n".join(lines)
        )
        self.out, self.differences = out, differences

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.out, self.differences)


@dataclass(frozen=True)
class Settings:
    """How records become files. ``front``: what is applied to them before, as `Policy.to_dict` says it, or ``None``."""

    format: Format
    front: dict[str, Any] | None
    seed: int
    copies: int
    resize: int | None
    quality: int
    tile_px: int
    metadata: bool
    shard_bytes: int

    @property
    def policy(self) -> Policy | None:
        return None if self.front is None else Policy.from_dict(self.front)

    @property
    def decodes(self) -> bool:
        """Whether pictures are stored as pixels, or made anew from them."""
        return self.format == "raw" or self.front is not None or self.resize is not None


def make_settings(
    *,
    format: Format,
    front: Policy | None,
    seed: int,
    copies: int,
    resize: int | None,
    quality: int,
    tile_px: int,
    metadata: bool,
    shard_size: int | str,
) -> Settings:
    """Raises ``ValueError`` naming what does not go together."""
    if format not in get_args(Format):
        raise ValueError(f"pack: format must be one of {', '.join(get_args(Format))}, got {format!r}")
    for name, value, low, high in (
        ("copies", copies, 1, 1 << 16),
        ("quality", quality, 1, 100),
        ("tile_px", tile_px, 8, 1 << 16),
        ("seed", seed, 0, 1 << 64),
    ):
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"pack: {name} must be a whole number in {low}..{high}, got {value!r}")
    if resize is not None and (type(resize) is not int or resize < 1):
        raise ValueError(f"pack: resize must be px of the shorter side, at least 1, got {resize!r}")
    if copies > 1 and front is None:
        raise ValueError(
            f"pack: {copies} copies would all be the same: give the policy whose first part they differ by"
        )
    if front is not None and resize is not None:
        raise ValueError("pack: resize goes without a policy: put ShrinkTo or Resize at the policy's front")
    if format == "copy" and (front is not None or resize is not None):
        changed = "a policy" if front is not None else "resize"
        raise ValueError(
            f'pack: format "copy" keeps files as they are, and {changed} changes them: give "raw" or "tiled"'
        )
    if front is not None:
        for leaf in front.leaves:
            if leaf.op.modality == "mix" or type(leaf.op).__name__ == "Normalize":
                raise ValueError(f"pack: {leaf.op!r} belongs to what is done in training: split the policy before it")
            if isinstance(leaf.op, PythonStep):
                raise ValueError(
                    f"pack: {leaf.op!r} is a function, and a pack could not say later what was done: split the policy "
                    "before it, or run it in the data set"
                )
    front_dict = None if front is None else front.to_dict()
    return Settings(format, front_dict, seed, copies, resize, quality, tile_px, metadata, parse_bytes(shard_size))


@dataclass(frozen=True)
class Plan:
    """A pack of so many records of a data set, ``per_shard`` of them a shard; copy after copy.

    ``source``: its fingerprint; ``files``: what changes when one of the files does that it is read from.
    """

    settings: Settings
    source: str
    files: str
    records: int
    per_shard: int
    version: int = 1

    @property
    def shards(self) -> int:
        return self.settings.copies * self.shards_a_copy

    @property
    def shards_a_copy(self) -> int:
        return -(-self.records // self.per_shard)

    def range_of(self, shard: int) -> tuple[int, range]:
        """The copy that a shard belongs to, and its records."""
        copy, place = divmod(shard, self.shards_a_copy)
        first = place * self.per_shard
        return copy, range(first, min(first + self.per_shard, self.records))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        return cls(**{**data, "settings": Settings(**data["settings"])})

    def differences(self, other: Plan) -> dict[str, tuple[Any, Any]]:
        """Setting → (here, there)."""
        mine, theirs = ({**plan.to_dict(), **plan.to_dict().pop("settings")} for plan in (self, other))
        return {name: (mine[name], theirs[name]) for name in mine if name != "settings" and mine[name] != theirs[name]}


def files_signature(source: Source) -> str:
    """A text that changes when the size or the time of a file does that the source is read from.

    Raises ``OSError`` where one is gone.
    """
    return digest([_stats(list(source.files())).tobytes()])


def _stats(paths: list[str]) -> np.ndarray:
    """int64 [N, 2]: bytes and time of change."""

    def some(part: Iterable[str]) -> list[tuple[int, int]]:
        return [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, part)]

    found = np.zeros((len(paths), 2), np.int64)
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        shares = pool.map(some, [paths[first::_STAT_THREADS] for first in range(_STAT_THREADS)])
        for first, share in enumerate(shares):
            found[first::_STAT_THREADS] = np.array(share, np.int64).reshape(-1, 2)
    return found
