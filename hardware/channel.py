"""The caller's end of a connection to an agent: a child process, JSON lines, and no wait without an end."""

import os
import selectors
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from hardware.clock import Clock, SystemClock
from hardware.errors import DeviceError, HangingError, UnreachableError, UntrustedError
from hardware.files import JSON
from hardware.wire import MAX_LINE_BYTES, PACKAGE_VERSION, WIRE_VERSION, decode_line, encode_line, error_from_json
from searchspaces.errors import Hinted

_READ_BYTES = 2**20
# Login shells may greet on standard output before the agent speaks.
_MAX_GREETING_LINES = 200
_END_S = 5.0
_KILL_S = 2.0
_LAST_WORDS = 20

OnEvent = Callable[[Mapping[str, Any]], None]
ExplainEnd = Callable[[int | None, Sequence[str]], DeviceError | None]


class AgentChannel:
    """A running agent; a context manager that leaves no process behind.

    The agent ends when its input is closed, so ending the child process is enough, wherever the agent runs.

    Attributes:
        hello: the agent's first message.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        place: str,
        connect_s: float,
        explain: ExplainEnd | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Start a command that ends in an agent, and wait for its hello.

        Args:
            command: an argument list.
            place: how messages call the device.
            connect_s: how long to wait for the hello.
            explain: given the exit code and the last words of a command that ended before the hello, says what that
                means; None where it does not know.
            clock: for time-outs; the system's if None.

        Raises:
            UnreachableError: no hello in time, or the command ended without one.
            UntrustedError: an agent of another version, or a command that cannot be started.
        """
        self.place, self._explain = place, explain
        self._clock: Clock = SystemClock() if clock is None else clock
        self._lines: deque[bytes] = deque()
        self._partial = bytearray()
        self._words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._number, self._answered = 0, True
        try:
            # A session of its own, so that Ctrl-C reaches this process alone, which then ends the child in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as e:
            raise UntrustedError(
                f"{place}: cannot start {command[0]!r}: {e.strerror}", hint=f"install {command[0]}"
            ) from e
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._in, self._out, self._err = (
            stream.fileno() for stream in (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        self._selector = selectors.DefaultSelector()
        for descriptor in (self._in, self._out, self._err):
            os.set_blocking(descriptor, False)
        self._selector.register(self._out, selectors.EVENT_READ)
        self._selector.register(self._err, selectors.EVENT_READ)
        try:
            self.hello = self._read_hello(connect_s)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An agent that was refused, or refused something, waits for the next request and can end in order.
        if self._answered and (error is None or isinstance(error, Hinted)):
            self.end()
        else:
            self.kill()

    def call(
        self,
        do: str,
        *,
        patience_s: float,
        arguments: Mapping[str, JSON] | None = None,
        on_event: OnEvent | None = None,
    ) -> Mapping[str, Any]:
        """Ask the agent for something.

        Args:
            do: what.
            patience_s: the longest silence.
            arguments: of the request.
            on_event: gets what the agent says before its answer; without it, any event is refused.

        Raises:
            HangingError: silence for longer than that. The channel is of no use any more.
            UnreachableError: the connection or the agent ended.
            UntrustedError: the answer is none.
            DeviceError, MeasurementError, StorageError: whatever the agent raised.
        """
        self._number, self._answered = self._number + 1, False
        self._send({"number": self._number, "do": do, **(arguments or {})}, patience_s=patience_s)
        while True:
            message = decode_line(self._receive(patience_s, waits_for=f"an answer to {do!r}"))
            if message.get("number") != self._number:
                raise UntrustedError(
                    f"{self.place} answered request {message.get('number')!r}, asked was {self._number}",
                    hint="install the same version of archsmith on both sides, then check the device",
                )
            if "event" in message and on_event is not None:
                on_event(message)
            elif isinstance(message.get("error"), dict):
                self._answered = True
                raise error_from_json(message["error"], place=self.place)
            elif isinstance(message.get("result"), dict):
                self._answered = True
                result: dict[str, Any] = message["result"]
                return result
            else:
                raise UntrustedError(
                    f"{self.place} answered {do!r} with neither result nor error: {sorted(message)}",
                    hint="install the same version of archsmith on both sides, then check the device",
                )

    def end(self) -> None:
        """Let the agent end by itself, and make sure that it does."""
        try:
            self.call("bye", patience_s=_END_S)
            self._process.stdin.close()  # type: ignore[union-attr]
            self._process.wait(timeout=_END_S)
        # What was asked for is here already, so a farewell that fails is no failure.
        except (HangingError, UnreachableError, subprocess.TimeoutExpired):
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """End the child process now; the agent sees its input closed."""
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=_KILL_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _read_hello(self, connect_s: float) -> Mapping[str, Any]:
        deadline_s = self._clock.monotonic_s() + connect_s
        for _ in range(_MAX_GREETING_LINES):
            try:
                line = self._receive(deadline_s - self._clock.monotonic_s(), waits_for="its agent to say hello")
            except HangingError as e:
                raise UnreachableError(
                    f"{self.place} did not answer within {connect_s:g} s",
                    hint="check that it is on and its network works, or raise timeouts.connect_s",
                ) from e
            if b'"archsmith-agent"' in line:
                # From here on an end says nothing about how the agent was reached.
                self._explain = None
                return self._checked_hello(decode_line(line))
        raise UntrustedError(
            f"{self.place} said {_MAX_GREETING_LINES} lines, and none was the agent's hello",
            hint="keep the login shell there from printing",
        )

    def _checked_hello(self, hello: Mapping[str, Any]) -> Mapping[str, Any]:
        found = (hello.get("wire"), hello.get("version"))
        if found != (WIRE_VERSION, PACKAGE_VERSION):
            raise UntrustedError(
                f"{self.place} has an agent of version {found[1]} (protocol {found[0]}), "
                f"here is {PACKAGE_VERSION} (protocol {WIRE_VERSION})",
                hint=f"install the same on the device: pip install --no-deps archsmith=={PACKAGE_VERSION}",
            )
        return hello

    def _send(self, message: Mapping[str, JSON], *, patience_s: float) -> None:
        view = memoryview(encode_line(message))
        self._selector.register(self._in, selectors.EVENT_WRITE)
        try:
            deadline_s = self._clock.monotonic_s() + patience_s
            while view:
                if self._in in self._wait(deadline_s, waits_for="it to take a message", patience_s=patience_s):
                    view = view[os.write(self._in, view) :]
                    deadline_s = self._clock.monotonic_s() + patience_s
        except BrokenPipeError as e:
            raise self._lost() from e
        finally:
            self._selector.unregister(self._in)

    def _receive(self, patience_s: float, *, waits_for: str) -> bytes:
        deadline_s = self._clock.monotonic_s() + patience_s
        while not self._lines:
            self._wait(deadline_s, waits_for=waits_for, patience_s=patience_s)
        return self._lines.popleft()

    def _wait(self, deadline_s: float, *, waits_for: str, patience_s: float) -> set[int]:
        """Wait until something can be read or written, and read it; returns what is ready."""
        left_s = deadline_s - self._clock.monotonic_s()
        ready = {key.fd for key, _ in self._selector.select(max(0.0, left_s))}
        if not ready and left_s <= 0:
            raise HangingError(
                f"{self.place} said nothing for {patience_s:g} s, expected was {waits_for}",
                hint="check it: nas devices check; if it is only slow, raise timeouts.call_s",
            )
        if self._err in ready:
            self._read_words()
        if self._out in ready:
            data = os.read(self._out, _READ_BYTES)
            if not data:
                raise self._lost()
            self._partial += data
            if b"\n" in data:
                *lines, rest = bytes(self._partial).split(b"\n")
                self._lines.extend(lines)
                self._partial = bytearray(rest)
            if len(self._partial) > MAX_LINE_BYTES:
                raise UntrustedError(
                    f"{self.place} sent a line of more than {MAX_LINE_BYTES:,} bytes",
                    hint="measure fewer networks at once, and check the device",
                )
        return ready

    def _read_words(self) -> None:
        data = os.read(self._err, _READ_BYTES)
        if not data:
            self._selector.unregister(self._err)
        # Only printable ASCII, because it goes to the terminal.
        text = data.decode("ascii", errors="backslashreplace")
        for line in text.splitlines():
            if word := "".join(character for character in line if character.isprintable()).strip():
                self._words.append(word[:300])

    def _lost(self) -> DeviceError:
        try:
            self._process.wait(timeout=_KILL_S)
            while self._err in self._selector.get_map():
                self._read_words()
        # Somebody else may have its standard error open; what was said until now is enough.
        except (subprocess.TimeoutExpired, BlockingIOError):
            pass
        explained = self._explain(self._process.poll(), tuple(self._words)) if self._explain is not None else None
        if explained is not None:
            return explained
        said = f": {self._words[-1]}" if self._words else ""
        return UnreachableError(
            f"the connection to {self.place} ended{said}",
            hint="check that the device is on and reachable: nas devices check",
        )
