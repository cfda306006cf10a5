"""What Ray processes find in their environment: threads, the token, the paths of our packages."""

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from experiments.errors import ClusterError

PACKAGES = ("searchspaces", "hardware", "predictors", "nas", "experiments")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def thread_environment(threads: int) -> dict[str, str]:
    """Environment of a worker that may use `threads` cores.

    Two workers that each take all cores make each other ten times slower, and the libraries read these variables only
    when they are loaded.
    """
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def package_directories() -> list[str]:
    """The directories of our packages on this machine, for workers on machines that may not have them."""
    root = Path(__file__).resolve().parents[2]
    return [str(root / name) for name in PACKAGES]


@contextmanager
def temporary_environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables (None: unset) for what is started inside, then put the former ones back."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def ensure_token() -> None:
    """Give this user a token for Ray's authentication if there is none.

    Ray listens on every network interface, and whoever may submit to it may run anything; an instance that it starts
    itself asks for a token unless the user switched that off. Ray would make the token, too, but this way it is written
    in one piece, so that two first starts at the same time agree on one, and only its owner can read it. A user who
    chose a mode, a token or a file is left alone.

    Raises:
        ClusterError: the token cannot be written.
    """
    # The mode itself is left to Ray, which reads it when it is imported: set later, half of Ray would not know.
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode.lower() != "token" or any(os.environ.get(name) for name in _TOKEN_VARIABLES):
        return
    try:
        path = Path.home() / ".ray" / "auth_token"
        if path.exists():
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix="auth_token.", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
            try:
                os.link(file.name, path)
            # Another process was quicker: its token is as good.
            except FileExistsError:
                return
    except (OSError, RuntimeError) as e:
        raise ClusterError(
            f"Ray's authentication token cannot be written: {e}",
            hint="set RAY_AUTH_TOKEN_PATH to a file of yours that holds 64 random hex digits",
        ) from e
