"""Threads and processes that fetch items of a data set."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from dalipipe.sources.items import Items
from dalipipe.storage.retry import is_wanted

_POLL_S = 0.1
_GRACE_S = 1.0  # for what is under way when workers are closed
_BUFFER_BYTES = 1 << 20  # of the sockets between processes


class Fetcher(Protocol):
    """Fetches items for one thread."""

    def fetch(self, rows: list[int], allocate: Any) -> list[Any]:
        """A tuple of values for each item, or the exception that it raised."""
        ...

    def close(self, grace_s: float = _GRACE_S) -> None: ...

    def forget(self) -> None:
        """In a forked child: it is the parent's."""


class LocalFetcher:
    """Fetches in the thread itself."""

    def __init__(self, dataset: Any, items: Items) -> None:
        self._dataset, self._items = dataset, items

    def fetch(self, rows: list[int], allocate: Any) -> list[Any]:
        return fetch_items(self._dataset, self._items, rows)

    def close(self, grace_s: float = 0) -> None:
        pass

    def forget(self) -> None:
        pass


def fetch_items(dataset: Any, items: Items, rows: list[int]) -> list[Any]:
    """Values of each item, or what it raised."""
    many = getattr(dataset, "__getitems__", None)
    fetched: Any = None
    if many is not None:
        try:
            fetched = many(rows)
            if len(fetched) != len(rows):
                raise ValueError(f"__getitems__ gave {len(fetched)} items for {len(rows)} indices")
        except Exception:  # one by one, then, to find out which
            fetched = None
    found: list[Any] = []
    for i, row in enumerate(rows):
        try:
            found.append(items.values(dataset[row] if fetched is None else fetched[i]))
        except Exception as error:
            found.append(error)
        except BaseException as error:  # an item that exits must not take the worker along
            found.append(RuntimeError(f"the item raised {error!r}"))
            found[-1].__cause__ = error
    return found


# Threads ------------------------------------------------------------------------------------------------------------


class _Job:
    """The rows of one read, in tasks."""

    def __init__(self, rows: int, tasks: int) -> None:
        self.results: list[Any] = [None] * rows
        self.failure: BaseException | None = None
        self.done = threading.Event()
        self._left, self._lock = tasks, threading.Lock()

    def task_done(self) -> None:
        with self._lock:
            self._left -= 1
            if not self._left:
                self.done.set()


class _Crew:
    """The threads between two closings."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self.fetchers: list[Fetcher] = []
        self.closed = False


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


class Pool:
    """Threads, each with a fetcher of its own; started when needed. Safe to use from several threads.

    They are daemons, and who waits for them looks around meanwhile: an item that hangs cannot hold up Python's exit.
    """

    def __init__(self, make_fetcher: Callable[[], Fetcher]) -> None:
        self._make_fetcher = make_fetcher
        self._renew()
        _pools.add(self)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._crew = _Crew()

    def run(self, rows: Sequence[int], threads: int, rows_per_task: int, allocate: Any) -> list[Any]:
        """What fetchers give for ``rows``, in that order. Raises what is no single item's fault."""
        firsts = range(0, len(rows), rows_per_task)
        if not len(firsts):
            return []
        with self._lock:
            crew = self._crew
            while len(crew.threads) < min(threads, len(firsts)):
                # The thread refers to the crew's parts, not to this object, so that dropping this object ends it.
                arguments = (crew.tasks, crew.fetchers, self._make_fetcher)
                crew.threads.append(threading.Thread(target=_serve, args=arguments, name="dalipipe-items", daemon=True))
                crew.threads[-1].start()
        job = _Job(len(rows), len(firsts))
        for first in firsts:
            crew.tasks.put((job, first, list(rows[first : first + rows_per_task]), allocate))
        try:
            while not job.done.wait(_POLL_S):
                if crew.closed or not is_wanted():
                    raise RuntimeError("the items were not fetched to the end: the reader is shutting down")
        except BaseException as error:
            job.failure = error  # so that its other tasks are passed over
            if not crew.closed and not job.done.wait(_GRACE_S):
                self.close(grace_s=0)  # what hangs is left behind
            raise
        if job.failure is not None:
            raise job.failure
        return job.results

    def close(self, grace_s: float = _GRACE_S) -> None:
        """Ends processes and threads, but for threads that hang; `run` starts new ones."""
        with self._lock:
            crew, self._crew = self._crew, _Crew()
        crew.closed = True
        _dismiss(crew)
        give_up = time.monotonic() + grace_s
        for thread in crew.threads:
            if thread is not threading.current_thread():
                thread.join(max(give_up - time.monotonic(), 0))
        for fetcher in crew.fetchers.copy():
            fetcher.close(grace_s=0)

    def __del__(self) -> None:
        if hasattr(self, "_crew"):
            _dismiss(self._crew)


