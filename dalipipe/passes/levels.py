"""The passes of one depth while operators are folded into them, and what passes refer to by number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dalipipe.native import ERASE_BOX, IMAGE_PASS
from dalipipe.ops import image as image_ops
from dalipipe.ops.image import families
from dalipipe.ops.pixels import tap_range
from dalipipe.passes.params import Elastics
from dalipipe.policy import Op

_EYE = np.eye(3)
_BLENDS = {"add": 1, "last": 2}


class Level:
    """The passes of one depth, of the samples that have them: arrays [N, …] of which the other rows mean nothing."""

    def __init__(self, n: int) -> None:
        self.box, self.resized = np.zeros((n, 4), np.int64), np.zeros((n, 2), np.int64)
        self.canvas, self.out, self.window = (np.zeros((n, 2), np.int64) for _ in range(3))
        self.resample = np.zeros(n, np.int64)
        self.flip = np.zeros((n, 2), bool)
        self.matrix = np.zeros((n, 3, 3))
        self.warp = np.zeros(n, np.int64)  # -1: none yet
        self.fill = np.zeros((n, 3), np.int64)  # -1: none yet
        self.fixed = np.zeros(n, bool)  # pixels may not move any more
        self.colour, self.bounded = np.zeros(n, bool), np.zeros(n, bool)
        self.colour_matrix, self.mean_matrix = np.zeros((n, 3, 3)), np.zeros((n, 3, 3))
        self.offset = np.zeros((n, 3))
        self.pixels = np.zeros(n, IMAGE_PASS)  # what is stored as it is drawn: filter, stretch, hue, blends
        self.from_kept = np.zeros(n, bool)
        self.table: np.ndarray | None = None
        self.elastic: dict[str, np.ndarray] | None = None
        self.taps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.erases: list[_Erase] = []

    def begin(self, rows: np.ndarray, size: np.ndarray) -> None:
        self.box[rows, 2:] = self.resized[rows] = self.canvas[rows] = self.out[rows] = size
        self.matrix[rows] = _EYE
        self.warp[rows] = self.fill[rows] = -1
        self.colour_matrix[rows] = _EYE
        self.bounded[rows] = True

    def apply(self, op: Op, rows: np.ndarray, params: dict[str, np.ndarray], normalised: bool) -> None:
        if isinstance(op, families.ResizeOp):
            box = params["box"].copy()  # of the picture as it is turned by now
            mirrored = self.canvas[rows] - box[:, :2] - box[:, 2:]
            box[:, :2] = np.where(self.flip[rows], mirrored, box[:, :2])
            self.box[rows], self.resample[rows] = box, params["resample"]
            self.resized[rows] = self.canvas[rows] = self.out[rows] = params["resized"]
        elif isinstance(op, families.CropOp):
            self.fill[rows] = families.fill_rgb(op.fill)
            self._crop(rows, params["box"])
        elif isinstance(op, families.FlipOp):
            self._turn(rows, params["flip"])
        elif isinstance(op, families.WarpOp):
            self.fill[rows], self.warp[rows] = families.fill_rgb(op.fill), params["warp"]
            self.matrix[rows] = params["matrix"]
        elif isinstance(op, families.ElasticOp):
            self.fill[rows], self.warp[rows], self.fixed[rows] = families.fill_rgb(op.fill), params["warp"], True
            n = len(self.fixed)
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
            if self.table is None:
                self.table = np.tile(np.arange(256, dtype=np.uint8), (len(self.fixed), 1))
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
        corner, size = box[:, :2], box[:, 2:]
        warped = self.warp[rows] > 0
        plain = ~warped
        r, canvas = rows[plain], self.canvas[rows[plain]]
        self.window[r] += np.where(self.flip[r], canvas - corner[plain] - size[plain], corner[plain])
        self.canvas[r] = size[plain]
        if warped.any():
            shift = np.tile(np.eye(3), (int(warped.sum()), 1, 1))
            shift[:, :2, 2] = corner[warped][:, ::-1]
            self.matrix[rows[warped]] = self.matrix[rows[warped]] @ shift
        self.out[rows] = size

    def _turn(self, rows: np.ndarray, flip: np.ndarray) -> None:
        warped = self.warp[rows] > 0
        plain = ~warped
        self.flip[rows[plain]] ^= flip[plain]
        if warped.any():
            r, flip = rows[warped], flip[warped]
            mirror = np.tile(np.eye(3), (len(r), 1, 1))
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

    def roi(self, rows: np.ndarray) -> np.ndarray:
        """int64 [A, 4]: what the window needs of the incoming picture; at least a pixel, so that there is something to
        decode.
        """
        box, resized = self.box[rows], self.resized[rows]
        first = np.clip(self.window[rows], 0, resized - 1)
        last = np.clip(self.window[rows] + self.canvas[rows] - 1, first, resized - 1)
        resample = self.resample[rows][:, None]
        start, _ = tap_range(box[:, 2:], resized, first, resample)
        _, end = tap_range(box[:, 2:], resized, last, resample)
        return np.concatenate([box[:, :2] + start, end - start], axis=1)

    def store(self, rows: np.ndarray, at: np.ndarray, last: np.ndarray, pools: Pools) -> np.ndarray:
        """The passes [A] of these samples, which stand ``at`` int64 [A] among all; ``last`` bool [A]: their last."""
        out = self.pixels[rows]
        for name, value in (
            ("crop", self.box[:, 2:]),
            ("resized", self.resized),
            ("canvas", self.canvas),
            ("out", self.out),
        ):
            out[f"{name}_h"], out[f"{name}_w"] = value[rows, 0], value[rows, 1]
        out["window_y"], out["window_x"] = self.window[rows, 0], self.window[rows, 1]
        out["origin_y"], out["origin_x"] = -self.box[rows, 0], -self.box[rows, 1]
        out["resample"] = self.resample[rows]
        out["flip"] = self.flip[rows, 1] | (self.flip[rows, 0].astype(np.int32) << 1)
        out["warp"] = np.maximum(self.warp[rows], 0)
        matrix = self.matrix[rows]
        # A last row of 0, 0, 1 is affine, and is told by that; products of affine ones have it to the bit.
        out["matrix"] = (matrix / np.where(matrix[:, 2:, 2:] == 0, 1.0, matrix[:, 2:, 2:])).reshape(-1, 9)
        out["fill"][:, :3] = np.maximum(self.fill[rows], 0)
        out["colour"] = self.colour[rows]
        out["colour_matrix"], out["colour_mean_matrix"] = self.colour_matrix[rows], self.mean_matrix[rows]
        out["colour_offset"] = self.offset[rows]
        out["from_kept"] = self.from_kept[rows]
        out["table"] = -1 if self.table is None else pools.add_tables(self.table[rows])
        place = np.full(len(self.fixed), -1)  # sample → its pass's place among all
        place[rows] = at
        for tapped, taps, weights in self.taps:
            mine = np.searchsorted(rows, tapped)
            out["filter_h"][mine], out["filter_w"][mine] = taps[:, 0], taps[:, 1]
            out["filter_weights"][mine] = pools.add_weights(weights)
        is_last = np.zeros(len(self.fixed), bool)
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
        at, boxes, scaled = (np.concatenate(parts) for parts in zip(*self._erases, strict=True))
        used = np.flatnonzero((boxes["h"] > 0) & (boxes["w"] > 0))
        order = used[np.argsort(at[used], kind="stable")]
        counts = np.bincount(at[order], minlength=len(passes))
        passes["erases"] = counts
        passes["first_erase"] = np.cumsum(counts) - counts
        return boxes[order], scaled[order]

    def elastics(self) -> Elastics | None:
        if not self.displacements:
            return None
        names = ("at", "size", "alpha", "sigma", "noise")
        return Elastics(*(np.concatenate([getattr(e, name) for e in self.displacements]) for name in names))
