"""Files from the network: known checksum or nothing, several mirrors, a time limit, and never half a file."""

import hashlib
import http.client
import logging
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.errors import DataError
from hardware.clock import Clock, SystemClock
from hardware.files import write_bytes

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 16

Progress = Callable[[str, int, int], None]
"""Called with (file name, bytes so far, bytes in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file whose content is known before it is fetched.

    Attributes:
        name: file name, here and on every mirror.
        size_bytes: its exact size.
        sha256: its checksum, 64 hex digits.
    """

    name: str
    size_bytes: int
    sha256: str


def download(
    file: RemoteFile,
    *,
    mirrors: Sequence[str],
    directory: Path,
    timeout_s: float = 15.0,
    limit_s: float = 600.0,
    on_progress: Progress | None = None,
    clock: Clock | None = None,
) -> Path:
    """Fetch a file from the first mirror that has exactly this content.

    Args:
        file: what to fetch.
        mirrors: addresses (http or https) that end with a slash; tried in order.
        directory: where it goes; created if it is missing. The final name appears only when the content is right.
        timeout_s: longest silence of a mirror.
        limit_s: longest time for one mirror, so that one that trickles does not hold us for ever.
        on_progress: told about every chunk.
        clock: time source of `limit_s`.

    Returns:
        The path of the file.

    Raises:
        DataError: no mirror gave the file; what each one did is in the message.
        StorageError: it cannot be written.
    """
    clock = clock or SystemClock()
    failures: list[str] = []
    for mirror in mirrors:
        url = urllib.parse.urljoin(mirror, file.name)
        try:
            data = _fetch(url, file=file, timeout_s=timeout_s, limit_s=limit_s, on_progress=on_progress, clock=clock)
        except (OSError, http.client.HTTPException, ValueError) as e:
            # URLError, time-outs and resets are OSErrors; ValueError is our own refusal of what came.
            failures.append(f"{url}: {e}")
            _log.info("mirror failed", extra={"url": url, "error": str(e)})
            continue
        path = directory / file.name
        write_bytes(path, data)
        return path
    raise DataError(
        f"cannot download {file.name}:\n" + "\n".join(f"  {failure}" for failure in failures),
        hint="Check the network (proxies are taken from HTTPS_PROXY), or fetch the file by other means.",
    )


def _fetch(
    url: str, *, file: RemoteFile, timeout_s: float, limit_s: float, on_progress: Progress | None, clock: Clock
) -> bytes:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("only http and https are fetched")
    started_s = clock.monotonic_s()
    data = bytearray()
    with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310 - the scheme was checked above
        while chunk := response.read1(_CHUNK_BYTES):
            data += chunk
            if len(data) > file.size_bytes:
                raise ValueError(f"more than the expected {file.size_bytes:,} bytes")
            if clock.monotonic_s() - started_s > limit_s:
                raise ValueError(f"not finished after {limit_s:g} s ({len(data):,} of {file.size_bytes:,} bytes)")
            if on_progress is not None:
                on_progress(file.name, len(data), file.size_bytes)
    if len(data) != file.size_bytes:
        raise ValueError(f"{len(data):,} bytes, expected {file.size_bytes:,}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256:
        raise ValueError(f"SHA-256 {digest}, expected {file.sha256}")
    return bytes(data)
