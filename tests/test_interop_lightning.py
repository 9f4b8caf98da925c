"""Lightning's Trainer, as it is, on our loader: epochs, checkpoints in mid-epoch, prediction, several processes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples import run_example

lightning = pytest.importorskip("lightning")
from lightning.pytorch.callbacks import BasePredictionWriter, ModelCheckpoint  # noqa: E402

import dalipipe  # noqa: E402
from dalipipe import orders  # noqa: E402
from dalipipe.ops import image as ops  # noqa: E402

N, BATCH, EPOCHS = 22, 4, 2
STEPS = -(-N // BATCH)
POLICY = dalipipe.Policy([ops.RandomResizedCrop(8), ops.HorizontalFlip(), ops.Contrast(p=0.5), ops.Normalize()])

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def dataset() -> dalipipe.Arrays:
    """The labels are the samples' numbers."""
    return dalipipe.Arrays(np.random.default_rng(0).integers(0, 256, (N, 12, 14, 3), dtype=np.uint8), np.arange(N))


def make(**kw: Any) -> dalipipe.DataLoader:
    settings: dict[str, Any] = {"shuffle": True, "policy": POLICY, "seed": 3, "device": "cpu", **kw}
    return dalipipe.DataLoader(dataset(), settings.pop("batch_size", BATCH), **settings)


class Model(lightning.LightningModule):
    """Notes down what it sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3 * 8 * 8, N)
        self.trained: list[list[int]] = []
        self.validated: list[list[int]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image.flatten(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        image, label = batch
        assert batch.label is label
        self.trained.append(label.tolist())
        return torch.nn.functional.cross_entropy(self(image), label)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(batch.label.tolist())

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch._asdict() | {"pixels": batch.image.clone()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def trainer(root: Path, **kw: Any) -> Any:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    settings = {"max_epochs": EPOCHS, "enable_checkpointing": "callbacks" in kw, "num_sanity_val_steps": 0}
    return lightning.Trainer(accelerator="cpu", default_root_dir=root, **{**quiet, "devices": 1, **settings, **kw})


def labels(loader: Any, epochs: int = EPOCHS) -> list[list[int]]:
    return [batch.label.tolist() for _ in range(epochs) for batch in loader]


def weights(model: Model) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def by_hand(loader: Any, epochs: int = EPOCHS) -> list[torch.Tensor]:
    model = Model()
    optimizer = model.configure_optimizers()
    for _ in range(epochs):
        for i, batch in enumerate(loader):
            optimizer.zero_grad()
            model.training_step(batch, i).backward()
            optimizer.step()
    return weights(model)


def test_fit_is_the_plain_loop(tmp_path: Path) -> None:
    model, train, val = Model(), make(), make(shuffle=False)
    trainer(tmp_path, num_sanity_val_steps=2).fit(model, train, val)
    assert model.trained == labels(make())
    assert model.validated == labels(make(shuffle=False), 1)[:2] + labels(make(shuffle=False))
    assert equal(weights(model), by_hand(make()))


@pytest.mark.parametrize("more", [{}, {"accumulate_grad_batches": 2, "val_check_interval": 3}])
def test_resuming_from_every_checkpoint_is_as_if_nothing_happened(more: dict[str, Any], tmp_path: Path) -> None:
    every = more.get("accumulate_grad_batches", 1)

    def saving() -> list[Any]:
        often = ModelCheckpoint(tmp_path / "steps", save_top_k=-1, every_n_train_steps=1, filename="{epoch}-{step}")
        ends = ModelCheckpoint(tmp_path / "epochs", save_top_k=-1, save_on_train_epoch_end=True, filename="{epoch}")
        return [often, ends]

    model = Model()
    trainer(tmp_path, callbacks=saving(), **more).fit(model, make(), make(shuffle=False))
    everything = labels(make())
    assert model.trained == everything

    for path in sorted((tmp_path / "steps").iterdir()) + sorted((tmp_path / "epochs").iterdir()):
        state = torch.load(path, weights_only=True)
        loader_state = state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
        given = loader_state["epoch"] * STEPS + -(-loader_state["samples"] // BATCH)
        assert given == state["global_step"] * every
        resumed = Model()
        trainer(tmp_path, **more).fit(resumed, make(), make(shuffle=False), ckpt_path=path, weights_only=True)
        assert resumed.trained == everything[given:], path
        assert equal(weights(resumed), weights(model)), path


class WithHooks(Model):
    """Makes its loaders itself, as Lightning's own examples do."""

    def __init__(self, **kw: Any) -> None:
        super().__init__()
        self.kw = kw

    def train_dataloader(self) -> Any:
        return make(**self.kw)

    def predict_dataloader(self) -> Any:
        return make(**self.kw)


