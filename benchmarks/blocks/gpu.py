"""What a CUDA device does, and what the host can feed it with."""

from __future__ import annotations

from typing import Any

from blocks.base import Load, block, measured_on, ours


@block
def host_cpu(load: Load) -> str:
    """What the host can feed a device with."""
    result = load("host_cpu")
    if result is None:
        return "Not measured yet."
    goal = result["goal"]
    lines = ["| pictures come | images/s | CPU µs an image |", "|---|---:|---:|"]
    for name, timing in result["contenders"].items():
        lines.append(f"| {name} | {timing['per_s']:,.0f} | {1e3 * timing['cpu_ms']:.1f} |")
    rounds = len(next(iter(result["contenders"].values()))["rounds"])
    return "\n".join(
        [
            "What the host's part allows, all that a GPU would wait for; its own work, and the driver's calls that "
            f"start it, are left out. {result['what']}, {result['workers']} threads; {result['images']}.",
            "",
            *lines,
            "",
            f"The goal is {goal['per_s']:,} images/s with a GPU and {goal['cores']} cores: no more than "
            f"{1e3 * goal['cpu_ms']:.0f} µs an image. Medians of {rounds} interleaved rounds. {measured_on(result)}.",
        ]
    )


@block
def decode_gpu(load: Load) -> str:
    """The CUDA decoder of JPEG tiles: alone, in loaders, beside the device's memory, and in training."""
    result = load("decode_gpu")
    if result is None:
        return "Not measured yet."
    tables = (_decoders(result), _end_to_end(result), _goals(result), _kernels(result), _steps(result))
    words = [f"{result['what']}; {result['images']}; {result['workers']} cores."]
    for what, title in (("absent", "Absent"), ("failed", "Failed")):
        if result[what]:
            reasons = "; ".join(f"{name} ({why})" for name, why in result[what].items())
            words.append(f"{title}: {reasons}.")
    dry = ["**A dry run without a GPU: figures mean nothing.**"] if result["dry_run"] else []
    blocks = [*dry, " ".join(words), *tables]
    return "\n\n".join([*filter(None, blocks), f"Medians of interleaved rounds. {measured_on(result)}."])


def _decoders(result: dict[str, Any]) -> str:
    parts = [result.get(part, {}).get("contenders", {}) for part in ("decode_whole", "decode_crops")]
    names = sorted({name for part in parts for name in part}, key=lambda name: -_rate(parts[-1], name))
    if not names:
        return ""
    lines = ["| decoding alone, images/s | whole pictures | crops |", "|---|---:|---:|"]
    for name in names:
        rates = (f"{_rate(part, name):,.0f}" if name in part else "–" for part in parts)
        lines.append(f"| {ours(name)} | {' | '.join(rates)} |")
    return "\n".join(lines)


def _end_to_end(result: dict[str, Any]) -> str:
    contenders = result.get("end_to_end", {}).get("contenders", {})
    if not contenders:
        return ""
    lines = ["| end to end | images/s | CPU ms an image |", "|---|---:|---:|"]
    for name in sorted(contenders, key=lambda name: -_rate(contenders, name)):
        lines.append(f"| {ours(name)} | {_rate(contenders, name):,.0f} | {contenders[name]['cpu_ms']:.3f} |")
    return "\n".join(lines)


def _goals(result: dict[str, Any]) -> str:
    lines = ["| | wanted | measured | |", "|---|---:|---:|---|"]
    for name, goal in result["goals"].items():
        lines.append(
            f"| {name} | {goal['wanted']} | {goal['measured']:,.4g} | {'met' if goal['met'] else '**short**'} |"
        )
    return "\n".join(lines) if result["goals"] else ""


def _kernels(result: dict[str, Any]) -> str:
    roofline = result.get("roofline", {})
    if "limit" not in roofline:
        return ""
    lines = [
        f"| a batch of {roofline['batch']} crops | µs | share | MB moved | of a copy |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, kernel in roofline["kernels"].items():
        if kernel["us"] is None:
            lines.append(f"| {name} | – | – | {kernel['mb']:,.1f} | – |")
            continue
        shares = f"{kernel['share']:.0%} | {kernel['mb']:,.1f} | {kernel['of_copy']:.0%}"
        lines.append(f"| {name} | {kernel['us']:,.0f} | {shares} |")
    words = f"A copy within the device moves {roofline['copy_gb_per_s']:,.0f} GB/s."
    if roofline["symbols"]["per_s"] is not None:
        words += f" {roofline['symbols']['per_s'] / 1e9:,.1f} billion Huffman symbols are read a second."
    limits = ", ".join(f"{name} {ms:.2f}" for name, ms in roofline["limits_ms"].items())
    words += f" Milliseconds that a batch takes each by itself: {limits}."
    if roofline["limit"] is not None:
        words += f" The most, so the next limit: {roofline['limit']}."
    return "\n".join([*lines, "", words])


def _steps(result: dict[str, Any]) -> str:
    training = result.get("training", {})
    arms = {name: arm for name, arm in training.items() if isinstance(arm, dict)}
    if not arms:
        return ""
    lines = [f"| {training['what']} | step, ms | over synthetic | data stall |", "|---|---:|---:|---:|"]
    for name, arm in arms.items():
        lines.append(f"| {name} | {arm['step_ms']:.2f} | {arm['over_synthetic']:.3f} | {arm['stall']:.2%} |")
    return "\n".join(lines)


def _rate(contenders: dict[str, Any], name: str) -> float:
    return float(contenders[name]["per_s"]) if name in contenders else 0.0
