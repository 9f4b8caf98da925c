"""One training from the command line: from what was asked for to the pictures that it leaves behind."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dalipipe.cli.app import new_console
from dalipipe.cli.inputs import CHANNELS, RATE_HZ, TASKS, device_of, policies_of
from dalipipe.cli.teaching import Teaching
from dalipipe.cli.transferring import Transfer
from dalipipe.cli.trial import try_out

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from torch import nn

    from dalipipe.finetune import FineTuneConfig, Objective, Ranks, Result
    from dalipipe.loader import DataLoader
    from dalipipe.policy import Phases, Policy
    from dalipipe.sources import Source


@dataclasses.dataclass(frozen=True)
class Job:
    """What ``demo`` and ``train`` have in common, as given on the command line."""

    title: str
    model: str
    weights: Path | None
    epochs: int
    batch_size: int
    size: int | None
    lr: float
    policy: str
    workers: int | None
    device: str
    seed: int
    out: Path
    resume: bool
    overwrite: bool
    save_every: int | None = None
    timeout_s: float = 300
    on_error: Any = "raise"
    cache: Any = None
    cache_bytes: str | None = None
    eval_policy: str | None = None
    mix: dict[str, Any] = dataclasses.field(default_factory=dict)
    task: str = "image"
    rate_hz: int = RATE_HZ
    loop: dict[str, Any] = dataclasses.field(default_factory=dict)  # of FineTuneConfig, as they are
    channels: int = CHANNELS
    objective: Objective | None = None
    weight_decay: float = 0.05
    transfer: Transfer = dataclasses.field(default_factory=Transfer)
    teaching: Teaching | None = None
    carry: Path | None = None
    live: bool = False
    metrics_port: int | None = None

    @property
    def policies(self) -> tuple[Policy, Policy]:
        """For training, before anything is mixed, and for validation."""
        return policies_of(self.policy, self.eval_policy, size=self.size, rate_hz=self.rate_hz)

    @property
    def bad_samples(self) -> Path:
        """Which samples could not be read."""
        return self.out / "bad_samples.jsonl"


def fit(train: Source, val: Source, job: Job) -> Result:
    """Join the other processes, if there are any, train, draw, and show the summary."""
    from dalipipe.finetune import FineTuneConfig, process_group

    config = FineTuneConfig(
        out=job.out,
        epochs=job.epochs,
        lr=job.lr,
        weight_decay=job.weight_decay,
        warmup_epochs=min(1.0, job.epochs / 2),
        seed=job.seed,
        resume=job.resume,
        overwrite=job.overwrite,
        save_every=job.save_every,
        **job.loop,
        label_smoothing=0.0 if job.task == "segmentation" else 0.1,
    )
    _check_run(config)
    device = device_of(job.device)
    with process_group(device, timeout_s=job.timeout_s) as ranks:
        return _Fit(job, config, ranks, device, train, val).run()


class _Fit:
    """A training as one of the processes sees it: its loaders, its model, and what is told of it."""

    def __init__(
        self, job: Job, config: FineTuneConfig, ranks: Ranks, device: torch.device, train: Source, val: Source
    ) -> None:
        self.job, self.config, self.ranks, self.device = job, config, ranks, device
        self.train = train
        self.source = job.transfer.open_source(job.task, self.train, rate_hz=job.rate_hz, channels=job.channels)
        self.classes = self.train.classes or []
        self.console: Console = new_console(quiet=not ranks.main)
        self._make_loaders(val)

    def run(self) -> Result:
        with self._served():
            return self._run()

    def _run(self) -> Result:
        from dalipipe.finetune import classify, finetune

        job, ranks = self.job, self.ranks
        model, fresh, origin = self._make_model()
        self._say(job.title, style="bold")
        hard = job.objective or classify
        try_out(
            model if self.config.shard else model.to(self.device),  # which one device may not hold
            hard,
            self.train_loader,
            name=job.model,
            config=self.config,
            layers=job.transfer.layers,
        )
        batches: Any = self.train_loader
        objective: Objective = hard
        if job.teaching is not None:
            batches, objective = job.teaching.begin(
                self.train_loader,
                hard,
                ranks,
                self.console,
                of_data(self.train_loader, job.task),
                epochs=job.epochs,
                timeout_s=job.timeout_s,
            )
        model, batches, objective = job.transfer.prepare(model, fresh, batches, self.source_loader, objective, hard)
        self._tell(model, origin)
        figures = {"samples": self._draw_samples()} if ranks.main else {}
        with contextlib.closing(batches), contextlib.closing(self.val_loader), self._shown():
            result = finetune(
                model,
                batches,
                self.val_loader,
                self.config,
                ranks=ranks,
                objective=objective,
                layers=job.transfer.layers,
            )
        if self.train_loader.bad_samples or self.val_loader.bad_samples:
            figures[f"bad {TASKS[job.task].noun}"] = job.bad_samples
        if ranks.main:
            figures |= self._draw(model, result)
        self.console.print(_summary(job.title, result, figures))
        return result

    def _served(self) -> contextlib.AbstractContextManager[Any]:
        """The loaders' figures, where they are wanted."""
        if self.job.metrics_port is None:
            return contextlib.nullcontext()
        from dalipipe.telemetry import serve_metrics

        port = self.job.metrics_port + int(os.environ.get("LOCAL_RANK", 0))
        return serve_metrics({"train": self.train_loader, "val": self.val_loader}, port)

    def _shown(self) -> contextlib.AbstractContextManager[Any]:
        """The training loader on the terminal, where that is wanted."""
        if not (self.job.live and self.ranks.main):
            return contextlib.nullcontext()
        from dalipipe.telemetry import Live

        return Live(self.train_loader, name="training loader")

    def _make_loaders(self, val: Source) -> None:
        """What is trained on, what is validated with, and what is learnt beside."""
        import torch

        from dalipipe.finetune.mixing import mixing
        from dalipipe.loader import DataLoader
        from dalipipe.sources import Text

        job, ranks = self.job, self.ranks
        pictures = job.task in ("image", "segmentation")
        batch_size = min(job.batch_size, len(self.train))
        policy, self.eval_recipe = job.policies
        self.recipe: Policy | Phases = mixing(policy, job.task, epochs=job.epochs, batch_size=batch_size, **job.mix)
        options: dict[str, Any] = {
            "num_workers": job.workers,
            "device": self.device,
            "seed": job.seed,
            "memory_format": torch.channels_last
            if pictures and self.device.type == "cuda"
            else torch.contiguous_format,
        }
        noted: dict[str, Any] = {}
        if job.on_error != "raise":
            job.out.mkdir(parents=True, exist_ok=True)
            noted = {"quarantine": job.bad_samples}
        self.train_loader: DataLoader = DataLoader(
            self.train,
            ranks.share(batch_size),
            shuffle=True,
            drop_last=True,
            policy=self.recipe,
            on_error=job.on_error,
            cache=job.cache,
            cache_bytes=job.cache_bytes,
            draw_epochs=None if job.teaching is None else job.teaching.draw_epochs,
            **noted,
            **options,
        )
        self.vocabulary = self.train_loader.vocabulary
        if self.vocabulary is not None and isinstance(val, Text):
            val = val.with_vocabulary(self.vocabulary)  # with what the policy may write
        self.val = val
        share = ranks.share(batch_size)
        self.val_loader: DataLoader = DataLoader(
            val,
            max(1, share // 4) if job.task == "segmentation" else share,  # whole pictures, of which training sees crops
            shards="exact",
            policy=self.eval_recipe,
            on_error="raise" if job.on_error == "raise" else "skip",  # what stands in would count twice
            **noted,
            **options,
        )
        self.source_loader: DataLoader | None = None
        if self.source is not None:
            self.source_loader = DataLoader(
                self.source,
                ranks.share(min(job.batch_size, len(self.source))),
                shuffle=True,
                drop_last=True,
                policy=policy,
                on_error=job.on_error,
                **options,
            )

    def _make_model(self) -> tuple[nn.Module, list[str], str]:
        """The model; which of its tensors start at random; and, in words, where the others are from."""
        import torch

        from dalipipe.finetune.classifier import is_folder_of_model, make_model
        from dalipipe.finetune.distillation import carry_checkpoint

        job, is_folder = self.job, is_folder_of_model(self.job.model, self.job.task)
        if is_folder:
            with contextlib.suppress(ModuleNotFoundError):  # make_model says it better
                from transformers.utils import logging as chatter

                chatter.set_verbosity_error()  # what starts at random is said here
                chatter.disable_progress_bar()
        torch.manual_seed(job.seed)
        model, fresh = make_model(job.model, self.classes, weights=job.weights, **of_data(self.train_loader, job.task))
        if job.carry is not None:
            carried = carry_checkpoint(job.carry, model, self.classes)
            words = f"{len(carried.whole)} tensors, and {len(carried.part)} in part, carried from {job.carry}"
            return model, carried.fresh, words
        start = job.model if job.weights is None and is_folder else job.weights
        if start is None:
            return model, fresh, "from scratch"
        return model, fresh, f"from {start}" + (f" but for {', '.join(fresh)}" if fresh else "")

    def _tell(self, model: nn.Module, origin: str) -> None:
        """The heading."""
        import torch

        from dalipipe.finetune.precision import resolved

        job, amp = self.job, resolved(self.config.amp, self.device)
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        place = f"{name}, {'float32' if amp == 'off' else amp}"
        if self.ranks.world_size > 1:
            place = f"{self.ranks.world_size} processes, each on {place}"
        counts = f"{len(self.train):,} to train on, {len(self.val):,} to validate, {len(self.classes)} classes"
        parameters_m = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        self._say(f"  {TASKS[job.task].noun:8}  {counts}")
        self._say(f"  model     {job.model}, {parameters_m:.1f} M parameters, {origin}")
        if told := job.transfer.describe(model, self.source, job.epochs):
            self._say(f"  transfer  {'; '.join(told)}")
        self._say(f"  device    {place}, {self.train_loader.threads} loader threads")

    @functools.cached_property
    def _say(self) -> Any:
        return functools.partial(self.console.print, highlight=False, markup=False)

    def _draw_samples(self) -> Path:
        from dalipipe.policy import Policy
        from dalipipe.preview import preview

        job = self.job
        job.out.mkdir(parents=True, exist_ok=True)
        return preview(
            self.train,
            self.recipe if isinstance(self.recipe, Policy) else self.recipe.at(0),
            job.out / "samples.png",
            seed=job.seed,
            title=f"{job.policy}: originals, and what the model sees",
            pass_over_bad=job.on_error != "raise",
        )

    def _draw(self, model: nn.Module, result: Result) -> dict[str, Path]:
        from dalipipe.figures import draw_confusion, draw_curves
        from dalipipe.finetune.segmentation import draw_predictions

        job, config = self.job, self.config
        smoothed = config.label_smoothing > 0
        curves = draw_curves(result.metrics, job.out / "curves.png", title=job.title, smoothed_labels=smoothed)
        figures = {"curves": curves}
        if config.confusion.is_file():
            figures["confusion"] = draw_confusion(config.confusion, job.out / "confusion.png", title=job.title)
        if job.task == "segmentation":
            title = f"{job.title}: validation, {_last(result, 'val_mean_iou'):.1%} mean IoU"
            path = job.out / "predictions.png"
            figures["predictions"] = draw_predictions(model, self.val, self.eval_recipe, path, title=title)
        return figures


def of_data(loader: DataLoader, task: str) -> dict[str, Any]:
    """What `make_model` is to know of the data."""
    from dalipipe.sources import Text

    source, vocabulary = loader.source, loader.vocabulary
    return {
        "task": task,
        "channels": next((field.channels for field in source.schema.fields if field.kind == task), None) or 1,
        "vocabulary_size": 0 if vocabulary is None else len(vocabulary),
        "pad": source.encoding.pad if isinstance(source, Text) else None,
    }


def _check_run(config: FineTuneConfig) -> None:
    """In the command line's words, before anything is loaded, what finetune would say in its own."""
    if config.resume and config.found is None:
        raise FileNotFoundError(
            f"no checkpoint at {config.checkpoint}; name its folder with --out, or leave --resume out"
        )
    if config.found is not None and not (config.resume or config.overwrite):
        raise FileExistsError(
            f"{config.out} holds a run: --resume continues it, --overwrite replaces it, another --out keeps both"
        )


def _last(result: Result, name: str) -> Any:
    """What the last epoch's row of metrics says; ``None``: nothing."""
    rows = [json.loads(line) for line in result.metrics.read_text().splitlines()]
    return next((row.get(name) for row in reversed(rows) if row["kind"] == "epoch"), None)


def _summary(title: str, result: Result, pictures: dict[str, Path]) -> Any:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    computing = round(30 * (1 - result.stall))
    split = Text("█" * computing, "green").append("█" * (30 - computing), "red")
    split.append(f"  {1 - result.stall:.1%} computing, {result.stall:.1%} waiting for data", "default")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("validation accuracy", Text(f"{result.val_accuracy:.2%}", "bold green"))
    if (mean_iou := _last(result, "val_mean_iou")) is not None:
        table.add_row("mean IoU", Text(f"{mean_iou:.2%}", "bold green"))
    table.add_row("training speed", f"{result.images_per_s:,.0f} samples/s over {result.steps} steps")
    table.add_row("step time", split)
    table.add_row(
        "", f"{result.compute_s:.1f} s computing, {result.wait_s:.1f} s waiting, {result.eval_s:.1f} s evaluating"
    )
    for name, path in {"checkpoint": result.checkpoint, "metrics": result.metrics, **pictures}.items():
        table.add_row(name, str(path))
    return Panel(table, title=Text(title), title_align="left", border_style="green", expand=False)
