"""What goes to the cluster with a job: an allow-list, its size, and a folder that holds just that."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pit_ray.config import Config
from pit_ray.errors import ConfigError, no_such_path

SOURCE = ("pyproject.toml", "README.md", "pit_ray", "actors", "requirements")
"""Of a checkout of pit-ray, so that the job runs the code it was submitted from."""
IGNORED = ("__pycache__", "*.pyc", ".*")
LIMIT = 100 * 2**20
"""Bytes that Ray's job server takes (it refuses larger bodies with 413)."""
OFFENDERS = 5


@dataclass(frozen=True)
class Package:
    """Files to upload: target path -> source."""

    files: dict[Path, Path]

    @property
    def size(self) -> int:
        return sum(source.stat().st_size for source in self.files.values())

    def describe(self) -> str:
        """Size and number of files, by what they belong to, as one line."""
        parts: dict[str, int] = {}
        for target, source in self.files.items():
            parts[target.parts[0]] = parts.get(target.parts[0], 0) + source.stat().st_size
        shown = ", ".join(f"{name} {_mib(size)}" for name, size in sorted(parts.items(), key=lambda part: -part[1]))
        return f"{_mib(self.size)} in {len(self.files)} files: {shown}"

    def check(self) -> None:
        """ConfigError with the largest files when it is more than Ray takes."""
        if self.size <= LIMIT:
            return
        largest = sorted(self.files.items(), key=lambda item: -item[1].stat().st_size)[:OFFENDERS]
        shown = ", ".join(f"{target} {_mib(source.stat().st_size)}" for target, source in largest)
        raise ConfigError(
            f"{_mib(self.size)} to upload, and Ray takes {_mib(LIMIT)}. The largest: {shown}. Put data and models "
            "where all nodes see them, and name them there in the recipe"
        )

    def check_paths(self, config: Config, root: Path) -> None:
        """ConfigError for data and models that are here, but would not be on the cluster."""
        named = {"data.source": config.data.source, "model.path": config.model.path}
        named |= {f"ready.{stage}": path for stage, path in config.ready.model_dump().items()}
        for key, path in named.items():
            if path is None or Path(path).is_absolute() or not (root / path).exists():
                continue
            if not any(target.is_relative_to(Path(path)) for target in self.files):
                raise ConfigError(
                    f"{key}: {path} is here and would not be on the cluster; upload it with --include {path}, or name "
                    "a path that is the same on all nodes"
                )

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A temporary folder with the files in their places."""
        with tempfile.TemporaryDirectory(prefix="pit-ray-job-") as scratch:
            for target, source in self.files.items():
                path = Path(scratch) / target
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, path)
            yield Path(scratch)


def collect(root: Path, recipe: str, include: Sequence[Path]) -> Package:
    """The package of a job: pit-ray's source where `root` is a checkout of it, the recipe where it is a file, and what
    the user adds. ConfigError for what is not there, or lies outside `root`."""
    wanted = [root / name for name in SOURCE] if (root / "pit_ray").is_dir() else []
    given = [Path(recipe)] if Path(recipe).suffix in (".yaml", ".yml") else []
    for path in [*given, *include]:
        if not (root / path).exists():
            raise ConfigError(f"to be uploaded: {no_such_path(root / path)}")
        if not (root / path).resolve().is_relative_to(root.resolve()):
            raise ConfigError(f"to be uploaded: {path} lies outside {root}, which becomes the job's working folder")
        wanted.append(root / path)
    files: dict[Path, Path] = {}
    for path in wanted:
        for source in [path] if path.is_file() else sorted(path.rglob("*")):
            if source.is_file() and not _ignored(source.relative_to(root)):
                files[source.relative_to(root)] = source
    return Package(files)


def _ignored(path: Path) -> bool:
    return any(Path(part).match(pattern) for part in path.parts for pattern in IGNORED)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