def _dismiss(crew: _Crew) -> None:
    for _ in crew.threads:
        crew.tasks.put(None)


def _serve(tasks: queue.SimpleQueue[Any], fetchers: list[Fetcher], make_fetcher: Callable[[], Fetcher]) -> None:
    """A thread's life: tasks until there is ``None``."""
    fetcher: Fetcher | None = None
    while (task := tasks.get()) is not None:
        job, first, rows, allocate = task
        try:
            if job.failure is None:
                if fetcher is None:
                    fetcher = make_fetcher()
                    fetchers.append(fetcher)
                job.results[first : first + len(rows)] = fetcher.fetch(rows, allocate)
        except BaseException as error:
            job.failure = error
            if fetcher is not None:
                fetchers.remove(fetcher)
                fetcher.close(grace_s=0)
                fetcher = None
        job.task_done()
        del task, job, rows, allocate  # nothing of a batch is held while waiting for the next
    if fetcher is not None:
        fetcher.close()


@atexit.register
def _close_all() -> None:
    for pool in list(_pools):
        pool.close()


def _after_fork() -> None:
    for pool in list(_pools):  # the threads, and the processes, stayed with the parent
        for fetcher in pool._crew.fetchers:
            fetcher.forget()
        pool._renew()


os.register_at_fork(after_in_child=_after_fork)


# Processes ----------------------------------------------------------------------------------------------------------


class WorkerError(RuntimeError):
    """A worker process has ended that should not have."""


_starting = threading.Lock()


class ProcessFetcher:
    """Fetches in a process of its own, for as long as both live. Started afresh, not forked: the parent has threads.

    Arrays come back through a socket, out of band of the pickle, straight into the caller's memory.
    """

    def __init__(self, dataset: Any, items: Items) -> None:
        try:
            message = _pack((dataset, items))
        except Exception as error:
            raise TypeError(
                f"MapDataset: the data set cannot be sent to worker processes: {error}; "
                'define what it uses at the top of a module, no lambdas, or give workers="threads"'
            ) from error
        self._socket, theirs = socket.socketpair()
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_work, args=(theirs,), name="dalipipe-items", daemon=True)
        with _starting, theirs:
            self._process.start()
        try:
            _send(self._socket, message)
            failure = _receive(self._socket, None)
        except (EOFError, OSError):
            raise self._death(
                "while starting; a script that starts processes needs `if __name__ == '__main__':`"
            ) from None
        if failure is not None:
            self.close(grace_s=0)
            raise RuntimeError(f"MapDataset: a worker process cannot load the data set: {failure!r}") from failure

    def fetch(self, rows: list[int], allocate: Any) -> list[Any]:
        try:
            _send(self._socket, _pack(rows))
            found = _receive(self._socket, allocate)
        except (EOFError, OSError):
            shown = ", ".join(map(str, rows[:8])) + (", …" if len(rows) > 8 else "")
            raise self._death(f"while fetching items {shown}") from None
        return [value.unpack() if isinstance(value, _Failure) else value for value in found]

    def _death(self, when: str) -> WorkerError:
        self._process.join(_GRACE_S)
        code, pid = self._process.exitcode, self._process.pid
        if code is None:
            how = "does not answer any more"
        elif code < 0:
            name = signal.Signals(-code).name
            how = f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
        else:
            how = f"ended with exit code {code}"
        self.close(grace_s=0)
        return WorkerError(f"MapDataset: worker process {pid} {how} {when}")

    def close(self, grace_s: float = _GRACE_S) -> None:
        if grace_s:
            self._socket.close()  # which tells it to end
            self._process.join(grace_s)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_GRACE_S)
        self._socket.close()

    def forget(self) -> None:
        # multiprocessing ends the children it knows of at exit, and does not ask whose they are.
        getattr(multiprocessing.process, "_children", set()).discard(self._process)
        self._socket.close()


