"""A real SSH server on loopback: temporary keys, a port of its own, ended with the test."""

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.hardware.agents import eventually


def why_not() -> str:
    """Why no server can run here; empty if one can."""
    for program in ("ssh", "ssh-keygen", _sshd()):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install openssh-client openssh-server"
    return ""


def _sshd() -> str:
    # It is not on the PATH of ordinary users.
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "sshd"


@dataclass(frozen=True, kw_only=True)
class SshServer:
    """A running server that lets the user of the tests in."""

    directory: Path
    port: int
    user: str
    process: "subprocess.Popen[bytes]"

    @property
    def identity(self) -> Path:
        return self.directory / "identity"

    def known_hosts(self, key: str = "host_key") -> Path:
        """A file that says that the server has a key."""
        path = self.directory / f"known_hosts of {key}"
        path.write_text(f"[127.0.0.1]:{self.port} {(self.directory / f'{key}.pub').read_text()}")
        return path


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_server(directory: Path) -> Iterator[SshServer]:
    """Start a server as a child process, wait until it listens, and end it afterwards."""
    if os.geteuid() == 0:
        # Where the server's unprivileged half is locked in; system services make it, and nobody else.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "other_key", "identity"):
        make_key(directory / name)
    shutil.copy(directory / "identity.pub", directory / "authorized_keys")
    port = free_port()
    config = directory / "sshd_config"
    config.write_text(
        f'Port {port}\nListenAddress 127.0.0.1\nHostKey "{directory}/host_key"\nPidFile none\n'
        f'AuthorizedKeysFile "{directory}/authorized_keys"\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n'
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nPrintMotd no\n"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([_sshd(), "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=log)
        try:
            assert eventually(lambda: process.poll() is not None or _listens(port))
            assert process.poll() is None, (directory / "log").read_text()
            yield SshServer(directory=directory, port=port, user=getpass.getuser(), process=process)
        finally:
            process.terminate()
            process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
