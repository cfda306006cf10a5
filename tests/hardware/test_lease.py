import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hardware.errors import DeviceError
from hardware.lease import UnitLock
from hardware.lock_files import LockFiles, default_lock_directory
from hardware.lock_state import LockState, new_holder, read_state, write_state

ROOT = Path(__file__).parents[2]
UNIT = "host:test"


class FakeClock:
    """Time that passes only when told, or when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def now_utc(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now_s)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Child:
    """A `lock_child` process."""

    def __init__(self, directory: Path, kind: str, *, owner: str, ttl_s: float = 3600) -> None:
        command = [sys.executable, "-m", "tests.hardware.lock_child", str(directory), kind, owner, str(ttl_s)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start_child(kind: str, *, owner: str, ttl_s: float = 3600) -> Child:
        children.append(Child(directory, kind, owner=owner, ttl_s=ttl_s))
        return children[-1]

    yield start_child
    for child in children:
        child.kill()
        for stream in (child.process.stdin, child.process.stdout):
            assert stream is not None
            stream.close()


def look(directory: Path) -> LockState:
    files = LockFiles(UNIT, directory=directory)
    with files.book() as book:
        return read_state(book, path=files.book_path)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline_s, "it never happened"
        time.sleep(0.01)


def try_computing(directory: Path, *, owner: str = "test", timeout_s: float = 0) -> None:
    with UnitLock(UNIT, directory=directory).computing(owner=owner, timeout_s=timeout_s):
        pass


def try_measuring(directory: Path, *, owner: str = "test", timeout_s: float = 0) -> None:
    with UnitLock(UNIT, directory=directory).measuring(owner=owner, ttl_s=60, timeout_s=timeout_s):
        pass


def test_processes_compute_at_the_same_time_and_keep_measurers_out(
    directory: Path, start: Callable[..., Child]
) -> None:
    one, two = start("computing", owner="train"), start("computing", owner="search")
    assert one.read() == two.read() == "held 0"
    try_computing(directory)
    with pytest.raises(DeviceError) as caught:
        try_measuring(directory)
    for child, owner in ((one, "train"), (two, "search")):
        assert f"{owner} (pid {child.process.pid}) since 20" in str(caught.value)
    assert caught.value.hint
    assert one.tell("release") == "released"
    with pytest.raises(DeviceError, match="search"):
        try_measuring(directory)
    assert two.tell("release") == "released"
    try_measuring(directory)


def test_a_measurer_keeps_everybody_out_and_is_named(directory: Path, start: Callable[..., Child]) -> None:
    measurer = start("measuring", owner="profile")
    assert measurer.read() == "held 1"
    for attempt in (try_computing, try_measuring):
        with pytest.raises(DeviceError, match=rf"measured on by profile \(pid {measurer.process.pid}\) since 20"):
            attempt(directory)
    assert measurer.tell("check") == "ok"
    assert measurer.tell("release") == "released"
    try_computing(directory)


def test_another_unit_is_free(directory: Path) -> None:
    one, two = UnitLock("host:one", directory=directory), UnitLock("host:two", directory=directory)
    with one.measuring(owner="a", ttl_s=60) as a, two.measuring(owner="b", ttl_s=60, timeout_s=0) as b:
        a.check()
        b.check()


def test_new_computers_queue_behind_a_waiting_measurer(directory: Path, start: Callable[..., Child]) -> None:
    with UnitLock(UNIT, directory=directory).computing(owner="train"):
        measurer = start("measuring", owner="verify")
        wait_until(lambda: look(directory).waiting is not None)
        late = start("computing", owner="late")
        # Another thread: the one of this test holds the unit already, and may go on.
        errors: list[str] = []

        def attempt() -> None:
            try:
                try_computing(directory)
            except DeviceError as e:
                errors.append(str(e))

        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        assert len(errors) == 1
        assert "waited for by verify" in errors[0]
        assert "train" in errors[0]
    assert measurer.read() == "held 1"
    assert look(directory).waiting is None
    assert look(directory).computing == ()
    assert measurer.tell("release") == "released"
    assert late.read() == "held 0"


def test_a_measurer_that_gave_up_lets_computers_in_again(directory: Path) -> None:
    with UnitLock(UNIT, directory=directory).computing(owner="train"):
        errors: list[DeviceError] = []

        def attempt() -> None:
            try:
                try_measuring(directory, timeout_s=0.05)
            except DeviceError as e:
                errors.append(e)

        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
        assert len(errors) == 1
        assert "within 0.05 s" in str(errors[0])
        assert "waited for" not in str(errors[0])
        assert look(directory).waiting is None
        thread = threading.Thread(target=lambda: try_computing(directory))
        thread.start()
        thread.join()


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["computing", "measuring"])
def test_a_killed_process_frees_the_unit(directory: Path, start: Callable[..., Child], kind: str) -> None:
    child = start(kind, owner="victim")
    child.read()
    with pytest.raises(DeviceError, match="victim"):
        try_measuring(directory)
    child.kill()
    try_measuring(directory)
    try_computing(directory)


@pytest.mark.faults
def test_a_killed_waiting_measurer_frees_the_gate(directory: Path, start: Callable[..., Child]) -> None:
    one = start("computing", owner="train")
    one.read()
    waiting = start("measuring", owner="victim")
    wait_until(lambda: look(directory).waiting is not None)
    waiting.kill()
    try_computing(directory)
    with pytest.raises(DeviceError) as caught:
        try_measuring(directory)
    assert "victim" not in str(caught.value)


@pytest.mark.faults
def test_a_forked_child_does_not_keep_the_lock_of_its_killed_parent(
    directory: Path, start: Callable[..., Child]
) -> None:
    child = start("measuring", owner="parent")
    child.read()
    grandchild = int(child.tell("fork").split()[1])
    try:
        child.kill()
        os.kill(grandchild, 0)
        # It closes the lock as soon as it gets to run, and lives for ten minutes.
        try_measuring(directory, timeout_s=120)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_a_child_with_all_files_passed_on_does_not_keep_the_lock(directory: Path) -> None:
    with UnitLock(UNIT, directory=directory).measuring(owner="parent", ttl_s=60):
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, close_fds=False
        )
    try_measuring(directory)
    child.communicate()


@pytest.mark.faults
def test_an_expired_lease_of_a_hanging_process_is_taken_over_and_fenced(
    directory: Path, start: Callable[..., Child]
) -> None:
    hanging = start("measuring", owner="hanging", ttl_s=1.0)
    assert hanging.read() == "held 1"
    hanging.process.send_signal(signal.SIGSTOP)
    with UnitLock(UNIT, directory=directory).measuring(owner="next", ttl_s=3600, timeout_s=60) as lease:
        assert lease.token > 1
        hanging.process.send_signal(signal.SIGCONT)
        answer = hanging.tell("check")
        assert answer.startswith("lost: lease 1 of hanging on host:test was taken over")
        assert f"next (pid {os.getpid()})" in answer
        assert hanging.tell("renew").startswith("lost")
        assert hanging.tell("release") == "released"
        # The late release of the old holder changed nothing.
        lease.check()
        with pytest.raises(DeviceError, match="next"):
            _in_thread(lambda: try_computing(directory))
    try_measuring(directory)


def _in_thread(action: Callable[[], None]) -> None:
    """Run in another thread, as another holder, and raise here what was raised there."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except DeviceError as e:
            errors.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def test_computing_takes_an_expired_lease_over_too(directory: Path) -> None:
    clock = FakeClock()
    with UnitLock(UNIT, directory=directory, clock=clock).measuring(owner="hanging", ttl_s=10) as lease:
        clock.now_s += 9
        lease.check()

        def compute() -> None:
            lock = UnitLock(UNIT, directory=directory, clock=clock)
            with lock.computing(owner="train", timeout_s=5), pytest.raises(DeviceError, match=r"lease 1 .* taken over"):
                lease.check()

        _in_thread(compute)
    try_measuring(directory)


