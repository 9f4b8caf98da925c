"""What a loader says of itself: its figures, on the terminal, to Prometheus, in traces."""

from __future__ import annotations

import contextlib
import gc
import gzip
import io
import itertools
import json
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dalipipe
from dalipipe import pipeline, transfers
from dalipipe.clock import Spread, StageClock, _Recent
from dalipipe.loader import DataLoader
from dalipipe.ops import image as ops
from dalipipe.queues import CudaQueue
from dalipipe.sampler import Step
from dalipipe.telemetry import Live, annotate, serve_metrics, trace
from dalipipe.telemetry.live import draw

POLICY = dalipipe.Policy([ops.HorizontalFlip(), ops.RandomCrop(12, 2)])
NAP_S = 0.05


def arrays(n: int = 24) -> dalipipe.Arrays:
    rng = np.random.default_rng(0)
    return dalipipe.Arrays(rng.integers(0, 256, (n, 12, 12, 3), dtype=np.uint8), np.arange(n) % 3)


def make(dataset: Any = None, batch_size: int = 4, **kw: Any) -> DataLoader:
    dataset = arrays() if dataset is None else dataset
    return DataLoader(dataset, batch_size, **{"policy": POLICY, "seed": 5, "device": "cpu", "num_workers": 1, **kw})


class SlowArrays(dalipipe.Arrays):
    """Each batch takes a while to be read."""

    nap_s = NAP_S

    def read(self, *args: Any, **kw: Any) -> Any:
        time.sleep(self.nap_s)
        return super().read(*args, **kw)


def slow() -> SlowArrays:
    quick = arrays()
    return SlowArrays(np.stack([quick.read(np.array([i])).columns["image"][0] for i in range(24)]), quick.labels)


# The clock ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 4000), min_size=1, max_size=300), st.floats(0.01, 1))
def test_quantiles_of_a_spread_are_known_to_a_tenth(times: list[float], share: float) -> None:
    spread = Spread()
    for seconds in times:
        spread.add(seconds)
    exact = sorted(times)[max(0, int(np.ceil(share * len(times))) - 1)]
    assert spread.quantile(share) == pytest.approx(exact, rel=0.1, abs=2e-6)
    assert spread.count == len(times) and spread.seconds == pytest.approx(sum(times))
    for edge, count in spread.below():
        assert sum(t < edge * (1 - 1e-9) for t in times) <= count <= sum(t <= edge * (1 + 1e-9) for t in times)


def test_an_empty_spread_and_times_beyond_its_ends() -> None:
    spread = Spread()
    assert spread.quantile(0.5) == 0.0 and spread.below()[-1][1] == 0
    for seconds in (0.0, -1.0, 1e9):
        spread.add(seconds)
    assert spread.count == 3 and spread.below()[-1][1] == 3


def test_what_raises_takes_time_and_counts_as_no_batch() -> None:
    clock = StageClock()
    with pytest.raises(KeyError), clock.stage("read", 8, nbytes=3):
        time.sleep(0.01)
        raise KeyError
    found = clock.stages["read"]
    assert (found.batches, found.samples, found.nbytes, found.spread.count) == (0, 0, 0, 0) and found.seconds >= 0.01
    with clock.stage("read", 8) as timing:
        timing.nbytes = 5
    assert (found.batches, found.samples, found.nbytes) == (1, 8, 5)


def test_a_stage_that_comes_back_to_a_batch() -> None:
    clock = StageClock()
    with clock.stage("decode", to_come=True):
        time.sleep(0.02)
    assert clock.stages["decode"].batches == 0
    with clock.stage("decode", 4):
        pass
    found = clock.stages["decode"].summary()
    assert found["batches"] == 1 and found["samples"] == 4 and "bytes" not in found
    assert found["seconds"] >= 0.02 and found["p50_ms"] >= 19


def test_processor_time_where_it_is_asked_for() -> None:
    clock = StageClock(cpu=True)
    with clock.stage("sleep"):
        time.sleep(0.03)
    with clock.stage("work"):
        end = time.process_time() + 0.03
        while time.process_time() < end:
            pass
    assert clock.stages["sleep"].cpu_s < 0.02 < clock.stages["work"].cpu_s


