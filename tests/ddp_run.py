"""A small run of `finetune`, to be started by torchrun or alone: what tests/test_distributed.py starts.

    python tests/ddp_run.py '{"out": "folder", "global_batch": 8, ...}'

Every process appends a line of JSON for each batch it is given to out/batches.<rank>.jsonl: where the batch begins,
which samples it has and a digest of each picture; at the end it writes out/result.<rank>.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import dalipipe
from dalipipe.finetune import (
    FineTuneConfig,
    Interrupted,
    Layers,
    PeerLostError,
    Ranks,
    Result,
    classify,
    evaluate,
    finetune,
    process_group,
)
from dalipipe.finetune.transfer import L2SP
from dalipipe.ops import image as ops

LENGTHS = (1, 7, 8, 19)  # of validation sets: fewer samples than a batch, as many, and a short last batch


@dataclass
class Job:
    out: str
    samples: int = 44
    val_samples: int = 19
    global_batch: int = 8
    epochs: int = 2
    noisy: bool = False  # with BatchNorm and dropout
    save_every: int | None = None
    config: dict[str, Any] = field(default_factory=dict)  # what else FineTuneConfig is told
    resume: bool = False
    timeout_s: float = 60.0
    signal_to: int | str | None = None  # a rank, "torchrun", or "all": torchrun and every rank
    signum: int = 0
    at_step: int = 0  # in the forward pass of this training step, counted from 0 in this process,
    in_evaluation: bool = False  # or of the evaluation after it
    layers: dict[str, Any] = field(default_factory=dict)  # what Layers is told
    l2_sp: float | None = None


def data(n: int, seed: int) -> dalipipe.Arrays:
    """Three classes of grey pictures, learnable: each brighter than the one before."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    images = random.integers(0, 120, (n, 12, 14, 1)) + 60 * labels[:, None, None, None]
    return dalipipe.Arrays(images.astype(np.uint8).repeat(3, 3), labels)


def train_loader(job: Job, ranks: Ranks, kind: type = dalipipe.DataLoader, **options: Any) -> Any:
    policy = dalipipe.Policy([ops.RandomCrop(10), ops.HorizontalFlip(), ops.Rotate(20), ops.Normalize()])
    return kind(
        data(job.samples, seed=1),
        ranks.share(job.global_batch),
        shuffle=True,
        drop_last=True,
        policy=policy,
        seed=5,
        num_workers=1,
        device="cpu",
        **options,
    )


def eval_policy() -> dalipipe.Policy:
    return dalipipe.Policy([ops.CenterCrop(10), ops.Normalize()])


def val_loader(job: Job, ranks: Ranks, length: int | None = None) -> Any:
    return dalipipe.DataLoader(
        data(length or job.val_samples, seed=2),
        ranks.share(job.global_batch),
        shards="exact",
        policy=eval_policy(),
        seed=5,
        num_workers=1,
        device="cpu",
    )


def model(job: Job, before: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(3)
    norm = nn.BatchNorm2d(8) if job.noisy else nn.GroupNorm(2, 8)
    dropout = nn.Dropout(0.3 if job.noisy else 0.0)
    body = [nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), dropout, nn.Linear(32, 3)]
    return nn.Sequential(before or nn.Identity(), *body)


class Signaller(nn.Module):
    """Sends the signal that the job wants, from the forward pass."""

    def __init__(self, job: Job, rank: int):
        super().__init__()
        self.job, self.rank, self.step = job, rank, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        job = self.job
        if self.step == job.at_step and self.training != job.in_evaluation:
            if job.signal_to in ("all", "torchrun") and self.rank == 0:
                os.kill(os.getppid(), job.signum)
            if job.signal_to in ("all", self.rank):
                os.kill(os.getpid(), job.signum)
            if job.signal_to == "torchrun":
                time.sleep(1)  # these steps are quicker than torchrun
        self.step += self.training
        return x


class Recorder(dalipipe.DataLoader):
    """Writes down what it gives."""

    def __init__(self, *args: Any, out: str, rank: int, **options: Any):
        super().__init__(*args, **options)
        self._to = Path(out, f"batches.{rank}.jsonl")

    def __iter__(self) -> Iterator[Any]:
        batches = super().__iter__()
        while True:
            state = self.state_dict()
            try:
                batch = next(batches)
            except StopIteration:
                return
            with open(self._to, "a") as file:
                file.write(json.dumps({"at": [state["epoch"], state["samples"]], **contents(batch)}) + "\n")
            yield batch


def contents(batch: Any) -> dict[str, Any]:
    return {
        "indices": batch.indices.tolist(),
        "pictures": [hashlib.blake2b(image.numpy().tobytes(), digest_size=8).hexdigest() for image in batch.image],
    }


def run(job: Job, ranks: Ranks, before: nn.Module | None = None) -> tuple[Result, dict[str, Any]]:
    """Trains, and evaluates what came out on validation sets of several lengths."""
    Path(job.out).mkdir(parents=True, exist_ok=True)
    train = train_loader(job, ranks, Recorder, out=job.out, rank=ranks.rank)
    net = model(job, before)
    config = FineTuneConfig(
        out=job.out,
        epochs=job.epochs,
        lr=0.03,
        log_every=2,
        save_every=job.save_every,
        resume=job.resume,
        progress="off",
        **job.config,
    )
    objective = classify if job.l2_sp is None else L2SP(net, ["7"], alpha=job.l2_sp)
    layers = Layers(**job.layers)
    result = finetune(net, train, val_loader(job, ranks), config, ranks=ranks, objective=objective, layers=layers)
    return result, {n: evaluate(net, val_loader(job, ranks, n), ranks=ranks) for n in LENGTHS}


def main() -> int:
    job = Job(**json.loads(sys.argv[1]))
    torch.set_num_threads(1)
    try:
        with process_group("cpu", timeout_s=job.timeout_s) as ranks:
            result, evaluations = run(job, ranks, Signaller(job, ranks.rank))
            report = {**asdict(result), "evaluations": evaluations}
            Path(job.out, f"result.{ranks.rank}.json").write_text(json.dumps(report, default=str))
    except Interrupted as stopped:
        print(f"interrupted: signal {stopped.signum}, step {stopped.step}", flush=True)
        return 128 + stopped.signum
    except PeerLostError as error:
        print(f"peer lost: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(120)  # whatever hangs here ends
    sys.exit(main())
