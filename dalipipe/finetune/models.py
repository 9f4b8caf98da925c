"""Small standard models for sounds and series: enough to train on real data, with nothing to install. Those for texts
are in `text_models`.

All take a batch of padded samples, and ``length`` int64 [N]: how many frames of each are its own (``None``: all).
What is behind a sample's end is set to zero before every convolution, never enters a maximum or a mean, and so looks
as the zeros do that convolutions put around whole samples. In evaluation, then, a sample's logits do not depend on
what it is padded with or how long its batch is, but for the order in which sums are rounded. In training,
BatchNorm's statistics do count padding: batches of very different lengths want to be cropped or sorted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from dalipipe.finetune.text_models import WordCNN


class LogMelCNN(nn.Module):
    """Four blocks of convolution 3×3, BatchNorm, ReLU and 2×2 maximum over a spectrogram, the mean over frequencies
    and frames, a linear layer.

    A small one of the kind that Kong et al. ("PANNs", IEEE/ACM TASLP 2020) train on AudioSet. A BatchNorm comes first,
    so that decibels and logarithms both do, and the zeros around a spectrogram are its mean and not a loud sound.

    Args:
        classes: outputs.
        channels: of the sound.
        width: channels of the first block, >= 1; each further block has twice as many.
    """

    def __init__(self, classes: int, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width, 8 * width]
        self.scale = nn.BatchNorm2d(channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for after in widths[1:])
        self.head = nn.Linear(widths[-1], classes)

    def layer_order(self) -> list[list[str]]:
        """For `dalipipe.finetune.layers_of`: the lists' items run in turns."""
        layers = [[f"convolutions.{nth}", f"norms.{nth}"] for nth in range(len(self.norms))]
        return [["scale", *layers[0]], *layers[1:], ["head"]]

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        """``x``: float [N, C, mels, frames]; ``length``: int64 [N], in frames of it. Gives float [N, classes].

        Raises ``ValueError`` where ``x`` has other axes.
        """
        if x.ndim != 4:
            raise ValueError(
                f"LogMelCNN: expected features [N, C, mels, frames], got {list(x.shape)}; end the policy with "
                "MelSpectrogram"
            )
        inside = _inside(x, length)
        x = self.scale(_cleared(x, inside))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.relu(norm(convolution(_cleared(x, inside))))
            # The last window may be a part of one: a zero behind a sample's end is no maximum after a ReLU.
            x = functional.max_pool2d(_cleared(x, inside), 2, ceil_mode=True)
            inside = None if inside is None else inside[..., ::2]
        return self.head(_mean(x.mean(2), None if inside is None else inside[:, 0]))


