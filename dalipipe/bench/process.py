"""A contender's process, as it is seen from here."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from dalipipe.bench import usage
from dalipipe.bench.contenders import Entry

_SAMPLED_EVERY_S = 0.05
_EXTRA = 2
"""Batches that are taken before the timed ones, beside those that may lie ready."""
_LEAST_CYCLES = 2
"""That a turn has: see `Contender.cycle`."""
_QUIET = 0.1
"""Of a core: a process that uses less has come to rest."""


class ContenderError(RuntimeError):
    """A contender cannot do what it was asked for. ``missing``: the module that it did not find."""

    def __init__(self, message: str, missing: str | None = None) -> None:
        super().__init__(message)
        self.missing = missing


class Process:
    """Runs `serving.py` for a contender at ``settings``, with the interpreter that `Entry.python` says.

    ``cores``: how many of this process's cores it may use; ``None``: all. Ends with its children when it is closed.
    """

    def __init__(
        self, work: Path, entry: Entry, settings: dict[str, Any], *, cores: int | None = None, timeout_s: float = 600
    ) -> None:
        self.entry, self.settings, self.timeout_s = entry, settings, timeout_s
        self.peak_bytes = 0
        self.first_batch_s = self.imports_s = 0.0
        """From the start of the process to the first batch; to the end of the imports. Known after `start`."""
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  (what it writes to stderr)
        self._begun_at = time.monotonic()
        allowed = sorted(os.sched_getaffinity(0))[:cores]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        if cores is not None:
            environment["OMP_NUM_THREADS"] = str(cores)
        if entry.python == sys.executable:  # what can be imported here can be there, a loader of one's own among it
            environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
        script = str(Path(__file__).with_name("serving.py"))
        try:
            self._process = subprocess.Popen(
                [entry.python, script, str(work), entry.kind, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self._words.close()
            raise ContenderError(
                f"{entry.python} cannot be run ({error.strerror}): expected a Python that has {entry.library}; "
                f"set {entry.variable}, or PEERS_PYTHON, to the path of one"
            ) from error
        if cores is not None:
            os.sched_setaffinity(self._process.pid, allowed)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer. Raises `ContenderError` with what it has to say where it failed, ended or did not answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], self.timeout_s)[0]:
            raise ContenderError(f"no answer within {self.timeout_s:.0f} s: {self._last_words()}")
        line = self._process.stdout.readline()
        if not line:
            raise ContenderError(f"its process ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderError(answer["error"], answer["missing"])
        return answer

    def start(self) -> dict[str, Any]:
        """Have it make its loader and the first training batch; what that is."""
        found = self.ask("start")
        self.first_batch_s = found["there_at"] - self._begun_at
        self.imports_s = found["imported_at"] - self._begun_at
        self._ahead, self._cycle = found["ahead"], found["cycle"]
        return found

    def run(self, batches: int, *, watched: bool = False) -> dict[str, Any]:
        """A turn: so many batches of an endless stream, in the steady state, and as many more as make whole bursts of
        them (`Contender.cycle`). What was made ahead, in the turns of others, does not count. ``watched``: memory is
        looked at meanwhile, which takes time.
        """
        ask = self._watched if watched else self.ask
        cycles = max(_LEAST_CYCLES, -(-batches // self._cycle))
        found = ask("run", batches=cycles * self._cycle, skipped=self._ahead + _EXTRA)
        self.settle()
        self.look()
        return found

    def _watched(self, do: str, **arguments: Any) -> dict[str, Any]:
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_SAMPLED_EVERY_S):
                self.look()

        watcher = threading.Thread(target=watch, name="dalipipe-memory", daemon=True)
        watcher.start()
        try:
            return self.ask(do, **arguments)
        finally:
            done.set()
            watcher.join()

    def look(self) -> None:
        """At how much memory it has now."""
        self.peak_bytes = max(self.peak_bytes, usage.pss_bytes(self._process.pid))

    def settle(self) -> None:
        """Waits until it has made what it makes ahead and is at rest, so that it does not disturb who is next. Raises
        `ContenderError` where that takes longer than ``timeout_s``.
        """
        end_s = time.monotonic() + self.timeout_s
        before = used = usage.cpu_s(self._process.pid)
        while time.monotonic() < end_s:
            time.sleep(0.1)
            before, used = used, usage.cpu_s(self._process.pid)
            if used - before < 0.1 * _QUIET + 0.011:  # a tick may fall into any stretch
                return
        raise ContenderError(
            f"it does not come to rest: nobody takes its batches, and after {self.timeout_s:.0f} s it still uses "
            f"{(used - before) / 0.1:.1f} cores, expected at most {_QUIET}; give it fewer batches ahead, or more time"
        )

    def close(self) -> None:
        if self._words.closed:
            return
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._words):
            with contextlib.suppress(OSError):  # a request that was never read
                assert stream is not None
                stream.close()

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self._words.seek(0)
        lines = [line.strip() for line in self._words.read().decode(errors="replace").splitlines() if line.strip()]
        status = self._process.returncode
        return (lines[-1][:300] if lines else "it said nothing") + (f" (exit status {status})" if status else "")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
