import csv
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hardware import get_device
from hardware.artifacts.artifact import Artifact
from hardware.backends import ethos_u, litert_cpu
from hardware.backends.backend import Count
from hardware.backends.ethos_u import BACKENDS, EthosUSession
from hardware.device import list_devices
from hardware.errors import DeviceError, MeasurementError
from hardware.testing import DeviceBackendContract
from tests.hardware.built_once import BuiltOnce
from tests.hardware.networks import outputs, raw_images, real_subnet, relative_difference

BY_NAME = {backend.name: backend for backend in BACKENDS}
U55 = BY_NAME["ethos-u55-128"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(U55.missing() is not None, reason=str(U55.missing()))]


class TestEthosU55(DeviceBackendContract):
    device_id = "ethos-u55-128"
    tolerance = 0.1

    @pytest.fixture
    def artifact(self, built_once: BuiltOnce, tmp_path: Path) -> Artifact:
        return built_once.copy("example", U55, precision="int8", folder=tmp_path)


def loaded(artifact: Artifact, name: str = "ethos-u55-128") -> EthosUSession:
    return BY_NAME[name].load(artifact, spec=get_device(name).spec)


def vela(artifact: Artifact, accelerator: str, folder: Path) -> dict[str, str]:
    """What the command says by default, where `count` names every choice."""
    command = Path(sys.executable).with_name("vela")
    subprocess.run(
        [command, "--accelerator-config", accelerator, "--output-dir", folder, artifact.path],
        check=True,
        capture_output=True,
        timeout=200,
    )
    (found,) = folder.glob("*_summary_*.csv")
    with found.open(newline="") as file:
        (row,) = csv.DictReader(file)
    return row


def test_every_accelerator_of_the_compiler_is_a_device_of_estimated_costs() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "ethosu.vela", "--help"], capture_output=True, text=True, timeout=100
    ).stdout
    offered = said.partition("--accelerator-config {")[2].partition("}")[0].split(",")
    assert sorted(BY_NAME) == sorted(offered)
    known = {status.device_id: status for status in list_devices()}
    for name, backend in BY_NAME.items():
        assert known[name].available
        assert backend.provenance == "estimated"
        assert backend.precisions == ("int8",)
    assert "ethos-u55-128-int8" not in known


@pytest.mark.parametrize("name", ["ethos-u55-128", "ethos-u65-256", "ethos-u85-256"])
def test_counts_are_those_of_the_vela_command(name: str, built_once: BuiltOnce, tmp_path: Path) -> None:
    artifact = built_once.copy("real", U55, precision="int8", folder=tmp_path)
    counted = loaded(artifact, name).count()
    row = vela(artifact, name, tmp_path / "out")
    assert (counted.quantity, counted.unit) == ("cycles", "cycles")
    assert counted.value == float(row["cycles_total"]) > 10_000
    assert counted.also["npu_cycles"] == float(row["cycles_npu"])
    assert counted.also["macs"] == float(row["nn_macs"])
    assert counted.also["sram_bytes"] == float(row["sram_memory_used"]) * 1024 > 0
    assert counted.also["dram_bytes"] == float(row["dram_memory_used"]) * 1024
    assert counted.also["flash_bytes"] == float(row["off_chip_flash_memory_used"]) * 1024


def cpu_operators(counted: Count) -> dict[str, float]:
    return {name: number for name, number in counted.also.items() if name.startswith("cpu_")}


@pytest.mark.parametrize("name", ["ethos-u55-128", "ethos-u65-256", "ethos-u85-256"])
@pytest.mark.parametrize("network", ["real", "elaborate"])
def test_nothing_of_our_networks_is_left_to_a_cpu_but_the_conversion_of_input_and_output(
    network: str,
    name: str,
    built_once: BuiltOnce,
    tmp_path: Path,
) -> None:
    artifact = built_once.copy(network, U55, precision="int8", folder=tmp_path)
    assert cpu_operators(loaded(artifact, name).count()) == {
        "cpu_operators": 2,
        "cpu_quantize_operators": 1,
        "cpu_dequantize_operators": 1,
    }


def test_what_is_left_to_a_cpu_is_named(built_once: BuiltOnce, tmp_path: Path) -> None:
    # The same network with a resize operator, as it is built for CPUs.
    artifact = built_once.copy("real", litert_cpu.BACKEND, precision="int8", folder=tmp_path)
    found = cpu_operators(loaded(artifact).count())
    assert found["cpu_resize_bilinear_operators"] == 1
    assert found["cpu_operators"] == 3


def test_a_network_that_is_all_left_to_a_cpu_is_refused(built_once: BuiltOnce, tmp_path: Path) -> None:
    artifact = built_once.copy("real", litert_cpu.BACKEND, precision="fp32", folder=tmp_path)
    with pytest.raises(DeviceError, match="fp32"):
        loaded(artifact)
    session = loaded(dataclasses.replace(artifact, precision="int8"))
    with pytest.raises(MeasurementError, match="DEPTHWISE_CONV_2D") as caught:
        session.count()
    assert "ethos-u55-128" in str(caught.value)
    assert caught.value.hint


def test_an_operator_that_vela_refuses_is_named(built_once: BuiltOnce, tmp_path: Path) -> None:
    artifact = built_once.copy("example", litert_cpu.BACKEND, precision="fp32", folder=tmp_path)
    session = loaded(dataclasses.replace(artifact, precision="int8"))
    with pytest.raises(MeasurementError, match="HARD_SWISH") as caught:
        session.count()
    assert "Traceback" not in str(caught.value)


def test_int8_decides_as_torch_does(built_once: BuiltOnce, tmp_path: Path) -> None:
    session = loaded(built_once.copy("real", U55, precision="int8", folder=tmp_path))
    images = raw_images(200)
    found = np.concatenate([session.predict(image[None].numpy()) for image in images])
    expected = outputs(real_subnet(), images)
    assert relative_difference(found, expected) < 0.1
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9


def test_a_report_without_a_column_is_refused(
    built_once: BuiltOnce,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = loaded(built_once.copy("example", U55, precision="int8", folder=tmp_path))
    monkeypatch.setattr(ethos_u, "_MEMORY", {"sram_bytes": "sram_memory_of_another_version"})
    with pytest.raises(MeasurementError, match="lacks sram_memory_of_another_version") as caught:
        session.count()
    assert "ethos-u-vela" in caught.value.hint


def test_the_words_of_vela_are_in_the_message(
    built_once: BuiltOnce,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = loaded(built_once.copy("example", U55, precision="int8", folder=tmp_path))
    monkeypatch.setitem(ethos_u._SYSTEMS, "u55", ("Ethos_U55_High_End_Embedded", "No_Such_Memory"))
    with pytest.raises(MeasurementError, match="No_Such_Memory"):
        session.count()
