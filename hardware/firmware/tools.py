"""Compilers and emulators as child processes: with a time limit, and with their own words in the error."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hardware.errors import MeasurementError

_MOST_WORDS = 2000


def run_tool(command: Sequence[str], *, purpose: str, timeout_s: float, hint: str) -> str:
    """Run a program to its end and return what it printed on standard output.

    Args:
        command: program and arguments; no shell.
        purpose: what it does, for the error: "compile the network for Cortex-M4".
        timeout_s: seconds after which it is killed.
        hint: what the user can do if it fails.

    Raises:
        MeasurementError: it is not installed, fails, or takes too long; the last 2,000 characters of its standard
            error are in the text.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            # The compilers' messages are quoted: in one language, on every machine.
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as e:
        raise MeasurementError(f"cannot {purpose}: {command[0]} is not installed", hint=hint) from e
    except subprocess.TimeoutExpired as e:
        raise MeasurementError(f"cannot {purpose}: {command[0]} was not done after {timeout_s:g} s", hint=hint) from e
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip()[-_MOST_WORDS:]
        raise MeasurementError(f"cannot {purpose}: {command[0]} ended with {done.returncode}: {words}", hint=hint)
    return done.stdout


def missing_tools(programs: Sequence[str]) -> list[str]:
    """The programs that are not on PATH."""
    return [program for program in programs if shutil.which(program) is None]


def tool_version(program: str) -> str:
    """The first line of `program --version`, or "unknown"."""
    if shutil.which(program) is None:
        return "unknown"
    hint = f"check that {program} --version works"
    lines = run_tool([program, "--version"], purpose=f"ask {program} for its version", timeout_s=20, hint=hint)
    return next(iter(lines.splitlines()), "unknown").strip()


def firmware_file(name: str) -> Path:
    """Path of a C or linker file of this package."""
    return Path(__file__).with_name(name)
