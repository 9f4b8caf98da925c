"""A process in which other libraries live, with a Python of their own: as its parent sees it, and its loop.

It answers every line of JSON that it is sent with one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Peer:
    """A process that runs ``script`` with the file ``data``. Its Python is that which the variable ``python`` of the
    environment names, else this one; ``environment`` is added to its own.
    """

    def __init__(self, script: str, data: Path, *, python: str, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [os.environ.get(python, sys.executable), str(Path(script).resolve()), str(data.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, **(environment or {})},
        )

    def send(self, **request: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """The answer. Raises ``RuntimeError`` with what the peer has to say where it failed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process of the peers ended"}
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def ask(self, **request: Any) -> Any:
        self.send(**request)
        return self.receive()

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


def serve(make: Callable[[str], Any]) -> None:
    """Answers requests {"do": method, its arguments} with what that method returns; of what ``make`` makes of the path
    that it is given.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    server = make(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(server, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        print(json.dumps(answer), file=answers, flush=True)
