"""Policies as files: what is written reads back the same, and what is wrong is named with its line and column."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalipipe.ops import image as ops
from dalipipe.ops.image.timm_auto import timm_rand_augment
from dalipipe.ops.python import PythonStep
from dalipipe.plan import lower
from dalipipe.policy import Choice, Node, Normal, OneOf, Policy, RandomApply, RandomOrder, SomeOf, node_types
from dalipipe.policy_files import PolicyFileError, load_policy, policy_yaml, save_policy
from dalipipe.schema import Field, Schema
from tests.cases import CASES, IDS

EXAMPLES = sorted((Path(__file__).parents[1] / "examples" / "policies").glob("*"))
IMAGE = Schema((Field("image", "image", channels=3), Field("label", "column")))


# There and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_every_operator_reads_back_as_it_was(case: Any, suffix: str, tmp_path: Path) -> None:
    policy = Policy([case.op, OneOf([case.op, ops.Invert()], p=0.25)])
    assert load_policy(save_policy(policy, tmp_path / f"policy{suffix}")) == policy


unit = st.floats(0, 1)
angles = st.one_of(
    st.tuples(st.floats(-180, 0), st.floats(0, 180)),
    st.builds(Choice, st.lists(st.floats(-90, 90), min_size=1, max_size=4).map(tuple), st.booleans()),
    st.builds(Normal, st.floats(-9, 9), st.floats(0, 5), st.just((0.0, 10.0)), st.booleans(), st.floats(-3, 3)),
)
leaves: st.SearchStrategy[Node] = st.one_of(
    st.sampled_from([case.op for case in CASES]),
    st.builds(ops.Rotate, angles, interpolation=st.sampled_from(["bilinear", "nearest"]), p=unit),
    st.builds(ops.Solarize, st.tuples(st.integers(0, 100), st.integers(100, 256)), p=unit),
    st.builds(ops.Normalize, st.floats(-1e-7, 1e7), st.floats(1e-30, 1)),
)


def containers(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(children, min_size=1, max_size=4)
    weighted = several.flatmap(
        lambda ops: st.builds(
            OneOf, st.just(ops), p=unit, weights=st.lists(st.floats(0.1, 9), min_size=len(ops), max_size=len(ops))
        )
    )
    some = several.flatmap(lambda ops: st.builds(SomeOf, st.just(ops), n=st.integers(0, len(ops)), p=unit))
    return st.one_of(weighted, some, *(st.builds(kind, several, p=unit) for kind in (OneOf, RandomApply, RandomOrder)))


policies = st.lists(st.recursive(leaves, containers, max_leaves=12), max_size=5).map(Policy)


@given(policies)
@settings(max_examples=50, deadline=None)
def test_nested_policies_read_back_as_they_were(policy: Policy) -> None:
    assert load_policy(policy_yaml(policy)) == policy
    assert load_policy(json.dumps(policy.to_dict())) == policy
    assert load_policy(json.dumps(policy.to_dict(), indent="\t")) == policy  # YAML proper has no tabs


@given(policies)
@settings(max_examples=20, deadline=None)
def test_other_readers_of_yaml_see_the_same(policy: Policy) -> None:
    import yaml

    def plain(entry: Any) -> Any:
        """The written form as `Policy.to_dict` has it."""
        (name, values), *_ = entry.items() if isinstance(entry, dict) else [(entry, None)]
        values = dict(values or {})
        if "ops" in values:
            values["ops"] = [plain(child) for child in values["ops"]]
        return {"op": name, **values}

    read = yaml.safe_load(policy_yaml(policy))
    assert read["version"] == 1
    assert Policy.from_dict({"ops": [plain(entry) for entry in read["ops"]]}) == policy


def test_every_way_of_writing_an_operator() -> None:
    text = """\
        # comments, and fields in the order one likes
        ops:
          - Invert
          - "Invert"
          - Invert:
          - Invert: {}
          - {op: Invert}
          - Solarize: {p: .5, threshold: [1e2, 1.5e+2]}
          - Solarize:
              threshold:
                - 100
                - 150
              p: 0.5
          - {"op": "Solarize", "threshold": [100, 150], "p": 0.5}
          - Rotate: {degrees: &range {choice: [10, 20], signed: true}}
          - Rotate: {degrees: *range}
        """
    solarize = ops.Solarize((100, 150), p=0.5)
    rotate = ops.Rotate(Choice((10, 20), signed=True))
    assert load_policy(text) == Policy([*[ops.Invert()] * 5, *[solarize] * 3, rotate, rotate])


def test_texts_and_paths_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.yaml").write_bytes(b"\xef\xbb\xbfops: [Invert]\r\n")  # as Windows writes it
    monkeypatch.chdir(tmp_path)
    for source in ("p.yaml", Path("p.yaml"), "ops: [Invert]", '{"ops": ["Invert"]}', "\nops:\n  - Invert"):
        assert load_policy(source) == Policy([ops.Invert()]), source
    with pytest.raises(FileNotFoundError, match=r"q\.yaml"):
        load_policy("q.yaml")


def test_written_for_people_to_read() -> None:
    policy = Policy(
        [
            ops.RandomResizedCrop(224, scale=(0.25, 1)),
            ops.HorizontalFlip(),
            OneOf([ops.Brightness((0.7, 1.3)), ops.Invert()], p=0.8),
            ops.Rotate(Normal(9, 1e-7, (0, 10), signed=True)),
            ops.Normalize((0.123456789,) * 3, (0.987654321,) * 3),
        ]
    )
    assert policy_yaml(policy) == (
        """\
