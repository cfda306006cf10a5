"""What Ray processes find in their environment, and the guard that looks for it."""

import os
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from experiments.errors import ClusterError
from experiments.ray.environment import PACKAGES, ensure_token, package_directories, temporary_environment
from experiments.ray.guard import MARK, marked_processes, sweep


def test_the_environment_is_put_back_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHSMITH_A", "before")
    monkeypatch.setenv("ARCHSMITH_B", "before")
    monkeypatch.delenv("ARCHSMITH_C", raising=False)
    inside = []

    def fail() -> None:
        with temporary_environment({"ARCHSMITH_A": "now", "ARCHSMITH_B": None, "ARCHSMITH_C": "now"}):
            inside.extend([os.environ.get(f"ARCHSMITH_{name}") for name in "ABC"])
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert inside == ["now", None, "now"]
    assert [os.environ.get(f"ARCHSMITH_{name}") for name in "ABC"] == ["before", "before", None]


def test_all_our_packages_are_sent_to_workers() -> None:
    assert [Path(path).name for path in package_directories()] == list(PACKAGES)
    assert all((Path(path) / "__init__.py").is_file() for path in package_directories())


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_token")
def test_a_new_token_is_long_and_readable_by_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ensure_token()
    path = tmp_path / ".ray" / "auth_token"
    token = path.read_text()
    assert len(bytes.fromhex(token)) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["auth_token"]
    ensure_token()
    assert path.read_text() == token


@pytest.mark.usefixtures("no_token")
@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "ab" * 32), ("RAY_AUTH_TOKEN_PATH", "/token")]
)
def test_what_the_user_chose_about_tokens_is_left_alone(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, value)
    ensure_token()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_token")
def test_a_home_that_takes_no_token_is_an_error_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(ClusterError, match="token cannot be written") as caught:
        ensure_token()
    assert "RAY_AUTH_TOKEN_PATH" in caught.value.hint


@pytest.mark.faults
def test_the_guard_kills_what_is_marked_and_nothing_else(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    directory = tmp_path / "instance"
    directory.mkdir()
    (directory / "socket").touch()
    sleep = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]
    processes = [
        subprocess.Popen(sleep, env={**os.environ, MARK: value}, stdout=subprocess.PIPE)
        for value in (mark, mark, mark[:-1], "other")
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        assert sorted(marked_processes(mark)) == sorted(process.pid for process in processes[:2])
        sweep(mark, directory=directory)
        assert [process.wait() for process in processes[:2]] == [-9, -9]
        assert [process.poll() for process in processes[2:]] == [None, None]
        assert not directory.exists()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_without_a_process_file_system_nothing_is_found(tmp_path: Path) -> None:
    assert marked_processes("mark", proc=tmp_path / "proc") == []
