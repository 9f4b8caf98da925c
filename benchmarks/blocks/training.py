"""Fine-tuning: what the loop costs, and what each method brings."""

from __future__ import annotations

import statistics

from blocks.base import Load, block, by_seed, mean, measured_on


@block
def finetune_loop_cpu(load: Load) -> str:
    """What the loop costs beside a bare one."""
    result = load("finetune_loop_cpu")
    if result is None:
        return "Not measured yet."
    lines = ["| | bare loop, a step | `finetune` takes longer by | | 95 % |", "|---|---:|---:|---:|---:|"]
    for name, case in result["cases"].items():
        low, high = case["interval_percent"]
        lines.append(
            f"| {name} | {case['step_us']['bare'] / 1e3:,.2f} ms | {case['overhead_us']:,.0f} µs | "
            f"{case['overhead_percent']:.1f} % | {low:.1f} to {high:.1f} % |"
        )
    pairs = min(case["epochs"] * case["steps"] for case in result["cases"].values())
    words = (
        "A step of it and one of a bare PyTorch loop in turn, on the same batches in memory, to the same weights: "
        f"forward, loss, backward, clip, fused AdamW. Medians of {pairs} or more pairs, {result['threads']} thread; "
        f"at most {result['goal_percent']:.0f} % are wanted of real models. {measured_on(result)}."
    )
    return "\n".join([*lines, "", words])


@block
def generation_accuracy(load: Load) -> str:
    """What made data are worth, beside real ones and with them; differences are of the same seed."""
    result = load("generation_accuracy")
    if result is None:
        return "Not measured yet."
    settings, runs = result["settings"], result["runs"]
    tasks = list(dict.fromkeys(one["task"] for one in runs))
    arms = list(runs[0]["accuracy"])
    of_task = {task: [one for one in runs if one["task"] == task] for task in tasks}
    lines = [f"| trained on | {' | '.join(tasks)} |", "|---|" + "---:|" * len(tasks)]
    for arm in arms:
        found = [[one["accuracy"][arm] for one in of_task[task]] for task in tasks]
        lines.append(f"| {arm} | {' | '.join(mean(each) if len(each) > 1 else '–' for each in found)} |")
    for arm, base in (("both", "real"), ("both, augmented", "real, augmented")):
        gains = [[one["accuracy"][arm] - one["accuracy"][base] for one in of_task[task]] for task in tasks]
        cells = [mean(each, "+") if len(each) > 1 else "–" for each in gains]
        lines.append(f"| *{arm}*, more or less than *{base}* | {' | '.join(cells)} |")
    for name, title, form in (
        ("real", "real samples learnt from", ",.0f"),
        ("agreed", "of those made, the classifier agrees with, %", ".0f"),
        ("nearness", "nearness (1: as new as real ones are, 0: copies)", ".2f"),
        ("gan_cpu_s", "processor seconds to learn and make them", ".0f"),
    ):
        cells = [f"{statistics.mean(one[name] for one in of_task[task]):{form}}" for task in tasks]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    minutes = sum(one["cpu_s"] for one in runs) / 60
    seeds = min(len(found) for found in of_task.values())
    words = (
        f"Test accuracy in %. {settings['per_class']} made samples a class; GANs of width {settings['gan_width']}, "
        f"{settings['gan_steps'][0]:,} steps for pictures ({settings['size_px']} px) and {settings['gan_steps'][1]:,} "
        f"for series; classifiers trained from scratch for {settings['steps']} steps of {settings['batch_size']} in "
        f"every arm; {seeds} seeds at least. ± is the standard error over seeds (real samples, GAN, classifier), of "
        f"differences over their own. All of it took {minutes:.0f} processor minutes. {measured_on(result)}."
    )
    return "\n".join([*lines, "", words])


@block
def transfer_accuracy(load: Load) -> str:
    """Ways of fine-tuning beside each other, by how many pictures there are."""
    result = load("transfer_accuracy")
    if result is None:
        return "Not measured yet."
    settings, runs = result["settings"], result["runs"]
    columns = [(count, augmented) for augmented in (False, True) for count in settings["counts"]]
    heads = [f"{count} a class{', augmented' if augmented else ''}" for count, augmented in columns]
    lines = [f"| test accuracy in % | {' | '.join(heads)} |", "|---|" + "---:|" * len(columns)]
    for arm in settings["lr"]:
        cells = []
        for count, augmented in columns:
            chosen = (one for one in runs if (one["arm"], one["count"], one["augmented"]) == (arm, count, augmented))
            values = [one["accuracy"] for one in chosen]
            cells.append(mean(values) if len(values) > 1 else "–")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    seeds = len({one["seed"] for one in runs})
    before = [one["accuracy"] for one in result["pretrained"]]
    minutes = sum(one["cpu_s"] for one in [*runs, *result["pretrained"]]) / 60
    rates = ", ".join(f"{arm} {rate:g}" for arm, rate in settings["lr"].items())
    widths = ", ".join(map(str, settings["widths"]))
    words = (
        f"Five classes of CIFAR-10 after the other five, on which the network had come to {mean(before)} %: a "
        f"residual network of widths {widths}, pretrained for {settings['pretraining_epochs']} epochs of 2,500 "
        f"pictures. Each run as many steps: {settings['epochs']} epochs of {2500 // settings['batch_size']} steps of "
        f"{settings['batch_size']} pictures (joint: of as many of the source beside), AdamW, warm-up and half a "
        f"cosine, peak learning rates by a pilot: {rates}; weight decay {settings['weight_decay']:g}, in its place "
        f"L2-SP {settings['l2_sp']:g}; λ {settings['target_weight']:g}; gradual: one layer more every "
        f"{settings['unfreeze_every']} epoch. Augmented: padded crops and flips. ± is the standard error over {seeds} "
        "seeds (pictures, pretrained and initial weights, order, augmentation). All of it took "
        f"{minutes:.0f} processor minutes. {measured_on(result)}."
    )
    return "\n".join([*lines, "", words])


