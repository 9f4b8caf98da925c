"""Sounds and series beside the libraries that augment them: clips or series a second, on one core and on two.

    SIGNAL_PEERS_PYTHON=... pytest benchmarks/test_signals.py --data=DIR

DIR holds fsdd_600.tar (spoken digits, cut and padded to a second) and ucr_series.tar (OSULeaf); without, signals are
made. 64 clips → a batch of them, or 256 or 1,024 series, whichever suits a contender, drawing their parameters counted.
The peers live in two processes of their own (signal_peers.py), which work at once where two cores are asked for; what
has threads is tried with two of them in one process, too; dalipipe on two cores draws a batch while the one before it
is at work, as its loader does. Before anything is timed, what each contender makes is verified.
"""

from __future__ import annotations

import io
import math
import tarfile
import time
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import signal_peers
import torch
from peer_process import Peer
from rounds import interleave, ratio, reason, write
from signal_peers import RATE_HZ, SETTINGS, Settings

import dalipipe
from dalipipe import rng
from dalipipe.engines.base import Output
from dalipipe.engines.signal import SignalEngine
from dalipipe.ops import signal as ops
from dalipipe.plan import Plan, lower
from dalipipe.records import Signals
from dalipipe.schema import Field, Kind, Schema

CLIPS, SERIES, MANY, POINTS, TURN_S = 64, 256, 1024, 427, 0.25
TONE_HZ = 440.0
OURS = "dalipipe"
THREADED = ("torch-audiomentations",)
SEMITONES = range(-12, 13)


def policy(task: str, settings: Settings) -> dalipipe.Policy:
    if task == "time stretch":
        return dalipipe.Policy([ops.TimeStretch(settings["rate"], p=1.0)])
    if task == "pitch shift":
        return dalipipe.Policy([ops.PitchShift(settings["semitones"], p=1.0)])
    if task == "gain, noise, shift":
        shift = ops.TimeShift(settings["shift"], rollover=False, fade_s=0.0, p=1.0)
        return dalipipe.Policy(
            [ops.Gain(settings["gain_db"], p=1.0), ops.AddGaussianSNR(settings["snr_db"], p=1.0), shift]
        )
    warp = ops.TimeWarp(signal_peers.SPEED_CHANGES, settings["speeds"][1])
    slice_, noise = ops.WindowSlice(settings["slice"]), ops.Jitter(settings["noise"])
    return dalipipe.Policy([warp, slice_, noise, ops.TimeFlip(p=1.0)])


class Ours:
    """The engine: a batch's draws, then its signals. Each call gives another batch of the same, float32 [N, T]."""

    def __init__(self, task: str, settings: Settings, signals: np.ndarray, threads: int) -> None:
        kind: Kind = "series" if signals.shape[1] == POINTS else "audio"
        field = Field(kind, kind, channels=1, rate_hz=None if kind == "series" else RATE_HZ)
        self.plan: Plan = lower(policy(task, settings), Schema((field,)))
        output = Output(torch.device("cpu"), torch.float32, torch.contiguous_format)
        self.engine = SignalEngine(self.plan, output, threads=threads)
        self.signals = Signals.from_arrays(list(signals[:, :, None]))
        self.size, self.epoch = self.engine.size(self.signals), 0

    def start(self) -> Callable[[], torch.Tensor]:
        """Draws a batch and begins with it; what is returned waits for it."""
        key, indices = rng.make_key(0, self.epoch), np.arange(len(self.signals))
        self.epoch += 1
        finish = self.engine.start(self.signals, self.plan.draw(key, indices, self.size, 0, indices))

        def wait() -> torch.Tensor:
            batch, _ = finish()
            return batch.view(len(batch), -1)

        return wait


@dataclass(frozen=True)
class Us:
    """Asked as a `Peer` is."""

    signals: dict[str, np.ndarray]
    made: dict[str, Ours] = field(default_factory=dict)

    def run(self, task: str, settings: Settings, signals: str, times: int, threads: int, out: str | None = None) -> int:
        key = f"{task} {settings} {signals} {threads}"
        if key not in self.made:
            self.made[key] = Ours(task, settings, self.signals[signals], threads)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # those of its Fourier transforms
        ours, pending = self.made[key], None
        for _ in range(times):
            if pending is not None and threads == 1:
                pending()  # else that is a second core's work
                pending = None
            started = ours.start()
            if pending is not None:  # the next is drawn while it is at work, as in a loader
                pending()
            pending = started
        augmented = None if pending is None else pending()
        if out is not None and augmented is not None:
            np.save(out, augmented.numpy())
        return times * len(self.signals[signals])


