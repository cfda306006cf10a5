import json
import os
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from hardware.errors import DeviceError
from hardware.lease import MAX_WAITING, UnitLock
from hardware.lock_files import LockFiles, default_lock_directory
from hardware.lock_state import LockState, UnitStatus, Waiter, new_holder, read_state, write_state

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

    def __init__(self, directory: Path, kind: str, *, owner: str, ttl_s: float, timeout_s: float) -> None:
        command = [sys.executable, "-m", "tests.hardware.lock_child", str(directory), kind, owner]
        command += [str(ttl_s), str(timeout_s)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
        )

    def read(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 120)[0], "it does not answer"
        return self.process.stdout.readline().strip()

    def tell(self, command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read()

    def stop(self, directory: Path) -> None:
        """Stop it, but not while it has the book."""
        with LockFiles(UNIT, directory=directory).book():
            self.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start_child(kind: str, *, owner: str, ttl_s: float = 3600, timeout_s: float = 3600) -> Child:
        children.append(Child(directory, kind, owner=owner, ttl_s=ttl_s, timeout_s=timeout_s))
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


def queue(directory: Path) -> list[str]:
    """The owners who are listed as waiting, the first in front."""
    return [waiter.holder.owner for waiter in look(directory).waiting]


def wait_for_queue(directory: Path, *owners: str) -> None:
    wait_until(lambda: queue(directory) == list(owners))


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
        wait_until(lambda: look(directory).waiting != ())
        late = start("computing", owner="late")
        wait_for_queue(directory, "verify", "late")
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
    assert queue(directory) == ["late"]
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
        assert look(directory).waiting == ()
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
def test_a_killed_waiting_measurer_frees_its_place(directory: Path, start: Callable[..., Child]) -> None:
    one = start("computing", owner="train")
    one.read()
    waiting = start("measuring", owner="victim")
    wait_until(lambda: look(directory).waiting != ())
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
        assert UnitLock(UNIT, directory=directory).status().measuring is None
        os.kill(grandchild, 0)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_a_child_with_all_files_passed_on_does_not_keep_the_lock(directory: Path) -> None:
    with UnitLock(UNIT, directory=directory).measuring(owner="parent", ttl_s=60):
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, close_fds=False
        )
    try_measuring(directory)
    assert child.poll() is None
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
        wait_until(lambda: look(directory).waiting != ())
        child.process.send_signal(signal.SIGINT)
        assert child.process.wait(60) != 0
        assert look(directory).waiting == ()


def test_a_thread_that_computes_may_compute_again_behind_a_waiting_measurer(
    directory: Path, start: Callable[..., Child]
) -> None:
    with UnitLock(UNIT, directory=directory).computing(owner="outer"):
        measurer = start("measuring", owner="verify")
        wait_until(lambda: look(directory).waiting != ())
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
    assert len(files) == 2
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


def test_the_default_directory_does_not_depend_on_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARCHSMITH_LOCK_DIRECTORY", raising=False)
    first = default_lock_directory()
    monkeypatch.setenv("TMPDIR", "/somewhere/else")
    assert default_lock_directory() == first
    monkeypatch.setenv("ARCHSMITH_LOCK_DIRECTORY", str(tmp_path / "shared"))
    assert default_lock_directory() == tmp_path / "shared"


