"""docs/accuracy.md and its figure, out of results/accuracy.json; accuracy.py measures, and writes them."""

from __future__ import annotations

import math
import statistics
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from accuracy_arms import ARMS, ROOT, STANDARD

PAGE, FIGURE = ROOT / "docs" / "accuracy.md", ROOT / "docs" / "images" / "accuracy.png"


class Estimate(NamedTuple):
    """A mean and its standard error, in percent."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.error:.2f}"

    def minus(self, other: Estimate) -> Difference:
        """The difference of two independent means."""
        return Difference(self.mean - other.mean, math.hypot(self.error, other.error))


class Difference(Estimate):
    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.error:.2f}"

    @property
    def within_one(self) -> bool:
        return abs(self.mean) <= self.error

    @property
    def gain(self) -> bool:
        """More than two standard errors above 0."""
        return self.mean > 2 * self.error


def estimate(values: list[float]) -> Estimate:
    return Estimate(statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values)))


def columns(result: dict[str, Any], field: str) -> dict[str, list[float]]:
    """A field of all runs, by arm; arms with at least two runs, in their order."""
    values = {name: [one[field] for one in result["runs"] if one["arm"] == name] for name in ARMS}
    return {name: column for name, column in values.items() if len(column) > 1}


def page(result: dict[str, Any]) -> str:
    """The whole of docs/accuracy.md. Raises ``KeyError`` where an arm that others are compared with has no two runs."""
    fitted, cpu_s = columns(result, "train_accuracy"), columns(result, "cpu_s")
    accuracies = columns(result, "accuracy")
    means = {name: estimate(values) for name, values in accuracies.items()}
    theirs, ours, none = *(means[name] for name in STANDARD), means["none"]

    arms, parity, gains, better, no_more, worse = [], [], [], [], [], []
    for name, mean in means.items():
        shown, library = ARMS[name].shown, ARMS[name].library
        runs, train, seconds = len(accuracies[name]), estimate(fitted[name]).mean, statistics.mean(cpu_s[name])
        arms.append(f"| {shown} | {library} | {runs} | {mean} | {train:.1f} | {seconds:.0f} |")
        twin = name.replace("dalipipe", "torchvision")
        if twin != name and twin in means:
            apart = mean.minus(means[twin])
            within = "yes" if apart.within_one else "**no**"
            parity.append(f"| {shown} | {apart} | {abs(apart.mean) / apart.error:.2f} | {within} |")
        if library == "dalipipe" and name != "none":
            over_none, over_standard = mean.minus(none), mean.minus(ours)
            gains.append(f"| {shown} | {over_none} | {'' if name == STANDARD[1] else over_standard} |")
            if over_none.gain:
                better.append(shown)
            if name != STANDARD[1] and not over_standard.gain:
                no_more.append(shown)
            if Difference(-over_standard.mean, over_standard.error).gain:
                worse.append(shown)
    apart, settings, machine = ours.minus(theirs), result["settings"], result["machine"]
    summary = (
        f"With the standard augmentation (crop of the padded picture, flip) networks end "
        f"{'within' if apart.within_one else '**not** within'} one standard error of each other: {ours} % of the test "
        f"pictures with dalipipe, {theirs} % with torchvision; the difference is {apart} points. Better than no "
        f"augmentation by more than two standard errors: {', '.join(better) or 'nothing'}."
    )
    weaker = (
        f"Not better than the standard alone by more than two standard errors: {', '.join(no_more)}; worse "
        f"by more than two: {', '.join(worse) or 'none'}. Stronger "
        "augmentation makes training pictures harder. It pays where a network would otherwise learn them by heart; one "
        "as small as this, after so few epochs, is far from that already with the standard alone, as the training "
        "accuracies in the first table show. That is our reading; no longer runs were made to prove it."
        if no_more
        else "All additions bring more than the standard alone, by more than two standard errors."
    )
    values = {
        **settings,
        "summary": textwrap.fill(summary, 110),
        "weaker": textwrap.fill(weaker, 110),
        "figure": FIGURE.relative_to(PAGE.parent),
        "arms": "\n".join(arms),
        "parity": "\n".join(parity),
        "gains": "\n".join(gains),
        "train": f"{result['pictures'][0]:,}",
        "test": f"{result['pictures'][1]:,}",
        "widths": ", ".join(map(str, settings["widths"])),
        "batches": result["pictures"][0] // settings["batch_size"],
        "measured": f"{machine['date']}; {machine['cpu']} ({machine['simd']}); "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if name != "dali"),
    }
    return _TEMPLATE.format_map(values)


_TEMPLATE = """\
<!-- Written by benchmarks/accuracy.py from benchmarks/results/accuracy.json. -->
# Accuracy: the same network on dalipipe's and on torchvision's batches

