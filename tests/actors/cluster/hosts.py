"""Hosts on this machine: each a network, process and mount namespace with an address, a home and an ssh server of its
own, on a switch that nothing else is on. For root on Linux."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NEEDS = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")
HOME = Path("/mnt")
USERS = ("root", "ubuntu")
"""Who may log in to a host, both as root, whose home is HOME."""
MIRROR = "/tmp/pit-ray-0"
"""Where root keeps what it has of an object store, by default."""
PRIVATE = (str(HOME), MIRROR, "/tmp/ray", "/tmp/ray_tmp_mount", "/run/sshd")
"""Folders of which each host has its own."""
SHARED = Path("/srv")
"""The folder that all hosts share, as storage for runs."""
INIT = """
set -e
ip link set lo up
hostname "$1"
mount --make-rprivate /
for folder in {private}; do mount --bind "{home}$folder" "$folder"; done
mount --bind {shared} {at}
mount --bind {passwd} /etc/passwd
mount -t tmpfs -o size=3g tmpfs /dev/shm
/usr/sbin/sshd -D -e -f {config} &
echo up
wait
"""
SSHD = """
HostKey {folder}/host_key
AuthorizedKeysFile .ssh/authorized_keys
PidFile none
PermitRootLogin yes
PasswordAuthentication no
UsePAM no
StrictModes no
SetEnv RAY_prestart_worker_first_driver=0 RAY_enable_worker_prestart=0
"""
"""With the environment, since Ray would start a process for each CPU that a host is said to have, and it has fewer."""


def missing() -> str | None:
    """What this machine lacks for such hosts."""
    if os.geteuid() != 0:
        return "hosts in namespaces need root"
    lacking = [name for name in NEEDS if shutil.which(name) is None]
    if lacking:
        return f"hosts in namespaces need {', '.join(lacking)}"
    allowed = subprocess.run(["unshare", "--mount", "--pid", "--uts", "--net", "--fork", "true"], capture_output=True)
    return f"namespaces are not allowed here: {allowed.stderr.decode().strip()}" if allowed.returncode else None


@dataclass(frozen=True)
class Host:
    name: str
    address: str
    init: int
    """Its first process."""
    home: Path

    def command(self, arguments: Sequence[str], folder: Path, **environment: str) -> list[str]:
        """The command line that runs a command on this host."""
        inside = {"HOME": str(HOME), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "dumb", **environment}
        values = [f"{name}={value}" for name, value in inside.items()]
        enter = ["nsenter", "--target", str(self.init), "--all", f"--wd={folder}"]
        return [*enter, "env", "-i", *values, *arguments]

    def run(self, arguments: Sequence[str], folder: Path, seconds: float = 300, **environment: str) -> str:
        """What a command says on this host; AssertionError when it fails."""
        line = self.command(arguments, folder, **environment)
        done = subprocess.run(line, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL)
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{' '.join(arguments)}: exit {done.returncode}\n{said[-6000:]}"
        return said

    def wipe(self, folder: str) -> None:
        """Empties one of its private folders."""
        for path in (self.home.parent / folder.lstrip("/")).iterdir():
            shutil.rmtree(path)

    def link(self, state: str) -> None:
        """Pulls its cable (down), or puts it back (up)."""
        _ip("-n", self._switch, "link", "set", self.name, state)

    @property
    def _switch(self) -> str:
        return self.name.rsplit("-", 1)[0]


class Network:
    """Hosts on one switch, started one by one."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where what the hosts need and write is kept."""
        self.folder, self.shared = folder, folder / "shared"
        self._switch = f"pr{os.getpid() % 100000}"
        self._running: dict[str, subprocess.Popen] = {}
        self._wired: list[str] = []
        self.shared.mkdir()
        for key in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        (folder / "sshd_config").write_text(SSHD.format(folder=folder))
        users = re.sub(r"^(root|ubuntu):.*\n", "", Path("/etc/passwd").read_text(), flags=re.M)
        (folder / "passwd").write_text(users + "".join(f"{name}:x:0:0::{HOME}:/bin/bash\n" for name in USERS))
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")

    def boot(self, address: str, authorized: str = "") -> Host:
        """A new host; `authorized`: public keys that may log in, beside the one that every host has."""
        name = f"{self._switch}-{address.rsplit('.', 1)[1]}"
        self._wired.append(name)
        _wire(name, self._switch, address)
        process = self._running[name] = _start(name, self.folder, authorized)
        inside = int(subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()[0])
        return Host(name, address, inside, self.folder / name / HOME.relative_to("/"))

    def end(self, host: Host) -> None:
        """Cuts its power for good; everything in a process namespace ends with its first process."""
        process = self._running.pop(host.name)
        process.kill()
        process.wait()

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        for name in (*self._wired, self._switch):
            _ip("netns", "delete", name, check=False)


@contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A switch without hosts yet; all that runs on them ends with the block."""
    made = Network(folder)
    try:
        yield made
    finally:
        made.close()


def _wire(name: str, switch: str, address: str) -> None:
    _ip("netns", "add", name)
    _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", switch)
    _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
    _ip("-n", name, "link", "set", "eth0", "up")
    _ip("-n", name, "route", "add", "default", "dev", "eth0")  # by its route Ray finds a host's address
    _ip("-n", switch, "link", "set", name, "master", "bridge")
    _ip("-n", switch, "link", "set", name, "up")


def _start(name: str, folder: Path, authorized: str) -> subprocess.Popen:
    home = folder / name
    for private in PRIVATE:
        (home / private.lstrip("/")).mkdir(parents=True)
        Path(private).mkdir(parents=True, exist_ok=True)
    ssh = home / HOME.relative_to("/") / ".ssh"
    ssh.mkdir()
    shutil.copy(folder / "key", ssh / "pit-ray")
    (ssh / "authorized_keys").write_text((folder / "key.pub").read_text() + authorized)
    script = INIT.format(
        private=" ".join(PRIVATE), home=home, shared=folder / "shared", at=SHARED, passwd=folder / "passwd",
        config=folder / "sshd_config",
    )  # fmt: skip
    log = folder / f"{name}.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "--mount", "--pid", "--uts", "--fork", "--mount-proc",
             "--kill-child", "bash", "-c", script, "init", name],
            stdout=said, stderr=said, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    deadline = time.monotonic() + 20
    while "up\n" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return process


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)
