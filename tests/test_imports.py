"""What may be imported when: the command line and the pure-data modules answer without the heavy libraries."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import predictors

ROOT = Path(__file__).resolve().parent.parent

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
    "hardware.errors",
    "hardware.files",
    "hardware.lease",
    "hardware.measurement",
    "hardware.protocol",
    "hardware.table",
    "hardware.timing",
    "predictors",
    *sorted(f"predictors.{module.name}" for module in pkgutil.iter_modules(predictors.__path__)),
    "experiments.recipe",
    "experiments.cli",
)
HEAVY = ("torch", "ray", "mlflow", "optuna", "onnx", "onnxruntime")

PROBE = """
import importlib, json, sys
heavy, names = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for name in names:
    importlib.import_module(name)
print(json.dumps([name for name in heavy if name in sys.modules]))
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


def heavy_after_importing(*names: str) -> list[str]:
    done = run_python(PROBE, json.dumps(HEAVY), json.dumps(names))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def test_the_probe_sees_a_heavy_library_when_there_is_one() -> None:
    assert "onnx" in heavy_after_importing("onnx")


@pytest.mark.parametrize("name", LIGHT_MODULES)
def test_a_light_module_imports_without_the_heavy_libraries(name: str) -> None:
    assert heavy_after_importing(name) == []


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