def test_recent_counts_forget_what_is_older_than_ten_seconds() -> None:
    recent = _Recent()
    assert recent.per_s(3.0) == 0.0
    recent.add(100.0, 100.5, 50)
    assert recent.per_s(100.5) == pytest.approx(100)
    for second in range(101, 141):
        recent.add(second - 0.5, second + 0.5, 10)
    assert recent.per_s(140.999) == pytest.approx(10, rel=0.01)
    assert recent.per_s(160.0) == 0.0


# stats() ------------------------------------------------------------------------------------------------------------


def test_each_batch_is_counted_once_in_each_stage(jpeg_folder: Callable[..., Path]) -> None:
    folder = jpeg_folder(10)
    policy = dalipipe.Policy([ops.RandomResizedCrop(16), ops.Normalize()])
    with_jpegs = make(dalipipe.ImageFolder(folder), 4, policy=policy)
    fresh = with_jpegs.stats()
    assert fresh["stages"] == {} and fresh["wait"]["batches"] == 0 and fresh["samples_per_s"] == 0.0
    assert fresh["ready_batches_mean"] == fresh["full_s"] == fresh["interval"]["p99_ms"] == 0.0
    for _ in range(2):
        for _batch in with_jpegs:
            pass
    stats = with_jpegs.stats()
    assert set(stats["stages"]) == {"read", "probe", "draw", "decode", "augment"}
    for found in [*stats["stages"].values(), stats["wait"]]:
        assert (found["batches"], found["samples"]) == (6, 20)
        assert 0 <= found["p50_ms"] <= found["p99_ms"]
    assert stats["stages"]["read"]["bytes"] == 2 * sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    assert stats["rank"] == 0 and stats["samples_per_s"] > 0
    json.dumps(stats)


