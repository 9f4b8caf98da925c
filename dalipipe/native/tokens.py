"""Text: chains of edits to numbers of words, and rows of batches made of what they leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dalipipe.native.core import _C, check_array, check_threads
from dalipipe.native.images import Running, on_cuda
from dalipipe.native.structs import TOKEN_BAG, TOKEN_CHOICES, TOKEN_PASS, TOKEN_WEIGHTS

if TYPE_CHECKING:
    import torch

    Memory = np.ndarray | torch.Tensor

_MOST = 2**31 - 1  # int32


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


def start_make_batch(
    passes: np.ndarray,
    starts: np.ndarray,
    data: np.ndarray,
    lengths: np.ndarray,
    capacities: np.ndarray,
    places: np.ndarray,
    edited: Memory,
    edited_lengths: Memory,
    out: Memory,
    *,
    pieces: tuple[Memory, Memory] | None = None,
    prefix: Sequence[int] = (),
    suffix: Sequence[int] = (),
    most: int | None = None,
    multiple: int = 1,
    pad: int = 0,
    choices: np.ndarray | None = None,
    bags: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    threads: int = 1,
    keep: Any = None,
) -> Callable[[], tuple[int, np.ndarray]]:
    """All that becomes of N texts on the host, `edit_tokens`, `count_rows` and `write_rows` with a row each, while the
    caller does something else.

    What is returned waits, and gives L, how long rows are (the longest, rounded up to a ``multiple``, at most
    ``most``), and int64 [N]: numbers in each. ``edited``, ``edited_lengths``: ``out`` and ``out_lengths`` of
    `edit_tokens`. ``out`` int64 [M], M ≥ N · L: rows are written at its beginning. The other arguments are those of the
    three.

    Raises:
        ValueError: anything that cannot be done, and, when waited for, where ``out`` is too small.
    """
    what = "edit_tokens"
    params, _, held = _params(
        what, passes, starts, data, lengths, capacities, places, edited, edited_lengths, choices, bags, weights
    )
    none = np.zeros((0, 2), np.int64)
    rows, _, _, around = _rows("write_rows", edited, none, np.zeros(1, np.int32), pieces, prefix, suffix, most, threads)
    if multiple < 1:
        raise ValueError(f"make_batch: multiple must be at least 1, got {multiple}")
    columns, numbers = np.zeros(1, np.int32), np.empty(len(starts) - 1, np.int64)
    to = _C.TokenBatch(
        out=_check("make_batch", "out", out, np.int64, (len(out),)),
        out_count=len(out),
        pad=pad,
        lengths=numbers.ctypes.data,
        columns=columns.ctypes.data,
        multiple=multiple,
    )
    held = (held, around, pieces, out, numbers, columns, keep)
    running = Running(_C.start_make_batch_cpu(params=params, rows=rows, to=to, threads=threads, held=held))

    def wait() -> tuple[int, np.ndarray]:
        running.wait()
        return int(columns[0]), numbers

    return wait


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
    rows, n, device, _held = _rows("count_rows", tokens, spans, starts, pieces, prefix, suffix, most, threads)
    if device is None:
        lengths = np.empty(n, np.int32)
        _C.count_rows_cpu(rows=rows, threads=threads, lengths=lengths.ctypes.data)
        return lengths
    import torch

    queue = torch.cuda.current_stream(device) if stream is None else torch.cuda.ExternalStream(stream, device)
    with torch.cuda.stream(queue):
        counted = torch.empty(n, dtype=torch.int32, device=device)

    def launch(scratch: int, scratch_bytes: int, pinned: int, pinned_bytes: int, queue: int) -> None:
        _C.count_rows_cuda(
            rows=rows,
            lengths=counted.data_ptr(),
            scratch=scratch,
            scratch_bytes=scratch_bytes,
            pinned=pinned,
            pinned_bytes=pinned_bytes,
            stream=queue,
        )

    on_cuda("count_rows", device, stream, lambda: _C.rows_cuda_bytes(rows=rows), launch)
    return counted


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
    rows, n, device, _held = _rows("write_rows", tokens, spans, starts, pieces, prefix, suffix, most, threads)
    address, steps = _address(out), _steps(out)
    if _dtype(out) != "int64" or out.ndim != 2 or len(out) != n or (out.shape[1] > 1 and steps[1] != 1):
        raise ValueError(
            f"write_rows: out must be int64 ({n}, columns), dense rows, got {_dtype(out)} {tuple(out.shape)}"
            f" in steps of {steps}"
        )
    _device("write_rows", tokens=tokens, out=out)
    columns = int(out.shape[1])
    step = steps[0] if n > 1 else columns
    to = _C.TokenTable(out=address, row_step=step, columns=columns, pad=pad)
    if device is None:
        _C.write_rows_cpu(rows=rows, to=to, threads=threads)
        return

    def launch(scratch: int, scratch_bytes: int, pinned: int, pinned_bytes: int, queue: int) -> None:
        _C.write_rows_cuda(
            rows=rows,
            to=to,
            scratch=scratch,
            scratch_bytes=scratch_bytes,
            pinned=pinned,
            pinned_bytes=pinned_bytes,
            stream=queue,
        )

    on_cuda("write_rows", device, stream, lambda: _C.rows_cuda_bytes(rows=rows), launch)


def _edit(
    passes: np.ndarray,
    starts: np.ndarray,
    data: np.ndarray,
    lengths: np.ndarray,
    capacities: np.ndarray,
    places: np.ndarray,
    out: Memory,
    out_lengths: Memory,
    *,
    choices: np.ndarray | None = None,
    bags: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    threads: int = 1,
    stream: int | None = None,
    keep: Any = None,
    wait: bool,
) -> Running:
    params, device, held = _params(
        "edit_tokens", passes, starts, data, lengths, capacities, places, out, out_lengths, choices, bags, weights
    )
    check_threads("edit_tokens", threads)
    if device is None:
        if wait:
            _C.edit_tokens_cpu(params=params, threads=threads)
            return Running(None)
        return Running(_C.start_edit_tokens_cpu(params=params, threads=threads, held=(held, keep)))

    def launch(scratch: int, scratch_bytes: int, pinned: int, pinned_bytes: int, queue: int) -> None:
        _C.edit_tokens_cuda(
            params=params,
            scratch=scratch,
            scratch_bytes=scratch_bytes,
            pinned=pinned,
            pinned_bytes=pinned_bytes,
            stream=queue,
        )

    on_cuda("edit_tokens", device, stream, lambda: _C.edit_tokens_cuda_bytes(params=params), launch)
    return Running(None)


def _params(
    what: str,
    passes: np.ndarray,
    starts: np.ndarray,
    data: np.ndarray,
    lengths: np.ndarray,
    capacities: np.ndarray,
    places: np.ndarray,
    out: Memory,
    out_lengths: Memory,
    choices: np.ndarray | None,
    bags: np.ndarray | None,
    weights: np.ndarray | None,
) -> tuple[Any, torch.device | None, Any]:
    """What C++ takes, the device, and what to hold on to for as long as it is used."""
    n = len(starts) - 1
    _check_starts(what, starts, len(passes), "the passes")
    given = {
        "passes": check_array("passes", passes, TOKEN_PASS, (len(passes),), what),
        "starts": starts.ctypes.data,
        "data": check_array("data", data, np.uint64, (n,), what),
        "lengths": check_array("lengths", lengths, np.int32, (n,), what),
        "capacities": check_array("capacities", capacities, np.int32, (n,), what),
        "places": check_array("places", places, np.int64, (n,), what),
        "out": _check(what, "out", out, np.int32, (len(out),)),
        "out_lengths": _check(what, "out_lengths", out_lengths, np.int32, (n,)),
    }
    for name, count, table, kind in (
        ("choices", "choices_count", choices, TOKEN_CHOICES),
        ("bags", "bag_count", bags, TOKEN_BAG),
        ("weights", "weights_count", weights, TOKEN_WEIGHTS),
    ):
        given[count] = 0 if table is None else len(table)
        given[name] = check_array(name, table, kind, (given[count],), what)
    held = (passes, starts, data, lengths, capacities, places, out, out_lengths, choices, bags, weights)
    return _C.TokenParams(n=n, out_count=len(out), **given), _device(what, out=out, out_lengths=out_lengths), held


def _rows(
    what: str,
    tokens: Memory,
    spans: Memory,
    starts: np.ndarray,
    pieces: tuple[Memory, Memory] | None,
    prefix: Sequence[int],
    suffix: Sequence[int],
    most: int | None,
    threads: int,
) -> tuple[Any, int, torch.device | None, Any]:
    """What C++ takes, the number of rows, the device, and what to hold on to for as long as it is used."""
    check_threads(what, threads)
    _check_starts(what, starts, len(spans), "the spans")
    around = [np.array(numbers, np.int32) for numbers in (prefix, suffix)]
    given = {"piece_starts": 0, "pieces": 0, "words": 0, "piece_count": 0}
    memory = {"tokens": tokens, "spans": spans}
    if pieces is not None:
        memory["the starts of pieces"], memory["pieces"] = pieces
        if not len(pieces[0]):
            raise ValueError(f"{what}: the starts of pieces must be int32 [words + 1], got none")
        given = {
            "piece_starts": _check(what, "the starts of pieces", pieces[0], np.int32, (len(pieces[0]),)),
            "pieces": _check(what, "pieces", pieces[1], np.int32, (len(pieces[1]),)),
            "words": len(pieces[0]) - 1,
            "piece_count": len(pieces[1]),
        }
    rows = _C.TokenRows(
        tokens=_check(what, "tokens", tokens, np.int32, (len(tokens),)),
        token_count=len(tokens),
        spans=_check(what, "spans", spans, np.int64, (len(spans), 2)),
        span_count=len(spans),
        starts=starts.ctypes.data,
        n=len(starts) - 1,
        prefix=around[0].ctypes.data,
        prefix_count=len(around[0]),
        suffix=around[1].ctypes.data,
        suffix_count=len(around[1]),
        most=_MOST if most is None else min(most, _MOST),
        **given,
    )
    return rows, len(starts) - 1, _device(what, **memory), around


def _check_starts(what: str, starts: np.ndarray, count: int, things: str) -> None:
    check_array("starts", starts, np.int32, (len(starts),), what)
    if not len(starts) or starts[0] != 0 or starts[-1] != count:
        raise ValueError(f"{what}: starts must go from 0 to {count}, {things}, got {starts}")


def _check(what: str, name: str, memory: Memory, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> int:
    """The address of an array or tensor that is as it must be."""
    if isinstance(memory, np.ndarray):
        return check_array(name, memory, dtype, shape, what)
    kind = np.dtype(dtype).name
    if _dtype(memory) != kind or tuple(memory.shape) != shape or not memory.is_contiguous():
        raise ValueError(
            f"{what}: {name} must be contiguous {kind} {shape}, got {_dtype(memory)} {tuple(memory.shape)}"
            + ("" if memory.is_contiguous() else " with strides")
        )
    return memory.data_ptr()


def _address(memory: Memory) -> int:
    return int(memory.ctypes.data) if isinstance(memory, np.ndarray) else memory.data_ptr()


def _dtype(memory: Memory) -> str:
    return str(memory.dtype).removeprefix("torch.")


def _steps(memory: Memory) -> tuple[int, ...]:
    """Elements from one to the next, a dimension each."""
    if isinstance(memory, np.ndarray):
        return tuple(step // memory.itemsize for step in memory.strides)
    return tuple(memory.stride())


def _device(what: str, **memory: Memory) -> torch.device | None:
    """The CUDA device that all of it is on; None: the host."""
    on = {name: None if isinstance(of, np.ndarray) or not of.is_cuda else of.device for name, of in memory.items()}
    first, device = next(iter(on.items()))
    for name, other in on.items():
        if other != device:
            raise ValueError(
                f"{what}: {name} must lie where {first} is, on {device or 'the host'}, got {other or 'the host'}"
            )
    return device
