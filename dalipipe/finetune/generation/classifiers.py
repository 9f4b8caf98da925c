"""Small classifiers: one judges what is made, others tell what it is worth to learn from."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dalipipe.finetune.config import FineTuneConfig
from dalipipe.finetune.loop import Result, finetune
from dalipipe.finetune.models import InceptionTime
from dalipipe.loader import DataLoader
from dalipipe.ops.image import Normalize
from dalipipe.orders import Weighted
from dalipipe.policy import Policy
from dalipipe.sources import Source
from dalipipe.sources.contents import identity


class PictureCNN(nn.Module):
    """Three blocks of convolution 3×3, BatchNorm, ReLU and 2×2 maximum, a fourth without a maximum, the mean over the
    picture, a linear layer: for pictures of 8 px or more that a core is to learn in seconds.

    Args:
        classes: outputs.
        channels: of the pictures.
        width: channels of the first block, >= 1; each further block has twice as many.
    """

    def __init__(self, classes: int, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width, 8 * width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for after in widths[1:])
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """``x``: float [N, C, H, W]. Gives float [N, classes]."""
        for nth, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = functional.relu(norm(convolution(x)))
            if nth < 3:
                x = functional.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


def small_classifier(source: Source, seed: int, *, width: int | None = None) -> nn.Module:
    """An untrained classifier for a source's pictures or series: `PictureCNN`, or a narrow `InceptionTime`."""
    classes, field = len(source.classes or []), source.schema.fields[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if field.kind == "image":
            return PictureCNN(classes, field.channels or 3, width or 16)
        return InceptionTime(classes, field.channels or 1, width or 4)


def plain_policy(source: Source) -> Policy:
    """Pictures normalised, series as they are: without chance."""
    return Policy([Normalize(0.5, 0.25)] if source.schema.of_kind("image") else [])


def fit_classifier(
    model: nn.Module,
    train: Source,
    val: Source,
    out: str | os.PathLike[str],
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    policy: Policy | None = None,
    shares: np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> Result:
    """Train for exactly ``steps`` steps, however many samples there are, and evaluate on ``val``; by `finetune`, and
    with its Raises. A run that stands in ``out`` unfinished is continued.

    ``shares``: numbers [N]: how often a sample comes beside others; by default all alike. ``policy``: in training;
    None: `plain_policy`.
    """
    plain = plain_policy(train)
    options: dict[str, Any] = {"num_workers": 1, "device": device, "seed": seed}
    weights = np.ones(len(train)) if shares is None else shares
    order = Weighted(weights, size=steps * batch_size)
    trained = DataLoader(train, batch_size, sampler=order, drop_last=True, policy=policy or plain, **options)
    tested = DataLoader(val, min(256, len(val)), policy=plain, shards="exact", **options)
    config = FineTuneConfig(out=out, epochs=1, lr=lr, warmup_epochs=0.1, seed=seed, progress="off", log_every=50)
    config = dataclasses.replace(config, resume=config.checkpoint.is_file())
    with contextlib.closing(trained), contextlib.closing(tested):
        return finetune(model, trained, tested, config)


class Judge:
    """A classifier trained on real data, and what it has to say of made data.

    Args:
        model: inputs of a batch → logits [N, classes]; any classifier will do.
        policy: what it sees of samples, without chance; None: `plain_policy`.
    """

    def __init__(self, model: nn.Module, policy: Policy | None = None) -> None:
        self.model, self.policy = model, policy

    @classmethod
    def trained(
        cls, real: Source, out: str | os.PathLike[str], *, steps: int = 300, seed: int = 0, val: Source | None = None
    ) -> tuple[Judge, float]:
        """A small one, trained on ``real`` in the folder ``out``, and its accuracy on ``val``, or on what it has
        learnt from. What stands there is continued where it is of the same data, steps and seed, else replaced.
        """
        told = {"steps": steps, "seed": seed, "data": [None if one is None else identity(one) for one in (real, val)]}
        settings = Path(out) / "judge.json"
        if not settings.is_file() or settings.read_text(encoding="utf-8") != json.dumps(told):
            for file in Path(out).glob("checkpoint.*"):
                file.unlink()
            settings.parent.mkdir(parents=True, exist_ok=True)
            settings.write_text(json.dumps(told), encoding="utf-8")
        model = small_classifier(real, seed)
        found = fit_classifier(model, real, real if val is None else val, out, steps=steps, seed=seed)
        return cls(model), found.val_accuracy

    @torch.no_grad()
    def probabilities(self, source: Source) -> np.ndarray:
        """float32 [N, classes]: of every sample as it stands.

        Raises ``ValueError`` for a model of another number of classes than the source's.
        """
        policy = self.policy or plain_policy(source)
        loader = DataLoader(source, min(256, len(source)), policy=policy, num_workers=1, device="cpu", seed=0)
        device = next(self.model.parameters()).device
        self.model.eval()
        found = []
        for batch in loader:
            *inputs, _ = batch
            found.append(self.model(*(one.to(device) for one in inputs)).float().softmax(1).cpu())
        probabilities = torch.cat(found).numpy()
        if source.classes is not None and probabilities.shape[1] != len(source.classes):
            raise ValueError(
                f"the judge tells {probabilities.shape[1]} classes apart, and what is made has {len(source.classes)}: "
                "give one trained on the same classes"
            )
        return probabilities
