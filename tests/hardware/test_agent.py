import base64
import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from hardware import measure_many
from hardware.channel import AgentChannel
from hardware.device import Device
from hardware.errors import (
    DeviceError,
    HangingError,
    MeasurementError,
    StorageError,
    UnreachableError,
    UntrustedError,
)
from hardware.files import JSON
from hardware.wire import PACKAGE_VERSION, WIRE_VERSION, decode_line, encode_line, job_to_json, spec_to_json
from tests.hardware.agents import ENDLESS, FAST, Bench, agents_in, eventually, is_alive, make_bench, make_environment
from tests.hardware.faulty_agent import LIES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="agents are tested on Linux")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("environment"))


@pytest.fixture
def bench(tmp_path: Path, python: Path) -> Bench:
    return make_bench(tmp_path, python=python)


def require_free(bench: Bench) -> None:
    """The unit can be had, and no agent is left."""
    with bench.unit.measuring(owner="test", ttl_s=60, timeout_s=120):
        pass
    assert eventually(lambda: not list(agents_in(bench.locks)))


def test_the_environment_of_the_agent_has_the_runtime_only(python: Path) -> None:
    program = (
        "import importlib.util as u\n"
        "print([n for n in ('numpy', 'onnxruntime', 'onnx', 'torch', 'pandas', 'pydantic', 'pyarrow', 'yaml') "
        "if u.find_spec(n)])"
    )
    found = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['numpy', 'onnxruntime']"


def test_an_agent_measures_what_the_host_itself_measures(bench: Bench) -> None:
    device = Device(spec=bench.device.spec, backend=bench.device.backend, host=bench.host())
    progress: list[tuple[int, int]] = []
    found = measure_many(
        device,
        {"small": bench.artifact},
        reference=bench.artifact,
        protocol=FAST,
        rng=np.random.default_rng(0),
        on_progress=lambda done, total: progress.append((done, total)),
    )["small"]
    assert 0 < found.low <= found.p50 <= found.high
    assert (found.num_rounds, found.runs_per_round) == (len(found.raw_ms), 3)
    assert found.unit_name == bench.device.spec.physical_unit()
    assert found.lease_token >= 1
    assert found.versions["onnx"] == "unknown"
    assert found.versions["onnxruntime"] == bench.device.backend.versions()["onnxruntime"]
    assert progress[-1][0] == progress[-1][1] >= 10
    require_free(bench)


def test_the_agent_holds_the_lease_of_its_host_while_it_measures(bench: Bench) -> None:
    errors: list[DeviceError] = []

    def attempt() -> None:
        try:
            bench.host().measure(bench.job(timeout_s=0))
        except DeviceError as e:
            errors.append(e)

    with bench.unit.measuring(owner="somebody else", ttl_s=600):
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert len(errors) == 1
    assert "somebody else" in str(errors[0])
    assert "test from" in str(errors[0])
    assert type(errors[0]) is DeviceError
    require_free(bench)


def test_waiting_for_the_unit_is_no_hanging(bench: Bench) -> None:
    done = threading.Event()

    def hold() -> None:
        with bench.unit.measuring(owner="somebody else", ttl_s=600):
            holding.set()
            done.wait()

    holding = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait()
    # Longer than the patience between two messages, which starts again with each of them.
    timer = threading.Timer(8.0, done.set)
    timer.start()
    try:
        found = bench.host(call_s=6.0).measure(bench.job(timeout_s=600))
    finally:
        done.set()
        holder.join()
    assert found.waited_s > 2
    require_free(bench)


def test_whatever_runtimes_print_and_read_stays_out_of_the_channel(bench: Bench) -> None:
    assert bench.host("prints").measure(bench.job()).times is not None


def test_a_login_shell_may_greet_before_the_agent_speaks(bench: Bench) -> None:
    assert bench.host("greets").measure(bench.job()).times is not None


def test_a_command_that_only_chats_is_no_agent(bench: Bench) -> None:
    with pytest.raises(UntrustedError, match="said 200 lines"):
        bench.host("chats-only").measure(bench.job())


def test_an_agent_of_another_version_is_refused_with_the_way_to_install_the_right_one(bench: Bench) -> None:
    with pytest.raises(UntrustedError, match=rf"version 0\.0\.1 .*here is {PACKAGE_VERSION}") as caught:
        bench.host("is-old").measure(bench.job())
    assert f"archsmith=={PACKAGE_VERSION}" in caught.value.hint
    require_free(bench)


def test_an_agent_that_never_speaks_is_unreachable(bench: Bench) -> None:
    with pytest.raises(UnreachableError, match=r"did not answer within 0\.5 s"):
        bench.host("is-silent", connect_s=0.5).measure(bench.job())
    assert not list(agents_in(bench.locks))


def test_an_agent_that_does_not_start_says_why(bench: Bench) -> None:
    with pytest.raises(UnreachableError, match="No module named onnxruntime"):
        bench.host("exits").measure(bench.job())