@pytest.mark.parametrize("kind", ["computing", "measuring"])
def test_ctrl_c_right_after_the_lock_came_does_not_keep_it(
    directory: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = UnitLock(UNIT, directory=directory)
    real = write_state

    def write_then_interrupt(descriptor: int, state: LockState) -> None:
        real(descriptor, state)
        raise KeyboardInterrupt

    monkeypatch.setattr("hardware.lease.write_state", write_then_interrupt)
    context = lock.computing(owner="me") if kind == "computing" else lock.measuring(owner="me", ttl_s=60)
    with pytest.raises(KeyboardInterrupt):
        context.__enter__()
    monkeypatch.undo()
    state = look(directory)
    assert (state.measuring, state.waiting, state.computing) == (None, (), ())
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


def test_measurers_are_served_in_the_order_in_which_they_came(directory: Path, start: Callable[..., Child]) -> None:
    names = ["first", "second", "third"]
    children = []
    with UnitLock(UNIT, directory=directory).computing(owner="train"):
        for number, name in enumerate(names):
            children.append(start("measuring", owner=name))
            wait_for_queue(directory, *names[: number + 1])
    for number, child in enumerate(children):
        assert child.read() == f"held {number + 1}"
        assert queue(directory) == names[number + 1 :]
        assert child.tell("release") == "released"


def test_computing_gets_its_turn_between_measurers_and_neighbours_share_it(
    directory: Path, start: Callable[..., Child]
) -> None:
    order = ["m1", "c1", "c2", "m2", "c3"]
    children = {"m0": start("measuring", owner="m0")}
    assert children["m0"].read() == "held 1"
    for number, name in enumerate(order):
        children[name] = start("measuring" if name[0] == "m" else "computing", owner=name)
        wait_for_queue(directory, *order[: number + 1])
    children["m0"].tell("release")
    assert children["m1"].read() == "held 2"
    children["m1"].tell("release")
    assert children["c1"].read() == children["c2"].read() == "held 0"
    # The later one does not overtake the measurer, though it could share.
    assert queue(directory) == ["m2", "c3"]
    children["c1"].tell("release")
    assert queue(directory) == ["m2", "c3"]
    children["c2"].tell("release")
    assert children["m2"].read() == "held 3"
    assert queue(directory) == ["c3"]
    children["m2"].tell("release")
    assert children["c3"].read() == "held 0"


@pytest.mark.faults
def test_a_newcomer_does_not_take_a_free_unit_from_those_who_wait(directory: Path, start: Callable[..., Child]) -> None:
    victim = start("measuring", owner="victim")
    victim.read()
    waiting = start("computing", owner="waiting")
    wait_for_queue(directory, "waiting")
    # Stopped, so that the unit stays free.
    waiting.stop(directory)
    victim.kill()
    with pytest.raises(DeviceError, match=r"it is waited for by waiting \(pid \d+\) since \S+ to compute$"):
        try_measuring(directory)
    # Who computes shares the unit with the one ahead anyway.
    try_computing(directory)
    waiting.process.send_signal(signal.SIGCONT)
    assert waiting.read() == "held 0"


@pytest.mark.faults
def test_the_place_of_a_killed_waiter_is_skipped(directory: Path, start: Callable[..., Child]) -> None:
    with UnitLock(UNIT, directory=directory).computing(owner="train"):
        names, children = ["victim", "next", "second victim", "last"], []
        for number, name in enumerate(names):
            children.append(start("measuring", owner=name))
            wait_for_queue(directory, *names[: number + 1])
        victim, following, second_victim, last = children
        victim.kill()
        # Whoever looks behind it drops it.
        wait_for_queue(directory, "next", "second victim", "last")
        second_victim.kill()
    assert following.read() == "held 1"
    assert following.tell("release") == "released"
    assert last.read() == "held 2"
    assert queue(directory) == []


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["computing", "measuring"])
def test_a_killed_holder_frees_the_unit_for_the_first_in_the_queue(
    directory: Path, start: Callable[..., Child], kind: str
) -> None:
    victim = start(kind, owner="victim")
    victim.read()
    first = start("measuring", owner="first")
    wait_for_queue(directory, "first")
    second = start("measuring", owner="second")
    wait_for_queue(directory, "first", "second")
    victim.kill()
    assert first.read().startswith("held")
    assert queue(directory) == ["second"]
    first.kill()
    assert second.read().startswith("held")


def test_a_time_out_leaves_the_queue(directory: Path, start: Callable[..., Child]) -> None:
    with UnitLock(UNIT, directory=directory).computing(owner="holder"):
        impatient = start("measuring", owner="impatient", timeout_s=2)
        patient = start("computing", owner="patient")
        assert impatient.read().startswith("gave up: impatient could not measure on host:test within 2 s: it is comp")
        # The holder is still here: only the measurer stood in the way, if it came first.
        assert patient.read() == "held 0"
        assert queue(directory) == []


