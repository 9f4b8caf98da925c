"""What may happen to a sample (`Op`, containers, `Policy`) and what does happen to it (`Drawn`).

The host draws, the engines apply: a policy turns (seed, epoch, sample) into parameter arrays; engines hold no random
state. An operator that is not applied to a sample is absent from what is drawn for it.
"""

from dalipipe.policy.gating import Leaf
from dalipipe.policy.nodes import (
    Container,
    Copies,
    Macro,
    Node,
    OneOf,
    Op,
    Params,
    RandomApply,
    RandomOrder,
    SomeOf,
    check_nodes,
    node_types,
    set_field,
)
from dalipipe.policy.phases import Phases
from dalipipe.policy.policy import DrawError, Drawn, Policy
from dalipipe.policy.ranges import Choice, Measure, Normal, Range, check_range, draw_range

__all__ = [
    "Choice",
    "Container",
    "Copies",
    "DrawError",
    "Drawn",
    "Leaf",
    "Macro",
    "Measure",
    "Node",
    "Normal",
    "OneOf",
    "Op",
    "Params",
    "Phases",
    "Policy",
    "RandomApply",
    "RandomOrder",
    "Range",
    "SomeOf",
    "check_nodes",
    "check_range",
    "draw_range",
    "node_types",
    "set_field",
]
