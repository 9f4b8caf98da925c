"""Fine-tune a ResNet-18 on a folder of pictures, in Python: what `dalipipe train` does, to copy and change.

    python examples/finetune_folder.py DATA          # DATA/train/<class>/*.jpg and DATA/val/<class>/*.jpg
    torchrun --nproc-per-node 8 examples/finetune_folder.py DATA        # the same batches, shared by eight GPUs

Runs on a GPU where there is one. Run it again with --resume after Ctrl-C: it goes on exactly where it stopped, with as
many processes as you like.
"""

from __future__ import annotations

import argparse

import torch
from torchvision.models import resnet18

import dalipipe
from dalipipe import recipes
from dalipipe.finetune import FineTuneConfig, Interrupted, Ranks, finetune, process_group

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder with train/ and val/")
parser.add_argument("--out", default="runs/finetune_folder")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch-size", type=int, default=64, help="of all processes together")
parser.add_argument("--size", type=int, default=224, help="edge of the pictures the model sees, in pixels")
parser.add_argument("--resume", action="store_true")


def main(ranks: Ranks) -> None:
    args = parser.parse_args()
    torch.manual_seed(0)
    batch = ranks.share(args.batch_size)
    train_set = dalipipe.ImageFolder(f"{args.data}/train")
    val_set = dalipipe.ImageFolder(f"{args.data}/val")
    train = dalipipe.DataLoader(
        train_set, batch, shuffle=True, drop_last=True, policy=recipes.imagenet_train(args.size), seed=0
    )
    val = dalipipe.DataLoader(val_set, batch, shards="exact", policy=recipes.imagenet_eval(args.size), seed=0)
    model = resnet18(num_classes=len(train_set.classes))

    config = FineTuneConfig(out=args.out, epochs=args.epochs, lr=1e-3, save_every=1000, resume=args.resume)
    result = finetune(model, train, val, config, ranks=ranks)
    if ranks.main:
        print(
            f"validation accuracy {result.val_accuracy:.2%}, {result.images_per_s:,.0f} images/s, {result.checkpoint}"
        )


if __name__ == "__main__":
    try:
        with process_group() as ranks:  # torchrun's; without torchrun, this process alone
            main(ranks)
    except Interrupted as stopped:
        raise SystemExit(f"{stopped}: run this again with --resume") from None
