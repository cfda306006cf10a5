"""The way to MLflow: addresses, quiet start, and its errors in our words."""

import http.client
import logging
import os
import socket
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PING_S = 5.0
_BUSY_S = 20.0
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a mirror is kept.

    Attributes:
        uri: MLflow tracking address.
        artifact_location: where artifacts go; None: the server decides.
        embedded: the place is inside the run directory, for this run alone.
    """

    uri: str
    artifact_location: str | None
    embedded: bool

    @property
    def shown_uri(self) -> str:
        """The address without its password."""
        parts = urllib.parse.urlsplit(self.uri)
        return self.uri.replace(f":{parts.password}@", ":***@") if parts.password else self.uri

    @property
    def database_file(self) -> Path | None:
        """The SQLite file, if it is one."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None


def find_place(uri: str | None, *, directory: Path) -> Place:
    """Where to track: `uri`, or if None a SQLite file with artifacts beside it in `directory`.

    A database that is addressed directly has no server that would choose where artifacts go. Left to itself MLflow
    would take the current directory, so they go beside an SQLite file, and into `directory` for other databases.
    """
    directory = directory.resolve()
    if uri is None:
        return Place(
            uri=_sqlite_uri(directory / "mlflow.db"),
            artifact_location=(directory / "artifacts").as_uri(),
            embedded=True,
        )
    if uri.startswith(("http://", "https://")):
        return Place(uri=uri.rstrip("/"), artifact_location=None, embedded=False)
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///")).resolve()
        beside = file.with_name(f"{file.stem}-artifacts")
        return Place(uri=_sqlite_uri(file), artifact_location=beside.as_uri(), embedded=False)
    if uri.startswith(("postgresql", "mysql", "mssql")):
        return Place(uri=uri, artifact_location=(directory / "artifacts").as_uri(), embedded=False)
    raise TrackingError(
        f"tracking.uri: got {uri!r}, expected http://..., sqlite:///..., postgresql://... or null",
        hint="Leave tracking.uri null to track inside the run directory.",
    )


def _sqlite_uri(file: Path) -> str:
    # In a database address these two mean something else, and versions of SQLAlchemy differ on how to quote them.
    if "%" in str(file) or "?" in str(file):
        raise TrackingError(
            f"MLflow cannot keep its database at {file}: the path has a % or ?",
            hint="Choose a run directory without them, or set tracking.uri to another place.",
        )
    return f"sqlite:///{file}"


def connect(place: Place) -> "MlflowClient":
    """Open the place; a new database is created with its tables (some two seconds).

    Raises:
        TrackingError: the place cannot be reached or opened.
    """
    # Before the first import of MLflow, which reads them then. What the user has set stays.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    with explained(place, action="open it"):
        _check_alive(place)
        client = MlflowClient(tracking_uri=place.uri, registry_uri=place.uri)
        # The store is opened on first use: now, so that a damaged or missing one is told as such.
        client.search_experiments(max_results=1)
    return client


@contextmanager
def explained(place: Place, *, action: str) -> Iterator[None]:
    """Turn what MLflow, its database or its server raises into a TrackingError that says what to do.

    Args:
        place: named in the message.
        action: completes "cannot ...".
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, http.client.HTTPException, OSError) as e:
        # OSError covers full disks as well as requests' connection errors and time-outs.
        reason = " ".join(str(e).split())[:500]
        password = urllib.parse.urlsplit(place.uri).password
        reason = reason.replace(password, "***") if password else reason
        raise TrackingError(
            f"MLflow at {place.shown_uri}: cannot {action}: {reason}", hint=_hint(reason.lower(), place=place)
        ) from e


def _check_alive(place: Place) -> None:
    """Fail now if the place is dead: MLflow's own retries would keep a user waiting for minutes."""
    parts = urllib.parse.urlsplit(place.uri)
    if place.database_file is not None:
        place.database_file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(place.database_file, timeout=_BUSY_S)) as database:
            # Reads the header and takes the write lock: damaged, read-only and locked files are found here.
            database.execute("BEGIN IMMEDIATE")
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            database.rollback()
    elif parts.scheme in ("http", "https"):
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        with closing(kind(parts.hostname or "", parts.port, timeout=_PING_S)) as connection:
            connection.request("GET", f"{parts.path}/health")
            connection.getresponse()  # any answer is a sign of life; the first real call tells what is wrong
    elif parts.hostname:
        port = parts.port or next(port for name, port in _DATABASE_PORTS.items() if parts.scheme.startswith(name))
        socket.create_connection((parts.hostname, port), timeout=_PING_S).close()


def _hint(reason: str, *, place: Place) -> str:
    again = "The run directory has everything: `nas sync RUN` fills MLflow later."
    if "not a database" in reason or "malformed" in reason:
        return f"Delete {place.database_file} and run `nas sync RUN`: MLflow's file is only a view of the run."
    if "out-of-date database schema" in reason or "can't locate revision" in reason:
        return (
            f"Another MLflow version wrote this database: `mlflow db upgrade {place.shown_uri}`, or delete it. {again}"
        )
    if "locked" in reason:
        return f"Another process is writing there; try again in a moment. {again}"
    if "unable to open" in reason or "readonly" in reason or "permission" in reason:
        return f"Check that you may write there, or set tracking.uri. {again}"
    if place.uri.startswith("http"):
        return f"Check that the server runs and the address is right, or set tracking.uri=null. {again}"
    return again
