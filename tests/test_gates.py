"""Who is applied to whom, and what is made of draws natively: as in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalipipe import native, rng
from dalipipe.ops.image import Brightness, Contrast, HorizontalFlip, Invert
from dalipipe.policy import Node, OneOf, Policy, RandomApply, RandomOrder, SomeOf
from dalipipe.policy.nodes import Container

KEY = rng.make_key(5, 1)
STRUCTS = {
    "GateBox": native.GATE_BOX,
    "GateLeaf": native.GATE_LEAF,
    "Gate": native.GATE,
    "TokenFoldOp": native.TOKEN_FOLD_OP,
}
SHARES = st.sampled_from([0.0, 0.3, 0.5, 1.0])


def operators() -> st.SearchStrategy[Node]:
    return st.builds(lambda make, p: make(p=p), st.sampled_from([Brightness, Contrast, HorizontalFlip, Invert]), SHARES)


def containers(inside: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    nodes = st.lists(inside, min_size=1, max_size=4)
    weights = st.lists(st.floats(0.01, 10), min_size=4, max_size=4)
    some = nodes.flatmap(
        lambda ops: st.tuples(st.just(ops), st.integers(0, len(ops)), st.integers(0, len(ops)), SHARES).map(
            lambda of: SomeOf(of[0], (min(of[1:3]), max(of[1:3])), p=of[3])
        )
    )
    return st.one_of(
        st.builds(lambda ops, p: RandomApply(ops, p=p), nodes, SHARES),
        st.builds(lambda ops, p: RandomOrder(ops, p=p), nodes, SHARES),
        st.builds(lambda ops, w, p: OneOf(ops, weights=w[: len(ops)], p=p), nodes, weights, SHARES),
        st.builds(lambda ops, p: OneOf(ops, p=p), nodes, SHARES),
        some,
    )


@pytest.mark.parametrize("name", STRUCTS)
def test_structs_are_laid_out_alike(name: str) -> None:
    dtype, layout = STRUCTS[name], native.struct_layouts()[name]
    assert layout.pop("") == dtype.itemsize
    assert layout == {field: dtype.fields[field][1] for field in dtype.names}  # type: ignore[index]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.recursive(operators(), containers, max_leaves=8), min_size=1, max_size=4), st.integers(0, 70))
def test_operators_are_applied_to_whom_numpy_says(nodes: list[Node], n: int) -> None:
    policy = Policy(nodes)
    gating = policy._gating
    assert gating._boxes is not None
    u = rng.uniforms(KEY, np.arange(n), policy._pair_slots, policy._pair_blocks)
    u = u.reshape(n, 4 * len(policy._pair_slots))
    got, expected = gating.rows(u), gating._rows(u)
    assert len(got) == len(expected)
    for mine, its in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine, its)


def test_equal_numbers_are_ordered_alike() -> None:
    """Ties, ends of ranges, numbers just below 1."""
    policy = Policy([RandomOrder([Invert(), HorizontalFlip(), Brightness()]), SomeOf([Invert(), Contrast()], (0, 2))])
    u = np.zeros((5, 4 * len(policy._pair_slots)))
    u[1], u[2], u[3, ::2] = 0.5, 1 - 2.0**-32, 0.25
    for mine, its in zip(policy._gating.rows(u), policy._gating._rows(u), strict=True):
        np.testing.assert_array_equal(mine, its)


class Alternating(Container):
    """Its first operator where the number is below a half, else its second: a container of somebody else's."""

    draws = 1

    def choose(self, u: np.ndarray) -> np.ndarray:
        return np.stack([u[:, 0] < 0.5, u[:, 0] >= 0.5], axis=1)


def test_containers_of_others_choose_for_themselves() -> None:
    policy = Policy([Alternating((Invert(p=1), HorizontalFlip(p=1))), OneOf([Brightness(p=1), Contrast(p=1)])])
    first, second, third, fourth = policy.draw(KEY, np.arange(500), np.full((500, 2), 8))
    assert 150 < len(first.rows) < 350
    np.testing.assert_array_equal(np.sort(np.concatenate([first.rows, second.rows])), np.arange(500))
    np.testing.assert_array_equal(np.sort(np.concatenate([third.rows, fourth.rows])), np.arange(500))


