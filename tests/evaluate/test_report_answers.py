"""The report of methods other than PIT: what it says first, which tables it holds, and that what models wrote stays
text."""

import re
from pathlib import Path

import pytest

from pit_ray.errors import DataError
from pit_ray.evaluate.names import compared_name, contestant_name, stage_name
from pit_ray.evaluate.report_headline import WANTED
from pit_ray.methods import METHODS
from tests.evaluate.test_report import EVIL, comparison, report, write_json


def system(improver: str = "policy", k: int = 0, rule: bool = False, drafts: str | None = None, **costs: float) -> dict:
    costs = {"calls": 1.0 + 2 * k, "tokens": 40.0, "scorer_calls": 0.0, "scorer_tokens": 0.0} | costs
    return {"improver": improver, "drafts": drafts, "iteration": k, "stopping_rule": rule} | costs


def write_tripost(run: Path, **changes: object) -> None:
    def judged(name: str, k: int = 0, **said: object) -> dict:
        return comparison(name=name, judge="verifier", iterations=k, n=200) | said

    names = ("sft_rationale", "sft_tripost_9", "sft_tripost_10")
    own = {"sft_tripost_10_corrected_2": (2, False), "sft_tripost_10_corrected_kept_2": (2, True)}
    systems = {name: system() for name in names}
    systems |= {name: system("tripost", k, rule, "sft_tripost_10") for name, (k, rule) in own.items()}
    accuracy = dict(zip(systems, (0.5, 0.61, 0.62, 0.705, 0.705), strict=True))
    comparisons = [
        judged("sft_tripost_9_corrected_vs_sft_rationale", 2, delta=-50.0, ci95=[-60.0, -40.0]),
        judged("sft_tripost_10_corrected_vs_sft_rationale", 1, delta=9.0, ci95=[-1.0, 19.0]),
        judged("sft_tripost_10_corrected_vs_sft_rationale", 2, win=30.0, lose=9.5, delta=20.5, ci95=[13.0, 28.0]),
        judged("sft_tripost_10_corrected_vs_sft_rationale", 2, stopping_rule=True, delta=77.0, ci95=[70.0, 80.0]),
    ]
    summary = {"method": "tripost", "task": "task:word_sorting", "seed": 3, "comparisons": comparisons}
    summary |= {"systems": systems, "means": {name: {"verifier": mean} for name, mean in accuracy.items()}}
    quality = {"readable": 0.96, "right_verdict": 0.8, "right_place": 0.645}
    summary |= {"feedback": {"sft_tripost_10_corrected": quality}, "margin": None}
    by_level = {name: 0.25 for name in systems}
    summary |= {"levels": {"10 words": {"n": 4, "accuracy": by_level}, EVIL: {"n": 1, "accuracy": by_level}}}
    summary["levels"] |= {"9 words": {"n": 1200, "accuracy": by_level | {"sft_rationale": 1.0}}}
    write_json(run / "evaluation" / "summary.json", summary | changes)
    (run / "evaluation" / "unseen").mkdir()
    unseen = [judged("sft_tripost_10_vs_sft_rationale", delta=-4.5, ci95=[-9.0, 0.5])]
    means = {"sft_rationale": {"verifier": 0.1}, EVIL: {"verifier": 0.2}}
    write_json(run / "evaluation" / "unseen" / "summary.json", {"comparisons": unseen, "means": means})


def write_samples(run: Path, **changes: object) -> None:
    said = ["Step 1 is wrong. " + EVIL, "All is right.", "All is right."]
    sample = {"prompt": "p", "draft": "b a", "revisions": ["a b", "a b"], "gaps": [-1.0, 0.0], "golds": None}
    sample |= {"kept": 2, "feedback": said, "improver": "sft_tripost_10_corrected", "drafts": "sft_tripost_10"}
    write_json(run / "evaluation" / "samples.json", [sample | changes])


def write_counts(run: Path, number: int, stage: str, counts: object) -> None:
    folder = run / "stages" / f"{number:02d}-{stage}"
    folder.mkdir(parents=True)
    write_json(folder / "counts.json", counts)


