"""`dalipipe.explain`: the parts add up, the model is the pipeline, and what was put in is found."""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from jpegs import jpeg
from sounds import wav

import dalipipe
from dalipipe import recipes
from dalipipe.ops import image as ops
from dalipipe.ops import signal as signal_ops
from dalipipe.ops.mix import MixUp
from dalipipe.stalls.changes import Changes, setting_of
from dalipipe.stalls.explanation import Explanation
from dalipipe.stalls.held import files_of, forget
from dalipipe.stalls.measuring import affordable, blocks_of, parts_of
from dalipipe.stalls.model import Model, Setting
from dalipipe.stalls.own import investigate
from dalipipe.stalls.pipelines import OwnPipeline, WorkerPipeline, constant
from dalipipe.stalls.simulation import Get, Process, Put, Queue, Simulation, Work
from dalipipe.stalls.walking import Measured, Walks

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    import explain_truth
finally:
    sys.path.remove(str(BENCHMARKS))

# The simulated clock --------------------------------------------------------------------------------------------------


def works(*pieces: Work) -> Process:
    yield from pieces


def simulated(cores: float, *processes: Process) -> Simulation:
    def all_of() -> Process:  # a simulation ends with its first process
        for _ in processes:
            yield Get(done)

    def one(process: Process) -> Process:
        yield from process
        yield Put(done)

    done, simulation = Queue(), Simulation(cores)
    simulation.run(all_of(), *map(one, processes))
    return simulation


@pytest.mark.parametrize(
    ("cores", "asked", "expected"),
    [
        (1, (1.0,), 1.0),
        (1, (1.0, 1.0), 2.0),
        (2, (1.0, 1.0), 1.0),
        (2, (2.0, 1.0), 1.5),
        (2, (2.0, 2.0, 2.0), 3.0),
        (1, (0.0, 0.0, 1.0), 1.0),  # who sleeps takes nothing
        (1, (0.0,), 1.0),
    ],
)
def test_cores_are_shared(cores: float, asked: tuple[float, ...], expected: float) -> None:
    simulation = simulated(cores, *(works(Work("work", 1.0, each)) for each in asked))
    assert simulation.now == pytest.approx(expected)


def test_only_what_computes_is_slowed() -> None:
    """Half of its time it sleeps."""
    simulation = simulated(1, works(Work("half", 1.0, 0.5)), works(Work("whole", 10.0, 1.0)))
    slowdown = 1.5
    half = 1.0 * (0.5 + 0.5 * slowdown)
    assert simulation.busy_s["half"] == pytest.approx(half)


def test_who_waits_for_each_other_is_found_out() -> None:
    def waits() -> Process:
        yield Get(Queue())

    with pytest.raises(RuntimeError, match="wait for each other"):
        Simulation(1).run(waits())


def test_a_full_queue_holds_up() -> None:
    queue, put = Queue(room=2), []

    def puts() -> Process:
        for number in range(5):
            yield Put(queue, number)
            put.append(simulation.now)

    def gets() -> Process:
        yield Work("late", 1.0)
        for number in range(5):
            assert (yield Get(queue)) == number
            yield Work("slow", 1.0)

    simulation = Simulation(2, [queue])
    simulation.run(gets(), puts())
    assert put == [0.0, 0.0, 1.0, 2.0, 3.0]
    assert simulation.now == 6.0
    assert queue.filled_s == pytest.approx(2 + 2 + 2 + 2 + 1)


MS = st.floats(0.0, 0.05)