@pytest.mark.faults
def test_an_expired_lease_goes_to_the_first_in_the_queue(directory: Path, start: Callable[..., Child]) -> None:
    hanging = start("measuring", owner="hanging", ttl_s=3600)
    assert hanging.read() == "held 1"
    first = start("measuring", owner="first")
    wait_for_queue(directory, "first")
    second = start("measuring", owner="second")
    wait_for_queue(directory, "first", "second")
    hanging.process.send_signal(signal.SIGSTOP)
    files = LockFiles(UNIT, directory=directory)
    with files.book() as book:
        write_state(book, replace(read_state(book, path=files.book_path), deadline_s=time.monotonic()))
    assert first.read() == "held 3"
    assert queue(directory) == ["second"]
    hanging.process.send_signal(signal.SIGCONT)
    assert hanging.tell("check").startswith("lost: lease 1 of hanging on host:test was taken over")
    assert hanging.tell("release") == "released"
    assert first.tell("check") == "ok"
    assert first.tell("release") == "released"
    assert second.read() == "held 4"


@pytest.mark.faults
def test_a_waiter_that_hangs_is_passed_over_and_comes_back_to_its_place(
    directory: Path, start: Callable[..., Child]
) -> None:
    clock = FakeClock()
    lock = UnitLock(UNIT, directory=directory, clock=clock)
    with UnitLock(UNIT, directory=directory).computing(owner="train"):
        hanging = start("measuring", owner="hanging")
        wait_for_queue(directory, "hanging")
        later = start("measuring", owner="later")
        wait_for_queue(directory, "hanging", "later")
        hanging.stop(directory)
        later.stop(directory)
    clock.now_s = time.monotonic()
    with pytest.raises(DeviceError, match="waited for by hanging"):
        lock.measuring(owner="me", ttl_s=3600, timeout_s=0).__enter__()
    clock.now_s += 90
    with lock.measuring(owner="me", ttl_s=3600, timeout_s=0):
        assert queue(directory) == []
        later.process.send_signal(signal.SIGCONT)
        wait_for_queue(directory, "later")
        hanging.process.send_signal(signal.SIGCONT)
        wait_for_queue(directory, "hanging", "later")
    assert hanging.read() == "held 2"


