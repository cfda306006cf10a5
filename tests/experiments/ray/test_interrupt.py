"""Ctrl-C while workers work: the command ends as interrupted, quietly, and takes its Ray instance with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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

run_dir = Path(sys.argv[1])
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

# One process for all stages: starting it costs more than what it does.
for stage in sys.argv[2:]:
    try:
        with connect(num_cpus=1):
            {"train": train, "search": search, "refine": refine}[stage]()
    except KeyboardInterrupt:
        (run_dir / f"interrupted-{stage}").touch()
    else:
        sys.exit(f"{stage} ended by itself")
sys.exit(130)
"""

STAGES = ("train", "search", "refine")


@pytest.mark.slow
@pytest.mark.faults
def test_ctrl_c_ends_a_stage_and_the_embedded_instance(make_run: MakeRun) -> None:
    run_dir = make_run(train="for_ever", judge="for ever", refine="for ever")
    process = subprocess.Popen(
        [sys.executable, "-c", WORKING, str(run_dir), *STAGES],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def wait_for(path: Path) -> None:
        while not path.exists():
            # The last stage's end is that of the process.
            assert process.poll() in (None, 130), process.communicate()
            time.sleep(0.1)

    for stage in STAGES:
        working = run_dir / f"mark-{stage}"
        wait_for(working)
        mark = working.read_text()
        assert marked_processes(mark) != []
        # To the whole group, as a terminal does.
        os.killpg(process.pid, signal.SIGINT)
        wait_for(run_dir / f"interrupted-{stage}")
        assert marked_processes(mark) == []
    output, errors = process.communicate()
    assert process.returncode == 130, errors
    assert output == ""
    assert "Traceback" not in errors
