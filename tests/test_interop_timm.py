"""timm's training loop, as its train script has it, on our loader in the place of ``create_loader``'s."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from examples import run_example

timm = pytest.importorskip("timm")
from timm.optim import create_optimizer_v2  # noqa: E402
from timm.scheduler import create_scheduler_v2  # noqa: E402
from timm.utils import AverageMeter, ModelEmaV3, accuracy, dispatch_clip_grad  # noqa: E402

import dalipipe  # noqa: E402
from dalipipe.ops import image as ops  # noqa: E402

N, BATCH, EPOCHS = 22, 4, 3
EVAL = dalipipe.Policy([ops.Resize(32), ops.CenterCrop(32), ops.Normalize()])
POLICY = dalipipe.Policy([ops.RandomResizedCrop(32), ops.HorizontalFlip(), ops.Normalize()])


def dataset() -> dalipipe.Arrays:
    """The labels are the samples' numbers."""
    return dalipipe.Arrays(np.random.default_rng(0).integers(0, 256, (N, 40, 36, 3), dtype=np.uint8), np.arange(N))


def make(batch_size: int = BATCH, **kw: Any) -> dalipipe.DataLoader:
    settings = {"shuffle": True, "policy": POLICY, "seed": 3, **kw}
    return dalipipe.DataLoader(dataset(), batch_size, device="cpu", **settings)


def train_one_epoch(
    epoch: int, model: Any, loader: Any, optimizer: Any, loss_fn: Any, args: Any, scheduler: Any, ema: Any
) -> tuple[float, list[list[int]]]:
    """What timm's script asks of a loader, in its order."""
    if args.mixup_off_epoch and epoch >= args.mixup_off_epoch and args.prefetcher and loader.mixup_enabled:
        loader.mixup_enabled = False
    model.train()
    losses, seen = AverageMeter(), []
    last_idx, num_updates = len(loader) - 1, epoch * len(loader)
    for batch_idx, (input, target) in enumerate(loader):  # noqa: B007
        seen.append(target.tolist())
        if not args.prefetcher:
            input, target = input.to(args.device), target.to(args.device)
        if args.channels_last:
            input = input.contiguous(memory_format=torch.channels_last)
        with args.amp_autocast():
            loss = loss_fn(model(input), target)
        optimizer.zero_grad()
        loss.backward()
        dispatch_clip_grad(model.parameters(), value=1.0)
        optimizer.step()
        ema.update(model, step=num_updates)
        losses.update(loss.item(), input.size(0))
        num_updates += 1
        scheduler.step_update(num_updates=num_updates, metric=losses.avg)
    assert batch_idx == last_idx
    return losses.avg, seen


def validate(model: Any, loader: Any, loss_fn: Any) -> tuple[float, float]:
    model.eval()
    losses, top1 = AverageMeter(), AverageMeter()
    with torch.no_grad():
        for input, target in loader:
            output = model(input)
            losses.update(loss_fn(output, target).item(), input.size(0))
            top1.update(accuracy(output, target, topk=(1, 5))[0].item(), output.size(0))
    return losses.avg, top1.avg


def run(train: Any, val: Any, epochs: int, prefetcher: bool) -> Any:
    args = SimpleNamespace(prefetcher=prefetcher, channels_last=True, device="cpu", mixup_off_epoch=1)
    args.amp_autocast = suppress
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=N)
    ema = ModelEmaV3(model, decay=0.9)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3)
    scheduler, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=epochs, updates_per_epoch=len(train))
    loss_fn, out = torch.nn.CrossEntropyLoss(), []
    for epoch in range(epochs):
        if hasattr(train.sampler, "set_epoch"):
            train.sampler.set_epoch(epoch)
        loss, seen = train_one_epoch(epoch, model, train, optimizer, loss_fn, args, scheduler, ema)
        metrics = validate(ema, val, loss_fn)
        scheduler.step(epoch + 1, metrics[1])
        out.append((loss, seen, metrics))
    return out


class Listed:
    """What timm's own loaders are, with batches that are known."""

    def __init__(self, epochs: list[list[Any]]) -> None:
        self.epochs, self.epoch, self.sampler, self.mixup_enabled = epochs, 0, self, False

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.epochs[0])

    def __iter__(self) -> Any:
        return iter([tuple(batch) for batch in self.epochs[self.epoch]])


@pytest.mark.parametrize("prefetcher", [True, False])
def test_timms_loop_runs_as_over_its_own_loaders(prefetcher: bool) -> None:
    train, val = make(drop_last=True), make(5, shuffle=False, policy=EVAL)
    ours = run(train, val, EPOCHS, prefetcher)
    epochs = [list(loader) for loader in [make(drop_last=True)] for _ in range(EPOCHS)]
    theirs = run(Listed(epochs), Listed([list(make(5, shuffle=False, policy=EVAL))]), EPOCHS, prefetcher)
    assert ours == theirs
    assert [seen for _, seen, _ in ours] == [[batch.label.tolist() for batch in epoch] for epoch in epochs]


def test_evaluation_on_several_ranks_leaves_out_what_fills_up() -> None:
    evaluator = pytest.importorskip("timm.task.evaluator")
    loaders = [make(5, shuffle=False, rank=rank, world_size=2) for rank in (0, 1)]
    torch.manual_seed(0)
    logits = torch.randn(N, N)
    expected = evaluator.ClassificationEvaluator()
    expected.update(logits, torch.arange(N))
    counted, right, loss = 0, 0.0, 0.0
    for loader in loaders:
        limit = evaluator.evaluation_sample_limit(loader)
        one = evaluator.ClassificationEvaluator(max_samples=limit)
        for _, target in loader:
            one.update(logits[target], target)
        assert one.num_samples == limit
        counted, right, loss = counted + limit, right + int(one.counts[1]), loss + one.loss_sum.item()
    assert counted == N and right == int(expected.counts[1]) and loss == pytest.approx(expected.loss_sum.item())


def test_the_policy_timm_would_use() -> None:
    """A model's own preprocessing, from its configuration."""
    config = timm.data.resolve_model_data_config(timm.create_model("test_resnet"))
    size = config["input_size"][-1]
    policy = dalipipe.Policy([ops.RandomResizedCrop(size), ops.Normalize(config["mean"], config["std"])])
    batch = next(iter(make(policy=policy)))
    assert batch.image.shape == (BATCH, *config["input_size"])


def test_the_example(jpeg_folder: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    root = jpeg_folder(24, name="data/train").parent
    jpeg_folder(10, name="data/val")
    arguments: list[Any] = [root, "--batch-size", 8, "--size", 32, "--model", "test_resnet", "--epochs", 2]
    run_example("timm_train.py", *arguments, monkeypatch=monkeypatch)
    assert "epoch 1: loss" in capsys.readouterr().out
