"""What rides along with a picture, in plain numpy: label maps by the passes that its pixels go through, boxes and
points by the operators that were drawn for it.

`move_labels` is the specification that ``csrc/labels.h`` and its twin meet. Boxes and points move as torchvision v2
moves them, operator by operator, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dalipipe.ops import filtering, pixels
from dalipipe.ops.image.families import BlendOp, CropOp, ElasticOp, FlipOp, ResizeOp, WarpOp
from dalipipe.policy import Drawn

# Label maps --------------------------------------------------------------------------------------------------------


def move_labels(
    labels: np.ndarray, passes: np.ndarray, ignore_index: int, table: np.ndarray | None = None
) -> np.ndarray:
    """A label map under the geometry of one sample's image passes, by nearest neighbours: int64 [out_h, out_w].

    ``labels``: integers [H, W]; ``passes``: `IMAGE_PASS` [k], the origin of each minus its crop's corner in what comes
    in; ``ignore_index``: what stands outside; ``table`` int64 [T]: label in the map → in the batch, its last entry for
    all others.

    A resize takes pixel ⌊i · (crop / resized)⌋ in float32, as torch's ``interpolate(mode="nearest")``; a warp the pixel
    whose centre is nearest, halves to the even index, whatever the image's interpolation. Each pixel of the last
    pass's output is followed back so, pass by pass, to one of the map.
    """
    y, x = np.indices((int(passes[-1]["out_h"]), int(passes[-1]["out_w"])))
    sizes = [labels.shape, *((int(one["out_h"]), int(one["out_w"])) for one in passes[:-1])]
    for one, size in zip(reversed(passes), reversed(sizes), strict=True):
        y, x = _came_from(one, y, x, size)
    inside = y >= 0
    found = labels[y[inside], x[inside]].astype(np.int64)
    if table is not None:
        found = table[np.where((found >= 0) & (found < len(table)), found, len(table) - 1)]
    out = np.full(inside.shape, ignore_index, np.int64)
    out[inside] = found
    return out


def _came_from(one: np.void, y: np.ndarray, x: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Places in a pass's output → in what came in, of ``size``; (-1, -1) outside, where they stay."""
    inside = y >= 0
    if one["warp"]:
        out_size, address = (int(one["out_h"]), int(one["out_w"])), int(one["displacement"])
        u, v = pixels.warp_points(one["matrix"], out_size, _floats_at(address, (2, *out_size)) if address else None)
        y, x = (_nearest_index(at[y, x], int(one[f"canvas_{side}"])) for at, side in ((v, "h"), (u, "w")))
    found = []
    for at, axis, side, bit, length in ((y, "y", "h", 2, size[0]), (x, "x", "w", 1, size[1])):
        canvas, resized, crop = (int(one[f"{name}_{side}"]) for name in ("canvas", "resized", "crop"))
        inside = inside & (at >= 0) & (at < canvas)
        at = (canvas - 1 - at if one["flip"] & bit else at) + int(one[f"window_{axis}"])
        inside &= (at >= 0) & (at < resized)
        at = pixels.nearest_index(crop, resized, at) - int(one[f"origin_{axis}"])
        inside &= (at >= 0) & (at < length)
        found.append(at)
    return np.where(inside, found[0], -1), np.where(inside, found[1], -1)


def _nearest_index(v: np.ndarray, side: int) -> np.ndarray:
    """Index float32 → the nearest whole one, halves to the even; -1 or ``side`` for all beyond it."""
    return np.rint(pixels.clamp_index(v, side, 1)).astype(np.int64)


def _floats_at(address: int, shape: tuple[int, ...]) -> np.ndarray:
    interface = {"data": (address, True), "shape": shape, "typestr": np.dtype(np.float32).str, "version": 3}
    return np.asarray(type("_View", (), {"__array_interface__": interface})())


# Boxes and points --------------------------------------------------------------------------------------------------

Fields = Callable[[Drawn, int], np.ndarray]
"""The displacement float [2, H, W] (x before y, px) of an elastic operator's sample, by its place among ``rows``."""


def drawn_field(drawn: Drawn, place: int) -> np.ndarray:
    """`Fields`, worked out in numpy."""
    h, w = (int(v) for v in drawn.size[place])
    return filtering.displacement((h, w), *(drawn.params[name][place] for name in ("alpha", "sigma", "noise")))


