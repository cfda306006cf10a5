"""An agent with a fault: `python faulty_agent.py FAULT [agent's arguments]`."""

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hardware import agent, onsite, timing
from hardware.onsite import MeasureJob, OnsiteResult
from hardware.timing import InterleavedTimes, RunnerTimes

OnProgress = Callable[[int, int], None]
# What the agent calls, by the names that it has there.
names = vars(agent)
real_measure, real_self_test = names["measure_onsite"], names["self_test"]
real_put, real_answer = agent.Agent._put, agent.Agent._answer


def with_runners(found: OnsiteResult, change: Callable[[RunnerTimes], RunnerTimes]) -> OnsiteResult:
    assert found.times is not None
    times = {name: change(runner) for name, runner in found.times.times.items()}
    return dataclasses.replace(found, times=dataclasses.replace(found.times, times=times))


def with_raw(found: OnsiteResult, change: Callable[[np.ndarray], np.ndarray]) -> OnsiteResult:
    return with_runners(found, lambda runner: dataclasses.replace(runner, raw_ns=change(runner.raw_ns)))


def with_times(found: OnsiteResult, **changes: Any) -> OnsiteResult:
    assert found.times is not None
    return dataclasses.replace(found, times=dataclasses.replace(found.times, **changes))


def twice(times: InterleavedTimes | None) -> dict[str, RunnerTimes]:
    assert times is not None
    return {**times.times, "another": next(iter(times.times.values()))}


LIES: Mapping[str, Callable[[OnsiteResult], OnsiteResult]] = {
    "lies-too-long": lambda found: with_raw(found, lambda raw: raw + 10**12),
    "lies-identical": lambda found: with_raw(found, lambda raw: np.full_like(raw, 1000)),
    "lies-negative": lambda found: with_raw(found, lambda raw: raw - 10**9),
    "lies-few-rounds": lambda found: with_runners(
        found, lambda runner: dataclasses.replace(runner, raw_ns=runner.raw_ns[:3], slowdown=runner.slowdown[:3])
    ),
    "lies-few-runs": lambda found: with_raw(found, lambda raw: raw[:, :1]),
    "lies-slowdown": lambda found: with_runners(
        found, lambda runner: dataclasses.replace(runner, slowdown=np.zeros_like(runner.slowdown))
    ),
    "lies-no-probes": lambda found: with_times(found, probes_ns=np.ones(2)),
    "lies-another-network": lambda found: with_times(found, times=twice(found.times)),
    "lies-estimated": lambda found: dataclasses.replace(found, provenance="estimated"),
    "lies-waited": lambda found: dataclasses.replace(found, waited_s=1e6),
    "lies-no-lease": lambda found: dataclasses.replace(found, lease_token=0),
    "lies-nan": lambda found: dataclasses.replace(found, stolen=-1.0),
}


def measure(backend: Any, job: MeasureJob, *, on_progress: OnProgress, lock_directory: Path | None) -> OnsiteResult:
    fault = sys.argv[0]

    def after_round(done: int, total: int) -> None:
        on_progress(done, total)
        if done == 3:
            if fault == "hangs":
                time.sleep(3600)
            if fault == "hangs-in-c":
                # Holds the interpreter's lock, as a runtime that never comes back may.
                ctypes.PyDLL(None).pause()
            if fault == "stops":
                os.kill(os.getpid(), signal.SIGSTOP)
            if fault == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "raises":
                raise ZeroDivisionError("the runtime has a bug")
            if fault == "counts-backwards":
                on_progress(total, total)
                on_progress(total - 1, total - 1)

    if fault == "prints":
        print("a runtime prints")
        os.write(1, b'{"number": 2, "result": {}}\n')
        ctypes.CDLL(None).puts(b"and its C library too")
        ctypes.CDLL(None).fflush(None)
        subprocess.run(["echo", "and a child of it"], check=True)
        assert sys.stdin.read() == ""
    found = real_measure(backend, job, on_progress=after_round, lock_directory=lock_directory)
    return LIES[fault](found) if fault in LIES else found


def put_changed(self: agent.Agent, request: Mapping[str, Any]) -> Any:
    text = request["base64"]
    return real_put(self, {**request, "base64": ("A" if text[0] != "A" else "B") + text[1:]})


def backwards_ns() -> int:
    return -time.perf_counter_ns()


def main() -> int:
    sys.argv.pop(0)
    fault, _, rest = sys.argv[0].partition("=")
    names["measure_onsite"] = measure
    if fault == "is-old":
        names["PACKAGE_VERSION"] = "0.0.1"
    if fault == "is-silent":
        time.sleep(3600)
    if fault == "greets":
        print("Welcome to the device!\n{not JSON}", flush=True)
    if fault == "chats-only":
        for _ in range(1000):
            print("Welcome!", flush=True)
    if fault == "exits":
        print("No module named onnxruntime", file=sys.stderr)
        return 1
    if fault == "changes-files":
        agent.Agent._put = put_changed  # type: ignore[method-assign]
    if fault == "has-a-clock-that-goes-backwards":
        vars(onsite)["time_interleaved"] = lambda *args, **settings: timing.time_interleaved(
            *args, **settings, timer_ns=backwards_ns
        )
        names["self_test"] = lambda *args, **settings: real_self_test(*args, **settings, timer_ns=backwards_ns)
    if fault == "measures-another-file":
        agent.Agent._answer = answer_for_another_file  # type: ignore[method-assign]
    if fault == "fails-at-first":
        marker = Path(rest)
        if not marker.exists():
            marker.touch()
            return 1
    return agent.main(sys.argv[1:])


def answer_for_another_file(self: agent.Agent, request: Mapping[str, Any]) -> dict[str, Any]:
    answer = dict(real_answer(self, request))
    if request["do"] == "measure":
        answer["sha256"] = {"small": "0" * 64}
    return answer


if __name__ == "__main__":
    sys.exit(main())
