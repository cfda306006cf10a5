"""The audit from end to end on digits, its picture, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from experiments.benchmarks import audited_subnets, device_backends, proxy_audit
from experiments.benchmarks.proxies import PROXIES, Correlation, Regret
from experiments.benchmarks.proxy_audit import Audited, draw_audit, main
from hardware.device import Device, get_device, list_devices
from hardware.measurement import CostMeasurement
from hardware.measuring import measure_many
from tests.experiments.benchmarks.conftest import QUICKSTART
from tests.fakes.devices import FlakyBackend

DEVICE_ID = "onnxruntime-cpu"
CIRCLE = "{http://www.w3.org/2000/svg}circle"


@pytest.fixture(autouse=True)
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real measurements, of which none is suspect: how busy the host of the tests is must not decide what they see."""

    def measure_and_believe(*args: Any, **kwargs: Any) -> dict[str, CostMeasurement]:
        found = measure_many(*args, **kwargs)
        return {name: replace(record, suspect=False, suspect_reason="") for name, record in found.items()}

    monkeypatch.setattr(audited_subnets, "measure_many", measure_and_believe)


def arguments(tmp_path: Path, *more: str) -> list[str]:
    paths = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "audit.json")]
    return ["--quick", *paths, "--devices", DEVICE_ID, *more]


def figures(tmp_path: Path) -> dict[str, float]:
    content = json.loads((tmp_path / "audit.json").read_text())["figures"]
    assert isinstance(content, dict)
    return content


def skipped(tmp_path: Path) -> dict[str, str]:
    content = json.loads((tmp_path / "audit.json").read_text())["environment"]["skipped"]
    assert isinstance(content, dict)
    return content


def test_an_audit_with_accuracies_measures_once(
    tmp_path: Path, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, "--supernet", str(trained_run))) == 0
    first = figures(tmp_path)
    assert [first[f"{DEVICE_ID}/{name}"] for name in ("subnets", "suspect", "missing")] == [12, 0, 0]
    assert 0 < first[f"{DEVICE_ID}/cost/lowest"] < first[f"{DEVICE_ID}/cost/highest"]
    for name in PROXIES:
        for metric in ("spearman", "kendall"):
            low, value, high = (first[f"{DEVICE_ID}/{name}/{metric}{end}"] for end in ("_low", "", "_high"))
            assert -1 <= low <= high <= 1
            assert -1 <= value <= 1
        assert 0 <= first[f"{DEVICE_ID}/{name}/front_regret"] <= 1
    assert first[f"{DEVICE_ID}/macs/spearman"] > 0
    assert skipped(tmp_path) == {}
    picture = ET.fromstring((tmp_path / "audit.svg").read_text())  # noqa: S314  # our own text
    assert len(picture.findall(CIRCLE)) == 3 * len(PROXIES)

    assert "missing subnets measured" in capsys.readouterr().out
    assert main(arguments(tmp_path, "--supernet", str(trained_run))) == 0
    assert figures(tmp_path) == first
    shown = capsys.readouterr().out
    assert "missing subnets" not in shown
    assert "Front regret" in shown


def test_without_a_supernet_the_regret_is_skipped_and_changed_settings_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = ["--recipe", str(QUICKSTART)]
    assert main(arguments(tmp_path, *recipe)) == 0
    assert "--supernet" in skipped(tmp_path)["front regret"]
    assert not any("front" in key for key in figures(tmp_path))
    with pytest.raises(SystemExit) as error:
        main(arguments(tmp_path, *recipe, "--protocol", "standard"))
    assert error.value.code == 2
    assert "was made with protocol 'quick', now it is 'standard'" in " ".join(capsys.readouterr().err.split())


def test_a_device_that_breaks_does_not_take_the_others_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sometimes_flaky(device_id: str) -> Device:
        device = get_device(device_id)
        if device_id == DEVICE_ID:
            return device
        backend = FlakyBackend(device.backend)
        backend.failing.add("build")
        return Device(spec=device.spec, backend=backend)

    monkeypatch.setattr(device_backends, "get_device", sometimes_flaky)
    devices = ["--devices", f"torch-cpu,{DEVICE_ID}"]
    assert main(arguments(tmp_path, "--recipe", str(QUICKSTART), *devices)) == 0
    assert "the flaky device cannot build" in skipped(tmp_path)["torch-cpu: the rest"]
    assert "0 subnets" in skipped(tmp_path)["torch-cpu"]
    assert figures(tmp_path)["torch-cpu/missing"] == 12
    assert f"{DEVICE_ID}/macs/spearman" in figures(tmp_path)


def test_slow_backends_get_the_first_subnets_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_audit, "FAST_BACKENDS", ())
    assert main(arguments(tmp_path, "--recipe", str(QUICKSTART))) == 0
    found = figures(tmp_path)
    assert found[f"{DEVICE_ID}/subnets"] == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--devices", "abacus"], "unknown device 'abacus'"),
        (["--subnets", "2"], "must be 3 or more"),
        (["--supernet", "/no/such/run"], "is not a run directory"),
    ],
)
def test_wrong_usage_exits_with_2(
    tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments(tmp_path, "--recipe", str(QUICKSTART), *more))
    assert error.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_every_default_device_is_known() -> None:
    assert set(proxy_audit.DEVICES) <= {status.device_id for status in list_devices()}


def test_the_picture_leaves_out_what_does_not_exist() -> None:
    nothing = Correlation(value=float("nan"), low=float("nan"), high=float("nan"))
    some = Correlation(value=0.5, low=-0.25, high=0.75)
    spearman = dict.fromkeys(PROXIES, some) | {"operators": nothing}
    del spearman["roofline"]
    regrets = {name: Regret(value=0.1, num_chosen=2, num_true=3, reference=(0.1, 2.0)) for name in ("macs", "params")}
    with_regrets = Audited(num_subnets=9, spearman=spearman, kendall={}, regrets=regrets)
    without = Audited(num_subnets=8, spearman=spearman, kendall={}, regrets={})
    for found, expected in (({"a": with_regrets, "b": without}, 5 + 3 + 2 + 3), ({"b": without}, 5 + 3)):
        picture = ET.fromstring(draw_audit(found))  # noqa: S314  # our own text
        assert len(picture.findall(CIRCLE)) == expected
        width = float(picture.attrib["viewBox"].split()[2])
        places = [float(circle.attrib["cx"]) for circle in picture.findall(CIRCLE)]
        assert 0 < min(places) <= max(places) < width
        assert np.isfinite(places).all()
