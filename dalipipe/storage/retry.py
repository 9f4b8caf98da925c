"""Trying again: which failures pass by themselves, how long to wait for that, and when nobody waits any more."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_TRANSIENT = {
    getattr(errno, name)
    for name in """
        EIO ESTALE ETIMEDOUT EAGAIN EINTR EBUSY EREMOTEIO ENOLINK ENOTCONN ESHUTDOWN EMFILE ENFILE ENOBUFS
        ENETDOWN ENETUNREACH ENETRESET ECONNRESET ECONNABORTED ECONNREFUSED EHOSTDOWN EHOSTUNREACH EPIPE
    """.split()
    if hasattr(errno, name)
}
_SLICE_S = 0.1  # how soon a wait notices that it is not wanted any more
_jitter = random.Random()  # its own, so that the user's `random` draws what it would without us
_thread = threading.local()


@dataclass(frozen=True)
class Retry:
    """How often and how patiently a failed read is tried again: exponential backoff with jitter.

    ``attempts``: tries in all, at least 1. ``base_s``: the wait before the second, which doubles from try to try up to
    ``max_s``; each wait is shortened at random by up to a half, so that ranks that failed together do not come back
    together. ``timeout_s``: seconds without an answer, or without another byte of it, after which a remote request
    counts as failed. Raises ``ValueError`` for what makes no sense.
    """

    attempts: int = 5
    base_s: float = 0.1
    max_s: float = 5.0
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.attempts != int(self.attempts):
            raise ValueError(f"Retry: attempts must be a whole number of at least 1, got {self.attempts}")
        if self.base_s < 0 or self.max_s < 0:
            raise ValueError(f"Retry: base_s and max_s must be at least 0 s, got {self.base_s} and {self.max_s}")
        if not self.timeout_s > 0:
            raise ValueError(f"Retry: timeout_s must be above 0 s, got {self.timeout_s}")

    def delays_s(self) -> Iterator[float]:
        """The waits between the tries: attempts - 1 of them."""
        for step in range(int(self.attempts) - 1):
            yield min(self.max_s, self.base_s * 2 ** min(step, 60)) * _jitter.uniform(0.5, 1)


def is_transient(error: OSError) -> bool:
    """Whether the same read may succeed later: a disk or network hiccup, and no missing file or forbidden one."""
    return error.errno in _TRANSIENT


def exhausted(error: OSError, attempts: int) -> OSError:
    """The error of the last try, saying how many there were."""
    tries = f"{attempts} attempts" if attempts > 1 else "1 attempt"
    return OSError(error.errno, f"{error.strerror} (after {tries})", error.filename)


def tried(call: Callable[[], T], retry: Retry) -> T:
    """What ``call`` returns, called again for as long as that may help. Raises ``OSError``."""
    attempts = 0
    delays_s = retry.delays_s()
    while True:
        attempts += 1
        try:
            return call()
        except OSError as error:
            if not is_transient(error):
                raise
            delay_s = next(delays_s, None)
            if delay_s is None or not pause(delay_s):
                raise exhausted(error, attempts) from error


@contextmanager
def wanted_while(wanted: Callable[[], bool]) -> Iterator[None]:
    """While this is open, reads of this thread end within a fraction of a second once ``wanted()`` is false: those
    that are still going on fail with ECANCELED."""
    before = getattr(_thread, "wanted", None)
    _thread.wanted = wanted
    try:
        yield
    finally:
        _thread.wanted = before


def is_wanted() -> bool:
    """Whether anybody waits for what this thread reads: the interpreter is not exiting, nor has `wanted_while` ended.

    Python waits for its threads at exit. A read that hangs must not make it wait.
    """
    wanted = getattr(_thread, "wanted", None)
    return threading.main_thread().is_alive() and (wanted is None or wanted())


def unwanted(path: str) -> OSError:
    return OSError(errno.ECANCELED, "not read to its end: the reader is shutting down", path)


def pause(seconds: float) -> bool:
    """Sleeps; False, at once, when the read is no longer wanted."""
    end = time.monotonic() + seconds
    while is_wanted():
        left = end - time.monotonic()
        if left <= 0:
            return True
        time.sleep(min(left, _SLICE_S))
    return False


def wait(done: Callable[[float], bool]) -> bool:
    """Calls ``done(seconds)``, which waits at most so long, until it says yes; False when no longer wanted."""
    while not done(_SLICE_S):
        if not is_wanted():
            return False
    return True
