"""The strength of a policy, chosen by cross-validation."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dalipipe import rng
from dalipipe.finetune.chance import left_to_chance
from dalipipe.finetune.config import FineTuneConfig
from dalipipe.finetune.loop import finetune
from dalipipe.finetune.objectives import Objective, classify, settings_of
from dalipipe.finetune.parts import Part
from dalipipe.finetune.tuning.candidates import Candidate, effect
from dalipipe.finetune.tuning.fixed_steps import FixedSteps
from dalipipe.finetune.tuning.folds import stratified_folds
from dalipipe.finetune.tuning.halving import Rung, plan_rungs
from dalipipe.finetune.tuning.ledger import Ledger
from dalipipe.loader import DataLoader
from dalipipe.policy import Policy
from dalipipe.policy_files import save_policy
from dalipipe.sources import Source
from dalipipe.sources.contents import identity


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """How candidates are trained and compared; all of them alike.

    Attributes:
        out: folder for ``fits.jsonl``, ``policy.yaml`` (and ``policy_eval.yaml``), ``table.md`` and ``tuning.png``;
            created when missing.
        folds: of cross-validation, >= 2.
        steps: optimiser steps of a training in full, >= 1.
        batch_size: >= 1; at most as many samples as the smallest training part has.
        lr, weight_decay, label_smoothing, optimizer, amp: as `FineTuneConfig`'s.
        share: of the full grid's steps that may be spent, (0, 1]; 1 trains every candidate in full.
        seed: of folds, weights, order and augmentation, >= 0.
        resume: continue what is in ``out``; trainings that are finished are not repeated.
        overwrite: replace it.
    """

    out: str | os.PathLike[str]
    folds: int = 5
    steps: int = 500
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    optimizer: str = "adamw"
    amp: str = "auto"
    share: float = 0.25
    seed: int = 0
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"TuneConfig.batch_size must be a whole number >= 1, got {self.batch_size!r}")
        if self.seed is None:
            raise ValueError("TuneConfig.seed must be a number: candidates are compared with the same one")
        plan_rungs(1, self.folds, self.steps, share=self.share)
        self.fit(Path(self.out))  # which looks at the rest

    def fit(self, out: Path, seed: int = 0, steps: int | None = None) -> FineTuneConfig:
        """Of one training, an epoch of ``steps`` steps."""
        return FineTuneConfig(
            out=out,
            epochs=1,
            lr=self.lr,
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
            optimizer=self.optimizer,
            amp=self.amp,
            warmup_epochs=0.1,
            seed=seed,
            overwrite=True,
            log_every=max(1, steps or self.steps),
            progress="off",
        )


@dataclasses.dataclass(frozen=True)
class Standing:
    """How a candidate did in the last rung that it reached.

    Attributes:
        candidate: which.
        rung: from 0; ``in_full``: whether that was the last one.
        accuracies: of its folds, [0, 1].
        loss: mean cross-entropy over folds, nats; infinite, where training failed.
        steps: that it was trained for, on each.
    """

    candidate: Candidate
    rung: int
    in_full: bool
    accuracies: tuple[float, ...]
    loss: float
    steps: int

    @property
    def mean(self) -> float:
        """Of the accuracies."""
        return float(np.mean(self.accuracies))

    @property
    def error(self) -> float:
        """The mean's standard error over folds; of a single fold, NaN."""
        n = len(self.accuracies)
        return float(np.std(self.accuracies, ddof=1)) / math.sqrt(n) if n > 1 else math.nan

    @property
    def percent(self) -> str:
        """Both, to be shown."""
        error = "" if math.isnan(self.error) else f" ± {self.error:.2%}"
        return f"{self.mean:.2%}{error}"


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What came out.

    Attributes:
        chosen: the weakest candidate trained in full that is within a standard error of the best.
        best: the one of highest accuracy.
        policy: the chosen one's.
        standings: of all candidates, in the last rung that they reached, the best of the last one first.
        rounds: rung by rung, of all that were in it.
        cost, grid: steps of training: of what was compared, and of the full grid.
        files: what was written, by name.
    """

    chosen: Standing
    best: Standing
    policy: Policy
    standings: tuple[Standing, ...]
    rounds: tuple[tuple[Standing, ...], ...]
    cost: int
    grid: int
    files: dict[str, Path]


def tune(
    policy: Policy,
    source: Source,
    model: Callable[[DataLoader], nn.Module],
    config: TuneConfig,
    *,
    candidates: Sequence[Candidate],
    eval_policy: Policy,
    objective: Objective = classify,
    loader: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Tuned:
    """Compares ``candidates`` by cross-validation and chooses by the one-standard-error rule, toward the weaker.

    A candidate is trained on all folds but one, which it is validated on, as it is: only what is trained on is
    augmented. Folds, initial weights, order and steps are the same for all candidates. Successive halving
    (`plan_rungs`) spends at most ``config.share`` of what training all of them in full would cost: those of lowest
    cross-entropy go on, and no augmentation at all, whatever it did before. Of those trained in full, the chosen one is
    the weakest (`Candidate.dose`) whose mean accuracy is at most one standard error, the best one's over the folds,
    below the best (Breiman, Friedman, Olshen, Stone, "Classification and regression trees", 1984, section 3.4.3).

    Every finished training is a line of ``config.out/fits.jsonl``, on the disk before the next begins: what is killed
    anywhere and resumed repeats none of them, and ends the same.

    Args:
        policy: as written.
        source: what to cut into folds: samples with a class each, nothing of which is kept for the final test.
        model: makes the model, given the training loader (for its ``classes``, its ``vocabulary``), with torch's
            generator seeded.
        config: how.
        candidates: see :func:`candidates`.
        eval_policy: what validation sees, without chance.
        objective: what the model learns.
        loader: options for the loaders, such as ``device`` and ``num_workers``.
        say: is told what is going on, a line each.

    Raises:
        ValueError: classes that are missing in a fold, candidates that don't fit, or a folder that holds other
            trainings.
        FileExistsError: ``config.out`` holds trainings, and neither ``resume`` nor ``overwrite`` is set.
        Interrupted: a signal stopped it; finished trainings are kept.
    """
    if (chance := left_to_chance(eval_policy)) is not None:
        raise ValueError(
            f"tune: eval_policy must leave nothing to chance, and draws what {chance!r} does: leave it out there"
        )
    made = _check(policy, candidates)
    folds = stratified_folds(source, config.folds, seed=config.seed)
    smallest = len(source) - int(np.bincount(folds).max())
    if config.batch_size > smallest:
        raise ValueError(
            f"TuneConfig.batch_size must be at most {smallest}, the samples that are trained on, got "
            f"{config.batch_size}"
        )
    rungs = plan_rungs(len(made), config.folds, config.steps, share=config.share)
    trainings = _Trainings(source, folds, model, config, eval_policy, objective, dict(loader or {}))
    settings = {
        "settings": {k: v for k, v in dataclasses.asdict(config).items() if k not in ("out", "resume", "overwrite")},
        "data": identity(source),
        "model": trainings.begins_with,
        "objective": settings_of(objective),
        "policy": policy.to_dict(),
        "eval_policy": eval_policy.to_dict(),
        "candidates": [dataclasses.asdict(one) for one in made],
    }
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    with Ledger(out / "fits.jsonl", settings, resume=config.resume, overwrite=config.overwrite) as ledger:
        rounds = _climb(made, rungs, trainings, ledger, say)
    last = {one.candidate: one for one_round in rounds for one in one_round}
    standings = tuple(sorted(last.values(), key=lambda one: (-one.rung, -one.mean, one.candidate.dose)))
    finalists = [one for one in standings if one.in_full]
    best = max(finalists, key=lambda one: (one.mean, -one.candidate.dose))
    chosen = one_standard_error(finalists)
    tuned = Tuned(
        chosen=chosen,
        best=best,
        policy=made[chosen.candidate],
        standings=standings,
        rounds=rounds,
        cost=sum(rung.cost for rung in rungs),
        grid=len(made) * config.folds * config.steps,
        files={},
    )
    return dataclasses.replace(tuned, files=_write(tuned, eval_policy, out))


def one_standard_error(standings: Sequence[Standing]) -> Standing:
    """The weakest that is at most a standard error of the best below the best. Raises ``ValueError`` for none."""
    if not standings:
        raise ValueError("one_standard_error: expected one or more standings, got none")
    best = max(standings, key=lambda one: one.mean)
    error = 0.0 if math.isnan(best.error) else best.error
    near = [one for one in standings if one.mean >= best.mean - error]
    return min(near, key=lambda one: (one.candidate.dose, -one.mean))


def _check(policy: Policy, candidates: Sequence[Candidate]) -> dict[Candidate, Policy]:
    """Each candidate's policy."""
    if not any(one.strength == 0.0 and one.baseline is None for one in candidates):
        candidates = [Candidate(0.0), *candidates]
    if len(candidates) < 2:
        raise ValueError("tune: expected another candidate than no augmentation, got none")
    made = {one: one.policy(policy) for one in candidates}
    if len(made) < len(candidates):
        raise ValueError("tune: a candidate is given twice")
    if made[next(iter(made))] == policy and len(policy) == 0:
        raise ValueError("tune: the policy is empty: there is nothing to choose")
    seen: dict[Any, Candidate] = {}
    for one, its in made.items():
        if (other := seen.setdefault(effect(its.ops), one)) is not one:
            raise ValueError(f"tune: {other.name!r} and {one.name!r} come to the same: give one of them")
    return made


