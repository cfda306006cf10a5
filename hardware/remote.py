"""Devices that are reached by SSH: the system's own client, and an agent at its other end."""

import base64
import dataclasses
import logging
import shlex
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardware.artifacts.artifact import Artifact
from hardware.backends.backend import DeviceBackend
from hardware.channel import AgentChannel, ExplainEnd
from hardware.clock import Clock, SystemClock
from hardware.device import DeviceSpec
from hardware.errors import DeviceError, HangingError, StorageError, UnreachableError, UntrustedError
from hardware.fleet import DeviceEntry, SshPlace, Timeouts
from hardware.onsite import MeasureJob, OnProgress, OnsiteResult
from hardware.plausible import require_plausible
from hardware.selftest import CheckItem
from hardware.wire import CHUNK_BYTES, job_to_json, result_from_json, spec_to_json

_LOG = logging.getLogger(__name__)

# The agent ends itself somewhat later than its caller gives it up, for the case that nobody is there to end it.
_AGENT_PATIENCE = 1.1
# A dead network is noticed after the product of these two.
_ALIVE_INTERVAL_S = 5
_ALIVE_COUNT = 3
_SSH_FAILED = 255


class AgentHost:
    """A `DeviceHost` at the other end of any command that starts an agent; one connection a call."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        place: str,
        backend: DeviceBackend,
        timeouts: Timeouts,
        explain: ExplainEnd | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Describe the host; nothing is started yet.

        Args:
            command: an argument list that ends in an agent.
            place: how messages call the device.
            backend: of the device.
            timeouts: how long it may take.
            explain: see `AgentChannel`.
            clock: for time-outs; the system's if None.
        """
        self._command, self._place, self._backend, self._timeouts = tuple(command), place, backend, timeouts
        self._explain = explain
        self._clock: Clock = SystemClock() if clock is None else clock

    def measure(self, job: MeasureJob, *, on_progress: OnProgress | None = None) -> OnsiteResult:
        """Send the files, measure there, and check what comes back.

        Args:
            job: what to measure.
            on_progress: called about once a second, see `measure_onsite`.

        Raises:
            UnreachableError: no connection, or it was lost.
            HangingError: silence for longer than the device may be silent.
            UntrustedError: the host or its agent is another one than expected, or the result cannot be true.
            DeviceError, MeasurementError, StorageError: as `measure_onsite`.
        """
        patience_s = self._timeouts.call_s
        job = dataclasses.replace(job, owner=f"{job.owner} from {socket.gethostname()}")
        with self.connect() as channel:
            for artifact in {
                artifact.sha256: artifact for artifact in (*job.artifacts.values(), job.reference)
            }.values():
                self._put(channel, artifact)
            events = _Events(job, place=self._place, patience_s=patience_s, on_progress=on_progress, clock=self._clock)
            asked_s = self._clock.monotonic_s()
            answer = channel.call(
                "measure",
                patience_s=patience_s,
                on_event=events,
                arguments={"job": job_to_json(job), "patience_s": _AGENT_PATIENCE * patience_s},
            )
            wall_s = self._clock.monotonic_s() - asked_s
            found, sha256 = result_from_json(answer.get("onsite")), answer.get("sha256")
            require_plausible(
                found,
                job=job,
                provenance=self._backend.provenance,
                sha256=sha256 if isinstance(sha256, dict) else {},
                wall_s=wall_s,
                place=self._place,
            )
        return found

    def check(self, spec: DeviceSpec) -> tuple[CheckItem, ...]:
        """Connect, and let the host check itself.

        Raises:
            UnreachableError, HangingError, UntrustedError: as `measure`.
        """
        with self.connect() as channel:
            agent = CheckItem(
                name="agent",
                ok=True,
                detail=f"version {channel.hello['version']} on Python {channel.hello.get('python')}",
            )
            answer = channel.call("check", patience_s=self._timeouts.call_s, arguments={"spec": spec_to_json(spec)})
        items = answer.get("items")
        try:
            return (agent, *(CheckItem(**item) for item in items or ()))
        except TypeError as e:
            raise UntrustedError(
                f"{self._place} sent checks that are none: {items!r:.200}",
                hint="install the same version of archsmith on both sides",
            ) from e

    def connect(self) -> AgentChannel:
        """Open a connection.

        Raises:
            UnreachableError, UntrustedError: as `measure`.
        """
        return AgentChannel(
            self._command,
            place=self._place,
            connect_s=self._timeouts.connect_s,
            explain=self._explain,
            clock=self._clock,
        )

    def _put(self, channel: AgentChannel, artifact: Artifact) -> None:
        content = artifact.read_checked()
        answer: Mapping[str, Any] = {}
        for start in range(0, max(1, len(content)), CHUNK_BYTES):
            answer = channel.call(
                "put",
                patience_s=self._timeouts.call_s,
                arguments={
                    "sha256": artifact.sha256,
                    "name": artifact.path.name,
                    "first": start == 0,
                    "last": start + CHUNK_BYTES >= len(content),
                    "base64": base64.b64encode(content[start : start + CHUNK_BYTES]).decode(),
                },
            )
        if answer.get("sha256") != artifact.sha256:
            raise StorageError(
                f"{artifact.path} was changed in transfer to {self._place}: it has {answer.get('sha256')!r} there",
                hint="try again; if that does not help, check the connection and the memory of the device",
            )


