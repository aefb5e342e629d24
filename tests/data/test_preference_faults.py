"""Every fault of a file is a DataError that says where, whatever comes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_ray.config.tree import Data
from pit_ray.data.preferences import LoadedPairs, load_pairs
from pit_ray.errors import DataError
from tests.data.loading import ROWS, load

LINE = b'{"prompt": "Q", "chosen": "a", "rejected": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", LINE * 2 + b'\n{"prompt": "Q", \n', ["a.jsonl, line 4: not valid JSON"]),
        ("a.jsonl", LINE * 80 + b"{'prompt'}\n" + LINE, ["a.jsonl, line 81: not valid JSON"]),
        ("a.jsonl", LINE + b'{"chosen": "\xff"}', ["a.jsonl, line 2: not UTF-8 at its byte 13 (0xff)"]),
        ("a.jsonl", LINE + b"3\n", ["a.jsonl, line 2: expected an object", "found 3"]),
        ("a.jsonl", LINE + b"[1]\n" + LINE, ["a.jsonl, line 2: expected an object"]),
        ("a.jsonl", LINE + b"[" * 100_000, ["a.jsonl, line 2: not JSON that can be read"]),
        ("a.jsonl", LINE + b'{"n": ' + b"1" * 5000 + b"}", ["a.jsonl, line 2: not JSON that can be read"]),
        ("a.json", b"[\n" + LINE + b",\n" + LINE[:-2] + b"\n]", ["a.json, line 5: not valid JSON"]),
        ("a.json", b"[\n" + LINE + b",\n" + LINE, ["a.json, line 4: not valid JSON"]),
        ("a.json", b"\n[\n" + LINE + b', {"chosen":\n "\xc3("}]', ["a.json, line 5: not UTF-8 at its byte 3 (0xc3)"]),
        ("a.json", b"[" + LINE + b", 4]", ["a.json, row 1 (from 0): expected an object"]),
        ("a.json", b"[]", ["a.json: holds no rows"]),
        ("a.jsonl", b"\n\n", ["a.jsonl: holds no rows"]),
        ("a.jsonl", b"", ["a.jsonl: holds no rows"]),
        ("a.jsonl.gz", LINE, ["a.jsonl.gz: cannot be read after line 0", "gzip"]),
        ("a.jsonl.gz", gzip.compress(LINE * 999, mtime=0)[:-12], ["a.jsonl.gz: cannot be read after line"]),
        ("a.jsonl.gz", gzip.compress(LINE + b"{", mtime=0), ["a.jsonl.gz, line 2: not valid JSON"]),
        ("a.parquet", b"PAR1 not really", ["a.parquet: cannot be read: "]),
        ("a.csv", b"prompt,chosen,rejected\n", ["a.csv: not a kind of file", ".jsonl.gz, .parquet"]),
        ("a.jsonl", b'{"chosen": "a", "Rejectd": "b"}', ["no column 'rejected'; the nearest is 'Rejectd'", "'chosen'"]),
        ("a.jsonl", b'{"question": "a", "answer": "b"}', ["no column 'chosen' (columns: 'question', 'answer')"]),
        ("a.jsonl", LINE + b'{"prompt": "Q", "choosen": "a", "rejected": "b"}', ["line 2: ", "'choosen'"]),
        ("a.jsonl", LINE + b'{"prompt": "Q", "chosen": 4, "rejected": "b"}', ["line 2: column 'chosen'", "found 4"]),
        (
            "a.jsonl",
            LINE + b'{"prompt": [{"from": "human"}], "chosen": "a", "rejected": "b"}',
            ["line 2: message 1 of 'prompt' should be an object with role and content", "from"],
        ),
        (
            "a.jsonl",
            b'{"chosen": [{"role": "user", "content": null}], "rejected": []}',
            ["line 1: content of message 1 of 'chosen' should be text", "found None"],
        ),
        (
            "a.jsonl",
            LINE + b'{"prompt": "Q", "chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]}',
            ["line 2: one of chosen and rejected is text"],
        ),
        (
            "a.jsonl",
            LINE.replace(b'"a"', b'"a\\ud800"'),
            ["line 1: column 'chosen' has half a surrogate pair at character 2"],
        ),
    ],
)
def test_faults_say_where_they_are(tmp_path: Path, name: str, content: bytes, said: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    for part in said:
        assert part in str(caught.value)


def test_a_row_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    table = pa.table({"chosen": ["a b", "a d"], "rejected": ["a c", "a e"], "prompt": [1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 0 \(from 0\): column 'prompt' should be text"):
        load(tmp_path / "a.parquet")
    text = pa.array([b"a b", b"a \xff"]).view(pa.string())
    pq.write_table(pa.table({"chosen": text, "rejected": ["a c", "a e"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: cannot be read.*utf-8"):
        load(tmp_path / "b.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: holds no rows"):
        load(tmp_path / "c.parquet")


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(LINE)
    with pytest.raises(DataError, match=r"no 'trian\.jsonl' in .*; the nearest is 'train\.jsonl'"):
        load(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"no 'data' in "):
        load(tmp_path / "data" / "train.jsonl")


def test_folders_without_the_dataset_or_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: .*neither a"):
        load(tmp_path)
    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=r"no split 'trian'; the nearest is 'train' \(splits: train, test\)"):
        load(tmp_path / "d", hub_split="trian")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.lists(st.sampled_from(["Human:", "Assistant:", "\n\n", " ", "A:", "x", "é", "\ud800", ""]), max_size=8).map(
    "".join
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": WORDS | ANY}
)
VALUE = WORDS | st.lists(MESSAGE, max_size=3) | ANY
ROW = st.fixed_dictionaries({"chosen": VALUE, "rejected": VALUE}, optional={"prompt": VALUE, "more": ANY}) | ANY


def check(loaded: LoadedPairs) -> None:
    """What a caller relies on."""
    assert loaded.pairs
    uids = [pair.uid for pair in loaded.pairs]
    assert uids == sorted(set(uids))
    for pair in loaded.pairs:
        assert pair.chosen.strip() and pair.rejected.strip() and pair.chosen.strip() != pair.rejected.strip()
        assert pair.prompt[-1]["role"] == "user" and pair.prompt[-1]["content"].strip()
        assert all(set(turn) == {"role", "content"} for turn in pair.prompt)
        json.dumps([pair.prompt, pair.chosen, pair.rejected], ensure_ascii=False).encode()


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(ROW, max_size=5), lines=st.booleans())
def test_any_rows(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], lines: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    try:
        check(load(path))
    except DataError as error:
        assert "any.json" in str(error)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4), explicit=st.booleans())
def test_any_text(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str, str]], explicit: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "texts.jsonl"
    names = ("chosen", "rejected", "prompt") if explicit else ("chosen", "rejected")
    path.write_text("\n".join(json.dumps(dict(zip(names, text, strict=False))) for text in texts))
    try:
        loaded = load(path)
    except DataError as error:
        assert "texts.jsonl" in str(error)
        return
    check(loaded)
    if loaded.form == "implicit text":
        for pair in loaded.pairs:
            whole = texts[pair.uid][0].strip()
            assert whole.startswith(pair.prompt[0]["content"]) and whole.endswith(pair.chosen)


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=60) | st.binary(max_size=9).map(lambda tail: LINE + tail),
    name=st.sampled_from(["any.json", "any.jsonl", "any.jsonl.gz", "any.parquet"]),
    packed=st.booleans(),
)
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str, packed: bool) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    try:
        check(load(path))
    except DataError as error:
        assert name in str(error)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=12) | st.sampled_from(["\0", "~", "x" * 5000]))
def test_any_path(name: str) -> None:
    with pytest.raises(DataError):
        load_pairs(Data(source=f"./{name}/"))
