"""The files behind a unit's lock: opened for all users of the host, locked with flock, closed in forked children."""

import fcntl
import hashlib
import os
import re
import stat
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hardware.errors import DeviceError


class LockFiles:
    """The lock files of one unit in one directory; see `hardware.lease` for what each is for."""

    def __init__(self, unit: str, *, directory: Path) -> None:
        """Name the files; nothing is opened or created yet."""
        self._unit = unit
        self._directory = directory
        readable = re.sub(r"[^A-Za-z0-9]+", "-", unit)[:40]
        self._stem = f"{readable}-{hashlib.sha256(unit.encode()).hexdigest()[:8]}"
        # Whose each open file is; entered at once, so that nothing is lost when Ctrl-C comes in between.
        self._keepers: dict[int, object] = {}
        _release_in_forked_children(self)

    @property
    def book_path(self) -> Path:
        """File that says who holds the unit."""
        return self._directory / f"{self._stem}.book"

    def place_path(self, place: int) -> Path:
        """File that is locked by whoever has this place while it waits."""
        return self._directory / f"{self._stem}.{place}.place"

    def lock_path(self, generation: int) -> Path:
        """File that is locked by whoever computes or measures."""
        return self._directory / f"{self._stem}.{generation}.lock"

    def holds_for(self, keeper: object) -> bool:
        """Tell whether this process has a file open that was locked for `keeper` (the very object)."""
        # Copied first, here and below: other threads open and close files meanwhile.
        return any(other is keeper for other in list(self._keepers.values()))

    @contextmanager
    def book(self) -> Iterator[int]:
        """Open and lock the book. It is held for microseconds, so waiting for it needs no time-out."""
        while True:
            descriptor = self._open(self.book_path, keeper=None)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_at(descriptor, path=self.book_path):
                    yield descriptor
                    return
            except OSError as e:
                raise self.unusable(e) from e
            finally:
                self.close(descriptor)

    def try_lock(self, path: Path, *, exclusive: bool, keeper: object) -> int | None:
        """Open and lock a file for `keeper`, or return None if somebody holds it in a way that excludes this."""
        operation = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
        while True:
            descriptor = self._open(path, keeper=keeper)
            locked = False
            try:
                fcntl.flock(descriptor, operation)
                locked = _is_at(descriptor, path=path)
                if locked:
                    # Cleaners of temporary directories take what has been old for long.
                    os.utime(descriptor)
                    return descriptor
            except BlockingIOError:
                return None
            except OSError as e:
                locked = False
                raise self.unusable(e) from e
            finally:
                if not locked:
                    self.close(descriptor)

    def is_taken(self, path: Path, *, exclusive: bool) -> bool:
        """Tell whether somebody holds a file in a way that excludes this; nothing is created and nothing kept."""
        descriptor = self._open_existing(path)
        if descriptor is None:
            return False
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as e:
            raise self.unusable(e) from e
        finally:
            self.close(descriptor)
        return False

    def is_at(self, descriptor: int, *, path: Path) -> bool:
        """Tell whether a file that is open here is still the one at `path`, which others look at."""
        return descriptor in self._keepers and _is_at(descriptor, path=path)

    @contextmanager
    def book_as_it_is(self) -> Iterator[tuple[int | None, bool]]:
        """Open the book only to read it, without waiting for it.

        Yields:
            The book, None if nobody made one yet; and whether it is locked, so that nobody changes anything meanwhile.
        """
        descriptor = self._open_existing(self.book_path)
        if descriptor is None:
            yield None, True
            return
        try:
            locked = True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                locked = False
            except OSError as e:
                raise self.unusable(e) from e
            yield descriptor, locked
        finally:
            self.close(descriptor)

    def close(self, descriptor: int) -> None:
        """Unlock and close a file; does nothing if a fork closed it in this process."""
        if descriptor in self._keepers:
            # Unlocked, not only closed: a child that foreign code forked may still have the file open.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            self._forget(descriptor)

    def close_all(self, keeper: object) -> None:
        """Unlock and close all files of `keeper`."""
        for descriptor in [descriptor for descriptor, other in list(self._keepers.items()) if other is keeper]:
            self.close(descriptor)

    def close_in_child(self) -> None:
        """Close everything in a process that was just forked; the parent keeps its locks."""
        for descriptor in list(self._keepers):
            self._forget(descriptor)

    def unusable(self, error: OSError) -> DeviceError:
        """Return the error for a directory in which locking does not work."""
        return DeviceError(
            f"cannot lock {self._unit} with files in {self._directory}: {error.strerror}",
            hint=f"check that {self._directory} is a real directory that everybody may write to",
        )

    def _open(self, path: Path, *, keeper: object) -> int:
        try:
            _prepare_directory(self._directory)
            descriptor = _open_for_everybody(path)
        except OSError as e:
            raise self.unusable(e) from e
        self._keepers[descriptor] = keeper
        return descriptor

    def _open_existing(self, path: Path) -> int | None:
        try:
            _check_directory(self._directory)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise self.unusable(e) from e
        self._keepers[descriptor] = None
        return descriptor

    def _forget(self, descriptor: int) -> None:
        del self._keepers[descriptor]
        os.close(descriptor)


LOCK_VARIABLE = "ARCHSMITH_LOCK_DIRECTORY"


def default_lock_directory() -> Path:
    """Return the one place of this host, the same for all users and whatever TMPDIR says to one of them.

    `$ARCHSMITH_LOCK_DIRECTORY` names another one: containers on one host share it, tests have their own.
    """
    if named := os.environ.get(LOCK_VARIABLE):
        return Path(named)
    everybodys = Path("/tmp")  # noqa: S108 - the directory and its files are checked before they are used
    return (everybodys if everybodys.is_dir() else Path(tempfile.gettempdir())) / "archsmith-locks"


def _prepare_directory(directory: Path) -> None:
    try:
        _check_directory(directory)
    except FileNotFoundError:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir()
            # The process's umask would keep other users out.
            directory.chmod(0o1777)
        _check_directory(directory)


def _check_directory(directory: Path) -> None:
    if not stat.S_ISDIR(directory.lstat().st_mode):
        raise DeviceError(
            f"the lock directory {directory} is a link or a file; somebody may have put it there on purpose",
            hint=f"look at it, then delete it: ls -l {directory}",
        )


def _open_for_everybody(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        # Without O_CREAT first: with it, Linux refuses other users' files in sticky directories.
        with suppress(FileNotFoundError):
            return os.open(path, flags)
        with suppress(FileExistsError):
            # Made under another name and linked, so that nobody finds it before its mode is right.
            temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
            descriptor = os.open(temporary, flags | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                os.fchmod(descriptor, 0o666)
                os.link(temporary, path)
            finally:
                os.close(descriptor)
                temporary.unlink()


def _is_at(descriptor: int, *, path: Path) -> bool:
    """Tell whether the open file is still the one at `path`: somebody may have deleted it in between."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _release_in_forked_children(files: LockFiles) -> None:
    """Keep the locks out of children made by fork: one that outlives a killed holder would go on holding them."""
    reference = weakref.ref(files)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close_in_child()

    os.register_at_fork(after_in_child=close)
