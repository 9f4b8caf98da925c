"""dalipipe beside the loaders people use, on one's own pictures: outputs verified, then timed in turns.

    work = bench.work_of(dalipipe.ImageFolder("photos/train"))
    found = bench.compare(work)
    found.ratio("dalipipe", "DALI")

Names are loaded when they are first asked for: contenders' own Pythons import this package, too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dalipipe.bench.comparing import OutputsDifferError, compare, first_batch_s, in_words
    from dalipipe.bench.comparison import Comparison, Outcome
    from dalipipe.bench.contenders import CONTENDERS, OURS, Entry
    from dalipipe.bench.hardware import machine
    from dalipipe.bench.process import ContenderError
    from dalipipe.bench.work import Work, work_of

_HOMES = {
    "CONTENDERS": "contenders",
    "OURS": "contenders",
    "Comparison": "comparison",
    "ContenderError": "process",
    "Entry": "contenders",
    "Outcome": "comparison",
    "OutputsDifferError": "comparing",
    "Work": "work",
    "compare": "comparing",
    "first_batch_s": "comparing",
    "in_words": "comparing",
    "machine": "hardware",
    "work_of": "work",
}
__all__ = [
    "CONTENDERS",
    "OURS",
    "Comparison",
    "ContenderError",
    "Entry",
    "Outcome",
    "OutputsDifferError",
    "Work",
    "compare",
    "first_batch_s",
    "in_words",
    "machine",
    "work_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
