"""Train a ResNet-18 in a loop of one's own with Hugging Face Accelerate.

    pip install accelerate
    python examples/accelerate_loop.py DATA        # DATA/train/<class>/*.jpg and DATA/val/<class>/*.jpg
    python examples/accelerate_loop.py             # or on a few scanned digits
    accelerate launch --num_processes 2 examples/accelerate_loop.py DATA

``prepare`` leaves our loaders as they are: they share the data set among the processes and put batches on each one's
device. ``save_state`` takes their positions along. After Ctrl-C, run it again with --resume.
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

import dalipipe
from dalipipe import demo_data, recipes

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", help="folder with train/ and val/")
parser.add_argument("--out", default="runs/accelerate")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch-size", type=int, default=64, help="per process")
parser.add_argument("--size", type=int, default=64, help="edge of the pictures the model sees, in pixels")
parser.add_argument("--save-every", type=int, default=50, help="batches from one saved state to the next")
parser.add_argument("--resume", action="store_true")


def main() -> None:
    args = parser.parse_args()
    accelerator = Accelerator(gradient_accumulation_steps=2)
    with accelerator.main_process_first():
        data = args.data or demo_data.write_digits("runs/digits")
    train_set = dalipipe.ImageFolder(f"{data}/train")
    val_set = dalipipe.ImageFolder(f"{data}/val")
    train = dalipipe.DataLoader(
        train_set, args.batch_size, shuffle=True, drop_last=True, policy=recipes.imagenet_train(args.size), seed=0
    )
    val = dalipipe.DataLoader(val_set, args.batch_size, policy=recipes.imagenet_eval(args.size), seed=0)

    model = resnet18(num_classes=len(train_set.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, train, val = accelerator.prepare(model, optimizer, train, val)
    if args.resume:
        accelerator.load_state(args.out)  # and the loader is where it was

    for epoch in range(train.state_dict()["epoch"], args.epochs):
        model.train()
        for step, (images, labels) in enumerate(train, 1):
            with accelerator.accumulate(model):
                accelerator.backward(cross_entropy(model(images), labels))
                optimizer.step()
                optimizer.zero_grad()
            if step % args.save_every == 0 or step == len(train):
                accelerator.save_state(args.out)

        model.eval()
        right = seen = 0
        for images, labels in val:
            with torch.no_grad():
                predicted = model(images).argmax(1)
            predicted, labels = accelerator.gather_for_metrics((predicted, labels))  # of all processes
            right, seen = right + int((predicted == labels).sum()), seen + len(labels)
        accelerator.print(f"epoch {epoch}: validation accuracy {right / seen:.2%} of {seen}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
