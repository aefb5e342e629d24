"""A sweep's numbers are those of its evaluations; it holds the drafts fixed, and marks the best."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from pit_ray.errors import DataError
from pit_ray.evaluate.evaluation_folder import read_evaluation
from pit_ray.evaluate.sweeps import Sweep, sweep, write_sweep
from tests.evaluate.evaluations import answered, info, write_evaluation, write_rows

N = 40
PROMPTS = [f"prompt {k}" for k in range(N)]
DRAFTS = {"policy": [f"draft {k}" for k in range(N)]}


def won(count: int) -> dict[str, np.ndarray]:
    """Gold of answers of which `count` beat their drafts, whose gold is 0, and the others lose."""
    return {"gold": np.where(np.arange(N) < count, 1.0, -1.0)}


def at(folder: Path, counts: dict[str, int], **summary: object):
    scores = {"policy": {"gold": np.zeros(N)}} | {name: won(count) for name, count in counts.items()}
    return read_evaluation(write_evaluation(folder, scores, PROMPTS, DRAFTS, **summary))


@pytest.fixture
def temperatures(tmp_path):
    counts = {0.8: (30, 22, 35), 0.2: (24, 30, 35), 0.4: (31, 29, 30)}
    names = ("improver_1", "self_refine_1", "best_of_2")
    return [
        (t, at(tmp_path / "run" / "evaluations" / f"t{t}", dict(zip(names, found, strict=True)), temperature=t))
        for t, found in counts.items()
    ]


def test_worked_by_hand(temperatures):
    found = sweep("temperature", temperatures)
    assert (found.run, found.values, found.n, found.judges) == ("run", [0.2, 0.4, 0.8], N, ["gold"])
    deltas = {line: {v: p.comparison.delta for v, p in points.items()} for line, points in found.lines("gold").items()}
    assert deltas == {
        "pit, 1 revision": {0.2: 20, 0.4: 55, 0.8: 50},
        "self refine, 1 revision": {0.2: 50, 0.4: 45, 0.8: 10},
        "best of 2": {0.2: 75, 0.4: 50, 0.8: 75},
    }
    assert {p.line: p.value for p in found.points if p.best} == {
        "pit, 1 revision": 0.4, "self refine, 1 revision": 0.2, "best of 2": 0.2,
    }  # fmt: skip
    assert sum(p.best for p in found.points) == 3, "of equals the lowest value alone"
    low, high = found.points[0].comparison.ci95
    assert low < 20 < high


def test_the_best_of_so_many_answers_is_no_revision(tmp_path):
    counts = {"best_of_n_1": 24, "best_of_n_kept_1": 24, "best_of_n_2": 30}
    systems = {
        name: info("best_of_n") | {"iteration": int(name[-1]), "stopping_rule": "kept" in name} for name in counts
    }
    systems |= {"policy": answered()}
    found = sweep("temperature", [(0.5, at(tmp_path / "run" / "evaluation", counts, systems=systems))])
    assert {line: point[0.5].system for line, point in found.lines("gold").items()} == {
        "best of 2": "best_of_n_1", "best of 3": "best_of_n_2",
    }  # fmt: skip


def test_iterations_take_as_many_revisions_as_the_value_says(tmp_path):
    counts = {"improver_1": 24, "improver_2": 30, "improver_stopped_1": 25, "improver_stopped": 33, "best_of_2": 25}
    systems = {name: info(name) for name in ("policy", *counts)}
    systems["improver_stopped"] |= {"iteration": 2, "improver": "pit"}
    folder = at(tmp_path / "run" / "evaluation", counts, systems=systems)
    found = sweep("iterations", [(1, folder), (2, folder)])
    deltas = {line: {v: p.comparison.delta for v, p in points.items()} for line, points in found.lines("gold").items()}
    assert deltas == {"pit": {1: 20, 2: 50}, "pit, stopping rule": {1: 25, 2: 65}}
    assert [p.system for p in found.points if p.best] == ["improver_2", "improver_stopped"]


def test_written_and_read_back(temperatures, tmp_path):
    found = sweep("temperature", temperatures)
    path = write_sweep(found, tmp_path / "out")
    assert sorted(p.name for p in path.parent.iterdir()) == ["sweep.json", "sweep.md", "sweep.svg"]
    assert Sweep.model_validate(json.loads((path.parent / "sweep.json").read_text())) == found
    text = path.read_text()
    assert "| temperature | 0.2 | 0.4 | 0.8 |" in text and "(held out)" in text and "is flattered" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| pit, 1 revision")]
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert [cell.startswith("**+") for cell in cells] == [False, True, False]
    assert re.fullmatch(r"\+20\.0 \[[+−]\d+\.\d, \+\d+\.\d\]", cells[0])
    before = (path.parent / "sweep.svg").read_bytes()
    write_sweep(found, tmp_path / "out")
    assert (path.parent / "sweep.svg").read_bytes() == before, "the same sweep, the same picture"


def test_the_plot_shows_lines_intervals_and_values(temperatures, tmp_path):
    write_sweep(sweep("temperature", temperatures), tmp_path / "out")
    root = ET.parse(tmp_path / "out" / "sweep.svg").getroot()
    texts = ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"0.2", "0.4", "0.8", "pit, 1 revision", "best of 2", "Δ against the drafts, by gold"} <= set(texts)
    colours = re.findall(r"stroke: (#[0-9a-f]{6})", (tmp_path / "out" / "sweep.svg").read_text())
    assert {"#2a6fdb", "#d9730d", "#0f9d76"} <= set(colours)


def test_untrusted_names_stay_text(tmp_path):
    evil = "<script>alert(1)</script>\x1b[31m|"
    scores = {"policy": {evil: [0.0]}, "x": {evil: [1.0]}}
    systems = {"policy": info("policy"), "x": {"improver": evil, "iteration": 1}}
    folder = write_evaluation(tmp_path / "r" / "evaluation", scores, systems=systems, run=evil)
    path = write_sweep(sweep("temperature", [(0.5, read_evaluation(folder))]), tmp_path / "out")
    for name in ("sweep.md", "sweep.svg"):
        text = (path.parent / name).read_text()
        assert "alert(1)" in text and "<script" not in text and "\x1b" not in text
    ET.parse(path.parent / "sweep.svg")


def test_on_validation_prompts_nothing_is_flattered(tmp_path):
    pair = [
        (t, at(tmp_path / "r" / "evaluations" / str(t), {"improver_1": 20 + int(10 * t)}, split="validation"))
        for t in (0.4, 0.7)
    ]
    text = write_sweep(sweep("temperature", pair), tmp_path / "out").read_text()
    assert "(validation)" in text and "flattered" not in text


def test_only_what_has_the_same_drafts_is_swept(temperatures, tmp_path):
    scores = {"policy": {"gold": np.zeros(N)}, "improver_1": won(20)}
    other = read_evaluation(write_evaluation(tmp_path / "o" / "evaluation", scores, PROMPTS))
    with pytest.raises(DataError, match=r"temperature 1\): its drafts differ"):
        sweep("temperature", [*temperatures, (1.0, other)])
    asked = read_evaluation(write_evaluation(tmp_path / "p" / "evaluation", scores, PROMPTS[::-1], DRAFTS))
    with pytest.raises(DataError, match="its prompts differ"):
        sweep("temperature", [*temperatures, (1.0, asked)])
    # Where texts are not recorded, scores of the drafts tell.
    bare = [
        write_evaluation(tmp_path / str(k) / "evaluation", scores | {"policy": {"gold": np.full(N, k)}}) for k in (0, 1)
    ]
    with pytest.raises(DataError, match="its drafts differ"):
        sweep("temperature", [(k, read_evaluation(folder)) for k, folder in enumerate(bare)])
    assert sweep("temperature", [(k, read_evaluation(bare[0])) for k in (0, 1)]).values == [0, 1]


def test_every_improver_is_swept_against_its_own_drafts(tmp_path):
    def drafted(place, first, second, later="later", **drafts):
        scores = {"sft_qa": {"gold": np.zeros(N)}, "sft_round": {"gold": np.full(N, 2.0)}}
        scores |= {"a_1": {"gold": won(first)["gold"]}, "b_1": {"gold": 2 + won(second)["gold"]}}
        systems = {"sft_qa": answered(), "sft_round": answered()}
        systems |= {
            name: info("self_1", drafts=drafts.get(name, of)) for name, of in zip(("a_1", "b_1"), systems, strict=True)
        }
        texts = {"sft_qa": DRAFTS["policy"], "sft_round": [f"{later} {draft}" for draft in DRAFTS["policy"]]}
        return read_evaluation(
            write_evaluation(tmp_path / place / "evaluation", scores, PROMPTS, texts, systems=systems)
        )

    cold, hot = drafted("cold", 30, 25), drafted("hot", 22, 36)
    found = sweep("temperature", [(0.5, cold), (1.0, hot)])
    deltas = {line: {v: p.comparison.delta for v, p in points.items()} for line, points in found.lines("gold").items()}
    assert deltas == {
        "self, 1 revision": {0.5: 50, 1.0: 10},
        "self, 1 revision, on sft_round": {0.5: 25, 1.0: 80},
    }
    assert [p.comparison.name for p in found.points][:2] == ["a_1_vs_sft_qa", "b_1_vs_sft_round"]
    with pytest.raises(DataError, match="its drafts differ"):
        sweep("temperature", [(0.5, cold), (1.0, drafted("other", 30, 25, later="another"))])
    with pytest.raises(DataError, match="its drafts differ"):
        sweep("temperature", [(0.5, cold), (1.0, drafted("fewer", 30, 25, b_1="sft_qa"))])


def test_what_cannot_be_swept(temperatures, tmp_path):
    with pytest.raises(DataError, match=r"values that differ, got 0\.8, 0\.8"):
        sweep("temperature", [temperatures[0]] * 2)
    with pytest.raises(DataError, match="values that differ, got none"):
        sweep("temperature", [])
    alone = read_evaluation(write_evaluation(tmp_path / "a" / "evaluation", {"policy": {"gold": [1.0]}}))
    with pytest.raises(DataError, match="no improver to sweep; there are policy"):
        sweep("temperature", [(1.0, alone)])
    without = read_evaluation(write_evaluation(tmp_path / "w" / "evaluation", {"improver_1": {"gold": [1.0]}}))
    with pytest.raises(DataError, match=r"has no drafts \(every system is a revision\)"):
        sweep("temperature", [(1.0, without)])


def test_verdicts_are_swept_too(temperatures, tmp_path):
    folder = temperatures[0][1].path
    rows = [(7 + k, "policy", "improver_1", "llm", -1 if k < 3 else 1) for k in range(4)]
    write_rows(folder / "verdicts.parquet", ("uid", "ours", "theirs", "judge", "outcome"), rows)
    found = sweep("temperature", [(0.8, read_evaluation(folder)), temperatures[1]])
    (point,) = [p for p in found.points if p.comparison.judge == "llm"]
    assert (point.value, point.comparison.n, point.comparison.delta) == (0.8, 4, 50)
    text = write_sweep(found, tmp_path / "out").read_text()
    assert "## By llm" in text and re.search(r"\| pit, 1 revision \| – \| \*\*\+50\.0", text)
