"""The JPEG files that benchmarks load."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

COPIES = 24
"""Of each photograph: 3,000 files, so that a round is much longer than its start."""
DRY_PHOTOGRAPHS = 12


def image_folder(data: Path, folder: Path, few: int | None = None) -> Path:
    """An image folder (root/class/*.jpg): the photographs of ``data``'s imagenet_sample_125.tar, unpacked into
    ``folder`` with `COPIES` links to each, or ``few`` of them, once; or ``data`` itself, where it is an image folder.

    Raises:
        FileNotFoundError: it is neither.
    """
    archive = data / "imagenet_sample_125.tar"
    if not archive.is_file():
        if not data.is_dir() or not any(entry.is_dir() for entry in data.iterdir()):
            raise FileNotFoundError(f"{data} has neither imagenet_sample_125.tar nor class folders")
        return data
    unpacked, root = folder / "unpacked", folder / "images"
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    files = sorted(path for path in unpacked.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:few]
    for number, path in enumerate(files):
        (root / f"class_{number % 10}").mkdir(parents=True, exist_ok=True)
        for copy in range(COPIES if few is None else 1):
            os.link(path, root / f"class_{number % 10}" / f"{number:03d}_{copy}.jpg")
    return root
