"""The engine of texts: their tokens are edited, then written as the rows of a batch, as words' numbers or as a
tokenizer's; on the host's cores or on a CUDA device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dalipipe import native
from dalipipe.buffers import BufferPool
from dalipipe.engines.base import Output
from dalipipe.ops.mix import cut_texts
from dalipipe.passes.text import Tables, TextFold, TextParams
from dalipipe.plan import Draws, Plan
from dalipipe.records import Tokens
from dalipipe.transfers import upload_tokens


@dataclass(frozen=True)
class Texts:
    """A batch: ``rows`` int64 [N, L] on the output's device, padded at the end; ``lengths`` int64 [N]: how many numbers
    of each row are its own; ``label_weight`` float32 [N]: which share of its words is its own.
    """

    rows: torch.Tensor
    lengths: np.ndarray
    label_weight: np.ndarray | None = None


class TextEngine:
    """Applies a plan to batches of texts.

    What comes out is int64 [N, L] on the output's device, L as long as the longest, rounded up as the field's
    `Encoding` says. Host tensors' memory comes back to a pool when nobody refers to them any more.
    """

    def __init__(self, plan: Plan, output: Output, *, threads: int) -> None:
        assert plan.field is not None
        if output.device.type == "cuda" and not native.build_info()["cuda"]:
            raise RuntimeError(
                "dalipipe was built without CUDA: build it where an nvcc is found (DALIPIPE_CUDA unset), "
                'or give device="cpu"'
            )
        output.check(plan)
        fold: TextFold = plan.fold
        self._device, self._threads, self._encoding = output.device, threads, fold.encoding
        self._buffers = BufferPool()
        self._tables = _Tables(fold.tables, output.device)
        self._most_pieces = 1 if fold.pieces is None else int(np.diff(fold.pieces[0]).max(initial=0))  # of a word
        self._rows_options: dict[str, Any] = {
            "pieces": None if fold.pieces is None else tuple(_on(self._device, part) for part in fold.pieces),
            "prefix": fold.encoding.prefix,
            "suffix": fold.encoding.suffix,
            "most": fold.encoding.max_length,
            "threads": threads,
        }

    def size(self, tokens: Tokens) -> np.ndarray:
        """int64 [N, 1]: words of each text."""
        return tokens.lengths.astype(np.int64)[:, None]

    def start(self, tokens: Tokens, draws: Draws) -> Callable[[], Texts]:
        """N texts on the host, or on the output's device → what gives the batch, and waits where it has to: on CUDA, on
        whose current stream all of it is queued, for the rows' lengths.
        """
        params: TextParams = draws.params
        if self._device.type == "cuda" and not tokens.on_cuda:
            tokens = upload_tokens(tokens, self._device)
        capacities = params.out_size[:, 0]
        places = np.cumsum(capacities) - capacities
        edited = self._empty((int(capacities.sum()),), torch.int32)
        lengths = self._empty((len(tokens),), torch.int32)
        given: dict[str, Any] = {
            "passes": params.passes,
            "starts": params.starts,
            "data": tokens.address,
            "lengths": tokens.lengths,
            "capacities": capacities.astype(np.int32),
            "places": places,
            "threads": self._threads,
            "keep": (tokens, self._tables),
            **self._tables.arguments,
        }
        longest = self._longest(int(capacities.max(initial=0)))
        if draws.mix is None and longest is not None:
            return self._all_at_once(given, edited, lengths, longest)
        running = native.start_edit_tokens(out=edited, out_lengths=lengths, **given)

        def finish() -> Texts:
            running.wait()
            if draws.mix is None:
                spans = torch.stack([_on(self._device, places), lengths.to(torch.int64)], dim=1)
                return self._rows(edited, spans, np.arange(len(tokens) + 1, dtype=np.int32), lengths)
            words = self._words_shown(edited, places, lengths)
            parts, label_weight = cut_texts(draws.mix.partner, draws.mix.box, words)
            rows = np.arange(len(tokens))
            parts[..., 0] += places[np.stack([rows, draws.mix.partner, rows], axis=1)]
            starts = np.arange(0, 3 * len(tokens) + 1, 3, dtype=np.int32)
            spans = _on(self._device, parts.reshape(-1, 2))
            texts = self._rows(edited, spans, starts, torch.from_numpy(parts[..., 1].sum(axis=1)))
            return replace(texts, label_weight=label_weight)

        return finish

    def _words_shown(self, edited: torch.Tensor, places: np.ndarray, lengths: torch.Tensor) -> np.ndarray:
        """int [N]: how many words of each text a row has room for."""
        encoding, pieces = self._encoding, self._rows_options["pieces"]
        if encoding.max_length is None or not len(edited):
            return lengths.cpu().numpy()
        room = encoding.max_length - len(encoding.prefix) - len(encoding.suffix)
        if pieces is None:
            return lengths.clamp(max=room).cpu().numpy()
        count = pieces[0].diff()
        # Between texts there may be anything.
        ends = count[edited.long().clamp(0, len(count) - 1)].long().cumsum(0)
        begin = _on(self._device, np.minimum(places, len(edited) - 1))
        before = ends[begin] - count[edited[begin].long().clamp(0, len(count) - 1)]
        fit = torch.searchsorted(ends, before + room, right=True) - begin
        return torch.minimum(fit, lengths.long()).cpu().numpy()

    @property
    def buffers_bytes(self) -> int:
        return self._buffers.free_bytes

    def close(self) -> None:
        self._buffers.close()

    def _longest(self, words: int) -> int | None:
        """How long rows of texts of so many words may be, where that is known before they are made, on the host."""
        encoding, pieces = self._encoding, self._rows_options["pieces"]
        if self._device.type != "cpu" or (pieces is not None and encoding.max_length is None):
            return None
        longest = _rounded(words * self._most_pieces + len(encoding.prefix) + len(encoding.suffix), encoding.multiple)
        return longest if encoding.max_length is None else min(longest, encoding.max_length)

    def _all_at_once(
        self, given: dict[str, Any], edited: torch.Tensor, lengths: torch.Tensor, longest: int
    ) -> Callable[[], Texts]:
        """On the host, where no row is longer than ``longest``: what gives the batch."""
        n, encoding = len(lengths), self._encoding
        memory = self._empty((n * longest,), torch.int64)
        wait = native.start_make_batch(
            edited=edited,
            edited_lengths=lengths,
            out=memory,
            multiple=encoding.multiple,
            pad=encoding.pad,
            **{**given, **self._rows_options},
        )

        def finish() -> Texts:
            columns, numbers = wait()
            return Texts(memory[: n * columns].view(n, columns), numbers)

        return finish

    def _rows(self, edited: torch.Tensor, spans: torch.Tensor, starts: np.ndarray, words: torch.Tensor) -> Texts:
        """The rows that are made of spans; ``words`` [N]: in each."""
        encoding, options = self._encoding, self._rows_options
        if options["pieces"] is None:
            counts = words.cpu().numpy().astype(np.int64) + len(encoding.prefix) + len(encoding.suffix)
            if encoding.max_length is not None:
                counts = np.minimum(counts, encoding.max_length)
        else:
            counts = torch.as_tensor(native.count_rows(edited, spans, starts, **options)).cpu().numpy().astype(np.int64)
        longest = _rounded(int(counts.max(initial=0)), encoding.multiple)
        if encoding.max_length is not None:
            longest = min(longest, encoding.max_length)
        rows = self._empty((len(counts), longest), torch.int64)
        native.write_rows(edited, spans, starts, rows, pad=encoding.pad, **options)
        return Texts(rows, counts)

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if self._device.type == "cuda":
            return torch.empty(shape, dtype=dtype, device=self._device)
        if not math.prod(shape):
            return torch.empty(shape, dtype=dtype)
        memory = self._buffers.take(math.prod(shape) * dtype.itemsize)
        return torch.frombuffer(memory, dtype=dtype).view(shape)


class _Tables:
    """A fold's tables in a device's memory, and as ``arguments`` of `native.start_edit_tokens`."""

    def __init__(self, tables: Tables, device: torch.device) -> None:
        self._held: list[torch.Tensor] = []
        self._device = device
        choices = np.zeros(len(tables.choices), native.TOKEN_CHOICES)
        for one, (starts, tokens) in zip(choices, tables.choices, strict=True):
            one["starts"], one["tokens"] = self._hold(starts), self._hold(tokens)
            one["words"], one["count"] = len(starts) - 1, len(tokens)
        bags = np.zeros(len(tables.bags), native.TOKEN_BAG)
        for one, bag in zip(bags, tables.bags, strict=True):
            one["count"], one["first"] = bag.count, bag.first
            for name in ("tokens", "keep", "other"):
                one[name] = self._hold(getattr(bag, name))
        weights = np.zeros(len(tables.weights), native.TOKEN_WEIGHTS)
        for one, values in zip(weights, tables.weights, strict=True):
            one["weights"], one["words"] = self._hold(values), len(values)
        self.arguments = {"choices": choices, "bags": bags, "weights": weights}

    def _hold(self, table: np.ndarray | None) -> int:
        """Its address; 0: there is none."""
        if table is None:
            return 0
        self._held.append(_on(self._device, table.view(np.int32)))
        return self._held[-1].data_ptr()


def _rounded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _on(device: torch.device, array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to(device)
