"""Half precision where it is safe: autocast, and for fp16 a scale that keeps small gradients from vanishing."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

AMP = ("auto", "bf16", "fp16", "off")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolved(amp: str, device: torch.device) -> str:
    """What "auto" means: bf16 on a GPU that has it, fp16 on an older one, and off on the CPU."""
    if amp != "auto":
        return amp
    if device.type != "cuda":
        return "off"
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """``amp``: "bf16", "fp16" or "off"."""
    return torch.autocast(device.type, _DTYPES.get(amp, torch.bfloat16), enabled=amp in _DTYPES)


class Steps:
    """Backward passes and optimiser steps in a precision.

    In fp16 the loss is multiplied by a scale before its gradients are taken, and they are divided by it before they are
    used; a step whose gradients overflow is left out and halves the scale, which doubles after 2000 good ones
    (P. Micikevicius et al., *Mixed Precision Training*, 2018). In any other precision the scale is 1.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        self.amp, self.device = amp, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.amp == "off" else autocast(self.amp, self.device)

    def backward(self, loss: torch.Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], clip_norm: float | None
    ) -> None:
        """Clips the gradients' common norm, steps, and forgets the gradients."""
        if clip_norm is not None:
            self.scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scaler.is_enabled() and state:
            self.scaler.load_state_dict(state)
