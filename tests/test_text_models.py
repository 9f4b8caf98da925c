"""Models for texts, and language models in the thin loop: padding changes nothing, losses are transformers' own."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import dalipipe
from dalipipe.finetune import FineTuneConfig, Interrupted, classify, evaluate, finetune, predict_next
from dalipipe.finetune.text_models import HFClassifier, HFLanguageModel, WordCNN
from examples import run_example

WORDS, CLASSES = 40, 5


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def bert() -> Any:
    transformers = pytest.importorskip("transformers")
    size: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    size["initializer_range"] = 0.5  # so that what is not hidden shows
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=WORDS, num_labels=CLASSES, max_position_embeddings=64, **size)
    )


def gpt2(dropout: float = 0.0) -> Any:
    transformers = pytest.importorskip("transformers")
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=WORDS, n_positions=64, n_embd=16, n_layer=2, n_head=2, **rates)
    )


def made(kind: str) -> nn.Module:
    torch.manual_seed(1)
    return {"cnn": lambda: WordCNN(CLASSES, WORDS), "bert": lambda: HFClassifier(bert())}[kind]().eval()


def texts(lengths: tuple[int, ...], columns: int, filler: int = 0) -> torch.Tensor:
    rows = torch.randint(3, WORDS, (len(lengths), columns), generator=torch.Generator().manual_seed(columns))
    return rows.where(torch.arange(columns) < torch.tensor(lengths)[:, None], filler)


@pytest.mark.parametrize("kind", ["cnn", "bert"])
@pytest.mark.parametrize("lengths", [(17, 1, 9), (4, 3, 2), (12,)])
@pytest.mark.parametrize("filler", [0, WORDS - 1])
def test_padding_changes_no_logits(kind: str, lengths: tuple[int, ...], filler: int) -> None:
    """Not those of a text alone, whatever stands behind its end, and however much of it."""
    model = made(kind)
    with torch.no_grad():
        found = model(texts(lengths, 17, filler), torch.tensor(lengths))
        assert found.shape == (len(lengths), CLASSES)
        for row, length in enumerate(lengths):
            alone = model(texts(lengths, 17)[row : row + 1, :length])
            torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-4, atol=1e-5)
    assert filler == 0 or len(lengths) == 1 or not torch.allclose(found, model(texts(lengths, 17, filler)), atol=1e-3)


def test_word_cnn_takes_texts_without_words() -> None:
    model = made("cnn")
    nothing = model(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    padded = model(torch.full((2, 9), 7), torch.zeros(2, dtype=torch.int64))
    assert torch.isfinite(nothing).all() and torch.allclose(nothing, padded)
    with pytest.raises(ValueError, match=r"expected texts \[N, L\], got \[3\]"):
        model(torch.zeros(3, dtype=torch.int64))


def test_word_cnn_learns_a_word_and_its_gradients_are_of_words_alone() -> None:
    torch.manual_seed(0)
    model, labels = WordCNN(2, WORDS, width=16, filters=8), torch.arange(24) % 2
    lengths = torch.arange(24) % 11 + 1
    text = texts(tuple(lengths.tolist()), 11, filler=1)
    text[text == 5] = 6
    text[labels == 1, 0] = 5
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        loss = functional.cross_entropy(model(text, lengths), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.vectors.weight.grad is not None and (model.vectors.weight.grad[1] == 0).all()
    assert (model.eval()(text, lengths).argmax(1) == labels).all()


@pytest.mark.parametrize("kind", ["cnn", "bert"])
def test_runs_in_bf16(kind: str) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.isfinite(made(kind)(texts((9, 3), 9), torch.tensor([9, 3]))).all()


def test_from_a_folder_and_not_from_elsewhere(tmp_path: Path) -> None:
    model = bert().eval()
    model.save_pretrained(tmp_path / "bert")
    ids, length = texts((6, 2), 6), torch.tensor([6, 2])
    again = HFClassifier.from_path(tmp_path / "bert", num_labels=CLASSES).eval()
    assert again.fresh == []
    assert torch.equal(again(ids, length), HFClassifier(model)(ids, length))
    other = HFClassifier.from_path(tmp_path / "bert", num_labels=2)
    assert other(ids, length).shape == (2, 2)
    assert other.fresh == ["model.classifier.bias", "model.classifier.weight"]
    gpt2().save_pretrained(tmp_path / "gpt2")
    assert HFLanguageModel.from_path(tmp_path / "gpt2")(ids, length).shape == (2, 6, WORDS)
    with pytest.raises(FileNotFoundError, match=r"no model at bert-base.*config\.json"):
        HFClassifier.from_path("bert-base-uncased")


def test_models_that_read_up_to_the_last_word_know_what_padding_is(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=WORDS, n_positions=64, n_embd=16, n_layer=1, n_head=2, num_labels=3)
    unaware = transformers.GPT2ForSequenceClassification(config)
    with pytest.raises(ValueError, match="no pad_token_id"):
        HFClassifier(unaware)
    unaware.save_pretrained(tmp_path)
    model = HFClassifier.from_path(tmp_path, pad_token_id=0).eval()
    ids = texts((7, 2), 7)
    with torch.no_grad():
        found, alone = model(ids, torch.tensor([7, 2])), model(ids[1:, :2])
    torch.testing.assert_close(found[1:], alone, rtol=1e-4, atol=1e-5)


def test_the_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run_example("sentences.py", "--epochs", 8, monkeypatch=monkeypatch)
    shown = [float(word) for word in re.findall(r"([0-9.]+)%", capsys.readouterr().out)]
    assert len(shown) == 2 and shown[1] > shown[0] + 10  # synonyms are what the test's new words are
    (tmp_path / "a.tsv").write_text("x\tone two\ny\tthree\n" * 9)
    run_example("sentences.py", tmp_path / "a.tsv", tmp_path / "a.tsv", "--epochs", 1, monkeypatch=monkeypatch)
    assert "of the test's recognised" in capsys.readouterr().out


# Language models ---------------------------------------------------------------------------------------------------


def test_next_word_loss_is_transformers_own() -> None:
    model, lengths = gpt2().eval(), (12, 1, 5, 7, 0)
    ids, length = texts(lengths, 12), torch.tensor(lengths)
    inside = torch.arange(12) < length[:, None]
    with torch.no_grad():
        found = predict_next(HFLanguageModel(model), (ids, length), 0.0)
        expected = model(input_ids=ids, attention_mask=inside.long(), labels=ids.where(inside, -100)).loss
    assert found.predictions is not None and found.predictions.tolist() == [11, 0, 4, 6, 0]
    torch.testing.assert_close(found.losses.sum() / found.predictions.sum(), expected)
    assert (found.correct <= found.predictions).all() and found.losses[1] == found.losses[4] == 0
    other = predict_next(HFLanguageModel(model), (texts(lengths, 12, filler=9), length, torch.zeros(5)), 0.0)
    torch.testing.assert_close(other.losses, found.losses)  # padding counts for nothing, labels neither


class Sentences:
    """The loader contract in a few lines: counting up or down from anywhere, batches of (text, length)."""

    def __init__(self, n: int = 24, batch_size: int = 8) -> None:
        random = np.random.default_rng(n)
        self.length = torch.from_numpy(random.integers(2, 13, n))
        start, step = random.integers(3, WORDS, (n, 1)), random.choice([-1, 1], (n, 1))
        self.text = torch.from_numpy((start + step * np.arange(12) - 3) % (WORDS - 3) + 3)
        self.text[torch.arange(12) >= self.length[:, None]] = 0
        self.batch_size, self.epoch, self.position = batch_size, 0, 0

    def __len__(self) -> int:
        return -(-len(self.text) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.from_numpy(np.random.default_rng(self.epoch).permutation(len(self.text)))
        for rows in order.split(self.batch_size)[self.position :]:
            self.position += 1
            yield self.text[rows], self.length[rows]
        self.position = 0


class Stops(HFLanguageModel):
    """Sends a signal to this process in training step ``step``."""

    def __init__(self, step: int = -1) -> None:
        super().__init__(gpt2(dropout=0.1))
        self.step, self.seen = step, 0

    def forward(self, text: torch.Tensor, length: torch.Tensor | None = None) -> torch.Tensor:
        if self.training:
            if self.seen == self.step:
                os.kill(os.getpid(), signal.SIGINT)
            self.seen += 1
        return super().forward(text, length)


def config(out: Path, **changes: Any) -> FineTuneConfig:
    settings = {"epochs": 4, "lr": 1e-2, "log_every": 2, "progress": "off", "label_smoothing": 0.0}
    return FineTuneConfig(out=out, **settings | changes)


def test_the_loop_trains_a_language_model(tmp_path: Path) -> None:
    model, val = Stops(), Sentences(10, batch_size=4)
    before = evaluate(copy.deepcopy(model), val, objective=predict_next)
    assert before.images == 10 and before.perplexity == pytest.approx(WORDS, rel=0.1)
    result = finetune(model, Sentences(), val, config(tmp_path, epochs=30), objective=predict_next)
    assert result.val_loss < 0.7 * before.loss
    assert result.val_perplexity == pytest.approx(np.exp(result.val_loss))
    words = val.text, val.length
    whole = predict_next(model.eval(), words, 0.0)
    assert whole.predictions is not None
    assert result.val_loss == pytest.approx((whole.losses.sum() / whole.predictions.sum()).item(), rel=1e-5)
    assert result.val_accuracy == pytest.approx((whole.correct.sum() / whole.predictions.sum()).item())


@pytest.mark.parametrize("stop_at", [0, 4])
def test_resuming_a_language_model_is_exact(tmp_path: Path, stop_at: int) -> None:
    whole, again = Stops(), Stops()
    val = Sentences(6)
    expected = finetune(whole, Sentences(), val, config(tmp_path / "whole"), objective=predict_next)
    with pytest.raises(Interrupted):
        finetune(Stops(stop_at), Sentences(), val, config(tmp_path / "parts"), objective=predict_next)
    found = finetune(again, Sentences(), val, config(tmp_path / "parts", resume=True), objective=predict_next)
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert found.val_loss == expected.val_loss


@pytest.mark.parametrize("batches", ["of a size", "by a budget"])
def test_a_language_model_learns_from_augmented_texts_and_goes_on_exactly(tmp_path: Path, batches: str) -> None:
    """Batches of the real loader, which have no labels."""
    transformers = pytest.importorskip("transformers")
    lines = ["the film was good and the plot was clever", "a bad film", "the plot of a bad film", "bad"]
    texts = dalipipe.Text([" and ".join([line] * (1 + n % 3)) for n, line in enumerate(lines * 15)])

    def run(out: Path, stop_at: int = -1, **changes: Any) -> tuple[dict[str, Any], float, float]:
        policy, settings = dalipipe.recipes.eda(copies=3), {"device": "cpu", "seed": 5, "num_workers": 2}
        order = {"batch_size": 8, "shuffle": True}
        if batches == "by a budget":
            order = {"batch_sampler": dalipipe.orders.TokenBatches(texts.lengths, tokens=240, window=2, multiple=4)}
        train = dalipipe.DataLoader(texts, policy=policy, **order, **settings)
        assert train.vocabulary is not None
        again = texts.with_vocabulary(train.vocabulary)
        val = dalipipe.DataLoader(again, 8, policy=dalipipe.recipes.eda_eval(), shards="exact", **settings)
        model = Stops(stop_at)
        torch.manual_seed(0)
        size = {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
        model.model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=len(train.vocabulary), **size))
        before = evaluate(model, val, objective=predict_next).loss
        if batches == "by a budget":  # epochs are not equally long
            lengths = []
            for epoch in range(5):
                train.set_epoch(epoch)
                lengths.append(len(train))
            assert len(set(lengths)) > 1
            train.set_epoch(0)
        with contextlib.closing(train), contextlib.closing(val):
            result = finetune(model, train, val, config(out, epochs=5, **changes), objective=predict_next)
        return model.state_dict(), before, result.val_loss

    weights, before, after = run(tmp_path / "whole")
    assert after < 0.8 * before
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", stop_at=7)
    again, _, same = run(tmp_path / "parts", resume=True)
    assert same == after
    for name, tensor in weights.items():
        assert torch.equal(again[name], tensor), name


class Share(Sentences):
    """A rank's rows of each batch."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__()
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in super().__iter__():
            text, length = (part[self.rank :: self.world_size] for part in batch)
            yield text, length


