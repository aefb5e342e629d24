"""Runs with several drafters, none of them called `policy`: what is compared with what, and what the page says."""

from pathlib import Path

import numpy as np
import pytest

from pit_ray.evaluate.compare_page import chart_lines, write_comparison
from pit_ray.evaluate.compare_runs import compare_evaluations
from pit_ray.evaluate.evaluation_folder import EvaluationFolder, read_evaluation
from tests.evaluate.evaluations import answered, info, write_evaluation
from tests.evaluate.test_compare_runs import DRAFTS, PROMPTS, N, made, rows_of
from tests.evaluate.test_report import Page

SYSTEMS = {
    "sft_qa": answered(),
    "sft_round": answered(1.5),
    "sft_qa_refined_1": info("self_1", drafts="sft_qa"),
    "sft_round_refined_1": info("self_1", drafts="sft_round"),
    "sft_round_refined_2": info("self_2", drafts="sft_round"),
}
RIGHT = dict(zip(SYSTEMS, (10, 20, 25, 26, 50), strict=True))
"""Of N answers so many are right, and what one system has right, a better one has too."""


def evaluated(folder: Path) -> EvaluationFolder:
    right = {name: (np.arange(N) < count).astype(float) for name, count in RIGHT.items()}
    scores = {name: {"gold": 2 * values, "verifier": values} for name, values in right.items()}
    texts = {"sft_qa": DRAFTS, "sft_round": [f"later {draft}" for draft in DRAFTS]}
    return read_evaluation(write_evaluation(folder, scores, PROMPTS, texts, systems=SYSTEMS))


def test_each_improver_is_compared_with_its_own_drafts_and_with_the_baseline(tmp_path):
    folder = evaluated(tmp_path / "r" / "evaluation")
    found = compare_evaluations([folder], resamples=20)
    gold = {(row.ours, row.theirs): row.delta for row in found.against_drafts if row.judge == "gold"}
    assert gold == {
        ("sft_round", "sft_qa"): pytest.approx(100 * 10 / N),
        ("sft_qa_refined_1", "sft_qa"): pytest.approx(100 * 15 / N),
        ("sft_round_refined_1", "sft_round"): pytest.approx(100 * 6 / N),
        ("sft_round_refined_2", "sft_round"): pytest.approx(100 * 30 / N),
    }
    between = {(row.ours, row.theirs): row.delta for row in found.pairs if row.judge == "gold"}
    assert between == {
        ("sft_round_refined_1", "sft_qa"): pytest.approx(100 * 16 / N),
        ("sft_round_refined_2", "sft_qa"): pytest.approx(100 * 40 / N),
        ("sft_qa_refined_1", "sft_round_refined_1"): pytest.approx(-100 / N),
    }
    assert found.evaluations[0].baseline == "sft_qa" and found.left_out == []
    assert [row.drafts for row in found.systems] == [None, "sft_qa", "sft_qa", "sft_round", "sft_round"]
    assert {table.anchor for table in found.ratings} == {"sft_qa"}
    chosen = compare_evaluations([folder], [("sft_round", "sft_qa_refined_1")], 20)
    assert {(r.ours, r.theirs) for r in chosen.pairs} == {("sft_round", "sft_qa_refined_1")}


def test_drafts_that_several_runs_share_are_one_system(tmp_path):
    a, b = (evaluated(tmp_path / name / "evaluation") for name in "ab")
    found = compare_evaluations([a, b], resamples=20)
    assert [row.label for row in found.systems] == [
        "sft_qa", "sft_round", "a:sft_qa_refined_1", "a:sft_round_refined_1", "a:sft_round_refined_2",
        "b:sft_qa_refined_1", "b:sft_round_refined_1", "b:sft_round_refined_2",
    ]  # fmt: skip
    assert [row.evaluations for row in found.systems[:3]] == [["a", "b"], ["a", "b"], ["a"]]
    assert [row.drafts for row in rows_of(found.systems, label="b:sft_round_refined_2")] == ["sft_round"]
    assert len(rows_of(found.against_drafts, ours="sft_round", judge="gold")) == 1
    assert [e.baseline for e in found.evaluations] == ["sft_qa", "sft_qa"]
    assert [(t.evaluations, t.anchor) for t in rows_of(found.ratings, judge="gold")] == [(["a", "b"], "sft_qa")]