def _work(connection: socket.socket) -> None:
    """A process's life: requests until the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        dataset, items = _receive(connection, None)
    except Exception as error:
        return _send(connection, _pack(_Failure(error).portable))
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)  # the processes share the cores already
    _send(connection, _pack(None))
    while True:
        try:
            rows = _receive(connection, None)
            found = fetch_items(dataset, items, rows)
            found = [_Failure(value) if isinstance(value, Exception) else value for value in found]
            _send(connection, _pack_each(found))
        except (EOFError, ConnectionError):
            return


def _end_with_parent() -> None:
    """A parent that is killed tells nobody, and forked children of its may hold its end of our socket open."""
    parent = multiprocessing.parent_process()
    while parent is not None and os.getppid() == parent.pid:
        if multiprocessing.connection.wait([parent.sentinel], timeout=1):
            break
    os._exit(1)


class _Failure:
    """An exception on its way between processes, with its traceback as text."""

    def __init__(self, error: Exception) -> None:
        self.text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.portable: Exception = error
        try:
            if type(pickle.loads(pickle.dumps(error))) is not type(error):
                raise TypeError
        except Exception:  # it needs more to be made than it was given, or holds what cannot be pickled
            self.portable = RuntimeError(f"{type(error).__name__}: {error}")

    def unpack(self) -> Exception:
        self.portable.__cause__ = _WorkerTraceback(self.text)
        return self.portable


class _WorkerTraceback(Exception):
    """Where in the worker process an exception came from."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _pack(value: Any) -> list[memoryview]:
    """The pickle, and the memory of the arrays in it."""
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return [memoryview(text), *(buffer.raw() for buffer in buffers)]


def _pack_each(found: list[Any]) -> list[memoryview]:
    try:
        return _pack(found)
    except Exception:
        for i, value in enumerate(found):
            try:
                _pack(value)
            except Exception as error:
                found[i] = _Failure(ValueError(f"the item cannot be sent from its worker process: {error}"))
        return _pack(found)


def _send(connection: socket.socket, parts: list[memoryview]) -> None:
    """The number of parts, their lengths, and the parts."""
    connection.sendall(np.array([len(parts), *(part.nbytes for part in parts)], np.int64).tobytes())
    for part in parts:
        connection.sendall(part)


def _receive(connection: socket.socket, allocate: Any) -> Any:
    """Raises ``EOFError`` where the other side has ended."""
    count = np.zeros(1, np.int64)
    _fill(connection, count)
    lengths = np.zeros(int(count[0]), np.int64)
    _fill(connection, lengths)
    text = np.empty(int(lengths[0]), np.uint8)
    _fill(connection, text)
    nbytes = int(lengths[1:].sum())
    arena = np.empty(nbytes, np.uint8) if allocate is None or not nbytes else allocate(nbytes)[:nbytes]
    _fill(connection, arena)
    ends = np.cumsum(lengths[1:]).tolist()
    buffers = [arena[end - n : end] for n, end in zip(lengths[1:].tolist(), ends, strict=True)]
    return pickle.loads(text.data, buffers=buffers)


def _fill(connection: socket.socket, array: np.ndarray) -> None:
    rest = array.data.cast("B") if array.nbytes else memoryview(b"")
    while len(rest):
        n = connection.recv_into(rest)
        if not n:
            raise EOFError
        rest = rest[n:]
