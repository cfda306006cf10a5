"""What every test runs under: one thread, no telemetry, no files outside temporary directories."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Set before any test imports numpy, torch, ray or mlflow, which read these once at import.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",  # two cores, several processes: more threads only fight each other
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
)

# A shell that runs the tests in the background makes them ignore Ctrl-C, and all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The shipped contract classes are imported, not collected: without this their asserts would not show values.
pytest.register_assert_rewrite(*(f"{package}.testing" for package in ("searchspaces", "hardware", "predictors", "nas")))

# Deadlines would be timed assertions; a failing example prints the line that repeats it.
settings.register_profile("archsmith", deadline=None, print_blob=True)
settings.load_profile("archsmith")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put whole runs first: the longest file would leave the other processes idle if it started last."""
    items.sort(key=lambda item: item.path.name != "test_run.py")


@pytest.fixture(scope="session", autouse=True)
def user_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Points the caches and settings of this user at a temporary directory for the whole session."""
    home = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        patch.setenv("MPLCONFIGDIR", str(home / "matplotlib"))
        # Test processes and searches on this host would wait for each other's measuring; figures do not matter here.
        patch.setenv("ARCHSMITH_LOCK_DIRECTORY", str(home / "locks"))
        yield
