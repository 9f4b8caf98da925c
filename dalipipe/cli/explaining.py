"""`dalipipe explain`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dalipipe.cli.app import app, escaped, new_console, plain_errors, several
from dalipipe.cli.inputs import CHANNELS, RATE_HZ, default_policy, device_of, open_one, policy_of, task_of
from dalipipe.cli.job import of_data
from dalipipe.cli.options import (
    Amp,
    BatchSize,
    Channels,
    Device,
    FrameRate,
    Seed,
    SizeOfRecipe,
    TaskOption,
    Weights,
    Workers,
)
from dalipipe.cli.trial import try_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from dalipipe.loader import DataLoader


@app.command()
def explain(
    data: Annotated[
        Path,
        typer.Argument(
            help="What is trained on: as for train; or a pack, tar shards, TFRecords, a table.", show_default=False
        ),
    ],
    task: TaskOption = "image",
    policy: Annotated[
        str | None,
        typer.Option(
            help="A recipe, or a policy's .yaml or .json file.", show_default="as of train: imagenet_train, ..."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="As of train.", show_default="resnet18, small-unet, logmel-cnn, ...")
    ] = None,
    weights: Weights = None,
    batch_size: BatchSize = 64,
    size: SizeOfRecipe = None,
    rate_hz: FrameRate = None,
    channels: Channels = None,
    workers: Workers = None,
    device: Device = "auto",
    amp: Amp = "auto",
    cache: Annotated[
        str | None, typer.Option(help="Keep what is trained on in memory: ram or device.", show_default="neither")
    ] = None,
    seed: Seed = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            min=12,
            help="Steps that are timed in each kind of run.",
            show_default="as many as take about a minute: 12 to 240",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with charts, of one file.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures, for machines.")] = False,
) -> None:
    """Say where a training step's time goes, which stage of the loader bounds it, and what would help.

    Trains a model for a while on batches that lie on the device already, on real data whose files are in memory, and on
    real data read anew; times every stage of the loader by itself; and predicts the step's time with more threads, with
    data packed or kept in memory, and so on. What the system has in memory of the files that are read is forgotten.
    """
    with plain_errors():
        from dalipipe.stalls import show, write_page
        from dalipipe.stalls.explaining import explain as explain_loader

        if several():
            raise ValueError("explain looks at one process: start it without torchrun")
        defaults = task_of(task, size=size, rate_hz=rate_hz, channels=channels)
        model, policy, rate_hz = model or defaults.model, policy or default_policy(task, data), rate_hz or RATE_HZ
        source = open_one(data, task, rate_hz=rate_hz, channels=channels or CHANNELS)
        loader = _loader(
            source,
            min(batch_size, len(source)),
            policy=policy_of(policy, size=size, rate_hz=rate_hz),
            num_workers=workers,
            device=device_of(device),
            cache=cache,
            seed=seed,
        )
        out, aside = new_console(), new_console(stderr=True)
        with contextlib.closing(loader), aside.status("opening") as status:

            def tell(what: str, share: float) -> None:
                status.update(f"{what}, {share:.0%}")

            step = _step(loader, model, task, weights, seed, amp)
            found = explain_loader(loader, step, steps=steps, progress=tell)
        if as_json:
            print(json.dumps({"sentence": str(found), **found.to_dict()}, indent=1))
        else:
            show(found, out)
        if html is not None:
            write_page(found, html, title=f"{model} on {data}, {policy}")
            aside.print(f"wrote [bold]{escaped(str(html))}[/]", highlight=False, soft_wrap=True)


def _loader(source: Any, batch_size: int, *, device: Any, **options: Any) -> DataLoader:
    """As train makes it."""
    import torch

    from dalipipe.loader import DataLoader

    on_cuda = device.type == "cuda" and bool({"image"} & {field.kind for field in source.schema.fields})
    return DataLoader(
        source,
        batch_size,
        shuffle=True,
        drop_last=True,
        device=device,
        memory_format=torch.channels_last if on_cuda else torch.contiguous_format,
        **options,
    )


def _step(loader: DataLoader, name: str, task: str, weights: Path | None, seed: int, amp: str) -> Callable[[Any], None]:
    """A step of train's loop, by a model that can take what the loader gives."""
    import torch

    from dalipipe.finetune import FineTuneConfig, Layers, classify, segment, training_step
    from dalipipe.finetune.classifier import make_model

    torch.manual_seed(seed)
    model, _ = make_model(name, loader.classes or [], weights=weights, **of_data(loader, task))
    objective = segment if task == "segmentation" else classify
    config = FineTuneConfig(
        Path(), epochs=1, amp=amp, label_smoothing=0.0 if task == "segmentation" else 0.1
    )  # its folder stays as it is
    try_out(model.to(loader.device), objective, loader, name=name, config=config, layers=Layers())
    return training_step(model, loader.device, config, objective=objective)
