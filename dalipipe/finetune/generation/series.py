"""A small conditional GAN for series of one or more channels, all as long or not."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dalipipe.finetune.generation.gan import ConditionalGAN, Examples, GANConfig, Modulated, Projection
from dalipipe.finetune.generation.generator import series_values
from dalipipe.sources import Source

_COARSEST, _MOST_DOUBLINGS = 6, 5  # frames, about, from which a series is built up; of longer ones more


class SeriesGAN(ConditionalGAN):
    """Series by class, [T, C] each, with convolutions along time.

    Channels are brought to mean 0 and deviation 1 of all that is learnt from, and back when samples are made. Where
    lengths differ, a made sample has the length of a real one of its class, drawn at random; both networks are told
    it, and behind it there is nothing for either.
    """

    kind = "series"

    def __init__(self, config: GANConfig | None = None, *, device: str | torch.device = "cpu") -> None:
        super().__init__(config, device=device)

    def _examples(self, source: Source) -> Examples:
        values = series_values(source)
        assert source.labels is not None
        lengths = np.array([len(one) for one in values])
        if lengths.max() < 4:
            raise ValueError(f"SeriesGAN: series of 4 frames or more are made, these have {lengths.max()} at most")
        frames = np.concatenate(values).astype(np.float64)
        deviation = frames.std(0)
        by_class = [np.sort(lengths[source.labels == label]).tolist() for label in range(len(self.classes))]
        self._shape = {
            "frames": int(lengths.max()),
            "mean": frames.mean(0).tolist(),
            "deviation": np.where(deviation > 0, deviation, 1.0).tolist(),
            "lengths": by_class,
        }
        padded = torch.zeros(len(values), frames.shape[1], int(lengths.max()))
        for row, one in enumerate(values):
            scaled = (one - self._shape["mean"]) / self._shape["deviation"]
            padded[row, :, : len(one)] = torch.from_numpy(scaled.T)
        return Examples(padded, torch.from_numpy(source.labels.astype(np.int64)), torch.from_numpy(lengths))

    def _networks(self) -> tuple[nn.Module, nn.Module]:
        shape = (len(self.classes), len(self._shape["mean"]), self._shape["frames"])
        return _Generator(*shape, self.config.noise, self.config.width), _Discriminator(*shape, self.config.width)

    def _augmented(self, values: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        """Scaled by 0.8 to 1.25 and, about the mean, shifted by ¼ of the deviation at most."""
        count = len(values)
        scale, offset = (torch.rand(count, 1, 1, generator=generator).to(values.device) for _ in range(2))
        return (values * 1.25 ** (2 * scale - 1) + (offset - 0.5) / 2) * _inside(lengths, values.shape[2])

    def _lengths(self, count: int, label: int, generator: np.random.Generator) -> np.ndarray:
        known = np.array(self._shape["lengths"][label], np.int64)
        return known[generator.integers(len(known), size=count)]

    def _finished(self, values: Tensor, lengths: np.ndarray) -> Any:
        """float32 [T, C] each."""
        scaled = values.permute(0, 2, 1).double().numpy() * self._shape["deviation"] + self._shape["mean"]
        return [one[:length].astype(np.float32) for one, length in zip(scaled, lengths, strict=True)]


def _inside(lengths: Tensor, frames: int) -> Tensor:
    """float [N, 1, frames]: 1 where a series is, 0 behind its end."""
    return (torch.arange(frames, device=lengths.device) < lengths[:, None]).float()[:, None]


def _levels(frames: int) -> tuple[int, int]:
    """Frames of the coarsest level, and how often they are doubled to have ``frames`` or a few more."""
    doublings = 1
    while doublings < _MOST_DOUBLINGS and -(-frames >> doublings) > _COARSEST:
        doublings += 1
    return -(-frames // 2**doublings), doublings


class _Generator(nn.Module):
    def __init__(self, classes: int, channels: int, frames: int, noise: int, width: int) -> None:
        super().__init__()
        self.coarsest, doublings = _levels(frames)
        self.frames = frames
        widths = [width * 2 ** min(doublings - level, 3) for level in range(doublings + 1)]
        told = 2 * noise + 1
        self.embedding = nn.Embedding(classes, noise)
        self.first = nn.Linear(told, self.coarsest * widths[0])
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(before, after, 8, 2, 3, bias=False) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(Modulated(channels, told) for channels in widths)
        self.last = nn.Conv1d(widths[-1], channels, 5, padding=2)

    def forward(self, noise: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        told = torch.cat([noise, self.embedding(labels), lengths[:, None] / self.frames], 1)
        x = self.norms[0](self.first(told).view(len(told), -1, self.coarsest), told)
        for up, norm in zip(self.ups, self.norms[1:], strict=True):
            x = norm(up(x), told)
        return self.last(x)[..., : self.frames] * _inside(lengths, self.frames)


class _Discriminator(nn.Module):
    def __init__(self, classes: int, channels: int, frames: int, width: int, features: int = 128) -> None:
        super().__init__()
        self.coarsest, doublings = _levels(frames)
        self.padded = self.coarsest << doublings
        widths = [channels + 1, *(width * 2 ** min(level, 3) for level in range(1, doublings + 1))]
        self.downs = nn.ModuleList(nn.Conv1d(before, after, 8, 2, 3) for before, after in itertools.pairwise(widths))
        self.features = nn.Linear(self.coarsest * widths[-1], features)
        self.projection = Projection(features, classes)

    def forward(self, values: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        x = torch.cat([values, _inside(lengths, values.shape[2])], 1)  # so silence and the end are told apart
        x = functional.pad(x, (0, self.padded - x.shape[2]))
        for down in self.downs:
            x = functional.leaky_relu(down(x), 0.2)
        return self.projection(functional.leaky_relu(self.features(x.flatten(1)), 0.2), labels)
