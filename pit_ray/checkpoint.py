"""The checkpoints of a stage: whole or not there, checksummed, the newest few and the best of them kept."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pit_ray.run_folder import sync_to_disk, write_json, write_text, writing
from pit_ray.store import Store

MANIFEST = "manifest.json"
"""Size and SHA-256 of every other file of a checkpoint, and how good its steps were; written last."""
BEST = "best"


class Checkpoints:
    """A folder of checkpoints, each a folder whose name begins with `step-`; the names sort by age.

    While it is written, and while it is removed, a checkpoint has another name.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.part, self.gone = folder / ".part", folder / ".gone"

    @contextmanager
    def write(self, name: str, phase: int = 0, score: float | None = None) -> Iterator[Path]:
        """The folder to fill; afterwards it is checksummed and renamed, and what need not be kept is removed.

        Kept are the `keep` newest and, where scores are given, the best: of the latest `phase` (scores of two phases
        cannot be compared) the one with the highest score, to which the link `best` then leads. InfraError when the
        disk does not take it; the checkpoints before stay as they were.
        """
        with writing(self.folder):
            shutil.rmtree(self.part, ignore_errors=True)
            self.part.mkdir(parents=True)
            try:
                yield self.part
                files = sorted(path for path in self.part.rglob("*") if path.is_file())
                described = {str(path.relative_to(self.part)): _described(path) for path in files}
                write_json(self.part / MANIFEST, {"files": described, "phase": phase, "score": score})
                for path in (*files, *(path for path in self.part.rglob("*") if path.is_dir()), self.part):
                    sync_to_disk(path)
                self._remove(self.folder / name)
                self.part.rename(self.folder / name)
                sync_to_disk(self.folder)
            finally:
                shutil.rmtree(self.part, ignore_errors=True)
            self._prune()

    def place(self, name: str) -> Path:
        """Where a checkpoint of this name is filled, by every process that has a part in it."""
        return self.part

    def newest(self, note: Callable[[str], None]) -> Path | None:
        """The newest sound checkpoint; each one that is passed over for a newer fault is noted with it."""
        if self.part.is_dir():
            note(f"passed over {self.part}: it was not finished")
        for folder in self._all():
            wrong = fault(folder)
            if wrong is None:
                return folder
            note(f"passed over {folder}: {wrong}")
        return None

    def _all(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)

    def _prune(self) -> None:
        found = self._all()
        ranks = {folder: rank for folder in found if (rank := _rank(folder)) is not None}
        best = max(ranks, key=lambda folder: (ranks[folder], folder.name), default=None)
        if best is not None:
            link = self.folder / f".{BEST}"
            link.unlink(missing_ok=True)
            link.symlink_to(best.name)
            link.replace(self.folder / BEST)
        for folder in found[self.keep :]:
            if folder != best:
                self._remove(folder)

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(self.gone, ignore_errors=True)
        if folder.exists():
            if folder.is_symlink():  # a replay's link to the run's own
                folder.unlink()
                return
            folder.rename(self.gone)
            shutil.rmtree(self.gone)


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint: a file that is missing, or not as it was written; None when it is sound."""
    manifest = _manifest(folder)
    if manifest is None:
        return f"its {MANIFEST} is missing or damaged"
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        found = _described(path)
        if any(found[what] != value for what, value in expected.items()):
            return f"{name} is not what was written"
    return None


def _manifest(folder: Path) -> dict | None:
    try:
        return _parsed((folder / MANIFEST).read_bytes())
    except OSError:
        return None


def _parsed(text: bytes | None) -> dict | None:
    try:
        manifest = json.loads(text or b"")
    except ValueError:
        return None
    whole = isinstance(manifest, dict) and {"files", "phase", "score"} <= manifest.keys()
    return manifest if whole and isinstance(manifest["files"], dict) else None


def _rank(folder: Path) -> tuple[int, float] | None:
    manifest = _manifest(folder)
    return None if manifest is None or manifest["score"] is None else (manifest["phase"], manifest["score"])


def _described(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


class StoredCheckpoints(Checkpoints):
    """The same in an object store, which cannot rename: filled under its own name by whoever has a part in it, and a
    checkpoint once its manifest stands. The store answers for the bytes, so the manifest has sizes alone; the best is
    named in the file `best.txt`."""

    def __init__(self, folder: Path, keep: int, store: Store) -> None:
        super().__init__(folder, keep)
        self.store = store

    def place(self, name: str) -> Path:
        return self.folder / name

    @contextmanager
    def write(self, name: str, phase: int = 0, score: float | None = None) -> Iterator[Path]:
        target = self.place(name)
        self.store.remove(target)
        target.mkdir(parents=True)
        whole = False
        try:
            yield target
            self.store.push(target)
            files = {file: {"size": size} for file, size in self.store.sizes(target).items()}
            write_json(target / MANIFEST, {"files": files, "phase": phase, "score": score})
            self.store.push(target / MANIFEST)
            whole = True
        finally:
            if not whole:
                self.store.remove(target)
        self._prune_stored()

    def newest(self, note: Callable[[str], None]) -> Path | None:
        for name in self._names():
            wrong = self._fault(self.folder / name)
            if wrong is None:
                return self.folder / name
            note(f"passed over {self.folder / name}: {wrong}")
        return None

    def _names(self) -> list[str]:
        """Newest first."""
        return [name for name in reversed(self.store.names(self.folder)) if name.startswith("step-")]

    def _fault(self, folder: Path) -> str | None:
        manifest = _parsed(self.store.read(folder / MANIFEST))
        if manifest is None:
            return f"its {MANIFEST} is missing or damaged"
        sizes = self.store.sizes(folder)
        for name, expected in manifest["files"].items():
            if name not in sizes:
                return f"{name} is missing"
            if sizes[name] != expected["size"]:
                return f"{name} is not what was written"
        return None

    def _prune_stored(self) -> None:
        read = {name: _parsed(self.store.read(self.folder / name / MANIFEST)) for name in self._names()}
        whole = {name: manifest for name, manifest in read.items() if manifest is not None}
        ranks = {name: (found["phase"], found["score"]) for name, found in whole.items() if found["score"] is not None}
        best = max(ranks, key=lambda name: (ranks[name], name), default=None)
        if best is not None:
            write_text(self.folder / f"{BEST}.txt", f"{best}\n")
            self.store.push(self.folder / f"{BEST}.txt")
        for name in [*whole][self.keep :]:  # one that was never finished takes nobody's place
            if name != best:
                self.store.remove(self.folder / name)


def checkpoints_in(folder: Path, keep: int, store: Store) -> Checkpoints:
    """The checkpoints of a folder, wherever its run is kept."""
    return StoredCheckpoints(folder, keep, store) if store.remote else Checkpoints(folder, keep)
