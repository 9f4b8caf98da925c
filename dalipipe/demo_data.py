"""A small real data set for the demo and the tests: scikit-learn's bundled handwritten digits as a folder of JPEGs.

1,797 scans of 8×8 pixels in 17 grey levels, from the test set of *Optical Recognition of Handwritten Digits*
(E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998). They ship inside scikit-learn: nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

DIGITS_COUNT = 1797
_COMPLETE = "complete.txt"  # written last: a folder without it was broken off half-way and is written anew


def write_digits(
    root: str | os.PathLike[str],
    *,
    size_px: int = 64,
    val_fraction: float = 0.2,
    quality: int = 95,
) -> Path:
    """Write the digits as ``root/{train,val}/<digit>/<index>.jpg`` and return ``root``.

    The split is stratified and fixed: within each digit, ``val_fraction`` of the scans, evenly spaced in scikit-learn's
    order, go to ``val``. A folder already complete with the same arguments is left as it is.

    Args:
        root: the folder to write; created when missing.
        size_px: edge of the written images, in pixels; the 8×8 scans are enlarged bicubically.
        val_fraction: share of each class that goes to ``val``, between 0 and 0.5.
        quality: JPEG quality, 1 to 95.

    Raises:
        ValueError: an argument is out of range, or ``root`` holds files that this function did not write.
        ModuleNotFoundError: scikit-learn or Pillow is missing.
    """
    if not 8 <= size_px <= 1024:
        raise ValueError(f"write_digits: size_px must be in [8, 1024], got {size_px}")
    if not 0.0 < val_fraction <= 0.5:
        raise ValueError(f"write_digits: val_fraction must be in (0, 0.5], got {val_fraction}")
    if not 1 <= quality <= 95:
        raise ValueError(f"write_digits: quality must be in [1, 95], got {quality}")
    root = Path(root)
    recipe = f"scikit-learn digits, {size_px} px, val_fraction {val_fraction}, JPEG quality {quality}\n"
    if (root / _COMPLETE).is_file() and (root / _COMPLETE).read_text() == recipe:
        return root
    _clear(root)

    try:
        from PIL import Image
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"writing the digits needs {error.name}; install it with: pip install 'dalipipe[demo]'",
            name=error.name,
        ) from error

    digits = load_digits()
    for digit in range(10):
        for folder in ("train", "val"):
            (root / folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for position, index in enumerate(np.flatnonzero(digits.target == digit)):
            grey = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)  # [8,8], 0 to 16 in the scans
            image = Image.fromarray(grey).resize((size_px, size_px), Image.Resampling.BICUBIC)
            is_val = int((position + 1) * val_fraction) > int(position * val_fraction)  # evenly spread, exact share
            folder = "val" if is_val else "train"
            image.save(root / folder / str(digit) / f"{index:04d}.jpg", quality=quality)
    (root / _COMPLETE).write_text(recipe)
    return root


def _clear(root: Path) -> None:
    """Remove an earlier digits folder, and refuse to touch anything else."""
    root.mkdir(parents=True, exist_ok=True)
    ours = {root / "train", root / "val", root / _COMPLETE}
    strangers = sorted(path.name for path in root.iterdir() if path not in ours)
    if strangers:
        raise ValueError(
            f"write_digits: {root} holds {strangers[0]!r}, which is not part of the digits; name another folder"
        )
    for folder in ("train", "val"):
        if any(len(path.name) != 1 or not path.name.isdigit() for path in _entries(root / folder)):
            raise ValueError(f"write_digits: {root / folder} does not hold digits only; name another folder")
    for folder in ("train", "val"):
        shutil.rmtree(root / folder, ignore_errors=True)
    (root / _COMPLETE).unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
