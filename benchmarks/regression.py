"""Has anything become slower? Not by yesterday's clock, but by what it stands beside: how many times the reference's
rate ours is, now and in the results that are there.

    make bench-check
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rounds import machine

LEAST, LEAST_ELSEWHERE = 0.75, 0.33
"""Of the ratio there was, that is still no regression, as rounds differ; and where the results there are come from
another processor: what vectors, caches and memory do for ours and for a reference is not the same, so ratios differ,
too. Measure there first what was before, for the first bound.
"""
COMMITTED = Path(__file__).parent / "results"

Ratios = Mapping[str, float]


def slower(before: Ratios, now: Ratios, least: float) -> list[str]:
    """Those that have come down to less than this of what they were."""
    return sorted(name for name, was in before.items() if name in now and now[name] < least * was)


def check(
    name: str,
    ratios_of: Callable[[dict[str, Any]], Ratios],
    now: Ratios,
    again: Callable[[set[str]], Ratios],
    folder: Path = COMMITTED,
) -> str:
    """Compares with ``folder``'s NAME.json, of which ``ratios_of`` makes ratios; gives what was compared, in words.
    ``again``: measures some anew, longer; only what is slow twice is slow.

    Raises:
        AssertionError: some are slower, which are named, or there is nothing to compare with.
    """
    path = folder / f"{name}.json"
    assert path.is_file(), f"{path} is missing: there is nothing to compare with; run without --check first"
    committed = json.loads(path.read_text())
    before = ratios_of(committed)
    both = before.keys() & now.keys()
    assert both, f"{path} has none of {', '.join(sorted(now))}"
    where, here = committed["machine"], machine()
    same = (where["cpu"], where["simd"]) == (here["cpu"], here["simd"])
    least = LEAST if same else LEAST_ELSEWHERE
    suspects = slower(before, now, least)
    if suspects:
        print(f"{name}: once more, {', '.join(suspects)}")
        now = {**now, **again(set(suspects))}
    found = slower({key: before[key] for key in suspects}, now, least)
    lines = [f"{key}: {before[key]:.2f} → {now[key]:.2f} times the reference's rate" for key in found]
    assert not found, "\n".join(
        [f"{name}: {len(found)} of {len(both)}, measured twice, have come down since {where['date']}:", *lines]
    )
    said = f"{name}: {len(both)} ratios are no less than {least} of what they were"
    if not same:
        said += f" on another processor, an {where['cpu']} ({where['simd']})"
    absent = sorted(before.keys() - now.keys())
    return f"{said}; not compared, as they are absent here: {', '.join(absent)}" if absent else said
