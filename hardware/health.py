"""Devices that fail: tried again a few times, then left alone until somebody checked them.

What is known of a device lies in `$ARCHSMITH_HOME/health/<id>.json` (`~/.archsmith` by default), so that a later search
and other processes of this user know it too.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from hardware.clock import Clock, SystemClock
from hardware.device import DeviceSpec
from hardware.errors import DeviceError, HangingError, QuarantinedError, StorageError, UnreachableError, UntrustedError
from hardware.files import read_json, write_json
from hardware.onsite import DeviceHost, MeasureJob, OnProgress, OnsiteResult
from hardware.selftest import CheckItem

_LOG = logging.getLogger(__name__)

HOME_VARIABLE = "ARCHSMITH_HOME"
HEALTH_SCHEMA = 1


class CheckableHost(DeviceHost, Protocol):
    """A host that can be asked how it is."""

    def check(self, spec: DeviceSpec) -> tuple[CheckItem, ...]:
        """Reach the host and let it check itself; see `hardware.selftest`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How much patience a device gets.

    Attributes:
        attempts: how often a call is tried in all, if the device cannot be reached.
        first_pause_s: before the second attempt.
        growth: each further pause is so many times longer,
        longest_pause_s: up to this.
        max_failures: calls that fail in a row before the device goes into quarantine.
    """

    attempts: int = 3
    first_pause_s: float = 1.0
    growth: float = 4.0
    longest_pause_s: float = 30.0
    max_failures: int = 3

    def pause_s(self, attempt: int) -> float:
        """Seconds to wait after the attempt with this number, counted from 1."""
        return min(self.longest_pause_s, self.first_pause_s * self.growth ** (attempt - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is known of one device.

    Attributes:
        failures: calls that failed in a row.
        quarantined: whether it is left alone.
        reason: of the last failure.
        since_utc: ISO time of the last failure.
    """

    failures: int = 0
    quarantined: bool = False
    reason: str = ""
    since_utc: str = ""


