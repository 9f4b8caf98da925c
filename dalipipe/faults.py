"""What becomes of samples that cannot be read, decoded or augmented: counted, told, kept out from then on."""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from dalipipe.records import SampleError

OnError = Literal["raise", "skip", "substitute"]
_GRACE = 16  # bad samples that no rate counts against: a handful at an epoch's beginning says nothing


@dataclass(frozen=True)
class BadSample:
    """``index``: its place in the data set; ``where``: its path; ``cause``: what is wrong; ``when``: UTC, ISO 8601."""

    index: int
    where: str
    cause: str
    when: str


class TooManyBadSamplesError(RuntimeError):
    """So many samples are bad that something else must be: a rotten data set, a mount that is gone."""


class Quarantine:
    """The bad samples that a loader has met. Safe to use from several threads; picklable.

    ``on_error``: ``"raise"`` makes the first one an error; ``"skip"`` and ``"substitute"`` keep them here. ``limit``:
    the share of the samples read that may be bad. ``file``: a line of JSON is appended to it for each.
    """

    def __init__(self, on_error: OnError, limit: float, file: str | os.PathLike[str] | None, records: int) -> None:
        if on_error not in get_args(OnError):
            raise ValueError(f"DataLoader: on_error must be one of {', '.join(get_args(OnError))}, got {on_error!r}")
        if not isinstance(limit, (int, float)) or not 0 <= limit <= 1:
            raise ValueError(f"DataLoader: max_bad must be a share in [0, 1], got {limit!r}")
        self.on_error, self.limit, self.records = on_error, limit, records
        self.file = None if file is None else os.fspath(file)
        self.found: list[BadSample] = []
        self.indices: set[int] = set()
        self._seen = 0
        self._lock = threading.Lock()

    def saw(self, samples: int) -> None:
        """Counts samples that were read."""
        self._seen += samples

    def add(self, index: int, where: str, error: Exception, *, others: int = 0) -> None:
        """Keeps a bad sample out from now on; ``others``: how many of its batch are bad too.

        Raises `SampleError` or `TooManyBadSamplesError` where it is one too many.
        """
        cause = f"{error}" if str(error) else repr(error)
        if self.on_error == "raise":
            raise SampleError(
                index, where, cause + (f" (and {others} more in this batch)" if others else "")
            ) from error
        with self._lock:
            if index in self.indices:
                return
            bad = BadSample(index, where, cause, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            self.indices.add(index)
            self.found.append(bad)
            if self.file is not None:
                _append(self.file, bad)
            # Seen again in later epochs, good samples must not make up for ever more bad ones.
            seen = min(self._seen, self.records)
            if len(self.indices) > _GRACE + self.limit * seen or len(self.indices) >= self.records:
                raise TooManyBadSamplesError(
                    f"{len(self.indices)} of {seen} samples are bad, more than max_bad={self.limit:g} allows; the "
                    f"last: sample {index} ({where}): {cause}. Look at the storage first; a larger max_bad "
                    "goes on regardless"
                ) from error

    def state(self) -> list[int]:
        """The indices, sorted: what a checkpoint carries."""
        with self._lock:
            return sorted(self.indices)

    def load(self, indices: list[int]) -> None:
        """Takes over what a checkpoint carried."""
        with self._lock:
            self.indices = set(indices)
            self.found = [bad for bad in self.found if bad.index in self.indices]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _append(file: str, bad: BadSample) -> None:
    """One write to a file opened for appending, so that ranks may share it."""
    line = (json.dumps(asdict(bad), ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:  # a full disk must not end a training run over a report
        warnings.warn(f"the quarantine file cannot be written: {error}", stacklevel=2)
