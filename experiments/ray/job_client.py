"""Opening a cluster's Jobs API: its address, the token, the release of its Ray."""

import json
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import ray
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from experiments.errors import ClusterError, JobError
from experiments.ray.environment import temporary_environment
from experiments.ray.failures import last_line
from searchspaces.errors import Hinted

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"

_TOKEN_HINT = "give --token-file FILE, or set RAY_AUTH_TOKEN_PATH to the file that the cluster was started with"  # noqa: S105
_ANSWER_SECONDS = 10.0
_UNAUTHORIZED, _FORBIDDEN = 401, 403
# They tell of every package that is uploaded: importing them sets their levels.
_CHATTERERS = ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")


class JobClient(Protocol):
    """What of Ray's job client is used; see `ray.job_submission.JobSubmissionClient`."""

    def submit_job(
        self,
        *,
        entrypoint: str,
        submission_id: str,
        runtime_env: dict[str, object] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> str:
        """Start a job; return its id."""

    def list_jobs(self) -> list[JobDetails]:
        """All jobs that the cluster remembers."""

    def get_job_status(self, job_id: str) -> JobStatus:
        """How a job is."""

    def get_job_logs(self, job_id: str) -> str:
        """What a job has printed."""

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """What a job prints, until it ends."""

    def stop_job(self, job_id: str) -> bool:
        """Ask a job to end."""

    def delete_job(self, job_id: str) -> bool:
        """Forget a job that has ended."""


def open_client(address: str, *, token_file: Path | None = None) -> JobSubmissionClient:
    """Return Ray's own client of a cluster that answers, takes the token, and has the Ray of this machine.

    Args:
        address: "http://HOST:8265", the dashboard of the cluster's head.
        token_file: holds the cluster's token; None for Ray's own variables and place: RAY_AUTH_TOKEN,
            RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    Raises:
        JobError: no such address is possible, or the token cannot be read.
        ClusterError: nothing answers, the token is missing or wrong, or the cluster has another release of Ray.
    """
    address = _checked(address)
    token = _read_token(token_file)
    found = _ask_version(address, token=token)
    if _release(found) != _release(ray.__version__):
        raise ClusterError(
            f"the cluster at {address} has Ray {found}, this machine has Ray {ray.__version__}",
            hint=f"install the cluster's release here: pip install 'ray[default,train,tune]=={found}'",
        )
    # Either variable would be used instead of the address.
    with explained(address), temporary_environment({ADDRESS_VARIABLE: None, "RAY_ADDRESS": None}):
        client = JobSubmissionClient(address, headers=_headers(token))
    for name in _CHATTERERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    return client


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turn what Ray's client raises inside into errors of ours.

    Raises:
        ClusterError: whatever it was.
    """
    try:
        yield
    except Hinted:
        raise
    except AuthenticationError as e:
        raise _locked(address) from e
    # Among them all errors of the HTTP library.
    except OSError as e:
        raise _unreachable(address, reason=last_line(str(e))) from e
    # Ray raises RuntimeError with the server's answer for all else.
    except Exception as e:
        raise ClusterError(
            f"the cluster at {address} did not do it: {last_line(str(e))}",
            hint="run the same command again; the head's log has more (dashboard.log)",
        ) from e


def _checked(address: str) -> str:
    try:
        parts = urlsplit(address)
        is_possible = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_possible = False
    if not is_possible or parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise JobError(
            f"{address!r} is not the address of a cluster's Jobs API",
            hint="give http://HOST:8265, the dashboard of the cluster's head (host:6379 is for `nas run --address`)",
        )
    return address.rstrip("/")


def _read_token(token_file: Path | None) -> str | None:
    if token_file is None:
        if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
            return None
        if token := os.environ.get("RAY_AUTH_TOKEN"):
            return _checked_token(token, source="RAY_AUTH_TOKEN")
        if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
            token_file = Path(named)
        else:
            token_file = Path.home() / ".ray" / "auth_token"
            if not token_file.exists():
                return None
    try:
        token = token_file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is no text"
        raise JobError(f"the token file {token_file} cannot be read: {reason}", hint=_TOKEN_HINT) from e
    return _checked_token(token, source=str(token_file))


def _checked_token(text: str, *, source: str) -> str:
    token = text.strip()
    # Anything else would be refused deep inside an HTTP library, with the token in the message.
    if not re.fullmatch(r"[!-~]+", token):
        raise JobError(f"{source} holds no token, expected one word of ASCII characters", hint=_TOKEN_HINT)
    return token


def _headers(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _ask_version(address: str, *, token: str | None) -> str:
    """The cluster's version of Ray. Ray's own client waits for ever where nobody answers; this does not."""
    request = urllib.request.Request(f"{address}/api/version")  # noqa: S310  # checked to be http(s)
    for name, value in _headers(token).items():
        # Not for whoever we might be redirected to.
        request.add_unredirected_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310
            document = json.loads(answer.read())
        return str(document["ray_version"])
    except urllib.error.HTTPError as e:
        if e.code in (_UNAUTHORIZED, _FORBIDDEN):
            raise _locked(address, is_wrong=e.code == _FORBIDDEN) from e
        raise _unreachable(address, reason=f"it answers with status {e.code}, as no Ray dashboard does") from e
    except (ValueError, KeyError, TypeError) as e:
        raise _unreachable(address, reason="what answers there is no Ray dashboard") from e
    except OSError as e:
        cause = e.reason if isinstance(e, urllib.error.URLError) else e
        reason = cause.strerror if isinstance(cause, OSError) else None
        raise _unreachable(address, reason=reason or str(cause)) from e


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


def _locked(address: str, *, is_wrong: bool = True) -> ClusterError:
    said = "does not accept this token" if is_wrong else "asks for a token, and none was given"
    return ClusterError(f"the cluster at {address} {said}", hint=_TOKEN_HINT)


def _unreachable(address: str, *, reason: str) -> ClusterError:
    return ClusterError(
        f"the cluster at {address} cannot be reached: {reason}",
        hint="check the address: the dashboard of a running head (ray start --head), usually port 8265",
    )
