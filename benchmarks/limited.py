"""A command that gets so many seconds and no more."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def said_within(command: list[str], limit_s: float) -> tuple[int | None, list[str]]:
    """A command's exit status, ``None``: it was stopped, with what it had started; and the lines it said, output and
    errors together. It runs in the repository's root, where a missing CUDA device is a failure of tests.
    """
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "FAIL_WITHOUT_CUDA": "1"},
    ) as process:  # fmt: skip
        try:
            said, status = process.communicate(timeout=limit_s)[0], process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, status = process.communicate()[0], None
        except BaseException:  # Ctrl-C, which it does not get in a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return status, [line for line in said.splitlines() if line.strip()]


def limited(command: list[str], limit_s: float) -> dict[str, Any]:
    """How a command ended, in how many seconds, and what it said last."""
    begin = time.perf_counter()
    status, lines = said_within(command, limit_s)
    seconds = round(time.perf_counter() - begin, 1)
    return {"status": status, "seconds": seconds, "last_lines": [line[:200] for line in lines[-8:]]}
