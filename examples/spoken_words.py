"""Learn spoken words from a folder of sounds, in a loop of one's own.

    python examples/spoken_words.py DATA --rate-hz 16000    # DATA/train/<word>/*.wav (or flac, ogg), DATA/val/<word>/…

Runs on a GPU where there is one: sounds are decoded on the host, and augmented and made spectrograms on the device.
"""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional as F

import dalipipe
from dalipipe import recipes
from dalipipe.finetune.models import LogMelCNN

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="folder with train/ and val/")
parser.add_argument("--rate-hz", type=int, default=16000)
parser.add_argument("--duration-s", type=float, default=1.0)
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch-size", type=int, default=64)


def main() -> None:
    args = parser.parse_args()
    torch.manual_seed(0)
    heard = dalipipe.AudioFolder(f"{args.data}/train", rate_hz=args.rate_hz)
    unheard = dalipipe.AudioFolder(f"{args.data}/val", rate_hz=args.rate_hz)
    train = dalipipe.DataLoader(
        heard,
        args.batch_size,
        shuffle=True,
        drop_last=True,
        policy=recipes.speech(args.rate_hz, args.duration_s),
        seed=0,
    )
    val = dalipipe.DataLoader(
        unheard, args.batch_size, policy=recipes.speech_eval(args.rate_hz, args.duration_s), seed=0
    )
    model = LogMelCNN(len(heard.classes or ())).to(train.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    for epoch in range(args.epochs):
        model.train()
        for audio, length, label in train:
            loss = F.cross_entropy(model(audio, length), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = sum(int((model(audio, length).argmax(1) == label).sum()) for audio, length, label in val)
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {right / len(unheard):.1%} of words recognised")


if __name__ == "__main__":
    main()