class ResNet1d(nn.Module):
    """Three residual blocks of 64, 128 and 128 channels, each of convolutions over 8, 5 and 3 frames; the mean over
    frames, a linear layer (Wang, Yan, Oates, "Time series classification from scratch with deep neural networks: a
    strong baseline", IJCNN 2017).

    Args:
        classes: outputs.
        channels: of the series.
    """

    def __init__(self, classes: int, channels: int = 1) -> None:
        super().__init__()
        widths = [channels, 64, 128, 128]
        self.blocks = nn.ModuleList(_ResidualBlock(before, after) for before, after in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        """``x``: float [N, T, C]; ``length``: int64 [N]. Gives float [N, classes]."""
        x, inside = _channels_first(self, x), _inside(x.transpose(1, 2), length)
        for block in self.blocks:
            x = block(x, inside)
        return self.head(_mean(x, inside))


class _ResidualBlock(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            _Convolution(after if nth else before, after, kernel) for nth, kernel in enumerate((8, 5, 3))
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(after) for _ in range(3))
        shortcut: list[nn.Module] = [] if before == after else [_Convolution(before, after, 1)]
        self.shortcut = nn.Sequential(*shortcut, nn.BatchNorm1d(after))

    def forward(self, x: Tensor, inside: Tensor | None) -> Tensor:
        y = x
        for nth, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y = norm(convolution(_cleared(functional.relu(y) if nth else y, inside)))
        return functional.relu(y + self.shortcut(_cleared(x, inside)))


class InceptionTime(nn.Module):
    """Six modules that each look at 40, 20 and 10 frames and at the neighbours' maximum side by side, a shortcut
    around every three; the mean over frames, a linear layer (Ismail Fawaz et al., "InceptionTime: finding AlexNet for
    time series classification", Data Mining and Knowledge Discovery 2020).

    One of the five networks whose mean the paper calls by this name.

    Args:
        classes: outputs.
        channels: of the series.
        width: channels of each of a module's four parts, and of its bottleneck, >= 1.
    """

    def __init__(self, classes: int, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        self.inceptions = nn.ModuleList(_InceptionModule(4 * width if nth else channels, width) for nth in range(6))
        self.shortcuts = nn.ModuleList(
            nn.Sequential(_Convolution(before, 4 * width, 1), nn.BatchNorm1d(4 * width))
            for before in (channels, 4 * width)
        )
        self.head = nn.Linear(4 * width, classes)

    def layer_order(self) -> list[list[str]]:
        """For `dalipipe.finetune.layers_of`: a shortcut ends beside every third module."""
        layers = [[f"inceptions.{nth}"] for nth in range(len(self.inceptions))]
        for nth in range(len(self.shortcuts)):
            layers[3 * nth + 2].append(f"shortcuts.{nth}")
        return [*layers, ["head"]]

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        """``x``: float [N, T, C]; ``length``: int64 [N]. Gives float [N, classes]."""
        x, inside = _channels_first(self, x), _inside(x.transpose(1, 2), length)
        before = x
        for nth, module in enumerate(self.inceptions):
            x = module(x, inside)
            if nth % 3 == 2:
                before = x = functional.relu(x + self.shortcuts[nth // 3](_cleared(before, inside)))
        return self.head(_mean(x, inside))


class _InceptionModule(nn.Module):
    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.bottleneck = _Convolution(before, width, 1) if before > 1 else nn.Identity()
        narrow = width if before > 1 else before
        self.convolutions = nn.ModuleList(_Convolution(narrow, width, kernel) for kernel in (40, 20, 10))
        self.after_maximum = _Convolution(before, width, 1)
        self.norm = nn.BatchNorm1d(4 * width)

    def forward(self, x: Tensor, inside: Tensor | None) -> Tensor:
        lowest = x if inside is None else x.masked_fill(~inside, -torch.inf)
        highest = _cleared(functional.max_pool1d(lowest, 3, stride=1, padding=1), inside)
        narrow = self.bottleneck(_cleared(x, inside))
        parts = [convolution(narrow) for convolution in self.convolutions]
        return functional.relu(self.norm(torch.cat([*parts, self.after_maximum(highest)], 1)))


class _Convolution(nn.Conv1d):
    """As many frames come out as go in: zeros on both sides, of even kernels one more behind (as TensorFlow pads,
    which the papers used). Without a bias, as a BatchNorm follows.
    """

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__(before, after, kernel, bias=False)
        self._around = ((kernel - 1) // 2, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, self._around))


def _channels_first(model: nn.Module, x: Tensor) -> Tensor:
    if x.ndim != 3:
        raise ValueError(f"{type(model).__name__}: expected series [N, T, C], got {list(x.shape)}")
    return x.transpose(1, 2)


def _inside(x: Tensor, length: Tensor | None) -> Tensor | None:
    """bool [N, 1 ..., frames]: which frames of ``x`` [N, ..., frames] are the samples' own, at least one of each."""
    if length is None:
        return None
    shape = [len(x), *[1] * (x.ndim - 1)]
    return torch.arange(x.shape[-1], device=x.device) < length.clamp(min=1).reshape(shape)


def _cleared(x: Tensor, inside: Tensor | None) -> Tensor:
    return x if inside is None else x.masked_fill(~inside, 0)


def _mean(x: Tensor, inside: Tensor | None) -> Tensor:
    """Of [N, C, frames] over the frames inside, [N, C]."""
    if inside is None:
        return x.mean(-1)
    return _cleared(x, inside).sum(-1) / inside.sum(-1)


# Kind of field → the models for it, by their names on the command line; the first is the one to begin with. They take
# the number of classes, and of channels, or of texts the size of the vocabulary.
MODELS: dict[str, dict[str, Callable[[int, int], nn.Module]]] = {
    "audio": {"logmel-cnn": LogMelCNN},
    "series": {"inceptiontime": InceptionTime, "resnet1d": ResNet1d},
    "text": {"word-cnn": WordCNN},
}
