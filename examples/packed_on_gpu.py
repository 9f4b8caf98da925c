"""Pack a folder of JPEGs into tiles, and train from the GPU's memory: no picture is uploaded twice.

    python examples/packed_on_gpu.py DATA             # DATA/<class>/*.jpg
    python examples/packed_on_gpu.py DATA --cache-bytes 60GiB

Without a GPU it does the same in the host's memory. The first epoch fills the cache; the others show what that brings.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torchvision.models import resnet18

import dalipipe
from dalipipe import recipes

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder of class folders")
parser.add_argument("--pack", type=Path, default=Path("runs/packed"), help="where the pack is, or is to be")
parser.add_argument("--cache-bytes", help="such as 60GiB; by default a share of what there is")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch-size", type=int, default=256)
parser.add_argument("--size", type=int, default=224, help="edge of the pictures the model sees, in pixels")


def main() -> None:
    args = parser.parse_args()
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    if not (args.pack / "pack.json").exists():
        dalipipe.pack(dalipipe.ImageFolder(args.data), args.pack, format="tiled", resume=args.pack.exists())
    source = dalipipe.Packed(args.pack)
    loader = dalipipe.DataLoader(
        source,
        args.batch_size,
        shuffle=True,
        policy=recipes.imagenet_train(args.size),
        dtype=dtype,
        memory_format=torch.channels_last,
        seed=0,
        cache="device",
        cache_bytes=args.cache_bytes,
    )
    model = resnet18(num_classes=len(source.classes or [])).to(loader.device, dtype)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(args.epochs):
        begin, waited, images = time.perf_counter(), 0.0, 0
        asked = begin
        for pictures, labels in loader:
            waited += time.perf_counter() - asked
            loss = torch.nn.functional.cross_entropy(model(pictures).float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            images += len(labels)
            asked = time.perf_counter()
        if loader.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        print(
            f"epoch {epoch + 1}: {images / seconds:,.0f} images/s, {waited / seconds:.1%} of the time waiting for data"
        )
    print(loader.explain(samples=4))
    loader.close()


if __name__ == "__main__":
    main()
