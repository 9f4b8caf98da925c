"""The event loop that remote requests are awaited in, in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import errno
import os
import threading
import time
import weakref
from collections.abc import Coroutine
from types import ModuleType
from typing import Any, TypeVar

from dalipipe.storage.retry import wait

T = TypeVar("T")


def import_obstore() -> ModuleType:
    try:
        import obstore
        import obstore.exceptions
    except ImportError as error:
        raise ImportError(
            "reading s3://, gs://, az://, http:// or https:// needs obstore: pip install 'dalipipe[remote]'"
        ) from error
    return obstore


class Engine:
    """An event loop in a daemon thread. One a process: obstore's own threads are that too, and no fork has them."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dalipipe-remote", daemon=True)
        self._thread.start()
        atexit.register(self._quit)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for it. Raises ``CancelledError`` when it is no longer wanted, and drops it on any exception."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            if not wait(lambda seconds: bool(concurrent.futures.wait([future], seconds).done)):
                future.cancel()
            return future.result(0)
        finally:
            future.cancel()

    def _quit(self) -> None:
        """Ends what goes on, so that none of obstore's threads comes back into an interpreter that is gone."""
        if os.getpid() != self.pid:
            return
        self._loop.call_soon_threadsafe(self._cancel_all)
        self._thread.join(timeout=1)
        until = time.monotonic() + 0.2
        while _in_flight and time.monotonic() < until:
            time.sleep(0.002)
            import_obstore().Bytes(b"")  # any call into it lets go of what its own threads could not

    def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        asyncio.gather(*tasks, return_exceptions=True).add_done_callback(lambda _: self._loop.stop())


_in_flight: weakref.WeakSet[Any] = weakref.WeakSet()
_engines: list[Engine] = []
_starting = threading.Lock()


def watched(future: Any) -> Any:
    """Keeps sight of a request that obstore works on."""
    _in_flight.add(future)
    return future


def engine() -> Engine:
    """This process's. Raises ``RuntimeError`` in a process forked from one that has it."""
    with _starting:
        if not _engines:
            if not threading.main_thread().is_alive():
                raise OSError(errno.ECANCELED, "not read: the interpreter is exiting")  # and starts no threads
            _engines.append(Engine())
    if _engines[0].pid != os.getpid():
        raise RuntimeError(
            "remote objects cannot be read in a process forked from one that has read some: their connections and "
            "threads are not forked. Start workers by spawn, or read nothing remote before the fork"
        )
    return _engines[0]
