"""The store against a real HTTP server, moto's S3: what one node pushes another pulls; nothing half-written counts."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from pit_ray import store
from pit_ray.errors import ConfigError, InfraError
from pit_ray.lease import claimed
from pit_ray.run_folder import RunFolder
from pit_ray.store import Store, store_of


@pytest.fixture
def node(bucket: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Store]:
    """The store as a node of that name sees it."""
    uri = bucket(f"{tmp_path.name}/mine")

    def at(name: str) -> Store:
        monkeypatch.setenv("PIT_RAY_MIRROR", str(tmp_path / name))
        return store_of(uri)

    return at


def test_what_one_node_pushes_another_pulls(node: Callable[[str], Store]) -> None:
    one, other = node("one"), node("other")
    folder = one.root / "stages" / "00-data"
    (folder / "renderer").mkdir(parents=True)
    (folder / "renderer" / "renderer.json").write_text("{}")
    (folder / "done.json").write_text('{"seconds": 1}')
    one.push(folder)
    there = other.root / "stages" / "00-data"
    other.pull(there)
    assert (there / "renderer" / "renderer.json").read_text() == "{}"
    assert other.sizes(there) == {"done.json": 14, "renderer/renderer.json": 2}
    assert other.names(other.root / "stages") == ["00-data"]
    assert other.read(there / "done.json") == b'{"seconds": 1}'
    assert other.read(there / "no") is None
    assert not list(there.rglob("*.part"))


def test_a_pull_brings_what_changed_and_leaves_what_is_its_own(node: Callable[[str], Store]) -> None:
    one, other = node("one"), node("other")
    one.root.mkdir(parents=True)
    (one.root / "a").write_text("1")
    one.push(one.root)
    other.pull(other.root)
    (other.root / "mine").write_text("kept")
    (one.root / "a").write_text("2")  # as long, and within the second that the store's clock tells
    one.push(one.root / "a")
    other.pull(other.root)
    assert (other.root / "a").read_text() == "2" and (other.root / "mine").read_text() == "kept"


def test_what_is_here_already_is_not_fetched_again(
    node: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SETTLED_NS", 0)
    one, other = node("one"), node("other")
    one.root.mkdir(parents=True)
    (one.root / "a").write_text("1")
    one.push(one.root)
    time.sleep(1.1)
    other.pull(other.root)
    fetched = (other.root / "a").stat().st_ino
    other.pull(other.root)
    assert (other.root / "a").stat().st_ino == fetched


def test_marks_are_pushed_last_and_removed_first(node: Callable[[str], Store], monkeypatch: pytest.MonkeyPatch) -> None:
    mine = node("one")
    folder = mine.root / "step-1"
    folder.mkdir(parents=True)
    for name in ("a", "manifest.json", "z"):
        (folder / name).write_text(name)
    order: list[str] = []
    actual = mine._fs

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(actual, name)

        def open_output_stream(self, key: str) -> object:
            order.append(f"+{Path(key).name}")
            return actual.open_output_stream(key)

        def delete_file(self, key: str) -> None:
            order.append(f"-{Path(key).name}")
            actual.delete_file(key)

        def delete_dir(self, key: str) -> None:
            order.append(f"-{Path(key).name}")
            actual.delete_dir(key)

    mine._open["fs"] = (Watched(), mine._opened[1])
    mine.push(folder)
    mine.remove(folder)
    assert order == ["+a", "+z", "+manifest.json", "-manifest.json", "-step-1"]
    assert mine.names(mine.root) == []


def test_a_store_travels_between_processes(node: Callable[[str], Store]) -> None:
    mine = node("one")
    mine.names(mine.root)  # connected
    again = pickle.loads(pickle.dumps(mine))
    assert again == mine and again.names(again.root) == []


def test_a_store_that_is_not_there_is_named(node: Callable[[str], Store], tmp_path: Path) -> None:
    mine = node("one")
    gone = Store(mine.root, str(mine.uri).replace("s3://runs/", "s3://nowhere/"))
    (tmp_path / "one").mkdir(exist_ok=True)
    mine.root.mkdir(parents=True, exist_ok=True)
    (mine.root / "a").write_text("1")
    with pytest.raises(InfraError, match=r"s3://nowhere/.*: a cannot be read or written there: "):
        gone.push(mine.root / "a")


def test_a_store_without_permission_is_named_before_a_run_begins(
    node: Callable[[str], Store], s3: str, tmp_path: Path
) -> None:
    def without_rights(after: bytes) -> None:
        """From so many requests on, S3 asks who may do what."""
        url = f"http://{s3}/moto-api/reset-auth"
        urlopen(Request(url, data=after, headers={"Content-Type": "text/plain"}), timeout=20)

    mine = node("one")
    try:
        without_rights(b"0")
        said = r"s3://runs/.*: status\.json cannot be read or written there: .*(DENIED|403)"
        with pytest.raises(InfraError, match=said):
            claimed(RunFolder(str(mine.uri)), print).__enter__()
    finally:
        without_rights(b"inf")


def test_a_folder_is_its_own_store(tmp_path: Path) -> None:
    folder = store_of(str(tmp_path / "run"))
    assert not folder.remote and folder.root == tmp_path / "run"
    folder.push(tmp_path)
    folder.pull(tmp_path)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("ftp://x/y", "'ftp://' is no storage"),
        ("s3://bucket", "names a bucket"),
        ("s3://me:pw@bucket/x", "in the environment"),
    ],
)
def test_what_is_no_store_is_refused(run: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        store_of(run)
