"""What an operator does with a cluster file: `ray up`, the way to the dashboard, jobs, `ray down`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from tests.actors.cluster.conftest import ROOT
from tests.actors.cluster.hosts import HOME, Host

ENVIRONMENT = HOME / "pit-ray-env"
PYTHON = str(ENVIRONMENT / "bin" / "python")
DASHBOARD = "http://127.0.0.1:8265"
S3_PORT = 5000
AWS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}


class Job:
    """A job that is followed."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("w") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str, seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.said:
            assert self._process.poll() is None and time.monotonic() < deadline, self.said[-6000:]
            time.sleep(0.5)

    def end(self, seconds: float = 900) -> str:
        """What it has said, once it has ended well."""
        assert self._process.wait(seconds) == 0, self.said[-6000:]
        return self.said

    def let_go(self) -> None:
        """Follows it no longer."""
        self._process.kill()
        self._process.wait()


class Cluster:
    """A cluster file on an operator's machine."""

    def __init__(self, operator: Host, file: Path, **environment: str) -> None:
        """`file`: as the operator names it; `environment`: for each command."""
        self.operator, self.file, self.environment = operator, file, environment
        self.shared = operator.home.parents[1] / "shared"
        self._way_in: subprocess.Popen | None = None
        self._jobs: list[Job] = []
        self.ray("get-auth-token", "--generate")

    def python(self, *arguments: str, seconds: float = 300, **environment: str) -> str:
        """What a Python of the operator says, from the checkout."""
        environment = {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", **self.environment, **environment}
        return self.operator.run([PYTHON, *arguments], ROOT, seconds, **environment)

    def ray(self, *arguments: str, seconds: float = 300) -> str:
        return self.python("-m", "ray.scripts.scripts", *arguments, seconds=seconds)

    def up(self, nodes: int) -> None:
        """`ray up` and `ray dashboard`; returns when so many nodes are there."""
        self.ray("up", "-y", str(self.file))
        self.close()
        self._way_in = self._start("dashboard", str(self.file))
        self.python("-c", WAIT_FOR_NODES, DASHBOARD, str(nodes))

    def down(self) -> None:
        self.ray("down", "-y", str(self.file))
        self.close()

    def close(self) -> None:
        """Lets go of the dashboard and of all jobs."""
        if self._way_in is not None:
            self._way_in.kill()
            self._way_in.wait()
            self._way_in = None
        for job in self._jobs:
            job.let_go()
        self._jobs.clear()

    def submit(self, *arguments: str, environment: str = "{}") -> Job:
        """The plain form of a job, followed; `environment`: its runtime environment, as JSON."""
        command = self._command(
            "job", "submit", "--address", DASHBOARD, "--working-dir", ".", "--runtime-env-json", environment,
            "--", "pit-ray", "train", *arguments, "actors.address=auto", "tracking.wandb=false",
        )  # fmt: skip
        job = Job(command, self.operator.home / f"job-{time.monotonic():.0f}.log")
        self._jobs.append(job)
        return job

    def _start(self, *arguments: str) -> subprocess.Popen:
        quiet = subprocess.DEVNULL
        return subprocess.Popen(self._command(*arguments), stdin=quiet, stdout=quiet, stderr=quiet)

    def _command(self, *arguments: str) -> list[str]:
        environment = {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "PYTHONUNBUFFERED": "1", **self.environment}
        return self.operator.command([PYTHON, "-m", "ray.scripts.scripts", *arguments], ROOT, **environment)


def install(host: Host, lock: str) -> None:
    """An environment as clusters/setup-node.sh would make it from requirements/LOCK.txt, so that it fetches nothing;
    its packages are the ones that run this test."""
    here = host.home / ENVIRONMENT.relative_to(HOME)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", here], check=True)
    libraries = next(here.glob("lib/python*/site-packages"))
    (libraries / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (here / "bin" / "ray").write_text(
        f"#!{PYTHON}\nimport sys\nfrom ray.scripts.scripts import main\nsys.exit(main())\n"
    )
    (here / "bin" / "pip").write_text(f'#!/bin/sh\nexec {PYTHON} -m pip "$@"\n')
    for script in ("ray", "pip"):
        (here / "bin" / script).chmod(0o755)
    digest = hashlib.sha256((ROOT / "requirements" / f"{lock}.txt").read_bytes()).hexdigest()
    (here / "lock.sha256").write_text(f"{digest}  -\n")


def s3(host: Host, run: str) -> str:
    """The URI of a run in the object store of moto on a host."""
    return f"s3://runs/{run}?endpoint_override={host.address}:{S3_PORT}&scheme=http&region=us-east-1"


WAIT_FOR_NODES = """
import sys, time
from ray.util.state import list_nodes
while True:
    try:
        alive = sum(node.state == "ALIVE" for node in list_nodes(address=sys.argv[1]))
    except Exception:  # the tunnel, or what is behind it, is not there yet
        alive = 0
    if alive == int(sys.argv[2]):
        break
    time.sleep(1)
"""
PUSH = f"""
import shutil, sys, time, boto3
from pit_ray.store import store_of
client = boto3.client("s3", endpoint_url="http://127.0.0.1:{S3_PORT}", region_name="us-east-1")
for attempt in range(60):
    try:
        client.create_bucket(Bucket="runs")
        break
    except Exception:
        time.sleep(0.5)
store = store_of(sys.argv[1])
shutil.copytree(sys.argv[2], store.root)
store.push(store.root)
"""
PULL = """
import shutil, sys
from pit_ray.store import store_of
store = store_of(sys.argv[1])
store.pull(store.root)
shutil.copytree(store.root, sys.argv[2])
"""
