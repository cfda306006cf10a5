"""Ctrl-C while workers work: the command ends as interrupted, quietly, and takes its Ray instance with it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.ray.guard import marked_processes
from tests.experiments.ray.conftest import ROOT, MakeRun

WORKING = """
import sys
from pathlib import Path
import numpy as np
from experiments.ray.cluster import connect
from searchspaces import get_space
from tests.experiments.ray.fake_workloads import LOADER

run_dir, stage = Path(sys.argv[1]), sys.argv[2]
arch = get_space("mbconv-small").sample(np.random.default_rng(0))
places = {"loader": LOADER, "lock_directory": run_dir / "locks"}

def train():
    from experiments.ray.trainer import train_on_ray
    train_on_ray(run_dir, num_workers=1, threads_per_worker=1, storage=run_dir / "ray", **places)

def search():
    from experiments.ray.pool import RayEvaluationPool
    pool = RayEvaluationPool(run_dir, num_workers=1, **places)
    try:
        pool.submit(0, architectures=[arch])
        pool.next_result()
    finally:
        pool.close()

def refine():
    from experiments.ray.tune_refine import refine_on_ray
    refine_on_ray(
        run_dir, jobs=[(arch.to_json(), run_dir / "refine")], max_concurrent=1, threads_per_trial=1,
        storage=run_dir / "ray", on_result=lambda directory, metrics: None, **places,
    )

try:
    with connect(num_cpus=1):
        {"train": train, "search": search, "refine": refine}[stage]()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("stage", ["train", "search", "refine"])
def test_ctrl_c_ends_a_stage_and_the_embedded_instance(stage: str, make_run: MakeRun) -> None:
    run_dir = make_run(train="for_ever", judge="for ever", refine="for ever")
    process = subprocess.Popen(
        [sys.executable, "-c", WORKING, str(run_dir), stage],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    mark = run_dir / "mark"
    while not mark.exists() or not mark.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    assert marked_processes(mark.read_text()) != []
    # To the whole group, as a terminal does.
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130, errors
    assert output == ""
    assert "Traceback" not in errors
    assert marked_processes(mark.read_text()) == []
