"""`dalipipe demo` and `dalipipe train`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer

from dalipipe.cli.app import Failure, app, plain_errors, several
from dalipipe.cli.inputs import (
    CHANNELS,
    RATE_HZ,
    default_policy,
    hint_at_texts,
    task_of,
    with_more,
)
from dalipipe.cli.job import Job, fit
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
    LiveView,
    Loss,
    MaxLength,
    MetricsPort,
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
    WeightDecay,
    Weights,
    Workers,
)
from dalipipe.cli.teaching import teaching_of
from dalipipe.cli.transferring import Transfer


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
        job = Job(
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
        result = fit(*open_folders(write_digits(out / "digits")), job)
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
    weight_decay: WeightDecay = None,
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
    live: LiveView = False,
    metrics_port: MetricsPort = None,
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
            if subset is not None:
                raise ValueError(
                    "--subset draws by the class of whole samples, and --task segmentation has one for every pixel: "
                    "leave it out"
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
        job = Job(
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
            weight_decay=transfer.weight_decay(weight_decay),
            transfer=transfer,
            teaching=teaching,
            live=live,
            metrics_port=metrics_port,
        )
        transfer.check_start(given=any((weights, carry, folder)), resume=job.resume)
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
        learnt = transfer.drawn(sources[0], seed)  # of what is added, all
        if add is not None:
            learnt = with_more(sources[0], learnt, add, task, rate_hz=job.rate_hz, channels=job.channels)
        fit(learnt, sources[1], job)
