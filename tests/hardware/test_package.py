import subprocess
import sys
from pathlib import Path

import pytest

import hardware

ROOT = Path(__file__).parents[2]
WITHOUT_TORCH = (
    "hardware",
    "hardware.artifacts.artifact",
    "hardware.artifacts.onnx",
    "hardware.backends.backend",
    "hardware.backends.onnxruntime_cpu",
    "hardware.clock",
    "hardware.device",
    "hardware.errors",
    "hardware.files",
    "hardware.formats",
    "hardware.lease",
    "hardware.measurement",
    "hardware.measuring",
    "hardware.protocol",
    "hardware.table",
    "hardware.timing",
)


def test_importing_and_listing_devices_loads_neither_torch_nor_a_runtime() -> None:
    program = (
        f"import importlib, sys\nfor name in {WITHOUT_TORCH!r}: importlib.import_module(name)\n"
        "import hardware\nhardware.list_devices()\nhardware.get_device('onnxruntime-cpu')\n"
        "print([name for name in ('torch', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_package_itself_loads_nothing_of_its_own() -> None:
    program = "import sys, hardware; print(sorted(n for n in sys.modules if n.startswith('hardware')), dir(hardware))"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    names = ["get_device", "list_devices", "measure", "measure_many"]
    assert found.stdout.strip() == f"{['hardware']} {names}"


def test_the_exported_names_exist_and_others_do_not() -> None:
    assert all(callable(getattr(hardware, name)) for name in hardware.__all__)
    with pytest.raises(AttributeError, match="no attribute 'mesure'"):
        _ = hardware.mesure