def test_the_verifiers_headline_is_a_difference_of_accuracies(tmp_path):
    write_tripost(tmp_path)
    _, page = report(tmp_path)
    assert "on the questions of “task:word_sorting”, seed 3. TriPosT teaches a model to correct itself" in page.words
    assert "PIT trains" not in page.words
    assert "+20.5Δ, points of accuracy" in page.words
    assert (
        "Of 200 questions that no model was trained on, the model of TriPosT's iteration 10 with up to 2 corrections "
        "of its own answered 70.5 % rightly, the model that learned from gold rationales alone 50.0 %. The first alone "
        "was right on 30.0 %, the second alone on 9.5 %."
    ) in page.words
    assert "Judge: the task's verifier" in page.words and "TriPosT with self-correction answers better" in page.words


@pytest.mark.parametrize(
    ("method", "found", "said"),
    [
        (
            "self_refine",
            [("self_refine_vs_policy", "gold", 2), ("self_refine_vs_policy", "gold", 1)],
            "what one round of Self-Refine leaves scored higher than the policy's own response",
        ),
        (
            "distill",
            [("sft_distilled_1_vs_policy", "reward", 0), ("sft_distilled_2_vs_policy", "reward", 0)],
            "the policy of distillation round 2 scored higher than the policy before distillation",
        ),
        (
            "self_evolution",
            [("sft_round_3_vs_sft_qa", "gold", 0), ("sft_round_3_refined_vs_sft_qa", "gold", 1)],
            "the model of SELF's round 3 scored higher than the model that learned from labels alone",
        ),
        ("tripost", [("sft_tripost_1_vs_sft_rationale", "verifier", 0)], None),
        ("pit", [("improver_vs_policy", "gold", 2)], None),
        ("unheard_of", [("improver_vs_policy", "gold", 1)], None),
    ],
)
def test_each_method_has_its_own_headline(tmp_path, method, found, said):
    deltas = range(len(found), 0, -1)
    comparisons = [
        comparison(name=name, judge=judge, iterations=k, delta=float(delta), ci95=[-1.0, 9.0])
        for (name, judge, k), delta in zip(found, deltas, strict=True)
    ]
    write_json(tmp_path / "evaluation" / "summary.json", {"method": method, "comparisons": comparisons})
    _, page = report(tmp_path)
    assert ("scored higher than" in page.words) == (said is not None)
    assert (said or "") in page.words
    if method in ("self_refine", "distill"):
        assert "Δ, is +1.0 points" in page.words
    if method == "self_evolution":
        assert "Δ, is +2.0 points" in page.words and "No stage was given scores" in page.words


def test_every_method_is_told_of():
    assert set(WANTED) == set(METHODS)


def test_a_run_without_an_evaluation_says_its_method(tmp_path):
    (tmp_path / "config.yaml").write_text("method: self_refine\nrun: x\n")
    assert "Self-Refine improves by prompting" in report(tmp_path)[1].words


def test_answers_stand_with_intervals_and_costs_beside_unseen_ones(tmp_path):
    write_tripost(tmp_path)
    _, page = report(tmp_path)
    assert "right, % held-out right, % unseen" in page.words
    assert "SFT on gold rationales – 50.0 43.1 to 56.9 10.0 6.6 to 14.9 1.0 0.0 40.0" in page.words
    assert "TriPosT, iteration 10, correcting itself 2 70.5 63.8 to 76.4 – 5.0 0.0 40.0" in page.words
    assert "up to 2 70.5" not in page.words, "what its own rule keeps is the same"
    assert "On questions of unseen difficulty" in page.words
    assert "TriPosT, iteration 10 vs. SFT on gold rationales verifier – 200 48.1 20.2 −4.5 −9.0 to +0.5" in page.words
    first, _, rest = page.words.partition("Every round, and what the improvers' own rules keep")
    assert "verifier 2 200" in first and "verifier 1 200" not in first
    assert "verifier 1 200" in rest and "verifier up to 2 200" in rest


def test_levels_stand_in_the_order_of_their_numbers(tmp_path):
    write_tripost(tmp_path)
    _, page = report(tmp_path)
    table = page.words.partition("Right answers by level of difficulty")[2].partition("Self-feedback")[0]
    assert table.index("9 words 1,200") < table.index("10 words 4")
    assert "SFT on gold rationales – 25.0 100.0 25.0" in table
    assert "correcting itself 2" in table and "up to" not in table


def test_feedback_is_measured(tmp_path):
    write_tripost(tmp_path)
    _, page = report(tmp_path)
    row = "held-out 96.0 92.3 to 98.0 80.0 73.9 to 85.0 64.5 57.7 to 70.8"
    assert f"TriPosT, iteration 10, correcting itself {row}" in page.words


