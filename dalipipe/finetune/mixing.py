"""A policy with MixUp and CutMix at its end, switched off for the last epochs."""

from __future__ import annotations

from collections.abc import Sequence

from dalipipe.ops.mix import CutMix, MixOp, MixUp, TextCutMix, TimeCutMix
from dalipipe.policy import OneOf, Phases, Policy

_CUT: dict[str, type[MixOp]] = {"image": CutMix, "audio": TimeCutMix, "series": TimeCutMix, "text": TextCutMix}


def mixing(
    policy: Policy,
    task: str = "image",
    *,
    epochs: int,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    off: int = 0,
    batch_size: int = 8,
) -> Policy | Phases:
    """``policy``, and at its end MixUp or CutMix, one of them drawn for each sample; without them in the last ``off``
    of ``epochs`` epochs. Labels are shares of all classes throughout, which ``classify`` takes.

    That a network ends on samples as it will meet them, unmixed, is what timm's ``mixup_off_epoch`` and YOLOX are for
    (Ge et al., "YOLOX: exceeding YOLO series in 2021": MixUp and Mosaic are turned off for the last 15 epochs).

    Args:
        task: what the data are: "image", "audio" or "series", of which CutMix is `TimeCutMix`, or "text", of which it
            is `TextCutMix`.
        mixup, cutmix: alphas of the Beta distributions that weights are drawn from, > 0; 0: not at all. DeiT has 0.8
            and 1.0.
        off: epochs, from 0 to ``epochs`` - 1. A policy that mixes by itself, without ``mixup`` and ``cutmix``, is
            switched off likewise.
        batch_size: of all ranks together; groups inside which samples are mixed are chosen to fit into it.

    Raises:
        ValueError: naming what is out of its range, what cannot be mixed, or that there is nothing to switch off.
    """
    for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
        if not 0 <= alpha <= 1e6:
            raise ValueError(f"mixing: {name} must be an alpha, above 0, or 0 for none, got {alpha!r}")
    if type(off) is not int or not 0 <= off < epochs:
        raise ValueError(
            f"mixing: off must be a number of last epochs, at least 0 and fewer than all {epochs} of them, got {off!r}"
        )
    already = [leaf.op for leaf in policy.leaves if isinstance(leaf.op, MixOp)]
    if mixup or cutmix:
        if task not in _CUT:
            raise ValueError(
                f"mixing: mixup and cutmix mix samples and class labels, which {task} does not have: leave them out"
            )
        if task == "text" and mixup:
            raise ValueError(
                "mixing: mixup is not for texts, as words have no mean: take cutmix, which puts parts of texts in each "
                "other's place, or finetune.mixup_embeddings in a model of yours"
            )
        if already:
            raise ValueError(
                f"mixing: the policy mixes samples already, {already[0]!r}: leave mixup and cutmix out, or it"
            )
        group = next((group for group in (8, 6, 4, 2) if batch_size % group == 0), 8)
        ops: Sequence[MixOp] = [
            kind(alpha, group=group) for kind, alpha in ((MixUp, mixup), (_CUT[task], cutmix)) if alpha
        ]
        nodes = [*policy.ops, ops[0] if len(ops) == 1 else OneOf(tuple(ops))]
        policy = Policy(nodes, first_slot=policy.first_slot, stored_after=policy.stored_after)
    elif off and not already:
        raise ValueError(f"mixing: off={off} has nothing to switch off: give mixup or cutmix, or a policy that mixes")
    return Phases({0: policy, epochs - off: policy.without_mixing()}) if off else policy
