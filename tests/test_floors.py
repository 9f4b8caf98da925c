"""The house stands: every module imports from lower floors only. Read from the sources, so no path is missed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dalipipe"

# Lowest first. A module imports from strictly lower floors; within its own package (a folder) from siblings too, as
# long as no circle arises. A new module needs a place here.
FLOORS = {
    0: ("native",),
    1: ("schema", "records", "rng", "buffers", "quantiles", "sizes", "clock", "cores", "autotune"),
    2: ("orders", "policy", "storage", "faults", "transfers", "spectral", "text", "translation"),
    3: ("sampler", "ops", "sources", "queues"),
    4: ("passes", "recipes", "conversion", "policy_files", "cache"),
    5: ("plan",),
    6: ("decoders", "engines", "stages"),
    7: ("tracks",),
    8: ("pipeline", "parts", "arguments"),
    9: ("loader", "figures"),
    10: ("packing", "finetune", "interop", "stalls", "telemetry", "demo_data", "preview", "bench", "doctor"),
    11: ("cli",),
    12: ("__main__",),
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}
HIGHEST = max(FLOORS) + 1  # dalipipe/__init__.py, which only hands out names

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def floor(module: str) -> float:
    """Of "dalipipe.ops.image": that of "ops"."""
    parts = module.split(".")
    return HIGHEST if len(parts) == 1 else FLOOR_OF[parts[1]]


def imports(module: str, source: str, is_package: bool = False) -> set[str]:
    """The dalipipe modules that this source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "dalipipe"}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: (None if is_package else -1)]
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            if base.split(".")[0] == "dalipipe":
                for alias in node.names:
                    deeper = f"{base}.{alias.name}"
                    found.add(deeper if deeper in MODULES or deeper == "dalipipe._C" else base)
    return found


def imports_of(module: str) -> set[str]:
    path = MODULES[module]
    return imports(module, path.read_text(encoding="utf-8"), path.name == "__init__.py")


def test_reader_reads_every_spelling():
    module = "dalipipe.ops.image"
    assert imports(module, "import dalipipe.native") == {"dalipipe.native"}
    assert imports(module, "from dalipipe import native, _C") == {"dalipipe.native", "dalipipe._C"}
    assert imports(module, "def f():\n    from dalipipe.native import philox") == {"dalipipe.native"}
    assert imports(module, "from .. import native\nfrom ..native import philox") == {"dalipipe.native"}
    assert imports("dalipipe.ops", "from ..native import philox", True) == {"dalipipe.native"}
    assert imports(module, "import numpy, dalipipes\nfrom torch import nn") == set()
    assert imports(module, "from dalipipe import DataLoader") == {"dalipipe"}


@pytest.mark.parametrize("module", MODULES)
def test_module_has_a_floor(module):
    name = module.split(".")[1:2]
    assert not name or name[0] in FLOOR_OF, f"give dalipipe.{name[0]} a floor in FLOORS"


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_downwards(module):
    own = module.split(".")[:2]
    for other in sorted(imports_of(module)):
        if other == "dalipipe._C":
            assert module.startswith("dalipipe.native"), "dalipipe.native is the only importer of dalipipe._C"
        elif module == "dalipipe":
            continue
        elif other == "dalipipe":
            assert floor(module) >= 9, f"{module} imports the whole package; name the module it needs"
        elif other.split(".")[:2] != own:
            assert floor(other) < floor(module), f"{module} (floor {floor(module)}) imports {other} ({floor(other)})"


def test_no_circles():
    reached: dict[str, set[str]] = {}

    def walk(module: str, path: tuple[str, ...]) -> set[str]:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in reached:
            below = {other for other in imports_of(module) if other in MODULES and other not in (module, "dalipipe")}
            reached[module] = below.union(*(walk(other, (*path, module)) for other in below))
        return reached[module]

    for module in MODULES:
        if module != "dalipipe":
            walk(module, ())


@pytest.mark.parametrize("path", sorted((ROOT / "csrc").rglob("*.[ch]*")), ids=lambda path: path.name)
def test_native_core_knows_neither_torch_nor_python(path):
    included = re.findall(r'^\s*#\s*include\s*[<"]([^">]+)', path.read_text(encoding="utf-8"), re.MULTILINE)
    foreign = [name for name in included if re.match(r"torch/|ATen/|c10/|pybind11/|Python\.h", name)]
    if path.parent.name == "bindings":
        assert all(name.startswith("pybind11/") for name in foreign)
    else:
        assert not foreign
