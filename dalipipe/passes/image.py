"""The fused image pass: which operators fold into one, and into which parameters.

    crop box → antialiased resize → window → flip → warp → colour matrix → table → normalise → erase

Operators in this order share a pass; one that comes too late for it begins the next, on the uint8 pictures of the
last. ``csrc/ops.h`` (`ImageSample`) says what each parameter does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dalipipe.native import IMAGE_SAMPLE
from dalipipe.ops import image as image_ops
from dalipipe.ops.pixels import tap_range
from dalipipe.policy import Drawn, Leaf, Op
from dalipipe.schema import Field

_WARPS = {"bilinear": 1, "nearest": 2}

# A pass's stages. An operator may join while the pass has not gone beyond its family's stage.
_START, _RESIZED, _CROPPED, _WARPED, _WARP_CROPPED, _COLOURED, _TABLED, _ERASED, _NORMALISED = range(9)


@dataclass(frozen=True)
class ImageParams:
    """An image pass for N samples, folded; what the engines take.

    ``samples`` [N] of `IMAGE_SAMPLE`, all but the stored pixels filled in; ``box`` int64 [N, 4]: the crop box in the
    incoming picture as y, x, h, w; ``roi`` int64 [N, 4]: the only part of that picture the pass looks at;
    ``out_size`` int64 [N, 2]; ``tables`` uint8 [N, 256] or ``None``; ``erase_boxes`` int32 [N, E, 4] and
    ``erase_values`` float32 [N, E, 3] in output units.
    """

    samples: np.ndarray
    box: np.ndarray
    roi: np.ndarray
    out_size: np.ndarray
    tables: np.ndarray | None
    erase_boxes: np.ndarray
    erase_values: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)


@dataclass
class ImagePass:
    """A run of image operators that become one sampling of the picture, one colour matrix, one table."""

    ops: list[Op] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    """Where its operators stand among the policy's leaves."""
    normalize: image_ops.Normalize | None = None
    fill: tuple[int, ...] | None = None
    interpolation: str | None = None
    _stage: int = _START

    @property
    def summary(self) -> str:
        return "one sampling of the picture" + ("" if self.normalize else ", ending in uint8")

    def accepts(self, op: Op) -> bool:
        """Whether folding ``op`` in changes nothing but the number of roundings."""
        if isinstance(op, image_ops.ResizeOp):
            return self._stage == _START
        if isinstance(op, image_ops.CropOp):
            return self._stage in (_START, _RESIZED, _WARPED) and self._same_fill(op)
        if isinstance(op, image_ops.WarpOp):
            return self._stage <= _WARPED and self._same_fill(op) and self.interpolation in (None, op.interpolation)
        if isinstance(op, image_ops.FlipOp):  # moves pixels, changes none: commutes with colour
            return self._stage <= _TABLED
        if isinstance(op, image_ops.ColourOp):
            return self._stage <= _COLOURED
        if isinstance(op, image_ops.TableOp):
            return self._stage <= _TABLED
        return isinstance(op, image_ops.Normalize | image_ops.EraseOp)

    def add(self, op: Op, position: int) -> None:
        stage = self._stage
        if isinstance(op, image_ops.ResizeOp):
            stage = _RESIZED
        elif isinstance(op, image_ops.CropOp):
            stage = _WARP_CROPPED if stage == _WARPED else _CROPPED
        elif isinstance(op, image_ops.WarpOp):
            stage, self.interpolation = _WARPED, op.interpolation
        elif isinstance(op, image_ops.ColourOp):
            stage = _COLOURED
        elif isinstance(op, image_ops.TableOp):
            stage = _TABLED
        elif isinstance(op, image_ops.Normalize):
            stage, self.normalize = _NORMALISED, op
        elif isinstance(op, image_ops.EraseOp):
            stage = max(stage, _ERASED)
        if isinstance(op, image_ops.CropOp | image_ops.WarpOp):
            self.fill = tuple(image_ops.fill_rgb(op.fill).tolist())
        self._stage = stage
        self.ops.append(op)
        self.positions.append(position)

    def _same_fill(self, op: image_ops.CropOp | image_ops.WarpOp) -> bool:
        return self.fill in (None, tuple(image_ops.fill_rgb(op.fill).tolist()))

    def fold(self, drawn: Sequence[Drawn], size: np.ndarray) -> ImageParams:
        """The pass's parameters for N incoming pictures of ``size`` int64 [N, 2], given what was drawn for its
        operators.
        """
        n = len(size)
        size = np.asarray(size, np.int64)
        geometry, colour = _Geometry(size), _Colour(n)
        table: np.ndarray | None = None
        erases: list[tuple[np.ndarray, np.ndarray]] = []
        scale = bias = None
        for d in drawn:
            if isinstance(d.op, image_ops.ResizeOp):
                geometry.resize(d.params["box"], d.params["resized"])
            elif isinstance(d.op, image_ops.CropOp):
                geometry.crop(d.params["box"])
            elif isinstance(d.op, image_ops.FlipOp):
                geometry.turn(d.params["flip"])
            elif isinstance(d.op, image_ops.WarpOp):
                geometry.warp(d.params["matrix"])
            elif isinstance(d.op, image_ops.ColourOp):
                colour.then(d.params["matrix"], d.params["mean_matrix"], d.params["offset"])
            elif isinstance(d.op, image_ops.TableOp):
                step = d.params["table"]
                table = step if table is None else np.take_along_axis(step, table.astype(np.int64), axis=1)
            elif isinstance(d.op, image_ops.Normalize):
                scale, bias = d.op.scale_bias
                erases = [(box, value * scale + bias) for box, value in erases]
            elif isinstance(d.op, image_ops.EraseOp):
                value = np.broadcast_to(np.asarray(d.op.value, np.float32), (n, 3))
                erases.append((d.params["box"], value))

        samples = np.zeros(n, IMAGE_SAMPLE)
        geometry.store(samples, _WARPS[self.interpolation or "bilinear"])
        colour.store(samples)
        if self.fill is not None:
            samples["fill"][:, :3] = self.fill
        if table is not None:
            samples["table"] = (table != np.arange(256)).any(axis=1)
        return ImageParams(
            samples=samples,
            box=geometry.box,
            roi=geometry.roi(),
            out_size=geometry.out,
            tables=None if table is None else np.ascontiguousarray(table, np.uint8),
            erase_boxes=_stack([box for box, _ in erases], n, 4, np.int32),
            erase_values=_stack([value for _, value in erases], n, 3, np.float32),
        )