class ExactShare(Share):
    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            yield *batch, torch.ones(len(batch[0]), dtype=torch.bool)


def train_share(rank: int, world_size: int, folder: Path) -> None:
    if world_size > 1:
        where = f"file://{folder}/meeting"
        torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=world_size)
    torch.set_num_threads(1)
    model, out = HFLanguageModel(gpt2()), folder / f"of {world_size}"
    share = Share(rank, world_size), ExactShare(rank, world_size)
    result = finetune(model, *share, config(out, epochs=2, optimizer="sgd", clip_norm=None), objective=predict_next)
    if rank == 0:
        torch.save((model.state_dict(), result.val_loss), out / "result.pt")
    if world_size > 1:
        torch.distributed.destroy_process_group()  # its threads must not outlive Python


def test_two_processes_train_a_language_model_as_one(tmp_path: Path) -> None:
    """Every word weighs the same, though the ranks' shares have more and fewer of them."""
    counts = [[int((length - 1).sum()) for _, length in Share(rank, 2)] for rank in range(2)]
    assert counts[0] != counts[1]
    train_share(0, 1, tmp_path)
    torch.multiprocessing.spawn(train_share, (2, tmp_path), 2)
    (one, loss), (two, same_loss) = (torch.load(tmp_path / f"of {n}" / "result.pt") for n in (1, 2))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-4, atol=1e-6)
    assert same_loss == pytest.approx(loss, rel=1e-5)


