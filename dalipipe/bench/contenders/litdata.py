"""LitData: files in its chunks, streamed and decoded by worker processes with torchvision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dalipipe.bench.contenders.base import Pair
from dalipipe.bench.contenders.torch_loaders import TorchvisionV2, colour, endless, from_bytes, geometry, middle


class LitData(TorchvisionV2):
    """Settings as of torch's loader, which it is built on."""

    def load(self) -> str:
        from importlib.metadata import version

        import litdata
        import torchvision.transforms.v2  # noqa: F401

        litdata.breakpoint  # noqa: B018  (a name of its own: an empty folder of that name is not the library)
        return version("litdata")

    @property
    def _folder(self) -> str:
        return str(Path(self.work.folder) / "litdata")

    def prepare(self) -> None:
        import litdata

        litdata.optimize(
            fn=_sample,
            inputs=list(zip(self.work.paths, self.work.labels, strict=True)),
            output_dir=self._folder,
            chunk_bytes="64MB",
            num_workers=self.work.cores,
            keep_data_ordered=True,
            start_method="fork",
            verbose=False,
        )

    def batches(self) -> Iterator[Pair]:
        import litdata
        from torchvision.transforms import v2

        by_batch = self.settings["normalise"] == "batch"
        crop = v2.Compose(geometry(self.work.size_px) + ([] if by_batch else colour()))
        files = litdata.StreamingDataset(self._folder, shuffle=True, drop_last=True)
        loader = litdata.StreamingDataLoader(
            litdata.ParallelStreamingDataset([files], length=float("inf"), transform=_Decoded(crop)),
            batch_size=self.work.batch_size,
            num_workers=self.settings["num_workers"],
            prefetch_factor=self.settings["prefetch_factor"],
            persistent_workers=True,
            pin_memory=self.work.on_cuda,
            timeout=120,
        )
        return endless(loader, v2.Compose(colour()) if by_batch else None, self.work.device)

    def evaluation(self) -> Pair:
        import litdata
        import torch
        from torchvision.transforms import v2

        files = litdata.StreamingDataset(self._folder, shuffle=False)
        decoded = _Decoded(v2.Compose(middle(self.work) + colour()))
        images, labels = zip(*(decoded((files[index],)) for index in range(self.work.evaluated)), strict=True)
        return torch.stack(images), torch.tensor(labels)


def _sample(pair: tuple[str, int]) -> dict[str, Any]:
    return {"image": Path(pair[0]).read_bytes(), "label": pair[1]}


class _Decoded:
    """(the one data set's sample,) → (picture, label)."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, samples: Any) -> tuple[Any, int]:
        (sample,) = samples
        return self.transform(from_bytes(sample["image"])), sample["label"]