def test_a_waiter_signs_the_book_rarely_but_in_time(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    real = write_state
    signed_s: list[float] = []

    def write(descriptor: int, state: LockState) -> None:
        real(descriptor, state)
        signed_s.extend(waiter.seen_s for waiter in state.waiting)

    with UnitLock(UNIT, directory=directory, clock=clock).computing(owner="train"):

        def attempt() -> None:
            with UnitLock(UNIT, directory=directory, clock=clock).measuring(owner="m", ttl_s=1, timeout_s=600):
                pass

        monkeypatch.setattr("hardware.lease.write_state", write)
        with pytest.raises(DeviceError):
            _in_thread(attempt)
        assert queue(directory) == []
    gaps_s = [later - earlier for earlier, later in pairwise(signed_s)]
    # Less often than every 10 s would not disturb; a minute of silence is taken for hanging.
    assert 9 < min(gaps_s) <= max(gaps_s) < 30


def test_a_waiter_that_the_book_lost_comes_back_to_its_place(directory: Path, start: Callable[..., Child]) -> None:
    with UnitLock(UNIT, directory=directory).computing(owner="train"):
        first, second = start("measuring", owner="first"), None
        wait_for_queue(directory, "first")
        second = start("measuring", owner="second")
        wait_for_queue(directory, "first", "second")
        # As processes of the version before do, which know no queue.
        files = LockFiles(UNIT, directory=directory)
        with files.book() as book:
            write_state(book, replace(read_state(book, path=files.book_path), waiting=()))
        wait_for_queue(directory, "first", "second")
        # As somebody does who cleans up; the places are other files then.
        for path in directory.glob("*.place"):
            path.unlink()
        wait_until(lambda: len(UnitLock(UNIT, directory=directory).status().waiting) == 2)
        assert queue(directory) == ["first", "second"]
    assert first.read() == "held 1"
    assert queue(directory) == ["second"]
    first.tell("release")
    assert second.read() == "held 2"


def test_threads_queue_as_processes_do(directory: Path) -> None:
    served: list[str] = []

    def measure(name: str) -> None:
        with UnitLock(UNIT, directory=directory).measuring(owner=name, ttl_s=60, timeout_s=60):
            served.append(name)

    names = [f"t{number}" for number in range(4)]
    threads = [threading.Thread(target=measure, args=(name,)) for name in names]
    with UnitLock(UNIT, directory=directory).computing(owner="train"):
        for number, thread in enumerate(threads):
            thread.start()
            wait_for_queue(directory, *names[: number + 1])
    for thread in threads:
        thread.join()
    assert served == names
    assert queue(directory) == []


def test_more_waiters_than_places_are_all_served(directory: Path) -> None:
    names = [f"t{number}" for number in range(MAX_WAITING + 4)]
    served: list[str] = []
    gone = threading.Event()

    def measure(name: str) -> None:
        with UnitLock(UNIT, directory=directory).measuring(owner=name, ttl_s=3600, timeout_s=300):
            served.append(name)
            gone.wait(60)

    threads = [threading.Thread(target=measure, args=(name,)) for name in names]
    try:
        with UnitLock(UNIT, directory=directory).computing(owner="train"):
            for number, thread in enumerate(threads):
                thread.start()
                if number < MAX_WAITING:
                    wait_for_queue(directory, *names[: number + 1])
            # A newcomer beyond the queue is outside, and still behind it.
            with pytest.raises(DeviceError, match="waited for by t0"):
                _in_thread(lambda: try_measuring(directory, timeout_s=0.02))
            assert queue(directory) == names[:MAX_WAITING]
            assert LockFiles(UNIT, directory=directory).book_path.stat().st_size <= 4096
        wait_until(lambda: served == names[:1])
        # The free place goes to one from outside.
        wait_until(lambda: len(queue(directory)) == MAX_WAITING)
    finally:
        gone.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    assert served[:MAX_WAITING] == names[:MAX_WAITING]
    assert sorted(served) == sorted(names)
    assert len(list(directory.glob("*.place"))) == MAX_WAITING


def test_a_full_queue_and_its_names_fit_the_page(directory: Path) -> None:
    files = LockFiles(UNIT, directory=directory)
    holder = replace(new_holder('"' * 100, now=datetime.now(UTC)), pid=4194304, thread=4194304, started=10**12)
    waiters = [
        Waiter(
            holder=replace(holder, thread=4194304 - k), measures=False, came_s=1e7 + k / 8, place=k, seen_s=1e7 + k / 8
        )
        for k in range(MAX_WAITING + 20)
    ]
    state = LockState(generation=10**6, token=10**9, measuring=holder, deadline_s=time.monotonic())
    for waiter in waiters[:MAX_WAITING]:
        state = state.with_waiting(waiter)
    with files.book() as book:
        write_state(book, replace(state, computing=(holder,) * 20))
        found = read_state(book, path=files.book_path)
        assert found.waiting == tuple(waiters[:MAX_WAITING])
        # Even a longer queue, of a later version or by mistake, does not tear the book.
        write_state(book, replace(state, waiting=tuple(waiters)))
        longer = read_state(book, path=files.book_path)
    assert files.book_path.stat().st_size <= 4096
    assert longer.waiting == tuple(waiters[: len(longer.waiting)])
    assert len(longer.waiting) >= MAX_WAITING


def test_a_write_that_a_kill_ended_before_the_old_rest_was_cut_off_counts(directory: Path) -> None:
    files = LockFiles(UNIT, directory=directory)
    one = new_holder("a" * 60, now=datetime.now(UTC))
    with files.book() as book:
        write_state(book, LockState(token=3))
        short = files.book_path.read_bytes()
        write_state(book, LockState(token=2, computing=(one,) * 3))
        os.pwrite(book, short, 0)
        assert read_state(book, path=files.book_path) == LockState(token=3)


def test_a_book_of_the_version_without_a_queue_is_read_and_the_other_way_round(
    directory: Path, start: Callable[..., Child]
) -> None:
    try_computing(directory)
    (path,) = directory.glob("*.book")
    who = {"owner": "old", "pid": 1, "thread": 1, "started": 5, "since_utc": "2026-01-01T00:00:00.000+00:00"}
    old = {"generation": 2, "token": 7, "measuring": who, "deadline_s": 1.5, "waiting": who, "computing": [who]}
    path.write_text(json.dumps(old) + "\n")
    state = look(directory)
    assert (state.generation, state.token, state.deadline_s, state.waiting) == (2, 7, 1.5, ())
    assert state.measuring is not None
    assert state.measuring.owner == state.computing[0].owner == "old"
    measurer = start("measuring", owner="new")
    assert measurer.read() == "held 8"
    waiting = start("computing", owner="waiting")
    wait_for_queue(directory, "waiting")
    # A process that started before the change goes on to find what it knows.
    new = json.loads(path.read_text())
    assert old.keys() <= new.keys()
    assert new["waiting"] is None
    assert new["measuring"].keys() == who.keys()
    measurer.tell("release")
    assert waiting.read() == "held 0"
    assert [holder.keys() for holder in json.loads(path.read_text())["computing"]] == [who.keys()]


def test_the_status_of_a_unit_tells_who_holds_it_and_who_waits(directory: Path, start: Callable[..., Child]) -> None:
    lock = UnitLock(UNIT, directory=directory)
    assert lock.status() == UnitStatus()
    assert not directory.exists()
    measurer = start("measuring", owner="profile", ttl_s=1000)
    measurer.read()
    one = start("computing", owner="search")
    wait_for_queue(directory, "search")
    two = start("measuring", owner="verify")
    wait_for_queue(directory, "search", "verify")
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    status = lock.status()
    assert before.keys() == {*directory.iterdir()}
    assert status.measuring is not None
    assert (status.measuring.owner, status.measuring.pid) == ("profile", measurer.process.pid)
    assert status.computing == ()
    assert [(w.holder.owner, w.holder.pid, w.purpose) for w in status.waiting] == [
        ("search", one.process.pid, "compute"),
        ("verify", two.process.pid, "measure"),
    ]
    assert status.token == 1
    assert status.expires_at_utc is not None
    assert timedelta(0) < status.expires_at_utc - datetime.now(UTC) <= timedelta(seconds=1000)
    measurer.tell("release")
    one.read()
    status = lock.status()
    assert [holder.owner for holder in status.computing] == ["search"]
    assert (status.measuring, status.expires_at_utc, status.token) == (None, None, 1)


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["computing", "measuring"])
def test_the_status_does_not_name_the_killed(directory: Path, start: Callable[..., Child], kind: str) -> None:
    victim, waiting = start(kind, owner="victim"), None
    victim.read()
    waiting = start("measuring", owner="waiting victim")
    wait_for_queue(directory, "waiting victim")
    waiting.kill()
    victim.kill()
    state = look(directory)
    assert state.waiting
    assert (state.measuring, *state.computing) != (None,)
    assert UnitLock(UNIT, directory=directory).status() == UnitStatus(token=state.token)


def test_the_status_does_not_wait_for_one_who_hangs_with_the_book(directory: Path) -> None:
    clock = FakeClock()
    measuring = UnitLock(UNIT, directory=directory).measuring(owner="me", ttl_s=60)
    with measuring, LockFiles(UNIT, directory=directory).book():
        status = UnitLock(UNIT, directory=directory, clock=clock).status()
    assert status.measuring is not None
    assert status.measuring.owner == "me"
    assert clock.now_s > 1000
    waited_until_s = clock.now_s
    UnitLock(UNIT, directory=directory, clock=clock).status()
    assert clock.now_s == waited_until_s


def test_looking_at_the_status_does_not_get_in_the_way(directory: Path) -> None:
    done = threading.Event()
    num_looks = 0

    def watch() -> None:
        nonlocal num_looks
        lock = UnitLock(UNIT, directory=directory)
        while not done.is_set():
            lock.status()
            num_looks += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(200):
            try_measuring(directory)
            try_computing(directory)
    finally:
        done.set()
        watcher.join()
    assert num_looks > 0
