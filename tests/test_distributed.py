"""Several processes train as one: with the batches, metrics and weights of one; stopped, killed, resumed by others."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist
from ddp_run import LENGTHS, Job, contents, data, eval_policy, model, run, train_loader

import dalipipe
from dalipipe.finetune import PeerLostError, Ranks, evaluate, local_device, process_group
from dalipipe.finetune.checkpoint import load_checkpoint
from dalipipe.finetune.loop import _check_loaders
from dalipipe.finetune.rendezvous import agree_on_prefix

TESTS = Path(__file__).parent
STEPS = 44 // 8  # of an epoch of ddp_run.py
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def start() -> Iterator[Start]:
    """start(program, *arguments, processes=2, **environment): under torchrun, or with ``processes=1`` without it."""
    started: list[subprocess.Popen[str]] = []

    def launch(*command: Any, processes: int = 1, torchrun: tuple[str, ...] = (), **environment: str) -> Any:
        runner = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *torchrun]
        clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        path = os.pathsep.join([str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, *(runner if processes > 1 else []), *map(str, command)],
            env={**clean, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)


def train(start: Start, processes: int, job: Job) -> tuple[int, str]:
    """The exit status and stdout of a run of ddp_run.py; it ends when all its processes have."""
    process = start(TESTS / "ddp_run.py", json.dumps(asdict(job)), processes=processes)
    output, errors = process.communicate(timeout=120)
    if job.signal_to is None:
        assert process.returncode == 0, errors
    return process.returncode, output


def by_hand(start: Start, *jobs: Job) -> list[subprocess.Popen[str]]:
    """A process for each job, which are the ranks of a run without torchrun to look after them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [
        start(TESTS / "ddp_run.py", json.dumps(asdict(job)), RANK=str(rank), WORLD_SIZE=str(len(jobs)), **address)
        for rank, job in enumerate(jobs)
    ]


def recorded(out: Path | str, processes: int) -> list[dict[str, Any]]:
    """The global batches that the ranks of a run were given, put together."""
    files = [Path(out, f"batches.{rank}.jsonl").read_text().splitlines() for rank in range(processes)]
    return [joined([json.loads(line) for line in lines]) for lines in zip(*files, strict=False)]


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    assert len({tuple(part["at"]) for part in parts}) == 1
    return {
        "at": parts[0]["at"],
        **{name: [value for part in parts for value in part[name]] for name in ("indices", "pictures")},
    }


def sequence(job: Job) -> list[dict[str, Any]]:
    """The batches of one process that nobody stops."""
    loader = train_loader(job, Ranks())
    found = []
    for epoch in range(job.epochs):
        found += [{"at": [epoch, 8 * step], **contents(batch)} for step, batch in enumerate(loader)]
    loader.close()
    return found


