"""docs/parity.md, from what was measured: every figure and every verdict on it is computed here."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from compared.two_samples import UNLIKELY

MOST_BEYOND_1 = 0.05
MOST_MEAN = 0.3

Operator = Mapping[str, Any]

CAUSES = {
    "border": """torchvision mixes the fill in twice. Its bilinear samples on the picture's border already hold a
        share of black for what lies outside; by that share it then mixes in the fill once more, so the border becomes
        share² · picture + (1 − share) · fill. Ours, as torchvision's own without a fill (`fill=None`, the default of
        its automatic policies), becomes share · picture + (1 − share) · fill. The smaller a picture, the more of it
        is border.""",
    "halfway": """Nearest sampling midway between two pixels: either is as near. Which one torchvision takes depends
        on the last digits of its float32 coordinates; ours rounds halves to even. Enlarging by 1.5, a quarter turn of
        a picture of which one side is odd and one even, or a shear by a simple fraction put whole rows of samples
        there.""",
    "luma": """torchvision rounds luma down to a whole number before it blends with it, and a matrix cannot. Ours
        shifts by the mean of what that takes, which leaves an error of up to 0.5 · |1 − factor| before the last
        truncation. It grows with the factor; the largest of an automatic policy is 1.99.""",
    "noise": """On uint8 tensors torchvision truncates the noise towards 0 before it adds it, which weakens it; ours
        rounds the sum, as it would be if the picture were of floats.""",
    "floats": "torchvision's result is not rounded, ours is, once.",
    "sums": "The same sums, in another order in float32.",
    "cells": "The edge of a cell falls on a pixel, but for float32's last digits.",
}
"""Why an operator is not exact."""

_CAUSE_OF = {
    **dict.fromkeys(("Contrast", "Saturation"), "luma"),
    **dict.fromkeys(("Grayscale", "GaussianBlur", "MotionBlur", "Normalize", "MixUp", "CutMix"), "sums"),
    "GridMask": "cells",
}


def cause(operator: Operator) -> str:
    """Which of `CAUSES` an operator's differences have; "" where none is known."""
    if any("elsewhere" in figures for figures in operator["on"].values()):
        return "halfway" if "(nearest)" in operator["name"] else "border"
    if operator["operator"] == "GaussianNoise":
        return "floats" if operator["with"].endswith("floats") else "noise"
    return _CAUSE_OF.get(operator["operator"], "")


def shortfalls(operator: Operator) -> dict[str, str]:
    """On which pictures an operator misses its aim, and by how much."""
    found = {}
    for on, worst in operator["on"].items():
        figures = worst.get("tensor")
        if figures is None:
            continue
        missed = []
        if operator["exact"]:
            missed += [f"off by up to {_level(figures['max'])}"] if figures["max"] > 0 else []
        else:
            missed += [f"{_share(figures['beyond_1'])} beyond 1/255"] if figures["beyond_1"] > MOST_BEYOND_1 else []
            missed += [f"mean {_level(figures['mean'])}"] if figures["mean"] > MOST_MEAN else []
        if missed:
            found[on] = ", ".join(missed)
    return found


def is_exact(operator: Operator) -> bool:
    return all(worst["tensor"]["max"] == 0 for worst in operator["on"].values() if "tensor" in worst)


def verdict(operator: Operator) -> str:
    if shortfalls(operator):
        return "**misses**"
    return "exact" if is_exact(operator) else "meets"


def render(result: Mapping[str, Any]) -> str:
    sections = [*_introduction(result), *_operators(result), *_exceptions(result), *_pillow(result)]
    return "\n".join([*sections, *_recipes(result), *_distributions(result)]).rstrip() + "\n"


# Sections ----------------------------------------------------------------------------------------------------------


