"""The passes of one depth while operators are folded into them, and what passes refer to by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dalipipe.native import ERASE_BOX, IMAGE_PASS
from dalipipe.ops import image as image_ops
from dalipipe.ops.image import families
from dalipipe.ops.pixels import tap_range
from dalipipe.passes.params import Elastics
from dalipipe.policy import Op

_BLENDS = {"add": 1, "last": 2}
_EYE = np.eye(3)
_PASS = np.zeros((), IMAGE_PASS)
_PASS["matrix"] = _EYE.reshape(-1)
_PASS["colour_matrix"] = _EYE
_PASS["table"] = -1

_UNTOUCHED: dict[str, np.ndarray] = {
    "window": np.zeros(2, np.int64),
    "resample": np.int64(0),
    "flip": np.zeros(2, bool),
    "matrix": _EYE,
    "warp": np.int64(-1),  # none yet
    "fill": np.full(3, -1),  # none yet
    "fixed": np.False_,  # pixels may not move any more
    "colour": np.False_,
    "bounded": np.True_,
    "colour_matrix": _EYE,
    "mean_matrix": np.zeros((3, 3)),
    "offset": np.zeros(3),
    "pixels": _PASS,  # what is stored as it is drawn: filter, stretch, hue, blends
    "from_kept": np.False_,
    "table": np.arange(256, dtype=np.uint8),
}
"""What a sample's pass has of each property, until an operator changes it."""


