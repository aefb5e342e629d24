"""An evaluation reads back as it was written, an older run's too, and a damaged one says which file is damaged how."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from pit_ray.data.randomness import derive_seed
from pit_ray.errors import DataError
from pit_ray.evaluate.comparisons import compare
from pit_ray.evaluate.contests import compared, scores_table
from pit_ray.evaluate.evaluation_folder import SystemInfo, find_evaluation, read_evaluation, write_summary
from pit_ray.evaluate.systems import Health, Origin, System
from pit_ray.records import Ragged
from tests.evaluate.evaluations import answered, info, write_evaluation, write_rows

SCORES = {
    "policy": {"gold": [3.0, 1.0, 2.0], "reward": [0.3, 0.1, 0.2]},
    "improver_1": {"gold": [4.0, 1.0, 1.0], "reward": [0.4, 0.1, 0.3]},
}
PROMPTS = ["a", "b", "c"]
VERDICTS = [(7, "improver_1", "policy", "llm", 1), (9, "policy", "improver_1", "llm", 1)]


def test_what_was_written_is_read(tmp_path):
    write_evaluation(tmp_path / "r1" / "evaluations" / "hot", SCORES, PROMPTS, verdicts=VERDICTS)
    found = read_evaluation(tmp_path / "r1" / "evaluations" / "hot")
    assert (found.run, found.name, found.iterations, found.summary.temperature) == ("r1", "hot", 2, 0.7)
    assert found.uids.tolist() == [7, 8, 9] and found.judges == ["gold", "reward", "llm"]
    assert list(found.systems) == ["policy", "improver_1"]
    assert found.systems["improver_1"].model_dump() == info("improver_1")
    assert (found.systems["improver_1"].all_calls, found.systems["improver_1"].all_tokens) == (2.5, 110)
    assert found.scores("improver_1", "reward").tolist() == [0.4, 0.1, 0.3]
    assert found.scores("improver_1", "llm") is None
    assert list(found.prompts) == PROMPTS and found.texts("policy")[2].endswith("policy, 9")
    assert found.verdicts("improver_1", "policy", "llm").tolist() == [1, -1], "named in either order"
    assert found.verdicts("policy", "improver_1", "llm").tolist() == [-1, 1]
    with pytest.raises(DataError, match=r"no system 'improver_2'.*nearest is 'improver_1'"):
        found.scores("improver_2", "gold")


DRAFTERS = {
    "first": answered(),
    "second": answered(),
    "first_revised_1": info("self_1", drafts="first"),
    "second_revised_1": info("self_1", drafts="second"),
}


def test_every_improver_has_its_own_drafts(tmp_path):
    scores = {name: {"gold": [1.0]} for name in DRAFTERS}
    found = read_evaluation(write_evaluation(tmp_path / "r" / "evaluation", scores, systems=DRAFTERS))
    assert found.baseline == "first"
    drafts = {name: found.drafts_of(name) for name in found.systems}
    assert drafts == {
        "first": None, "second": "first", "first_revised_1": "first", "second_revised_1": "second",
    }  # fmt: skip
    with pytest.raises(DataError, match="no system 'third'"):
        found.drafts_of("third")


def test_the_baseline_is_the_policy_else_the_first_that_answers_directly(tmp_path):
    def made(name, *systems):
        return read_evaluation(write_evaluation(tmp_path / name / "evaluation", {s: {"gold": [1.0]} for s in systems}))

    late = made("a", "improver_1", "sft_policy", "policy")
    assert late.baseline == "policy"
    assert [late.drafts_of(name) for name in late.systems] == ["policy", "policy", None]
    assert made("b", "improver_1", "sft_qa", "sft_meta").baseline == "sft_qa"
    without = made("c", "improver_1", "improver_2")
    assert without.baseline is None and without.drafts_of("improver_2") is None


def test_what_a_contest_writes_is_read(tmp_path):
    """summary.json has the keys of pit_ray/stages/contest.py, a system's those of its origin."""
    origins = {
        "sft_qa": Origin(improver="policy", tokens=31.5),
        "sft_qa_refined_1": Origin(
            improver="self", drafts="sft_qa", iteration=1, calls=2.75, tokens=80.5, scorer_calls=1.0, scorer_tokens=9.5,
            unreadable=0.25,
        ),
        "sft_qa_refined_kept_1": Origin(
            improver="self", drafts="sft_qa", iteration=1, stopping_rule=True, calls=2.75, tokens=80.5
        ),
    }  # fmt: skip
    drawn = compare("sft_qa_refined_vs_sft_qa", "verifier", 1, True, np.ones(3), np.array([0, 1, 1]), 10, 0)
    health = Health(tokens=3, truncated=0, distinct=1, copied=None, reward_length_correlation=0)
    folder = write_evaluation(
        tmp_path / "r" / "evaluation" / "unseen",
        {name: {"verifier": [0.0, 1.0, 1.0]} for name in origins},
        run="r", name="unseen", method="self_evolution", world=None, task="task:word_sorting", seed=3, split="unseen",
        temperature=0.0, iterations=1, margin=None, systems={n: o.model_dump(mode="json") for n, o in origins.items()},
        comparisons=[drawn.model_dump(mode="json")], health={n: health.model_dump(mode="json") for n in origins},
        feedback={"sft_qa_refined": {"readable": 0.75, "right_verdict": 0.5, "right_place": 0.5}}, seconds={},
    )  # fmt: skip
    found = read_evaluation(folder)
    assert (found.run, found.name, found.summary.split) == ("r", "unseen", "unseen")
    assert found.summary.task == "task:word_sorting"
    assert found.summary.comparisons == [drawn] and found.summary.temperature == 0
    for name, origin in origins.items():
        assert found.systems[name] == SystemInfo(**origin.model_dump(include=set(SystemInfo.model_fields)))
    assert set(SystemInfo.model_fields) == set(Origin.model_fields) - {"unreadable"}
    assert found.drafts_of("sft_qa_refined_kept_1") == "sft_qa"