def _introduction(result: Mapping[str, Any]) -> list[str]:
    compared = _on_tensors(result)
    theirs = [o for o in compared if o["with"].startswith("torchvision")]
    exact, meets, misses = (sum(verdict(o) == kind for o in theirs) for kind in ("exact", "meets", "**misses**"))
    settings = sum(len(o["settings"]) for o in result["operators"])
    draws, versions = result["distributions"], result["machine"]["versions"]
    pictures = ", ".join(f"{count:,} {name}" for name, count in result["pictures"].items())
    refused = sum(row["refused"] for row in result["recipes"])
    summary = [
        f"""{len(theirs)} operators (counting each interpolation) beside torchvision's functions on tensors: {exact}
        **exact** to the bit, {meets} within the aim, {misses} miss it at one setting or more, [for causes told
        below](#what-is-not-exact-and-why). {len(compared) - len(theirs)} more beside timm or plain numpy, since
        torchvision has none.""",
        f"""The aim: exact for flips, crops, padding, erasing, posterize, solarize, invert and equalize; for all else
        at least {1 - MOST_BEYOND_1:.0%} of pixels within 1/255 and a mean difference of at most {MOST_MEAN}/255, at
        every setting.""",
        f"{len(result['recipes'])} recipes, as `dalipipe.convert` takes them: {refused} of their steps were refused.",
        f"""{len(draws)} parameters that are drawn, {result["draws"]:,} draws each: {sum(map(_unlikely, draws))} have
        p below {UNLIKELY}, where chance alone makes {len(draws) * UNLIKELY:.1f}.""",
    ]
    return [
        "# Parity with torchvision",
        "",
        "<!-- Written by benchmarks/parity.py from benchmarks/results/parity.json: changes here are lost. -->",
        "",
        *_text(
            """Whoever moves a training run to another loader wants the same pictures. Here every operator is set
            beside torchvision's function of the same purpose, with the very same parameters, on real pictures; so are
            whole recipes, and what is drawn at random beside what torchvision's own transforms draw. Ours is the
            native engine, on the CPU."""
        ),
        "",
        "    python benchmarks/parity.py --data DIR      # a folder with imagenet_sample_125.tar, or with photographs",
        "",
        *(line for item in summary for line in _item(item)),
        "",
        *_text(
            f"""{settings} settings; {pictures}. Differences count in levels of 255; a pixel is beyond a limit where
            any of its channels is. torchvision {versions["torchvision"]}, torch {versions["torch"]}, Pillow
            {versions["pillow"]}, timm {versions["timm"]}; {result["machine"]["date"]}."""
        ),
        "",
        "![A photograph under twelve operators: ours, torchvision's, and the difference × 32](images/parity.png)",
        "",
        *_text(
            """Above ours, in the middle torchvision's, below the difference × 32: what can be seen there is the
            borders of warps, and single levels under saturation. The photograph is of Grace Hopper, by James S. Davis,
            U.S. Navy, in the public domain."""
        ),
        "",
    ]


def _operators(result: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Operators",
        "",
        *_text(
            """Of each figure the worst of the operator's settings: on photographs, as they are and cut to 224 × 224
            px, and on pictures of 32 × 32 px. Each setting by itself is in `benchmarks/results/parity.json`."""
        ),
    ]
    head = ["operator", "settings", "max", "mean", "> 1/255", "> 2/255", "32 px: mean", "> 1/255", ""]
    for family, rows in groupby(_on_tensors(result), key=lambda o: o["family"]):
        table = []
        for o in rows:
            figures = [worst["tensor"] for on, worst in o["on"].items() if on != "32 px"]
            cells = [str(len(o["settings"]))]
            for key, shown in (("max", _level), ("mean", _level), ("beyond_1", _share), ("beyond_2", _share)):
                cells.append(shown(max(one[key] for one in figures)))
            small = o["on"].get("32 px", {}).get("tensor")
            cells += [_level(small["mean"]), _share(small["beyond_1"])] if small else ["", ""]
            beside = "" if o["with"].startswith("torchvision") else f" (beside {o['with']})"
            table.append([o["name"] + beside, *cells, verdict(o)])
        lines += ["", f"### {family}", "", *_table(head, table)]
    return [*lines, "", "SaltAndPepper has no counterpart: [how many pixels it sets](#noise).", ""]


