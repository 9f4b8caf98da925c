"""`dalipipe.explain` against known truth: delays, throttles and busy loops of known length are put into reading,
decoding, augmentation and the step of a real loader; what explain says of them is compared with what a plain loop over
the loader takes, as it is, without the delay in reading, and with each delay halved.

python benchmarks/explain_truth.py [--settings 100] [--seed N] [--results DIR]

Writes results/explain_truth.json. The settings are drawn from the seed, by default from the clock, so that nothing is
fitted to them. On a machine that others use at the same time: longer delays (--ms 40 400), and none that need a core
to themselves (--kinds sleep jitter throttle).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rounds import write

import dalipipe
from dalipipe import native, recipes
from dalipipe.engines.native import NativeEngine
from dalipipe.sources.base import Source
from dalipipe.stalls.held import forget
from dalipipe.stalls.own import Findings, investigate

KINDS = ("sleep", "jitter", "throttle", "busy")
STATIONS = ("read", "decode", "augment", "step")
BATCH = 8
STEPS = 60  # an epoch's
LOOP = (10, 54)  # of these: from when the loader is full until it runs dry
LOOPS_S, MOST_LOOPS = 1.0, 6  # for so long, or so often
NOISE = 0.02  # of a step: gains that differ by less are the same
CLOSE = 0.95  # of the longest delay: as long

_BLOCK = bytes(1 << 17)


@dataclasses.dataclass
class Delay:
    """What a station takes on top: ``ms`` on average. ``kind``: ``"none"``; ``"sleep"``: always the same; ``"jitter"``:
    from half to one and a half of it, the mean of every eight being the same, so that few steps tell it;
    ``"throttle"``: by bytes; ``"busy"``: a core's work.
    """

    kind: str
    ms: float
    seed: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        self._random, self._shares = np.random.default_rng(self.seed), list[float]()
        self._lock = threading.Lock()

    def work(self, size: float = 1.0) -> None:
        """``size``: of this batch, 1 on average."""
        seconds = self.factor * self.ms / 1e3
        if self.kind == "none" or not seconds:
            return
        if self.kind == "jitter":
            with self._lock:
                self._shares = self._shares or ((np.arange(8) + 0.5) / 8)[self._random.permutation(8)].tolist()
                seconds *= 0.5 + self._shares.pop()
        elif self.kind == "throttle":
            seconds *= size
        if self.kind != "busy":
            time.sleep(seconds)
            return
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            zlib.crc32(_BLOCK)  # without Python's lock


class Slow(Source):
    """Another source, with a delay."""

    def __init__(self, source: Source, delay: Delay, mean_bytes: float) -> None:
        self._source, self._delay, self._mean_bytes = source, delay, mean_bytes
        self.schema, self.classes, self.labels = source.schema, source.classes, source.labels

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Any:
        records = self._source.read(indices, threads=threads, allocate=allocate)
        self._delay.work(records.columns["image"].starts[-1] / self._mean_bytes)  # type: ignore[union-attr]
        return records

    def __len__(self) -> int:
        return len(self._source)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def describe(self, index: int) -> str:
        return self._source.describe(index)


@contextlib.contextmanager
def injected(delays: Mapping[str, Delay], mean_bytes: float) -> Iterator[None]:
    """Delays decoding and augmentation."""
    read_jpegs, start = native.read_jpegs, NativeEngine.start

    def slow_read_jpegs(arena: Any, starts: Any, *rest: Any, **more: Any) -> Any:
        delays["decode"].work(starts[-1] / mean_bytes)
        return read_jpegs(arena, starts, *rest, **more)

    def slow_start(self: NativeEngine, *rest: Any) -> Callable[[], Any]:
        finish = start(self, *rest)

        def slow_finish() -> Any:
            delays["augment"].work()
            return finish()

        return slow_finish

    native.read_jpegs, NativeEngine.start = slow_read_jpegs, slow_start  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        native.read_jpegs, NativeEngine.start = read_jpegs, start  # type: ignore[method-assign]


def pictures(root: Path) -> dalipipe.ImageFolder:
    """Small JPEGs of several sizes: next to nothing to read and decode but what is put in."""
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(STEPS * BATCH):
        path = root / f"class_{number % 2}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        h, w = random.integers(40, 120, 2)
        Image.fromarray(random.integers(0, 256, (h, w, 3), dtype=np.uint8)).save(path, quality=80)
    return dalipipe.ImageFolder(root)


def drawn(seed: int, kinds_wanted: Sequence[str], low_ms: float, high_ms: float) -> dict[str, Delay]:
    """A random setting."""
    random = np.random.default_rng(seed)
    delays = {}
    for number, station in enumerate(STATIONS):
        kinds = [kind for kind in kinds_wanted if kind != "throttle" or station in ("read", "decode")]
        kind = "none" if station != "step" and random.random() < 0.2 else str(random.choice(kinds))
        ms = 0.0 if kind == "none" else float(np.exp(random.uniform(np.log(low_ms), np.log(high_ms))))
        delays[station] = Delay(kind, ms, seed + number)
    return delays


@dataclasses.dataclass
class Case:
    """A loader with delays in it."""

    delays: dict[str, Delay]
    loader: dalipipe.DataLoader
    files: list[str]

    @classmethod
    def of(cls, source: dalipipe.ImageFolder, delays: dict[str, Delay], mean_bytes: float) -> Case:
        slow = Slow(source, delays["read"], mean_bytes)
        policy = recipes.imagenet_train(32)
        settings: dict[str, Any] = {"num_workers": 2, "autotune": False, "device": "cpu"}
        loader = dalipipe.DataLoader(slow, BATCH, shuffle=True, seed=1, policy=policy, **settings)
        return cls(delays, loader, list(source.files()))

    def step(self, batch: Any) -> None:
        self.delays["step"].work()

    def loop_ms(self, *, anew: bool = True) -> float:
        """A step's time in a plain loop; the median of several where they are short. ``anew``: files are read anew."""
        loops = list[float]()
        while len(loops) < MOST_LOOPS and sum(loops) < LOOPS_S:
            loops.append(self._loop_s(anew=anew))
        return 1e3 * float(np.median(loops)) / (LOOP[1] - LOOP[0])

    def _loop_s(self, *, anew: bool) -> float:
        marks = []
        if anew:
            forget(self.files)
        for batch in self.loader:
            self.step(batch)
            marks.append(time.perf_counter())
        return marks[LOOP[1]] - marks[LOOP[0]]

    def alone_ms(self) -> float:
        """The step's, without a loader."""
        start, steps = time.perf_counter(), LOOP[1] - LOOP[0]
        for _ in range(2 * steps):
            self.step(None)
        return 1e3 * (time.perf_counter() - start) / (2 * steps)

    @contextlib.contextmanager
    def changed(self, station: str, factor: float) -> Iterator[None]:
        self.delays[station].factor = factor
        try:
            yield
        finally:
            self.delays[station].factor = 1.0