def test_a_lease_expires_and_can_be_renewed_before(directory: Path) -> None:
    clock = FakeClock()
    with UnitLock(UNIT, directory=directory, clock=clock).measuring(owner="me", ttl_s=10) as lease:
        assert lease.expires_at_utc == clock.now_utc() + timedelta(seconds=10)
        clock.now_s += 9
        lease.renew(ttl_s=10)
        clock.now_s += 9
        lease.check()
        clock.now_s += 1
        with pytest.raises(DeviceError, match="lease 1 of me on host:test expired at 2026") as caught:
            lease.check()
        assert caught.value.hint
        with pytest.raises(DeviceError, match="expired"):
            lease.renew(ttl_s=10)
    with pytest.raises(DeviceError, match="given back"):
        lease.check()


def test_tokens_only_grow(directory: Path) -> None:
    tokens = []
    for _ in range(3):
        with UnitLock(UNIT, directory=directory).measuring(owner="me", ttl_s=60) as lease:
            tokens.append(lease.token)
    assert tokens == [1, 2, 3]


def test_an_exception_frees_the_unit(directory: Path) -> None:
    lock = UnitLock(UNIT, directory=directory)
    for context in (lock.computing(owner="a"), lock.measuring(owner="a", ttl_s=60)):
        with pytest.raises(KeyboardInterrupt), context:
            raise KeyboardInterrupt
    try_measuring(directory)
    assert look(directory).computing == ()


