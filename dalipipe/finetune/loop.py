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
import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dalipipe import rng
from dalipipe.finetune.checkpoint import (
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
    seed_random,
)
from dalipipe.finetune.config import FineTuneConfig
from dalipipe.finetune.interrupts import Interrupted, StopSignals
from dalipipe.finetune.layers import Layers
from dalipipe.finetune.objectives import Answers, Objective, classify
from dalipipe.finetune.progress import Progress, open_progress
from dalipipe.finetune.ranks import Ranks
from dalipipe.finetune.schedule import warmup_cosine
from dalipipe.finetune.timing import StepClock


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
        return _perplexity(self.val_loss)


class Evaluation(NamedTuple):
    """Means over every prediction for the samples of a loader, and how many samples there were.

    ``confusion``: int64 [classes, classes], on the CPU: how often samples of a row's class were taken for a column's;
    ``None`` where predictions are no classes.
    """

    loss: float
    accuracy: float
    images: int
    confusion: torch.Tensor | None = None

    @property
    def perplexity(self) -> float:
        """The exponential of the loss."""
        return _perplexity(self.loss)


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    amp: bool = False,
    stop: StopSignals | None = None,
    ranks: Ranks | None = None,
    objective: Objective = classify,
) -> Evaluation:
    """Cross-entropy (nats) and top-1 accuracy of ``model`` over the whole of ``loader``.

    Sums are kept on the device in double precision and read once, so the means are exact with any last batch.

    Args:
        model: maps a batch's inputs, such as images ``[N,C,H,W]``, to logits, as ``objective`` wants them,
            ``[N,classes]``; left in evaluation mode.
        loader: yields ``(*inputs, labels)``, labels int64 ``[N]``, or ``(*inputs, labels, valid)``, where only rows
            with ``valid`` bool ``[N]`` count, as ``dalipipe.DataLoader`` does with ``shards="exact"``.
        amp: autocast to bf16.
        stop: where given, a signal it received ends the evaluation with :class:`KeyboardInterrupt`.
        ranks: where given, the loader holds this rank's share, and the result is that of all shares together.
        objective: what the model is to do.

    Raises:
        ValueError: the loader gave no batch, or none with anything to predict.
    """
    ranks = ranks or Ranks()
    device = next(model.parameters()).device
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # loss, correct, predictions, samples
    confusion: torch.Tensor | None = None
    model.eval()
    with torch.inference_mode():
        for batch in loader:
            fields = placed(batch, device)
            marked = fields[-1].dtype == torch.bool  # no label is
            if not marked and ranks.world_size > 1:
                raise ValueError('evaluate: several ranks need batches that say which rows count: shards="exact"')
            counts = fields.pop() if marked else torch.ones(len(fields[0]), dtype=torch.bool, device=device)
            with ranks.during("the broadcast of buffers"), torch.autocast(device.type, torch.bfloat16, enabled=amp):
                scores = objective(model, fields, 0.0)
            predicted = counts if scores.predictions is None else scores.predictions.where(counts, 0)
            parts = scores.losses.double().where(counts, 0), scores.correct.where(counts, 0), predicted, counts
            sums += torch.stack([part.sum() for part in parts])
            if scores.answers is not None:
                found = _confusion(scores.answers, counts)
                confusion = found if confusion is None else confusion + found
            if stop is not None and stop.poll() is not None:
                raise KeyboardInterrupt
    loss, hits, predictions_made, samples = ranks.sum(sums.tolist())
    if predictions_made == 0:
        nothing = "nothing to predict" if samples else "no batch"
        raise ValueError(f"evaluate: the loader gave {nothing}; is its data set empty?")
    if confusion is not None:
        everyone = ranks.sum(confusion.flatten().tolist()) if ranks.world_size > 1 else confusion.flatten().tolist()
        confusion = torch.tensor(everyone).long().view(confusion.shape)
    return Evaluation(loss / predictions_made, hits / predictions_made, int(samples), confusion)


def placed(batch: Iterable[Any], device: torch.device, memory_format: Any = torch.preserve_format) -> list[Any]:
    """A batch's fields on ``device``, pictures in ``memory_format``; or several batches' fields, as lists of them."""
    return [
        value.to(device, non_blocking=True, memory_format=memory_format if value.ndim == 4 else torch.preserve_format)
        if isinstance(value, torch.Tensor)
        else placed(value, device, memory_format)
        for value in batch
    ]