@pytest.fixture
def signals(pytestconfig: pytest.Config) -> dict[str, np.ndarray]:
    """float32 [N, T] each: what is timed, and what is verified with."""
    data = pytestconfig.getoption("--data")
    clips = _digits(data) if data is not None else None
    series = _leaves(data) if data is not None else None
    time_s = np.arange(RATE_HZ) / RATE_HZ
    tone = 0.3 * np.sin(2 * np.pi * TONE_HZ * time_s)
    burst = tone * ((time_s >= 0.3) & (time_s < 0.6))
    found = {
        "clips": made_speech() if clips is None else clips,
        "series": made_series() if series is None else series,
        "tone": np.tile(tone, (CLIPS, 1)),
        "burst": np.tile(burst, (CLIPS, 1)),
        "many series": np.resize(made_series() if series is None else series, (MANY, POINTS)),
        "ramp": np.tile(np.linspace(0, 1, POINTS), (SERIES, 1)),
        "nothing": np.zeros((SERIES, POINTS)),
    }
    return {name: np.ascontiguousarray(batch, np.float32) for name, batch in found.items()}


def made_speech() -> np.ndarray:
    """[N, T]: a harmonic voice through two moving resonances, syllables of it, and breath."""
    generator, time_s = np.random.default_rng(0), np.arange(RATE_HZ) / RATE_HZ
    pitch = generator.uniform(80, 250, (CLIPS, 1)) * (
        1 + 0.1 * np.sin(2 * np.pi * generator.uniform(1, 4, (CLIPS, 1)) * time_s)
    )
    phase = 2 * np.pi * np.cumsum(pitch, axis=1) / RATE_HZ
    voice = np.zeros((CLIPS, RATE_HZ))
    for harmonic in range(1, 20):
        at = harmonic * pitch
        formants = (700 + 300 * np.sin(2 * np.pi * 2 * time_s), 1800 + 500 * np.cos(2 * np.pi * 3 * time_s))
        strength = sum(1 / (1 + ((at - formant) / 150) ** 2) for formant in formants)
        voice += np.where(at < RATE_HZ / 2, strength, 0) * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * generator.uniform(1.5, 4, (CLIPS, 1)) * time_s), 0, None)
    return 0.1 * voice * syllables + 0.005 * generator.standard_normal((CLIPS, RATE_HZ))


def made_series() -> np.ndarray:
    """[N, T]: closed outlines, mean 0 and deviation 1, as those of leaves are."""
    walk = np.random.default_rng(0).standard_normal((SERIES, POINTS)).cumsum(axis=1)
    walk -= walk[:, -1:] * np.linspace(0, 1, POINTS)
    result: np.ndarray = (walk - walk.mean(1, keepdims=True)) / walk.std(1, keepdims=True)
    return result