def _exceptions(result: Mapping[str, Any]) -> list[str]:
    lines = ["## What is not exact, and why", ""]
    inexact = [o for o in _on_tensors(result) if not is_exact(o)]
    for key, why in CAUSES.items():
        of_it = [o for o in inexact if cause(o) == key]
        if not of_it:
            continue
        elsewhere = [worst["elsewhere"] for o in of_it for worst in o["on"].values() if "elsewhere" in worst]
        if elsewhere:
            largest = {name: max(figures[name] for figures in elsewhere) for name in ("max", "mean", "beyond_1")}
            why += f" On all other pixels the difference is at most {_level(largest['max'])}, "
            why += f"its mean at most {_level(largest['mean'])}."
        lines += [*_text(f"**{', '.join(o['name'] for o in of_it)}.** {why}"), ""]
        missing = [o for o in of_it if shortfalls(o)]
        lines += [line for o in missing for line in _item(_missed(o))]
        lines += [""] if missing else []
    unknown = [o["name"] for o in inexact if not cause(o)]
    return [*lines, *([f"**{', '.join(unknown)}.** The cause is not known.", ""] if unknown else [])]


def _missed(o: Operator) -> str:
    where = "; ".join(f"{on}: {by}" for on, by in shortfalls(o).items())
    settings = [o["settings"][i] for i in range(len(o["settings"])) if any(_misses(o, on, i) for on in o["on"])]
    few = len(settings) < 4 and len(settings) < len(o["settings"])
    which = ": " + ", ".join(f"`{setting}`" for setting in settings) if few else ""
    return f"{o['name']} misses the aim at {len(settings)} of {len(o['settings'])} settings{which}. {where}."


def _misses(o: Operator, on: str, setting: int) -> bool:
    found = o["on"][on]["by_setting"][setting]
    if found is None or "tensor" not in o["on"][on]:
        return False
    largest, mean, beyond_1, _ = found
    return largest > 0 if o["exact"] else beyond_1 > MOST_BEYOND_1 or mean > MOST_MEAN


def _pillow(result: Mapping[str, Any]) -> list[str]:
    table = []
    for o in result["operators"]:
        worst = [figures for on, figures in o["on"].items() if on != "32 px" and "pil" in figures]
        if not any(figures["pil"]["max"] for figures in worst):
            continue
        row = [o["name"]]
        for name in ("pil", "pil_itself"):
            found = [figures[name] for figures in worst if name in figures]
            both = [_level(max(f["mean"] for f in found)), _share(max(f["beyond_1"] for f in found))] if found else None
            row += both or ["–", "–"]
        table.append(row)
    return [
        "## Beside Pillow",
        "",
        *_text(
            """torchvision makes one thing of a tensor, another of a PIL picture. Ours follows the tensors. Where
            Pillow differs: how far ours is from it, and how far torchvision's own tensors are; the worst setting, on
            photographs. (torchvision does not warp tensors bicubically.)"""
        ),
        "",
        *_table(["operator", "ours: mean", "> 1/255", "torchvision's tensors: mean", "> 1/255"], table),
        "",
    ]


def _recipes(result: Mapping[str, Any]) -> list[str]:
    names = ("folded", "singly", "folding", "pil_itself")
    rows = [[r["name"], _level(r["folded"]["max"]), *(_both(r[name]) for name in names)] for r in result["recipes"]]
    return [
        "## Recipes",
        "",
        *_text(
            """Converted, and as they are drawn picture by picture. *Folded*: what a loader gives, beside
            torchvision's functions one after the other with the parameters that were drawn. *One by one*: ours so as
            well. *Folding*: the former beside the latter. *Pillow*: torchvision's functions on PIL pictures beside
            the same on tensors. In each cell: the mean, and the share of pixels beyond 1/255."""
        ),
        "",
        *_table(["recipe", "max", "folded", "one by one", "folding", "Pillow"], rows),
        "",
        *_text(
            """What folding changes: a run of brightness, contrast, saturation and grey is one matrix, truncated once,
            where torchvision truncates after each; a run of crops, flips and one warp is sampled once. Only the
            former changes pixels, by a level or two; what cannot share a pass without changing more has a pass of its
            own. Large single differences are small ones enlarged: a level more or less at Solarize's threshold
            inverts a value, and Equalize spreads neighbouring levels apart. Where a recipe warps bicubically, it is
            set beside Pillow's warp, the only one that torchvision has, whose border has no share of the fill at
            all."""
        ),
        "",
    ]


