"""pyproject.toml, environment.yml, constraints.txt and our imports name the same packages; the pins lie in the ranges.

No conda channel is asked: each conda spec is parsed with conda's own rules and compared with pyproject.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from rattler import MatchSpec

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
CONDA_LINES = [line for line in ENVIRONMENT["dependencies"] if isinstance(line, str)]
(PIP_LINES,) = (entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))
PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!]*")

PACKAGES = ("searchspaces", "hardware", "predictors", "nas", "experiments")
# Needed at run time without an import of ours: optuna's GP sampler imports it and does not ask for it.
# Vela and tflite-micro run in processes of their own.
NEVER_IMPORTED = {"greenlet", "ethos-u-vela", "tflite-micro"}
# Scripts that another interpreter runs, where a peer's package is installed.
FOR_OTHERS = ROOT / "experiments" / "benchmarks" / "peers"
# Extras that are not for running: what checks the code, and everything together.
TOOLS = {"dev", "all"}
# The contract test classes are shipped with the code; who runs them has pytest.
FOR_TESTS = {"pytest"}

CONDA_NAMES = {"torch": "pytorch"}
# conda-forge splits the extras of ray into packages.
CONDA_EXTRAS = {("ray", "default"): "ray-default", ("ray", "train"): "ray-train", ("ray", "tune"): "ray-tune"}
# Not on conda-forge: pip installs them into the conda environment.
PIP_ONLY = {
    "ai-edge-litert",
    "ai-edge-quantizer",
    "bakenn",
    "ethos-u-vela",
    "executorch",
    "litert-torch",
    "tflite-micro",
    "torchao",
}
# What conda needs beyond pyproject: pip installs this project itself into the environment.
CONDA_ONLY = {"pip": ""}


def required() -> list[Requirement]:
    """Everything that `pip install .[all]` asks for."""
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for name, extra in extras.items() if name != "all" for line in extra)]
    return [Requirement(line) for line in lines]


def parts(specifier: str) -> frozenset[str]:
    return frozenset(part.strip() for part in specifier.split(",") if part.strip())


def expected_conda() -> dict[str, frozenset[str]]:
    expected = {name: parts(specifier) for name, specifier in CONDA_ONLY.items()}
    expected["python"] = parts(PROJECT["requires-python"])
    for requirement in required():
        if requirement.name in PIP_ONLY:
            continue
        names = [CONDA_EXTRAS[requirement.name, extra] for extra in sorted(requirement.extras)]
        for name in names or [CONDA_NAMES.get(requirement.name, requirement.name)]:
            expected[name] = parts(str(requirement.specifier))
    return expected


def pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    pairs = [line.partition("==") for line in lines]
    return {canonicalize_name(name): Version(version) for name, _, version in pairs}


def imported(source: str) -> Iterator[str]:
    """Top-level names of all modules that a source imports, also inside functions and by `import_module("...")`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"importlib.import_module", "import_module"}:
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value.partition(".")[0]


def imported_distributions() -> set[str]:
    """Names on the package index of everything that our packages import."""
    distributions = packages_distributions()
    found: set[str] = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if FOR_OTHERS in path.parents:
                continue
            for top in set(imported(path.read_text(encoding="utf-8"))):
                if top not in sys.stdlib_module_names and top not in PACKAGES:
                    names = {canonicalize_name(name) for name in distributions.get(top, [top])}
                    # mlflow and mlflow-skinny ship the same module; the one that is called like it is meant
                    found.add(top if top in names else min(names))
    return found


def test_every_way_of_importing_is_seen() -> None:
    source = "import a.b\nfrom c.d import e\ndef f():\n    import g as h\n    importlib.import_module('i.j')\n"
    assert sorted(imported(source)) == ["a", "c", "g", "i"]


def test_everything_that_we_import_is_a_declared_dependency_and_nothing_else_is() -> None:
    optional = [line for name, extra in PROJECT["optional-dependencies"].items() if name not in TOOLS for line in extra]
    declared = {canonicalize_name(Requirement(line).name) for line in [*PROJECT["dependencies"], *optional]}
    assert imported_distributions() - FOR_TESTS == declared - NEVER_IMPORTED


def test_conda_and_pip_name_the_same_packages_and_ranges() -> None:
    found = {}
    for line in CONDA_LINES:
        name, _, specifier = line.partition(" ")
        found[name] = parts(specifier)
    assert found == expected_conda()
    by_pip = {requirement.name: requirement.specifier for requirement in map(Requirement, PIP_LINES)}
    assert by_pip == {one.name: one.specifier for one in required() if one.name in PIP_ONLY}


def test_the_environment_uses_conda_forge_alone() -> None:
    assert ENVIRONMENT["name"] == PROJECT["name"]
    assert ENVIRONMENT["channels"] == ["conda-forge"]


@pytest.mark.parametrize("line", CONDA_LINES)
def test_conda_reads_the_spec_as_it_is_meant(line: str) -> None:
    spec = MatchSpec(line, strict=True)
    name, _, specifier = line.partition(" ")
    assert spec.name is not None
    assert spec.name.normalized == name
    assert parts(spec.version or "") == parts(specifier)


def test_conda_refuses_a_spec_that_is_broken() -> None:
    with pytest.raises(Exception, match=r"(?i)version|constraint|spec"):
        MatchSpec("numpy >=2.1,<<3", strict=True)


def test_a_constraint_is_a_name_and_a_version_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#") and not PIN.fullmatch(line)] == []
    assert len(pins()) == len([line for line in lines if not line.startswith("#")])


@pytest.mark.parametrize("requirement", required(), ids=lambda requirement: requirement.name)
def test_the_pin_lies_within_the_range(requirement: Requirement) -> None:
    version = pins()[canonicalize_name(requirement.name)]
    assert version in requirement.specifier


def test_a_newer_major_torch_would_be_noticed() -> None:
    torch = next(requirement for requirement in required() if requirement.name == "torch")
    assert pins()["torch"] in torch.specifier
    assert Version("2.14.0") not in torch.specifier


def test_building_the_project_never_asks_for_torch() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert [Requirement(line).name for line in build] == ["setuptools"]


def test_the_tested_python_is_allowed() -> None:
    assert Version("3.11.2") in SpecifierSet(PROJECT["requires-python"])
