"""Texts in other words, by way of another language. It runs models, so it is applied when a data set is packed.

An operator that is made with a field that does not fit raises ``ValueError``, naming operator, field, what was expected
and what came.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from dalipipe.policy import Op, Params, set_field
from dalipipe.text import Vocabulary


@dataclass(frozen=True, repr=False)
class BackTranslation(Op):
    """Translates a text into another language and back: the same in other words.

        policy = Policy([BackTranslation("opus-mt-en-de", "opus-mt-de-en", temperature=0.9, p=0.5), RandomSwap()])
        pack(texts, "packed", policy=policy, split_at=1, copies=4)
        loader = DataLoader(Text.open("packed"), 64, policy=policy)     # does the rest

    It stands at a policy's front, before all operators on words, and is applied by `dalipipe.pack`: models of
    translation are too slow to wait for in training. A text that comes back as it was (but for case and white space)
    stays as it is.

    Args:
        forward, backward: folders of models on this machine, or objects with ``name`` and ``translate``
            (`translation.Translator`, `translation.HFTranslator`). Policies are written, and compared, by the names.
        temperature: 0: the best translation, the same in each copy. Above: drawn, in each copy anew; 0.9, say.
        top_p: in (0, 1]: draws among the most likely words, which have this much of the probability together.

    Sennrich, Haddow, Birch (ACL 2016); as augmentation Xie et al., "Unsupervised data augmentation for consistency
    training" (NeurIPS 2020). See `translation.RoundTrip`.
    """

    forward: Any
    backward: Any
    temperature: float = 0.0
    top_p: float = 1.0

    modality: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("forward", "backward"):
            given = getattr(self, name)
            called = os.fspath(given) if isinstance(given, str | os.PathLike) else getattr(given, "name", None)
            if not isinstance(called, str) or not called:
                raise ValueError(
                    f"BackTranslation: {name} must be the folder of a model, or a translator with a name, got {given!r}"
                )
            set_field(self, f"_{name}", given)  # itself beside its name, which is all that counts for equality
            set_field(self, name, called)
        for name, low, high in (("temperature", 0.0, 100.0), ("top_p", 1e-6, 1.0)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not low <= value <= high:
                raise ValueError(f"BackTranslation: {name} must be a number in [{low:g}, {high:g}], got {value!r}")
            set_field(self, name, float(value))

    @property
    def translators(self) -> tuple[Any, Any]:
        """Forward and backward, as they were given."""
        return getattr(self, "_forward"), getattr(self, "_backward")  # noqa: B009 - no fields, for equality

    def draw(self, u: np.ndarray, size: np.ndarray) -> Params:
        return {}

    def words(self, vocabulary: Vocabulary) -> Iterable[str]:
        """Asked by who would run it on words."""
        raise ValueError(
            f"{self!r} runs models of translation, which takes too long in training: apply it once, "
            "dalipipe.pack(texts, folder, policy=policy, split_at=1) or `dalipipe pack`, and train on what that leaves "
            "with the same policy; it stands before all other operators"
        )
