"""Where a run is kept for good: a folder that every node sees, or an object store of which each node has a mirror.

A mirror lies at the same path on every node, so paths mean the same everywhere. Whoever reads a path that another node
may have written pulls it first; whoever wrote one that others need pushes it afterwards. In a folder that all see, both
do nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from pit_ray.errors import LINE, ConfigError, InfraError, short

MIRROR = "PIT_RAY_MIRROR"
"""Environment variable: the folder for mirrors, on every node; by default a user's own under /tmp."""
SCHEMES = ("s3", "gs", "gcs", "file")
MARKS = ("done.json", "finished.json", "manifest.json")
"""Files that say that what lies beside them is whole; pushed after it."""
SETTLED_NS = 2 * 10**9
SMALL = 2**20
"""Bytes; a larger file is not written twice within a second."""
CHUNK = 8 * 2**20


@dataclass(frozen=True)
class Store:
    """The store behind a run folder; without a `uri`, the folder itself, where pushing and pulling do nothing."""

    root: Path
    uri: str | None = None
    _open: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "uri": self.uri, "_open": {}}  # a connection stays where it was opened

    @property
    def remote(self) -> bool:
        return self.uri is not None

    def push(self, path: Path) -> None:
        """Puts a file, or a folder's files, into the store, marks last. InfraError when the store does not take it."""
        if not self.remote:
            return
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        with self._reaching(path):
            known = {info.path: info for info in self._listed(path)}
            files = [file for file in files if not _pulled(file, known.get(self._key(file)))]
            for file in sorted(files, key=lambda file: (file.name in MARKS, file)):
                with file.open("rb") as source, self._fs.open_output_stream(self._key(file)) as target:
                    shutil.copyfileobj(source, target, CHUNK)
                stamp = self._fs.get_file_info(self._key(file)).mtime_ns
                os.utime(file, ns=(stamp, stamp))  # what is here is what is there

    def pull(self, path: Path) -> None:
        """Brings a file, or a folder's files, up to date with the store; what is not in the store is left as it is."""
        if not self.remote or not path.is_relative_to(self.root):
            return
        with self._reaching(path):
            for info in self._listed(path):
                file = self._path(info.path)
                stamp = info.mtime_ns
                if file.is_file() and _same(file, info):
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                part = file.with_name(f".{file.name}.{os.getpid()}.part")
                with self._fs.open_input_stream(info.path) as source, part.open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK)
                os.utime(part, ns=(stamp, stamp))
                part.replace(file)

    def opened(self, path: Path) -> tuple[fs.FileSystem, str]:
        """The file system that keeps a path, and the path's name there."""
        return self._fs, self._key(path)

    def sizes(self, path: Path) -> dict[str, int]:
        """The files of a folder in the store, by their path in it."""
        with self._reaching(path):
            return {str(self._path(info.path).relative_to(path)): info.size for info in self._listed(path)}

    def names(self, path: Path) -> list[str]:
        """What lies right in a folder of the store, sorted."""
        with self._reaching(path):
            found = self._fs.get_file_info(fs.FileSelector(self._key(path), allow_not_found=True))
            return sorted(PurePosixPath(info.path).name for info in found)

    def read(self, path: Path) -> bytes | None:
        """A file's bytes from the store; None where it is not there."""
        with self._reaching(path):
            if self._fs.get_file_info(self._key(path)).type != fs.FileType.File:
                return None
            with self._fs.open_input_stream(self._key(path)) as source:
                return source.read()

    def remove(self, path: Path) -> None:
        """Takes a folder out of the store, and out of this node's mirror."""
        shutil.rmtree(path, ignore_errors=True)
        if self.remote:
            with self._reaching(path):
                found = self._listed(path)
                for info in found:
                    if PurePosixPath(info.path).name in MARKS:  # first, so that what is half removed does not count
                        self._fs.delete_file(info.path)
                if found:
                    self._fs.delete_dir(self._key(path))

    def _listed(self, path: Path) -> list[fs.FileInfo]:
        key = self._key(path)
        info = self._fs.get_file_info(key)
        if info.type == fs.FileType.File:
            return [info]
        found = self._fs.get_file_info(fs.FileSelector(key, allow_not_found=True, recursive=True))
        return [info for info in found if info.type == fs.FileType.File]

    def _key(self, path: Path) -> str:
        return str(PurePosixPath(self._opened[1]) / path.relative_to(self.root))

    def _path(self, key: str) -> Path:
        return self.root / PurePosixPath(key).relative_to(self._opened[1])

    @property
    def _fs(self) -> fs.FileSystem:
        return self._opened[0]

    @property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        if "fs" not in self._open:
            local = fs.LocalFileSystem(), str(self.root)
            self._open["fs"] = fs.FileSystem.from_uri(self.uri) if self.remote else local
        return self._open["fs"]

    @contextmanager
    def _reaching(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            said = short(" ".join(str(error).split()), LINE)
            shown = path.relative_to(self.root) if path.is_relative_to(self.root) else path
            raise InfraError(f"{self.uri}: {shown} cannot be read or written there: {said}") from error


def _same(file: Path, info: fs.FileInfo) -> bool:
    """Whether a mirrored file is the one in the store, whose clock tells whole seconds: what was pulled within those
    of its writing may have been written again since."""
    here = file.stat()
    settled = info.size > SMALL or here.st_ctime_ns - info.mtime_ns > SETTLED_NS
    return settled and (here.st_size, here.st_mtime_ns) == (info.size, info.mtime_ns)


def _pulled(file: Path, info: fs.FileInfo | None) -> bool:
    """Whether a mirrored file came from the store as it is there."""
    return info is not None and (file.stat().st_size, file.stat().st_mtime_ns) == (info.size, info.mtime_ns)


def store_of(run: str) -> Store:
    """The store of a run, by its `run` key. ConfigError for a URI of a kind that is not known."""
    if not re.match(r"^[a-z0-9]+://", run):
        return Store(Path(run).absolute())
    scheme = urlsplit(run).scheme
    if scheme not in SCHEMES:
        raise ConfigError(f"run: '{scheme}://' is no storage that pit-ray knows; give s3://, gs:// or a folder")
    if "@" in urlsplit(run).netloc:
        raise ConfigError("run: a URI with credentials in it would be logged; give them in the environment")
    name = PurePosixPath(urlsplit(run).path).name
    if not name:
        raise ConfigError(f"run: '{short(run)}' names a bucket; give a folder in it, for instance {run}/runs/mine")
    above = Path(os.environ.get(MIRROR) or f"/tmp/pit-ray-{os.getuid()}")
    with suppress(OSError):  # who writes there says what is wrong
        above.mkdir(mode=0o700, parents=True, exist_ok=True)
    if above.exists() and above.stat().st_uid != os.getuid():
        raise ConfigError(f"{above}, where runs in object stores are mirrored, is another user's; set {MIRROR}")
    return Store(above / f"{name}-{hashlib.sha256(run.encode()).hexdigest()[:12]}", run)
