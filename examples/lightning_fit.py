"""Train a ResNet-18 with PyTorch Lightning: our loaders go into ``Trainer.fit`` as they are.

    pip install lightning
    python examples/lightning_fit.py DATA          # DATA/train/<class>/*.jpg and DATA/val/<class>/*.jpg
    python examples/lightning_fit.py               # or on a few scanned digits

Lightning puts the loader's position into its checkpoints. After Ctrl-C, run it again with
--resume runs/lightning/last.ckpt: it goes on with the very next batch, also in the middle of an epoch.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

import dalipipe
from dalipipe import demo_data, recipes

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", help="folder with train/ and val/")
parser.add_argument("--out", default="runs/lightning")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch-size", type=int, default=64, help="per process")
parser.add_argument("--size", type=int, default=64, help="edge of the pictures the model sees, in pixels")
parser.add_argument("--devices", type=int, default=1, help="processes; more than one trains with DDP")
parser.add_argument("--resume", metavar="CHECKPOINT")

# Lightning counts worker processes, and would like some. dalipipe works in threads.
warnings.filterwarnings("ignore", message=".*does not have many workers")


class Classifier(L.LightningModule):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.model = resnet18(num_classes=classes)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        loss = cross_entropy(self.model(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        right = (self.model(images).argmax(1) == labels).float().mean()
        self.log("val_accuracy", right, prog_bar=True, sync_dist=True, batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    args = parser.parse_args()
    data = args.data or demo_data.write_digits("runs/digits")
    train_set = dalipipe.ImageFolder(f"{data}/train")
    val_set = dalipipe.ImageFolder(f"{data}/val")
    # The seed is what all processes must share. Who takes which part of a batch they find out by themselves.
    train = dalipipe.DataLoader(
        train_set, args.batch_size, shuffle=True, drop_last=True, policy=recipes.imagenet_train(args.size), seed=0
    )
    val = dalipipe.DataLoader(val_set, args.batch_size, policy=recipes.imagenet_eval(args.size), seed=0)

    trainer = L.Trainer(
        max_epochs=args.epochs,
        devices=args.devices,
        default_root_dir=args.out,
        logger=False,
        callbacks=[ModelCheckpoint(args.out, save_last=True, every_n_train_steps=50)],
    )
    trainer.fit(Classifier(len(train_set.classes)), train, val, ckpt_path=args.resume)
    print(f"validation accuracy {trainer.callback_metrics['val_accuracy']:.2%}")


if __name__ == "__main__":
    main()
