"""The figures in the README are those of benchmarks/results, and a block says plainly what fell short."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
MACHINE = {"date": "D", "gpu": None, "cores": 2, "cpu": "C", "simd": "S", "versions": {"torch": "1"}}


@pytest.fixture(scope="module")
def report() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("report")


def test_pages_are_up_to_date(report: Any) -> None:
    for page in report.PAGES:
        text = (ROOT / page).read_text()
        assert report.render(text) == text, f"{page} is out of date: python benchmarks/report.py"


def test_every_block_is_on_a_page(report: Any) -> None:
    shown = {
        name for page in report.PAGES for name in re.findall(r"<!-- results: (\w+) -->", (ROOT / page).read_text())
    }
    assert shown == set(report.BLOCKS)


NUMBER = r"(?<![\w.])\d[\d.,]*"
WORD = r"\b(?:two|three|four|five|ten|twenty|a hundred|half an?|a third|a quarter|a fifth|a tenth)"
FIGURE = re.compile(
    rf"{NUMBER} ?×(?! ?\d)"  # a factor, and not a size such as 224×224
    rf"|{NUMBER} ?(?:%|percent)"
    rf"|{NUMBER} ?(?:(?:CPU|GPU) )?(?:µs|ms|ns|s|min|h|seconds?|minutes?|hours?|points?)\b"
    rf"|{NUMBER} ?(?:[kMGT]i?B/s|/s\b)"
    rf"|{NUMBER}[^.;:|()]{{0,40}}(?: (?:a|per) second\b|/s\b)"
    rf"|(?:{NUMBER}|\btwice) (?:times )?as (?:fast|quick|slow)|{NUMBER} times the (?:rate|speed|throughput)"
    rf"|{WORD} (?:times (?:as|faster)|points|seconds?|minutes?|hours?)\b|\b(?:half|twice) (?:its|the) (?:speed|rate)\b"
)
"""What a measurement looks like in a sentence."""

DEFINED = {
    ("README.md", "10 %"): "the default of max_bad",
    ("docs/design.md", "2 s"): "what the contract asks for",
    ("docs/text.md", "five minutes"): "a title",
}
"""What looks like one and is none, with the reason."""


GENERATED = {"docs/accuracy.md", "docs/parity.md"}
"""As a whole: tests/test_accuracy.py and tests/test_parity.py compare them with their results."""


def typed(page: str, text: str) -> list[str]:
    """Figures that nothing generates: outside of blocks, code, links, and the section of the design with facts."""
    without = [r"<!-- results: .*?<!-- end -->", r"```.*?```", r"`[^`\n]*`", r"\]\([^)]*\)"]
    if page == "docs/design.md":
        without.append(r"\n## 7\. .*?(?=\n## )")
    for pattern in without:
        text = re.sub(pattern, lambda match: re.sub(r"[^\n]", "_", match[0]), text, flags=re.DOTALL)
    sentences = re.sub(r"(?<=.)\n(?=.)", " ", text)  # a figure may be broken over two lines
    return [
        f"{page}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}"
        for match in FIGURE.finditer(sentences)
        if (page, match[0]) not in DEFINED
    ]


def test_no_figure_is_typed_by_hand() -> None:
    found = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        page = str(path.relative_to(ROOT))
        if page not in GENERATED:
            found += typed(page, path.read_text())
    assert not found, "generate these from benchmarks/results/, or say without them:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "reaches 1.8× DALI",
        "costs 14 % more",
        "takes 99 µs",
        "2,135 images/s on two cores",
        "a quarter of an hour, 234,475 sentences a second",
        "25 million series a\nsecond",
        "1.24 times the rate",
        "is 3 times as fast",
        "brings two points",
        "in half a second",
        "0.9 CPU ms an image",
        "at 396 GB/s",
    ],
)
def test_figures_are_recognised(line: str) -> None:
    assert typed("README.md", f"Words before.\n\nIt {line}, and so on.") != []


@pytest.mark.parametrize(
    "line",
    [
        "224×224 px, batches of 64",
        "<!-- results: gpu -->\n| 12 % |\n<!-- end -->",
        "```\nstep 31.0 ms\n```",
        "`--share 5 %` and [so](docs/5ms.md)",
        "500 pictures, or 300 sounds; a second data set; causal-conv1d",
        "twice as large",
    ],
)
def test_what_is_no_figure_of_a_measurement_passes(line: str) -> None:
    assert typed("README.md", line) == []


def test_goals_are_compared_and_not_claimed(report: Any) -> None:
    results = {
        "loaders_cpu": {
            "goals": [
                {"what": "times A", "wanted": "≥ 1.9", "measured": 1.9, "met": True},
                {"what": "times B", "wanted": "≥ 2.8", "measured": 2.49, "met": False},
                {"what": "times C", "wanted": "≥ 1.8", "measured": 2.1, "met": True},
                {"what": "times D", "wanted": "≥ 1.8", "measured": None, "met": False},
            ],
        },
        "fused_image_cpu": {"us_per_image": 120.4},
        "memory_cpu": {
            "buffers_mb": [90, 100, 100],
            "resident_mb": [900, 1000, 1031],
            "dali_decoding_alone_mb": [1, 2, 3],
        },
    }
    text = report.BLOCKS["goals_cpu"](results.get)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines()[2:] if line.startswith("|")}
    assert [("met" in row, "short" in row) for row in rows.values()] == [
        (True, False),
        (False, True),
        (True, False),
        (False, True),
        (False, True),
        (True, False),
        (False, True),
    ]
    assert "not measured" in text and "2.49" in text
    assert (
        "Not measured yet" in report.BLOCKS["gpu"]({}.get)
        and report.BLOCKS["decode_gpu"]({}.get) == "Not measured yet."
    )


def test_loaders_that_are_not_there_are_listed(report: Any) -> None:
    def timing(per_s: float, **more: Any) -> dict[str, Any]:
        known = {
            "version": "1, torch 2",
            "settings": {"n": 2},
            "cpu_s_per_1000": 0.9,
            "p99_over_p50": 1.2,
            "peak_mb": 5000,
        }
        known |= {"difference": {"mean": 0.0, "largest": 0.0}, "exact": True, "remark": ""}
        return {"per_s": per_s, "first_batch_s": 1.9, "rounds": [1, 2], **known, **more}

    other = timing(50.0, exact=False, difference={"mean": 0.0123, "largest": 1.0}, remark="of its own")
    result = {
        "what": "decode",
        "images": "I",
        "workers": 2,
        "contenders": {"B": other, "dalipipe": timing(100.0)},
        "ratios": {"over B": 2.004},
        "one_core": timing(51.0),
        "scaling": 1.96,
        "absent": {"SPDL": "pip install spdl"},
        "failed": {"timm": "no | such"},
        "machine": MACHINE,
    }
    text = report.BLOCKS["loaders_cpu"]({"loaders_cpu": result}.get)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[2] == "| **dalipipe** | 100 |  | 0.90 | 1.20 | 1.9 | 5,000 | torchvision's |"
    assert lines[3] == "| B 1 | 50 | 2.00× | 0.90 | 1.20 | 1.9 | 5,000 | ± 0.01 |"
    assert "1.96×" in lines[4] and "absent: pip install spdl" in lines[5] and r"no \| such" in lines[6]
    assert {line.replace(r"\|", "").count("|") for line in lines} == {9}
    assert (
        "(B: of its own)" in text and "B: n 2" in text and report.BLOCKS["loaders_cpu"]({}.get) == "Not measured yet."
    )


def test_recipe_is_compared_like_for_like(report: Any) -> None:
    def result(factor: float) -> dict[str, Any]:
        timing = {"cpu_ms": 1.0, "rounds": [1, 2]}
        return {
            "what": "W",
            "images": "I",
            "workers": 2,
            "best_torchvision": "T",
            "like_for_like": {"T": "ours", "P": "ours"},
            "contenders": {"T": {"per_s": 9, **timing}, "ours": {"per_s": 30, **timing}, "P": {"per_s": 7, **timing}},
            "ratios": {"over torchvision v2": factor, "over T": factor, "over P": 4.321},
            "machine": {"date": "D", "gpu": None, "cores": 2, "cpu": "C", "simd": "S", "versions": {"torch": "1"}},
        }

    text = report.BLOCKS["policies_cpu"]({"policies_cpu": result(2.99)}.get)
    assert "2.99, **short**" in text and "4.32×" in text
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.count("|") == 5][2:] == [
        "**ours**",
        "T",
        "P",
    ]
    assert "3.00, met" in report.BLOCKS["policies_cpu"]({"policies_cpu": result(3.0)}.get)


def test_cache_is_shown_with_what_the_first_epoch_pays(report: Any) -> None:
    result = {
        "what": "W",
        "images": "I",
        "workers": 2,
        "mb": {"encoded": 300, "decoded": 1785},
        "contenders": {"dalipipe, A": {"per_s": 1234.5, "cpu_ms": 0.5, "rounds": [1]}},
        "ratios": {"first epoch over no cache": 0.456},
        "machine": {"date": "D", "gpu": None, "cores": 2, "cpu": "C", "simd": "S", "versions": {"torch": "1"}},
    }
    text = report.BLOCKS["cache_cpu"]({"cache_cpu": result}.get)
    assert "| **dalipipe, A** | 1,234 | 0.50 |" in text and "| first epoch over no cache | 0.46× |" in text
    assert "1,785 MiB decoded" in text and report.BLOCKS["cache_cpu"]({}.get) == "Not measured yet."


def test_operators_that_are_slower_are_shown_as_such(report: Any) -> None:
    rows = [
        ({"dalipipe": 50.0, "torchvision": 40.0, "kornia": 5000.0}, {"torchvision": 0.8, "kornia": 100.0}),
        ({"dalipipe": 50.0, "torchvision": 120.0}, {"torchvision": 2.4}),
    ]
    result = {
        "what": "W",
        "rounds": 5,
        "versions": {"kornia": "0.9", "albumentations": "2.0.8"},
        "machine": {
            "date": "D",
            "gpu": None,
            "cores": 2,
            "cpu": "C",
            "simd": "S",
            "versions": {"torchvision": "0.29+cu"},
        },
        "rows": [
            {"family": "F", "name": name, "us_per_image": us, "ratios": ratios}
            for name, (us, ratios) in zip("AB", rows, strict=True)
        ],
    }
    table = report.BLOCKS["operators_cpu"]({"operators_cpu": result}.get)
    assert "| A | 50 | 40 (**0.8×**) | 5,000 (100×) | – |" in table
    assert "| B | 50 | 120 (2.4×) | – | – |" in table
    summary = report.BLOCKS["operators_summary"]({"operators_cpu": result}.get)
    assert "| torchvision v2 0.29 | 2 | 1 | 1.6× |" in summary
    assert "| Kornia 0.9 | 1 | 1 | 100.0× |" in summary
    assert "Albumentations" not in summary  # nothing in common: no row


def test_texts_are_compared_with_what_was_wanted(report: Any) -> None:
    def result(factor: float) -> dict[str, Any]:
        contenders = {
            f"{name}, {way}": {"per_s": rate}
            for name, rate in (("dalipipe", 3000.0), ("plain Python", 200.0))
            for way in ("1 core", "2 threads" if name == "dalipipe" else "2 processes")
        }
        ratios = {"plain Python, 1 core": 12.3}
        goal = {"task": "EDA", "ours": "dalipipe", "over": "plain Python", "wanted": 15.0, "measured": factor}
        return {
            "sentences": "of SST-2",
            "words": 19.3,
            "batch": 4096,
            "alpha": 0.1,
            "rounds": 5,
            "versions": {"nlpaug": "1"},
            "absent": {"nlpaug: EDA": "ImportError"},
            "goals": [goal],
            "tasks": {"EDA": {"contenders": contenders, "ratios": ratios}},
            "machine": MACHINE,
        }

    text = report.BLOCKS["text_cpu"]({"text_cpu": result(14.96)}.get)
    assert (
        "| **dalipipe** | 3,000 |  | 3,000 (2 threads) |  |" in text and "| 200 | 12.3× | 200 (2 processes) |" in text
    )
    assert "| ≥ 15× | 15.0× | **short** |" in text and "Absent: nlpaug: EDA (ImportError)" in text
    assert "| ≥ 15× | 15.2× | met |" in report.BLOCKS["text_cpu"]({"text_cpu": result(15.2)}.get)
    assert report.BLOCKS["text_cpu"]({}.get) == "Not measured yet."


def test_what_edits_bring_is_of_the_same_seeds(report: Any) -> None:
    accuracies = {"none": (70.0, 72.0, 90.0), "eda": (71.0, 74.0), "swap": (69.0, 71.0)}
    runs = [
        {"task": "trec", "arm": arm, "seed": seed, "accuracy": accuracy, "cpu_s": 60.0}
        for arm, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    ]
    settings = {"rows": 500, "width": 64, "filters": 64, "steps": 400, "batch_size": 48}
    result = {"settings": settings, "alpha": 0.05, "copies": 16, "runs": runs, "machine": MACHINE}
    text = report.BLOCKS["text_accuracy"]({"text_accuracy": result}.get)
    assert (
        "| eda, points more or less | +1.50 ± 0.50 |" in text and "| swap, points more or less | -1.00 ± 0.00 |" in text
    )
    assert "16 of 17 sentences" in text and "7 processor minutes" in text
    assert report.BLOCKS["text_accuracy"]({}.get) == "Not measured yet."


def test_what_a_teacher_brings_is_of_the_same_seeds(report: Any) -> None:
    accuracies = {"plain": (70.0, 72.0, 90.0), "augmented": (75.0, 78.0), "augmented, taught": (80.0, 82.0)}
    runs = [
        {"task": "digits", "arm": arm, "seed": seed, "accuracy": accuracy, "rows": 50, "parameters": 1000}
        for arm, by_seed in accuracies.items()
        for seed, accuracy in enumerate(by_seed)
    ]
    settings = {
        "digits_steps": 800,
        "cifar10_steps": 2000,
        "batch_size": 50,
        "temperature": 4.0,
        "hard_weight": 0.1,
        "draw_epochs": 20,
    }
    teacher = {"task": "digits", "accuracy": 98.9, "pictures": 1442, "parameters": 9000, "live_us": 800, "kept_us": 4}
    result = {"settings": settings, "teachers": [teacher], "runs": runs, "machine": MACHINE}
    text = report.BLOCKS["distillation_accuracy"]({"distillation_accuracy": result}.get)
    assert "| augmentation, points more or less | +5.50 ± 0.50 |" in text
    assert "| teacher, points more or less | – |" in text and "| +10.00 ± 0.00 |" in text
    assert "98.9 (1,442 pictures)" in text and "| 0.5 % |" in text
    assert report.BLOCKS["distillation_accuracy"]({}.get) == "Not measured yet."


def test_what_made_data_bring_is_of_the_same_seeds(report: Any) -> None:
    arms = {"real": (90.0, 92.0), "synthetic": (80.0, 84.0), "both": (91.0, 94.0)}
    arms |= {"real, augmented": (95.0, 95.0), "both, augmented": (94.0, 95.0)}
    runs = [
        {
            "task": "digits",
            "seed": seed,
            "real": 1442,
            "accuracy": {arm: values[seed] for arm, values in arms.items()},
            "agreed": 96.0 + seed,
            "nearness": 0.9,
            "gan_cpu_s": 50.0,
            "cpu_s": 90.0,
        }
        for seed in range(2)
    ]
    names = ("per_class", "gan_width", "size_px", "steps", "batch_size")
    settings = {**dict.fromkeys(names, 16), "gan_steps": [1500, 1000]}
    text = report.BLOCKS["generation_accuracy"](
        {"generation_accuracy": {"settings": settings, "runs": runs, "machine": MACHINE}}.get
    )
    assert "| *both*, more or less than *real* | +1.50 ± 0.50 |" in text
    assert "| *both, augmented*, more or less than *real, augmented* | -0.50 ± 0.50 |" in text
    assert "| synthetic | 82.00 ± 2.00 |" in text and "| real samples learnt from | 1,442 |" in text
    assert "1,500 steps for pictures" in text and "3 processor minutes" in text
    assert report.BLOCKS["generation_accuracy"]({}.get) == "Not measured yet."


def test_unknown_blocks_are_refused(report: Any) -> None:
    with pytest.raises(ValueError, match="no block is called 'speed'"):
        report.render("<!-- results: speed -->\n<!-- end -->")


def test_what_stats_costs_is_met_or_short(report: Any) -> None:
    def found(overhead: float) -> dict[str, Any]:
        spans = {"interval": [overhead - 0.01, overhead + 0.01], "cpu_overhead": -0.001, "cpu_interval": [-0.002, 0.0]}
        return {"batch_ms": 1.5, "overhead": overhead, **spans, "clock_us": 5.04, "share": 0.0034, "rounds": 60}

    result = {"goal": 0.01, "loaders": {"a": found(0.0099), "b": found(0.0101)}, "machine": MACHINE}
    text = report.BLOCKS["stats_cpu"]({"stats_cpu": result}.get)
    assert "| a | 1.50 | +0.99% (-0.01% to +1.99%) | met | -0.10% (-0.20% to +0.00%) | 5.0 µs, 0.34% |" in text
    assert "| b | 1.50 | +1.01% (+0.01% to +2.01%) | **short** |" in text and "60 interleaved rounds" in text
    assert report.BLOCKS["stats_cpu"]({}.get) == "Not measured yet."
