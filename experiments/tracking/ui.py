"""Serves a run's MLflow page on this machine."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from experiments.errors import TrackingError
from experiments.recipe import load_recipe
from experiments.tracking.mlflow import MlflowTracker
from nas.run import open_run

_START_SECONDS = 90.0
_POLL_SECONDS = 0.5


def serve_ui(run_dir: Path, *, port: int, say: Callable[[str], None]) -> None:
    """Serve MLflow for a run until Ctrl-C, on loopback only.

    A run that tracks on a server of its own is only pointed to.

    Raises:
        RunError: not a run directory.
        TrackingError: nothing was tracked yet, or the server does not start (a port in use, for example).
    """
    run = open_run(run_dir)
    settings = load_recipe(run.recipe_path).tracking
    tracker = MlflowTracker(run.path / "mlflow", uri=settings.uri, experiment=settings.experiment)
    page = tracker.page(run.info.run_id)
    if page is None:
        raise TrackingError(f"MLflow does not know run {run_dir} yet", hint=f"nas sync {run_dir}")
    if tracker.uri.startswith("http"):
        say(f"the run is shown at {tracker.uri}{page}")
        return
    address = f"http://127.0.0.1:{port}"
    if _answers(address):
        raise TrackingError(f"port {port} is in use", hint=f"nas ui {run_dir} --port {port + 1}")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracker.uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Its processes for jobs evaluate traces of language models; a run's page needs none of them.
        env={
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        start_new_session=True,
    )
    try:
        _wait_until_up(server, address=address, run_dir=run_dir, port=port)
        say(f"the run is shown at {address}{page}   (Ctrl-C ends the server)")
        server.communicate()
    finally:
        # MLflow starts processes of its own: all of its session ends.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _wait_until_up(server: "subprocess.Popen[str]", *, address: str, run_dir: Path, port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(f"{address}/health"):
        if server.poll() is not None:
            _, errors = server.communicate()
            last = errors.strip().splitlines()[-1:] or ["no message"]
            raise TrackingError(
                f"the MLflow server ended with code {server.returncode}: {last[0]}",
                hint=f"another port may help: nas ui {run_dir} --port {port + 1}",
            )
        if time.monotonic() > deadline:
            raise TrackingError(
                f"the MLflow server did not answer within {_START_SECONDS:g} s", hint="look at the load of this machine"
            )
        time.sleep(_POLL_SECONDS)


def _answers(address: str) -> bool:
    try:
        # Without any proxy: this is our own loopback address.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=2.0):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
