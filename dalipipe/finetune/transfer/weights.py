"""Weights from files and from other models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dalipipe.finetune.layers import layers_of, outputs_of

_WRAPPERS = ("model.", "target.", "model.target.", "module.", "_orig_mod.")
_UNUSED = ("aux", "AuxLogits")  # heads of torchvision's models that are for training from scratch


def start_from(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    name: str,
    origin: object = "the weights",
    same_classes: bool = True,
) -> list[str]:
    """Copies weights into a model, all but a head's of other classes; gives the names of the tensors that stay as they
    are, which is at random for a model just made.

    Names may stand behind "model.", "module." (DistributedDataParallel), or "target." (`SharedTrunk`), or lack the
    "model." that our models around Hugging Face's have.

    Args:
        model: left as it was where an error is raised.
        weights: by name, as :func:`~dalipipe.finetune.read_weights` gives them.
        name, origin: the model's name, and where the weights are from, for messages.
        same_classes: whether outputs of the same number are those of the same classes, in the same order. Where they
            are not, the head stays as it is.

    Raises:
        ValueError: they are those of another model: names that this one does not have; names that it has and they
            lack, but for its last layer; or tensors of other shapes, but where only the number of outputs differs. Or
            the head is to stay, and none is found.
    """
    own = model.state_dict()
    loaded = max(_views(weights), key=lambda view: len(own.keys() & view.keys()))
    head = set(layers_of(model)[-1])
    foreign = [key for key in loaded if key not in own and not key.startswith(_UNUSED)]
    absent = [key for key in own if key not in loaded and key not in head and not key.endswith("num_batches_tracked")]
    problem = ""
    if foreign or absent:
        problem = f"it has {foreign[0]!r}" if foreign else f"it lacks {absent[0]!r}"
    fresh = [key for key in own if key not in loaded and not key.endswith("num_batches_tracked")]
    outputs = _outputs(model, head)
    of_others = set() if same_classes else set(outputs_of(model))
    for key in own:
        there, here = loaded.get(key, own[key]).shape, own[key].shape
        if there == here:
            if key in loaded and key.rpartition(".")[0] in of_others:
                fresh.append(key)
            continue
        if not (len(there) == len(here) and here[:1] == (outputs,) and there[1:] == here[1:]):
            problem = problem or f"{key!r} is {list(there)} there and {list(here)} here"
        fresh.append(key)
    if problem:
        raise ValueError(f"{origin} holds no weights of a {name}: {problem}; give the file made for this model")
    model.load_state_dict({**own, **{key: loaded[key] for key in own.keys() & loaded.keys() - set(fresh)}})
    order = list(own)
    return sorted(fresh, key=order.index)


class Carried(NamedTuple):
    """What :func:`carry_weights` did, as names of the larger model's tensors."""

    whole: list[str]
    """Copied."""
    part: list[str]
    """Wider than what was copied into their beginning."""
    fresh: list[str]
    """Left as they were: the smaller model has none of the name, or none that fits."""


def carry_weights(small: nn.Module | Mapping[str, Tensor], large: nn.Module) -> Carried:
    """Copies a smaller model's weights into a larger one of its kind, by name: such as one trained on a drawn subset,
    whose target model then trains on all.

    Where the larger model is wider, the smaller one's numbers come first, in outputs and inputs, and what its outputs
    would get from new inputs is set to zero; the rest stays as it was. So in networks that are layer after layer,
    with sums and with norms by channel (BatchNorm) between, the larger model begins with the very function of the
    smaller one, and the new parts learn from there (compare T. Chen, I. Goodfellow and J. Shlens, "Net2Net", 2016).
    Where channels are concatenated, split into heads, or normalised together, it is only a start. Layers that only the
    larger model has stay as they were.

    Args:
        small: a model, or its state dict.
        large: changed in place.

    Raises:
        ValueError: nothing fits.
    """
    given = small.state_dict() if isinstance(small, nn.Module) else small
    own = large.state_dict()
    carried = Carried([], [], [])
    with torch.no_grad():
        for name, value in own.items():
            old = given.get(name)
            if old is None or old.ndim != value.ndim or old.shape[2:] != value.shape[2:]:
                carried.fresh.append(name)
            elif old.shape == value.shape:
                value.copy_(old)
                carried.whole.append(name)
            elif all(a <= b for a, b in zip(old.shape, value.shape, strict=True)):
                rows = value[: len(old)]
                if value.ndim > 1:
                    rows[:, old.shape[1] :] = 0
                    rows = rows[:, : old.shape[1]]
                rows.copy_(old)
                carried.part.append(name)
            else:
                carried.fresh.append(name)
    if not carried.whole and not carried.part:
        raise ValueError(
            f"carry_weights: no tensor of the smaller model fits one of {type(large).__name__} by name and shape; it "
            f"has {next(iter(given), 'none')!r}, the larger one {next(iter(own), 'none')!r}"
        )
    return carried


def _views(weights: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """The weights by the names that they may have had before something was wrapped around their model."""
    yield weights
    for prefix in _WRAPPERS:
        inner = _under(prefix, weights)
        if inner:
            yield inner
    yield {f"model.{name}": value for name, value in weights.items()}


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _outputs(model: nn.Module, head: set[str]) -> int:
    """Of the last layer: as many as its last parameter has."""
    return next((len(value) for name, value in reversed(list(model.named_parameters())) if name in head), 0)
