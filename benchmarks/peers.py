"""Loaders of an image folder in this very process, where a benchmark wants them beside others of ours. Whole loaders,
each in a process of its own and at its best, are `dalipipe.bench`'s.

All give batches of RandomResizedCrop(224) + flip + normalise as float32 [N, 3, 224, 224], with two workers or threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def dalipipe_loader(root: str, batch_size: int, workers: int) -> Any:
    import dalipipe

    return dalipipe.DataLoader(
        dalipipe.ImageFolder(root),
        batch_size,
        shuffle=True,
        num_workers=workers,
        policy=dalipipe.recipes.imagenet_train(SIZE),
        device="cpu",
        seed=0,
    )


def torchvision_v2(
    root: str,
    batch_size: int,
    workers: int,
    *,
    batched_normalize: bool,
    device: str = "cpu",
    samples: int | None = None,
) -> Callable[[], int]:
    """``decode_image`` and v2 on tensors in worker processes; normalising there, or by batch in this process.

    ``samples``: of an epoch, drawn with replacement; ``None``: each picture once.
    """
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2

    steps: list[Any] = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    to_float = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    transform = v2.Compose(steps if batched_normalize else steps + to_float)

    def load(path: str) -> torch.Tensor:
        return decode_image(path, ImageReadMode.RGB)

    loader = _torch_loader(
        ImageFolder(root, transform, loader=load), batch_size, workers, pin_memory=device != "cpu", samples=samples
    )
    return epochs(loader, v2.Compose(to_float) if batched_normalize else None, device)


def dali_decoding(root: str, batch_size: int, workers: int) -> Callable[[], int]:
    """DALI's decoding of random crops on the CPU, with nothing after it, with its dynamic executor."""
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(
        batch_size=batch_size, num_threads=workers, device_id=None, exec_dynamic=True, prefetch_queue_depth=2, seed=0
    )
    with pipeline:
        encoded, labels = fn.readers.file(file_root=root, random_shuffle=True, name="reader", prefetch_queue_depth=2)
        images = fn.decoders.image_random_crop(
            encoded,
            device="cpu",
            output_type=types.RGB,
            random_area=[0.08, 1.0],
            random_aspect_ratio=[3 / 4, 4 / 3],
            num_attempts=10,
        )
        pipeline.set_outputs(images, labels)
    pipeline.build()
    steps = pipeline.epoch_size("reader") // batch_size

    def epoch() -> int:
        return sum(len(pipeline.run()[0]) for _ in range(steps))

    return epoch


def _torch_loader(
    dataset: Any, batch_size: int, workers: int, *, pin_memory: bool = False, samples: int | None = None
) -> Any:
    return torch.utils.data.DataLoader(
        dataset,
        batch_size,
        sampler=torch.utils.data.RandomSampler(dataset, replacement=samples is not None, num_samples=samples),
        num_workers=workers,
        persistent_workers=True,
        prefetch_factor=4,
        pin_memory=pin_memory,
        timeout=120,
    )


def epochs(
    loader: Any, finish: Callable[[torch.Tensor], torch.Tensor] | None = None, device: str = "cpu"
) -> Callable[[], int]:
    def epoch() -> int:
        items = 0
        for images, _labels in loader:
            images = images.to(device, non_blocking=True)
            if finish is not None:
                images = finish(images)
            items += len(images)
        if device != "cpu":
            torch.cuda.synchronize()
        return items

    return epoch
