"""Train a small Hugging Face ResNet with transformers' Trainer and our loaders.

    pip install transformers accelerate
    python examples/transformers_trainer.py DATA   # DATA/train/<class>/*.jpg and DATA/val/<class>/*.jpg
    python examples/transformers_trainer.py        # or on a few scanned digits

The mixin hands our loaders to the Trainer, with the names its models use. After Ctrl-C, run it again with --resume: it
goes on with the very next batch. For a pretrained model put ``AutoModelForImageClassification.from_pretrained(...)``
in the place of the one made here.
"""

from __future__ import annotations

import argparse

import transformers

import dalipipe
from dalipipe import demo_data, recipes
from dalipipe.interop import TrainerMixin

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", nargs="?", help="folder with train/ and val/")
parser.add_argument("--out", default="runs/transformers")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch-size", type=int, default=64, help="per process")
parser.add_argument("--size", type=int, default=64, help="edge of the pictures the model sees, in pixels")
parser.add_argument("--resume", action="store_true")


class Trainer(TrainerMixin, transformers.Trainer):
    pass


def accuracy(prediction: transformers.EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def main() -> None:
    args = parser.parse_args()
    data = args.data or demo_data.write_digits("runs/digits")
    train_set = dalipipe.ImageFolder(f"{data}/train")
    val_set = dalipipe.ImageFolder(f"{data}/val")
    train = dalipipe.DataLoader(
        train_set, args.batch_size, shuffle=True, drop_last=True, policy=recipes.imagenet_train(args.size), seed=0
    )
    val = dalipipe.DataLoader(val_set, args.batch_size, shards="exact", policy=recipes.imagenet_eval(args.size), seed=0)

    model = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            num_labels=len(train_set.classes),
            embedding_size=32,
            hidden_sizes=[32, 64, 128],
            depths=[1, 1, 1],
            layer_type="basic",
        )
    )
    settings = transformers.TrainingArguments(
        args.out,
        num_train_epochs=args.epochs,
        learning_rate=1e-3,
        eval_strategy="epoch",
        save_steps=50,
        report_to="none",
    )
    trainer = Trainer(model, settings, train_loader=train, eval_loader=val, compute_metrics=accuracy)
    trainer.train(resume_from_checkpoint=args.resume)
    print(f"validation accuracy {trainer.evaluate()['eval_accuracy']:.2%}")


if __name__ == "__main__":
    main()
