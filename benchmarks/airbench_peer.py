"""CIFAR-10 as its speed records load it: no loader, but a data set that lies on the device, augmented an epoch at a
time by operations on all of it. After the description in Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU"
(2024), section 3: pictures normalised once, in half precision; padded by reflection once; each epoch a random
translation by up to 2 px; flipped at random in the first epoch, and from then on every picture in every other epoch
("alternating flip"); batches are a permutation of the result.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SHIFT_PX = 2
WAYS = ("by slices", "by indices")


class Resident:
    """``way`` of translating: "by slices", pictures that are shifted alike together; "by indices", all at once."""

    def __init__(
        self, pictures: np.ndarray, labels: np.ndarray, batch_size: int, device: torch.device, way: str = WAYS[0]
    ) -> None:
        """``pictures`` uint8 [N, H, W, 3], ``labels`` int64 [N]."""
        if way not in WAYS:
            raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
        self.device, self.batch_size, self.way, self.number = device, batch_size, way, 0
        values = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(each, device=device)[:, None, None] for each in (MEAN, STD))
        normalised = ((values - mean) / std).half().contiguous(memory_format=torch.channels_last)
        self.flipped = torch.rand(len(values), device=device) < 0.5
        padded = torch.nn.functional.pad(normalised, (SHIFT_PX,) * 4, mode="reflect")
        self.padded = torch.where(self.flipped[:, None, None, None], padded.flip(-1), padded)
        self.labels = torch.from_numpy(labels).to(device)
        self.side = pictures.shape[1]

    def __len__(self) -> int:
        return len(self.padded) // self.batch_size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """float16 [batch, 3, H, W] in channels_last, int64 [batch]; what does not fill a batch is left out."""
        images = self._translated()
        if self.number % 2:
            images = images.flip(-1)
        self.number += 1
        order = torch.randperm(len(images), device=self.device)
        for rows in order[: len(self) * self.batch_size].view(-1, self.batch_size):
            yield images[rows], self.labels[rows]

    def _translated(self) -> torch.Tensor:
        n, at = len(self.padded), torch.arange(self.side, device=self.device)
        shift = torch.randint(0, 2 * SHIFT_PX + 1, (2, n), device=self.device)
        if self.way == "by indices":
            y, x = shift[0][:, None] + at, shift[1][:, None] + at
            rows = torch.arange(n, device=self.device)[:, None, None]
            taken = self.padded.permute(0, 2, 3, 1)[rows, y[:, :, None], x[:, None, :]]
            return taken.permute(0, 3, 1, 2)
        out = torch.empty_like(self.padded[:, :, : self.side, : self.side], memory_format=torch.channels_last)
        for top in range(2 * SHIFT_PX + 1):
            for left in range(2 * SHIFT_PX + 1):
                alike = (shift[0] == top) & (shift[1] == left)
                out[alike] = self.padded[alike, :, top : top + self.side, left : left + self.side]
        return out
