"""The processes that train together: who this one is, and what all of them have to agree on.

Gradients are the business of ``DistributedDataParallel``, or of ``fully_shard`` where weights are dealt out (gloo on
the CPU, nccl on GPUs). All else, such as the sums of metrics and whether to stop, goes through a gloo group of its own,
in host memory: it never waits for a GPU, and it notices a process that has died at once, where nccl would wait for its
time limit.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dalipipe.finetune.interrupts import Interrupted
from dalipipe.finetune.rendezvous import fresh_store
from dalipipe.finetune.sharding import shard, share_weights

TIMEOUT_S = 300.0


class PeerLostError(RuntimeError):
    """The processes could not do together what they had to: one of them has died, or it hangs."""


class Ranks:
    """The processes of a run, as this one sees them. Without arguments: it is alone, and agrees with itself for free.

    Made by :func:`process_group`, or by :meth:`joined` where the script has called ``init_process_group`` itself.

    Attributes:
        rank: this process, 0 to ``world_size`` - 1.
        world_size: how many there are.
        main: whether this is the one that prints, and writes checkpoints and metrics: rank 0.
        timeout_s: how long a process waits for the others.
        place: where the run is, for messages.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, *, timeout_s: float = TIMEOUT_S) -> None:
        self.rank, self.world_size, self.timeout_s = rank, world_size, timeout_s
        self.place = "the start"
        self._ballot: tuple[Any, torch.Tensor] | None = None  # the vote under way
        self._group: Any = None
        self._sharded = False  # the model, see shard()

    @classmethod
    def joined(cls, *, timeout_s: float = TIMEOUT_S) -> Ranks:
        """Those of ``torch.distributed``, where it is initialised; else this process alone. All ranks must call it."""
        ranks = cls(timeout_s=timeout_s)
        if dist.is_available() and dist.is_initialized():
            ranks.rank, ranks.world_size = dist.get_rank(), dist.get_world_size()
            with ranks.during("making a group"):
                ranks._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        return ranks

    @property
    def main(self) -> bool:
        return self.rank == 0

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"

    def share(self, global_batch: int) -> int:
        """This rank's part of a batch that all ranks make together.

        Raises:
            ValueError: the batch cannot be divided equally.
        """
        if global_batch % self.world_size:
            below = global_batch - global_batch % self.world_size
            fitting = f"{below} or {below + self.world_size}" if below else f"{self.world_size}"
            raise ValueError(
                f"a batch of {global_batch} cannot be shared equally by {self.world_size} processes: the batch size "
                f"is that of all processes together, so give a multiple of {self.world_size}, {fitting} say"
            )
        return global_batch // self.world_size

    def parallel(self, model: nn.Module) -> nn.Module:
        """``model`` such that its backward pass averages the gradients of all ranks. Rank 0's weights go to all, and
        so do its buffers, before each forward pass. One that is dealt out, see :meth:`shard`, does so by itself.
        """
        if self.world_size == 1 or self._sharded:
            return model
        with self.during("the first exchange of weights"):
            return DistributedDataParallel(model, gradient_as_bucket_view=True)

    def shard(self, model: nn.Module, device: torch.device) -> None:
        """Deals out the model's parameters, in place: each rank keeps its part, and gets the others' as it needs them.
        The values are rank 0's.
        """
        if self.world_size > 1:
            with self.during("dealing out weights"):
                shard(model, device)
            self._sharded = True

    def exchange(self, parallel: nn.Module, wanted: bool) -> AbstractContextManager[Any]:
        """While entered, gradients of ``parallel`` are averaged over the ranks, or, where that is not ``wanted``, kept
        until they are. It must be entered for forward and backward.
        """
        if self._sharded:
            parallel.set_requires_gradient_sync(wanted)  # type: ignore[operator]
        if self.world_size == 1 or wanted or self._sharded:
            return contextlib.nullcontext()
        without: AbstractContextManager[Any] = parallel.no_sync()  # type: ignore[operator]
        return without

    def share_buffers(self, model: nn.Module) -> None:
        """Rank 0's buffers for all, such as the statistics of BatchNorm, where the model does not do so by itself."""
        if self._sharded:
            with self.during("the broadcast of buffers"):
                share_weights(list(model.buffers()))

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks, in double precision: the same result everywhere."""
        if self.world_size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        with self.during("summing metrics"):
            dist.all_reduce(sums, group=self._group)
        return sums.tolist()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """A tensor's mean over the ranks, float32, where it is: the host does not wait for the device."""
        mean = value.float()
        if self.world_size > 1:
            mean = mean / self.world_size
            with self.during("counting predictions"):
                dist.all_reduce(mean)
        return mean

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value``, in the order of ranks, on all of them."""
        values = [value] * self.world_size
        if self.world_size > 1:
            with self.during("gathering states"):
                dist.all_gather_object(values, value, group=self._group)
        return values

    def check_equal(self, **values: Any) -> None:
        """Raises a ValueError on all ranks where one has another value than rank 0: better than to train nonsense."""
        everyone = self.gather(values)
        for name, first in everyone[0].items():
            for rank, theirs in enumerate(everyone):
                if theirs[name] != first:
                    raise ValueError(
                        f"the processes differ in {name}: rank 0 has {first}, rank {rank} has {theirs[name]}"
                    )

    def wait(self) -> None:
        """Until all ranks have come here."""
        if self.world_size > 1:
            with self.during("waiting for each other"):
                dist.all_reduce(torch.zeros(()), group=self._group)

    def vote(self, signum: int | None) -> int | None:
        """What all ranks take for the signal to stop at, when this one has received ``signum``: the same on all.

        Called by every rank after every step. The votes of one call are counted while the next step runs and are the
        next call's result. So nobody waits, but for a rank that is more than a whole step behind.
        """
        if self.world_size == 1:
            return signum
        agreed = self.last_vote()
        if agreed is None:
            ballot = torch.tensor(signum or 0)
            with self.during("voting on whether to stop"):
                self._ballot = dist.all_reduce(ballot, dist.ReduceOp.MAX, group=self._group, async_op=True), ballot
        return agreed

    def last_vote(self) -> int | None:
        """The result of the vote under way, which ends it."""
        if self._ballot is None:
            return None
        (work, ballot), self._ballot = self._ballot, None
        with self.during("voting on whether to stop"):
            work.wait()
        return int(ballot) or None

    def during(self, what: str) -> AbstractContextManager[Any]:
        """Turns what torch says when another process is gone into a :class:`PeerLostError`: ``what`` failed."""
        return contextlib.nullcontext() if self.world_size == 1 else self._during(what)

    @contextlib.contextmanager
    def _during(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, PeerLostError) or not _is_of_the_network(error):
                raise
            raise PeerLostError(
                f"{self}: {what} failed at {self.place}, so another process has probably died, or hung for more than "
                f"{self.timeout_s:g} s; its last words, if any, name the cause. Here torch said: {_reason(error)}"
            ) from error


def _is_of_the_network(error: RuntimeError) -> bool:
    """Gloo has no exceptions of its own: it is known by the file names in its messages."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))


