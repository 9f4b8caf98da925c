"""Where processes find each other: torch's store, with nothing in it from processes that are gone.

When torchrun starts processes anew (``--max-restarts``, or machines that join), it keeps the store that the ones before
wrote their addresses into (pytorch issue 135712), and the new ones try those. So the new ones first agree on a prefix
that nobody has used before.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from typing import Any

import torch.distributed as dist

_POLL_S = 0.02


def fresh_store(rank: int, world_size: int, *, timeout_s: float) -> Any:
    """A store for ``init_process_group`` that all of these processes share, and no earlier ones did.

    Raises:
        ValueError: MASTER_ADDR or MASTER_PORT is missing.
        torch.distributed.DistError: the other processes, or the store, do not answer within the time.
    """
    timeout = timedelta(seconds=timeout_s)
    store = next(iter(dist.rendezvous("env://", rank, world_size, timeout=timeout)))[0]
    store.set_timeout(timeout)
    return dist.PrefixStore(agree_on_prefix(store, rank, world_size, timeout_s=timeout_s), store)


def agree_on_prefix(store: Any, rank: int, world_size: int, *, timeout_s: float) -> str:
    """Rank 0's choice, made known to the others under names of their own, so that nobody takes an old answer for it.

    Old greetings get an answer too, which nobody reads; rank 0 is done when all the new ones have confirmed.
    """
    if rank > 0:
        name = uuid.uuid4().hex
        store.set(f"dalipipe/greeting/{rank}", name)
        prefix: str = store.get(f"dalipipe/answer/{name}").decode()  # waits for it
        store.set(f"{prefix}/confirmed/{rank}", "yes")
        return prefix
    prefix = f"dalipipe/{uuid.uuid4().hex}"
    greetings = [f"dalipipe/greeting/{other}" for other in range(1, world_size)]
    confirmed = [f"{prefix}/confirmed/{other}" for other in range(1, world_size)]
    answered, until_s = set(), time.monotonic() + timeout_s
    while not all(store.check([key]) for key in confirmed):
        if time.monotonic() > until_s:
            raise dist.DistStoreError(f"not all of {world_size - 1} others came")
        for key in greetings:
            name = store.get(key).decode() if store.check([key]) else ""
            if name and name not in answered:
                store.set(f"dalipipe/answer/{name}", prefix)
                answered.add(name)
        time.sleep(_POLL_S)
    return prefix
