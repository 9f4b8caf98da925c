"""`dalipipe.bench`: contenders in processes of their own, verified and then timed in turns; its table and picture."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import dalipipe
from dalipipe import bench
from dalipipe.bench import Entry, comparing, report, usage
from dalipipe.bench.comparison import Comparison, Outcome
from dalipipe.bench.contenders import CONTENDERS, OURS
from dalipipe.bench.contenders.base import drawn_box
from dalipipe.bench.process import ContenderError, Process
from dalipipe.bench.serving import Server
from dalipipe.bench.verify import Difference, check_training, reference
from dalipipe.bench.work import Work
from dalipipe.cli import app

Folder = Callable[..., Path]

# Contenders that need no torch, so that their processes start at once. The reference is theirs, too.
FAKES = """
    import os, subprocess, sys, time
    import numpy as np
    from dalipipe.bench.contenders.base import Contender

    class Images:
        dtype, device = "torch.float32", "cpu"
        def __init__(self, array): self.array, self.shape = array, array.shape
        def __len__(self): return len(self.array)
        def float(self): return self
        def contiguous(self): return self
        def numpy(self): return self.array
        def mean(self): return self.array.mean()
        def std(self): return self.array.std()

    def pixels(count, work):
        return np.random.default_rng(0).normal(size=(count, 3, work.size_px, work.size_px)).astype(np.float32)

    class Fake(Contender):
        delay_s = 0.002
        ahead = 1
        @classmethod
        def candidates(cls, work): return [{}]
        def load(self): return "1.2"
        def batches(self):
            images = Images(pixels(self.work.batch_size, self.work))
            while True:
                time.sleep(self.settings.get("delay_s", self.delay_s))
                yield images, list(range(self.work.batch_size))
        def evaluation(self):
            return Images(pixels(self.work.evaluated, self.work)), self.work.labels[:self.work.evaluated]

    class Slow(Fake):
        delay_s = 0.02
        def load(self): print("a banner that is no answer"); return "2"

    class Missing(Fake):
        def load(self): import a_library_that_is_not_there

    class Broken(Fake):
        def load(self): import another_library_that_is_not_there

    class Other(Fake):
        remark = "other pixels"
        def evaluation(self):
            images, labels = super().evaluation()
            return Images(images.array + np.float32(0.01)), labels

    class Wrong(Fake):
        def evaluation(self):
            images, labels = super().evaluation()
            return Images(images.array * np.float32(1.5)), labels

    class Mixed(Fake):
        def evaluation(self):
            images, labels = super().evaluation()
            return images, list(labels)[::-1]

    class Dies(Fake):
        def batches(self):
            yield from [next(super().batches())]
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(3)

    class Tuned(Fake):
        @classmethod
        def candidates(cls, work): return [{"delay_s": 0.03}, {"delay_s": "much"}, {"delay_s": 0.001}]

    class Faltering(Fake):
        @classmethod
        def candidates(cls, work): return [{"delay_s": 0.001, "batches": 5}, {"delay_s": 0.01, "batches": 1000}]
        def batches(self):
            import fcntl
            self.alone = open(os.path.join(self.work.folder, "alone"), "w")
            fcntl.flock(self.alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(os.path.join(os.path.dirname(__file__), "pid"), "w") as file: file.write(str(os.getpid()))
            for _, pair in zip(range(self.settings["batches"]), super().batches()): yield pair
            raise RuntimeError("out of luck")

    class Restless(Fake):
        def batches(self):
            import threading
            def spin():
                while True: pass
            threading.Thread(target=spin, daemon=True).start()
            yield from super().batches()

    class Empty(Fake):
        def batches(self): yield from ()

    class Counting(Fake):
        def load(self): return f"{len(os.sched_getaffinity(0))} cores, {os.environ.get('OMP_NUM_THREADS')}"

    class Part(Fake):
        def load(self): import a_namespace_that_is_not_there.library

    class Own(Fake):
        def load(self): raise ModuleNotFoundError("No module named 'fakes'", name="fakes")

    class Bursts(Fake):
        cycle = 8
        def batches(self):
            images = Images(pixels(self.work.batch_size, self.work))
            while True:
                time.sleep(0.08)
                for _ in range(self.cycle):
                    yield images, list(range(self.work.batch_size))

    class Parent(Fake):
        def prepare(self):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            open(os.path.join(self.work.folder, "child"), "w").write(str(child.pid))

    class Stuck(Fake):
        def prepare(self): time.sleep(60)
"""


def entry(name: str, library: str = "a_library_that_is_not_there") -> Entry:
    return Entry(f"fakes:{name}", library, f"pip install {name.lower()}")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """That which fakes do."""
    (tmp_path / "fakes.py").write_text(textwrap.dedent(FAKES))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fakes", raising=False)

    def expected(work: Work) -> torch.Tensor:
        shape = (work.evaluated, 3, work.size_px, work.size_px)
        return torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))

    monkeypatch.setattr(comparing, "reference", expected)
    return Work(("a", "b", "c"), (0, 1, 1), size_px=4, batch_size=8, cores=1, folder=str(tmp_path))


def test_contenders_take_turns(work: Work) -> None:
    said: list[str] = []
    contenders = {OURS: entry("Fake"), "slow": entry("Slow"), "other": entry("Other")}
    found = bench.compare(work, images=40, rounds=2, sweep=False, contenders=contenders, progress=said.append)
    assert set(found.outcomes) == {OURS, "slow", "other"} and not found.failed and not found.absent
    slow = found.outcomes["slow"]
    assert slow.version == "2" and len(slow.rates) == 2 and len(slow.batch_s) == 10
    assert max(slow.rates) <= 8 / 0.02 and slow.batch_ms(0.5) >= 20  # the sleeps are the least that it takes
    assert found.ratio(OURS, "slow") > 1.5
    assert slow.difference.is_exact and not found.outcomes["other"].difference.is_exact
    assert slow.peak_bytes > 2**20 and 0 < slow.imports_s <= slow.first_batch_s
    turns = [line.split(":")[0] for line in said if "round" in line]
    assert turns == ["slow", "other", OURS, "other", OURS, "slow"]  # another one first each time
    summary = json.loads(json.dumps(found.summary()))
    assert summary["contenders"]["other"]["remark"] == "other pixels" and summary["ratios"].keys() == {
        "over slow",
        "over other",
    }


def test_absent_and_failed_ones_are_listed(work: Work) -> None:
    contenders = {
        OURS: entry("Fake"),
        **{name: entry(name) for name in ("Missing", "Broken", "Wrong", "Mixed", "Dies")},
    }
    found = bench.compare(work, images=1, rounds=1, sweep=False, contenders=contenders)
    assert list(found.outcomes) == [OURS]
    assert found.absent == {"Missing": "pip install missing"}
    assert "another_library" in found.failed["Broken"]  # it is there, and something that it needs is not
    assert "by 0." in found.failed["Wrong"] and "expected at most 0.02" in found.failed["Wrong"]
    assert "labels [1, 1, 0]…, expected" in found.failed["Mixed"]
    assert found.failed["Dies"] == "its process ended: out of luck (exit status 3)"


def test_the_best_settings_are_found(work: Work) -> None:
    contenders = {OURS: entry("Fake"), "tuned": entry("Tuned")}
    found = bench.compare(work, images=1, rounds=1, contenders=contenders)
    outcome = found.outcomes["tuned"]
    assert outcome.settings == {"delay_s": 0.001}
    rates = [rate for _, rate in outcome.swept]
    assert rates[1] == 0 and 0 < rates[0] < rates[2]  # the second it refuses


def test_settings_are_tried_one_at_a_time_and_one_may_fail(work: Work) -> None:
    contenders = {OURS: entry("Fake"), "faltering": entry("Faltering")}
    found = bench.compare(work, images=1, rounds=1, contenders=contenders)
    outcome = found.outcomes["faltering"]
    assert outcome.settings["batches"] == 1000
    assert outcome.swept[0][1] == 0 < outcome.swept[1][1]


def test_who_fails_in_a_turn_is_closed_at_once(work: Work) -> None:
    pid, there = Path(work.folder) / "pid", []

    def progress(words: str) -> None:
        if words.startswith(f"{OURS}: round"):
            there.append(Path("/proc", pid.read_text()).exists())

    contenders = {OURS: entry("Fake"), "faltering": entry("Faltering")}
    found = bench.compare(work, images=1, rounds=1, sweep=False, contenders=contenders, progress=progress)
    assert there == [False] and list(found.outcomes) == [OURS]
    assert found.failed == {"faltering": "RuntimeError: out of luck"}


def test_nobody_is_left_to_time(work: Work) -> None:
    found = bench.compare(work, images=1, rounds=1, sweep=False, contenders={OURS: entry("Empty")})
    assert not found.outcomes and "StopIteration" in found.failed[OURS]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
def test_each_comes_after_each_other_equally_often(count: int) -> None:
    names = [f"loader {number}" for number in range(count)]
    rounds = [comparing.turn_order(names, number) for number in range(2 * count)]
    assert all(sorted(order) == names for order in rounds)
    assert Counter(order[0] for order in rounds) == dict.fromkeys(names, 2)
    assert Counter(pair for order in rounds for pair in pairwise(order)) == dict.fromkeys(permutations(names, 2), 2)


def test_nothing_is_timed_where_our_own_pixels_differ(work: Work) -> None:
    with pytest.raises(bench.OutputsDifferError, match="nothing was timed"):
        bench.compare(work, contenders={OURS: entry("Wrong"), "slow": entry("Slow")})


def test_wrong_arguments(work: Work) -> None:
    with pytest.raises(ValueError, match="no contender 'DALY'; there are: dalipipe, torch"):
        bench.compare(work, ["DALY"])
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        bench.compare(work, rounds=0)
    with pytest.raises(ValueError, match="cores must be at least 1, got 0"):
        Work(("a",), (0,), cores=0)
    with pytest.raises(ValueError, match="got 2 pictures and 1 labels"):
        Work(("a", "b"), (0,))
    assert "torchvision's GPU decoder" not in " ".join(name for name, one in CONTENDERS.items() if "cpu" in one.on)


def started(work: Work, name: str, **options: Any) -> Process:
    file = Path(work.folder) / "work.json"
    work.write(file)
    return Process(file, entry(name), {}, **options)


def test_a_process_ends_with_its_children(work: Work) -> None:
    with started(work, "Parent") as process:
        assert process.ask("prepare")["version"] == "1.2"
        child = int((Path(work.folder) / "child").read_text())
        assert child in usage.tree(process._process.pid)
        with pytest.raises(ContenderError, match="AttributeError"):
            process.ask("dance")
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(child, 0)
            time.sleep(0.02)
            if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":  # nobody here waits for it
                raise ProcessLookupError


def test_a_process_that_does_not_answer(work: Work) -> None:
    with started(work, "Stuck", timeout_s=0.3) as process, pytest.raises(ContenderError, match=r"no answer within 0 s"):
        process.ask("prepare")


def test_a_process_is_kept_to_its_cores(work: Work) -> None:
    with started(work, "Fake", cores=1) as process:
        process.ask("prepare")
        assert len(os.sched_getaffinity(process._process.pid)) == 1


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core is all there is")
def test_contenders_are_kept_to_the_works_cores(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(comparing.processor, "threads", lambda: 2)
    for cores, expected in ((1, "1 cores, 1"), (2, f"{len(os.sched_getaffinity(0))} cores, None")):
        asked, contenders = dataclasses.replace(work, cores=cores), {OURS: entry("Counting")}
        found = bench.compare(asked, images=1, rounds=1, sweep=False, contenders=contenders)
        assert found.outcomes[OURS].version == expected


def test_whole_bursts_are_timed(work: Work) -> None:
    """Else five batches, all of one burst, would seem to take no time."""
    with started(work, "Bursts") as process:
        process.start()
        found = process.run(5)
        assert found["items"] == 16 * 8 and found["seconds"] >= 2 * 0.08
        assert process.run(17)["items"] == 24 * 8


@pytest.mark.parametrize("name", [name for name, one in CONTENDERS.items() if "cpu" in one.on])
def test_workers_that_make_whole_batches_make_bursts(name: str) -> None:
    kind, work = CONTENDERS[name].contender(), Work(("a",), (0,), cores=16)
    settings = kind.candidates(work)[0]
    by_processes = name.startswith("torch ") or name in ("LitData", "WebDataset", "timm")
    assert kind(work, settings).cycle == (settings["num_workers"] if by_processes else 1)


def test_timing_begins_with_the_last_batch_that_is_skipped(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing slow lies between them, or batches pile up."""
    seen: list[str] = []

    def batches() -> Iterator[tuple[list[int], list[int]]]:
        while True:
            seen.append("batch")
            yield [0], [0]

    file = Path(work.folder) / "work.json"
    work.write(file)
    server = Server(str(file), "fakes:Fake", {})
    server.batches = batches()
    tree = usage.tree
    monkeypatch.setattr(usage, "tree", lambda pid: seen.append("all processes") or tree(pid))
    assert server.run(3, skipped=2)["items"] == 3
    assert seen == ["all processes", *["batch"] * 5, "all processes"]


def test_a_process_that_does_not_come_to_rest(work: Work) -> None:
    with started(work, "Restless") as process:
        process.start()
        process.timeout_s = 0.3
        with pytest.raises(ContenderError, match=r"does not come to rest.* expected at most 0\.1"):
            process.settle()


def test_a_loader_of_ones_own_is_found_where_this_python_finds_it(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.chdir(work.folder)
    monkeypatch.setattr(sys, "path", ["", *(path for path in sys.path if path != work.folder)])
    with started(work, "Fake") as process:
        assert process.ask("prepare")["version"] == "1.2"


@pytest.mark.parametrize(
    ("kind", "library", "missing", "absent"),
    [
        ("bench:Dali", "nvidia.dali", "nvidia.dali", True),
        ("bench:Dali", "nvidia.dali", "nvidia", True),
        ("bench:Dali", "nvidia.dali", "nvidia.cuda", False),
        ("bench:Spdl", "spdl", "spdl_io", False),
        ("bench:Spdl", "spdl", None, False),
        ("loaders.mine:Mine", "loaders", "loaders", False),  # its own module: it is not to be installed
        ("loaders.mine:Mine", "loaders.mine", "loaders.mine", False),
    ],
)
def test_which_missing_module_means_absent(kind: str, library: str, missing: str | None, absent: bool) -> None:
    assert Entry(kind, library, "").is_absent(missing) is absent


def test_a_part_of_a_library_is_absent_and_a_module_of_ones_own_has_failed(work: Work) -> None:
    library = "a_namespace_that_is_not_there.library"
    contenders = {OURS: entry("Fake"), "part": entry("Part", library), "own": entry("Own", "fakes")}
    found = bench.compare(work, images=1, rounds=1, sweep=False, contenders=contenders)
    assert found.absent == {"part": "pip install part"}
    assert found.failed == {"own": "ModuleNotFoundError: No module named 'fakes'"}


def test_which_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dali, torchs = CONTENDERS["DALI"], CONTENDERS["torch DataLoader, Pillow"]
    monkeypatch.delenv("PEERS_PYTHON", raising=False)
    assert dali.python == torchs.python == sys.executable
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEERS_PYTHON", "peers/bin/python")
    assert dali.python == str(tmp_path / "peers/bin/python") and torchs.python == sys.executable
    monkeypatch.setenv("NVIDIA_DALI_PYTHON", "python3.11")
    assert dali.python == "python3.11"


def test_an_interpreter_that_is_not_there(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_LIBRARY_PYTHON", "nowhere/python")
    contenders = {OURS: entry("Fake"), "elsewhere": entry("Fake", "a.library")}
    found = bench.compare(work, images=1, rounds=1, sweep=False, contenders=contenders)
    assert list(found.outcomes) == [OURS]
    assert "nowhere/python cannot be run (No such file" in found.failed["elsewhere"]
    assert "expected a Python that has a.library; set A_LIBRARY_PYTHON" in found.failed["elsewhere"]


def test_usage_is_of_the_whole_tree() -> None:
    burn = "import time\nt = time.process_time()\nwhile time.process_time() - t < 0.3: pass\n"
    held = "held = bytes(range(256)) * (1 << 17)\n"  # 32 MiB
    script = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\n{held}print(1, flush=True)\ninput()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline()
        assert usage.cpu_s(process.pid) >= 0.28  # a child's that has ended
        assert usage.pss_bytes(process.pid) > 32 << 20
        assert usage.tree(process.pid) == [process.pid] and process.pid in usage.tree(os.getpid())
    finally:
        process.communicate(b"\n")
    assert usage.cpu_s(process.pid) == usage.pss_bytes(process.pid) == 0


def test_work_is_spread_over_the_data(jpeg_folder: Folder, tmp_path: Path) -> None:
    source = dalipipe.ImageFolder(jpeg_folder(10))
    work = bench.work_of(source, 5, batch_size=2)
    assert [source.paths.index(path) for path in work.paths] == [0, 2, 4, 6, 8]
    assert work.labels == tuple(int(source.labels[at]) for at in (0, 2, 4, 6, 8)) and work.evaluated == 5
    assert len(bench.work_of(source, 99).paths) == 10
    work.write(tmp_path / "work.json")
    assert Work.read(tmp_path / "work.json") == work
    absent = dalipipe.ImageFolder.from_samples([("/nowhere/a.jpg", 0)])
    with pytest.raises(ValueError, match=r"/nowhere/a\.jpg is none here"):
        bench.work_of(absent)


def test_a_picture_that_cannot_be_read_is_named(jpeg_folder: Folder) -> None:
    source = dalipipe.ImageFolder(jpeg_folder(4))
    Path(source.paths[2]).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"cannot read \S*class_1\S*0001\.jpg: .*; leave it out"):
        reference(bench.work_of(source))


def test_boxes_lie_within_the_picture() -> None:
    random.seed(3)
    shares = []
    for _ in range(3000):
        height, width = random.choice([(1, 1), (1, 900), (700, 2), (375, 500), (500, 333)])
        top, left, h, w = drawn_box(height, width)
        assert 0 <= top <= height - h and 0 <= left <= width - w and h > 0 and w > 0
        if (height, width) == (375, 500):
            shares.append(h * w / (375 * 500))
    assert min(shares) > 0.07 and 0.4 < np.mean(shares) < 0.56  # as torchvision's, mean 0.47


def test_a_training_batch_is_looked_at() -> None:
    work, expected = Work(("a",), (0,), size_px=4, batch_size=8), torch.randn(1, 3, 4, 4)
    expected = (expected - expected.mean()) / expected.std()
    good = {"shape": [8, 3, 4, 4], "dtype": "torch.float32", "device": "cpu", "labels": 8, "mean": 0.1, "std": 1.1}
    check_training(good, work, expected)
    for key, value in (("shape", [8, 4, 4, 3]), ("dtype", "torch.uint8"), ("device", "cuda:0"), ("labels", 7)):
        with pytest.raises(ContenderError, match="expected"):
            check_training({**good, key: value}, work, expected)
    for key, value in (("mean", 115.0), ("std", 58.0), ("std", 0.02), ("mean", float("nan"))):
        with pytest.raises(ContenderError, match="outputs differ"):
            check_training({**good, key: value}, work, expected)


# What is shown ------------------------------------------------------------------------------------------------------


def outcome(rates: list[float], **more: Any) -> Outcome:
    known: dict[str, Any] = {
        "settings": {"n": 2},
        "version": "3",
        "difference": Difference(0.0, 0.0),
        "prepared_s": 0.5,
        "first_batch_s": 1.25,
        "imports_s": 1.0,
        "rates": rates,
        "cpu_s_per_1000": [2.0] * len(rates),
        "batch_s": [0.01] * 98 + [0.03] * 2,
        "peak_bytes": 512 << 20,
    }
    return Outcome(**{**known, **more})


@pytest.fixture
def found() -> Comparison:
    other = outcome([50.0, 40.0, 60.0], difference=Difference(0.0123, 0.5), remark="of its own", swept=[({}, 1.0)] * 3)
    return Comparison(
        Work(("a",), (0,)),
        {"torch DataLoader, A": other, OURS: outcome([100.0, 120.0, 90.0])},
        {"SPDL": "pip install spdl"},
        {"DALI": "RuntimeError: no [driver]"},
        outcome([50.0, 50.0, 50.0]),
    )


def test_figures_are_of_the_same_rounds(found: Comparison) -> None:
    assert (
        found.ratios(OURS, "torch DataLoader, A") == [2.0, 3.0, 1.5] and found.ratio(OURS, "torch DataLoader, A") == 2
    )
    assert found.scaling == 2.0
    summary = json.loads(json.dumps(found.summary()))
    assert summary["best_torch"] == "torch DataLoader, A" and summary["scaling"] == 2.0
    assert summary["ratios_min"] == {"over torch DataLoader, A": 1.5} and summary["absent"] == {
        "SPDL": "pip install spdl"
    }
    ours = summary["contenders"][OURS]
    assert (ours["per_s"], ours["per_s_min"], ours["per_s_max"]) == (100.0, 90.0, 120.0)
    assert (ours["p50_ms"], ours["p99_ms"], ours["p99_over_p50"]) == (10.0, 30.0, 3.0) and ours["peak_mb"] == 512


def test_the_table_leaves_nobody_out(found: Comparison) -> None:
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    report.show(found, console)
    text = console.export_text()
    lines = {
        name: line
        for line in text.splitlines()
        for name in ("dalipipe ", "torch DataLoader, A", "SPDL", "DALI")
        if line.startswith(f"│ {name}")
    }
    assert "100" in lines["dalipipe "] and "equal" in lines["dalipipe "] and "3.00" in lines["dalipipe "]
    assert "2.00×" in lines["torch DataLoader, A"] and "± 0.01" in lines["torch DataLoader, A"]
    assert "absent" in lines["SPDL"] and "pip install spdl" in text and "no [driver]" in text
    assert "dalipipe, one core" in text and "(best of 3); of its own" in text
    assert text.index("│ dalipipe ") < text.index("│ torch DataLoader, A")  # the fastest first


def test_the_picture(found: Comparison, tmp_path: Path) -> None:
    from PIL import Image

    assert Image.open(report.draw(found, tmp_path / "bench.png", title="T")).size > (800, 150)
    with pytest.raises(ValueError, match="nothing to draw: 0 names"):
        report.draw(Comparison(found.work, {}, {}, {}), tmp_path / "none.png")


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "140", "NO_COLOR": "1"})