{summary}

![test accuracy of every run]({figure})

| arm | library | runs | test accuracy, % | training accuracy, % | processor s a run |
|---|---|---:|---:|---:|---:|
{arms}

± is the standard error of the mean over an arm's runs: their standard deviation / √runs. It is what comes of
the seeds (initial weights, order, augmentation); all arms are tested on the same {test} pictures, and which these
are is not in it. Training accuracy is that of the final weights on the training pictures without augmentation.

## dalipipe and torchvision

| dalipipe minus torchvision | difference, points | in standard errors | within one |
|---|---:|---:|---|
{parity}

The standard error of a difference is √(a² + b²) of the two arms' own. Two pipelines that are equal in truth differ
by more than one of it about every third time, by more than two about every twentieth time: such a comparison finds
what harms training by more than its standard error, and nothing finer. Finer are the tests: operator by operator
the pixels are torchvision's, and crops and flips are as likely as there.

## What augmentation brings

| dalipipe | minus none, points | minus standard, points |
|---|---:|---:|
{gains}

{weaker}

## How

- **Data**: {train} training and {test} test pictures of CIFAR-10 (re-encoded as JPEG), 10 classes, decoded once to
  uint8 arrays: all arms see the same pixels.
- **Network**: 3×3 convolutions of {widths} channels, each with batch normalisation and ReLU, 2×2 maxima
  between them; the mean over what is left; a linear layer. A seed's initial weights are the same in every arm.
- **Training**: {epochs} epochs of {batches} batches of {batch_size}; cross-entropy, of soft labels where they are
  mixed; SGD with Nesterov momentum {momentum}, weight decay {weight_decay}, one cycle of the learning rate up to
  {max_lr}; float32, on the CPU. The final weights are tested, once. How many runs an
  arm has was settled beforehand, and none was left out; but for RandAugment: its arms had 3 and 5 runs, 1.15 ± 0.89
  points apart, and were then given 8 each, all of which are counted.
- **none**: normalised only. **standard**: `RandomCrop(32, padding=4)`, `HorizontalFlip()`. The others add to it
  `RandAugment(num_ops=2, magnitude=9)`, `Cutout(8)` or `MixUp(alpha=0.2)`. None of these values was tuned. The
  number of epochs was settled by one run of none and of standard, with a seed that is not among these: as many as
  time allowed, and the standard helped.
- **torchvision**: `transforms.v2` on uint8 tensors, picture by picture, in torch's `DataLoader` without worker
  processes.
- **Processor seconds** are those of training, loading and testing together, on a machine that others used too.

{measured}.

```
python benchmarks/accuracy.py --data DIR   # DIR holds cifar10_jpeg_subset.tar, or {{train,test}}/<class>/*.jpg
```

Runs that benchmarks/results/accuracy.json has are not repeated; without `--data` only this page is written.
"""


def draw(result: dict[str, Any], path: Path) -> None:
    """A dot for every run, and every arm's mean with its standard error."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colours = {"dalipipe": "tab:blue", "torchvision": "tab:orange"}
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    accuracies = columns(result, "accuracy")
    for row, (name, values) in enumerate(accuracies.items()):
        mean, error = estimate(values)
        axes.scatter(values, [row] * len(values), s=22, color=colours[ARMS[name].library], alpha=0.45, linewidths=0)
        axes.errorbar(mean, row, xerr=error, fmt="|", color="black", markersize=14, capsize=4, linewidth=1.5)
        axes.annotate(f"{mean:.1f}", (mean, row), (0, 10), textcoords="offset points", ha="center", fontsize=8)
    axes.set_yticks(range(len(accuracies)), [f"{ARMS[name].shown}, {ARMS[name].library}" for name in accuracies])
    axes.set_ylim(len(accuracies) - 0.5, -0.7)
    axes.set_xlabel("test accuracy, %: every run, mean ± its standard error")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for library, colour in colours.items():
        axes.scatter([], [], s=22, color=colour, label=library)
    axes.legend(frameon=False, loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