version: 1
ops:
  - RandomResizedCrop: {size: [224, 224], scale: [0.25, 1.0]}
  - HorizontalFlip
  - OneOf:
      p: 0.8
      ops:
        - Brightness: {factor: [0.7, 1.3]}
        - Invert
  - Rotate: {degrees: {normal: [9, 1.0e-07], within: [0.0, 10.0], signed: true}}
  - Normalize:
      mean: [0.123456789, 0.123456789, 0.123456789]
      std: [0.987654321, 0.987654321, 0.987654321]
"""
    )
    assert policy_yaml(Policy([])) == "version: 1\nops: []\n"


def test_every_operator_by_its_name_alone() -> None:
    plain = {}
    for name, kind in node_types().items():
        with contextlib.suppress(TypeError, ValueError):  # most containers, and some operators, need something
            plain[name] = kind()
    assert plain.keys() >= {
        "Invert",
        "TrivialAugmentWide",
        "AugMix",
        "Normalize",
        "MixUp",
        "JpegCompression",
        "Elastic",
    }
    written = "ops:\n" + "".join(f"  - {name}\n" for name in plain)
    assert load_policy(written).ops == tuple(plain.values())


def test_functions_cannot_be_written(tmp_path: Path) -> None:
    policy = Policy([OneOf([ops.Invert(), PythonStep(repr)])])
    for name in ("p.yaml", "p.json"):
        with pytest.raises(
            TypeError, match="PythonStep: step is <built-in function repr>, which no policy file can hold"
        ):
            save_policy(policy, tmp_path / name)


def test_saving_needs_an_ending_that_says_the_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.yaml, \.yml, \.json, got .*p\.toml"):
        save_policy(Policy([]), tmp_path / "p.toml")
    assert json.loads(save_policy(Policy([]), tmp_path / "p.json").read_text()) == {"version": 1, "ops": []}


# What is wrong, and where ------------------------------------------------------------------------------------------

# What is wrong, ▸ before the place that the message has to name, and what it has to say.
WRONG = [
    ("▸", "the file is empty: a policy is `ops:` and a list of operators"),
    ("▸# soon\n", "the file is empty"),
    ("▸- Invert\n", "a policy must be a mapping with `ops:`, got a list"),
    ("▸Invert\n", "a policy must be a mapping with `ops:`, got 'Invert'"),
    ("▸version: 1\n", "a policy needs `ops:`"),
    ("ops:\n  - Invert\n▸opts: 3\n", "a policy has no 'opts'; did you mean ops?"),
    ("▸Invert: {}\nops: []\n", "operators stand in the list under ops"),
    ("version: ▸2\nops: []\n", "version must be 1, got 2"),
    ("ops:▸\n", "ops must be a list of operators, got nothing"),
    ("ops: ▸Invert\n", "ops must be a list of operators, got 'Invert'"),
    ("ops:\n  ▸Invert: {}\n", "ops must be a list of operators, got a mapping"),
    ("ops:\n  - ▸HorizontalFlop\n", "no operator is called 'HorizontalFlop'; did you mean Hor"),
    ("ops:\n  - ▸RandomHorizontalFlip: {p: 1}\n", "did you mean HorizontalFlip?"),
    ("ops:\n  - ▸Xyz\n", "no operator is called 'Xyz'; there are "),
    ("ops:\n  - ▸Xyz: [1]\n", "no operator is called 'Xyz'"),
    ("ops:\n  - op: ▸[Invert]\n", "no operator is called ['Invert']"),
    ("ops:\n  - Rotate:\n      ▸degree: 9\n", "Rotate has no field 'degree'; did you mean degr"),
    ("ops:\n  - Invert: {▸q: 9}\n", "Invert has no field 'q'; its fields are p"),
    ('{"ops": [\n\t{"op": "Rotate", ▸"degree": 9}]}', "Rotate has no field 'degree'"),
    ("ops:\n  - Invert\n  - ▸RandomResizedCrop\n", "RandomResizedCrop needs size"),
    ("ops:\n  - Resize: ▸224\n", "Resize takes its fields by name, {size: ...}, got 224"),
    ("ops:\n  - OneOf:\n      ▸- Invert\n", "takes its fields by name, {ops: ...}, got a l"),
    (
        "ops:\n  - RandomResizedCrop:\n      size: 224\n      scale: ▸[1.2, 0.3]\n",
        "RandomResizedCrop: scale must lie in [1e-09, 1], low before high, got (1.2, 0.3)",
    ),
    (
        "ops:\n  - OneOf:\n      ops:\n        - SomeOf: {n: 1, ops: [{Solarize: {threshold: ▸[3, 900]}}]}\n",
        "Solarize: threshold must lie in [0, 256]",
    ),
    ("ops:\n  - OneOf:\n      p: ▸2\n      ops: [Invert]\n", "OneOf: p must be a probability"),
    ("ops:\n  - OneOf: {ops: [Invert], weights: ▸[1, 2]}\n", "weights must be 1 numbers"),
    ("ops:\n  - ▸OneOf: {ops: []}\n", "OneOf: expected a list of one or more operators"),
    ("ops:\n  - Rotate: {degrees: ▸left}\n", "degrees must be a pair of numbers"),
    ("ops:\n  - Rotate: {degrees: ▸{choise: [1]}}\n", "Rotate: degrees: a range is (low, high)"),
    ("ops:\n  - Rotate: {degrees: ▸{choice: []}}\n", "Rotate: degrees: Choice: values must be"),
    ("ops:\n  - ▸[Invert]\n", "an operator must be a name, or `Name: {field: value}`, got a l"),
    ("ops:\n  - ▸5\n", "no operator is called 5"),
    ("ops:\n  -▸\n  - Invert\n", "an operator must be a name"),
    ("ops:\n  - ▸{}\n", "expected an operator, got an empty mapping"),
    (
        "ops:\n  - RandomResizedCrop:\n    ▸size: 224\n    p: 1\n",
        "the fields of RandomResizedCrop belong further in: indent size, p beneath it",
    ),
    (
        "ops:\n  - Resize: {size: 8}\n    ▸Invert:\n",
        "Invert in the entry of Resize: an operator begins with a dash of its own",
    ),
    ("ops:\n  - ▸{a: 1, b: 2}\n", "expected one operator, `Name: {field: value}`, got the"),
    ("ops:\n  - Invert:\n      p: 1\n      ▸p: 0\n", "p is given twice; the first stands in line 3"),
    ("ops:\n  - Invert: {}\n    ▸Invert: {}\n", "Invert is given twice"),
    ("ops:\n  - ? ▸[Invert]\n    : {}\n", "before a colon there must be a name, got a list"),
    ("ops:\n▸\t- Invert\n", "a tab: YAML is indented with spaces"),
    ("ops:\n  - Invert\n ▸- Solarize\n", "is it indented as its neighbours are?"),
    ("ops:\n  - Rotate: {degrees: [3, 4▸}\n", "that begins in line 2"),
    ("ops: [Invert]\n▸---\nops: [Invert]\n", "a second document: a policy is one"),
    ("ops:\n  - ▸!!python/object/apply:os.getcwd []\n", "the tag !!python/object/apply:os.getcwd"),
    ("ops:\n  - Invert: {p: ▸!half 1}\n", "the tag !half: policies have no tags"),
    ("ops:\n  - Inv▸\x07ert\n", "U+0007"),
    ("ops: " + "[" * 5000 + "\n", "nested too deeply"),
]


@pytest.mark.parametrize("marked, problem", WRONG)
def test_what_is_wrong_is_named_with_its_place(marked: str, problem: str, tmp_path: Path) -> None:
    before = marked.partition("▸")[0] if "▸" in marked else ""
    line, column = before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1
    path = tmp_path / "policy.yaml"
    path.write_text(marked.replace("▸", ""), encoding="utf-8")
    with pytest.raises(PolicyFileError) as caught:
        load_policy(path)
    error = caught.value
    assert str(error).startswith(f"{path}, line {line}, column {column}: ") and problem in str(error)
    assert (error.line, error.column) == (line, column)
    assert isinstance(error, ValueError) and str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes("ops:\n  - é".encode("latin-1"))
    with pytest.raises(PolicyFileError, match=r"p\.yaml, line 2, column 5: the file is no UTF-8 text"):
        load_policy(tmp_path / "p.yaml")


def test_aliases_make_no_file_endless() -> None:
    lines = ["ops:", "  - Rotate:", "      degrees:", "        - &a0 [1, 1]"]
    lines += [f"        - &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    with pytest.raises(PolicyFileError, match="more than 100,000 values"):
        load_policy("\n".join(lines))
    with pytest.raises(PolicyFileError, match="nested too deeply"):
        load_policy("ops: &ops\n  - OneOf: {ops: *ops}\n")


@given(st.text(max_size=60), st.integers(0, 200), st.integers(0, 10))
@settings(max_examples=100, deadline=None)
def test_anything_else_is_a_policy_or_an_error_with_its_line(noise: str, at: int, cut: int) -> None:
    text = policy_yaml(Policy([OneOf([ops.Rotate(9), ops.Invert()]), ops.Resize(8), ops.Normalize()]))
    text = "\n" + text[:at] + noise + text[at + cut :]
    try:
        assert isinstance(load_policy(text), Policy)
    except PolicyFileError as error:
        assert 1 <= error.line <= text.count("\n") + text.count("\r") + noise.count("\x85") + 5


def test_without_pyyaml_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match="pip install pyyaml"):
        load_policy("ops: [Invert]\n")
    assert policy_yaml(Policy([ops.Invert()]))  # writing needs none


# The examples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_load_and_lower(path: Path) -> None:
    policy = load_policy(path)
    assert len(policy) and path.read_text(encoding="utf-8").startswith("# ")
    lower(policy, IMAGE)
    assert load_policy(policy_yaml(policy)) == policy


def test_there_are_examples() -> None:
    names = {path.stem for path in EXAMPLES}
    trained = {name for name in names if not name.endswith("_eval")}
    assert {f"{name}_eval" for name in trained} <= names, "`dalipipe train --policy` looks for them"
    assert names >= {"imagenet_resnet", "deit", "cifar10_trivialaugment", "segmentation", "augmix"}


def test_deit_has_timms_randaugment() -> None:
    """Written out in the file, operator by operator."""
    written = load_policy(EXAMPLES[0].with_name("deit.yaml"))
    timms = timm_rand_augment("rand-m9-mstd0.5-inc1", fill=(124, 116, 104))
    assert len(timms) == 2
    for layer, meant in zip(written.ops[2:4], timms, strict=True):
        assert isinstance(layer, OneOf) and layer.p == 0.5  # all of its operators' in timm
        assert [dataclasses.replace(op, p=0.5) for op in layer.ops] == list(meant.ops)
