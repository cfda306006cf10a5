"""Durable files: a file is either the old one or the new one, never half of one; a manifest lands last."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from hardware.errors import StorageError

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA = 1
TEMPORARY_PREFIX = ".tmp-"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """Size and checksum of one file that a manifest covers."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a finished directory holds.

    Attributes:
        files: entry by path relative to the directory (forward slashes).
        details: whatever the writer wanted to be kept with the files; JSON values.
    """

    files: Mapping[str, FileEntry]
    details: Mapping[str, JSON]


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the directory of `path`; when the block ends well it becomes `path`, durably.

    For writers that want a file name (exporters, safetensors). The parent directory is created. If the block
    raises, the temporary file is removed and `path` stays as it was.

    Raises:
        StorageError: an OSError in the block or in the final steps (full disk, no permission, ...).
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{path.name}")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            temporary.replace(path)
        finally:
            # Gone already if all went well; if removing fails too, the first error is the one to report.
            with suppress(OSError):
                temporary.unlink()
        _sync(path.parent)
    except OSError as e:
        raise _storage_error("write", path, error=e) from e


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by a file that holds `data`, durably (see `staged_file`).

    Raises:
        StorageError: the file cannot be written; the old one, if any, is untouched.
    """
    with staged_file(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a file that holds `text` as UTF-8, durably.

    Raises:
        StorageError: as `write_bytes`.
    """
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: JSON) -> None:
    """Replace `path` by a file that holds `value` as indented JSON, durably.

    Raises:
        StorageError: as `write_bytes`, or `value` is no JSON: NaN and infinity are not, a missing number is null.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except (TypeError, ValueError) as e:
        raise StorageError(
            f"cannot write {path}: the value is not JSON ({e})",
            hint="store None where a number is missing, and plain lists, dicts, strings and numbers elsewhere",
        ) from e
    write_text(path, text + "\n")


def read_json(path: Path) -> JSON:
    """Return the JSON value in `path`.

    Raises:
        StorageError: the file is missing, unreadable or no JSON.
    """
    try:
        value: JSON = json.loads(path.read_bytes())
    except OSError as e:
        raise _storage_error("read", path, error=e) from e
    except ValueError as e:
        raise StorageError(
            f"{path} is damaged: no valid JSON ({e})", hint="delete it, or restore it from a copy, and run again"
        ) from e
    return value


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of the file's content as 64 hex digits.

    Raises:
        StorageError: the file is missing or unreadable.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as e:
        raise _storage_error("read", path, error=e) from e


def write_manifest(directory: Path, *, files: Sequence[str], details: Mapping[str, JSON]) -> None:
    """Declare `directory` finished: sizes and checksums of `files`, and `details`, as manifest.json. Call it last.

    The named files are flushed to disk first, whoever wrote them, so that a manifest never outlives its files.

    Args:
        directory: where the files lie.
        files: paths relative to `directory`, forward slashes; sub-directories are allowed.
        details: kept with the files; JSON values without NaN.

    Raises:
        StorageError: a file is missing or outside the directory, or the manifest cannot be written.
    """
    entries: dict[str, JSON] = {}
    for name in sorted(set(files)):
        path = _inside(directory, name=name)
        try:
            _sync(path)
            _sync(path.parent)
            size_bytes = path.stat().st_size
        except OSError as e:
            raise _storage_error("put into the manifest", path, error=e) from e
        entries[name] = {"size_bytes": size_bytes, "sha256": sha256_file(path)}
    body: dict[str, JSON] = {"schema": MANIFEST_SCHEMA, "files": entries, "details": dict(details)}
    try:
        digest = _digest(body)
    except (TypeError, ValueError) as e:
        raise StorageError(
            f"cannot write {directory / MANIFEST_NAME}: the details are not JSON ({e})",
            hint="store None where a number is missing, and plain lists, dicts, strings and numbers elsewhere",
        ) from e
    write_json(directory / MANIFEST_NAME, {**body, "digest": digest})


def read_manifest(directory: Path, *, verify: bool = True) -> Manifest:
    """Return the manifest of a finished directory after a check of its files.

    Args:
        directory: where manifest.json and the files lie.
        verify: compare checksums; False compares existence and size only (for large files read soon after).

    Raises:
        StorageError: the manifest or a file is missing or damaged; the message names it.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise StorageError(
            f"{path} is missing: {directory} was never finished",
            hint=f"delete {directory} and run the stage that writes it again",
        )
    manifest = _parse_manifest(read_json(path), path=path)
    for name, entry in manifest.files.items():
        _check_entry(_inside(directory, name=name), entry=entry, verify=verify)
    return manifest


def has_manifest(directory: Path) -> bool:
    """Tell whether `directory` was finished (its files are not checked)."""
    return (directory / MANIFEST_NAME).is_file()


def _check_entry(path: Path, *, entry: FileEntry, verify: bool) -> None:
    again = f"delete {path.parent} and run the stage that writes it again"
    try:
        size_bytes = path.stat().st_size
    except FileNotFoundError as e:
        raise StorageError(f"{path} is missing, though the manifest names it", hint=again) from e
    except OSError as e:
        raise _storage_error("read", path, error=e) from e
    if size_bytes != entry.size_bytes:
        raise StorageError(f"{path} is damaged: {size_bytes} bytes, the manifest says {entry.size_bytes}", hint=again)
    if verify and sha256_file(path) != entry.sha256:
        raise StorageError(f"{path} is damaged: its SHA-256 is not the one in the manifest", hint=again)


def _parse_manifest(value: JSON, *, path: Path) -> Manifest:
    damaged = StorageError(
        f"{path} is damaged: it does not have the content it was written with",
        hint=f"delete {path.parent} and run the stage that writes it again",
    )
    if not isinstance(value, dict):
        raise damaged
    schema, files, details = value.get("schema"), value.get("files"), value.get("details")
    if isinstance(schema, int) and schema > MANIFEST_SCHEMA:
        raise StorageError(
            f"{path} has schema {schema}, this version of archsmith reads {MANIFEST_SCHEMA}",
            hint="update archsmith: pip install --upgrade archsmith",
        )
    body = {name: content for name, content in value.items() if name != "digest"}
    if not isinstance(files, dict) or not isinstance(details, dict) or value.get("digest") != _digest(body):
        raise damaged
    # The digest proves that we wrote it, so the entries have the shape that we gave them.
    entries = {str(name): FileEntry(**entry) for name, entry in files.items() if isinstance(entry, dict)}
    return Manifest(files=entries, details=details)


def _digest(body: Mapping[str, JSON]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _inside(directory: Path, *, name: str) -> Path:
    relative = PurePosixPath(name)
    if not name or relative.is_absolute() or ".." in relative.parts or str(relative) == MANIFEST_NAME:
        raise StorageError(
            f"a manifest cannot cover {name!r}: only files below {directory} other than {MANIFEST_NAME}",
            hint="pass paths relative to the directory",
        )
    return directory / relative


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as e:
        # Some network file systems cannot flush a directory; their rename is as durable as they make it.
        if e.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _storage_error(action: str, path: Path, *, error: OSError) -> StorageError:
    hints = {
        errno.ENOSPC: "free some disk space, or choose a directory on another disk, and run again",
        errno.EDQUOT: "free some of your disk quota, or choose a directory on another disk, and run again",
        errno.EACCES: f"check the permissions of {path.parent}",
        errno.EPERM: f"check the permissions of {path.parent}",
        errno.EROFS: "choose a directory on a disk that is not mounted read-only",
        errno.ENOENT: f"check that {path} exists",
    }
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StorageError(
        f"cannot {action} {path}: {reason}", hint=hints.get(error.errno or 0, f"check {path.parent} and its disk")
    )
