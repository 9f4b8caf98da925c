"""torch's ``DataLoader``: with torchvision's v2 transforms on tensors, with Pillow and v1, with nvJPEG on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dalipipe.bench.contenders.base import Contender, Pair, Settings
from dalipipe.bench.work import MEAN, STD, Work


def counts(work: Work) -> list[Settings]:
    """Worker processes and the batches that each has ahead: as many as there are cores, and twice as many."""
    return [
        {"num_workers": work.cores, "prefetch_factor": 2},
        {"num_workers": work.cores, "prefetch_factor": 4},
        {"num_workers": 2 * work.cores, "prefetch_factor": 2},
    ]


class Files:
    """(picture, label) of each file, a map-style data set."""

    def __init__(self, work: Work, load: Callable[[str], Any]) -> None:
        self.work, self.load = work, load

    def __len__(self) -> int:
        return len(self.work.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.load(self.work.paths[index]), self.work.labels[index]


def geometry(size_px: int) -> list[Any]:
    from torchvision.transforms import v2

    return [v2.RandomResizedCrop(size_px, antialias=True), v2.RandomHorizontalFlip()]


def middle(work: Work) -> list[Any]:
    from torchvision.transforms import v2

    return [v2.Resize(work.shorter_px, antialias=True), v2.CenterCrop(work.size_px)]


def colour() -> list[Any]:
    import torch
    from torchvision.transforms import v2

    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


def opened(path: str) -> Any:
    from torchvision.io import ImageReadMode, decode_image

    return decode_image(path, ImageReadMode.RGB)


def from_bytes(file: bytes) -> Any:
    import torch
    from torchvision.io import ImageReadMode, decode_image

    return decode_image(torch.frombuffer(bytearray(file), dtype=torch.uint8), ImageReadMode.RGB)


def endless(loader: Any, finish: Callable[[Any], Any] | None, device: str) -> Iterator[Pair]:
    """Batches on the device, one epoch after the other, the last step of each by ``finish`` there."""
    while True:
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            yield finish(images) if finish else images, labels


class _Torch(Contender):
    """Settings: ``num_workers``, ``prefetch_factor``; ``normalise``: where pictures become float32, in workers, by
    "sample", or here, by "batch".
    """

    @classmethod
    def candidates(cls, work: Work) -> list[Settings]:
        return counts(work)

    def load(self) -> str:
        import torch
        import torchvision
        import torchvision.transforms.v2

        return f"{torch.__version__}, torchvision {torchvision.__version__}"

    @property
    def ahead(self) -> int:
        return int(self.settings["num_workers"] * (self.settings["prefetch_factor"] + 1))

    @property
    def cycle(self) -> int:
        return int(self.settings["num_workers"])

    def loader(self, dataset: Any, **more: Any) -> Any:
        import torch.utils.data

        return torch.utils.data.DataLoader(
            dataset,
            self.work.batch_size,
            sampler=torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=1 << 40),
            num_workers=self.settings["num_workers"],
            prefetch_factor=self.settings["prefetch_factor"],
            persistent_workers=True,
            pin_memory=self.work.on_cuda,
            timeout=120,
            **more,
        )

    def first(self, dataset: Any) -> Pair:
        import torch

        images, labels = zip(*(dataset[index] for index in range(self.work.evaluated)), strict=True)
        return torch.stack(images), torch.tensor(labels)


class TorchvisionV2(_Torch):
    tolerance = 1e-6

    @classmethod
    def candidates(cls, work: Work) -> list[Settings]:
        by_batch = [{**one, "normalise": "batch"} for one in counts(work)]
        # Four times the bytes to upload: not on a GPU.
        return by_batch if work.on_cuda else [{**one, "normalise": "sample"} for one in counts(work)] + by_batch[:1]

    def batches(self) -> Iterator[Pair]:
        from torchvision.transforms import v2

        by_batch = self.settings["normalise"] == "batch"
        transform = v2.Compose(geometry(self.work.size_px) + ([] if by_batch else colour()))
        loader = self.loader(Files(self.work, _Chain(opened, transform)))
        return endless(loader, v2.Compose(colour()) if by_batch else None, self.work.device)

    def evaluation(self) -> Pair:
        from torchvision.transforms import v2

        return self.first(Files(self.work, _Chain(opened, v2.Compose(middle(self.work) + colour()))))


class Pillow(_Torch):
    """Settings: ``num_workers``, ``prefetch_factor``."""

    remark = "Pillow's resizing: a level here and there"

    def batches(self) -> Iterator[Pair]:
        from torchvision import transforms

        transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(self.work.size_px),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
        return endless(self.loader(Files(self.work, _Chain(_by_pillow, transform))), None, self.work.device)

    def evaluation(self) -> Pair:
        from torchvision import transforms

        transform = transforms.Compose(
            [
                transforms.Resize(self.work.shorter_px),
                transforms.CenterCrop(self.work.size_px),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
        return self.first(Files(self.work, _Chain(_by_pillow, transform)))


class TorchvisionOnGpu(_Torch):
    """Workers read files; nvJPEG decodes a batch of them, which is cropped picture by picture and then normalised.

    Settings: ``num_workers``, ``prefetch_factor``.
    """

    tolerance = 0.05
    remark = "nvJPEG's decoding"

    def batches(self) -> Iterator[Pair]:
        from torchvision.io import read_file

        loader = self.loader(Files(self.work, read_file), collate_fn=_as_lists)
        geometric = _compose(geometry(self.work.size_px))
        while True:
            for files, labels in loader:
                yield self._decoded(files, geometric), labels.to(self.work.device, non_blocking=True)

    def evaluation(self) -> Pair:
        from torchvision.io import read_file

        files, labels = _as_lists([Files(self.work, read_file)[index] for index in range(self.work.evaluated)])
        return self._decoded(files, _compose(middle(self.work))).cpu(), labels

    def _decoded(self, files: list[Any], geometric: Callable[[Any], Any]) -> Any:
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        pictures = decode_jpeg(files, ImageReadMode.RGB, device=self.work.device)
        return _compose(colour())(torch.stack([geometric(picture) for picture in pictures]))


class _Chain:
    """One function after the other; a class, so that workers that are spawned can be sent it."""

    def __init__(self, *functions: Callable[[Any], Any]) -> None:
        self.functions = functions

    def __call__(self, value: Any) -> Any:
        for function in self.functions:
            value = function(value)
        return value


def _compose(steps: list[Any]) -> Callable[[Any], Any]:
    from torchvision.transforms import v2

    composed: Callable[[Any], Any] = v2.Compose(steps)
    return composed


def _by_pillow(path: str) -> Any:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.convert("RGB")


def _as_lists(pairs: list[tuple[Any, int]]) -> Pair:
    import torch

    return [file for file, _ in pairs], torch.tensor([label for _, label in pairs])
