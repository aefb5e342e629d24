"""Word problems from files."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.data.tasks.worded import Worded, answer_after_marks, load_worded
from pit_ray.errors import DataError

MADE_UP = Path(__file__).parent / "svamp_made_up.json"
ROW = {"question": "How many?", "answer": "2 + 3 = <<2+3=5>>5 pears.\n#### 5"}


def lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_gsm8k_rows(tmp_path: Path) -> None:
    rows = [ROW, {"question": " Why? ", "answer": "#### $1,250.", "more": 1}, ROW | {"answer": "No.\n####-3.50"}]
    contents = {"a.jsonl": lines(*rows), "a.json": json.dumps(rows).encode()}
    for name, content in {**contents, **{f"{n}.gz": gzip.compress(c) for n, c in contents.items()}}.items():
        (tmp_path / name).write_bytes(content)
        first, second, third = load_worded(tmp_path / name, "gsm8k")
        assert (first.uid, first.question, first.answer) == (0, "How many?", "5")
        assert first.rationale == "2 + 3 = 5 pears.\n#### 5"
        assert (second.uid, second.question, second.rationale) == (1, "Why?", "#### 1250")
        assert (third.answer, third.rationale) == ("-3.5", "No.\n#### -3.5")


def test_svamp_rows(tmp_path: Path) -> None:
    problems = load_worded(MADE_UP, "svamp")
    assert [problem.answer for problem in problems] == ["5", "12.5", "1000", "0"]
    assert problems[0].question == "Mia has 8 pebbles and gives 3 away. How many pebbles has she left?"
    rationales = ["( 8.0 - 3.0 )\n#### 5", "( 25.0 / 2.0 )\n#### 12.5", "#### 1000", "#### 0"]
    assert [problem.rationale for problem in problems] == rationales
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(*json.loads(MADE_UP.read_text()))))
    assert load_worded(tmp_path / "a.jsonl.gz", "svamp") == problems


@pytest.mark.parametrize(
    ("form", "row", "wrong"),
    [
        ("gsm8k", {"answer": "#### 5"}, "there is no 'question' (columns: answer)"),
        ("gsm8k", {"questions": "a", "answer": "#### 5"}, "there is no 'question'; the nearest is 'questions'"),
        ("gsm8k", ROW | {"question": " "}, "'question' should be text, found ' '"),
        ("gsm8k", ROW | {"answer": 5}, "'answer' should be text, found 5"),
        ("gsm8k", ROW | {"answer": "It is 5."}, "no number stands after '####' in 'answer', which ends with 'It is"),
        ("gsm8k", ROW | {"answer": "#### 3/4"}, "no number stands after '####'"),
        ("gsm8k", [ROW], "expected an object with question and answer, found [{"),
        ("gsm8k", "{", "expected an object with question and answer"),
        ("svamp", ROW, "there is no 'Body'"),
        ("svamp", {"Body": "a", "Question": "b", "Answer": None}, "'Answer' should be a number, found None"),
        ("svamp", {"Body": "a", "Question": "b", "Answer": True}, "'Answer' should be a number, found True"),
        ("svamp", {"Body": "a", "Question": "b", "Answer": float("nan")}, "'Answer' should be a number, found 'NaN'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, form: Any, row: Any, wrong: str) -> None:
    good = ROW if form == "gsm8k" else {"Body": "a", "Question": "b", "Answer": 1}
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(good) + b"\n" + lines(row))
    with pytest.raises(DataError) as caught:
        load_worded(path, form)
    assert str(caught.value).startswith(f"{path}, line 3: ") and wrong in str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    contents = {
        "broken.jsonl": (lines(ROW) + b'{"question": ', "broken.jsonl, line 2: not valid JSON"),
        "broken.json": (b'[\n{"question": "a"},\n]', "broken.json, line 3: not valid JSON"),
        "bytes.jsonl": (lines(ROW) + b'{"question": "\xff"}', "bytes.jsonl, line 2: not UTF-8 at its byte 15"),
        "not.jsonl.gz": (lines(ROW), "not.jsonl.gz: cannot be read after line 0"),
        "list.json": (b"[1]", "list.json, row 0 (from 0): expected an object"),
        "empty.jsonl": (b"\n", "empty.jsonl: holds no rows"),
        "rows.csv": (b"a,b\n", "rows.csv: not a kind of file that can be read; those are .json"),
    }
    for name, (content, wrong) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            load_worded(tmp_path / name, "gsm8k")
        assert str(caught.value).startswith(str(tmp_path)) and wrong in str(caught.value)
    with pytest.raises(DataError, match=r"there is no 'brokn.jsonl' in .*; the nearest is 'broken.jsonl'"):
        load_worded(tmp_path / "brokn.jsonl", "gsm8k")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 72", "72"),
        ("so\n#### $1,234.50.", "1234.5"),
        ("#### 3.0", "3"),
        ("#### 007", "7"),
        ("#### -0", "0"),
        ("#### .5", "0.5"),
        ("#### - 5", "-5"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("#### 5\n#### 6", "6"),
        ("#### 72 pears", "72"),
        ("#### 18/hour", "18"),
        ("#### 12345678901234567890.1", "12345678901234567890.1"),
        ("#### 13/4", None),
        ("#### 1,3/4", None),
        ("#### 1.5 / 2", None),
        ("#### five", None),
        ("#### 5 ####", None),
        ("####", None),
        ("72", None),
        ("", None),
    ],
)
def test_the_number_after_the_marks(text: str, number: str | None) -> None:
    assert answer_after_marks(text) == number


@given(st.text(), st.integers(-(10**9), 10**9), st.integers(0, 999))
def test_numbers_are_compared_by_value(before: str, whole: int, thousandths: int) -> None:
    answer = f"{whole}.{thousandths:03}"
    attempt = f"{before}#### {whole:,}.{thousandths:03}"
    assert Worded().correct(attempt, answer)
    assert not Worded().correct(attempt, f"{whole + 1}.{thousandths:03}")
    assert float(answer_after_marks(attempt) or "nan") == float(answer)


def test_worded_answers() -> None:
    assert Worded().answer("It is 5.") is None
    assert not Worded().correct("It is 5.", "5")
    assert Worded().correct("#### 5.00", "5")


@pytest.mark.parametrize(("name", "count"), [("gsm8k-train-2000.jsonl.gz", 2000), ("gsm8k-test-600.jsonl.gz", 600)])
def test_gsm8k_as_published(name: str, count: int) -> None:
    folder = os.environ.get("PIT_RAY_SHARED_DATA")
    if not folder:
        pytest.skip("PIT_RAY_SHARED_DATA names no folder with GSM8K's files")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"the folder that PIT_RAY_SHARED_DATA names has no {name}")
    problems = load_worded(path, "gsm8k")
    assert len(problems) == count
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for problem, row in zip(problems, map(json.loads, file), strict=True):
            assert int(problem.answer) == int(row["answer"].split("#### ")[1].replace(",", ""))
            assert all(Worded().correct(text, problem.answer) for text in (row["answer"], problem.rationale))
            assert "<<" not in problem.rationale and problem.question == row["question"].strip()
