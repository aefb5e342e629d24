"""`pit-ray evaluate`, `sweep`, `judge`, `compare` and `improve` on a finished run, as commands."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.cli import main
from actors.improve import improve_requests
from benchmarks.experiments_curves import Sweep, plot, sweep_curves
from benchmarks.experiments_page import comparisons
from benchmarks.experiments_runs import Finished
from pit_ray.evaluate.evaluation_folder import read_evaluation
from pit_ray.improve import ImproveRequest
from pit_ray.run_folder import RunFolder
from tests.stub_endpoint import last_words, stub_endpoint

PROMPT = "tell anna about lamp boat clock train desk candle coat piano ; ask for the key"


@pytest.fixture(scope="module")
def run(finished: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run, to which evaluations are added."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(finished.path, folder)
    return folder


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["pit-ray", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def evaluated(run: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        arguments = ("--improver", "pit", "--improver", "best_of_n", "--improver", "self_refine", "--name", "three")
        assert command(patch, "evaluate", run, *arguments) == 0
    return run / "evaluations" / "three"


def test_improvers_revise_the_same_drafts(evaluated: Path, finished: RunFolder) -> None:
    found, own = read_evaluation(evaluated), read_evaluation(finished.path)
    assert {f"{name}_{k}" for name in ("pit", "best_of_n", "self_refine") for k in (1, 2)} <= set(found.systems)
    # The drafts, and PIT's revisions of them, are those of the run's own evaluation.
    assert found.texts("policy") == own.texts("policy")
    assert found.texts("pit_1") == own.texts("improver_1")
    assert found.texts("pit_kept_2") == own.texts("improver_stopped")
    names = {c.name for c in found.summary.comparisons}
    assert {"pit_vs_policy", "best_of_n_vs_policy", "pit_vs_best_of_n", "pit_vs_self_refine"} <= names
    assert found.systems["pit_1"].calls == 2 and found.systems["pit_1"].scorer_calls == 2
    assert found.systems["best_of_n_2"].calls == 3
    reward = {k: found.scores(f"best_of_n_{k}", "reward") for k in (1, 2)}
    assert (np.asarray(reward[2]) >= np.asarray(reward[1])).all()


def test_an_evaluation_is_kept_and_another_of_its_name_refused(
    evaluated: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (evaluated / "summary.json").stat().st_mtime_ns
    arguments = ("--improver", "pit", "--improver", "best_of_n", "--improver", "self_refine", "--name", "three")
    assert command(monkeypatch, "evaluate", run, *arguments) == 0
    assert (evaluated / "summary.json").stat().st_mtime_ns == before
    assert command(monkeypatch, "evaluate", run, *arguments, "--temperature", "0.3") == 2
    assert "give another --name" in capsys.readouterr().err


def test_an_improver_that_a_run_does_not_have_is_named_with_those_it_has(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "evaluate", run, "--improver", "best_of_m") == 2
    assert "did you mean 'best_of_n'? It has pit, self_refine, best_of_n, sft" in capsys.readouterr().err
    assert command(monkeypatch, "improve", run, "--prompt", PROMPT, "--improver", "tripost") == 2
    assert "needs an iteration of method tripost" in capsys.readouterr().err


def test_a_sweep_over_temperatures_leaves_the_drafts_as_they_are(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "sweep", run, "temperature", "0.3", "1.0", "--improver", "pit") == 0
    assert "0.3" in capsys.readouterr().out
    one, other = (read_evaluation(run / "evaluations" / f"pit-t{t}") for t in ("0.3", "1"))
    assert one.texts("policy") == other.texts("policy")
    assert one.texts("pit_1") != other.texts("pit_1")
    written = json.loads((run / "evaluations" / "sweep-temperature-pit" / "sweep.json").read_text())
    assert written["values"] == [0.3, 1.0]


def test_revisions_may_be_colder_than_their_draft(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [ImproveRequest(prompt=PROMPT)]
    ((warm,), (cold,), (again,)) = (list(improve_requests(str(run), asked, 2, "pit", t)) for t in (None, 0.0, 0.0))
    assert warm.drafts[0] == cold.drafts[0]
    assert warm.drafts[1:] != cold.drafts[1:] == again.drafts[1:]
    assert command(monkeypatch, "improve", run, "--prompt", PROMPT, "--temperature", "-1") == 2


def test_a_sweep_with_fewer_revisions_is_what_the_experiments_plot(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    improvers = ("--improver", "pit", "--improver", "self_refine")
    assert command(monkeypatch, "sweep", run, "temperature", "0.3", "1.0", *improvers, "--iterations", "1") == 0
    folder = run / "evaluations" / "sweep-temperature-pit-self_refine-k1"
    points = json.loads((folder / "sweep.json").read_text())["points"]
    swept = {(p["system"], p["value"]): p["comparison"]["delta"] for p in points if p["comparison"]["judge"] == "gold"}
    assert {system for system, _ in swept} == {f"{i}_{rule}1" for i in ("pit", "self_refine") for rule in ("", "kept_")}
    found = [Finished(1, "taught", run)]
    (curve,) = sweep_curves(found, Sweep(temperatures=(0.3, 1.0)))
    for system, line in (("pit_1", "PIT"), ("self_refine_1", "Self-Refine")):
        for value in (0.3, 1.0):
            assert curve.lines[line][value].delta == pytest.approx(swept[system, value])
    assert plot(curve).count("<svg") == 1

    assert command(monkeypatch, "sweep", run, "temperature", "0.3", *improvers, "--iterations", "2") == 0
    (longer,) = sweep_curves(found, Sweep(temperatures=(0.3,), iterations=2))
    assert {len(line) for line in longer.lines.values()} == {2} and len(longer.lines) == 6
    for line in ("PIT", "Self-Refine", "PIT against Self-Refine"):
        assert longer.lines[line][1].delta == curve.lines[line][0.3].delta
    told = list(comparisons(found, Sweep(temperatures=(0.3,), iterations=2)))
    assert {row["temperature"] for row in told} == {0.3} and {row["iterations"] for row in told} >= {1, 2}


def test_iterations_are_not_swept_and_fixed_at_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "sweep", run, "iterations", "1", "--iterations", "1") == 2
    assert "give it with temperature" in capsys.readouterr().err


def test_a_sweep_over_iterations_is_one_evaluation(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(monkeypatch, "sweep", run, "iterations", "1", "3", "--improver", "pit") == 0
    assert (run / "evaluations" / "pit-k3" / "summary.json").is_file()
    assert (run / "evaluations" / "sweep-iterations-pit" / "sweep.svg").is_file()


def longer(request: dict) -> str:
    """A judge that likes the longer response."""
    texts = last_words(request)
    first, second = (part for part in texts.split("Response B") if part) if "Response B" in texts else (texts, "")
    return f"The lengths differ.\nVerdict: {'A' if len(first) > len(second) else 'B'}"


def test_a_model_and_people_judge_pairs_of_answers(
    evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none-of-your-business")
    with stub_endpoint(longer) as stub:
        asked = (evaluated, "pit_1", "policy", f"base_url={stub.url}", "model=stub", "--count", "6")
        assert command(monkeypatch, "judge", *asked) == 0
    assert "of 6 prompts have a verdict" in capsys.readouterr().out
    assert command(monkeypatch, "judge", *asked) == 0  # nobody listens any more, and nobody is asked
    assert command(monkeypatch, "judge", evaluated, "pit_1", "policy", "--sheet", "--count", "4") == 0
    filled = tmp_path / "one.csv"
    with (evaluated / "human" / "sheet.csv").open(encoding="utf-8-sig", newline="") as sheet:
        rows = list(csv.DictReader(sheet))
    with filled.open("w", encoding="utf-8", newline="") as answers:
        writer = csv.DictWriter(answers, rows[0])
        writer.writeheader()
        writer.writerows(row | {"better": "1"} for row in rows)
    assert command(monkeypatch, "judge", evaluated, "--answers", filled) == 0
    verdicts = pq.read_table(evaluated / "verdicts.parquet").to_pylist()
    assert {row["judge"] for row in verdicts} == {"llm:stub", "human"}
    assert "none-of-your-business" not in (evaluated / "endpoint" / "answers.jsonl").read_text()


def test_a_judge_that_is_down_invents_nothing(
    evaluated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    arguments = (evaluated, "pit_2", "policy", "base_url=http://127.0.0.1:9/v1", "model=down", "retries=0")
    assert command(monkeypatch, "judge", *arguments) == 1
    assert "http://127.0.0.1:9/v1" in capsys.readouterr().err
    path = evaluated / "verdicts.parquet"
    assert not path.is_file() or "llm:down" not in {row["judge"] for row in pq.read_table(path).to_pylist()}
    assert command(monkeypatch, "judge", evaluated, "pit_2", "policy", "base_ur=1") == 2


def test_runs_and_evaluations_are_put_side_by_side(
    evaluated: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "comparison"
    assert command(monkeypatch, "compare", run, evaluated, "--output", output) == 0
    assert {path.name for path in output.iterdir()} >= {"compare.json", "compare.md", "compare.html"}
    assert command(monkeypatch, "compare", evaluated, "--pair", "pit_1:best_of_n_1", "--output", output) == 0
    found = json.loads((output / "compare.json").read_text())
    assert {(row["ours"], row["theirs"]) for row in found["pairs"]} == {("pit_1", "best_of_n_1")}
    assert command(monkeypatch, "compare", evaluated, "--pair", "pit_1", "--output", output) == 2
    assert "OURS:THEIRS" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pit", "self_refine", "best_of_n", "sft"])
def test_every_improver_answers_requests(name: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    asked.write_text(
        json.dumps({"prompt": PROMPT}) + "\n" + json.dumps({"prompt": PROMPT, "draft": "dear anna"}) + "\n"
    )
    assert command(monkeypatch, "improve", run, "--file", asked, "--output", answered, "--improver", name) == 0
    first, second = (json.loads(line) for line in answered.read_text().splitlines())
    assert second["steps"][0]["draft"] == "dear anna"
    for row in (first, second):
        assert len(row["steps"]) == 2
        assert row["response"] in [row["steps"][0]["draft"], *(step["revision"] for step in row["steps"])]
        assert all(("feedback" in step) == (name == "self_refine") for step in row["steps"])