def weights(out: Path | str) -> dict[str, torch.Tensor]:
    return load_checkpoint(Path(out, "checkpoint.safetensors"))["model"]


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Gradients are summed in another order: the last bits differ, and Adam makes a little more of it."""
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def rows(out: Path | str, kind: str) -> list[dict[str, Any]]:
    lines = Path(out, "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


# As one ------------------------------------------------------------------------------------------------------------


def test_two_processes_train_as_one(start: Start, tmp_path: Path) -> None:
    one, two = Job(str(tmp_path / "one")), Job(str(tmp_path / "two"))
    train(start, 2, two)
    expected, _ = run(one, Ranks())

    assert recorded(two.out, 2) == recorded(one.out, 1) == sequence(one)
    assert_close(weights(two.out), weights(one.out))
    first, second = (json.loads(Path(two.out, f"result.{rank}.json").read_text()) for rank in (0, 1))
    assert {**first, "eval_s": 0} == {**second, "eval_s": 0}  # both know how it went
    assert (first["epochs"], first["steps"]) == (expected.epochs, expected.steps) == (2, 2 * STEPS)
    for kind in ("step", "epoch"):
        for found, row in zip(rows(two.out, kind), rows(one.out, kind), strict=True):
            assert (found["step"], found["epoch"], found.get("lr")) == (row["step"], row["epoch"], row.get("lr"))
            assert found["loss"] == pytest.approx(row["loss"], rel=1e-4)
            assert found.get("val_images") == row.get("val_images")

    # Metrics are exact however the samples fall on the ranks: those of the very same weights and each sample once.
    net = model(two).eval()
    net.load_state_dict(weights(two.out))
    assert first["val_accuracy"] == first["evaluations"]["19"][1]
    for n in LENGTHS:
        pictures, labels = next(iter(dalipipe.DataLoader(data(n, seed=2), n, policy=eval_policy(), device="cpu")))
        logits = net(pictures).detach()
        loss, accuracy, images = first["evaluations"][str(n)][:3]
        assert images == n and accuracy == int((logits.argmax(1) == labels).sum()) / n
        assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)


def test_dealt_out_weights_train_as_one_and_are_whole_in_the_checkpoint(start: Start, tmp_path: Path) -> None:
    """With steps of two batches, of which an epoch's last has one, an average, and a scale of the loss."""
    config: dict[str, Any] = {"accumulate": 2, "ema": 0.5, "amp": "fp16"}
    one, two = (
        Job(str(tmp_path / name), global_batch=4, config={**config, "shard": name == "two"}) for name in ("one", "two")
    )
    train(start, 2, two)
    run(one, Ranks())
    assert recorded(two.out, 2) == recorded(one.out, 1)
    found, expected = (load_checkpoint(Path(job.out, "checkpoint.safetensors")) for job in (two, one))
    for name in ("model", "ema"):
        for key, value in expected[name].items():  # of half precision
            torch.testing.assert_close(found[name][key], value, rtol=2e-2, atol=5e-3, msg=f"{name}.{key}")
    shapes = [[(key, value.shape) for key, value in one.items()] for one in expected["optimizer"]["state"].values()]
    assert shapes == [
        [(key, value.shape) for key, value in one.items()] for one in found["optimizer"]["state"].values()
    ]
    assert found["scaler"] == expected["scaler"]
    for a, b in zip(rows(two.out, "epoch"), rows(one.out, "epoch"), strict=True):
        assert a["val_images"] == b["val_images"] == 19 and a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_killed_run_goes_on_with_weights_dealt_out_or_not(
    start: Start, tmp_path: Path, before: bool, after: bool, optimizer: str
) -> None:
    """By another number of processes, too."""
    config = {"optimizer": optimizer, "ema": 0.5}
    job = Job(str(tmp_path / "run"), epochs=3, save_every=3, config={**config, "shard": before})
    killed = {"signal_to": "all" if before else 0, "signum": signal.SIGKILL, "at_step": 7}
    status, _ = train(start, 2 if before else 1, Job(**asdict(job) | killed))
    assert status == -signal.SIGKILL
    assert load_checkpoint(Path(job.out, "checkpoint.safetensors"))["state"]["step"] == 6
    train(start, 2 if after else 1, Job(**asdict(job) | {"resume": True, "config": {**config, "shard": after}}))
    whole = Job(str(tmp_path / "whole"), epochs=3, config=config)
    run(whole, Ranks())
    assert_close(weights(job.out), weights(whole.out))
    found, expected = (load_checkpoint(Path(out, "checkpoint.safetensors"))["ema"] for out in (job.out, whole.out))
    assert_close(found, expected)


@pytest.mark.slow
def test_dealt_out_weights_resume_to_the_bit(start: Start, tmp_path: Path) -> None:
    """With BatchNorm and dropout, and a layer too small for two processes to share."""
    config = {"shard": True, "ema": 0.5, "accumulate": 2}
    whole, parts = (Job(str(tmp_path / name), noisy=True, epochs=3, config=config) for name in ("whole", "parts"))
    train(start, 2, whole)
    stopped = Job(**asdict(parts) | {"signal_to": 1, "signum": signal.SIGTERM, "at_step": 7})
    status, output = train(start, 2, stopped)
    assert status != 0 and output.count("interrupted: signal 15, step") == 2
    train(start, 2, Job(**asdict(parts) | {"resume": True}))
    found, expected = (load_checkpoint(Path(out, "checkpoint.safetensors")) for out in (parts.out, whole.out))
    for name in ("model", "ema"):
        for key, value in expected[name].items():
            assert torch.equal(found[name][key], value), f"{name}.{key}"


