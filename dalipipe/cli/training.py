"""`dalipipe demo` and `dalipipe train`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalipipe.cli.app import Failure, app, new_console, plain_errors, several
from dalipipe.cli.inputs import (
    CHANNELS,
    RATE_HZ,
    TASKS,
    default_policy,
    device_of,
    eval_twin,
    hint_at_texts,
    made_data,
    open_one,
    policy_of,
    task_of,
)
from dalipipe.cli.options import (
    Accumulate,
    Amp,
    BatchSize,
    BceSum,
    BceTargetThreshold,
    CacheEpochs,
    Carry,
    Channels,
    Compile,
    CudaGraphs,
    CutMixAlpha,
    Device,
    Ema,
    Epochs,
    FrameRate,
    Freeze,
    HardWeight,
    JointSource,
    L2SPWeight,
    LayerDecay,
    Loss,
    MaxLength,
    MixOff,
    MixUpAlpha,
    Model,
    More,
    Overwrite,
    Rate,
    RateOfModel,
    Resume,
    Seed,
    Shard,
    Size,
    SizeOfRecipe,
    Subset,
    TargetWeight,
    TaskOption,
    Teacher,
    TeacherCacheFolder,
    TeacherModel,
    Temperature,
    TensorBoard,
    UnfreezeEvery,
    Weights,
    Workers,
)
from dalipipe.cli.teaching import Teaching, teaching_of
from dalipipe.cli.transferring import Transfer

if TYPE_CHECKING:
    from dalipipe.finetune import FineTuneConfig, Objective, Ranks, Result
    from dalipipe.sources import Source


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the run.")] = Path("runs/demo"),
    model: Model = "resnet18",
    weights: Weights = None,
    epochs: Epochs = 12,
    batch_size: BatchSize = 64,
    size: Size = 32,
    lr: Rate = 1e-3,
    workers: Workers = None,
    device: Device = "auto",
    seed: Seed = 0,
    resume: Resume = False,
    min_accuracy: Annotated[float, typer.Option(min=0, max=1, help="Fail below this validation accuracy.")] = 0.95,
) -> None:
    """Fine-tune a ResNet-18 on 1,797 scans of handwritten digits, start to finish.

    Writes scikit-learn's bundled digits as a folder of JPEGs, trains on it, leaves checkpoint, metrics and figures.
    """
    with plain_errors():
        from dalipipe.demo_data import write_digits
        from dalipipe.finetune.classifier import open_folders

        if several():
            raise ValueError("the demo runs in one process; several are for dalipipe train")
        job = _Job(
            title="dalipipe demo",
            model=model,
            weights=weights,
            epochs=epochs,
            batch_size=batch_size,
            size=size,
            lr=lr,
            policy="digits_train",
            workers=workers,
            device=device,
            seed=seed,
            out=out,
            resume=resume,
            overwrite=not resume,
        )
        result = _fit(*open_folders(write_digits(out / "digits")), job)
        if result.val_accuracy < min_accuracy:
            raise Failure(f"validation accuracy {result.val_accuracy:.2%} is below the expected {min_accuracy:.0%}")


@app.command()
def train(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder with train/ and val/, or one to split by --val-fraction or --hold-out; of series, NAME for "
            "NAME_TRAIN.ts and NAME_TEST.ts; of texts, NAME for NAME_train.tsv and NAME_test.tsv, a folder with "
            "train.tsv and val.tsv, or a file to split; or .csv, .jsonl, .parquet. With label maps: Cityscapes as it "
            "is published, or images/ and masks/ in each part."
        ),
    ],
    task: TaskOption = "image",
    val_fraction: Annotated[
        float | None,
        typer.Option(help="Share of each class kept for validation, for a folder without train/ and val/."),
    ] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            help="Keep for validation the files whose path in the folder fits: 'george/*' leaves a speaker out.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Any torchvision classification model, or timm/NAME; for segmentation any of torchvision's, or "
            "small-unet; for audio logmel-cnn; for series resnet1d or inceptiontime; for texts word-cnn, or the folder "
            "of a Hugging Face model and its tokenizer.",
            show_default="resnet18, small-unet, logmel-cnn, inceptiontime, word-cnn",
        ),
    ] = None,
    weights: Weights = None,
    carry: Carry = None,
    epochs: Epochs = 10,
    batch_size: BatchSize = 64,
    size: SizeOfRecipe = None,
    rate_hz: FrameRate = None,
    channels: Channels = None,
    max_length: MaxLength = None,
    lr: RateOfModel = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="For training: a recipe, or a policy's .yaml or .json file.",
            show_default="imagenet_train, segmentation_train or cityscapes_train, speech, series, eda",
        ),
    ] = None,
    eval_policy: Annotated[
        str | None, typer.Option(help="For validation, likewise.", show_default="the _eval twin of --policy")
    ] = None,
    mixup: MixUpAlpha = 0,
    cutmix: CutMixAlpha = 0,
    mix_off: MixOff = 0,
    workers: Workers = None,
    device: Device = "auto",
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, metrics and figures.")] = Path("runs/train"),
    save_every: Annotated[
        int | None, typer.Option(min=1, help="Steps between two checkpoints.", show_default="the epochs' ends")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that one of several processes waits for another that says nothing.")
    ] = 300,
    on_error: Annotated[
        str, typer.Option(help="A sample that cannot be read: raise an error, or substitute another for it.")
    ] = "raise",
    cache: Annotated[
        str | None, typer.Option(help="Keep what is trained on in memory: ram or device.", show_default="neither")
    ] = None,
    cache_bytes: Annotated[
        str | None, typer.Option(help="How much of it, as 8GiB.", show_default="a share of what there is")
    ] = None,
    add: More = None,
    amp: Amp = "auto",
    accumulate: Accumulate = 1,
    ema: Ema = None,
    compile: Compile = False,
    cuda_graphs: CudaGraphs = False,
    shard: Shard = False,
    tensorboard: TensorBoard = False,
    loss: Loss = "ce",
    bce_target_threshold: BceTargetThreshold = None,
    bce_sum: BceSum = False,
    freeze: Freeze = None,
    unfreeze_every: UnfreezeEvery = None,
    layer_decay: LayerDecay = 1.0,
    l2_sp: L2SPWeight = None,
    source: JointSource = None,
    target_weight: TargetWeight = None,
    subset: Subset = None,
    teacher: Teacher = None,
    teacher_model: TeacherModel = None,
    temperature: Temperature = None,
    hard_weight: HardWeight = None,
    teacher_cache: TeacherCacheFolder = None,
    cache_epochs: CacheEpochs = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model on a folder of pictures or sounds, or on files of series or texts.

    On several GPUs: torchrun --nproc-per-node 8 -m dalipipe train … The batch size is that of all of them together.
    A run may be continued (--resume) by another number of processes. When torchrun itself starts them anew
    (--max-restarts), they continue from the last checkpoint without being told.
    """
    with plain_errors():
        from dalipipe.finetune import FineTuneConfig, classification, segment
        from dalipipe.finetune.classifier import is_folder_of_model, longest_text, open_data

        objective = classification(loss, target_threshold=bce_target_threshold, sum_classes=bce_sum)
        if task == "segmentation":
            if loss != "ce":
                raise ValueError(
                    "--loss bce is for classes of whole samples; --task segmentation has ce, pixel by pixel"
                )
            objective = segment
        transfer = Transfer(freeze, unfreeze_every, layer_decay, l2_sp, source, target_weight, subset)
        defaults = task_of(task, size=size, rate_hz=rate_hz, channels=channels, max_length=max_length)
        model, policy = model or defaults.model, policy or default_policy(task, data)
        teaching = teaching_of(teacher, teacher_model, model, temperature, hard_weight, teacher_cache, cache_epochs)
        if teaching is not None and source is not None:
            raise ValueError("--teacher and --source are two ways to learn from other data: give one of them")
        if teaching is not None and task == "segmentation":
            raise ValueError("--teacher is for classes of whole samples: leave it out for --task segmentation")
        if carry is not None and weights is not None:
            raise ValueError("--weights and --carry both say what to start from: give one of them")
        if resume and overwrite:
            raise ValueError("--resume continues a run and --overwrite replaces it: give one of them")
        if on_error not in ("raise", "substitute"):
            raise ValueError(f"--on-error must be raise or substitute, got {on_error}")
        folder = model if is_folder_of_model(model, task) else None
        restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        job = _Job(
            title=f"{model} on {data}",
            model=model,
            weights=weights,
            carry=carry,
            epochs=epochs,
            batch_size=batch_size,
            size=size,
            lr=lr if lr is not None else 1e-3 if folder is None else 5e-5,
            policy=policy,
            eval_policy=eval_policy,
            mix={"mixup": mixup, "cutmix": cutmix, "off": mix_off},
            workers=workers,
            device=device,
            seed=seed,
            out=out,
            resume=resume or (restarted and not overwrite and FineTuneConfig(out).found is not None),
            overwrite=overwrite,
            save_every=save_every,
            timeout_s=timeout,
            on_error=on_error,
            cache=cache,
            cache_bytes=cache_bytes,
            task=task,
            rate_hz=rate_hz or RATE_HZ,
            loop={
                "amp": amp,
                "accumulate": accumulate,
                "ema": ema,
                "compile": compile,
                "cuda_graphs": cuda_graphs,
                "shard": shard,
                "tensorboard": tensorboard,
            },
            channels=channels or CHANNELS,
            objective=objective,
            transfer=transfer,
            teaching=teaching,
        )
        with hint_at_texts(data) if task != "text" else contextlib.nullcontext():
            sources = open_data(
                data,
                task,
                val_fraction=val_fraction,
                hold_out=hold_out,
                rate_hz=job.rate_hz,
                channels=job.channels,
                tokenizer=folder,
                max_length=max_length or (None if folder is None else longest_text(folder)),
            )
        if add is not None:
            from dalipipe.finetune.parts import joined

            more = open_one(made_data(add), task, rate_hz=job.rate_hz, channels=channels or CHANNELS)
            sources = joined(sources[0], more), sources[1]
        _fit(*sources, job)