class Level:
    """The passes of one depth, of the samples that have them: arrays [N, …] of which the other rows mean nothing.

    Most operators touch few of a pass's properties, and batches may be large: the arrays of those in `_UNTOUCHED` are
    made when somebody asks for them.
    """

    box: np.ndarray
    window: np.ndarray
    resample: np.ndarray
    flip: np.ndarray
    matrix: np.ndarray
    warp: np.ndarray
    fill: np.ndarray
    fixed: np.ndarray
    colour: np.ndarray
    bounded: np.ndarray
    colour_matrix: np.ndarray
    mean_matrix: np.ndarray
    offset: np.ndarray
    pixels: np.ndarray
    from_kept: np.ndarray
    table: np.ndarray

    def __init__(self, n: int) -> None:
        self._n = n
        self.box, self.resized = np.zeros((n, 4), np.int64), np.zeros((n, 2), np.int64)
        self.canvas, self.out = np.zeros((n, 2), np.int64), np.zeros((n, 2), np.int64)
        self.elastic: dict[str, np.ndarray] | None = None
        self.taps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.erases: list[_Erase] = []

    def __getattr__(self, name: str) -> np.ndarray:
        if name not in _UNTOUCHED:
            raise AttributeError(f"{type(self).__name__} has no {name}")
        value = _UNTOUCHED[name]
        array = np.empty((self._n, *value.shape), value.dtype)
        array[:] = value
        setattr(self, name, array)
        return array

    def touched(self, name: str) -> bool:
        """Whether a property may be another than it was at first."""
        return name in self.__dict__

    def of(self, name: str, rows: np.ndarray) -> np.ndarray:
        """A property of some of the samples, to be read: bool or numbers [A, …]."""
        if name in _UNTOUCHED and not self.touched(name):
            value = _UNTOUCHED[name]
            return np.broadcast_to(value, (len(rows), *value.shape))
        values: np.ndarray = getattr(self, name)[rows]
        return values

    def begin(self, rows: np.ndarray, size: np.ndarray) -> None:
        at = self._at(rows)
        self.box[at, 2:] = self.resized[at] = self.canvas[at] = self.out[at] = size

    def _at(self, rows: np.ndarray) -> Any:
        """An index for samples that rise: of all of them a slice, which takes numpy a fraction of the time."""
        return slice(None) if len(rows) == self._n else rows

    def apply(self, op: Op, rows: np.ndarray, params: dict[str, np.ndarray], normalised: bool) -> None:
        if isinstance(op, families.ResizeOp):
            at, box = self._at(rows), params["box"].copy()  # of the picture as it is turned by now
            if self.touched("flip"):
                mirrored = self.canvas[at] - box[:, :2] - box[:, 2:]
                box[:, :2] = np.where(self.flip[at], mirrored, box[:, :2])
            self.box[at], self.resample[at] = box, params["resample"]
            self.resized[at] = self.canvas[at] = self.out[at] = params["resized"]
        elif isinstance(op, families.CropOp):
            self.fill[self._at(rows)] = families.fill_rgb(op.fill)
            self._crop(rows, params["box"])
        elif isinstance(op, families.FlipOp):
            self._turn(rows, params["flip"])
        elif isinstance(op, families.WarpOp):
            self.fill[rows], self.warp[rows] = families.fill_rgb(op.fill), params["warp"]
            self.matrix[rows] = params["matrix"]
        elif isinstance(op, families.ElasticOp):
            self.fill[rows], self.warp[rows], self.fixed[rows] = families.fill_rgb(op.fill), params["warp"], True
            n = self._n
            if self.elastic is None:
                self.elastic = {
                    "alpha": np.zeros((n, 2)),
                    "sigma": np.zeros((n, 2)),
                    "noise": np.zeros((n, 5), np.uint32),
                }
                self.elastic["any"] = np.zeros(n, bool)
            for name in ("alpha", "sigma", "noise"):
                self.elastic[name][rows] = params[name]
            self.elastic["any"][rows] = True
        elif isinstance(op, families.FilterOp):
            self.fixed[rows] = True
            self.pixels["filter"][rows], self.pixels["filter_values"][rows] = op.kind, params["values"]
            if "noise" in params:
                self.pixels["noise"][rows] = params["noise"]
            if "weights" in params:
                self.taps.append((rows, params["taps"], params["weights"]))
        elif isinstance(op, families.StretchOp):
            self.pixels["stretch"][rows] = op.stretch
        elif isinstance(op, families.ColourOp):
            self._recolour(rows, params["matrix"], params["mean_matrix"], params["offset"])
        elif isinstance(op, families.HueOp):
            self.pixels["hue"][rows] = params["hue"]
        elif isinstance(op, families.TableOp):
            self.table[rows] = np.take_along_axis(params["table"], self.table[rows].astype(np.int64), axis=1)
        elif isinstance(op, families.EraseOp):
            self.fixed[rows] = True
            self.erases.append(_Erase(rows, params["boxes"], *op.erased(normalised), params.get("noise"), normalised))
        elif isinstance(op, families.BlendOp):
            if op.step == "keep":
                self.pixels["keep"][rows] = 1
            else:
                self.pixels["blend"][rows], self.pixels["weight"][rows] = _BLENDS[op.step], params["weight"]
                self.pixels["kept_weight"][rows] = params["kept_weight"]

    def _crop(self, rows: np.ndarray, box: np.ndarray) -> None:
        corner, size, at = box[:, :2], box[:, 2:], self._at(rows)
        self.out[at] = size
        warped = self.of("warp", rows) > 0
        if warped.any():
            shift = np.tile(_EYE, (int(warped.sum()), 1, 1))
            shift[:, :2, 2] = corner[warped][:, ::-1]
            self.matrix[rows[warped]] = self.matrix[rows[warped]] @ shift
            plain = ~warped
            at, corner, size = rows[plain], corner[plain], size[plain]
        if self.touched("flip"):
            corner = np.where(self.flip[at], self.canvas[at] - corner - size, corner)
        self.window[at] += corner
        self.canvas[at] = size

    def _turn(self, rows: np.ndarray, flip: np.ndarray) -> None:
        warped = self.of("warp", rows) > 0
        if not warped.any():
            self.flip[rows] ^= flip
            return
        self.flip[rows[~warped]] ^= flip[~warped]
        r, flip = rows[warped], flip[warped]
        mirror = np.tile(_EYE, (len(r), 1, 1))
        for axis, row in ((1, 0), (0, 1)):  # left-right mirrors x, up-down mirrors y
            turned = flip[:, axis]
            mirror[turned, row, row] = -1.0
            mirror[turned, row, 2] = self.out[r[turned], axis] - 1
        self.matrix[r] = self.matrix[r] @ mirror

    def _recolour(self, rows: np.ndarray, matrix: np.ndarray, mean_matrix: np.ndarray, offset: np.ndarray) -> None:
        """out = M·rgb + (K·mean(rgb) + offset) after what was before."""
        before, mean_before = self.colour_matrix[rows], self.mean_matrix[rows]
        # Every operator of the field truncates; what folding spares is put back as its mean, half a level.
        shift = self.offset[rows] - np.where(self.colour[rows], 0.5, 0.0)[:, None]
        # The mean of M·x + K·mean(x) + o is (M + K)·mean(x) + o.
        offset = np.einsum("nij,nj->ni", matrix + mean_matrix, shift) + offset
        mean_matrix = matrix @ mean_before + mean_matrix @ (before + mean_before)
        matrix = matrix @ before
        self.colour_matrix[rows], self.mean_matrix[rows], self.offset[rows] = matrix, mean_matrix, offset
        self.colour[rows] = True
        both = np.concatenate([matrix, mean_matrix], axis=2)
        low = 255 * np.minimum(both, 0).sum(axis=2) + offset
        high = 255 * np.maximum(both, 0).sum(axis=2) + offset
        # Within a few levels, which is what is put back for truncation, nothing to speak of is clamped.
        self.bounded[rows] = ((low > -4) & (high < 259)).all(axis=1)

    def roi(self) -> np.ndarray:
        """int64 [N, 4]: what the window needs of the incoming picture; at least a pixel, so that there is something to
        decode.
        """
        corner, size, edge = self.box[:, :2], self.box[:, 2:], self.resized - 1
        if self.touched("window"):
            first = np.clip(self.window, 0, edge)
            last = np.clip(self.window + self.canvas - 1, first, edge)
        else:
            first, last = np.zeros_like(edge), np.clip(self.canvas - 1, 0, edge)
        if (size == self.resized).all():
            return np.concatenate([corner + first, last - first + 1], axis=1)
        resample = self.of("resample", np.arange(self._n))[:, None]
        start, _ = tap_range(size, self.resized, first, resample)
        _, end = tap_range(size, self.resized, last, resample)
        return np.concatenate([corner + start, end - start], axis=1)

    def store(self, rows: np.ndarray, at: np.ndarray, last: np.ndarray, pools: Pools) -> np.ndarray:
        """The passes [A] of these samples, which stand ``at`` int64 [A] among all; ``last`` bool [A]: their last."""
        mine = self._at(rows)
        out = np.empty(len(rows), IMAGE_PASS)
        out[:] = _PASS if not self.touched("pixels") else self.pixels[mine]
        words = out.view(np.int32).reshape(len(rows), -1)

        def put(name: str, values: np.ndarray) -> None:  # two neighbours at a time: writes here are far apart
            word = IMAGE_PASS.fields[name][1] // 4  # type: ignore[index]
            words[:, word : word + 2] = values[mine]

        put("origin_y", -self.box[:, :2])
        put("crop_h", self.box[:, 2:])
        put("resized_h", self.resized)
        put("canvas_h", self.canvas)
        put("out_h", self.out)
        if self.touched("window"):
            put("window_y", self.window)
        if self.touched("flip"):
            out["flip"] = self.flip[mine, 1] | (self.flip[mine, 0].astype(np.int32) << 1)
        if self.touched("resample"):
            out["resample"] = self.resample[mine]
        if self.touched("fill"):
            out["fill"][:, :3] = np.maximum(self.fill[mine], 0)
        if self.touched("warp"):
            out["warp"] = np.maximum(self.warp[mine], 0)
        if self.touched("matrix"):
            matrix = self.matrix[mine]
            # A last row of 0, 0, 1 is affine, and is told by that; products of affine ones have it to the bit.
            out["matrix"] = (matrix / np.where(matrix[:, 2:, 2:] == 0, 1.0, matrix[:, 2:, 2:])).reshape(-1, 9)
        if self.touched("colour"):
            out["colour"] = self.colour[mine]
            out["colour_matrix"], out["colour_mean_matrix"] = self.colour_matrix[mine], self.mean_matrix[mine]
            out["colour_offset"] = self.offset[mine]
        if self.touched("from_kept"):
            out["from_kept"] = self.from_kept[mine]
        if self.touched("table"):
            out["table"] = pools.add_tables(self.table[mine])
        place = np.full(self._n, -1)  # sample → its pass's place among all
        place[rows] = at
        for tapped, taps, weights in self.taps:
            row = np.searchsorted(rows, tapped)
            out["filter_h"][row], out["filter_w"][row] = taps[:, 0], taps[:, 1]
            out["filter_weights"][row] = pools.add_weights(weights)
        is_last = np.zeros(self._n, bool)
        is_last[rows] = last
        for erase in self.erases:
            pools.add_erase(place[erase.rows], is_last[erase.rows], erase)
        if self.elastic is not None:
            moved = rows[self.elastic["any"][rows]]
            fields = (self.elastic[name][moved] for name in ("alpha", "sigma", "noise"))
            pools.displacements.append(Elastics(place[moved], self.out[moved], *fields))
        return out