def _climb(
    made: dict[Candidate, Policy],
    rungs: tuple[Rung, ...],
    trainings: _Trainings,
    ledger: Ledger,
    say: Callable[[str], None],
) -> tuple[tuple[Standing, ...], ...]:
    """Rung by rung."""
    left = list(made)
    rounds = []
    for number, rung in enumerate(rungs):
        in_full = number == len(rungs) - 1
        found: dict[Candidate, Standing] = {}
        say(f"{len(left)} candidates, {rung.steps} steps on {rung.folds} of {trainings.config.folds} folds")
        for one in left:
            rows = []
            for fold in range(rung.folds):
                key = {"candidate": dataclasses.asdict(one), "fold": fold, "steps": rung.steps}
                row = ledger.find(key)
                if row is None:
                    row = {**key, **trainings.fit(made[one], fold, rung.steps)}
                    ledger.add(row)
                rows.append(row)
            losses = [math.inf if row["loss"] is None else row["loss"] for row in rows]
            accuracies = tuple(float(row["accuracy"]) for row in rows)
            found[one] = Standing(one, number, in_full, accuracies, float(np.mean(losses)), rung.steps)
            say(f"  {one.name:32} {found[one].percent}")
        rounds.append(tuple(found.values()))
        if not in_full:
            # Of few samples, cross-entropy tells more than how many are right.
            ranked = sorted(left, key=lambda one: (found[one].loss, one.dose))
            none = next(one for one in left if one.strength == 0.0 and one.baseline is None)
            kept = [none, *[one for one in ranked if one != none]][: rungs[number + 1].candidates]
            left = [one for one in left if one in kept]
    return tuple(rounds)


