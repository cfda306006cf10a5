import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from torch import nn

from hardware.artifacts import cmsis
from hardware.artifacts.artifact import Artifact
from hardware.artifacts.cmsis import build_cmsis, read_cmsis
from hardware.artifacts.tensor_arena import can_tell_tensor_arena, tensor_arena_bytes
from hardware.backends.backend import Count, DeviceBackend
from hardware.backends.cortex_m import BACKENDS, CortexM, CortexMSession
from hardware.device import DeviceSpec, get_device, list_devices
from hardware.errors import DeviceError, MeasurementError
from hardware.files import sha256_file
from hardware.testing import INPUT_SHAPE, DeviceBackendContract, calibration_inputs, example_network

M4, M7, M55 = BACKENDS
pytestmark = pytest.mark.skipif(M4.missing() is not None, reason=f"cortex-m4: {M4.missing()}")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The example network: converting takes seconds, so it is done once."""
    return build_cmsis(
        example_network(),
        example=torch.zeros(1, *INPUT_SHAPE),
        calibration=calibration_inputs(),
        path=tmp_path_factory.mktemp("built") / "network.cmsis",
    )


@pytest.fixture(scope="module")
def counts(built: Artifact) -> dict[str, Count]:
    """Its costs on the three cores."""
    return {backend.name: loaded(backend, built).count() for backend in BACKENDS}


def copied(artifact: Artifact, folder: Path) -> Artifact:
    path = folder / artifact.path.name
    shutil.copyfile(artifact.path, path)
    return dataclasses.replace(artifact, path=path)


def loaded(backend: CortexM, artifact: Artifact) -> CortexMSession:
    return backend.load(artifact, spec=get_device(backend.name).spec)


def rewritten(artifact: Artifact, folder: Path, change: Callable[[dict[str, bytes]], None]) -> Artifact:
    """The same file with other content, described as if it had always been so."""
    with zipfile.ZipFile(artifact.path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    path = folder / "changed.cmsis"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return dataclasses.replace(artifact, path=path, sha256=sha256_file(path), size_bytes=path.stat().st_size)


class CortexMContract(DeviceBackendContract):
    # 8 bits a weight and an activation, six layers.
    tolerance = 0.1

    @pytest.fixture
    def artifact(self, backend: DeviceBackend, spec: DeviceSpec, built: Artifact, tmp_path: Path) -> Artifact:
        return copied(built, tmp_path)


class TestCortexM4(CortexMContract):
    device_id = "cortex-m4"


class TestCortexM55(CortexMContract):
    device_id = "cortex-m55"


def test_counts_are_alike_across_processes_and_fall_with_vector_instructions(
    built: Artifact, counts: dict[str, Count]
) -> None:
    assert counts["cortex-m55"].value < counts["cortex-m4"].value
    assert {count.unit for count in counts.values()} == {"instructions"}
    program = (
        "import sys; from pathlib import Path; from hardware import get_device\n"
        "from hardware.artifacts.cmsis import open_cmsis\n"
        "device = get_device('cortex-m4')\n"
        "print(device.backend.load(open_cmsis(Path(sys.argv[1])), spec=device.spec).count().value)\n"
    )
    command = [sys.executable, "-c", program, str(built.path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(told.stdout) == counts["cortex-m4"].value


def test_memory_is_that_of_the_program(counts: dict[str, Count]) -> None:
    m4, m55 = counts["cortex-m4"].also, counts["cortex-m55"].also
    num_weights = sum(parameter.numel() for parameter in example_network().parameters() if parameter.ndim > 1)
    assert num_weights < m4["flash_bytes"] < 64 * 1024
    assert m4["ram_bytes"] >= m4["model_arena_bytes"] + m4["stack_bytes"] + 12 * 12 + 10
    # Four blocks of 124 channels under a kernel of 3 x 3, where the other cores take the 8 channels that there are.
    assert m55["model_arena_bytes"] - m4["model_arena_bytes"] >= 4 * 124 * 9 - 2 * 8 * 9


@pytest.mark.skipif(not can_tell_tensor_arena(), reason="tflite-micro or its converter is not installed")
def test_the_tensor_arena_is_that_of_tflite_micro(counts: dict[str, Count], built: Artifact) -> None:
    arenas = {count.also["tensor_arena_bytes"] for count in counts.values()}
    assert len(arenas) == 1
    # It holds the largest activations at least, and is no multiple of the other runtime's working memory.
    arena = arenas.pop()
    assert counts["cortex-m4"].also["model_arena_bytes"] / 2 < arena < 64 * 1024
    wide = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 144, 10)).eval()
    more = tensor_arena_bytes(wide, example=torch.zeros(1, 1, 12, 12), calibration=torch.randn(4, 1, 12, 12))
    assert more > max(arena, 32 * 144)


def test_without_tflite_micro_there_is_no_tensor_arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmsis, "can_tell_tensor_arena", lambda: False)
    example = torch.zeros(1, *INPUT_SHAPE)
    artifact = M4.build(example_network(), example=example, path=tmp_path / "n.cmsis", calibration=calibration_inputs())
    network = read_cmsis(artifact.read_checked(), path=artifact.path)
    assert network.tensor_arena_bytes is None
    assert "tensor_arena_bytes" not in loaded(M4, artifact).count().also


def test_one_file_serves_all_cores_and_holds_what_the_integer_reference_says(
    built: Artifact, counts: dict[str, Count]
) -> None:
    network = read_cmsis(built.read_checked(), path=built.path)
    assert network.infer_in_python(network.reference_input) == network.reference_output
    # `count` itself compares each board's bytes with these.
    assert len({count.value for count in counts.values()}) == 3


def test_predictions_are_those_of_the_integer_reference_with_and_without_a_compiler(
    built: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = read_cmsis(built.read_checked(), path=built.path)
    session = loaded(M7, built)
    inputs = calibration_inputs()[:3, None].numpy()
    fast = [session.predict(x) for x in inputs]
    session.close()
    for x, found in zip(inputs, fast, strict=True):
        assert np.array_equal(found, network.dequantized(network.infer_in_python(network.quantized(x))))
    monkeypatch.setattr("hardware.backends.cortex_m.has_host_compiler", lambda: False)
    slow = loaded(M7, built)
    assert all(np.array_equal(slow.predict(x), found) for x, found in zip(inputs, fast, strict=True))


def test_a_wrong_output_byte_is_a_measurement_error(built: Artifact, tmp_path: Path) -> None:
    def spoil(files: dict[str, bytes]) -> None:
        reference = load(files["reference.safetensors"])
        output = reference["output"].copy()
        output[3] ^= 1
        files["reference.safetensors"] = save({"input": reference["input"], "output": output})

    session = loaded(M4, rewritten(built, tmp_path, spoil))
    with pytest.raises(MeasurementError, match="1 of 10 output bytes are not those of the integer reference"):
        session.count()
    with pytest.raises(MeasurementError, match="this machine 1 of 10"):
        session.run()


@pytest.mark.parametrize("name", ["network.json", "constants.safetensors", "reference.safetensors"])
def test_a_damaged_archive_is_refused(built: Artifact, tmp_path: Path, name: str) -> None:
    with pytest.raises(MeasurementError, match=r"changed\.cmsis is damaged"):
        loaded(M4, rewritten(built, tmp_path, lambda files: files.update({name: files[name][:-20]})))
    with pytest.raises(MeasurementError, match=r"changed\.cmsis is damaged"):
        loaded(M4, rewritten(built, tmp_path, lambda files: files.__delitem__(name)))


def test_sources_of_unknown_origin_are_refused(built: Artifact, tmp_path: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        files["c/bknn_network.c"] += b"/* and what is this? */"

    with pytest.raises(MeasurementError, match="other C sources"):
        loaded(M4, rewritten(built, tmp_path, change))
    with pytest.raises(MeasurementError, match="other C sources"):
        loaded(M4, rewritten(built, tmp_path, lambda files: files.update({"c/../../more.c": b"int x;"})))


def test_another_schema_is_refused_by_number(built: Artifact, tmp_path: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        files["network.json"] = json.dumps({**json.loads(files["network.json"]), "schema": 99}).encode()

    with pytest.raises(MeasurementError, match="schema 99"):
        loaded(M4, rewritten(built, tmp_path, change))


def test_what_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = M4.missing()
    assert missing is not None
    assert "arm-none-eabi-gcc" in missing
    assert "qemu-system-arm" in missing
    with pytest.raises(DeviceError, match="arm-none-eabi-gcc") as caught:
        get_device("cortex-m4")
    assert "pip install bakenn" in caught.value.hint
    assert "apt-get install" in caught.value.hint
    assert "gcc-arm-none-eabi" in caught.value.hint
    status = {line.device_id: line for line in list_devices()}
    assert {"cortex-m4", "cortex-m7", "cortex-m55"} <= status.keys()
    assert not status["cortex-m55"].available
    monkeypatch.setattr("hardware.backends.cortex_m.missing_packages", lambda names: f"no {names[0]}")
    assert "no bakenn" in str(M4.missing())


def test_a_missing_c_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in ("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"):
        (tmp_path / program).write_text("#!/bin/sh\necho libc.a\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "newlib" in str(M4.missing())
