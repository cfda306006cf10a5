import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardware import measure
from hardware.connections import check_device
from hardware.device import get_device
from hardware.errors import DeviceError, HangingError, MeasurementError, StorageError, UnreachableError, UntrustedError
from hardware.fleet import DeviceEntry, SshPlace, Timeouts, find_entry
from hardware.health import HealthBook
from hardware.remote import SshHost, ssh_command
from hardware.testing import INPUT_SHAPE, example_network
from tests.hardware.agents import ENDLESS, FAST, Bench, agents_in, eventually, is_alive, make_bench, make_environment
from tests.hardware.ssh_server import SshServer, free_port, running_server, why_not

pytestmark = pytest.mark.skipif(bool(why_not()) or sys.platform != "linux", reason=why_not() or "needs Linux")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with running_server(tmp_path_factory.mktemp("an ssh server")) as server:
        yield server


@pytest.fixture
def bench(tmp_path: Path, python: Path) -> Bench:
    return make_bench(tmp_path, python=python)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARCHSMITH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def entry(bench: Bench, server: SshServer, *, fault: str = "", call_s: float = 60.0, **changes: object) -> DeviceEntry:
    place = SshPlace(
        host="127.0.0.1",
        port=server.port,
        user=server.user,
        identity=server.identity,
        known_hosts=server.known_hosts(),
        python=str(bench.script(fault)),
    )
    return DeviceEntry(
        spec=dataclasses.replace(bench.device.spec, device_id="pi", location=place.address),
        place=dataclasses.replace(place, **changes),  # type: ignore[arg-type]
        timeouts=Timeouts(connect_s=60.0, call_s=call_s),
        source="devices.yaml, line 1",
    )


def host(bench: Bench, server: SshServer, *, fault: str = "", call_s: float = 60.0, **changes: object) -> SshHost:
    return SshHost(entry(bench, server, fault=fault, call_s=call_s, **changes), backend=bench.device.backend)


def require_free(bench: Bench) -> None:
    with bench.unit.measuring(owner="test", ttl_s=60, timeout_s=120):
        pass
    assert eventually(lambda: not list(agents_in(bench.locks)))


def write_fleet(bench: Bench, server: SshServer, *, fault: str = "", call_s: int = 60) -> Path:
    path = bench.directory / "devices.yaml"
    path.write_text(
        "devices:\n"
        "  - id: pi\n"
        "    backend: onnxruntime-cpu\n"
        f"    where: {{ssh: {{host: 127.0.0.1, port: {server.port}, user: {server.user}, "
        f"identity: '{server.identity}', known_hosts: '{server.known_hosts()}', "
        f"python: '{bench.script(fault)}'}}}}\n"
        f"    timeouts: {{connect_s: 60, call_s: {call_s}}}\n"
    )
    return path


