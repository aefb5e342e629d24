"""SELF and TriPosT as whole runs: which stages, what each makes, what is evaluated, and what stops a run."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from pit_ray import driver
from pit_ray.errors import ConfigError, DataError
from pit_ray.evaluate.evaluation_folder import read_evaluation
from pit_ray.evaluate.names import stage_name
from pit_ray.evaluate.report import write_report
from pit_ray.methods import stages_of
from pit_ray.methods.stage import names_of
from pit_ray.run_folder import RunFolder
from pit_ray.tracking import read_metrics
from tests.evaluate.test_report import Page
from tests.in_process.scripted import FAST, SORTING, Scripted, scripted, task_config
from tests.stub_endpoint import stub_endpoint


def run(config: Any) -> RunFolder:
    torch.set_num_threads(1)
    driver.train(config, scripted(config))
    return RunFolder(config.run)


@pytest.fixture(scope="module")
def self_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(task_config(tmp_path_factory.mktemp("runs") / "self", "self_evolution"))


@pytest.fixture(scope="module")
def tripost_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(task_config(tmp_path_factory.mktemp("runs") / "tripost", "tripost"))


def examples(folder: RunFolder, stage: str) -> list[dict[str, Any]]:
    return pq.read_table(folder.stage(stage) / "examples_text.parquet").to_pylist()


def counts(folder: RunFolder, stage: str) -> dict[str, Any]:
    return json.loads((folder.stage(stage) / "counts.json").read_text(encoding="utf-8"))


def said(row: dict[str, Any]) -> str:
    return row["response"].removesuffix("<|end|>")


def question(row: dict[str, Any]) -> str:
    return row["context"].partition("Assistant:")[0]


def test_every_stage_is_finished_in_the_order_of_the_method(self_run: RunFolder, tripost_run: RunFolder) -> None:
    for folder, method in ((self_run, "self_evolution"), (tripost_run, "tripost")):
        names = names_of(stages_of(task_config("unused", method)))
        there = [path.name for path in sorted((folder.path / "stages").iterdir())]
        assert there == [f"{number:02d}-{name}" for number, name in enumerate(names)]
        assert all(folder.seconds(name) is not None for name in names)


def test_the_meta_skill_corpus_teaches_right_feedback_and_refinements(self_run: RunFolder) -> None:
    rows = examples(self_run, "meta")
    assert {row["kind"] for row in rows} == {"answer", "feedback", "refinement"}
    for row in rows:
        if row["kind"] == "feedback":
            attempt = row["context"].split("Assistant:\n")[1].partition("<|end|>")[0]
            assert said(row) == SORTING.feedback(attempt, SORTING.review(question(row), attempt))
        else:
            assert SORTING.review(question(row), said(row)).correct
    found = counts(self_run, "meta")
    assert found["right"] + found["mended"] == len({question(row) for row in rows}) == 15
    assert found["rejected"] == 0


def test_the_corpus_is_on_questions_whose_labels_were_not_learned(self_run: RunFolder) -> None:
    asked = {stage: {question(row) for row in examples(self_run, stage)} for stage in ("labels", "meta", "all_labels")}
    assert not asked["labels"] & asked["meta"]
    assert asked["all_labels"] >= asked["labels"] | asked["meta"]


@pytest.mark.parametrize(
    ("long", "stages"),
    [("sft_qa_long", {"sft_round_2"}), ("sft_rationale_long", {"sft_tripost_1", "sft_tripost_2"})],
)
def test_a_baseline_on_all_labels_takes_as_many_steps(
    self_run: RunFolder, tripost_run: RunFolder, long: str, stages: set[str]
) -> None:
    taken = Counter(record["stage"] for record in read_metrics((self_run if "qa" in long else tripost_run).path))
    assert taken[long] == sum(taken[stage] for stage in stages) > 0


def test_a_single_label_cannot_be_parted(tmp_path: Path) -> None:
    data = {"source": "task:word_sorting", "pairs": 2, "held_out": 4, "validation": 2}
    with pytest.raises(DataError, match="SELF needs two labelled questions at least"):
        run(task_config(tmp_path / "single", "self_evolution", data=data))


def test_a_round_keeps_what_the_model_itself_finds_right(self_run: RunFolder) -> None:
    for stage in ("round_1", "round_2"):
        rows, found = examples(self_run, stage), counts(self_run, stage)
        assert found["questions"] == 12
        assert len(rows) == found["kept"] > 0
        # A false "correct" on a first answer is the only way for a wrong one to be kept.
        assert found["right_kept"] >= found["right_before"]
        assert {row["kind"] for row in rows} == {"answer"}
    assert list(counts(self_run, "mix_2")) == ["meta", "round_1", "round_2"]


def test_answering_at_once_has_its_own_weight(self_run: RunFolder) -> None:
    for stage in ("meta", "round_1", "round_2"):
        weights = {(row["kind"] == "answer", row["weight"]) for row in examples(self_run, stage)}
        assert (True, 2.0) in weights
        assert weights <= {(True, 2.0), (False, 1.0)}


def test_rounds_take_other_questions(self_run: RunFolder) -> None:
    one, other = ({question(row) for row in examples(self_run, stage)} for stage in ("round_1", "round_2"))
    assert not one & other


def test_without_the_filter_everything_is_learned(tmp_path: Path) -> None:
    section = task_config("unused", "self_evolution").self_evolution.model_copy(update={"filter": False, "rounds": 1})
    folder = run(task_config(tmp_path / "unfiltered", "self_evolution", self_evolution=section))
    found = counts(folder, "round_1")
    assert found["kept"] == found["questions"] == 12
    assert found["right_kept"] == found["right_refined"]


def test_later_rounds_may_be_on_questions_that_the_model_makes_up(tmp_path: Path) -> None:
    changes = {"self_instructed_from": 2, "start": "last", "votes": 1}
    section = task_config("unused", "self_evolution").self_evolution.model_copy(update=changes)
    folder = run(task_config(tmp_path / "instructed", "self_evolution", self_evolution=section))
    assert any(said(row).startswith("Sort the words") for row in examples(folder, "meta"))
    rows = examples(folder, "round_2")
    assert rows
    answers = pq.read_table(folder.path / "evaluation" / "answers.parquet").to_pylist()
    assert not {row["prompt"].partition("Assistant:")[0] for row in answers} & {question(row) for row in rows}
    found = counts(folder, "round_2")
    assert found["right_kept"] >= found["right_before"] > 0  # by the verifier: nobody knows the labels
    assert list(counts(folder, "mix_2")) == ["meta", "round_2"]


def test_trajectories_become_balanced_turns(tripost_run: RunFolder) -> None:
    for stage in ("edit_1", "edit_2"):
        found, rows = counts(tripost_run, stage), examples(tripost_run, stage)
        assert found["trajectories"] == 24 == sum(found[r] for r in ("edited", "own", "unparsable", "no progress"))
        assert found["improving"] > 0
        tried = Counter(question(row) for row in rows if row["kind"] == "feedback")
        assert max(tried.values()) > 1, "two attempts at a question are two turns at least"
        by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("answer", "feedback", "refinement")}
        assert all(row["weight"] == 1.5 for kind in ("feedback", "refinement") for row in by_kind[kind])
        assert all(row["weight"] == 1.0 for row in by_kind["answer"])
        for row in by_kind["refinement"]:
            assert SORTING.review(question(row), said(row)).correct
    stating = [r for r in examples(tripost_run, "edit_1") if r["kind"] == "feedback" and "also correct" in said(r)]
    refining = [r for r in examples(tripost_run, "edit_1") if r["kind"] == "refinement"]
    assert len(refining) == pytest.approx(1.5 * len(stating), abs=1.5)


def test_an_iteration_replays_those_before_it(tripost_run: RunFolder) -> None:
    first, second = (
        {(row["context"], row["response"]) for row in examples(tripost_run, stage)} for stage in ("edit_1", "edit_2")
    )
    assert first < second


def test_the_evaluation_tells_seen_and_unseen_difficulty_apart(tripost_run: RunFolder) -> None:
    path = tripost_run.path / "evaluation"
    for place in (path, path / "unseen"):
        found = read_evaluation(place)
        lengths = [len(text.split(":")[2].split("Assistant")[0].split()) for text in found.prompts or []]
        assert all(8 <= n <= 12 if place.name == "unseen" else 2 <= n <= 7 for n in lengths)
        names = {"sft_rationale", "sft_rationale_long", "sft_lmsi", "sft_tripost_2", "sft_tripost_2_corrected_1"}
        assert names <= set(found.systems)
        direct, corrected = (found.scores(name, "verifier") for name in ("sft_tripost_2", "sft_tripost_2_corrected_2"))
        assert direct is not None and corrected is not None
        assert corrected.mean() > direct.mean()
        assert (found.systems["sft_tripost_2_corrected_1"].calls or 0) > 2
    quality = json.loads((path / "summary.json").read_text())["feedback"]["sft_tripost_2_corrected"]
    assert 0.5 < quality["right_verdict"] <= quality["readable"] <= 1


def test_accuracy_is_told_by_level_of_difficulty(tripost_run: RunFolder) -> None:
    path = tripost_run.path / "evaluation"
    for place in (path, path / "unseen"):
        summary, found = json.loads((place / "summary.json").read_text(encoding="utf-8")), read_evaluation(place)
        words = [f"{len(text.split(':')[2].split('Assistant')[0].split())} words" for text in found.prompts or []]
        assert {level: each["n"] for level, each in summary["levels"].items()} == Counter(words)
        for name in found.systems:
            right = found.scores(name, "verifier")
            assert right is not None
            for level, each in summary["levels"].items():
                of_level = [score for score, said in zip(right, words, strict=True) if said == level]
                assert each["accuracy"][name] == pytest.approx(sum(of_level) / len(of_level))


@pytest.mark.parametrize("method", ["self_evolution", "tripost"])
def test_the_report_tells_what_happened(self_run: RunFolder, tripost_run: RunFolder, method: str) -> None:
    folder = self_run if method == "self_evolution" else tripost_run
    page = Page(write_report(folder.path).read_text(encoding="utf-8"))
    said = page.words.partition("A pit-ray run")[2].partition("Configuration")[0]
    headings = (
        "points of accuracy", "Answers What every system", "by level of difficulty", "What the stages made",
        "Self-feedback", "Comparisons Both sides", "Before and after", "Draft Step 1:", "Feedback Check 1", "Training",
    )  # fmt: skip
    places = [said.index(heading) for heading in headings]
    assert places == sorted(places)
    assert not [word for word in ("gap", "the stopping rule", "PIT") if word in said]
    names = [stage_name(name) for name in names_of(stages_of(task_config("unused", method)))]
    listed = said.partition("Time Stages")[2]
    assert [listed.index(f"{name} ") for name in names] == sorted(listed.index(f"{name} ") for name in names)
    assert not re.search(r"\b(sft|edit|round|mix)_", said)


def test_self_consistency_takes_the_most_frequent_answer(self_run: RunFolder) -> None:
    found = read_evaluation(self_run.path / "evaluation")
    assert found.systems["sft_round_2_votes"].calls == 3
    texts = found.texts("sft_round_2_votes")
    assert texts is not None and all(SORTING.answer(text) for text in texts)


def test_a_finished_run_does_nothing_again(self_run: RunFolder) -> None:
    before = {p: p.stat().st_mtime_ns for p in (self_run.path / "stages").rglob("*") if p.is_file()}
    run(task_config(self_run.path, "self_evolution"))
    assert {p: p.stat().st_mtime_ns for p in (self_run.path / "stages").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("method", "slips", "message"),
    [
        ("tripost", {"attempt": 0.0, "feedback": 0.0}, "stage edit_1: no trajectory of 24 yields a turn that improves"),
        ("self_evolution", {"attempt": 0.5, "feedback": 1.0}, "stage round_1 has made no example to train on"),
    ],
)
def test_a_round_that_yields_nothing_stops_with_the_reason(
    method: str, slips: dict[str, float], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scripted, "slips", slips)
    config = task_config(tmp_path / "nothing", method)
    with pytest.raises(DataError, match=message):
        run(config)
    assert RunFolder(config.run).seconds("sft_meta" if method == "self_evolution" else "sft_rationale") is not None


def stronger_model(request: dict[str, Any]) -> str:
    """Gives feedback as the verifier does; of questions with five words its refinements are wrong."""
    asked, attempt, *later = [message["content"] for message in request["messages"]]
    review = SORTING.review(asked, attempt)
    if len(later) == 1:
        return SORTING.feedback(attempt, review)
    mended = SORTING.mended(asked, attempt, review)
    return mended if len(asked.split(":")[1].split()) != 5 else attempt


def test_a_stronger_model_behind_an_endpoint_may_annotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    with stub_endpoint(stronger_model) as stub:
        section = {
            "annotator": "endpoint", "endpoint": stub.section().model_dump(), "meta_share": 0.9, "rounds": 1,
            "questions": 8, "qa": FAST, "meta": FAST,
        }  # fmt: skip
        changes = {"self_evolution": section, "self_refine": {"enough": "also correct"}}
        folder = run(task_config(tmp_path / "annotated", "self_evolution", **changes))
    found = counts(folder, "meta")
    assert found["right"] + found["mended"] + found["rejected"] == 27
    assert found["rejected"] > 0  # a refinement that contradicts the label is not learned from
    assert all(
        SORTING.review(question(row), said(row)).correct
        for row in examples(folder, "meta")
        if row["kind"] != "feedback"
    )


def test_a_verifier_that_contradicts_the_label_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(SORTING), "correct", lambda self, attempt, answer: False)
    with pytest.raises(DataError, match="the verifier contradicts the label of"):
        run(task_config(tmp_path / "contradiction", "self_evolution"))


def worded(path: Path, *extra: dict[str, str]) -> list[dict[str, str]]:
    rows = [{"question": f"What is {n} and 1?", "answer": f"Add. #### {n + 1}"} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in (*extra, *([] if extra else rows))), encoding="utf-8")
    return rows


def test_tripost_wants_a_task_with_a_verifier(tmp_path: Path) -> None:
    worded(tmp_path / "worded.jsonl")
    data = {"source": f"gsm8k:{tmp_path / 'worded.jsonl'}", "held_out": 5, "validation": 4}
    with pytest.raises(ConfigError, match=r"no verifier that finds wrong steps.*task:word_sorting"):
        run(task_config(tmp_path / "run", "tripost", data=data))
    assert not (tmp_path / "run").exists()


def test_questions_that_are_tested_on_may_not_be_trained_on(tmp_path: Path) -> None:
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    rows = worded(train)
    worded(test, rows[7] | {"question": " what is 7  and 1?"})
    data = {"source": f"gsm8k:{train}", "test_source": f"gsm8k:{test}", "held_out": 5, "validation": 4}
    section = {"annotator": "endpoint", "endpoint": {"base_url": "http://127.0.0.1:9", "model": "none"}}
    config = task_config(tmp_path / "contaminated", "self_evolution", data=data, self_evolution=section)
    with pytest.raises(
        DataError, match=r"1 of 1 test questions are also trained on, the first is 'what is 7  and 1\?'"
    ):
        run(config)
    assert not (tmp_path / "contaminated" / "stages" / "00-data" / "sft.parquet").exists()