def move_boxes(boxes: np.ndarray, rows: np.ndarray, drawn: Sequence[Drawn], fields: Fields = drawn_field) -> np.ndarray:
    """Boxes [K, 4] as x1, y1, x2, y2, in px from the picture's left and top edge, float64 as they come out.

    ``rows`` int64 [K]: which sample of the batch each belongs to. After each operator it is the upright box about the
    moved corners, and, but for flips, what of it lies inside the picture: as torchvision has it, so that a box that is
    outside is left with a side of 0 px. Elastic operators move a corner by the displacement of the pixel that it lies
    in (torchvision also takes it to a pixel's own corner).
    """
    boxes = boxes.astype(np.float64)
    for d, touched, place in _touched(rows, drawn):
        corners = boxes[touched][:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
        corners = _moved(d, place, corners, fields, mirror_px=0)
        if not isinstance(d.op, FlipOp):
            limit = d.op.output_size(d.params, d.size)[place][:, None, ::-1]
            corners = np.clip(corners, 0, limit)
        boxes[touched] = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return boxes


def move_points(
    points: np.ndarray, rows: np.ndarray, drawn: Sequence[Drawn], fields: Fields = drawn_field
) -> np.ndarray:
    """Points [K, 2] as x, y in px, float64 as they come out; they may leave the picture.

    ``rows`` as in `move_boxes`. As torchvision's: flips mirror them about the centres of the pixels at the edges, (W −
    1) − x; all else counts from the picture's edge.
    """
    points = points.astype(np.float64)
    for d, touched, place in _touched(rows, drawn):
        points[touched] = _moved(d, place, points[touched][:, None], fields, mirror_px=1)[:, 0]
    return points


def box_corners(boxes: np.ndarray, box_format: str) -> np.ndarray:
    """Boxes [K, 4] of a `Field.format` → x1, y1, x2, y2."""
    if box_format == "xyxy":
        return boxes
    first, side = boxes[:, :2], boxes[:, 2:]
    if box_format == "cxcywh":
        first = first - side / 2
    return np.concatenate([first, first + side], axis=1)


def format_boxes(corners: np.ndarray, box_format: str) -> np.ndarray:
    """The inverse of `box_corners`."""
    if box_format == "xyxy":
        return corners
    first, side = corners[:, :2], corners[:, 2:] - corners[:, :2]
    return np.concatenate([first + side / 2 if box_format == "cxcywh" else first, side], axis=1)


_GEOMETRY = (ResizeOp, CropOp, FlipOp, WarpOp, ElasticOp)


def _touched(rows: np.ndarray, drawn: Sequence[Drawn]) -> Iterator[tuple[Drawn, np.ndarray, np.ndarray]]:
    """The operators that move something: each with what it moves, int64 [T] of K, and the samples' places among its
    own, int64 [T].
    """
    for d in drawn:
        if isinstance(d.op, BlendOp) and len(d.rows):
            raise ValueError(f"{d.op!r} blends pictures: boxes and points cannot follow")
        if isinstance(d.op, _GEOMETRY):
            places = np.full(d.count, -1)
            places[d.rows] = np.arange(len(d.rows))
            place = places[rows]
            touched = np.flatnonzero(place >= 0)
            if len(touched):
                yield d, touched, place[touched]


def _moved(d: Drawn, place: np.ndarray, points: np.ndarray, fields: Fields, mirror_px: int) -> np.ndarray:
    """Where an operator takes points [T, P, 2]. A flip takes x to (W - ``mirror_px``) - x."""
    p = {name: value[place] for name, value in d.params.items()}
    if isinstance(d.op, ResizeOp):
        scale = p["resized"] / p["box"][:, 2:]
        return (points - p["box"][:, None, 1::-1]) * scale[:, None, ::-1]
    if isinstance(d.op, CropOp):
        return points - p["box"][:, None, 1::-1]
    if isinstance(d.op, FlipOp):
        end = (d.size[place] - mirror_px)[:, None, ::-1]
        return np.where(p["flip"][:, None, ::-1], end - points, points)
    if isinstance(d.op, WarpOp):  # its matrix leads from output to input, between centres of pixels
        forward = np.linalg.inv(p["matrix"])
        centres = np.concatenate([points - 0.5, np.ones((*points.shape[:2], 1))], axis=2)
        moved = np.einsum("tij,tpj->tpi", forward, centres)
        return moved[..., :2] / moved[..., 2:] + 0.5
    moved = points.copy()
    for one in np.unique(place):
        field, own = fields(d, int(one)), place == one
        x, y = (
            np.clip(np.floor(np.nan_to_num(points[own][..., i])), 0, field.shape[2 - i] - 1).astype(np.int64)
            for i in (0, 1)
        )
        moved[own] -= np.moveaxis(field[:, y, x], 0, -1)
    return moved
