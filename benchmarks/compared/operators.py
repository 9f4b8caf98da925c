"""Every operator at fixed parameters, beside the library that has it too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from compared import theirs
from compared.cases import Case
from compared.differences import Differences
from compared.ours import Applied
from PIL import Image
from torchvision.transforms import v2

from dalipipe.ops import image as ops
from dalipipe.ops import mix
from dalipipe.ops.image.families import ElasticOp, WarpOp
from dalipipe.ops.pixels import warp_points
from dalipipe.policy import DrawError, Op, Params


@dataclass(frozen=True)
class Pictures:
    """uint8 [H, W, 3]; a setting takes ``each`` of them, every setting the next, and more where there are few."""

    pictures: Sequence[np.ndarray]
    each: int

    def of(self, number: int, of_many: int) -> list[np.ndarray]:
        count = len(self.pictures)
        each = min(count, self.each * max(1, 5 // of_many))
        return [self.pictures[(number * each + i) % count] for i in range(each)]


def measure(case: Case, sets: Mapping[str, Pictures]) -> dict[str, Any]:
    """A row of the table: what each setting gave on each set of pictures."""
    found = {}
    for name, pictures in sets.items():
        made: list[dict[str, Differences] | None] = []
        for number, op in enumerate(case.settings):
            try:
                made.append(_compare(case, op, pictures.of(number, of_many=len(case.settings))))
            except DrawError:  # a crop larger than the picture
                made.append(None)
        found[name] = _summed_up(made)
    return _row(case.family, case.name, case.settings, case.compared_with, found, exact=case.exact)


def _row(family: str, name: str, settings: Sequence[Op], beside: str, sets: Any, exact: bool = False) -> dict[str, Any]:
    named = {"family": family, "name": name, "operator": type(settings[0]).__name__, "with": beside, "exact": exact}
    return {**named, "settings": [repr(op) for op in settings], "on": sets}


def _summed_up(made: Sequence[dict[str, Differences] | None]) -> dict[str, Any]:
    """The worst of the settings, of each figure, and, setting by setting: max, mean, shares beyond 1 and 2 levels."""
    used = [one for one in made if one is not None]
    names = [name for name in ("tensor", "elsewhere", "pil", "pil_itself") if any(name in one for one in used)]
    worst = {}
    for name in names:
        summaries = [one[name].summary() for one in used if name in one]
        worst[name] = {key: max(summary[key] for summary in summaries) for key in summaries[0]}
        worst[name]["pictures"] = sum(summary["pictures"] for summary in summaries)
    first = "tensor" if "tensor" in names else "pil"
    each = [None if one is None else [*one[first].summary().values()][1:] for one in made]
    return {**worst, "by_setting": each}


def _compare(case: Case, op: Op, pictures: Sequence[np.ndarray]) -> dict[str, Differences]:
    measured = {name: Differences() for name in ("tensor", "elsewhere", "pil", "pil_itself")}
    normalised = isinstance(op, ops.Normalize)
    applied = Applied([op], dtype=torch.float32 if normalised else torch.uint8)
    unit = np.broadcast_to(255.0 * np.asarray(op.std, np.float32), 3)[:, None, None] if normalised else None
    for draws, rows, made in applied.batches(pictures):
        for row, (x, ours) in enumerate(zip(pictures[rows], made, strict=True)):
            params = draws.drawn[0].at(row)
            assert params is not None, f"{op!r} was not applied: give p=1"
            calls = theirs.calls(op, params, x.shape[:2])
            other = None
            if case.on_tensors:
                given = tensor(x)
                other = theirs.made(calls, given / 255 if case.on_floats else given).numpy()
                if case.on_floats:
                    ours, other = ours.astype(np.float32), 255 * other
                pair = (ours, other) if unit is None else (ours * unit, other * unit)
                measured["tensor"].add(*pair)
                unsure = _unsure(op, params, calls, x.shape[:2])
                if unsure is not None:
                    measured["elsewhere"].add(*(np.where(unsure, 0, v) for v in pair))
            if case.on_pil and not normalised:
                pil = np.asarray(theirs.made(calls, Image.fromarray(x))).transpose(2, 0, 1)
                measured["pil"].add(ours, pil)
                if other is not None:
                    measured["pil_itself"].add(other, pil)
    return {name: found for name, found in measured.items() if found.pictures}


_HALFWAY_PX = 2e-3


def _unsure(op: Op, params: Params, calls: list[theirs.Call], size: tuple[int, int]) -> np.ndarray | None:
    """bool [H, W]: the pixels of a warp that libraries make differently. Bilinear: on the border, which is a mixture of
    the picture and what stands outside. Nearest: where two pixels are equally near, but for float32's last digits.
    """
    if not isinstance(op, WarpOp | ElasticOp):
        return None
    if op.interpolation == "bilinear":
        bare = theirs.Call(calls[0].function, calls[0].given | {"fill": None})
        share = bare(torch.full((1, *size), 255, dtype=torch.uint8))[0].numpy()
        return (share > 0) & (share < 255)
    moved = None
    if isinstance(op, ElasticOp):
        moved = (calls[0].given["displacement"][0] * torch.tensor(size[::-1]) / 2).permute(2, 0, 1).numpy()
    points = warp_points(params.get("matrix", np.eye(3)), size, moved)
    near = [np.abs(at - np.floor(at) - 0.5) < _HALFWAY_PX for at in points]
    return near[0] | near[1]


def tensor(x: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, C] → [C, H, W]."""
    return torch.from_numpy(np.array(x)).permute(2, 0, 1).contiguous()


def measure_mixing(pictures: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """MixUp and CutMix on float32 pictures of one size, beside torchvision's at the same weights and boxes."""
    found = []
    for kind, other in ((mix.MixUp, v2.MixUp(num_classes=2)), (mix.CutMix, v2.CutMix(num_classes=2))):
        settings = [kind(alpha, num_classes=2) for alpha in (0.1, 0.2, 0.8, 1.0, 3.0)]
        made = [{"tensor": _mixed(op, other, pictures)} for op in settings]
        found.append(_row("Mixing", kind.__name__, settings, "torchvision, on floats", {"224 px": _summed_up(made)}))
    return found


def _mixed(op: Op, other: Any, pictures: Sequence[np.ndarray]) -> Differences:
    measured = Differences()
    for draws, _, made in Applied([op], dtype=torch.float32).batches(pictures):
        params = draws.mix
        assert params is not None
        for row, partner in enumerate(params.partner.tolist()):
            pair = torch.stack([tensor(pictures[partner]), tensor(pictures[row])]).float() / 255
            y, x, h, w = params.box[row].tolist()
            given = {"lam": float(params.weight[row]), "box": (x, y, x + w, y + h)}
            expected = other.transform(pair, {"labels": None, "batch_size": 2, **given})
            measured.add(255 * made[row], 255 * expected[1].numpy())
    return measured
