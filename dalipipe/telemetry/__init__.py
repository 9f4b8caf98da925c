"""A loader watched while it runs: on the terminal, by Prometheus, in a profiler's traces.

All of it reads `DataLoader.stats` or hangs on the loader's clock, and costs nothing where it is not asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dalipipe.telemetry.live import Live
    from dalipipe.telemetry.profiling import annotate, trace
    from dalipipe.telemetry.prometheus import serve_metrics

__all__ = ["Live", "annotate", "serve_metrics", "trace"]


def __getattr__(name: str) -> Any:
    if name == "Live":
        from dalipipe.telemetry.live import Live

        return Live
    if name == "serve_metrics":
        from dalipipe.telemetry.prometheus import serve_metrics

        return serve_metrics
    if name in ("annotate", "trace"):
        from dalipipe.telemetry import profiling

        return getattr(profiling, name)
    raise AttributeError(f"module 'dalipipe.telemetry' has no attribute {name!r}")