def test_loaders_from_hooks(tmp_path: Path) -> None:
    model = WithHooks()
    trainer(tmp_path).fit(model)
    assert model.trained == labels(make())
    model = WithHooks()  # anew each epoch; they are told which
    trainer(tmp_path, reload_dataloaders_every_n_epochs=1).fit(model)
    assert model.trained == labels(make())
    model = WithHooks(sampler=list(range(0, N, 2)), shuffle=False)
    trainer(tmp_path, max_epochs=1).fit(model)
    assert model.trained == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18, 20]]


@pytest.mark.parametrize("hooks", [True, False])
def test_overfitting(hooks: bool, tmp_path: Path) -> None:
    """Lightning puts its own sampler in, and so makes our loader again."""
    model = WithHooks() if hooks else Model()
    trainer(tmp_path, overfit_batches=2).fit(model, *([] if hooks else [make()]))
    assert model.trained == [[0, 1, 2, 3], [4, 5, 6, 7]] * EPOCHS


class Writer(BasePredictionWriter):
    def __init__(self) -> None:
        super().__init__("batch")
        self.indices: list[list[int]] = []

    def write_on_batch_end(self, *args: Any) -> None:
        self.indices.append([int(i) for i in args[3]])


class Batches:
    """A user's own batch sampler."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        return iter([[5, 3], [8], [1, 2, 0]])


@pytest.mark.parametrize("hooks", [True, False])
@pytest.mark.parametrize(
    "kw",
    [
        {"shuffle": False},
        {},
        {"shards": "exact"},
        {"sampler": orders.Subset(range(9)), "shuffle": False, "dtype": torch.float16},
        {"sampler": [5, 3, 8, 1, 2], "shuffle": False},
        {"batch_sampler": Batches(), "shuffle": False, "batch_size": 1},
        {"drop_last": True, "shuffle": False, "policy": None, "dtype": torch.uint8},
    ],
    ids=["sequential", "shuffled", "exact", "subset", "sampler", "batch_sampler", "drop_last"],
)
def test_predictions(hooks: bool, kw: dict[str, Any], tmp_path: Path) -> None:
    """Lightning makes our loader again, to note down which samples it gives; nothing of it may be lost."""
    writer = Writer()
    model = WithHooks(**kw) if hooks else Model()
    outputs = trainer(tmp_path, callbacks=[writer]).predict(model, *([] if hooks else [make(**kw)]))
    if kw.get("drop_last"):
        kw = {**kw, "drop_last": False}  # Lightning wants every sample predicted
    expected = list(make(**kw))
    assert [output["label"].tolist() for output in outputs] == [batch.label.tolist() for batch in expected]
    for output, batch in zip(outputs, expected, strict=True):
        assert torch.equal(output["pixels"], batch.image)
        assert ("valid" in output) == (kw.get("shards") == "exact")
    assert writer.indices == [batch.indices.tolist() for batch in expected]


class Sharing(Model):
    """Writes to a file what this rank saw."""

    def on_train_end(self) -> None:
        torch.save([self.trained, weights(self)], Path(os.environ["SEEN"]) / f"{self.global_rank}.pt")


@pytest.mark.slow  # Lightning is imported twice more
def test_two_processes_share_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader is made before there are processes, and shares itself out once there are."""
    monkeypatch.setenv("SEEN", str(tmp_path))
    loader = make(batch_size=3)
    ddp = {"devices": 2, "strategy": "ddp_spawn"}
    trainer(tmp_path, **ddp).fit(Sharing(), loader, make(shuffle=False))
    (first, weights_0), (second, weights_1) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert equal(weights_0, weights_1)
    steps = -(-N // 6)
    assert len(first) == len(second) == steps * EPOCHS
    alone = labels(make(batch_size=6))
    for i, expected in enumerate(alone):
        together = first[i] + second[i]
        assert together[: len(expected)] == expected and len(together) == 6, "the global batches of one process"
    seen = [{i for batch in one[:steps] for i in batch} for one in (first, second)]
    assert seen[0] & seen[1] <= {*alone[0]}, "only what fills up is seen twice"


def test_the_example(
    jpeg_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = jpeg_folder(24, name="data/train").parent
    jpeg_folder(10, name="data/val")
    arguments: list[Any] = [root, "--out", tmp_path / "out", "--batch-size", 8, "--size", 32]
    run_example("lightning_fit.py", *arguments, "--epochs", 1, monkeypatch=monkeypatch)
    assert "validation accuracy" in capsys.readouterr().out