def test_the_command(jpeg_folder: Folder, found: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def compare(work: Work, names: Any, **options: Any) -> Comparison:
        asked.append((work, names, options))
        options["progress"]("DALI [cpu]: trying")
        return found

    monkeypatch.setattr(comparing, "compare", compare)
    data = jpeg_folder(8)
    shown = call("bench", data, "--size", 32, "--workers", 3, "--only", "DALI; torch DataLoader, Pillow", "--no-sweep")
    assert shown.exit_code == 0 and "dalipipe, one core" in shown.output, shown.output
    work, names, options = asked[0]
    assert names == ["DALI", "torch DataLoader, Pillow"] and (work.size_px, work.cores, work.device) == (32, 3, "cpu")
    assert not options["sweep"] and len(work.paths) == 8
    shown = call("bench", data, "--pictures", 4)
    assert [Path(path).name for path in asked[1][0].paths] == ["0000.jpg", "0004.jpg", "0001.jpg", "0005.jpg"]
    assert "1 picture: decode" in shown.output  # what the stand-in for a comparison had
    shown = call("bench", data, "--json", "--png", tmp_path / "b.png")
    assert json.loads(shown.stdout)["machine"]["cores"] and (tmp_path / "b.png").stat().st_size > 1000

    def differ(*_: Any, **__: Any) -> Comparison:
        raise bench.OutputsDifferError("dalipipe: outputs differ; nothing was timed")

    monkeypatch.setattr(comparing, "compare", differ)
    shown = call("bench", data)
    assert shown.exit_code == 1 and "nothing was timed" in shown.output
    shown = call("bench", tmp_path / "absent")
    assert shown.exit_code == 2 and "give a folder" in shown.output


# The loaders themselves ---------------------------------------------------------------------------------------------

HEAVY = ("FFCV", "LitData")  # which compile, or start processes to write


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in HEAVY else []) for name in CONTENDERS if name != OURS],
)
def test_contenders_do_the_same_work(name: str, jpeg_folder: Folder, tmp_path: Path) -> None:
    one = CONTENDERS[name]
    if "cpu" not in one.on:
        pytest.skip("needs a CUDA device")
    pytest.importorskip(one.library)
    root = jpeg_folder(6, size=(60, 81))  # an odd number of pixels is left when the middle is cut out
    for path in root.glob("*/*.jpg"):
        _turn(path)
    work = bench.work_of(dalipipe.ImageFolder(root), size_px=32, batch_size=4, cores=1, folder=str(tmp_path))
    kind = one.contender()
    settings = kind.candidates(work)
    assert all(set(each) == set(settings[0]) for each in settings) and len(settings) >= 2
    contender = kind(work, settings[0])
    threads = torch.get_num_threads()
    try:
        try:
            assert contender.load()
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"is not whole here: {error}")
        contender.prepare()
        images, labels = contender.evaluation()
        assert [int(label) for label in labels] == list(work.labels) and images.dtype == torch.float32
        assert (images - reference(work)).abs().mean() <= max(kind.tolerance, 1e-5) * 3  # noise, not photographs
        batches = contender.batches()
        pairs = [next(batches) for _ in range(3)]
        for images, labels in pairs:
            assert images.shape == (4, 3, 32, 32) and images.dtype == torch.float32 and len(labels) == 4
            assert set(map(int, labels)) <= {0, 1}
        assert not torch.equal(pairs[0][0], pairs[1][0]) and contender.ahead >= 1
        batches.close()
    finally:
        torch.set_num_threads(threads)


