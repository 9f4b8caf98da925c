"""Two samples through a model before a run begins: what it cannot take is said at once, with what helps."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from dalipipe.finetune import FineTuneConfig, Layers, Objective
    from dalipipe.loader import DataLoader


def try_out(
    model: nn.Module, objective: Objective, loader: DataLoader, *, name: str, config: FineTuneConfig, layers: Layers
) -> None:
    """Takes two samples of the loader's data, as it gives them, through the model and its objective, where both are.
    Afterwards all is as it was, but for the generators of random numbers. ``name``: the model's.

    Raises:
        ValueError: the model cannot take them, for their size, say; what the objective has to say; or batches of one
            that a BatchNorm cannot learn from.
    """
    import torch

    from dalipipe.orders import Sequential, Subset

    device = next(model.parameters()).device
    count = min(2, len(loader.dataset))
    few = loader.again(
        batch_size=count,
        shuffle=False,
        sampler=Subset(range(count), Sequential()),
        batch_sampler=None,
        drop_last=False,
        num_workers=1,
        device=device,
        rank=0,
        world_size=1,
        cache=None,
        cache_bytes=None,
        quarantine=None,
    )
    with contextlib.closing(few):
        fields = list(next(iter(few)))
    was_training = model.training
    try:
        with torch.no_grad():
            objective(model.eval(), fields, config.label_smoothing)
            if loader.batch_size == 1:  # norms that learn want more; a copy, as they note down what they see
                learning = copy.deepcopy(model)
                layers.begin_epoch(learning, config.epochs - 1)
                layers.train(learning)
                objective(learning, [value[:1] for value in fields], config.label_smoothing)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        if "more than 1 value per channel" in str(error):
            raise ValueError(
                f"{name} normalises over its batches, which must then have two samples or more on each process: give a "
                "larger --batch-size"
            ) from error
        if isinstance(error, ValueError):
            raise
        shape = list(fields[0].shape[1:])
        raise ValueError(
            f"{name} cannot take samples of {shape}: {str(error).splitlines()[0]}{_remedy(model, fields[0])}"
        ) from error
    finally:
        model.train(was_training)


def _remedy(model: Any, inputs: Any) -> str:
    """Of pictures of another size than the model was made for."""
    if inputs.ndim != 4:
        return ""
    told = getattr(model, "pretrained_cfg", None) or {}  # timm's
    edge = getattr(model, "image_size", None) or (told.get("input_size") or [None])[-1]  # torchvision's
    if edge is None:
        return "; another --size may do"
    return f"; it is made for pictures of {edge} px: give --size {edge}"