@dataclasses.dataclass
class _Trainings:
    """What all of them share."""

    source: Source
    folds: np.ndarray
    model: Callable[[DataLoader], nn.Module]
    config: TuneConfig
    eval_policy: Policy
    objective: Objective
    options: dict[str, Any]

    @property
    def begins_with(self) -> str:
        """Of the first fold's model, what tells it from others: its kind, and a digest of its modules and weights."""
        with contextlib.closing(self._loader(0, self.eval_policy, training=True)) as loader:
            model = self._model(loader, 0)
        hashed = hashlib.blake2b(repr(model).encode(), digest_size=6)
        for name, value in model.state_dict().items():
            hashed.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            hashed.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        parameters_m = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        return f"{type(model).__qualname__}, {parameters_m:.1f} M parameters that begin as {hashed.hexdigest()}"

    def _seed(self, fold: int) -> int:
        return rng.mix64(self.config.seed, fold) >> 1

    def _loader(self, fold: int, policy: Policy, *, training: bool) -> DataLoader:
        """Of all folds but this one, or of this one."""
        part = Part(self.source, np.flatnonzero((self.folds != fold) == training))
        given = {"batch_size": self.config.batch_size, "seed": self._seed(fold), "policy": policy, **self.options}
        return DataLoader(part, shuffle=training, drop_last=training, **given)

    def _model(self, loader: DataLoader, fold: int) -> nn.Module:
        torch.manual_seed(self._seed(fold))
        return self.model(loader)

    def fit(self, policy: Policy, fold: int, steps: int) -> dict[str, Any]:
        """One model, trained on the other folds and validated on this one."""
        config, begun = self.config, time.perf_counter()
        work = Path(config.out) / "training"
        train_loader = self._loader(fold, policy, training=True)
        val_loader = self._loader(fold, self.eval_policy, training=False)
        with contextlib.closing(train_loader), contextlib.closing(val_loader):
            model = self._model(train_loader, fold)
            try:
                result = finetune(
                    model,
                    FixedSteps(train_loader, steps),
                    val_loader,
                    config.fit(work, self._seed(fold), steps),
                    objective=self.objective,
                )
                loss = result.val_loss if math.isfinite(result.val_loss) else None
                found: dict[str, Any] = {"accuracy": result.val_accuracy, "loss": loss}
            except FloatingPointError as error:  # this candidate cannot be trained so: others can
                found = {"accuracy": 0.0, "loss": None, "failed": str(error)}
        shutil.rmtree(work, ignore_errors=True)
        return {**found, "seconds": round(time.perf_counter() - begun, 2)}