def test_ctrl_c_interrupts_waiting(directory: Path, start: Callable[..., Child]) -> None:
    with UnitLock(UNIT, directory=directory).computing(owner="train"):
        child = start("measuring", owner="impatient")
        wait_until(lambda: look(directory).waiting is not None)
        child.process.send_signal(signal.SIGINT)
        assert child.process.wait(60) != 0
        assert look(directory).waiting is None


def test_a_thread_that_computes_may_compute_again_behind_a_waiting_measurer(
    directory: Path, start: Callable[..., Child]
) -> None:
    with UnitLock(UNIT, directory=directory).computing(owner="outer"):
        measurer = start("measuring", owner="verify")
        wait_until(lambda: look(directory).waiting is not None)
        try_computing(directory, owner="inner")
    assert measurer.read() == "held 1"


def test_a_thread_that_would_wait_for_itself_is_told(directory: Path) -> None:
    lock = UnitLock(UNIT, directory=directory)
    with lock.computing(owner="outer"), pytest.raises(DeviceError, match="wait for itself") as caught:
        lock.measuring(owner="inner", ttl_s=60).__enter__()
    assert "outer" in str(caught.value)
    with lock.measuring(owner="outer", ttl_s=60):
        with pytest.raises(DeviceError, match="wait for itself"):
            lock.computing(owner="inner").__enter__()
        with pytest.raises(DeviceError, match="wait for itself"):
            lock.measuring(owner="inner", ttl_s=60).__enter__()
    try_measuring(directory)


def test_waiting_ends_after_the_time_out_of_the_given_clock(directory: Path) -> None:
    clock = FakeClock()
    with UnitLock(UNIT, directory=directory, clock=clock).computing(owner="train"):

        def attempt() -> None:
            with UnitLock(UNIT, directory=directory, clock=clock).measuring(owner="m", ttl_s=1, timeout_s=3600):
                pass

        with pytest.raises(DeviceError, match="m could not measure on host:test within 3600 s"):
            _in_thread(attempt)
    assert clock.now_s == pytest.approx(4600)


def test_other_users_may_lock_too(directory: Path) -> None:
    old = os.umask(0o077)
    try:
        try_measuring(directory)
    finally:
        os.umask(old)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o1777
    files = list(directory.iterdir())
    assert len(files) == 3
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o666 for path in files)


@pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")
def test_two_users_exclude_each_other() -> None:
    # Below the system's temporary directory: pytest's own keeps other users out.
    unit = f"host:users-{os.getpid()}"
    directory = Path(f"/tmp/archsmith-test-locks-{os.getpid()}")
    try:
        with UnitLock(unit, directory=directory).measuring(owner="root", ttl_s=60):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    os.setuid(65534)
                    UnitLock(unit, directory=directory).computing(owner="nobody", timeout_s=0).__enter__()
                except DeviceError as e:
                    code = 0 if "measured on by root" in str(e) else 2
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()


