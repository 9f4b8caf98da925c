"""Where a training step's time goes: computing, or waiting for data, for which of its stages; and what would help."""

from dalipipe.stalls.explanation import Explanation, Span, StageAlone, WhatIf
from dalipipe.stalls.page import write_page
from dalipipe.stalls.report import show

__all__ = ["Explanation", "Span", "StageAlone", "WhatIf", "show", "write_page"]