def _distributions(result: Mapping[str, Any]) -> list[str]:
    draws = result["distributions"]
    lines = [
        "## What is drawn",
        "",
        *_text(
            """Two samples: ours, of the converted transform, and what the transform itself drew. D is the largest
            distance of their distribution functions (Kolmogorov and Smirnov), or, where only a few values are possible,
            of their shares (χ²); p is how often chance makes as much of equal distributions. Of each transform's
            parameters the largest D, the smallest p. (A blur's sigma below 0.2 px counts as 0.2: its weights do not
            tell.)"""
        ),
        "",
    ]
    for family, rows in groupby(draws, key=lambda row: row["family"]):
        table = []
        for transform, found in groupby(rows, key=lambda row: row["transform"]):
            of_it = list(found)
            cells = [f"{max(row['d'] for row in of_it):.4f}", f"{min(row['p'] for row in of_it):.3f}"]
            table.append([f"`{transform}`", _listed(of_it), *cells])
        lines += [f"### {family}", "", *_table(["transform", "parameters", "largest D", "smallest p"], table), ""]
    unlikely = [row for row in draws if _unlikely(row)]
    if unlikely:
        lines += _text(
            f"""Below {UNLIKELY}, and drawn once more with other numbers, which tells chance from a difference:"""
        )
        lines += [""]
        for row in unlikely:
            lines += _item(f"`{row['transform']}`, {row['parameter']}: p = {row['p']:.4f}, then {row['again']:.2f}.")
    return lines


def _listed(rows: Iterable[Mapping[str, Any]]) -> str:
    """The parameters' names; those of lists once."""
    names = [re.sub(r"\[\d+\]", "", row["parameter"].split(": ")[-1]) for row in rows]
    magnitudes = sum(name.startswith("magnitude of ") for name in names)
    names = [name for name in names if not name.startswith("magnitude of ")]
    names = [{"called": "which functions", "operators": "which operators"}.get(name, name) for name in names]
    return ", ".join([*dict.fromkeys(names), *([f"{magnitudes} magnitudes"] if magnitudes else [])])


# Parts -------------------------------------------------------------------------------------------------------------


def _on_tensors(result: Mapping[str, Any]) -> list[Operator]:
    return [o for o in result["operators"] if any("tensor" in figures for figures in o["on"].values())]


def _unlikely(row: Mapping[str, Any]) -> bool:
    return row["p"] < UNLIKELY


def _text(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def _item(text: str) -> list[str]:
    first, *rest = _text(f"- {text}")
    return [first, *(f"  {line}" for line in rest)]


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    texts = ("", "operator", "recipe", "transform", "parameters")
    return [_line(head), f"|{'|'.join('---' if title in texts else '---:' for title in head)}|", *map(_line, rows)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _level(v: float) -> str:
    if v == 0:
        return "0"
    return "< 0.001" if v < 0.001 else f"{v:.0f}" if abs(v - round(v)) < 5e-4 else f"{v:.3f}"


def _share(v: float) -> str:
    return "0" if v == 0 else "< 0.01 %" if v < 1e-4 else f"{100 * v:.2f} %"


def _both(figures: Mapping[str, Any]) -> str:
    return f"{_level(figures['mean'])}, {_share(figures['beyond_1'])}" if figures["max"] else "exact"