def table(tuned: Tuned) -> str:
    """As Markdown: how each candidate did, the best first."""
    lines = ["| | trained for | folds | cross-entropy | accuracy |", "|---|---:|---:|---:|---:|"]
    for one in tuned.standings:
        mark = " (chosen)" if one is tuned.chosen else " (best)" if one is tuned.best else ""
        cells = (one.candidate.name + mark, f"{one.steps:,} steps", len(one.accuracies), f"{one.loss:.3f}", one.percent)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    share = tuned.cost / tuned.grid
    words = (
        f"Mean over folds, ± its standard error. Chosen is the weakest of those trained in full that is within a "
        f"standard error of the best. {tuned.cost:,} steps of training, {share:.0%} of the full grid's."
    )
    return "\n".join([*lines, "", words, ""])


def _write(tuned: Tuned, eval_policy: Policy, out: Path) -> dict[str, Path]:
    from dalipipe.figures import draw_tuning

    save_policy(eval_policy, out / "policy_eval.yaml")  # where `dalipipe train` looks for it
    files = {"policy": save_policy(tuned.policy, out / "policy.yaml"), "table": out / "table.md"}
    files["table"].write_text(table(tuned), encoding="utf-8")
    rows = [
        {
            "strength": None if one.candidate.baseline else one.candidate.strength,
            "line": _line(one.candidate),
            "mean": one.mean,
            "error": one.error,
            "in_full": one.in_full,
            "chosen": one is tuned.chosen,
        }
        for one_round in tuned.rounds
        for one in one_round
    ]
    with contextlib.suppress(ModuleNotFoundError):  # without matplotlib the table says it all
        files["plot"] = draw_tuning(rows, out / "tuning.png")
    return files


def _line(one: Candidate) -> str:
    """Which of the plot's lines it is on."""
    if one.baseline is not None:
        return one.baseline
    if one.strength == 0.0:
        return ""
    return dataclasses.replace(one, strength=1.0).name.removeprefix("strength 1").removeprefix(", ") or "all samples"
