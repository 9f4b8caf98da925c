"""Engines: decoded pictures and what was drawn for them in, a dense tensor out.

`make_engine` picks one; `base` says what each does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalipipe.engines.native import NativeEngine
from dalipipe.engines.reference import ReferenceEngine

if TYPE_CHECKING:
    from dalipipe.engines.base import Engine, Output
    from dalipipe.plan import Plan

NAMES = ("auto", "native", "reference")


def make_engine(name: str, plan: Plan, output: Output, *, threads: int) -> Engine:
    """``"native"`` (also ``"auto"``): the fused operator, on the output's device. ``"reference"``: plain numpy, to
    compare with.

    Raises ``ValueError`` for another name, or an output that the plan cannot give.
    """
    if name not in NAMES:
        raise ValueError(f"engine must be one of {', '.join(NAMES)}, got {name!r}")
    return ReferenceEngine(plan, output) if name == "reference" else NativeEngine(plan, output, threads=threads)
