"""Generative adversarial networks that are told the class: the part that those for pictures and for series share.

A generator makes samples of noise and a class; a discriminator, shown real ones and made ones, tells them apart; each
learns against the other (Goodfellow et al., "Generative adversarial nets", NeurIPS 2014). Here the discriminator knows
the class by projection (Miyato, Koyama, "cGANs with projection discriminator", ICLR 2018), both losses are the
logistic ones with the gradient penalty R1 every few steps (Mescheder, Geiger, Nowozin, "Which training methods for
GANs do actually converge?", ICML 2018; lazily as in StyleGAN2), and all that the discriminator sees is augmented, what
is real and what is made alike, so that a few hundred samples are enough (Zhao et al., "Differentiable augmentation for
data-efficient GAN training", NeurIPS 2020). What samples are taken from is the mean of the generator's weights over
the last steps.

Everything random in a step is a function of (seed, step). So a run that is stopped and resumed ends with the same
weights as one that was not, bit for bit on the CPU with the same number of threads.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dalipipe import rng
from dalipipe.finetune.checkpoint import load_checkpoint, save_checkpoint
from dalipipe.finetune.generation.generator import as_source, check_labels
from dalipipe.finetune.interrupts import Interrupted, StopSignals
from dalipipe.sources import Source
from dalipipe.sources.contents import identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

_PENALTY_EVERY = 8  # steps
_LOOK_EVERY = 10  # steps; on a GPU each look waits for it
_TOGETHER = 64  # samples made in one go, always as many, so that a sample does not depend on how many are wanted


@dataclasses.dataclass(frozen=True)
class GANConfig:
    """How a GAN is trained; the defaults are for some thousand small samples, and minutes on one core.

    Attributes:
        steps: of each of the two networks.
        batch_size: real samples a step, and as many made ones.
        lr: of both, constant (Adam, betas 0 and 0.99).
        noise: numbers that a sample is made of, besides its class.
        width: channels of the finest layers; coarser ones have up to eight times as many.
        penalty: weight of the gradient penalty R1: γ, whose half is multiplied.
        average: the share of the older weights in the running mean that samples are taken from, in [0, 1).
        seed: of initial weights, batches, noise and augmentation.

    Raises:
        TypeError, ValueError: a field has the wrong type or is out of range; the message names it.
    """

    steps: int = 1500
    batch_size: int = 64
    lr: float = 1e-3
    noise: int = 32
    width: int = 16
    penalty: float = 1.0
    average: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 2), ("noise", 1), ("width", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"GANConfig.{name} must be a whole number, got {value!r}")
            if value < least:
                raise ValueError(f"GANConfig.{name} must be at least {least}, got {value}")
        for name, high in (("lr", math.inf), ("penalty", math.inf), ("average", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"GANConfig.{name} must be a number, got {value!r}")
            if not 0 <= value < high or (name == "lr" and value == 0):
                raise ValueError(f"GANConfig.{name} must be in {'(' if name == 'lr' else '['}0, {high}), got {value}")


class Examples(NamedTuple):
    """What is learnt from: ``values`` float [N, ...], ``labels`` int64 [N], and of what differs in length ``lengths``
    int64 [N], else zeros.
    """

    values: Tensor
    labels: Tensor
    lengths: Tensor


class ConditionalGAN(ABC):
    """A `Generator`: `fit` learns, `sample` makes, `save` and `load` keep it in a file.

    Raises from `fit`:
        ValueError: a source that it cannot learn from; a file to resume of another run.
        FloatingPointError: a loss is no longer finite.
        Interrupted: Ctrl-C or SIGTERM, with ``checkpoint``: everything is in the file, and ``resume`` continues.
    """

    kind: str  # of data, in checkpoints

    def __init__(self, config: GANConfig | None = None, *, device: str | torch.device = "cpu") -> None:
        self.config, self.device = config or GANConfig(), torch.device(device)
        self.classes: list[str] = []
        self.step = 0
        self.networks: nn.ModuleDict | None = None

    # What pictures and series do differently --------------------------------------------------------------------------

    @abstractmethod
    def _examples(self, source: Source) -> Examples:
        """What the networks see of a source; sets what of it `sample` needs, `_shape`."""

    @abstractmethod
    def _networks(self) -> tuple[nn.Module, nn.Module]:
        """Generator ``(noise [N, K], labels, lengths)`` → values [N, ...]; discriminator ``(values, labels, lengths)``
        → scores [N], the higher the more real.
        """

    @abstractmethod
    def _augmented(self, values: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        """Each sample changed at random, differentiably."""

    @abstractmethod
    def _lengths(self, count: int, label: int, generator: np.random.Generator) -> np.ndarray:
        """int64 [count]: how long made samples of a class are."""

    @abstractmethod
    def _finished(self, values: Tensor, lengths: np.ndarray) -> Any:
        """What the generator gave, as sources hold it."""

    _shape: dict[str, Any]
    """Plain values: all that the networks and `_finished` need to know of the data."""

    # Learning ---------------------------------------------------------------------------------------------------------

    def fit(
        self,
        source: Source,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        save_every: int = 250,
        stepped: Callable[[int, float, float], None] | None = None,
    ) -> None:
        """Learn from a source's labelled records, all of them held in memory.

        Args:
            source: pictures or series, with a class each.
            checkpoint: a file to write every ``save_every`` steps, at the end and when a signal stops the run;
                atomically. None: none.
            resume: continue from that file, if it is there.
            stepped: called every 10 steps with their number, the discriminator's loss and the generator's.
        """
        _, self.classes = check_labels(source)
        examples = self._examples(source)
        settings = {**self._settings(), "data": identity(source)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            generator, discriminator = self._networks()
        self.networks = nn.ModuleDict(
            {"generator": generator, "discriminator": discriminator, "average": copy.deepcopy(generator)}
        ).to(self.device)
        self.step = 0
        optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(self.networks[name].parameters(), lr=self.config.lr, betas=(0.0, 0.99))
            for name in ("generator", "discriminator")
        }
        path = None if checkpoint is None else Path(checkpoint)
        if resume and path is not None and path.is_file():
            self._restore(path, settings, optimizers)
        examples = Examples(*(part.to(self.device) for part in examples))
        self.networks.train()
        with StopSignals() if path is not None else contextlib.nullcontext() as stop:
            while self.step < self.config.steps:
                on_device = self._train_step(examples, optimizers)
                self.step += 1
                last = self.step == self.config.steps
                if last or self.step % _LOOK_EVERY == 0:
                    losses = [float(loss) for loss in on_device]
                    if not all(map(math.isfinite, losses)):
                        raise FloatingPointError(
                            f"the losses became {losses[0]} and {losses[1]} before step {self.step}; a lower lr or a "
                            "larger penalty usually helps"
                        )
                    if stepped is not None:
                        stepped(self.step, *losses)
                signum = None if stop is None else stop.poll()
                if path is not None and (last or signum is not None or self.step % save_every == 0):
                    self._write(path, settings, optimizers)
                    if signum is not None:
                        raise Interrupted(signum, self.step, path)
        self.networks.eval()

    def _train_step(self, examples: Examples, optimizers: dict[str, torch.optim.Optimizer]) -> tuple[Tensor, Tensor]:
        assert self.networks is not None
        config, (generator, discriminator, average) = self.config, self.networks.values()
        random = torch.Generator().manual_seed(rng.mix64(config.seed, self.step))

        def made() -> tuple[Tensor, Tensor, Tensor]:
            """A batch of the generator's, of classes and lengths as frequent as they are."""
            rows = torch.randint(len(examples.labels), (config.batch_size,), generator=random).to(self.device)
            noise = torch.randn(config.batch_size, config.noise, generator=random).to(self.device)
            labels, lengths = examples.labels[rows], examples.lengths[rows]
            return self._augmented(generator(noise, labels, lengths), lengths, random), labels, lengths

        rows = torch.randint(len(examples.labels), (config.batch_size,), generator=random).to(self.device)
        labels, lengths = examples.labels[rows], examples.lengths[rows]
        real = self._augmented(examples.values[rows], lengths, random)
        penalised = config.penalty > 0 and self.step % _PENALTY_EVERY == 0
        real.requires_grad_(penalised)
        with torch.no_grad():
            fake = made()
        on_real, on_fake = discriminator(real, labels, lengths), discriminator(*fake)
        discriminator_loss = functional.softplus(-on_real).mean() + functional.softplus(on_fake).mean()
        loss = discriminator_loss
        if penalised:
            (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
            penalty = slope.square().flatten(1).sum(1).mean()
            loss = loss + _PENALTY_EVERY * config.penalty / 2 * penalty
        optimizers["discriminator"].zero_grad()
        loss.backward()
        optimizers["discriminator"].step()

        discriminator.requires_grad_(False)
        generator_loss = functional.softplus(-discriminator(*made())).mean()
        optimizers["generator"].zero_grad()
        generator_loss.backward()
        optimizers["generator"].step()
        discriminator.requires_grad_(True)

        share = min(config.average, (1 + self.step) / (10 + self.step))  # of the beginning little remains
        with torch.no_grad():
            for mean, now in zip(average.state_dict().values(), generator.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(now, 1 - share)
                else:
                    mean.copy_(now)
        return discriminator_loss.detach(), generator_loss.detach()

    # Making -----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, count: int, label: int, seed: int) -> Source:
        """``count`` made samples of class ``label`` as a source. The first ones of more are the same ones.

        Raises ``ValueError`` for less than one, no class of this number, or a model that has not learnt.
        """
        if self.networks is None:
            raise ValueError("nothing is learnt yet: call fit, or load")
        if count < 1 or not 0 <= label < len(self.classes):
            raise ValueError(
                f"sample: count must be at least 1 and label one of {len(self.classes)} classes, 0 to "
                f"{len(self.classes) - 1}, got {count} and {label}"
            )
        random = np.random.Generator(np.random.Philox(key=rng.mix64(seed, label)))
        noise = random.standard_normal((count, self.config.noise), np.float32)
        random = np.random.Generator(np.random.Philox(key=rng.mix64(seed, label, 1)))
        lengths = self._lengths(count, label, random)
        model, found = self.networks["average"].eval(), []
        for begin in range(0, count, _TOGETHER):
            part = np.zeros((_TOGETHER, self.config.noise), np.float32)
            wanted = min(_TOGETHER, count - begin)
            part[:wanted] = noise[begin : begin + wanted]
            long = np.ones(_TOGETHER, np.int64)
            long[:wanted] = lengths[begin : begin + wanted]
            given = (torch.from_numpy(part), torch.full((_TOGETHER,), label), torch.from_numpy(long))
            found.append(model(*(tensor.to(self.device) for tensor in given))[:wanted].cpu())
        values = self._finished(torch.cat(found), lengths)
        return as_source(values, np.full(count, label, np.int64), self.classes)

    # Keeping ----------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what `sample` needs, atomically. Raises ``ValueError`` where nothing is learnt, ``OSError``."""
        self._write(Path(path), {**self._settings(), "data": None}, {})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Self:
        """What `save` or `fit` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is none of this class's.
        """
        saved = load_checkpoint(path)
        settings = saved["settings"]
        if settings.get("kind") != cls.kind:
            raise ValueError(f"{path} is no {cls.__name__}'s: it says {settings.get('kind', 'nothing')!r}")
        model = cls(config=GANConfig(**settings["config"]), device=device)
        model.classes, model._shape = settings["classes"], settings["shape"]
        generator, discriminator = model._networks()
        networks = {"generator": generator, "discriminator": discriminator, "average": copy.deepcopy(generator)}
        model.networks = nn.ModuleDict(networks).to(model.device).eval()
        model.networks.load_state_dict(saved["model"])
        model.step = saved["state"]["step"]
        return model

    def _settings(self) -> dict[str, Any]:
        config = dataclasses.asdict(self.config)
        return {"kind": self.kind, "config": config, "classes": self.classes, "shape": self._shape}

    def _write(self, path: Path, settings: dict[str, Any], optimizers: dict[str, torch.optim.Optimizer]) -> None:
        if self.networks is None:
            raise ValueError("nothing is learnt yet: call fit, or load")
        state = {
            "settings": settings,
            "model": self.networks.state_dict(),
            "optimizer": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
            "state": {"step": self.step},
            "random": [],  # each step draws from its own number
            "loader": {},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, state)

    def _restore(self, path: Path, settings: dict[str, Any], optimizers: dict[str, torch.optim.Optimizer]) -> None:
        assert self.networks is not None
        saved = load_checkpoint(path)
        then, now = (json.loads(json.dumps(one)) for one in (saved["settings"], settings))
        different = [key for key in now if then.get(key) != now[key]]
        if different:
            raise ValueError(
                f"{path} belongs to a run with another {' and '.join(different)}. Resume with the same, or start anew "
                "in another folder"
            )
        self.networks.load_state_dict(saved["model"])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(saved["optimizer"][name])
        self.step = saved["state"]["step"]


class Modulated(nn.Module):
    """BatchNorm whose scale and shift are made of the noise and the class (as in BigGAN: Brock, Donahue, Simonyan,
    ICLR 2019), then ReLU. ``x``: [N, C, ...]; ``told``: [N, K].
    """

    def __init__(self, channels: int, told: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.scale, self.shift = nn.Linear(told, channels), nn.Linear(told, channels)
        nn.init.ones_(self.scale.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        shape = [*x.shape[:2], *[1] * (x.ndim - 2)]
        normed = self.norm(x.flatten(2)).view_as(x)
        return functional.relu(normed * self.scale(told).view(shape) + self.shift(told).view(shape))


class Projection(nn.Module):
    """The discriminator's last part: a score of features [N, K], to which the class adds its own direction's."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.score, self.direction = nn.Linear(features, 1), nn.Embedding(classes, features)
        nn.init.normal_(self.direction.weight, std=features**-0.5)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.score(x)[:, 0] + (self.direction(labels) * x).sum(1)