@pytest.mark.parametrize(
    ("boxes", "leaves", "gates", "expected"),
    [
        ([(9, 0, 2, 0, 0, 0, 1.0)], [], [], "unknown kind"),
        ([(0, 0, 0, 0, 0, 0, 1.0)], [], [], "no nodes"),
        ([(2, 6, 4, 0, 0, 1, 1.0)], [], [], "numbers are outside"),
        ([(1, 0, 2, 0, 0, 0, 1.0)], [], [], "weights are outside"),
        ([], [(0.5, 8, 0, 0, 0)], [], "number is outside"),
        ([], [(0.5, 0, 0, 1, 0)], [], "gates are outside"),
        ([], [], [(0, 0)], "of no container"),
    ],
)
def test_what_points_outside_is_refused(boxes: list, leaves: list, gates: list, expected: str) -> None:  # type: ignore[type-arg]
    given = np.array(boxes, native.GATE_BOX), np.array(leaves, native.GATE_LEAF), np.array(gates, native.GATE)
    with pytest.raises(ValueError, match=expected):
        native.open_leaves(np.zeros((3, 8)), *given, np.zeros(1))


def test_noise_keys_are_what_they_were() -> None:
    indices = np.array([0, 1, 2**31, 2**40 + 5, 2**62])
    for variants in (0, np.array([0, 1, 65535, 7, 9])):
        keys = rng.noise_keys(KEY, indices, 300, variants)
        assert keys.dtype == np.uint32 and keys.shape == (5, 5)
        np.testing.assert_array_equal(keys[:, :2], np.broadcast_to(KEY, (5, 2)))
        whole = keys.astype(np.uint64)
        np.testing.assert_array_equal(whole[:, 2] | whole[:, 3] << np.uint64(32), indices.astype(np.uint64))
        np.testing.assert_array_equal(keys[:, 4], 300 + 65536 * np.broadcast_to(variants, 5))
    assert rng.noise_keys(KEY, np.zeros(0, np.int64), 1).shape == (0, 5)


def test_passes_of_texts_stand_sample_after_sample() -> None:
    random = np.random.default_rng(0)
    rows = [np.flatnonzero(random.random(40) < share) for share in (0.5, 0.0, 1.0, 0.3)]
    share = [random.random(len(of)) for of in rows]
    noise = [random.integers(0, 1 << 32, (len(of), 5), dtype=np.uint32) for of in rows]
    at = [np.empty(len(of), np.int64) for of in rows]
    ops = np.zeros(4, native.TOKEN_FOLD_OP)
    for number, op in enumerate(ops):
        op["rows"], op["count"], op["share"] = rows[number].ctypes.data, len(rows[number]), share[number].ctypes.data
        op["noise"], op["at"] = noise[number].ctypes.data, at[number].ctypes.data
        op["pattern"]["edit"], op["pattern"]["bag"] = number, 10 + number
    passes, starts = native.fold_tokens(ops, 40)
    assert starts[0] == 0 and starts[-1] == len(passes) == sum(map(len, rows))
    for sample in range(40):
        mine = passes[starts[sample] : starts[sample + 1]]
        expected = [number for number in range(4) if sample in rows[number]]
        assert mine["edit"].tolist() == expected and mine["bag"].tolist() == [10 + number for number in expected]
        for one, number in zip(mine, expected, strict=True):
            place = rows[number].tolist().index(sample)
            assert one["share"] == share[number][place]
            np.testing.assert_array_equal(one["key"], noise[number][place])
            np.testing.assert_array_equal(passes[at[number][place]]["key"], one["key"])
    bad = np.array([40])
    ops["rows"][0], ops["count"][0] = bad.ctypes.data, 1
    with pytest.raises(ValueError, match="outside the batch"):
        native.fold_tokens(ops, 40)