@dataclass(frozen=True)
class _Erase:
    """Boxes int64 [A, B, 4] of one operator."""

    rows: np.ndarray
    boxes: np.ndarray
    value: np.ndarray
    sigma: float
    noise: np.ndarray | None
    normalised: bool


class Pools:
    """What passes refer to by number."""

    def __init__(self, normalize: image_ops.Normalize | None) -> None:
        self._normalize = normalize
        self.tables: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.displacements: list[Elastics] = []
        self._erases: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add_tables(self, tables: np.ndarray) -> np.ndarray:
        """uint8 [A, 256] → their numbers int64 [A], -1 where a table changes nothing."""
        busy = np.flatnonzero((tables != np.arange(256, dtype=np.uint8)).any(axis=1))
        numbers = np.full(len(tables), -1)
        numbers[busy] = sum(map(len, self.tables)) + np.arange(len(busy))
        self.tables.append(tables[busy])
        return numbers

    def add_weights(self, weights: np.ndarray) -> np.ndarray:
        """float32 [A, K] → where each row begins, int64 [A]."""
        begin = sum(map(len, self.weights))
        self.weights.append(np.ascontiguousarray(weights, np.float32).reshape(-1))
        return begin + weights.shape[1] * np.arange(len(weights))

    def add_erase(self, at: np.ndarray, last: np.ndarray, erase: _Erase) -> None:
        a, b = erase.boxes.shape[:2]
        out = np.zeros((a, b), ERASE_BOX)
        for i, name in enumerate("yxhw"):
            out[name] = erase.boxes[:, :, i]
        out["values"], out["sigma"] = erase.value, erase.sigma
        if erase.noise is not None:
            out["noise"] = erase.noise[:, None]
        scaled = last & (not erase.normalised)  # counts in 0..255 where the output does not
        if self._normalize is not None:
            scale, bias = (np.broadcast_to(v, 3) for v in self._normalize.scale_bias)
            out["values"][scaled] = out["values"][scaled] * scale + bias
            out["sigma"][scaled] = out["sigma"][scaled] * scale
            scaled = np.zeros_like(scaled)
        self._erases.append((np.repeat(at, b), out.reshape(-1), np.repeat(scaled, b)))

    def erases(self, passes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All boxes, a pass's together and in order, and which take the output's scale; tells the passes."""
        if not self._erases:
            return np.zeros(0, ERASE_BOX), np.zeros(0, bool)
        if len(self._erases) == 1:
            at, boxes, scaled = self._erases[0]
        else:
            at, boxes, scaled = (np.concatenate(parts) for parts in zip(*self._erases, strict=True))
        order: Any = np.flatnonzero((boxes["h"] > 0) & (boxes["w"] > 0))
        if len(self._erases) > 1:
            order = order[np.argsort(at[order], kind="stable")]
        elif len(order) == len(at):
            order = slice(None)
        counts = np.bincount(at[order], minlength=len(passes))
        passes["erases"] = counts
        passes["first_erase"] = np.cumsum(counts) - counts
        return boxes[order], scaled[order]

    def elastics(self) -> Elastics | None:
        if not self.displacements:
            return None
        names = ("at", "size", "alpha", "sigma", "noise")
        return Elastics(*(np.concatenate([getattr(e, name) for e in self.displacements]) for name in names))
