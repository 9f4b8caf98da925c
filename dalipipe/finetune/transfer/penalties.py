"""What keeps a fine-tuned model near where it started."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dalipipe.finetune.checkpoint import digest_of
from dalipipe.finetune.objectives import Fields, Objective, Scores, classify, settings_of
from dalipipe.finetune.sharding import like, local


class L2SP:
    """An objective with a penalty on the way from the starting point, L²-SP: to the mean loss is added

        alpha/2 · ‖w_S − w_S⁰‖²  +  beta/2 · ‖w_N‖²

    w_S: the parameters shared with the pretrained model, as they are and (w_S⁰) were when this was made; w_N: new ones,
    such as those of a head that was replaced. (X. Li, Y. Grandvalet and F. Davoine, "Explicit inductive bias for
    transfer learning with convolutional networks", ICML 2018, formula 2; they find alpha 0.1 and beta 0.01 to be good
    for ResNets.) It takes the place of weight decay, which pulls to zero: set that to 0. Parameters that do not learn
    are left out; evaluations give the plain losses. Make it before a run begins or is resumed, of the model with its
    pretrained weights::

        model, fresh = make_model("resnet18", 5, weights="resnet18.pth")
        finetune(model, train, val, config, objective=L2SP(model, fresh, alpha=0.01))

    Args:
        model: what will be trained; where it starts is copied. Parameters are known by their names.
        fresh: names of the parameters that are new, or of modules that hold them.
        alpha: weight of the way from the start, >= 0.
        beta: weight of the new parameters' squares, >= 0.
        objective: what the penalty is added to. Where samples hold several predictions, the mean is over those of this
            process and step.

    Raises:
        ValueError: a weight out of range, a name in ``fresh`` that the model does not have, or nothing is shared.
    """

    def __init__(
        self,
        model: nn.Module,
        fresh: Any = (),
        *,
        alpha: float,
        beta: float = 0.01,
        objective: Objective = classify,
    ) -> None:
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not (isinstance(value, (int, float)) and 0 <= value < math.inf):
                raise ValueError(f"L2SP: {name} must be a number in [0, inf), got {value!r}")
        self.alpha, self.beta, self.objective = float(alpha), float(beta), objective
        known = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
        for name in fresh:
            if not any(one == name or one.startswith(f"{name}.") for one in known):
                raise ValueError(f"L2SP: fresh has {name!r}, which {type(model).__name__} has no parameter of")
        self.start: dict[str, Tensor] = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if not any(name == new or name.startswith(f"{new}.") for new in fresh)
        }
        if not self.start:
            raise ValueError(
                f"L2SP: all parameters of {type(model).__name__} are new, so there is no start to stay near: give it "
                "pretrained weights first"
            )
        self._digest = digest_of(self.start)

    def __call__(self, model: nn.Module, batch: Fields, label_smoothing: float = 0.0) -> Scores:
        if not torch.is_grad_enabled():
            return self.objective(model, batch, label_smoothing)
        penalty = self.penalty(model)  # before parameters that are dealt out are put together for the forward pass
        scores = self.objective(model, batch, label_smoothing)
        return scores._replace(minimised=minimised(scores) + penalty)

    @property
    def settings(self) -> dict[str, Any]:
        """See `settings_of`. The start is there as a digest."""
        told = {"alpha": self.alpha, "beta": self.beta, "start": self._digest}
        return {**told, "objective": settings_of(self.objective)}

    def penalty(self, model: nn.Module) -> Tensor:
        """The formula above, a scalar in float32 or what parameters are in, with its gradient; of parameters that are
        dealt out among processes, what is here.
        """
        shared, new = [], []
        for name, parameter in bare(model).named_parameters():
            if not parameter.requires_grad:
                continue
            if name in self.start:
                shared.append((local(parameter) - self._start(name, parameter)).square().sum())
            else:
                new.append(local(parameter).square().sum())
        device = next(model.parameters()).device
        parts = [
            0.5 * weight * torch.stack(squares).sum()
            for weight, squares in ((self.alpha, shared), (self.beta, new))
            if squares
        ]
        return sum(parts, torch.zeros((), device=device))

    def _start(self, name: str, parameter: Tensor) -> Tensor:
        """Where the parameter is, and the part that is here; moved there once."""
        start = self.start[name]
        if start.device != parameter.device or hasattr(parameter, "to_local") != hasattr(start, "to_local"):
            start = self.start[name] = like(start, parameter.detach())
        return local(start)


def minimised(scores: Scores) -> Tensor:
    """What training with these scores lowers: what they say, or the mean of the losses over predictions."""
    if scores.minimised is not None:
        return scores.minimised
    if scores.predictions is None:
        return scores.losses.mean()
    return scores.losses.sum() / scores.predictions.sum().clamp(min=1)


def bare(model: nn.Module) -> nn.Module:
    """The model inside of DistributedDataParallel and torch.compile."""
    while True:
        inner = getattr(model, "module", None) if isinstance(model, nn.parallel.DistributedDataParallel) else None
        inner = getattr(model, "_orig_mod", None) if inner is None else inner
        if not isinstance(inner, nn.Module):
            return model
        model = inner
