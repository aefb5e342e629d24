"""Sheets for human raters are blind, come back as they went out or not at all, and are counted rightly."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_ray.errors import DataError
from pit_ray.evaluate.human import COLUMNS, export_sheet, guarded, read_sheets, restored, shown
from pit_ray.evaluate.raters import UNANSWERED, agreement, majority

UID = [7, 3, 11, 20, 21, 22]
PROMPTS = ["why?", "=how(1)", "when, then?", 'he said "no"', "two\nlines", "same?"]
SYSTEMS = {
    "improver": ["because", "+so", "now", "yes", "α\r\nβ", "equal"],
    "policy": ["thus", "-- then", "later", "'no'", "@here", "equal"],
}
Rows = list[dict[str, str]]


class Exported:
    """A sheet that was exported, and the means to fill it in."""

    def __init__(self, folder: Path, systems: dict[str, list[str]] = SYSTEMS, seed: int = 5) -> None:
        self.folder, self.sheet, self.key = folder, folder / "sheet.csv", folder / "key" / "key.json"
        export_sheet(self.sheet, self.key, UID, PROMPTS, systems, seed)

    def rows(self) -> Rows:
        return list(csv.DictReader(io.StringIO(self.sheet.read_text(encoding="utf-8-sig"), newline="")))

    def filled(self, name: str, rows: Rows, columns: tuple[str, ...] = COLUMNS, separator: str = ",") -> Path:
        path = self.folder / name
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", delimiter=separator, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return path

    def by(self, name: str, answer: Callable[[str, str], str]) -> Path:
        """A sheet filled in by a rule over the two texts as they were written."""
        rows = self.rows()
        for row in rows:
            row["better"] = answer(restored(row["first"]), restored(row["second"]))
        return self.filled(name, rows)


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    return Exported(tmp_path)


OURS = [shown(text) for text in SYSTEMS["improver"]]


def ours_wins(first: str, second: str) -> str:
    return "1" if first in OURS else "2"


def test_the_sheet_is_blind_and_whole(exported: Exported) -> None:
    rows = exported.rows()
    assert tuple(rows[0]) == COLUMNS and all(row["better"] == "" for row in rows)
    text = exported.sheet.read_text(encoding="utf-8-sig")
    assert "improver" not in text and "policy" not in text
    whole = {(restored(row["prompt"]), frozenset({restored(row["first"]), restored(row["second"])})) for row in rows}
    pairs = zip(PROMPTS, SYSTEMS["improver"], SYSTEMS["policy"], strict=True)
    assert whole == {(shown(p), frozenset({shown(a), shown(b)})) for p, a, b in pairs if a != b}
    assert len({row["id"] for row in rows}) == len(rows) == 5


def test_sides_are_balanced_and_the_order_is_drawn(tmp_path: Path) -> None:
    n = 40
    systems = {"a": [f"a{i}" for i in range(n)], "b": [f"b{i}" for i in range(n)]}
    seen = []
    for seed in (1, 1, 2):
        sheet, key = tmp_path / f"{len(seen)}.csv", tmp_path / f"{len(seen)}.json"
        export_sheet(sheet, key, range(n), [f"p{i:02}" for i in range(n)], systems, seed)
        rows = list(csv.DictReader(sheet.open(encoding="utf-8-sig", newline="")))
        assert sum(row["first"].startswith("a") for row in rows) == n // 2
        order = [row["prompt"] for row in rows]
        assert order != sorted(order)
        seen.append([(row["id"], row["prompt"], row["first"]) for row in rows])
    assert seen[0] == seen[1] and seen[0] != seen[2]


def test_a_sheet_that_was_filled_in_comes_back(exported: Exported) -> None:
    found = read_sheets(exported.key, [exported.by("ann.csv", ours_wins)])
    (contest,) = found.contests
    assert (contest.ours, contest.theirs, contest.same, contest.split) == ("improver", "policy", 1, 0)
    assert contest.uid.tolist() == sorted(UID) and contest.known.all()
    assert contest.outcome.dtype == np.int8 and contest.outcome.tolist() == [1, 1, 1, 1, 1, 0]
    assert list(found.missing.values()) == [0] and found.agreement.kappa is None

    upside_down = exported.by("bob.csv", lambda a, b: "2" if ours_wins(a, b) == "1" else "1")
    assert read_sheets(exported.key, [upside_down]).contests[0].outcome.tolist() == [-1, -1, -1, -1, -1, 0]
    by_prompt = {"why?": "1", "=how(1)": " Tie ", "when, then?": "2"}
    rows = exported.rows()
    for row in rows:
        row["better"] = by_prompt.get(restored(row["prompt"]), "")
    ours_first = {restored(row["prompt"]): restored(row["first"]) in OURS for row in rows}
    found = read_sheets(exported.key, [exported.filled("cid.csv", rows)])
    outcome = dict(zip(found.contests[0].uid.tolist(), found.contests[0].outcome.tolist(), strict=True))
    assert outcome[7] == (1 if ours_first["why?"] else -1) and outcome[3] == 0
    assert outcome[11] == (-1 if ours_first["when, then?"] else 1)
    known = dict(zip(found.contests[0].uid.tolist(), found.contests[0].known.tolist(), strict=True))
    assert known == {7: True, 3: True, 11: True, 20: False, 21: False, 22: True}
    assert list(found.missing.values()) == [2]


def test_three_systems_make_three_contests(tmp_path: Path) -> None:
    systems = {"short": ["a"] * 6, "middle": ["bb"] * 6, "long": ["ccc"] * 5 + ["bb"]}
    exported = Exported(tmp_path, systems)
    longer = exported.by("ann.csv", lambda first, second: "1" if len(first) > len(second) else "2")
    found = {(c.ours, c.theirs): c for c in read_sheets(exported.key, [longer]).contests}
    assert list(found) == [("short", "middle"), ("short", "long"), ("middle", "long")]
    assert all((found["short", other].outcome == -1).all() for other in ("middle", "long"))
    assert found["middle", "long"].outcome.tolist() == [-1, -1, -1, -1, -1, 0] and found["middle", "long"].same == 1


def test_what_spreadsheets_do_to_a_sheet_does_not_matter(exported: Exported) -> None:
    rows = exported.rows()
    for row in rows:
        row["better"] = ours_wins(restored(row["first"]), restored(row["second"]))
    plain = read_sheets(exported.key, [exported.filled("plain.csv", rows)])

    changed = [dict(row, notes="hm", **{c: row[c].replace("\n", "\r\n") for c in ("prompt", "first")}) for row in rows]
    changed.append(dict.fromkeys((*COLUMNS, "notes"), " "))
    columns = ("better", "notes", *COLUMNS[:-1])
    without_guard = [dict(row, **{c: restored(row[c]) for c in ("prompt", "first", "second")}) for row in rows]
    for sheet in (
        exported.filled("columns.csv", changed[::-1], columns),
        exported.filled("semicolons.csv", rows, separator=";"),
        exported.filled("tabs.csv", rows, separator="\t"),
        exported.filled("guard.csv", without_guard),
    ):
        found = read_sheets(exported.key, [sheet])
        assert found.contests[0].outcome.tolist() == plain.contests[0].outcome.tolist()
        assert found.contests[0].known.all()


def bad(rows: Rows, number: int, **changed: str) -> Rows:
    return [dict(row, **changed) if i == number else row for i, row in enumerate(rows)]


FAULTS: dict[str, tuple[Callable[[Rows], Rows], str]] = {
    "unknown id": (
        lambda r: bad(r, 1, id=r[1]["id"] + "0"),
        r"line LINE: unknown id 's\w+-\d+'; the nearest is 's\w+-",
    ),
    "no id": (lambda r: bad(r, 1, id=""), r"line LINE: unknown id ''$"),
    "an id twice": (lambda r: bad(r, 1, **r[0]), r"line LINE: id 's\w+-0001' comes a second time, after line 2$"),
    "another word": (
        lambda r: bad(r, 1, better="ties"),
        r"line LINE: better must be 1, 2 or tie, got 'ties'; .* 'tie'$",
    ),
    "another number": (lambda r: bad(r, 1, better="3"), r"line LINE: better must be 1, 2 or tie, got '3'$"),
    "first changed": (lambda r: bad(r, 1, first="else"), r"line LINE: the text under 'first' is not the one"),
    "prompt changed": (lambda r: bad(r, 1, prompt="else"), r"line LINE: the text under 'prompt' is not the one"),
    "sides swapped": (
        lambda r: bad(r, 1, first=r[1]["second"], second=r[1]["first"]),
        r"line LINE: the text under 'first' is not the one",
    ),
    "another sheet's id": (
        lambda r: bad(r, 1, id="s00000000-0002"),
        r"line LINE: id 's00000000-0002' is of a sheet that .*key\.json is not the key of",
    ),
}


@pytest.mark.parametrize(("damage", "said"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_by_its_line(exported: Exported, damage: Callable[[Rows], Rows], said: str) -> None:
    rows = exported.rows()
    line = 3 + sum(rows[0][column].count("\n") for column in COLUMNS)
    sheet = exported.filled("ann.csv", damage(rows))
    with pytest.raises(DataError, match=said.replace("LINE", str(line))) as caught:
        read_sheets(exported.key, [sheet])
    assert str(caught.value).startswith(str(sheet))


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    sheet, key = tmp_path / "sheet.csv", tmp_path / "key.json"
    export_sheet(sheet, key, [0, 1, 2], ["a\nb\nc"] * 3, {"x": ["x"] * 3, "y": ["y"] * 3}, seed=0)
    lines = sheet.read_text(encoding="utf-8-sig").splitlines()
    where = next(i for i, line in enumerate(lines, 1) if "-0003" in line)
    assert where == 8
    lines[where - 1] = lines[where - 1].replace("-0003", "-0004")
    sheet.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"sheet\.csv, line 8: unknown id"):
        read_sheets(key, [sheet])


def test_a_row_that_is_left_out_is_counted(exported: Exported) -> None:
    rows = [dict(row, better="1") for row in exported.rows()]
    found = read_sheets(exported.key, [exported.filled("ann.csv", rows[:3])])
    assert list(found.missing.values()) == [2] and found.contests[0].known.sum() == 3 + 1
    assert read_sheets(exported.key, [exported.filled("bob.csv", [])]).contests[0].known.sum() == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        ("id,prompt,first,second,better\ns1,é".encode("latin-1"), "is not UTF-8 at byte 33; save it as CSV UTF-8"),
        (b"id,prompt,frst,second,better\n", "line 1: no column 'first'; the nearest is 'frst'; there are id, prompt"),
        (b'id,prompt,first,second,better\n"a"b,c\n', "line 2: cannot be read as CSV"),
        (b'id,prompt,first,second,better\n\n"a,b\n', "line 3: cannot be read as CSV"),
    ],
)
def test_what_is_no_sheet_is_refused(exported: Exported, content: bytes, said: str) -> None:
    sheet = exported.folder / "ann.csv"
    sheet.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_sheets(exported.key, [sheet])


def test_a_key_must_be_there_and_be_the_sheets(exported: Exported, tmp_path: Path) -> None:
    sheet = exported.by("ann.csv", ours_wins)
    with pytest.raises(DataError, match=r"there is no 'ky\.json' in .*; the nearest is 'key\.json'"):
        read_sheets(exported.key.with_name("ky.json"), [sheet])
    with pytest.raises(DataError, match=r"there is no 'an\.csv'"):
        read_sheets(exported.key, [tmp_path / "an.csv"])
    with pytest.raises(DataError, match="given twice"):
        read_sheets(exported.key, [sheet, tmp_path / "key" / ".." / "ann.csv"])
    other = Exported(tmp_path / "other", seed=6)
    with pytest.raises(DataError, match="is not the key of"):
        read_sheets(other.key, [sheet])
    key = json.loads(exported.key.read_text())
    key["rows"][0]["ours_first"] ^= True  # whoever changes the key makes it another one
    exported.key.write_text(json.dumps(key))
    with pytest.raises(DataError, match="is not the key of"):
        read_sheets(exported.key, [sheet])
    exported.key.write_text("{}")
    with pytest.raises(DataError, match=r"key\.json: is no key"):
        read_sheets(exported.key, [sheet])


def test_a_filled_sheet_is_not_written_over(exported: Exported) -> None:
    filled = exported.by("sheet.csv", ours_wins).read_bytes()
    Exported(exported.folder)  # as a resumed run does
    assert exported.sheet.read_bytes() == filled
    with pytest.raises(DataError, match=r"sheet\.csv: is there already and may be filled in"):
        Exported(exported.folder, seed=6)
    exported.key.unlink()
    with pytest.raises(DataError, match="is there already"):
        Exported(exported.folder)
    assert exported.sheet.read_bytes() == filled


@given(st.text() | st.text(alphabet="=+-@'\t\r\n ＝a"))
def test_no_cell_is_a_formula_and_every_text_comes_back(text: str) -> None:
    cell = guarded(text)
    assert cell.strip()[:1] not in tuple("=+-@＝＋－＠") or not cell.strip()
    assert restored(cell) == text


@given(st.lists(st.text(), min_size=2, max_size=5, unique=True))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("sheet")
    ours, theirs = texts, texts[1:] + texts[:1]
    export_sheet(folder / "s.csv", folder / "k.json", range(len(texts)), texts, {"x": ours, "y": theirs}, seed=1)
    (contest,) = read_sheets(folder / "k.json", [folder / "s.csv"]).contests
    assert len(contest.uid) == len(texts) and not contest.known.any() and not contest.outcome.any()


def test_most_raters_decide(exported: Exported) -> None:
    # Of the rows in the order of the sheet, by three raters.
    said = (["1", "1", "2", "tie", ""], ["1", "2", "2", "1", ""], ["2", "tie", "2", "", "2"])
    sheets = []
    for name, answers in zip(("ann", "bob", "cid"), said, strict=True):
        rows = exported.rows()
        for row, answer in zip(rows, answers, strict=True):
            row["better"] = answer
        sheets.append(exported.filled(f"{name}.csv", rows))
    found = read_sheets(exported.key, sheets)
    (contest,) = found.contests
    key = json.loads(exported.key.read_text())
    first = {row["uid"]: 1 if row["ours_first"] else -1 for row in key["rows"]}
    order = [row["uid"] for row in key["rows"]]
    expected = dict(zip(order, [1, 0, -1, 0, -1], strict=True))
    for uid, outcome in zip(contest.uid.tolist(), contest.outcome.tolist(), strict=True):
        assert outcome == (expected[uid] * first[uid] if uid in expected else 0)
    assert contest.known.all() and contest.split == 2
    assert found.missing == {str(sheets[0]): 1, str(sheets[1]): 1, str(sheets[2]): 1}
    assert found.agreement.rows == 4
    # Equal pairs of answers, row by row: 1 of 3, 0 of 3, 3 of 3, 0 of 1, none.
    assert found.agreement.percent == pytest.approx(100 * 4 / 10)


def test_cohens_kappa_by_hand() -> None:
    # 50 rows: both yes 20, yes/no 5, no/yes 10, both no 15; agreement 0.7, by chance 0.5.
    one = np.repeat([1, 1, -1, -1], [20, 5, 10, 15])
    other = np.repeat([1, -1, 1, -1], [20, 5, 10, 15])
    found = agreement(np.array([one, other], dtype=np.int8))
    assert (found.rows, found.percent) == (50, 70.0) and found.kappa == pytest.approx(0.4)


votes = st.lists(st.lists(st.sampled_from([1, 0, -1, UNANSWERED]), min_size=4, max_size=4), min_size=1, max_size=30)


@given(votes)
def test_agreement_and_majority_by_counting(table: list[list[int]]) -> None:
    rated = np.array(table, dtype=np.int8).T
    outcome, known, split = majority(rated)
    pairs, kappas = [], []
    for i in range(4):
        for j in range(i):
            both = [(row[i], row[j]) for row in table if UNANSWERED not in (row[i], row[j])]
            pairs += both
            if not both:
                continue
            n, chance = len(both), 0.0
            for answer in (1, 0, -1):
                chance += sum(a == answer for a, _ in both) * sum(b == answer for _, b in both) / n**2
            if abs(chance - 1) > 1e-9:
                kappas.append((sum(a == b for a, b in both) / n - chance) / (1 - chance))
    found = agreement(rated)
    assert found.percent == (pytest.approx(100 * sum(a == b for a, b in pairs) / len(pairs)) if pairs else None)
    assert found.kappa == (pytest.approx(sum(kappas) / len(kappas)) if kappas else None)
    for row, won, answered, even in zip(table, outcome, known, split, strict=True):
        counts = {answer: row.count(answer) for answer in (1, 0, -1)}
        best = [answer for answer in counts if counts[answer] == max(counts.values())]
        assert answered == any(counts.values())
        assert even == (answered and len(best) > 1)
        assert won == (best[0] if len(best) == 1 else 0)
