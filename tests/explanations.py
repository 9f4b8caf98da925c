"""Explanations made by hand and drawn at random, for what shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from dalipipe.stalls.explanation import Explanation, Span, StageAlone, WhatIf


def explanation(**changes: Any) -> Explanation:
    """That of the README's sentence."""
    noise = np.random.default_rng(0)

    def stage(name: str, samples_per_s: float, occupancy: float, **more: Any) -> StageAlone:
        ms = 64e3 / samples_per_s
        own: dict[str, Any] = {"cpu_ms": None, "queue": None, "batch_bytes": None, **more}
        return StageAlone(name, samples_per_s, 0.97 * ms, 1.4 * ms, occupancy=occupancy, **own)

    made: dict[str, Any] = {
        "step_ms": Span(31.0, 30.2, 31.9),
        "compute_ms": Span(24.1, 23.9, 24.4),
        "copy_ms": Span(0.8, 0.6, 1.0),
        "prep_stall_ms": Span(5.2, 4.4, 6.1),
        "fetch_stall_ms": Span(0.9, 0.1, 1.7),
        "bottleneck": "decode",
        "stages": (
            stage("read", 21000, 0.1, queue=0.9, batch_bytes=7_200_000),
            stage("decode", 2300, 0.94, cpu_ms=54.0, queue=0.1),
            stage("augment", 9800, 0.22, cpu_ms=12.0),
            stage("step", 2656, 0.8, batch_bytes=38_535_168),
        ),
        "what_ifs": (
            WhatIf("packing", "dalipipe pack DATA OUT --format tiled", Span(25.3, 24.6, 26.2), "tried"),
            WhatIf("running 4 threads", "DataLoader(num_workers=4)", Span(30.8, 29.9, 31.9), "tried"),
            WhatIf("a GPU twice as fast", "computing in half the time", Span(24.9, 24.0, 26.0), "calculated"),
        ),
        "predicted_ms": 30.4,
        "steps_ms": {
            "compute": tuple(noise.normal(24.1, 0.3, 100)),
            "cached": tuple(noise.normal(30.1, 1.0, 100)),
            "cold": tuple(noise.normal(31.0, 2.0, 1000)),
        },
        "queued": 0.0,
        "loader": {"kind": "dalipipe.DataLoader", "batch_size": 64, "threads": 2, "decodes": "JPEG"},
        "machine": {"cores": 2, "gpu": None},
    }
    return Explanation(**{**made, **changes})


@st.composite
def explanations(draw: st.DrawFn) -> Explanation:
    """Any there can be: the parts add up, and nothing else is certain."""
    text = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn", "Co")), min_size=1, max_size=20)
    ms = st.one_of(st.just(0.0), st.floats(1e-4, 1e5))
    share = st.floats(0, 1)

    def span(value: float) -> Span:
        return Span(value, value * draw(share), value * (1 + draw(share)))

    parts = [draw(st.floats(1e-4, 1e4)), draw(ms), draw(ms), draw(ms)]
    names = draw(st.lists(text, max_size=5, unique=True))
    maybe = st.one_of(st.none(), ms)
    stages = tuple(
        StageAlone(
            name,
            draw(st.floats(1e-2, 1e9)),
            draw(ms),
            draw(ms),
            draw(maybe),
            draw(share),
            draw(maybe),
            draw(st.one_of(st.none(), st.integers(0, 1 << 40))),
        )
        for name in [*names, "step"]
    )
    basis = st.sampled_from(["tried", "calculated"])
    return Explanation(
        step_ms=span(sum(parts)),
        compute_ms=span(parts[0]),
        prep_stall_ms=span(parts[1]),
        fetch_stall_ms=span(parts[2]),
        copy_ms=span(parts[3]),
        bottleneck=draw(st.sampled_from([stage.name for stage in stages])),
        stages=draw(st.sampled_from([(), stages])),
        what_ifs=tuple(
            WhatIf(name, draw(text), span(draw(ms)), draw(basis)) for name in draw(st.lists(text, max_size=4))
        ),
        predicted_ms=draw(ms),
        steps_ms={name: tuple(draw(st.lists(ms, max_size=12))) for name in ("compute", "cached", "cold")},
        queued=draw(share),
        loader={"kind": draw(text), **draw(st.dictionaries(text, st.one_of(text, ms, st.none()), max_size=3))},
        machine=draw(st.dictionaries(text, st.one_of(text, st.integers()), max_size=3)),
    )
