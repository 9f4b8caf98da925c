"""Translations kept on disk, by what they were made of."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_FILE = "translations.sqlite"
_WAIT_S = 120.0  # for another process that writes
_TOGETHER = 500  # keys in a question


class TranslationCache:
    """Texts by keys, bytes, in an SQLite file within ``folder``, which is made.

    What is put there is there as a whole or not at all, whatever happens to the process; several may use one folder.
    What came first stays.

    Raises:
        ValueError: from `get` and `put`, where the file is no such cache or is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / _FILE

    def get(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """Those of ``keys`` that are there, with their texts."""
        if not self.path.is_file():
            return {}
        found: dict[bytes, str] = {}
        with self._open() as connection:
            for first in range(0, len(keys), _TOGETHER):
                some = keys[first : first + _TOGETHER]
                marks = ",".join("?" * len(some))
                found.update(connection.execute(f"SELECT key, text FROM texts WHERE key IN ({marks})", some))
        return found

    def put(self, texts: Mapping[bytes, str]) -> None:
        """Keeps them all, or none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS texts (key BLOB PRIMARY KEY, text TEXT) WITHOUT ROWID")
            connection.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?)", texts.items())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path, timeout=_WAIT_S)
        try:
            with connection:
                yield connection
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):  # made by another process this very moment
                raise
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.path}: damaged, or no cache of translations ({error}): remove it, and it is made anew"
            ) from error
        finally:
            connection.close()
