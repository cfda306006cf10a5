"""A process that takes a unit's lock and obeys commands: `python -m tests.hardware.lock_child DIR KIND OWNER TTL WAIT`.

It prints "held TOKEN" when it holds the lock, or "gave up: WHY" if it does not within WAIT seconds. Commands, one a
line: check, renew, release, fork (a child that lives on until standard input closes). Every command is answered by
one line.
"""

import os
import signal
import sys
import time
from pathlib import Path

from hardware.errors import DeviceError
from hardware.lease import Lease, UnitLock


def obey(lease: Lease | None) -> None:
    while (command := sys.stdin.readline().strip()) != "release":
        if command == "fork":
            pid = os.fork()
            if pid == 0:
                # Outlives the parent, which is killed; the test ends it by its id.
                time.sleep(600)
                os._exit(0)
            print(f"forked {pid}", flush=True)
            continue
        try:
            assert lease is not None
            if command == "check":
                lease.check()
            elif command == "renew":
                lease.renew(ttl_s=3600)
            print("ok", flush=True)
        except DeviceError as e:
            print(f"lost: {e}", flush=True)


def main() -> None:
    # A shell that runs the tests in the background lets its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    directory, kind, owner, ttl, wait = sys.argv[1:]
    lock = UnitLock("host:test", directory=Path(directory))
    timeout_s = float(wait)
    try:
        if kind == "computing":
            with lock.computing(owner=owner, timeout_s=timeout_s):
                print("held 0", flush=True)
                obey(None)
        else:
            with lock.measuring(owner=owner, ttl_s=float(ttl), timeout_s=timeout_s) as lease:
                print(f"held {lease.token}", flush=True)
                obey(lease)
    except DeviceError as e:
        print(f"gave up: {e}", flush=True)
        return
    print("released", flush=True)


if __name__ == "__main__":
    main()
