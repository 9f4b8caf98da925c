"""Text: chains of edits to numbers of words, and rows of batches made of what they leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from dalipipe.native.core import _C, check_array, check_threads
from dalipipe.native.images import Running, on_cuda
from dalipipe.native.structs import TOKEN_BAG, TOKEN_CHOICES, TOKEN_PASS, TOKEN_WEIGHTS

if TYPE_CHECKING:
    import torch

    Memory = np.ndarray | torch.Tensor


def edit_tokens(
    passes: np.ndarray,
    starts: np.ndarray,
    data: np.ndarray,
    lengths: np.ndarray,
    capacities: np.ndarray,
    places: np.ndarray,
    out: Memory,
    out_lengths: Memory,
    **options: Any,
) -> None:
    """`start_edit_tokens`, waited for."""
    _edit(passes, starts, data, lengths, capacities, places, out, out_lengths, wait=True, **options)


def start_edit_tokens(
    passes: np.ndarray,
    starts: np.ndarray,
    data: np.ndarray,
    lengths: np.ndarray,
    capacities: np.ndarray,
    places: np.ndarray,
    out: Memory,
    out_lengths: Memory,
    **options: Any,
) -> Running:
    """Takes N ragged texts through a pass or more each, or none, while the caller does something else.

    On the device that ``out`` lies on: the host, or, queued on a stream, a CUDA device. csrc/token.h says what each
    edit does; `dalipipe.ops.tokens` is the specification.

    Args:
        passes: `TOKEN_PASS` [P], host, sample after sample.
        starts: int32 [N+1], host: sample i has passes starts[i] to starts[i+1]; none: it stays as it is.
        data: uint64 [N], host: addresses, on ``out``'s device, of int32 tokens.
        lengths: int32 [N], host: tokens of each.
        capacities: int32 [N], host: the most tokens that a sample has, before, between and after its passes: an
            insertion adds max(least, floor(share · tokens)), a punctuation min(tokens, floor(share · tokens) + 1).
        places: int64 [N], host: where a sample's tokens go in ``out``, rising, each capacities[i] apart at least.
        out: int32 [T], an array or tensor on the host, or a CUDA tensor; T ≥ places[-1] + capacities[-1].
        out_lengths: int32 [N], where ``out`` is: tokens of each when its passes are done.
        choices: `TOKEN_CHOICES` [K]; bags: `TOKEN_BAG` [B]; weights: `TOKEN_WEIGHTS` [W]: what the passes name, None:
            they name none. Arrays on the host of addresses on ``out``'s device.
        threads: how many work at a time; on the host.
        stream: a cudaStream_t; None: torch's current one. On CUDA.
        keep: what owns the memory that addresses point to; on the host it is held until the passes have run.

    Raises:
        ValueError: anything that cannot be done, naming the sample, its pass and what came; on the host from ``wait``.
    """
    return _edit(passes, starts, data, lengths, capacities, places, out, out_lengths, wait=False, **options)


def count_rows(
    tokens: Memory,
    spans: Memory,
    starts: np.ndarray,
    *,
    pieces: tuple[Memory, Memory] | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    most: int | None = None,
    threads: int = 1,
    stream: int | None = None,
) -> Memory:
    """How many numbers stand in each of N rows, without padding: int32 [N], on the device of ``tokens``.

    A row is the prefix, the pieces of the tokens of its spans, the suffix. On CUDA the work is queued on the stream.

    Args:
        tokens: int32 [T], an array or tensor on the host, or a CUDA tensor: what `edit_tokens` left.
        spans: int64 [S, 2], where ``tokens`` are: the first token and how many; clipped to what there is.
        starts: int32 [N+1], host: row i is spans starts[i] to starts[i+1].
        pieces: (starts int32 [V+1], numbers int32 [P]), where ``tokens`` are: token t stands for numbers starts[t] to
            starts[t+1], and one beyond V for none. None: each token for itself.
        prefix, suffix: numbers before and behind all.
        most: numbers in a row at most, at least prefix and suffix: a longer one loses pieces at their end. None: any.
        threads: how many work at a time; on the host.
        stream: a cudaStream_t; None: torch's current one. On CUDA.

    Raises:
        ValueError: anything that cannot be done.
    """
    raise NotImplementedError


def write_rows(
    tokens: Memory,
    spans: Memory,
    starts: np.ndarray,
    out: Memory,
    *,
    pieces: tuple[Memory, Memory] | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    most: int | None = None,
    pad: int = 0,
    threads: int = 1,
    stream: int | None = None,
) -> None:
    """Writes the rows that `count_rows` counts, padded: ``out`` int64 [N, L], where ``tokens`` are; rows may lie apart.

    L takes part as ``most`` does: longer rows lose pieces. The other arguments are those of `count_rows`.
    """
    raise NotImplementedError
