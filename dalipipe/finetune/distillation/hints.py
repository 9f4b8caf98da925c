"""Hints: a student's layers learn to say what a teacher's do, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Hinted(nn.Module):
    """A student and, for each of its layers that gets a hint, a projection to as many channels as the teacher's layer
    has: a linear layer over channels (Romero et al., "FitNets: hints for thin deep nets", ICLR 2015).

    In training it gives ``(logits, [projected features])``, in evaluation logits. ``student`` is what is left when the
    training is over.

    Args:
        student: maps inputs to logits [N, classes].
        teacher: the teacher's module.
        layers: names of the student's layers → of the teacher's, as ``named_modules`` has them. Features are [N, C,
            ...], or where both are [N, L, C], such as a transformer's, with ``channels_last``.
        inputs: a few samples, a batch without its labels, that say how many channels there are.
        channels_last: the channels are features' last axis.

    Raises:
        ValueError: a layer is not there, gives no floating point tensor [N, C, ...], or no layer is named.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        layers: Mapping[str, str],
        inputs: Sequence[Tensor],
        *,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if not layers:
            raise ValueError("Hinted: name at least one layer: {student's: teacher's}")
        self.student, self.axis = student, -1 if channels_last else 1
        self.watch = Watch(student, list(layers))
        widths = []
        for model, names in ((student, list(layers)), (teacher, list(layers.values()))):
            training = model.training
            with torch.no_grad():
                _, features = Watch(model, names)(model.eval(), *inputs)
            model.train(training)
            widths.append([feature.shape[self.axis] for feature in features])
        self.projections = nn.ModuleList(nn.Linear(mine, its) for mine, its in zip(*widths, strict=True))

    def forward(self, *inputs: Any) -> Any:
        if not self.training:
            return self.student(*inputs)
        logits, features = self.watch(self.student, *inputs)
        return logits, [
            projection(feature.movedim(self.axis, -1)).movedim(-1, self.axis)
            for projection, feature in zip(self.projections, features, strict=True)
        ]


class Watch:
    """Calls a model and keeps what some of its layers gave.

    Raises ``ValueError`` where a layer is not there.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        known = dict(model.named_modules())
        for name in names:
            if name not in known or not name:
                there = ", ".join(list(known)[1:9])
                raise ValueError(f"{type(model).__name__} has no layer {name!r} for hints; it has {there}, ...")
        self.names = list(names)

    def __call__(self, model: nn.Module, *inputs: Any) -> tuple[Any, list[Tensor]]:
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            def hook(module: nn.Module, given: Any, output: Any) -> None:
                found[name] = output

            return hook

        handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in self.names]
        try:
            logits = model(*inputs)
        finally:
            for handle in handles:
                handle.remove()
        for name in self.names:
            feature = found.get(name)
            if not isinstance(feature, Tensor) or not feature.is_floating_point() or feature.ndim < 2:
                got = "nothing" if feature is None else type(feature).__name__
                raise ValueError(f"layer {name!r} gives {got}; hints need floating point features [N, C, ...]")
        return logits, [found[name] for name in self.names]


def hint_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The mean square of the differences, summed over layers: a scalar, in float32.

    Features [N, C, H, W] or [N, C, T] of different sizes are averaged over areas down to the smaller one's.

    Raises ``ValueError`` where they differ otherwise.
    """
    if len(student) != len(teacher):
        raise ValueError(
            f"hints for {len(student)} of the student's layers, and features of {len(teacher)} of the teacher's: give "
            "the teacher the layers that the student is hinted at"
        )
    return torch.stack([_apart(mine.float(), its.float()) for mine, its in zip(student, teacher, strict=True)]).sum()


def _apart(mine: Tensor, its: Tensor) -> Tensor:
    if mine.shape != its.shape and mine.ndim == its.ndim in (3, 4) and mine.shape[:2] == its.shape[:2]:
        size = [min(pair) for pair in zip(mine.shape[2:], its.shape[2:], strict=True)]
        pool: Any = functional.adaptive_avg_pool1d if mine.ndim == 3 else functional.adaptive_avg_pool2d
        mine, its = pool(mine, size), pool(its, size)
    if mine.shape != its.shape:
        raise ValueError(f"hints: the student's features are {list(mine.shape)}, the teacher's {list(its.shape)}")
    return functional.mse_loss(mine, its)
