"""Every file type loads, offline."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from tests.data.loading import ROWS, assistant, load, user

AS_LIST = json.dumps(ROWS, indent=1).encode()
AS_LINES = b"\n".join(json.dumps(row).encode() for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", AS_LIST),
        ("a.jsonl", AS_LINES),
        ("a.JSONL", AS_LINES),
        ("a.json.gz", gzip.compress(AS_LIST, mtime=0)),
        ("a.jsonl.gz", gzip.compress(AS_LINES, mtime=0)),
        ("lines.json", AS_LINES),
        ("list.jsonl", b"\n\n" + AS_LIST),
        ("mark.jsonl", b"\xef\xbb\xbf" + AS_LINES),
        ("mark.json", b"\xef\xbb\xbf" + AS_LIST),
        ("windows.jsonl", AS_LINES.replace(b"\n", b"\r\n\r\n") + b"\r\n"),
    ],
)
def test_json_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    loaded = load(tmp_path / name)
    assert loaded.form == "explicit text"
    assert [(p.prompt, p.chosen, p.rejected, p.uid) for p in loaded.pairs] == [
        ((user("Name a colour."),), "Blue — like the sea.", "7", 0),
        ((user("2009-01-01?"),), "2009-01-01", "2010-01-01", 1),
    ]
    assert loaded.skipped == {}


def test_parquet_and_arrow_folders_give_the_same_as_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(AS_LINES)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a [1].parquet")
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "arrow")
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    names = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    expected = load(tmp_path / "a.jsonl")
    for name in ("a [1].parquet", "arrow", "splits"):
        assert load(tmp_path / name) == expected
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == names


def test_lists_of_messages_in_parquet(tmp_path: Path) -> None:
    rows = [{"chosen": [user("Hi"), assistant("Hello")], "rejected": [user("Hi"), assistant("What")], "score": 0.5}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    loaded = load(tmp_path / "a.parquet")
    assert loaded.form == "implicit conversational"
    assert loaded.pairs[0].prompt == (user("Hi"),)


def test_pairs_limits_the_usable_rows(tmp_path: Path) -> None:
    rows = [{"prompt": "x", "chosen": str(i), "rejected": str(i % 3)} for i in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    loaded = load(tmp_path / "a.jsonl", pairs=150)
    assert [pair.uid for pair in loaded.pairs] == list(range(3, 153))
    assert loaded.skipped == {"equal responses": 3}
    assert len(load(tmp_path / "a.jsonl", pairs=1000).pairs) == 197


OFFLINE = """
import os
import sys
from pit_ray.config.tree import Data
from pit_ray.data.preferences import load_pairs
from pit_ray.errors import DataError

def said(source):
    try:
        return f"{len(load_pairs(Data(source=source)).pairs)} pairs"
    except DataError as error:
        return str(error).replace("\\n", " ")

for missing in ("nowhere.jsonl", "./nowhere", "/no-such-root/set", "~/no-such-set", "json", "here/set", "a/b/c"):
    print(said(missing))
print("datasets" in sys.modules)
print(said("rows.parquet"))
print(said("no-such-owner/no-such-set"))
sys.stdout.flush()
os._exit(0)  # a thread of a library may outlive the interpreter's end; that is not what is tested
"""


def test_a_missing_path_never_reaches_the_hub_and_all_works_offline(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    (folder / "here").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    ran = subprocess.run(
        [sys.executable, "-c", OFFLINE], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    *missing, imported, parquet, hub = ran.stdout.splitlines()
    assert len(missing) == 7
    assert all("there is no" in line for line in missing)
    assert imported == "False"  # the library that talks to the hub was not even loaded
    assert parquet == "2 pairs"
    assert hub.startswith("no-such-owner/no-such-set (split train on the hub, as no file here has this name): ")
    assert sorted(path.name for path in folder.rglob("*")) == ["here", "rows.parquet"]


def test_real_hh_file() -> None:
    folder = os.environ.get("PIT_RAY_SHARED_DATA")
    if not folder:
        pytest.skip("PIT_RAY_SHARED_DATA does not name the folder with hh-harmless-1200.jsonl.gz")
    loaded = load(Path(folder) / "hh-harmless-1200.jsonl.gz")
    assert loaded.form == "hh transcripts"
    assert (len(loaded.pairs), loaded.skipped) == (1196, {"empty response": 4})
    assert loaded.pairs[1].prompt[0] == user("How much alcohol can I drink per day?")
    assert loaded.pairs[1].rejected.startswith("I’m glad that you’re enjoying")
    assert not any("\n\nHuman:" in turn["content"] for pair in loaded.pairs for turn in pair.prompt)
