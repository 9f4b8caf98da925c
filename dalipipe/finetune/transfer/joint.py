"""Two data sets at once: a source to learn from beside the target that matters, one trunk, a head for each."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dalipipe.finetune.layers import layers_of
from dalipipe.finetune.objectives import Fields, Objective, Scores, classify, settings_of
from dalipipe.finetune.transfer.heads import replace_head
from dalipipe.finetune.transfer.penalties import bare, minimised


class SideBySide:
    """Two loaders as one, for :func:`~dalipipe.finetune.finetune` and `Joint`: batches ``(target's, source's)``.

    An epoch is one of the target's. The source goes on where the last epoch left it, and begins anew, in its next
    order, as often as it must. The state holds both positions, so a run that is resumed after any step gets the batches
    that it would have got.

    Args:
        target, source: ``dalipipe.DataLoader``, or loaders with ``__len__``, ``state_dict`` and ``load_state_dict``;
            ``set_epoch`` is called where present. Batches may differ in size and in fields.

    Raises:
        TypeError: a loader lacks what is needed.
        ValueError: a loader without a batch, or two made for different numbers of processes.
    """

    def __init__(self, target: Any, source: Any) -> None:
        self.target, self.source = target, source
        for name, loader in (("target", target), ("source", source)):
            missing = [part for part in ("__len__", "state_dict", "load_state_dict") if not hasattr(loader, part)]
            if missing:
                raise TypeError(
                    f"SideBySide: the {name} loader ({type(loader).__name__}) has no {', '.join(missing)}; "
                    "use dalipipe.DataLoader"
                )
            if len(loader) == 0:
                raise ValueError(f"SideBySide: the {name} loader has no batch; is the batch larger than its data set?")
        ranks = [getattr(getattr(one, "sampler", None), "num_replicas", None) for one in (target, source)]
        if None not in ranks and ranks[0] != ranks[1]:
            raise ValueError(f"SideBySide: the target is shared by {ranks[0]} processes, the source by {ranks[1]}")
        self._rounds, self._given = 0, 0  # whole ones of the source, and batches given in the one under way
        self._batches: Iterator[Any] | None = None

    def __len__(self) -> int:
        return len(self.target)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for batch in self.target:
            yield batch, self._next_of_source()

    def __getattr__(self, name: str) -> Any:
        """What else is asked of it, such as ``device``, ``sampler`` and ``classes``, is the target's; and
        ``set_epoch``, where it has one.
        """
        if name.startswith("__") or name == "target":
            raise AttributeError(name)
        return getattr(self.target, name)

    def _next_of_source(self) -> Any:
        for _ in range(2):
            if self._batches is None:
                if self._given == 0 and hasattr(self.source, "set_epoch"):
                    self.source.set_epoch(self._rounds)
                self._batches = iter(self.source)
            batch = next(self._batches, None)
            if batch is not None:
                self._given += 1
                if self._given == len(self.source):  # noted now, so that a state taken here says the next round
                    self._rounds, self._given = self._rounds + 1, 0
                return batch
            self._batches = None
        raise RuntimeError(f"SideBySide: the source promised {len(self.source)} batches and gave none")

    def state_dict(self) -> dict[str, Any]:
        """Both positions, counted in batches given to the user."""
        position = {"rounds": self._rounds, "given": self._given}
        return {"target": self.target.state_dict(), "source": self.source.state_dict(), **position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next ``iter`` continues there.

        Raises:
            ValueError: it is no state of a SideBySide, or what the loaders have to say to theirs; all stays as it was.
        """
        if not isinstance(state, dict) or not state.keys() >= {"target", "source", "rounds", "given"}:
            raise ValueError("SideBySide: the saved state is that of one loader, not of a target beside a source")
        before = self.target.state_dict()
        self.target.load_state_dict(state["target"])
        try:
            self.source.load_state_dict(state["source"])
        except BaseException:
            self.target.load_state_dict(before)
            raise
        self._rounds, self._given, self._batches = state["rounds"], state["given"], None

    def close(self) -> None:
        """Frees what both hold, where they have a ``close``."""
        self._batches = None
        for loader in (self.target, self.source):
            getattr(loader, "close", lambda: None)()


