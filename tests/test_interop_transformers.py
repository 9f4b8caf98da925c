"""transformers' Trainer with the mixin: training, evaluation, and resuming in mid-epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples import run_example

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import dalipipe  # noqa: E402
from dalipipe.interop import TrainerMixin  # noqa: E402
from dalipipe.ops import image as ops  # noqa: E402

N, BATCH, EPOCHS = 22, 4, 2
STEPS = -(-N // BATCH)
POLICY = dalipipe.Policy([ops.RandomResizedCrop(16), ops.HorizontalFlip(), ops.Contrast(p=0.5), ops.Normalize()])


def make(**kw: Any) -> dalipipe.DataLoader:
    """The labels are the samples' numbers."""
    pixels = np.random.default_rng(0).integers(0, 256, (N, 20, 18, 3), dtype=np.uint8)
    settings: dict[str, Any] = {"shuffle": True, "policy": POLICY, "seed": 3, "device": "cpu", **kw}
    return dalipipe.DataLoader(dalipipe.Arrays(pixels, np.arange(N)), settings.pop("batch_size", BATCH), **settings)


def resnet() -> Any:
    torch.manual_seed(0)
    size = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=N, **size))


class Trainer(TrainerMixin, transformers.Trainer):
    """Notes down what it sees."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.seen: list[list[int]] = []

    def training_step(self, model: Any, inputs: Any, *args: Any) -> Any:
        assert set(inputs) == {"pixel_values", "labels"}
        self.seen.append(inputs["labels"].tolist())
        return super().training_step(model, inputs, *args)


def trainer(out: Path, model: Any = None, *, kind: Any = Trainer, loaders: Any = None, **kw: Any) -> Any:
    quiet = {"report_to": "none", "disable_tqdm": True, "logging_strategy": "no", "save_strategy": "no"}
    settings = {"num_train_epochs": EPOCHS, "learning_rate": 1e-2, "use_cpu": True, "dataloader_pin_memory": False}
    args = transformers.TrainingArguments(str(out), **{**quiet, **settings, **kw})
    return kind(
        resnet() if model is None else model, args, **({"train_loader": make()} if loaders is None else loaders)
    )


def labels(loader: Any, epochs: int = EPOCHS) -> list[list[int]]:
    return [batch.label.tolist() for _ in range(epochs) for batch in loader]


def weights(one: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in one.model.parameters()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_training_is_that_over_torchs_loader(tmp_path: Path) -> None:
    ours = trainer(tmp_path)
    ours.train()
    assert ours.seen == labels(make())
    assert ours.args.per_device_train_batch_size == BATCH and ours.state.train_batch_size == BATCH
    assert ours.state.max_steps == STEPS * EPOCHS

    batches = [
        {"pixel_values": batch.image, "labels": batch.label}
        for loader in [make()]
        for _ in range(EPOCHS)
        for batch in loader
    ]
    rows = [{k: v[i] for k, v in batch.items()} for batch in batches for i in range(len(batch["labels"]))]
    assert len(rows) == N * EPOCHS

    class Theirs(transformers.Trainer):
        def get_train_dataloader(self) -> Any:
            return [dict(batch) for batch in batches]

    theirs = trainer(tmp_path, kind=Theirs, loaders={}, num_train_epochs=1)
    theirs.create_scheduler(STEPS * EPOCHS, theirs.create_optimizer())
    theirs.train()
    assert equal(weights(ours), weights(theirs))


@pytest.mark.parametrize("every", [1, 4])
def test_resuming_is_as_if_nothing_happened(every: int, tmp_path: Path) -> None:
    """``every``: batches a step, of which the last in an epoch has fewer."""
    kw: dict[str, Any] = {"gradient_accumulation_steps": every}
    whole = trainer(tmp_path, save_strategy="steps", save_steps=1, **kw)
    whole.train()
    everything = labels(make())
    assert whole.seen == everything
    checkpoints = sorted(tmp_path.iterdir(), key=lambda path: int(path.name.split("-")[1]))
    per_epoch = -(-STEPS // every)
    assert len(checkpoints) == EPOCHS * per_epoch
    for step in {1, per_epoch - 1, per_epoch, per_epoch + 1, EPOCHS * per_epoch - 1}:
        path = checkpoints[step - 1]
        resumed = trainer(tmp_path, **kw)
        resumed.train(resume_from_checkpoint=str(path))
        given = step // per_epoch * STEPS + step % per_epoch * every
        assert resumed.seen == everything[given:], path
        assert equal(weights(resumed), weights(whole)), path


@pytest.mark.parametrize("kw", [{}, {"shards": "exact"}, {"batch_size": 7}])
def test_evaluation_counts_every_sample_once(kw: dict[str, Any], tmp_path: Path) -> None:
    val = make(shuffle=False, **kw)
    given: list[Any] = []

    def metrics(prediction: Any) -> dict[str, float]:
        given.append(prediction.label_ids.tolist())
        return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}

    one = trainer(tmp_path, loaders={"eval_loader": val, "compute_metrics": metrics})
    result = one.evaluate()
    assert given == [list(range(N))]
    images = torch.cat([batch.image for batch in make(shuffle=False)])
    with torch.no_grad():
        expected = resnet().eval()(pixel_values=images, labels=torch.arange(N)).loss.item()
    assert result["eval_loss"] == pytest.approx(expected, rel=1e-5)
    predicted = one.predict(val)
    assert predicted.predictions.shape == (N, N) and predicted.label_ids.tolist() == list(range(N))


def test_several_loaders_to_evaluate_on_while_training(tmp_path: Path) -> None:
    few = make(shuffle=False, sampler=dalipipe.orders.Subset(range(5), dalipipe.orders.Sequential()))
    loaders = {"train_loader": make(), "eval_loader": {"all": make(shuffle=False), "few": few}}
    one = trainer(tmp_path, loaders=loaders, eval_strategy="epoch", num_train_epochs=2)
    one.train()
    assert one.seen == labels(make())
    assert [set(row) >= {"eval_all_loss"} for row in one.state.log_history[:4]] == [True, False, True, False]
    assert "eval_few_loss" in one.state.log_history[1]


def test_other_data_sets_are_the_trainers_own(tmp_path: Path) -> None:
    rows = [{"pixel_values": torch.zeros(3, 16, 16), "labels": i} for i in range(4)]
    one = trainer(tmp_path, loaders={"train_dataset": rows, "eval_dataset": rows})
    assert isinstance(next(iter(one.get_train_dataloader())), dict)
    assert one.train().global_step == EPOCHS
    assert "eval_loss" in one.evaluate()


def test_names_and_fields_for_other_models(tmp_path: Path) -> None:
    class Other(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3 * 16 * 16, N)

        def forward(self, x: torch.Tensor, y: torch.Tensor, valid: torch.Tensor) -> Any:
            loss = torch.nn.functional.cross_entropy(self.layer(x.flatten(1)), y, reduction="none")
            return {"loss": (loss * valid).sum() / valid.sum()}

    loaders = {"train_loader": make(shards="exact"), "names": {"image": "x", "label": "y"}}
    one = trainer(tmp_path, Other(), kind=type("T", (TrainerMixin, transformers.Trainer), {}), loaders=loaders)
    assert one.train().global_step == STEPS * EPOCHS
    with pytest.raises(TypeError, match=r"expected a dalipipe.DataLoader, got list"):
        trainer(tmp_path, loaders={"train_loader": [1]})


TEXTS = ["the film was good and I liked it", "bad", "a film of no use", "it was good , the plot too"] * 5
TEXT_POLICY = dalipipe.recipes.eda(copies=3)


def texts(**kw: Any) -> dalipipe.DataLoader:
    source = dalipipe.Text(TEXTS, np.arange(len(TEXTS)) % 2)
    settings: dict[str, Any] = {"policy": TEXT_POLICY, "seed": 3, "device": "cpu", **kw}
    return dalipipe.DataLoader(source, 8, **settings)


def bert(words: int) -> Any:
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=words, **size))


def test_texts_come_with_their_attention_mask(tmp_path: Path) -> None:
    train, val = texts(shuffle=True), texts(policy=dalipipe.recipes.eda_eval(), shards="exact")
    assert train.vocabulary is not None
    words, seen = len(train.vocabulary), []

    class Trainer(TrainerMixin, transformers.Trainer):
        def training_step(self, model: Any, inputs: Any, *args: Any) -> Any:
            assert set(inputs) == {"input_ids", "attention_mask", "labels"}
            seen.append(inputs)
            return super().training_step(model, inputs, *args)

    one = trainer(
        tmp_path, bert(words), kind=Trainer, loaders={"train_loader": train, "eval_loader": val}, num_train_epochs=1
    )
    one.train()
    for inputs, batch in zip(seen, texts(shuffle=True), strict=True):
        assert torch.equal(inputs["input_ids"], batch.text) and torch.equal(inputs["labels"], batch.label)
        assert inputs["attention_mask"].dtype == torch.int64
        assert torch.equal(inputs["attention_mask"].sum(1), batch.length)
        assert ((inputs["input_ids"] != 0) == inputs["attention_mask"].bool()).all()
    result = one.evaluate()
    with torch.no_grad():
        whole = next(iter(dalipipe.DataLoader(dalipipe.Text(TEXTS), len(TEXTS), device="cpu", seed=0)))
        mask = torch.arange(whole.text.shape[1]) < whole.length[:, None]
        labels_ = torch.arange(len(TEXTS)) % 2
        expected = one.model.eval()(input_ids=whole.text, attention_mask=mask, labels=labels_).loss.item()
    assert result["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_example(
    jpeg_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = jpeg_folder(24, name="data/train").parent
    jpeg_folder(10, name="data/val")
    arguments: list[Any] = [root, "--out", tmp_path / "out", "--batch-size", 8, "--size", 32]
    run_example("transformers_trainer.py", *arguments, "--epochs", 1, monkeypatch=monkeypatch)
    assert "validation accuracy" in capsys.readouterr().out
    run_example("transformers_trainer.py", *arguments, "--epochs", 2, "--resume", monkeypatch=monkeypatch)
    assert "validation accuracy" in capsys.readouterr().out