def judge(case: Case, *, steps: int | None, halved: bool = True) -> dict[str, Any]:
    """What explain says of a case, and what is true. Shares are of the step's time."""
    found = investigate(case.loader, case.step, steps=steps, tries=False)
    explanation = found.explanation()
    whole = case.loop_ms()
    with case.changed("read", 0.0):
        cached = case.loop_ms(anew=False)
    compute = case.alone_ms()
    true = {"compute": min(compute, whole), "fetch": max(0.0, whole - max(cached, compute))}
    true["prep"] = whole - true["compute"] - true["fetch"]
    said = {
        "compute": explanation.compute_ms.value,
        "fetch": explanation.fetch_stall_ms.value,
        "prep": explanation.prep_stall_ms.value,
    }
    gains, predictions = {}, {}
    for station in [name for name in STATIONS if halved and case.delays[name].kind != "none"]:
        with case.changed(station, 0.5):
            measured = case.loop_ms()
        gains[station] = (whole - measured) / whole
        predicted = found.model.predict(halved_setting(found, case, station)).value
        predictions[station] = {"predicted_ms": predicted, "measured_ms": measured, "off": predicted / measured - 1}
    right = bounds(case, gains)
    return {
        "delays": {name: [delay.kind, round(delay.ms, 2)] for name, delay in case.delays.items()},
        "step_ms": [explanation.step_ms.value, whole],
        "model_ms": explanation.predicted_ms,
        "slowed": {name: round(factor, 3) for name, factor in found.model.slowed.items() if factor > 1.0},
        "off": {name: said[name] / explanation.step_ms.value - true[name] / whole for name in said},
        "said_ms": said,
        "true_ms": true,
        "bottleneck": explanation.bottleneck,
        "right": sorted(right),
        "predictions": predictions,
    }