def halved(picture: Any) -> Any:
    return picture.resize((picture.width // 2, picture.height // 2))


def test_stages_that_come_round_again_count_a_batch_once(jpeg_folder: Callable[..., Path]) -> None:
    step = dalipipe.PythonStep(halved)
    policy = dalipipe.Policy([ops.RandomResizedCrop(32), step, ops.HorizontalFlip(), step, ops.Normalize()])
    loader = make(dalipipe.ImageFolder(jpeg_folder(10)), 4, policy=policy)
    for _ in range(2):
        list(loader)
    stages = loader.stats()["stages"]
    assert set(stages) == {"read", "probe", "draw", "decode", "augment", "python"}
    assert {(found["batches"], found["samples"]) for found in stages.values()} == {(6, 20)}
    in_seconds = loader.clock.stages["augment"]
    assert in_seconds.spread.seconds == pytest.approx(in_seconds.seconds)


@pytest.mark.parametrize("kind", ["series", "text"])
def test_stages_of_other_kinds(kind: str) -> None:
    source: Any
    if kind == "series":
        source = dalipipe.Series(
            np.random.default_rng(0).normal(size=(20, 50, 2)).astype(np.float32), np.arange(20) % 2
        )
    else:
        source = dalipipe.Text(["the cat sat on the mat"] * 20, np.arange(20) % 2)
    policy = dalipipe.recipes.series() if kind == "series" else dalipipe.recipes.eda()
    loader = make(source, policy=policy)
    list(loader)
    stages = loader.stats()["stages"]
    assert set(stages) == {"read", "draw", "augment"} | ({"decode"} if kind == "series" else set())
    assert {(found["batches"], found["samples"]) for found in stages.values()} == {(5, 20)}


def test_what_lies_in_memory_has_no_bytes_read() -> None:
    loader = make()
    list(loader)
    assert "bytes" not in loader.stats()["stages"]["read"]


def test_a_user_who_waits() -> None:
    loader = make(slow())
    for _ in loader:
        pass
    stats = loader.stats()
    assert stats["wait"]["seconds"] >= 0.8 * 6 * NAP_S and stats["wait"]["p99_ms"] >= 0.9e3 * NAP_S
    assert stats["interval"]["p50_ms"] >= 0.9e3 * NAP_S
    assert stats["full_s"] < NAP_S and stats["ready_batches_mean"] < 1
    assert stats["samples_per_s"] <= 24 / (5 * NAP_S)


def test_a_loader_that_waits() -> None:
    loader = make(prefetch_factor=2)
    most = 0
    for _ in loader:
        time.sleep(NAP_S)
        most = max(most, loader.stats()["ready_batches"])
    stats = loader.stats()
    assert stats["full_s"] >= NAP_S and most == 2
    assert 1 <= stats["ready_batches_mean"] <= 2 and stats["ready_batches"] == 0
    assert stats["interval"]["p50_ms"] >= 0.9e3 * NAP_S


class HangingArrays(SlowArrays):
    """The third read, which the loader does before it gives the second batch, comes back only when it may."""

    nap_s = 0.0

    def hang(self) -> None:
        self.reads, self.go = 0, threading.Event()

    def read(self, *args: Any, **kw: Any) -> Any:
        self.reads += 1
        if self.reads == 3:
            assert self.go.wait(60)
        return super().read(*args, **kw)


@contextlib.contextmanager
def stalled() -> Iterator[DataLoader]:
    """A loader whose user has been waiting for its second batch for some time, and is until the end."""
    quick = arrays()
    source = HangingArrays(np.stack([quick.read(np.array([i])).columns["image"][0] for i in range(24)]), quick.labels)
    source.hang()
    loader = make(source, autotune=False)
    user = threading.Thread(target=lambda: list(loader))
    user.start()
    try:
        give_up = time.monotonic() + 30
        while loader.stats()["wait"]["batches"] != 1 and time.monotonic() < give_up:
            time.sleep(0.005)
        time.sleep(4 * NAP_S)
        yield loader
    finally:
        source.go.set()
        user.join()
        loader.close()


def test_a_stall_shows_while_it_lasts() -> None:
    with stalled() as loader:
        before = loader.stats()
        begin = time.monotonic()
        time.sleep(4 * NAP_S)
        now, seconds = loader.stats(), time.monotonic() - begin
        assert now["wait"]["batches"] == before["wait"]["batches"] == 1
        for new, old in ((now["wait"], before["wait"]), (now["stages"]["read"], before["stages"]["read"])):
            assert new["seconds"] - old["seconds"] == pytest.approx(seconds, abs=NAP_S)
        assert before["waiting_s"] >= 3 * NAP_S
        assert now["waiting_s"] - before["waiting_s"] == pytest.approx(seconds, abs=NAP_S)
        screen = console(False)
        screen.print(draw("a", now, before, seconds))
        assert re.search(r"training waits for data (9\d|100)% of the time; read is at work most", shown(screen))
    stats = loader.stats()
    assert stats["waiting_s"] == 0.0 and stats["wait"]["batches"] == 6
    assert stats["wait"]["seconds"] == pytest.approx(loader.clock.wait.seconds, abs=NAP_S)


def test_a_loader_that_waits_for_room_shows_while_it_does() -> None:
    loader = make(autotune=False)
    batches = iter(loader)
    next(batches)
    give_up = time.monotonic() + 30
    while not (before := loader.stats()["full_s"]) and time.monotonic() < give_up:
        time.sleep(0.005)
    time.sleep(2 * NAP_S)
    assert loader.stats()["full_s"] - before >= 1.9 * NAP_S
    del batches


def test_seconds_of_a_clock_never_go_down() -> None:
    clock, over, told = StageClock(), threading.Event(), list[float]()

    def ask() -> None:
        while not over.is_set():
            told.append(clock.wait.so_far_s)

    asker = threading.Thread(target=ask)
    asker.start()
    for _ in range(2000):
        with clock.waiting():
            pass
    over.set()
    asker.join()
    assert told == sorted(told) and not clock.wait.under_way
    assert clock.wait.so_far_s == pytest.approx(clock.wait.seconds, abs=1e-3)


def test_pauses_between_epochs_are_nobodys_interval() -> None:
    loader = make()
    for _ in range(2):
        list(loader)
        time.sleep(4 * NAP_S)
    assert loader.clock.interval.count == 10
    assert loader.stats()["interval"]["p99_ms"] < 4e3 * NAP_S


def test_a_batch_that_is_broken_off_is_counted_as_far_as_it_came() -> None:
    loader = make()
    for _ in loader:
        break
    gc.collect()
    stats = loader.stats()
    assert stats["wait"]["batches"] == 1 and stats["ready_batches"] == 0
    list(loader)
    assert loader.stats()["wait"]["batches"] == 7


def test_bad_samples_go_round_again_and_batches_count_once(jpeg_folder: Callable[..., Path]) -> None:
    folder = jpeg_folder(12)
    victim = sorted(folder.rglob("*.jpg"))[5]
    victim.write_bytes(victim.read_bytes()[:200])
    policy = dalipipe.Policy([ops.RandomResizedCrop(16)])
    loader = make(dalipipe.ImageFolder(folder), 4, policy=policy, on_error="substitute", max_bad=1)
    list(loader)
    stats = loader.stats()
    assert stats["bad_samples"] == 1 and stats["wait"]["batches"] == 3
    assert stats["stages"]["augment"]["batches"] == 3


def test_a_pickled_loader_begins_to_count_anew() -> None:
    loader = make()
    list(loader)
    other = pickle.loads(pickle.dumps(loader))
    assert other.stats()["wait"]["batches"] == 0
    list(other)
    assert other.stats()["wait"]["batches"] == loader.stats()["wait"]["batches"] == 6


def test_figures_may_be_asked_for_from_any_thread_at_any_time() -> None:
    loader, failures, over = make(batch_size=1), list[BaseException](), threading.Event()

    def ask() -> None:
        try:
            while not over.wait(0.001):
                json.dumps(loader.stats())
        except BaseException as error:
            failures.append(error)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for _ in range(3):
        for number, _ in enumerate(loader):
            if number == 11:
                break
        list(loader)
    over.set()
    for asker in askers:
        asker.join()
    assert not failures


def test_waiting_for_a_device_is_augmenting_and_then_copying(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device made of the host: what is queued is done when it is waited for."""
    done: list[str] = []

    class Stream:
        def synchronize(self) -> None:
            done.append("copied")

    class Event:
        def record(self, stream: Any) -> None:
            done.append("queued")

        def synchronize(self) -> None:
            time.sleep(NAP_S)
            done.append("augmented")

    class Within:
        def __init__(self, stream: Any) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    cuda = SimpleNamespace(set_device=lambda device: None, Stream=lambda device: Stream(), Event=Event, stream=Within)
    monkeypatch.setattr(pipeline.torch, "cuda", cuda)
    monkeypatch.setattr(transfers, "_left", {})
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    config = SimpleNamespace(
        output=SimpleNamespace(device=torch.device("cpu")),
        names=("image", "label"),
        source=SimpleNamespace(schema=SimpleNamespace(names=("image", "label"))),
        mask=False,
    )
    clock, rows = StageClock(), np.arange(3)

    class Lane:
        def collect(self) -> Any:
            with clock.stage("augment", 3):
                return {"image": torch.zeros(3, 1), "label": rows}, Step(rows, rows, None, rows >= 0)

    lane: Any = Lane()
    lane.clock = clock
    deliver = pipeline._deliver_cuda(config, 0)  # type: ignore[arg-type]
    for _ in range(2):
        assert deliver(lane).label.tolist() == [0, 1, 2]
    assert done == ["queued", "augmented", "copied"] * 2
    copied, augmented = clock.stages["copy"], clock.stages["augment"]
    assert (copied.batches, copied.samples) == (augmented.batches, augmented.samples) == (2, 6)
    assert augmented.seconds >= 2 * NAP_S > 2 * copied.seconds
    assert augmented.spread.quantile(1) >= 0.9 * NAP_S  # the second batch's has the first one's wait in it


def test_streams_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps what was freed on a stream for that stream: each trial's and each epoch's would hold memory."""
    made: list[object] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            made.append(self)

    cuda = SimpleNamespace(set_device=lambda device: None, Stream=Stream, Event=object)
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(transfers, "_left", {})
    config: Any = SimpleNamespace(output=SimpleNamespace(device=torch.device("cuda", 0)))
    for _ in range(5):  # one epoch or trial after the other
        deliver = pipeline.delivery(config, 0)
        del deliver
    assert len(made) == 1
    at_once = [pipeline.delivery(config, 0) for _ in range(3)]
    assert len(made) == 3
    del at_once
    queues_of_lanes = [CudaQueue(torch.device("cuda", 0)) for _ in range(3)]
    assert len(made) == 3
    del queues_of_lanes


@pytest.mark.cuda
def test_stages_on_a_device() -> None:
    loader = make(device="cuda")
    list(loader)
    stages = loader.stats()["stages"]
    assert {stages[name]["batches"] for name in ("read", "draw", "augment", "copy")} == {6}
    assert loader.stats()["wait"]["batches"] == 6


# Live ---------------------------------------------------------------------------------------------------------------


def shown(console: Any) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def console(terminal: bool) -> Any:
    from rich.console import Console

    return Console(file=io.StringIO(), force_terminal=terminal, width=110)


@pytest.mark.parametrize("terminal", [True, False])
def test_live_shows_stages_and_who_waits(terminal: bool) -> None:
    loader, screen = make(slow()), console(terminal)
    with Live(loader, name="mine", console=screen, refresh_per_s=20):
        for _ in loader:
            pass
    text = shown(screen)
    assert (text.count("mine: ") > 1) == terminal
    last = text[text.rindex("mine: ") :]
    for word in ("read", "draw", "augment", "you wait", "it waits", "training waits for data"):
        assert word in last
    assert "read is at work most" in last and "bad samples: 0" in last


def test_live_below_what_is_printed_and_above_a_bar_of_the_users() -> None:
    from rich.progress import Progress

    loader, screen = make(), console(True)
    with Live(loader, console=screen), Progress(console=screen) as bar:
        task = bar.add_task("training", total=6)
        for _ in loader:
            bar.advance(task)
        screen.print("an epoch is over")
    assert "an epoch is over" in shown(screen) and "training" in shown(screen) and "loader: " in shown(screen)
    assert threading.active_count() < 20


def test_live_before_the_first_batch_and_with_much_to_say() -> None:
    loader = make()
    fresh = loader.stats()
    screen = console(False)
    screen.print(draw("a", fresh, fresh, 0.0))
    assert "no batch yet" in shown(screen)
    list(loader)
    stats = {**loader.stats(), "cached_samples": 1200, "cached_bytes": 5 << 20, "bad_samples": 7}
    screen = console(False)
    screen.print(draw("[red]", stats, fresh, 1e3))
    assert "[red]: " in shown(screen) and "cache: 1,200 samples, 5 MiB" in shown(screen)
    assert "bad samples: 7" in shown(screen) and "the loader keeps up" in shown(screen)


@pytest.mark.parametrize(
    ("wait_s", "full_s", "words"),
    [
        (0.1, 0.0, "the loader keeps up"),
        (0.1, 5.0, "the loader keeps up, and waits for training 50% of the time"),
        (
            0.5,
            5.0,
            "the loader waits for training 50% of the time, and yet training for data 5%: batches come unevenly",
        ),
        (5.0, 0.5, "training waits for data 50% of the time; read is at work most"),
    ],
)
def test_live_says_who_waits_for_whom(wait_s: float, full_s: float, words: str) -> None:
    fresh = make().stats()
    figures = {"batches": 9, "samples": 90, "p50_ms": 1.0, "p99_ms": 2.0}
    stages = {"read": {**figures, "seconds": 3.0}, "draw": {**figures, "seconds": 2.0}}
    now = {**fresh, "stages": stages, "wait": {**figures, "seconds": wait_s}, "full_s": full_s}
    screen = console(False)
    screen.print(draw("a", now, fresh, 10.0))
    assert f"│ {words} " in shown(screen)


# Prometheus ---------------------------------------------------------------------------------------------------------


def asked(port: int) -> dict[str, float]:
    """Metric with its labels → value, as Prometheus reads them."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_served_and_say_what_stats_says(jpeg_folder: Callable[..., Path]) -> None:
    pytest.importorskip("prometheus_client")
    policy = dalipipe.Policy([ops.RandomResizedCrop(16)])
    train, val = make(dalipipe.ImageFolder(jpeg_folder(8)), 4, policy=policy), make(rank=1, world_size=2)
    with serve_metrics({"train": train, "val": val}, 0) as server:
        assert asked(server.port)["dalipipe_batches_total[('loader', 'train'), ('rank', '0')]"] == 0
        for _ in range(3):
            list(train)
        found, stats = asked(server.port), train.stats()
        of = "('loader', 'train'), ('rank', '0')"
        assert found[f"dalipipe_batches_total[{of}]"] == 6 and found[f"dalipipe_samples_total[{of}]"] == 24
        for name, stage in stats["stages"].items():
            assert found[f"dalipipe_stage_batches_total[{of}, ('stage', '{name}')]"] == stage["batches"]
            seconds = found[f"dalipipe_stage_seconds_total[{of}, ('stage', '{name}')]"]
            assert seconds == pytest.approx(stage["seconds"])
        read = f"[{of}, ('stage', 'read')]"
        assert found[f"dalipipe_stage_bytes_total{read}"] == stats["stages"]["read"]["bytes"]
        assert found[f"dalipipe_wait_seconds_count[{of}]"] == 6
        assert found[f"dalipipe_wait_seconds_sum[{of}]"] == pytest.approx(stats["wait"]["seconds"], abs=1e-3)
        assert found[f"dalipipe_interval_seconds_count[{of}]"] == 3
        buckets = [
            v for name, v in found.items() if name.startswith("dalipipe_wait_seconds_bucket") and "train" in name
        ]
        assert len(buckets) > 20 and buckets == sorted(buckets) and buckets[-1] == 6
        assert found["dalipipe_bad_samples[('loader', 'val'), ('rank', '1')]"] == 0
        assert found["dalipipe_wait_seconds_count[('loader', 'val'), ('rank', '1')]"] == 0
        del val
        gc.collect()
        assert not any("'val'" in name for name in asked(server.port))


def test_an_alarm_on_waits_sees_a_stall_while_it_lasts() -> None:
    pytest.importorskip("prometheus_client")
    of = "('loader', 'train'), ('rank', '0')"
    with stalled() as loader, serve_metrics(loader, 0) as server:
        before = asked(server.port)
        time.sleep(2 * NAP_S)
        now = asked(server.port)
        for name in ("wait_seconds_sum", "waiting_seconds"):
            assert now[f"dalipipe_{name}[{of}]"] - before[f"dalipipe_{name}[{of}]"] >= 1.9 * NAP_S
        assert now[f"dalipipe_wait_seconds_count[{of}]"] == 1


def test_metrics_end_with_their_server() -> None:
    pytest.importorskip("prometheus_client")
    before = set(threading.enumerate())
    loader = make()
    server = serve_metrics(loader, 0)
    assert asked(server.port)
    server.close()
    server.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(OSError):
        asked(server.port)
    with serve_metrics(make(), server.port) as again:  # it is free again
        assert again.port == server.port


def test_metrics_on_a_port_that_is_taken_or_none_or_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("prometheus_client")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"port {port} of 127.0.0.1 cannot be had: Address already in use; give"):
            serve_metrics(make(), port)
    for wrong in (-1, 1 << 16, "80", True, 8.0):
        with pytest.raises(ValueError, match=r"port must be a whole number in 0\.\.65535, got"):
            serve_metrics(make(), wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'x' must be a dalipipe\.DataLoader, got list"):
        serve_metrics({"x": []}, 0)  # type: ignore[dict-item]
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dalipipe\[metrics\]'"):
        serve_metrics(make(), 0)


# Profilers ----------------------------------------------------------------------------------------------------------


def spans(events: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """In µs, in order of their beginnings."""
    return sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["ph"] == "X" and e["name"] == name)


def uneven(events: list[dict[str, Any]]) -> float:
    """The most, in µs, by which a span outlasts the one of its thread that it begins in: viewers want them nested."""
    most, threads = 0.0, dict[int, list[tuple[float, float]]]()
    for event in events:
        if event["ph"] == "X":
            threads.setdefault(event["tid"], []).append((event["ts"], -event["dur"]))
    for begun in threads.values():
        around: list[float] = []
        for begin, minus in sorted(begun):
            while around and around[-1] <= begin:
                around.pop()
            most = max(most, begin - minus - around[-1] if around else 0.0)
            around.append(begin - minus)
    return most


def test_a_trace_has_stages_threads_waits_and_the_queue(tmp_path: Path) -> None:
    loader = make(slow(), prefetch_factor=2)
    before = time.time_ns()
    with trace(loader, tmp_path / "trace.json"):
        for number, _ in enumerate(loader):
            time.sleep(3 * NAP_S if number in (1, 2) else 0)
    after = time.time_ns()
    assert loader.clock.observers == ()
    written = json.loads((tmp_path / "trace.json").read_text())
    events = written["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    where = {event["name"]: names[event["tid"]] for event in events if event["ph"] == "X"}
    assert where["wait for a batch"] == threading.current_thread().name
    assert where["augment"] == where["read"] == where["wait for room"] == "dalipipe-prefetch"
    assert len(spans(events, "read")) == 6 and len(spans(events, "wait for a batch")) == 7  # once for the end
    assert all(end - begin >= 0.9e6 * NAP_S for begin, end in spans(events, "read"))
    assert all(event["args"]["samples"] == 4 for event in events if event["name"] == "augment")
    base = written["baseTimeNanoseconds"]
    times = [
        base + 1e3 * t for event in events if event["ph"] == "X" for t in (event["ts"], event["ts"] + event["dur"])
    ]
    assert before - 2e6 <= min(times) and max(times) <= after + 2e6
    counts = [event["args"]["batches"] for event in events if event["ph"] == "C"]
    assert max(counts) == 2 and counts[-1] == 0 and all(abs(a - b) == 1 for a, b in itertools.pairwise(counts))
    assert uneven(events) < 1e-2  # but for roundings
    done = len(events)
    list(loader)
    assert len(json.loads((tmp_path / "trace.json").read_text())["traceEvents"]) == done


def test_a_trace_lies_on_the_profilers_clock(tmp_path: Path) -> None:
    loader = make(slow())
    with trace(loader, tmp_path / "both.json.gz", merge=tmp_path / "torch.json"):
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU],
            schedule=torch.profiler.schedule(wait=0, warmup=1, active=9),
        ) as profiler:
            profiler.step()
            batches = iter(loader)
            for _ in range(4):
                with torch.profiler.record_function("ask"):
                    next(batches)
                with torch.profiler.record_function("train"):
                    time.sleep(0.02)
                profiler.step()
        profiler.export_chrome_trace(str(tmp_path / "torch.json"))
    both = json.loads(gzip.decompress((tmp_path / "both.json.gz").read_bytes()))
    alone = json.loads((tmp_path / "torch.json").read_text())
    assert {key: value for key, value in both.items() if key != "traceEvents"} == {
        key: value for key, value in alone.items() if key != "traceEvents"
    }
    events = both["traceEvents"]
    assert events[: len(alone["traceEvents"])] == alone["traceEvents"]
    asks, waits = spans(events, "ask"), spans(events, "wait for a batch")
    steps = sorted(
        (e["ts"], e["ts"] + e["dur"]) for e in events if e["ph"] == "X" and e["name"].startswith("ProfilerStep#")
    )
    as_torch_says = spans(events, "enumerate(DataLoader)#dalipipe.DataLoader.__next__")
    assert len(asks) == len(waits) == len(as_torch_says) == 4
    slack = 2e3  # µs
    for ask, wait, said in zip(asks, waits, as_torch_says, strict=True):
        assert ask[0] - slack <= wait[0] and wait[1] <= ask[1] + slack
        assert abs(wait[0] - said[0]) < slack and abs(wait[1] - said[1]) < slack
        assert sum(begin - slack <= wait[0] and wait[1] <= end + slack for begin, end in steps) == 1
    assert uneven(events) < slack
    (mine,) = {event["tid"] for event in events if event["name"] == "wait for a batch"}
    assert {event["tid"] for event in events if event["name"] == "ask"} == {mine}
    assert {event["pid"] for event in events if event.get("cat") == "dalipipe"} == {
        event["pid"] for event in events if event["name"] == "ask"
    }


def test_a_trace_alone_counts_from_where_torchs_count(tmp_path: Path) -> None:
    loader = make()
    with trace(loader, tmp_path / "ours.json"), torch.profiler.profile() as profiler:
        list(loader)
    profiler.export_chrome_trace(str(tmp_path / "torch.json"))
    ours, torchs = (json.loads((tmp_path / name).read_text()) for name in ("ours.json", "torch.json"))
    assert ours["baseTimeNanoseconds"] == torchs["baseTimeNanoseconds"]


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, FileNotFoundError, "there is no .* to merge; call the profiler's export_chrome_trace"),
        (b"{", ValueError, "is no trace of torch.profiler's"),
        (b'{"events": []}', ValueError, "it has no traceEvents"),
        (b"\x1f\x8bnonsense", ValueError, "is no trace of torch.profiler's"),
    ],
)
def test_what_cannot_be_merged(tmp_path: Path, content: bytes | None, error: type[Exception], words: str) -> None:
    loader, other = make(), tmp_path / "torch.json"
    if content is not None:
        other.write_bytes(content)
    with pytest.raises(error, match=words), trace(loader, tmp_path / "ours.json", merge=other):
        list(loader)
    assert spans(json.loads((tmp_path / "ours.json").read_text())["traceEvents"], "augment")
    assert loader.clock.observers == ()


def test_a_trace_of_what_fails_is_written_too(tmp_path: Path) -> None:
    loader = make()
    with pytest.raises(ZeroDivisionError), trace(loader, tmp_path / "ours.json", merge=tmp_path / "none.json"):
        list(loader)
        raise ZeroDivisionError
    assert spans(json.loads((tmp_path / "ours.json").read_text())["traceEvents"], "augment")


class FakeNvtx:
    """Ranges as they are pushed and popped, by thread."""

    def __init__(self) -> None:
        self.open: dict[str, list[str]] = {}
        self.seen: set[tuple[str, str]] = set()

    def range_push(self, name: str) -> None:
        thread = threading.current_thread().name
        self.open.setdefault(thread, []).append(name)
        self.seen.add((thread, name))

    def range_pop(self) -> None:
        self.open[threading.current_thread().name].pop()

    def mark(self, name: str) -> None:
        pass


@pytest.fixture
def nvtx(monkeypatch: pytest.MonkeyPatch) -> FakeNvtx:
    fake = FakeNvtx()
    for name in ("range_push", "range_pop", "mark"):
        monkeypatch.setattr(torch.cuda.nvtx, name, getattr(fake, name))
    return fake


def test_ranges_open_and_close_in_their_threads(nvtx: FakeNvtx) -> None:
    loader = make()
    list(loader)
    assert not nvtx.seen
    with annotate(loader):
        for number, _ in enumerate(loader):
            if number == 3:
                break
    loader.close()
    assert ("MainThread", "dalipipe: wait") in nvtx.seen and ("dalipipe-prefetch", "dalipipe: augment") in nvtx.seen
    assert not any(nvtx.open.values()) and loader.clock.observers == ()
    seen = len(nvtx.seen)
    list(loader)
    assert len(nvtx.seen) == seen


def test_ranges_by_the_environment(nvtx: FakeNvtx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALIPIPE_NVTX", "1")
    loader = make()
    monkeypatch.delenv("DALIPIPE_NVTX")
    list(loader)
    assert ("MainThread", "dalipipe: wait") in nvtx.seen
    assert not make().clock.observers


def test_ranges_where_torch_has_none(nvtx: FakeNvtx, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("NVTX functions not installed")

    monkeypatch.setattr(torch.cuda.nvtx, "mark", fail)
    loader = make()
    with pytest.raises(RuntimeError, match="NVTX functions not installed"), annotate(loader):
        pass
    monkeypatch.setenv("DALIPIPE_NVTX", "1")
    with pytest.raises(RuntimeError, match="NVTX functions not installed"):
        make()


def test_loaders_run_without_telemetry_and_what_it_needs() -> None:
    code = (
        "import sys, numpy as np, dalipipe\n"
        "loader = dalipipe.DataLoader(dalipipe.Arrays(np.zeros((4, 2, 2, 3), np.uint8), np.zeros(4, int)))\n"
        "list(loader), loader.stats()\n"
        "unwanted = ('rich', 'prometheus_client', 'dalipipe.telemetry')\n"
        "sys.exit(', '.join(name for name in unwanted if name in sys.modules) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