@pytest.mark.slow
def test_the_same_processes_again_end_with_the_same_bits(start: Start, tmp_path: Path) -> None:
    """Stopped through torchrun, with BatchNorm and dropout, which go on on each rank where they were."""
    whole, parts = (Job(str(tmp_path / name), noisy=True, epochs=3) for name in ("whole", "parts"))
    train(start, 2, whole)
    stopped = Job(**asdict(parts) | {"signal_to": "torchrun", "signum": signal.SIGTERM, "at_step": 5})
    status, output = train(start, 2, stopped)
    step = load_checkpoint(Path(parts.out, "checkpoint.safetensors"))["state"]["step"]
    assert (
        status != 0 and output.count(f"interrupted: signal 15, step {step}") == 2
    )  # two processes write there, perhaps into one line
    train(start, 2, Job(**asdict(parts) | {"resume": True}))
    assert recorded(parts.out, 2) == recorded(whole.out, 2)
    for (name, a), b in zip(weights(whole.out).items(), weights(parts.out).values(), strict=True):
        assert torch.equal(a, b), name


UNFREEZING: dict[str, Any] = {"epochs": 3, "layers": {"unfreeze_every": 2, "lr_decay": 0.5}, "l2_sp": 0.1}


def test_two_processes_unfreeze_as_one(start: Start, tmp_path: Path) -> None:
    """Where a layer joins in, DistributedDataParallel is made anew; with a penalty."""
    one, two = (Job(str(tmp_path / name), **UNFREEZING) for name in ("one", "two"))
    train(start, 2, two)
    run(one, Ranks())
    assert_close(weights(two.out), weights(one.out))
    assert not torch.equal(weights(two.out)["1.weight"], model(two).state_dict()["1.weight"])


def test_a_penalty_is_the_same_where_weights_are_dealt_out(start: Start, tmp_path: Path) -> None:
    one, two = (Job(str(tmp_path / name), l2_sp=2.0, layers={"freeze": 1}) for name in ("one", "two"))
    train(start, 2, Job(**asdict(two) | {"config": {"shard": True}}))
    run(one, Ranks())
    assert_close(weights(two.out), weights(one.out))
    free = Job(str(tmp_path / "free"), layers=one.layers)
    run(free, Ranks())
    assert not torch.allclose(weights(free.out)["7.weight"], weights(one.out)["7.weight"], atol=1e-3)


@pytest.mark.slow
def test_two_processes_that_unfreeze_end_with_the_same_bits_after_a_stop(start: Start, tmp_path: Path) -> None:
    """With BatchNorms, whose statistics stay until their layer joins in, and dropout."""
    whole, parts = (Job(str(tmp_path / name), noisy=True, **UNFREEZING) for name in ("whole", "parts"))
    train(start, 2, whole)
    train(start, 2, Job(**asdict(parts) | {"signal_to": "torchrun", "signum": signal.SIGTERM, "at_step": 6}))
    train(start, 2, Job(**asdict(parts) | {"resume": True}))
    assert recorded(parts.out, 2) == recorded(whole.out, 2)
    for (name, a), b in zip(weights(whole.out).items(), weights(parts.out).values(), strict=True):
        assert torch.equal(a, b), name


# Other numbers of processes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before, after", [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow), pytest.param(2, 4, marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_with_another_number_of_processes(
    start: Start, tmp_path: Path, before: int, after: int
) -> None:
    """Killed in the eighth step, in the middle of the second epoch; the last checkpoint is that of the sixth."""
    job = Job(str(tmp_path / "run"), epochs=3, save_every=3)
    killed = {"signal_to": "all" if before > 1 else 0, "signum": signal.SIGKILL, "at_step": 7}
    status, _ = train(start, before, Job(**asdict(job) | killed))
    assert status == -signal.SIGKILL
    first = recorded(job.out, before)
    for file in Path(job.out).glob("batches.*"):
        file.unlink()
    assert load_checkpoint(Path(job.out, "checkpoint.safetensors"))["state"]["step"] == 6

    train(start, after, Job(**asdict(job) | {"resume": True}))
    expected = sequence(job)
    assert len(first) in (7, 8)  # a rank may not have got to its eighth batch when the other died
    assert first == expected[: len(first)]
    assert recorded(job.out, after) == expected[6:]

    assert [row["step"] for row in rows(job.out, "epoch")] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert [row["step"] for row in rows(job.out, "step")] == [2, 4, 5, 6, 8, 10, 12, 14, 15]
    assert all(row["val_images"] == 19 for row in rows(job.out, "epoch"))
    whole = Job(**asdict(job) | {"out": str(tmp_path / "whole")})
    run(whole, Ranks())
    assert_close(weights(job.out), weights(whole.out))


