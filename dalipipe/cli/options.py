"""Options and arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# Headings that `dalipipe train --help` puts them under.
_AUGMENTATION, _LOSS, _LOOP = "Mixing", "Loss", "The loop"
_TRANSFER, _DISTILLATION, _WATCHING = "Transfer", "Distillation", "Watching the loaders"

Data = Annotated[Path, typer.Argument(help="Folder of pictures: one sub-folder per class.", show_default=False)]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over what is trained on.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples a step; of all processes together.")]
Size = Annotated[int, typer.Option("--size", min=1, help="Edge of the pictures the model sees, in pixels.")]
SizeOfRecipe = Annotated[
    int | None,
    typer.Option("--size", min=1, help="Edge of what a recipe makes, in pixels.", show_default="the recipe's own"),
]
Rate = Annotated[float, typer.Option("--lr", help="Peak learning rate.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Loader threads a process.", show_default="the best, as tried")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one.")]
Seed = Annotated[int, typer.Option(min=0, help="Of weights, order and augmentation.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out exactly where it stopped.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is already in --out.")]
Model = Annotated[str, typer.Option(help="Any torchvision classification model.")]
TaskOption = Annotated[
    str, typer.Option("--task", help="What the data are: image, segmentation, audio, series or text.")
]
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
WeightDecay = Annotated[
    float | None,
    typer.Option(
        "--weight-decay", min=0, help="Of weights, decoupled from the gradient.", show_default="0.05, with --l2-sp 0"
    ),
]
MixUpAlpha = Annotated[
    float,
    typer.Option(
        "--mixup",
        min=0,
        help="MixUp, with weights from Beta(alpha, alpha); 0: none. DeiT has 0.8.",
        rich_help_panel=_AUGMENTATION,
    ),
]
CutMixAlpha = Annotated[
    float,
    typer.Option(
        "--cutmix",
        min=0,
        help="CutMix, likewise; with --mixup one of the two a sample. DeiT has 1.",
        rich_help_panel=_AUGMENTATION,
    ),
]
MixOff = Annotated[
    int, typer.Option(min=0, help="Last epochs, in which samples are not mixed.", rich_help_panel=_AUGMENTATION)
]
Weights = Annotated[Path | None, typer.Option(help="Start from the weights in this file.", show_default="from scratch")]
Amp = Annotated[
    str,
    typer.Option(
        help="Half precision: bf16, fp16 or off; auto takes bf16 on a GPU, fp16 on one without it.",
        rich_help_panel=_LOOP,
    ),
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the model with torch.compile.", rich_help_panel=_LOOP)
]
CudaGraphs = Annotated[
    bool,
    typer.Option(
        "--cuda-graphs",
        help="Compile, and launch whole steps at once: for small models on a GPU.",
        rich_help_panel=_LOOP,
    ),
]
Accumulate = Annotated[
    int,
    typer.Option(min=1, help="Batches whose gradients make a step, as one large batch's do.", rich_help_panel=_LOOP),
]
Ema = Annotated[
    float | None,
    typer.Option(
        help="Validate, and keep, an average of the weights over the steps; its decay, 0.999 say.",
        show_default="none",
        rich_help_panel=_LOOP,
    ),
]
Shard = Annotated[
    bool,
    typer.Option(
        "--shard",
        help="Deal out weights and optimiser among the processes that torchrun starts.",
        rich_help_panel=_LOOP,
    ),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write metrics for TensorBoard, too.", rich_help_panel=_LOOP)
]
LiveView = Annotated[
    bool,
    typer.Option("--live", help="Show on the terminal what the training loader does.", rich_help_panel=_WATCHING),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help="Serve the loaders' figures to Prometheus on this port of this machine; further processes of it take the "
        "next ones.",
        show_default="not served",
        rich_help_panel=_WATCHING,
    ),
]
Carry = Annotated[
    Path | None,
    typer.Option(
        help="Start from the checkpoint of a smaller model of this kind, trained on part of the data, say.",
        show_default="from scratch",
        rich_help_panel=_TRANSFER,
    ),
]
Loss = Annotated[
    str,
    typer.Option(
        "--loss",
        help="ce: cross-entropy; bce: binary, each class a yes or no question for itself.",
        rich_help_panel=_LOSS,
    ),
]
BceTargetThreshold = Annotated[
    float | None,
    typer.Option(
        help="Of bce: mixed labels above it count as 1, others as 0.", show_default="shares stay", rich_help_panel=_LOSS
    ),
]
More = Annotated[
    Path | None,
    typer.Option(
        "--add",
        help="More to train on, of the same classes: DIR/data or DIR/data.ts of dalipipe generate, or other data.",
        show_default=False,
    ),
]
Teacher = Annotated[
    Path | None,
    typer.Option(
        help="Learn from this trained model, too: its checkpoint, or a file of weights.",
        show_default="no teacher",
        rich_help_panel=_DISTILLATION,
    ),
]
TeacherModel = Annotated[
    str | None, typer.Option(help="The teacher's model.", show_default="that of --model", rich_help_panel=_DISTILLATION)
]
Temperature = Annotated[
    float | None,
    typer.Option(
        help="What teacher's and student's logits are divided by; inf: they are matched.",
        show_default="4",
        rich_help_panel=_DISTILLATION,
    ),
]
HardWeight = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of the labels in the loss; the teacher has the rest.",
        show_default="0.1",
        rich_help_panel=_DISTILLATION,
    ),
]
TeacherCacheFolder = Annotated[
    Path | None,
    typer.Option(
        "--teacher-cache",
        help="Ask the teacher once about each augmented picture, and keep its answers in this folder.",
        show_default="ask it at every step",
        rich_help_panel=_DISTILLATION,
    ),
]
CacheEpochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="With --teacher-cache: how many epochs are augmented differently; then their pictures come again.",
        show_default="10",
        rich_help_panel=_DISTILLATION,
    ),
]
BceSum = Annotated[
    bool, typer.Option("--bce-sum", help="Of bce: the sum over classes, not their mean.", rich_help_panel=_LOSS)
]
Freeze = Annotated[
    str | None,
    typer.Option(
        help="Layers that keep their weights: the first so many, all but the last so many (-1: but the head), or "
        "names, by commas: 'conv1,bn1,layer1'.",
        show_default="none",
        rich_help_panel=_TRANSFER,
    ),
]
UnfreezeEvery = Annotated[
    float | None,
    typer.Option(
        help="Epochs after which one layer more learns, from the head down.",
        show_default="all from the start",
        rich_help_panel=_TRANSFER,
    ),
]
LayerDecay = Annotated[
    float,
    typer.Option(
        help="Each layer's learning rate, of that of the layer above it: 0.65 to 0.9 for transformers.",
        rich_help_panel=_TRANSFER,
    ),
]
L2SPWeight = Annotated[
    float | None,
    typer.Option(
        "--l2-sp",
        help="Pull towards the weights it starts from, instead of weight decay: 0.001, say.",
        show_default="none",
        rich_help_panel=_TRANSFER,
    ),
]
JointSource = Annotated[
    Path | None,
    typer.Option(
        "--source",
        help="Learn these data beside, by a head of their own on a shared trunk.",
        show_default="none",
        rich_help_panel=_TRANSFER,
    ),
]
TargetWeight = Annotated[
    float | None,
    typer.Option(
        help="How much the data's loss counts beside that of --source.", show_default="1", rich_help_panel=_TRANSFER
    ),
]
Subset = Annotated[
    str | None,
    typer.Option(
        help="Train on a part, drawn by --seed: 20 a class, or 0.1 of each.",
        show_default="all",
        rich_help_panel=_TRANSFER,
    ),
]