def test_a_command_that_does_not_exist_is_named(bench: Bench) -> None:
    with pytest.raises(UntrustedError, match="cannot start '/nowhere/python'"):
        AgentChannel(["/nowhere/python"], place="device 'test'", connect_s=5)


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["hangs", "hangs-in-c", "stops"])
def test_an_agent_that_hangs_is_ended_and_its_unit_is_free_again(bench: Bench, fault: str) -> None:
    with pytest.raises(HangingError, match="said nothing for 3 s"):
        bench.host(fault, call_s=3.0).measure(bench.job(ENDLESS))
    require_free(bench)
    assert bench.host().measure(bench.job()).times is not None


@pytest.mark.faults
def test_an_agent_that_dies_in_the_middle_is_noticed_at_once_and_its_unit_is_free(bench: Bench) -> None:
    with pytest.raises(UnreachableError, match="connection to device 'test' ended"):
        bench.host("dies").measure(bench.job(ENDLESS))
    require_free(bench)


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["", "hangs", "hangs-in-c"])
def test_an_agent_ends_with_its_lease_when_its_parent_is_killed(bench: Bench, fault: str) -> None:
    request: dict[str, JSON] = {"number": 2, "do": "measure", "job": job_to_json(bench.job(ENDLESS)), "patience_s": 600}
    program = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen({bench.command(fault)!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        f"child.stdin.write({encode_line(put_request(bench)) + encode_line(request)!r})\n"
        "child.stdin.flush()\n"
        "child.stdout.readline()\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(3600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    status = bench.unit.status()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert status.measuring is not None
    assert status.measuring.pid == pid
    assert eventually(lambda: not is_alive(pid))
    require_free(bench)


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["", "hangs"])
def test_an_agent_ends_with_its_lease_when_its_input_is_closed(bench: Bench, fault: str) -> None:
    with start_measuring(bench, fault=fault) as agent:
        assert agent.stdin is not None
        agent.stdin.close()
        agent.wait()
    require_free(bench)


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["hangs", "hangs-in-c"])
def test_an_agent_that_nobody_ends_ends_itself(bench: Bench, fault: str) -> None:
    with start_measuring(bench, fault=fault, patience_s=5) as agent:
        assert agent.wait() == -signal.SIGALRM
    require_free(bench)


def put_request(bench: Bench) -> dict[str, JSON]:
    content = base64.b64encode(bench.artifact.path.read_bytes()).decode()
    return {
        "number": 1,
        "do": "put",
        "sha256": bench.artifact.sha256,
        "name": "n.onnx",
        "first": True,
        "last": True,
        "base64": content,
    }


