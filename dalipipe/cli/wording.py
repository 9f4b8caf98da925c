"""What the library says of its arguments, in the words of the command line."""

from __future__ import annotations

import functools
import re

_WORDS = (
    (r"\bLayers\.lr_decay\b|\blayers\.lr_decay(?= was)", "--layer-decay"),
    (r"\b(?:FineTuneConfig|Layers)(?:\.|: (?=cuda_graphs))(\w+)|\blayers\.(\w+)(?= was)", None),  # by its own name
    (r"\bso accumulate must\b", "so --accumulate must"),
    (r"\bfinetune: (cuda_graphs|shard)=True\b", None),
    (r"\bmixing: off=", "--mix-off "),
    (r"\bmixing: off must\b", "--mix-off must"),
    (r"\bmixing: (mixup|cutmix) must\b", "--{} must"),
    (r"\bmixing: ", ""),
    (r"\b(?:draw_subset: count|draw_subset:)", "--subset:"),
    (r"\bJoint: weight\b|\b(?:objective\.)+weight(?= was)", "--target-weight"),
    (r"\bL2SP: alpha\b|\b(?:objective\.)+alpha(?= was)", "--l2-sp"),
    (r"\b(?:objective\.)+start was '\w+', is '\w+'", "what --weights, or --carry, start from is not what it was"),
    (r"\bDistill: (temperature|hard_weight)\b|\b(?:objective\.)+(temperature|hard_weight)(?= was)", None),
    (r"\bbinary cross-entropy: (?=with label)", ""),
    (
        r"(?<!-)\btarget_threshold\b(?= (?:must|and|[\d.]+ would))|\bobjective\.target_threshold(?= was)",
        "--bce-target-threshold",
    ),
    (r"\band sum_classes are of\b", "and --bce-sum are of"),
    (r"\bgive loss bce\b", "give --loss bce"),
    (r"^loss must\b", "--loss must"),
    (r"^serve_metrics: port\b", "--metrics-port"),
    (r"^serve_metrics: metrics need\b", "--metrics-port needs"),
)


def in_flags(message: str) -> str:
    """A message with the flags that a user gave in the place of fields and arguments of Python."""
    for pattern, words in _WORDS:
        message = re.sub(pattern, functools.partial(_flag, words), message)
    return message


def _flag(words: str | None, found: re.Match[str]) -> str:
    name = next((group for group in found.groups() if group), "").replace("_", "-")
    return f"--{name}" if words is None else words.format(name)
