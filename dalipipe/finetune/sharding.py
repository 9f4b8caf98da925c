"""Weights, gradients and optimiser states dealt out among the processes (FSDP2), and put together again for files."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

_UNIT_SHARE = 1e-3  # of the parameters: what is smaller is not worth an exchange of its own


def shard(model: nn.Module, device: torch.device) -> None:
    """Deals out the model's parameters among the processes of the default group, rank 0's values; each layer of theirs
    is put together while it computes (torch's ``fully_shard``; S. Rajbhandari et al., *ZeRO*, 2020). In place.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    share_weights([*model.parameters(), *model.buffers()])
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in units(model):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)


def units(model: nn.Module) -> list[nn.Module]:
    """What is put together at once: the elements of the model's outermost lists and sequences of layers that are worth
    it, such as a transformer's blocks or a ResNet's stages, and of the lists within these; inner ones first. The rest,
    and what several of them share, such as tied weights, belongs to the whole.
    """
    tied = _tied(model)
    least = _UNIT_SHARE * sum(parameter.numel() for parameter in model.parameters())
    found = []
    for holder in reversed(list(model.modules())):  # parents come before their children there
        if isinstance(holder, (nn.ModuleList, nn.Sequential)):
            for layer in holder.children():
                own = set(layer.parameters())
                is_single = next(layer.children(), None) is None or isinstance(layer, nn.ModuleList)  # has no forward
                if not (is_single or own & tied) and sum(parameter.numel() for parameter in own) >= least:
                    found.append(layer)
    return list(dict.fromkeys(found))


def _tied(model: nn.Module) -> set[nn.Parameter]:
    """Parameters that the model has in several places."""
    seen: set[nn.Parameter] = set()
    tied: set[nn.Parameter] = set()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        (tied if parameter in seen else seen).add(parameter)
    return tied


def share_weights(tensors: list[torch.Tensor]) -> None:
    """All processes get rank 0's values."""
    for tensor in tensors:
        dist.broadcast(tensor.detach(), 0)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's part of a tensor, in the same memory; all of one that is not dealt out."""
    part: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def whole(value: Any, *, keep: bool = True) -> Any:
    """A state with its tensors put together, on the CPU, in memory of their own; those that shared their memory share
    it again. All ranks must call it; those that do not ``keep`` it get None for tensors.
    """
    copies: dict[Any, torch.Tensor] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(walk(item) for item in value)
        if not isinstance(value, torch.Tensor):
            return value
        part = local(value)
        place = part.device, part.data_ptr(), value.dtype, value.shape, value.stride()
        full = value.full_tensor() if hasattr(value, "full_tensor") else value
        if not keep:
            return None
        if place not in copies or not part.numel():
            copies[place] = full.detach().to("cpu", copy=True)
        return copies[place]

    return walk(value)


def like(value: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """``value`` where, laid out and dealt out as ``model`` is, a tensor of the same shape.

    Fused optimisers walk through a parameter and its states as they lie in memory: the same order is a must.
    """
    if not hasattr(model, "to_local"):
        return torch.empty_like(model, dtype=value.dtype).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    there: Any = model
    return distribute_tensor(value.to(model.device), there.device_mesh, there.placements, src_data_rank=None)