@settings(deadline=None, max_examples=60)
@given(read=MS, probe=MS, decode=MS, augment=MS, step=MS, ahead=st.integers(1, 4), reads=st.booleans())
def test_constant_times_pass_at_the_slowest_thread(
    read: float, probe: float, decode: float, augment: float, step: float, ahead: int, reads: bool
) -> None:
    """Nobody computes, so nobody is slowed; and the first steps show how the pipeline fills."""
    times = constant({"read": read, "probe": probe, "decode": decode, "augment": augment, "step": step})
    course = OwnPipeline(times, ahead, reads_ahead=reads).run(60, 1)
    lane = probe + augment + (0.0 if reads else read)
    # With two batches in flight decoding overlaps with the lane's work on the other one.
    assert course.steps_s[30:].mean() == pytest.approx(max(read if reads else 0.0, decode, lane, step), abs=1e-9)
    assert course.steps_s.sum() >= read + probe + decode + augment + step - 1e-9
    assert all(0 <= share <= 1 + 1e-9 for share in course.busy.values())
    assert 0 <= course.queue <= ahead + 1e-9


@settings(deadline=None, max_examples=40)
@given(prep=MS, step=MS, workers=st.integers(1, 4), prefetch=st.integers(1, 3))
def test_workers_share_batches(prep: float, step: float, workers: int, prefetch: int) -> None:
    course = WorkerPipeline(constant({"prep": prep, "step": step}), workers, prefetch).run(80, 8)
    most = (prep + step) / workers if prefetch == 1 else 0.0  # who has delivered waits to be emptied
    least = max(step, prep / workers)
    burst = prep / 40  # of the mean over 40: batches come in bunches
    assert least - burst - 1e-9 <= course.steps_s[40:].mean() <= max(least, most) + burst + 1e-9
    alone = WorkerPipeline(constant({"prep": prep, "step": step}), 0).run(20, 8)
    assert alone.steps_s.mean() == pytest.approx(prep + step)


@pytest.mark.parametrize("workers", [1, 3, 16, 96])
def test_workers_that_begin_together_are_seen_in_whole_rounds(workers: int) -> None:
    """One wait for as many batches as there are workers: any other number of steps sees too many, or too few."""
    stages = {name: Measured(np.full(3, seconds), 0.0) for name, seconds in {"prep": 1.0, "step": 0.001}.items()}
    setting = Setting(stages, lambda times: WorkerPipeline(times, workers), 2.0)
    course = setting.course(np.arange(176) / 176)
    assert course.step_s == pytest.approx(1 / workers, rel=0.02)
    assert course.warm_up % workers == 0
    blocks, steps = blocks_of(60, workers)
    assert steps % workers == 0 and blocks * steps >= 60


@settings(deadline=None, max_examples=40)
@given(decode=MS, augment=MS, step=MS, cores=st.integers(1, 4))
def test_no_faster_than_the_cores_there_are(decode: float, augment: float, step: float, cores: int) -> None:
    asked = {"decode": 2.0, "augment": 2.0, "step": 1.0}
    course = OwnPipeline(constant({"decode": decode, "augment": augment, "step": step}, asked)).run(80, cores)
    work = 2 * decode + 2 * augment + step
    assert course.steps_s[40:].mean() >= max(work / cores, decode, augment, step) - 1e-9
    ahead = 4 * (decode + augment) / 40  # of these steps' time some goes to batches of later ones
    assert course.steps_s[40:].mean() <= work + ahead + 1e-9


def test_an_engine_that_works_by_itself() -> None:
    times = constant({"read": 0.01, "augment": 0.03, "step": 0.001})
    course = OwnPipeline(times, reads_ahead=False, decoding=None, engine="augment", after=()).run(60, 4)
    assert course.steps_s[30:].mean() == pytest.approx(0.02)  # two batches at a time: 0.01 + 0.03 over two


# The model ------------------------------------------------------------------------------------------------------------


def model(step_s: float | None = None, **seconds: float) -> Model:
    stages = {name: Measured(np.full(5, each), 0.0) for name, each in seconds.items()}
    slowest = max(seconds.values())
    return Model(Setting(stages, OwnPipeline, 2.0), np.full(4, slowest if step_s is None else step_s))