def lower_image(leaves: Sequence[Leaf], field: Field) -> tuple[ImagePass, ...]:
    """Cuts a policy's image operators into passes.

    Raises ``ValueError`` naming the operator that stands in the wrong place or does not fit the field's channels.
    """
    passes = [ImagePass()]
    for position, leaf in enumerate(leaves):
        op, last = leaf.op, passes[-1]
        if isinstance(op, image_ops.Normalize):
            if leaf.gates:
                raise ValueError(f"{op!r} applies to every sample: move it out of OneOf/SomeOf, to the policy's end")
            if len(op.mean) not in (1, field.channels):
                raise ValueError(
                    f"{op!r} has {len(op.mean)} means for pictures of {field.channels} channel(s): give as many, or one"
                )
            if last.normalize is not None:
                raise ValueError(f"{op!r}: the policy normalises twice; keep one Normalize")
        elif last.normalize is not None and not isinstance(op, image_ops.EraseOp):
            raise ValueError(f"{op!r} stands after Normalize: only erasing may follow it; move it before")
        if not last.accepts(op):
            passes.append(ImagePass())
        passes[-1].add(op, position)
    return tuple(passes)


class _Geometry:
    """Crop box, resize, window, flips and warp of N samples, composed operator by operator."""

    def __init__(self, size: np.ndarray) -> None:
        n = len(size)
        self.box = np.concatenate([np.zeros_like(size), size], axis=1)
        self.resized = self.canvas = self.out = size
        self.window = np.zeros_like(size)
        self.flip = np.zeros((n, 2), bool)
        self.matrix = np.broadcast_to(np.eye(2, 3), (n, 2, 3))
        self.warped = np.zeros(n, bool)

    def resize(self, box: np.ndarray, resized: np.ndarray) -> None:
        self.box, self.resized, self.canvas, self.out = box, resized, resized, resized

    def crop(self, box: np.ndarray) -> None:
        corner, size = box[:, :2], box[:, 2:]
        unflipped = np.where(self.flip, self.canvas - corner - size, corner)
        warped = self.warped[:, None]
        self.window = np.where(warped, self.window, self.window + unflipped)
        self.canvas = np.where(warped, self.canvas, size)
        shift = np.broadcast_to(np.eye(2, 3), self.matrix.shape).copy()
        shift[:, :, 2] = corner[:, ::-1]
        self.matrix = np.where(self.warped[:, None, None], _compose(self.matrix, shift), self.matrix)
        self.out = size

    def turn(self, flip: np.ndarray) -> None:
        self.flip = self.flip ^ (flip & ~self.warped[:, None])
        mirror = np.broadcast_to(np.eye(2, 3), self.matrix.shape).copy()
        for axis, row in ((1, 0), (0, 1)):  # left-right mirrors x, up-down mirrors y
            turned = flip[:, axis]
            mirror[turned, row, row] = -1.0
            mirror[turned, row, 2] = self.out[turned, axis] - 1
        self.matrix = np.where(self.warped[:, None, None], _compose(self.matrix, mirror), self.matrix)

    def warp(self, matrix: np.ndarray) -> None:
        self.matrix = _compose(self.matrix, matrix)
        self.warped = self.warped | (matrix != np.eye(2, 3)).any(axis=(1, 2))

    def roi(self) -> np.ndarray:
        """int64 [N, 4]: what the window needs of the incoming picture; at least a pixel, so that there is something to
        decode.
        """
        first = np.clip(self.window, 0, self.resized - 1)
        last = np.clip(self.window + self.canvas - 1, first, self.resized - 1)
        start, _ = tap_range(self.box[:, 2:], self.resized, first)
        _, end = tap_range(self.box[:, 2:], self.resized, last)
        return np.concatenate([self.box[:, :2] + start, end - start], axis=1)

    def store(self, samples: np.ndarray, interpolation: int) -> None:
        for name, value in (
            ("crop", self.box[:, 2:]),
            ("resized", self.resized),
            ("window", self.window),
            ("canvas", self.canvas),
        ):
            samples[f"{name}_{'y' if name == 'window' else 'h'}"] = value[:, 0]
            samples[f"{name}_{'x' if name == 'window' else 'w'}"] = value[:, 1]
        samples["flip"] = self.flip[:, 1] | (self.flip[:, 0].astype(np.int32) << 1)
        samples["warp"] = np.where(self.warped, interpolation, 0)
        samples["matrix"] = self.matrix.reshape(-1, 6)


