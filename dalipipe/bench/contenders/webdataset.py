"""WebDataset: files in tar shards, read in order, mixed in a buffer, decoded by worker processes with torchvision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dalipipe.bench.contenders.base import Pair
from dalipipe.bench.contenders.torch_loaders import TorchvisionV2, colour, endless, from_bytes, geometry, middle

_BUFFER = 1000
"""Samples that are mixed, its guide's figure."""


class WebDataset(TorchvisionV2):
    """Settings as of torch's loader, which it is built on."""

    def load(self) -> str:
        from importlib.metadata import version

        import torchvision.transforms.v2  # noqa: F401
        import webdataset

        webdataset.WebLoader  # noqa: B018
        return version("webdataset")

    @property
    def _shards(self) -> list[str]:
        count = 4 * self.work.cores  # each worker of the most that are tried has two
        return [str(Path(self.work.folder) / f"webdataset-{number:04d}.tar") for number in range(count)]

    def prepare(self) -> None:
        import webdataset

        samples = list(enumerate(zip(self.work.paths, self.work.labels, strict=True)))
        shards = self._shards
        for number, shard in enumerate(shards):
            # In order from shard to shard, and never an empty one: those that there are too few samples for, repeat.
            part = samples[number * len(samples) // len(shards) : (number + 1) * len(samples) // len(shards)]
            with webdataset.TarWriter(shard) as writer:
                for index, (path, label) in part or samples[:1]:
                    writer.write({"__key__": f"{index:08d}", "jpg": Path(path).read_bytes(), "cls": label})

    def batches(self) -> Iterator[Pair]:
        import webdataset
        from torchvision.transforms import v2

        by_batch = self.settings["normalise"] == "batch"
        crop = v2.Compose(geometry(self.work.size_px) + ([] if by_batch else colour()))
        files = (
            webdataset.WebDataset(self._shards, resampled=True, shardshuffle=False)
            .shuffle(_BUFFER)
            .to_tuple("jpg", "cls")
            .map(_Decoded(crop))
            .batched(self.work.batch_size, collation_fn=_stacked)
        )
        loader = webdataset.WebLoader(
            files,
            batch_size=None,
            num_workers=self.settings["num_workers"],
            prefetch_factor=self.settings["prefetch_factor"],
            persistent_workers=True,
            pin_memory=self.work.on_cuda,
            timeout=120,
        )
        return endless(loader, v2.Compose(colour()) if by_batch else None, self.work.device)

    def evaluation(self) -> Pair:
        import webdataset
        from torchvision.transforms import v2

        decoded = _Decoded(v2.Compose(middle(self.work) + colour()))
        files = webdataset.WebDataset(self._shards, shardshuffle=False).to_tuple("jpg", "cls").map(decoded)
        return _stacked([pair for pair, _ in zip(files, range(self.work.evaluated), strict=False)])


class _Decoded:
    """(bytes of a file, bytes of a label) → (picture, label)."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, sample: tuple[bytes, bytes]) -> tuple[Any, int]:
        return self.transform(from_bytes(sample[0])), int(sample[1])


def _stacked(pairs: list[tuple[Any, int]]) -> Pair:
    import torch

    return torch.stack([picture for picture, _ in pairs]), torch.tensor([label for _, label in pairs])
