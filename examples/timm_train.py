"""Train a timm model the way timm's own script does, with our loader in the place of ``create_loader``'s.

    pip install timm
    python examples/timm_train.py DATA             # DATA/train/<class>/*.jpg and DATA/val/<class>/*.jpg
    python examples/timm_train.py                  # or on a few scanned digits
    python examples/timm_train.py DATA --model vit_tiny_patch16_224 --pretrained --size 224

Batches come out normalised and on the device, as from timm's prefetcher: so no ``.cuda()`` in the loop.
"""

from __future__ import annotations

import argparse

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, accuracy

import dalipipe
from dalipipe import demo_data
from dalipipe.ops import image as ops

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", help="folder with train/ and val/")
parser.add_argument("--model", default="resnet18")
parser.add_argument("--pretrained", action="store_true", help="start from timm's weights, which it downloads")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--size", type=int, default=64, help="edge of the pictures the model sees, in pixels")


def main() -> None:
    args = parser.parse_args()
    data = args.data or demo_data.write_digits("runs/digits")
    train_set = dalipipe.ImageFolder(f"{data}/train")
    val_set = dalipipe.ImageFolder(f"{data}/val")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = timm.create_model(args.model, pretrained=args.pretrained, num_classes=len(train_set.classes)).to(device)
    config = timm.data.resolve_model_data_config(model)  # how this model wants its pictures normalised
    normalize = ops.Normalize(config["mean"], config["std"])
    augment = dalipipe.Policy([ops.RandomResizedCrop(args.size), ops.HorizontalFlip(), normalize])
    plain = dalipipe.Policy([ops.Resize(round(args.size / config["crop_pct"])), ops.CenterCrop(args.size), normalize])
    train = dalipipe.DataLoader(train_set, args.batch_size, shuffle=True, drop_last=True, policy=augment, seed=0)
    val = dalipipe.DataLoader(val_set, args.batch_size, policy=plain, seed=0)

    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3)
    scheduler, epochs = create_scheduler_v2(
        optimizer, "cosine", num_epochs=args.epochs, step_on_epochs=False, updates_per_epoch=len(train)
    )
    criterion = torch.nn.CrossEntropyLoss()
    for epoch in range(epochs):
        train.sampler.set_epoch(epoch)
        model.train()
        losses = AverageMeter()
        for step, (images, labels) in enumerate(train, 1):
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step_update(epoch * len(train) + step)
            losses.update(loss.item(), len(labels))

        model.eval()
        top1 = AverageMeter()
        with torch.no_grad():
            for images, labels in val:
                top1.update(accuracy(model(images), labels)[0].item(), len(labels))
        print(f"epoch {epoch}: loss {losses.avg:.3f}, validation accuracy {top1.avg:.2f}%")


if __name__ == "__main__":
    main()
