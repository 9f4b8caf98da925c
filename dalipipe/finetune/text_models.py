"""Models for texts: a small convolutional one to train from scratch, and Hugging Face's from folders.

All take ``text`` int64 [N, L] and ``length`` int64 [N]: how many of a row's numbers are its own (``None``: all). What
is behind a text's end changes nothing: not what it is, and not how much of it there is, but for the order in which sums
are rounded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

_Wrapped = TypeVar("_Wrapped", bound="_HuggingFace")


class WordCNN(nn.Module):
    """Convolutions over 3, 4 and 5 words side by side, each filter's maximum over the text, dropout, a linear layer
    (Kim, "Convolutional neural networks for sentence classification", EMNLP 2014).

    The paper's, with vectors of 128 instead of 300, which are learnt from scratch, and without its bound on the last
    layer's norm. A text stands between zeros, so that its every word is in windows of all sizes, however short it is.

    Args:
        classes: outputs.
        vocabulary_size: how many numbers of words there are: ``len(loader.vocabulary)``.
        width: numbers in a word's vector.
        filters: of each window.
        windows: words that they see.
        dropout: share of the filters' maxima that is left out in training.
    """

    def __init__(
        self,
        classes: int,
        vocabulary_size: int,
        width: int = 128,
        filters: int = 100,
        windows: tuple[int, ...] = (3, 4, 5),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.vectors = nn.Embedding(vocabulary_size, width)
        nn.init.uniform_(self.vectors.weight, -0.25, 0.25)  # the paper's, for words without vectors from elsewhere
        self.convolutions = nn.ModuleList(nn.Conv1d(width, filters, window) for window in windows)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(filters * len(windows), classes)

    def layer_order(self) -> list[list[str]]:
        """For `dalipipe.finetune.layers_of`: convolutions stand side by side."""
        return [["vectors"], ["convolutions"], ["head"]]

    def forward(self, text: Tensor, length: Tensor | None = None) -> Tensor:
        """``text``: int64 [N, L]; ``length``: int64 [N]. Gives float [N, classes].

        Raises ``ValueError`` where ``text`` has other axes.
        """
        if text.ndim != 2:
            raise ValueError(f"WordCNN: expected texts [N, L], got {list(text.shape)}")
        inside = _inside(text, length)
        vectors = self.vectors(text.where(inside, 0)).masked_fill(~inside[..., None], 0).transpose(1, 2)
        return self.head(self.dropout(torch.cat([self._highest(vectors, part) for part in self.convolutions], 1)))

    def _highest(self, vectors: Tensor, convolution: nn.Module) -> Tensor:
        """Each filter's maximum, [N, filters]. Windows of nothing but zeros, which padding adds to, are among those of
        every text, so their number does not matter.
        """
        assert isinstance(convolution, nn.Conv1d)
        around = convolution.kernel_size[0]
        return functional.relu(convolution(functional.pad(vectors, (around, around)))).amax(2)


class _HuggingFace(nn.Module):
    """A model of `transformers` that takes a batch's ``(text, length)`` and gives its logits."""

    _auto: str

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @classmethod
    def from_path(cls: type[_Wrapped], path: str | os.PathLike[str], **settings: Any) -> _Wrapped:
        """The model in a folder that ``save_pretrained`` wrote; nothing is downloaded. ``settings``: of its
        configuration, such as ``num_labels``, and ``pad_token_id`` where it has none.

        Raises:
            FileNotFoundError: there is no such folder, or no model in it.
            ModuleNotFoundError: transformers is missing.
        """
        if not (Path(path) / "config.json").is_file():
            raise FileNotFoundError(
                f"no model at {path}: give a folder with config.json, as save_pretrained of transformers writes it"
            )
        try:
            import transformers
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("models of Hugging Face need transformers: pip install transformers") from error
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
        if config.pad_token_id is not None:
            settings.pop("pad_token_id", None)
        model, found = getattr(transformers, cls._auto).from_pretrained(
            path, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True, **settings
        )
        made = cls(model)
        mismatched = [key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"]]
        made.fresh = sorted({f"model.{key}" for key in (*found["missing_keys"], *mismatched)})
        return made

    fresh: list[str]
    """Of a model from a folder that has no weights for them: names of tensors that started at random."""

    def forward(self, text: Tensor, length: Tensor | None = None) -> Tensor:
        """``text``: int64 [N, L], a tokenizer's numbers; ``length``: int64 [N]. Gives the model's logits."""
        mask = _inside(text, length).long()
        logits: Tensor = self.model(input_ids=text, attention_mask=mask).logits
        return logits


class HFClassifier(_HuggingFace):
    """Any model for sequence classification of `transformers`, given or in a folder: ``(text, length)`` → logits
    [N, classes]. The attention mask is made of the lengths, on the device.

    Raises ``ValueError`` for a configuration without ``pad_token_id``, by which GPT-2 and others find a text's end.
    """

    _auto = "AutoModelForSequenceClassification"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if model.config.pad_token_id is None:
            raise ValueError(
                "HFClassifier: the model's configuration has no pad_token_id, without which it would take padding for "
                "a text's end: set model.config.pad_token_id, or give it to from_path; the source's encoding.pad is it"
            )


class HFLanguageModel(_HuggingFace):
    """Any causal language model of `transformers`, such as GPT-2, given or in a folder: ``(text, length)`` → logits
    [N, L, numbers]. To be trained for :func:`~dalipipe.finetune.predict_next`.
    """

    _auto = "AutoModelForCausalLM"


def _inside(text: Tensor, length: Tensor | None) -> Tensor:
    """bool [N, L]: which of a row's numbers are its own."""
    place = torch.arange(text.shape[1], device=text.device)
    last = text.shape[1] if length is None else length[:, None]
    return (place < last).expand(text.shape)
