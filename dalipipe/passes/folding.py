"""Samples on their way through the operators that were drawn for them: which operator joins a sample's pass, and which
begins its next.
"""

from __future__ import annotations

import numpy as np

from dalipipe.native import IMAGE_PASS
from dalipipe.ops import image as image_ops
from dalipipe.ops.image import families
from dalipipe.passes.levels import Level, Pools
from dalipipe.passes.params import ImageParams
from dalipipe.policy import Drawn, Op

# How far a sample's pass has come.
_START, _RESIZED, _CROPPED, _WARPED, _WARP_CROPPED, _DISPLACED, _FILTERED, _STRETCHED = range(8)
_COLOURED, _HUED, _TABLED, _ERASED, _CLOSED = range(8, 13)

_REACHED = (
    (families.ResizeOp, _RESIZED),
    (families.WarpOp, _WARPED),
    (families.ElasticOp, _DISPLACED),
    (families.FilterOp, _FILTERED),
    (families.StretchOp, _STRETCHED),
    (families.ColourOp, _COLOURED),
    (families.HueOp, _HUED),
    (families.TableOp, _TABLED),
    (families.EraseOp, _ERASED),
    (families.BlendOp, _CLOSED),
)

_EYE = np.eye(3)


class Folding:
    """N samples on their way through the operators."""

    def __init__(self, size: np.ndarray, channels: int) -> None:
        n = len(size)
        self.channels = channels
        self.size = size.copy()  # where each sample stands now
        self.depth = np.zeros(n, np.int64)  # its pass
        self.stage = np.zeros(n, np.int8)
        self.restarts = np.zeros(n, bool)  # its next pass starts from the kept picture
        self.normalised = False
        self.levels = [Level(n)]
        self.levels[0].begin(np.arange(n), size)

    def then(self, drawn: Drawn) -> np.ndarray:
        """Takes one operator in; returns the passes int64 [A] of the samples that it does something to."""
        op, rows = drawn.op, drawn.rows
        if isinstance(op, image_ops.Normalize):
            self.normalised = True
            return rows
        params = drawn.params
        if isinstance(op, families.ColourOp) and self.channels == 1:
            grey = op.of_grey(params)
            if grey is None:
                return rows[:0]
            params = grey
        if isinstance(op, families.WarpOp):  # one that moves nothing costs nothing
            moving = (params["matrix"] != _EYE).reshape(len(rows), 9).any(axis=1)
            if not moving.all():
                rows, params = rows[moving], {name: value[moving] for name, value in params.items()}
        if len(rows) == 0:
            return rows
        fits = self._fits(op, rows, params)
        if not fits.all():
            self._next_pass(rows[~fits])
        depths = self.depth[rows]
        for depth in [depths[0]] if (depths == depths[0]).all() else np.unique(depths):
            here = np.flatnonzero(depths == depth)
            if len(here) == len(rows):
                self.levels[depth].apply(op, rows, params, self.normalised)
            else:
                chosen = {name: value[here] for name, value in params.items()}
                self.levels[depth].apply(op, rows[here], chosen, self.normalised)
        self._advance(op, rows)
        self.size[rows] = op.output_size(params, self.size[rows])
        return depths

    def end_passes(self) -> None:
        """What comes next begins every sample's next pass, unless its pass has not begun."""
        rows = np.arange(len(self.size))
        self._next_pass(rows[(self.stage != _START) | self._of(rows, "flip").any(axis=1)])

    def _next_pass(self, rows: np.ndarray) -> None:
        self.depth[rows] += 1
        self.stage[rows] = _START
        for depth in np.unique(self.depth[rows]):
            if depth == len(self.levels):
                self.levels.append(Level(len(self.size)))
            here = rows[self.depth[rows] == depth]
            self.levels[depth].begin(here, self.size[here])
            if self.restarts[here].any():
                self.levels[depth].from_kept[here] = self.restarts[here]
        self.restarts[rows] = False

    def _fits(self, op: Op, rows: np.ndarray, params: dict[str, np.ndarray]) -> np.ndarray:
        """bool [A]: the samples whose pass has not gone beyond the operator's stage."""
        stage = self.stage[rows]
        if isinstance(op, families.ResizeOp):
            return stage == _START
        if isinstance(op, families.CropOp | families.WarpOp | families.ElasticOp):
            # What a warp pushes out of the picture must not come back by the next, or by a crop that adds a
            # border; nor what a second crop fills.
            crops = isinstance(op, families.CropOp)
            fits = (stage <= _WARPED) & (stage != _CROPPED) if crops else stage <= _CROPPED
            if crops:
                corner, size = params["box"][:, :2], params["box"][:, 2:]
                inside = ((corner >= 0) & (corner + size <= self.size[rows])).all(axis=1)
                fits &= (stage < _WARPED) | inside
            filled = fits & (stage >= _CROPPED)  # what stands outside is settled
            if filled.any():
                fits &= (self._of(rows, "fill") == families.fill_rgb(op.fill)).all(axis=1) | ~filled
            return fits
        if isinstance(op, families.FlipOp):  # moves pixels, changes none: commutes with all that looks at one alone
            return (stage < _ERASED) & ~self._of(rows, "fixed")
        if isinstance(op, families.FilterOp):
            return stage < _FILTERED
        if isinstance(op, families.StretchOp):
            return stage < _STRETCHED
        if isinstance(op, families.ColourOp):  # what is clamped in between would be lost
            return (stage < _COLOURED) | ((stage == _COLOURED) & self._of(rows, "bounded"))
        if isinstance(op, families.HueOp):
            return stage < _HUED
        if isinstance(op, families.TableOp):
            return stage <= _TABLED
        if isinstance(op, families.EraseOp):
            return stage <= _ERASED
        if isinstance(op, families.BlendOp):
            return stage < _CLOSED
        raise TypeError(f"{op!r} belongs to no family of image operators")

    def _advance(self, op: Op, rows: np.ndarray) -> None:
        if isinstance(op, families.FlipOp):
            return
        if isinstance(op, families.CropOp):
            self.stage[rows] = np.where(self.stage[rows] == _WARPED, _WARP_CROPPED, _CROPPED)
            return
        self.stage[rows] = next(stage for family, stage in _REACHED if isinstance(op, family))
        if isinstance(op, families.BlendOp):
            self.restarts[rows] = op.step == "add"

    def _of(self, rows: np.ndarray, name: str) -> np.ndarray:
        """A property of the passes that these samples are in, bool or numbers [A, …]."""
        depths = self.depth[rows]
        out = self.levels[int(depths[0])].of(name, rows)
        others = depths != depths[0]
        if not others.any():
            return out
        out = out.copy()
        for depth in np.unique(depths[others]):
            here = depths == depth
            out[here] = self.levels[depth].of(name, rows[here])
        return out

    def finish(self, normalize: image_ops.Normalize | None) -> ImageParams:
        n = len(self.size)
        starts = np.concatenate([[0], np.cumsum(self.depth + 1)])
        pools = Pools(normalize)
        if len(self.levels) == 1:
            rows = np.arange(n)
            passes, box = self.levels[0].store(rows, rows, np.ones(n, bool), pools), self.levels[0].box
        else:
            passes, box = np.empty(int(starts[-1]), IMAGE_PASS), np.empty((int(starts[-1]), 4), np.int64)
            for depth, level in enumerate(self.levels):
                rows = np.flatnonzero(self.depth >= depth)
                at = starts[rows] + depth
                passes[at] = level.store(rows, at, self.depth[rows] == depth, pools)
                box[at] = level.box[rows]
        erases, scaled = pools.erases(passes)
        return ImageParams(
            passes=passes,
            starts=starts.astype(np.int32),
            box=box,
            roi=self.levels[0].roi(),
            out_size=self.size,
            tables=np.concatenate(pools.tables) if pools.tables else np.zeros((0, 256), np.uint8),
            weights=np.concatenate(pools.weights) if pools.weights else np.zeros(0, np.float32),
            erases=erases,
            scaled=scaled,
            elastics=pools.elastics(),
        )