class _Events:
    """What an agent says while it measures: passed on, and bounded, so that no call goes on for ever."""

    def __init__(
        self, job: MeasureJob, *, place: str, patience_s: float, on_progress: OnProgress | None, clock: Clock
    ) -> None:
        self._place, self._on_progress, self._owner, self._clock = place, on_progress, job.owner, clock
        self._most = max(job.protocol.max_rounds, len(job.artifacts))
        wait_s = float("inf") if job.timeout_s is None else job.timeout_s + patience_s
        self._wait_until_s = clock.monotonic_s() + wait_s
        self._done, self._waiting = 0, True

    def __call__(self, message: Mapping[str, Any]) -> None:
        if message["event"] == "waiting" and self._waiting:
            _LOG.debug("%s waits on %s, which is in use by %s", self._owner, self._place, message.get("holder"))
            if self._clock.monotonic_s() > self._wait_until_s:
                raise HangingError(
                    f"{self._place} still waits for its unit, long after it should have given up",
                    hint="check it: nas devices check",
                )
            return
        done, total = message.get("done"), message.get("total")
        self._waiting = False
        if (
            message["event"] != "progress"
            or not isinstance(done, int)
            or not isinstance(total, int)
            or not 0 < done <= total <= self._most
            # The last one may come twice: as that of a round, and as the end.
            or not (self._done < done or self._done == done == total)
        ):
            raise UntrustedError(
                f"{self._place} says {message['event']!r}, {done} of {total}, after {self._done} of {self._most}",
                hint="nothing of it is kept; look at the device, then: nas devices check",
            )
        self._done = done
        if self._on_progress is not None:
            self._on_progress(done, total)


class SshHost(AgentHost):
    """A `DeviceHost` that is reached by SSH. Only host keys that are known already are accepted, nothing is asked."""

    def __init__(self, entry: DeviceEntry, *, backend: DeviceBackend, clock: Clock | None = None) -> None:
        """Describe the host; nothing is connected yet.

        Args:
            entry: a device whose place is an `SshPlace`.
            backend: of the device.
            clock: for time-outs; the system's if None.
        """
        place = entry.place
        assert isinstance(place, SshPlace)
        super().__init__(
            ssh_command(place, connect_s=entry.timeouts.connect_s),
            place=f"device {entry.device_id!r} at {place.address}",
            backend=backend,
            timeouts=entry.timeouts,
            explain=lambda code, words: _explain(code, words, entry=entry, place=place),
            clock=clock,
        )
        self._entry = entry

    def connect(self) -> AgentChannel:
        """Open a connection.

        Raises:
            DeviceError: the identity or known_hosts file is missing here.
            UnreachableError, UntrustedError: as `AgentHost.measure`.
        """
        require_key_files(self._entry)
        return super().connect()


