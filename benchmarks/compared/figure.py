"""A photograph under a dozen operators: ours, torchvision's, and 32 times the difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from compared import theirs
from compared.operators import tensor
from compared.ours import Applied
from PIL import Image, ImageDraw, ImageFont

from dalipipe.ops import image as ops

SHOWN = {
    "RandomResizedCrop": ops.RandomResizedCrop(512, (0.3, 0.5)),
    "Rotate 17°": ops.Rotate((17, 17)),
    "Perspective 0.5": ops.Perspective(0.5, p=1.0),
    "Elastic": ops.Elastic(300.0, 9.0),
    "Contrast 1.5": ops.Contrast((1.5, 1.5)),
    "Saturation 1.9": ops.Saturation((1.9, 1.9)),
    "Hue 0.3": ops.Hue((0.3, 0.3)),
    "Solarize 128": ops.Solarize(),
    "Posterize 2": ops.Posterize((2, 2)),
    "Equalize": ops.Equalize(),
    "GaussianBlur 5 px": ops.GaussianBlur(31, (5.0, 5.0)),
    "JPEG 5": ops.JpegCompression((5, 5)),
}
_ROW, _TILE, _GAP, _LABEL, _ENLARGED = 6, 128, 4, 18, 32


def photograph() -> np.ndarray:
    """uint8 [512, 512, 3]: that of matplotlib's which is in the public domain."""
    from matplotlib.cbook import get_sample_data

    with get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file).convert("RGB").crop((0, 0, 512, 512)))


def draw(path: Path) -> None:
    x, font = photograph(), ImageFont.load_default(12)
    rows = -(-len(SHOWN) // _ROW)
    height, width = _LABEL + 3 * (_TILE + _GAP) + _GAP, _TILE + _GAP
    sheet = Image.new("RGB", (_ROW * width + _GAP, rows * height), "white")
    write = ImageDraw.Draw(sheet)
    for place, (name, op) in enumerate(SHOWN.items()):
        left, top = _GAP + place % _ROW * width, place // _ROW * height
        write.text((left, top + 2), name, fill="black", font=font)
        for i, picture in enumerate(_three(op, x)):
            small = Image.fromarray(picture).resize((_TILE, _TILE), Image.Resampling.BOX)
            sheet.paste(small, (left, top + _LABEL + i * (_TILE + _GAP)))
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = sheet.quantize(256)
    sheet.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def _three(op: ops.ImageOp, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draws, _, made = next(Applied([op]).batches([x]))
    params = draws.drawn[0].at(0)
    assert params is not None
    ours = made[0].transpose(1, 2, 0)
    other = theirs.made(theirs.calls(op, params, x.shape[:2]), tensor(x)).permute(1, 2, 0).numpy()
    apart = np.abs(ours.astype(int) - other) * _ENLARGED
    return ours, other, np.minimum(apart, 255).astype(np.uint8)