def test_the_slowest_is_the_bottleneck_and_half_of_it_helps_to_the_next() -> None:
    made = model(read=0.01, decode=0.04, augment=0.02, step=0.03)
    assert made.bottleneck() == "decode"
    assert made.error < 1e-6
    assert made.predict(made.now.scaled({"decode": 0.5})).value == pytest.approx(30.0)
    assert made.predict(made.now.scaled({"read": 0.5})).value == pytest.approx(40.0)
    assert made.predict(made.now.scaled({"no such stage": 0.5})).value == pytest.approx(40.0)


def test_a_model_that_is_wrong_says_so() -> None:
    made = model(0.05, decode=0.04, step=0.03)
    predicted = made.predict(made.now.scaled({"decode": 0.5}))
    assert made.error == pytest.approx(0.2)
    assert predicted.value == pytest.approx(0.03 / 0.04 * 50)
    assert predicted.low <= 0.81 * predicted.value and predicted.high >= 1.19 * predicted.value


def test_what_slows_stages_down_beside_each_other_does_so_in_every_setting() -> None:
    stages = {name: Measured(np.full(5, each), 0.5) for name, each in {"read": 0.01, "step": 0.02}.items()}
    made = Model(Setting(stages, OwnPipeline, 2.0), np.full(4, 0.025), {"step": 0.025, "read": 0.009})
    assert made.slowed["step"] == pytest.approx(1.25) and made.slowed["read"] == 1.0  # nothing is faster in company
    assert made.error < 1e-3
    assert made.predict(made.now.scaled({"step": 0.5})).value == pytest.approx(12.5, rel=0.01)
    assert "read" not in Model(made.now, np.full(4, 0.02)).slowed


def test_what_varies_is_waited_for_though_its_mean_is_shorter() -> None:
    varied = Measured(np.array([0.0, 0.038] * 8), 0.0)
    made = Model(
        Setting({"decode": varied, "step": Measured(np.full(3, 0.02), 0.0)}, OwnPipeline, 2.0), np.full(4, 0.02)
    )
    assert 0.0202 < made.predicted_s < 0.03


# Parts of a step ------------------------------------------------------------------------------------------------------

TIMES = st.lists(st.lists(st.floats(1e-6, 10.0), min_size=3, max_size=3), min_size=4, max_size=4).map(np.array)


@settings(deadline=None, max_examples=100)
@given(compute=TIMES, cached=TIMES, cold=TIMES, host=st.none() | TIMES)
def test_parts_add_up_and_none_is_negative(compute: Any, cached: Any, cold: Any, host: Any) -> None:
    found = parts_of({"compute": compute, "cached": cached, "cold": cold, **({} if host is None else {"host": host})})
    parts = (found.compute, found.prep, found.fetch, found.copy)
    assert found.step.value == pytest.approx(sum(part.value for part in parts), rel=1e-12)
    assert found.step.value == pytest.approx(1e3 * cold.mean())
    for part in (found.step, *parts):
        assert 0 <= part.low <= part.value <= part.high < math.inf


def test_how_many_steps_a_minute_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, batches = torch.device("cpu"), [torch.zeros(1)]

    def steps(**given: Any) -> int:
        return affordable(lambda batch: None, batches, cpu, most=240, **given)

    assert steps() == 240
    assert steps(loader_s=0.5) == pytest.approx(6 * (60 / 3 - 8) / 3, abs=1)
    assert steps(loader_s=0.5, warm_up=20) == 12 and steps(loader_s=100.0) == 12
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="say how many steps to take"):
        steps()


def test_parts_are_the_differences() -> None:
    blocks = np.ones((6, 5)) * (1 + 0.01 * np.arange(6))[:, None]
    found = parts_of(
        {"compute": 0.010 * blocks, "host": 0.012 * blocks, "cached": 0.017 * blocks, "cold": 0.020 * blocks}
    )
    scale = 1e3 * blocks.mean()
    for part, expected in ((found.compute, 10), (found.copy, 2), (found.prep, 5), (found.fetch, 3), (found.step, 20)):
        assert part.value == pytest.approx(expected / 1e3 * scale)
        assert 0.95 * part.value < part.low < part.value < part.high < 1.05 * part.value


# Walks: the loader's own batches, from memory -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> dalipipe.ImageFolder:
    """40 JPEGs of several sizes and samplings, in two classes; and a PNG."""
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    for number in range(40):
        path = root / f"class_{number % 2}" / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(24 + 3 * number, 90 - number, number, "4:2:0" if number % 3 else "grey"))
    Image.fromarray(picture(40, 50)).save(root / "class_0" / "x.png")
    return dalipipe.ImageFolder(root)


def pictures(folder: dalipipe.ImageFolder, **more: Any) -> dalipipe.DataLoader:
    given = {
        "policy": recipes.imagenet_train(16),
        "shuffle": True,
        "seed": 3,
        "device": "cpu",
        "num_workers": 2,
        **more,
    }
    return dalipipe.DataLoader(folder, given.pop("batch_size", 5), **given)


def flipped(image: Any) -> Any:
    return image.rotate(180)


def loaders(folder: dalipipe.ImageFolder, root: Path) -> dict[str, dalipipe.DataLoader]:
    random = np.random.default_rng(0)
    arrays = dalipipe.Arrays(random.integers(0, 256, (40, 12, 14, 3), dtype=np.uint8), np.arange(40) % 5)
    series = dalipipe.Series([random.normal(size=(20 + n, 2)).astype(np.float32) for n in range(40)], np.arange(40) % 3)
    text = dalipipe.Text([f"a film of {n} was a big , funny one" for n in range(40)], np.arange(40) % 3, split="space")
    for number in range(40):
        path = root / "sounds" / f"class_{number % 2}" / f"{number:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav("pcm16", 300 + number, seed=number)[0])
    sounds = dalipipe.AudioFolder(root / "sounds", rate_hz=8000)
    items = [(picture(20, 30, n), n % 3) for n in range(40)]
    given: dict[str, Any] = {"shuffle": True, "seed": 3, "device": "cpu", "num_workers": 2, "autotune": False}
    signal_policy = dalipipe.Policy([signal_ops.Gain()])
    return {
        "pictures": pictures(folder),
        "no policy, one size": dalipipe.DataLoader(arrays, 5, **given),
        "arrays": dalipipe.DataLoader(
            arrays, 5, policy=dalipipe.Policy([ops.HorizontalFlip(), ops.Normalize()]), **given
        ),
        "columns": dalipipe.DataLoader(
            dalipipe.Arrays(labels=np.arange(40), x=np.arange(80).reshape(40, 2)), 5, **given
        ),
        "series": dalipipe.DataLoader(series, 5, **given),
        "sounds": dalipipe.DataLoader(sounds, 5, policy=signal_policy, **given),
        "text": dalipipe.DataLoader(text, 5, **given),
        "tokens": dalipipe.DataLoader(
            series, batch_sampler=dalipipe.TokenBatches([20 + n for n in range(40)], 600), seed=3, device="cpu"
        ),
        "given batches": pictures(
            folder, batch_size=1, shuffle=False, batch_sampler=[[1, 2, 3], [4], [5, 6, 7, 8]] * 5
        ),
        "a rank of two": pictures(folder, rank=1, world_size=2, shards="exact"),
        "kept": pictures(folder, cache="ram", cache_bytes="8MiB"),
        "kept in part": pictures(folder, cache="ram", cache_bytes="64KiB"),
        "map": dalipipe.DataLoader(dalipipe.MapDataset(items), 5, policy=recipes.imagenet_train(16), **given),
        "staged": pictures(folder, policy=dalipipe.Policy([dalipipe.PythonStep(flipped), ops.RandomResizedCrop(16)])),
        "mixed": pictures(
            folder, policy=dalipipe.Policy([ops.RandomResizedCrop(16), MixUp(0.8, group=2)]), batch_size=4
        ),
        "repeated": pictures(folder, shuffle=False, sampler=dalipipe.orders.Repeated(2, dalipipe.orders.Shuffled())),
    }


@pytest.fixture(scope="module")
def every(folder: dalipipe.ImageFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dalipipe.DataLoader]:
    return loaders(folder, tmp_path_factory.mktemp("data"))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return len(one) == len(other) and all(map(np.array_equal, one, other))


KINDS = [
    "pictures",
    "no policy, one size",
    "arrays",
    "columns",
    "series",
    "sounds",
    "text",
    "tokens",
    "given batches",
    "a rank of two",
    "kept",
    "kept in part",
    "map",
    "staged",
    "repeated",
    "mixed",
]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_the_loaders(every: dict[str, dalipipe.DataLoader], kind: str) -> None:
    """From the source and from memory, in any setting; the loader stays as it is."""
    loader = every[kind]
    state = loader.state_dict()
    walks = Walks(loader, 1, 4, 1 << 30)
    taken = []
    for changes in ({}, {"source": walks.held}, {"source": walks.held, "threads": 1}):
        with walks.runner(**changes) as run:
            batches = run(0)
            taken.append([next(batches) for _ in range(min(3, len(walks.steps)))])
            batches.close()
    assert loader.state_dict() == state
    loader.set_epoch(1)
    epoch = iter(loader)
    for number, batch in enumerate([next(epoch) for _ in taken[0]]):
        for found in taken:
            assert np.array_equal(found[number].indices, batch.indices)
            assert all(map(same, found[number], batch)), number
    epoch.close()
    loader.load_state_dict(state)


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_alone_and_the_model_of_them(every: dict[str, dalipipe.DataLoader], kind: str) -> None:
    walks = Walks(every[kind], 0, 4, 1 << 30)
    stages = walks.stages(walks.held, batches=3, passes=2)
    assert {"read", "assemble"} <= set(stages)
    assert all(len(measured.seconds) == 2 * min(3, len(walks.steps)) for measured in stages.values())
    assert all((measured.seconds >= 0).all() and measured.cores >= 0 for measured in stages.values())
    now = setting_of(walks, {**stages, "step": Measured(np.full(3, 1e-4), 1.0)}, 2.0)
    made = Model(now, np.full(3, 1e-3))
    assert set(made.course.busy) == {name for name, each in now.stages.items() if each.seconds.any()}
    whole = sum(each.seconds.mean() for each in now.stages.values())
    assert 0 < made.predicted_s <= 1.5 * whole


def test_few_steps_are_walked_over_and_over(folder: dalipipe.ImageFolder) -> None:
    loader = pictures(folder, batch_size=30)
    walks = Walks(loader, 0, 100, 1 << 30)
    assert len(walks.steps) == 2
    with walks.runner(walks.held) as run:
        batches = run(1)
        sizes = [len(next(batches).label) for _ in range(5)]
        batches.close()
    assert sizes == [11, 30, 11, 30, 11]
    assert len(Walks(loader, 0, 100, 1).steps) == 1, "no more than there is memory for"


def test_steps_that_come_again_are_read_anew_again(folder: dalipipe.ImageFolder) -> None:
    walks, forgotten = Walks(pictures(folder, batch_size=30), 0, 100, 1 << 30), list[int]()
    walks.forget = lambda: forgotten.append(1)  # type: ignore[method-assign]
    for source, times in ((None, 2), (walks.held, 0)):
        forgotten.clear()
        with walks.runner(source) as run:
            batches = run(0)
            for _ in range(5):
                next(batches)
            batches.close()
        assert len(forgotten) >= times and bool(forgotten) == bool(times)


def test_bad_samples_are_left_out_and_the_loaders_quarantine_as_it_is(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / "all" / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"none" if number == 4 else jpeg(30, 40, number))
    loader = pictures(dalipipe.ImageFolder(tmp_path), batch_size=4, shuffle=False, on_error="skip", max_bad=1.0)
    walks = Walks(loader, 0, 9, 1 << 30)
    assert [len(step) for step in walks.steps] == [4, 3, 4]
    assert loader.bad_samples == [] and loader.state_dict()["bad"] == []
    explanation = dalipipe.explain(loader, lambda batch: None, steps=12)
    assert loader.bad_samples == [] and explanation.step_ms.value > 0
    strict = pictures(dalipipe.ImageFolder(tmp_path), batch_size=4)
    with pytest.raises(dalipipe.SampleError, match=r"04\.jpg"):
        dalipipe.explain(strict, lambda batch: None, steps=12)


def resident(path: str | Path) -> float:
    """The share of a file that the system has in memory."""
    nbytes, page = Path(path).stat().st_size, mmap.PAGESIZE
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        pages = np.zeros(-(-nbytes // page), np.uint8)
        view = np.frombuffer(mapped, np.uint8)
        ctypes.CDLL(None).mincore(
            ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(nbytes), pages.ctypes.data_as(ctypes.c_void_p)
        )
        del view
    return float((pages & 1).mean())


def test_what_is_mapped_is_forgotten_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((50, 64, 64, 3), np.uint8))
    source = dalipipe.Arrays.open(tmp_path / "x.npy")
    assert files_of(source, np.arange(3)) == [str(tmp_path / "x.npy")]
    assert source.images is not None and int(source.images[:, 0, 0, 0].sum()) == 50
    assert resident(tmp_path / "x.npy") > 0.9
    np.save(tmp_path / "plain.npy", np.ones(100_000))
    forget([str(tmp_path / "plain.npy")])
    if resident(tmp_path / "plain.npy"):
        pytest.skip("this file system keeps files in memory")
    forget([str(tmp_path / "x.npy")])
    assert resident(tmp_path / "x.npy") == 0.0
    assert int(source.images.sum()) == source.images.size


def test_files_are_forgotten_and_read_anew(folder: dalipipe.ImageFolder, tmp_path: Path) -> None:
    assert files_of(folder, np.array([0, 1, 0])) == [folder.paths[0], folder.paths[1]]
    before = Path(folder.paths[0]).read_bytes()
    forget([folder.paths[0], str(tmp_path / "no such file")])
    assert Path(folder.paths[0]).read_bytes() == before
    assert files_of(dalipipe.Arrays(np.zeros((2, 3, 3, 3), np.uint8)), np.array([0])) == []


# All of it ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["pictures", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "pictures")]
)
def test_explained(every: dict[str, dalipipe.DataLoader], kind: str) -> None:
    loader, seen, told = every[kind], [], []
    state, threads = loader.state_dict(), threading.active_count()
    shares: list[float] = []

    def progress(what: str, share: float) -> None:
        told.append(what)
        shares.append(share)

    found = dalipipe.explain(loader, seen.append, steps=12, epoch=2, progress=progress)
    assert loader.state_dict() == state
    assert kind == "map" or threading.active_count() <= threads, "no thread is left but the data set's own"
    assert {type(batch).__name__ for batch in seen} == {"Batch"}
    total = sum(part.value for part in (found.compute_ms, found.prep_stall_ms, found.fetch_stall_ms, found.copy_ms))
    assert found.step_ms.value == pytest.approx(total, rel=1e-12)
    assert found.bottleneck in {stage.name for stage in found.stages}
    assert found.stages[0].name == ("item" if kind == "map" else "read") and found.stages[-1].name == "step"
    assert {len(times) for times in found.steps_ms.values()} == {12}
    times = [what_if.step_ms.value for what_if in found.what_ifs]
    assert times == sorted(times) and len(times) >= 3
    assert Explanation.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    assert set(told) >= {"reading", "stages"} and all(0 <= share <= 1 for share in shares)


def test_changes_that_are_tried(folder: dalipipe.ImageFolder) -> None:
    loader = pictures(folder, num_workers=1, decoder="pillow")
    walks = Walks(loader, 0, 4, 1 << 30)
    train = {"step": Measured(np.full(3, 1e-3), 1.0)}
    now = setting_of(walks, {**walks.stages(batches=4), **train}, 2.0)
    cached = setting_of(walks, {**walks.stages(walks.held, batches=4), **train}, 2.0)
    tried = {change.name: change for change in Changes(walks, now, cached).tried()}
    expected = {"the native decoder", "keeping pictures in memory", "packing in tiles", "packing as pixels"}
    assert expected <= set(tried)
    assert tried["the native decoder"].how == 'decoder="native"'
    for name in ("keeping pictures in memory", "packing as pixels"):
        assert "decode" not in tried[name].setting.stages or not tried[name].setting.stages["decode"].seconds.any()
    for change in tried.values():
        course = change.setting.course(np.linspace(0, 1, 50, endpoint=False))
        assert np.isfinite(course.steps_s).all() and course.steps_s.sum() > 0
    names = {change.name for change in Changes(walks, now, cached).calculated()}
    assert (
        names == {"faster storage", "a training step twice as fast", "keeping 8 batches ready"}
        or torch.cuda.is_available()
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, 12), TypeError, "step must be a function"),
        ((print, 5), ValueError, "steps must be at least 12, got 5"),
    ],
)
def test_arguments_are_checked(
    folder: dalipipe.ImageFolder, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    step, steps = arguments
    with pytest.raises(error, match=message):
        dalipipe.explain(pictures(folder), step, steps=steps)


def test_what_the_step_raises_ends_it(folder: dalipipe.ImageFolder) -> None:
    threads = threading.active_count()

    def step(batch: Any) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        dalipipe.explain(pictures(folder), step, steps=12)
    assert threading.active_count() <= threads


# Truth: benchmarks/explain_truth.py draws 100 of these ----------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dalipipe.ImageFolder:
    return explain_truth.pictures(tmp_path_factory.mktemp("truth"))


@pytest.mark.parametrize(
    ("station", "part"),
    [
        ("decode", "prep_stall_ms"),
        pytest.param("read", "fetch_stall_ms", marks=pytest.mark.slow),
        pytest.param("augment", "prep_stall_ms", marks=pytest.mark.slow),
        pytest.param("step", "compute_ms", marks=pytest.mark.slow),
    ],
)
def test_what_was_put_in_is_found(small: dalipipe.ImageFolder, station: str, part: str) -> None:
    """By far the longest: named, and in the right part of the step."""
    delays = {name: explain_truth.Delay("none", 0.0, 0) for name in explain_truth.STATIONS}
    delays[station] = explain_truth.Delay("sleep", 15.0, 0)
    case = explain_truth.Case.of(small, delays, 1e4)
    with explain_truth.injected(delays, 1e4):
        found = investigate(case.loader, case.step, steps=12, tries=False).explanation()
    case.loader.close()
    assert found.bottleneck == station
    assert found.step_ms.value >= 14.0
    assert getattr(found, part).value >= 0.5 * found.step_ms.value
    by_name = {stage.name: stage for stage in found.stages}
    assert by_name[station].occupancy > 0.6 and by_name[station].p50_ms >= 15.0


@pytest.mark.slow
def test_random_settings_are_judged(small: dalipipe.ImageFolder) -> None:
    """How well is for the benchmark to say, on a quiet machine."""
    cases = []
    for seed in (0, 30):
        delays = explain_truth.drawn(seed, ("sleep", "throttle"), 20.0, 80.0)
        case = explain_truth.Case.of(small, delays, 1e4)
        with explain_truth.injected(delays, 1e4):
            cases.append(explain_truth.judge(case, steps=24))
        case.loader.close()
        assert sum(cases[-1]["off"].values()) == pytest.approx(0.0, abs=1e-9), "all of the step is attributed"
        assert set(cases[-1]["predictions"]) == {name for name, delay in delays.items() if delay.kind != "none"}
        assert explain_truth.line(0, cases[-1])
    summary = explain_truth.summary(cases)
    assert summary["settings"] == 2 and 0 <= summary["what_if_median"] < 0.5
    assert summary["bottleneck_right"] >= 0.5