def test_rows_in_any_order(tmp_path):
    folder = write_evaluation(tmp_path / "r" / "evaluation", SCORES, PROMPTS)
    before = read_evaluation(folder)
    for name in ("outcomes", "answers"):
        table = pq.read_table(folder / f"{name}.parquet", partitioning=None)
        pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), folder / f"{name}.parquet")
    after = read_evaluation(folder)
    assert after.uids.tolist() == [7, 8, 9] and after.prompts == before.prompts
    for system in SCORES:
        assert after.texts(system) == before.texts(system)
        assert after.scores(system, "gold").tolist() == SCORES[system]["gold"]


def test_a_run_that_evaluated_itself_before_there_were_others(tmp_path):
    """Its files are written by the code that writes them."""
    random, n = np.random.default_rng(0), 5
    names = "chosen policy sft_policy sft_improver improver_1 improver_2 improver_stopped_1 improver_stopped best_of_2"
    systems = {
        name: System(Ragged.of([[1], [2], [3], [4], [5]]), scores={"gold": random.normal(size=n)})
        for name in names.split()
    }
    comparisons, _ = compared(systems, 2, 100, derive_seed(0))
    folder = tmp_path / "old" / "evaluation"
    folder.mkdir(parents=True)
    pq.write_table(scores_table(np.arange(n), systems), folder / "outcomes.parquet")
    summary = {"world": "notes", "seed": 3, "comparisons": [c.model_dump(mode="json") for c in comparisons]}
    (folder / "summary.json").write_text(json.dumps(summary | {"health": {}, "kl": {}, "margin": 0.1, "means": {}}))
    found = read_evaluation(tmp_path / "old")
    assert (found.run, found.name, found.iterations, found.summary.seed) == ("old", "evaluation", 2, 3)
    kinds = {name: (s.improver, s.iteration, s.stopping_rule) for name, s in found.systems.items()}
    assert kinds == {
        "chosen": ("chosen", 0, False), "policy": ("policy", 0, False), "sft_policy": ("sft_policy", 0, False),
        "sft_improver": ("sft_improver", 1, False), "improver_1": ("pit", 1, False), "improver_2": ("pit", 2, False),
        "improver_stopped_1": ("pit", 1, True), "improver_stopped": ("pit", 2, True),
        "best_of_2": ("best_of_n", 0, False),
    }  # fmt: skip
    assert all(s.calls is None and s.all_tokens is None for s in found.systems.values())
    assert found.prompts is None and found.texts("policy") is None
    assert found.scores("improver_2", "gold").tolist() == systems["improver_2"].scores["gold"].tolist()


def test_found_from_run_or_itself_or_the_nearest_is_named(tmp_path):
    run = tmp_path / "run"
    other = write_evaluation(run / "evaluations" / "hot", SCORES)
    with pytest.raises(DataError, match=r"holds no evaluation.*its evaluations are evaluations/hot"):
        find_evaluation(run)
    own = write_evaluation(run / "evaluation", SCORES)
    assert (find_evaluation(run), find_evaluation(own), find_evaluation(other)) == (own, own, other)
    with pytest.raises(DataError, match=r"no 'hop' in .*the nearest is 'hot'"):
        find_evaluation(run / "evaluations" / "hop")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="a run has one when it is finished"):
        find_evaluation(tmp_path / "empty")


