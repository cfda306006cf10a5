"""What a job runs: `nas` with the job's arguments. Its working directory is what was shipped."""

import os
import signal
from pathlib import Path

from experiments.cli import main
from hardware.fleet import FLEET_FILE, FLEET_VARIABLE


def leave_working_directory() -> None:
    """Go where nothing changes.

    Nodes that share a machine may share Ray's directory there, too (`ray start --temp-dir`); then each unpacks what was
    shipped over the others' copy, and the working directory of a process that is there already is gone.
    """
    devices = Path(FLEET_FILE).absolute()
    if devices.exists():
        os.environ[FLEET_VARIABLE] = str(devices)
    os.chdir("/")


if __name__ == "__main__":
    # As Ctrl-C. A cluster that was started in the background of a script passes on that it is ignored, and Python
    # keeps to that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    leave_working_directory()
    main()
