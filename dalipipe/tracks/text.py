"""Texts: parameters are drawn, tokens edited, and what they have become makes a batch, padded where lengths differ."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from dalipipe.clock import StageClock
from dalipipe.engines.text import TextEngine, Texts
from dalipipe.passes.text import TextParams
from dalipipe.plan import Draws, Plan
from dalipipe.records import Tokens
from dalipipe.sampler import Step
from dalipipe.tracks.base import LaneConfig, RowErrors, draw_step


@dataclass(frozen=True)
class _Flight:
    columns: Mapping[str, Any]
    draws: Draws
    batch: Callable[[], Texts]


class TextTrack:
    """A `Track` for texts, as numbers of words."""

    def __init__(self, config: LaneConfig, clock: StageClock) -> None:
        plan = config.plan
        assert isinstance(plan, Plan) and plan.field is not None
        self._config, self._clock, self._plan, self._field = config, clock, plan, plan.field
        if config.engine == "reference":
            raise ValueError('engine="reference" is for pictures, not for text: leave it out')
        self._engine = TextEngine(plan, config.output, threads=config.threads)
        self._in_flight: deque[_Flight] = deque()

    def submit(self, columns: Mapping[str, Any], key: np.ndarray, step: Step) -> None:
        tokens: Tokens = columns[self._field.name]
        draws = draw_step(self._plan, self._clock, key, step, self._engine.size(tokens))
        take_bags_of_classes(draws.params, columns)
        if self._config.output.device.type == "cpu":  # at work while the next batch is read and drawn
            batch = self._engine.start(tokens, draws)
        else:  # on the stream that is current when it is collected
            batch = partial(self._on_device, tokens, draws)
        self._in_flight.append(_Flight(columns, draws, batch))

    def collect(self) -> dict[str, Any]:
        flight = self._in_flight.popleft()
        with self._clock.stage("augment", len(flight.columns[self._field.name])):
            texts = flight.batch()
        found: dict[str, Any] = {self._field.name: texts.rows}
        if self._field.length is not None:
            found[self._field.length] = torch.from_numpy(texts.lengths)
        mix, params = self._plan.mix, flight.draws.mix
        if mix is not None and params is not None and texts.label_weight is not None:
            classes = self._config.source.classes
            params = replace(params, label_weight=texts.label_weight)
            labels = mix.mix_labels(flight.columns[mix.labels], params, None if classes is None else len(classes))
            found[mix.labels] = torch.from_numpy(labels)
        return found

    @property
    def buffers_bytes(self) -> int:
        return self._engine.buffers_bytes

    def reset(self) -> None:
        self._in_flight.clear()

    def close(self) -> None:
        self.reset()
        self._engine.close()

    def _on_device(self, tokens: Tokens, draws: Draws) -> Texts:
        return self._engine.start(tokens, draws)()


def take_bags_of_classes(params: TextParams, columns: Mapping[str, Any]) -> None:
    """Says in passes that have a bag for each class which of them it is.

    Raises `RowErrors` for samples whose label is none of these.
    """
    for one in params.classes:
        column = columns.get(one.labels)
        if not isinstance(column, np.ndarray) or column.ndim != 1 or column.dtype.kind not in "iu":
            listed = ", ".join(map(repr, columns))
            raise ValueError(
                f"BagOfWords: labels must name a field of classes, whole numbers [N], got {one.labels!r}; there are "
                f"{listed}"
            )
        labels = column[one.rows]
        outside = (labels < 0) | (labels >= one.count)
        if outside.any():
            raise RowErrors(
                {
                    row: ValueError(
                        f"BagOfWords: {one.labels!r} is {label}, and there are bags of classes 0 to {one.count - 1}: "
                        "give the vocabulary of a data set that has it, or the operator labels=None"
                    )
                    for row, label in zip(one.rows[outside].tolist(), labels[outside].tolist(), strict=True)
                }
            )
        params.passes["bag"][one.at] += labels.astype(np.int32)


def explain_texts(
    config: LaneConfig, key: np.ndarray, indices: np.ndarray, columns: Mapping[str, Any], rows: np.ndarray
) -> list[str]:
    """What becomes of the texts of records ``indices`` int64 [n] that were read into ``columns``; ``rows`` int64 [m]:
    those without an error.
    """
    plan = config.plan
    assert plan.field is not None
    name, encoding = plan.field.name, plan.field.encoding
    lines = [f"{name!r}: numbers of words, kept in memory"]
    if encoding.tokenizer is not None:
        lines.append("    in batches the pieces that the tokenizer makes of each word, after all edits")
    if not len(rows):
        return [*lines, f"    none of the {len(indices)} looked at is good"]
    words = np.sort(columns[name].lengths[rows])
    lines.append(f"    {words[0]:,} to {words[-1]:,} words")
    return [*lines, plan.explain(size=(int(words[len(words) // 2]),))]