def test_only_a_pairwise_judge(tmp_path):
    folder = write_evaluation(tmp_path / "r" / "evaluation", SCORES, PROMPTS, verdicts=VERDICTS)
    write_rows(folder / "outcomes.parquet", ("uid", "system", "judge", "score"), [(7, "policy", "gold", 1.0)])
    table = pq.read_table(folder / "outcomes.parquet", partitioning=None)
    pq.write_table(table.slice(0, 0), folder / "outcomes.parquet")
    found = read_evaluation(folder)
    assert found.judges == ["llm"] and found.uids.tolist() == [7, 8, 9] and list(found.systems) == list(SCORES)


GOOD = [(7, "policy", "gold", 1.0), (8, "policy", "gold", 2.0), (9, "policy", "gold", 2.5)]
COLUMNS = {
    "outcomes": ("uid", "system", "judge", "score"),
    "answers": ("uid", "system", "prompt", "response"),
    "verdicts": ("uid", "ours", "theirs", "judge", "outcome"),
}


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("outcomes", [*GOOD, (9, "policy", "gold", 1.0)], "'policy', judge 'gold': uid 9 is there twice"),
        ("outcomes", [*GOOD, (7, "improver_1", "gold", 1.0)], "'improver_1'.*2 of 3 prompts are missing, first uid 8"),
        ("outcomes", [*GOOD[:2], (9, "policy", "gold", float("nan"))], r"row 2 .*the score is nan"),
        ("outcomes", [*GOOD[:2], (9, "policy", "gold", None)], "row 2: score is empty"),
        ("outcomes", [(1, "policy", "gold", "high")], "column 'score'"),
        ("answers", [(7, "policy", "a", "y"), (7, "improver_1", "b", "y")], "uid 7 has two prompts, 'a' and 'b'"),
        ("answers", [(7, "policy", "a", "y")], "'policy': 2 of 3 prompts are missing"),
        ("answers", [(u, "policy", "a", "y") for u in (7, 8, 9, 4)], "uid 4 is of no prompt in outcomes.parquet"),
        ("verdicts", [(7, "improver_1", "policy", "llm", 2)], "row 0: outcome 2 is not -1, 0 or 1"),
        ("verdicts", [(4, "improver_1", "policy", "llm", 1)], "row 0: uid 4 is of no prompt"),
        ("verdicts", [(7, "policy", "policy", "llm", 1)], "'policy' is compared with itself"),
        ("verdicts", [(7, "improver_9", "policy", "llm", 1)], "'improver_9' has no scores; the nearest is 'improver_1"),
        ("verdicts", [VERDICTS[0], (7, "policy", "improver_1", "llm", -1)], "two verdicts on .*uid 7"),
    ],
)
def test_damage_is_named(tmp_path, file, rows, message):
    folder = write_evaluation(tmp_path / "r" / "evaluation", SCORES, PROMPTS)
    write_rows(folder / f"{file}.parquet", COLUMNS[file], rows)
    with pytest.raises(DataError, match=re.escape(file) + ".parquet: .*" + message):
        read_evaluation(folder)


def test_files_that_are_none_of_theirs(tmp_path):
    folder = write_evaluation(tmp_path / "r" / "evaluation", SCORES)
    write_rows(folder / "verdicts.parquet", ("uid", "judge"), [(7, "llm")])
    with pytest.raises(DataError, match="no column 'ours'; there are uid, judge"):
        read_evaluation(folder)
    (folder / "outcomes.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"outcomes\.parquet: "):
        read_evaluation(folder)
    (folder / "outcomes.parquet").unlink()
    with pytest.raises(DataError, match=r"outcomes\.parquet: "):
        read_evaluation(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "summary.json: .*Invalid JSON"),
        ('{"systems": {"policy": {"improver": "policy", "iteration": -1}}}', "systems.policy.iteration .*greater than"),
        ('{"systems": {"refine": {"improver": "self_refine", "iteration": 1}}}', "'refine' outcomes.parquet has no"),
        (
            '{"systems": {"improver_1": {"improver": "pit", "iteration": 1, "drafts": "polic"}}}',
            "'improver_1' revised 'polic', of which outcomes.parquet has no scores; the nearest is 'policy'",
        ),
    ],
)
def test_a_damaged_summary_is_named(tmp_path, content, message):
    folder = write_evaluation(tmp_path / "r" / "evaluation", SCORES)
    (folder / "summary.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_evaluation(folder)


def test_figures_are_the_same_wherever_in_memory_their_terms_lay(tmp_path):
    margin = -0.2573503875732422
    for name, found in (("one", -0.14359677180652272), ("other", -0.14359677180652275)):
        (tmp_path / name).mkdir()
        write_summary(tmp_path / name, {"margin": margin, "gap": [{"r": found, "n": 24, "holds": True, "x": None}]})
    one, other = ((tmp_path / name / "summary.json").read_text() for name in ("one", "other"))
    assert one == other
    assert json.loads(one) == {"margin": margin, "gap": [{"r": -0.143596771807, "n": 24, "holds": True, "x": None}]}
