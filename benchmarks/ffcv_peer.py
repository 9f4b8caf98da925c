"""FFCV, in a process of its own, since it wants a Python that it was built for: named by $FFCV_PYTHON, else this one.

    python ffcv_peer.py FOLDER CACHE SIZE BATCH WORKERS raw|jpg LONGEST
    python ffcv_peer.py FILE.npy CACHE CUTOUT BATCH WORKERS small PADDING

Writes FOLDER (class folders of JPEGs) or the pictures uint8 [N, H, W, 3] of FILE.npy into a file in CACHE once, then
runs an epoch for every line that it is sent, and answers each with the number of pictures. Both are FFCV's own way, in
its compiled pipeline: RandomResizedCrop, flip and normalisation to float32, "raw" from stored pixels, the longer side
brought to LONGEST px; or, "small", flip, translation by up to PADDING px and a cutout, uint8 as in its CIFAR example.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def available() -> bool:
    command = [_python(), "-c", "import ffcv.loader"]
    return subprocess.run(command, capture_output=True, cwd="/").returncode == 0


def epochs(
    root: str, cache: Path, size: int, batch_size: int, workers: int, mode: str, longest: int = 0
) -> Callable[[], int]:
    """A contender: each call is an epoch, which returns how many pictures it gave."""
    arguments = [root, str(cache), str(size), str(batch_size), str(workers), mode, str(longest)]
    peer = subprocess.Popen(
        [_python(), str(Path(__file__).resolve()), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    assert peer.stdin is not None and peer.stdout is not None
    if peer.stdout.readline() != "ready\n":
        raise RuntimeError("FFCV did not start")

    def epoch() -> int:
        assert peer.stdin is not None and peer.stdout is not None
        peer.stdin.write("epoch\n")
        peer.stdin.flush()
        return int(peer.stdout.readline())

    return epoch


def _python() -> str:
    return os.environ.get("FFCV_PYTHON", sys.executable)


class _Folder:
    """(picture, label) for every file of a folder of class folders. FFCV's Python may have no torchvision."""

    def __init__(self, root: str) -> None:
        folders = sorted(entry for entry in Path(root).iterdir() if entry.is_dir())
        self._files = [(path, label) for label, folder in enumerate(folders) for path in sorted(folder.iterdir())]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        path, label = self._files[index]
        with Image.open(path) as picture:
            return picture.convert("RGB"), label


def _serve(root: str, cache: str, size: int, batch_size: int, workers: int, mode: str, longest: int) -> None:
    import numpy as np
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import (
        Cutout,
        NormalizeImage,
        RandomHorizontalFlip,
        RandomTranslate,
        Squeeze,
        ToTensor,
        ToTorchImage,
    )
    from ffcv.writer import DatasetWriter

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    file = os.path.join(cache, f"{mode}{longest}.beton")
    if mode == "small":
        pictures = np.load(root, mmap_mode="r")
        data: Any = [(picture, 0) for picture in pictures]
        image = RGBImageField(write_mode="raw")
        steps = [SimpleRGBImageDecoder(), RandomHorizontalFlip(), RandomTranslate(padding=longest), Cutout(size)]
    else:
        data = _Folder(root)
        image = RGBImageField(write_mode=mode, max_resolution=longest or None)
        normalize = NormalizeImage(255 * np.array(MEAN), 255 * np.array(STD), np.float32)
        steps = [RandomResizedCropRGBImageDecoder((size, size)), RandomHorizontalFlip(), normalize]
    writer = DatasetWriter(file, {"image": image, "label": IntField()}, num_workers=workers)
    writer.from_indexed_dataset(data)
    loader = Loader(
        file,
        batch_size=batch_size,
        num_workers=workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={
            "image": [*steps, ToTensor(), ToTorchImage()],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        items = 0
        for images, _labels in loader:
            items += len(images)
        print(items, file=answers, flush=True)


if __name__ == "__main__":
    root, cache, size, batch_size, workers, mode, longest = sys.argv[1:]
    _serve(root, cache, int(size), int(batch_size), int(workers), mode, int(longest))