def start_measuring(bench: Bench, *, fault: str, patience_s: float = 600) -> "subprocess.Popen[bytes]":
    """An agent in the middle of a measurement that goes on for ever."""
    agent = subprocess.Popen(bench.command(fault), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdin is not None
    assert agent.stdout is not None
    request: dict[str, JSON] = {
        "number": 2,
        "do": "measure",
        "job": job_to_json(bench.job(ENDLESS)),
        "patience_s": patience_s,
    }
    assert decode_line(agent.stdout.readline())["wire"] == WIRE_VERSION
    agent.stdin.write(encode_line(put_request(bench)) + encode_line(request))
    agent.stdin.flush()
    assert "result" in decode_line(agent.stdout.readline())
    assert decode_line(agent.stdout.readline())["event"] == "progress"
    return agent


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_result_that_cannot_be_true_is_refused(bench: Bench, lie: str) -> None:
    with pytest.raises(UntrustedError, match="cannot be true") as caught:
        bench.host(lie).measure(bench.job())
    assert "nas devices check" in caught.value.hint
    require_free(bench)


def test_a_result_about_another_file_is_refused(bench: Bench) -> None:
    with pytest.raises(UntrustedError, match="it is about the files"):
        bench.host("measures-another-file").measure(bench.job())


def test_progress_that_goes_backwards_is_refused(bench: Bench) -> None:
    with pytest.raises(UntrustedError, match="says 'progress', 11 of 11, after 12 of 12"):
        bench.host("counts-backwards").measure(bench.job())
    require_free(bench)


def test_a_file_that_is_changed_in_transfer_is_refused_by_name(bench: Bench) -> None:
    with pytest.raises(StorageError, match=r"small network\.onnx was changed in transfer"):
        bench.host("changes-files").measure(bench.job())
    require_free(bench)


def test_a_file_that_changed_here_is_not_sent(bench: Bench) -> None:
    bench.artifact.path.write_bytes(b"another")
    with pytest.raises(StorageError, match="not the file that was described"):
        bench.host().measure(bench.job())


def test_a_clock_that_goes_backwards_is_found_by_measuring_and_by_checking(bench: Bench) -> None:
    host = bench.host("has-a-clock-that-goes-backwards")
    with pytest.raises(MeasurementError, match="clock stood still or went backwards"):
        host.measure(bench.job())
    items = {item.name: item for item in host.check(bench.device.spec)}
    assert not items["clock"].ok
    assert "went backwards" in items["clock"].detail
    assert items["runtime"].ok
    require_free(bench)


def test_an_error_of_a_runtime_arrives_with_its_type_and_the_agent_is_gone(bench: Bench) -> None:
    with pytest.raises(DeviceError, match="device 'test': ZeroDivisionError: the runtime has a bug"):
        bench.host("raises").measure(bench.job())
    require_free(bench)


def test_refusals_arrive_as_the_same_class_with_their_hint(bench: Bench) -> None:
    spec = dataclasses.replace(bench.device.spec, threads=100_000)
    with pytest.raises(DeviceError, match="threads is 100000, this process may use") as caught:
        bench.host().measure(dataclasses.replace(bench.job(), spec=spec))
    assert "set device.threads" in caught.value.hint
    with pytest.raises(MeasurementError, match="the device is set to batch 3"):
        bench.host().measure(dataclasses.replace(bench.job(), spec=dataclasses.replace(bench.device.spec, batch=3)))
    with pytest.raises(DeviceError, match="unknown backend 'abacus'"):
        bench.host().measure(
            dataclasses.replace(bench.job(), spec=dataclasses.replace(bench.device.spec, backend="abacus"))
        )


def test_a_device_that_is_well_says_so(bench: Bench) -> None:
    items = bench.host().check(bench.device.spec)
    assert [(item.name, item.ok) for item in items] == [
        ("agent", True),
        ("clock", True),
        ("runtime", True),
        ("lock", True),
    ]
    assert PACKAGE_VERSION in items[0].detail
    assert "onnxruntime" in items[2].detail


def test_a_check_waits_for_nobody_and_says_who_uses_the_unit(bench: Bench) -> None:
    with bench.unit.measuring(owner="somebody else", ttl_s=600):
        items = {item.name: item for item in bench.host().check(bench.device.spec)}
    assert items["lock"].ok
    assert "in use by somebody else" in items["lock"].detail


def test_a_check_finds_a_missing_runtime_and_a_lock_directory_that_is_none(bench: Bench) -> None:
    bench.locks.write_text("not a directory")
    spec = dataclasses.replace(bench.device.spec, backend="openvino-cpu")
    items = {item.name: item for item in bench.host().check(spec)}
    assert not items["runtime"].ok
    assert "openvino" in items["runtime"].detail
    assert not items["lock"].ok


def test_a_request_that_makes_no_sense_is_refused_and_the_agent_goes_on(bench: Bench) -> None:
    with AgentChannel(bench.command(), place="device 'test'", connect_s=60) as channel:
        with pytest.raises(UntrustedError, match="cannot do 'dance'"):
            channel.call("dance", patience_s=60)
        with pytest.raises(UntrustedError, match="None for a job"):
            channel.call("measure", patience_s=60)
        with pytest.raises(StorageError, match="was not sent"):
            channel.call("measure", patience_s=60, arguments={"job": job_to_json(bench.job())})
        with pytest.raises(UntrustedError, match="no SHA-256"):
            channel.call("put", patience_s=60, arguments={"sha256": "../../etc/passwd", "base64": ""})
        assert channel.call("check", patience_s=60, arguments={"spec": spec_json(bench)})["items"]


def spec_json(bench: Bench) -> dict[str, JSON]:
    return dict(spec_to_json(bench.device.spec))


def test_a_file_of_several_pieces_arrives_whole(bench: Bench) -> None:
    content = os.urandom(3 * 2**20 + 1)
    path = bench.directory / "large"
    path.write_bytes(content)
    large = dataclasses.replace(bench.artifact, path=path, sha256=hashlib.sha256(content).hexdigest())
    job = dataclasses.replace(bench.job(), artifacts={"large": large}, reference=large)
    # It is no network, so that the runtime on the device refuses it: after the checksum was right.
    with pytest.raises(MeasurementError, match="ONNX Runtime refuses"):
        bench.host().measure(job)


def test_files_of_killed_agents_are_removed_by_the_next_and_those_of_living_ones_stay(bench: Bench) -> None:
    left, young = bench.directory / "archsmith-agent-left", bench.directory / "archsmith-agent-young"
    for folder in (left, young):
        folder.mkdir()
        (folder / "network").touch()
    os.utime(left, (1, 1))
    with AgentChannel(bench.command(), place="device 'test'", connect_s=60):
        (alive,) = {*bench.directory.glob("archsmith-agent-*")} - {young}
        os.utime(alive, (1, 1))
        assert bench.host().check(bench.device.spec)
        assert {*bench.directory.glob("archsmith-agent-*")} == {alive, young}
    assert {*bench.directory.glob("archsmith-agent-*")} == {young}


def test_ctrl_c_in_the_caller_ends_the_agent(bench: Bench) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.host().measure(bench.job(ENDLESS), on_progress=interrupt)
    require_free(bench)