def test_a_linked_lock_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeviceError, match="is a link or a file") as caught:
        try_computing(tmp_path / "locks")
    assert str(tmp_path / "locks") in caught.value.hint
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_linked_lock_file_is_refused(directory: Path, tmp_path: Path) -> None:
    try_computing(directory)
    (book,) = directory.glob("*.book")
    book.unlink()
    book.symlink_to(tmp_path / "victim")
    with pytest.raises(DeviceError, match="cannot lock"):
        try_computing(directory)
    assert not (tmp_path / "victim").exists()


def test_a_damaged_book_is_named(directory: Path) -> None:
    try_computing(directory)
    (book,) = directory.glob("*.book")
    for content in ("{", "[]", '{"generation": 0}\n'):
        book.write_text(content)
        with pytest.raises(DeviceError, match=r"\.book is damaged") as caught:
            try_computing(directory)
        assert str(directory) in caught.value.hint


def test_a_lease_whose_files_were_deleted_does_not_count(directory: Path) -> None:
    with UnitLock(UNIT, directory=directory).measuring(owner="me", ttl_s=60) as lease:
        for path in directory.iterdir():
            path.unlink()
        with pytest.raises(DeviceError, match="taken over"):
            lease.check()


def test_a_lease_needs_a_time_to_live(directory: Path) -> None:
    for ttl_s in (0.0, -1.0, float("nan")):
        with pytest.raises(DeviceError, match="ttl_s"):
            UnitLock(UNIT, directory=directory).measuring(owner="me", ttl_s=ttl_s).__enter__()


def test_the_book_stays_within_a_page_however_many_compute(directory: Path) -> None:
    files = LockFiles(UNIT, directory=directory)
    state = LockState()
    for number in range(200):
        state = state.with_computing(new_holder(f"{number} " + '"\\\u00e9\n' * 100, now=datetime.now(UTC)))
    with files.book() as book:
        write_state(book, state)
        found = read_state(book, path=files.book_path)
    assert files.book_path.stat().st_size <= 4096
    assert found.computing[-1].owner.startswith("199 ")
    assert found.computing == state.computing[-len(found.computing) :]


def test_the_default_directory_does_not_depend_on_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    first = default_lock_directory()
    monkeypatch.setenv("TMPDIR", "/somewhere/else")
    assert default_lock_directory() == first


@pytest.mark.parametrize("kind", ["computing", "measuring"])
def test_ctrl_c_right_after_the_lock_came_does_not_keep_it(
    directory: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = UnitLock(UNIT, directory=directory)
    real = write_state
    num_writes = 0

    def write_then_interrupt(descriptor: int, state: LockState) -> None:
        nonlocal num_writes
        real(descriptor, state)
        num_writes += 1
        # A measurer writes at the gate first.
        if num_writes == (1 if kind == "computing" else 2):
            raise KeyboardInterrupt

    monkeypatch.setattr("hardware.lease.write_state", write_then_interrupt)
    context = lock.computing(owner="me") if kind == "computing" else lock.measuring(owner="me", ttl_s=60)
    with pytest.raises(KeyboardInterrupt):
        context.__enter__()
    monkeypatch.undo()
    state = look(directory)
    assert (state.measuring, state.waiting, state.computing) == (None, None, ())
    _in_thread(lambda: try_measuring(directory))


def test_computing_inside_computing_gives_back_one_at_a_time(directory: Path, start: Callable[..., Child]) -> None:
    lock = UnitLock(UNIT, directory=directory, clock=FakeClock())
    with lock.computing(owner="same"):
        with lock.computing(owner="same"):
            assert len(look(directory).computing) == 2
        assert len(look(directory).computing) == 1
        with pytest.raises(DeviceError, match="same"):
            _in_thread(lambda: try_measuring(directory))
    try_measuring(directory)
