"""The command line as a user calls it, in a process of its own or without one."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments import cli

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "experiments" / "recipes" / "quickstart.yaml"


@dataclass(frozen=True)
class Result:
    """The end of one command."""

    code: int
    out: str
    err: str


def nas_process(*args: str | Path, cwd: Path = ROOT) -> "subprocess.Popen[str]":
    """Start `nas` as a user's shell does, in its own process."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.cli", *map(str, args)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def run_nas(*args: str | Path, cwd: Path = ROOT, timeout: float = 800) -> Result:
    """Run `nas` to its end, in its own process."""
    process = nas_process(*args, cwd=cwd)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Result(code=process.returncode, out=out, err=err)


@pytest.fixture(name="nas")
def nas_in_process(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "InProcess":
    """`nas` in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return InProcess(capfd, monkeypatch)


class InProcess:
    """Calls the command line without a new process."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capfd, self._monkeypatch = capfd, monkeypatch

    def __call__(self, *args: str | Path) -> Result:
        self._monkeypatch.setattr(sys, "argv", ["nas", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = self._capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        assert "Traceback" not in captured.err
        return Result(code=code, out=captured.out, err=" ".join(captured.err.split()))
