"""A file that work is written down in as it is done, line by line, so that none of it is done twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Ledger:
    """Rows of JSON in ``path``, of which the first says for what ``settings`` they are. Each is on the disk when `add`
    returns; what a killed process wrote half is cut off. A context manager.

    Raises:
        FileExistsError: there is one already, and it is neither to be resumed nor overwritten.
        ValueError: it has other settings, or is no ledger.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, resume: bool = False, overwrite: bool = False) -> None:
        settings = json.loads(json.dumps(settings))
        self._rows: list[dict[str, Any]] = []
        begun = path.exists() and path.stat().st_size > 0 and not overwrite
        if begun and not resume:
            raise FileExistsError(
                f"{path} exists: resume continues it, overwrite replaces it, another out folder keeps both"
            )
        length = self._read(path, settings) if begun else 0
        self._file = open(path, "ab")  # noqa: SIM115 (closed by close)
        self._file.truncate(length)
        if length == 0:
            self._write(settings)

    def _read(self, path: Path, settings: dict[str, Any]) -> int:
        """How many bytes of it are whole lines."""
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            rows = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}; overwrite it, or name another folder") from None
        if rows:
            then = rows[0] if isinstance(rows[0], dict) else {}
            different = _differences(then, settings)
            if different:
                raise ValueError(
                    f"{path} was begun with other settings: {'; '.join(different)}. Resume with the same ones, or "
                    "overwrite it"
                )
        self._rows = rows[1:]
        return len(whole)

    def find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The row that has these values."""
        key = json.loads(json.dumps(key))
        return next((row for row in self._rows if all(row.get(name) == value for name, value in key.items())), None)

    def add(self, row: dict[str, Any]) -> None:
        self._write(row)
        self._rows.append(json.loads(json.dumps(row)))

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _differences(then: dict[str, Any], now: dict[str, Any], under: str = "") -> list[str]:
    found = []
    for name in sorted(then.keys() | now.keys()):
        before, after = then.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict) and name == "settings":
            found += _differences(before, after)
        elif before != after:
            shown = [_short(value) for value in (before, after)]
            found.append(f"{under}{name} was {shown[0]}, is {shown[1]}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
