"""A small conditional GAN for pictures: convolutions from 4 × 4 px up, and down again."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dalipipe.finetune.generation.gan import ConditionalGAN, Examples, GANConfig, Modulated, Projection
from dalipipe.finetune.generation.generator import pictures
from dalipipe.sources import Source

SIZES_PX = (8, 16, 32, 64)


class ImageGAN(ConditionalGAN):
    """Pictures by class, grey or in colour, ``size_px`` × ``size_px``.

    A thousand scans of digits are learnt in a minute or two on one core (1,500 steps of 64), at 16 px with a width of
    16, at 32 px with one of 8.

    Args:
        size_px: 8, 16, 32 or 64: pictures are resized to it.
        config: see `GANConfig`.
        device: where it learns.
    """

    kind = "image"

    def __init__(
        self, size_px: int = 32, config: GANConfig | None = None, *, device: str | torch.device = "cpu"
    ) -> None:
        super().__init__(config, device=device)
        if size_px not in SIZES_PX:
            raise ValueError(f"ImageGAN: size_px must be one of {', '.join(map(str, SIZES_PX))}, got {size_px}")
        self._shape = {"size_px": size_px, "channels": 3}

    def _examples(self, source: Source) -> Examples:
        found = pictures(source, self._shape["size_px"])
        assert found.images is not None and found.labels is not None
        self._shape["channels"] = found.images.shape[3]
        values = torch.from_numpy(found.images).permute(0, 3, 1, 2).float() / 127.5 - 1
        labels = torch.from_numpy(found.labels)
        return Examples(values.contiguous(), labels, torch.zeros_like(labels))

    def _networks(self) -> tuple[nn.Module, nn.Module]:
        shape = (len(self.classes), self._shape["channels"], self._shape["size_px"])
        return _Generator(*shape, self.config.noise, self.config.width), _Discriminator(*shape, self.config.width)

    def _augmented(self, values: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        """Shifted by an eighth at most; in colour also brighter or darker, paler or stronger. Filled with black."""
        count, channels, height, width = values.shape
        if channels == 3:
            light, strength = (torch.rand(count, 1, 1, 1, generator=generator).to(values.device) for _ in range(2))
            mean = values.mean(1, keepdim=True)
            values = (values - mean) * (2 * strength) + mean + (light - 0.5)
        most = height // 8
        shift = torch.randint(2 * most + 1, (2, count, 1), generator=generator).to(values.device)
        row = torch.arange(height, device=values.device) + shift[0]
        column = torch.arange(width, device=values.device) + shift[1]
        padded = functional.pad(values, (most, most, most, most), value=-1.0).permute(0, 2, 3, 1)
        every = torch.arange(count, device=values.device)[:, None, None]
        return padded[every, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)

    def _lengths(self, count: int, label: int, generator: np.random.Generator) -> np.ndarray:
        return np.zeros(count, np.int64)

    def _finished(self, values: Tensor, lengths: np.ndarray) -> Any:
        """uint8 [N, H, W, C]."""
        return ((values + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def _widths(size_px: int, width: int) -> list[int]:
    """Channels at 4 px, 8 px, … ``size_px``."""
    doublings = (size_px // 4).bit_length() - 1
    return [width * 2 ** min(doublings - level, 3) for level in range(doublings + 1)]


class _Generator(nn.Module):
    def __init__(self, classes: int, channels: int, size_px: int, noise: int, width: int) -> None:
        super().__init__()
        widths = _widths(size_px, width)
        self.embedding = nn.Embedding(classes, noise)
        self.first = nn.Linear(2 * noise, 16 * widths[0])
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(Modulated(channels, 2 * noise) for channels in widths)
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, noise: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        told = torch.cat([noise, self.embedding(labels)], 1)
        x = self.norms[0](self.first(told).view(len(told), -1, 4, 4), told)
        for up, norm in zip(self.ups, self.norms[1:], strict=True):
            x = norm(up(x), told)
        return self.last(x).tanh()


class _Discriminator(nn.Module):
    def __init__(self, classes: int, channels: int, size_px: int, width: int, features: int = 128) -> None:
        super().__init__()
        widths = [channels, *_widths(size_px, width)[-2::-1]]
        self.downs = nn.ModuleList(nn.Conv2d(before, after, 4, 2, 1) for before, after in itertools.pairwise(widths))
        self.features = nn.Linear(16 * widths[-1], features)
        self.projection = Projection(features, classes)

    def forward(self, values: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        x = values
        for down in self.downs:
            x = functional.leaky_relu(down(x), 0.2)
        return self.projection(functional.leaky_relu(self.features(x.flatten(1)), 0.2), labels)