def test_each_evaluation_has_its_own_baseline(tmp_path):
    ours = evaluated(tmp_path / "a" / "evaluation")
    other = made(tmp_path / "b" / "evaluation", {"improver_1": 0.3}, prompts=[f"{prompt}?" for prompt in PROMPTS])
    found = compare_evaluations([ours, other], resamples=20)
    assert [e.baseline for e in found.evaluations] == ["sft_qa", "policy"]
    tables = [(t.evaluations, t.anchor) for t in rows_of(found.ratings, judge="gold")]
    assert tables == [(["a"], "sft_qa"), (["b"], "policy")]
    assert {row.theirs for row in rows_of(found.against_drafts, ours="improver_1")} == {"policy"}


def test_seeds_of_one_method_are_pooled_and_anchored_at_its_baseline(tmp_path):
    def seeded(seed: int) -> EvaluationFolder:
        scores = {name: {"gold": (np.arange(N) < count).astype(float)} for name, count in RIGHT.items()}
        place, asked = tmp_path / f"s{seed}" / "evaluation", [f"{prompt} {seed}" for prompt in PROMPTS]
        return read_evaluation(write_evaluation(place, scores, asked, systems=SYSTEMS, seed=seed))

    (pooled,) = [t for t in compare_evaluations([seeded(1), seeded(2)], resamples=20).ratings if t.pooled]
    assert pooled.anchor == "sft_qa"
    assert {r.bradley_terry for r in pooled.ratings if r.system == "sft_qa"} == {1000}


def test_the_tables_name_the_drafts(tmp_path):
    found = compare_evaluations([evaluated(tmp_path / "r" / "evaluation")], resamples=20)
    page = Page(write_comparison(found, tmp_path / "out").read_text(encoding="utf-8"))
    assert "sft_qa the baseline policy –" in page.words and "sft_round policy –" in page.words
    assert page.words.count("the baseline policy") == 1 and " sft_round +10.0 " in page.words
    markdown = (tmp_path / "out" / "compare.md").read_text()
    table = markdown.partition("## Quality")[2].partition("## Comparisons")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table if line.startswith("|"))
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert {name: row["against"] for name, row in cells.items()} == {
        "sft_qa": "–", "sft_round": "sft_qa", "sft_qa_refined_1": "sft_qa", "sft_round_refined_1": "sft_round",
        "sft_round_refined_2": "sft_round",
    }  # fmt: skip
    assert cells["sft_round_refined_1"]["Δ gold"].startswith("+10.0 [") and cells["sft_qa"]["Δ gold"] == "–"


def test_chart_lines_begin_at_the_drafts(tmp_path):
    found = compare_evaluations([evaluated(tmp_path / "r" / "evaluation")], resamples=20)
    one, other = chart_lines(found, "gold", shares=False)
    assert (one.label, other.label) == ("self", "self, on sft_round")
    # Of info(): 1 + k calls, and half a scorer's call a revision.
    assert one.x.tolist() == [1, 2.5] and other.x.tolist() == [1.5, 2.5, 4]
    assert one.y == pytest.approx([0, 100 * 15 / N]) and other.y == pytest.approx([0, 100 * 6 / N, 100 * 30 / N])
    for line in (one, other):
        assert line.low[0] == line.high[0] == 0, "against themselves the drafts are sure to tie"
        assert (line.low[1:] < line.high[1:]).all()
    one, other = chart_lines(found, "verifier", shares=True)
    assert one.y == pytest.approx([100 * 10 / N, 100 * 25 / N])
    assert other.y == pytest.approx([100 * 20 / N, 100 * 26 / N, 100 * 50 / N])
    (drafts,) = rows_of(found.systems, label="sft_round")
    assert (other.low[0], other.high[0]) == pytest.approx([100 * end for end in drafts.accuracy.ci95])


@pytest.mark.parametrize(("calls", "xs"), [(2.4, [2.4, 2.5, 4]), (2.5, [2.5, 4]), (3.0, [2.5, 4]), (None, [2.5, 4])])
def test_lines_begin_at_the_first_revision_where_drafts_are_no_cheaper_or_their_calls_not_known(tmp_path, calls, xs):
    scores = {"policy": {"gold": np.zeros(4)}, "improver_1": {"gold": np.ones(4)}, "improver_2": {"gold": np.ones(4)}}
    systems = {"policy": answered() | {"calls": calls}} | {name: info(name) for name in ("improver_1", "improver_2")}
    folder = read_evaluation(write_evaluation(tmp_path / "r" / "evaluation", scores, systems=systems))
    (line,) = chart_lines(compare_evaluations([folder], resamples=10), "gold", shares=False)
    assert line.x.tolist() == xs and line.y.tolist() == [0, 100, 100][-len(xs) :]