@dataclasses.dataclass(frozen=True)
class _Job:
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
    transfer: Transfer = dataclasses.field(default_factory=Transfer)
    teaching: Teaching | None = None
    carry: Path | None = None

    @property
    def bad_samples(self) -> Path:
        """Which samples could not be read."""
        return self.out / "bad_samples.jsonl"


def _fit(train: Source, val: Source, job: _Job) -> Result:
    """Join the other processes, if there are any, train, draw, and show the summary."""
    from dalipipe.finetune import FineTuneConfig, process_group

    config = FineTuneConfig(
        out=job.out,
        epochs=job.epochs,
        lr=job.lr,
        weight_decay=0.05 if job.transfer.l2_sp is None else 0.0,
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
        return _fit_together(ranks, device, train, val, config, job)


def _fit_together(ranks: Ranks, device: Any, train: Source, val: Source, config: FineTuneConfig, job: _Job) -> Result:
    import torch

    from dalipipe.doctor import usable_cores
    from dalipipe.figures import draw_confusion, draw_curves
    from dalipipe.finetune import classify, finetune
    from dalipipe.finetune.classifier import is_folder_of_model, make_model
    from dalipipe.finetune.distillation import carry_checkpoint
    from dalipipe.finetune.mixing import mixing
    from dalipipe.finetune.precision import resolved
    from dalipipe.finetune.segmentation import draw_predictions
    from dalipipe.loader import DataLoader
    from dalipipe.policy import Policy
    from dalipipe.preview import preview as draw_samples
    from dalipipe.sources import Text

    train = job.transfer.drawn(train, job.seed)
    source = job.transfer.open_source(job.task, train, rate_hz=job.rate_hz, channels=job.channels)
    classes = train.classes or []
    batch_size = min(job.batch_size, len(train))
    policy = policy_of(job.policy, size=job.size, rate_hz=job.rate_hz)
    recipe = mixing(policy, job.task, epochs=job.epochs, batch_size=batch_size, **job.mix)
    eval_recipe = policy_of(job.eval_policy or eval_twin(job.policy), size=job.size, rate_hz=job.rate_hz)
    options: dict[str, Any] = {
        "batch_size": ranks.share(batch_size),
        "num_workers": job.workers or max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))),
        "device": device,
        "seed": job.seed,
        "memory_format": torch.channels_last
        if device.type == "cuda" and job.task in ("image", "segmentation")
        else torch.contiguous_format,
    }
    if job.on_error != "raise":
        job.out.mkdir(parents=True, exist_ok=True)
        options["quarantine"] = job.bad_samples
    train_loader = DataLoader(
        train,
        shuffle=True,
        drop_last=True,
        policy=recipe,
        on_error=job.on_error,
        cache=job.cache,
        cache_bytes=job.cache_bytes,
        draw_epochs=None if job.teaching is None else job.teaching.draw_epochs(job.epochs),
        **options,
    )
    vocabulary = train_loader.vocabulary
    if vocabulary is not None and isinstance(val, Text):
        val = val.with_vocabulary(vocabulary)  # with what the policy may write
    if is_folder_of_model(job.model, job.task):
        with contextlib.suppress(ModuleNotFoundError):  # make_model says it better
            from transformers.utils import logging as chatter

            chatter.set_verbosity_error()  # what starts at random is said here
            chatter.disable_progress_bar()
    torch.manual_seed(job.seed)
    channels = next((field.channels for field in train.schema.fields if field.kind == job.task), None) or 1
    of_data: dict[str, Any] = {
        "task": job.task,
        "channels": channels,
        "vocabulary_size": 0 if vocabulary is None else len(vocabulary),
        "pad": train.encoding.pad if isinstance(train, Text) else None,
    }
    model, fresh = make_model(job.model, len(classes), weights=job.weights, **of_data)
    carried = None if job.carry is None else carry_checkpoint(job.carry, model, classes)
    fresh = fresh if carried is None else carried.fresh
    if job.task == "segmentation":  # whole pictures, of which training sees crops
        options["batch_size"] = max(1, options["batch_size"] // 4)
    val_loader = DataLoader(
        val,
        shards="exact",
        policy=eval_recipe,
        on_error="raise" if job.on_error == "raise" else "skip",  # what stands in would count twice
        **options,
    )

    source_loader = None
    if source is not None:
        options["batch_size"] = ranks.share(min(job.batch_size, len(source)))
        options.pop("quarantine", None)
        source_loader = DataLoader(
            source, shuffle=True, drop_last=True, policy=policy, on_error=job.on_error, **options
        )
    console = new_console(quiet=not ranks.main)
    say = functools.partial(console.print, highlight=False, markup=False)
    say(job.title, style="bold")
    hard = job.objective or classify
    batches, objective = train_loader, hard
    if job.teaching is not None:
        batches, objective = job.teaching.begin(train_loader, hard, ranks, console, of_data, job.timeout_s)
    model, batches, objective = job.transfer.prepare(model, fresh, batches, source_loader, objective, hard)

    parameters_m = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    start = job.model if job.weights is None and is_folder_of_model(job.model, job.task) else job.weights
    origin = "from scratch" if start is None else f"from {start}"
    if start is not None and fresh:
        origin += f" but for {', '.join(fresh)}"
    if carried is not None:
        origin = f"{len(carried.whole)} tensors, and {len(carried.part)} in part, carried from {job.carry}"
    amp = resolved(config.amp, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    place = f"{name}, {'float32' if amp == 'off' else amp}"
    if ranks.world_size > 1:
        place = f"{ranks.world_size} processes, each on {place}"
    noun = TASKS[job.task].noun
    say(f"  {noun:8}  {len(train):,} to train on, {len(val):,} to validate, {len(classes)} classes")
    say(f"  model     {job.model}, {parameters_m:.1f} M parameters, {origin}")
    if told := job.transfer.describe(model, source):
        say(f"  transfer  {'; '.join(told)}")
    say(f"  device    {place}, {train_loader.threads} loader threads")

    figures: dict[str, Path] = {}
    if ranks.main:
        job.out.mkdir(parents=True, exist_ok=True)
        title = f"{job.policy}: originals, and what the model sees"
        figures["samples"] = draw_samples(
            train,
            recipe if isinstance(recipe, Policy) else recipe.at(0),
            job.out / "samples.png",
            seed=job.seed,
            title=title,
            pass_over_bad=job.on_error != "raise",
        )
    with contextlib.closing(batches), contextlib.closing(val_loader):
        result = finetune(
            model, batches, val_loader, config, ranks=ranks, objective=objective, layers=job.transfer.layers
        )
    if train_loader.bad_samples or val_loader.bad_samples:
        figures[f"bad {noun}"] = job.bad_samples
    if ranks.main:
        smoothed = config.label_smoothing > 0
        curves = job.out / "curves.png"
        figures["curves"] = draw_curves(result.metrics, curves, title=job.title, smoothed_labels=smoothed)
        if config.confusion.is_file():
            figures["confusion"] = draw_confusion(config.confusion, job.out / "confusion.png", title=job.title)
        if job.task == "segmentation":
            title = f"{job.title}: validation, {_last(result, 'val_mean_iou'):.1%} mean IoU"
            figures["predictions"] = draw_predictions(model, val, eval_recipe, job.out / "predictions.png", title=title)
    console.print(_summary(job.title, result, figures))
    return result


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