def halved_setting(found: Findings, case: Case, station: str) -> Any:
    """Half of the delay that was put in, not of the whole station."""
    measured = found.model.now.stages[station]
    mean_ms = 1e3 * float(measured.seconds.mean())
    return found.model.now.scaled({station: max(0.0, 1.0 - 0.5 * case.delays[station].ms / mean_ms)})


def bounds(case: Case, gains: Mapping[str, float]) -> set[str]:
    """The stations that may be said to bound the step: those whose halving has brought the most, if it has brought
    something; and, where none of them computes, and shares cores, those with the longest delay.
    """
    most, right = max(gains.values(), default=0.0), set[str]()
    if most > 2 * NOISE:
        right |= {name for name, gain in gains.items() if gain >= most - NOISE}
    if not right or all(delay.kind != "busy" for delay in case.delays.values()):
        longest = max(delay.ms for delay in case.delays.values())
        right |= {name for name, delay in case.delays.items() if delay.ms >= CLOSE * longest}
    return right


def summary(cases: list[dict[str, Any]]) -> dict[str, Any]:
    off = np.array([[case["off"][name] for name in ("compute", "prep", "fetch")] for case in cases])
    what_ifs = np.array([each["off"] for case in cases for each in case["predictions"].values()])
    worst = np.array([max((abs(each["off"]) for each in case["predictions"].values()), default=0.0) for case in cases])
    return {
        "settings": len(cases),
        "attributed_within_5": float((np.abs(off).max(axis=1) <= 0.05).mean()),
        "attribution_worst": float(np.abs(off).max()),
        "bottleneck_right": float(np.mean([case["bottleneck"] in case["right"] for case in cases])),
        "what_ifs": len(what_ifs),
        "what_ifs_within_10": float((np.abs(what_ifs) <= 0.1).mean()) if len(what_ifs) else 1.0,
        "settings_with_all_what_ifs_within_10": float((worst <= 0.1).mean()),
        "what_if_median": float(np.median(np.abs(what_ifs))) if len(what_ifs) else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=int, default=100)
    parser.add_argument("--seed", type=int, default=time.time_ns() % (1 << 31))
    parser.add_argument("--steps", type=int, default=None, help="of each kind; left out: as explain does")
    parser.add_argument("--ms", type=float, nargs=2, default=(4.0, 32.0), metavar=("LOW", "HIGH"), help="of delays")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="of delays")
    parser.add_argument("--results", type=Path, default=None)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        source = pictures(Path(folder))
        mean_bytes = BATCH * float(np.mean([Path(path).stat().st_size for path in source.files()]))
        for number in range(given.settings):
            delays = drawn(given.seed + 10 * number, given.kinds, *given.ms)
            case = Case.of(source, delays, mean_bytes)
            with injected(delays, mean_bytes):
                cases.append(judge(case, steps=given.steps))
            case.loader.close()
            print(line(number, cases[-1]), flush=True)
    result = {
        "seed": given.seed,
        "steps": given.steps,
        "ms": given.ms,
        "kinds": given.kinds,
        **summary(cases),
        "cases": cases,
    }
    print({name: value for name, value in result.items() if name != "cases"})
    print(write("explain_truth", result, given.results))


def line(number: int, case: dict[str, Any]) -> str:
    """A setting, and what is wrong with what was said of it."""
    wrong = [f"{name} off by {off:+.1%} of the step" for name, off in case["off"].items() if abs(off) > 0.05]
    if case["bottleneck"] not in case["right"]:
        wrong.append(f"bound by {'/'.join(case['right'])}, not {case['bottleneck']}")
    for name, each in case["predictions"].items():
        if abs(each["off"]) > 0.1:
            wrong.append(f"{name} halved: {each['predicted_ms']:.1f} predicted, {each['measured_ms']:.1f} ms")
    delays = " ".join(f"{name}={kind}:{ms:.1f}" for name, (kind, ms) in case["delays"].items())
    said, whole = case["step_ms"]
    step = f"step {said:.1f} ({whole:.1f}) model {case['model_ms']:.1f}"
    return f"{number:3d} {delays} | {step} | {'; '.join(wrong) or 'right'}"


if __name__ == "__main__":
    main()
