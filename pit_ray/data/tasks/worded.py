"""Grade-school word problems from files: GSM8K (arXiv 2110.14168) and SVAMP (arXiv 2103.07191).

Their final answer is a number after `####`. No script can tell where an attempt at one goes wrong, so there is no
verifier: an attempt is right when its final answer is.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pit_ray.data.json_rows import JSON_FILES, Row, json_rows
from pit_ray.data.tasks.problem import Answered, Problem
from pit_ray.errors import DataError, listed, nearest, no_such_path

Form = Literal["gsm8k", "svamp"]

_COLUMNS: dict[str, tuple[str, ...]] = {"gsm8k": ("question", "answer"), "svamp": ("Body", "Question", "Answer")}
_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
_NUMBER = re.compile(r"\$?\s*([+-]?)\s*\$?\s*([0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?!\s*/\s*[0-9]|[0-9,]|\.[0-9])")


class Worded(Answered):
    """Word problems whose attempts end with `#### NUMBER`. Exact match with the gold answer is all that is judged."""

    name = "worded"

    def answer(self, attempt: str) -> str | None:
        return answer_after_marks(attempt)

    def normalised(self, answer: str) -> str:
        return _number(answer) or " ".join(answer.split())


def load_worded(path: Path, form: Form) -> list[Problem]:
    """The problems of a .json or .jsonl file (both also .gz), uids by row from 0; all count as seen. Calculator marks
    (`<<48/2=24>>`) are left out of GSM8K's rationales. DataError names file and line of a row that is none."""
    if not path.exists():
        raise DataError(f"{path}: {no_such_path(path)}")
    if not path.name.lower().endswith(JSON_FILES):
        raise DataError(f"{path}: not a kind of file that can be read; those are {', '.join(JSON_FILES)}")
    problem = {"gsm8k": _gsm8k_problem, "svamp": _svamp_problem}[form]
    problems = []
    for uid, (where, row) in enumerate(json_rows(path, " and ".join(_COLUMNS[form]))):
        try:
            for column in _COLUMNS[form]:
                if column not in row:
                    raise DataError(f"there is no {column!r}{nearest(column, row)} (columns: {listed(row)})")
            problems.append(problem(row, uid))
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
    if not problems:
        raise DataError(f"{path}: holds no rows")
    return problems


def answer_after_marks(text: str) -> str | None:
    """The number after the last `####`, without $, commas and zeros that say nothing (`$1,200.50` is 1200.5); None
    where no number stands there. What follows the number (a full stop, a unit) does not count, but for a fraction's
    stroke: 3/4 is no 3."""
    _, marks, after = text.rpartition("####")
    return _number(after) if marks else None


def _number(text: str) -> str | None:
    """The number that a text begins with."""
    match = _NUMBER.match(text.strip())
    if not match:
        return None
    whole, _, fraction = match[2].replace(",", "").partition(".")
    # By its digits, not as a float, which would change long ones.
    plain = ".".join(part for part in (whole.lstrip("0") or "0", fraction.rstrip("0")) if part)
    return f"-{plain}" if match[1] == "-" and plain != "0" else plain


def _gsm8k_problem(row: Row, uid: int) -> Problem:
    question, solution = (_text(row, column) for column in _COLUMNS["gsm8k"])
    answer = answer_after_marks(solution)
    if answer is None:
        raise DataError(f"no number stands after '####' in 'answer', which ends with {solution[-40:]!r}")
    said = _CALCULATOR_MARK.sub("", solution.rpartition("####")[0]).strip()
    return Problem(uid, question, answer, _rationale(said, answer), "gsm8k", seen=True)


def _svamp_problem(row: Row, uid: int) -> Problem:
    question = " ".join(_text(row, column) for column in ("Body", "Question"))
    said = row["Answer"]
    if isinstance(said, float):
        said = f"{Decimal(str(said)):f}"  # 1e-05 by its digits
    answer = _number(str(said)) if isinstance(said, int | str) else None
    if answer is None:
        raise DataError(f"'Answer' should be a number, found {said!r:.60}")
    equation = _text(row, "Equation") if row.get("Equation") else ""
    return Problem(uid, question, answer, _rationale(equation, answer), "svamp", seen=True)


def _rationale(said: str, answer: str) -> str:
    return f"{said}\n#### {answer}".lstrip()


def _text(row: dict[str, Any], column: str) -> str:
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{column!r} should be text, found {value!r:.60}")
    return value.strip()