def _reason(error: RuntimeError) -> str:
    """What the message says, without the place in gloo's sources before it and the good advice behind it."""
    return re.sub(r"^\[\S+\.\w+:\d+\] ", "", str(error).strip()).splitlines()[0].partition(". This is typically")[0]


@contextlib.contextmanager
def process_group(device: str | torch.device = "auto", *, timeout_s: float = TIMEOUT_S) -> Iterator[Ranks]:
    """Joins the other processes that ``torchrun`` has started, while entered; without torchrun, this one is alone.

        with process_group() as ranks:
            train = dalipipe.DataLoader(data, ranks.share(256), seed=0, ...)
            finetune(model, train, val, config, ranks=ranks)

    It reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. On GPUs it uses nccl and makes
    :func:`local_device` the current device, where ``device="auto"`` of the loader finds it; on the CPU it uses gloo.

    Args:
        device: where this process computes, as for :func:`local_device`.
        timeout_s: how long a process waits for another one that says nothing. One that dies is noticed at once.

    Raises:
        ValueError: the variables make no sense, or there is no such device.
        PeerLostError: not all processes came within the time.
    """
    if not timeout_s > 0:
        raise ValueError(f"process_group: timeout_s must be positive, got {timeout_s}")
    device = local_device(device)
    world_size, rank = _variable("WORLD_SIZE", 1), _variable("RANK", 0)
    if not 0 <= rank < world_size:
        raise ValueError(
            f"RANK={rank} with WORLD_SIZE={world_size}: RANK must lie below WORLD_SIZE; torchrun sets both"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size == 1 or dist.is_initialized():
        yield Ranks.joined(timeout_s=timeout_s)
        return
    nccl = device.type == "cuda"
    try:
        dist.init_process_group(
            "nccl" if nccl else "gloo",
            store=fresh_store(rank, world_size, timeout_s=timeout_s),
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
            device_id=device if nccl else None,
        )
    except RuntimeError as error:
        if not _is_of_the_network(error):
            raise
        raise PeerLostError(
            f"rank {rank} of {world_size}: not all processes came within {timeout_s:g} s, or MASTER_ADDR and "
            f"MASTER_PORT name no reachable place. Here torch said: {_reason(error)}"
        ) from error
    orderly, ranks = False, None
    try:
        ranks = Ranks.joined(timeout_s=timeout_s)
        yield ranks
        orderly = True
    except Interrupted:  # all ranks have agreed on it
        orderly = True
        raise
    finally:
        if ranks is not None:  # an error's traceback may keep it until Python ends, when the group could only abort
            ranks._group = ranks._ballot = None
        if nccl and not orderly:  # the GPU may be waiting for a process that is gone: it would not let this one go
            with contextlib.suppress(Exception):  # the error that brought us here is the one to tell
                dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()


def local_device(wanted: str | torch.device = "auto") -> torch.device:
    """Where this process of a machine computes: GPU number LOCAL_RANK, or the CPU.

    Args:
        wanted: "auto" (a GPU where there is one), "cpu", "cuda", or, for a process alone, "cuda:N".

    Raises:
        ValueError: no such device here, or one GPU for several processes.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {wanted!r}")
    if device.type == "cpu":
        return device
    found, local_rank = torch.cuda.device_count(), _variable("LOCAL_RANK", 0)
    several = _variable("WORLD_SIZE", 1) > 1 and found > 1  # one: whoever started this process chose it
    if several and device.index not in (None, local_rank):
        raise ValueError(f"device {wanted} cannot be shared by several processes: give cuda, and each gets its own")
    index = device.index if device.index is not None else local_rank
    if index >= found:
        raise ValueError(
            f"device {wanted} for process {local_rank} of this machine is GPU {index}, and torch sees {found} GPUs; "
            "see dalipipe doctor"
        )
    return torch.device("cuda", index)


def _variable(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise ValueError(f"the environment variable {name} must be a whole number, got {value!r}; torchrun sets it")
    return int(value)
