"""Models for sounds and series: shapes, the papers' sizes, and that padding changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dalipipe.finetune.models import MODELS, InceptionTime, LogMelCNN, ResNet1d

ALL: list[Any] = [*MODELS["audio"].values(), *MODELS["series"].values()]


def batch(model: type[nn.Module], frames: int, n: int = 3, channels: int = 2) -> torch.Tensor:
    """Standing on its padding axis: features [N, C, 9, frames] or series [N, frames, C], below zero for the most."""
    shape = (n, channels, 9, frames) if model is LogMelCNN else (n, frames, channels)
    return torch.randn(shape, generator=torch.Generator().manual_seed(frames)) - 2


def lived_in(model: type[nn.Module], channels: int = 2, classes: int = 5) -> nn.Module:
    """With statistics and gains that are no zeros and ones, so that BatchNorm moves zeros."""
    torch.manual_seed(1)
    made = model(classes, channels)
    for part in made.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            statistics = dict(part.named_buffers())
            for tensor in (part.weight.data, part.bias.data, statistics["running_mean"]):
                tensor.uniform_(-1, 1)
            statistics["running_var"].uniform_(0.5, 2)
    return made.eval()


def own(x: torch.Tensor, row: int, length: int) -> torch.Tensor:
    return x[row : row + 1, ..., :length] if x.ndim == 4 else x[row : row + 1, :length]


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("frames", [1, 3, 37])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_number_of_frames_and_channels(model: type[nn.Module], frames: int, channels: int) -> None:
    made = model(5, channels)
    x = batch(model, frames, channels=channels)
    assert made.train()(x).shape == (3, 5)
    logits = made.eval()(x)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(made(x, torch.full((3,), frames)), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ALL)
@pytest.mark.parametrize("lengths", [(37, 1, 20), (36, 33, 2)])
@pytest.mark.parametrize("filler", [0.0, 1e4])
def test_padding_changes_no_logits(model: type[nn.Module], lengths: tuple[int, ...], filler: float) -> None:
    """Not those of a sample alone, whatever stands behind its end."""
    made, x = lived_in(model), batch(model, 37)
    frame = torch.arange(37).reshape((1, 1, 1, 37) if x.ndim == 4 else (1, 37, 1))
    behind = frame >= torch.tensor(lengths).reshape(-1, *[1] * (x.ndim - 1))
    found = made(x.masked_fill(behind, filler), torch.tensor(lengths))
    for row, length in enumerate(lengths):
        alone = made(own(x, row, length))
        torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-4, atol=1e-4)
    without = made(x.masked_fill(behind, filler))
    assert not torch.allclose(found, without, rtol=1e-2, atol=1e-2)  # it does matter where nobody says what is padding


@pytest.mark.parametrize("model", ALL)
def test_gradients_do_not_come_from_padding(model: type[nn.Module]) -> None:
    made, x = lived_in(model), batch(model, 21).requires_grad_()
    made(x, torch.tensor([21, 4, 0])).square().sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    assert (own(x.grad, 1, 4) != 0).any()
    for row, length in ((1, 4), (2, 1)):  # of nothing, the first frame counts: a mean needs one
        rest = x.grad[row, ..., length:] if x.ndim == 4 else x.grad[row, length:]
        assert (rest == 0).all()


@pytest.mark.parametrize("model", ALL)
def test_runs_in_bf16(model: type[nn.Module]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(5, 2)(batch(model, 18), torch.tensor([18, 7, 9]))
    assert torch.isfinite(logits).all()


def test_they_are_as_the_papers_say() -> None:
    def parameters(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    # ResNet on one channel and two classes, as counted from the paper's figure, without the biases before BatchNorm.
    blocks = 0
    for before, after in ((1, 64), (64, 128), (128, 128)):
        shortcut = before * after if before != after else 0
        blocks += 8 * before * after + (5 + 3) * after * after + 4 * 2 * after + shortcut
    assert parameters(ResNet1d(2)) == blocks + 128 * 2 + 2
    first = (40 + 20 + 10) * 32 + 32 + 2 * 128  # one channel needs no bottleneck
    further = 128 * 32 + (40 + 20 + 10) * 32 * 32 + 128 * 32 + 2 * 128
    shortcuts = 128 + 2 * 128 + 128 * 128 + 2 * 128
    assert parameters(InceptionTime(2)) == first + 5 * further + shortcuts + 128 * 2 + 2


@pytest.mark.parametrize("model", ALL)
def test_other_axes_are_named(model: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"expected \w+ \[N, .*, got \[2, 3\]"):
        model(5)(torch.zeros(2, 3))


@pytest.mark.parametrize("model", ALL)
def test_each_can_learn(model: type[nn.Module]) -> None:
    """Two classes that differ in their middle frames, in samples of all lengths."""
    torch.manual_seed(0)
    made, x, labels = model(2, 2), batch(model, 24, n=12), torch.arange(12) % 2
    lengths = torch.arange(13, 25)
    (x[..., 4:8] if x.ndim == 4 else x[:, 4:8])[labels == 1] += 3
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    for _ in range(12):
        loss = nn.functional.cross_entropy(made(x, lengths), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (made(x, lengths).argmax(1) == labels).all()
