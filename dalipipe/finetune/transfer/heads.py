"""A model's head replaced by one with other outputs."""

from __future__ import annotations

from torch import nn

from dalipipe.finetune.layers import head_of, outputs_of


def replace_head(model: nn.Module, classes: int) -> list[str]:
    """Puts a new last layer, of ``classes`` outputs, which starts at random, in the place of a model's, and gives the
    names of its parameters. It finds those of torchvision, timm, Hugging Face and our own models, see `head_of`.

    Raises:
        ValueError: fewer than one class, or a model that does not end in a linear layer or a convolution, or ends in
            several.
    """
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(f"replace_head: classes must be a whole number, at least 1, got {classes!r}")
    name, head = head_of(model)
    if not name:
        raise ValueError(f"replace_head: the model is its own head, {head}: make a new one instead")
    if len(several := outputs_of(model)) > 1:
        raise ValueError(
            f"replace_head: {type(model).__name__} gives its outputs by {len(several)} layers, "
            f"{' and '.join(several)}: take a model that ends in one"
        )
    has_bias = head.bias is not None
    new: nn.Module
    if isinstance(head, nn.Linear):
        new = nn.Linear(head.in_features, classes, bias=has_bias)
    else:
        kind: type[nn.Conv1d] | type[nn.Conv2d] = nn.Conv1d if isinstance(head, nn.Conv1d) else nn.Conv2d
        window = {"stride": head.stride, "padding": head.padding, "dilation": head.dilation}
        new = kind(head.in_channels, classes, head.kernel_size, bias=has_bias, **window)  # type: ignore[arg-type]
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new.to(head.weight))
    return [f"{name}.{part}" for part, _ in new.named_parameters()]