def test_evaluation_counts_words_of_valid_rows() -> None:
    val, model = Sentences(10, batch_size=10), Stops()
    valid = torch.tensor([True] * 6 + [False] * 4)
    text, length = next(iter(val))
    found = evaluate(model, [(text, length, valid)], objective=predict_next)
    expected = evaluate(model, [(text[:6], length[:6])], objective=predict_next)
    assert found.images == 6 and found.loss == pytest.approx(expected.loss) and found.accuracy == expected.accuracy
    with pytest.raises(ValueError, match="nothing to predict"):
        evaluate(model, [(text, torch.ones_like(length))], objective=predict_next)


def test_classify_is_cross_entropy_of_the_last_field() -> None:
    model, lengths = made("cnn"), torch.tensor([6, 2, 4])
    ids, labels = texts((6, 2, 4), 6), torch.tensor([1, 0, 4])
    found = classify(model, (ids, lengths, labels), 0.1)
    expected = functional.cross_entropy(model(ids, lengths), labels, label_smoothing=0.1)
    torch.testing.assert_close(found.losses.mean(), expected)
    soft = classify(model, (ids, lengths, functional.one_hot(labels, CLASSES).float()), 0.1)
    torch.testing.assert_close(soft.losses, found.losses)
    assert torch.equal(soft.correct, found.correct)
