"""Several evaluations compared: the numbers are those of their files, and what must not be paired is not."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from pit_ray.errors import DataError
from pit_ray.evaluate.compare_page import charts, write_comparison
from pit_ray.evaluate.compare_runs import RunComparison, compare_evaluations
from pit_ray.evaluate.evaluation_folder import EvaluationFolder, read_evaluation
from pit_ray.evaluate.significance import holm
from tests.evaluate.evaluations import write_evaluation
from tests.evaluate.test_report import EVIL, Page

N = 60
PROMPTS = [f"prompt {k}" for k in range(N)]
DRAFTS = [f"draft {k}" for k in range(N)]
BASE = np.round(np.random.default_rng(0).normal(size=N), 1)


def made(folder: Path, gains: dict[str, float], model: float = 1.0, drafts=DRAFTS, **more) -> EvaluationFolder:
    """Systems that are better than the drafts by `gains` on average; `model` is the scale of the reward model."""
    random = np.random.default_rng(len(str(folder.name)) + round(1000 * sum(gains.values())))
    scores = {"policy": judged(BASE, model)}
    for name, gain in gains.items():
        scores[name] = judged(np.round(BASE + gain + 0.5 * random.normal(size=N), 1), model)
    prompts = more.pop("prompts", PROMPTS)
    return read_evaluation(write_evaluation(folder, scores, prompts, {"policy": drafts}, **more))


def judged(gold: np.ndarray, model: float) -> dict[str, np.ndarray]:
    return {"gold": gold, "reward": model * gold**3, "verifier": (gold > 0.2).astype(float)}


def rows_of(rows, **wanted):
    return [row for row in rows if all(getattr(row, key) == value for key, value in wanted.items())]


def test_against_the_drafts_and_between_methods(tmp_path):
    folder = made(tmp_path / "r" / "evaluation", {"improver_1": 0.4, "self_refine_1": 0.1, "best_of_2": 0.2})
    found = compare_evaluations([folder], resamples=200)
    assert [row.label for row in found.systems] == ["policy", "improver_1", "self_refine_1", "best_of_2"]
    (row,) = rows_of(found.against_drafts, ours="improver_1", judge="gold")
    ahead = folder.scores("improver_1", "gold") - BASE
    wins, losses = int((ahead > 1e-6).sum()), int((ahead < -1e-6).sum())
    assert (row.theirs, row.n, row.iterations) == ("policy", N, 1)
    assert (row.win, row.lose) == (pytest.approx(100 * wins / N), pytest.approx(100 * losses / N))
    assert row.ci95[0] < row.delta < row.ci95[1]
    assert row.p == pytest.approx(binomtest(wins, wins + losses).pvalue)
    every = [*found.against_drafts, *found.pairs]
    assert [r.p_holm for r in every] == pytest.approx(holm([r.p for r in every]))
    assert len(found.against_drafts) == 9
    assert {(r.ours, r.theirs) for r in found.pairs} == {("improver_1", "self_refine_1")}
    assert found.left_out == []


def test_right_answers_are_counted_and_mcnemar_compares_them(tmp_path):
    folder = made(tmp_path / "r" / "evaluation", {"improver_1": 0.4}, task="sorting")
    found = compare_evaluations([folder], resamples=100)
    before, after = folder.scores("policy", "verifier"), folder.scores("improver_1", "verifier")
    (row,) = [row for row in found.systems if row.label == "improver_1"]
    assert row.accuracy.share == after.mean() == row.means["verifier"]
    assert row.accuracy.ci95[0] < row.accuracy.share < row.accuracy.ci95[1]
    mended, spoiled = int(((before == 0) & (after == 1)).sum()), int(((before == 1) & (after == 0)).sum())
    (tested,) = rows_of(found.against_drafts, judge="verifier")
    assert tested.p == pytest.approx(binomtest(min(mended, spoiled), mended + spoiled).pvalue)
    assert tested.delta == pytest.approx(100 * (after.mean() - before.mean()))
    scored = {"policy": {"verifier": [0.5, 1.0]}, "improver_1": {"verifier": [1.0, 1.0]}}
    partly = read_evaluation(write_evaluation(tmp_path / "p" / "evaluation", scored))
    assert compare_evaluations([partly], resamples=10).systems[0].accuracy is None


def test_runs_on_the_same_prompts_are_paired_and_named(tmp_path):
    a = made(tmp_path / "a" / "evaluation", {"improver_1": 0.5, "improver_2": 0.6})
    b = made(tmp_path / "b" / "evaluation", {"improver_1": 0.1, "self_refine_2": 0.2})
    found = compare_evaluations([a, b], resamples=100)
    # Their drafts are the same answers, so they are one system.
    assert [row.label for row in found.systems] == [
        "policy", "a:improver_1", "improver_2", "b:improver_1", "self_refine_2",
    ]  # fmt: skip
    assert found.systems[0].evaluations == ["a", "b"]
    assert {(r.ours, r.theirs) for r in found.pairs} == {
        ("a:improver_1", "b:improver_1"),
        ("improver_2", "self_refine_2"),
    }
    (row,) = rows_of(found.pairs, ours="a:improver_1", judge="gold")
    ahead = a.scores("improver_1", "gold") - b.scores("improver_1", "gold")
    assert row.delta == pytest.approx(100 * np.sign(np.round(ahead, 6)).mean())
    # What a plain name shows may be given as RUN:SYSTEM too, the shared drafts by either run.
    pairs = [("self_refine_2", "a:improver_2"), ("policy", "b:improver_1"), ("a:improver_1", "b:policy")]
    chosen = compare_evaluations([a, b], pairs, 100)
    assert [(r.ours, r.theirs) for r in chosen.pairs if r.judge == "gold"] == [
        ("self_refine_2", "improver_2"), ("policy", "b:improver_1"), ("a:improver_1", "policy"),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"no system 'a:improver_3'.*the nearest is 'a:improver_[12]'"):
        compare_evaluations([a, b], [("a:improver_3", "policy")])


def test_what_has_other_prompts_is_left_out_and_why(tmp_path):
    a = made(tmp_path / "a" / "evaluation", {"improver_1": 0.5})
    b = made(tmp_path / "b" / "evaluation", {"improver_1": 0.1}, prompts=[*PROMPTS[:-2], "x", "y"], seed=1)
    few = {"policy": {"gold": [0.0]}, "improver_1": {"gold": [1.0]}}
    c = read_evaluation(write_evaluation(tmp_path / "c" / "evaluation", few, ["z"]))
    d = made(tmp_path / "d" / "evaluation", {"improver_1": 0.1}, prompts=None)
    found = compare_evaluations([a, b, c, d], resamples=20)
    assert found.pairs == [] and len(found.against_drafts) == 10
    assert [row.label for row in found.systems][:3] == ["a:policy", "a:improver_1", "b:policy"]
    assert "a and b: other prompts (2 of 60 differ)" in found.left_out
    assert "a and c: other prompts (60 and 1; their uids differ)" in found.left_out
    assert "a and d: the prompts of d are not recorded, it has no answers.parquet" in found.left_out
    assert len(found.left_out) == 6


def test_another_reward_model_cannot_compare_but_gold_can(tmp_path):
    a = made(tmp_path / "a" / "evaluation", {"improver_1": 0.5})
    b = made(tmp_path / "b" / "evaluation", {"improver_1": 0.1}, model=1.1)
    found = compare_evaluations([a, b], resamples=20)
    assert {r.judge for r in found.pairs} == {"gold", "verifier"}
    assert found.left_out == ["a and b, judge reward: it scores the same answers otherwise, so it is not the same one"]
    assert [(t.judge, t.evaluations) for t in found.ratings] == [
        ("gold", ["a", "b"]), ("reward", ["a"]), ("reward", ["b"]), ("verifier", ["a", "b"]),
    ]  # fmt: skip
    # Without an answer that both have scored nothing shows which reward model it was.
    c = made(tmp_path / "c" / "evaluation", {"improver_1": 0.1}, drafts=[f"other {k}" for k in range(N)])
    found = compare_evaluations([a, c], resamples=20)
    assert {r.judge for r in found.pairs} == {"gold", "verifier"}
    assert found.left_out == ["a and c, judge reward: no answer that both have scored shows that it is the same one"]
    assert {row.label for row in found.systems} == {"a:policy", "a:improver_1", "c:policy", "c:improver_1"}


def test_pairwise_judges_speak_of_one_evaluation(tmp_path):
    said = [(7 + k, "policy", "improver_1", "llm", -1 if k < 9 else 1) for k in range(12)]
    said += [(7 + k, "improver_1", "self_refine_1", "llm", 1) for k in range(5)]
    gains = {"improver_1": 0.5, "self_refine_1": 0.3}
    a = made(tmp_path / "a" / "evaluation", gains, verdicts=said)
    b = made(tmp_path / "b" / "evaluation", gains, verdicts=said)
    found = compare_evaluations([a, b], [("a:improver_1", "a:self_refine_1"), ("a:improver_1", "b:improver_1")], 50)
    (row,) = rows_of(found.against_drafts, ours="a:improver_1", judge="llm")
    assert (row.n, row.win, row.lose) == (12, 75, 25)
    assert [(r.theirs, r.n, r.win) for r in rows_of(found.pairs, judge="llm")] == [("a:self_refine_1", 5, 100)]
    assert found.left_out == ["a and b, judge llm: it has only compared answers of one evaluation with each other"]
    tables = [t for t in found.ratings if t.judge == "llm"]
    assert [(t.evaluations, t.anchor) for t in tables] == [(["a"], "policy"), (["b"], "policy")]
    assert [r.system for r in tables[0].ratings] == ["a:improver_1", "policy", "a:self_refine_1"]
    only = compare_evaluations([a], [("self_refine_1", "policy")], 50)
    assert {r.judge for r in only.pairs} == {"gold", "reward", "verifier"}


def test_ratings_over_runs_and_pooled_over_seeds(tmp_path):
    gains = {"improver_1": 0.5, "improver_2": 0.9}
    a = made(tmp_path / "s1" / "evaluation", gains, seed=1)
    b = made(tmp_path / "s2" / "evaluation", gains, seed=2, prompts=[f"{p}!" for p in PROMPTS])
    pooled = {t.judge: t for t in compare_evaluations([a, b], resamples=50).ratings if t.pooled}
    assert list(pooled) == ["gold", "reward", "verifier"] and pooled["gold"].anchor == "policy"
    assert {r.system: r.n for r in pooled["gold"].ratings} == dict.fromkeys(["policy", *gains], 2 * N)
    same = made(tmp_path / "s3" / "evaluation", gains, seed=3)
    found = compare_evaluations([a, same], resamples=50)
    assert not any(t.pooled for t in found.ratings), "prompts that are the same are rated together"
    assert {r.system for r in found.ratings[0].ratings} == {
        "policy", "s1:improver_1", "s1:improver_2", "s3:improver_1", "s3:improver_2",
    }  # fmt: skip
    other = made(tmp_path / "s4" / "evaluation", {"self_refine_1": 0.1}, seed=4, prompts=[f"{p}?" for p in PROMPTS])
    assert not any(t.pooled for t in compare_evaluations([a, other], resamples=20).ratings)


def test_names_tell_evaluations_apart(tmp_path):
    folders = [
        made(tmp_path / place, {"improver_1": 0.1 * k})
        for k, place in enumerate(["x/run/evaluation", "x/run/evaluations/hot", "y/run/evaluation"])
    ]
    names = [e.name for e in compare_evaluations(folders, resamples=10).evaluations]
    assert names == ["x/run", "x/run/hot", "y/run"]
    assert [e.name for e in compare_evaluations(folders[:2], resamples=10).evaluations] == ["run", "run/hot"]
    with pytest.raises(DataError, match="given twice"):
        compare_evaluations([folders[0], folders[0]])
    with pytest.raises(DataError, match="no evaluations"):
        compare_evaluations([])


def test_without_drafts_or_costs_what_is_there_is_shown(tmp_path):
    random = np.random.default_rng(1)
    scores = {name: {"gold": random.normal(size=9)} for name in ("improver_1", "sft_improver")}
    folder = read_evaluation(write_evaluation(tmp_path / "old" / "evaluation", scores, systems=None, run=None))
    found = compare_evaluations([folder], resamples=20)
    assert found.against_drafts == [] and found.left_out == ["old: has no drafts (every system is a revision)"]
    assert [(r.ours, r.theirs) for r in found.pairs] == [("improver_1", "sft_improver")]
    assert found.evaluations[0].baseline is None and found.ratings[0].anchor is None
    assert np.mean([r.bradley_terry for r in found.ratings[0].ratings]) == pytest.approx(1000)
    assert charts(found) == []
    write_comparison(found, tmp_path / "out")


@pytest.fixture
def two(tmp_path) -> RunComparison:
    gains = {"improver_1": 0.5, "improver_2": 0.7, "improver_stopped_2": 0.8, "best_of_4": 0.3}
    a = made(tmp_path / "a" / "evaluation", gains)
    b = made(tmp_path / "b" / "evaluation", {"self_refine_1": 0.2}, model=2)
    return compare_evaluations([a, b], resamples=100)


def test_quality_is_drawn_against_all_calls(two):
    found = charts(two)
    titles = ["Δ against the drafts, by gold", "Δ against the drafts, by reward", "Right answers, %, by verifier"]
    assert [chart.title for chart in found] == titles
    for chart in found:
        labels = [key.label for key in chart.legend]
        assert labels == ["a: pit", "a: pit, stopping rule", "a: best of n", "b: self refine"]
        assert [(key.series, key.mark) for key in chart.legend] == [(1, "●"), (2, "■"), (3, "▲"), (4, "◆")]
        assert "model calls for an answer" in chart.svg and "var(--series-4)" in chart.svg


def test_the_page_holds_the_numbers(two, tmp_path):
    path = write_comparison(two, tmp_path / "out")
    assert sorted(p.name for p in path.parent.iterdir()) == ["compare.html", "compare.json", "compare.md"]
    assert RunComparison.model_validate(json.loads((path.parent / "compare.json").read_text())) == two
    page = Page(path.read_text(encoding="utf-8"))
    assert page.words.startswith("a · b · pit-ray") and page.tags.count("svg") == 3
    (row,) = rows_of(two.against_drafts, ours="improver_2", judge="gold")
    low, high = row.ci95
    shown = f"{row.delta:+.1f} {low:+.1f} to {high:+.1f}".replace("-", "−")
    assert "improver_2 pit 2 4.0 3.0 + 1.0 180 120 + 60" in page.words and shown in page.words
    assert f"improver_2 policy gold 60 {row.win:.1f} {row.lose:.1f} {shown}" in page.words
    assert "improver_stopped_2 pit, stopping rule up to 2" in page.words
    assert "By gold: a, b" in page.words and "policy the anchor 1000 –" in page.words
    assert "judge reward: it scores the same answers otherwise" in page.words
    text = (path.parent / "compare.md").read_text()
    assert "| improver_2 | pit | 2 | 3.0 + 1.0 = 4.0 | 120 + 60 = 180 |" in text and "## Ratings by gold: a, b" in text
    assert "p, Holm" in text and "- a and b, judge reward" in text
    again = write_comparison(two, tmp_path / "again")
    assert again.read_bytes() == path.read_bytes()


def test_untrusted_names_stay_text_and_nothing_is_loaded(tmp_path):
    evil = EVIL.replace("\ud800", "")
    scores = {"policy": {"gold": [0.0, 1.0]}, evil: {"gold": [1.0, 0.0]}}
    systems = {
        "policy": {"improver": "policy", "iteration": 0, "calls": 1},
        evil: {"improver": f"{evil}|", "iteration": 1, "calls": 2},
    }
    folder = write_evaluation(tmp_path / "r" / "evaluation", scores, systems=systems, task=f"</td>{evil}", run=evil)
    path = write_comparison(compare_evaluations([read_evaluation(folder)], resamples=10), tmp_path / "out")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "img", "iframe", "object", "link", "base", "form", "a"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    loading = [(name, value) for _, name, value in page.attributes if name in ("src", "srcset", "href", "xlink:href")]
    assert all(name == "xlink:href" and value.startswith("#") for name, value in loading)
    assert "<script>alert(1)</script>" in page.words and "{{ 7 * 7 }}" in page.words
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    markdown = (tmp_path / "out" / "compare.md").read_text()
    assert "<script" not in markdown and "\x1b" not in markdown
    tables = [block.splitlines() for block in markdown.split("\n\n") if block.startswith("|")]
    assert sum("alert" in line for table in tables for line in table) >= 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, "no cell ends its column"