@block
def distillation_accuracy(load: Load) -> str:
    """Students without and with a teacher and augmentation; differences are of the same seed."""
    result = load("distillation_accuracy")
    if result is None:
        return "Not measured yet."
    settings, runs = result["settings"], result["runs"]
    titles = {"digits": "digits", "cifar10": "CIFAR-10 subset"}
    teachers = {one["task"]: one for one in result["teachers"]}
    tasks = [task for task in titles if task in teachers and any(one["task"] == task for one in runs)]
    rows = {task: next(one["rows"] for one in runs if one["task"] == task) for task in tasks}
    lines = [
        f"| | {' | '.join(f'{titles[task]}, {rows[task]} pictures' for task in tasks)} |",
        "|---|" + "---:|" * len(tasks),
    ]
    plain = {task: by_seed(result, [task], "plain", "accuracy") for task in tasks}
    cells = [mean(list(plain[task].values())) if len(plain[task]) > 1 else "–" for task in tasks]
    lines.append(f"| neither, test accuracy in % | {' | '.join(cells)} |")
    names = {"augmented": "augmentation", "taught": "teacher", "augmented, taught": "teacher and augmentation"}
    for arm, name in names.items():
        cells = []
        for task in tasks:
            theirs = by_seed(result, [task], arm, "accuracy")
            gains = [theirs[seed] - plain[task][seed] for seed in sorted(set(theirs) & set(plain[task]))]
            cells.append(mean(gains, "+") if len(gains) > 1 else "–")
        lines.append(f"| {name}, points more or less | {' | '.join(cells)} |")
    cells = [f"{teachers[task]['accuracy']:.1f} ({teachers[task]['pictures']:,} pictures)" for task in tasks]
    lines.append(f"| the teacher itself, % | {' | '.join(cells)} |")
    cells = [f"{100 * teachers[task]['kept_us'] / teachers[task]['live_us']:.1f} %" for task in tasks]
    lines.append(f"| looking its answers up, of the time it takes to ask it | {' | '.join(cells)} |")
    small = max(one["parameters"] for one in runs)
    large = max(teacher["parameters"] for teacher in teachers.values())
    seeds = min(len(found) for found in plain.values())
    words = (
        f"Students of {small:,} parameters, teachers of {large:,}; {settings['digits_steps']:,} steps on digits, "
        f"{settings['cifar10_steps']:,} on CIFAR-10, of {settings['batch_size']} pictures at most, AdamW; T "
        f"{settings['temperature']:g}, labels' share {settings['hard_weight']:g}; {settings['draw_epochs']} epochs' "
        f"augmentation, again and again, with and without a teacher; {seeds} seeds at least. ± is the standard error "
        "over seeds (pictures, initial weights, order, augmentation), of differences over their own. "
        f"{measured_on(result)}."
    )
    return "\n".join([*lines, "", words])


@block
def tune_accuracy(load: Load) -> str:
    """What cross-validation chose, and what that came to beside no augmentation, the policy as written, and
    TrivialAugment.
    """
    result = load("tune_accuracy")
    if result is None:
        return "Not measured yet."
    arms = ("none", "as written", "TrivialAugment", "chosen")
    lines = ["| test accuracy in % | none | as written | TrivialAugment | chosen | what was chosen, seed by seed |"]
    lines.append("|---|" + "---:|" * len(arms) + "---|")
    for task in dict.fromkeys(one["task"] for one in result["runs"]):
        own = [one for one in result["runs"] if one["task"] == task]
        found = {arm: [one["accuracy"][arm] for one in own if arm in one["accuracy"]] for arm in arms}
        cells = [mean(found[arm]) if len(found[arm]) > 1 else "–" for arm in arms]
        samples = f"{task}, {own[0]['samples']} samples"
        lines.append(f"| {samples} | {' | '.join(cells)} | {'; '.join(one['chosen'] for one in own)} |")
    settings, runs = result["settings"], result["runs"]
    share, minutes = max(one["share"] for one in runs), sum(one["cpu_s"] for one in runs) / 60
    words = (
        f"`tune` with {settings['folds']} folds of what is trained on, {runs[0]['candidates']} candidates or fewer, "
        f"for at most {share:.0%} of the full grid's steps; then all of it trained on, {settings['steps']} steps of "
        f"{settings['batch_size']} pictures or {settings['series_steps']} of 16 series, AdamW; accuracy on the whole "
        "test set, ± its standard error over seeds (samples, weights, folds, order). Small residual networks from "
        "scratch. “digits, harmful” is mirrored and turned by up to 180 degrees. All of it took "
        f"{minutes:.0f} processor minutes. {measured_on(result)}."
    )
    return "\n".join([*lines, "", words])
