"""Connecting to real Ray instances, in processes of their own, because a process has one connection at a time."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from experiments.errors import ClusterError
from experiments.ray.cluster import Cluster, connect, require_cpus
from experiments.ray.environment import thread_environment
from experiments.ray.guard import marked_processes
from tests.experiments.ray.conftest import ROOT

ATTEMPTS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from experiments.errors import ClusterError
from experiments.ray.cluster import connect
found = []
for arguments in json.loads(sys.argv[2]):
    try:
        with connect(**arguments) as cluster:
            found.append(["connected", cluster.num_nodes, cluster.cpus])
    except ClusterError as e:
        found.append([str(e), e.hint])
print(json.dumps(found))
"""

EMBEDDED = """
import os, subprocess, sys, time, ray
sys.path.insert(0, sys.argv[1])
from experiments.ray.cluster import connect
from experiments.ray.guard import MARK

@ray.remote
class Worker:
    def mark(self):
        self.child = subprocess.Popen(["sleep", "600"])
        return os.environ[MARK]
    def compute(self):
        while True:
            pass

with connect(num_cpus=1):
    worker = Worker.remote()
    mark = ray.get(worker.mark.remote())
    worker.compute.remote()
    print(mark, flush=True)
    if sys.argv[2] == "wait":
        time.sleep(600)
"""


def run_script(script: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", script, str(ROOT), *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def attempt(*arguments: dict[str, object], cwd: Path, **environment: str) -> list[list[object]]:
    done = run_script(ATTEMPTS, json.dumps(arguments), cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def test_an_embedded_instance_says_what_it_is(cluster: Cluster) -> None:
    assert (cluster.num_nodes, cluster.cpus) == (1, 4)
    host, _, port = cluster.address.rpartition(":")
    assert host
    assert port.isdecimal()


def test_connecting_again_uses_the_connection_and_leaves_it_open(cluster: Cluster) -> None:
    with connect() as again:
        assert again == cluster
    assert ray.is_initialized()
    with pytest.raises(ClusterError, match="connected to Ray already"), connect("127.0.0.1:6379"):
        pass


@ray.remote
def thread_settings() -> dict[str, str]:
    return {name: os.environ[name] for name in thread_environment(1)}


@pytest.mark.usefixtures("cluster")
def test_workers_are_told_how_many_threads_they_may_use() -> None:
    told = thread_settings.options(num_cpus=3, runtime_env={"env_vars": thread_environment(3)})
    assert set(ray.get(told.remote()).values()) == {"3"}


def test_room_is_only_promised_where_there_is_a_connection(cluster: Cluster) -> None:
    require_cpus(workers=4, threads=1, what="search")
    require_cpus(workers=1, threads=4, what="train")
    with pytest.raises(ClusterError, match="search wants 5 workers"):
        require_cpus(workers=5, threads=1, what="search")
    with pytest.raises(ClusterError, match="search wants 1 workers of 5 CPUs each") as caught:
        require_cpus(workers=1, threads=5, what="search", threads_key="cpus_per_trial")
    assert caught.value.hint == "lower search.cpus_per_trial"


def test_an_address_where_nothing_answers_is_refused_with_a_hint(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = f"127.0.0.1:{silent.getsockname()[1]}"
        found = attempt(
            {"address": "127.0.0.1:1"},
            {"address": "cluster"},
            {"address": "ray://127.0.0.1:10001"},
            {"address": mute, "timeout_s": 4},
            {"address": "127.0.0.1:1", "num_cpus": 2},
            cwd=tmp_path,
        )
    messages = [str(message) for message, _ in found]
    assert messages[0].startswith("the Ray cluster at 127.0.0.1:1 cannot be used: ")
    assert "refused" in messages[0]
    assert "leave the address out" in str(found[0][1])
    assert messages[1] == "'cluster' is not the address of a Ray cluster"
    assert messages[2] == "'ray://127.0.0.1:10001' is not the address of a Ray cluster"
    assert messages[3] == f"the Ray cluster at {mute} cannot be used: no answer within 4 s"
    assert messages[4] == "num_cpus=2 was given for the running cluster '127.0.0.1:1', which has its own"


@pytest.mark.slow
def test_an_instance_that_does_not_come_up_in_time_is_given_up(tmp_path: Path) -> None:
    # A head that starts and never answers.
    idle = tmp_path / "idle"
    idle.write_text("#!/bin/sh\nexec sleep 600\n")
    idle.chmod(0o755)
    script = f"import ray._private.services as services\nservices.GCS_SERVER_EXECUTABLE = {str(idle)!r}\n" + ATTEMPTS
    # Ray would wait half a minute for the port of a head that is gone.
    waits = {"RAY_NUM_REDIS_GET_RETRIES": "3", "RAY_gcs_server_port_wait_time_s": "3"}
    done = run_script(script, json.dumps([{"timeout_s": 1}]), cwd=tmp_path, TMPDIR=str(tmp_path), **waits)
    assert done.returncode == 0, done.stderr
    [[message, hint]] = json.loads(done.stdout)
    assert message == "the embedded Ray instance did not start: it was not up within 1 s"
    assert "free memory" in hint


def test_an_address_in_the_environment_is_not_taken_for_an_argument(tmp_path: Path) -> None:
    assert attempt({"num_cpus": 3}, cwd=tmp_path, RAY_ADDRESS="127.0.0.1:1") == [["connected", 1, 3]]


@pytest.mark.slow
def test_an_embedded_instance_leaves_nothing_behind(tmp_path: Path) -> None:
    # A directory for temporary files whose path is too long for sockets.
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    done = run_script(EMBEDDED, "end", cwd=tmp_path, TMPDIR=str(deep))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert marked_processes(done.stdout.strip()) == []
    assert list(deep.iterdir()) == []


@pytest.mark.faults
def test_an_embedded_instance_ends_with_a_driver_that_was_killed(tmp_path: Path) -> None:
    place = tmp_path / "tmp"
    # Short enough for sockets, and nobody else's, so that what is left behind shows.
    link = Path("/tmp") / f"h{os.getpid()}"
    place.mkdir()
    link.symlink_to(place)
    try:
        for _ in range(2):
            driver = subprocess.Popen(
                [sys.executable, "-P", "-c", EMBEDDED, str(ROOT), "wait"],
                cwd=tmp_path,
                env={**os.environ, "TMPDIR": str(link)},
                stdout=subprocess.PIPE,
                text=True,
            )
            assert driver.stdout is not None
            mark = driver.stdout.readline().strip()
            # Daemons, agents, the computing worker and the process that it started.
            assert len(marked_processes(mark)) >= 6
            assert list(place.glob("nas-ray-*")) != []
            driver.kill()
            driver.wait()
            driver.stdout.close()
            # The same command at once, while the rest of the first instance is on its way out.
        deadline_s = time.monotonic() + 60
        while marked_processes(mark) or any(place.glob("nas-ray-*")):
            assert time.monotonic() < deadline_s, marked_processes(mark)
            time.sleep(0.1)
    finally:
        link.unlink()