def _digits(data: Path) -> np.ndarray | None:
    archive = data / "fsdd_600.tar"
    if not archive.is_file():
        return None
    clips = np.zeros((CLIPS, RATE_HZ))
    with tarfile.open(archive) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".wav"))
        for row, name in enumerate(names[:: len(names) // CLIPS][:CLIPS]):
            file = tar.extractfile(name)
            assert file is not None
            with wave.open(io.BytesIO(file.read())) as sound:
                frames = np.frombuffer(sound.readframes(RATE_HZ), "<i2") / 32768
            clips[row, : len(frames)] = frames
    return clips


def _leaves(data: Path) -> np.ndarray | None:
    archive = data / "ucr_series.tar"
    if not archive.is_file():
        return None
    with tarfile.open(archive) as tar:
        file = tar.extractfile("ucr/OSULeaf_TRAIN.ts")
        assert file is not None
        lines = file.read().decode().splitlines()
    rows = np.array([row.split(":")[0].split(",") for row in lines[lines.index("@data") + 1 :]], np.float64)
    return np.resize(rows, (SERIES, POINTS))  # some of them twice


Give = Callable[..., np.ndarray]
"""``(settings, signals=name)`` → a contender's batch of them."""


def verify(task: str, name: str, give: Give) -> None:
    """Fails where a contender does not do what ``task`` says."""
    if task == "time stretch":
        for rate in (0.8, 1.25):
            batch = give({"rate": (rate, rate)}, signals="burst")
            assert batch.shape == (CLIPS, RATE_HZ), f"{name}: shape {batch.shape}"
            assert abs(_loudest_hz(batch) / TONE_HZ - 1) < 0.02, f"{name}: {_loudest_hz(batch):.0f} Hz, not {TONE_HZ}"
            centre_s, width_s = _when(batch)
            assert abs(centre_s - 0.45 / rate) < 0.06, f"{name}: its middle at {centre_s:.3f} s, not {0.45 / rate:.3f}"
            assert abs(width_s - 0.3 / rate) < 0.1, f"{name}: {width_s:.3f} s long, not {0.3 / rate:.3f}"
    elif task == "pitch shift":
        third = 12 * math.log2(5 / 4)  # a ratio that torch-audiomentations has
        for semitones in (third, -third):
            batch = give({"semitones": (semitones - 1e-3, semitones + 1e-3)}, signals="tone")
            assert batch.shape == (CLIPS, RATE_HZ), f"{name}: shape {batch.shape}"
            wanted = TONE_HZ * 2 ** (semitones / 12)
            assert abs(_loudest_hz(batch) / wanted - 1) < 0.02, f"{name}: {_loudest_hz(batch):.0f} Hz, not {wanted:.0f}"
    elif task == "gain, noise, shift":
        batch = give({"gain_db": (6.0, 6.0), "snr_db": (10.0, 10.0), "shift": (0.25, 0.25)}, signals="tone")
        assert batch.shape == (CLIPS, RATE_HZ), f"{name}: shape {batch.shape}"
        assert not batch[:, : RATE_HZ // 4].any(), f"{name}: what is shifted in is not silent"
        power = np.abs(np.fft.rfft(batch[:, RATE_HZ // 4 :])) ** 2
        at = int(TONE_HZ * 3 / 4)
        signal, noise = power[:, at], power[:, 1:].sum(1) - power[:, at]
        snr_db = 10 * math.log10(signal.sum() / noise.sum())
        assert abs(snr_db - 10) < 0.3, f"{name}: SNR {snr_db:.2f} dB, not 10"
        gain_db = 20 * math.log10(np.sqrt(signal.mean()) / (0.3 * RATE_HZ * 3 / 8))
        assert abs(gain_db - 6) < 0.3, f"{name}: gain {gain_db:.2f} dB, not 6"
    else:
        settings = SETTINGS[task]
        noisy = give(settings, signals="nothing")
        assert noisy.shape == (SERIES, POINTS), f"{name}: shape {noisy.shape}"
        assert abs(noisy.std() / settings["noise"][1] - 1) < 0.03, f"{name}: noise of {noisy.std():.4f}"
        warped = give({**settings, "noise": (0.0, 0.0)}, signals="ramp")
        assert (np.diff(warped, axis=1) < 1e-6).all(), f"{name}: a rising ramp does not fall once it is reversed"
        taken = warped[:, 0] - warped[:, -1]
        assert taken.min() > 0.7 and abs(taken.mean() - 0.9) < 0.02, (
            f"{name}: slices of {taken.min():.2f}…{taken.max():.2f}"
        )
        speeds = -np.diff(warped, axis=1) * POINTS / 0.9
        assert speeds.max() > 1.2 and speeds.min() < 0.8, f"{name}: speeds of {speeds.min():.2f}…{speeds.max():.2f}"


def _loudest_hz(batch: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(batch)).sum(0).argmax()) * RATE_HZ / batch.shape[1]


def _when(batch: np.ndarray) -> tuple[float, float]:
    """The middle of a burst and its length, of its power's first two moments."""
    power, time_s = (batch.astype(np.float64) ** 2).mean(0), np.arange(batch.shape[1]) / RATE_HZ
    centre_s = float(np.average(time_s, weights=power))
    return centre_s, math.sqrt(12 * float(np.average((time_s - centre_s) ** 2, weights=power)))


def rate(run: Callable[..., int]) -> float:
    """Signals a second."""
    run()
    start = time.perf_counter()
    done = run(times=4)
    return done / (time.perf_counter() - start)


def lasting(run: Callable[..., int]) -> Callable[[], int]:
    """As often as fills a turn that can be timed."""
    run()
    start = time.perf_counter()
    run()
    times = max(1, math.ceil(TURN_S / (time.perf_counter() - start)))
    return partial(run, times=times)


@pytest.fixture
def peers(signals: dict[str, np.ndarray], tmp_path: Path) -> Iterator[list[Peer]]:
    path = tmp_path / "signals.npz"
    np.savez(path, allow_pickle=False, **signals)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    how: Any = {"python": "SIGNAL_PEERS_PYTHON", "environment": one_thread}
    two = [Peer(signal_peers.__file__, path, **how) for _ in range(2)]
    yield two
    for peer in two:
        peer.close()


@dataclass(frozen=True)
class Bench:
    """All contenders of all tasks."""

    peers: list[Peer]
    us: Us
    folder: Path

    def contenders(self, task: str) -> list[str]:
        return [OURS, *signal_peers.CONTENDERS[task]]

    def ways(self, name: str) -> list[str]:
        """How a contender may be run."""
        if name == OURS:
            return ["1 core", "2 threads"]
        return ["1 core", "2 processes", *(["2 threads"] if name in THREADED else [])]

    def run(
        self,
        task: str,
        name: str,
        settings: Settings,
        signals: str,
        times: int = 1,
        how: str = "1 core",
        out: Path | None = None,
    ) -> int:
        """How many signals were augmented; ``out``: where the last batch is written."""
        request: dict[str, Any] = {"task": task, "settings": settings, "signals": signals, "times": times}
        request |= {"threads": 2 if how == "2 threads" else 1, "out": out and str(out)}
        if name == OURS:
            return self.us.run(**request)
        asked = self.peers if how == "2 processes" else self.peers[:1]
        for peer in asked:
            peer.send(do="run", name=name, **request)
        return sum(peer.receive() for peer in asked)

    def give(self, task: str, name: str, settings: Settings, signals: str) -> np.ndarray:
        """A batch of them, augmented."""
        path = self.folder / "given.npy"
        self.run(task, name, settings, signals, out=path)
        given: np.ndarray = np.load(path)
        return given


def test_signals(
    signals: dict[str, np.ndarray], peers: list[Peer], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    rounds = pytestconfig.getoption("--rounds")
    bench = Bench(peers, Us(signals), tmp_path)
    found: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for task, settings in SETTINGS.items():
        print(f"\n{task}")
        batches = ["clips"] if not task.startswith("warp") else ["series", "many series"]
        turns: dict[str, Callable[[], int]] = {}
        for name in bench.contenders(task):
            try:
                verify(task, name, partial(bench.give, task, name))
            except (
                RuntimeError,
                ImportError,
                NotImplementedError,
            ) as error:  # what is wrong with its signals is no reason to leave it out
                absent[f"{name}: {task}"] = reason(error)
                continue
            for how in bench.ways(name):
                runs = [partial(bench.run, task, name, settings, batch, how=how) for batch in batches]
                turns[f"{name}, {how}"] = lasting(max(runs, key=rate) if len(runs) > 1 else runs[0])
        timings = interleave(turns, rounds)
        ratios = {}
        for name in timings:
            us = f"{OURS}, 1 core" if name.endswith(", 1 core") else f"{OURS}, 2 threads"
            if us in timings and not name.startswith(OURS):
                ratios[name] = round(ratio(timings, us, name), 3)
        found[task] = {
            "settings": settings,
            "contenders": {name: timing.summary() for name, timing in timings.items()},
            "ratios": ratios,
        }
    data = pytestconfig.getoption("--data")
    path = write(
        "signals_cpu",
        {
            "what": f"batches of {CLIPS} clips of 1 s at {RATE_HZ} Hz; of {SERIES} or {MANY} series of {POINTS}, "
            "whichever suits each",
            "signals": "made" if data is None else "spoken digits (FSDD) and outlines of leaves (OSULeaf)",
            "rounds": rounds,
            "versions": _versions(peers),
            "absent": absent,
            "tasks": found,
            "pitch_spread": pitch_spread(bench),
        },
        pytestconfig.getoption("--results"),
    )
    print(f"\n→ {path}")


def _versions(peers: list[Peer]) -> dict[str, str]:
    try:
        versions: dict[str, str] = peers[0].ask(do="versions")
    except RuntimeError as error:
        return {"peers": str(error)}
    return versions


def pitch_spread(bench: Bench) -> dict[str, dict[str, float]]:
    """Milliseconds a clip by semitones, on one core, by contender: the fastest of five; only what it can shift by."""
    task, spread = "pitch shift", {}
    for name in bench.contenders(task):
        times = {}
        for semitones in SEMITONES:
            settings = {"semitones": (semitones - 0.45, semitones + 0.45)}
            if name not in THREADED:  # which have but few ratios
                settings = {"semitones": (float(semitones), float(semitones))}
            try:
                bench.run(task, name, settings, "clips")
                elapsed = []
                for _ in range(5):
                    start = time.perf_counter()
                    bench.run(task, name, settings, "clips")
                    elapsed.append(time.perf_counter() - start)
            except (RuntimeError, ImportError):
                continue
            times[str(semitones)] = round(1e3 * min(elapsed) / CLIPS, 4)
        if times:
            spread[name] = times
    return spread
