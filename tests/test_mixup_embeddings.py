"""Mixup of embeddings: beside numbers worked out by hand, drawn from (seed, step) alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from dalipipe.finetune import mixup_embeddings, soft_cross_entropy


def mixup(*args: Any, **kw: Any) -> Any:
    return mixup_embeddings(*args, **{"seed": 3, "step": 7, "num_classes": 3, **kw})


def test_by_hand() -> None:
    words = torch.tensor([[[1.0, 2], [3, 4], [99, 99]], [[5, 6], [99, 99], [99, 99]]])
    mixed = mixup(
        words,
        torch.tensor([2, 0]),
        lengths=torch.tensor([2, 1]),
        weights=torch.tensor([0.75, 0.25]),
        partners=torch.tensor([1, 0]),
    )
    # 0.75·(1, 2) + 0.25·(5, 6); then 0.75·(3, 4) alone, since the other has ended.
    expected = [[[2, 3], [2.25, 3], [0, 0]], [[2, 3], [2.25, 3], [0, 0]]]
    assert mixed.embeddings.tolist() == expected
    assert mixed.mask.tolist() == [[True, True, False]] * 2
    assert mixed.labels.tolist() == [[0.25, 0, 0.75]] * 2
    by_mask = mixup(
        words,
        torch.tensor([2, 0]),
        mask=torch.tensor([[1, 1, 0], [1, 0, 0]]),
        weights=mixed.weights,
        partners=mixed.partners,
    )
    assert torch.equal(by_mask.embeddings, mixed.embeddings) and torch.equal(by_mask.mask, mixed.mask)
    sentences = mixup(words[:, 0], torch.eye(2), weights=torch.tensor([0.5, 1]), partners=torch.tensor([1, 0]))
    assert sentences.embeddings.tolist() == [[3, 4], [5, 6]] and sentences.mask is None
    assert sentences.labels.tolist() == [[0.5, 0.5], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_weight_one_is_identity_to_the_bit_and_zero_the_partner(dtype: torch.dtype) -> None:
    values = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[0, 0], values[1, 1], values[2, 2] = -0.0, float("inf"), float("nan")
    labels, lengths = torch.tensor([0, 1, 2, 1]), torch.tensor([5, 2, 3, 0])
    kept = mixup(values, labels, lengths=lengths, weights=torch.ones(4))
    assert kept.embeddings.dtype == dtype
    assert kept.embeddings.view(torch.uint8).tolist() == values.contiguous().view(torch.uint8).tolist()
    assert kept.mask.tolist() == (torch.arange(5) < lengths[:, None]).tolist(), "a partner without weight has no place"
    assert kept.labels.tolist() == functional.one_hot(labels, 3).tolist()
    values = torch.nan_to_num(values, 1, 1, 1)
    other = mixup(values, labels, lengths=lengths, weights=torch.zeros(4))
    assert other.mask.sum(1).tolist() == lengths[other.partners].tolist()
    assert torch.equal(other.embeddings[other.mask], values[other.partners][other.mask])


@settings(deadline=None, max_examples=100)
@given(rows=st.integers(0, 70), seed=st.integers(0, 2**64), step=st.integers(0, 2**40), alpha=st.floats(0.05, 20))
def test_drawn_from_seed_and_step_alone(rows: int, seed: int, step: int, alpha: float) -> None:
    values, labels = torch.randn(rows, 2, 3), torch.zeros(rows, dtype=torch.int64)
    torch.manual_seed(step % 1000), np.random.seed(step % 1000)  # noqa: NPY002
    state = torch.get_rng_state()
    first = mixup(values, labels, seed=seed, step=step, alpha=alpha)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    again = mixup(values, labels, seed=seed, step=step, alpha=alpha)
    for a, b in zip(first, again, strict=True):
        assert a is b is None or torch.equal(a, b)
    assert sorted(first.partners.tolist()) == list(range(rows))
    assert rows < 2 or all(i != partner for i, partner in enumerate(first.partners.tolist()))
    assert ((first.weights >= 0) & (first.weights <= 1)).all()
    assert torch.allclose(first.labels.sum(1), torch.ones(rows))
    if rows > 20:
        others = [mixup(values, labels, seed=seed + 1, step=step), mixup(values, labels, seed=seed, step=step + 1)]
        assert all(not torch.equal(first.partners, other.partners) for other in others)


def test_weights_are_beta() -> None:
    for alpha in (0.2, 1.0, 4.0):
        weights = mixup(torch.zeros(40_000, 1), torch.zeros(40_000).long(), alpha=alpha).weights
        assert abs(float(weights.mean()) - 0.5) < 0.01
        assert abs(float(weights.var()) - 1 / (4 * (2 * alpha + 1))) < 0.004


def test_gradients_go_to_both_and_the_loss_is_the_mixture_of_losses() -> None:
    values = torch.randn(6, 4, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    mixed = mixup(values, labels)
    (mixed.embeddings.sum()).backward()
    expected = mixed.weights + torch.zeros(6).index_add(0, mixed.partners, 1 - mixed.weights)
    assert values.grad is not None and torch.allclose(values.grad, expected[:, None].expand(6, 4))
    logits = torch.randn(6, 3)
    own = functional.cross_entropy(logits, labels, reduction="none")
    others = functional.cross_entropy(logits, labels[mixed.partners], reduction="none")
    by_hand = (mixed.weights * own + (1 - mixed.weights) * others).mean()
    assert torch.allclose(soft_cross_entropy(logits, mixed.labels), by_hand)
    assert soft_cross_entropy(logits.bfloat16(), mixed.labels).dtype == torch.float32


def test_a_hugging_face_model_takes_it() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).eval()
    ids, lengths = torch.randint(0, 50, (4, 9)), torch.tensor([9, 3, 5, 1])
    words = model.get_input_embeddings()(ids)
    mixed = mixup(words, torch.tensor([0, 1, 2, 0]), lengths=lengths, weights=torch.ones(4))
    through = model(inputs_embeds=mixed.embeddings, attention_mask=mixed.mask.long()).logits
    plain = model(input_ids=ids, attention_mask=(torch.arange(9) < lengths[:, None]).long()).logits
    assert torch.equal(through, plain)
    mixed = mixup(words, torch.tensor([0, 1, 2, 0]), lengths=lengths)
    logits = model(inputs_embeds=mixed.embeddings, attention_mask=mixed.mask.long()).logits
    soft_cross_entropy(logits, mixed.labels).backward()
    assert isinstance(model.get_input_embeddings(), nn.Embedding)
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("args", "kw", "message"),
    [
        (
            (torch.zeros(2, 3, 4, 5), torch.zeros(2).long()),
            {},
            r"embeddings must be .* got torch.float32 \[2, 3, 4, 5\]",
        ),
        ((torch.zeros(2, 3).long(), torch.zeros(2).long()), {}, "embeddings must be floating point"),
        ((torch.zeros(2, 3), torch.zeros(3).long()), {}, r"labels must be integers \[2\] or .*, got torch.int64 \[3\]"),
        ((torch.zeros(2, 3), torch.zeros(2)), {}, "labels must be integers"),
        ((torch.zeros(2, 3), torch.zeros(2).long()), {"num_classes": None}, "give num_classes="),
        ((torch.zeros(2, 3), torch.tensor([0, 3])), {}, r"labels must lie in 0..2, got 0..3"),
        ((torch.zeros(2, 3), torch.zeros(2).long()), {"alpha": 0}, "alpha must be a number"),
        ((torch.zeros(2, 3), torch.zeros(2).long()), {"lengths": torch.ones(2)}, "beside embeddings"),
        ((torch.zeros(2, 3, 4), torch.zeros(2).long()), {"mask": torch.ones(2, 4)}, r"mask must be \[2, 3\]"),
        ((torch.zeros(2, 3, 4), torch.zeros(2).long()), {"weights": torch.ones(3)}, r"weights must be numbers \[2\]"),
        ((torch.zeros(2, 3, 4), torch.zeros(2).long()), {"partners": torch.ones(3)}, r"partners must be rows \[2\]"),
    ],
)
def test_bad_arguments_are_named(args: Any, kw: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixup(*args, **kw)
    with pytest.raises(ValueError, match="one of them"):
        mixup(torch.zeros(1, 1, 1), torch.zeros(1).long(), lengths=torch.ones(1), mask=torch.ones(1, 1))
    with pytest.raises(ValueError, match="must be floating point"):
        soft_cross_entropy(torch.zeros(2, 3), torch.zeros(2).long())
