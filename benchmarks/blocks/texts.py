"""Texts: speed beside other ways, and what each edit brings."""

from __future__ import annotations

from blocks.base import Load, block, by_seed, mean, measured_on, ours, outcome


@block
def text_cpu(load: Load) -> str:
    """Texts beside plain Python and nlpaug, and the goals that were set."""
    result = load("text_cpu")
    if result is None:
        return "Not measured yet."
    blocks = [
        f"Sentences {result['sentences']}, {result['words']} words each in the mean; batches of {result['batch']:,}; a "
        f"share of {result['alpha']} of the words is edited."
    ]
    goals = ["| | wanted | measured | |", "|---|---:|---:|---|"]
    for task, measured in result["tasks"].items():
        lines = [
            f"| {task} | sentences/s, one core | dalipipe is | two cores | dalipipe is |",
            "|---|---:|---:|---:|---:|",
        ]
        rates: dict[str, dict[str, float]] = {}
        for name, timing in measured["contenders"].items():
            contender, _, way = name.rpartition(", ")
            rates.setdefault(contender, {})[way] = timing["per_s"]
        for contender, ways in sorted(rates.items(), key=lambda item: -max(item[1].values())):
            two = next(way for way in ways if way != "1 core")
            over = [measured["ratios"].get(f"{contender}, {way}") for way in ("1 core", two)]
            first, second = ("" if factor is None else f"{factor:,.1f}×" for factor in over)
            lines.append(
                f"| {ours(contender)} | {ways['1 core']:,.0f} | {first} | {ways[two]:,.0f} ({two}) | {second} |"
            )
        blocks.append("\n".join(lines))
    for goal in result["goals"]:
        what = f"{goal['task']}: {goal['ours']}, two cores, over one process of {goal['over']}"
        value = goal["measured"]
        goals.append(f"| {what} | ≥ {goal['wanted']:.0f}× | {value:,.1f}× | {outcome(goal['wanted'], value)} |")
    absent = "; ".join(f"{name} ({why})" for name, why in result["absent"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    blocks.append("\n".join(goals))
    blocks.append(
        f"Medians of {result['rounds']} interleaved rounds; factors are medians of the rounds' own."
        f"{f' Absent: {absent}.' if absent else ''} The others ran with {versions}. {measured_on(result)}."
    )
    return "\n\n".join(blocks)


@block
def text_accuracy(load: Load) -> str:
    """What each edit brings on small sets of sentences; differences are of the same seed."""
    result = load("text_accuracy")
    if result is None:
        return "Not measured yet."
    settings, runs = result["settings"], result["runs"]
    titles = {"trec": "TREC, 6 classes of questions", "sst2": "SST-2, 2 sentiments"}
    tasks = [task for task in titles if any(one["task"] == task for one in runs)]
    lines = [f"| | {' | '.join(titles[task] for task in tasks)} |", "|---|" + "---:|" * len(tasks)]
    without = {task: by_seed(result, [task], "none", "accuracy") for task in tasks}
    cells = [mean(list(without[task].values())) if len(without[task]) > 1 else "–" for task in tasks]
    lines.append(f"| without, test accuracy in % | {' | '.join(cells)} |")
    for arm in dict.fromkeys(one["arm"] for one in runs if one["arm"] != "none"):
        cells = []
        for task in tasks:
            theirs = by_seed(result, [task], arm, "accuracy")
            gains = [theirs[seed] - without[task][seed] for seed in sorted(set(theirs) & set(without[task]))]
            cells.append(mean(gains, "+") if len(gains) > 1 else "–")
        lines.append(f"| {arm}, points more or less | {' | '.join(cells)} |")
    seeds = min(len(found) for found in without.values())
    minutes = sum(one["cpu_s"] for one in runs) / 60
    words = (
        f"{settings['rows']} training rows; `WordCNN` of width {settings['width']}, {settings['filters']} filters a "
        f"window, from scratch; {settings['steps']} steps of {settings['batch_size']}, AdamW, one cycle; {seeds} seeds "
        f"at least. Edits of a share {result['alpha']} of the words (AEDA's, the mask's and cut-mix's as they are by "
        f"default) in {result['copies']} of {result['copies'] + 1} sentences, as EDA's authors have it for 500. OEWN: "
        "synonyms of Open English WordNet, else the built-in ones. ± is the standard error over seeds (rows, initial "
        f"weights, order, augmentation), of differences over their own. All of it took {minutes:.0f} processor "
        f"minutes. {measured_on(result)}."
    )
    return "\n".join([*lines, "", words])