def require_key_files(entry: DeviceEntry) -> None:
    """Refuse a device whose files for SSH are not there.

    Raises:
        DeviceError: the identity or known_hosts file is missing.
    """
    place = entry.place
    if not isinstance(place, SshPlace):
        return
    for name, path, hint in (
        ("identity", place.identity, f"make a key: ssh-keygen -t ed25519 -f {place.identity}"),
        (
            "known_hosts",
            place.known_hosts,
            f"store the host's key, and compare it with the device's: {_keyscan(place)}",
        ),
    ):
        if path is not None and not path.is_file():
            raise DeviceError(f"{entry.source}: {name} {path} of {entry.device_id!r} is no file", hint=hint)


def ssh_command(place: SshPlace, *, connect_s: float) -> tuple[str, ...]:
    """The argument list that starts an agent at a place."""
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ConnectTimeout": str(max(1, round(connect_s))),
        "ServerAliveInterval": str(_ALIVE_INTERVAL_S),
        "ServerAliveCountMax": str(_ALIVE_COUNT),
        # A connection of its own, so that ending this client ends the agent.
        "ControlMaster": "no",
        "ControlPath": "none",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "ClearAllForwardings": "yes",
        "LogLevel": "ERROR",
    }
    if place.known_hosts is not None:
        options |= {"UserKnownHostsFile": f'"{_literal(place.known_hosts)}"', "GlobalKnownHostsFile": "/dev/null"}
    arguments = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    if place.identity is not None:
        arguments += ["-o", "IdentitiesOnly=yes", "-i", _literal(place.identity)]
    if place.user is not None:
        arguments += ["-l", place.user]
    path = [] if place.path is None else [f"PYTHONPATH={place.path}"]
    # -P: what lies in the home directory there must not be taken for a package.
    # No shell stays between the agent and the server, so that the agent sees the server die.
    remote = f"exec {shlex.join(['env', *path, place.python, '-P', '-m', 'hardware.agent'])}"
    return ("ssh", "-T", "-p", str(place.port), *arguments, "--", place.host, remote)


def _literal(path: Path) -> str:
    """The path as ssh reads it, which would replace %h and the like."""
    return str(path).replace("%", "%%")


def _explain(code: int | None, words: Sequence[str], *, entry: DeviceEntry, place: SshPlace) -> DeviceError | None:
    """What the end of ssh means; None for what may be otherwise next time."""
    said = "\n".join(words)
    name = f"device {entry.device_id!r} at {place.address}"
    target = place.host if place.port == 22 else f"[{place.host}]:{place.port}"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        file = "" if place.known_hosts is None else f" -f {place.known_hosts}"
        return UntrustedError(
            f"{name}: the host key changed: it is another machine, was set up again, or somebody is in between",
            hint=f"if you know why: ssh-keygen -R '{target}'{file}, then {_keyscan(place)}",
        )
    if "Host key verification failed" in said or "host key is known for" in said:
        return UntrustedError(
            f"{name}: its host key is not known",
            hint=f"store it, and compare it with the one on the device: {_keyscan(place)}",
        )
    if "Permission denied" in said:
        return UntrustedError(
            f"{name} does not let {place.user or 'this user'} in: {words[-1]}",
            hint=f"put the public key into authorized_keys there, and check identity and user in {entry.source}",
        )
    if code in (None, _SSH_FAILED):
        last = f": {words[-1]}" if words else ""
        return UnreachableError(
            f"{name} cannot be reached{last}", hint="check that it is on, its address and its SSH server"
        )
    return UntrustedError(
        f"{name}: its agent does not start (exit code {code}): {words[-1] if words else 'it said nothing'}",
        hint=f"check that {place.python!r} there has numpy, the runtime and archsmith, or set python and path",
    )


def _keyscan(place: SshPlace) -> str:
    return f"ssh-keyscan -p {place.port} {place.host} >> {place.known_hosts or '~/.ssh/known_hosts'}"
