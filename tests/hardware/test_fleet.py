import dataclasses
import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hardware.fleet
from hardware import get_device, list_devices, measure_many
from hardware.connections import check_device
from hardware.device import DeviceSpec
from hardware.errors import DeviceError, UntrustedError
from hardware.fleet import DeviceEntry, LocalPlace, RayPlace, SshPlace, Timeouts, fleet_path, load_fleet
from hardware.health import HealthBook
from hardware.onsite import MeasureJob, OnProgress, OnsiteResult, measure_onsite
from hardware.selftest import CheckItem, self_test
from tests.hardware.agents import FAST, make_bench

ROOT = Path(__file__).parents[2]
THREE = """\
devices:
  - id: laptop
    backend: onnxruntime-cpu
    where: local
  - id: pi
    backend: onnxruntime-cpu
    precision: int8
    threads: 4
    batch: 2
    where: {ssh: {host: 10.0.0.7, port: 2222, user: pi, identity: keys/id, known_hosts: /etc/known,
                  python: /opt/agent/bin/python, path: /opt/archsmith}}
    timeouts: {connect_s: 10, call_s: 600}
  - {id: node, backend: onnxruntime-cpu, where: {ray: {resource: "device:node"}}}
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty directory to be in, and no settings of the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARCHSMITH_DEVICES", raising=False)
    monkeypatch.setenv("ARCHSMITH_HOME", str(tmp_path / "home"))


def write(text: str, path: Path = Path("devices.yaml")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_three_kinds_of_places_are_read(tmp_path: Path) -> None:
    laptop, pi, node = load_fleet(write(THREE, tmp_path / "sub" / "devices.yaml"))
    assert laptop.spec == DeviceSpec(device_id="laptop", backend="onnxruntime-cpu")
    assert laptop.place == LocalPlace()
    assert pi.spec == DeviceSpec(
        device_id="pi",
        backend="onnxruntime-cpu",
        precision="int8",
        threads=4,
        batch=2,
        location="ssh://pi@10.0.0.7:2222",
    )
    assert pi.place == SshPlace(
        host="10.0.0.7",
        port=2222,
        user="pi",
        identity=tmp_path / "sub" / "keys" / "id",
        known_hosts=Path("/etc/known"),
        python="/opt/agent/bin/python",
        path="/opt/archsmith",
    )
    assert pi.timeouts == Timeouts(connect_s=10, call_s=600)
    assert node.place == RayPlace(resource="device:node")
    assert node.spec.location == "ray://device:node"
    assert [entry.source.rpartition(" ")[2] for entry in (laptop, pi, node)] == ["2", "5", "13"]


def test_the_example_in_the_help_text_is_right(tmp_path: Path) -> None:
    assert hardware.fleet.__doc__ is not None
    entries = load_fleet(write(hardware.fleet.__doc__.partition("\n\n")[2], tmp_path / "d.yaml"))
    assert [entry.device_id for entry in entries] == ["laptop-4", "pi", "node"]


def test_the_variable_goes_before_the_directory_and_without_both_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fleet_path() is None
    assert load_fleet() == ()
    write(THREE)
    assert [entry.device_id for entry in load_fleet()] == ["laptop", "pi", "node"]
    other = write("devices: [{id: other, backend: onnxruntime-cpu, where: local}]", tmp_path / "other.yaml")
    monkeypatch.setenv("ARCHSMITH_DEVICES", str(other))
    assert [entry.device_id for entry in load_fleet()] == ["other"]
    assert [entry.device_id for entry in load_fleet(Path("devices.yaml"))] == ["laptop", "pi", "node"]


def test_an_empty_file_has_no_devices() -> None:
    assert load_fleet(write("# nothing yet\n")) == ()


def test_a_file_that_the_variable_names_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHSMITH_DEVICES", str(tmp_path / "nowhere.yaml"))
    with pytest.raises(DeviceError, match=r"nowhere\.yaml: No such file") as caught:
        get_device("onnxruntime-cpu")
    assert "ARCHSMITH_DEVICES" in caught.value.hint


def test_two_devices_with_one_id_are_refused_with_both_lines() -> None:
    text = THREE.replace("id: node", "id: pi")
    with pytest.raises(DeviceError, match=r"two devices have the id 'pi', on line 5 and on line 13"):
        load_fleet(write(text))


def test_a_key_that_is_there_twice_is_refused_with_both_lines() -> None:
    with pytest.raises(DeviceError, match=r"line 9: the key 'threads' is there already, on line 8"):
        load_fleet(write(THREE.replace("    batch: 2\n", "    threads: 2\n")))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("threads: 4", "threads: 0", r"line 8: devices\.1\.threads: got 0, "),
        ("threads: 4", "threads: '4'", r"line 8: devices\.1\.threads: got '4', "),
        ("threads: 4", "thread: 4", r"line 8: devices\.1\.thread: unknown key"),
        ("threads: 4", "threads: true", r"line 8: .*got True"),
        ("port: 2222", "port: 99999", r"line 10: devices\.1\.where\.ssh\.port: got 99999"),
        ("host: 10.0.0.7", "host: -oProxyCommand=x", r"ssh\.host: got '-oProxyCommand=x'"),
        ("host: 10.0.0.7", "host: a b", r"ssh\.host: got 'a b'"),
        ("user: pi", "user: -x", r"ssh\.user: got '-x'"),
        ("host: 10.0.0.7, ", "", r"ssh\.host: is missing"),
        ("path: /opt", "paths: /opt", r"line 11: .*paths: unknown key"),
        ("where: local", "where: here", r"line 4: devices\.0\.where: got 'here', .*expected local, or one of"),
        ("where: local", "where: {}", r"expected local, or one of"),
        ("where: local", "where: {ssh: {host: a}, ray: {resource: b}}", r"expected local, or one of"),
        ("where: local", "where: {ssh: null}", r"expected local, or one of"),
        ("where: local", "where: {usb: {port: 1}}", r"usb: unknown key"),
        ("where: local", "where: local\n    timeouts: {call_s: 5}", r"timeouts are for devices .* this one is local"),
        ("    where: local\n", "", r"line 2: devices\.0\.where: is missing"),
        ("id: laptop", "id: ../laptop", r"line 2: devices\.0\.id: got '\.\./laptop'"),
        ("id: laptop", "id: 7", r"devices\.0\.id: got 7"),
        ("call_s: 600", "call_s: 0", r"line 12: .*call_s: got 0"),
        ("call_s: 600", "call_s: .inf", r"line 12: .*call_s: got inf"),
        ("devices:", "device:", r"devices: is missing.*device: unknown key"),
        ("devices:", "devices: [", r"line \d+: no valid YAML"),
        ("id: laptop", "id: !!python/object:os.system {}", r"no valid YAML"),
        (THREE, "- id: pi", r"line 1: the file: got"),
        (THREE, "devices: &a [*a]", r"devices\.0: got"),
        (THREE, "{[1]: 2}", r"no valid YAML|got"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(old: str, new: str, expected: str) -> None:
    assert old in THREE
    with pytest.raises(DeviceError, match=expected) as caught:
        load_fleet(write(THREE.replace(old, new, 1)))
    assert str(caught.value).startswith("devices.yaml: ")
    assert caught.value.hint


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(DeviceError) as caught:
        load_fleet(write(THREE.replace("threads: 4", "threads: 0").replace("batch: 2", "batch: 0")))
    assert re.search(r"threads.*; .*batch", str(caught.value))


def test_bytes_that_are_no_text_and_files_that_are_too_large_are_refused() -> None:
    path = Path("devices.yaml")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeviceError, match="no valid YAML"):
        load_fleet(path)
    path.write_text("#" * 1_000_001)
    with pytest.raises(DeviceError, match="larger than 1,000,000 bytes"):
        load_fleet(path)


def test_the_id_of_a_built_in_device_is_refused() -> None:
    write(THREE.replace("id: node", "id: onnxruntime-cpu"))
    for ask in (lambda: get_device("pi"), list_devices):
        with pytest.raises(DeviceError, match=r"line 13: the id 'onnxruntime-cpu' is that of a built-in device"):
            ask()


def test_built_in_devices_stay_and_unknown_ids_list_both_kinds() -> None:
    write(THREE)
    assert get_device("onnxruntime-cpu").host is None
    with pytest.raises(DeviceError, match=r"'abacus', known are \[.*'laptop'.*'onnxruntime-cpu'.*'pi'"):
        get_device("abacus")


def test_a_device_elsewhere_is_given_without_connecting_and_without_its_runtime() -> None:
    write(THREE)
    device = get_device("pi")
    assert device.spec.threads == 4
    assert device.host is not None


def test_other_numbers_than_those_of_the_file_are_refused() -> None:
    write(THREE)
    assert get_device("pi", threads=4, batch=2).spec.batch == 2
    with pytest.raises(DeviceError, match="'pi' has threads 4, asked for was 1") as caught:
        get_device("pi", threads=1)
    assert "set device.threads to 4, or change devices.yaml, line 5" in caught.value.hint
    with pytest.raises(DeviceError, match="'pi' has batch 2, asked for was 3"):
        get_device("pi", batch=3)


def test_a_backend_or_precision_that_is_not_there_is_refused() -> None:
    write(THREE.replace("precision: int8", "precision: fp8"))
    with pytest.raises(DeviceError, match=r"'pi': precision is 'fp8', onnxruntime-cpu has \('fp32', 'int8'\)"):
        get_device("pi")
    write(THREE.replace("backend: onnxruntime-cpu\n    where: local", "backend: abacus\n    where: local"))
    with pytest.raises(DeviceError, match=r"unknown backend 'abacus', known are \[.*'onnxruntime-cpu'"):
        get_device("laptop")
    (status,) = [status for status in list_devices() if status.device_id == "laptop"]
    assert not status.available
    assert "abacus" in status.reason


def test_a_local_device_has_no_more_threads_than_cores() -> None:
    write(THREE.replace("where: local", "threads: 60000\n    where: local"))
    with pytest.raises(DeviceError, match="threads is 60000, this process may use"):
        get_device("laptop")


def test_a_device_of_a_cluster_needs_somebody_who_reaches_it() -> None:
    write(THREE)
    with pytest.raises(DeviceError, match=r"'node' is at ray://device:node, and nothing here can reach ray") as caught:
        get_device("node")
    assert "connector" in caught.value.hint
    statuses = {status.device_id: status for status in list_devices()}
    assert not statuses["node"].available
    assert statuses["node"].hint == caught.value.hint
    assert statuses["laptop"].available
    assert statuses["laptop"].versions


class HostByConnector:
    """What a connector gives: measures here, and remembers for whom."""

    def __init__(self, entry: DeviceEntry, *, locks: Path) -> None:
        self.entry, self._locks = entry, locks
        self.lies = False

    def measure(self, job: MeasureJob, *, on_progress: OnProgress | None = None) -> OnsiteResult:
        if self.lies:
            raise UntrustedError("lies", hint="look at it")
        backend = get_device(job.spec.backend).backend
        return measure_onsite(backend, job, on_progress=on_progress, lock_directory=self._locks)

    def check(self, spec: DeviceSpec) -> tuple[CheckItem, ...]:
        return self_test(get_device(spec.backend).backend, spec=spec, lock_directory=self._locks)


def test_a_connector_reaches_its_devices_and_their_health_is_kept(tmp_path: Path) -> None:
    write(THREE)
    bench = make_bench(tmp_path, python=Path(sys.executable))
    hosts: list[HostByConnector] = []

    def connect(entry: DeviceEntry) -> HostByConnector:
        hosts.append(HostByConnector(entry, locks=bench.locks))
        return hosts[-1]

    device = get_device("node", connectors={"ray": connect})
    assert hosts[0].entry.place == RayPlace(resource="device:node")

    def measure() -> float:
        artifacts = {"small": bench.artifact}
        rng = np.random.default_rng(0)
        return measure_many(device, artifacts, reference=bench.artifact, protocol=FAST, rng=rng)["small"].p50

    assert measure() > 0
    hosts[0].lies = True
    with pytest.raises(UntrustedError):
        measure()
    (status,) = [status for status in list_devices(connectors={"ray": connect}) if status.device_id == "node"]
    assert not status.available
    assert "quarantine" in status.reason
    assert "nas devices check node" in status.hint
    # It is given all the same: not everything measures.
    assert get_device("node", connectors={"ray": connect}).spec == device.spec
    assert all(item.ok for item in check_device("node", connectors={"ray": connect}))
    assert not HealthBook().health("node").quarantined
    hosts[0].lies = False
    assert measure() > 0


def test_a_local_device_is_checked_here() -> None:
    write(THREE)
    items = check_device("laptop")
    assert [item.name for item in items] == ["clock", "runtime", "lock"]
    assert all(item.ok for item in items)


@pytest.mark.parametrize(
    ("step_ns", "expected"), [(-1, "went backwards"), (0, "stood still"), (15_600_000, "steps of 15600000 ns")]
)
def test_a_clock_that_cannot_time_is_found(step_ns: int, expected: str) -> None:
    backend = get_device("onnxruntime-cpu")
    values = itertools.count(10**12, step_ns)
    (clock, *_) = self_test(backend.backend, spec=backend.spec, timer_ns=lambda: next(values))
    assert not clock.ok
    assert expected in clock.detail


def test_key_files_that_are_missing_are_shown_in_the_list() -> None:
    write(THREE)
    (status,) = [status for status in list_devices() if status.device_id == "pi"]
    assert not status.available
    assert "identity" in status.reason
    assert "ssh-keygen" in status.hint


def test_devices_of_the_file_have_specs_that_measure_like_built_in_ones() -> None:
    write(THREE)
    assert (
        dataclasses.replace(get_device("laptop").spec, device_id="onnxruntime-cpu")
        == get_device("onnxruntime-cpu").spec
    )


def test_without_a_file_nothing_is_paid_for_it() -> None:
    program = (
        "import sys, hardware\nhardware.get_device('onnxruntime-cpu')\nhardware.list_devices()\n"
        "print([name for name in ('pydantic', 'yaml', 'subprocess', 'torch') if name in sys.modules])"
    )
    environment = {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert set(re.findall(r"\w+", found.stdout)) & {"pydantic", "yaml", "torch"} == set()
