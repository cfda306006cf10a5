"""A running cluster of three nodes that asks for a token: drivers connect, runs are sent there as jobs."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from nas.training.finished import finished_checkpoints
from tests.experiments.conftest import QUICKSTART, InProcess, Result
from tests.experiments.ray.conftest import ROOT
from tests.experiments.ray.test_cluster import attempt, run_script

TOKEN = "ab" * 32

PACKAGES = """
import json, os, sys, ray
sys.path.insert(0, sys.argv[1])
from experiments.ray.cluster import connect

@ray.remote
def where():
    import experiments.workload
    return experiments.workload.__file__

with connect(sys.argv[2]) as cluster:
    print(json.dumps([cluster.address, cluster.num_nodes, cluster.cpus, ray.get(where.remote())]))
"""


@dataclass(frozen=True)
class Head:
    """A running cluster.

    Attributes:
        address: of drivers.
        url: of its Jobs API.
        token: file of the token.
    """

    address: str
    url: str
    token: Path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def start_node(stack: ExitStack, *arguments: str, place: Path, environment: dict[str, str]) -> None:
    """Start a node with a directory of its own; closing `stack` ends it."""
    process = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"),
            *("--object-store-memory=100000000", f"--temp-dir={place}", *arguments),
            # Jobs are taken by the head's agent, which must not meet another node's at the usual port.
            f"--dashboard-agent-listen-port={free_port()}",
        ],
        cwd=environment["HOME"],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def end() -> None:
        process.terminate()
        process.wait()
        subprocess.run(["rm", "-rf", str(place)], check=True)

    stack.callback(end)


def get(url: str) -> str:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    with suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
        return str(answer.read().decode())
    return ""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("home")
    token = home / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    environment = {
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # `python` is the one that has our dependencies, and the code is what is shipped.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ARCHSMITH_LOCK_DIRECTORY": str(home / "locks"),
        # Workers are started when there is work for them.
        "RAY_prestart_worker_first_driver": "0",
        # Ended, a node would wait half a minute for work to move to the others.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    port, dashboard = free_port(), free_port()
    place = Path("/tmp") / f"nas-head-{os.getpid()}"
    with ExitStack() as stack:
        start_node(
            stack,
            *("--head", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=1"),
            place=place,
            environment=environment,
        )
        url = f"http://127.0.0.1:{dashboard}"
        deadline_s = time.monotonic() + 120
        while not get(f"{url}/api/version"):
            assert time.monotonic() < deadline_s, "the head did not come up"
            time.sleep(0.2)
        for number, resources in enumerate(('{"gpuless": 1}', '{"device:far": 1}')):
            start_node(
                stack,
                *(f"--address=127.0.0.1:{port}", "--num-cpus=1", f"--resources={resources}"),
                place=place.with_name(f"{place.name}-{number}"),
                environment=environment,
            )
        while get(f"{url}/nodes?view=summary").count('"state": "ALIVE"') < 3:
            assert time.monotonic() < deadline_s, get(f"{url}/nodes?view=summary")[:2000]
            time.sleep(0.2)
        yield Head(address=f"127.0.0.1:{port}", url=url, token=token)


@pytest.mark.slow
def test_workers_of_a_running_cluster_get_our_packages_from_the_driver(head: Head, tmp_path: Path) -> None:
    done = run_script(PACKAGES, head.address, cwd=tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(head.token))
    assert done.returncode == 0, done.stderr
    _, num_nodes, cpus, module = json.loads(done.stdout)
    assert (num_nodes, cpus) == (3, 3)
    assert not Path(module).is_relative_to(ROOT)
    # With another token, and without any.
    other = tmp_path / "other"
    other.write_text("cd" * 32)
    refused = attempt({"address": head.address}, cwd=tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(other))
    refused += attempt({"address": head.address}, cwd=tmp_path)
    for message, hint in refused:
        assert str(message).startswith(f"the Ray cluster at {head.address} cannot be used: ")
        assert "RAY_AUTH_TOKEN_PATH" in str(hint)


@pytest.mark.slow
@pytest.mark.faults
def test_a_run_is_sent_followed_stopped_and_resumed_as_a_job(head: Head, tmp_path: Path, nas: InProcess) -> None:
    run_dir = tmp_path / "shared" / "run"
    checkpoints = run_dir / "train" / "checkpoints"

    def call(*arguments: str | Path, code: int = 0) -> Result:
        found = nas(*arguments, "--address", head.url, "--token-file", head.token)
        assert found.code == code, found.out + found.err
        assert TOKEN not in found.out + found.err
        return found

    def wait_beyond(epoch: str) -> str:
        deadline_s = time.monotonic() + 300
        while (newest := max((path.name for path in finished_checkpoints(checkpoints)), default="")) <= epoch:
            assert time.monotonic() < deadline_s, call("list", "--format", "json").out
            time.sleep(0.2)
        return newest

    submit = ("submit", QUICKSTART, "--quick", "--set", "train.epochs=500", "--run-dir", run_dir)
    assert "seen by 3 nodes" in call(*submit).out
    wait_beyond("")
    assert "job quickstart-1 is running" in call(*submit, code=2).err
    [row] = json.loads(call("list", "--format", "json").out)
    assert (row["job"], row["state"], row["run"], row["stage"]) == ("quickstart-1", "running", str(run_dir), "train")
    assert "quickstart-1 stopped" in call("stop", "quickstart-1").out
    assert "interrupted; run the same command again" in call("logs", "quickstart-1").out
    reached = wait_beyond("")
    assert "has ended already: stopped" in call("stop", "quickstart-1", code=2).err

    call("resume", run_dir)
    wait_beyond(reached)
    assert json.loads(call("status", run_dir, "--format", "json").out)["job"] == "quickstart-2"
    call("stop", "quickstart-2")
    assert reached < wait_beyond("") < "epoch-0500"
    # What a run ends with is what a followed job ends with.
    unknown = ("--set", "device.id=abacus", "--run-dir", run_dir.with_name("other"), "--follow")
    assert "unknown device 'abacus'" in call("submit", QUICKSTART, *unknown, code=4).out
    assert [job["state"] for job in json.loads(call("list", "--format", "json").out)] == [
        "failed",
        "stopped",
        "stopped",
    ]