def _turn(path: Path) -> None:
    """Have its EXIF say that it lies on its side: torchvision's folders, and so the reference, do not turn it."""
    from PIL import Image

    with Image.open(path) as picture:
        exif = picture.getexif()
        exif[0x0112] = 6
        picture.save(path, exif=exif, quality="keep")


@pytest.mark.slow
def test_bench_end_to_end(jpeg_folder: Folder, tmp_path: Path) -> None:
    names = "torch DataLoader, torchvision v2; torch DataLoader, Pillow"
    options = ["--size", 32, "--batch-size", 8, "--images", 40, "--rounds", 1, "--only", names, "--no-sweep", "--json"]
    shown = call("bench", jpeg_folder(24), *options)
    assert shown.exit_code == 0, shown.output
    result = json.loads(shown.stdout)
    assert set(result["contenders"]) == {OURS, *names.split("; ")} and not result["failed"]
    assert result["contenders"][OURS]["exact"] and result["contenders"][OURS]["first_batch_s"] > 0


@pytest.mark.slow
def test_first_batch(jpeg_folder: Folder) -> None:
    work = bench.work_of(dalipipe.ImageFolder(jpeg_folder(6)), size_px=32, batch_size=4, cores=1)
    (found,) = bench.first_batch_s(work, times=1)
    assert 0 < found[1] < found[0]
