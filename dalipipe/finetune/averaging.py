"""The average of the weights over the steps, which often validates better than the last ones do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from dalipipe.finetune.sharding import local


class Average:
    """The exponential moving average of a model's parameters and buffers.

    After step t it is the mean of those after steps 1 to t, of which step i weighs decay^(t - i): the weights that were
    there before the first step are not in it, so it may be used from the first step on. That is Adam's correction of
    the bias (D. Kingma, J. Ba, *Adam*, 2015) in place of a warm-up: with a_t the average and w_t the weights,

        a_t = a_(t-1) + (1 - decay) / (1 - decay^t) * (w_t - a_(t-1))

    (B. Polyak, A. Juditsky, *Acceleration of Stochastic Approximation by Averaging*, 1992; A. Tarvainen, H. Valpola,
    *Mean teachers*, 2017.) Buffers of whole numbers, such as counters, are taken as they are.

    Args:
        model: whose weights these are; the average starts as a copy of them.
        decay: [0, 1): 0 is the last step alone, 0.999 the last thousand or so.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        live = [local(tensor.detach()) for tensor in (*model.parameters(), *model.buffers())]  # tied ones once
        self._live = [tensor for tensor in live if tensor.is_floating_point()]
        self._means = [tensor.clone() for tensor in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimiser step ``step``, counted from 1."""
        if self._live:
            weight = (1 - self.decay) / (1 - self.decay**step)
            torch._foreach_lerp_(self._means, self._live, weight)

    @torch.no_grad()
    def take(self) -> None:
        """The weights that the model has now become the average."""
        for mean, tensor in zip(self._means, self._live, strict=True):
            mean.copy_(tensor)

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """While entered, the model has the average for its weights, in the same memory."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """The model gets the average, and this what the model had."""
        for mean, tensor in zip(self._means, self._live, strict=True):
            kept = tensor.clone()
            tensor.copy_(mean)
            mean.copy_(kept)
