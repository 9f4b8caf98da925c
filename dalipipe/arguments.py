"""What a `DataLoader` is asked for, as torch's reads its arguments: checked, and in dalipipe's words."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import DistributedSampler

from dalipipe.conversion import OnUnsupported, Report, convert
from dalipipe.orders import GivenBatches, Order, Sequential, Shuffled, TokenBatches, as_order, whole
from dalipipe.plan import Plan
from dalipipe.policy import Phases, Policy
from dalipipe.sources.base import Source
from dalipipe.stages import StagedPlan


def phases_of(
    policy: Policy | Phases | None, source: Source, on_unsupported: OnUnsupported
) -> tuple[Phases, Report | None]:
    """Those given, a policy being one; or what the source's transform is converted to, and how closely."""
    given = Phases({0: policy}) if isinstance(policy, Policy) else policy
    front = source.front
    if front is not None:
        if given is None:
            given = Phases({0: Policy([], first_slot=front.end_slot)})
        return given.map(lambda one: one.after(front)), None
    if source.transform is None:
        return given or Phases({0: Policy([])}), None
    if given is not None:
        raise ValueError(
            f"DataLoader: the data set has a transform, {type(source.transform).__name__}, and there is a policy: give "
            "one of them"
        )
    channels = next((field.channels for field in source.schema.of_kind("image")), None)
    converted, report = convert(source.transform, on_unsupported=on_unsupported, channels=channels or 3)
    return Phases({0: converted}), report


def check_draws(draw_epochs: int, plans: dict[int, Plan | StagedPlan]) -> None:
    """Whether the same pictures can come again."""
    again = f"DataLoader: draw_epochs={draw_epochs} has the same pictures come again"
    if len(plans) > 1:
        raise ValueError(f"{again}, but the policy changes with the epochs {list(plans)}: leave one of them out")
    for plan in plans.values():
        if plan.mix is not None:
            mixing = " and ".join(type(op).__name__ for op in plan.mix.ops)
            raise ValueError(
                f"{again}, but {mixing} mixes each with others of its batch, which are others in each epoch: leave one "
                "of them out"
            )


def check_count(name: str, value: Any, least: int) -> None:
    """Raises ``TypeError`` and ``ValueError`` for what is no whole number from ``least`` on."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f"DataLoader: {name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"DataLoader: {name} must be at least {least}, got {value}")


def order_of(
    shuffle: bool, sampler: Any, batch_sampler: Any, *, batch_size: int, drop_last: bool, shards: str
) -> Order:
    """The order asked for, as torch's ``DataLoader`` reads its arguments."""
    if isinstance(batch_sampler, TokenBatches):
        if batch_size != 1 or shuffle or sampler is not None:
            raise ValueError(
                "DataLoader: TokenBatches says which samples make which batch: give it without batch_size, shuffle "
                "and sampler"
            )
        return batch_sampler
    if isinstance(batch_sampler, Order):
        raise ValueError(
            f"DataLoader: {type(batch_sampler).__name__} says which sample follows which: give it as sampler="
        )
    if batch_sampler is not None:
        if batch_size != 1 or shuffle or sampler is not None or drop_last or shards != "equal":
            raise ValueError(
                "DataLoader: batch_sampler says which samples make which batch: give it without batch_size, shuffle, "
                "sampler, drop_last and shards"
            )
        return GivenBatches(batch_sampler)
    if sampler is None:
        return Shuffled() if shuffle else Sequential()
    if shuffle:
        raise ValueError("DataLoader: sampler says the order, so shuffle=True cannot be had with it")
    return whole(sampler) if isinstance(sampler, DistributedSampler) else as_order(sampler)


def rank_and_world(rank: int | None, world_size: int | None, sampler: Any) -> tuple[int | None, int | None]:
    """Those given, or a sampler's; ``None``: those of torch.distributed, once it has begun."""
    if (rank is None) != (world_size is None):
        raise ValueError(
            f"DataLoader: give both rank and world_size or neither, got rank={rank}, world_size={world_size}"
        )
    if rank is not None and world_size is not None:
        return rank, world_size
    if isinstance(sampler, DistributedSampler):
        return sampler.rank, sampler.num_replicas
    if sampler is not None and not isinstance(sampler, Order):  # it speaks for this rank
        return 0, 1
    return None, None
