"""A trained run of the quickstart's space on digits, for benchmarks that judge real subnets."""

from pathlib import Path

import pytest

from experiments.benchmarks.device_backends import train_a_little

QUICKSTART = Path(__file__).parents[3] / "experiments" / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its directory; the supernet has seen every training image some times."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    train_a_little(QUICKSTART, run_dir, quick=False)
    return run_dir
