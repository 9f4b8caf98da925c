"""Learn to classify sentences, without and with augmentation, in a loop of one's own.

    python examples/sentences.py                                      # on a few made sentences, in a moment
    python examples/sentences.py reviews_train.tsv reviews_test.tsv   # label TAB text; or .csv, .jsonl, .parquet

Runs on a GPU where there is one: sentences are edited there, too.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

import dalipipe
from dalipipe import recipes
from dalipipe.finetune.text_models import WordCNN

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("files", nargs="*", help="what to train on, and what to test on")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--batch-size", type=int, default=16)


def main() -> None:
    args = parser.parse_args()
    if len(args.files) not in (0, 2):
        parser.error("give two files, or none")
    with tempfile.TemporaryDirectory() as folder:
        train_file, test_file = args.files or made_files(Path(folder))
        read = dalipipe.Text.open(train_file, lower=True)
        unread = dalipipe.Text.open(test_file, lower=True, classes=read.classes)
    for name, policy in {"as they are": recipes.eda_eval(), "with EDA": recipes.eda()}.items():
        right = train(read, unread, policy, args.epochs, args.batch_size)
        print(f"sentences {name}: {right / len(unread):.1%} of the test's recognised")


def train(read: dalipipe.Text, unread: dalipipe.Text, policy: dalipipe.Policy, epochs: int, batch_size: int) -> int:
    """How many of ``unread`` are recognised."""
    loader = dalipipe.DataLoader(read, batch_size, shuffle=True, policy=policy, seed=0)
    # By the same numbers: the words of the sentences read, and behind them those that the policy may write.
    val = dalipipe.DataLoader(unread.with_vocabulary(loader.vocabulary), batch_size, policy=recipes.eda_eval(), seed=0)
    torch.manual_seed(0)
    model = WordCNN(len(read.classes or ()), len(loader.vocabulary)).to(loader.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for text, length, label in loader:  # int64 [N, L], padded at the end; [N]; [N]
            loss = F.cross_entropy(model(text, length), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return sum(int((model(text, length).argmax(1) == label).sum()) for text, length, label in val)


def made_files(folder: Path) -> list[Path]:
    """Opinions about films, of which each has one word that tells; the test has some that are new, of like meaning."""
    words = {
        "bad": "bad boring awful weak dull terrible horrible tedious".split(),
        "good": "good funny great clever witty wonderful smart amusing".split(),
    }
    parts = ("the film was {}", "a {} story , told in two hours", "{} actors in a long film", "I found the plot {}")
    draw, files = random.Random(0), []
    for name, count, known in (("train", 120, 4), ("test", 200, 8)):
        lines = []
        for _ in range(count):
            label = draw.choice(sorted(words))
            lines.append(f"{label}\t{draw.choice(parts).format(draw.choice(words[label][:known]))}")
        files.append(folder / f"{name}.tsv")
        files[-1].write_text("\n".join(lines) + "\n")
    return files


if __name__ == "__main__":
    main()
