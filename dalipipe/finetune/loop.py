"""The thin trainer: forward, loss, backward, step; no callbacks, no hidden state.

A run that is stopped after any step and resumed ends with the weights of a run that was never stopped: bit for bit on
the CPU with the same number of threads, and on CUDA as far as the model's own kernels are deterministic.

Several processes train as one. With the same global batch, their number changes how the work is shared and nothing
else: steps, epochs, batches and metrics stay, and a run may be resumed with another number of them. What cannot stay
to the bit are sums that are rounded in another order, and what is drawn or averaged per process: dropout, the
statistics of BatchNorm.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dalipipe import rng
from dalipipe.finetune.averaging import Average
from dalipipe.finetune.checkpoint import (
    load_checkpoint,
    random_state,
    remove_unfinished,
    restore_random_state,
    save_checkpoint,
    seed_random,
)
from dalipipe.finetune.config import FineTuneConfig
from dalipipe.finetune.evaluation import evaluate, perplexity_of, placed
from dalipipe.finetune.interrupts import Interrupted, StopSignals
from dalipipe.finetune.journal import Journal, write_confusion
from dalipipe.finetune.layers import Layers
from dalipipe.finetune.objectives import Answers, Objective, classify, settings_of
from dalipipe.finetune.precision import Steps, resolved
from dalipipe.finetune.progress import Progress, open_progress
from dalipipe.finetune.ranks import Ranks
from dalipipe.finetune.schedule import warmup_cosine
from dalipipe.finetune.sharding import like, local, whole
from dalipipe.finetune.state import State, Tally
from dalipipe.finetune.timing import StepClock

_SCORED = 32  # batches whose scores are kept before they are added up


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to. A resumed run counts its earlier parts too.

    Attributes:
        val_accuracy: share of the predictions on the whole validation set whose highest logit is right, after the last
            epoch, [0, 1].
        val_loss: mean cross-entropy of them, without label smoothing, in nats.
        epochs, steps: as trained.
        images_per_s: training images over the time of the training steps.
        wait_s: time the training steps waited for data.
        compute_s: time they computed.
        eval_s: time of the evaluations.
        checkpoint, metrics: the files written.
    """

    val_accuracy: float
    val_loss: float
    epochs: int
    steps: int
    images_per_s: float
    wait_s: float
    compute_s: float
    eval_s: float
    checkpoint: Path
    metrics: Path

    @property
    def stall(self) -> float:
        """Share of the training steps' time spent waiting for data, [0, 1]."""
        return self.wait_s / max(self.wait_s + self.compute_s, 1e-9)

    @property
    def val_perplexity(self) -> float:
        """The exponential of ``val_loss``: what language models are compared by."""
        return perplexity_of(self.val_loss)


def finetune(
    model: nn.Module,
    train: Any,
    val: Any,
    config: FineTuneConfig,
    *,
    ranks: Ranks | None = None,
    objective: Objective = classify,
    layers: Layers | None = None,
) -> Result:
    """Train ``model`` on ``train`` and evaluate it on the whole of ``val`` after every epoch.

    Writes ``config.out/metrics.jsonl`` (a row for every ``log_every`` steps and for every epoch),
    ``config.out/checkpoint.safetensors`` (model, optimiser, step, random states, the loader's position; replaced
    atomically) and, of predictions that are classes, ``config.out/confusion.csv`` (of the last evaluation: rows what
    was right, columns what was predicted). Ctrl-C or SIGTERM finishes the step, writes the checkpoint and raises
    :class:`Interrupted`.

    Each process uses one device. Where there are several (see :func:`process_group`), all call this with loaders that
    deal out each batch among them, gradients are averaged over them, metrics are those of all, and rank 0 writes the
    files, which all must be able to read on resume. A signal to one of them stops all after the same step, the next
    one. A run may be resumed by another number of processes, on exactly the next global batch.

    Args:
        model: maps a batch's inputs, its fields before the label, to logits ``[N,classes]``: images ``[N,C,H,W]``; or
            sounds, series or texts, and where they differ in length, that, ``[N]``. Trained in place, on the loader's
            device; what it ends with is what was evaluated last.
        train: a ``dalipipe.DataLoader``, or any sized loader of ``(*inputs, labels)`` with ``state_dict`` and
            ``load_state_dict``; ``set_epoch`` is called where present.
        val: any loader of ``(*inputs, labels)`` that drops nothing; on several ranks one of
            ``(*inputs, labels, valid)``, such as ``dalipipe.DataLoader(..., shards="exact")``.
        config: see :class:`FineTuneConfig`.
        ranks: the processes that share the work; those of ``torch.distributed`` by default.
        objective: what the model learns: :func:`classify`, or :func:`predict_next` for language models, whose batches
            need no label, or a function of yours.
        layers: which of the model's layers learn, from when on, and how fast; all alike by default.

    Raises:
        TypeError: a loader lacks what is needed.
        ValueError: an empty training loader, a validation loader that drops or repeats samples, loaders made for
            another number of ranks, processes that were told different things, or a checkpoint of another run.
        FileExistsError: ``config.out`` holds a run, and neither ``resume`` nor ``overwrite`` is set.
        FileNotFoundError: ``resume`` is set and there is no checkpoint.
        ModuleNotFoundError: what ``config`` wants is not installed.
        FloatingPointError: the loss is no longer finite.
        Interrupted: a signal stopped the run; the checkpoint is complete.
        PeerLostError: another process died, or hangs.
    """
    ranks = ranks or Ranks.joined()
    run = _Run(model, train, val, config, ranks, objective, layers or Layers())
    progress = open_progress(
        config.progress if ranks.main else "off",
        epochs=config.epochs,
        total_steps=run.total_steps,
        first_step=run.state.step,
    )
    with contextlib.closing(run), StopSignals(ranks.vote) as stop, progress:
        while run.state.epoch < config.epochs:
            run.train_epoch(progress, stop)
            run.evaluate_epoch(progress, stop)
        ranks.last_vote()  # too late to stop anything
        run.leave_average()
    return run.result()