# Stopping and dying -------------------------------------------------------------------------------------------------


def test_a_signal_to_one_process_stops_all_after_the_same_step(start: Start, tmp_path: Path) -> None:
    job = Job(str(tmp_path), signal_to=1, signum=signal.SIGINT, at_step=3)
    for process in by_hand(start, job, job):
        output, errors = process.communicate(timeout=120)
        assert output == "interrupted: signal 2, step 5\n", errors  # it came in the fourth, all knew in the fifth
        assert process.returncode == 128 + signal.SIGINT
    assert load_checkpoint(tmp_path / "checkpoint.safetensors")["state"]["step"] == 5


@pytest.mark.parametrize(
    "in_evaluation, place",
    [
        (False, "all-reduce of gradients failed at step 4"),
        pytest.param(True, "failed at the evaluation after step 5", marks=pytest.mark.slow),
    ],
)
def test_when_one_process_is_killed_the_others_say_so(
    start: Start, tmp_path: Path, in_evaluation: bool, place: str
) -> None:
    at_step = STEPS if in_evaluation else 3
    job = Job(str(tmp_path), signal_to=1, signum=signal.SIGKILL, at_step=at_step, in_evaluation=in_evaluation)
    left, killed = by_hand(start, job, job)
    killed.communicate(timeout=120)
    begin_s = time.monotonic()
    output, errors = left.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL and left.returncode == 1, errors
    assert output.startswith("peer lost: rank 0 of 2: ") and place in output
    assert "another process has probably died" in output and "Connection" in output
    assert time.monotonic() - begin_s < job.timeout_s / 2  # it need not wait for the time limit


@pytest.mark.slow
def test_when_one_process_hangs_the_others_give_up_in_time(start: Start, tmp_path: Path) -> None:
    job = Job(str(tmp_path), signal_to=1, signum=signal.SIGSTOP, at_step=3, timeout_s=4)
    left, _ = by_hand(start, job, job)
    output, errors = left.communicate(timeout=60)
    assert left.returncode == 1, errors
    assert "all-reduce of gradients failed at step 4" in output and "hung for more than 4 s" in output


@pytest.mark.slow
def test_processes_that_were_told_different_things_do_not_start(start: Start, tmp_path: Path) -> None:
    for process in by_hand(start, Job(str(tmp_path)), Job(str(tmp_path), epochs=3)):
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 1 and not output, (process.returncode, output, errors)
        assert "ValueError: the processes differ in epochs: rank 0 has 2, rank 1 has 3" in errors


# The command line ---------------------------------------------------------------------------------------------------


@pytest.fixture
def command(jpeg_folder: Callable[..., Path], tmp_path: Path) -> list[Any]:
    """dalipipe train with 20 epochs of 2 steps."""
    jpeg_folder(20, name="data/train")
    jpeg_folder(7, name="data/val")
    options = ["--model", "shufflenet_v2_x0_5", "--size", "32", "--device", "cpu", "--batch-size", "8"]
    return ["-m", "dalipipe", "train", tmp_path / "data", "--out", tmp_path / "run", "--epochs", "20", *options]


def wait_for_an_epoch(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            return
    pytest.fail("the run ended before its first epoch did")


def assert_whole(out: Path) -> None:
    found = rows(out, "epoch")
    assert [row["step"] for row in found] == [2 * (epoch + 1) for epoch in range(20)]
    assert all(row["val_images"] == 7 for row in found)


@pytest.mark.slow
def test_train_under_torchrun_is_stopped_and_resumed_alone(start: Start, command: list[Any], tmp_path: Path) -> None:
    process = start(*command, processes=2)
    wait_for_an_epoch(process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert errors.count("the checkpoint is complete") == 1
    assert "torchrun --nproc-per-node 2 -m dalipipe train" in errors.replace("\n", " ")
    assert 2 <= load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")["state"]["step"] < 40

    again = start(*command, "--resume")
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert output.count("validation accuracy") == 1 and "epoch 20/20" in output
    assert_whole(tmp_path / "run")


@pytest.mark.slow
def test_torchrun_starts_anew_what_was_killed_and_it_goes_on(start: Start, command: list[Any], tmp_path: Path) -> None:
    process = start(*command, "--save-every", "1", processes=2, torchrun=("--max-restarts", "1"))
    wait_for_an_epoch(process)
    psutil.Process(process.pid).children()[1].kill()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("validation accuracy") == 1 and "epoch  1/20" not in output and "epoch 20/20" in output
    assert_whole(tmp_path / "run")


@pytest.mark.slow
def test_train_under_torchrun_says_what_does_not_fit(start: Start, jpeg_folder: Callable[..., Path]) -> None:
    options = ["--val-fraction", "0.25", "--device", "cpu", "--batch-size", "7"]
    process = start("-m", "dalipipe", "train", jpeg_folder(16), *options, processes=2)
    output, errors = process.communicate(timeout=120)
    assert process.returncode != 0 and not output
    assert re.search(r"error \(rank [01]\): a batch of 7 cannot be shared equally by 2 processes", errors)


# One process, and what it is told about others -----------------------------------------------------------------------


def test_ranks_alone_agree_with_themselves() -> None:
    with process_group("cpu") as ranks:
        assert (ranks.rank, ranks.world_size, ranks.main, ranks.share(7)) == (0, 1, True, 7)
        assert ranks.sum([1, 0.1]) == [1, 0.1] and ranks.gather("x") == ["x"]
        assert ranks.vote(None) is None and ranks.vote(2) == 2 and ranks.last_vote() is None
        ranks.check_equal(a=1)
        ranks.wait()
        net = torch.nn.Linear(2, 2)
        assert ranks.parallel(net) is net
        with pytest.raises(RuntimeError, match=r"^Connection of my own$"), ranks.during("nothing"):
            raise RuntimeError("Connection of my own")


def test_processes_that_are_started_anew_never_meet_their_predecessors() -> None:
    """One store for many attempts; some ranks come late, and some of an attempt before said hello and died."""
    store, seen = dist.HashStore(), set()
    store.set_timeout(timedelta(seconds=20))
    random = np.random.default_rng(0)
    for attempt in range(12):
        world = int(random.integers(2, 6))
        for rank in range(1, world):
            if random.random() < 0.5:
                store.set(f"dalipipe/greeting/{rank}", f"dead since {attempt}")
        with pytest.raises(dist.DistStoreError, match="not all of"):  # what was heard of them is old
            agree_on_prefix(store, 0, world, timeout_s=0.05)

        def come(rank: int, delay_s: float, world: int = world) -> str:
            time.sleep(delay_s)
            return agree_on_prefix(store, rank, world, timeout_s=20)

        with ThreadPoolExecutor(world) as pool:
            prefixes = set(pool.map(come, range(world), random.uniform(0, 0.1, world)))
        assert len(prefixes) == 1 and not prefixes & seen
        seen |= prefixes


def ranks_of(world_size: int) -> Ranks:
    ranks = Ranks()
    ranks.world_size = world_size
    return ranks


@pytest.mark.parametrize(
    "batch, world, message", [(10, 4, "a multiple of 4, 8 or 12 say"), (3, 8, "a multiple of 8, 8 say")]
)
def test_a_batch_that_cannot_be_shared(batch: int, world: int, message: str) -> None:
    told = f"a batch of {batch} cannot be shared equally by {world} processes.*{message}"
    with pytest.raises(ValueError, match=told):
        ranks_of(world).share(batch)


def test_only_errors_of_the_network_are_taken_for_lost_processes() -> None:
    ranks = ranks_of(2)
    ranks.place = "step 9"
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"), ranks.during("the all-reduce"):
        raise RuntimeError("shapes do not match")
    words = "[/src/gloo/tcp/pair.cc:545] Read error [127.0.0.1]:329: Connection reset by peer. This is typically caused"
    told = pytest.raises(PeerLostError, match=r"^rank 0 of 2: the all-reduce failed at step 9.*said: Read .* by peer$")
    with told, ranks.during("waiting"), ranks.during("the all-reduce"):
        raise RuntimeError(words)


def test_loaders_that_do_not_fit_the_ranks() -> None:
    job, two = Job("unused"), ranks_of(2)
    alone, train = train_loader(job, Ranks()), train_loader(job, ranks_of(1), rank=0, world_size=2)
    val = dalipipe.DataLoader(data(9, 1), 3, shards="exact", seed=1, rank=1, world_size=2)
    plain = dalipipe.DataLoader(data(9, 1), 3, seed=1, rank=1, world_size=2)
    _check_loaders(train, val, two)
    with pytest.raises(ValueError, match="training loader was made for 1 processes, and there are 2"):
        _check_loaders(alone, val, two)
    with pytest.raises(ValueError, match="validation loader was made for 2 processes, and there are 1"):
        _check_loaders(alone, val, Ranks())
    with pytest.raises(ValueError, match='training loader has shards="exact"'):
        _check_loaders(val, val, two)
    with pytest.raises(ValueError, match='validation loader needs shards="exact"'):
        _check_loaders(train, plain, two)
    with pytest.raises(ValueError, match="which rows count"):
        evaluate(model(job), [(torch.zeros(2, 3, 10, 10), torch.zeros(2, dtype=torch.int64))], ranks=two)


def test_rows_that_do_not_count_are_not_counted() -> None:
    random = np.random.default_rng(3)
    images = torch.from_numpy(random.normal(size=(12, 3, 10, 10)).astype(np.float32))
    labels, net = torch.from_numpy(random.integers(0, 3, 12)), model(Job("unused"))
    valid = torch.from_numpy(random.integers(0, 2, 12).astype(bool))
    images[~valid] *= float("nan")  # what fills up may be anything
    found = evaluate(net, zip(images.split(5), labels.split(5), valid.split(5), strict=True))
    logits = net(images[valid]).detach()
    assert found.images == valid.sum()
    assert found.accuracy == (logits.argmax(1) == labels[valid]).double().mean().item()
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels[valid]).item(), rel=1e-5)


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 with WORLD_SIZE=2: RANK must lie below"),
        ({"RANK": "1"}, "RANK=1 with WORLD_SIZE=1"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number, got 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR expected, but not set"),
    ],
)
def test_environments_that_make_no_sense(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message), process_group("cpu"):
        pass


def test_processes_that_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    told = pytest.raises(PeerLostError, match="rank 0 of 2: not all processes came within 1 s")
    with told, process_group("cpu", timeout_s=1):
        pass
    with pytest.raises(ValueError, match="timeout_s must be positive, got 0"), process_group("cpu", timeout_s=0):
        pass


@pytest.mark.parametrize(
    "wanted, world, local_rank, found, expected",
    [
        ("auto", 4, 3, 4, "cuda:3"),
        ("cuda", 4, 3, 4, "cuda:3"),
        ("cuda", 4, 3, 1, "process 3 of this machine is GPU 3, and torch sees 1 GPUs"),
        ("cuda:0", 4, 3, 4, "device cuda:0 cannot be shared"),
        ("cuda:0", 4, 3, 1, "cuda:0"),  # a launcher that shows each process its own GPU
        ("cuda:2", 1, 0, 4, "cuda:2"),
        ("auto", 1, 0, 4, "cuda:0"),
        ("auto", 4, 3, 0, "cpu"),
        ("cpu", 4, 3, 4, "cpu"),
        ("mps", 1, 0, 0, "device must be auto, cpu, cuda or cuda:N, got 'mps'"),
        ("nonsense", 1, 0, 0, "got 'nonsense'"),
    ],
)
def test_which_device_a_process_takes(
    monkeypatch: pytest.MonkeyPatch, wanted: str, world: int, local_rank: int, found: int, expected: str
) -> None:
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(is_available=lambda: found > 0, device_count=lambda: found))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    if " " in expected:
        with pytest.raises(ValueError, match=expected):
            local_device(wanted)
    else:
        assert local_device(wanted) == torch.device(expected)


# On GPUs -----------------------------------------------------------------------------------------------------------


@pytest.mark.cuda
def test_cuda_processes_train_on_gpus_of_their_own(start: Start, command: list[Any], tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    command[command.index("cpu")] = "cuda"
    process = start(*command, processes=2)
    output, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    assert "2 processes, each on" in output and output.count("validation accuracy") == 1
    assert_whole(tmp_path / "run")
