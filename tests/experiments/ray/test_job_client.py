"""Opening a cluster's Jobs API, against a small server that answers as a dashboard does, or does not."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import ray

from experiments.errors import ClusterError, JobError
from experiments.ray.job_client import open_client

TOKEN = "5ecre7" * 8
VERSION = json.dumps({"version": "4", "ray_version": ray.__version__})


class Dashboard(BaseHTTPRequestHandler):
    answer = VERSION
    asked_with: list[str | None]

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        self.asked_with.append(given)
        code = 200 if given == f"Bearer {TOKEN}" else 401 if given is None else 403
        self.send_response(code)
        self.end_headers()
        self.wfile.write(self.answer.encode() if code == 200 else b"refused")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(answer: str = VERSION) -> Iterator[tuple[str, list[str | None]]]:
    """A dashboard's address, and the tokens that it was asked with."""
    asked: list[str | None] = []
    handler = type("Handler", (Dashboard,), {"answer": answer, "asked_with": asked})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n", encoding="ascii")
    return path


def test_the_token_comes_from_the_option_then_from_rays_own_places(
    token_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served() as (address, asked):
        # Ray would take either variable for the address.
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
        open_client(f"{address}/", token_file=token_file)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token_file))
        open_client(address)
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
        open_client(address)
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
        (tmp_path / ".ray").mkdir()
        token_file.rename(tmp_path / ".ray" / "auth_token")
        open_client(address)
        assert set(asked) == {f"Bearer {TOKEN}"}


def test_a_missing_and_a_wrong_token_are_told_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.write_text("beef" * 16, encoding="ascii")
    with served() as (address, _):
        with pytest.raises(ClusterError, match="asks for a token, and none was given") as caught:
            open_client(address)
        assert "--token-file" in caught.value.hint
        with pytest.raises(ClusterError, match="does not accept this token") as caught:
            open_client(address, token_file=other)
        assert "beef" not in str(caught.value) + caught.value.hint
        monkeypatch.setenv("RAY_AUTH_TOKEN", "beef")
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(ClusterError, match="none was given"):
            open_client(address)


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"two\nlines\n", b"\xff\xfe"])
def test_what_is_no_token_is_refused_without_being_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(JobError, match="token") as caught:
        open_client("http://127.0.0.1:1", token_file=path)
    assert "two" not in str(caught.value)


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="absent cannot be read: No such file"):
        open_client("http://127.0.0.1:1", token_file=tmp_path / "absent")


@pytest.mark.parametrize(
    "address", ["head", "head:8265", "127.0.0.1:6379", "ray://head:10001", "http://", "http://head:x", "http://h/jobs"]
)
def test_what_is_no_address_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(JobError, match="is not the address of a cluster's Jobs API") as caught:
        open_client(address)
    assert "http://HOST:8265" in caught.value.hint


def test_where_nobody_listens_is_told() -> None:
    with pytest.raises(ClusterError, match="cannot be reached: Connection refused"):
        open_client("http://127.0.0.1:1")


@pytest.mark.parametrize("answer", ["<html>", "[]", "{}"])
def test_what_is_no_dashboard_is_told(token_file: Path, answer: str) -> None:
    with served(answer) as (address, _), pytest.raises(ClusterError, match="what answers there is no Ray dashboard"):
        open_client(address, token_file=token_file)


def test_another_release_of_ray_is_refused_with_both(token_file: Path) -> None:
    with served(json.dumps({"ray_version": "2.1.0"})) as (address, _):
        with pytest.raises(ClusterError, match=f"has Ray 2.1.0, this machine has Ray {ray.__version__}") as caught:
            open_client(address, token_file=token_file)
        assert "==2.1.0" in caught.value.hint