class _Run:
    """One call of :func:`finetune`: the prepared model and optimiser, the state, the open metrics file."""

    def __init__(
        self,
        model: nn.Module,
        train: Any,
        val: Any,
        config: FineTuneConfig,
        ranks: Ranks,
        objective: Objective,
        layers: Layers,
    ):
        _check_loaders(train, val, ranks)
        self.config, self.train, self.val, self.ranks = config, train, val, ranks
        self.objective, self.layers = objective, layers
        self.steps_per_epoch = self._steps_in_epoch()
        self.total_steps = config.epochs * self.steps_per_epoch
        self.warmup_steps = min(round(config.warmup_epochs * self.steps_per_epoch), self.total_steps)
        self.device = torch.device(getattr(train, "device", None) or next(model.parameters()).device)
        if config.cuda_graphs and self.device.type != "cuda":
            raise ValueError(f"finetune: cuda_graphs=True needs a GPU, and this runs on {self.device}; leave it out")
        channels_last = self.device.type == "cuda" if config.channels_last == "auto" else config.channels_last
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format

        if config.seed is not None:
            seed_random(config.seed if ranks.main else rng.mix64(config.seed, ranks.rank))
        self.model = model.to(self.device)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.learned = [parameter.requires_grad for parameter in self.model.parameters()]  # before layers say otherwise
        if config.shard:
            self._shard()
        self.optimizer = _optimizer(self.model, layers, config, self.device)
        self.steps = Steps(resolved(config.amp, self.device), self.device)
        self.average = None if config.ema is None else Average(self.model, config.ema)
        self.clock = StepClock(self.device)
        # Not yet in the state: each batch's loss, what was right and how many predictions there were; their sums.
        self.scored: list[tuple[torch.Tensor, torch.Tensor, Any]] = []
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.images = 0
        # Of the batches of a step: what each loss is divided by, and the predictions so far.
        self.divisor: Any = 1
        self.counted: Any = 0

        Path(config.out).mkdir(parents=True, exist_ok=True)
        found = config.found
        if found is not None and not (config.resume or config.overwrite):
            raise FileExistsError(
                f"{found} exists: resume=True continues that run, overwrite=True replaces it, "
                "another out folder keeps both"
            )
        self.state = self._load() if config.resume else State()
        ranks.check_equal(**self._settings(), shard=config.shard, step=self.state.step)
        layers.begin_epoch(self.model, self.state.epoch)
        self._wrap()
        if ranks.main:
            remove_unfinished(config.checkpoint)
            for path in config.checkpoints if not config.resume else ():
                path.unlink(missing_ok=True)
        self.journal = Journal(
            config.metrics,
            keep_bytes=self.state.metrics_bytes,
            tensorboard=Path(config.out) / "tensorboard" if config.tensorboard else None,
            step=self.state.step,
            writes=ranks.main,
        )

    def _shard(self) -> None:
        epochs = range(1, self.config.epochs)
        self.layers.begin_epoch(self.model, 0)
        if any(self.layers.begin_epoch(self.model, epoch) for epoch in epochs):
            raise ValueError(
                "finetune: shard=True deals out the layers that learn once and for all, and layers= wants others to "
                "learn later; leave one of them out"
            )
        self.ranks.shard(self.model, self.device)

    def _wrap(self) -> None:
        """The model as it is called: with gradients of all ranks, compiled where wanted."""
        config = self.config
        self.exchanging = self.ranks.parallel(self.model)
        self.parallel: Any = self.exchanging
        if config.compile or config.cuda_graphs:
            torch.compiler.reset()  # of what other layers learned; torch would not compile one model again and again
            self.parallel = torch.compile(self.exchanging, mode="reduce-overhead" if config.cuda_graphs else None)

    def _steps_in_epoch(self) -> int:
        return -(-len(self.train) // self.config.accumulate)

    def train_epoch(self, progress: Progress, stop: StopSignals) -> None:
        config, state = self.config, self.state
        if state.epoch_end is None:
            if hasattr(self.train, "set_epoch"):
                self.train.set_epoch(state.epoch)
            state.epoch_end = state.step + self._steps_in_epoch()  # of batches by a budget, epochs differ by a few
        end, batches = state.epoch_end, len(self.train)
        done = (state.step - end + self._steps_in_epoch()) * config.accumulate  # of the batches
        if state.step == end:  # resumed between the last step and the evaluation
            return

        if self.layers.begin_epoch(self.model, state.epoch):
            self._wrap()
        self.layers.train(self.model)
        for batch in self.clock.watch(self.train):
            place = done % config.accumulate
            of = min(config.accumulate, batches - done + place)  # an epoch's last step may have fewer
            done += 1
            self.ranks.place = f"step {state.step + 1}"
            self._add_gradients(placed(batch, self.device, self.memory_format), place, of)
            if place + 1 < of:
                self.clock.step_done()
                continue
            lr = self._step(of)
            self.clock.step_done()
            state.step += 1
            progress.stepped(state.step, state.epoch)

            if state.step % config.log_every == 0 or state.step == end:
                progress.logged(self._log(lr))
            signum = stop.poll()
            if signum is not None:
                self.save()
                raise Interrupted(signum, state.step, config.checkpoint)
            if config.save_every is not None and state.step % config.save_every == 0:
                self.save()
        if done != batches:
            raise RuntimeError(f"the training loader promised {batches} batches an epoch and ended after {done}")

    def _add_gradients(self, fields: list[Any], place: int, of: int) -> None:
        """Forward and backward of batch number ``place`` of the ``of`` that make the step.

        What the step minimises is the mean over the predictions of all of them, on all ranks. How many they are is only
        known in the end: till then it is guessed from the first.
        """
        ranks, smoothing = self.ranks, self.config.label_smoothing
        if self.config.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        with ranks.exchange(self.exchanging, place + 1 == of):
            with ranks.during("the broadcast of buffers"), self.steps.autocast():
                losses, correct, predictions, answers, loss = self.objective(self.parallel, fields, smoothing)
                _check_head(answers, self._classes())
                count = len(losses) if predictions is None else predictions.sum()
                if place == 0:
                    self.divisor, self.counted = self._of_ranks(count) * of, 0
                self.counted += count
                total = losses.sum()
                loss = total / self.divisor if loss is None else loss * (count / self.divisor)
            with ranks.during("the all-reduce of gradients"):
                self.steps.backward(loss)
        self.scored.append((total.detach(), correct, count))
        self.images += len(losses)
        if len(self.scored) == _SCORED:
            self._add_up()

    def _add_up(self) -> None:
        """The sums of many batches at once: batch by batch they would be a good part of a small model's step. They stay
        on the device: nothing here waits for it.
        """
        if self.scored:
            totals, corrects, counts = zip(*self.scored, strict=True)
            made = sum(counts)
            self.sums += torch.stack(
                [
                    torch.stack(totals).sum(dtype=torch.float64),
                    torch.cat([correct.reshape(-1) for correct in corrects]).sum(dtype=torch.float64),
                    made if isinstance(made, torch.Tensor) else self.sums.new_full((), made),
                ]
            )
            self.scored.clear()

    def _of_ranks(self, count: Any) -> Any:
        """The mean over the ranks of a number of predictions: of samples, all have as many."""
        return self.ranks.mean(count).clamp(min=1) if isinstance(count, torch.Tensor) else count

    def _step(self, of: int) -> float:
        """The optimiser's step with the gradients of ``of`` batches; returns the learning rate."""
        config, state = self.config, self.state
        planned = min(state.step, self.total_steps - 1)  # as many epochs as long as the first one
        lr = config.lr * warmup_cosine(planned, total_steps=self.total_steps, warmup_steps=self.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        if of > 1:
            guess = self.divisor / self._of_ranks(self.counted)
            if isinstance(guess, torch.Tensor) or guess != 1:
                gradients = [local(p.grad) for p in self.model.parameters() if p.grad is not None]
                torch._foreach_mul_(gradients, guess)
        self.steps.step(self.optimizer, self.model.parameters(), config.clip_norm)
        if self.average is not None:
            self.average.update(state.step + 1)
        return lr

    def evaluate_epoch(self, progress: Progress, stop: StopSignals) -> None:
        state, config, begin_s = self.state, self.config, time.perf_counter()
        self.ranks.place = f"the evaluation after step {state.step}"
        self.ranks.share_buffers(self.model)
        try:
            with contextlib.nullcontext() if self.average is None else self.average.in_model():
                found = evaluate(
                    self.parallel, self.val, amp=self.steps.amp, stop=stop, ranks=self.ranks, objective=self.objective
                )
        except KeyboardInterrupt:
            if stop.agreed is None:
                raise
            self.save()
            raise Interrupted(stop.agreed, state.step, config.checkpoint) from None
        eval_s = time.perf_counter() - begin_s
        row = {
            "kind": "epoch",
            "epoch": state.epoch,
            "step": state.step,
            **state.in_epoch.means(),
            "val_loss": found.loss,
            "val_accuracy": found.accuracy,
            "val_images": found.images,
            "eval_s": eval_s,
        }
        if found.of_pixels and found.confusion is not None:
            row["val_mean_iou"] = found.mean_iou
        self.journal.write(row)
        if found.confusion is not None and self.ranks.main:
            write_confusion(found.confusion, self._classes(), config.confusion)
        state.val_loss, state.val_accuracy, state.eval_s = (
            found.loss,
            found.accuracy,
            state.eval_s + eval_s,
        )
        state.in_epoch = Tally()
        state.epoch += 1
        state.epoch_end = None
        self.save()
        progress.epoch_ended(row)

    def leave_average(self) -> None:
        """The model ends with the weights that were evaluated."""
        if self.average is not None:
            self.average.swap()

    def _settle(self) -> None:
        """Move the sums on the device into the state. The only place where training waits for the device."""
        self._add_up()
        here, ranks = [*self.sums.tolist(), self.images, *self.clock.take()], self.ranks
        self.sums.zero_()
        loss, correct, predictions, images, wait_s, compute_s = ranks.sum(here)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the training loss became {loss} shortly before step {self.state.step}; "
                "a lower lr, a longer warm-up or a smaller clip_norm usually helps"
            )
        self.state.since_log.add(
            Tally(int(images), predictions, loss, correct, wait_s / ranks.world_size, compute_s / ranks.world_size)
        )
        self.images = 0

    def _log(self, lr: float) -> dict[str, Any]:
        self._settle()
        state = self.state
        row = {
            "kind": "step",
            "epoch": state.epoch,
            "step": state.step,
            "lr": lr,
            **state.since_log.means(),
        }
        state.in_epoch.add(state.since_log)
        state.in_run.add(state.since_log)
        state.since_log = Tally()
        self.journal.write(row)
        return row

    def save(self) -> None:
        """Write the checkpoint; possible after any step. No rank goes on before it is complete."""
        self._settle()
        random = self.ranks.gather(random_state())
        if self.ranks.main:
            self.state.metrics_bytes = self.journal.sync()
        if self.ranks.main or self.config.shard:
            tensors = self._tensors()
            if self.ranks.main:
                self._write_checkpoint(tensors, random)
        self.ranks.wait()

    def _tensors(self) -> dict[str, Any]:
        """Whole, on the CPU of rank 0; where they are dealt out, all ranks must call it."""
        keep = self.ranks.main
        self.ranks.share_buffers(self.model)
        tensors = {"model": whole(self.model.state_dict(), keep=keep)}
        if self.average is not None:
            with self.average.in_model():
                tensors["ema"] = whole(self.model.state_dict(), keep=keep)
        return {**tensors, "optimizer": whole(self.optimizer.state_dict(), keep=keep)}

    def _write_checkpoint(self, tensors: dict[str, Any], random: list[dict[str, Any]]) -> None:
        save_checkpoint(
            self.config.checkpoint,
            {
                **tensors,
                "settings": self._settings(),
                "classes": self._classes(),
                "scaler": self.steps.state_dict(),
                "state": dataclasses.asdict(self.state),
                "random": random,
                "loader": self.train.state_dict(),
            },
        )

    def _load(self) -> State:
        config = self.config
        path = config.found or config.checkpoint
        saved = load_checkpoint(path)
        then, now = {**FineTuneConfig(out=config.out).fingerprint(), **saved["settings"]}, self._settings()
        then["layers"] = {**dataclasses.asdict(Layers()), **then.get("layers", {})}  # of what there was not yet, then
        then.setdefault("objective", now["objective"])
        different = [f"{name} was {was!r}, is {this!r}" for name, was, this in _differences(then, now)]
        if different:
            raise ValueError(
                f"{path} belongs to a run with other settings: {'; '.join(different)}. "
                "Resume with the same ones, or start anew in another out folder"
            )
        if self.average is not None:
            self._load_weights(saved["ema"], path)
            self.average.take()
        self._load_weights(saved["model"], path)
        self._load_optimizer(saved["optimizer"])
        self.steps.load_state_dict(saved.get("scaler", {}))
        self.train.load_state_dict(saved["loader"])
        state, ranks = State.from_dict(saved["state"]), self.ranks
        if "epoch_end" not in saved["state"] and state.step > state.epoch * self.steps_per_epoch:
            state.epoch_end = (state.epoch + 1) * self.steps_per_epoch  # of before epochs could differ
        if len(saved["random"]) == ranks.world_size:
            restore_random_state(saved["random"][ranks.rank])
        else:  # as many ranks as there were have no heirs; but no two of the new ones may draw the same
            seed_random(rng.mix64(self.config.seed or 0, state.step, ranks.rank))
        return state

    def _load_weights(self, saved: dict[str, Any], path: Path) -> None:
        own = self.model.state_dict()
        for name in {**own, **saved}:
            if name not in saved or name not in own:
                problem = f"it has no {name}" if name in own else f"it has {name}, which this one has not"
            elif isinstance(own[name], torch.Tensor) and own[name].shape != saved[name].shape:
                problem = f"{name} is {list(saved[name].shape)} there and {list(own[name].shape)} here"
            else:
                continue
            raise ValueError(f"{path} is of another model: {problem}. Resume with the model that the run began with")
        fitting = {
            name: like(value, own[name]) if isinstance(value, torch.Tensor) else value for name, value in saved.items()
        }
        self.model.load_state_dict(fitting)

    def _load_optimizer(self, saved: dict[str, Any]) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        states = {
            index: {
                key: like(value, parameter.detach())
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape
                else value
                for key, value in saved["state"].get(index, {}).items()
            }
            for index, parameter in enumerate(parameters)
        }
        groups = [
            {**group, "fused": own["fused"]}  # is a matter of where this runs
            for group, own in zip(saved["param_groups"], self.optimizer.param_groups, strict=True)
        ]
        found = {index: state for index, state in states.items() if state}
        self.optimizer.load_state_dict({"state": found, "param_groups": groups})

    def _classes(self) -> list[str] | None:
        return getattr(self.train, "classes", None)

    def _settings(self) -> dict[str, Any]:
        told = {"layers": dataclasses.asdict(self.layers), "objective": settings_of(self.objective)}
        return {**self.config.fingerprint(), "steps_per_epoch": self.steps_per_epoch, **told}

    def result(self) -> Result:
        state = self.state
        return Result(
            val_accuracy=state.val_accuracy,
            val_loss=state.val_loss,
            epochs=state.epoch,
            steps=state.step,
            images_per_s=state.in_run.images / max(state.in_run.wait_s + state.in_run.compute_s, 1e-9),
            wait_s=state.in_run.wait_s,
            compute_s=state.in_run.compute_s,
            eval_s=state.eval_s,
            checkpoint=self.config.checkpoint,
            metrics=self.config.metrics,
        )

    def close(self) -> None:
        for parameter, learned in zip(self.model.parameters(), self.learned, strict=True):
            parameter.requires_grad_(learned)
        self.journal.close()


def _differences(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """What is other now: names, of what is inside of others with dots between, and both values. What was told then
    alone is left out at the top, as versions differ in it; so is what things of different names were told.
    """
    if then.get("name") != now.get("name"):
        yield f"{prefix}name", then.get("name"), now.get("name")
        return
    for name in dict.fromkeys([*now, *(then if prefix else ())]):
        was, this = then.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(this, dict):
            yield from _differences(was, this, f"{prefix}{name}.")
        elif was != this:
            yield f"{prefix}{name}", was, this


def _optimizer(model: nn.Module, layers: Layers, config: FineTuneConfig, device: torch.device) -> torch.optim.Optimizer:
    """With fused kernels, which neither synchronise nor loop over tensors."""
    groups = layers.groups(model, weight_decay=config.weight_decay)
    fused = device.type in ("cpu", "cuda") and not (config.shard and config.optimizer == "sgd")  # DTensors have none
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True, fused=fused)
        # Torch makes them in a parameter's first step: of uninitialised memory where this overflows in fp16 and is
        # left out, and not at all where others of the group have theirs already.
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
        return optimizer
    return torch.optim.AdamW(groups, lr=config.lr, fused=fused)


def training_step(
    model: nn.Module, device: torch.device, config: FineTuneConfig, *, objective: Objective = classify
) -> Callable[[Any], None]:
    """A step of the loop by itself, for those who time it: forward, loss, backward, optimiser, on a batch.

    ``model`` is moved to ``device`` and set to training. What a step goes by counts of ``config``: optimiser,
    precision, memory format and the like; nothing is written.
    """
    channels_last = device.type == "cuda" if config.channels_last == "auto" else config.channels_last
    memory_format = torch.channels_last if channels_last else torch.preserve_format
    model.to(device).train()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer, steps = _optimizer(model, Layers(), config, device), Steps(resolved(config.amp, device), device)

    def step(batch: Any) -> None:
        with steps.autocast():
            scores = objective(model, placed(batch, device, memory_format), config.label_smoothing)
            count = len(scores.losses) if scores.predictions is None else scores.predictions.sum().clamp(min=1)
            loss = scores.losses.sum() / count if scores.minimised is None else scores.minimised
        steps.backward(loss)
        steps.step(optimizer, model.parameters(), config.clip_norm)

    return step


def _check_head(answers: Answers | None, classes: list[str] | None) -> None:
    if answers is not None and answers.classes < len(classes or ()):
        raise ValueError(
            f"finetune: the model has {answers.classes} outputs and the data {len(classes or ())} classes: give it a "
            "head for them, such as by transfer.replace_head"
        )


def _check_loaders(train: Any, val: Any, ranks: Ranks) -> None:
    missing = [name for name in ("__len__", "state_dict", "load_state_dict") if not hasattr(train, name)]
    if missing:
        raise TypeError(
            f"finetune: the training loader ({type(train).__name__}) has no {', '.join(missing)}; "
            "use dalipipe.DataLoader, which can be resumed after any batch"
        )
    if len(train) == 0:
        raise ValueError(
            "finetune: the training loader has no batch; with drop_last=True the batch may be larger than the data set"
        )
    ours, theirs = (getattr(loader, "classes", None) for loader in (train, val))
    if ours and theirs and ours != theirs:
        odd = sorted(set(ours) ^ set(theirs))
        raise ValueError(
            "finetune: the training and the validation loader must have the same classes; "
            + (f"only one of them has {odd[0]!r}" if odd else "their order differs")
        )
    if getattr(val, "drop_last", False):
        raise ValueError(
            "finetune: the validation loader has drop_last=True and would leave samples out; set it to False"
        )
    for name, loader in (("training", train), ("validation", val)):
        made_for = getattr(getattr(loader, "sampler", None), "num_replicas", ranks.world_size)
        if made_for != ranks.world_size:
            raise ValueError(
                f"finetune: the {name} loader was made for {made_for} processes, and there are {ranks.world_size}; "
                "make it after they have found each other, inside process_group()"
            )
    if getattr(getattr(train, "sampler", None), "exact", False):
        raise ValueError('finetune: the training loader has shards="exact", which is for evaluation; leave it out')
    if ranks.world_size > 1 and not getattr(getattr(val, "sampler", None), "exact", True):
        raise ValueError('finetune: on several ranks the validation loader needs shards="exact" to count samples once')
