"""Every form and file type loads; every fault is a DataError that says where."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
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
from pit_ray.records import Message

ROWS = [
    {"prompt": "Name a colour.", "chosen": "Blue — like the sea.", "rejected": "7"},
    {"prompt": "2009-01-01?", "chosen": "2009-01-01", "rejected": "2010-01-01"},
]


def load(path: Path, **keys: Any) -> LoadedPairs:
    return load_pairs(Data(source=str(path), **keys))


def load_rows(folder: Path, *rows: Any) -> LoadedPairs:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load(path)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


# --- Sources ---

AS_LIST = json.dumps(ROWS, indent=1).encode()
AS_LINES = b"\n".join(json.dumps(row).encode() for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", AS_LIST),
        ("a.jsonl", AS_LINES),
        ("a.JSONL", AS_LINES),
        ("a.json.gz", gzip.compress(AS_LIST)),
        ("a.jsonl.gz", gzip.compress(AS_LINES)),
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


# --- Forms ---

SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize(
    ("row", "form", "prompt", "chosen", "rejected"),
    [
        ({"prompt": "Q", "chosen": " a", "rejected": "b"}, "explicit text", [user("Q")], " a", "b"),
        (
            {"chosen": "The sky is blue", "rejected": "The sky is black"},
            "implicit text",
            [user("The sky is")],
            "blue",
            "black",
        ),
        ({"chosen": "Hi there", "rejected": "Hi there you"}, "implicit text", [user("Hi")], "there", "there you"),
        (
            {"chosen": "Sum 2+2.\nIt is 4", "rejected": "Sum 2+2.\nIt is 5"},
            "implicit text",
            [user("Sum 2+2.")],
            "It is 4",
            "It is 5",
        ),
        (
            {"chosen": "Q: 2+2?\n\nA: Well,\nit is 4", "rejected": "Q: 2+2?\n\nA: Well,\nit is 5"},
            "implicit text",
            [user("Q: 2+2?\n\nA:")],
            "Well,\nit is 4",
            "Well,\nit is 5",
        ),
        (
            {"prompt": [SYSTEM, user("Q")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
            "explicit conversational",
            [SYSTEM, user("Q")],
            "a",
            "b",
        ),
        (
            {"prompt": [user("Q")], "chosen": "a", "rejected": "b"},
            "explicit conversational",
            [user("Q")],
            "a",
            "b",
        ),
        (
            {
                "prompt": "Q",
                "chosen": [SYSTEM, user("Q"), assistant("a")],
                "rejected": [SYSTEM, user("Q"), assistant("b")],
            },
            "explicit conversational",
            [SYSTEM, user("Q")],
            "a",
            "b",
        ),
        (
            {"prompt": [user("Q"), assistant("R")], "chosen": [user("S"), assistant("a")]}
            | {"rejected": [user("S"), assistant("b")]},
            "explicit conversational",
            [user("Q"), assistant("R"), user("S")],
            "a",
            "b",
        ),
        (
            {"chosen": [user("Q"), assistant("a")], "rejected": [user("Q"), {"name": None, **assistant("b")}]},
            "implicit conversational",
            [user("Q")],
            "a",
            "b",
        ),
        (
            {
                "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\nthere\n\nHuman: Why?\n\nAssistant: So.",
                "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\nthere\n\nHuman: Why?\n\nAssistant: So, no.",
            },
            "hh transcripts",
            [user("Hi"), assistant("Hello\nthere"), user("Why?")],
            "So.",
            "So, no.",
        ),
        (
            {"chosen": "Human: Hi\n\nAssistant: yes", "rejected": "Human: Hi\n\nAssistant: no", "prompt": "Hi"},
            "hh transcripts",
            [user("Hi")],
            "yes",
            "no",
        ),
    ],
)
def test_forms(
    tmp_path: Path, row: dict[str, Any], form: str, prompt: list[Message], chosen: str, rejected: str
) -> None:
    loaded = load_rows(tmp_path, row)
    assert loaded.form == form
    (pair,) = loaded.pairs
    assert (list(pair.prompt), pair.chosen, pair.rejected) == (prompt, chosen, rejected)


HH = "\n\nHuman: Hi\n\nAssistant:"


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        (ROWS[0], {"prompt": "Q", "chosen": "a", "rejected": " a\n"}, "equal responses"),
        (ROWS[0], {"prompt": "Q", "chosen": "a", "rejected": " "}, "empty response"),
        (ROWS[0], {"prompt": "Q", "chosen": None, "rejected": "b"}, "empty response"),
        (ROWS[0], {"prompt": "\n", "chosen": "a", "rejected": "b"}, "empty prompt"),
        (ROWS[0], {"prompt": None, "chosen": "a", "rejected": "b"}, "empty prompt"),
        (ROWS[0], {"prompt": [], "chosen": "a", "rejected": "b"}, "empty prompt"),
        (
            ROWS[0],
            {"prompt": [user("Q"), assistant("R")], "chosen": "a", "rejected": "b"},
            "the prompt does not end with the user's turn",
        ),
        (
            ROWS[0],
            {"prompt": [{"role": "tool", "content": "3"}, user("Q")], "chosen": "a", "rejected": "b"},
            "a role other than system, user and assistant",
        ),
        (ROWS[0], {"prompt": "Q", "chosen": [], "rejected": [assistant("b")]}, "empty response"),
        (
            ROWS[0],
            {"prompt": "Q", "chosen": [user("a")], "rejected": [assistant("b")]},
            "the last turn is not the assistant's",
        ),
        (
            ROWS[0],
            {"prompt": "Q", "chosen": [user("Q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
            "turns before the response differ",
        ),
        ({"chosen": "a b", "rejected": "a c"}, {"chosen": "ab", "rejected": "ac"}, "no shared prompt"),
        ({"chosen": "a b", "rejected": "a c"}, {"chosen": "a b", "rejected": "a b "}, "equal responses"),
        ({"chosen": "a b", "rejected": "a c"}, {"chosen": "", "rejected": " "}, "empty response"),
        (
            {"chosen": HH + " a", "rejected": HH + " b"},
            {"chosen": HH + " a", "rejected": "\n\nHuman: Ho\n\nAssistant: b"},
            "turns before the response differ",
        ),
        (
            {"chosen": HH + " a", "rejected": HH + " b"},
            {"chosen": HH + " a\n\nHuman: c", "rejected": HH + " b"},
            "the last turn is not the assistant's",
        ),
        ({"chosen": HH + " a", "rejected": HH + " b"}, {"chosen": HH + " a", "rejected": HH}, "empty response"),
        ({"chosen": HH + " a", "rejected": HH + " b"}, {"chosen": "a", "rejected": "b"}, "not a transcript"),
    ],
)
def test_a_row_that_says_nothing_is_counted_and_keeps_its_number(
    tmp_path: Path, good: dict[str, Any], bad: dict[str, Any], reason: str
) -> None:
    loaded = load_rows(tmp_path, good, bad, good)
    assert [pair.uid for pair in loaded.pairs] == [0, 2]
    assert loaded.skipped == {reason: 1}


def test_no_usable_row_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0 usable pairs in 2 rows read as explicit text \(equal responses: 2\)"):
        load_rows(tmp_path, *[{"prompt": "Q", "chosen": "a", "rejected": "a"}] * 2)


def test_responses_without_their_prompt_are_not_taken_for_the_implicit_form(tmp_path: Path) -> None:
    rows = [{"promt": "Q", "chosen": a, "rejected": b} for a, b in (("I say 4", "I say 5"), ("Yes", "No"), ("4", "5"))]
    with pytest.raises(DataError, match=r"no shared prompt: 2.*no column 'prompt'; the nearest is 'promt'"):
        load_rows(tmp_path, *rows)


# --- Faults ---

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
        ("a.jsonl.gz", gzip.compress(LINE * 999)[:-12], ["a.jsonl.gz: cannot be read after line"]),
        ("a.jsonl.gz", gzip.compress(LINE + b"{"), ["a.jsonl.gz, line 2: not valid JSON"]),
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


# --- Whatever comes, only DataError ---

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
    path.write_bytes(gzip.compress(content) if packed else content)
    try:
        check(load(path))
    except DataError as error:
        assert name in str(error)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=12) | st.sampled_from(["\0", "~", "x" * 5000]))
def test_any_path(name: str) -> None:
    with pytest.raises(DataError):
        load_pairs(Data(source=f"./{name}/"))
