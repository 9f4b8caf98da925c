"""What was drawn for a batch, handed to ``csrc/fold.h``, which makes passes of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from dalipipe import native
from dalipipe.ops import image as image_ops
from dalipipe.ops.image import families
from dalipipe.passes.params import Elastics, ImageParams
from dalipipe.policy import Drawn

# Family → its number in csrc/fold.h, and its parameters in the order there: name, dtype, shape of a sample's.
_BOX = ("box", np.int64, (4,))
_WARP = ("warp", np.int64, ())
_NOISE = ("noise", np.uint32, (5,))
_FAMILIES: dict[type, tuple[int, tuple[tuple[str, Any, tuple[int | None, ...]], ...]]] = {
    families.ResizeOp: (1, (_BOX, ("resized", np.int64, (2,)), ("resample", np.int64, ()))),
    families.CropOp: (2, (_BOX,)),
    families.FlipOp: (3, (("flip", np.bool_, (2,)),)),
    families.WarpOp: (4, (("matrix", np.float64, (3, 3)), _WARP)),
    families.ElasticOp: (5, (("alpha", np.float64, (2,)), ("sigma", np.float64, (2,)), _WARP, _NOISE)),
    families.FilterOp: (
        6,
        (("values", np.float32, (12,)), _NOISE, ("weights", np.float32, (None,)), ("taps", np.int64, (2,))),
    ),
    families.StretchOp: (7, ()),
    families.ColourOp: (
        8,
        (("matrix", np.float64, (3, 3)), ("mean_matrix", np.float64, (3, 3)), ("offset", np.float64, (3,))),
    ),
    families.HueOp: (9, (("hue", np.float64, ()),)),
    families.TableOp: (10, (("table", np.uint8, (256,)),)),
    families.EraseOp: (11, (("boxes", np.int64, (None, 4)), _NOISE)),
    families.BlendOp: (12, (("weight", np.float64, ()), ("kept_weight", np.float64, ()))),
}
_OPTIONAL = {(6, "noise"), (6, "weights"), (6, "taps"), (11, "noise"), (12, "weight"), (12, "kept_weight")}
_STEPS = {"keep": 0, "add": 1, "last": 2}
_BOUNDARY = np.zeros((), native.FOLD_OP)


class Folding:
    """The operators of a batch in order, one `then` for each, and where passes have to end between them; `finish` folds
    them.
    """

    def __init__(self, size: np.ndarray, channels: int) -> None:
        self._size = np.ascontiguousarray(size, np.int64)
        self._channels = channels
        self._normalised = False
        self._ops: list[np.ndarray] = []
        self._held: list[np.ndarray] = []  # what the operators point to

    def then(self, drawn: Drawn, *, depths: bool = False) -> np.ndarray:
        """Takes one operator in. Returns int32 [A], which holds, where ``depths`` are wanted, once folded, in which of
        its passes each of the operator's samples has it; -1: there is nothing to do.
        """
        op, params = drawn.op, drawn.params
        where = np.full(len(drawn.rows), -1, np.int32)
        if isinstance(op, image_ops.Normalize):
            self._normalised = True
            return where
        if isinstance(op, families.ColourOp) and self._channels == 1:
            grey = op.of_grey(params)
            if grey is None:
                return where
            params = grey
        family, fields = self._family(op)
        entry = np.zeros((), native.FOLD_OP)
        entry["family"], entry["count"] = family, len(drawn.rows)
        entry["rows"] = self._address(drawn.rows, np.int64, (len(drawn.rows),))
        for place, (name, dtype, shape) in enumerate(fields):
            if name not in params and (family, name) in _OPTIONAL:
                continue
            value = params[name]
            if shape and shape[0] is None:
                entry["width"] = value.shape[1]
                shape = (value.shape[1], *shape[1:])
            entry["params"][place] = self._address(value, dtype, (len(drawn.rows), *shape))
        if isinstance(op, families.CropOp | families.WarpOp | families.ElasticOp):
            entry["fill"] = families.fill_rgb(op.fill)
        if isinstance(op, families.FilterOp):
            entry["detail"] = op.kind
        elif isinstance(op, families.StretchOp):
            entry["detail"] = op.stretch
        elif isinstance(op, families.BlendOp):
            entry["detail"] = _STEPS[op.step]
        elif isinstance(op, families.EraseOp):
            entry["value"], entry["sigma"] = op.erased(self._normalised)
            entry["normalised"] = self._normalised
        if depths:
            entry["depths"] = self._address(where, np.int32, where.shape)
        self._ops.append(entry)
        return where

    def end_passes(self) -> None:
        """What comes next begins every sample's next pass, unless its pass has not begun."""
        self._ops.append(_BOUNDARY)

    def finish(self, normalize: image_ops.Normalize | None) -> ImageParams:
        output = None
        if normalize is not None:
            scale, bias = normalize.scale_bias
            output = np.broadcast_to(scale, 3), np.broadcast_to(bias, 3)
        ops = np.stack(self._ops) if self._ops else np.zeros(0, native.FOLD_OP)
        folded = native.fold(ops, self._size, output)
        elastics = None
        if len(folded.elastic_at):
            elastics = Elastics(
                folded.elastic_at,
                folded.elastic_size.reshape(-1, 2),
                folded.elastic_alpha.reshape(-1, 2),
                folded.elastic_sigma.reshape(-1, 2),
                folded.elastic_noise.reshape(-1, 5),
            )
        return ImageParams(
            passes=folded.passes.view(native.IMAGE_PASS),
            starts=folded.starts,
            box=folded.box.reshape(-1, 4),
            roi=folded.roi.reshape(-1, 4),
            out_size=folded.out_size.reshape(-1, 2),
            tables=folded.tables.reshape(-1, 256),
            weights=folded.weights,
            erases=folded.erases.view(native.ERASE_BOX),
            scaled=folded.scaled.view(np.bool_),
            elastics=elastics,
        )

    def _family(self, op: Any) -> tuple[int, Any]:
        for family, known in _FAMILIES.items():
            if isinstance(op, family):
                return known
        raise TypeError(f"{op!r} belongs to no family of image operators")

    def _address(self, value: np.ndarray, dtype: Any, shape: tuple[int, ...]) -> int:
        array = np.ascontiguousarray(value, dtype)
        if array.shape != shape:
            raise ValueError(f"a parameter must have shape {shape}, got {array.shape}")
        self._held.append(array)
        return int(array.ctypes.data)
