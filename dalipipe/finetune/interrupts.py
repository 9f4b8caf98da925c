"""Ctrl-C and SIGTERM, noticed between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Interrupted(KeyboardInterrupt):
    """The run was stopped by a signal; everything up to ``step`` is in ``checkpoint``."""

    def __init__(self, signum: int, step: int, checkpoint: Path):
        super().__init__(signum, step, checkpoint)
        self.signum, self.step, self.checkpoint = signum, step, checkpoint

    def __str__(self) -> str:
        name = signal.Signals(self.signum).name
        return f"stopped by {name} after step {self.step}; {self.checkpoint} is complete, resume=True continues from it"


class StopSignals:
    """While entered, SIGINT and SIGTERM set :attr:`received`, and :meth:`poll` tells when to stop. A second SIGINT acts
    at once, as Python's own does.

    Outside the main thread Python delivers no signals; there this does nothing.

    Several processes give ``Ranks.vote``, so that a signal to any one of them stops all of them after the same step.
    """

    def __init__(self, vote: Callable[[int | None], int | None] | None = None) -> None:
        self.received: int | None = None
        self.agreed: int | None = None
        self._vote = vote
        self._previous: dict[int, object] = {}

    def poll(self) -> int | None:
        """After every step: the signal to stop at now."""
        self.agreed = self.received if self._vote is None else self._vote(self.received)
        return self.agreed

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)  # type: ignore[arg-type]
        self._previous.clear()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum
