"""Settings chosen while a training runs: the search on made-up machines; loaders, whose batches it must not touch."""

from __future__ import annotations

import gc
import itertools
import json
import math
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st

import dalipipe
from dalipipe import autotune, cores, pipeline
from dalipipe.autotune import LEAST_BATCHES, Section, Settings, Tuner, best_ahead, ladder, score, waits
from dalipipe.loader import DataLoader, StateMismatchError
from dalipipe.ops import image as ops
from dalipipe.sources.base import Source

POLICY = dalipipe.Policy([ops.RandomCrop(8), ops.HorizontalFlip(), ops.Contrast(p=0.5), ops.Normalize()])
N, BATCH = 403, 2


# The search ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 300))
def test_threads_worth_telling_apart(cores: int) -> None:
    numbers = ladder(cores)
    assert numbers == sorted(set(numbers)) and cores in numbers
    assert numbers[0] == 1 and 1.3 * cores < numbers[-1] <= 2 * cores
    assert all(b <= 2 if a == 1 else b <= 1.5 * a for a, b in itertools.pairwise(numbers))


class Machine:
    """Batches take serial + work / threads, up to ``cores``, and ``each`` for every thread; a share is noise."""

    def __init__(self, cores: int, *, serial: float, work: float, each: float, noise: float = 0.0, seed: int = 0):
        self.cores, self.serial, self.work, self.each, self.noise = cores, serial, work, each, noise
        self.random = np.random.default_rng(seed)

    def time_s(self, threads: int) -> float:
        return self.serial + self.work / min(threads, self.cores) + self.each * threads

    def section(self, threads: int) -> Section:
        noise = 1 + self.noise * self.random.exponential(size=6)
        return Section(10, 2, times_s=(self.time_s(threads) * noise).tolist())

    def tune(self, tuner: Tuner) -> int:
        trials = 0
        while (wanted := tuner.next()) is not None:
            section = self.section(wanted.threads)
            tuner.add(wanted, section, math.fsum(section.times_s))
            trials += 1
        return trials


machines = st.builds(
    Machine,
    st.integers(1, 64),
    serial=st.floats(0, 0.02),
    work=st.floats(0.01, 1.0),
    each=st.floats(0, 0.002),
    noise=st.sampled_from([0.0, 0.02, 0.05]),
    seed=st.integers(0, 1000),
)


@settings(deadline=None)
@given(machines)
def test_finds_what_is_nearly_best(machine: Machine) -> None:
    tuner = Tuner(Settings(machine.cores), threads=ladder(machine.cores), budget_s=1e9)
    trials = machine.tune(tuner)
    times = {threads: machine.time_s(threads) for threads in ladder(machine.cores)}
    chosen = tuner.settings.threads
    assert tuner.settled and tuner.found and tuner.reason == "measured"
    assert times[chosen] <= min(times.values()) * (1.025 + 2 * machine.noise)
    assert trials <= len(times) + 3 * 3
    if not machine.noise:
        assert all(times[fewer] > min(times.values()) for fewer in times if fewer < chosen)
    json.dumps(tuner.summary())


def test_the_tail_counts() -> None:
    steady, jumpy = [0.011] * 20, [0.009] * 18 + [0.025] * 2
    assert np.mean(steady) > np.mean(jumpy) and score(steady) < score(jumpy)
    tuner = Tuner(Settings(1), threads=[1, 2])
    while (wanted := tuner.next()) is not None:
        tuner.add(wanted, Section(10, 2, times_s=steady if wanted.threads == 2 else jumpy), 0.1)
    assert tuner.settings.threads == 2


@pytest.mark.parametrize(("budget_s", "trials", "threads"), [(1e-6, 1, 2), (9.0, 4, 4), (1e9, 14, 8)])
def test_a_budget_ends_it_with_the_best_so_far(budget_s: float, trials: int, threads: int) -> None:
    machine = Machine(8, serial=0, work=0.8, each=0.0)  # trials of 2, 1, 3, 4 threads take 2.4, 4.8, 1.6, 1.2 s
    tuner = Tuner(Settings(2), threads=ladder(8), budget_s=budget_s)
    assert machine.tune(tuner) == trials
    assert tuner.settled and tuner.spent_s <= budget_s + 6 * 0.8
    assert tuner.settings.threads == threads


def test_the_start_stays_until_it_is_compared_with_another() -> None:
    """Whatever ends trials early: where tiles are decoded is not changed for what was tried alone."""
    tuner = Tuner(Settings(4), threads=ladder(4), places=True, budget_s=1.0)
    tuner.on("cuda")
    first = tuner.next()
    assert first == Settings(4, tiles_on="device")
    tuner.add(first, Section(10, 2, times_s=[0.1] * 5), 3.0)
    assert tuner.next() is None and tuner.settings == Settings(4, tiles_on="device")
    early = Tuner(Settings(4), threads=ladder(4), places=True)
    early.add(Settings(4, tiles_on="host"), Section(10, 2, times_s=[0.1] * 5), 0.1)
    assert early.settings.tiles_on == "device"


def test_trials_that_tell_nothing_cost_no_budget_and_end_at_last() -> None:
    def silent() -> Section:
        return Section(10, 2, waited=True)

    tuner = Tuner(Settings(4), threads=ladder(4), ahead=True, budget_s=1.0)
    for _ in range(5):
        assert not tuner.add(tuner.next() or Settings(1), silent(), 100.0)
    assert not tuner.settled and tuner.spent_s == 0.0 and tuner.next() == Settings(4)
    assert tuner.add(Settings(4), Section(10, 2, times_s=[0.1] * 5), 0.1)
    for _ in range(6):  # several epochs'
        assert not tuner.settled
        tuner.add(tuner.next() or Settings(1), silent(), 100.0)
    assert tuner.settled and tuner.next() is None and tuner.settings == Settings(4)
    assert tuner.reason == "the training is slower than the loader" and tuner.spent_s == pytest.approx(0.1)


def test_what_is_said_of_trials_holds_at_any_moment() -> None:
    """`summary` is asked for by other threads: there is no setting without its times."""
    tuner = Tuner(Settings(1), threads=[1])

    class Watched(dict[Settings, list[list[float]]]):
        def __setitem__(self, key: Settings, value: list[list[float]]) -> None:
            super().__setitem__(key, value)
            tuner.summary()

        def setdefault(self, key: Settings, default: Any = None) -> Any:
            self[key] = super().get(key, default)
            return self[key]

    tuner._tried = Watched()
    for _ in range(2):
        tuner.add(Settings(1), Section(10, 2, times_s=[0.1] * 5), 0.1)
    assert tuner.summary()["tried"][0]["trials"] == 2


def test_where_tiles_are_decoded_is_tried_on_cuda_alone() -> None:
    def tuned(device: str, host_s: float) -> Tuner:
        tuner = Tuner(Settings(4), threads=ladder(4), places=True)
        tuner.on(device)
        while (wanted := tuner.next()) is not None:
            a_batch = (host_s if wanted.tiles_on == "host" else 0.02) + 0.04 / wanted.threads
            tuner.add(wanted, Section(10, 2, times_s=[a_batch] * 5), 0.1)
        return tuner

    assert tuned("cuda", 0.5).settings == Settings(8, tiles_on="device")
    assert tuned("cuda", 0.001).settings == Settings(8, tiles_on="host")
    assert tuned("cuda", 0.02).settings.tiles_on == "host", "as good: the device's memory is better used otherwise"
    assert {row["tiles_on"] for row in tuned("cuda", 0.5).summary()["tried"]} == {"device", "host"}
    on_cpu = tuned("cpu", 0.001)
    assert on_cpu.settings == Settings(8, tiles_on="device") and "tiles_on" not in on_cpu.summary()


def test_nothing_to_choose_is_settled() -> None:
    tuner = Tuner(Settings(3, 5))
    tuner.on("cuda")
    assert tuner.settled and not tuner.found and tuner.next() is None and tuner.reason == "all is given"
    tuner = Tuner(Settings(3), threads=[1, 2, 3], ahead=True, budget_s=0)
    assert tuner.settled and not tuner.begin() and tuner.settings == Settings(3)


def test_what_was_found_elsewhere_is_taken_where_nothing_was_given() -> None:
    found = Settings(7, 5, "host")
    for threads, ahead, places in [(None, False, False), ([1, 2, 7], False, False), (None, True, True)]:
        tuner = Tuner(Settings(2, 3), threads=threads, ahead=ahead, places=places)
        tuner.take(found, "elsewhere")
        expected = Settings(7 if threads else 2, 5 if ahead else 3, "host" if places else "device")
        assert tuner.settings == expected and tuner.found and tuner.next() is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60), st.integers(1, 8))
def test_waiting_is_what_a_queue_makes_of_it(times: list[tuple[float, float]], ahead: int) -> None:
    """Against a loader and a training that take turns, an instant after the other."""
    work, steps = (np.array(column) for column in zip(*times, strict=True))
    found = waits(work, steps, ahead)
    clock, made, queue, taken, expected = 0.0, 0, 0, 0, list[float]()
    finishes, hungry_since, busy_until = work[0], 0.0, -1.0
    held = False  # a finished batch without room
    while taken < len(work):
        if made < len(work) and not held and finishes <= clock:
            held = True
        if held and queue < ahead:
            held, queue, made = False, queue + 1, made + 1
            finishes = clock + (work[made] if made < len(work) else math.inf)
            continue
        if busy_until <= clock and queue:
            expected.append(clock - hungry_since)
            queue, busy_until = queue - 1, clock + steps[taken]
            hungry_since, taken = busy_until, taken + 1
            continue
        clock = min(at for at in (finishes, busy_until) if at > clock)
    assert np.allclose(found, expected)
    assert waits(work, steps, ahead + 1).sum() <= found.sum() + 1e-9


def test_more_batches_wait_where_times_jump() -> None:
    random = np.random.default_rng(0)
    jumpy = np.where(random.uniform(size=200) < 0.1, 0.06, 0.005)
    assert best_ahead([0.02] * 50, [0.03] * 50) == 2, "the training is slower anyway"
    assert best_ahead([0.03] * 50, [0.02] * 50) == 2, "the loader is slower anyway"
    assert best_ahead(jumpy.tolist(), [0.015] * 50) > 3
    assert best_ahead(jumpy.tolist(), [0.015] * 50, most=3) == 3
    assert best_ahead(jumpy.tolist(), [0.015] * 50, most=1) == 2
    assert best_ahead([0.02] * 50, [0.03] * 50 + [60.0]) == 2, "a compilation is no step"


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_trial_leaves_out_where_threads_fill_and_run_dry(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "_SECTION_S", 0.0)
    section, steps, in_flight = Section(40, depth), iter(range(100)), 0
    for _ in section.of(steps):
        in_flight += 1
        if in_flight == depth:
            section.made()
            in_flight -= 1
    for _ in range(in_flight):
        section.made()
    assert len(section.times_s) == 4 and next(steps) == section.begun == 2 * depth + 4
    short = Section(3, depth)
    assert len(list(short.of(iter(range(100))))) == 3 == len(list(Section(9, depth).of(iter(range(3)))))


# Loaders ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several trials an epoch of 200 batches."""
    monkeypatch.setattr(autotune, "_SECTION_S", 0.0)


@pytest.fixture(scope="module")
def arrays() -> dalipipe.Arrays:
    rng = np.random.default_rng(0)
    return dalipipe.Arrays(rng.integers(0, 256, (N, 10, 12, 3), dtype=np.uint8), np.arange(N) % 5)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dalipipe.ImageFolder:
    """Small JPEG files, of which some are damaged."""
    from PIL import Image

    root = tmp_path_factory.mktemp("files")
    for i in range(120):
        path = root / f"class_{i % 3}" / f"{i:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(12 + i % 7, 20 - i % 5, seed=i)).save(path, quality=80)
        if i % 31 == 17:
            path.write_bytes(path.read_bytes()[: 40 + i])
    return dalipipe.ImageFolder(root)


def make(dataset: Any, batch_size: int = BATCH, **kw: Any) -> DataLoader:
    return DataLoader(dataset, batch_size, **{"policy": POLICY, "seed": 5, "device": "cpu", "shuffle": True, **kw})


def batches(one: Any, most: int | None = None) -> list[tuple[Any, ...]]:
    out = []
    for number, batch in enumerate(one):
        out.append((batch.indices.tolist(), *(value.clone() for value in batch)))
        if number + 1 == most:
            break
    return out


def equal(a: list[tuple[Any, ...]], b: list[tuple[Any, ...]]) -> bool:
    return len(a) == len(b) and all(
        x[0] == y[0] and all(torch.equal(u, v) for u, v in zip(x[1:], y[1:], strict=True))
        for x, y in zip(a, b, strict=True)
    )


def trials(one: DataLoader) -> int:
    return sum(row["trials"] for row in one.stats()["tuned"]["tried"])


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dalipipe")]


def wait_for_threads() -> None:
    give_up = time.monotonic() + 5
    while our_threads() and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not our_threads()


@pytest.mark.usefixtures("short_trials")
@pytest.mark.parametrize("kw", [{}, {"prefetch_factor": 1}, {"num_workers": 1}, {"shards": "exact"}])
def test_batches_are_those_of_fixed_settings(arrays: Any, kw: dict[str, Any]) -> None:
    tuned, fixed = make(arrays, **kw), make(arrays, autotune=False, **kw)
    for _ in range(3):
        assert equal(batches(tuned), batches(fixed))
    assert trials(tuned) >= (1 if "num_workers" in kw else 3)
    assert tuned.stats()["tuned"]["reason"].startswith("measured") == tuned.stats()["tuned"]["settled"]
    assert fixed.stats()["tuned"] == {
        "num_workers": fixed.threads,
        "prefetch_factor": kw.get("prefetch_factor", 2),
        "settled": True,
        "reason": "autotune=False",
        "seconds": 0.0,
        "tried": [],
    }
    tuned.close()
    wait_for_threads()


@pytest.mark.usefixtures("short_trials")
def test_a_state_at_any_step_of_the_trials_goes_on_exactly(arrays: Any) -> None:
    everything = batches(make(arrays, autotune=False))
    running, states = make(arrays), []
    for _ in running:
        states.append(running.state_dict())
        assert len(json.dumps(states[-1])) < 1024
    for number, given_so_far in enumerate((1, 8, 11, 47, 60, len(everything) - 1)):
        for other in (make(arrays), make(arrays, **({"autotune": False}, {"num_workers": 3})[number % 2])):
            other.load_state_dict(json.loads(json.dumps(states[given_so_far - 1])))
            assert equal(batches(other), everything[given_so_far:])
            other.close()


@settings(max_examples=4, deadline=None)
@given(st.data())
def test_whatever_is_done_in_the_midst_of_trials(arrays: Any, data: st.DataObject) -> None:
    """Breaking off, going on, pickling, closing, setting epochs: as with fixed settings."""
    autotune_section_s, autotune._SECTION_S = autotune._SECTION_S, 0.0
    try:
        pair = [make(arrays), make(arrays, autotune=False)]
        for _ in range(data.draw(st.integers(1, 4))):
            most = data.draw(st.integers(1, 60) | st.none())
            found, expected = (batches(one, most) for one in pair)
            assert equal(found, expected)
            states = [{**one.state_dict(), "tuned": None} for one in pair]
            assert states[0] == states[1]
            what = data.draw(st.sampled_from(["nothing", "close", "pickle", "load", "set_epoch", "again"]))
            if what == "close":
                for one in pair:
                    one.close()
            elif what == "pickle":
                pair = [pickle.loads(pickle.dumps(one)) for one in pair]
            elif what == "load":
                for one in pair:
                    one.load_state_dict(one.state_dict())
            elif what == "set_epoch":
                for one in pair:
                    one.set_epoch(7)
            elif what == "again":
                pair = [one.again() for one in pair]
    finally:
        autotune._SECTION_S = autotune_section_s
    for one in pair:
        one.close()


@pytest.mark.usefixtures("short_trials")
@pytest.mark.parametrize("on_error", ["skip", "substitute"])
def test_bad_samples_are_dealt_with_as_ever(files: Any, on_error: Any) -> None:
    pair = [make(files, on_error=on_error, autotune=on, max_bad=0.5) for on in (True, False)]
    for _ in range(3):
        assert equal(batches(pair[0]), batches(pair[1]))
    assert trials(pair[0]) > 0
    tuned, fixed = (sorted(bad.index for bad in one.bad_samples) for one in pair)
    assert tuned == fixed and len(tuned) == 4
    for one in pair:
        one.close()


@pytest.mark.usefixtures("short_trials")
def test_a_bad_sample_raises_at_its_batch_and_leaves_nothing_behind(files: Any) -> None:
    given = []
    for on in (True, False):
        one, indices = make(files, autotune=on), list[Any]()
        with pytest.raises(dalipipe.SampleError) as raised:
            for batch in one:
                indices.append(batch.indices.tolist())
        given.append((indices, str(raised.value)))
        one.close()
    assert given[0] == given[1]
    wait_for_threads()


@pytest.mark.usefixtures("short_trials")
def test_iterators_dropped_in_the_midst_of_trials_end_their_threads(arrays: Any) -> None:
    one = make(arrays)
    for most in range(1, 60, 6):
        batches(one, most)
        two = [iter(one), iter(one)]  # one of them tries
        for _ in range(4):
            for each in two:
                next(each)
        del two, each
    gc.collect()
    one.close()
    del one
    wait_for_threads()


class Slow(Source):
    """Records that take time to read, less with more threads."""

    in_memory = False

    def __init__(self, arrays: Any, seconds: dict[int, float]) -> None:
        self._arrays, self._seconds = arrays, seconds
        self.schema, self.classes = arrays.schema, arrays.classes
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self._arrays)

    def read(self, indices: np.ndarray, *, threads: int = 1, allocate: Any = None) -> Any:
        self.asked.append(threads)
        time.sleep(self._seconds.get(threads, 0.03))
        return self._arrays.read(indices, threads=threads, allocate=allocate)

    def fingerprint(self) -> str:
        return self._arrays.fingerprint()


@pytest.mark.usefixtures("short_trials")
def test_chooses_the_number_of_threads_that_is_fastest(arrays: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "threads", lambda: 2)
    for fastest in (1, 3):
        source = Slow(arrays, {2: 0.01, fastest: 0.002})
        one = make(source, 1)
        batches(one)
        tuned = one.stats()["tuned"]
        assert tuned["settled"] and tuned["num_workers"] == fastest == one.threads, tuned
        assert set(source.asked[-100:]) == {fastest}
        assert {row["num_workers"] for row in tuned["tried"]} >= {1, 2, 3}
        source.asked.clear()
        state = one.state_dict()
        assert state["tuned"] == {
            "cores": 2,
            "num_workers": fastest,
            "prefetch_factor": tuned["prefetch_factor"],
            "tiles_on": "device",
        }

        resumed = make(source, 1)
        resumed.load_state_dict(state)
        assert resumed.threads == fastest and resumed.stats()["tuned"]["reason"] == "taken from a saved state"
        assert resumed.state_dict() == state
        batches(resumed, 20)
        batches(one.again(shuffle=False), 20)
        batches(pickle.loads(pickle.dumps(one)), 20)
        assert set(source.asked) == {fastest}
        assert one.again(num_workers=4).threads == 4 and one.again(autotune=False).threads == 2
        elsewhere = make(source, 1)
        with monkeypatch.context() as patched:
            patched.setattr(cores, "threads", lambda: 6)
            elsewhere = make(source, 1)
            elsewhere.load_state_dict(state)
        assert elsewhere.threads == 6 and not elsewhere.stats()["tuned"]["settled"]
        kept = make(source, 1, num_workers=5, prefetch_factor=3)
        kept.load_state_dict(state)
        assert kept.threads == 5 and kept.stats()["tuned"]["prefetch_factor"] == 3


def test_states_of_before_load_and_damaged_ones_are_told(arrays: Any) -> None:
    one = make(arrays)
    state = one.state_dict()
    assert state.pop("tuned") is None
    one.load_state_dict(state)
    for damaged in (3, {}, {"cores": 2, "num_workers": 0, "prefetch_factor": 2, "tiles_on": "host"}, "x"):
        with pytest.raises(StateMismatchError, match="tuned"):
            one.load_state_dict({**state, "tuned": damaged})


@pytest.mark.parametrize("wrong", ["yes", -1, math.inf, math.nan, None, [3]])
def test_wrong_budgets(arrays: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match="autotune must be True, False or seconds"):
        make(arrays, autotune=wrong)


def test_short_epochs_and_given_settings_try_nothing(arrays: Any) -> None:
    short = make(arrays, math.ceil(N / (4 * LEAST_BATCHES - 1)))
    assert len(short) < 4 * LEAST_BATCHES
    given_all = make(arrays, num_workers=3, prefetch_factor=2)
    for one in (short, given_all, make(arrays, autotune=0)):
        batches(one)
        assert trials(one) == 0 and one.state_dict()["tuned"] is None
    assert not short.stats()["tuned"]["settled"]
    assert given_all.stats()["tuned"]["reason"] == "all is given" and given_all.threads == 3


@pytest.mark.usefixtures("short_trials")
def test_a_budget_in_seconds(arrays: Any) -> None:
    one = make(arrays, autotune=1e-6)
    batches(one)
    tuned = one.stats()["tuned"]
    assert trials(one) == 1 and tuned["settled"] and tuned["reason"] == "measured, as far as 1e-06 s went"


@pytest.mark.usefixtures("short_trials")
def test_a_slow_training_finds_no_more_batches_waiting_than_there_is_room_for(
    arrays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_batch = sum(value.nbytes for value in next(iter(make(arrays))))
    monkeypatch.setattr(pipeline, "_ROOM_BYTES", 3 * a_batch + 1)
    one, most = make(arrays), 0
    for _ in one:
        most = max(most, one.stats()["ready_batches"])
        time.sleep(0.004)
    tuned = one.stats()["tuned"]
    assert most <= 3
    assert not tuned["settled"] and tuned["reason"] == "the training is slower than the loader", tuned
    assert one.state_dict()["tuned"] is None and not tuned["tried"]


@pytest.mark.usefixtures("short_trials")
def test_a_cache_is_filled_first(files: Any) -> None:
    one = make(files, on_error="skip", max_bad=0.5, cache="ram")
    plain = make(files, on_error="skip", max_bad=0.5, autotune=False)
    for epoch in range(4):
        assert equal(batches(one), batches(plain))
        assert epoch or not trials(one)
    assert trials(one)
    one.close()


@pytest.mark.usefixtures("short_trials")
def test_phases_and_batches_of_tokens(arrays: Any) -> None:
    phases = dalipipe.Phases({0: POLICY, 1: dalipipe.Policy([ops.CenterCrop(8), ops.Normalize()])})
    pair: list[Any] = [make(arrays, policy=phases, autotune=on) for on in (True, False)]
    for _ in range(3):
        assert equal(batches(pair[0]), batches(pair[1]))
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(["a", "b", "c"], random.integers(1, 9))) for _ in range(600)]
    source = dalipipe.Text(texts)
    cut = dalipipe.TokenBatches(source.lengths, 24, multiple=2)
    pair = [DataLoader(source, batch_sampler=cut, seed=1, device="cpu", autotune=on) for on in (True, False)]
    assert equal(batches(pair[0]), batches(pair[1])) and trials(pair[0]) > 0


def test_where_tiles_are_decoded_is_open_only_where_there_may_be_some(
    arrays: Any, jpeg_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = dalipipe.ImageFolder(jpeg_folder(4))
    packs = {}
    for kind in ("tiled", "raw"):
        dalipipe.pack(folder, tmp_path / kind, format=kind)
        packs[kind] = dalipipe.Packed(tmp_path / kind)
    for source, places in ((arrays, 1), (folder, 1), (packs["raw"], 1), (packs["tiled"], 2)):
        assert len(make(source)._tuner._places) == places, source
    assert len(make(packs["tiled"], decoder="pillow")._tuner._places) == 1


def test_where_pictures_are_decoded(files: Any) -> None:
    config = make(files)._config(0)
    assert config.tiles_on == "device" and config.decodes_on == config.output.device
    on_host = type(config)(**{**vars(config), "tiles_on": "host"})
    assert on_host.decodes_on == torch.device("cpu")
