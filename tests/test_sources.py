"""Rules for our sources that no linter knows: no unsafe loads, no private parts of dependencies, ASCII, named rooms."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("searchspaces", "hardware", "predictors", "nas", "experiments")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

PICKLES = frozenset({"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "_pickle"})
PICKLE_METHODS = frozenset({"read_pickle", "to_pickle"})
YAML_LOADERS = frozenset({"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"})
NAMELESS = frozenset({"utils.py", "helpers.py", "common.py", "misc.py"})


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_dependency(module: str) -> bool:
    top = module.partition(".")[0]
    return top not in sys.stdlib_module_names and top not in {*PACKAGES, "tests"}


class Rules(ast.NodeVisitor):
    """Collects what a source must not do; `findings` holds one line for each."""

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.names: dict[str, str] = {}  # what a local name stands for: {"np": "numpy", "load": "torch.load"}

    def found(self, node: ast.AST, what: str) -> None:
        self.findings.append(f"line {getattr(node, 'lineno', 0)}: {what}")

    def check_module(self, node: ast.AST, module: str) -> None:
        if module.partition(".")[0] in PICKLES:
            self.found(node, f"{module} reads or writes pickles")
        if is_dependency(module) and any(is_private(part) for part in module.split(".")):
            self.found(node, f"{module} is private to its package")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.check_module(node, alias.name)
            target = alias.name if alias.asname else alias.name.partition(".")[0]
            self.names[alias.asname or target] = target

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        self.check_module(node, module)
        for alias in node.names:
            if is_dependency(module) and is_private(alias.name):
                self.found(node, f"{module}.{alias.name} is private to its package")
            self.names[alias.asname or alias.name] = f"{module}.{alias.name}"

    def full_name(self, node: ast.expr) -> str | None:
        """The dotted name of an expression as its module spells it; None for anything that is not an imported name."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.full_name(node.value)
            return None if owner is None else f"{owner}.{node.attr}"
        return None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self.full_name(node.value)
        if owner is not None and is_dependency(owner) and is_private(node.attr):
            self.found(node, f"{owner}.{node.attr} is private to its package")
        if node.attr in PICKLE_METHODS:
            self.found(node, f".{node.attr} reads or writes pickles")
        if owner == "yaml" and node.attr in YAML_LOADERS:
            self.found(node, f"yaml.{node.attr} builds arbitrary objects")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = self.full_name(node.func)
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if name == "torch.load" and not is_true(keywords.get("weights_only")):
            self.found(node, "torch.load without weights_only=True")
        if name in {f"yaml.{loader}" for loader in YAML_LOADERS} and isinstance(node.func, ast.Name):
            self.found(node, f"{name} builds arbitrary objects")
        if "allow_pickle" in keywords and not is_false(keywords["allow_pickle"]):
            self.found(node, "allow_pickle reads pickles")
        is_import = name == "importlib.import_module" or (
            isinstance(node.func, ast.Name) and node.func.id == "__import__"
        )
        if is_import and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            self.check_module(node, node.args[0].value)
        self.generic_visit(node)


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def findings(source: str) -> list[str]:
    rules = Rules()
    rules.visit(ast.parse(source))
    return rules.findings


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


BAD = (
    "import pickle",
    "import joblib as jl",
    "from dill import dumps",
    "import cloudpickle",
    "import importlib\nimportlib.import_module('pickle')",
    "__import__('pickle')",
    "frame.to_pickle('x')",
    "import pandas as pd\npd.read_pickle('x')",
    "import numpy as np\nnp.load('x', allow_pickle=True)",
    "import numpy as np\nflag = bool(1)\nnp.load('x', allow_pickle=flag)",
    "import yaml\nyaml.load(text)",
    "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)",
    "from yaml import unsafe_load\nunsafe_load(text)",
    "import torch\ntorch.load('x')",
    "import torch\ntorch.load('x', weights_only=False)",
    "from torch import load as read\nread('x')",
    "def later():\n    import torch\n    return torch.load('x')",
    "import torch._dynamo",
    "from ray._private import worker",
    "from mlflow import _something",
    "import torch\ntorch._C.thing()",
    "import optuna.storages as s\ns._cached",
)

GOOD = (
    "import yaml\nyaml.safe_load(text)",
    "import torch\ntorch.load('x', weights_only=True)",
    "import numpy as np\nnp.load('x', allow_pickle=False)",
    "import os\nos._exit(1)",
    "from __future__ import annotations",
    "from hardware.files import write_json",
    "class A:\n    def b(self):\n        return self._c",
    "import json\njson.load(stream)",
    "import torch\ntorch.__version__",
)


@pytest.mark.parametrize("source", BAD)
def test_the_scan_finds_a_bad_line(source: str) -> None:
    assert len(findings(source)) == 1


@pytest.mark.parametrize("source", GOOD)
def test_the_scan_leaves_good_lines_alone(source: str) -> None:
    assert findings(source) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_source_neither_loads_unsafely_nor_reaches_into_dependencies(path: Path) -> None:
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name_of)
def test_a_source_is_ascii(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if not line.isascii()] == []


def test_every_file_has_a_name_of_its_own() -> None:
    assert [path for path in [*SOURCES, *TESTS] if path.name in NAMELESS] == []


def test_the_scan_covers_every_package() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)