class SharedTrunk(nn.Module):
    """Two models of one trunk. On its own it is the target's: inputs → the target's logits.

    The two share the parameters of all layers but the last; those of the last layers are each one's own, and so are
    the statistics of all BatchNorms: a batch is normalised among its own kind, and the target is evaluated with the
    statistics of the target. Make it with `share_trunk`.

    Attributes:
        target, source: the models, whose shared parameters are the same tensors. ``target`` is what to keep after
            training.
    """

    def __init__(self, target: nn.Module, source: nn.Module) -> None:
        super().__init__()
        self.target, self.source = target, source

    def layer_order(self) -> list[list[str]]:
        """For `dalipipe.finetune.layers_of`: layers of the same depth are one."""
        parts = (("target", self.target), ("source", self.source))
        of_each = [[[f"{part}.{name}" for name in layer] for layer in layers_of(model)] for part, model in parts]
        return [a + b for a, b in zip(*of_each, strict=True)]

    def forward(self, *inputs: Any) -> Any:
        """The target's inputs; or a function, which is called with the two models, target's and source's, and whose
        result is given back: so that both are run within one forward pass, as DistributedDataParallel wants it.
        """
        if inputs and not isinstance(inputs[0], Tensor) and callable(inputs[0]):
            return inputs[0](self.target, self.source)
        return self.target(*inputs)


def share_trunk(model: nn.Module, source_classes: int, *, own_layers: int = 1) -> SharedTrunk:
    """A model, which becomes the target's, beside one for the source that shares its trunk: any of torchvision, timm,
    Hugging Face or your own that ends in a linear layer or a convolution.

    Args:
        model: with the target's classes; it is used, not copied.
        source_classes: outputs of the source's head, which starts at random.
        own_layers: how many of the last layers, as `layers_of` counts them, each has for itself, >= 1. With 1 it is
            the heads: the same architecture serves both (generalised transfer). With more, the upper layers specialise;
            the source's start as copies of the target's.

    Raises:
        ValueError: fewer than one class; as many own layers as the model has, or none; or no head is found.
    """
    layers = layers_of(model)
    if not 1 <= own_layers < len(layers):
        raise ValueError(
            f"share_trunk: own_layers must be in 1..{len(layers) - 1}, as {type(model).__name__} has {len(layers)} "
            f"layers and some must be shared, got {own_layers}"
        )
    parameters = dict(model.named_parameters())
    shared = [parameters[name] for layer in layers[:-own_layers] for name in layer]
    source = copy.deepcopy(model, {id(parameter): parameter for parameter in shared})
    replace_head(source, source_classes)
    return SharedTrunk(model, source)


class Joint:
    """The objective of training on two data sets at once: the source's mean loss + weight · the target's.

    What is measured (losses, what is right) is the target's. With ``weight`` 0 the trunk learns as from the source
    alone; the larger it is, the more the target counts, and the source becomes a regulariser::

        train = SideBySide(target_loader, source_loader)
        finetune(share_trunk(model, 1000), train, val, config, objective=Joint(weight=1.0))

    Args:
        weight: λ, >= 0.
        target, source: each one's own objective: classification, segmentation, or what you have.

    Raises:
        ValueError: the weight is out of range.
        TypeError: when called with a model that is no `SharedTrunk`.
    """

    def __init__(self, weight: float = 1.0, *, target: Objective = classify, source: Objective = classify) -> None:
        if not (isinstance(weight, (int, float)) and 0 <= weight < math.inf):
            raise ValueError(f"Joint: weight must be a number in [0, inf), got {weight!r}")
        self.weight, self.target, self.source = float(weight), target, source

    @property
    def settings(self) -> dict[str, Any]:
        """See `settings_of`."""
        return {"weight": self.weight, "target": settings_of(self.target), "source": settings_of(self.source)}

    def __call__(self, model: nn.Module, batch: Fields, label_smoothing: float = 0.0) -> Scores:
        if isinstance(batch[0], Tensor):  # of the target alone: in validation
            return self.target(model, batch, label_smoothing)
        if not isinstance(bare(model), SharedTrunk):
            raise TypeError(f"Joint: the model must be made by share_trunk, got {type(bare(model)).__name__}")
        of_target, of_source = batch

        def both(target: nn.Module, source: nn.Module) -> tuple[Scores, Scores]:
            others = self.source(source, of_source, label_smoothing)
            return self.target(target, of_target, label_smoothing), others

        use: Callable[[nn.Module, nn.Module], tuple[Scores, Scores]] = both
        scores, others = model(use)
        total: torch.Tensor = minimised(others) + self.weight * minimised(scores)
        return scores._replace(minimised=total)