def test_what_stages_counted_stands_in_order_with_repeats_side_by_side(tmp_path):
    write_counts(tmp_path, 1, "labels", {"labels": 1200})
    write_counts(tmp_path, 5, "round_1", {"questions": 500, "kept": 40, "right_before": 0.0, "right_kept": 0.755})
    write_counts(tmp_path, 6, "mix_1", {"meta": 54, "round_1": 40})
    write_counts(tmp_path, 8, "round_2", {"questions": 500, "kept": 41})
    write_counts(tmp_path, 9, "improved_1", {"mean_gap_kept": -1.5})
    write_counts(tmp_path, 10, EVIL.replace("/", "").replace("\ud800", ""), {"some_thing": 3})
    text, page = report(tmp_path)
    made = page.words.partition("What the stages made")[2]
    places = [
        made.index(words)
        for words in ("Labelled questions", "round 1 round 2 questions answered 500 500", "round 1 from the meta-skill",
                      "mean gap of those kept −1.50", "some thing 3")
    ]  # fmt: skip
    assert places == sorted(places)
    assert "questions with their labels 1,200" in made and "answers kept in round 1 40" in made
    assert "right before refining 0.0 % –" in made and "right among those that were kept 75.5 % –" in made
    assert "script" not in page.tags and "<script>alert" not in text


def test_samples_show_feedback_and_neither_gap_nor_stopping_rule(tmp_path):
    write_tripost(tmp_path)
    write_samples(tmp_path)
    text, page = report(tmp_path)
    shown = page.words.partition("Before and after")[2]
    assert "Revisions: TriPosT, iteration 10, correcting itself." in shown
    assert re.search(
        r"Draft b a Feedback Step 1 is wrong\. .* Revision 1 .* Feedback All is right\. Not revised", shown
    )
    assert "Revision 2" not in shown and shown.count("All is right.") == 1
    assert not [word for word in ("gap", "stopping rule", "policy") if word in shown]
    assert "script" not in page.tags and "<script>" not in text and "{{ 7 * 7 }}" in shown


def test_a_text_that_its_own_feedback_did_not_like_is_called_so(tmp_path):
    write_tripost(tmp_path)
    write_samples(tmp_path, kept=0)
    assert "not kept: its own feedback liked the earlier text better" in report(tmp_path)[1].words


def test_a_run_of_before_has_a_report(tmp_path):
    write_tripost(tmp_path, levels={}, systems={}, feedback={})
    write_samples(tmp_path, improver=None, drafts=None)
    _, page = report(tmp_path)
    assert "sft tripost 10 corrected 2 – 70.5" in page.words
    assert "level of difficulty" not in page.words and "Self-feedback" not in page.words


@pytest.mark.parametrize("content", ["[1]", '{"right": "many"}', "{"])
def test_counts_that_cannot_be_understood_are_named(tmp_path, content):
    write_counts(tmp_path, 3, "meta", {})
    (tmp_path / "stages" / "03-meta" / "counts.json").write_text(content)
    with pytest.raises(DataError, match=r"03-meta.counts\.json"):
        report(tmp_path)


def test_there_is_a_chart_line_for_every_stage_that_learns(tmp_path):
    stages = ["sft_qa", "sft_meta", *(f"sft_round_{n}" for n in range(1, 7))]
    lines = [f'{{"stage": "{s}", "phase": "", "step": {k}, "loss/sft": 1.0}}\n' for s in stages for k in range(3)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    text, page = report(tmp_path)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", text) == [
        "SFT loss, nats per token", "SFT loss, nats per token, continued",
    ]  # fmt: skip
    assert all(stage_name(stage) in page.words for stage in stages)
    assert "series-7" not in text.partition("</style>")[2]


def test_names_are_for_people():
    assert stage_name("sft_round_2") == "round 2, SFT" and stage_name("sft_policy") == "policy, SFT"
    assert stage_name(EVIL) == EVIL and stage_name("sft_own_2") == "sft_own_2"
    assert contestant_name("sft_distilled_2_pit") == "distilled policy, round 2, revised by PIT"
    assert compared_name("sft_round_1_refined_vs_sft_qa") == "SELF, round 1, refining itself vs. SFT on labels"
    assert compared_name("policy_vs_sft_policy") == "policy vs. SFT policy"