def test_a_device_of_the_file_is_measured_over_ssh_like_any_other(
    bench: Bench, server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHSMITH_DEVICES", str(write_fleet(bench, server)))
    device = get_device("pi")
    assert device.spec.location == f"ssh://{server.user}@127.0.0.1:{server.port}"
    example = torch.zeros(1, *INPUT_SHAPE)
    found = measure(device, example_network(), example=example, protocol=FAST, lock_directory=bench.directory / "own")
    assert found.device_id == "pi"
    assert 0 < found.low <= found.p50 <= found.high
    assert np.shape(found.raw_ms) == (found.num_rounds, found.runs_per_round)
    assert found.unit_name == bench.device.spec.physical_unit()
    # The agent's environment has the runtime only.
    assert found.versions["onnx"] == "unknown"
    require_free(bench)


def test_a_check_over_ssh_readmits_a_device_in_quarantine(
    bench: Bench, server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHSMITH_DEVICES", str(write_fleet(bench, server, fault="lies-identical")))
    lying = get_device("pi")
    with pytest.raises(UntrustedError, match="cannot be true"):
        measure(lying, bench.artifact, protocol=FAST)
    monkeypatch.setenv("ARCHSMITH_DEVICES", str(write_fleet(bench, server)))
    repaired = get_device("pi")
    with pytest.raises(DeviceError, match="in quarantine since") as caught:
        measure(repaired, bench.artifact, protocol=FAST)
    assert "nas devices check pi" in caught.value.hint
    assert all(item.ok for item in check_device("pi"))
    assert measure(repaired, bench.artifact, protocol=FAST).p50 > 0
    require_free(bench)


def test_a_host_key_that_changed_is_refused_with_the_command_that_forgets_it(bench: Bench, server: SshServer) -> None:
    with pytest.raises(UntrustedError, match="the host key changed") as caught:
        host(bench, server, known_hosts=server.known_hosts("other_key")).measure(bench.job())
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in caught.value.hint
    assert f"ssh-keyscan -p {server.port} 127.0.0.1" in caught.value.hint
    assert not bench.locks.exists()


def test_an_unknown_host_key_is_refused_and_not_stored(bench: Bench, server: SshServer) -> None:
    empty = bench.directory / "empty"
    empty.touch()
    with pytest.raises(UntrustedError, match="host key is not known") as caught:
        host(bench, server, known_hosts=empty).measure(bench.job())
    assert "ssh-keyscan" in caught.value.hint
    assert empty.read_text() == ""


def test_a_key_that_the_server_does_not_know_is_refused(bench: Bench, server: SshServer) -> None:
    with pytest.raises(UntrustedError, match=f"does not let {server.user} in") as caught:
        host(bench, server, identity=server.directory / "other_key").measure(bench.job())
    assert "authorized_keys" in caught.value.hint


@pytest.mark.parametrize("name", ["identity", "known_hosts"])
def test_a_key_file_that_is_missing_is_named(bench: Bench, server: SshServer, name: str) -> None:
    missing: dict[str, Any] = {name: bench.directory / "nowhere"}
    with pytest.raises(DeviceError, match=rf"{name} .*/nowhere of 'pi' is no file") as caught:
        host(bench, server, **missing).measure(bench.job())
    assert "ssh-key" in caught.value.hint


def test_a_device_that_is_off_is_unreachable(bench: Bench, server: SshServer) -> None:
    port = free_port()
    known = bench.directory / "known"
    known.write_text(server.known_hosts().read_text().replace(str(server.port), str(port)))
    with pytest.raises(UnreachableError, match=r"cannot be reached: .*Connection refused"):
        host(bench, server, port=port, known_hosts=known).measure(bench.job())


def test_a_python_that_is_not_there_is_no_matter_of_trying_again(bench: Bench, server: SshServer) -> None:
    with pytest.raises(UntrustedError, match=r"agent does not start \(exit code 127\)") as caught:
        host(bench, server, python="/nowhere/python").measure(bench.job())
    assert "set python and path" in caught.value.hint


def test_a_python_without_our_packages_is_named(bench: Bench, server: SshServer, python: Path) -> None:
    with pytest.raises(UntrustedError, match=r"No module named 'hardware'|while finding module"):
        host(bench, server, python=str(python)).measure(bench.job())


def test_the_packages_may_lie_in_any_directory_of_the_device(bench: Bench, server: SshServer, python: Path) -> None:
    copy = bench.directory / "copied to the device's disk"
    root = Path(__file__).parents[2]
    for package in ("hardware", "searchspaces"):
        shutil.copytree(root / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    items = host(bench, server, python=str(python), path=str(copy)).check(bench.device.spec)
    assert [item.name for item in items if not item.ok] == []


def test_an_agent_of_another_version_is_refused(bench: Bench, server: SshServer) -> None:
    with pytest.raises(UntrustedError, match=r"version 0\.0\.1"):
        host(bench, server, fault="is-old").measure(bench.job())


def test_a_file_that_is_changed_in_transfer_is_refused(bench: Bench, server: SshServer) -> None:
    with pytest.raises(StorageError, match="was changed in transfer"):
        host(bench, server, fault="changes-files").measure(bench.job())
    require_free(bench)


def test_a_clock_that_goes_backwards_is_refused_and_the_lease_released(bench: Bench, server: SshServer) -> None:
    with pytest.raises(MeasurementError, match="clock stood still or went backwards"):
        host(bench, server, fault="has-a-clock-that-goes-backwards").measure(bench.job())
    require_free(bench)


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["hangs", "hangs-in-c", "stops"])
def test_a_hanging_agent_is_given_up_and_its_unit_is_free(bench: Bench, server: SshServer, fault: str) -> None:
    with pytest.raises(HangingError, match="said nothing for 3 s"):
        host(bench, server, fault=fault, call_s=3.0).measure(bench.job(ENDLESS))
    require_free(bench)


@pytest.mark.faults
def test_a_killed_agent_is_noticed_and_its_unit_is_free(bench: Bench, server: SshServer) -> None:
    with pytest.raises(UnreachableError, match="ended"):
        host(bench, server, fault="dies").measure(bench.job(ENDLESS))
    require_free(bench)


@pytest.mark.faults
def test_a_killed_caller_leaves_no_agent_and_no_lease(bench: Bench, server: SshServer) -> None:
    program = (
        "import pathlib\n"
        "from hardware.backends.onnxruntime_cpu import BACKEND\n"
        "from hardware.fleet import *\n"
        "from hardware.device import DeviceSpec\n"
        "from hardware.remote import SshHost\n"
        "from hardware.artifacts.artifact import Artifact\n"
        "from hardware.onsite import MeasureJob\n"
        "from hardware.protocol import MeasurementProtocol\n"
        "from pathlib import Path, PosixPath\n"
        f"host = SshHost({entry(bench, server)!r}, backend=BACKEND)\n"
        f"host.measure({bench.job(ENDLESS)!r}, on_progress=lambda done, total: print(done, flush=True))\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert caller.stdout is not None
    assert caller.stdout.readline()
    (agent,) = agents_in(bench.locks)
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert eventually(lambda: not is_alive(agent))
    require_free(bench)


@pytest.mark.faults
def test_a_connection_that_is_cut_is_noticed_and_the_unit_is_free(bench: Bench, server: SshServer) -> None:
    cut = threading.Event()

    def cut_it(done: int, total: int) -> None:
        if not cut.is_set():
            cut.set()
            (agent,) = agents_in(bench.locks)
            # The server's process for this connection.
            os.kill(int(Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)

    with pytest.raises(UnreachableError, match="ended"):
        host(bench, server).measure(bench.job(ENDLESS), on_progress=cut_it)
    require_free(bench)


def test_options_cannot_be_smuggled_in_and_nothing_is_ever_asked() -> None:
    place = SshPlace(host="-oProxyCommand=evil", python="python; evil", path="a b")
    command = ssh_command(place, connect_s=7.0)
    assert command[-3:-1] == ("--", "-oProxyCommand=evil")
    assert command[-1] == "exec env 'PYTHONPATH=a b' 'python; evil' -P -m hardware.agent"
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=7", "ForwardAgent=no"} <= set(command)


def test_the_file_knows_its_devices_by_id(bench: Bench, server: SshServer) -> None:
    path = write_fleet(bench, server)
    assert find_entry("pi", path=path).place == entry(bench, server).place
    with pytest.raises(DeviceError, match=r"unknown device 'abacus', .* has \['pi'\]"):
        find_entry("abacus", path=path)


def test_a_device_that_is_off_goes_into_quarantine_after_three_calls(
    bench: Bench, server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_fleet(bench, server)
    # A port where nobody listens; its host key is not what this is about.
    path.write_text(path.read_text().replace(f"port: {server.port}", f"port: {free_port()}"))
    monkeypatch.setenv("ARCHSMITH_DEVICES", str(path))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    device = get_device("pi")
    for _ in range(3):
        with pytest.raises(UnreachableError):
            measure(device, bench.artifact, protocol=FAST)
    assert HealthBook().health("pi").failures == 3
    with pytest.raises(DeviceError, match=r"in quarantine since .* after 3 failed calls"):
        measure(device, bench.artifact, protocol=FAST)
