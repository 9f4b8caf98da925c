"""Our loader as the source of a ``torchdata.nodes`` pipeline, with one's own steps behind it and exact states.

    pip install torchdata
    python examples/torchdata_nodes.py DATA        # DATA/train/<class>/*.jpg
    python examples/torchdata_nodes.py             # or on a few scanned digits

Run it again with --resume after Ctrl-C: the state has gone through all nodes, so it goes on with the very next batch.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, one_hot
from torchdata.nodes import Loader, Mapper, Prefetcher
from torchvision.models import resnet18

import dalipipe
from dalipipe import demo_data, recipes
from dalipipe.interop import LoaderNode

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", help="folder with train/")
parser.add_argument("--out", default="runs/torchdata.pt")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--size", type=int, default=64, help="edge of the pictures the model sees, in pixels")
parser.add_argument("--save-every", type=int, default=50, help="batches from one saved state to the next")
parser.add_argument("--resume", action="store_true")


def main() -> None:
    args = parser.parse_args()
    data = args.data or demo_data.write_digits("runs/digits")
    train_set = dalipipe.ImageFolder(f"{data}/train")
    train = dalipipe.DataLoader(
        train_set, args.batch_size, shuffle=True, drop_last=True, policy=recipes.imagenet_train(args.size), seed=0
    )

    def soften(batch: Any) -> dict[str, torch.Tensor]:
        """A step of one's own: labels as probabilities, 10 % of them spread over all classes."""
        target = one_hot(batch.label, len(train_set.classes)) * 0.9 + 0.1 / len(train_set.classes)
        return {"image": batch.image, "target": target}

    loader = Loader(Prefetcher(Mapper(LoaderNode(train), soften), prefetch_factor=2))

    model = resnet18(num_classes=len(train_set.classes)).to(train.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    first = 0
    if args.resume:
        state = torch.load(args.out, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])
        first = state["epoch"]

    for epoch in range(first, args.epochs):
        for step, batch in enumerate(loader, 1):
            loss = cross_entropy(model(batch["image"]), batch["target"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % args.save_every == 0:
                save(args.out, epoch, model, optimizer, loader)
        save(args.out, epoch + 1, model, optimizer, loader)
        print(f"epoch {epoch}: {step} batches, loss {loss:.3f}")


def save(path: str, epoch: int, model: Any, optimizer: Any, loader: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    parts = {"model": model, "optimizer": optimizer, "loader": loader}
    torch.save({"epoch": epoch, **{name: part.state_dict() for name, part in parts.items()}}, path)


if __name__ == "__main__":
    main()