def state_directory() -> Path:
    """Where this user's state lies: $ARCHSMITH_HOME, else ~/.archsmith."""
    named = os.environ.get(HOME_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".archsmith"


class HealthBook:
    """The health of devices, on disk."""

    def __init__(self, directory: Path | None = None, *, clock: Clock | None = None) -> None:
        """Describe the book; nothing is made yet.

        Args:
            directory: where the files lie; "health" in `state_directory()` if None.
            clock: for time stamps; the system's if None.
        """
        self._directory = state_directory() / "health" if directory is None else directory
        self._clock: Clock = SystemClock() if clock is None else clock

    def health(self, device_id: str) -> Health:
        """Return what is known of a device.

        Raises:
            StorageError: its file is damaged or unreadable.
        """
        path = self._path(device_id)
        if not path.is_file():
            return Health()
        value = read_json(path)
        fields = {name: type(default) for name, default in asdict(Health()).items()}
        if (
            not isinstance(value, dict)
            or value.get("schema") != HEALTH_SCHEMA
            or any(type(value.get(name)) is not kind for name, kind in fields.items())
        ):
            raise StorageError(
                f"{path} is damaged, or of another version: it does not say how {device_id!r} is",
                hint=f"check the device, which writes it anew: nas devices check {device_id}",
            )
        return Health(**{name: value[name] for name in fields})

    def require_admitted(self, device_id: str) -> None:
        """Refuse a device in quarantine.

        Raises:
            QuarantinedError: it is; the message says since when and why.
            StorageError: its file is damaged or unreadable.
        """
        health = self.health(device_id)
        if health.quarantined:
            raise QuarantinedError(
                f"device {device_id!r} is in quarantine since {health.since_utc}, after {health.failures} failed "
                f"calls; the last: {health.reason}",
                hint=f"repair it, then re-admit it: nas devices check {device_id}",
            )

    def record_failure(self, device_id: str, *, error: Exception, max_failures: int) -> Health:
        """Count a failed call, and return what is known now.

        Quarantine comes after `max_failures` in a row, or at once if the device cannot be trusted.

        Raises:
            StorageError: it cannot be written.
        """
        with self._locked():
            failures = self.health(device_id).failures + 1
            health = Health(
                failures=failures,
                quarantined=failures >= max_failures or isinstance(error, UntrustedError),
                reason=str(error),
                since_utc=self._clock.now_utc().isoformat(timespec="seconds"),
            )
            write_json(self._path(device_id), {"schema": HEALTH_SCHEMA, **asdict(health)})
        return health

    def record_success(self, device_id: str) -> None:
        """Forget failures, after a call that worked. A quarantine stays.

        Raises:
            StorageError: it cannot be written.
        """
        # The usual case, at the cost of one look.
        if not self._path(device_id).is_file():
            return
        with self._locked():
            health = self.health(device_id)
            if health.failures and not health.quarantined:
                write_json(self._path(device_id), {"schema": HEALTH_SCHEMA, **asdict(replace(health, failures=0))})

    def admit(self, device_id: str) -> None:
        """Forget everything about a device: what a check that went well does.

        Raises:
            StorageError: it cannot be written.
        """
        if self._path(device_id).is_file():
            with self._locked():
                write_json(self._path(device_id), {"schema": HEALTH_SCHEMA, **asdict(Health())})

    def _path(self, device_id: str) -> Path:
        return self._directory / f"{device_id}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from counting at the same time."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise StorageError(
                f"cannot write {self._directory}: {e.strerror}", hint=f"set ${HOME_VARIABLE} to a directory of yours"
            ) from e
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class GuardedHost:
    """A `DeviceHost` with patience: unreachable devices are tried again, failing ones go into quarantine.

    Refusals (a network that does not load, a unit in use) say nothing about the device: they are neither tried again
    nor counted.
    """

    def __init__(
        self,
        host: CheckableHost,
        *,
        device_id: str,
        book: HealthBook | None = None,
        policy: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Guard a host.

        Args:
            host: what is guarded.
            device_id: its device.
            book: where its health is kept; this user's if None.
            policy: how much patience it gets; see `RetryPolicy` for what it is if None.
            clock: for pauses; the system's if None.
        """
        self._host, self._device_id = host, device_id
        self._book = HealthBook(clock=clock) if book is None else book
        self._policy = RetryPolicy() if policy is None else policy
        self._clock: Clock = SystemClock() if clock is None else clock

    def measure(self, job: MeasureJob, *, on_progress: OnProgress | None = None) -> OnsiteResult:
        """Measure, see `DeviceHost.measure`; progress starts again with every attempt.

        Raises:
            QuarantinedError: the device is.
            DeviceError: as the guarded host; `UnreachableError` after the last attempt.
            MeasurementError, StorageError: as the guarded host; also if the device's health cannot be read.
        """
        self._book.require_admitted(self._device_id)
        attempt = 1
        while True:
            try:
                found = self._host.measure(job, on_progress=on_progress)
            except UnreachableError as e:
                if attempt >= self._policy.attempts:
                    self._record(e)
                    raise
                pause_s = self._policy.pause_s(attempt)
                _LOG.warning("attempt %d of %d in %g s: %s", attempt + 1, self._policy.attempts, pause_s, e)
                self._clock.sleep(pause_s)
                attempt += 1
            except (HangingError, UntrustedError) as e:
                self._record(e)
                raise
            else:
                self._book.record_success(self._device_id)
                return found

    def check(self, spec: DeviceSpec) -> tuple[CheckItem, ...]:
        """Check the device, in quarantine or not; if all is well, it is admitted again.

        Raises:
            UnreachableError, HangingError, UntrustedError: as the guarded host. Nothing is tried again.
            StorageError: the device's health cannot be written.
        """
        items = self._host.check(spec)
        if all(item.ok for item in items):
            self._book.admit(self._device_id)
        return items

    def _record(self, error: DeviceError) -> None:
        try:
            health = self._book.record_failure(self._device_id, error=error, max_failures=self._policy.max_failures)
        # The failure itself is what the caller has to know.
        except StorageError:
            _LOG.exception("the failure of device %s could not be recorded", self._device_id)
            return
        if health.quarantined:
            _LOG.warning("device %s goes into quarantine: %s", self._device_id, error)
