"""Which of a model's layers learn, from when on, and how fast."""

from __future__ import annotations

import collections
import dataclasses
import difflib
import fnmatch
import math
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclasses.dataclass(frozen=True)
class Layers:
    """All layers learn, from the first step on, at the same rate, where nothing else is said here.

    `layers_of` says what a model's layers are, from the input to the head. A layer that does not learn keeps its
    weights to the bit, and is in evaluation mode while others are trained: the statistics of its BatchNorms stay, and
    its dropout is off. So is a layer whose parameters all had no ``requires_grad`` before.

    Attributes:
        freeze: what never learns: the first layers, as many as this number says, or, where it is negative, all but so
            many (-1: all but the head); or names of modules and parameters, separated by commas, in which ``*`` stands
            for any characters: ``"conv1,bn1,layer1"``, ``"*.bias"``.
        unfreeze_every: the head learns from the first epoch on, and after every so many epochs one layer more does,
            from the head down (J. Howard and S. Ruder, "Universal language model fine-tuning for text classification",
            ACL 2018, with one epoch). Below 1, several layers an epoch. None: all learn at once.
        lr_decay: each layer's learning rate is so many times that of the layer above it, (0, 1]; the head's is the
            run's (K. Clark et al., "ELECTRA", ICLR 2020; 0.65 to 0.9 are usual for transformers).

    With ``freeze`` or ``unfreeze_every``, all other parameters learn, whatever their ``requires_grad`` was.

    Raises:
        TypeError, ValueError: a field of another type or range. A name that fits nothing, and layers that are not
            there, are found out when a run begins.
    """

    freeze: int | str = 0
    unfreeze_every: float | None = None
    lr_decay: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.freeze, bool) or not isinstance(self.freeze, (int, str)):
            raise TypeError(f"Layers.freeze must be a number of layers, or names in a string, got {self.freeze!r}")
        for name, value, high in (("unfreeze_every", self.unfreeze_every, math.inf), ("lr_decay", self.lr_decay, 1)):
            if value is None and name == "unfreeze_every":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"Layers.{name} must be a number, got {value!r}")
            if not 0 < value <= high or value == math.inf:
                end = "inf)" if high == math.inf else "1]"
                raise ValueError(f"Layers.{name} must be in (0, {end}, got {value!r}")

    def groups(self, model: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
        """The optimiser's parameter groups: ``params``; ``weight_decay``, for matrices and filters only; ``lr_scale``,
        what the learning rate is multiplied by. Every parameter that ever learns is in one of them.

        Raises:
            ValueError: ``freeze`` fits nothing of this model, or all of it; or there is nothing that
                ``unfreeze_every`` could ever let learn.
        """
        frozen = self._frozen(model)
        learning = {
            name: parameter
            for name, parameter in model.named_parameters()
            if (name not in frozen and parameter.is_floating_point() if self._decides else parameter.requires_grad)
        }
        if self.unfreeze_every is not None and not learning.keys() - set(layers_of(model)[-1]):
            raise ValueError(
                f"Layers.unfreeze_every={self.unfreeze_every:g} has nothing to unfreeze: Layers.freeze={self.freeze} "
                "leaves only the last layer to learn; leave one of them out"
            )
        if self.lr_decay == 1:
            parts = [(1.0, list(learning.values()))]
        else:
            layers = layers_of(model)
            parts = [
                (self.lr_decay ** (len(layers) - 1 - nth), [learning[name] for name in layer if name in learning])
                for nth, layer in enumerate(layers)
            ]
        groups = []
        for scale, parameters in parts:
            matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
            groups.append({"params": matrices, "weight_decay": weight_decay, "lr_scale": scale})
            groups.append({"params": vectors, "weight_decay": 0.0, "lr_scale": scale})
        return [group for group in groups if group["params"]]

    def begin_epoch(self, model: nn.Module, epoch: int) -> bool:
        """Sets ``requires_grad`` of every parameter for this epoch, a function of its number alone; returns whether any
        has changed.
        """
        learning, changed = self.learning(model, epoch), False
        for name, parameter in model.named_parameters():
            learns = name in learning
            changed |= parameter.requires_grad != learns
            parameter.requires_grad_(learns)
        return changed

    def learning(self, model: nn.Module, epoch: int) -> set[str]:
        """Names of the parameters that learn in this epoch."""
        if not self._decides:
            return {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        resting = self._frozen(model)
        if self.unfreeze_every is not None:
            awake = 1 + int(min(epoch / self.unfreeze_every, 1e9))
            resting.update(name for layer in layers_of(model)[:-awake] for name in layer)
        parameters = model.named_parameters()
        return {name for name, one in parameters if name not in resting and one.is_floating_point()}

    def train(self, model: nn.Module) -> None:
        """Training mode, where layers learn."""
        model.train()
        rests = False
        for module in model.modules():
            if any(True for _ in module.parameters()):
                rests = not any(parameter.requires_grad for parameter in module.parameters())
                if rests:
                    module.eval()
            elif rests and any(True for _ in module.buffers()):  # a BatchNorm without gains, behind a layer that rests
                module.eval()

    @property
    def _decides(self) -> bool:
        return bool(self.freeze) or self.unfreeze_every is not None

    def _frozen(self, model: nn.Module) -> set[str]:
        """Names of the parameters that never learn."""
        names = [name for name, _ in model.named_parameters()]
        if self.freeze == 0:
            return set()
        if isinstance(self.freeze, int):
            layers = layers_of(model)
            if abs(self.freeze) >= len(layers):
                raise ValueError(
                    f"Layers.freeze={self.freeze}: {type(model).__name__} has {len(layers)} layers, of which at least "
                    "one must learn and one be frozen; see layers_of(model)"
                )
            return {name for layer in layers[: self.freeze] for name in layer}
        frozen: set[str] = set()
        for pattern in filter(None, map(str.strip, self.freeze.split(","))):
            fitting = {name for name in names if any(fnmatch.fnmatchcase(part, pattern) for part in _paths(name))}
            if not fitting:
                known = sorted(
                    dict.fromkeys(part for name in names for part in _paths(name)), key=lambda n: n.count(".")
                )
                close = difflib.get_close_matches(pattern, known, n=3) or known[:5]
                raise ValueError(
                    f"Layers.freeze: no module or parameter of {type(model).__name__} is called {pattern!r}; there is "
                    f"{', '.join(close)}"
                )
            frozen |= fitting
        if len(frozen) == len(names):
            raise ValueError(f"Layers.freeze={self.freeze!r} fits all of {type(model).__name__}: nothing would learn")
        return frozen


def layers_of(model: nn.Module) -> list[list[str]]:
    """Names of a model's parameters, layer by layer, from the input to the head.

    The order is that in which modules were registered, which in models of torchvision, timm and Hugging Face is that
    in which they run. A layer is an item of a ``Sequential`` or ``ModuleList`` (of lists within lists, the innermost
    ones'), such as a residual block or a transformer's, or a module beside these, such as a stem or a head. What has
    no matrix or filter of its own, such as a norm, and parameters that stand alone, such as a class token, belong to
    the layer before them, or, at the beginning, to the one behind. Where lists run side by side, as in the Inception
    blocks of GoogLeNet, each branch counts as if it came after the one before. A model whose modules run in another
    order says so: ``model.layer_order()`` gives the names of modules or parameters, a sequence for each layer.
    """
    parameters = dict(model.named_parameters())
    layers: list[list[str]] = []
    waiting: list[str] = []
    taken: set[str] = set()
    for loose, unit in _units(model, ""):
        names = [n for n in parameters if n not in taken and any(n == u or n.startswith(f"{u}.") for u in unit)]
        taken.update(names)
        if loose or not any(parameters[name].ndim > 1 for name in names):
            (layers[-1] if layers else waiting).extend(names)
        else:
            layers.append([*waiting, *names])
            waiting = []
    return [*layers, waiting] if waiting else layers


def head_of(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv1d | nn.Conv2d]:
    """The last linear layer, or convolution, of a model's last layer, and its name: its outputs are the classes.

    Raises:
        ValueError: the last layer has none.
    """
    last = layers_of(model)[-1:]
    for name in reversed([name for layer in last for name in layer]):
        owner = name.rpartition(".")[0]
        module = model.get_submodule(owner)
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            return owner, module
    raise ValueError(
        f"{type(model).__name__} does not end in a linear layer or a convolution; its last layer has {last}"
    )


def outputs_of(model: nn.Module) -> list[str]:
    """Names of the modules that give a model's outputs: that of `head_of`, and others like it, of as many outputs, in
    the last layer. LRASPP has two.

    Raises ``ValueError`` as `head_of` does.
    """
    outputs = len(head_of(model)[1].weight)
    owners = dict.fromkeys(name.rpartition(".")[0] for name in layers_of(model)[-1])
    return [name for name in owners if _is_linear(model.get_submodule(name), outputs)]


def _is_linear(module: nn.Module, outputs: int) -> bool:
    return isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) and len(module.weight) == outputs


def _units(module: nn.Module, prefix: str) -> Iterator[tuple[bool, list[str]]]:
    """Parts of a module in the order in which they run: whether it is no layer of its own, and names."""
    told = getattr(module, "layer_order", None)
    if told is not None:
        yield from ((False, [f"{prefix}{name}" for name in unit]) for unit in told())
        return
    own = [f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False)]
    if own:
        yield bool(prefix) or any(True for _ in module.children()), own
    before: nn.Module | None = None
    for name, child in module.named_children():
        if isinstance(child, _LISTS) or hasattr(child, "layer_order") or _has_blocks(child):
            yield from _units(child, f"{prefix}{name}.")
        else:  # embeddings side by side, of words and of places, are one layer
            yield isinstance(child, nn.Embedding) and isinstance(before, nn.Embedding), [f"{prefix}{name}"]
        before = child


def _has_blocks(module: nn.Module) -> bool:
    """Whether lists in it have at least two blocks of one kind."""
    kinds = collections.Counter(
        type(item)
        for part in module.modules()
        if isinstance(part, _LISTS)
        for item in part.children()
        if not isinstance(item, _LISTS) and any(True for _ in item.children()) and any(True for _ in item.parameters())
    )
    return any(count > 1 for count in kinds.values())


def _paths(name: str) -> Iterable[str]:
    """Of "a.b.c": itself, and the modules it is in, "a.b" and "a"."""
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(len(parts), 0, -1))