def _confusion(answers: Answers, counts: torch.Tensor) -> torch.Tensor:
    """int64 [classes, classes]: of samples that count, rows what was right, columns what was predicted."""
    asked = (answers.truth >= 0) & counts.view(-1, *[1] * (answers.truth.ndim - 1))
    pairs = (answers.truth * answers.classes + answers.predicted)[asked]
    return torch.bincount(pairs, minlength=answers.classes**2).view(answers.classes, answers.classes)


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

    Writes ``config.out/metrics.jsonl`` (a row for every ``log_every`` steps and for every epoch) and
    ``config.out/checkpoint.pt`` (model, optimiser, step, random states, the loader's position; replaced atomically).
    Ctrl-C or SIGTERM finishes the step, writes the checkpoint and raises :class:`Interrupted`.

    Each process uses one device. Where there are several (see :func:`process_group`), all call this with loaders that
    deal out each batch among them, gradients are averaged over them, metrics are those of all, and rank 0 writes the
    files, which all must be able to read on resume. A signal to one of them stops all after the same step, the next
    one. A run may be resumed by another number of processes, on exactly the next global batch.

    Args:
        model: maps a batch's inputs, its fields before the label, to logits ``[N,classes]``: images ``[N,C,H,W]``; or
            sounds, series or texts, and where they differ in length, that, ``[N]``. Trained in place, on the loader's
            device.
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
    return run.result()


@dataclasses.dataclass
class _Tally:
    """Sums over the steps of a window, an epoch or the whole run, and over the ranks; times are the ranks' mean."""

    images: int = 0
    predictions: float = 0.0  # of images: one each; of texts, the words
    loss: float = 0.0  # summed over predictions
    correct: float = 0.0
    wait_s: float = 0.0
    compute_s: float = 0.0

    def add(self, other: _Tally) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def means(self) -> dict[str, Any]:
        step_s = max(self.wait_s + self.compute_s, 1e-9)
        return {
            "loss": self.loss / max(self.predictions, 1),
            "accuracy": self.correct / max(self.predictions, 1),
            "images_per_s": self.images / step_s,
            "stall": self.wait_s / step_s,
            "wait_s": self.wait_s,
            "compute_s": self.compute_s,
        }


@dataclasses.dataclass
class _State:
    """What a checkpoint carries besides tensors: plain numbers."""

    step: int = 0  # optimiser steps done
    epoch: int = 0  # epochs trained and evaluated
    epoch_end: int | None = None  # the step after which the epoch under way is trained; None: none is
    val_loss: float = math.nan
    val_accuracy: float = math.nan
    eval_s: float = 0.0
    metrics_bytes: int = 0  # length of metrics.jsonl; a resumed run cuts off what a killed one wrote after it
    since_log: _Tally = dataclasses.field(default_factory=_Tally)
    in_epoch: _Tally = dataclasses.field(default_factory=_Tally)
    in_run: _Tally = dataclasses.field(default_factory=_Tally)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> _State:
        values: dict[str, Any] = {
            # Checkpoints from before there were objectives have a prediction an image.
            k: _Tally(**{"predictions": v["images"], **v}) if isinstance(v, dict) else v
            for k, v in saved.items()
        }
        return cls(**values)


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
        self.steps_per_epoch = len(train)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.warmup_steps = min(round(config.warmup_epochs * self.steps_per_epoch), self.total_steps)
        self.device = torch.device(getattr(train, "device", None) or next(model.parameters()).device)
        on_cuda = self.device.type == "cuda"
        self.amp = config.amp == "bf16" or (config.amp == "auto" and on_cuda)
        channels_last = on_cuda if config.channels_last == "auto" else config.channels_last
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format

        if config.seed is not None:
            torch.manual_seed(config.seed if ranks.main else rng.mix64(config.seed, ranks.rank))
        self.model = model.to(self.device)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.learned = [parameter.requires_grad for parameter in self.model.parameters()]  # before layers say otherwise
        self.optimizer = _optimizer(self.model, layers, config, self.device)
        self.clock = StepClock(self.device)
        # Loss, correct, predictions: not yet in the state.
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.images = 0

        Path(config.out).mkdir(parents=True, exist_ok=True)
        if config.checkpoint.exists() and not (config.resume or config.overwrite):
            raise FileExistsError(
                f"{config.checkpoint} exists: resume=True continues that run, overwrite=True replaces it, "
                "another out folder keeps both"
            )
        self.state = self._load() if config.resume else _State()
        ranks.check_equal(**self._settings(), step=self.state.step)
        layers.begin_epoch(self.model, self.state.epoch)
        self.parallel = ranks.parallel(self.model)
        if ranks.main and not config.resume:
            config.checkpoint.unlink(missing_ok=True)
        self.file = open(config.metrics if ranks.main else os.devnull, "ab")  # noqa: SIM115 (closed by close)
        if ranks.main:
            self.file.truncate(self.state.metrics_bytes)

    def train_epoch(self, progress: Progress, stop: StopSignals) -> None:
        config, state = self.config, self.state
        if state.epoch_end is None:
            if hasattr(self.train, "set_epoch"):
                self.train.set_epoch(state.epoch)
            state.epoch_end = state.step + len(self.train)  # of batches by a budget, epochs differ by a few
        end, first = state.epoch_end, state.epoch_end - len(self.train)
        if state.step == end:  # resumed between the last step and the evaluation
            return

        if self.layers.begin_epoch(self.model, state.epoch):
            self.parallel = self.ranks.parallel(self.model)
        self.layers.train(self.model)
        for batch in self.clock.watch(self.train):
            fields = placed(batch, self.device, self.memory_format)
            planned = min(state.step, self.total_steps - 1)  # as many epochs as long as the first one
            lr = config.lr * warmup_cosine(planned, total_steps=self.total_steps, warmup_steps=self.warmup_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]

            self.ranks.place = f"step {state.step + 1}"
            with (
                self.ranks.during("the broadcast of buffers"),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp),
            ):
                losses, correct, predictions, _, loss = self.objective(self.parallel, fields, config.label_smoothing)
                if loss is None:
                    count = len(losses) if predictions is None else self.ranks.mean(predictions.sum()).clamp(min=1)
                    loss = losses.sum() / count
            with self.ranks.during("the all-reduce of gradients"):
                loss.backward()
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

            with torch.no_grad():  # stays on the device: nothing here waits for it
                self.sums[0] += losses.sum()
                self.sums[1] += correct.sum()
                self.sums[2] += len(losses) if predictions is None else predictions.sum()
            self.images += len(losses)
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
        if state.step != end:
            raise RuntimeError(
                f"the training loader promised {end - first} batches an epoch and ended after {state.step - first}"
            )

    def evaluate_epoch(self, progress: Progress, stop: StopSignals) -> None:
        state, begin_s = self.state, time.perf_counter()
        self.ranks.place = f"the evaluation after step {state.step}"
        try:
            found = evaluate(
                self.parallel, self.val, amp=self.amp, stop=stop, ranks=self.ranks, objective=self.objective
            )
        except KeyboardInterrupt:
            if stop.agreed is None:
                raise
            self.save()
            raise Interrupted(stop.agreed, state.step, self.config.checkpoint) from None
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
        self._write(row)
        state.val_loss, state.val_accuracy, state.eval_s = (
            found.loss,
            found.accuracy,
            state.eval_s + eval_s,
        )
        state.in_epoch = _Tally()
        state.epoch += 1
        state.epoch_end = None
        self.save()
        progress.epoch_ended(row)

    def _settle(self) -> None:
        """Move the sums on the device into the state. The only place where training waits for the device."""
        here, ranks = [*self.sums.tolist(), self.images, *self.clock.take()], self.ranks
        self.sums.zero_()
        loss, correct, predictions, images, wait_s, compute_s = ranks.sum(here)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the training loss became {loss} shortly before step {self.state.step}; "
                "a lower lr, a longer warm-up or a smaller clip_norm usually helps"
            )
        self.state.since_log.add(
            _Tally(int(images), predictions, loss, correct, wait_s / ranks.world_size, compute_s / ranks.world_size)
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
        state.since_log = _Tally()
        self._write(row)
        return row

    def _write(self, row: dict[str, Any]) -> None:
        self.file.write(json.dumps(row).encode() + b"\n")
        self.file.flush()

    def save(self) -> None:
        """Write the checkpoint; possible after any step. No rank goes on before it is complete."""
        self._settle()
        random = self.ranks.gather(random_state())
        if self.ranks.main:
            os.fsync(self.file.fileno())
            self.state.metrics_bytes = os.fstat(self.file.fileno()).st_size
            self._write_checkpoint(random)
        self.ranks.wait()

    def _write_checkpoint(self, random: list[dict[str, Any]]) -> None:
        save_checkpoint(
            self.config.checkpoint,
            {
                "settings": self._settings(),
                "classes": getattr(self.train, "classes", None),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "state": dataclasses.asdict(self.state),
                "random": random,
                "loader": self.train.state_dict(),
            },
        )

    def _load(self) -> _State:
        saved = load_checkpoint(self.config.checkpoint)
        then, now = saved["settings"], self._settings()
        different = [f"{key} was {then.get(key)!r}, is {now[key]!r}" for key in now if then.get(key) != now[key]]
        if different:
            raise ValueError(
                f"{self.config.checkpoint} belongs to a run with other settings: {'; '.join(different)}. "
                "Resume with the same ones, or start anew in another out folder"
            )
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.train.load_state_dict(saved["loader"])
        state, ranks = _State.from_dict(saved["state"]), self.ranks
        if "epoch_end" not in saved["state"] and state.step > state.epoch * self.steps_per_epoch:
            state.epoch_end = (state.epoch + 1) * self.steps_per_epoch  # of before epochs could differ
        if len(saved["random"]) == ranks.world_size:
            restore_random_state(saved["random"][ranks.rank])
        else:  # as many ranks as there were have no heirs; but no two of the new ones may draw the same
            seed_random(rng.mix64(self.config.seed or 0, state.step, ranks.rank))
        return state

    def _settings(self) -> dict[str, Any]:
        layers = dataclasses.asdict(self.layers)
        return {**self.config.fingerprint(), "steps_per_epoch": self.steps_per_epoch, "layers": layers}

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
        self.file.close()


def _optimizer(model: nn.Module, layers: Layers, config: FineTuneConfig, device: torch.device) -> torch.optim.Optimizer:
    """With fused kernels, which neither synchronise nor loop over tensors."""
    groups = layers.groups(model, weight_decay=config.weight_decay)
    fused = device.type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, lr=config.lr, fused=fused)


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
