"""What may be imported when: the command line and the pure-data modules answer without the heavy libraries."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import predictors

ROOT = Path(__file__).resolve().parent.parent

# Gradients are torch's: who imports it asked for them.
TORCH = ("differentiable",)

LIGHT_MODULES = (
    "searchspaces",
    "searchspaces.architecture",
    "searchspaces.errors",
    "searchspaces.graph",
    "searchspaces.registry",
    "searchspaces.space",
    "hardware",
    "hardware.clock",
    "hardware.cost",
    "hardware.device",
    "hardware.energy",
    "hardware.errors",
    "hardware.files",
    "hardware.host",
    "hardware.judging",
    "hardware.lease",
    "hardware.liveness",
    "hardware.measurement",
    "hardware.onsite",
    "hardware.protocol",
    "hardware.roofline",
    "hardware.table",
    "hardware.timing",
    "predictors",
    *sorted(
        f"predictors.{module.name}" for module in pkgutil.iter_modules(predictors.__path__) if module.name not in TORCH
    ),
    "nas.run",
    "nas.specialize",
    "experiments.recipe",
    "experiments.cli",
)
HEAVY = ("torch", "lightgbm", "ray", "mlflow", "optuna", "onnx", "onnxruntime", "openvino", "nncf", "executorch")

# One process for all: what a module brings in is what was not there before it. A module that cannot be imported at all
# says so in its own line.
PROBE = """
import importlib, json, sys
heavy, names = json.loads(sys.argv[1]), json.loads(sys.argv[2])
seen, report = set(), {}
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        report[name] = [f"cannot be imported: {error}"]
        continue
    report[name] = [library for library in heavy if library in sys.modules and library not in seen]
    seen.update(report[name])
print(json.dumps(report))
"""

CLI_PROBE = """
import json, sys
heavy = json.loads(sys.argv.pop(1))
sys.argv[0] = "nas"
from experiments.cli import main
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
print(json.dumps([name for name in heavy if name in sys.modules]), file=sys.stderr)
sys.exit(code)
"""


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def heavy_imports(*names: str) -> dict[str, list[str]]:
    """Which heavy libraries the import of each module brings in, one module after the other."""
    done = run_python(PROBE, json.dumps(HEAVY), json.dumps(names))
    assert done.returncode == 0, done.stderr
    report: dict[str, list[str]] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def report() -> dict[str, list[str]]:
    return heavy_imports(*LIGHT_MODULES)


def test_the_probe_sees_a_heavy_library_and_a_module_that_is_not_there() -> None:
    found = heavy_imports("json", "onnx", "searchspaces.no_such_module")
    assert found["json"] == []
    assert found["onnx"] == ["onnx"]
    assert "no_such_module" in found["searchspaces.no_such_module"][0]


@pytest.mark.parametrize("name", LIGHT_MODULES)
def test_a_light_module_imports_without_the_heavy_libraries(name: str, report: dict[str, list[str]]) -> None:
    assert report[name] == []


def test_of_the_samplers_only_that_with_gradients_needs_torch() -> None:
    found = heavy_imports("nas.search.study", "nas.search.gradient")
    assert "torch" not in found["nas.search.study"]
    assert "torch" in found["nas.search.gradient"]


def test_nas_help_answers_without_the_heavy_libraries() -> None:
    heavy = [*HEAVY, "pandas", "pyarrow", "scipy", "sklearn"]
    done = run_python(CLI_PROBE, json.dumps(heavy), "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert json.loads(done.stderr.splitlines()[-1]) == []


def test_validating_a_recipe_needs_no_heavy_library() -> None:
    script = (
        "import json, pathlib, sys\n"
        "from experiments.recipe import load_recipe\n"
        "load_recipe(pathlib.Path('experiments/recipes/quickstart.yaml'))\n"
        "print(json.dumps([name for name in json.loads(sys.argv[1]) if name in sys.modules]))\n"
    )
    done = run_python(script, json.dumps(HEAVY))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
