"""Options and arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path, typer.Argument(help="Folder of pictures: one sub-folder per class.", show_default=False)]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over what is trained on.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples a step; of all processes together.")]
Size = Annotated[int, typer.Option("--size", min=1, help="Edge of the pictures the model sees, in pixels.")]
SizeOfRecipe = Annotated[
    int | None, typer.Option("--size", min=1, help="Edge of what a recipe makes, in pixels.", show_default="224")
]
Rate = Annotated[float, typer.Option("--lr", help="Peak learning rate.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Loader threads a process.", show_default="the cores")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one.")]
Seed = Annotated[int, typer.Option(min=0, help="Of weights, order and augmentation.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out exactly where it stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is already in --out.")]
Model = Annotated[str, typer.Option(help="Any torchvision classification model.")]
TaskOption = Annotated[str, typer.Option("--task", help="What the data are: image, audio, series or text.")]
FrameRate = Annotated[
    int | None, typer.Option("--rate-hz", min=1, help="Frames a second, of sounds.", show_default="16000")
]
Channels = Annotated[int | None, typer.Option(min=1, help="Of sounds, as they are mixed down.", show_default="1")]
MaxLength = Annotated[
    int | None,
    typer.Option(min=1, help="Words, or a tokenizer's pieces, of a text at most.", show_default="what the model takes"),
]
RateOfModel = Annotated[
    float | None,
    typer.Option("--lr", help="Peak learning rate.", show_default="0.001, of Hugging Face's models 5e-05"),
]
MixUpAlpha = Annotated[
    float,
    typer.Option("--mixup", min=0, help="MixUp, with weights from Beta(alpha, alpha); 0: none. DeiT has 0.8."),
]
CutMixAlpha = Annotated[
    float,
    typer.Option("--cutmix", min=0, help="CutMix, likewise; with --mixup one of the two a sample. DeiT has 1."),
]
MixOff = Annotated[int, typer.Option(min=0, help="Last epochs, in which samples are not mixed.")]
Weights = Annotated[Path | None, typer.Option(help="Start from the weights in this file.", show_default="from scratch")]
Amp = Annotated[
    str, typer.Option(help="Half precision: bf16, fp16 or off; auto takes bf16 on a GPU, fp16 on one without it.")
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the model with torch.compile.")]
CudaGraphs = Annotated[
    bool, typer.Option("--cuda-graphs", help="Compile, and launch whole steps at once: for small models on a GPU.")
]
Accumulate = Annotated[int, typer.Option(min=1, help="Batches whose gradients make a step, as one large batch's do.")]
Ema = Annotated[
    float | None,
    typer.Option(
        help="Validate, and keep, an average of the weights over the steps; its decay, 0.999 say.", show_default="none"
    ),
]
Shard = Annotated[
    bool, typer.Option("--shard", help="Deal out weights and optimiser among the processes that torchrun starts.")
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write metrics for TensorBoard, too.")]
Loss = Annotated[
    str, typer.Option("--loss", help="ce: cross-entropy; bce: binary, each class a yes or no question for itself.")
]
BceTargetThreshold = Annotated[
    float | None,
    typer.Option(help="Of bce: mixed labels above it count as 1, others as 0.", show_default="shares stay"),
]
More = Annotated[
    Path | None,
    typer.Option(
        "--add",
        help="More to train on, of the same classes: DIR/data or DIR/data.ts of dalipipe generate, or other data.",
        show_default=False,
    ),
]
BceSum = Annotated[bool, typer.Option("--bce-sum", help="Of bce: the sum over classes, not their mean.")]
