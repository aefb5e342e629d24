"""Every form of a pair is recognised; what cannot be one is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pit_ray.errors import DataError
from pit_ray.records import Message
from tests.data.loading import ROWS, assistant, load_rows, user

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