class _Colour:
    """out = M·rgb + (K·mean(rgb) + offset) of N samples, composed operator by operator without a clamp in between."""

    def __init__(self, n: int) -> None:
        self.matrix = np.broadcast_to(np.eye(3), (n, 3, 3))
        self.mean_matrix = np.zeros((n, 3, 3))
        self.offset = np.zeros((n, 3))

    def then(self, matrix: np.ndarray, mean_matrix: np.ndarray, offset: np.ndarray) -> None:
        # The mean of M·x + K·mean(x) + o is (M + K)·mean(x) + o.
        self.offset = np.einsum("nij,nj->ni", matrix + mean_matrix, self.offset) + offset
        self.mean_matrix = matrix @ self.mean_matrix + mean_matrix @ (self.matrix + self.mean_matrix)
        self.matrix = matrix @ self.matrix

    def store(self, samples: np.ndarray) -> None:
        idle = (
            (self.matrix == np.eye(3)).all(axis=(1, 2))
            & (self.mean_matrix == 0).all(axis=(1, 2))
            & (self.offset == 0).all(axis=1)
        )
        samples["colour"] = ~idle
        samples["colour_matrix"] = self.matrix
        samples["colour_mean_matrix"] = self.mean_matrix
        samples["colour_offset"] = self.offset


def _compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Output → input of ``first`` after output → input of ``second``: where a pixel of the later picture comes from."""
    linear = first[:, :, :2] @ second[:, :, :2]
    translation = np.einsum("nij,nj->ni", first[:, :, :2], second[:, :, 2]) + first[:, :, 2]
    return np.concatenate([linear, translation[:, :, None]], axis=2)


def _stack(arrays: list[np.ndarray], n: int, width: int, dtype: type) -> np.ndarray:
    return np.ascontiguousarray(np.stack(arrays, axis=1), dtype) if arrays else np.zeros((n, 0, width), dtype)
